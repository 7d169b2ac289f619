"""A raw netlink NFQUEUE socket: packets in batches, verdicts in one send.

Decides: how queues are configured, which kernel messages are well formed, and how verdicts are laid out.
Refuses to know: what a verdict is for, and when to receive or send.
Source: linux/netfilter/nfnetlink_queue.h, linux/netlink.h and net/netfilter/nfnetlink_queue.c; measured in
bench/nfqueue.py.

One ``recvmmsg`` fetches up to 64 packets into buffers that are allocated once, and one ``send`` carries all verdicts
of a batch. A send to the kernel is synchronous: when it returns, the packets have gone through the rest of their
path. Everything that varies little between verdicts (headers by payload length, attributes by mark) is built once and
kept.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from billpay.errors import EnvironmentFault
from billpay.packet import finish_checksum
from dataplane.port import ACCEPT_BIT, Action, Inject, Packet

QUEUE_LENGTH: Final = 1024
"""Packets that may wait or be held at once; beyond it the kernel lets packets pass (F_FAIL_OPEN). 64 is a sensible
minimum: 8 let 19 % of 20,000 packets/s pass unpaid."""

BATCH_PACKETS: Final = 64

_COPY_BYTES: Final = 0xFFFF
_SLOT_BYTES: Final = 65536 + 512  # a payload and the attributes before it; kept off powers of two for the caches' sake
_PAYLOAD_MAX: Final = 0xFFFF - 4  # an attribute's length has 16 bits
_RECEIVE_BUFFER_BYTES: Final = 32 << 20
_SEND_BUFFER_BYTES: Final = 16 << 20
_SEND_CHUNK_BYTES_MIN: Final = 70_000  # one verdict always fits

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_NETLINK_NO_ENOBUFS: Final = 5
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_MSG_PACKET: Final = 0x300
_MSG_VERDICT: Final = 0x301
_MSG_CONFIG: Final = 0x302
_MSG_VERDICT_BATCH: Final = 0x303
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NLMSG_ERROR: Final = 2
_NLMSG_MIN_TYPE: Final = 16
# Attributes of a packet message.
_PACKET_HDR, _MARK, _INDEV, _OUTDEV, _PAYLOAD, _CAP_LEN, _SKB_INFO = 1, 3, 5, 6, 10, 13, 14
_INTERFACES: Final = frozenset((_INDEV, _OUTDEV))
_VERDICT_HDR: Final = 2
# Attributes of a configuration message.
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_CMD_BIND: Final = 1
_COPY_PACKET: Final = 2
_F_FAIL_OPEN: Final = 1
_F_GSO: Final = 4
_INFO_CSUM_NOT_READY: Final = 1
_INFO_GSO: Final = 2
_NF_DROP, _NF_ACCEPT = 0, 1

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH").unpack_from
_BE32: Final = struct.Struct("!I").unpack_from
_BE16: Final = struct.Struct("!H").unpack_from
_ERROR_ORIGINAL: Final = struct.Struct("=HHI").unpack_from  # type, flags, sequence
_pack_be32: Final = struct.Struct("!I").pack
_pack_id_mark: Final = struct.Struct("!I8s4s").pack
_new: Final = tuple.__new__
_CACHE_ENTRIES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """One queue: its number, and how many packets it may hold. `gso`: take segment-offloaded packets whole (unpaid
    bulk)."""

    queue: int
    length: int = QUEUE_LENGTH
    gso: bool = False


class NfqueueSocket:
    """All queues of one reader on one netlink socket. Raises EnvironmentFault on opening and binding, never
    afterwards."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
            self._socket.connect((0, 0))  # from now on only the kernel can send to it
        except OSError as error:
            raise EnvironmentFault(
                "open", "netlink socket for NFQUEUE", error.strerror, "run as root or with CAP_NET_ADMIN"
            ) from error
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        _raise_buffer(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        _raise_buffer(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        send_buffer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.send_chunk_bytes = max(send_buffer // 2 - 4096, _SEND_CHUNK_BYTES_MIN)
        self._slots = _ReceiveSlots(self._socket.fileno())
        self._configs: dict[int, QueueConfig] = {}
        self._last_id: dict[int, int] = {}
        self._partial: set[tuple[int, int]] = set()
        self._heads: dict[tuple[int, int], bytes] = {}
        self._mangling_heads: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = {}
        self._marks: dict[int, bytes] = {}
        self._send = self._socket.send
        self._injector = _Injector()
        self.troubles: Troubles | None = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._injector.close()
        self._socket.close()

    # -- configuration -----------------------------------------------------------------------------------------------

    def bind(self, config: QueueConfig) -> None:
        """Starts receiving a queue's packets. Raises EnvironmentFault when it is taken or not permitted."""
        flags = _F_FAIL_OPEN | (_F_GSO if config.gso else 0)
        self._configure(config.queue, _attribute(_CFG_CMD, struct.pack("!BBH", _CMD_BIND, 0, socket.AF_INET)))
        self._configure(config.queue, _attribute(_CFG_MAXLEN, struct.pack("!I", config.length)))
        mask = struct.pack("!I", _F_FAIL_OPEN | _F_GSO)
        self._configure(config.queue, _attribute(_CFG_FLAGS, struct.pack("!I", flags)) + _attribute(_CFG_MASK, mask))
        # Last: without a copy mode the kernel queues nothing.
        self._configure(config.queue, _attribute(_CFG_PARAMS, struct.pack("!IB", _COPY_BYTES, _COPY_PACKET)))
        self._configs[config.queue] = config
        self._last_id[config.queue] = 0

    def let_new_packets_pass(self) -> None:
        """From now on new packets pass unqueued (a full queue fails open); what is queued can still be received."""
        for queue in self._configs:
            self._configure(queue, _attribute(_CFG_MAXLEN, struct.pack("!I", 0)))

    def accept_everything_left(self) -> None:
        """Lets go of all packets that were received but never got a verdict, unchanged and without our mark."""
        for queue, last_id in self._last_id.items():
            if last_id:
                body = struct.pack("!BBH", 0, 0, queue) + _attribute(
                    _VERDICT_HDR, struct.pack("!II", _NF_ACCEPT, last_id)
                )
                header = _HEADER.pack(_HEADER.size + len(body), _MSG_VERDICT_BATCH, _NLM_F_REQUEST, 0, 0)
                self._send(header + body)

    def _configure(self, queue: int, attributes: bytes) -> None:
        body = struct.pack("!BBH", 0, 0, queue) + attributes
        length = _HEADER.size + len(body)
        self._send(_HEADER.pack(length, _MSG_CONFIG, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0) + body)
        failure = self._acknowledgement()
        if failure:
            busy = failure in (errno.EBUSY, errno.EPERM) and os.geteuid() == 0
            remedy = "another process reads this queue: stop it or choose another number" if busy else "run as root"
            raise EnvironmentFault("bind", f"NFQUEUE {queue}", os.strerror(failure), remedy)

    def _acknowledgement(self) -> int:
        """Waits for the answer to a configuration message; packets that come first stay for `receive`."""
        while True:
            data = self._socket.recv(_SLOT_BYTES)
            if len(data) >= 20 and struct.unpack_from("=H", data, 4)[0] == _NLMSG_ERROR:
                return -int(struct.unpack_from("=i", data, 16)[0])
            self._slots.early.append(data)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self) -> list[Packet]:
        """Up to 64 packets that have arrived, without waiting."""
        packets: list[Packet] = []
        slots = self._slots
        if slots.early:
            early, slots.early = slots.early, []
            for data in early:
                self._parse(data, 0, len(data), packets)
        buffer = slots.buffer
        offset = 0
        for length in slots.receive():
            self._parse(buffer, offset, length, packets)
            offset += _SLOT_BYTES
        return packets

    def _parse(self, buffer: mmap.mmap | bytes, start: int, length: int, packets: list[Packet]) -> None:
        """Appends the packet of one kernel message; what is not well formed is counted."""
        if length < 20 or _ATTRIBUTE(buffer, start + 4)[0] != _MSG_PACKET:
            self._other(buffer, start, length)
            return
        queue = _BE16(buffer, start + 18)[0]
        packet_id = interface_index = mark = info = 0
        offset = start + 20
        end = start + length
        while offset + 4 <= end:
            size, kind = _ATTRIBUTE(buffer, offset)
            after = offset + size
            if size < 4 or after > end or kind == _CAP_LEN:
                break
            if size == 8:
                if kind in _INTERFACES:
                    interface_index = _BE32(buffer, offset + 4)[0]
                elif kind == _MARK:
                    mark = _BE32(buffer, offset + 4)[0]
                elif kind == _SKB_INFO:
                    info = _BE32(buffer, offset + 4)[0]
            if kind == _PACKET_HDR and size == 11:
                packet_id = _BE32(buffer, offset + 4)[0]
            elif kind == _PAYLOAD and packet_id:
                self._last_id[queue] = packet_id
                partial = info & (_INFO_CSUM_NOT_READY | _INFO_GSO) == _INFO_CSUM_NOT_READY
                if partial:
                    self._partial.add((queue, packet_id))
                payload = buffer[offset + 4 : after]
                packets.append(
                    _new(Packet, (packet_id, queue, interface_index, mark & ~ACCEPT_BIT, payload, partial, 0))
                )
                return
            offset = (after + 3) & ~3
        self._not_understood(queue, packet_id)

    def _not_understood(self, queue: int, packet_id: int) -> None:
        """A malformed message, or a packet too long to be copied whole: it goes on as it is, without our mark."""
        self._trouble().malformed_messages += 1
        if packet_id:
            self._send(_verdict_head(queue, _NF_ACCEPT, 32) + _pack_be32(packet_id))

    def _other(self, buffer: mmap.mmap | bytes, start: int, length: int) -> None:
        """The kernel refuses a verdict (its packet is gone with its interface); the sequence number says which kind."""
        if length >= 36 and _ATTRIBUTE(buffer, start + 4)[0] == _NLMSG_ERROR:
            original_type, _, original_sequence = _ERROR_ORIGINAL(buffer, start + 24)
            if original_type == _MSG_VERDICT:
                troubles = self._trouble()
                troubles.refused_verdicts += 1
                troubles.refused_accepts += original_sequence
                return
        self._trouble().malformed_messages += 1

    def _trouble(self) -> Troubles:
        if self.troubles is None:
            self.troubles = Troubles()
        return self.troubles

    # -- sending -----------------------------------------------------------------------------------------------------

    def build(self, actions: Sequence[Action]) -> VerdictBatch:
        """The verdicts as messages, in as few sends as the socket allows: one, but for huge batches."""
        parts: list[bytes] = []
        chunks: list[bytes] = []
        injects: list[Inject] = []
        accepts = drops = size = 0
        heads = self._mangling_heads
        marks = self._marks
        for action in actions:
            if isinstance(action, Inject):
                injects.append(action)
                continue
            packet_id, queue, accept, mark, payload = action
            if self._partial and (queue, packet_id) in self._partial:
                self._partial.discard((queue, packet_id))
                payload = finish_checksum(payload) if payload is not None else None
            if not accept:
                parts += (self._head(queue, _NF_DROP), _pack_be32(packet_id))
                drops += 1
                size += 32
                continue
            accepts += 1
            mark_attribute = marks.get(mark) or self._mark_attribute(mark)
            if payload is None or not 0 < len(payload) <= _PAYLOAD_MAX:
                parts += (self._head(queue, _NF_ACCEPT), _pack_be32(packet_id), mark_attribute)
                size += 40
                continue
            length = len(payload)
            head, payload_head, padding = heads.get((queue, length)) or self._mangling_head(queue, length)
            parts += (head, _pack_id_mark(packet_id, mark_attribute, payload_head), payload, padding)
            size += length + 47
            if size > self.send_chunk_bytes:
                chunks.append(b"".join(parts))
                parts.clear()
                size = 0
        if parts:
            chunks.append(b"".join(parts))
        return VerdictBatch(accepts, drops, chunks, injects)

    def send(self, batch: VerdictBatch) -> None:
        """Sends what `build` made. When it returns the packets have gone out."""
        for chunk in batch.chunks:
            while True:
                try:
                    self._send(chunk)
                    break
                except InterruptedError:
                    continue
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
        for inject in batch.injects:
            if not self._injector.send(inject):
                self._trouble().injects_failed += 1

    def _head(self, queue: int, verdict: int) -> bytes:
        """A verdict without a new payload, up to the packet's id. An accept is followed by a mark attribute."""
        head = self._heads.get((queue, verdict))
        if head is None:
            length = 40 if verdict == _NF_ACCEPT else 32
            head = self._heads[(queue, verdict)] = _verdict_head(queue, verdict, length)
        return head

    def _mangling_head(self, queue: int, length: int) -> tuple[bytes, bytes, bytes]:
        """What surrounds a new payload of that length: head, payload attribute's head, padding."""
        padding = bytes(-length & 3)
        head = _verdict_head(queue, _NF_ACCEPT, 44 + length + len(padding))
        found = (head, struct.pack("=HH", 4 + length, _PAYLOAD), padding)
        if len(self._mangling_heads) < _CACHE_ENTRIES_MAX:
            self._mangling_heads[(queue, length)] = found
        return found

    def _mark_attribute(self, mark: int) -> bytes:
        attribute = _attribute(_MARK, struct.pack("!I", (mark | ACCEPT_BIT) & 0xFFFF_FFFF))
        if len(self._marks) < _CACHE_ENTRIES_MAX:
            self._marks[mark] = attribute
        return attribute


@dataclass(slots=True, kw_only=True)
class Troubles:
    """What went wrong since they were last taken; packets went on all the same, or were gone with their interface."""

    malformed_messages: int = 0
    refused_verdicts: int = 0
    refused_accepts: int = 0
    injects_failed: int = 0


class VerdictBatch(NamedTuple):
    """Verdicts ready to be sent: how many accept and drop, the messages, and the packets to inject."""

    accepts: int
    drops: int
    chunks: list[bytes]
    injects: list[Inject]


class _ReceiveSlots:
    """The buffers of `recvmmsg`: allocated once, pages touched only as far as packets reach."""

    def __init__(self, descriptor: int) -> None:
        self.buffer = mmap.mmap(-1, BATCH_PACKETS * _SLOT_BYTES)
        self.early: list[bytes] = []  # packets that came while we waited for an acknowledgement
        self._descriptor = descriptor
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        self._vectors = (_IoVector * BATCH_PACKETS)()
        self._messages = (_MultiMessage * BATCH_PACKETS)()
        for index in range(BATCH_PACKETS):
            self._vectors[index].base = base + index * _SLOT_BYTES
            self._vectors[index].length = _SLOT_BYTES
            self._messages[index].vector = ctypes.addressof(self._vectors[index])
            self._messages[index].vector_count = 1
        self._address = ctypes.addressof(self._messages)
        self._words = memoryview(self._messages).cast("B").cast("I")
        self._receive = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        self._receive.restype = ctypes.c_int

    def receive(self) -> list[int]:
        """Fills the slots from the first on; the lengths of the messages in them."""
        count = self._receive(self._descriptor, self._address, BATCH_PACKETS, socket.MSG_DONTWAIT, None)
        if count <= 0:
            # Nothing there, interrupted, or ENOBUFS (packets were lost to a full buffer, and counted by the rules).
            return []
        return self._words[_LENGTH_WORD : _LENGTH_WORD + count * _MESSAGE_WORDS : _MESSAGE_WORDS].tolist()


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MultiMessage(ctypes.Structure):
    """struct mmsghdr of a 64-bit machine."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),  # an int and the padding at the end of struct msghdr
        ("received_bytes", ctypes.c_uint32),
    )


_MESSAGE_WORDS: Final = ctypes.sizeof(_MultiMessage) // 4
_LENGTH_WORD: Final = _MultiMessage.received_bytes.offset // 4


class _Injector:
    """Sends whole packets by raw sockets, which are opened when first needed."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def send(self, inject: Inject) -> bool:
        """False when it could not be sent: no route, a full queue, not a packet. It is lost as on any link."""
        payload = inject.payload
        version = payload[0] >> 4 if payload else 0
        try:
            if version == 4 and len(payload) >= 20:
                self._marked(socket.AF_INET, inject.mark).sendto(payload, (socket.inet_ntoa(payload[16:20]), 0))
                return True
            if version == 6 and len(payload) >= 40:
                destination = socket.inet_ntop(socket.AF_INET6, payload[24:40])
                self._marked(socket.AF_INET6, inject.mark).sendto(payload, (destination, 0))
                return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        for raw in self._sockets.values():
            raw.close()
        self._sockets.clear()

    def _marked(self, family: int, mark: int) -> socket.socket:
        raw = self._sockets.get(family)
        if raw is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            raw = self._sockets[family] = socket.socket(family, kind, socket.IPPROTO_RAW)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        return raw


def _verdict_head(queue: int, verdict: int, length: int) -> bytes:
    """Up to the packet's id. The sequence number comes back in a refusal: 1 for an accept, 0 for a drop."""
    header = _HEADER.pack(length, _MSG_VERDICT, _NLM_F_REQUEST, verdict, 0) + struct.pack("!BBH", 0, 0, queue)
    return header + struct.pack("=HH", 12, _VERDICT_HDR) + struct.pack("!I", verdict)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) & 3)


def _raise_buffer(netlink: socket.socket, force: int, option: int, size: int) -> None:
    """As large as we may: past the system's limit only with CAP_NET_ADMIN in the initial user namespace."""
    try:
        netlink.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        netlink.setsockopt(socket.SOL_SOCKET, option, size)
