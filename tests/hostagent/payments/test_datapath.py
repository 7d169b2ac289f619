"""The host's packet core: what leaves, what arrives, what goes back, and what is on the books afterwards."""

from __future__ import annotations

import pytest
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    FREE,
    KEY,
    OTHER_KEY,
    UNIX_S,
    X,
    Y,
    Z,
    carrying,
    header_of,
    named,
    parsed,
    plain,
    segment,
)
from one_host import BOTH, SPEND_ID, Host, flow_of, plan_host, turned
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN
from scapy.layers.ipsec import AH
from scapy.packet import Raw

from billpay import header as h
from billpay.header import ISP_WRITTEN, Header, Slot, carrier_bytes_ipv4, carrier_bytes_ipv6, user_oad
from billpay.mac import epoch_of, verify
from billpay.packet import flow_key
from hostagent.payments.commands import (
    FlowSeen,
    ProbeSeen,
    ReceiptSeen,
    SetUplink,
    Tick,
)
from hostagent.payments.flowtable import IDLE_NS
from hostagent.payments.plan import OUTPUT_QUEUE

both_families = pytest.mark.parametrize("addresses", BOTH, ids=["ipv4", "ipv6"])
S = 10**9


def epoch_seen(packet: bytes, key: bytes = KEY, unix_s: int = UNIX_S) -> int:
    """The epoch of the MAC in a packet; raises if the key did not make it."""
    located, flow = h.locate(packet), flow_key(packet)
    assert isinstance(located, h.Located)
    assert flow is not None
    return verify(key, flow, epoch_of(unix_s), h.base_and_slots(packet, located), h.mac_field(packet, located))


# --- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-01")
@both_families
def test_an_unpaid_flow_leaves_as_it_is_and_is_told_of_once(addresses: tuple[str, str]) -> None:
    host, packet = Host(), plain(*addresses)
    assert host.leave(packet, packet) == [packet, packet]
    assert host.events() == [FlowSeen(flow=flow_of(packet))]
    report = host.report(packet)
    assert (report.uplink, report.out_packets, report.out_bytes) == ("X", 2, 2 * len(packet))
    assert (report.out_paid_packets, host.sent()) == (0, 0)


@pytest.mark.row("BP-01")
@both_families
def test_a_paying_flow_has_the_header_in_every_packet(addresses: tuple[str, str]) -> None:
    host, packet = Host(), plain(*addresses)
    wish = user_oad(X, undesirable=[1], choice=2)
    host.pay(packet, 20, wish, FREE)
    on_wire = host.leave(packet, packet, packet)
    for paid in on_wire:
        assert parsed(paid)[UDP].payload == parsed(packet)[UDP].payload
        header = header_of(paid)
        assert header is not None
        assert (header.amount, header.path_length, header.slots) == (20, 0, (wish, FREE))
        assert epoch_seen(paid) == epoch_of(UNIX_S)
        assert flow_key(paid) == flow_key(packet)
    assert (host.sent(), host.count("link/X/sent_packets"), host.sent("Z")) == (60, 3, 0)
    report = host.report(packet)
    assert (report.spent_nanodollars, report.out_paid_packets, report.out_packets) == (60, 3, 3)
    assert report.out_bytes == 3 * len(packet)


def test_mac_follows_the_minute() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    (before,) = host.leave(packet)
    host.plane.unix_s += 60
    host.obey(Tick())
    (after,) = host.leave(packet)
    assert epoch_seen(after, unix_s=UNIX_S + 60) == epoch_seen(before) + 1


def test_mac_follows_a_clock_that_is_put_right() -> None:
    host, packet = Host(), plain()
    host.plane.unix_s += 86_400
    host.obey(Tick())
    host.plane.unix_s -= 86_400
    host.obey(Tick())
    host.pay(packet, 20)
    assert epoch_seen(host.leave(packet)[0]) == epoch_of(UNIX_S)


