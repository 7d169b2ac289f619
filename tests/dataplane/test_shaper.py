"""The shaping core on a virtual clock: caps, weights, minimums, precedence, names, questions, each packet's fate."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.packet import flow_key
from dataplane.counters import CounterFile
from dataplane.fake import Delivered, FakeDataPlane
from dataplane.host_engine import Question
from dataplane.metering import UNATTRIBUTED, FlowKey, FlowMeter, Kind, Program
from dataplane.port import Action, Inject, Packet, Verdict
from dataplane.shaping.flowtable import Interface, wire_size
from dataplane.shaping.messages import (
    Answer,
    Asked,
    AskFlows,
    Attribute,
    Attribution,
    FlowsPage,
    NewFlow,
    Refused,
    SetPlan,
    Settled,
    Tagged,
    Tick,
    decode_event,
    decode_reply,
    encode,
    is_ours,
)
from dataplane.shaping.plan import (
    DEFAULT,
    Match,
    Protocol,
    Rule,
    ShapedLink,
    ShapingPlan,
    TrafficClass,
)
from dataplane.shaping.shaper import (
    ANSWER_WAIT_NS,
    HELD_FOR_COUNTS_MAX,
    HELD_IN_FLOW_MAX,
    IN_QUEUE,
    NAME_WAIT_NS,
    OUT_QUEUE,
    QUESTIONS_MAX,
    ShapingCore,
)

SECOND = 1_000_000_000
MS = 1_000_000
HERE, THERE = "10.0.0.1", "198.51.100.7"
CURL = Program(kind=Kind.PROGRAM, executable="/usr/bin/curl")


def packet(
    destination_port: int = 443,
    *,
    source_port: int = 40000,
    size: int = 1500,
    source: str = HERE,
    destination: str = THERE,
    protocol: int = 17,
    ecn: int = 0,
    number: int = 0,
    flags: int = 0x10,
) -> bytes:
    """An IP packet of that size; `number` is in its last bytes."""
    here, there = ip_address(source).packed, ip_address(destination).packed
    ports = struct.pack("!HH", source_port, destination_port)
    transport = ports + (bytes(8) + bytes((0x50, flags)) + bytes(6) if protocol == 6 else bytes(4))
    if len(here) == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, ecn, size, 1, 0, 64, protocol, 0, here, there)
    else:
        head = struct.pack("!IHBB16s16s", 6 << 28 | ecn << 20, size - 40, protocol, 64, here, there)
    start = head + transport
    return start + bytes(size - len(start) - 4) + struct.pack("!I", number)


def arriving(source_port: int = 443, *, destination_port: int = 40000, size: int = 1500, number: int = 0) -> bytes:
    return packet(destination_port, source_port=source_port, source=THERE, destination=HERE, size=size, number=number)


def plan_of(
    *classes: TrafficClass,
    rules: Sequence[Rule] = (),
    egress: int | None = None,
    ingress: int | None = None,
    default: TrafficClass | None = None,
) -> ShapingPlan:
    """Classes from 2 on; by ports 1002, 1003 ... where no rules are given."""
    by_port = [Rule(match=Match(ports=(1000 + at, 1000 + at)), traffic_class=at) for at in range(2, 2 + len(classes))]
    return ShapingPlan(
        classes=(TrafficClass(name="control"), default or TrafficClass(name="default"), *classes),
        rules=tuple(rules or by_port),
        links=(ShapedLink(interface="eth0", egress_bit_s=egress, ingress_bit_s=ingress),),
    )


class Timed(list[Delivered]):
    """Packets that went on, with the time."""

    def __init__(self) -> None:
        super().__init__()
        self.plane: FakeDataPlane
        self.times: list[int] = []

    def append(self, delivered: Delivered) -> None:
        self.times.append(self.plane.now_ns)
        super().append(delivered)


@dataclass(slots=True)
class Host:
    """A core on a fake data plane, and the main process's part."""

    plan: ShapingPlan
    inner: Inner | None = None
    allow_unanswered: bool = True
    names: bool = True  # new flows are nobody's, which is told at once
    flows_max: int = 1000
    interfaces: dict[int, Interface] = field(default_factory=lambda: {1: Interface("eth0", 1500)})
    counters: CounterFile = field(default_factory=CounterFile.in_memory)
    out: Timed = field(default_factory=Timed)
    core: ShapingCore = field(init=False)
    plane: FakeDataPlane = field(init=False)

    def __post_init__(self) -> None:
        self.core = ShapingCore(
            self.plan,
            self.inner,
            self.counters,
            interface_of=self.interfaces.get,
            allow_unanswered=self.allow_unanswered,
            flows_max=self.flows_max,
        )
        self.plane = FakeDataPlane(self.core, self.counters, out=self.out)
        self.out.plane = self.plane

    def send(self, *packets: bytes, index: int = 1) -> None:
        self.plane.deliver(*packets, queue=OUT_QUEUE, interface_index=index)
        self._name_new_flows()

    def receive(self, *packets: bytes, index: int = 1) -> None:
        self.plane.deliver(*packets, queue=IN_QUEUE, interface_index=index)
        self._name_new_flows()

    def _name_new_flows(self) -> None:
        if self.names and self.plane.events:
            events = [each for each in self.plane.events if is_ours(each)]
            keys = [event.key for event in map(decode_event, events) if isinstance(event, NewFlow)]
            self.plane.events = [each for each in self.plane.events if not each.startswith(b'S{"type":"NewFlow"')]
            flows = tuple(Attribution(key=key, number=0, program=UNATTRIBUTED) for key in keys)
            self.tell(Attribute(flows=flows))

    def tell(self, message: Tagged) -> object:
        reply = self.plane.command(encode(message))
        assert reply is not None
        self.plane.advance(0)
        return decode_reply(reply)

    def events(self) -> list[object]:
        found: list[object] = [decode_event(each) for each in self.plane.events]
        self.plane.events.clear()
        return found

    def questions(self) -> list[Question]:
        return [event.question for event in self.events() if isinstance(event, Asked)]

    def name(self, payload: bytes, program: Program, number: int = 1, index: int = 1) -> None:
        self.tell(Attribute(flows=(Attribution(key=key_of(payload, index), number=number, program=program),)))

    def flows(self) -> list[FlowMeter]:
        found: list[FlowMeter] = []
        following = 0
        while True:
            page = self.tell(AskFlows(first=following))
            assert isinstance(page, FlowsPage)
            found += page.flows
            following = page.following
            if not following:
                return found

    def counts(self, owner: str) -> tuple[int, int, int, int]:
        """Sent packets and bytes, received packets and bytes."""
        values = self.counters.snapshot()
        names = ("sent_packets", "sent_bytes", "received_packets", "received_bytes")
        found = [values.get(f"shaping/{owner}/{name}", 0) for name in names]
        return found[0], found[1], found[2], found[3]

    def flood(
        self, duration_ns: int, *kinds: bytes, every_ns: int = MS, burst: int = 3, incoming: bool = False
    ) -> None:
        """Keeps offering a burst of each kind."""
        end_ns = self.plane.now_ns + duration_ns
        while self.plane.now_ns < end_ns:
            (self.receive if incoming else self.send)(*(each for each in kinds for _ in range(burst)))
            self.plane.advance(every_ns)

    def bits(self, since_ns: int, until_ns: int, port: int | None = None) -> int:
        total = 0
        for delivered, at_ns in zip(self.out, self.out.times, strict=True):
            key = flow_key(delivered.payload)
            assert key is not None
            if since_ns <= at_ns < until_ns and port in (None, key.destination_port, key.source_port):
                total += 8 * len(delivered.payload)
        return total

    def numbers(self) -> list[int]:
        return [int.from_bytes(delivered.payload[-4:]) for delivered in self.out]


