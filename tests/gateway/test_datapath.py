"""Playbooks: a few packets through real gateways, and what must be on the wire and in the counters afterwards."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import msgspec
import pytest
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    FREE,
    MS,
    TO_B,
    Gateway,
    X,
    Y,
    Z,
    carrying,
    figure_1,
    fixed,
    grant_for,
    header_of,
    named,
    parsed,
    paying,
    plain,
    plan_edge,
    plan_x,
    routes,
    to_gateway,
    to_host,
    to_legacy,
)
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.packet import Raw

from billpay import header as h
from billpay.header import ISP_WRITTEN, Slot, user_oad
from billpay.messages import GrantKind
from billpay.packet import checksum16
from gateway.commands import AskReport, Report, SetLink
from gateway.plan import GatewayPlan, Queueing

BOTH = [(A_V4, B_V4), (A_V6, B_V6)]
both_families = pytest.mark.parametrize("addresses", BOTH, ids=["ipv4", "ipv6"])
S = 1000 * MS


# --- payments in every packet ----------------------------------------------------------------------------------------


@pytest.mark.row("BP-01")
@both_families
def test_a_packet_without_a_header_is_forwarded_as_it_is(addresses: tuple[str, str]) -> None:
    network = figure_1()
    packet = plain(*addresses)
    network.send("A", packet, via="X")
    (arrived,) = network.arrived["B"]
    assert parsed(arrived).payload == parsed(packet).payload
    assert len(arrived) == len(packet)
    assert [gateway.sums() for gateway in network.gateways.values()] == [(0, 0, 0, 0, 0)] * 3
    assert network.gateways["X"].link_count("toY", "unpaid_packets") == 1


@pytest.mark.row("BP-01")
@both_families
def test_a_packet_with_a_header_pays(addresses: tuple[str, str]) -> None:
    network = figure_1()
    network.gateways["X"].open("toA", grant_for(addresses[0]))
    network.send("A", paying(plain(*addresses), 20), via="X")
    (arrived,) = network.arrived["B"]
    assert header_of(arrived) == h.Header(18, 2, (), h.last_gateway_field(Y))
    x, y = network.gateways["X"], network.gateways["Y"]
    assert (x.link_count("toA", "received_packets"), x.link_count("toA", "received_nanodollars")) == (1, 20)
    assert (x.link_count("toY", "sent_packets"), x.link_count("toY", "sent_nanodollars")) == (1, 19)
    assert (y.link_count("toX", "received_nanodollars"), y.link_count("toB", "sent_nanodollars")) == (19, 18)


# --- Figure 1 --------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-05")
@both_families
def test_figure_1(addresses: tuple[str, str]) -> None:
    """A sends 20; X keeps 1, congested Y 10, B 1 and returns 8, Z 1, X 1; A has 6 back and owes X 14."""
    a, b = addresses
    network = figure_1(y=congested_y())
    congest(network.gateways["Y"])
    x, y, z = (network.gateways[name] for name in "XYZ")
    x.open("toA", grant_for(a))
    z.open("toB", grant_for(b, kind=GrantKind.RETURN))
    before = y.sums()
    network.send("A", paying(plain(a, b), 20, FREE, FREE), via="X")
    network.advance(300 * MS)
    (there,) = [packet for packet in network.arrived["B"] if header_of(packet)]
    header = header_of(there)
    assert header is not None
    assert header.slots == (Slot(X, ISP_WRITTEN | 0b11, 1), Slot(Y, ISP_WRITTEN | 0b1, 1))
    host_b_keeps = 1
    network.send("B", paying(plain(b, a), header.amount - host_b_keeps), via="Z")
    (back,) = network.arrived["A"]
    returned = header_of(back)
    assert returned is not None
    on_the_way = [("A", "X"), ("X", "Y"), ("Y", "B"), ("B", "Z"), ("Z", "X"), ("X", "A")]
    assert [network.amounts(*hop) for hop in on_the_way] == [[20], [19], [9], [8], [7], [6]]
    assert x.total("retained_nanodollars") == 2
    assert y.sums().retained - before.retained == 10
    assert z.total("retained_nanodollars") == 1
    owed = x.link_count("toA", "received_nanodollars") - x.link_count("toA", "sent_nanodollars")
    assert owed == 14 == 2 + 10 + 1 + host_b_keeps
    for gateway in network.gateways.values():
        gateway.assert_conserved()
    for seen in network.wire:
        parsed(seen.payload) if header_of(seen.payload) is None else assert_lengths(seen.payload)


@pytest.mark.parametrize("queueing", list(Queueing))
def test_a_fifo_lets_go_what_came_first_whoever_it_is(queueing: Queueing) -> None:
    link = {"rate_bit_s": 1_000_000, "limit_bytes": 60_000, "queueing": queueing}
    gateway = Gateway(plan_edge(Y, toll=fixed(1), to_b=link))
    gateway.agree()
    flood = [plain(A_V4, B_V4, sport=1, size=900) for _ in range(10)]
    gateway.deliver("toX", *flood, plain(A_V4, B_V4, sport=2, size=900), named(plain(A_V4, B_V4, sport=3), 20, by=X))
    for _ in range(20):
        gateway.plane.advance(10 * MS)
    ports = [parsed(each.payload)["UDP"].sport for each in gateway.plane.out]
    came = [*[1] * 10, 2, 3]
    assert sorted(ports) == sorted(came)
    assert (ports == came) is (queueing is Queueing.FIFO)


def congested_y() -> GatewayPlan:
    """Y's way to B is slow, and its toll may rise to 10."""
    link = {"toll": fixed(1, cap_nanodollars=10), "rate_bit_s": 1_000_000, "limit_bytes": 20_000, "congestion": True}
    return plan_edge(Y, toll=fixed(1), to_b=link)


