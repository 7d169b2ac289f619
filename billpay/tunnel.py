"""The UDP tunnel: how two gateways pass the header through a transit network that knows nothing of Bill-Pay.

Decides what a datagram to port 7415 is: a packet with its header, an unpaid packet, a keepalive, or malformed.
Refuses to know routes, neighbours and amounts. The inner packet has no carrier: a gateway strips it before
:func:`encapsulate` and may insert it again after :func:`decapsulate`; in between, the header rides in front.

    version 1 | length of this header in words, 0 where there is none | base word | slots | MAC field | inner packet

The length counts version and length byte too (3 for no slots): 2 + 10 + 4 n is a whole number of words. ECN
follows RFC 6040 normal mode, DSCP is copied outwards only (RFC 2983, pipe model): a transit network may use and
change it, and its marking ends with the tunnel.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from billpay.errors import LocalProtocolError
from billpay.header import Malformed, header_size
from billpay.packet import (
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    UDP,
    checksum16,
    transport_of,
)

TUNNEL_PORT = 7415
TUNNEL_VERSION = 1
DEFAULT_HOP_LIMIT = 64

_UDP_HEADER_BYTES = 8
_PREFIX_BYTES = 2  # version, length
_FEWEST_WORDS, _MOST_WORDS = 3, 10  # 0 and 7 slots
_UNPAID_PREFIX = bytes((TUNNEL_VERSION, 0))
_KEEPALIVE = _UNPAID_PREFIX  # an unpaid packet of no bytes
_PREFIX_BY_SIZE = {header_size(n): bytes((TUNNEL_VERSION, n + _FEWEST_WORDS)) for n in range(8)}

_NOT_ECT, _ECT_1, _ECT_0, _CE = 0, 1, 2, 3
_DROP = -1
# RFC 6040 figure 4, as [inner][outer] with the codepoints' own numbers: 00, 01 = ECT(1), 10 = ECT(0), 11 = CE.
_ECN_AFTER = (
    (_NOT_ECT, _NOT_ECT, _NOT_ECT, _DROP),
    (_ECT_1, _ECT_1, _ECT_1, _CE),
    (_ECT_0, _ECT_1, _ECT_0, _CE),
    (_CE, _CE, _CE, _CE),
)

_IPV4_OUTER = struct.Struct(">BBHHHBBH4s4s")
_UDP_OUTER = struct.Struct(">HHHH")
_IPV4_VERSION_AND_LENGTH = 0x45
_DO_NOT_FRAGMENT = 0x4000


class Decapsulated(NamedTuple):
    """What a tunnel carried: the header (``b""`` for an unpaid packet) and the IP packet, ECN already combined.

    ``fault``: the header was malformed but its end is known: the packet goes on unpaid, and is counted.
    """

    header: bytes
    inner: bytes
    fault: Malformed | None


class Outer(NamedTuple):
    """A tunnel datagram as it came: who sent it to whom, its traffic class, and the UDP payload."""

    source: bytes
    destination: bytes
    tos: int
    payload: bytes


def tunnel_bytes(*, outer_version: int, oad_count: int) -> int:
    """What a packet grows by in the tunnel: outer IP and UDP headers, then 12 + 4 n; for the tunnel's MTU."""
    outer = IPV4_HEADER_BYTES if outer_version == 4 else IPV6_HEADER_BYTES
    return outer + _UDP_HEADER_BYTES + _PREFIX_BYTES + header_size(oad_count)


def keepalive() -> bytes:
    """The datagram that keeps a NAT's or firewall's state alive and shows that the other end is there."""
    return _KEEPALIVE


# --- the UDP payload -------------------------------------------------------------------------------------------------


def encapsulate(inner_packet: bytes, header_bytes: bytes) -> bytes:
    """The UDP payload for a packet without carrier and its header (``b""``: unpaid).

    The outer packet's traffic class is :func:`outer_tos` of the same inner packet. Raises LocalProtocolError
    if ``header_bytes`` is no header.
    """
    if not header_bytes:
        return _UNPAID_PREFIX + inner_packet
    prefix = _PREFIX_BY_SIZE.get(len(header_bytes))
    if prefix is None or (header_bytes[3] & 15) + _FEWEST_WORDS != prefix[1]:
        raise LocalProtocolError(f"{len(header_bytes)} bytes that are not a Bill-Pay header")
    return prefix + header_bytes + inner_packet


def decapsulate(
    payload: bytes, *, outer_tos: int = 0, max_amount: int | None = None
) -> Decapsulated | Malformed | None:
    """What a UDP payload carries; None for a keepalive; never raises.

    ``outer_tos``: the traffic class with which it came, for the ECN field. Malformed means that there is no inner
    packet to be had: count it and drop it.
    """
    if len(payload) < _PREFIX_BYTES:
        return Malformed.TRUNCATED
    if payload[0] != TUNNEL_VERSION:
        return Malformed.TUNNEL_VERSION
    words = payload[1]
    if words == 0:
        if len(payload) == _PREFIX_BYTES:
            return None
        return _release(b"", payload[_PREFIX_BYTES:], outer_tos, None)
    if not _FEWEST_WORDS <= words <= _MOST_WORDS:
        return Malformed.LENGTH
    start = words << 2
    if len(payload) < start:
        return Malformed.TRUNCATED
    fault: Malformed | None = None
    if payload[5] & 15 != words - _FEWEST_WORDS:
        fault = Malformed.OAD_COUNT
    elif max_amount is not None and int.from_bytes(payload[2:5], "big") > max_amount:
        fault = Malformed.AMOUNT_OVER_CEILING
    header = b"" if fault else payload[_PREFIX_BYTES:start]
    return _release(header, payload[start:], outer_tos, fault)