def key_of(payload: bytes, index: int = 1) -> FlowKey:
    ends = flow_key(payload)
    assert ends is not None
    return FlowKey(index, ends.protocol, ends.source, ends.source_port, ends.destination, ends.destination_port)


@dataclass(slots=True)
class Inner:
    """A core that pays: it appends four bytes to what leaves, cuts four off what arrives, drops port 9."""

    seen: list[Packet] = field(default_factory=list)
    deadline_ns: int | None = None

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        self.seen += batch
        actions: list[Action] = []
        for each in batch:
            key = flow_key(each.payload)
            accept = key is None or 9 not in (key.source_port, key.destination_port)
            payload = each.payload + b"paid" if each.queue == OUT_QUEUE else each.payload[:-4]
            actions.append(Verdict(each.packet_id, each.queue, accept, each.mark, payload if accept else None))
        return actions

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        self.deadline_ns = None
        return [Inject(packet(number=77))]

    def next_deadline_ns(self) -> int | None:
        return self.deadline_ns

    def on_drain(self, now_ns: int) -> Sequence[Action]:
        return [Inject(packet(number=78))]

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        return data[::-1]

    def take_events(self) -> list[bytes]:
        return [b"{inner}"]


# -- rates -----------------------------------------------------------------------------------------------------------


def sliding_excess(host: Host, rate_bit_s: int, since_ns: int, until_ns: int) -> float:
    """The most in any second, as a part of the rate."""
    times = host.out.times
    sums = [0, *accumulate(8 * len(delivered.payload) for delivered in host.out)]
    most = 0
    for at in range(bisect_left(times, since_ns), bisect_right(times, until_ns - SECOND)):
        most = max(most, sums[bisect_left(times, times[at] + SECOND)] - sums[at])
    return most / rate_bit_s


