"""The UDP tunnel: framing, traffic class in and out, and the outer packet as scapy sees it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from billpay import header as h
from billpay import tunnel
from billpay.errors import LocalProtocolError
from billpay.header import Header, Located, Malformed, Slot
from billpay.tunnel import Decapsulated

V4 = {"src": "10.0.0.1", "dst": "10.0.1.1"}
V6 = {"src": "fd00::1", "dst": "fd00:1::1"}
NOT_ECT, ECT_1, ECT_0, CE = range(4)
OUTER_V4 = ipaddress.ip_address("192.0.2.1").packed, ipaddress.ip_address("192.0.2.2").packed
OUTER_V6 = ipaddress.ip_address("2001:db8::1").packed, ipaddress.ip_address("2001:db8::2").packed
HEADER = h.encode(Header(20, 1, (Slot(64512, 0x803, 1),), h.last_gateway_field(64512)))

inners = st.builds(
    lambda six, tos, data: bytes((IPv6(**V6, tc=tos) if six else IP(**V4, tos=tos)) / UDP() / Raw(data)),
    st.booleans(),
    st.integers(0, 255),
    st.binary(max_size=60),
)
header_bytes = st.builds(
    lambda amount, slots, mac: h.encode(Header(amount, 1, (Slot(7, 0, 0),) * slots, mac)),
    st.integers(0, 0xFFFFFF),
    st.integers(0, 7),
    st.binary(min_size=6, max_size=6),
)


@pytest.mark.row("BP-51")
@given(inners, header_bytes)
def test_what_goes_in_comes_out(inner: bytes, header: bytes) -> None:
    payload = tunnel.encapsulate(inner, header)
    assert len(payload) == len(inner) + 2 + len(header)
    outer_tos = tunnel.outer_tos(inner)
    assert tunnel.decapsulate(payload, outer_tos=outer_tos) == Decapsulated(header, inner, None)


@given(inners)
def test_an_unpaid_packet_has_no_header(inner: bytes) -> None:
    payload = tunnel.encapsulate(inner, b"")
    assert payload[:2] == b"\x01\x00"
    assert tunnel.decapsulate(payload, outer_tos=tunnel.outer_tos(inner)) == Decapsulated(b"", inner, None)


def test_a_keepalive_carries_nothing(vectors: dict[str, bytes]) -> None:
    assert tunnel.keepalive() == vectors["tunnel-keepalive"]
    assert tunnel.decapsulate(tunnel.keepalive()) is None


@pytest.mark.row("BP-51")
def test_the_amount_is_untouched_by_a_legacy_network(vectors: dict[str, bytes]) -> None:
    """X strips the carrier and sends header and packet through the tunnel; the far gateway restores the same packet."""
    carried = vectors["ipv4-after-x"]
    located = h.locate(carried)
    assert isinstance(located, Located)
    inner, header = h.strip(carried, located), h.header_bytes_of(carried, located)
    source, destination = OUTER_V4
    on_the_way = tunnel.outer_packet(
        tunnel.encapsulate(inner, header), source=source, destination=destination, tos=tunnel.outer_tos(inner)
    )
    seen = IP(on_the_way)  # what a legacy router sees and forwards: its TTL falls, it may re-mark the DSCP
    seen.ttl -= 3
    seen.tos = 0x20
    del seen.chksum
    outer = tunnel.open_outer(bytes(seen))
    assert isinstance(outer, tunnel.Outer)
    assert outer[:3] == (source, destination, 0x20)
    result = tunnel.decapsulate(outer.payload, outer_tos=outer.tos)
    assert isinstance(result, Decapsulated)
    assert h.insert(result.inner, result.header, mtu=1500) == carried


@pytest.mark.parametrize(
    ("name", "inner", "carrier", "addresses"),
    [
        ("tunnel-ipv4", "tunnel-inner", "ipv4-after-x", OUTER_V4),
        ("tunnel-ipv6", "ipv6-plain", "ipv6-after-x", OUTER_V6),
    ],
)
def test_whole_packets_of_the_specification(
    vectors: dict[str, bytes], name: str, inner: str, carrier: str, addresses: tuple[bytes, bytes]
) -> None:
    whole = vectors[name]
    located = h.locate(vectors[carrier])
    assert isinstance(located, Located)
    header = h.header_bytes_of(vectors[carrier], located)
    payload = tunnel.encapsulate(vectors[inner], header)
    tos = tunnel.outer_tos(vectors[inner])
    assert tunnel.outer_packet(payload, source=addresses[0], destination=addresses[1], tos=tos) == whole
    opened = tunnel.open_outer(whole)
    assert opened == tunnel.Outer(*addresses, tos, payload)
    assert tunnel.decapsulate(payload, outer_tos=tos) == Decapsulated(header, vectors[inner], None)
    version = whole[0] >> 4
    assert len(whole) - len(vectors[inner]) == tunnel.tunnel_bytes(outer_version=version, oad_count=located.oad_count)


@given(inners, header_bytes, st.booleans())
def test_the_outer_packet_is_valid(inner: bytes, header: bytes, ipv6: bool) -> None:
    source, destination = OUTER_V6 if ipv6 else OUTER_V4
    payload = tunnel.encapsulate(inner, header)
    tos = tunnel.outer_tos(inner)
    packet = tunnel.outer_packet(payload, source=source, destination=destination, tos=tos)
    seen = IPv6(packet) if ipv6 else IP(packet)
    assert (seen[UDP].sport, seen[UDP].dport) == (7415, 7415)
    assert (seen.tc if ipv6 else seen.tos) == tos
    rebuilt = seen.copy()
    del rebuilt[UDP].chksum, rebuilt[UDP].len
    if ipv6:
        del rebuilt.plen
    else:
        assert seen.flags == "DF"
        del rebuilt.chksum, rebuilt.len
    assert bytes(rebuilt) == packet
    assert tunnel.open_outer(packet) == tunnel.Outer(source, destination, tos, payload)


def test_a_udp_checksum_of_zero_means_none_in_ipv4_only(vectors: dict[str, bytes]) -> None:
    four, six = bytearray(vectors["tunnel-ipv4"]), bytearray(vectors["tunnel-ipv6"])
    four[26:28] = six[46:48] = bytes(2)
    assert isinstance(tunnel.open_outer(bytes(four)), tunnel.Outer)
    assert tunnel.open_outer(bytes(six)) is Malformed.TUNNEL_CHECKSUM


def test_other_packets_are_not_the_tunnels() -> None:
    others = (IP(**V4) / UDP(dport=7416), IP(**V4, flags="MF") / UDP(dport=7415), IP(**V4) / Raw(b"x"))
    assert [tunnel.open_outer(bytes(other)) for other in others] == [None] * 3
    assert tunnel.open_outer(bytes(IP(**V4) / UDP(dport=7415, len=400))) is Malformed.TRUNCATED


def test_padding_behind_the_datagram_is_not_payload(vectors: dict[str, bytes]) -> None:
    whole = vectors["tunnel-ipv4"]
    assert tunnel.open_outer(whole + b"\0\0\0\0") == tunnel.open_outer(whole)


# --- traffic class ---------------------------------------------------------------------------------------------------

# RFC 6040, figure 4: rows are the inner field, columns the outer one in the order of the figure.
FIGURE_4 = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT_0: NOT_ECT, ECT_1: NOT_ECT, CE: None},
    ECT_0: {NOT_ECT: ECT_0, ECT_0: ECT_0, ECT_1: ECT_1, CE: CE},
    ECT_1: {NOT_ECT: ECT_1, ECT_0: ECT_1, ECT_1: ECT_1, CE: CE},
    CE: {NOT_ECT: CE, ECT_0: CE, ECT_1: CE, CE: CE},
}


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("inner_ecn", range(4))
@pytest.mark.parametrize("outer_ecn", range(4))
def test_ecn_is_combined_as_in_rfc_6040_and_dscp_stays_the_inners(ipv6: bool, inner_ecn: int, outer_ecn: int) -> None:
    def inner(ecn: int) -> bytes:
        tos = 46 << 2 | ecn
        return bytes((IPv6(**V6, tc=tos, fl=0x12345) if ipv6 else IP(**V4, tos=tos)) / UDP() / Raw(b"data"))

    payload = tunnel.encapsulate(inner(inner_ecn), HEADER)
    result = tunnel.decapsulate(payload, outer_tos=8 << 2 | outer_ecn)
    expected = FIGURE_4[inner_ecn][outer_ecn]
    if expected is None:
        assert result is Malformed.TUNNEL_CE_ON_NOT_ECT
    else:
        assert result == Decapsulated(HEADER, inner(expected), None)


@given(inners)
def test_the_outer_packet_has_the_inners_class(inner: bytes) -> None:
    seen = IP(inner) if inner[0] >> 4 == 4 else IPv6(inner)
    assert tunnel.outer_tos(inner) == (seen.tos if inner[0] >> 4 == 4 else seen.tc)


@given(inners, st.integers(0, 255))
def test_rewriting_the_class_keeps_the_packet_valid(inner: bytes, tos: int) -> None:
    changed = tunnel.with_traffic_class(inner, tos)
    seen = IP(inner) if inner[0] >> 4 == 4 else IPv6(inner)
    if inner[0] >> 4 == 4:
        seen.tos = tos
        del seen.chksum
    else:
        seen.tc = tos
    assert changed == bytes(seen)


# --- bounds ----------------------------------------------------------------------------------------------------------

INNER = bytes(IP(**V4) / UDP() / Raw(b"data"))
INNER6 = bytes(IPv6(**V6) / UDP() / Raw(b"data"))
BAD: list[tuple[str, bytes, Malformed]] = [
    ("empty", b"", Malformed.TRUNCATED),
    ("one byte", b"\x01", Malformed.TRUNCATED),
    ("version 0", b"\x00\x00" + INNER, Malformed.TUNNEL_VERSION),
    ("version 2", b"\x02\x03" + HEADER + INNER, Malformed.TUNNEL_VERSION),
    ("length 1", b"\x01\x01" + INNER, Malformed.LENGTH),
    ("length 2", b"\x01\x02" + INNER, Malformed.LENGTH),
    ("length 11", b"\x01\x0b" + bytes(42) + INNER, Malformed.LENGTH),
    ("length 255", b"\x01\xff" + INNER * 40, Malformed.LENGTH),
    ("header cut", b"\x01\x04" + HEADER[:-1], Malformed.TRUNCATED),
    ("no inner packet", b"\x01\x04" + HEADER, Malformed.TUNNEL_INNER),
    ("inner cut", b"\x01\x04" + HEADER + INNER[:-1], Malformed.TUNNEL_INNER),
    ("inner and more", b"\x01\x04" + HEADER + INNER + b"\0", Malformed.TUNNEL_INNER),
    ("inner cut 6", b"\x01\x04" + HEADER + INNER6[:-1], Malformed.TUNNEL_INNER),
    ("inner IHL 4", b"\x01\x04" + HEADER + b"\x44" + INNER[1:], Malformed.TUNNEL_INNER),
    ("inner not IP", b"\x01\x04" + HEADER + b"\x50" + INNER[1:], Malformed.TUNNEL_INNER),
]


@pytest.mark.parametrize(("payload", "reason"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_has_to_be_dropped(payload: bytes, reason: Malformed) -> None:
    assert tunnel.decapsulate(payload) is reason


def test_a_malformed_header_costs_the_payment_and_not_the_packet() -> None:
    wrong_count = b"\x01\x04" + HEADER[:3] + b"\x12" + HEADER[4:] + INNER
    assert tunnel.decapsulate(wrong_count) == Decapsulated(b"", INNER, Malformed.OAD_COUNT)
    payload = tunnel.encapsulate(INNER, HEADER)
    assert tunnel.decapsulate(payload, max_amount=20) == Decapsulated(HEADER, INNER, None)
    assert tunnel.decapsulate(payload, max_amount=19) == Decapsulated(b"", INNER, Malformed.AMOUNT_OVER_CEILING)


@given(st.binary(max_size=120), st.integers(0, 255))
def test_arbitrary_datagrams_never_raise(payload: bytes, tos: int) -> None:
    tunnel.decapsulate(payload, outer_tos=tos, max_amount=100)


@given(st.integers(0, 12), st.binary(max_size=120))
def test_arbitrary_contents_never_raise(words: int, data: bytes) -> None:
    tunnel.decapsulate(bytes((1, words)) + data)


def test_our_own_bugs_are_caught_before_they_leave() -> None:
    for wrong in (HEADER[:-1], bytes(11), HEADER[:3] + b"\x12" + HEADER[4:]):
        with pytest.raises(LocalProtocolError):
            tunnel.encapsulate(INNER, wrong)
    with pytest.raises(LocalProtocolError):
        tunnel.outer_packet(bytes(65510), source=OUTER_V4[0], destination=OUTER_V4[1], tos=0)