def congest(y: Gateway) -> None:
    """Unpaid traffic until the toll is at its cap; it keeps coming, so the toll stays there."""
    flood = [plain(A_V4, "10.0.2.99", sport=number % 7, size=900) for number in range(60)]
    while y.core.links["toB"].toll.congestion_picodollars < 10_000:
        y.deliver("toX", *flood)
        y.plane.advance(100 * MS)
    y.plane.out.clear()


def assert_lengths(packet: bytes) -> None:
    """Lengths and the IPv4 checksum of a packet with a carrier, by hand: scapy would rebuild our option its own way."""
    if packet[0] >> 4 == 4:
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert checksum16(packet[: (packet[0] & 15) << 2]) in (0, 0xFFFF)
    else:
        assert int.from_bytes(packet[4:6], "big") + 40 == len(packet)


# --- contract and conservation ---------------------------------------------------------------------------------------


@pytest.mark.row("BP-07")
def test_upstream_owes_what_it_sent_whatever_becomes_of_the_packet() -> None:
    """Y drops some of what X paid for: both ends of the link still count the same."""
    network = figure_1(y=congested_y())
    congest(network.gateways["Y"])
    x, y = network.gateways["X"], network.gateways["Y"]
    y.core._draw = random.Random(7).random
    x.open("toA", grant_for(A_V4))
    dropped_before = y.link_count("toB", "dropped_packets")
    for number in range(200):
        network.send("A", paying(plain(sport=number, size=900), 6), via="X")
    network.advance(S)
    assert y.link_count("toB", "dropped_packets") > dropped_before + 50
    assert x.link_count("toY", "sent_nanodollars") == y.link_count("toX", "received_nanodollars") == 200 * 5
    assert x.link_count("toY", "sent_packets") == y.link_count("toX", "received_packets") == 200
    assert y.link_count("toB", "kept_nanodollars") > 0
    y.assert_conserved()


@pytest.mark.row("BP-09")
@both_families
def test_without_returns_what_was_sent_is_what_everyone_kept(addresses: tuple[str, str]) -> None:
    network = figure_1(y=plan_edge(Y, toll=fixed(3, proportional_ppm=100_000)))
    network.gateways["X"].open("toA", grant_for(addresses[0]))
    sent = 0
    for amount in (20, 1, 2, 0, 1000, 4, 777):
        network.send("A", paying(plain(*addresses), amount), via="X")
        sent += amount
    at_b = sum(network.amounts("Y", "B"))
    x, y = network.gateways["X"], network.gateways["Y"]
    assert sent == x.total("retained_nanodollars") + y.total("retained_nanodollars") + at_b
    assert at_b == y.link_count("toB", "sent_nanodollars")
    x.assert_conserved()
    y.assert_conserved()