@pytest.mark.parametrize("incoming", [False, True], ids=["egress", "ingress"])
@pytest.mark.parametrize(("rate", "size", "burst"), [(1_000_000, 1500, 2), (8_000_000, 1500, 3), (8_000_000, 200, 20)])
def test_a_cap_holds_in_any_second_and_is_used(rate: int, size: int, burst: int, incoming: bool) -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=rate)))
    began = host.plane.now_ns
    host.flood(2 * SECOND, (arriving if incoming else packet)(size=size), burst=burst, incoming=incoming)
    assert host.bits(began, began + SECOND) <= 1.05 * rate  # the first one too
    assert sliding_excess(host, rate, began, began + 2 * SECOND) <= 1.05
    assert host.bits(began + SECOND, began + 2 * SECOND) >= 0.97 * rate


def test_after_silence_nothing_has_been_saved_up() -> None:
    rate = 8_000_000
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=rate)))
    host.flood(SECOND // 2, packet())
    host.plane.advance(5 * SECOND)
    began = host.plane.now_ns
    host.flood(SECOND, packet())
    assert host.bits(began, began + SECOND) <= 1.05 * rate


def test_caps_of_links_and_directions_are_separate() -> None:
    plan = plan_of(default=TrafficClass(name="default", cap_bit_s=2_000_000))
    host = Host(plan)
    began = host.plane.now_ns
    for _ in range(1000):
        host.send(packet())
        host.receive(arriving())
        host.plane.advance(MS)
    out = sum(8 * len(each.payload) for each in host.out if each.queue == OUT_QUEUE)
    assert 1.9e6 <= out <= 2.1e6
    assert host.bits(began, host.plane.now_ns) == pytest.approx(2 * out, rel=0.02)


def test_each_flow_has_its_own_cap_and_does_not_hinder_others() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", flow_cap_bit_s=1_000_000)))
    began = host.plane.now_ns
    flows = [packet(port) for port in range(500, 505)]
    host.flood(2 * SECOND, *flows, packet(600, size=100), burst=1, every_ns=10 * MS)
    for port in range(500, 505):
        assert 0.95e6 <= host.bits(began + SECOND, began + 2 * SECOND, port) <= 1.05e6
    assert host.bits(began, began + 2 * SECOND, 600) == 200 * 800  # 80 kbit/s: all of it


LIGHT, HEAVY = TrafficClass(name="light", weight=1), TrafficClass(name="heavy", weight=3)


def ratio(host: Host, since_ns: int, until_ns: int) -> float:
    return host.bits(since_ns, until_ns, 1003) / host.bits(since_ns, until_ns, 1002)


@pytest.mark.parametrize("incoming", [False, True], ids=["egress", "ingress"])
def test_weights_share_a_link_and_a_swap_is_felt_at_once(incoming: bool) -> None:
    rate = 8_000_000
    host = Host(plan_of(LIGHT, HEAVY, egress=rate, ingress=rate))
    kinds = (
        [arriving(destination_port=port) for port in (1002, 1003)]
        if incoming
        else [packet(1002), packet(1003, size=700)]
    )
    began = host.plane.now_ns
    host.flood(2 * SECOND, *kinds, incoming=incoming)
    assert ratio(host, began, began + SECOND) == pytest.approx(3, rel=0.1)
    assert host.bits(began + SECOND, began + 2 * SECOND) == pytest.approx(rate, rel=0.02)
    assert sliding_excess(host, rate, began, host.plane.now_ns) <= 1.05
    host.tell(SetPlan(plan=plan_of(HEAVY, LIGHT, egress=rate, ingress=rate)))
    swapped = host.plane.now_ns
    host.flood(2 * SECOND, *kinds, incoming=incoming)
    assert 1 / ratio(host, swapped + SECOND // 2, swapped + 2 * SECOND) == pytest.approx(3, rel=0.1)
    assert host.bits(swapped, swapped + SECOND) <= 1.05 * rate


def test_what_one_class_leaves_the_others_take() -> None:
    rate = 8_000_000
    host = Host(plan_of(LIGHT, HEAVY, egress=rate))
    began = host.plane.now_ns
    host.flood(SECOND, packet(1002))
    assert host.bits(began, began + SECOND) >= 0.97 * rate


def test_a_minimum_comes_before_weights() -> None:
    rate = 8_000_000
    small = TrafficClass(name="small", minimum_bit_s=4_000_000)
    big = TrafficClass(name="big", weight=1000)
    host = Host(plan_of(small, big, egress=rate))
    began = host.plane.now_ns
    host.flood(2 * SECOND, packet(1002), packet(1003))
    assert host.bits(began + SECOND, began + 2 * SECOND, 1002) == pytest.approx(4_000_000, rel=0.05)
    host.flood(SECOND, packet(1003))
    assert host.bits(host.plane.now_ns - SECOND // 2, host.plane.now_ns, 1003) == pytest.approx(rate / 2, rel=0.05)


def test_more_minimum_than_there_is_is_shared_by_it() -> None:
    classes = [TrafficClass(name=f"{rate}", minimum_bit_s=rate * 1_000_000) for rate in (10, 30)]
    host = Host(plan_of(*classes, egress=8_000_000))
    began = host.plane.now_ns
    host.flood(2 * SECOND, packet(1002), packet(1003))
    assert ratio(host, began + SECOND // 2, host.plane.now_ns) == pytest.approx(3, rel=0.1)


def test_control_traffic_goes_first() -> None:
    host = Host(plan_of(egress=1_000_000))
    host.flood(SECOND, packet())
    before = len(host.out)
    asked = host.plane.now_ns
    host.send(packet(53, size=100, number=5))
    host.plane.advance(13 * MS)  # one packet is on its way: 12 ms
    at = next(at for at, payload in enumerate(host.out) if payload.payload[-4:] == b"\0\0\0\5")
    assert at - before <= 1
    assert host.out.times[at] - asked <= 13 * MS


def test_a_busy_flow_does_not_keep_another_of_its_class_waiting() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=4_000_000)))
    began = host.plane.now_ns
    host.flood(SECOND, *(packet(500) for _ in range(9)), packet(501), burst=1)
    assert host.bits(began + SECOND // 2, began + SECOND, 501) == pytest.approx(1_000_000, rel=0.1)


def test_the_longest_flow_loses_what_is_too_much() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=1_000_000)))
    host.send(packet(501, number=1))
    for number in range(100):
        host.send(packet(500, number=number))
        if number % 20 == 0:
            host.send(packet(501, number=number))
    dropped = Counter(struct.unpack_from("!H", each, 22)[0] for each in host.plane.dropped)
    assert dropped[500] > 70
    assert dropped[501] == 0
    assert host.counters.snapshot()["shaping.dropped_overflow"] == sum(dropped.values())


