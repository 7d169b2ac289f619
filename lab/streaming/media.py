"""The media packets: RTP with MPEG-TS inside, one payload type for each encoding.

Decides: how a segment is cut into packets, when each is due, and what of a packet is believed. Refuses to know:
sockets, clocks, prices. Pure. Source: RFC 3550 (5.1, the 12 bytes; A.1, the extended sequence), RFC 2250 (whole TS
packets, a clock of 90 kHz), RFC 3551 (dynamic payload types from 96).

The time stamp is that of the media, from 0: when in the video the packet's first byte is due, not when it is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
CLOCK_HZ: Final = 90_000
FIRST_PAYLOAD_TYPE: Final = 96
MOST_LEVELS: Final = 32
HEADER_BYTES: Final = 12
PAYLOAD_BYTES: Final = 7 * 188  # what fits an Ethernet frame, over IPv6 too
UDP_BYTES: Final = 8
IP_BYTES: Final = {4: 20, 6: 40}
_HEADER: Final = struct.Struct("!BBHII")
_VERSION: Final = 0x80
_MARKER: Final = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPacket:
    """`ends_segment`: the marker bit. `media_ns`: within the video; exact to 11 us."""

    level: int
    sequence: int
    media_ns: int
    stream: int
    ends_segment: bool
    payload: bytes


def packet_bytes(packet: MediaPacket) -> bytes:
    second = FIRST_PAYLOAD_TYPE + packet.level | (_MARKER if packet.ends_segment else 0)
    stamp = packet.media_ns * CLOCK_HZ // NS_PER_S
    head = _HEADER.pack(_VERSION, second, packet.sequence & 0xFFFF, stamp & 0xFFFFFFFF, packet.stream)
    return head + packet.payload


def parse_packet(data: bytes) -> MediaPacket | None:
    """None: none of ours. Padding, extensions and contributing sources are not."""
    if len(data) <= HEADER_BYTES:
        return None
    first, second, sequence, stamp, stream = _HEADER.unpack_from(data)
    level = (second & 0x7F) - FIRST_PAYLOAD_TYPE
    if first != _VERSION or not 0 <= level < MOST_LEVELS:
        return None
    return MediaPacket(
        level=level,
        sequence=sequence,
        media_ns=-(-stamp * NS_PER_S // CLOCK_HZ),  # up, for it was cut off down: the same stamp again when written
        stream=stream,
        ends_segment=bool(second & _MARKER),
        payload=data[HEADER_BYTES:],
    )


def cut(segment: bytes, *, level: int, start_ns: int, length_ns: int, sequence: int, stream: int) -> list[MediaPacket]:
    """The packets of a segment, evenly over its time by their bytes."""
    return [
        MediaPacket(
            level=level,
            sequence=(sequence + number) & 0xFFFF,
            media_ns=start_ns + length_ns * offset // len(segment),
            stream=stream,
            ends_segment=offset + PAYLOAD_BYTES >= len(segment),
            payload=segment[offset : offset + PAYLOAD_BYTES],
        )
        for number, offset in enumerate(_offsets(segment))
    ]


def _offsets(segment: bytes) -> Iterator[int]:
    return iter(range(0, len(segment), PAYLOAD_BYTES))


def wire_bytes(payload_bytes: int, family: int) -> int:
    """At the IP layer, where rates and prices count."""
    return payload_bytes + HEADER_BYTES + UDP_BYTES + IP_BYTES[family]


def segment_wire_bytes(segment: bytes, family: int) -> int:
    packets = -(-len(segment) // PAYLOAD_BYTES)
    return len(segment) + packets * wire_bytes(0, family)
