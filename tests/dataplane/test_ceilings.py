"""The agent's ceilings, with a clock and a process of the tests' own; and this process as /proc tells of it."""

from __future__ import annotations

import resource
import time

import pytest

from dataplane.ceilings import NS_PER_S, CeilingWatch, Usage, Verdict, read_usage

MB = 10**6


class Process:
    """Uses what it is told to, a second at a time."""

    def __init__(self) -> None:
        self.watch = CeilingWatch(cpu_ppm_max=200_000, memory_bytes_max=80 * MB, reduction="less is read")
        self._now_ns = 17 * NS_PER_S
        self._cpu_ns = 0

    def live(self, seconds: int, *, cpu_ppm: int = 5_000, memory: int = 60 * MB) -> list[Verdict]:
        verdicts = []
        for _ in range(seconds):
            self._now_ns += NS_PER_S
            self._cpu_ns += cpu_ppm * 1000
            verdicts.append(self.judge(memory))
        return verdicts

    def judge(self, memory: int = 60 * MB) -> Verdict:
        return self.watch.judge(Usage(now_ns=self._now_ns, cpu_ns=self._cpu_ns, memory_bytes=memory))

    def sleep(self, seconds: int) -> None:
        self._now_ns += seconds * NS_PER_S


@pytest.mark.expectation(12)
def test_within_its_ceilings_nothing_is_said() -> None:
    process = Process()
    assert process.judge() == Verdict(cpu_ppm=0, memory_bytes=60 * MB)
    for verdict in process.live(300):
        assert verdict == Verdict(cpu_ppm=5_000, memory_bytes=60 * MB)
        assert not verdict.reduce


@pytest.mark.expectation(12)
def test_a_minute_above_a_ceiling_is_said_and_work_is_reduced() -> None:
    process = Process()
    process.live(120)
    verdicts = process.live(120, cpu_ppm=400_000)
    first = next(number for number, verdict in enumerate(verdicts) if verdict.reduce)
    assert 20 < first < 60  # when the mean of a minute is above it: a peak is nobody's business
    assert verdicts[-1].warnings == (
        ("over-cpu", "the agent used 40 % of a core over a minute, its ceiling is 20 %: less is read"),
    )
    memory = process.live(120, cpu_ppm=5_000, memory=100 * MB)[-1]
    assert memory.warnings == (("over-memory", "the agent has 100 MB of memory, its ceiling is 80 MB: less is read"),)


def test_what_is_reduced_does_not_come_and_go() -> None:
    process = Process()
    process.live(180, cpu_ppm=250_000)
    assert process.judge().reduce
    assert all(verdict.reduce for verdict in process.live(180, cpu_ppm=190_000))  # below it, though not by much
    assert not process.live(120, cpu_ppm=100_000)[-1].reduce


def test_the_first_minute_decides_nothing() -> None:
    """Starting costs more than a minute of work."""
    process = Process()
    process.judge()
    assert not any(verdict.reduce for verdict in process.live(59, cpu_ppm=900_000, memory=200 * MB))


def test_a_gap_without_looks_is_no_minute() -> None:
    process = Process()
    process.live(120, cpu_ppm=10_000)
    process.sleep(3600)
    assert process.judge().cpu_ppm == 0
    assert process.live(30, cpu_ppm=300_000)[-1] == Verdict(cpu_ppm=300_000, memory_bytes=60 * MB)


def test_it_remembers_a_minute_and_no_more() -> None:
    process = Process()
    process.live(10_000)
    assert len(process.watch._samples) <= 14


def test_this_process_is_read() -> None:
    before = read_usage(time.monotonic_ns())
    spun_until_s = time.process_time() + 0.1
    while time.process_time() < spun_until_s:
        pass
    after = read_usage(time.monotonic_ns())
    assert after.cpu_ns - before.cpu_ns >= 80_000_000
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert most / 4 < after.memory_bytes <= most * 1.1
    assert after.cpu_ns == pytest.approx(time.process_time_ns(), rel=0.2)
