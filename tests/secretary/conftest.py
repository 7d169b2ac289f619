"""A real secretary: its own process, started by the one command, reached over its socket."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neighbour.identity import PeerCertificate

RULES = """
[[rules]]
name = "web"
protocol = "tcp"
destination = ["10.0.2.0/24"]
ports = [443]
amount_nanodollars = 20
grant_nanodollars = 100
burst_nanodollars = 40

[[rules]]
name = "backup"
protocol = "tcp"
ports = [873]
strategy = "bulk"
willingness_nanodollars = 200
target_bit_s = 50_000_000
grant_nanodollars = 1000
"""
DEADLINE_S = 20.0


class RealSecretary:
    """One state directory and its file; the process comes and goes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.socket = self.state / "secretary.sock"
        self.config = directory / "secretary.toml"
        self.process: subprocess.Popen[str] | None = None
        self.configure()

    def configure(self, rules: str = RULES, *, day: int = 100_000, socket: str = "", more: str = "") -> None:
        """`more`: other tables."""
        self.config.write_text(
            f'[secretary]\nname = "a"\nstate_directory = "{self.state}"\nsocket = "{socket}"\n'
            f"[budget]\nday_nanodollars = {day}\n"
            f"[returns]\nshare_nanodollars = 1\nfloat_nanodollars = 30\nday_nanodollars = 1000\n{more}{rules}"
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "cli.main", "secretary", "run", "--config", str(self.config)]

    @property
    def public_key(self) -> bytes:
        return PeerCertificate.read(self.state / "node.pem").public_key

    def start(self) -> None:
        """Returns when it says that it is up."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if " is up" in line:
                return
        raise AssertionError("".join(said))

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Its exit code, and what else it said."""
        assert self.process is not None
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=DEADLINE_S)
        code, self.process = self.process.returncode, None
        return code, said

    def fails(self) -> subprocess.CompletedProcess[str]:
        """A start that has to fail."""
        return subprocess.run(self.command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)


@pytest.fixture
def secretary(tmp_path: Path) -> Iterator[RealSecretary]:
    """Started; in a short path, since a socket's is bounded."""
    real = RealSecretary(tmp_path)
    try:
        real.start()
        yield real
    finally:
        if real.process is not None:
            real.end(signal.SIGKILL)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[RealSecretary]:
    """Not started yet."""
    real = RealSecretary(tmp_path)
    try:
        yield real
    finally:
        if real.process is not None:
            real.end(signal.SIGKILL)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.01)

    return wait
