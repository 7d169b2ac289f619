"""IP packets as bytes: whose flow is this, is it a fragment, and the few rewrites that a payer needs.

Decides nothing about payments and knows no Bill-Pay header: an IPv4 option or a hop-by-hop header is skipped
like any other. Works on one whole IP packet (no link layer) and never raises on what a packet contains.

Sources: RFC 791, RFC 8200 (formats), RFC 1071 and RFC 1624 (checksum and its incremental update),
RFC 9293 section 3.7.1 (MSS option).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HOP_BY_HOP = 0
TCP = 6
UDP = 17
ROUTING = 43
FRAGMENT = 44
ESP = 50
AH = 51
DESTINATION_OPTIONS = 60

IPV4_HEADER_BYTES = 20
IPV6_HEADER_BYTES = 40
MORE_FRAGMENTS_OR_OFFSET = 0x3FFF  # of the IPv4 word at 6; the bit above is "do not fragment"

# TCP, DCCP, UDP, SCTP, UDP-Lite all start with source port, destination port. Everything else has ports 0.
PROTOCOLS_WITH_PORTS = frozenset({TCP, UDP, 33, 132, 136})

# IPv6 headers that may stand before the upper layer and say their own length in 8-octet units (RFC 7045).
_SKIPPABLE = frozenset({HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, 135, 139, 140})
_MAX_EXTENSION_HEADERS = 8  # more is an attack on parsers, not traffic

_SYN = 0x02
_MSS_OPTION = 2
_MINIMUM_MSS_BYTES = 88  # Linux's TCP_MIN_MSS: below it a stack ignores or rejects the option
_TCP_HEADER_BYTES = 20
_TCP_CHECKSUM_AT = 16
_UDP_CHECKSUM_AT = 6

# fragment word, protocol, source, destination, then the ports after (IHL - 5) words of options; by first byte
_IPV4_FLOW = {0x40 | words: struct.Struct(f">6xHxB2x4s4s{4 * words - 20}xHH") for words in range(5, 16)}
_IPV4_FLOW_BYTES = {first: layout.size for first, layout in _IPV4_FLOW.items()}
_IPV6_FLOW = struct.Struct(">6xBx16s16sHH")
_PORTS = struct.Struct(">HH")
_WORD16 = struct.Struct(">H")
_make = tuple.__new__  # a NamedTuple's own __new__ costs twice as much, and this is the packet path


class FlowKey(NamedTuple):
    """The 5-tuple. Addresses are 4 or 16 bytes, network order; ports 0 where there are none (and on fragments)."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int

    def reversed(self) -> FlowKey:
        """The same conversation seen from the other end."""
        return FlowKey(self.destination, self.source, self.protocol, self.destination_port, self.source_port)


class Transport(NamedTuple):
    """Where the upper layer starts: its protocol number, its offset, and whether the packet is a fragment."""

    protocol: int
    offset: int
    fragment: bool


def flow_key(packet: bytes) -> FlowKey | None:
    """The flow that a packet belongs to, or None if it is not a whole IPv4 or IPv6 header.

    Any fragment has ports 0, the first one too, so that all fragments of a packet are the same flow.
    ESP, AH and ICMP have ports 0; for IPv6 the protocol is the one after the extension headers.
    """
    if not packet:
        return None
    first = packet[0]
    layout = _IPV4_FLOW.get(first)
    if layout is not None and len(packet) >= _IPV4_FLOW_BYTES[first]:
        fragment, protocol, source, destination, sport, dport = layout.unpack_from(packet)
        if protocol not in PROTOCOLS_WITH_PORTS or fragment & MORE_FRAGMENTS_OR_OFFSET:
            sport = dport = 0
        return _make(FlowKey, (source, destination, protocol, sport, dport))
    if first >> 4 == 6 and len(packet) >= _IPV6_FLOW.size:
        protocol, source, destination, sport, dport = _IPV6_FLOW.unpack_from(packet)
        if protocol in PROTOCOLS_WITH_PORTS:
            return _make(FlowKey, (source, destination, protocol, sport, dport))
        if protocol == HOP_BY_HOP and packet[40] in PROTOCOLS_WITH_PORTS:
            offset = 48 + (packet[41] << 3)
            if len(packet) >= offset + 4:
                sport, dport = _PORTS.unpack_from(packet, offset)
                return _make(FlowKey, (source, destination, packet[40], sport, dport))
    return _flow_key_slowly(packet)


