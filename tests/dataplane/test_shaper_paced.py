"""Flows with a pace of their own in the shaping core, on a virtual clock."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from billpay.packet import FlowKey as Ends
from billpay.packet import flow_key
from dataplane.counters import CounterFile
from dataplane.fake import FakeDataPlane
from dataplane.host_engine import PacedFlow
from dataplane.metering import FlowKey, FlowMeter
from dataplane.port import Action, Packet, Verdict
from dataplane.shaping.flowtable import PACED_PACKETS, Interface
from dataplane.shaping.messages import AskMeters, Meters, SetPaced, SetPlan, Tagged, Tick, decode_reply, encode
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.shaper import IN_QUEUE, NAME_WAIT_NS, OUT_QUEUE, ShapingCore

MS, SECOND = 1_000_000, 1_000_000_000
HERE, THERE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
TCP, UDP = 6, 17
ACK, ECE = 0x10, 0x40
PACE = 4_000_000
OPEN = ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="eth0"),))
CAPPED = ShapingPlan(
    classes=(TrafficClass(name="control"), TrafficClass(name="default", cap_bit_s=2 * PACE)), links=OPEN.links
)


def packet(
    port: int, *, size: int = 1000, protocol: int = UDP, ecn: int = 0, arrives: bool = False, flags: int = ACK
) -> bytes:
    source, destination = (THERE, HERE) if arrives else (HERE, THERE)
    ports = struct.pack("!HH", port if not arrives else 443, 443 if not arrives else port)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, ecn, size, 1, 0, 64, protocol, 0, source, destination)
    transport = bytes(8) + bytes((0x50, flags)) + bytes(6) if protocol == TCP else bytes(4)
    return (head + ports + transport).ljust(size, b"\0")


def flow(port: int, pace: int | None = PACE, *, protocol: int = UDP, marks: bool = False, index: int = 1) -> PacedFlow:
    key = FlowKey(index, protocol, HERE, port, THERE, 443)
    return PacedFlow(key=key, pace_bit_s=pace, answers_marks=marks)


@dataclass(slots=True)
class Inner:
    """A core beneath that leaves everything as it is."""

    seen: list[bytes] = field(default_factory=list)

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        self.seen += [each.payload for each in batch]
        return [Verdict(each.packet_id, each.queue, True, each.mark) for each in batch]

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        return []

    def next_deadline_ns(self) -> int | None:
        return None

    def on_drain(self, now_ns: int) -> Sequence[Action]:
        return []

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        return None

    def take_events(self) -> list[bytes]:
        return []


@dataclass(slots=True)
class Host:
    plan: ShapingPlan = OPEN
    inner: Inner | None = None
    plane: FakeDataPlane = field(init=False)

    def __post_init__(self) -> None:
        counters = CounterFile.in_memory()
        core = ShapingCore(self.plan, self.inner, counters, interface_of={1: Interface("eth0", 1500)}.get)
        self.plane = FakeDataPlane(core, counters)

    def tell(self, message: Tagged) -> object:
        reply = self.plane.command(encode(message))
        assert reply is not None
        self.plane.advance(0)
        return decode_reply(reply)

    def know(self, *ports: int, protocol: int = UDP) -> None:
        """Those flows' names are not waited for any more."""
        for port in ports:
            self.send(packet(port, protocol=protocol))
        self.plane.advance(NAME_WAIT_NS)
        self.plane.out.clear()

    def send(self, *packets: bytes) -> None:
        self.plane.deliver(*packets, queue=OUT_QUEUE)

    def receive(self, *packets: bytes) -> None:
        self.plane.deliver(*packets, queue=IN_QUEUE)

    def meter(self, each: PacedFlow) -> FlowMeter | None:
        told = self.tell(AskMeters(keys=(each.key,)))
        assert isinstance(told, Meters)
        return told.flows[0]

    def bit_s(self, port: int, duration_ns: int = SECOND) -> float:
        """What goes of it while it is offered 1 ms by 1 ms, twice the pace and more."""
        self.plane.out.clear()
        for _ in range(duration_ns // MS):
            self.send(packet(port), packet(port))
            self.plane.advance(MS)
        sizes = [len(each.payload) for each in self.plane.out if ends(each.payload).source_port == port]
        return 8 * sum(sizes) * SECOND / duration_ns


def ends(payload: bytes) -> Ends:
    found = flow_key(payload)
    assert found is not None
    return found


@pytest.mark.parametrize("plan", [OPEN, CAPPED], ids=["open", "capped"])
@pytest.mark.parametrize("index", [1, 0], ids=["by interface", "by whichever"])
def test_a_pace_holds_changes_at_once_and_ends(plan: ShapingPlan, index: int) -> None:
    host = Host(plan)
    host.know(1000)
    free = host.bit_s(1000, SECOND // 4)
    host.tell(SetPaced(flows=(flow(1000, index=index),)))
    assert host.bit_s(1000) == pytest.approx(PACE, rel=0.03)
    host.tell(SetPaced(flows=(flow(1000, PACE // 4, index=index),)))
    assert host.bit_s(1000) == pytest.approx(PACE / 4, rel=0.08), "what waited at the old pace is a part of it"
    assert host.bit_s(1000) == pytest.approx(PACE / 4, rel=0.03)
    host.tell(SetPaced(flows=(flow(1000, PACE, index=index),)))
    assert host.bit_s(1000, 200 * MS) == pytest.approx(PACE, rel=0.05), "at once, though it was slow before"
    host.tell(SetPaced(flows=()))
    host.plane.advance(20 * MS)
    assert host.bit_s(1000, SECOND // 4) == pytest.approx(free, rel=0.1)


def test_the_others_of_its_class_do_not_feel_it() -> None:
    host = Host()
    host.know(1000, 1001)
    host.tell(SetPaced(flows=(flow(1000, 100_000),)))
    host.plane.out.clear()
    for _ in range(500):
        host.send(packet(1000), packet(1001))
        host.plane.advance(MS)
    sent = [ends(each.payload).source_port for each in host.plane.out]
    assert sent.count(1001) == 500
    assert sent.count(1000) <= 10


def test_a_few_datagrams_wait_and_the_rest_is_dropped() -> None:
    host = Host()
    host.know(1000)
    host.tell(SetPaced(flows=(flow(1000, 100_000),)))
    host.send(*(packet(1000, size=1500) for _ in range(50)))
    host.plane.advance(10 * SECOND)
    assert PACED_PACKETS <= len(host.plane.out) <= PACED_PACKETS + 2
    assert not host.plane.held


def test_a_flow_that_comes_later_is_paced_from_its_first_packet_and_keeps_its_order_under_another_plan() -> None:
    host = Host()
    host.tell(SetPaced(flows=(flow(1000, 1_000_000, protocol=TCP),)))
    numbered = [packet(1000, protocol=TCP)[:-2] + n.to_bytes(2, "big") for n in range(60)]
    host.send(*numbered[:30])
    host.plane.advance(NAME_WAIT_NS)
    assert len(host.plane.out) < 30
    host.tell(SetPlan(plan=CAPPED))
    host.send(*numbered[30:])
    host.plane.advance(2 * SECOND)
    assert [each.payload[-2:] for each in host.plane.out] == [each[-2:] for each in numbered]


@pytest.mark.parametrize("with_inner", [False, True])
def test_marks_are_made_possible_and_kept_from_the_transport(with_inner: bool) -> None:
    inner = Inner() if with_inner else None
    host = Host(inner=inner)
    host.know(1000, 1001, protocol=TCP)
    held = flow(1000, None, protocol=TCP, marks=True)
    before = host.meter(held)
    assert before is not None
    host.tell(SetPaced(flows=(held,)))
    host.send(*(packet(port, protocol=TCP, ecn=ecn) for port in (1000, 1001) for ecn in range(4)))
    assert [each.payload[1] for each in host.plane.out] == [2, 1, 2, 3, 0, 1, 2, 3]
    if inner is not None:
        assert [each[1] for each in inner.seen][-8:] == [2, 1, 2, 3, 0, 1, 2, 3]
    meter = host.meter(held)
    assert meter is not None
    sent = (meter.sent.packets, meter.sent.ect_packets, meter.sent.ce_packets)
    assert sent == (before.sent.packets + 4, 3, 1)
    host.plane.out.clear()
    host.receive(*(packet(port, protocol=TCP, arrives=True, flags=ACK | ECE, ecn=3) for port in (1000, 1001)))
    assert [each.payload[33] for each in host.plane.out] == [ACK, ACK | ECE]
    assert [each.payload[1] for each in host.plane.out] == [3, 3], "what arrives marked stays marked"
    host.tell(SetPaced(flows=(held,), accurate=(held.key,)))
    host.tell(SetPaced(flows=()))
    host.tell(SetPaced(flows=(held,), accurate=(held.key,)))
    host.plane.out.clear()
    host.receive(packet(1000, protocol=TCP, arrives=True, flags=ACK | ECE))
    assert host.plane.out[0].payload[33] == ACK | ECE, "a number, under Accurate ECN"


def test_who_is_asked_for_is_not_forgotten() -> None:
    host = Host()
    host.know(1000, 1001)
    for _ in range(6):
        host.plane.advance(60 * SECOND)
        assert host.meter(flow(1000)) is not None
        host.tell(Tick())
    assert host.meter(flow(1001)) is None
    host.plane.advance(400 * SECOND)
    host.tell(Tick())
    assert host.meter(flow(1000)) is None


def test_nobody_asks_in_vain() -> None:
    host = Host()
    host.know(1000)
    assert host.meter(flow(1000)) == host.meter(flow(1000, index=0))
    assert host.meter(flow(1001)) is None
    assert host.meter(flow(1001, index=0)) is None
    assert host.meter(flow(1000, index=5)) is None
