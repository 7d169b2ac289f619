"""Readers that die, hang or are stopped under real traffic: packets go on, and every accepted one is accounted for."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from netns import Routed

from billpay.errors import EnvironmentFault
from dataplane import rules
from dataplane.counters import ACCEPTS, CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule, RuleCounters
from dataplane.heartbeat import HeartbeatFile, Role
from dataplane.reader import Started
from dataplane.supervisor import Health, ReaderSupervisor, ReaderUnavailable

pytestmark = pytest.mark.netns

READER = str(Path(__file__).parent.parent / "scripted_reader.py")
QUEUES = (QueueRule(family=4, chain=Chain.PREROUTING, interface="ra", queue=5, skip_local=True),)
BLASTER = """
import socket, sys, time
pause_s, data = float(sys.argv[1]), sys.argv[2].encode()
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("0.0.0.0", 7777))
number = 0
while True:
    for _ in range(64 if pause_s < 0.01 else 1):
        number += 1
        sender.sendto(data + b" %d" % number, ("10.9.2.1", 7777))
    if pause_s:
        time.sleep(pause_s)
"""
LISTENER = """
import socket, sys, time
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("0.0.0.0", 7777))
print("ready", flush=True)
while True:
    print(receiver.recv(2000).split()[-1].decode(), flush=True)
"""


@dataclass(slots=True)
class Machine:
    """The middle namespace with its rules, and what the supervisor told."""

    routed: Routed
    directory: Path
    started: list[Started] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def counters_path(self) -> Path:
        return self.directory / "counters"

    def supervisor(self, snapshot: Callable[[], list[bytes]] = list) -> ReaderSupervisor:
        return ReaderSupervisor(
            self.routed.r.command(sys.executable, READER),
            counters_path=self.counters_path,
            owner="crash",
            on_event=self.events.append,
            snapshot=snapshot,
            on_started=self.started.append,
            on_health=lambda health, _: self.health.append(health),
        )

    def send(self, data: str, pause_s: float) -> subprocess.Popen[bytes]:
        return self._child(self.routed.a.popen(sys.executable, "-c", BLASTER, str(pause_s), data))

    def listen(self) -> subprocess.Popen[bytes]:
        listener = self._child(self.routed.b.popen(sys.executable, "-c", LISTENER, stdout=subprocess.PIPE))
        assert listener.stdout is not None
        listener.stdout.readline()
        return listener

    def _child(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        self.children.append(child)
        return child

    def rule_counters(self) -> RuleCounters:
        return self.routed.r.call(lambda: rules.read_rule_counters("crash"))[QUEUES[0]]

    def counts(self) -> dict[str, int]:
        view = CounterFile.attach(self.counters_path)
        try:
            return view.snapshot()
        finally:
            view.close()

    def has_started(self, readers: int) -> bool:
        return len(self.started) >= readers

    def has_sent(self, packets: int) -> bool:
        return self.counts()["test.sent"] >= packets

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        self.routed.close()


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    routed = Routed()
    routed.r.call(lambda: rules.apply(DesiredState(owner="crash", queues=QUEUES), tmp_path / "record.json"))
    made = Machine(routed, tmp_path)
    yield made
    made.close()


async def kill_readers(machine: Machine, kills: int) -> None:
    draw = random.Random(20)
    async with machine.supervisor() as supervisor:
        sender = machine.send("accept", 0)
        for number in range(kills):
            await machine.until(partial(machine.has_started, number + 1))
            await machine.until(partial(machine.has_sent, machine.counts()["test.sent"] + 1))
            await asyncio.sleep(draw.random() * 0.05)
            assert supervisor.reader_pid is not None
            os.kill(supervisor.reader_pid, signal.SIGKILL)
        await machine.until(lambda: len(machine.started) > kills)
        sender.kill()
        sender.wait()
    assert sum(abs(started.unexplained_accepts) for started in machine.started) == 0
    found, kernel = machine.counts(), machine.rule_counters()
    assert found["test.sent"] == found[ACCEPTS] == kernel.accepted_packets > 0
    assert found["dataplane.held_lost"] == sum(started.held_lost_packets for started in machine.started)
    assert kernel.bypassed_packets > 0
    assert kernel.queued_packets >= kernel.accepted_packets + kernel.bypassed_packets


@pytest.mark.expectation(1, 16)
async def test_each_accepted_packet_is_accounted_for_after_kills(machine: Machine) -> None:
    await kill_readers(machine, 6)


@pytest.mark.deep
async def test_each_accepted_packet_is_accounted_for_after_many_kills(machine: Machine) -> None:
    await kill_readers(machine, 100)


async def test_held_packets_of_a_killed_reader_are_counted(machine: Machine) -> None:
    async with machine.supervisor() as supervisor:
        sender = machine.send("hold 60000", 0.02)
        await machine.until(lambda: machine.counts()["test.packets"] >= 5)
        sender.kill()
        sender.wait()
        await asyncio.sleep(0.05)
        held = machine.counts()["test.packets"]
        assert supervisor.reader_pid is not None
        os.kill(supervisor.reader_pid, signal.SIGKILL)
        await machine.until(lambda: len(machine.started) == 2)
        assert machine.started[1].held_lost_packets == held
        kernel = machine.rule_counters()
        assert kernel.queued_packets - kernel.accepted_packets - kernel.bypassed_packets == held


@pytest.mark.parametrize("also_the_watchdog", [False, True], ids=["watchdog", "kernel timer"])
async def test_a_stopped_reader_costs_less_than_a_second_at_a_low_rate(
    machine: Machine, also_the_watchdog: bool
) -> None:
    """50 packets/s never fill a queue: something must notice. The datagrams are numbered, so a gap shows its length."""
    async with machine.supervisor() as supervisor:
        listener = machine.listen()
        machine.send("accept", 0.02)
        assert listener.stdout is not None
        read = listener.stdout.readline
        numbers = [int(await asyncio.to_thread(read)) for _ in range(10)]
        stopped = supervisor.reader_pid
        assert stopped is not None
        if also_the_watchdog:
            page = HeartbeatFile(machine.directory / "counters.heartbeat")
            os.kill(page.read(Role.WATCHDOG).pid, signal.SIGSTOP)
            page.close()
        os.kill(stopped, signal.SIGSTOP)
        while len(machine.started) < 2 or numbers[-1] < 100:
            numbers.append(int(await asyncio.to_thread(read)))
        longest_gap = max(after - before for before, after in itertools.pairwise(numbers))
        assert 2 <= longest_gap <= 50
        assert machine.rule_counters().bypassed_packets > 0


async def test_the_snapshot_comes_before_the_first_packet_and_requests_are_answered(machine: Machine) -> None:
    async with machine.supervisor(lambda: [b"one", b"two"]) as supervisor:
        assert await supervisor.request(b"abc") == b"cba"
        assert await supervisor.request(b"quiet") == b""
        assert await asyncio.gather(*(supervisor.request(b"%d" % n) for n in range(10, 40))) == [
            (b"%d" % n)[::-1] for n in range(10, 40)
        ]
        machine.send("say hello", 0.02)
        await machine.until(lambda: len(machine.events) > 2)
        assert machine.events[0].startswith(b"hello")
        assert supervisor.reader_pid is not None
        os.kill(supervisor.reader_pid, signal.SIGKILL)
        await machine.until(lambda: Health.WAITING in machine.health)
        with pytest.raises(ReaderUnavailable):
            await supervisor.request(b"abc")
    assert machine.health[-1] is Health.STOPPED
    assert not (machine.directory / "counters.heartbeat").exists()


async def test_a_graceful_stop_accepts_what_is_held(machine: Machine) -> None:
    async with machine.supervisor():
        machine.send("hold 60000", 0.02)
        await machine.until(lambda: machine.counts()["test.packets"] >= 5)
    found, kernel = machine.counts(), machine.rule_counters()
    assert found["test.sent"] == found["test.packets"] == found[ACCEPTS] == kernel.accepted_packets
    assert found["dataplane.held_passed"] == found["dataplane.held_lost"] == 0


async def test_a_reader_that_cannot_work_says_why_in_one_line(machine: Machine) -> None:
    other = ReaderSupervisor(
        machine.routed.r.command(sys.executable, READER),
        counters_path=machine.directory / "other",
        owner="crash",
        on_event=machine.events.append,
        snapshot=list,
    )
    async with machine.supervisor():
        with pytest.raises(EnvironmentFault, match=r"bind NFQUEUE 5: .*another process reads this queue"):
            await other.start()


MAIN = """
import asyncio, os, sys
from pathlib import Path
from dataplane.supervisor import ReaderSupervisor

