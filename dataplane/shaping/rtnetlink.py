"""Traffic-control messages of the kernel as bytes: asks for them, sends them, takes them apart.

Decides: nothing. Refuses to know: what a qdisc means. A message is kept as the kernel sent it (header of netlink,
struct tcmsg, attributes), so that it can be sent again.
Source: linux/rtnetlink.h, linux/pkt_sched.h; RFC 3549.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.attribution.netlink import NETLINK_ROUTE, NetlinkSocket, attribute
from dataplane.shaping.htb import SizeTable

RTM_NEWQDISC: Final = 36
RTM_GETQDISC: Final = 38
RTM_DELQDISC: Final = 37
RTM_NEWTCLASS: Final = 40
RTM_DELTCLASS: Final = 41
RTM_GETTCLASS: Final = 42
RTM_NEWTFILTER: Final = 44
RTM_GETTFILTER: Final = 46
RTM_NEWCHAIN: Final = 100
RTM_GETCHAIN: Final = 102

TC_H_ROOT: Final = 0xFFFF_FFFF
TC_H_INGRESS: Final = 0xFFFF_FFF1

REPLACE: Final = 0x100
EXCLUSIVE: Final = 0x200
CREATE: Final = 0x400

TCA_KIND: Final = 1
TCA_OPTIONS: Final = 2
TCA_STATS2: Final = 7
TCA_STAB: Final = 8
TCA_CHAIN: Final = 11

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_TCMSG: Final = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info
_ATTRIBUTE: Final = struct.Struct("=HH")
_BODY: Final = _HEADER.size + _TCMSG.size
_SIZE_SPEC: Final = struct.Struct("=BBhiIIII")  # cell log, size log, cell align, overhead, link layer, MPU, MTU, size
_STAB_BASE: Final = 1
_STAB_DATA: Final = 2
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSG_ERROR: Final = 2
_NLMSGERR_ATTR_MSG: Final = 1
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_TYPE: Final = 0x3FFF  # without the flags "nested" and "network byte order"
_RECEIVE_BYTES: Final = 1 << 16

Attributes = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcMessage:
    """A qdisc, class, filter or chain. `type`: RTM_NEW…, as dumps have it too."""

    type: int
    interface_index: int
    handle: int
    parent: int
    info: int
    attributes: tuple[tuple[int, bytes], ...]

    @property
    def kind(self) -> str:
        return (find(self.attributes, TCA_KIND) or b"").rstrip(b"\0").decode("ascii", "replace")

    @property
    def options(self) -> bytes | None:
        return find(self.attributes, TCA_OPTIONS)

    def pack_body(self) -> bytes:
        head = _TCMSG.pack(0, self.interface_index, self.handle, self.parent, self.info)
        return head + pack(self.attributes)


def read(raw: bytes) -> TcMessage:
    """A whole message as the kernel sent it."""
    length, kind, _, _, _ = _HEADER.unpack_from(raw)
    _, index, handle, parent, info = _TCMSG.unpack_from(raw, _HEADER.size)
    return TcMessage(
        type=kind,
        interface_index=index,
        handle=handle,
        parent=parent,
        info=info,
        attributes=tuple(unpack(raw[_BODY:length])),
    )


def unpack(data: bytes) -> Attributes:
    """In their order, equal types too, without flags."""
    found: Attributes = []
    start = 0
    while start + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, start)
        if size < _ATTRIBUTE.size or start + size > len(data):
            break
        found.append((kind & _TYPE, data[start + 4 : start + size]))
        start += (size + 3) & ~3
    return found


def pack(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(attribute(kind, data) for kind, data in attributes)


def find(attributes: Iterable[tuple[int, bytes]], kind: int) -> bytes | None:
    return next((data for each, data in attributes if each == kind), None)


def pack_size_table(table: SizeTable) -> bytes:
    """The attributes within TCA_STAB."""
    base = _SIZE_SPEC.pack(table.cell_log, table.size_log, 0, 0, 0, 0, 0, len(table.sizes))
    return pack([(_STAB_BASE, base), (_STAB_DATA, struct.pack(f"={len(table.sizes)}H", *table.sizes))])


def show_handle(handle: int) -> str:
    """As tc prints it."""
    if handle == TC_H_ROOT:
        return "root"
    return f"{handle >> 16:x}:{handle & 0xFFFF:x}" if handle & 0xFFFF else f"{handle >> 16:x}:"


class TcSocket:
    """Belongs to the network namespace of the thread that makes it. `with TcSocket() as kernel:`"""

    def __init__(self) -> None:
        self._asking = NetlinkSocket(NETLINK_ROUTE)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> TcSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._asking.close()
        self._socket.close()

    def dump(self, kind: int, interface_index: int, parent: int = 0) -> Iterator[bytes]:
        """Whole messages of that interface. Raises EnvironmentFault."""
        body = _TCMSG.pack(0, interface_index, 0, parent, 0)
        for answer in self._asking.dump(kind, body):
            raw = answer.buffer[answer.start - _HEADER.size : answer.end]
            if _TCMSG.unpack_from(raw, _HEADER.size)[1] == interface_index:
                yield raw

    def change(self, message: TcMessage, flags: int, *, target: str) -> None:
        """Raises EnvironmentFault with the kernel's own words where it has some."""
        self._sequence += 1
        body = message.pack_body()
        flags |= _NLM_F_REQUEST | _NLM_F_ACK
        header = _HEADER.pack(_HEADER.size + len(body), message.type, flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            reply = self._socket.recv(_RECEIVE_BYTES)
            _, kind, reply_flags, sequence, _ = _HEADER.unpack_from(reply)
            if kind != _NLMSG_ERROR or sequence != self._sequence:
                continue
            number = -struct.unpack_from("=i", reply, _HEADER.size)[0]
            if number:
                raise EnvironmentFault("change", target, _complaint(reply, reply_flags) or os.strerror(number))
            return

    def change_all(self, messages: Sequence[tuple[TcMessage, int]], *, target: str) -> None:
        """All of them with one call, in their order; one that fails stops none. Raises EnvironmentFault for the first.

        Only the last one asks for an answer: the kernel answers it after all others, and complains of any at once.
        """
        if not messages:
            return
        first = self._sequence + 1
        packed = []
        for message, flags in messages:
            self._sequence += 1
            body = message.pack_body()
            flags |= _NLM_F_REQUEST
            if self._sequence == first + len(messages) - 1:
                flags |= _NLM_F_ACK
            packed.append(_HEADER.pack(_HEADER.size + len(body), message.type, flags, self._sequence, 0) + body)
        self._socket.send(b"".join(packed))
        complaint = ""
        while True:
            reply = self._socket.recv(_RECEIVE_BYTES)
            _, kind, reply_flags, sequence, _ = _HEADER.unpack_from(reply)
            if kind != _NLMSG_ERROR or not first <= sequence <= self._sequence:
                continue
            number = -struct.unpack_from("=i", reply, _HEADER.size)[0]
            if number and not complaint:
                complaint = _complaint(reply, reply_flags) or os.strerror(number)
            if sequence == self._sequence:
                if complaint:
                    raise EnvironmentFault("change", target, complaint)
                return


def _complaint(reply: bytes, flags: int) -> str:
    """What the kernel says beside the number; the request that it repeats is only a header."""
    if not flags & _NLM_F_ACK_TLVS or not flags & _NLM_F_CAPPED:
        return ""
    said = find(unpack(reply[2 * _HEADER.size + 4 :]), _NLMSGERR_ATTR_MSG) or b""
    return said.rstrip(b"\0").decode("ascii", "replace")