def test_without_a_rate_and_caps_nothing_waits() -> None:
    host = Host(plan_of(TrafficClass(name="weighty", weight=7, minimum_bit_s=1_000_000)))
    for port in (443, 1002, 53):
        host.send(*(packet(port) for _ in range(200)))
    assert len(host.out) == 600
    assert not host.plane.held


def test_an_offloaded_packet_counts_as_its_segments() -> None:
    whole = packet(protocol=6, size=40 + 10 * 1460)
    assert wire_size(whole, 1500) == (10, 10 * 1500)
    assert wire_size(whole[:-1], 1500) == (10, 10 * 1500 - 1)
    assert wire_size(packet(size=28 + 1473), 1500) == (2, 28 + 1473 + 28)
    rate = 80_000_000
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=rate)))
    began = host.plane.now_ns
    host.flood(SECOND, packet(protocol=6, size=64_040), burst=1)
    sent = sum(at < began + SECOND for at in host.out.times)
    assert 0.95 * rate <= sent * 8 * wire_size(host.out[0].payload, 1500)[1] <= 1.05 * rate


def test_repeated_plans_do_not_raise_a_cap() -> None:
    rate = 8_000_000
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=rate)))
    began = host.plane.now_ns
    for _ in range(50):
        host.tell(SetPlan(plan=plan_of(default=TrafficClass(name="default", cap_bit_s=rate))))
        host.flood(20 * MS, packet())
    assert host.bits(began, began + SECOND) <= 1.05 * rate


# -- names -----------------------------------------------------------------------------------------------------------

BY_PROGRAM = plan_of(
    TrafficClass(name="slow", cap_bit_s=1_000_000), rules=[Rule(match=Match(program="curl"), traffic_class=2)]
)


def test_first_packets_wait_for_a_name() -> None:
    host = Host(BY_PROGRAM, names=False)
    host.send(packet(number=1), packet(number=2))
    assert not host.out
    assert host.events() == [NewFlow(key=key_of(packet()))]
    host.plane.advance(100 * MS)
    host.name(packet(), CURL, 7)
    assert host.numbers()[:1] == [1]
    host.plane.advance(SECOND)
    assert host.numbers() == [1, 2]
    assert host.counts("program/7")[:2] == (2, 3000)
    assert host.flows()[0].traffic_class == 2
    assert host.flows()[0].program_number == 7


