"""A wire that takes time and harms: forwards frames between two interfaces with delay, loss and reordering.

Decides: which frame is lost, which is overtaken, when each goes on: a pure core (`WireCore`) with random draws passed
in, and a small process around it. Refuses to know: what is in the frames, and rates (a TBF does that). One process
serves all cables. Each direction holds at most _MAX_FRAMES frames; a frame that finds it full is dropped and counted,
as a real queue would."""

from __future__ import annotations

import heapq
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO

import msgspec

from billpay.errors import EnvironmentFault
from lab.namespaces import end_process

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_MAX_FRAMES = 4000
_MAX_FRAME_BYTES = 1 << 16
_RECEIVE_BUFFER_BYTES = 1 << 22
_BATCH = 64  # frames read from one interface before the next one has its turn
_REORDER_BY_NS = 3_000_000  # an overtaken frame waits this much longer than the others
_IDLE_S = 0.5


class Harm(msgspec.Struct, frozen=True, kw_only=True):
    """What a wire does to frames, the same in both directions."""

    delay_ns: int = 0
    loss_ppm: int = 0
    reorder_ppm: int = 0


class WireOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One wire: its interfaces, what it does, and the seed of its draws."""

    name: str
    interfaces: tuple[str, str]
    harm: Harm
    seed: int


class WireReport(msgspec.Struct, frozen=True, kw_only=True):
    """Frames since the start, both directions together."""

    name: str
    forwarded: int
    lost: int
    reordered: int
    overflowed: int


class WireCore:
    """One direction.  `draw()` gives a number in [0, 1)."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._waiting: list[tuple[int, int, bytes]] = []  # (due, order, frame)
        self._order = 0
        self.lost = 0
        self.reordered = 0
        self.overflowed = 0
        self.forwarded = 0

    def on_frame(self, frame: bytes, harm: Harm, now_ns: int) -> None:
        if harm.loss_ppm and self._draw() * 1_000_000 < harm.loss_ppm:
            self.lost += 1
            return
        if len(self._waiting) >= _MAX_FRAMES:
            self.overflowed += 1
            return
        due_ns = now_ns + harm.delay_ns
        if harm.reorder_ppm and self._draw() * 1_000_000 < harm.reorder_ppm:
            self.reordered += 1
            due_ns += _REORDER_BY_NS
        self._order += 1
        heapq.heappush(self._waiting, (due_ns, self._order, frame))

    def take_due(self, now_ns: int) -> list[bytes]:
        due: list[bytes] = []
        while self._waiting and self._waiting[0][0] <= now_ns:
            due.append(heapq.heappop(self._waiting)[2])
        self.forwarded += len(due)
        return due

    def next_deadline_ns(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None


class _Wire:
    def __init__(self, order: WireOrder) -> None:
        self.order = order
        self.harm = order.harm
        rng = random.Random(order.seed)  # noqa: S311 - a repeatable experiment, not a secret
        self.cores = (WireCore(rng.random), WireCore(rng.random))
        self.sockets = tuple(_frames_of(interface) for interface in order.interfaces)

    def forward(self, direction: int, now_ns: int) -> None:
        core = self.cores[direction]
        for frame in core.take_due(now_ns):
            try:
                self.sockets[1 - direction].send(frame)
            except OSError:  # ENOBUFS, or the interface is going down
                core.overflowed += 1

    def read(self, direction: int, now_ns: int) -> None:
        sock, core = self.sockets[direction], self.cores[direction]
        for _ in range(_BATCH):
            try:
                frame = sock.recv(_MAX_FRAME_BYTES)
            except OSError:  # EAGAIN, or the interface is going down
                return
            core.on_frame(frame, self.harm, now_ns)

    def report(self) -> WireReport:
        one, other = self.cores
        return WireReport(
            name=self.order.name,
            forwarded=one.forwarded + other.forwarded,
            lost=one.lost + other.lost,
            reordered=one.reordered + other.reordered,
            overflowed=one.overflowed + other.overflowed,
        )


def _frames_of(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    sock.setblocking(False)
    sock.bind((interface, _ETH_P_ALL))
    return sock


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the lab to the process: new harm for one wire ("": only a report is wanted)."""

    name: str = ""
    harm: Harm = Harm()


def carry(orders: IO[bytes], answers: IO[bytes]) -> None:
    """The process: first a line with all wires, then a line for each change; every line is answered with a report."""
    wires = [_Wire(order) for order in msgspec.json.decode(orders.readline(), type=list[WireOrder])]
    directions = {sock.fileno(): (wire, k) for wire in wires for k, sock in enumerate(wire.sockets)}
    answers.write(b"ready\n")
    answers.flush()
    while True:
        deadlines = [core.next_deadline_ns() for wire in wires for core in wire.cores]
        due_ns = min((deadline for deadline in deadlines if deadline is not None), default=None)
        wait_s = _IDLE_S if due_ns is None else max(0, due_ns - time.monotonic_ns()) / 1e9
        readable, _, _ = select.select([*directions, orders.fileno()], [], [], wait_s)
        now_ns = time.monotonic_ns()
        for ready in readable:
            if ready in directions:
                wire, direction = directions[ready]
                wire.read(direction, now_ns)
                continue
            line = orders.readline()
            if not line:
                return
            change = msgspec.json.decode(line, type=Change)
            for wire in wires:
                if wire.order.name == change.name:
                    wire.harm = change.harm
            answers.write(msgspec.json.encode([wire.report() for wire in wires]) + b"\n")
            answers.flush()
        for wire in wires:
            wire.forward(0, now_ns)
            wire.forward(1, now_ns)


class Wires:
    """The lab's handle on the wire process; `argv_in_namespace` makes a command run inside the wires' namespace."""

    def __init__(
        self, orders: list[WireOrder], argv_in_namespace: Callable[[list[str]], list[str]], errors: IO[bytes]
    ) -> None:
        self._process = subprocess.Popen(
            argv_in_namespace([sys.executable, "-m", "lab.wire"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        if self._ask(msgspec.json.encode(orders)).strip() != b"ready":
            self.close()
            raise EnvironmentFault("start", "the wires", "they did not get ready", "see wires.log")

    def change(self, name: str, harm: Harm) -> list[WireReport]:
        return msgspec.json.decode(self._ask(msgspec.json.encode(Change(name=name, harm=harm))), type=list[WireReport])

    def report(self) -> list[WireReport]:
        return self.change("", Harm())

    def close(self) -> None:
        end_process(self._process)

    def _ask(self, line: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise EnvironmentFault("ask", "the wires", "they ended", "see wires.log")
        return answer


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the lab's to handle
    carry(os.fdopen(os.dup(0), "rb", buffering=0), sys.stdout.buffer)


if __name__ == "__main__":
    _main()
