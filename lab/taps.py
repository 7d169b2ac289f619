"""Taps on both ends of every cable: one process that captures in all namespaces at once and adds up.

Decides nothing about packets (`lab.witness` does). "Sent" is what a kernel handed to the device after its queueing
discipline (PACKET_OUTGOING at the sending end), "received" what came in at the other end before anything else saw it.
A filter in the kernel lets only packets through that can carry a payment, so that a flood costs nothing here; what
the kernel could not store is counted and shown: a tap that dropped is no witness.

The process is told what to watch by one line of JSON on standard input, then answers each further line "report" with
a line of tallies, and ends at end of file. Source: packet_mmap (TPACKET_V3), packet(7), linux/filter.h."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import msgspec

from billpay.errors import EnvironmentFault
from lab.namespaces import end_process, inside_namespace, outliving_nobody
from lab.pcap import CaptureFile
from lab.witness import Tally, parse_frame

_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_TPACKET_V3 = 2
_SO_ATTACH_FILTER = 26
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_BLOCK_BYTES = 1 << 16
_BLOCKS = 32  # 2 MiB for each end: more than a second of 8,000 packets/s
_BLOCKS_FOR_FILES = 128
_RETIRE_MS = 15  # a block is handed over at the latest after this time
_POLL_S = 0.02
_SNAP_BYTES = 256  # Ethernet, tunnel, both IP headers with options, UDP, a packet number
_WHOLE = 0x40000
_STATUS_USER = 1
_STATUS_OFFSET = 8
_BLOCK_HEADER = struct.Struct("@III")  # status, packets, offset of the first (at 8 in the block)
_FRAME_HEADER = struct.Struct("@IIIIIIHH")  # next, s, ns, stored, whole, status, mac, net
_PACKET_TYPE_OFFSET = 48 + 10  # tpacket3_hdr is 48 bytes, then sockaddr_ll
_REPORT_WAIT_S = 0.08  # longer than _RETIRE_MS: what was on the wire before a report is in it


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a cable to be watched."""

    label: str  # "A-X@A"
    pid: int  # a process in the namespace
    interface: str
    sender_as: int  # AS whose gateway sends from this end; 0: a host
    peer_as: int  # the same for what comes in


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    watches: tuple[Watch, ...]
    directory: str = ""  # where capture files go; "": none


class TallyReport(msgspec.Struct, frozen=True, kw_only=True):
    packets: int
    nanodollars: int
    passed_packets: int
    passed_nanodollars: int
    malformed: int
    followed: tuple[tuple[int, int, int], ...]  # (stream, sequence, amount)
    moments: tuple[tuple[int, int, int], ...] = ()  # (stream, unix time in MOMENT_NS, packets)