def test_after_300_ms_they_go_on_without_one() -> None:
    host = Host(BY_PROGRAM, names=False)
    host.send(packet(number=1))
    host.plane.advance(NAME_WAIT_NS - 1)
    assert not host.out
    host.plane.advance(1)
    host.send(packet(number=2))
    assert host.numbers() == [1, 2]
    assert host.counts("program/0") == (2, 3000, 0, 0)
    assert host.flows()[0].traffic_class == DEFAULT
    host.name(packet(), CURL, 7)  # late, but not too late
    host.send(packet(number=3))
    assert host.flows()[0].traffic_class == 2
    assert host.counts("program/0") == (2, 3000, 0, 0)
    assert host.counts("program/7") == (1, 1500, 0, 0)


def test_what_has_no_name_yet_is_not_counted_yet_so_that_no_count_shrinks() -> None:
    host = Host(plan_of(), names=False)
    host.send(packet(53, size=100), packet(53, size=100))
    host.receive(arriving(53))
    assert len(host.out) == 3
    assert host.counts("link/eth0") == (0, 0, 0, 0)
    host.name(packet(53), CURL, 3)
    assert host.counts("program/3") == host.counts("link/eth0") == (2, 200, 1, 1500)
    host.send(packet(53))
    assert host.counts("program/3")[0] == 3


def test_where_the_name_is_for_the_counts_alone_less_waits_for_it() -> None:
    host = Host(plan_of(), names=False)
    host.send(packet(53), packet(protocol=1), packet(protocol=50))
    assert len(host.out) == 3
    host.send(*(packet(source_port=port) for port in range(HELD_FOR_COUNTS_MAX)))
    assert len(host.out) == 3
    host.send(*(packet(source_port=port, destination_port=444) for port in range(50)))
    assert len(host.out) == 53
    host.plane.advance(NAME_WAIT_NS)
    assert len(host.out) == HELD_FOR_COUNTS_MAX + 53
    assert host.counts("program/0")[0] == len(host.out)


def test_control_traffic_waits_where_a_rule_asks_whose_it_is() -> None:
    rules = [Rule(match=Match(program="curl", protocol=Protocol.UDP), traffic_class=2)]
    host = Host(plan_of(TrafficClass(name="slow", cap_bit_s=1_000_000), rules=rules), names=False)
    host.send(packet(53), packet(53, protocol=6))
    assert [each.payload[9] for each in host.out] == [6]


def test_an_owner_that_changes_is_asked_for_again() -> None:
    host = Host(BY_PROGRAM, names=False)
    host.send(packet())
    host.name(packet(), UNATTRIBUTED, 0)
    host.events()
    host.plane.advance(11 * SECOND)
    host.send(packet(), packet())
    assert host.events() == [NewFlow(key=key_of(packet()))]
    host.name(packet(), CURL, 2)
    assert host.flows()[0].traffic_class == 2


def test_no_more_than_a_few_packets_of_a_flow_wait_for_its_name() -> None:
    host = Host(BY_PROGRAM, names=False)
    host.send(*(packet(number=number) for number in range(HELD_IN_FLOW_MAX)))
    assert not host.out
    host.send(packet(number=HELD_IN_FLOW_MAX))
    assert host.numbers() == list(range(HELD_IN_FLOW_MAX + 1))


def test_a_plan_is_carried_out_for_flows_that_are_there_and_for_what_waits() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=1_000_000)))
    host.send(*(packet(number=number) for number in range(20)))
    assert len(host.out) < 5
    host.tell(SetPlan(plan=plan_of()))
    assert host.numbers() == list(range(20))
    host.tell(SetPlan(plan=plan_of(ingress=5_000_000, egress=64_000)))
    host.send(*(packet(number=number) for number in range(20, 25)))
    assert len(host.out) < 25
    host.plane.advance(SECOND)
    assert host.numbers() == list(range(len(host.out)))


def test_the_direction_of_a_tcp_flow_is_known_by_its_first_segment() -> None:
    host = Host(plan_of(TrafficClass(name="web"), rules=[Rule(match=Match(ports=(8080, 8080)), traffic_class=2)]))
    there = {"source": THERE, "destination": HERE, "protocol": 6}
    host.receive(packet(8080, source_port=50000, flags=2, **there))  # type: ignore[arg-type]
    host.receive(packet(50001, source_port=8080, flags=0x12, **there))  # type: ignore[arg-type]
    host.receive(packet(50002, source_port=8080, **there))  # type: ignore[arg-type]
    host.receive(packet(8080, source_port=50003, **there))  # type: ignore[arg-type]
    host.receive(packet(50004, source_port=80, **there))  # type: ignore[arg-type]
    assert [flow.traffic_class for flow in host.flows()] == [2, 2, 2, 2, DEFAULT]


# -- questions -------------------------------------------------------------------------------------------------------

ASKING = plan_of(TrafficClass(name="ask", ask_first=True))


