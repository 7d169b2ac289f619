"""HTB on the links of a plan, and an IFB behind each whose arrivals are shaped: carried out by `tc` and `ip`.

Decides: in which order trees and classes come, change and go. Refuses to know: which packet is of which class
(host.bpf.c), what the rates mean (`htb`), how a qdisc is put back (`qdiscs`).
Source: tc(8), tc-htb(8), ip-link(8).

An IFB is given its packets by the eBPF program's redirect, and hands them back to the kernel as arrivals of the link.
A redirect to an IFB that is gone loses the packet: so `apply` only adds and changes, and what nobody sends to any more
goes with `drop_unused`.

Paced flows have classes of their own in the tree (`pacing`), with minor numbers of their own: `pace` puts them there by
messages, in one batch, since paces change often. The tree itself changes by `tc`, seldom.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane import kernel_tools
from dataplane.attribution.interfaces import Interface, Interfaces
from dataplane.desired import DesiredState
from dataplane.record import QdiscUndo, Record, VirtualLinkUndo
from dataplane.rules import restore
from dataplane.shaping import pacing, qdiscs
from dataplane.shaping import rtnetlink as rt
from dataplane.shaping.htb import (
    ETHERNET_HEADER_BYTES,
    HANDLE,
    Direction,
    HtbClass,
    HtbTree,
    build_size_table,
    build_tree,
    needs_tree,
    parent_minor,
)
from dataplane.shaping.pacing import Pace, PacedClass
from dataplane.shaping.plan import ShapedLink, ShapingPlan
from dataplane.shaping.rtnetlink import TcMessage, TcSocket

OWNER: Final = "hostagent-t"
IFB_PREFIX: Final = "ha-ifb"
_NO_WAIT: Final = "8000gbit"
"""Of a TBF that only segments: no two packets leave a queue so fast. (A class's leaf must always have one ready.)"""

_TBF: Final = 0
_CODEL_BELOW_TBF: Final = 0x2000
_CODEL: Final = 0x4000
_FIFO: Final = 0x6000
"""A queue's handle is this and its class's minor number: it changes in place, one of another kind takes its place."""

_CODEL_FLOWS: Final = 64
_CODEL_TARGET_US: Final = 5000
_CODEL_INTERVAL_US: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkShape:
    """What can be done with packets on a link now. `refused`: why its traffic is not shaped, in one line."""

    egress: bool = False
    ingress_ifb_index: int = 0
    refused: str = ""


@dataclass(slots=True)
class _Made:
    """What we have made on one device: lines for `tc -batch` by minor number. mtu 0: nothing yet."""

    index: int
    mtu: int = 0
    classes: dict[int, str] = field(default_factory=dict)
    queues: dict[int, str] = field(default_factory=dict)
    surplus: set[int] = field(default_factory=set)
    paced: dict[int, PacedClass] = field(default_factory=dict)
    paces: dict[int, Pace] = field(default_factory=dict)
    header_bytes: int = 0
    link_bit_s: int | None = None
    reserved_bit_s: int = 0


class TrafficControl:
    """For the network namespace that it is used in. `restore` undoes everything, a killed predecessor's changes too."""

    def __init__(self, record_path: Path) -> None:
        self._record_path = record_path
        self._record: Record | None = None
        self._made: dict[str, _Made] = {}
        self._unused: set[str] = set()
        self._idle: frozenset[int] = frozenset()
        self._kinds: frozenset[str] | None = None
        self._paced: frozenset[str] = frozenset()
        self._paces: dict[str, int] = {}  # their sum, by interface
        self._kernel: TcSocket | None = None

    def apply(
        self, plan: ShapingPlan, *, idle: frozenset[int] = frozenset(), paced: frozenset[str] = frozenset()
    ) -> dict[str, LinkShape]:
        """By interface; those that are not there are left out. idle: see `htb.build_tree`.

        paced: interfaces that need a tree for the sake of paced flows alone; nothing else is given to it then.
        A link whose qdisc could not be put back, or where the machine refuses, is `refused`; the others are shaped.
        Raises EnvironmentFault when a predecessor's changes cannot be undone, or the record cannot be written.
        """
        self._idle, self._paced = idle, paced
        if self._record is None:
            restore(self._record_path)
            self._record = Record(path=self._record_path, desired=DesiredState(owner=OWNER))
        there = _read_interfaces()
        self._forget_gone(there, self._record)
        wanted: set[str] = set()
        shapes = {}
        for link in plan.links:
            found = there.get(link.interface)
            if found is None:
                continue
            try:
                shapes[link.interface] = self._shape(plan, link, found, wanted)
            except EnvironmentFault as fault:
                shapes[link.interface] = LinkShape(refused=str(fault))
        self._unused = set(self._made) - wanted
        return shapes

    def drop_unused(self) -> None:
        """Takes away what the last plan does not need any more. Only after nobody sends packets there."""
        record = self._record_or_fail()
        for name, made in self._made.items():
            _delete_classes(name, made.surplus)
            made.surplus = set()
        for name in sorted(self._unused, key=lambda each: not each.startswith(IFB_PREFIX)):
            self._drop(name, record)
        self._unused.clear()

    def needs_change(self, plan: ShapingPlan) -> bool:
        """Whether paced flows are promised so much more or less of a link by now that `apply` should share it anew."""
        return any(
            pacing.is_reserve_wrong(made.reserved_bit_s, self._paces.get(link.interface, 0), link.egress_bit_s)
            for link in plan.links
            if (made := self._made.get(link.interface)) is not None
        )

    def pace(self, wanted: Mapping[str, Mapping[int, Pace]]) -> None:
        """These classes of paced flows and no others, by interface and minor number; no fork.

        Changed ones change in place and lose no packet. An interface without a tree of ours is left out.
        Raises EnvironmentFault: then they are as they were.
        """
        done: list[tuple[_Made, dict[int, PacedClass]]] = []
        paces = self._paces
        self._paces = {
            name: sum(each.bit_s for each in flows.values() if each.bit_s < pacing.NO_PACE_BIT_S)
            for name, flows in wanted.items()
        }
        try:
            for name, made in self._made.items():
                before = made.paced
                if before or wanted.get(name):
                    done.append((made, before))
                    self._put_paced(name, made, self._plan_paced(made, name, wanted.get(name, {})))
                    made.paces = dict(wanted.get(name, {}))
        except EnvironmentFault:
            self._paces = paces
            for made, before in done:
                with contextlib.suppress(EnvironmentFault):
                    self._put_paced("", made, before, is_sure=False)
            raise

    def repace(self, wanted: Mapping[str, Mapping[int, Pace]]) -> bool:
        """Changes these paces and leaves the others; False when all have to be said again. Raises EnvironmentFault."""
        for name, paces in wanted.items():
            made = self._made.get(name)
            if made is None or not paces.keys() <= made.paced.keys():
                return False
            total = self._paces[name] + sum(each.bit_s - made.paces[minor].bit_s for minor, each in paces.items())
            overbooked = (pacing.is_overbooked(each, made.link_bit_s) for each in (total, self._paces[name]))
            if any(overbooked):
                return False
            classes = made.paced | self._plan_paced(made, name, paces)
            self._put_paced(name, made, classes, only=paces)
            self._paces[name] = total
            made.paces |= paces
        return True

    def _plan_paced(self, made: _Made, name: str, flows: Mapping[int, Pace]) -> dict[int, PacedClass]:
        return {
            minor: pacing.plan_class(
                pace,
                mtu=made.mtu,
                header_bytes=made.header_bytes,
                link_bit_s=made.link_bit_s,
                all_bit_s=self._paces.get(name, 0),
            )
            for minor, pace in flows.items()
        }

    def _put_paced(
        self,
        name: str,
        made: _Made,
        classes: dict[int, PacedClass],
        *,
        is_sure: bool = True,
        only: Iterable[int] | None = None,
    ) -> None:
        """is_sure: what we put there is there. only: the others are as they were."""
        known = made.paced if is_sure else {}
        can_segment = self._kinds is None or "tbf" in self._kinds
        messages: list[tuple[TcMessage, int]] = [
            (pacing.gone_message(made.index, minor), 0)
            for minor in (made.paced.keys() - classes.keys() if only is None else ())
        ]
        put = rt.CREATE | rt.REPLACE
        for minor in classes if only is None else only:
            each, before = classes[minor], known.get(minor)
            if each is before or each == before:
                continue
            messages.append((pacing.class_message(made.index, minor, each), put))
            if before is None or _queue_of(each) != _queue_of(before):
                messages.append((pacing.queue_message(made.index, minor, each, can_segment=can_segment), put))
        made.paced = classes
        if messages:
            self._kernel = self._kernel or TcSocket()
            self._kernel.change_all(messages, target=f"paced flows on {name}")

    def restore(self) -> None:
        """Everything as it was before the first `apply`. Idempotent."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        self._paces = {}
        restore(self._record_path)
        self._record = None
        self._made.clear()
        self._unused.clear()

    # -- links -------------------------------------------------------------------------------------------------------

    def _shape(self, plan: ShapingPlan, link: ShapedLink, found: Interface, wanted: set[str]) -> LinkShape:
        egress = needs_tree(plan, link, Direction.EGRESS)
        if egress or link.interface in self._paced:
            wanted.add(link.interface)
            has_header = found.is_ethernet or found.is_loopback
            self._put_tree(link.interface, plan, link, Direction.EGRESS, has_header=has_header)
        if not needs_tree(plan, link, Direction.INGRESS):
            return LinkShape(egress=egress)
        name = f"{IFB_PREFIX}{found.interface_index}"
        wanted.add(name)
        try:
            index = self._put_ifb(name)
            # Packets come to an IFB with an Ethernet header, whatever the link has.
            self._put_tree(name, plan, link, Direction.INGRESS, has_header=True)
        except EnvironmentFault as fault:
            return LinkShape(egress=egress, refused=str(fault))
        return LinkShape(egress=egress, ingress_ifb_index=index)

    def _put_ifb(self, name: str) -> int:
        found = _read_interfaces().get(name)
        if found is not None:
            return found.interface_index
        self._made.pop(name, None)
        self._record_or_fail().add(VirtualLinkUndo(name=name))
        index = qdiscs.make_link(name, "ifb")
        qdiscs.bring_up(name)
        return index

    def _forget_gone(self, there: Mapping[str, Interface], record: Record) -> None:
        """An interface that is gone has taken its qdisc with it, but not the IFB behind it."""
        indexes = {each.interface_index for each in there.values()}
        for name, made in list(self._made.items()):
            if name in there and there[name].interface_index == made.index:
                continue
            del self._made[name]
            self._unused.discard(name)
        record.discard(
            *(each for each in record.undos if isinstance(each, QdiscUndo) and each.interface_index not in indexes)
        )
        for name in there:
            if name in self._made and name.startswith(IFB_PREFIX) and int(name[len(IFB_PREFIX) :]) not in indexes:
                self._drop(name, record)

    def _drop(self, name: str, record: Record) -> None:
        made = self._made.pop(name)
        if name.startswith(IFB_PREFIX):
            qdiscs.delete_link(name)
            record.discard(VirtualLinkUndo(name=name))
            return
        for undo in record.undos:
            if isinstance(undo, QdiscUndo) and undo.interface_index == made.index:
                qdiscs.restore_root(undo)
                record.discard(undo)

    # -- trees -------------------------------------------------------------------------------------------------------

    def _put_tree(
        self, name: str, plan: ShapingPlan, link: ShapedLink, direction: Direction, *, has_header: bool
    ) -> None:
        device = qdiscs.read_device(name)
        mtu = device.mtu if direction is Direction.EGRESS else qdiscs.read_device(link.interface).mtu
        made = self._made.get(name)
        if made is None or not qdiscs.has_ours(device.ifindex):
            if direction is Direction.EGRESS:
                self._save(device)
            made = self._made[name] = _Made(device.ifindex)
        if mtu != made.mtu:
            sizes = build_size_table(mtu, ETHERNET_HEADER_BYTES if has_header else 0)
            qdiscs.put_ours(device, sizes, is_new=not made.mtu)
            made.mtu = mtu
        if direction is Direction.EGRESS:
            made.header_bytes = ETHERNET_HEADER_BYTES if has_header else 0
            made.link_bit_s = link.egress_bit_s
            made.reserved_bit_s = pacing.reserve(self._paces.get(name, 0), link.egress_bit_s)
        tree = build_tree(plan, link, direction, mtu=mtu, idle=self._idle, reserved_bit_s=made.reserved_bit_s)
        self._put_classes(name, made, tree)

    def _save(self, device: qdiscs.Device) -> None:
        """What a former look recorded is not there any more if our tree is not."""
        record = self._record_or_fail()
        record.discard(
            *(each for each in record.undos if isinstance(each, QdiscUndo) and each.interface_index == device.ifindex)
        )
        qdiscs.save_root(device, record)

    def _put_classes(self, name: str, made: _Made, tree: HtbTree) -> None:
        """New classes come, changed ones change in place: no packet is lost. Old ones stay, see `drop_unused`."""
        classes = {each.minor: _class_line(name, each) for each in tree.classes}
        leaves = [each for each in tree.classes if each.queue_bytes is not None]
        surplus = qdiscs.read_minors(made.index) - set(classes) - pacing.PACED_MINORS
        # A node that becomes a leaf cannot keep its children.
        orphans = {minor for minor in surplus if parent_minor(minor) in {each.minor for each in leaves}}
        known, made.classes = made.classes, {}  # if this fails in the middle, all is said again the next time
        known_queues, made.queues = made.queues, {}
        _delete_classes(name, orphans)
        _run_batch(name, [line for minor, line in classes.items() if known.get(minor) != line])
        if self._kinds is None:
            self._kinds = _try_kinds(name, leaves[0])
        queues = {each.minor: _queue_lines(name, each, made.mtu, self._kinds) for each in leaves}
        _run_batch(name, [line for minor, line in queues.items() if known_queues.get(minor) != line])
        made.classes, made.queues, made.surplus = classes, queues, surplus - orphans

    def _record_or_fail(self) -> Record:
        assert self._record is not None, "nothing was applied"
        return self._record


def _queue_of(each: PacedClass) -> tuple[int, int]:
    return each.queue_bytes, each.longest_packet_bytes


def _class_line(name: str, each: HtbClass) -> str:
    parent = f"{each.parent:x}" if each.parent else ""
    return (
        f"class replace dev {name} parent {HANDLE:x}:{parent} classid {HANDLE:x}:{each.minor:x} htb"
        f" rate {each.rate_bit_s}bit ceil {each.ceil_bit_s}bit burst {each.burst_bytes} cburst {each.cburst_bytes}"
        f" prio {each.prio} quantum {each.quantum_bytes}"
    )


def _queue_lines(name: str, leaf: HtbClass, mtu: int, kinds: frozenset[str]) -> str:
    """A queue of bytes, or CoDel where the kernel has it; below a TBF that never waits where packets are segmented."""
    parent, lines = f"{HANDLE:x}:{leaf.minor:x}", []
    if leaf.longest_packet_bytes and "tbf" in kinds:
        limits = f"rate {_NO_WAIT} burst {leaf.longest_packet_bytes} limit {leaf.queue_bytes}"
        lines.append(_queue_line(name, parent, _TBF + leaf.minor, f"tbf {limits}"))
        parent = f"{_TBF + leaf.minor:x}:1"
    if "fq_codel" in kinds:
        # CoDel would drop at a queue of one packet if its target were shorter than one takes.
        target_us = max(_CODEL_TARGET_US, 12_000_000 * mtu // leaf.ceil_bit_s)
        times = f"target {target_us}us interval {max(_CODEL_INTERVAL_US, 2 * target_us)}us"
        packets = (leaf.queue_bytes or 0) // mtu
        handle = (_CODEL_BELOW_TBF if lines else _CODEL) + leaf.minor
        lines.append(_queue_line(name, parent, handle, f"fq_codel limit {packets} flows {_CODEL_FLOWS} {times}"))
    elif not lines:
        lines.append(_queue_line(name, parent, _FIFO + leaf.minor, f"bfifo limit {leaf.queue_bytes}"))
    return "\n".join(lines)


def _queue_line(name: str, parent: str, handle: int, kind: str) -> str:
    return f"qdisc replace dev {name} parent {parent} handle {handle:x}: {kind}"


def _try_kinds(name: str, leaf: HtbClass) -> frozenset[str]:
    """Which of them this kernel has; modules are loaded on the way. The queue that stays is set afterwards."""
    parent, found = f"{HANDLE:x}:{leaf.minor:x}", set()
    trials = (("tbf", _TBF, f"tbf rate {_NO_WAIT} burst 65536 limit 65536"), ("fq_codel", _CODEL, "fq_codel"))
    for kind, handle, words in trials:
        with contextlib.suppress(EnvironmentFault):
            _run_batch(name, [_queue_line(name, parent, handle + leaf.minor, words)])
            found.add(kind)
    return frozenset(found)


def _delete_classes(name: str, minors: Iterable[int]) -> None:
    """From the leaves up: those of flows have the highest numbers."""
    lines = [f"class delete dev {name} classid {HANDLE:x}:{minor:x}" for minor in sorted(minors, reverse=True)]
    _run_batch(name, lines)


def _run_batch(name: str, lines: Sequence[str]) -> None:
    if lines:
        text = "\n".join([*lines, ""])
        kernel_tools.run(["tc", "-batch", "-"], operation="shape", target=name, text=text)


def _read_interfaces() -> dict[str, Interface]:
    interfaces = Interfaces()
    try:
        return interfaces.read()
    finally:
        interfaces.close()
