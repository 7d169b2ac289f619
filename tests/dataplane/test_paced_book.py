"""Which paced flow has which class: slots, what is told to the programs, and that a failure changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from billpay.errors import EnvironmentFault
from dataplane.ebpf import layout
from dataplane.ebpf.libbpf import Map
from dataplane.ebpf.paced import LEAVES_NS, PacedFlows
from dataplane.host_engine import PACED_MAX, PacedFlow
from dataplane.metering import FlowKey
from dataplane.shaping.pacing import NO_PACE_BIT_S, PACED_MINOR, Pace

TCP, UDP = 6, 17
LINKS = {"a": 3, "b": 4}


@dataclass(slots=True)
class Entries:
    """A map in memory; the real one is met in test_paced_flows.py."""

    held: dict[bytes, bytes] = field(default_factory=dict)
    writes: int = 0

    def update(self, key: bytes, value: bytes) -> None:
        self.held[key] = value
        self.writes += 1

    def delete(self, key: bytes) -> None:
        del self.held[key]


def flow(
    port: int, pace: int | None = 1_000_000, *, protocol: int = TCP, index: int = 3, marks: bool = True
) -> PacedFlow:
    key = FlowKey(index, protocol, bytes(4), port, bytes(4), 80)
    return PacedFlow(key=key, pace_bit_s=pace, answers_marks=marks)


def book(entries: Entries, *accurate: FlowKey) -> PacedFlows:
    return PacedFlows(cast("Map", entries), lambda key: key in accurate)


def told(entries: Entries) -> dict[FlowKey, tuple[int, int]]:
    found = {}
    for raw, entry in entries.held.items():
        local, remote, local_port, remote_port, index, _, protocol, _ = layout.FLOW_KEY.unpack(raw)
        key = FlowKey(index, protocol, local[:4], int.from_bytes(local_port), remote[:4], int.from_bytes(remote_port))
        found[key] = layout.PACED.unpack(entry)
    return found


BOTH = layout.MARKS_CAPABLE | layout.MARKS_HIDDEN


def test_each_flow_has_a_class_of_its_own_and_keeps_it() -> None:
    entries = Entries()
    flows = book(entries)
    flows.take([flow(1), flow(2, index=0), flow(3, None)], LINKS, 0)
    assert flows.tell(LINKS)
    assert not flows.tell(LINKS), "nothing has changed"
    assert flows.classes(LINKS) == {
        "a": {PACED_MINOR: Pace(1_000_000, TCP), PACED_MINOR + 1: Pace(1_000_000, TCP)},
        "b": {PACED_MINOR + 1: Pace(1_000_000, TCP)},
    }
    assert told(entries) == {
        flow(1).key: (PACED_MINOR, BOTH),
        flow(2, index=3).key: (PACED_MINOR + 1, BOTH),
        flow(2, index=4).key: (PACED_MINOR + 1, BOTH),
        flow(3).key: (0, BOTH),
    }
    flows.take([flow(4), flow(2, index=0)], LINKS, 0)
    assert flows.tell({"a": 3, "b": 9}), "a link came back as another one"
    assert told(entries)[flow(4).key] == (PACED_MINOR + 2, BOTH)
    assert told(entries)[flow(2, index=9).key] == (PACED_MINOR + 1, BOTH)
    assert flows.classes(LINKS)["a"][PACED_MINOR] == Pace(NO_PACE_BIT_S, TCP), "what waits in it leaves at once"
    flows.tidy(LEAVES_NS + 1)
    assert PACED_MINOR not in flows.classes(LINKS)["a"]


def test_another_pace_is_all_that_has_changed() -> None:
    flows = book(Entries())
    before = [flow(1), flow(2)]
    flows.take(before, LINKS, 0)
    assert flows.changes(before) == []
    now = [before[0], flow(2, 5_000_000)]
    assert flows.changes(now) == [now[1]]
    assert flows.classes_of([now[1]], LINKS) == {"a": {PACED_MINOR + 1: Pace(5_000_000, TCP)}}
    flows.take_changes(now, [now[1]])
    assert flows.changes(now) == []
    assert flows.classes(LINKS)["a"][PACED_MINOR + 1].bit_s == 5_000_000
    for other in ([flow(1)], [flow(1), flow(3)], [flow(1), flow(2, None)], [flow(1), flow(2, marks=False)]):
        assert flows.changes(other) is None


def test_what_is_not_told_of_marks() -> None:
    entries = Entries()
    accurate = flow(2).key
    flows = book(entries, accurate)
    flows.take([flow(1, marks=False), flow(2), flow(3, protocol=UDP)], LINKS, 0)
    flows.tell(LINKS)
    marks = [entry[1] for entry in told(entries).values()]
    assert marks == [0, layout.MARKS_CAPABLE, layout.MARKS_CAPABLE]


def test_what_cannot_be_changes_nothing() -> None:
    flows = book(Entries())
    flows.take([flow(1)], LINKS, 0)
    before = flows.classes(LINKS)
    with pytest.raises(EnvironmentFault):
        flows.take([flow(n) for n in range(PACED_MAX + 1)], LINKS, 0)
    with pytest.raises(EnvironmentFault):
        flows.take([flow(2, index=7)], LINKS, 0)
    assert flows.classes(LINKS) == before
    flows.take([flow(5)], LINKS, 0)
    flows.undo()
    assert flows.classes(LINKS) == before
    assert flows.changes([flow(1)]) == []


def test_as_many_as_there_may_be_come_and_go_at_once() -> None:
    flows = book(Entries())
    for first in (0, 1000, 2000):
        flows.take([flow(first + n) for n in range(PACED_MAX)], LINKS, 0)
        classes = flows.classes(LINKS)["a"]
        assert len(classes) == PACED_MAX
        assert all(pace.bit_s == 1_000_000 for pace in classes.values())
    flows.take([], LINKS, 0)
    assert not flows.is_idle
    flows.tidy(LEAVES_NS + 1)
    assert flows.is_idle
    assert len(flows) == 0