def _release(header: bytes, inner: bytes, outer_tos: int, fault: Malformed | None) -> Decapsulated | Malformed:
    """Lets an inner packet out if it is exactly one IP packet, with the ECN field that it must go on with."""
    if len(inner) < IPV4_HEADER_BYTES:
        return Malformed.TUNNEL_INNER
    version = inner[0] >> 4
    if version == 4:
        whole = IPV4_HEADER_BYTES <= (inner[0] & 15) << 2 <= len(inner) == inner[2] << 8 | inner[3]
    else:
        whole = version == 6 and len(inner) == IPV6_HEADER_BYTES + (inner[4] << 8 | inner[5])
    if not whole:
        return Malformed.TUNNEL_INNER
    tos = traffic_class(inner)
    ecn = _ECN_AFTER[tos & 3][outer_tos & 3]
    if ecn == _DROP:
        return Malformed.TUNNEL_CE_ON_NOT_ECT
    if ecn != tos & 3:
        inner = with_traffic_class(inner, tos & 0xFC | ecn)
    return Decapsulated(header, inner, fault)


# --- traffic class ---------------------------------------------------------------------------------------------------


def outer_tos(inner_packet: bytes) -> int:
    """The traffic class for the outer packet: ECN as RFC 6040 normal mode, DSCP as RFC 2983, both a copy."""
    return traffic_class(inner_packet)


def traffic_class(packet: bytes) -> int:
    """DSCP and ECN of a whole IP header: IPv4's TOS byte, IPv6's traffic class."""
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] << 4 | packet[1] >> 4) & 0xFF


def with_traffic_class(packet: bytes, tos: int) -> bytes:
    """The packet with another traffic class; IPv4's header checksum is updated."""
    if packet[0] >> 4 == 4:
        checksum = ((packet[10] << 8 | packet[11]) + packet[1] - tos) % 65535
        return b"".join((packet[:1], bytes((tos,)), packet[2:10], checksum.to_bytes(2, "big"), packet[12:]))
    return bytes((0x60 | tos >> 4, (tos & 15) << 4 | packet[1] & 15)) + packet[2:]


# --- the outer packet, for a driver that sends and receives whole IP packets ----------------------------------------


def outer_packet(payload: bytes, *, source: bytes, destination: bytes, tos: int) -> bytes:
    """A whole IP packet around a UDP payload, port 7415 to 7415, checksums right, IPv4 never to be fragmented.

    Addresses are both 4 or both 16 bytes. Raises LocalProtocolError if it would pass 65535 bytes.
    """
    length = _UDP_HEADER_BYTES + len(payload)
    if length + IPV4_HEADER_BYTES > 0xFFFF:
        raise LocalProtocolError(f"a tunnel datagram of {length} bytes")
    ports = _UDP_OUTER.pack(TUNNEL_PORT, TUNNEL_PORT, length, 0)
    checksum = checksum16(source + destination + UDP.to_bytes(2, "big") + length.to_bytes(4, "big") + ports + payload)
    datagram = _UDP_OUTER.pack(TUNNEL_PORT, TUNNEL_PORT, length, checksum or 0xFFFF) + payload
    if len(source) == 16:
        first_word = 0x60000000 | tos << 20
        return struct.pack(">IHBB", first_word, length, UDP, DEFAULT_HOP_LIMIT) + source + destination + datagram
    total = IPV4_HEADER_BYTES + length
    head = (_IPV4_VERSION_AND_LENGTH, tos, total, 0, _DO_NOT_FRAGMENT, DEFAULT_HOP_LIMIT, UDP)
    # Without fragments the identification means nothing (RFC 6864): 0.
    header_checksum = checksum16(_IPV4_OUTER.pack(*head, 0, source, destination))
    return _IPV4_OUTER.pack(*head, header_checksum, source, destination) + datagram


def open_outer(packet: bytes) -> Outer | Malformed | None:
    """The tunnel datagram in an IP packet; None for any other packet; a reason if it was damaged on the way.

    Checks the UDP checksum, since the amounts ride under it (0 means none, which IPv6 does not have).
    """
    transport = transport_of(packet)
    if transport is None or transport.protocol != UDP or transport.fragment:
        return None
    at = transport.offset
    if len(packet) < at + _UDP_HEADER_BYTES:
        return None
    _, destination_port, length, checksum = _UDP_OUTER.unpack_from(packet, at)
    if destination_port != TUNNEL_PORT:
        return None
    if length < _UDP_HEADER_BYTES or at + length > len(packet):
        return Malformed.TRUNCATED
    ipv4 = packet[0] >> 4 == 4
    source, destination = (packet[12:16], packet[16:20]) if ipv4 else (packet[8:24], packet[24:40])
    datagram = packet[at : at + length]
    if checksum or not ipv4:
        pseudo = source + destination + UDP.to_bytes(2, "big") + length.to_bytes(4, "big")
        if checksum == 0 or checksum16(pseudo + datagram) != 0:
            return Malformed.TUNNEL_CHECKSUM
    return Outer(source, destination, traffic_class(packet), datagram[_UDP_HEADER_BYTES:])
