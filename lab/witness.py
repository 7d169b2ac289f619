"""The independent witness: what a frame on the wire says about money, by a parser of its own.

Decides: whether a captured Ethernet frame carries a Bill-Pay payment, how much, and which numbered test packet it is;
adds it up for one end of one cable. Refuses to know: the codec that the daemons use (nothing is imported from it, on
purpose: two parsers that agree are evidence), keys, and books. Pure; never raises on what it reads, never reads past
the frame. Source: the wire format in docs/spec, "Carrier", "Layout", "MAC", "Malformed input".

After the first gateway the MAC field names the last gateway that processed the packet. A header that does not name
the sender of the link passed that sender unprocessed (it failed open, or held the payment invalid): its amount is not
a payment on this link. It is counted apart, as `passed`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

ETHERNET_BYTES = 14
MOMENT_NS = 10_000_000
TUNNEL_PORT = 7415
NUMBERED_MAGIC = b"HALAB1"
"""First bytes of a numbered UDP payload; then 2 bytes of stream number and 8 bytes of sequence number."""
NUMBERED_BYTES = len(NUMBERED_MAGIC) + 2 + 8

_IPV4_OPTION = 0x9E
_IPV6_OPTION = 0x3E
_BASE_AND_MAC_BYTES = 10
_MAX_SLOTS = 7
_MAX_FOLLOWED = 400_000  # numbered packets remembered for one capture; a bound, not a limit met in practice


class Seen(NamedTuple):
    """What one packet shows. `amount` is None without a (valid) header."""

    amount: int | None
    slots: tuple[tuple[int, int, int], ...]  # (AS, alternatives, choice)
    path_length: int
    mac: bytes
    malformed: bool
    number: tuple[int, int] | None  # (stream, sequence) of a numbered packet
    tunnelled: bool


_NOTHING = Seen(None, (), 0, b"", False, None, False)
_MALFORMED = Seen(None, (), 0, b"", True, None, False)


def parse_frame(frame: bytes) -> Seen:
    """What an Ethernet frame (perhaps cut short behind the transport header) shows."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return _ipv4(frame, ETHERNET_BYTES)
    if kind == b"\x86\xdd":
        return _ipv6(frame, ETHERNET_BYTES)
    return _NOTHING


def _ipv4(data: bytes, start: int) -> Seen:
    if len(data) < start + 20 or data[start] >> 4 != 4:
        return _NOTHING
    header_end = start + (data[start] & 0x0F) * 4
    if header_end < start + 20 or header_end > len(data):
        return _NOTHING
    fragment = (data[start + 6] & 0x3F) or data[start + 7]
    seen = _header_among_ipv4_options(data, start + 20, header_end)
    if seen.amount is not None and fragment:
        return _MALFORMED
    return _transport(data, header_end, data[start + 9], seen)


