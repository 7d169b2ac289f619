"""What counts as control traffic, judged on packets that scapy built; and that it is never dropped."""

from __future__ import annotations

import pytest
from gateway_network import A_V4, B_V4, B_V6, Gateway, Y, fixed, named, plain, plan_edge
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet, Raw

from billpay.messages import CONTROL_PORT, ECHO_PORT
from gateway.control_traffic import is_control

V4 = IP(src="10.0.0.1", dst="10.0.1.1")
V6 = IPv6(src="fd00::1", dst="fd00:1::1")
BGP = 179

CONTROL: list[Packet] = [
    V4 / TCP(sport=50000, dport=CONTROL_PORT),
    V4 / TCP(sport=CONTROL_PORT, dport=50000, flags="A") / Raw(b"x"),
    V6 / TCP(sport=50000, dport=CONTROL_PORT),
    V4 / TCP(sport=50000, dport=BGP),
    V6 / TCP(sport=BGP, dport=50000),
    V4 / UDP(sport=ECHO_PORT, dport=ECHO_PORT) / Raw(b"echo"),
    V6 / UDP(sport=ECHO_PORT, dport=ECHO_PORT) / Raw(b"echo"),
    V4.copy() / ICMP(type=3, code=4) / Raw(bytes(28)),
    V4.copy() / ICMP(type=11) / Raw(bytes(28)),
    V6 / ICMPv6PacketTooBig(),
    V6 / ICMPv6DestUnreach(),
    V6 / ICMPv6ND_NS(tgt="fd00::2"),
    V6 / ICMPv6ND_NA(tgt="fd00::2"),
    IP(src="10.0.0.1", dst="10.0.1.1", proto=89) / Raw(bytes(24)),
]
ORDINARY: list[Packet] = [
    V4 / TCP(sport=50000, dport=443),
    V4 / UDP(sport=CONTROL_PORT, dport=CONTROL_PORT),
    V4 / UDP(sport=50000, dport=ECHO_PORT),
    V6 / UDP(sport=ECHO_PORT, dport=50000),
    V4 / ICMP(type=8) / Raw(bytes(28)),
    V6 / ICMPv6EchoRequest(),
    IP(src="10.0.0.1", dst="10.0.1.1", frag=10) / Raw(CONTROL_PORT.to_bytes(2, "big") * 10),
    IP(src="10.0.0.1", dst="10.0.1.1", proto=6, flags="MF") / TCP(dport=BGP),
    V6 / IPv6ExtHdrFragment(offset=10) / TCP(dport=BGP),
    IP(src="10.0.0.1", dst="10.0.1.1", proto=6) / Raw(b"\x00\xb3"),
    IP(src="10.0.0.1", dst="10.0.1.1", proto=1),
    IPv6(src="fd00::1", dst="fd00:1::1", nh=58),
]


@pytest.mark.row("MV-35")
@pytest.mark.parametrize("packet", CONTROL, ids=lambda packet: packet.summary())
def test_control_traffic_is_known(packet: Packet) -> None:
    assert is_control(bytes(packet))


@pytest.mark.parametrize("packet", ORDINARY, ids=lambda packet: packet.summary())
def test_other_traffic_is_not(packet: Packet) -> None:
    assert not is_control(bytes(packet))


@given(st.binary(max_size=100))
def test_it_never_raises(data: bytes) -> None:
    is_control(data)
    is_control(b"\x45" + data)
    is_control(b"\x60" + data)


@pytest.mark.row("MV-35")
@pytest.mark.parametrize("destination", [B_V4, B_V6])
@pytest.mark.parametrize("header", ["none", "refused", "paid"])
def test_it_is_never_dropped_and_goes_first_under_overload(destination: str, header: str) -> None:
    gateway = overloaded()
    before = len(gateway.plane.dropped)
    sent = []
    for number in range(40):
        echo = plain(source_for(destination), destination, sport=ECHO_PORT, dport=ECHO_PORT, size=200 + number)
        if header == "refused":
            echo = named(echo, 20, by=4711)
        elif header == "paid":
            echo = named(echo, 1, by=64512)
        sent.append(echo)
    gateway.deliver("toX", *sent)
    assert all(is_control(packet) for packet in sent)
    assert [packet for packet in gateway.plane.dropped[before:] if is_control(packet)] == []
    seen = len(gateway.plane.out)
    gateway.plane.advance(120_000_000)
    first = [delivered.payload for delivered in gateway.plane.out[seen:]][:20]
    assert sum(map(is_control, first)) >= 19, "all but the lowest class's share"
    gateway.assert_conserved()


def overloaded() -> Gateway:
    """Y with a slow link to B, its queue full of paid packets, its toll at the cap."""
    link = {"rate_bit_s": 1_000_000, "limit_bytes": 30_000, "congestion": True, "toll": fixed(1, cap_nanodollars=10)}
    gateway = Gateway(plan_edge(Y, toll=fixed(1), to_b=link))
    gateway.agree()
    flood = [named(plain(A_V4, B_V4, sport=number % 9, size=900), 20, by=64512) for number in range(100)]
    for _ in range(30):
        gateway.deliver("toX", *flood)
        gateway.plane.advance(100_000_000)
    gateway.deliver("toX", *flood)
    assert gateway.core.links["toB"].toll.congestion_picodollars >= 9_000
    return gateway


def source_for(destination: str) -> str:
    return A_V4 if destination == B_V4 else "fd00:1::1"