class EndReport(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    sent: TallyReport
    received: TallyReport
    captured: int  # frames that the kernel gave us
    dropped: int  # frames that it could not store: the tallies are too small then


class TapReport(msgspec.Struct, frozen=True, kw_only=True):
    ends: tuple[EndReport, ...]


def payment_filter() -> list[tuple[int, int, int, int]]:
    """Classic BPF: IPv4 with options, IPv6 with a hop-by-hop header, the gateways' UDP tunnel; cut to _SNAP_BYTES."""
    load_half, load_byte, and_, jump_equal, jump_greater, answer = 0x28, 0x30, 0x54, 0x15, 0x25, 0x06
    return [
        (load_half, 0, 0, 12),
        (jump_equal, 0, 7, 0x0800),  # else to IPv6 (index 9)
        (load_byte, 0, 0, 14),
        (and_, 0, 0, 0x0F),
        (jump_greater, 10, 0, 5),  # options: take it (index 15)
        (load_byte, 0, 0, 23),
        (jump_equal, 0, 7, 17),  # else leave it (index 14)
        (load_half, 0, 0, 36),  # UDP destination port behind 20 bytes of IPv4
        (jump_equal, 6, 5, 7415),
        (jump_equal, 0, 4, 0x86DD),
        (load_byte, 0, 0, 20),
        (jump_equal, 3, 0, 0),  # hop-by-hop: take it
        (load_half, 0, 0, 56),  # UDP destination port behind 40 bytes of IPv6 (any next header: the parser decides)
        (jump_equal, 1, 0, 7415),
        (answer, 0, 0, 0),
        (answer, 0, 0, _SNAP_BYTES),
    ]


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("@HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


class Tap:
    """A capture ring on one interface."""

    def __init__(self, watch: Watch, directory: Path | None) -> None:
        self.watch = watch
        self.sent = Tally(expected_as=watch.sender_as)
        self.received = Tally(expected_as=watch.peer_as)
        self.captured = 0
        self.dropped = 0
        self._blocks = _BLOCKS_FOR_FILES if directory else _BLOCKS
        self._next = 0
        self._file = CaptureFile(directory / f"{watch.label}.pcap") if directory else None
        self._socket = inside_namespace(watch.pid, self._open)
        self._ring = mmap.mmap(self._socket.fileno(), _BLOCK_BYTES * self._blocks)

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            _attach(sock, [(0x06, 0, 0, _WHOLE)] if self._file else payment_filter())
            sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
            frames = _BLOCK_BYTES * self._blocks // 2048
            ring = struct.pack("@7I", _BLOCK_BYTES, self._blocks, 2048, frames, _RETIRE_MS, 0, 0)
            sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
            sock.bind((self.watch.interface, _ETH_P_ALL))
        except OSError as fault:
            sock.close()
            raise EnvironmentFault("capture on", self.watch.interface, fault.strerror) from fault
        return sock

    def drain(self) -> None:
        """Counts all blocks that the kernel has handed over."""
        ring = self._ring
        while True:
            base = self._next * _BLOCK_BYTES
            status, packets, first = _BLOCK_HEADER.unpack_from(ring, base + _STATUS_OFFSET)
            if not status & _STATUS_USER:
                return
            self._count_block(base + first, packets)
            ring[base + _STATUS_OFFSET : base + _STATUS_OFFSET + 4] = b"\0\0\0\0"
            self._next = (self._next + 1) % self._blocks

    def _count_block(self, at: int, packets: int) -> None:
        ring, sent, received = self._ring, self.sent, self.received
        for _ in range(packets):
            step, second, nanosecond, stored, whole, _, mac, _ = _FRAME_HEADER.unpack_from(ring, at)
            frame = ring[at + mac : at + mac + stored]
            outgoing = ring[at + _PACKET_TYPE_OFFSET] == _PACKET_OUTGOING
            (sent if outgoing else received).count(parse_frame(frame), second * 1_000_000_000 + nanosecond)
            if self._file is not None:
                self._file.write(frame, second=second, nanosecond=nanosecond, whole_bytes=whole)
            at += step
        self.captured += packets

    def report(self) -> EndReport:
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)  # reading sets them to 0
        self.dropped += struct.unpack("@III", statistics)[1]
        if self._file is not None:
            self._file.flush()
        return EndReport(
            label=self.watch.label,
            sent=_tally_report(self.sent),
            received=_tally_report(self.received),
            captured=self.captured,
            dropped=self.dropped,
        )

    def close(self) -> None:
        self._ring.close()
        self._socket.close()
        if self._file is not None:
            self._file.close()


def _tally_report(tally: Tally) -> TallyReport:
    return TallyReport(
        packets=tally.packets,
        nanodollars=tally.nanodollars,
        passed_packets=tally.passed_packets,
        passed_nanodollars=tally.passed_nanodollars,
        malformed=tally.malformed,
        followed=tuple((stream, sequence, amount) for (stream, sequence), amount in tally.followed.items()),
        moments=tuple((stream, at, n) for stream, counts in tally.moments.items() for at, n in counts.items()),
    )


def watch_all(orders: IO[bytes], answers: IO[bytes]) -> None:
    """The process: capture until the orders end."""
    order = msgspec.json.decode(orders.readline(), type=Orders)
    directory = Path(order.directory) if order.directory else None
    taps = [Tap(watch, directory) for watch in order.watches]
    answers.write(b"ready\n")
    answers.flush()
    while True:
        readable, _, _ = select.select([orders], [], [], _POLL_S)
        for tap in taps:
            tap.drain()
        if not readable:
            continue
        if not os.read(orders.fileno(), 1 << 12):
            break
        deadline_s = time.monotonic() + _REPORT_WAIT_S
        while time.monotonic() < deadline_s:
            time.sleep(0.01)
            for tap in taps:
                tap.drain()
        report = TapReport(ends=tuple(tap.report() for tap in taps))
        answers.write(msgspec.json.encode(report) + b"\n")
        answers.flush()
    for tap in taps:
        tap.close()


class Taps:
    """The lab's handle on the capturing process."""

    def __init__(self, orders: Orders, errors: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            outliving_nobody([sys.executable, "-m", "lab.taps"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        self._say(msgspec.json.encode(orders))
        if self._answer().strip() != b"ready":
            self.close()
            raise EnvironmentFault("start", "the taps", "they did not get ready", "see taps.log")

    def report(self) -> TapReport:
        """Everything that was on the wire until now.  Raises EnvironmentFault when the taps died."""
        self._say(b"report")
        return msgspec.json.decode(self._answer(), type=TapReport)

    def close(self) -> None:
        end_process(self._process)

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as fault:
            raise EnvironmentFault("ask", "the taps", "they ended", "see taps.log") from fault

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EnvironmentFault("ask", "the taps", "they ended", "see taps.log")
        return line


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the lab's to handle
    orders = os.fdopen(os.dup(0), "rb", buffering=0)
    watch_all(orders, sys.stdout.buffer)


if __name__ == "__main__":
    _main()
