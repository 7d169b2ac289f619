"""Builds and runs generator.c: the traffic of this bench. Decides nothing.

Needs a C compiler (clang, which the eBPF programs need anyway, or whatever `cc` is).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.hostplane.hosts import line_of, result_of, stop
from bench.payments.network import A_LINK, DESTINATION, SOURCE, Host, Network
from bench.payments.packets import FIRST_PORT, Carries, Shape, heads
from billpay.errors import EnvironmentFault

SOURCE_FILE: Final = Path(__file__).with_name("generator.c")
SETTLE_S: Final = 0.01
MINUTE_S: Final = 60


def build(directory: Path) -> str:
    """The program's path. Raises EnvironmentFault."""
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise EnvironmentFault("build", SOURCE_FILE.name, "there is no C compiler", "install clang")
    program = str(directory / "generator")
    subprocess.run([compiler, "-O2", "-o", program, str(SOURCE_FILE)], check=True)
    return program


@dataclass(frozen=True, slots=True, kw_only=True)
class Volley:
    """What was sent, in how long, and what arrived of it."""

    sent: int
    arrived: int
    seconds: float


class Generator:
    """Sends from one core, and echoes and receives on another one where there is one."""

    def __init__(self, network: Network) -> None:
        """Raises EnvironmentFault when there is no compiler."""
        self._network = network
        self._program = build(network.directory)
        cores = sorted(os.sched_getaffinity(0))
        self.core, self.other_core = str(cores[0]), str(cores[-1])
        self._heads: dict[tuple[Shape, Carries], tuple[int, Path, int]] = {}

    def start(self, host: Host, *words: object) -> subprocess.Popen[str]:
        return host.start(self._program, *map(str, words), stdout=subprocess.PIPE)

    def frames(self, shape: Shape, carries: Carries, seconds: float) -> subprocess.Popen[str]:
        """Straight to a's interface, as they are."""
        path, size = self._heads_of(shape, carries)
        return self.start(self._network.a, "frames", A_LINK, path, size, shape.payload_bytes, seconds, self.core)

    def datagrams(self, shape: Shape, seconds: float) -> subprocess.Popen[str]:
        """By sockets, as programs send."""
        ends = SOURCE[shape.family], DESTINATION[shape.family]
        words = (*ends, shape.flows, FIRST_PORT, shape.payload_bytes, seconds, self.core)
        return self.start(self._network.a, "datagrams", *words)

    def volley_of(self, start: subprocess.Popen[str], arrived_before: int) -> Volley:
        """Of a sender that was just started; what is still on its way is waited for."""
        sent, took_ns = map(int, result_of(start).split())
        time.sleep(SETTLE_S)
        arrived = self._network.arrived_packets() - arrived_before
        return Volley(sent=sent, arrived=arrived, seconds=took_ns / 1e9)

    @contextmanager
    def echoing(self, family: int, port: int) -> Iterator[None]:
        process = self.start(self._network.b, "echo", DESTINATION[family], port, self.core)
        try:
            line_of(process)
            yield
        finally:
            stop(process)

    def ping(self, family: int, port: int, count: int, option: str) -> list[int]:
        """Nanoseconds of each round trip; both ends on one core, so that waking another one does not hide what is
        measured."""
        ends = SOURCE[family], DESTINATION[family]
        return [
            int(word)
            for word in result_of(self.start(self._network.a, "ping", *ends, port, count, self.core, option)).split()
        ]

    @contextmanager
    def receiving(self, family: int, port: int) -> Iterator[subprocess.Popen[str]]:
        process = self.start(self._network.b, "receive", DESTINATION[family], port, self.other_core)
        try:
            line_of(process)
            yield process
        finally:
            stop(process)

    def stream(
        self, receiver: subprocess.Popen[str], family: int, port: int, seconds: float, option: str
    ) -> tuple[int, int]:
        """Bytes of payload that arrived, and nanoseconds."""
        ends = SOURCE[family], DESTINATION[family]
        sender = self.start(self._network.a, "stream", *ends, port, seconds, self.core, option, 0)
        result_of(sender)
        received, took_ns = map(int, line_of(receiver).split())
        return received, took_ns

    def _heads_of(self, shape: Shape, carries: Carries) -> tuple[Path, int]:
        """Made again in each minute: a MAC is of its minute."""
        minute = int(time.time()) // MINUTE_S if carries is Carries.MAC else 0
        made = self._heads.get((shape, carries))
        if made is None or made[0] != minute:
            made_bytes, size = heads(shape, carries, self._network.ethernet)
            path = self._network.directory / f"heads-{len(self._heads)}" if made is None else made[1]
            path.write_bytes(made_bytes)
            self._heads[shape, carries] = made = minute, path, size
        return made[1], made[2]