def test_a_later_plan_replaces_the_earlier_one() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    host.pay(packet, 30, FREE)
    host.leave(packet)
    host.pay(packet, 31, FREE, FREE)
    (paid,) = host.leave(packet)
    header = header_of(paid)
    assert header is not None
    assert (header.amount, len(header.slots)) == (31, 2)
    assert host.report(packet).spent_nanodollars == 61


@pytest.mark.row("BP-44")
def test_never_more_than_the_grants_cap() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20, cap=50)
    assert host.amounts(packet, 4) == [20, 20, 0, 0]
    assert host.count("unpaid_over_grant") == 2
    host.pay(packet, 20, cap=81, serial=2)
    assert host.amounts(packet, 4) == [20, 20, 0, 0]
    assert host.sent() == 80 == host.count(f"grant/{SPEND_ID}/spent_nanodollars")


@pytest.mark.row("BP-44")
def test_never_more_than_the_grants_rate() -> None:
    """What the gateway would refuse is not sent: it would be missing on the books."""
    host, packet = Host(), plain()
    host.pay(packet, 20, rate=40, burst=50)
    assert host.amounts(packet, 4) == [20, 20, 0, 0]
    host.plane.advance(S)
    assert host.amounts(packet, 4) == [20, 20, 0, 0]
    host.pay(packet, 20, rate=40, burst=50, serial=2)
    assert host.amounts(packet, 1) == [0]
    assert host.count("unpaid_over_rate") == 5


@pytest.mark.row("BP-44")
def test_a_restarted_core_goes_on_with_what_is_left_of_the_grant() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20, cap=50)
    host.amounts(packet, 2)
    again = host.restarted()
    again.pay(packet, 20, cap=50)
    assert again.amounts(packet, 2) == [0, 0]
    assert again.report(packet).spent_nanodollars == 40


@pytest.mark.row("BP-44")
def test_nothing_is_paid_before_a_grants_time_or_after_it() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20, not_before_unix_s=UNIX_S + 10, expires_unix_s=UNIX_S + 20)
    paid = []
    for _ in range(4):
        paid += host.amounts(packet)
        host.plane.unix_s += 7
        host.obey(Tick())
    assert paid == [0, 0, 20, 0]
    assert host.count("unpaid_grant_not_valid") == 3


@pytest.mark.row("BP-44")
def test_nothing_goes_back_after_the_return_grants_time() -> None:
    host, packet = Host(), plain()
    host.give_back(packet, expires_unix_s=UNIX_S + 10)
    host.arrive(named(turned((A_V4, B_V4)), 9, by=X))
    host.plane.unix_s += 10
    host.obey(Tick())
    assert host.amounts(packet) == [0]
    host.give_back(packet, serial=2, expires_unix_s=UNIX_S + 100)
    assert host.amounts(packet) == [8]


def test_a_new_grant_counts_from_nothing_and_the_old_ones_counter_is_free() -> None:
    host, packet = Host(), plain()
    for number in range(600):  # more than there is room for
        name = f"{number:032x}"
        host.pay(packet, 20, grant=name, cap=20)
        host.give_back(packet, grant=f"{number + 10_000:032x}")
        assert host.amounts(packet, 2) == [20, 0]
    assert host.sent() == 600 * 20


def test_only_an_agreeing_uplink_carries_payments() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    host.obey(SetUplink(uplink="X", agreed=False))
    assert host.leave(packet) == [packet]
    (by_z,) = host.leave(packet, via="Z")
    assert header_of(by_z) is not None
    assert (host.sent("X"), host.sent("Z")) == (0, 20)
    assert host.report(packet).uplink == "Z"


def test_a_dropped_flow_pays_and_returns_nothing() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    host.drop(packet)
    assert host.leave(packet) == [packet]
    other = plain(sport=9)
    host.give_back(other)
    host.arrive(named(turned((A_V4, B_V4), dport=9), 9, by=X))
    host.drop(other)
    host.drop(plain(sport=10))
    assert host.leave(other) == [other]
    host.assert_conserved()


