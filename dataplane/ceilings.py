"""The agent's own ceilings: what it says that it needs at most, and what it does when it needs more.

Decides: whether a ceiling is exceeded, and that work is reduced until it no longer is. Refuses to know: what is reduced
(its callers read seldom what they would read often). Source: proc(5) for stat and statm; docs/operating.md for the
numbers, which the units' MemoryMax and CPUQuota stand behind.

`CeilingWatch` is pure; `read_usage` reads /proc. A ceiling counts as exceeded when a whole minute's mean is above it,
and as kept again only when a whole minute is below four fifths of it: what is reduced must not come and go.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NS_PER_S: Final = 1_000_000_000
WINDOW_NS: Final = 60 * NS_PER_S
SAMPLE_NS: Final = 5 * NS_PER_S
"""Closer together samples are not kept: the window has some dozen of them."""

CPU_PPM_MAX: Final = 200_000
MEMORY_BYTES_MAX: Final = 80 * 10**6
PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """`cpu_ns`: since the process began, user and system."""

    now_ns: int
    cpu_ns: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`warnings`: code and line, for the status. `reduce`: read seldom what is read every second."""

    cpu_ppm: int = 0  # of one core, over the last minute
    memory_bytes: int = 0
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def reduce(self) -> bool:
        return bool(self.warnings)


class CeilingWatch:
    """Of one process. `reduction`: what its owner does while `Verdict.reduce` holds, for the warning."""

    def __init__(
        self,
        *,
        cpu_ppm_max: int = CPU_PPM_MAX,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        reduction: str = "flows are read every few seconds only",
    ) -> None:
        self._cpu_ppm_max = cpu_ppm_max
        self._memory_bytes_max = memory_bytes_max
        self._reduction = reduction
        self._samples: deque[Usage] = deque()
        self._cpu_exceeded = False
        self._memory_exceeded = False

    def judge(self, usage: Usage) -> Verdict:
        """Call it every few seconds, or every second."""
        self._keep(usage)
        first, *_ = self._samples
        span_ns = usage.now_ns - first.now_ns
        cpu_ppm = (usage.cpu_ns - first.cpu_ns) * PPM // span_ns if span_ns > 0 else 0
        memory_bytes = sum(each.memory_bytes for each in self._samples) // len(self._samples)
        if span_ns >= WINDOW_NS:
            self._cpu_exceeded = _exceeds(cpu_ppm, self._cpu_ppm_max, before=self._cpu_exceeded)
            self._memory_exceeded = _exceeds(memory_bytes, self._memory_bytes_max, before=self._memory_exceeded)
        return Verdict(
            cpu_ppm=cpu_ppm,
            memory_bytes=usage.memory_bytes,
            warnings=tuple(self._warnings(cpu_ppm, usage.memory_bytes)),
        )

    def _keep(self, usage: Usage) -> None:
        samples = self._samples
        if samples and usage.now_ns - samples[-1].now_ns > WINDOW_NS:
            samples.clear()  # nobody looked for so long: the old ones say nothing of the last minute
        if not samples or usage.now_ns - samples[-1].now_ns >= SAMPLE_NS:
            samples.append(usage)
        while len(samples) > 1 and usage.now_ns - samples[1].now_ns >= WINDOW_NS:
            samples.popleft()

    def _warnings(self, cpu_ppm: int, memory_bytes: int) -> Iterator[tuple[str, str]]:
        if self._cpu_exceeded:
            used, most = cpu_ppm * 100 // PPM, self._cpu_ppm_max * 100 // PPM
            yield (
                "over-cpu",
                f"the agent used {used} % of a core over a minute, its ceiling is {most} %: {self._reduction}",
            )
        if self._memory_exceeded:
            used, most = memory_bytes // 10**6, self._memory_bytes_max // 10**6
            yield "over-memory", f"the agent has {used} MB of memory, its ceiling is {most} MB: {self._reduction}"


def _exceeds(value: int, ceiling: int, *, before: bool) -> bool:
    return value > (ceiling * 4 // 5 if before else ceiling)


def read_usage(now_ns: int, proc: Path = Path("/proc/self")) -> Usage:
    """Of this process. Costs some 20 µs."""
    fields = (proc / "stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime and stime, the 14th and 15th of all
    pages = int((proc / "statm").read_text(encoding="ascii").split()[1])
    return Usage(
        now_ns=now_ns,
        cpu_ns=ticks * NS_PER_S // os.sysconf("SC_CLK_TCK"),
        memory_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
    )
