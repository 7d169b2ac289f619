"""Packets of every kind that a data plane may meet, sound and damaged, out of a seeded random source.

Built by hand: scapy would cost milliseconds for each. Checksums of TCP and UDP are mostly noise, because nobody on the
way looks at them; an IPv4 header's is right most of the time, and sometimes one of the values where arithmetic modulo
65535 can go wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from billpay.header import IPV4_OPTION, IPV6_OPTION
from billpay.packet import checksum16

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
OTHER_PROTOCOLS = (136, 136, 33, 4, 41, 47, 50, 51, 89, 132, 253, 59, 2)
ICMP_KINDS = (0, 2, 3, 4, 5, 8, 10, 11, 12, 13)
ICMPV6_KINDS = (0, 1, 2, 3, 4, 5, 128, 129, 132, 133, 134, 135, 136, 137, 138)
CONTENT_SIZES = (0, 0, 1, 4, 7, 12, 40, 40, 100, 100, 333, 536, 1200, 1400)
AWKWARD_CHECKSUMS = (0x0000, 0xFFFF, 0x0001, 0xFFFE)


class Ends(NamedTuple):
    """Of a flow: packed addresses and ports."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int

    def reversed(self) -> Ends:
        return Ends(self.destination, self.source, self.protocol, self.destination_port, self.source_port)


def noise(draw: random.Random, size: int) -> bytes:
    return draw.randbytes(size)


# --- upper layers ----------------------------------------------------------------------------------------------------

PLAIN_TCP_OPTIONS = (b"", b"", b"\1\1\x08\x0a12345678", b"\1\1\x05\x0a12345678")


def _syn_options(draw: random.Random) -> bytes:
    """With a maximum segment size in every place, sound and broken."""
    size = draw.choice((1460, 1440, 1220, 536, 88, 89, 0, 65535, 1461, *range(99, 138))).to_bytes(2, "big")
    mss = b"\2\4" + size
    options = draw.choice(
        (
            mss,
            mss,
            mss + b"\4\2\x08\x0a12345678\1\3\3\7",
            b"\1" + mss,  # at an odd place
            b"\1\1\1" + mss,
            b"\4\2" + mss,
            b"\3\3\7" + mss,
            b"\x08\x0a12345678" + mss,
            mss + mss,
            b"\0" + mss,  # behind the end of the list
            b"\2\3\5",  # too short for a size
            b"\2\6" + size + b"xx",
            b"\2\2" + mss,
            b"\2\0" + mss,
            b"\x1e\0" + mss,
            b"\x1e\xff" + mss,
            b"\1" * 36 + mss,
            b"\4\2" * 18 + mss,
            b"\1" * 39,
            b"\1" * 38 + b"\2",
            b"\1" * 37 + b"\2\4" + size[:1],
            b"",
        )
    )
    return options + draw.choice((b"\0", b"\1")) * (-len(options) % 4)


def tcp(draw: random.Random, ends: Ends, content: bytes) -> bytes:
    kind = draw.random()
    if kind < 0.15:
        flags, options = draw.choice((0x02, 0x12, 0xC2, 0x06)), _syn_options(draw)
    elif kind < 0.2:
        flags, options = draw.choice((0x04, 0x14)), b""
    elif kind < 0.25:
        flags, options = draw.choice((0x11, 0x01, 0x00, 0xFF)), b""
    else:
        flags, options = draw.choice((0x10, 0x18)), draw.choice(PLAIN_TCP_OPTIONS)
    words = 5 + len(options) // 4
    if draw.random() < 0.02:
        words = draw.randrange(16)  # a data offset that points somewhere
    ports = ends.source_port.to_bytes(2, "big") + ends.destination_port.to_bytes(2, "big")
    checksum = draw.choice(AWKWARD_CHECKSUMS).to_bytes(2, "big") if draw.random() < 0.1 else noise(draw, 2)
    return ports + noise(draw, 8) + bytes((words << 4, flags)) + noise(draw, 2) + checksum + b"\0\0" + options + content


def udp(draw: random.Random, ends: Ends, content: bytes) -> bytes:
    ports = ends.source_port.to_bytes(2, "big") + ends.destination_port.to_bytes(2, "big")
    return ports + (8 + len(content)).to_bytes(2, "big") + noise(draw, 2) + content


def quic_like(draw: random.Random, ends: Ends, content: bytes) -> bytes:
    first = draw.choice((b"\xc3\0\0\0\1\x08", b"\x43", b"\x5c"))
    return udp(draw, ends, first + noise(draw, 16) + content)


def icmp(draw: random.Random, ends: Ends, content: bytes) -> bytes:
    kind = draw.choice(ICMP_KINDS if len(ends.source) == 4 else ICMPV6_KINDS)
    return bytes((kind, draw.randrange(4))) + noise(draw, 6) + content


def other(draw: random.Random, ends: Ends, content: bytes) -> bytes:
    if ends.protocol == 4:
        inner = Ends(noise(draw, 4), noise(draw, 4), UDP, 53, 53)
        return ipv4(draw, inner, udp(draw, inner, content))
    if ends.protocol in (33, 132, 136):
        return udp(draw, ends, content)
    return noise(draw, 12) + content


