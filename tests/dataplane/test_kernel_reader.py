"""The reader of the eBPF engine under its supervisor: commands, events, faults, kills and hangs, and what it costs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault
from dataplane.counters import CounterFile
from dataplane.ebpf.kernel_counters import GENERATION, CountersView, fold_pinned
from dataplane.reader_process import Started
from dataplane.supervisor import Health, ReaderSupervisor

pytestmark = pytest.mark.netns

READER = str(Path(__file__).parent.parent / "scripted_kernel_reader.py")
IDLE_S = 2.0
IDLE_WAKE_UPS_PER_S = 30
"""Twenty beats a second, and a copy of the counters."""


class Main:
    """What a daemon keeps of its reader."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "counters"
        self.commands: list[bytes] = []
        self.events: list[bytes] = []
        self.started: list[Started] = []
        self.health: list[Health] = []
        self.supervisor = ReaderSupervisor(
            [sys.executable, READER],
            counters_path=self.path,
            owner="kernel",
            on_event=self.events.append,
            snapshot=lambda: self.commands,
            on_started=self.started.append,
            on_health=lambda health, _: self.health.append(health),
        )

    def counted(self) -> int:
        view = CountersView(self.path)
        try:
            return view.committed("test.counted")
        finally:
            view.close()

    def has_counted(self, count: int) -> bool:
        return self.counted() >= count

    def has_started(self, readers: int) -> bool:
        return len(self.started) >= readers

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def main(tmp_path: Path) -> Main:
    return Main(tmp_path)


async def test_commands_are_answered_and_events_told(main: Main) -> None:
    async with main.supervisor as supervisor:
        assert await supervisor.request(b"hello") == b"hello"
        assert await supervisor.request(b"say something") == b""
        await supervisor.request(b"pipe")
        await main.until(lambda: len(main.events) == 3)
    assert main.events == [b"gone", b"something", b"through the pipe"]
    assert main.started == [Started(settled="NOTHING_OPEN", open_accepts=0, unexplained_accepts=0, held_lost_packets=0)]


async def test_a_stop_leaves_everything_in_the_file_and_nothing_in_the_kernel(main: Main) -> None:
    async with main.supervisor as supervisor:
        await supervisor.request(b"count")
        await main.until(lambda: main.counted() > 5)
    values = CounterFile.attach(main.path).snapshot()
    assert values["test.stops"] == 1
    assert values["test.twice"] == 2 * values["test.counted"] > 10
    assert values[GENERATION] == 0
    assert not fold_pinned(main.path)


async def test_a_killed_reader_loses_nothing(main: Main) -> None:
    main.commands = [b"count"]
    async with main.supervisor as supervisor:
        for number in range(3):
            before = main.counted()
            await main.until(partial(main.has_counted, before + 1))
            pid = supervisor.reader_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            before = main.counted()
            os.kill(pid, signal.SIGKILL)
            await main.until(partial(main.has_started, number + 2))
            assert int(await supervisor.request(b"value")) >= before
        main.commands = []
    values = CounterFile.attach(main.path).snapshot()
    assert values["test.twice"] - 2 * values["test.counted"] in range(-6, 1)  # killed between the two
    assert values["test.stops"] == 1


async def test_one_that_hangs_is_killed_and_another_starts(main: Main) -> None:
    async with main.supervisor as supervisor:
        pid = supervisor.reader_pid
        hanging = asyncio.create_task(supervisor.request(b"hang"))
        await main.until(lambda: len(main.started) == 2)
        assert supervisor.reader_pid != pid
        assert await asyncio.wait({hanging})
        assert hanging.exception() is not None


async def test_one_that_is_stopped_is_killed_without_the_watchdog(main: Main) -> None:
    async with main.supervisor as supervisor:
        pid = supervisor.reader_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await main.until(lambda: len(main.started) == 2)


async def test_a_fault_when_it_attaches_is_the_supervisors(main: Main) -> None:
    main.commands = [b"no go"]
    with pytest.raises(EnvironmentFault, match="it was told not to"):
        await main.supervisor.start()
    assert fold_pinned(main.path)  # as whoever goes on with another engine does


async def test_an_idle_one_sleeps(main: Main) -> None:
    async with main.supervisor as supervisor:
        await main.until(lambda: b"gone" in main.events)
        status = Path(f"/proc/{supervisor.reader_pid}/status")

        def wake_ups() -> int:
            lines = status.read_text(encoding="ascii").splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

        before = wake_ups()
        await asyncio.sleep(IDLE_S)
        assert wake_ups() - before < IDLE_WAKE_UPS_PER_S * IDLE_S