def test_a_packet_of_no_uplink_or_no_sense_passes() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    host.plane.deliver(packet, queue=OUTPUT_QUEUE, interface_index=9, mark=7)
    assert (host.plane.out[-1].payload, host.plane.out[-1].mark) == (packet, 7)
    assert host.leave(b"\x45", packet[:19]) == [b"\x45", packet[:19]]
    assert host.sent() == 0


@pytest.mark.parametrize("kind", ["icmp", "esp"])
def test_only_tcp_and_udp_pay(kind: str) -> None:
    host = Host()
    packet = bytes(IP(src=A_V4, dst=B_V4, proto={"icmp": 1, "esp": 50}[kind]) / Raw(b"\x08" + bytes(30)))
    assert host.leave(packet) == [packet]
    assert host.events() == []


# --- what cannot carry -----------------------------------------------------------------------------------------------


@both_families
def test_a_packet_that_would_outgrow_the_mtu_goes_unpaid_and_is_counted(addresses: tuple[str, str]) -> None:
    host = Host()
    empty = len(plain(*addresses, size=0))
    grows = (carrier_bytes_ipv4 if addresses[0] == A_V4 else carrier_bytes_ipv6)(1)
    fits = plain(*addresses, size=1500 - empty - grows)
    too_big = plain(*addresses, size=1500 - empty - grows + 1)
    host.pay(fits, 20, FREE)
    (paid, unpaid) = host.leave(fits, too_big)
    assert len(paid) == 1500
    assert unpaid == too_big
    assert (host.sent(), host.count("cannot_carry_too_big")) == (20, 1)


def test_a_fragment_is_of_no_paying_flow() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20)
    fragments = [bytes(IP(src=A_V4, dst=B_V4, frag=at, flags=flags, proto=17) / packet[20:]) for at, flags in
                 ((0, "MF"), (5, 0))]  # fmt: skip
    payload = packet[20:]
    fragments.append(bytes(IPv6(src=A_V6, dst=B_V6) / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=1) / Raw(payload)))
    assert host.leave(*fragments) == fragments
    assert host.sent() == 0


def test_a_fragment_is_not_paid_for_even_if_its_flow_has_no_ports() -> None:
    host = Host()
    fragment = bytes(IP(src=A_V4, dst=B_V4, frag=5, proto=17) / Raw(bytes(40)))
    host.pay(fragment, 20)
    assert host.leave(fragment) == [fragment]
    assert (host.sent(), host.count("cannot_carry_fragment")) == (0, 1)


@both_families
def test_ah_protects_the_header_so_nothing_is_put_in(addresses: tuple[str, str]) -> None:
    host = Host()
    network = IP if addresses[0] == A_V4 else IPv6
    inner = UDP(sport=5004, dport=5004) / Raw(b"b" * 20)
    packet = bytes(network(src=addresses[0], dst=addresses[1]) / AH(nh=17, spi=1, seq=1, icv=bytes(12)) / inner)
    host.pay(plain(*addresses), 20)
    assert host.leave(packet) == [packet]
    assert host.sent() == 0


def test_others_options_are_respected() -> None:
    host = Host()
    ours_already = carrying(plain(), Header(5, 0, (), b"forged"))
    hop_by_hop = bytes(
        IPv6(src=A_V6, dst=B_V6)
        / IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])
        / UDP(sport=5004, dport=5004)
        / Raw(b"b")
    )
    host.pay(plain(), 20)
    host.pay(plain(A_V6, B_V6), 20, grant="6" * 32)
    assert host.leave(ours_already, hop_by_hop) == [ours_already, hop_by_hop]
    assert host.count("cannot_carry_already_present") == 1
    assert host.count("cannot_carry_hop_by_hop_present") == 1
    assert host.sent() == 0


# --- MSS -------------------------------------------------------------------------------------------------------------