def _header_among_ipv4_options(data: bytes, at: int, end: int) -> Seen:
    found: Seen | None = None
    while at < end:
        kind = data[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or data[at + 1] < 2 or at + data[at + 1] > end:
            return _MALFORMED if kind == _IPV4_OPTION else (found or _NOTHING)
        if kind == _IPV4_OPTION:
            if found is not None:
                return _MALFORMED
            found = _body(data[at + 2 : at + data[at + 1]])
            if found.malformed:
                return found
        at += data[at + 1]
    return found or _NOTHING


def _ipv6(data: bytes, start: int) -> Seen:
    if len(data) < start + 40 or data[start] >> 4 != 6:
        return _NOTHING
    following, at = data[start + 6], start + 40
    seen = _NOTHING
    if following == 0:
        if at + 8 > len(data):
            return _NOTHING
        end = at + 8 + data[at + 1] * 8
        if end > len(data):
            return _NOTHING
        seen = _header_among_ipv6_options(data, at + 2, end)
        following, at = data[at], end
        if seen.amount is not None and following == 44:
            return _MALFORMED
    return _transport(data, at, following, seen)


def _header_among_ipv6_options(data: bytes, at: int, end: int) -> Seen:
    found: Seen | None = None
    while at < end:
        kind = data[at]
        if kind == 0:
            at += 1
            continue
        if at + 1 >= end or at + 2 + data[at + 1] > end:
            return _MALFORMED if kind == _IPV6_OPTION else (found or _NOTHING)
        if kind == _IPV6_OPTION:
            if found is not None:
                return _MALFORMED
            found = _body(data[at + 2 : at + 2 + data[at + 1]])
            if found.malformed:
                return found
        at += 2 + data[at + 1]
    return found or _NOTHING


def _body(body: bytes) -> Seen:
    """Base word, slots, MAC field."""
    if len(body) < _BASE_AND_MAC_BYTES:
        return _MALFORMED
    count = body[3] & 0x0F
    if count > _MAX_SLOTS or len(body) != _BASE_AND_MAC_BYTES + 4 * count:
        return _MALFORMED
    slots = []
    for k in range(count):
        word = int.from_bytes(body[4 + 4 * k : 8 + 4 * k], "big")
        slots.append((word >> 16, word >> 4 & 0xFFF, word & 0xF))
    return Seen(int.from_bytes(body[:3], "big"), tuple(slots), body[3] >> 4, body[-6:], False, None, False)


def _transport(data: bytes, at: int, protocol: int, seen: Seen) -> Seen:
    """Looks into UDP: the tunnel between gateways (unless there was a header already), and numbered payloads."""
    if protocol != 17 or at + 8 > len(data):
        return seen
    payload = at + 8
    if seen is _NOTHING and int.from_bytes(data[at + 2 : at + 4], "big") == TUNNEL_PORT:
        return _tunnel(data, payload)
    if data[payload : payload + len(NUMBERED_MAGIC)] == NUMBERED_MAGIC and payload + NUMBERED_BYTES <= len(data):
        number = payload + len(NUMBERED_MAGIC)
        return seen._replace(
            number=(
                int.from_bytes(data[number : number + 2], "big"),
                int.from_bytes(data[number + 2 : number + 10], "big"),
            )
        )
    return seen


def _tunnel(data: bytes, at: int) -> Seen:
    """Version 1, length of what follows / 4, base word, slots, MAC field, inner packet."""
    if at + 2 > len(data) or data[at] != 1 or data[at + 1] == 0:
        return _NOTHING  # also a keepalive
    end = at + 2 + _tunnel_header_bytes(data, at)
    if end > len(data):
        return _MALFORMED
    seen = _body(data[at + 2 : end])
    if seen.malformed or end >= len(data):
        return seen
    inner = _ipv4(data, end) if data[end] >> 4 == 4 else _ipv6(data, end)
    return seen._replace(number=inner.number, tunnelled=True)


def _tunnel_header_bytes(data: bytes, at: int) -> int:
    """The bytes of base word, slots and MAC field that the OADcnt of the base word stands for."""
    return _BASE_AND_MAC_BYTES + 4 * (data[at + 5] & 0x0F) if at + 5 < len(data) else 1 << 16


@dataclass(slots=True)
class Tally:
    """What one end of a cable saw in one direction."""

    expected_as: int  # of the gateway that sends in this direction; 0: a host, whose MAC we cannot check
    packets: int = 0  # with a payment above 0
    nanodollars: int = 0
    passed_packets: int = 0  # with a header that the sender let pass unprocessed
    passed_nanodollars: int = 0
    malformed: int = 0
    followed: dict[tuple[int, int], int] = field(default_factory=dict)  # numbered packet with a header -> amount
    moments: dict[int, Counter[int]] = field(default_factory=dict)  # stream -> how many of those in each MOMENT_NS

    def count(self, seen: Seen, at_ns: int = 0) -> None:
        paid = 0
        if seen.malformed:
            self.malformed += 1
        elif seen.amount:
            if self.expected_as and seen.mac != self.expected_as.to_bytes(2, "big") + b"\0\0\0\0":
                self.passed_packets += 1
                self.passed_nanodollars += seen.amount
            else:
                paid = seen.amount
                self.packets += 1
                self.nanodollars += paid
        if seen.number is not None and seen.amount is not None and len(self.followed) < _MAX_FOLLOWED:
            self.followed[seen.number] = paid
            self.moments.setdefault(seen.number[0], Counter())[at_ns // MOMENT_NS] += 1
