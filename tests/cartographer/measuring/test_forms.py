"""Probes on the wire: one flow looks one way to routers, every probe is told, and strangers' packets are refused."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)

from cartographer.measuring.forms import FIRST_SOURCE_PORT, BuiltProbe, Forms, Reading, least_bytes
from cartographer.measuring.packets import AnswerKind, ProbePacket, Transport

V4, V6 = ("10.1.0.1", "10.2.0.9"), ("fd01::1", "fd02::9")
ROUTERS = {4: "10.7.7.7", 6: "fd77::7"}
FORMS = Forms(mark=0xBEE5)
EVERY = [(version, transport) for version in (4, 6) for transport in Transport]


def probe_of(version: int, transport: Transport, **changes: object) -> ProbePacket:
    destination = (V4 if version == 4 else V6)[1]
    port = 443 if transport is Transport.TCP else 33_434
    packet = ProbePacket(destination=destination, transport=transport, ttl=5, flow=77, port=port)
    return replace(packet, **changes)  # type: ignore[arg-type]


def built(packet: ProbePacket, token: int = 1234) -> BuiltProbe:
    return FORMS.build(packet, source=V6[0] if ":" in packet.destination else V4[0], token=token)


def from_router(version: int, datagram: bytes, message: object, quoted_bytes: int | None = None) -> Reading | None:
    """The reading of a router's ICMP message with the datagram in it."""
    quote = datagram[:quoted_bytes] if quoted_bytes else datagram
    if version == 4:
        return FORMS.read_ipv4(bytes(IP(src=ROUTERS[4], dst=V4[0], ttl=61, tos=0xC0) / message / quote))
    whole = bytes(IPv6(src=ROUTERS[6], dst=V6[0]) / message / quote)
    return FORMS.read_ipv6(58, whole[40:], source=ROUTERS[6], hop_limit=61, traffic_class=0xC0)


def exceeded(version: int, datagram: bytes, quoted_bytes: int | None = None) -> Reading | None:
    message = ICMP(type=11, code=0) if version == 4 else ICMPv6TimeExceeded(code=0)
    return from_router(version, datagram, message, quoted_bytes)


@pytest.mark.parametrize(("version", "transport"), EVERY)
def test_a_probe_is_what_it_was_ordered_to_be_and_its_checksums_are_right(version: int, transport: Transport) -> None:
    datagram = built(probe_of(version, transport, ecn=1, dscp=46, size_bytes=101)).datagram
    assert len(datagram) == 101
    packet = IP(datagram) if version == 4 else IPv6(datagram)
    if version == 4:
        assert (packet.ttl, packet.tos, str(packet.flags), packet.id) == (5, 46 << 2 | 1, "DF", 1234)
    else:
        assert (packet.hlim, packet.tc, packet.fl) == (5, 46 << 2 | 1, 0)
    again = packet.copy()
    for layer, field in (
        (IP, "chksum"),
        (UDP, "chksum"),
        (TCP, "chksum"),
        (ICMP, "chksum"),
        (ICMPv6EchoRequest, "cksum"),
    ):
        if layer in again:
            delattr(again[layer], field)
    assert bytes(again) == datagram  # scapy computes the same checksums


@pytest.mark.parametrize(("version", "transport"), EVERY)
def test_what_routers_hash_is_the_same_for_a_flow_and_differs_between_flows(version: int, transport: Transport) -> None:
    head = 20 if version == 4 else 40

    def hashed(packet: ProbePacket, token: int) -> tuple[bytes, ...]:
        data = built(packet, token).datagram
        checksum_at = {Transport.TCP: 16, Transport.UDP: 6, Transport.ICMP: 2}[transport]
        parts = [data[head : head + 4], data[head + checksum_at : head + checksum_at + 2]]
        if transport is Transport.ICMP:
            parts.append(data[head + 4 : head + 6])
        if version == 6:
            parts.append(data[1:4])
        return tuple(parts)

    packet = probe_of(version, transport)
    same = {hashed(replace(packet, ttl=ttl), token) for ttl, token in ((1, 1), (9, 65_535), (3, 40_000), (2, 2))}
    assert len(same) == 1
    larger = hashed(replace(packet, size_bytes=1400), 5)
    assert larger == same.pop()  # a probe for the MTU takes the same path
    assert len({hashed(replace(packet, flow=flow), 1) for flow in range(0, 4096, 13)}) == 316


@pytest.mark.parametrize(("version", "transport"), EVERY)
@pytest.mark.parametrize("flags", [0x02, 0xC2, 0x10, 0x12])
def test_a_routers_answer_tells_which_probe_it_is_for(version: int, transport: Transport, flags: int) -> None:
    probes = [built(probe_of(version, transport, tcp_flags=flags), token) for token in (1, 2, 30_000, 65_535)]
    probes.append(built(probe_of(version, transport, tcp_flags=flags, flow=78), 1))
    for probe in probes:
        reading = exceeded(version, probe.datagram)
        assert reading is not None
        assert [each for each in probes if reading.tells(each)] == [probe]
        assert (reading.kind, reading.address) == (AnswerKind.TIME_EXCEEDED, ROUTERS[version])
        assert (reading.ttl, reading.traffic_class) == (61, 0xC0)
        assert not reading.quoted_checksum_differs


