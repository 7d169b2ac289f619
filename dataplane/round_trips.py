"""How long it takes to and from the other ends that TCP sockets talk to now, as the kernel measures it anyway.

Decides: which sockets say something new, and what several sockets to one remote address say together. Refuses to know:
what a long round trip means, and which interface an address belongs to. No packet is sent for it.
Source: linux/inet_diag.h; linux/tcp.h (struct tcp_info): tcpi_rtt is smoothed over about the last eight
acknowledgements of our data (RFC 6298), tcpi_rcv_rtt over data that arrives, tcpi_min_rtt the least of some minutes.

A look costs about 2 us a socket. At most SOCKETS_MAX are read; which ones is the kernel's order of its tables. That
is enough: a queue is in everybody's way alike.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from dataplane.attribution.inet_diag import State
from dataplane.attribution.netlink import NETLINK_SOCK_DIAG, Answer, NetlinkSocket

SOCKETS_MAX: Final = 1000

_SOCK_DIAG_BY_FAMILY: Final = 20
_INFO: Final = 2
_REQUEST: Final = struct.Struct("=BBBxI")
_NO_COOKIE: Final = b"\xff" * 8
_MESSAGE_BYTES: Final = 72
_MESSAGE: Final = struct.Struct("=8x16s16s4xQ").unpack_from  # struct inet_diag_msg: addresses, cookie
_ATTRIBUTE: Final = struct.Struct("=HH").unpack_from
# struct tcp_info: rtt at 68, rcv_rtt at 92, total_retrans at 100, min_rtt at 148, data_segs_in, delivered at 192.
_TCP_INFO: Final = struct.Struct("=68xI20xI4xI44xII36xI").unpack_from
_TCP_INFO_BYTES: Final = 196
_NEVER: Final = 0xFFFF_FFFF
"""As the kernel says it of the least one."""

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class RoundTrip(NamedTuple):
    """Of all sockets between two addresses, packed; 4 bytes for IPv4, also of an IPv6 socket."""

    local: bytes
    remote: bytes
    now_us: int | None  # the least of those whose data was acknowledged since the last look; None: nobody's was
    receiving_us: int | None  # the same of those that got data. It has the sender's pauses in it, and queues of ours
    least_us: int | None  # that any of them has seen
    sockets: int
    delivered_packets: int  # since the last look
    retransmitted_packets: int


_Counts = tuple[int, int, int]  # packets of ours that were delivered, that arrived with data, that went again
_NOTHING: Final[_Counts] = (0, 0, 0)
_WRAP: Final = 1 << 32


class _Sum:
    """Of the sockets between two addresses; _NEVER: nobody says."""

    __slots__ = ("delivered", "least_us", "now_us", "receiving_us", "retransmitted", "sockets")

    def __init__(self) -> None:
        self.now_us = self.receiving_us = self.least_us = _NEVER
        self.sockets = self.delivered = self.retransmitted = 0

    def told(self, local: bytes, remote: bytes) -> RoundTrip:
        return RoundTrip(
            local=local,
            remote=remote,
            now_us=None if self.now_us == _NEVER else self.now_us,
            receiving_us=None if self.receiving_us == _NEVER else self.receiving_us,
            least_us=None if self.least_us == _NEVER else self.least_us,
            sockets=self.sockets,
            delivered_packets=self.delivered,
            retransmitted_packets=self.retransmitted,
        )


class RoundTrips:
    """In the network namespace that it is made in. Raises EnvironmentFault where the kernel does not tell."""

    def __init__(self, sockets_max: int = SOCKETS_MAX) -> None:
        self._sockets_max = sockets_max
        self._netlink = NetlinkSocket(NETLINK_SOCK_DIAG)
        self._known: dict[int, _Counts] | None = None  # by cookie; None before the first look
        self._info_at = 0  # where the last message had its tcp_info: mostly where the next one has it

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> list[RoundTrip]:
        """One for each pair of addresses. At the first look nothing is new yet."""
        known: dict[int, _Counts] = {}
        found: dict[tuple[bytes, bytes], _Sum] = {}
        for family, room in ((socket.AF_INET, self._sockets_max // 2), (socket.AF_INET6, self._sockets_max)):
            body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 1 << State.ESTABLISHED)
            for answer in self._netlink.dump(_SOCK_DIAG_BY_FAMILY, body + bytes(40) + _NO_COOKIE):
                if len(known) >= room:
                    self._leave_dump()
                    break
                self._add(answer, known, found)
        self._known = known
        return [each.told(*pair) for pair, each in found.items()]

    def _leave_dump(self) -> None:
        """The kernel begins no other one on this socket before it is at the end."""
        self._netlink.close()
        self._netlink = NetlinkSocket(NETLINK_SOCK_DIAG)

    def _add(self, answer: Answer, known: dict[int, _Counts], found: dict[tuple[bytes, bytes], _Sum]) -> None:
        at = self._find_info(answer)
        if at is None:
            return
        _, buffer, start, _ = answer
        local, remote, cookie = _MESSAGE(buffer, start)
        rtt_us, receiving_us, retransmitted, least_us, arrived, delivered = _TCP_INFO(buffer, at)
        known[cookie] = now = (delivered, arrived, retransmitted)
        # Who came after the first look has all that it did to tell.
        before = now if self._known is None else self._known.get(cookie, _NOTHING)
        if buffer[start] == socket.AF_INET:
            pair = (local[:4], remote[:4])
        else:
            pair = (local[12:], remote[12:]) if remote[:12] == _V4_MAPPED else (local, remote)
        total = found.get(pair)
        if total is None:
            total = found[pair] = _Sum()
        total.sockets += 1
        if least_us and least_us < total.least_us:
            total.least_us = least_us
        if now == before:
            return
        if delivered != before[0]:
            total.delivered += (delivered - before[0]) % _WRAP
            if rtt_us and rtt_us < total.now_us:
                total.now_us = rtt_us
        if arrived != before[1] and receiving_us and receiving_us < total.receiving_us:
            total.receiving_us = receiving_us
        total.retransmitted += (retransmitted - before[2]) % _WRAP

    def _find_info(self, answer: Answer) -> int | None:
        """Where in the buffer; None when the kernel is older than 4.18 or told nothing."""
        _, buffer, start, end = answer
        offset = start + self._info_at
        if self._info_at and offset + 4 <= end:
            size, kind = _ATTRIBUTE(buffer, offset)
            if kind == _INFO and size >= _TCP_INFO_BYTES + 4 and offset + size <= end:
                return offset + 4
        offset = start + _MESSAGE_BYTES
        while offset + 4 <= end:
            size, kind = _ATTRIBUTE(buffer, offset)
            if size < 4:
                return None
            if kind == _INFO:
                self._info_at = offset - start
                return offset + 4 if size >= _TCP_INFO_BYTES + 4 else None
            offset += (size + 3) & ~3
        return None
