"""Traffic of the lab's own: a paced UDP stream and a numbered one-to-one UDP exchange; each a small process in a
namespace.

Decides: when the next datagram leaves (`Pace`). Refuses to know: Bill-Pay (the programs are ordinary applications;
the agent pays for their packets or does not). TCP is driven by unmodified programs, see `lab.transfers`.

    python -m lab.traffic flood  DESTINATION PORT PACKETS_PER_S PAYLOAD_BYTES SECONDS
    python -m lab.traffic sink   ADDRESS PORT
    python -m lab.traffic ask    DESTINATION PORT PACKETS_PER_S PAYLOAD_BYTES SECONDS STREAM FLOWS
    python -m lab.traffic answer ADDRESS PORT

All but the first two argument words are numbers or addresses. Each prints one line of JSON (`Counted`) when it ends:
after SECONDS, or at SIGTERM."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from lab.witness import NUMBERED_BYTES, NUMBERED_MAGIC

_BUFFER_BYTES = 1 << 21
_MOST_AT_ONCE = 32  # datagrams sent without looking up: a late start is caught up in small steps
_LINGER_S = 0.5  # the asker waits so long for the last replies
_TICK_S = 0.1


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a traffic process did."""

    sent: int = 0
    received: int = 0
    received_bytes: int = 0  # payload
    seconds: float = 0.0
    median_us: int | None = None  # exchange: round trip


class Pace:
    """When datagrams are due: number k at start + k / rate.  Late ones go at once, up to a bounded backlog."""

    def __init__(self, *, packets_per_s: int, start_ns: int) -> None:
        self._interval_ns = 1_000_000_000 // packets_per_s
        self._next_ns = start_ns

    def due(self, now_ns: int) -> int:
        """How many may go now."""
        if now_ns < self._next_ns:
            return 0
        count = min((now_ns - self._next_ns) // self._interval_ns + 1, _MOST_AT_ONCE)
        self._next_ns += count * self._interval_ns
        if self._next_ns < now_ns - _MOST_AT_ONCE * self._interval_ns:
            self._next_ns = now_ns  # we were stopped for long: do not make up for it with a burst
        return count

    def wait_s(self, now_ns: int) -> float:
        return max(0, self._next_ns - now_ns) / 1e9


class _Ending:
    """SIGTERM asks a process to finish and print its count."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True


def _udp_to(destination: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.connect((destination, port))
    return sock


def _udp_at(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.bind((address, port))
    sock.settimeout(_TICK_S)
    return sock


def numbered_payload(stream: int, sequence: int, size_bytes: int) -> bytes:
    head = NUMBERED_MAGIC + stream.to_bytes(2, "big") + sequence.to_bytes(8, "big")
    return head.ljust(max(size_bytes, NUMBERED_BYTES), b"\0")


def flood(destination: str, port: int, packets_per_s: int, payload_bytes: int, seconds: float) -> Counted:
    """Sends and never listens."""
    ending = _Ending()
    sock = _udp_to(destination, port)
    payload = bytes(payload_bytes)
    start_ns = time.monotonic_ns()
    end_ns = start_ns + int(seconds * 1e9)
    pace = Pace(packets_per_s=packets_per_s, start_ns=start_ns)
    sent = 0
    while not ending.asked and (now_ns := time.monotonic_ns()) < end_ns:
        for _ in range(pace.due(now_ns)):
            with contextlib.suppress(ConnectionRefusedError, BlockingIOError):  # nobody listens: still a flood
                sock.send(payload)
                sent += 1
        time.sleep(min(_TICK_S, pace.wait_s(time.monotonic_ns())))
    return Counted(sent=sent, seconds=(time.monotonic_ns() - start_ns) / 1e9)


def sink(address: str, port: int) -> Counted:
    """Receives and counts."""
    ending = _Ending()
    sock = _udp_at(address, port)
    received = received_bytes = 0
    start_ns = time.monotonic_ns()
    while not ending.asked:
        with contextlib.suppress(TimeoutError):
            received_bytes += len(sock.recv(1 << 16))
            received += 1
    return Counted(received=received, received_bytes=received_bytes, seconds=(time.monotonic_ns() - start_ns) / 1e9)


def answer(address: str, port: int) -> Counted:
    """Sends each datagram back where it came from: one reply for one request."""
    ending = _Ending()
    sock = _udp_at(address, port)
    received = sent = received_bytes = 0
    while not ending.asked:
        with contextlib.suppress(TimeoutError):
            payload, peer = sock.recvfrom(1 << 16)
            received += 1
            received_bytes += len(payload)
            sent += sock.sendto(payload, peer) == len(payload)
    return Counted(received=received, received_bytes=received_bytes, sent=sent)


def ask(
    destination: str, port: int, packets_per_s: int, payload_bytes: int, seconds: float, stream: int, flows: int = 1
) -> Counted:
    """Numbered requests at a steady pace, from as many ports as there are flows; counts the replies and how long they
    took."""
    ending = _Ending()
    sockets = [_udp_to(destination, port) for _ in range(flows)]
    for sock in sockets:
        sock.setblocking(False)
    start_ns = time.monotonic_ns()
    end_ns = start_ns + int(seconds * 1e9)
    pace = Pace(packets_per_s=packets_per_s, start_ns=start_ns)
    sent_at: dict[int, int] = {}
    times_ns: list[int] = []
    sent = 0
    while not ending.asked:
        now_ns = time.monotonic_ns()
        if now_ns >= end_ns + (int(_LINGER_S * 1e9) if sent_at else 0):
            break
        for _ in range(pace.due(now_ns) if now_ns < end_ns else 0):
            with contextlib.suppress(OSError):
                sockets[sent % flows].send(numbered_payload(stream, sent, payload_bytes))
                sent_at[sent] = time.monotonic_ns()
            sent += 1
        wait_s = pace.wait_s(time.monotonic_ns()) if now_ns < end_ns else _TICK_S
        readable, _, _ = select.select(sockets, [], [], min(_TICK_S, wait_s))
        for sock in readable:
            _take_replies(sock, sent_at, times_ns)
    times_ns.sort()
    return Counted(
        sent=sent,
        received=len(times_ns),
        received_bytes=len(times_ns) * payload_bytes,
        seconds=(time.monotonic_ns() - start_ns) / 1e9,
        median_us=times_ns[len(times_ns) // 2] // 1000 if times_ns else None,
    )


def _take_replies(sock: socket.socket, sent_at: dict[int, int], times_ns: list[int]) -> None:
    with contextlib.suppress(OSError):  # nothing there any more (or nobody listens yet)
        while True:
            reply = sock.recv(1 << 16)
            sequence = int.from_bytes(reply[len(NUMBERED_MAGIC) + 2 : NUMBERED_BYTES], "big")
            started_ns = sent_at.pop(sequence, None)
            if started_ns is not None:
                times_ns.append(time.monotonic_ns() - started_ns)


def _main(arguments: list[str]) -> None:
    does, address, *numbers = arguments
    programs: dict[str, Callable[[], Counted]] = {
        "flood": lambda: flood(address, int(numbers[0]), int(numbers[1]), int(numbers[2]), float(numbers[3])),
        "sink": lambda: sink(address, int(numbers[0])),
        "answer": lambda: answer(address, int(numbers[0])),
        "ask": lambda: ask(
            address, int(numbers[0]), int(numbers[1]), int(numbers[2]), float(numbers[3]), *map(int, numbers[4:])
        ),
    }
    sys.stdout.buffer.write(msgspec.json.encode(programs[does]()) + b"\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