@pytest.mark.parametrize(("version", "transport"), EVERY)
def test_eight_quoted_bytes_are_enough(version: int, transport: Transport) -> None:
    probe, other = (built(probe_of(version, transport, dscp=3, ecn=1), token) for token in (7, 8))
    reading = exceeded(version, probe.datagram, quoted_bytes=(20 if version == 4 else 40) + 8)
    assert reading is not None
    assert (reading.quoted_ttl, reading.quoted_traffic_class) == (5, 3 << 2 | 1)
    assert reading.tells(probe)
    # Nothing that may vary is in the first 8 bytes of UDP, and IPv6 has no identification.
    assert reading.tells(other) == (version == 6 and transport is Transport.UDP)


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.ICMP])
def test_a_nat_that_rewrote_the_flow_shows_in_the_quoted_checksum(transport: Transport) -> None:
    changed = bytearray(built(probe_of(4, transport)).datagram)
    changed[20 + (6 if transport is Transport.UDP else 2)] ^= 0x5A
    reading = exceeded(4, bytes(changed))
    assert reading is not None
    assert reading.quoted_checksum_differs


def test_what_a_remarker_did_is_seen_in_the_quote() -> None:
    datagram = bytearray(built(probe_of(4, Transport.UDP, dscp=46, ecn=1)).datagram)
    datagram[1], datagram[8] = 0x08, 1
    reading = exceeded(4, bytes(datagram))
    assert reading is not None
    assert (reading.quoted_traffic_class, reading.quoted_ttl) == (0x08, 1)


def test_too_big_brings_the_mtu_and_unreachable_its_code() -> None:
    probe4, probe6 = built(probe_of(4, Transport.UDP)), built(probe_of(6, Transport.UDP))
    big4 = from_router(4, probe4.datagram, ICMP(type=3, code=4, nexthopmtu=1280))
    big6 = from_router(6, probe6.datagram, ICMPv6PacketTooBig(mtu=1300))
    no4 = from_router(4, probe4.datagram, ICMP(type=3, code=3))
    no6 = from_router(6, probe6.datagram, ICMPv6DestUnreach(code=1))
    old = from_router(4, probe4.datagram, ICMP(type=3, code=4, nexthopmtu=0))
    assert big4 is not None
    assert big6 is not None
    assert no4 is not None
    assert no6 is not None
    assert old is not None
    assert (big4.kind, big4.mtu, big6.kind, big6.mtu) == (AnswerKind.TOO_BIG, 1280, AnswerKind.TOO_BIG, 1300)
    assert (no4.kind, no4.code, no6.kind, no6.code) == (AnswerKind.UNREACHABLE, 3, AnswerKind.UNREACHABLE, 1)
    assert old.mtu is None  # a router from before RFC 1191


def test_extensions_after_the_quote_are_ignored() -> None:
    """RFC 4884: the quote is padded to 128 bytes, then comes an extension, here an MPLS label stack (RFC 4950)."""
    probe = built(probe_of(4, Transport.UDP))
    extension = b"\x20\x00\x00\x00" + struct.pack("!HBB", 8, 1, 1) + b"\x00\x01\x01\x40"
    body = bytearray(bytes(ICMP(type=11, code=0)) + probe.datagram.ljust(128, b"\0") + extension)
    body[5], body[2:4] = 32, b"\0\0"
    reading = FORMS.read_ipv4(bytes(IP(src=ROUTERS[4], dst=V4[0], proto=1) / bytes(_with_checksum(body))))
    assert reading is not None
    assert reading.tells(probe)
    assert not reading.quoted_checksum_differs


def test_an_echo_reply_is_read_and_another_programs_is_not() -> None:
    probe4, probe6 = built(probe_of(4, Transport.ICMP), 9), built(probe_of(6, Transport.ICMP), 9)
    reply4 = IP(probe4.datagram)
    reply4[ICMP].type, reply4.src, reply4.dst = 0, V4[1], V4[0]
    del reply4[ICMP].chksum
    reading = FORMS.read_ipv4(bytes(reply4))
    assert reading is not None
    assert (reading.kind, reading.address, reading.quoted_ttl) == (AnswerKind.REPLY, V4[1], None)
    assert reading.tells(probe4)
    assert Forms(mark=1).read_ipv4(bytes(reply4)) is None
    body6 = bytes(ICMPv6EchoReply(id=FIRST_SOURCE_PORT + 77, seq=9)) + probe6.datagram[48:]
    reading6 = FORMS.read_ipv6(58, body6, source=V6[1], hop_limit=60, traffic_class=0)
    assert reading6 is not None
    assert reading6.tells(probe6)
    assert FORMS.read_ipv6(58, body6, source="fd02::8", hop_limit=60, traffic_class=0).tells(probe6) is False  # type: ignore[union-attr]


