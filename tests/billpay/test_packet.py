"""IP packets as bytes, with scapy as the independent judge of lengths and checksums."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.ipsec import AH, ESP
from scapy.packet import Packet, Raw
from scapy.utils import checksum as scapy_checksum

from billpay import packet as pk
from billpay.header import Header, Slot, encode, insert
from billpay.packet import FlowKey

V4 = {"src": "10.0.0.1", "dst": "10.0.1.1"}
V6 = {"src": "fd00::1", "dst": "fd00:1::1"}


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def key(layer: dict[str, str], protocol: int, sport: int = 0, dport: int = 0) -> FlowKey:
    return FlowKey(packed(layer["src"]), packed(layer["dst"]), protocol, sport, dport)


FLOWS: list[tuple[str, Packet, FlowKey]] = [
    ("udp", IP(**V4) / UDP(sport=5004, dport=53), key(V4, 17, 5004, 53)),
    ("tcp", IP(**V4) / TCP(sport=40000, dport=443), key(V4, 6, 40000, 443)),
    ("options", IP(**V4, options=[IPOption_NOP()] * 4) / TCP(sport=1, dport=2), key(V4, 6, 1, 2)),
    ("icmp", IP(**V4) / ICMP(), key(V4, 1)),
    ("esp", IP(**V4, proto=50) / Raw(b"abcdefgh"), key(V4, 50)),
    ("first fragment", IP(**V4, flags="MF") / UDP(sport=5004, dport=53), key(V4, 17)),
    ("later fragment", IP(**V4, frag=5, proto=1) / Raw(b"abcdefgh"), key(V4, 1)),
    ("udp6", IPv6(**V6) / UDP(sport=5004, dport=53), key(V6, 17, 5004, 53)),
    ("tcp6", IPv6(**V6) / TCP(sport=40000, dport=443), key(V6, 6, 40000, 443)),
    ("icmp6", IPv6(**V6) / ICMPv6EchoRequest(), key(V6, 58)),
    ("esp6", IPv6(**V6, nh=50) / ESP(spi=7, seq=1), key(V6, 50)),
    ("ah6", IPv6(**V6, nh=51) / AH(nh=6) / TCP(), key(V6, 51)),
    (
        "hop-by-hop",
        IPv6(**V6) / IPv6ExtHdrHopByHop(options=[HBHOptUnknown(otype=0x1E, optdata=b"xxxx")]) / UDP(sport=7, dport=9),
        key(V6, 17, 7, 9),
    ),
    (
        "three extension headers",
        IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / TCP(sport=7, dport=9),
        key(V6, 6, 7, 9),
    ),
    ("fragment6", IPv6(**V6) / IPv6ExtHdrFragment(m=1) / UDP(sport=5, dport=6), key(V6, 17)),
]


@pytest.mark.parametrize(("built", "expected"), [f[1:] for f in FLOWS], ids=[f[0] for f in FLOWS])
def test_flow_key(built: Packet, expected: FlowKey) -> None:
    raw = bytes(built)
    assert pk.flow_key(raw) == expected
    assert pk.flow_key(bytearray(raw)) == expected


def test_a_carrier_does_not_change_the_flow(vectors: dict[str, bytes]) -> None:
    assert pk.flow_key(vectors["ipv4-first-hop"]) == pk.flow_key(vectors["ipv4-plain"])
    assert pk.flow_key(vectors["ipv6-first-hop"]) == pk.flow_key(vectors["ipv6-plain"])


def test_reversed() -> None:
    flow = key(V4, 6, 1, 2)
    assert flow.reversed() == FlowKey(packed("10.0.1.1"), packed("10.0.0.1"), 6, 2, 1)
    assert flow.reversed().reversed() == flow


@given(st.binary(max_size=120))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    for function in (pk.flow_key, pk.transport_of, pk.is_fragment, pk.finish_checksum, pk.decrement_ttl):
        function(data)
    pk.clamp_mss(data, 20)


@given(st.sampled_from([bytes(f[1]) for f in FLOWS]), st.data())
def test_damaged_packets_never_raise(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    damaged = raw[:at] + bytes((data.draw(st.integers(0, 255)),)) + raw[at + 1 :]
    damaged = damaged[: data.draw(st.integers(0, len(raw)))]
    for function in (pk.flow_key, pk.transport_of, pk.is_fragment, pk.finish_checksum, pk.decrement_ttl):
        function(damaged)
    pk.clamp_mss(damaged, 20)


def test_an_endless_chain_of_extension_headers_is_not_followed() -> None:
    raw = bytearray(bytes(IPv6(**V6, nh=60) / Raw(bytes((60, 0, 1, 4, 0, 0, 0, 0)) * 50)))
    assert pk.flow_key(bytes(raw)) is None


@given(st.binary(max_size=200))
def test_checksum16_is_that_of_rfc_1071(data: bytes) -> None:
    ours = pk.checksum16(data)
    assert ours == scapy_checksum(data) or {ours, scapy_checksum(data)} == {0, 0xFFFF}


def test_checksum16_of_nothing_and_of_zeros() -> None:
    assert pk.checksum16(b"") == 0xFFFF
    assert pk.checksum16(bytes(20)) == 0xFFFF
    assert pk.checksum16(b"\xff\xff") == 0


def test_fragments() -> None:
    assert not pk.is_fragment(bytes(IP(**V4, flags="DF") / UDP()))
    assert pk.is_fragment(bytes(IP(**V4, flags="MF") / UDP()))
    assert pk.is_fragment(bytes(IP(**V4, frag=1) / Raw(b"x")))
    whole = IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(id=1) / UDP() / Raw(bytes(3000))
    assert all(pk.is_fragment(bytes(piece)) for piece in fragment6(whole, 1280))
    assert not pk.is_fragment(bytes(IPv6(**V6) / UDP()))


# --- MSS -------------------------------------------------------------------------------------------------------------

OPTIONS = [
    [("MSS", 1460)],
    [("NOP", None), ("MSS", 1460), ("WScale", 7)],  # the value at an odd place
    [("SAckOK", b""), ("Timestamp", (1, 2)), ("NOP", None), ("WScale", 7), ("MSS", 1460)],
]


@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("network", [IP(**V4), IPv6(**V6)], ids=["4", "6"])
@pytest.mark.parametrize("slots", [None, 0, 3])
def test_clamp_mss(flags: str, options: list[tuple[str, object]], network: Packet, slots: int | None) -> None:
    raw = bytes(network / TCP(sport=9, dport=80, flags=flags, options=options))
    if slots is not None:
        carried = insert(raw, encode(Header(20, 0, (Slot(0, 0, 0),) * slots, bytes(6))), mtu=1500)
        assert isinstance(carried, bytes)
        raw = carried
    clamped = pk.clamp_mss(raw, 24)
    assert clamped is not None
    tcp = type(network)(clamped)[TCP]
    assert dict(tcp.options)["MSS"] == 1436
    assert pk.finish_checksum(clamped) == clamped
    assert sum(a != b for a, b in zip(raw, clamped, strict=True)) <= 4  # the value and the checksum


@pytest.mark.parametrize(
    "tcp",
    [
        TCP(flags="A", options=[("MSS", 1460)]),
        TCP(flags="S"),
        TCP(flags="S", options=[("MSS", 88)]),
        TCP(flags="S", options=[("EOL", None), ("MSS", 1460)]),
    ],
    ids=["not a SYN", "no option", "at the floor", "after the end of the list"],
)
def test_nothing_to_clamp(tcp: TCP) -> None:
    assert pk.clamp_mss(bytes(IP(**V4) / tcp), 24) is None
    assert pk.clamp_mss(bytes(IPv6(**V6) / tcp), 24) is None


def test_mss_never_falls_below_the_floor() -> None:
    clamped = pk.clamp_mss(bytes(IP(**V4) / TCP(flags="S", options=[("MSS", 100)])), 40)
    assert clamped is not None
    assert dict(IP(clamped)[TCP].options)["MSS"] == 88


@given(st.integers(89, 0xFFFF), st.integers(1, 60), st.integers(0, 0xFFFFFFFF))
def test_clamp_keeps_the_checksum_right(mss: int, reduce_by: int, sequence: int) -> None:
    raw = bytes(IP(**V4) / TCP(flags="S", seq=sequence, options=[("NOP", None), ("MSS", mss)]))
    clamped = pk.clamp_mss(raw, reduce_by)
    assert clamped is not None
    assert pk.finish_checksum(clamped) == clamped


# --- checksums and TTL -----------------------------------------------------------------------------------------------


@given(st.sampled_from(["udp", "tcp"]), st.booleans(), st.binary(max_size=61), st.integers(0, 0xFFFF))
def test_finish_checksum_is_scapys(protocol: str, ipv6: bool, payload: bytes, port: int) -> None:
    upper = TCP(sport=port, dport=1) if protocol == "tcp" else UDP(sport=port, dport=1)
    good = bytes((IPv6(**V6) if ipv6 else IP(**V4)) / upper / Raw(payload))
    at = (40 if ipv6 else 20) + (16 if protocol == "tcp" else 6)
    for stale in (b"\0\0", b"\x12\x34"):
        assert pk.finish_checksum(good[:at] + stale + good[at + 2 :]) == good


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    zero_sum = bytes(IP(**V4) / UDP(sport=0, dport=0, chksum=0) / Raw(b"\0\0"))
    missing = pk.checksum16(zero_sum[12:20] + b"\0\x11" + (10).to_bytes(4, "big") + zero_sum[20:])
    raw = bytes(IP(**V4) / UDP(sport=0, dport=0, chksum=0) / Raw(missing.to_bytes(2, "big")))
    assert pk.finish_checksum(raw)[26:28] == b"\xff\xff"


def test_checksums_that_are_not_ours_to_finish() -> None:
    for built in (IP(**V4) / ICMP(), IP(**V4, flags="MF") / UDP(chksum=1), IPv6(**V6) / ICMPv6EchoRequest()):
        assert pk.finish_checksum(bytes(built)) == bytes(built)
    routed = bytes(IPv6(**V6) / IPv6ExtHdrRouting(addresses=["fd00::9"], segleft=1) / UDP(chksum=1))
    assert pk.finish_checksum(routed) == routed


@given(st.integers(2, 255), st.integers(0, 0xFFFF), st.integers(0, 255))
def test_decrement_ttl(ttl: int, identification: int, tos: int) -> None:
    raw = bytes(IP(**V4, ttl=ttl, id=identification, tos=tos) / UDP())
    onward = pk.decrement_ttl(raw)
    assert onward == bytes(IP(**V4, ttl=ttl - 1, id=identification, tos=tos) / UDP())
    raw6 = bytes(IPv6(**V6, hlim=ttl, tc=tos) / UDP())
    assert pk.decrement_ttl(raw6) == bytes(IPv6(**V6, hlim=ttl - 1, tc=tos) / UDP())


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_packet_at_its_last_hop_goes_no_further(ttl: int) -> None:
    assert pk.decrement_ttl(bytes(IP(**V4, ttl=ttl) / UDP())) is None
    assert pk.decrement_ttl(bytes(IPv6(**V6, hlim=ttl) / UDP())) is None