async def main():
    supervisor = ReaderSupervisor(
        [sys.executable, sys.argv[1]], counters_path=Path(sys.argv[2]), owner="crash", on_event=print, snapshot=list
    )
    async with supervisor:
        print(supervisor.reader_pid, flush=True)
        await supervisor.watch()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_with_a_dead_or_stopped_main_process_everything_ends_and_traffic_goes_on(
    machine: Machine, how: signal.Signals
) -> None:
    main = machine.routed.r.popen(
        sys.executable, "-c", MAIN, READER, str(machine.counters_path), stdout=subprocess.PIPE
    )
    machine.children.append(main)
    assert main.stdout is not None
    reader_pid = int(await asyncio.to_thread(main.stdout.readline))
    page = HeartbeatFile(machine.directory / "counters.heartbeat")
    await machine.until(lambda: page.read(Role.WATCHDOG).pid != 0)
    watchdog_pid = page.read(Role.WATCHDOG).pid
    page.close()
    listener = machine.listen()
    machine.send("accept", 0.02)
    assert listener.stdout is not None
    await asyncio.to_thread(listener.stdout.readline)
    main.send_signal(how)
    await machine.until(lambda: main.poll() is not None)
    await machine.until(lambda: not alive(reader_pid) and not alive(watchdog_pid))
    await asyncio.to_thread(listener.stdout.readline)
    bypassed = machine.rule_counters().bypassed_packets
    await machine.until(lambda: machine.rule_counters().bypassed_packets > bypassed)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
