"""A path with one network in its middle that knows nothing of payments, crossed by the UDP tunnel between X and Y."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    FREE,
    MS,
    TO_A,
    TO_B,
    Gateway,
    Network,
    X,
    Y,
    fixed,
    grant_for,
    header_of,
    named,
    parsed,
    paying,
    plain,
    routes,
    to_gateway,
    to_host,
)
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from billpay import header as h
from billpay import tunnel
from billpay.header import ISP_WRITTEN, Slot
from billpay.packet import decrement_ttl
from dataplane.fake import Delivered
from gateway.commands import AskReport, Report
from gateway.plan import GatewayPlan
from gateway.tunnelling import KEEPALIVE_NS, SILENT_NS, TunnelEnd

ENDS_V4 = ("192.0.2.1", "192.0.2.2")
ENDS_V6 = ("2001:db8::1", "2001:db8::2")
BOTH = [(A_V4, B_V4), (A_V6, B_V6)]
both_families = pytest.mark.parametrize("addresses", BOTH, ids=["ipv4", "ipv6"])
both_outers = pytest.mark.parametrize("ends", [ENDS_V4, ENDS_V6], ids=["over ipv4", "over ipv6"])


def packed(ends: tuple[str, str]) -> tuple[bytes, bytes]:
    return ip_address(ends[0]).packed, ip_address(ends[1]).packed


def edge(as_number: int, host: str, ends: tuple[str, str], **more: Any) -> GatewayPlan:
    """A gateway between a host and the tunnel."""
    other, there, here = (Y, TO_B, TO_A) if host == "toA" else (X, TO_A, TO_B)
    links = (
        to_host(host, 1, toll=fixed(1)),
        to_gateway("far", 2, other, toll=fixed(1), tunnel=packed(ends), **more),
    )
    return GatewayPlan(as_number=as_number, links=links, routes=routes(here, host) + routes(there, "far"))


def across(ends: tuple[str, str], **more: Any) -> Network:
    """A–X–(legacy)–Y–B; both ends have heard of each other."""
    network = Network(
        gateways={"X": Gateway(edge(X, "toA", ends, **more)), "Y": Gateway(edge(Y, "toB", ends[::-1], **more))},
        cables={("X", "far"): ("Y", "far"), ("Y", "far"): ("X", "far")},
        hosts={("X", "toA"): "A", ("Y", "toB"): "B"},
    )
    network.agree()
    network.advance(MS)
    network.wire.clear()
    return network


def on_wire(network: Network, sender: str, receiver: str) -> list[bytes]:
    return [item.payload for item in network.wire if (item.sender, item.receiver) == (sender, receiver)]


def outer(packet: bytes) -> Packet:
    """Scapy's view of a datagram of the tunnel."""
    seen = parsed(packet)
    assert (seen[UDP].sport, seen[UDP].dport) == (7415, 7415)
    return seen


# --- across ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-51")
@both_families
@both_outers
def test_the_amount_is_untouched_by_the_network_in_the_middle(
    addresses: tuple[str, str], ends: tuple[str, str]
) -> None:
    network = across(ends)
    x, y = network.gateways["X"], network.gateways["Y"]
    x.open("toA", grant_for(addresses[0]))
    packet = plain(*addresses)
    network.send("A", paying(packet, 20, FREE, FREE), via="X")
    (datagram,) = on_wire(network, "X", "Y")
    payload = bytes(outer(datagram)[UDP].payload)
    assert payload[:2] == bytes((1, 5))
    assert h.decode(payload[2:20]) == h.Header(19, 1, (Slot(X, ISP_WRITTEN | 1, 1), FREE), h.last_gateway_field(X))
    assert payload[20:] == decrement_ttl(packet), "without a carrier"
    (arrived,) = network.arrived["B"]
    assert header_of(arrived) == h.Header(
        18, 2, (Slot(X, ISP_WRITTEN | 1, 1), Slot(Y, ISP_WRITTEN | 1, 1)), h.last_gateway_field(Y)
    )
    located = h.locate(arrived)
    assert isinstance(located, h.Located)
    twice = decrement_ttl(decrement_ttl(packet) or b"")
    assert h.strip(arrived, located) == twice, "one TTL for each gateway and nothing else has changed"
    assert x.link_count("far", "sent_nanodollars") == y.link_count("far", "received_nanodollars") == 19
    assert y.link_count("toB", "sent_nanodollars") == 18
    x.assert_conserved()
    y.assert_conserved()