def syn(addresses: tuple[str, str], flags: str = "S", mss: int = 1460, odd: bool = False) -> bytes:
    network = IPv6 if ":" in addresses[0] else IP
    options = [("NOP", None)] * odd + [("MSS", mss), ("NOP", None), ("WScale", 7)]
    return bytes(
        network(src=addresses[0], dst=addresses[1]) / TCP(sport=40000, dport=443, flags=flags, options=options)
    )


def mss_of(packet: bytes) -> int:
    return int(dict(parsed(packet)[TCP].options)["MSS"])


@pytest.mark.parametrize("odd", [False, True])
@both_families
def test_mss_is_lowered_both_ways_by_what_a_header_takes(addresses: tuple[str, str], odd: bool) -> None:
    host = Host(plan_host(slots=2))
    less = (carrier_bytes_ipv4 if addresses[0] == A_V4 else carrier_bytes_ipv6)(2)
    (leaving,) = host.leave(syn(addresses, odd=odd))
    (arriving,) = host.arrive(syn((addresses[1], addresses[0]), "SA", 1400, odd=odd))
    assert (mss_of(leaving), mss_of(arriving)) == (1460 - less, 1400 - less)


@both_families
def test_a_paid_syn_is_lowered_too_and_an_arriving_one_with_a_header(addresses: tuple[str, str]) -> None:
    host, packet = Host(), syn(addresses)
    host.pay(packet, 20)
    (paid,) = host.leave(packet)
    assert header_of(paid) is not None
    assert mss_of(paid) < 1460
    assert mss_of(host.arrive(named(syn(addresses), 5, by=X))[0]) < 1460


def test_mss_is_left_alone_where_no_header_will_ever_be() -> None:
    host, packet = Host(plan_host(header=False), agreed=False), syn((A_V4, B_V4))
    assert host.leave(packet) == [packet]
    assert host.arrive(packet) == [packet]


def test_mss_is_lowered_before_the_agreement_for_it_may_come_later() -> None:
    host = Host(agreed=False)
    assert mss_of(host.leave(syn((A_V4, B_V4)))[0]) == 1460 - carrier_bytes_ipv4(3)


def test_data_is_no_syn() -> None:
    host = Host()
    packets = [segment(), segment(A_V6, B_V6), bytes(IP(src=A_V4, dst=B_V4, frag=3, proto=6) / Raw(b"\x02" * 60))]
    assert host.leave(*packets) == packets
    assert host.arrive(*packets) == packets


# --- arriving --------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-01")
@both_families
def test_an_arriving_payment_counts_and_stays_in(addresses: tuple[str, str]) -> None:
    host = Host()
    seen = (Slot(X, ISP_WRITTEN | 3, 1), FREE)
    packet = named(plain(*addresses), 9, *seen, by=X, path_length=2)
    assert host.arrive(packet, packet) == [packet, packet]
    assert host.events() == [ReceiptSeen(flow=flow_of(packet))]
    assert (host.received(), host.count("link/X/received_packets")) == (18, 2)
    report = host.report(packet)
    assert (report.in_packets, report.in_paid_packets, report.received_nanodollars) == (2, 2, 18)
    assert report.in_bytes == 2 * len(plain(*addresses))
    (observed,) = report.observed
    assert observed.oads == ((X, ISP_WRITTEN | 3, 1),)
    assert (observed.packets, observed.received_nanodollars, observed.lowest_amount) == (2, 18, 9)
    assert observed.path_length == 2
    host.assert_conserved()


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("by", [Y, 0, Z])
def test_a_payment_counts_only_under_the_name_of_our_gateway(by: int) -> None:
    host = Host()
    packet = named(plain(), 9, by=by)
    assert host.arrive(packet) == [packet]
    assert (host.received(), host.count("unpaid_not_by_gateway")) == (0, 1)
    assert host.in_hand() == 0


@pytest.mark.row("BP-44")
def test_the_name_has_to_be_that_of_the_gateway_it_came_by() -> None:
    host = Host()
    host.arrive(named(plain(), 9, by=Z), via="Z")
    host.arrive(named(plain(), 9, by=X), via="Z")
    assert (host.received("Z"), host.received("X")) == (9, 0)


