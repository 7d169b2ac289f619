"""Sockets as the kernel tells anyone: NETLINK_SOCK_DIAG, TCP and UDP of both families.

Decides: how a socket's message is read, and that an IPv4 connection of an IPv6 socket is an IPv4 flow. Refuses to
know: whose socket it is. Source: linux/inet_diag.h, linux/tcp.h (struct tcp_info), net/ipv4/inet_diag.c, udp_diag.c.

It needs no privilege. The tables are walked while they change: a socket that opens or closes meanwhile may be missing.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from dataplane.attribution.netlink import NETLINK_SOCK_DIAG, Answer, NetlinkSocket, attribute, attributes

TCP: Final = socket.IPPROTO_TCP
UDP: Final = socket.IPPROTO_UDP


class State(IntEnum):
    """TCP's; a UDP socket is ESTABLISHED when it is connected, else CLOSE."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


ALL_STATES: Final = frozenset(State)
CARRYING_STATES: Final = ALL_STATES - {State.LISTEN, State.TIME_WAIT, State.NEW_SYN_RECV}
"""TCP sockets that a program has and that may carry data."""


class TcpInfo(NamedTuple):
    """What a TCP socket did since it was made. Bytes are payload; segments count pure acknowledgements too."""

    bytes_sent: int  # retransmissions included; acknowledged ones alone on kernels before 4.19
    bytes_acked: int
    bytes_received: int  # in order; duplicates are not counted
    segments_out: int
    segments_in: int
    delivered_packets: int
    delivered_ce_packets: int  # that the other side reported as marked
    rtt_us: int
    pacing_byte_s: int  # 2**64 - 1: no limit
    has_timestamps: bool  # 12 bytes more in each header


class Socket(NamedTuple):
    """Addresses are packed, 4 bytes for IPv4 also when the socket is an IPv6 one; all zero: wildcard."""

    family: int  # AF_INET or AF_INET6, of the socket itself
    protocol: int
    state: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    bound_interface_index: int  # 0: not bound to one
    cookie: int  # names the socket until the machine restarts
    user_id: int
    inode: int  # 0: no process has it any more
    control_group_id: int  # of version 2, where it was made; 0: not known
    is_v6_only: bool
    congestion_control: str
    tcp: TcpInfo | None


_SOCK_DIAG_BY_FAMILY: Final = 20
_INFO, _CONG, _SKV6ONLY, _CGROUP_ID = 2, 4, 11, 21
_INTERESTING: Final = frozenset((_INFO, _CONG, _SKV6ONLY, _CGROUP_ID))
_EXTENSIONS: Final = 1 << (_INFO - 1) | 1 << (_CONG - 1)
_NO_COOKIE: Final = b"\xff" * 8
_REQUEST: Final = struct.Struct("=BBBxI")
_MESSAGE: Final = struct.Struct("=BBxx2s2s16s16sIQ12xII").unpack_from
_MESSAGE_BYTES: Final = 72
_ATTRIBUTE: Final = struct.Struct("=HH").unpack_from
_PORT: Final = struct.Struct("!H")
_U64: Final = struct.Struct("=Q").unpack_from
# struct tcp_info: options at 5, rtt at 68, pacing rate at 104, the acked, received, out and in counters from 120 on,
# delivered ones at 192 (4.18), bytes_sent at 200 (4.19).
_TCP_INFO: Final = struct.Struct("=5xB62xI32xQ8xQQII").unpack_from
_TCP_INFO_BYTES: Final = 144
_TCP_DELIVERED: Final = struct.Struct("=IIQ").unpack_from
_TCP_DELIVERED_OFFSET: Final = 192
_TCP_DELIVERED_END: Final = 208
_OPTION_TIMESTAMPS: Final = 1
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_WILDCARD_V6: Final = bytes(16)
_new: Final = tuple.__new__