def _flow_key_slowly(packet: bytes) -> FlowKey | None:
    """Short upper layers and chains of extension headers."""
    transport = transport_of(packet)
    if transport is None:
        return None
    protocol, offset, is_piece = transport
    if packet[0] >> 4 == 4:
        return FlowKey(packet[12:16], packet[16:20], protocol, 0, 0)
    sport = dport = 0
    if protocol in PROTOCOLS_WITH_PORTS and not is_piece and len(packet) >= offset + 4:
        sport, dport = _PORTS.unpack_from(packet, offset)
    return _make(FlowKey, (packet[8:24], packet[24:40], protocol, sport, dport))


def transport_of(packet: bytes) -> Transport | None:
    """Finds the upper layer; None if the IP header itself (with its extension headers) is not whole."""
    size = len(packet)
    if size < IPV4_HEADER_BYTES:
        return None
    first = packet[0]
    if first >> 4 == 4:
        header = (first & 15) << 2
        if not IPV4_HEADER_BYTES <= header <= size:
            return None
        fragment = (packet[6] << 8 | packet[7]) & MORE_FRAGMENTS_OR_OFFSET != 0
        return Transport(packet[9], header, fragment)
    if first >> 4 == 6 and size >= IPV6_HEADER_BYTES:
        protocol = packet[6]
        if protocol not in _SKIPPABLE and protocol != FRAGMENT:
            return _make(Transport, (protocol, IPV6_HEADER_BYTES, False))
        return _walk_ipv6(packet, protocol)
    return None


def _walk_ipv6(packet: bytes, protocol: int) -> Transport | None:
    """Follows extension headers. AH and ESP are where it stops: they are the protocol, as they are in IPv4."""
    size = len(packet)
    offset = IPV6_HEADER_BYTES
    for _ in range(_MAX_EXTENSION_HEADERS + (protocol == HOP_BY_HOP)):  # which may be the one that we put there
        if protocol == FRAGMENT:
            # A later fragment has no header chain of its own; a first one is not followed either (ports 0).
            return Transport(packet[offset], offset + 8, True) if size >= offset + 8 else None
        if protocol not in _SKIPPABLE:
            return Transport(protocol, offset, False)
        if size < offset + 8:
            return None
        protocol, length = packet[offset], (packet[offset + 1] + 1) << 3
        offset += length
        if offset > size:
            return None
    return None


def is_fragment(packet: bytes) -> bool:
    """True for a piece of a fragmented packet, and for any IPv6 packet with a fragment header."""
    transport = transport_of(packet)
    return transport is not None and transport.fragment