def test_parts_of_a_nanodollar_are_taken_exactly() -> None:
    """A toll of 0.3 nanodollars for each of 1000 packets is 300, and nothing is left in the carry."""
    plan = plan_x()
    toll = fixed(0, fixed_picodollars_per_byte=3)
    links = tuple(dataclasses.replace(link, toll=toll) if link.name == "toY" else link for link in plan.links)
    gateway = Gateway(dataclasses.replace(plan, links=links))
    gateway.agree()
    gateway.open("toA", grant_for(A_V4))
    packet = paying(plain(size=60), 20)
    assert len(packet) == 100
    for number in range(1, 1001):
        gateway.deliver("toA", packet)
        taken = gateway.link_count("toY", "retained_nanodollars") * 1000 + gateway.link_count(
            "toY", "carry_picodollars"
        )
        assert taken == 300 * number
    assert gateway.sums().retained == 300
    gateway.assert_conserved()


# --- congestion ------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-11")
@pytest.mark.parametrize(("amount", "probability"), [(10, 0.0), (7, 0.3), (5, 0.5), (1, 0.9)])
def test_below_the_congestion_toll_the_drop_rule_decides(amount: int, probability: float) -> None:
    gateway = at_the_cap(random.Random(amount).random)
    dropped = gateway.link_count("toB", "kept_packets")
    packets = 2000
    for _ in range(packets):
        gateway.deliver("toX", named(plain(size=20), amount, by=X))
        gateway.core.links["toB"].scheduler.drain()  # type: ignore[union-attr]  # room for the next: drops are by the rule
    expected = packets * probability
    deviation = (packets * probability * (1 - probability)) ** 0.5
    got = gateway.link_count("toB", "kept_packets") - dropped
    assert abs(got - expected) <= 4 * deviation


@pytest.mark.row("BP-11")
def test_at_the_toll_the_packet_passes_and_the_toll_is_deducted() -> None:
    gateway = at_the_cap(lambda: 0.0)
    gateway.plane.drain()
    before = len(gateway.plane.out)
    gateway.deliver("toX", named(plain(), 25, by=X), named(plain(), 10, by=X), named(plain(), 9, by=X))
    amounts = [header_of(delivered.payload) for delivered in gateway.plane.out[before:]]
    assert [header.amount for header in amounts if header] == [15, 0]
    gateway.assert_conserved()


@pytest.mark.row("BP-11")
def test_unpaid_packets_are_best_effort_at_a_congested_link() -> None:
    gateway = at_the_cap(lambda: 0.0)
    kept = gateway.link_count("toB", "kept_packets")
    gateway.deliver("toX", plain(size=20))
    assert gateway.link_count("toB", "kept_packets") == kept
    assert gateway.core.links["toB"].scheduler.backlog_packets > 0  # type: ignore[union-attr]


def test_without_a_congestion_toll_nobody_is_dropped_for_paying_too_little() -> None:
    gateway = Gateway(plan_edge(Y, toll=fixed(4)), draw=lambda: 0.0)
    gateway.agree()
    (delivered,) = gateway.deliver("toX", named(plain(), 1, by=X))
    header = header_of(delivered.payload)
    assert header is not None
    assert header.amount == 0
    assert gateway.sums() == (1, 0, 1, 0, 0)


def at_the_cap(draw: Callable[[], float]) -> Gateway:
    gateway = Gateway(congested_y(), draw=draw)
    gateway.agree()
    congest(gateway)
    assert gateway.core.links["toB"].toll.congestion_picodollars == 10_000
    return gateway


def test_the_congestion_toll_is_reported_and_falls_back_to_nothing() -> None:
    gateway = at_the_cap(lambda: 0.0)
    report = gateway.ask(AskReport())
    assert isinstance(report, Report)
    (link,) = [link for link in report.links if link.name == "toB"]
    assert link.congestion_picodollars == 10_000
    assert link.backlog_packets > 0
    gateway.plane.advance(10 * S)
    report = gateway.ask(AskReport())
    assert isinstance(report, Report)
    assert [(link.congestion_picodollars, link.backlog_packets) for link in report.links] == [(0, 0), (0, 0)]


# --- discovery -------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-28")
@both_families
@pytest.mark.parametrize("knows_topology", [True, False])
def test_discovery(addresses: tuple[str, str], knows_topology: bool) -> None:
    """The first packet collects what X and Y offer; the second asks X for 2, or marks 1 undesirable and learns."""
    network = figure_1()
    network.gateways["X"].open("toA", grant_for(addresses[0]))
    network.send("A", paying(plain(*addresses), 20, FREE, FREE), via="X")
    first = header_of(network.arrived["B"][0])
    assert first is not None
    assert first.slots == (Slot(X, ISP_WRITTEN | 0b11, 1), Slot(Y, ISP_WRITTEN | 0b1, 1))
    wish = user_oad(X, choice=2) if knows_topology else user_oad(X, undesirable=[first.slots[0].choice])
    network.send("A", paying(plain(*addresses), 20, wish, FREE), via="X")
    second = header_of(network.arrived["B"][1])
    assert second is not None
    assert second.slots == (Slot(X, ISP_WRITTEN | 0b11, 2), Slot(Z, ISP_WRITTEN | 0b1, 1))
    assert [(item.sender, item.receiver) for item in network.wire[3:]] == [("A", "X"), ("X", "Z"), ("Z", "B")]


