"""The rewrites of ECN field and ECE: only what is meant changes, and checksums stay what they were, right or wrong."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from billpay.packet import checksum16, finish_checksum
from dataplane.shaping.marks import hide_echo, make_capable

ENDS = {4: (bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))), 6: (bytes(15) + b"\1", bytes(15) + b"\2")}
TCP, UDP, ICMP = 6, 17, 1
SYN, ACK, ECE, CWR = 0x02, 0x10, 0x40, 0x80


def ip_packet(version: int, protocol: int, traffic_class: int, flags: int, data: bytes) -> bytes:
    if protocol == TCP:
        data = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, flags, 100, 0, 0) + data
    elif protocol == UDP:
        data = struct.pack("!HHHH", 1, 2, 8 + len(data), 0) + data
    here, there = ENDS[version]
    if version == 6:
        head = struct.pack("!IHBB16s16s", 6 << 28 | traffic_class << 20, len(data), protocol, 64, here, there)
        return finish_checksum(head + data)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, traffic_class, 20 + len(data), 1, 0, 64, protocol, 0, here, there)
    head = head[:10] + checksum16(head).to_bytes(2, "big") + head[12:]
    return finish_checksum(head + data)


PACKETS = st.builds(
    ip_packet,
    st.sampled_from((4, 6)),
    st.sampled_from((TCP, UDP, ICMP)),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=40),
)


def traffic_class_of(packet: bytes) -> int:
    return packet[1] if packet[0] >> 4 == 4 else int.from_bytes(packet[:2]) >> 4 & 0xFF


def flags_at(packet: bytes) -> int:
    return (20 if packet[0] >> 4 == 4 else 40) + 13


def protocol_of(packet: bytes) -> int:
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


def is_right(packet: bytes) -> bool:
    """Both checksums. 0 and 65535 are one number in a sum, so the sum is what is compared."""
    ip = packet[0] >> 4 == 6 or checksum16(packet[:20]) in (0, 0xFFFF)
    whole = finish_checksum(packet)
    return ip and (whole == packet or checksum16(whole) == checksum16(packet))


@given(PACKETS)
def test_what_was_not_capable_is_and_nothing_else_changes(packet: bytes) -> None:
    is_syn = protocol_of(packet) == TCP and packet[flags_at(packet)] & SYN
    changed = make_capable(packet)
    if traffic_class_of(packet) & 3 or is_syn:
        assert changed is None
        return
    assert changed is not None
    assert traffic_class_of(changed) == traffic_class_of(packet) | 2
    assert changed[12:] == packet[12:]
    assert is_right(changed)
    assert make_capable(changed) is None


@given(PACKETS)
def test_an_echo_is_hidden_but_not_an_offer(packet: bytes) -> None:
    changed = hide_echo(packet)
    if protocol_of(packet) != TCP or packet[flags_at(packet)] & (ECE | SYN) != ECE:
        assert changed is None
        return
    assert changed is not None
    at = flags_at(packet)
    assert changed[at] == packet[at] & ~ECE
    assert (
        changed[:at] + changed[at + 1 : at + 3] + changed[at + 5 :]
        == packet[:at] + packet[at + 1 : at + 3] + packet[at + 5 :]
    )
    assert is_right(changed)


@given(st.binary(max_size=80))
def test_whatever_arrives_nothing_is_raised(packet: bytes) -> None:
    make_capable(packet)
    hide_echo(packet)


def test_a_wrong_checksum_stays_wrong() -> None:
    packet = bytearray(ip_packet(4, TCP, 0, ACK | ECE, b"x"))
    packet[flags_at(packet) + 3] ^= 1
    changed = hide_echo(bytes(packet))
    assert changed is not None
    assert not is_right(changed)
