"""Which paced flow has which HTB class, and what the programs are told of it.

Decides: class numbers (slots), and when the class of a flow that is let go may be deleted. Refuses to know: why a flow
has its pace, how a class is made (`TrafficControl.pace`), what is done with a packet (host.bpf.c).

Each change goes in this order: classes are there before packets are sent to them. The class of a flow that is let go is
without a limit at first, and goes when what waited in it has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from socket import IPPROTO_TCP
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.ebpf import layout
from dataplane.ebpf.libbpf import Map
from dataplane.host_engine import PACED_MAX, PacedFlow
from dataplane.metering import FlowKey
from dataplane.shaping.pacing import NO_PACE_BIT_S, PACED_MINOR, PACED_SLOTS, Pace

LEAVES_NS: Final = 500_000_000
"""The last packet of the slowest pace has left its class after so long."""


@dataclass(slots=True)
class _Held:
    """The flows, the slots of those that have a pace, and slots that are let go: since when."""

    flows: dict[FlowKey, PacedFlow] = field(default_factory=dict)
    marks: dict[FlowKey, int] = field(default_factory=dict)
    slots: dict[FlowKey, int] = field(default_factory=dict)
    leaving: dict[int, tuple[FlowKey, int]] = field(default_factory=dict)


class PacedFlows:
    """`take`, then carry out what `classes` says, then `tell`; or `undo`. Packets of `flows` are met by the map."""

    def __init__(self, entries: Map, is_accurate: Callable[[FlowKey], bool]) -> None:
        """is_accurate: whether a flow's ends agreed on Accurate ECN; its flags are numbers then, and stay."""
        self._entries = entries
        self._is_accurate = is_accurate
        self._held = self._before = _Held()
        self._told: dict[bytes, bytes] = {}
        self._listing: tuple[PacedFlow, ...] = ()
        self._listing_before: tuple[PacedFlow, ...] = ()

    def __len__(self) -> int:
        return len(self._held.flows)

    @property
    def is_idle(self) -> bool:
        """Nothing is held, and nothing is to be tidied up."""
        return not (self._held.flows or self._held.leaving)

    def is_told(self, key: bytes) -> bool:
        return key in self._told

    def changes(self, flows: Sequence[PacedFlow]) -> list[PacedFlow] | None:
        """Those that have another pace than before; None when more than paces has changed."""
        if len(flows) != len(self._listing):
            return None
        changed = []
        for before, now in zip(self._listing, flows, strict=True):
            if before is now or before == now:
                continue
            if before.key != now.key or before.answers_marks != now.answers_marks:
                return None
            if not before.pace_bit_s or not now.pace_bit_s:
                return None
            changed.append(now)
        return changed

    def take_changes(self, flows: Sequence[PacedFlow], changed: Sequence[PacedFlow]) -> None:
        """As `changes` says, once they are carried out."""
        self._listing = tuple(flows)
        for each in changed:
            self._held.flows[each.key] = each

    def classes_of(self, flows: Sequence[PacedFlow], links: Mapping[str, int]) -> dict[str, dict[int, Pace]]:
        """As `classes`, of these alone."""
        found: dict[str, dict[int, Pace]] = {}
        for each in flows:
            pace = Pace(bit_s=each.pace_bit_s or NO_PACE_BIT_S, protocol=each.key.protocol)
            for name in _names(each.key, links):
                found.setdefault(name, {})[PACED_MINOR + self._held.slots[each.key]] = pace
        return found

    def take(self, flows: Sequence[PacedFlow], links: Mapping[str, int], now_ns: int) -> None:
        """These and no others. `links`: indexes by name. Raises EnvironmentFault, and takes none then."""
        wanted = {each.key: each for each in flows}
        if len(wanted) > PACED_MAX:
            raise EnvironmentFault("pace", f"{len(wanted)} flows", f"at most {PACED_MAX} can be paced", "end some")
        before, indexes = self._held, {0, *links.values()}
        for key in wanted.keys() - before.flows.keys():
            if key.interface_index not in indexes:
                cause = f"interface {key.interface_index} is none of those that the agent looks after"
                raise EnvironmentFault("pace", "a flow", cause, "name the interface among the agent's links")
        marks = {
            key: before.marks[key] if before.marks.get(key) else self._marks(key)
            for key, each in wanted.items()
            if each.answers_marks
        }
        slots = {key: slot for key, slot in before.slots.items() if key in wanted and wanted[key].pace_bit_s}
        leaving = dict(before.leaving)
        leaving |= {slot: (key, now_ns) for key, slot in before.slots.items() if key not in slots}
        new = [key for key, each in wanted.items() if each.pace_bit_s and key not in slots]
        used = set(slots.values())
        free = [slot for slot in range(PACED_SLOTS) if slot not in used and slot not in leaving]
        free += [slot for slot in leaving if slot not in used]
        for key, slot in zip(new, free, strict=False):
            slots[key] = slot
            leaving.pop(slot, None)
        self._listing_before, self._listing = self._listing, tuple(flows) if len(wanted) == len(flows) else ()
        self._before, self._held = before, _Held(wanted, marks, slots, leaving)

    def _marks(self, key: FlowKey) -> int:
        if key.protocol != IPPROTO_TCP or self._is_accurate(key):
            return layout.MARKS_CAPABLE
        return layout.MARKS_CAPABLE | layout.MARKS_HIDDEN

    def undo(self) -> None:
        """What the last `take` changed is as it was before."""
        self._held, self._listing = self._before, self._listing_before

    def tidy(self, now_ns: int) -> None:
        """Forgets the slots whose last packets have left by now."""
        for slot, (_, since_ns) in list(self._held.leaving.items()):
            if now_ns - since_ns > LEAVES_NS:
                del self._held.leaving[slot]

    def classes(self, links: Mapping[str, int]) -> dict[str, dict[int, Pace]]:
        """By interface and minor number."""
        found: dict[str, dict[int, Pace]] = {}
        for key, slot in self._held.slots.items():
            pace = Pace(bit_s=self._held.flows[key].pace_bit_s or NO_PACE_BIT_S, protocol=key.protocol)
            for name in _names(key, links):
                found.setdefault(name, {})[PACED_MINOR + slot] = pace
        for slot, (key, _) in self._held.leaving.items():
            for name in _names(key, links):
                found.setdefault(name, {})[PACED_MINOR + slot] = Pace(bit_s=NO_PACE_BIT_S, protocol=key.protocol)
        return found

    def tell(self, links: Mapping[str, int]) -> bool:
        """Writes the map; whether anything changed. Raises EnvironmentFault."""
        wanted = {}
        for key in self._held.flows:
            slot = self._held.slots.get(key)
            entry = layout.PACED.pack(0 if slot is None else PACED_MINOR + slot, self._held.marks.get(key, 0))
            for name in _names(key, links):
                wanted[layout.write_flow_key(key._replace(interface_index=links[name]))] = entry
        if wanted == self._told:
            return False
        for raw in self._told.keys() - wanted.keys():
            self._entries.delete(raw)
        for raw, entry in wanted.items():
            if self._told.get(raw) != entry:
                self._entries.update(raw, entry)
        self._told = wanted
        return True


def _names(key: FlowKey, links: Mapping[str, int]) -> Iterator[str]:
    """Of the links that it can be on."""
    return (name for name, index in links.items() if key.interface_index in (0, index))