def test_a_wish_is_heard_from_a_packet_that_is_not_paid_too() -> None:
    network = figure_1()
    network.send("A", paying(plain(), 20, user_oad(X, choice=2)), via="X")
    assert [(item.sender, item.receiver) for item in network.wire] == [("A", "X"), ("X", "Z"), ("Z", "B")]
    assert network.gateways["X"].sums().received == 0


# --- what a router writes --------------------------------------------------------------------------------------------


@pytest.mark.row("BP-34")
@both_families
@pytest.mark.parametrize("slots", range(h.MAX_OADS + 1))
@pytest.mark.parametrize("own", [0, 1, None], ids=["own first", "own second", "a free one"])
def test_a_gateway_writes_the_base_word_one_slot_and_its_name(
    addresses: tuple[str, str], slots: int, own: int | None
) -> None:
    words = [Slot(100 + number, 0, 3) for number in range(slots)]
    if slots:
        words[min(own, slots - 1) if own is not None else -1] = Slot(X if own is not None else 0, 0, 2)
    mine = next((at for at, slot in enumerate(words) if slot.as_number in (X, 0)), None)
    packet = paying(plain(*addresses), 20, *words)
    gateway = Gateway(plan_x())
    gateway.agree()
    gateway.open("toA", grant_for(addresses[0]))
    (delivered,) = gateway.deliver("toA", packet)
    after, located = delivered.payload, h.locate(packet)
    assert isinstance(located, h.Located)
    assert len(after) == len(packet)
    changed = {at for at, (old, new) in enumerate(zip(packet, after, strict=True)) if old != new}
    base = set(range(located.offset, located.offset + 4))
    name = set(range(located.offset + 4 + 4 * slots, located.offset + 10 + 4 * slots))
    slot = set() if mine is None else set(range(located.offset + 4 + 4 * mine, located.offset + 8 + 4 * mine))
    checksum = {10, 11} if packet[0] >> 4 == 4 else set()
    assert changed <= base | name | slot | checksum
    header = header_of(after)
    assert header is not None
    assert (header.amount, header.path_length, header.mac) == (19, 1, h.last_gateway_field(X))
    for at, (old, new) in enumerate(zip(words, header.slots, strict=True)):
        assert new == (
            Slot(X, ISP_WRITTEN | 0b11, 2 if old.choice == 2 and old.as_number == X else 1) if at == mine else old
        )
    assert_lengths(after)


def test_the_path_length_stays_at_its_end() -> None:
    gateway = Gateway(plan_edge(Y, toll=fixed(1)))
    gateway.agree()
    (delivered,) = gateway.deliver("toX", named(plain(), 20, by=X, path_length=15))
    header = header_of(delivered.payload)
    assert header is not None
    assert (header.path_length, header.amount) == (15, 19)


def test_other_bits_of_the_mark_stay() -> None:
    gateway = Gateway(plan_x())
    gateway.agree()
    gateway.open("toA", grant_for(A_V4))
    gateway.plane.deliver(paying(plain(), 20, user_oad(X, choice=2)), interface_index=1, mark=0xAB)
    assert gateway.plane.out[-1].mark == 0x0002_00AB
    gateway.plane.deliver(plain(), interface_index=1, mark=0xAB)
    assert gateway.plane.out[-1].mark == 0xAB


# --- the end of the payment's way ------------------------------------------------------------------------------------


@pytest.mark.row("BP-51")
@both_families
@pytest.mark.parametrize("slots", [0, 1, 7])
@pytest.mark.parametrize("why", ["legacy", "not agreed"])
def test_towards_those_who_do_not_know_headers_they_are_taken_out(
    addresses: tuple[str, str], slots: int, why: str
) -> None:
    links = (to_host("toA", 1), to_legacy("out", 2) if why == "legacy" else to_gateway("out", 2, Y, toll=fixed(1)))
    gateway = Gateway(GatewayPlan(as_number=X, links=links, routes=routes(TO_B, "out")))
    gateway.agree("toA")
    gateway.open("toA", grant_for(addresses[0]))
    packet = plain(*addresses)
    (delivered,) = gateway.deliver("toA", paying(packet, 20, *[FREE] * slots))
    assert delivered.payload == packet, "as if it had never had one"
    parsed(delivered.payload)
    sums = gateway.sums()
    assert (sums.received, sums.sent, sums.retained + sums.kept) == (20, 0, 20)
    assert gateway.link_count("out", "sent_packets") == 0