class InetDiag:
    """Asks about the sockets of the network namespace in which it was made. Raises EnvironmentFault on opening."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_SOCK_DIAG)

    def close(self) -> None:
        self._netlink.close()

    def tcp(self, states: frozenset[State] = ALL_STATES) -> list[Socket]:
        return self._dump(TCP, states)

    def udp(self) -> list[Socket]:
        return self._dump(UDP, ALL_STATES)

    def udp_at(self, local_port: int) -> list[Socket]:
        """UDP sockets of a local port: the kernel itself leaves the others out."""
        return [each for each in self._dump(UDP, ALL_STATES, _at_port(local_port)) if each.local_port == local_port]

    def find(self, *, protocol: int, local: bytes, local_port: int, remote: bytes, remote_port: int) -> Socket | None:
        """The socket to which the kernel would give a packet of this flow; addresses of either length.

        TCP: the connection, else who listens. UDP: the connected socket, else the one bound to the port. Wildcard
        addresses and SO_REUSEPORT are the kernel's to resolve.
        """
        answer = self._ask(protocol, local, local_port, remote, remote_port)
        if answer is None:
            return None
        found = _socket(answer, protocol)
        return found if found is not None and found.local_port == local_port else None

    def tcp_info(self, *, local: bytes, local_port: int, remote: bytes, remote_port: int) -> bytes | None:
        """The kernel's whole `struct tcp_info` of that connection; None when there is none."""
        answer = self._ask(TCP, local, local_port, remote, remote_port)
        if answer is None or answer.end - answer.start < _MESSAGE_BYTES:
            return None
        state, remote_at = answer.buffer[answer.start + 1], answer.start + 6
        if state == State.LISTEN or int.from_bytes(answer.buffer[remote_at : remote_at + 2]) != remote_port:
            return None
        return attributes(answer.buffer, answer.start + _MESSAGE_BYTES, answer.end).get(_INFO)

    def _ask(self, protocol: int, local: bytes, local_port: int, remote: bytes, remote_port: int) -> Answer | None:
        family = socket.AF_INET if len(local) == 4 else socket.AF_INET6
        ends = [(local, local_port), (remote, remote_port)]
        if protocol == UDP:
            ends.reverse()  # its lookup takes the two ends the other way round than TCP's
        (first, first_port), (second, second_port) = ends
        body = _REQUEST.pack(family, protocol, _EXTENSIONS, 0xFFFF_FFFF)
        body += _PORT.pack(first_port) + _PORT.pack(second_port)
        body += first.ljust(16, b"\0") + second.ljust(16, b"\0") + bytes(4) + _NO_COOKIE
        return self._netlink.ask(_SOCK_DIAG_BY_FAMILY, body)

    def _dump(self, protocol: int, states: frozenset[State], extra: bytes = b"") -> list[Socket]:
        mask = sum(1 << state for state in states)
        found: list[Socket] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, protocol, _EXTENSIONS, mask) + bytes(40) + _NO_COOKIE + extra
            for answer in self._netlink.dump(_SOCK_DIAG_BY_FAMILY, body):
                each = _socket(answer, protocol)
                if each is not None:
                    found.append(each)
        return found


def _at_port(local_port: int) -> bytes:
    """The kernel's filter program: source port at least, and at most, this one.

    An instruction is code, jump if it holds, jump if not; the port is in an operation of its own behind it. A jump to
    4 bytes behind the end refuses. Source: net/ipv4/inet_diag.c, inet_diag_bc_run.
    """
    at_least, at_most = 2, 3  # INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE
    program = b"".join(
        (
            struct.pack("=BBH", at_least, 8, 20) + struct.pack("=BBH", 0, 0, local_port),
            struct.pack("=BBH", at_most, 8, 12) + struct.pack("=BBH", 0, 0, local_port),
        )
    )
    return attribute(1, program)  # INET_DIAG_REQ_BYTECODE


def _socket(answer: Answer, protocol: int) -> Socket | None:
    _, buffer, offset, end = answer
    if end - offset < _MESSAGE_BYTES:
        return None
    (family, state, local_port, remote_port, local, remote, interface, cookie, user_id, inode) = _MESSAGE(
        buffer, offset
    )
    local, remote = _addresses(family, local, remote)
    tcp: TcpInfo | None = None
    congestion_control = ""
    control_group_id = 0
    is_v6_only = False
    offset += _MESSAGE_BYTES
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE(buffer, offset)
        if size < 4:
            break
        if kind in _INTERESTING:
            if kind == _INFO:
                tcp = _tcp_info(buffer, offset + 4, size - 4)
            elif kind == _CONG:
                congestion_control = buffer[offset + 4 : offset + size - 1].decode("ascii", "replace")
            elif kind == _CGROUP_ID:
                control_group_id = _U64(buffer, offset + 4)[0]
            else:
                is_v6_only = buffer[offset + 4] != 0
        offset += (size + 3) & ~3
    port, other_port = int.from_bytes(local_port), int.from_bytes(remote_port)
    ends = (local, port, remote, other_port, interface)
    return _new(
        Socket,
        (family, protocol, state, *ends, cookie, user_id, inode, control_group_id, is_v6_only, congestion_control, tcp),
    )


def _addresses(family: int, local: bytes, remote: bytes) -> tuple[bytes, bytes]:
    """As the packets have them: both of the same length."""
    if family == socket.AF_INET:
        return local[:4], remote[:4]
    if remote[:12] == _V4_MAPPED or (local[:12] == _V4_MAPPED and remote == _WILDCARD_V6):
        return local[12:], remote[12:]
    return local, remote


def _tcp_info(buffer: bytes, offset: int, size: int) -> TcpInfo | None:
    if size < _TCP_INFO_BYTES:
        return None  # a socket that listens or waits has nothing of this; kernels before 4.2 did not count
    options, rtt_us, pacing, acked, received, out, into = _TCP_INFO(buffer, offset)
    delivered = delivered_ce = 0
    sent = acked
    if size >= _TCP_DELIVERED_END:
        delivered, delivered_ce, sent = _TCP_DELIVERED(buffer, offset + _TCP_DELIVERED_OFFSET)
    timestamps = bool(options & _OPTION_TIMESTAMPS)
    return _new(TcpInfo, (sent, acked, received, out, into, delivered, delivered_ce, rtt_us, pacing, timestamps))
