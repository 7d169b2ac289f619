"""UDP sockets that send as ECN-capable, and that say with each datagram whether a router has marked it.

Decides: which socket options that takes over IPv4 and IPv6. Refuses to know: media, prices. This is the measurement
interface of a player that reacts by itself (M3I scenarios 3.5.1); no privilege is needed for it.
Source: RFC 3168 (5, the codepoints), RFC 3542 (6.5, traffic class as ancillary data), ip(7).
"""

from __future__ import annotations

import socket
import sys
from typing import Final

from lab.streaming.reception import Ecn

_MOST_DATAGRAM: Final = 65_535
_ROOM: Final = socket.CMSG_SPACE(4) * 2
_BUFFER_BYTES: Final = 1 << 20


def media_socket(family: socket.AddressFamily, address: str, port: int = 0, *, zone: int = 0) -> socket.socket:
    """Bound, does not block, tells marks. `zone`: the interface of a link-local address."""
    held = socket.socket(family, socket.SOCK_DGRAM)
    try:
        held.setblocking(False)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            held.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        held.bind((address, port, 0, zone) if family == socket.AF_INET6 else (address, port))
    except OSError:
        held.close()
        raise
    return held


def send_as(held: socket.socket, ecn: Ecn) -> None:
    """Of every datagram from now on. ECT(0): its program promises to answer marks."""
    if held.family == socket.AF_INET6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, int(ecn))
    else:
        held.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, int(ecn))


def receive(held: socket.socket) -> tuple[bytes, Ecn, str]:
    """Datagram, mark, who sent it. Raises BlockingIOError when none is there."""
    data, ancillary, _flags, source = held.recvmsg(_MOST_DATAGRAM, _ROOM)
    return data, _mark(ancillary), str(source[0])


def _mark(ancillary: list[tuple[int, int, bytes]]) -> Ecn:
    """One byte for IPv4, an int in the host's order for IPv6."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == socket.IP_TOS:
            return Ecn(data[0] & 3)
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            return Ecn(int.from_bytes(data, sys.byteorder) & 3)
    return Ecn.NOT_ECT