@pytest.mark.row("BP-51")
def test_options_of_others_stay_when_ours_is_taken_out() -> None:
    before = bytes(IP(src=A_V4, dst=B_V4, options=[IPOption_NOP(), IPOption_NOP()]) / UDP() / Raw(b"x"))
    gateway = Gateway(plan_x())
    gateway.agree("toA")
    gateway.open("toA", grant_for(A_V4))
    (delivered,) = gateway.deliver("toA", paying(before, 20, FREE))
    assert delivered.payload == before


def test_an_unpaid_header_is_taken_out_too() -> None:
    gateway = Gateway(plan_x())
    gateway.agree("toA")
    packet = plain()
    (delivered,) = gateway.deliver("toA", paying(packet, 20))
    assert delivered.payload == packet


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-36")
def test_a_neighbour_in_default_is_not_paid_for() -> None:
    gateway = Gateway(congested_y())
    gateway.agree()
    congest(gateway)
    gateway.ask(SetLink(link="toX", agreed=True, in_default=True))
    before = gateway.sums()
    gateway.deliver("toX", named(plain(), 20, by=X))
    assert gateway.sums() == before
    assert gateway.count("unpaid_in_default") == 1
    waiting = gateway.core.links["toB"].scheduler
    assert waiting is not None
    assert [packet.service_class for packet in waiting.drain()][-1] == 0, "no preferential service"


@pytest.mark.row("BP-44")
@both_families
def test_what_the_first_gateway_refused_the_next_ones_refuse_too(addresses: tuple[str, str]) -> None:
    network = figure_1()
    network.send("A", paying(plain(*addresses), 20, FREE, FREE), via="X")
    network.send("A", named(plain(*addresses), 20, FREE, by=X), via="X")
    assert [header.mac for item in network.wire[1:3] if (header := header_of(item.payload))] == [bytes(6)] * 2
    assert len(network.arrived["B"]) == 2
    for name in "XY":
        assert network.gateways[name].sums() == (0, 0, 0, 0, 0)
    assert network.gateways["X"].count("unpaid_no_grant") == 2
    assert network.gateways["Y"].count("unpaid_not_by_neighbour") == 2


@pytest.mark.parametrize("claims", [0, X, Y, 4711])
def test_a_legacy_neighbour_pays_nothing_whatever_name_is_in_it(claims: int) -> None:
    links = (to_legacy("in", 1, peer_as=X), to_legacy("other", 3), to_host("toB", 2))
    gateway = Gateway(GatewayPlan(as_number=Y, links=links, routes=routes(TO_B, "toB")))
    gateway.agree("toB")
    for number, link in enumerate(("in", "other"), start=1):
        gateway.deliver(link, named(plain(), 20, by=claims))
        assert gateway.count("unpaid_not_by_neighbour") == number
    assert gateway.sums() == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", [0, Y, Z, 4711])
def test_only_the_neighbours_own_name_pays(name: int) -> None:
    """A packet that the neighbour let pass (its reader was down) carries the name of the one before it."""
    gateway = Gateway(plan_edge(Y, toll=fixed(1)))
    gateway.agree()
    gateway.deliver("toX", named(plain(), 20, by=name))
    gateway.deliver("toX", carrying(plain(), h.Header(20, 1, (), h.last_gateway_field(X)[:5] + b"\1")))
    assert gateway.sums() == (0, 0, 0, 0, 0)
    assert gateway.count("unpaid_not_by_neighbour") == 2


def test_an_amount_over_the_ceiling_is_not_paid() -> None:
    links = (to_gateway("toX", 1, X, max_amount_nanodollars=1000), to_host("toB", 2))
    gateway = Gateway(GatewayPlan(as_number=Y, links=links, routes=routes(TO_B, "toB")))
    gateway.agree()
    over = named(plain(), 1001, by=X)
    (delivered,) = gateway.deliver("toX", over)
    assert delivered.payload == over, "malformed goes on unchanged"
    gateway.deliver("toX", named(plain(), 1000, by=X))
    assert gateway.count("malformed_amount_over_ceiling") == 1
    assert gateway.sums().received == 1000