def test_a_payment_counts_only_where_the_uplink_agreed() -> None:
    host = Host(agreed=False)
    host.arrive(named(plain(), 9, by=X))
    assert (host.received(), host.count("unpaid_not_by_gateway")) == (0, 1)


def test_a_header_with_nothing_left_is_no_payment() -> None:
    host = Host()
    host.arrive(named(plain(), 0, by=X))
    assert (host.received(), host.count("link/X/received_packets")) == (0, 0)
    assert host.events() == []


def test_a_malformed_header_counts_as_none_and_passes() -> None:
    host = Host()
    good = named(plain(), 9, by=X)
    bad = good[:25] + bytes((good[25] | 7,)) + good[26:]  # seven slots, says its base word
    assert host.arrive(bad) == [bad]
    assert (host.received(), host.count("malformed_oad_count")) == (0, 1)


def test_what_pays_nothing_is_counted_for_known_agents_only() -> None:
    host = Host(plan_host(peers=frozenset({bytes((10, 0, 2, 1))})))
    known, unknown = plain(B_V4, A_V4, tos=3), plain("10.0.3.1", A_V4)
    host.arrive(known, unknown)
    (report,) = host.reports().flows
    assert (report.flow, report.in_packets, report.in_ce_packets) == (flow_of(known), 1, 1)
    assert report.in_bytes == len(known)


def test_strangers_without_payment_take_no_room() -> None:
    """Or anybody could push our flows out of the table by headers that pay nothing."""
    host = Host()
    host.arrive(*(named(plain(B_V4, A_V4, sport=port), 9, by=0) for port in range(1, 50)))
    assert host.reports().flows == ()
    assert host.count("unpaid_not_by_gateway") == 49


@pytest.mark.row("BP-24")
def test_what_arrived_is_told_apart_by_path() -> None:
    host = Host()
    ways = [(Slot(X, ISP_WRITTEN | 3, choice), FREE) for choice in (1, 2)]
    for amount, way in ((9, ways[0]), (7, ways[0]), (12, ways[1])):
        host.arrive(named(plain(), amount, *way, by=X, path_length=way[0].choice))
    second, first = host.report(plain()).observed  # the latest first
    assert [seen.oads[0][2] for seen in (first, second)] == [1, 2]
    assert (first.packets, first.received_nanodollars, first.lowest_amount, first.path_length) == (2, 16, 7, 1)
    assert (second.packets, second.received_nanodollars, second.lowest_amount, second.path_length) == (1, 12, 12, 2)
    host.arrive(named(plain(), 9, *ways[0], by=X))
    assert [seen.packets for seen in host.report(plain()).observed] == [3, 1]


def test_of_many_paths_the_latest_are_remembered() -> None:
    host = Host()
    for choice in (*range(10), 5, 4):
        host.arrive(named(plain(), 9, Slot(X, ISP_WRITTEN, choice), by=X))
    observed = host.report(plain()).observed
    assert [(seen.oads[0][2], seen.packets) for seen in observed] == [
        (4, 2), (5, 2), (9, 1), (8, 1), (7, 1), (6, 1), (3, 1), (2, 1)
    ]  # fmt: skip


def test_headers_that_differ_in_free_slots_only_took_the_same_path() -> None:
    host = Host()
    for free in range(3):
        host.arrive(named(plain(), 9 - free, Slot(X, ISP_WRITTEN, 1), *[FREE] * free, by=X))
    (seen,) = host.report(plain()).observed
    assert (seen.packets, seen.received_nanodollars, seen.lowest_amount) == (3, 24, 7)