def test_a_flow_waits_for_its_answer_while_others_pass() -> None:
    host = Host(ASKING)
    host.send(packet(1002, number=1), packet(number=2))
    assert host.numbers() == [2]
    (question,) = host.questions()
    assert (question.key, question.traffic_class) == (key_of(packet(1002)), 2)
    assert question.expires_ns == host.plane.now_ns + ANSWER_WAIT_NS
    host.plane.advance(10 * SECOND)
    host.receive(arriving(1002, number=3))
    host.send(packet(number=4))
    host.tell(Answer(number=question.number, allow=True))
    assert host.numbers() == [2, 4, 1, 3]
    host.send(packet(1002, number=5))
    host.tell(Answer(number=question.number, allow=False))  # too late
    host.send(packet(1002, number=6))
    assert host.numbers()[-2:] == [5, 6]
    assert [event for event in host.events() if isinstance(event, Settled)] == [Settled(number=question.number)]


def test_a_denied_flow_is_dropped_until_it_has_been_idle_for_a_minute() -> None:
    host = Host(ASKING)
    host.send(packet(1002, number=1))
    host.tell(Answer(number=host.questions()[0].number, allow=False))
    assert len(host.plane.dropped) == 1
    for _ in range(8):
        host.plane.advance(20 * SECOND)
        host.send(packet(1002))
    assert len(host.plane.dropped) == 9
    assert host.questions() == []
    host.plane.advance(60 * SECOND)
    host.send(packet(1002))
    assert len(host.questions()) == 1
    assert host.counters.snapshot()["shaping.dropped_denied"] == 9


@pytest.mark.parametrize("allow", [True, False])
def test_after_30_s_the_default_answers(allow: bool) -> None:
    host = Host(ASKING, allow_unanswered=allow)
    host.send(packet(1002, number=1))
    host.plane.advance(ANSWER_WAIT_NS - 1)
    assert not host.out
    assert not host.plane.dropped
    host.plane.advance(1)
    assert (len(host.out), len(host.plane.dropped)) == ((1, 0) if allow else (0, 1))
    assert any(isinstance(event, Settled) for event in host.events())


def test_questions_and_what_waits_for_them_are_bounded() -> None:
    host = Host(ASKING)
    for port in range(QUESTIONS_MAX + 5):
        host.send(packet(1002, source_port=1 + port))
    assert len(host.questions()) == QUESTIONS_MAX
    assert len(host.out) == 5
    host.send(*(packet(1002, source_port=1) for _ in range(100)))
    assert len(host.plane.dropped) == 101 - HELD_IN_FLOW_MAX
    for port in range(QUESTIONS_MAX):
        host.send(*(packet(1002, source_port=1 + port) for _ in range(40)))
    assert len(host.plane.held) <= 1024
    host.plane.advance(ANSWER_WAIT_NS)
    assert not host.plane.held


def test_a_plan_that_does_not_ask_settles_the_question() -> None:
    host = Host(ASKING)
    host.send(packet(1002, number=1))
    host.tell(SetPlan(plan=plan_of(TrafficClass(name="free"))))
    assert host.numbers() == [1]
    host.tell(SetPlan(plan=ASKING))
    host.send(packet(1002, number=2))  # judged anew
    assert host.numbers() == [1]
    assert len(host.questions()) == 2


def test_a_nameless_flow_is_asked_about_once_it_has_a_name() -> None:
    rules = [Rule(match=Match(program="curl"), traffic_class=2)]
    host = Host(plan_of(TrafficClass(name="ask", ask_first=True), rules=rules), names=False)
    host.send(packet())
    assert host.questions() == []
    host.name(packet(), CURL)
    (question,) = host.questions()
    assert question.program == CURL
    assert not host.out


# -- the table and the counts ----------------------------------------------------------------------------------------


def test_the_longest_idle_flow_is_forgotten_and_its_counts_stay() -> None:
    host = Host(plan_of(), flows_max=10)
    for number in range(1, 31):
        host.send(packet(source_port=number))
        host.plane.advance(MS)
        host.send(packet(source_port=1))  # never idle
    host.plane.advance(SECOND)
    flows = host.flows()
    assert len(flows) == 10
    assert {flow.key.local_port for flow in flows} == {1, *range(22, 31)}
    assert host.counts("program/0")[0] == host.counts("link/eth0")[0] == 60
    assert host.counters.snapshot()["shaping.flows_evicted"] == 20


def test_flows_that_wait_are_not_forgotten_and_others_count_beyond_the_table() -> None:
    host = Host(ASKING, flows_max=3)
    host.send(*(packet(1002, source_port=port) for port in (1, 2, 3)))
    host.send(packet(), packet(53))
    assert len(host.out) == 2
    assert host.counters.snapshot()["shaping.packets_beyond_table"] == 2
    assert host.counts("program/0")[0] == 2


def test_idle_flows_are_forgotten() -> None:
    host = Host(plan_of())
    host.send(packet(500))
    host.plane.advance(200 * SECOND)
    host.send(packet(501))
    host.plane.advance(150 * SECOND)
    host.tell(Tick())
    assert [flow.key.remote_port for flow in host.flows()] == [501]