@pytest.mark.row("BP-51")
@both_families
def test_what_carries_no_header_does_not_go_through_the_tunnel(addresses: tuple[str, str]) -> None:
    network = across(ENDS_V4)
    packet = plain(*addresses)
    network.send("A", packet, via="X")
    assert on_wire(network, "X", "Y") == [decrement_ttl(packet)]
    assert len(network.arrived["B"]) == 1


def test_an_unpaid_header_goes_through_and_stays_unpaid() -> None:
    network = across(ENDS_V4)
    network.send("A", paying(plain(), 20, FREE), via="X")
    (datagram,) = on_wire(network, "X", "Y")
    assert bytes(outer(datagram)[UDP].payload)[2:5] == (20).to_bytes(3, "big")
    assert len(network.arrived["B"]) == 1
    assert [gateway.sums() for gateway in network.gateways.values()] == [(0, 0, 0, 0, 0)] * 2
    assert network.gateways["Y"].count("unpaid_not_by_neighbour") == 1


@pytest.mark.row("BP-51")
def test_dscp_and_ecn_follow_the_rfcs() -> None:
    network = across(ENDS_V4)
    network.gateways["X"].open("toA", grant_for(A_V4))
    network.send("A", paying(plain(tos=46 << 2 | 2), 20), via="X")
    (datagram,) = on_wire(network, "X", "Y")
    assert outer(datagram).tos == 46 << 2 | 2
    y = network.gateways["Y"]
    (delivered,) = y.deliver("far", tunnel.with_traffic_class(datagram, 10 << 2 | 3))
    assert delivered.payload[1] == 46 << 2 | 3, "the mark comes out, the middle's DSCP does not"


# --- forged and damaged ----------------------------------------------------------------------------------------------


def datagram(amount: int, *, by: int, ends: tuple[str, str] = ENDS_V4, inner: bytes = b"") -> bytes:
    header = h.encode(h.Header(amount, 1, (), h.last_gateway_field(by)))
    payload = tunnel.encapsulate(inner or plain(), header)
    source, destination = packed(ends)
    return tunnel.outer_packet(payload, source=source, destination=destination, tos=0)


def y_alone(**more: Any) -> Gateway:
    gateway = Gateway(edge(Y, "toB", ENDS_V4[::-1], **more))
    gateway.agree()
    return gateway


@pytest.mark.row("BP-51")
@pytest.mark.row("BP-44")
def test_a_header_beside_the_tunnel_pays_nothing() -> None:
    """Anyone in the middle can write the neighbour's name into a packet."""
    gateway = y_alone()
    (delivered,) = gateway.deliver("far", named(plain(), 20, by=X))
    assert gateway.sums() == (0, 0, 0, 0, 0)
    assert gateway.count("unpaid_not_by_neighbour") == 1
    header = header_of(delivered.payload)
    assert header is not None
    assert header.mac == bytes(6)


@pytest.mark.row("BP-44")
def test_datagrams_of_others_are_not_the_tunnels() -> None:
    gateway = y_alone()
    others = [
        datagram(20, by=X, ends=("192.0.2.9", ENDS_V4[1])),
        datagram(20, by=X, ends=(ENDS_V4[0], "192.0.2.9")),
        datagram(20, by=X, ends=ENDS_V6),
    ]
    assert [out.payload for out in gateway.deliver("far", *others)] == others
    from_host = datagram(20, by=X)
    assert [out.payload for out in gateway.deliver("toB", from_host)] == [from_host], (
        "a host that poses as the other end"
    )
    assert gateway.sums() == (0, 0, 0, 0, 0)
    assert not alive(gateway)