def test_a_paid_probe_is_told_with_its_content() -> None:
    host = Host()
    probe = bytes(IP(src=B_V4, dst=A_V4) / UDP(sport=999, dport=7416) / Raw(b"probe!"))
    host.plane.advance(5 * S)
    host.arrive(named(probe, 6, Slot(X, ISP_WRITTEN | 1, 1), FREE, by=X))
    host.arrive(probe, named(probe, 6, by=Y))
    (seen,) = [event for event in host.events() if isinstance(event, ProbeSeen)]
    assert (seen.payload, seen.remaining, seen.flow) == (b"probe!", 6, flow_of(probe))
    assert (seen.oads, seen.arrived_ns) == (((X, ISP_WRITTEN | 1, 1),), host.plane.now_ns)


# --- returning -------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-05")
@both_families
def test_one_to_one_exchange_gives_back_amount_less_share_in_each_reply(addresses: tuple[str, str]) -> None:
    """Figure 1's host B: 9 arrive, it keeps 1 and returns 8."""
    host, reply = Host(), plain(*addresses)
    host.give_back(reply, share=1)
    for _ in range(5):
        host.arrive(named(turned(addresses), 9, by=X))
        (paid,) = host.leave(reply)
        header = header_of(paid)
        assert header is not None
        assert (header.amount, header.slots) == (8, ())
        assert epoch_seen(paid, OTHER_KEY) == epoch_of(UNIX_S)
        parsed(paid)
    assert host.leave(reply) == [reply]
    assert host.books() == {"share": 5, "refunded": 0, "returned": 40, "unreturned": 0}
    assert (host.received(), host.sent()) == (45, 40)
    report = host.report(reply)
    assert (report.sent_returned_nanodollars, report.pool_nanodollars, report.spent_nanodollars) == (40, 0, 0)


def test_a_reply_takes_what_came_for_it_up_to_the_ceiling() -> None:
    host, reply = Host(), plain()
    host.give_back(reply, share=1, ceiling=20)
    host.arrive(*[named(turned((A_V4, B_V4)), 9, by=X)] * 6)
    assert host.amounts(reply, 4) == [20, 20, 8, 0]
    host.assert_conserved()


@pytest.mark.row("BP-10")
def test_many_packets_for_each_payment_share_it_alike() -> None:
    """A download: three packets of content for each paid acknowledgement, else some go paid and overtake the rest."""
    host, content = Host(), plain()
    host.give_back(content, share=0)
    amounts = []
    for _ in range(60):
        host.arrive(named(turned((A_V4, B_V4)), 30, by=X))
        amounts += host.amounts(content, 3)
    settled = amounts[90:]
    assert min(settled) >= 8
    assert max(settled) <= 12
    assert host.in_hand() <= 30
    host.assert_conserved()


@pytest.mark.row("BP-10")
def test_a_mere_acknowledgement_takes_all_that_is_in_hand() -> None:
    acknowledgement = bytes(IP(src=A_V4, dst=B_V4) / TCP(sport=80, dport=40000, flags="A"))
    host = Host()
    host.give_back(acknowledgement, share=0)
    paid = bytes(IP(src=B_V4, dst=A_V4) / TCP(sport=40000, dport=80, flags="A"))
    host.arrive(*[named(paid, 30, by=X)] * 4)
    assert host.amounts(acknowledgement, 2) == [120, 0]
    host.assert_conserved()


def test_a_reset_carries_no_payment() -> None:
    """Nothing follows it on which the rest could come back."""
    host, packet = Host(), segment()
    host.pay(packet, 20)
    reset = bytes(IP(src=A_V4, dst=B_V4) / TCP(sport=40000, dport=443, flags="R"))
    assert flow_of(reset) == flow_of(packet)
    assert (host.amounts(packet), host.amounts(reset)) == ([20], [0])


def test_what_gathered_before_the_return_grant_goes_by_and_by() -> None:
    """All of it, also where as much arrives as leaves."""
    host, content = Host(), segment(sport=443, dport=40000)
    paid = segment(B_V4, A_V4)
    host.arrive(*[named(paid, 10, by=X)] * 40)
    host.give_back(content, share=0, cap=10_000)
    assert host.amounts(content, 4) == [17, 16, 16, 16]
    for _ in range(250):
        host.arrive(named(paid, 10, by=X))
        host.amounts(content)
    assert host.in_hand() == 0
    host.assert_conserved()