def test_congestion_marks_are_counted_in_both_ip_versions() -> None:
    host = Host(plan_of())
    six = {"source": "2001:db8::1", "destination": "2001:db8::2"}
    host.send(*(packet(ecn=ecn) for ecn in (0, 1, 2, 3, 3)))
    host.receive(*(packet(ecn=ecn, **six) for ecn in (0, 1, 1, 3)))  # type: ignore[arg-type]
    assert [flow.sent[2:] for flow in host.flows()] == [(2, 2), (0, 0)]
    assert [flow.received[2:] for flow in host.flows()] == [(0, 0), (1, 2)]


def test_both_directions_are_one_flow() -> None:
    host = Host(plan_of())
    host.send(packet())
    host.receive(arriving(), arriving())
    (flow,) = host.flows()
    assert (flow.key, flow.sent.packets, flow.received.packets) == (key_of(packet()), 1, 2)


def test_what_is_no_ip_packet_is_counted_and_passes() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=64_000)))
    host.send(b"\x45", b"\x60" + bytes(10), b"\x00" * 30)
    assert len(host.out) == 3
    assert host.counts("program/0")[:2] == (3, 42)


def test_many_flows_are_told_in_pages() -> None:
    host = Host(plan_of())
    for number in range(1, 901):
        host.send(packet(source_port=number))
    assert {flow.key.local_port for flow in host.flows()} == set(range(1, 901))


# -- interfaces ------------------------------------------------------------------------------------------------------


def test_an_interface_of_no_link_passes_uncounted() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=64_000)))
    host.interfaces[2] = Interface("eth1", 1500)
    for _ in range(20):
        host.send(packet(), index=2)
        host.receive(arriving(), index=3)
    assert len(host.out) == 40
    assert host.counts("program/0") == (0, 0, 0, 0)


def test_an_interface_that_comes_back_has_its_counts_and_its_cap() -> None:
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=1_000_000)))
    began = host.plane.now_ns
    host.flood(SECOND // 2, packet())
    del host.interfaces[1]
    host.tell(Tick())
    host.interfaces[5] = Interface("eth0", 1500)
    host.tell(Tick())
    while host.plane.now_ns < began + SECOND:
        host.send(packet(), index=5)
        host.plane.advance(MS)
    assert host.bits(began, began + SECOND) <= 1.05e6
    host.plane.advance(10 * SECOND)
    assert not host.plane.held
    assert host.counts("link/eth0")[0] == host.counts("program/0")[0] == len(host.out)
    assert {flow.key.interface_index for flow in host.flows()} == {5}


# -- with a core that pays -------------------------------------------------------------------------------------------


def test_what_leaves_is_shaped_before_it_is_paid_and_what_arrives_is_paid_before_it_is_shaped() -> None:
    inner = Inner()
    host = Host(plan_of(default=TrafficClass(name="default", cap_bit_s=1_000_000)), inner)
    host.send(*(packet(number=number) for number in range(60)))
    leaving = [each for each in inner.seen if each.queue == OUT_QUEUE]
    assert len(leaving) == len(host.out) < 5
    assert all(each.payload.endswith(b"paid") for each in host.out)
    host.receive(*(arriving(number=number) for number in range(60)))
    assert sum(each.queue == IN_QUEUE for each in inner.seen) == 60
    host.plane.advance(2 * SECOND)
    assert not host.plane.held
    assert len(host.plane.dropped) + len(host.out) == 120
    assert host.counts("program/0")[1] % 1500 == 0
    assert sum(each.queue == OUT_QUEUE for each in inner.seen) == host.counts("program/0")[0]


def test_the_inner_core_has_its_own_drops_timers_messages_and_events() -> None:
    inner = Inner()
    host = Host(plan_of(), inner)
    host.send(packet(9))
    host.receive(arriving(9), arriving())
    assert (len(host.out), len(host.plane.dropped)) == (1, 2)
    inner.deadline_ns = host.plane.now_ns + MS
    host.plane.advance(2 * MS)
    assert host.numbers()[-1] == 77
    assert host.plane.command(b"{hello}") == b"}olleh{"
    assert b"{inner}" in host.plane.events
    host.plane.drain()
    assert host.numbers()[-1] == 78


# -- the end ---------------------------------------------------------------------------------------------------------


def test_a_graceful_stop_lets_everything_go_in_order() -> None:
    plan = plan_of(
        TrafficClass(name="ask", ask_first=True), egress=64_000, rules=[Rule(match=Match(task="x"), traffic_class=2)]
    )
    for shaped in (plan, ASKING):
        host = Host(shaped)
        for number in range(1, 20):
            host.send(packet(1002, number=number))
        host.plane.drain()
        assert host.numbers() == list(range(1, 20))
        host.send(packet(1002, source_port=1, number=20), packet(1002, number=21))
        assert host.numbers()[-2:] == [20, 21]
        assert not host.plane.held


def test_a_message_that_is_none_is_refused() -> None:
    host = Host(plan_of())
    for body in (b"S", b"S{}", b"Snonsense", encode(SetPlan(plan=plan_of(rules=[
        Rule(match=Match(remote="nowhere"), traffic_class=1)])))):  # fmt: skip
        reply = host.plane.command(body)
        assert reply is not None
        assert isinstance(decode_reply(reply), Refused)


# -- any sequence ----------------------------------------------------------------------------------------------------

PLANS = [
    plan_of(),
    BY_PROGRAM,
    ASKING,
    plan_of(TrafficClass(name="a", flow_cap_bit_s=100_000, weight=5), egress=1_000_000, ingress=200_000),
    plan_of(
        TrafficClass(name="a", ask_first=True, minimum_bit_s=500_000),
        TrafficClass(name="b", cap_bit_s=64_000),
        rules=[
            Rule(match=Match(program="curl", ports=(1002, 1002)), traffic_class=2),
            Rule(match=Match(ports=(1003, 1003)), traffic_class=3),
        ],
        egress=2_000_000,
    ),
]
PORTS = [53, 443, 1002, 1003]
steps = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(PORTS), st.integers(1, 70)),
    st.tuples(st.just("receive"), st.sampled_from(PORTS), st.integers(1, 70)),
    st.tuples(st.just("advance"), st.sampled_from([0, 1, 5, 50, 400, 31_000]), st.just(0)),
    st.tuples(st.just("name"), st.sampled_from(PORTS), st.integers(0, 2)),
    st.tuples(st.just("plan"), st.integers(0, len(PLANS) - 1), st.just(0)),
    st.tuples(st.just("answer"), st.booleans(), st.integers(1, 5)),
    st.tuples(st.just("tick"), st.just(0), st.just(0)),
)