def test_damaged_datagrams_are_dropped_and_counted() -> None:
    gateway = y_alone()
    good = datagram(20, by=X)
    flipped = good[:40] + bytes((good[40] ^ 1,)) + good[41:]
    assert gateway.deliver("far", flipped) == []
    assert gateway.count("malformed_tunnel_checksum") == 1
    assert gateway.plane.dropped == [flipped]
    assert not alive(gateway)
    source, destination = packed(ENDS_V4)

    def around(payload: bytes, tos: int = 0) -> bytes:
        return tunnel.outer_packet(payload, source=source, destination=destination, tos=tos)

    gateway.deliver("far", around(b"\2\0"), around(b"\1\0" + b"\x45" * 30), around(b"\1\0" + plain(), tos=3))
    assert gateway.count("malformed_tunnel_version") == 1
    assert gateway.count("malformed_tunnel_inner") == 1
    assert gateway.count("malformed_tunnel_ce_on_not_ect") == 1
    assert gateway.plane.out == []
    assert gateway.plane.held == {}


def test_over_the_ceiling_goes_on_unpaid() -> None:
    gateway = y_alone(max_amount_nanodollars=100)
    (delivered,) = gateway.deliver("far", datagram(101, by=X))
    assert delivered.payload == plain()
    assert gateway.count("malformed_amount_over_ceiling") == 1
    assert gateway.sums().received == 0


def test_without_a_header_in_the_tunnel_a_packet_is_unpaid() -> None:
    gateway = y_alone()
    source, destination = packed(ENDS_V4)
    (delivered,) = gateway.deliver(
        "far", tunnel.outer_packet(b"\1\0" + plain(), source=source, destination=destination, tos=0)
    )
    assert delivered.payload == plain()
    assert gateway.link_count("toB", "unpaid_packets") == 1


def test_what_cannot_carry_a_header_goes_on_without() -> None:
    """The other end may have put a fragment into the tunnel; we have no place for its header."""
    gateway = y_alone()
    fragment = bytes(IP(src=A_V4, dst=B_V4, proto=17, frag=3) / Raw(b"x" * 40))
    (delivered,) = gateway.deliver("far", datagram(20, by=X, inner=fragment))
    assert delivered.payload == fragment
    assert gateway.count("cannot_carry_fragment") == 1


@both_outers
def test_an_inner_packet_that_expires_here_gets_no_payment(ends: tuple[str, str]) -> None:
    gateway = Gateway(edge(Y, "toB", ends[::-1]))
    gateway.agree()
    gateway.deliver("far", datagram(20, by=X, ends=ends, inner=plain(ttl=1)))
    assert gateway.sums() == (0, 0, 0, 0, 0)
    assert gateway.plane.held == {}


# --- alive and dead --------------------------------------------------------------------------------------------------


def alive(gateway: Gateway) -> bool:
    report = gateway.ask(AskReport())
    assert isinstance(report, Report)
    return {link.name: link.tunnel_alive for link in report.links}["far"]


def keepalives(delivered: list[Delivered]) -> list[bytes]:
    return [out.payload for out in delivered if out.queue is None]


@both_outers
def test_keepalives_go_out_every_200_ms(ends: tuple[str, str]) -> None:
    gateway = Gateway(edge(X, "toA", ends))
    gateway.plane.advance(MS)
    gateway.plane.out.clear()
    gateway.plane.advance(2000 * MS)
    sent = keepalives(gateway.plane.out)
    assert len(sent) == 10
    seen = outer(sent[0])
    assert (seen.src, seen.dst) == ends
    assert bytes(seen[UDP].payload) == b"\1\0"
    assert gateway.sums() == (0, 0, 0, 0, 0)