def test_never_more_goes_back_than_the_return_grant_allows() -> None:
    host, reply = Host(), plain()
    host.give_back(reply, share=0, cap=15)
    host.arrive(*[named(turned((A_V4, B_V4)), 9, by=X)] * 3)
    assert host.amounts(reply, 2) == [15, 0]
    assert host.in_hand() == 12
    host.give_back(reply, share=0, cap=20, serial=2)
    assert host.amounts(reply, 2) == [5, 0]
    host.assert_conserved()


def test_returns_go_by_the_flow_and_not_to_others() -> None:
    host, reply, other = Host(), plain(), plain(sport=9)
    host.give_back(reply)
    host.give_back(other, grant="d" * 32)
    host.arrive(named(turned((A_V4, B_V4)), 9, by=X))
    assert host.amounts(other) == [0]
    assert host.amounts(reply) == [8]


def test_what_cannot_carry_a_return_leaves_it_in_hand() -> None:
    host = Host()
    reply = plain(size=1461)
    host.give_back(reply)
    host.arrive(named(turned((A_V4, B_V4)), 9, by=X))
    assert host.amounts(reply) == [0]
    assert (host.in_hand(), host.books()["returned"]) == (8, 0)


def test_a_share_greater_than_the_payment_takes_no_more_than_it() -> None:
    host, reply = Host(), plain()
    host.give_back(reply, share=10)
    host.arrive(*[named(turned((A_V4, B_V4)), 9, by=X)] * 2)
    assert (host.books()["share"], host.in_hand()) == (18, 0)


def test_the_share_of_what_came_before_the_grant_is_taken_late() -> None:
    host, reply = Host(), plain()
    host.arrive(*[named(turned((A_V4, B_V4)), 9, by=X)] * 3)
    assert (host.books()["share"], host.in_hand()) == (0, 27)
    host.give_back(reply, share=1)
    assert (host.books()["share"], host.in_hand()) == (3, 24)
    host.give_back(reply, share=1, serial=2)
    host.give_back(reply, share=2, serial=3)
    assert (host.books()["share"], host.in_hand()) == (3, 24)
    host.arrive(named(turned((A_V4, B_V4)), 9, by=X))
    assert (host.books()["share"], host.in_hand()) == (5, 31)
    host.assert_conserved()


@pytest.mark.row("BP-05")
def test_what_comes_back_of_our_own_payments_stays_ours() -> None:
    """Figure 1's host A: it sends 20, 6 come back, and it owes 14."""
    host, packet = Host(), plain()
    host.pay(packet, 20)
    host.leave(packet)
    host.arrive(named(turned((A_V4, B_V4)), 6, by=X))
    assert host.books() == {"share": 0, "refunded": 6, "returned": 0, "unreturned": 0}
    assert host.sent() - host.received() == 14
    assert host.report(packet).refunded_nanodollars == 6
    assert not [event for event in host.events() if isinstance(event, ReceiptSeen)]
    host.drop(packet)
    host.arrive(named(turned((A_V4, B_V4)), 6, by=X))
    assert host.books()["refunded"] == 12
    assert host.in_hand() == 0


def test_a_pool_whose_flow_fell_silent_is_kept_and_counted() -> None:
    host, reply = Host(), plain()
    host.give_back(reply)
    host.arrive(named(turned((A_V4, B_V4)), 9, by=X))
    host.plane.advance(IDLE_NS)
    host.obey(Tick())
    assert host.books() == {"share": 1, "refunded": 0, "returned": 0, "unreturned": 8}
    assert host.reports().flows == ()
    host.assert_conserved()


def test_a_pool_whose_core_was_killed_is_kept_and_counted() -> None:
    host = Host()
    host.arrive(named(plain(), 9, by=X))
    again = host.restarted()
    assert again.books()["unreturned"] == 9
    again.assert_conserved()
    third = again.restarted()
    assert third.books()["unreturned"] == 9