def _builder(ends: Ends) -> Callable[[random.Random, Ends, bytes], bytes]:
    if ends.protocol == TCP:
        return tcp
    if ends.protocol == UDP:
        return quic_like if ends.destination_port == 443 else udp
    return icmp if ends.protocol in (ICMP, ICMPV6) else other


# --- IP --------------------------------------------------------------------------------------------------------------


def _traffic_class(draw: random.Random) -> int:
    return draw.choice((0, 0, 46, 10, 63)) << 2 | draw.choice((0, 1, 2, 2, 3))


def _lifetime(draw: random.Random) -> int:
    return 64 if draw.random() < 0.93 else draw.choice((0, 1, 1, 2, 255))


def ipv4(draw: random.Random, ends: Ends, body: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """`fragment`: the word with flags and offset."""
    words = 5 + len(options) // 4
    head = b"".join(
        (
            bytes((0x40 | words, _traffic_class(draw))),
            (4 * words + len(body)).to_bytes(2, "big"),
            noise(draw, 2),
            fragment.to_bytes(2, "big"),
            bytes((_lifetime(draw), ends.protocol)),
            b"\0\0",
            ends.source,
            ends.destination,
            options,
        )
    )
    return with_checksum(draw, head) + body


def with_checksum(draw: random.Random, head: bytes) -> bytes:
    chance = draw.random()
    if chance < 0.02:
        checksum = draw.choice(AWKWARD_CHECKSUMS)
    elif chance < 0.05:  # an identification with which the sum comes out as nothing or everything
        bare = head[:4] + b"\0\0" + head[6:10] + b"\0\0" + head[12:]
        wanted = checksum16(bare)
        head = head[:4] + wanted.to_bytes(2, "big") + head[6:]
        checksum = draw.choice((0x0000, 0xFFFF))
    else:
        checksum = checksum16(head[:10] + b"\0\0" + head[12:])
    return head[:10] + checksum.to_bytes(2, "big") + head[12:]


def ipv6(draw: random.Random, ends: Ends, body: bytes, *, chain: tuple[int, ...] = ()) -> bytes:
    """`chain`: extension headers in front of the body."""
    following = ends.protocol
    for kind in reversed(chain):
        body = _extension(draw, kind, following) + body
        following = kind
    first = (6 << 28 | _traffic_class(draw) << 20 | draw.getrandbits(20)).to_bytes(4, "big")
    return b"".join(
        (
            first,
            len(body).to_bytes(2, "big"),
            bytes((following, _lifetime(draw))),
            ends.source,
            ends.destination,
            body,
        )
    )


def _extension(draw: random.Random, kind: int, following: int) -> bytes:
    if kind == 44:
        offset = draw.choice((0, 0, 1, 8, 0xFFF9))
        return bytes((following, 0)) + offset.to_bytes(2, "big") + noise(draw, 4)
    if kind == 51:
        return bytes((following, 4)) + noise(draw, 22)
    words = draw.choice((0, 0, 0, 1, 2))
    if kind in (0, 60):
        return bytes((following, words, 1, 4 + 8 * words)) + bytes(4 + 8 * words)
    return bytes((following, words)) + noise(draw, 6 + 8 * words)


CHAINS = (
    (60,),
    (43,),
    (60, 43),
    (0,),
    (0, 60),
    (60, 0),
    (44,),
    (60, 44),
    (43, 44, 60),
    (135,),
    (139, 140),
    (60,) * 7,
    (60,) * 8,
    (60,) * 9,
    (51,),
    (60, 51),
)

FRAGMENT_CHAINS = tuple(chain for chain in CHAINS if 44 in chain)

FOREIGN_IPV4_OPTIONS = (
    b"\1",
    b"\1\1\1\1",
    b"\x94\4\0\0",  # router alert
    b"\7\7\4\0\0\0\0",  # record route
    b"\x83\7\4\x0a\0\1\1",  # loose source route
    b"\x44\x0c\5\0" + bytes(8),  # timestamp
    b"\x5e\x20" + bytes(30),
    b"\x5e\4ab",
    b"\0",
    b"\x5e\0",
    b"\x5e\1",
    b"\x5e\xff",
    b"\x9e\2",
    b"\x9e",
)


def foreign_options(draw: random.Random, room: int) -> bytes:
    """Of others, a whole number of words, at most `room` bytes."""
    options = b"".join(draw.choice(FOREIGN_IPV4_OPTIONS) for _ in range(draw.randrange(1, 3)))
    options += draw.choice((b"\0", b"\1")) * (-len(options) % 4)
    return options[: room & ~3]


def plain_packet(draw: random.Random, ends: Ends) -> bytes:
    """One packet of a flow without a header of ours: mostly as programs send them."""
    content = noise(draw, draw.choice(CONTENT_SIZES))
    body = _builder(ends)(draw, ends, content)
    odd = draw.random()
    if ends.protocol in (TCP, UDP) and not ends.source_port and not ends.destination_port:
        odd = 0.1  # the flow of all fragments
    if len(ends.source) == 4:
        options = foreign_options(draw, 40) if odd < 0.07 else b""
        fragment = (
            draw.choice((0x2000, 0x2003, 0x00B9, 0x4000 | 0x2000)) if 0.07 < odd < 0.12 else draw.choice((0, 0x4000))
        )
        return ipv4(draw, ends, body, options=options, fragment=fragment)
    chains = FRAGMENT_CHAINS if odd == 0.1 else CHAINS
    return ipv6(draw, ends, body, chain=draw.choice(chains) if odd < 0.15 else ())


# --- headers of ours in every layout ---------------------------------------------------------------------------------


def forced_ipv4(draw: random.Random, packet: bytes, header: bytes) -> bytes:
    """Our option among others, in front of them or behind, once or twice; the packet as it is if there is no room."""
    end = (packet[0] & 15) << 2
    if end < 20 or end > len(packet):
        return packet
    ours = bytes((IPV4_OPTION, len(header) + 2)) + header
    own = packet[20:end]
    room = 40 - len(own) - len(ours)
    if room < 0:
        return packet
    order = draw.randrange(6)
    if order == 0:
        options = own + ours
    elif order == 1:
        options = ours + own
    elif order == 2:
        options = foreign_options(draw, room) + ours + own
    elif order == 3:
        options = ours + own + foreign_options(draw, room)
    elif order == 4:
        options = b"\1" * draw.randrange(min(room, 4) + 1) + ours + own
    else:
        options = ours + own + ours
    options += draw.choice((b"\0", b"\1")) * (-len(options) % 4)
    if len(options) > 40:
        return packet
    total = 20 + len(options) + len(packet) - end
    head = (
        bytes((0x40 | 5 + len(options) // 4, packet[1])) + (total & 0xFFFF).to_bytes(2, "big") + packet[4:20] + options
    )
    return with_checksum(draw, head) + packet[end:]


def forced_ipv6(draw: random.Random, packet: bytes, header: bytes) -> bytes:
    """A hop-by-hop header with our option in it, in layouts that are not quite ours."""
    ours = bytes((IPV6_OPTION, len(header))) + header
    before = draw.choice((b"", b"", b"", b"\0", b"\1\0", b"\1\2\0\0", b"\x05\2\0\0", ours))
    after = draw.choice((b"", b"", b"\x05\2\0\0", b"\0", ours, b"\x1e\x20", b"\x3e\xff", b"\x3e"))
    options = before + ours + after
    missing = -(len(options) + 2) % 8
    fill = draw.randrange(5)
    if missing == 1 or fill == 0:
        options += bytes(missing)
    elif missing >= 2:
        options += bytes((1, missing - 2)) + (noise(draw, missing - 2) if fill == 1 else bytes(missing - 2))
        if fill == 2:
            options += b"\1\6" + bytes(6)
    words = (len(options) + 2) // 8 - 1
    if draw.random() < 0.1:
        words = draw.choice((0, words + 1, 31, 255))
    body = bytes((packet[6], words & 255)) + options + packet[40:]
    return packet[:4] + (len(body) & 0xFFFF).to_bytes(2, "big") + b"\0" + packet[7:40] + body


def damaged(draw: random.Random, packet: bytes) -> bytes:
    """A packet that something happened to."""
    kind = draw.randrange(8)
    if kind == 0:
        return packet[: draw.randrange(len(packet) + 1)]
    if kind == 1:
        return packet + noise(draw, draw.randrange(1, 30))
    if kind == 2 and len(packet) > 6:  # a length that is not the packet's
        at = 2 if packet[0] >> 4 == 4 else 4
        length = (packet[at] << 8 | packet[at + 1]) + draw.choice((-1, 1, -20, 40, 0x1000))
        return packet[:at] + (length & 0xFFFF).to_bytes(2, "big") + packet[at + 2 :]
    if kind == 3 and packet:
        return bytes((packet[0] & 0xF0 | draw.randrange(16),)) + packet[1:]
    if kind == 4 and len(packet) > 25:  # the count of slots, or the option's length
        at = draw.choice((21, 25) if packet[0] >> 4 == 4 else (43, 47, 41))
        if at < len(packet):
            return packet[:at] + bytes((draw.randrange(256),)) + packet[at + 1 :]
    changed = bytearray(packet)
    for _ in range(draw.randrange(1, 4)):
        if changed:
            changed[draw.randrange(min(len(changed), 90))] = draw.randrange(256)
    return bytes(changed)


def without_padding(frame: bytes) -> tuple[bytes, bytes]:
    """The IP packet, and what is behind its end by the length in its header; no packet is shorter than that header."""
    if len(frame) >= 20 and frame[0] >> 4 == 4:
        said = frame[2] << 8 | frame[3]
        end = said if said >= 20 else len(frame)
    elif len(frame) >= 40 and frame[0] >> 4 == 6:
        said = frame[4] << 8 | frame[5]
        end = 40 + said if said else len(frame)
    else:
        end = len(frame)
    return frame[:end], frame[end:]
