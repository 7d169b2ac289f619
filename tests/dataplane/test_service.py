"""The life of a daemon, as its service manager sees it: up, alive, reloading, hung, stopping.

Each daemon is a process of its own that talks to a socket of the tests' own, as it does to systemd.
"""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WATCHDOG_US = 600_000
WAIT_S = 10.0

PROGRAM = """
import asyncio, contextlib, sys, time
from pathlib import Path
from billpay.errors import ConfigurationError
from dataplane.service import serve

class Daemon:
    def __init__(self):
        self.beat_ns = time.monotonic_ns()
        self.rounds = 0
        self.hangs = set()

    @contextlib.asynccontextmanager
    async def running(self):
        print("starting", flush=True)
        if order("slow"):
            await asyncio.sleep(0.2)
        print("started", flush=True)
        try:
            yield
        finally:
            print("put back", flush=True)

    async def work(self):
        if order("broken"):
            raise ConfigurationError("file", "key", "cannot work", "mend it")
        while True:
            self.beat_ns = time.monotonic_ns()
            await asyncio.sleep(0.02)
            if order("loop-hangs"):
                time.sleep(60)
            while order("work-hangs"):
                await asyncio.sleep(0.02)

    def status_line(self):
        return "status " + (order("status") or "-")

    def heartbeat_ns(self):
        return self.beat_ns

    async def reload(self):
        self.rounds += 1
        print("reads", self.rounds, flush=True)
        await asyncio.sleep(0.1)
        if order("reload") == "wrong":
            raise ConfigurationError("file", "key", "is wrong", "write it right")
        if order("reload") == "bug":
            raise KeyError("a bug")

class Plain:
    running = Daemon.running

    async def work(self):
        await asyncio.Event().wait()

folder = Path(sys.argv[1])
def order(name):
    path = folder / name
    return path.read_text() if path.exists() else ""

made = Plain if order("plain") else Daemon
asyncio.run(serve("trial", folder / "state", made))
"""


class Trial:
    """A daemon, what it says to its manager, and what it prints."""

    def __init__(self, folder: Path, listening: socket.socket) -> None:
        self.folder = folder
        self._listening = listening
        self.process: subprocess.Popen[str] | None = None

    def order(self, name: str, text: str = "yes") -> None:
        (self.folder / f"{name}.new").write_text(text)
        (self.folder / f"{name}.new").replace(self.folder / name)

    def withdraw(self, name: str) -> None:
        (self.folder / name).unlink()

    def start(self, *, watchdog_us: int = 0, stdin: int = subprocess.DEVNULL) -> None:
        environment = {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(self.folder / "notify")}
        if watchdog_us:
            environment["WATCHDOG_USEC"] = str(watchdog_us)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.folder)],
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def running(self) -> subprocess.Popen[str]:
        assert self.process is not None
        return self.process

    def hear(self, *, within_s: float = WAIT_S) -> dict[str, str] | None:
        """The next thing that it says; None when it is silent for so long."""
        self._listening.settimeout(within_s)
        try:
            text = self._listening.recv(4096).decode()
        except TimeoutError:
            return None
        return dict(line.split("=", 1) for line in text.split("\n"))

    def hear_until(self, name: str) -> list[dict[str, str]]:
        said: list[dict[str, str]] = []
        while True:
            found = self.hear()
            assert found is not None, f"it never says {name}: {said}"
            said.append(found)
            if name in found:
                return said

    def end(self) -> tuple[int, list[str], list[str]]:
        out, err = self.running.communicate(timeout=WAIT_S)
        return self.running.returncode, out.splitlines(), err.splitlines()

    def stop(self) -> tuple[int, list[str], list[str]]:
        self.running.send_signal(signal.SIGTERM)
        return self.end()


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        made = Trial(tmp_path, listening)
        yield made
        if made.process is not None:
            made.process.kill()
            made.process.communicate()


@pytest.mark.expectation(23)
def test_it_is_ready_when_all_is_up_and_says_that_it_stops(trial: Trial) -> None:
    trial.order("slow")
    trial.start()
    assert trial.running.stdout is not None
    first = trial.hear()
    assert first == {"READY": "1", "STATUS": "status -"}
    assert [trial.running.stdout.readline().strip() for _ in range(2)] == ["starting", "started"]
    trial.running.send_signal(signal.SIGTERM)
    said = trial.hear_until("STOPPING")[-1]
    assert said == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "60000000", "STATUS": "stopping"}
    assert trial.end()[:2] == (0, ["put back"])


def test_a_second_signal_does_not_stop_it_from_putting_things_back(trial: Trial) -> None:
    trial.start()
    trial.hear_until("READY")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        trial.running.send_signal(number)
    assert trial.end()[:2] == (0, ["starting", "started", "put back"])


def test_work_that_fails_ends_it_in_good_order(trial: Trial) -> None:
    trial.order("broken")
    trial.start()
    trial.hear_until("STOPPING")
    code, out, err = trial.end()
    assert (code, out) == (1, ["starting", "started", "put back"])
    assert "cannot work" in err[-1]