@given(
    sequence=st.lists(steps, max_size=25),
    first=st.integers(0, len(PLANS) - 1),
    pays=st.booleans(),
    flows_max=st.sampled_from([2, 1000]),
    names=st.booleans(),
)
def test_every_packet_has_one_fate_in_its_flows_order_and_is_counted(
    sequence: list[tuple[str, int, int]], first: int, pays: bool, flows_max: int, names: bool
) -> None:
    host = Host(PLANS[first], Inner() if pays else None, flows_max=flows_max, names=names)
    given_numbers: dict[tuple[int, bool], int] = defaultdict(int)
    for what, value, amount in sequence:
        if what in ("send", "receive"):
            batch = []
            for _ in range(amount):
                given_numbers[(value, what == "send")] += 1
                number = given_numbers[(value, what == "send")]
                batch.append(
                    packet(value, size=300, number=number)
                    if what == "send"
                    else arriving(value, size=300, number=number)
                )
            (host.send if what == "send" else host.receive)(*batch)
        elif what == "advance":
            host.plane.advance(value * MS)
        elif what == "name":
            host.name(packet(value), CURL if amount else UNATTRIBUTED, amount)
        elif what == "plan":
            host.tell(SetPlan(plan=PLANS[value]))
        elif what == "answer":
            host.tell(Answer(number=amount, allow=bool(value)))
        else:
            host.tell(Tick())
    host.plane.advance(NAME_WAIT_NS)
    host.plane.drain()
    check_fates(host, sum(given_numbers.values()))


def check_fates(host: Host, given_packets: int) -> None:
    assert not host.plane.held  # the fake refuses a second verdict
    went = [each for each in host.out if each.queue is not None]
    assert len(went) + len(host.plane.dropped) == given_packets
    latest: dict[object, int] = defaultdict(int)
    sent = 0
    for each in went:
        leaving = each.queue == OUT_QUEUE
        sent += leaving
        payload = each.payload
        if host.inner is not None:
            payload = payload[:-4] if leaving else payload + bytes(4)
        if host.inner is None or leaving:
            number = int.from_bytes(payload[-4:])
            kind = (flow_key(payload), leaving)
            assert number > latest[kind]
            latest[kind] = number
    received = given_packets - sent_or_dropped(host, sent)
    links = host.counts("link/eth0")
    assert (links[0], links[2]) == (sent, received)
    programs = [host.counts(f"program/{number}") for number in range(3)]
    assert [sum(column) for column in zip(*programs, strict=True)] == list(links)


def sent_or_dropped(host: Host, sent: int) -> int:
    """All that was offered to leave: by their source, since what was dropped has no queue any more."""
    return sent + sum(each[12:16] == ip_address(HERE).packed for each in host.plane.dropped)