@pytest.mark.parametrize("flags", ["SA", "RA", "SAE"])
@pytest.mark.parametrize("size_bytes", [60, 200])
def test_a_tcp_answer_tells_which_probe_it_is_for(flags: str, size_bytes: int) -> None:
    """A stack may acknowledge the data of a SYN or not (RFC 9293 3.10.7)."""
    probes = [built(probe_of(4, Transport.TCP, size_bytes=size_bytes), token) for token in (1, 2, 65_535)]
    for probe in probes:
        for acknowledged in {1, 1 + probe.data_bytes}:
            segment = TCP(
                sport=443, dport=FIRST_SOURCE_PORT + 77, ack=(probe.sequence + acknowledged) % 2**32, flags=flags
            )
            reading = FORMS.read_ipv4(bytes(IP(src=V4[1], dst=V4[0]) / segment))
            assert reading is not None
            assert [each for each in probes if reading.tells(each)] == [probe]
            assert reading.tcp_flags == int(segment.flags)


def test_a_reset_of_an_acknowledgement_tells_its_probe() -> None:
    probe = built(probe_of(6, Transport.TCP, tcp_flags=0x10), 5)
    segment = bytes(TCP(sport=443, dport=FIRST_SOURCE_PORT + 77, seq=probe.sequence, flags="R"))
    reading = FORMS.read_ipv6(6, segment, source=V6[1], hop_limit=64, traffic_class=0)
    assert reading is not None
    assert reading.tells(probe)


def test_ordinary_segments_are_nothing_to_us() -> None:
    for flags in ("A", "PA", "S", "FA"):
        segment = TCP(sport=443, dport=FIRST_SOURCE_PORT + 77, ack=1, flags=flags)
        assert FORMS.read_ipv4(bytes(IP(src=V4[1], dst=V4[0]) / segment)) is None
    assert FORMS.read_ipv4(bytes(IP(src=V4[1], dst=V4[0]) / TCP(sport=443, dport=50_000, flags="SA"))) is None


def test_a_probe_that_is_ordered_too_small_is_as_small_as_can_be_told() -> None:
    for version, transport in EVERY:
        probe = built(probe_of(version, transport, size_bytes=1))
        assert len(probe.datagram) == least_bytes(transport, is_v4=version == 4)
        reading = exceeded(version, probe.datagram)
        assert reading is not None
        assert reading.tells(probe)


def test_garbage_is_refused_without_an_exception() -> None:
    draw = random.Random(7)
    for _ in range(3000):
        data = draw.randbytes(draw.randrange(0, 90))
        FORMS.read_ipv4(data)
        FORMS.read_ipv6(draw.choice((58, 6)), data, source="fd::1", hop_limit=1, traffic_class=0)


@pytest.mark.parametrize("version", [4, 6])
def test_broken_answers_are_refused_or_read_without_an_exception(version: int) -> None:
    """Cut anywhere, and with bytes changed where a stranger can change them; checksums made right again."""
    draw = random.Random(version)
    for transport in Transport:
        datagram = built(probe_of(version, transport)).datagram
        for _ in range(400):
            changed = bytearray(datagram[: draw.randrange(1, len(datagram) + 1)])
            for _ in range(draw.randrange(4)):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            if version == 4:
                kind = draw.choice((0, 3, 11))
                body = _with_checksum(
                    bytearray([kind, draw.choice((0, 1, 4)), 0, 0, 0, draw.randrange(256), 0, 9]) + changed
                )
                whole = bytearray(bytes(IP(src=ROUTERS[4], dst=V4[0], proto=1) / bytes(body)))
                whole[0] = 0x40 | draw.choice((5, 5, 5, 6, 15, 0))
                FORMS.read_ipv4(bytes(whole))
            else:
                body = bytearray([draw.choice((1, 2, 3, 129)), 0, 0, 0, 0, 0, 5, 0]) + changed
                FORMS.read_ipv6(58, bytes(body), source="fd::1", hop_limit=1, traffic_class=0)


def test_foreign_quotes_are_refused() -> None:
    for inner in (
        IPerror(src=V4[0], dst=V4[1]) / UDP(sport=5000, dport=53) / b"12345678",
        IPerror(src=V4[0], dst=V4[1]) / ICMPerror(type=8, id=7, seq=1) / b"12345678",
        IPerror(src=V4[0], dst=V4[1]) / TCP(sport=5000, dport=443),
        IPerror(src=V4[0], dst=V4[1], proto=47) / b"123456789",
    ):
        assert exceeded(4, bytes(inner)) is None


def _with_checksum(body: bytearray) -> bytearray:
    body[2:4] = b"\0\0"
    padded = bytes(body) + b"\0" * (len(body) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    body[2:4] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return body
