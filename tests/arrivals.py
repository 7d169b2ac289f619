"""What arrives on an interface, packet by packet, with the kernel's time stamps: for rates over any second."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from netns import Namespace

NS_PER_S = 1_000_000_000
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("=qq")
_ETHERNET_BYTES = 14


@dataclass(slots=True)
class Arrivals:
    """Time and IP bytes of each packet, by the higher of protocol and port that it was sent to."""

    packets: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, frame: bytes, time_ns: int) -> None:
        packet = frame[_ETHERNET_BYTES:]
        version = packet[0] >> 4
        if version == 4:
            protocol, at, size = packet[9], (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        else:
            protocol, at, size = packet[6], 40, 40 + int.from_bytes(packet[4:6], "big")
        port = int.from_bytes(packet[at + 2 : at + 4], "big")
        self.packets.setdefault((protocol, port), []).append((time_ns, size))

    def rates_bit_s(self, protocol: int, port: int, *, start_ns: int = 0, step_ns: int = 50_000_000) -> list[int]:
        """Over every second of data, by steps, from `start_ns` after the first packet of data on."""
        packets = self.packets[(protocol, port)]
        first_ns = next(time_ns for time_ns, size in packets if size > 200)
        times = [time_ns for time_ns, _ in packets]
        sums = [0, *accumulate(size for _, size in packets)]
        rates = []
        begin_ns = first_ns + start_ns
        last_ns = max(time_ns for time_ns, size in packets if size > 200)
        while begin_ns + NS_PER_S <= last_ns:
            inside = sums[bisect_left(times, begin_ns + NS_PER_S)] - sums[bisect_left(times, begin_ns)]
            rates.append(inside * 8)
            begin_ns += step_ns
        return rates

    def bytes_between(self, protocol: int, port: int, start_ns: int, end_ns: int) -> int:
        """`start_ns` and `end_ns` on the clock of the time stamps (the wall clock)."""
        return sum(size for time_ns, size in self.packets.get((protocol, port), ()) if start_ns <= time_ns < end_ns)


@contextlib.contextmanager
def listening(host: Namespace, interface: str) -> Iterator[Arrivals]:
    """Everything that arrives there until the block is left."""
    arrivals, end = Arrivals(), threading.Event()

    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.bind((interface, 0x0003))
        opened.settimeout(0.1)
        return opened

    def listen() -> None:
        while not end.is_set():
            with contextlib.suppress(TimeoutError):
                frame, ancillary, _, address = opened.recvmsg(128, 64)
                if address[2] == socket.PACKET_OUTGOING or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                    continue
                seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                arrivals.add(frame, seconds * NS_PER_S + nanoseconds)

    opened = host.call(open_socket)
    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield arrivals
    finally:
        end.set()
        thread.join()
        opened.close()
