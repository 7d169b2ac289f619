"""The two rewrites of a flow whose congestion marks somebody else answers than its transport.

Decides: which packets may be changed. Refuses to know: which flow that is, and what is answered. Pure; one whole IP
packet each, checksums updated and not recomputed (RFC 1624), so a wrong one stays wrong.
Source: RFC 3168 sections 5 and 6.1 (ECN field, ECE), 6.1.1 (in a SYN both say something else, so it stays as it is).
"""

from __future__ import annotations

from typing import Final

from billpay.packet import TCP, transport_of

_ECT0: Final = 2
_SYN, _ECE = 0x02, 0x40
_TCP_FLAGS_AT, _TCP_CHECKSUM_AT, _TCP_HEADER_BYTES = 13, 16, 20
_IPV4_CHECKSUM_AT, _IPV4_HEADER_BYTES, _IPV6_HEADER_BYTES = 10, 20, 40


def make_capable(packet: bytes) -> bytes | None:
    """The packet as ECT(0) if it was not ECN-capable; None if it stays as it is."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER_BYTES:
        if packet[1] & 3 or _is_syn(packet):
            return None
        changed = bytearray(packet)
        changed[1] |= _ECT0
        _lower(changed, _IPV4_CHECKSUM_AT, _ECT0)
        return bytes(changed)
    if version == 6 and len(packet) >= _IPV6_HEADER_BYTES:
        if packet[1] & 0x30 or _is_syn(packet):
            return None
        return packet[:1] + bytes((packet[1] | _ECT0 << 4,)) + packet[2:]
    return None


def hide_echo(packet: bytes) -> bytes | None:
    """The packet without ECE; None if it stays as it is."""
    transport = transport_of(packet)
    if transport is None or transport.protocol != TCP or transport.fragment:
        return None
    at = transport.offset
    if len(packet) < at + _TCP_HEADER_BYTES or packet[at + _TCP_FLAGS_AT] & (_SYN | _ECE) != _ECE:
        return None
    changed = bytearray(packet)
    changed[at + _TCP_FLAGS_AT] &= ~_ECE & 0xFF
    _lower(changed, at + _TCP_CHECKSUM_AT, -_ECE)
    return bytes(changed)


def _is_syn(packet: bytes) -> bool:
    transport = transport_of(packet)
    if transport is None or transport.protocol != TCP or transport.fragment:
        return False
    at = transport.offset + _TCP_FLAGS_AT
    return len(packet) > at and bool(packet[at] & _SYN)


def _lower(packet: bytearray, at: int, risen: int) -> None:
    """The checksum at that place, after a word that it sums has risen by so much."""
    value = ((packet[at] << 8 | packet[at + 1]) - risen) % 0xFFFF
    packet[at : at + 2] = value.to_bytes(2, "big")