def test_alarms_come_once_a_second_with_how_many_there_were() -> None:
    gateway = Gateway(plan_edge(Y, toll=fixed(1)))
    gateway.agree()
    for _ in range(100):
        gateway.deliver("toX", named(plain(), 20, by=Z))
        gateway.plane.now_ns += 25 * MS
    alarms = [msgspec.json.decode(event) for event in gateway.plane.events]
    assert [alarm["count"] for alarm in alarms] == [1, 40, 40]
    gateway.plane.now_ns += S
    gateway.agree()
    assert msgspec.json.decode(gateway.plane.events[-1])["count"] == 19


# --- not ours to decide ----------------------------------------------------------------------------------------------


@both_families
def test_what_expires_here_is_left_to_the_kernel_and_costs_nothing(addresses: tuple[str, str]) -> None:
    gateway = Gateway(plan_x())
    gateway.agree()
    gateway.open("toA", grant_for(addresses[0]))
    for ttl in (0, 1):
        packet = paying(plain(*addresses, ttl=ttl), 20)
        (delivered,) = gateway.deliver("toA", packet)
        assert delivered.payload == packet
    assert gateway.sums() == (0, 0, 0, 0, 0)
    gateway.deliver("toA", paying(plain(*addresses, ttl=2), 20))
    assert gateway.sums().received == 20


def test_what_has_no_route_or_no_link_passes_untouched() -> None:
    gateway = Gateway(plan_x())
    gateway.agree()
    gateway.open("toA", grant_for(A_V4))
    elsewhere = paying(plain(destination="192.0.2.1"), 20)
    (delivered,) = gateway.deliver("toA", elsewhere)
    assert delivered.payload == elsewhere
    gateway.plane.deliver(paying(plain(), 20), interface_index=77)
    assert gateway.plane.out[-1].payload == paying(plain(), 20)
    assert gateway.sums() == (0, 0, 0, 0, 0)


# --- stopping and starting -------------------------------------------------------------------------------------------


def test_a_graceful_stop_sends_what_waits_and_holds_nothing_any_more() -> None:
    gateway = at_the_cap(lambda: 0.99)
    gateway.deliver("toX", *[named(plain(size=900), 25, by=X) for _ in range(5)])
    assert gateway.sums().waiting == 5 * 15
    assert len(gateway.plane.held) > 5
    gateway.plane.drain()
    assert gateway.sums().waiting == 0
    assert gateway.plane.held == {}
    sent = gateway.sums().sent
    (delivered,) = gateway.deliver("toX", named(plain(size=900), 25, by=X))
    assert header_of(delivered.payload) is not None
    assert gateway.sums().sent == sent + 15
    gateway.assert_conserved()


def test_what_waited_when_the_reader_was_killed_stays_with_us_and_is_counted() -> None:
    gateway = at_the_cap(lambda: 0.99)
    gateway.deliver("toX", *[named(plain(size=900), 25, by=X) for _ in range(5)])
    killed = gateway.sums()
    plan = plan_edge(Y, toll=fixed(1))
    only_b = dataclasses.replace(plan, links=plan.links[1:], routes=plan.routes[2:])
    for next_plan in (congested_y(), plan, only_b):
        after = Gateway(next_plan, counters=gateway.counters)
        after.deliver("toB", plain(B_V4, A_V4))
        assert after.count("held_kept_nanodollars") == 75, "once, whatever the configuration became"
        assert after.count("waiting_nanodollars") == 0
    sums = Gateway(congested_y(), counters=gateway.counters).sums()
    assert (sums.received, sums.sent, sums.retained) == killed[:3]
    assert sums.kept == killed.kept + 75


def test_all_that_is_held_fits_the_kernels_queue() -> None:
    """A full kernel queue lets packets pass uncounted: small packets must fill ours before."""
    links = tuple(to_gateway(f"out{n}", 10 + n, 100 + n, rate_bit_s=10**9, limit_bytes=10**8) for n in range(3))
    plans = tuple(route for n in range(3) for route in routes((f"10.9.{n}.0/24",), f"out{n}"))
    gateway = Gateway(GatewayPlan(as_number=X, links=(to_host("toA", 1), *links), routes=plans))
    for n in range(3):
        gateway.deliver("toA", *[plain(destination=f"10.9.{n}.{k % 250}", size=1200) for k in range(2500)])
    assert len(gateway.plane.held) <= 3072
    assert len(gateway.plane.dropped) > 0