def checksum16(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``data``, as it is put on the wire.

    2^16 is 1 modulo 65535, so a big integer's remainder is the ones' complement sum of its 16-bit words:
    one division in C instead of a loop in Python.
    """
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    if number == 0:
        return 0xFFFF
    return -number % 65535


def finish_checksum(packet: bytes) -> bytes:
    """The packet with its TCP or UDP checksum computed in full; other protocols and fragments come back as they are.

    For a packet whose checksum the sender left to hardware. The pseudo header has the IP header's destination:
    a packet on its way through a routing header comes back unchanged.
    """
    transport = transport_of(packet)
    if transport is None or transport.fragment or transport.protocol not in (TCP, UDP):
        return packet
    protocol, offset, _ = transport
    at = offset + (_TCP_CHECKSUM_AT if protocol == TCP else _UDP_CHECKSUM_AT)
    end = _end_of_packet(packet)
    if end < at + 2 or _has_routing_header(packet):
        return packet
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    segment = packet[offset:at] + b"\0\0" + packet[at + 2 : end]
    # The order of the pseudo header's words does not matter to a sum, and IPv4's and IPv6's sum alike.
    pseudo = addresses + protocol.to_bytes(2, "big") + len(segment).to_bytes(4, "big")
    value = checksum16(pseudo + segment)
    if protocol == UDP and value == 0:
        value = 0xFFFF  # 0 would say "no checksum" (RFC 768)
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def _end_of_packet(packet: bytes) -> int:
    """Where the IP header says that the packet ends, but never past the bytes that are there."""
    if packet[0] >> 4 == 4:
        return min(len(packet), packet[2] << 8 | packet[3])
    return min(len(packet), IPV6_HEADER_BYTES + (packet[4] << 8 | packet[5]))


def _has_routing_header(packet: bytes) -> bool:
    if packet[0] >> 4 == 4:
        return False
    protocol, offset = packet[6], IPV6_HEADER_BYTES
    while protocol in _SKIPPABLE:
        if protocol == ROUTING:
            return True
        protocol, offset = packet[offset], offset + ((packet[offset + 1] + 1) << 3)
    return False


def clamp_mss(packet: bytes, reduce_by: int) -> bytes | None:
    """A SYN or SYN-ACK with its MSS option lowered by ``reduce_by`` bytes; None if there is nothing to change.

    The checksum is updated, not recomputed, so a wrong one stays wrong. Never goes below 88 bytes. A SYN
    without the option means the default of 536 (IPv4) or 1220 (IPv6), which no carrier outgrows.
    """
    transport = transport_of(packet)
    if transport is None or transport.protocol != TCP or transport.fragment or reduce_by <= 0:
        return None
    tcp = transport.offset
    if len(packet) < tcp + _TCP_HEADER_BYTES or not packet[tcp + 13] & _SYN:
        return None
    at = _find_mss(packet, tcp)
    if at is None:
        return None
    old = packet[at] << 8 | packet[at + 1]
    new = max(old - reduce_by, _MINIMUM_MSS_BYTES)
    if new >= old:
        return None
    delta = old - new
    if at - tcp & 1:
        delta <<= 8  # at an odd place the two bytes fall into two words: the sum sees them swapped
    field = tcp + _TCP_CHECKSUM_AT
    checksum = ((packet[field] << 8 | packet[field + 1]) + delta) % 65535
    out = bytearray(packet)
    _WORD16.pack_into(out, at, new)
    _WORD16.pack_into(out, field, checksum)
    return bytes(out)


def _find_mss(packet: bytes, tcp: int) -> int | None:
    """The offset of the MSS value, None if the option is absent or the options do not parse."""
    end = min(tcp + ((packet[tcp + 12] >> 4) << 2), len(packet))
    at = tcp + _TCP_HEADER_BYTES
    while at < end:
        kind = packet[at]
        if kind == 0:
            return None
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or packet[at + 1] < 2 or at + packet[at + 1] > end:
            return None
        if kind == _MSS_OPTION:
            return at + 2 if packet[at + 1] == 4 else None
        at += packet[at + 1]
    return None


def decrement_ttl(packet: bytes) -> bytes | None:
    """The packet one hop on, header checksum updated; None if it must not go further or is not IP."""
    if len(packet) < IPV4_HEADER_BYTES:
        return None
    version = packet[0] >> 4
    if version == 4 and packet[8] > 1:
        checksum = ((packet[10] << 8 | packet[11]) + 0x100) % 65535
        return b"".join((packet[:8], bytes((packet[8] - 1, packet[9])), checksum.to_bytes(2, "big"), packet[12:]))
    if version == 6 and len(packet) >= IPV6_HEADER_BYTES and packet[7] > 1:
        return b"".join((packet[:7], bytes((packet[7] - 1,)), packet[8:]))
    return None