def test_it_lives_as_long_as_loop_and_work_go_on(trial: Trial) -> None:
    trial.start(watchdog_us=WATCHDOG_US)
    trial.hear_until("READY")
    before = time.monotonic()
    for _ in range(6):
        trial.hear_until("WATCHDOG")
    assert time.monotonic() - before > WATCHDOG_US / 1e6  # several in a period, and not without a pause
    assert trial.stop()[0] == 0


@pytest.mark.expectation(23)
@pytest.mark.parametrize("what", ["loop-hangs", "work-hangs"])
def test_a_hung_daemon_is_silent(trial: Trial, what: str) -> None:
    trial.start(watchdog_us=WATCHDOG_US)
    trial.hear_until("WATCHDOG")
    trial.order(what)
    while (said := trial.hear(within_s=3 * WATCHDOG_US / 1e6)) is not None:
        assert "STOPPING" not in said
    trial.running.send_signal(signal.SIGABRT)  # as systemd does now
    code, _, err = trial.end()
    assert code == -signal.SIGABRT
    stack = "\n".join(err)
    assert "Fatal Python error: Aborted" in stack
    assert ("in work" in stack) == (what == "loop-hangs")  # it says where
    assert any("the work hangs" in line for line in err) == (what == "work-hangs")


def test_work_that_goes_on_again_is_alive_again(trial: Trial) -> None:
    trial.start(watchdog_us=WATCHDOG_US)
    trial.order("work-hangs")
    while trial.hear(within_s=3 * WATCHDOG_US / 1e6) is not None:
        pass
    trial.withdraw("work-hangs")
    trial.hear_until("WATCHDOG")
    assert trial.stop()[0] == 0


@pytest.mark.expectation(20)
def test_reload_is_a_handshake(trial: Trial) -> None:
    trial.start()
    trial.hear_until("READY")
    before_us = time.monotonic_ns() // 1000
    trial.running.send_signal(signal.SIGHUP)
    said = trial.hear_until("RELOADING")[-1]
    assert before_us <= int(said["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert trial.hear_until("READY")[-1] == {"READY": "1", "STATUS": "status -"}
    code, out, err = trial.stop()
    assert (code, out) == (0, ["starting", "started", "reads 1", "put back"])
    assert sum("read the configuration again" in line for line in err) == 1


def test_a_wrong_file_keeps_the_old_configuration_and_says_one_line(trial: Trial) -> None:
    trial.start()
    trial.hear_until("READY")
    trial.order("reload", "wrong")
    trial.running.send_signal(signal.SIGHUP)
    status = trial.hear_until("READY")[-1]["STATUS"]
    assert status == "the configuration stays as it was: file: key: is wrong (write it right)"
    trial.order("reload", "right")
    trial.running.send_signal(signal.SIGHUP)
    assert trial.hear_until("READY")[-1]["STATUS"] == "status -"
    code, _, err = trial.stop()
    assert code == 0
    assert sum("stays as it was" in line for line in err) == 1


def test_many_reloads_at_once_are_at_most_two(trial: Trial) -> None:
    trial.start()
    trial.hear_until("READY")
    trial.running.send_signal(signal.SIGHUP)
    trial.hear_until("RELOADING")
    for _ in range(20):
        trial.running.send_signal(signal.SIGHUP)
    trial.hear_until("READY")
    trial.hear_until("READY")
    assert trial.stop()[1] == ["starting", "started", "reads 1", "reads 2", "put back"]


def test_a_reload_that_ends_in_a_bug_ends_the_daemon_in_good_order(trial: Trial) -> None:
    trial.order("reload", "bug")
    trial.start()
    trial.hear_until("READY")
    trial.running.send_signal(signal.SIGHUP)
    trial.hear_until("STOPPING")
    code, out, err = trial.end()
    assert (code, out[-1]) == (1, "put back")
    assert "a bug" in err[-1]


def test_a_daemon_that_cannot_reload_says_so_and_goes_on(trial: Trial) -> None:
    trial.order("plain")
    trial.start(watchdog_us=WATCHDOG_US)
    assert trial.hear() == {"READY": "1"}
    trial.hear_until("WATCHDOG")  # the loop is all there is to go by
    trial.running.send_signal(signal.SIGHUP)
    trial.hear_until("RELOADING")
    assert trial.hear_until("READY")[-1] == {"READY": "1"}  # the manager waits for it
    code, _, err = trial.stop()
    assert code == 0
    assert any("restart instead" in line for line in err)


def test_a_terminal_that_goes_ends_it_in_good_order(trial: Trial) -> None:
    ours, its = pty.openpty()
    try:
        trial.start(stdin=its)
        trial.hear_until("READY")
        trial.running.send_signal(signal.SIGHUP)
        assert trial.end()[:2] == (0, ["starting", "started", "put back"])
    finally:
        os.close(ours)
        os.close(its)


def test_only_one_works_in_a_directory_and_the_manager_hears_nothing_of_the_other(trial: Trial) -> None:
    trial.start()
    trial.hear_until("READY")
    other = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(trial.folder)],
        env={"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(trial.folder / "notify")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 1
    assert "another daemon works there" in other.stderr
    assert not any("READY" in said for said in iter(lambda: trial.hear(within_s=0.2), None))
    assert trial.stop()[0] == 0
