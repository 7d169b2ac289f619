"""What an offloaded packet is on the wire: so many packets, all under the same headers.

Decides nothing about payments. Such a packet has one header of ours, which is copied into each of its segments: one
decision serves them all, and each of them pays. Pure.

Source: linux/include/linux/skbuff.h (`gso_size` is the content of each segment, the last may be shorter).
"""

from __future__ import annotations

from typing import NamedTuple

from billpay.packet import TCP, UDP, transport_of

UDP_HEADER_BYTES = 8


class Segments(NamedTuple):
    """So many packets of `wire_bytes` together, IP headers and all; `header_bytes` are in front of each content."""

    packets: int
    wire_bytes: int
    header_bytes: int


def segments_of(packet: bytes, segment_bytes: int) -> Segments:
    """An IP packet whose content is cut into pieces of `segment_bytes`; 0 for a packet that is what it looks like."""
    size = len(packet)
    transport = transport_of(packet) if segment_bytes else None
    if transport is None or transport.fragment:
        return Segments(1, size, 0)
    protocol, headers, _ = transport
    if protocol == TCP and size > headers + 12:
        headers += (packet[headers + 12] >> 4) << 2
    elif protocol == UDP:
        headers += UDP_HEADER_BYTES
    else:
        return Segments(1, size, 0)
    count = max(1, -(-(size - headers) // segment_bytes))
    return Segments(count, size + (count - 1) * headers, headers)
