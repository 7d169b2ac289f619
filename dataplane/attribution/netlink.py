"""Questions to the kernel over a netlink socket: one answer, or a dump.

Decides: how a request is framed, and which messages belong to its answer. Refuses to know: what is asked.
Source: linux/netlink.h, RFC 3549.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from billpay.errors import EnvironmentFault

NETLINK_ROUTE: Final = 0
NETLINK_SOCK_DIAG: Final = 4

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NLM_F_ECHO: Final = 8
_NLM_F_DUMP: Final = 0x300
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_ATTRIBUTE_TYPE: Final = 0x3FFF  # without the flags "nested" and "network byte order"
_RECEIVE_BYTES: Final = 1 << 16  # the kernel fills at most 32 KiB, and only if it saw that we offer so much


class Answer(NamedTuple):
    """One message: its body is `buffer[start:end]`."""

    type: int
    buffer: bytes
    start: int
    end: int


class NetlinkSocket:
    """Belongs to the network namespace of the thread that makes it. One request at a time."""

    def __init__(self, family: int) -> None:
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
            self._socket.bind((0, 0))
            self._socket.connect((0, 0))  # from now on only the kernel can send to it
        except OSError as error:
            raise EnvironmentFault("open", f"netlink socket of family {family}", error.strerror) from error

    def close(self) -> None:
        self._socket.close()

    def ask(self, kind: int, body: bytes, *, echo: bool = False) -> Answer | None:
        """The one answer; None when the kernel knows no such thing, or does not tell us.

        echo: of traffic control, which otherwise answers only those who listen to its changes.
        """
        for answer in self._answers(kind, body, _NLM_F_ECHO if echo else 0):
            return answer
        return None

    def dump(self, kind: int, body: bytes) -> Iterator[Answer]:
        """All answers. Raises EnvironmentFault when the kernel does not understand the question."""
        return self._answers(kind, body, _NLM_F_DUMP)

    def change(self, kind: int, body: bytes, *, create: bool = False) -> None:
        """Makes a change and waits until it is made. create: what is not there, and nothing else. Raises OSError."""
        self._sequence = sequence = (self._sequence + 1) & 0xFFFF_FFFF
        flags = _NLM_F_REQUEST | _NLM_F_ACK | (_NLM_F_CREATE | _NLM_F_EXCL if create else 0)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body)
        while True:
            buffer = self._socket.recv(_RECEIVE_BYTES)
            _, answer_kind, _, answered, _ = _HEADER.unpack_from(buffer, 0)
            if answered == sequence and answer_kind == _NLMSG_ERROR:
                number = -_ERROR.unpack_from(buffer, _HEADER.size)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return

    def _answers(self, kind: int, body: bytes, flags: int) -> Iterator[Answer]:
        self._sequence = sequence = (self._sequence + 1) & 0xFFFF_FFFF
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, _NLM_F_REQUEST | flags, sequence, 0) + body)
        while True:
            buffer = self._socket.recv(_RECEIVE_BYTES)
            offset = 0
            while offset + 16 <= len(buffer):
                length, answer_kind, _, answered, _ = _HEADER.unpack_from(buffer, offset)
                start, end = offset + 16, offset + length
                if length < 16 or end > len(buffer):
                    break
                offset += (length + 3) & ~3
                if answered != sequence:
                    continue  # of a dump that was left unfinished
                if answer_kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    # The end of a dump says how it went: a protocol whose module is missing is told only there.
                    result = _ERROR.unpack_from(buffer, start)[0] if end - start >= 4 else 0
                    if flags and result < 0:
                        raise _refused(kind, -result)
                    return
                yield Answer(answer_kind, buffer, start, end)
                if not flags:
                    return


def attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) & 3)


def attributes(buffer: bytes, start: int, end: int) -> dict[int, bytes]:
    """By type, without flags; the last of equals."""
    found: dict[int, bytes] = {}
    while start + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(buffer, start)
        if size < 4 or start + size > end:
            break
        found[kind & _ATTRIBUTE_TYPE] = buffer[start + 4 : start + size]
        start += (size + 3) & ~3
    return found


def _refused(kind: int, number: int) -> EnvironmentFault:
    missing = number in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
    remedy = "modprobe tcp_diag udp_diag" if missing else ""
    return EnvironmentFault("ask", f"the kernel by netlink (message {kind})", os.strerror(number), remedy)