@pytest.mark.row("BP-51")
def test_no_header_goes_into_a_tunnel_that_never_spoke_or_fell_silent() -> None:
    network = across(ENDS_V4)
    x, y = network.gateways["X"], network.gateways["Y"]
    x.open("toA", grant_for(A_V4))
    packet = plain()
    network.advance(2000 * MS, step_ns=50 * MS)
    assert alive(x)
    assert alive(y)
    x.plane.advance(SILENT_NS - KEEPALIVE_NS)  # Y's clock stands still: it is silent
    assert alive(x)
    x.plane.advance(KEEPALIVE_NS)
    assert not alive(x)
    (delivered,) = x.deliver("toA", paying(packet, 20))
    assert delivered.payload == packet, "as an ordinary packet"
    assert x.link_count("far", "kept_nanodollars") == 19
    assert x.link_count("far", "sent_nanodollars") == 0
    x.plane.advance(KEEPALIVE_NS)
    alarms = [msgspec.json.decode(event) for event in x.plane.events]
    assert [alarm["kind"] for alarm in alarms] == ["tunnel_silent"]
    source, destination = packed(ENDS_V4[::-1])
    x.deliver("far", tunnel.outer_packet(tunnel.keepalive(), source=source, destination=destination, tos=0))
    assert alive(x)
    (delivered,) = x.deliver("toA", paying(packet, 20))
    assert delivered.queue is None
    assert x.link_count("far", "sent_nanodollars") == 19
    x.assert_conserved()


def test_a_tunnel_that_was_never_agreed_on_gets_no_headers() -> None:
    gateway = Gateway(edge(X, "toA", ENDS_V4))
    gateway.agree("toA")
    source, destination = packed(ENDS_V4[::-1])
    gateway.deliver("far", tunnel.outer_packet(tunnel.keepalive(), source=source, destination=destination, tos=0))
    assert alive(gateway)
    (delivered,) = gateway.deliver("toA", paying(plain(), 20))
    assert delivered.payload == plain()


# --- sizes -----------------------------------------------------------------------------------------------------------


@both_families
@both_outers
def test_what_is_too_big_for_the_tunnel_goes_without_a_header(
    addresses: tuple[str, str], ends: tuple[str, str]
) -> None:
    overhead = (28 if ends == ENDS_V4 else 48) + 12
    mtu = 1400
    largest = mtu - overhead - (28 if addresses == BOTH[0] else 48)
    network = across(ends, tunnel_mtu_bytes=mtu)
    x = network.gateways["X"]
    x.open("toA", grant_for(addresses[0]))
    network.send("A", paying(plain(*addresses, size=largest), 20), via="X")
    network.send("A", paying(plain(*addresses, size=largest + 1), 20), via="X")
    fits, too_big = on_wire(network, "X", "Y")
    assert len(fits) == mtu
    outer(fits)
    assert too_big == decrement_ttl(plain(*addresses, size=largest + 1))
    assert x.count("cannot_carry_too_big") == 1
    assert x.link_count("far", "sent_nanodollars") == 19
    assert x.link_count("far", "kept_nanodollars") == 19
    x.assert_conserved()


@both_families
@both_outers
@pytest.mark.parametrize("header", [True, False])
def test_a_syn_makes_room_so_that_full_segments_fit(
    addresses: tuple[str, str], ends: tuple[str, str], header: bool
) -> None:
    """The host has made room for its carrier; the way back is as long, so the other end's segments fit too."""
    mtu, carrier = 1500, 12 if addresses == BOTH[0] else 16
    ip_and_tcp = 40 if addresses == BOTH[0] else 60
    network = across(ends, tunnel_mtu_bytes=mtu)
    network.gateways["X"].open("toA", grant_for(addresses[0]))
    layer = IP if addresses == BOTH[0] else IPv6
    syn = bytes(
        layer(src=addresses[0], dst=addresses[1])
        / TCP(sport=40000, dport=443, flags="S", options=[("MSS", mtu - ip_and_tcp - carrier)])
    )
    network.send("A", paying(syn, 20) if header else syn, via="X")
    arrived = network.arrived["B"][-1]
    located = h.locate(arrived)
    seen = parsed(h.strip(arrived, located) if isinstance(located, h.Located) else arrived)
    mss = dict(seen[TCP].options)["MSS"]
    end = TunnelEnd(*packed(ends), mtu_bytes=mtu)
    full = plain(*addresses, size=mss + 12)  # UDP's header is 12 shorter than TCP's
    sent = paying(full, 20)
    place = h.locate(sent)
    assert isinstance(place, h.Located)
    assert end.size_in_tunnel(sent, place) == mtu
