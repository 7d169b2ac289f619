"""How much work a run of the experiment may be, and how it is spread over processors.

Decides: numbers of seeds and lengths for the full, the quick and the smallest form. Refuses to know: what is run.
Each unit of work is a function of one value, and its own process may run it; results come in the order of the values.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")
Progress = Callable[[str], None]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """`is_tiny`: of each sweep only the ends. `real`: on real packets too. `workers`: 1 is this process itself."""

    name: str
    seeds: int
    seconds: float  # of virtual time in a run
    real: bool
    real_runs: int = 3
    real_seconds: float = 12.0
    is_tiny: bool = False
    is_quick: bool = False
    workers: int = 1
    progress: Progress = field(default=lambda _line: None)

    def pick(self, *, full: Sequence[In], quick: Sequence[In], tiny: Sequence[In]) -> tuple[In, ...]:
        return tuple(tiny if self.is_tiny else quick if self.is_quick else full)

    @property
    def warm_up_s(self) -> float:
        """A fifth, as the protocol says; a short run needs as long a time to settle."""
        return max(0.2 * self.seconds, min(20.0, 0.4 * self.seconds))

    def each(self, work: Callable[[In], Out], values: Sequence[In]) -> list[Out]:
        """Results in the order of the values. `work` is a function of a module."""
        if self.workers <= 1 or len(values) <= 1:
            return [work(value) for value in values]
        return list(_POOL.map(self.workers, work, values))


class _Pool:
    """Processes that are kept from one part to the next, while `pooled` lasts. Forked: nothing of ours has threads."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def map(self, workers: int, work: Callable[[In], Out], values: Sequence[In]) -> Iterator[Out]:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                workers, mp_context=multiprocessing.get_context("fork"), initializer=_end_with_parent
            )
        return self._executor.map(work, values)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def _end_with_parent() -> None:
    """Ctrl-C goes to all of a terminal's processes, and the parent ends the others; if it is killed they go, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_POOL = _Pool()


@contextmanager
def pooled() -> Iterator[None]:
    """Ends the processes, whatever happens."""
    try:
        yield
    finally:
        _POOL.close()


def effort_of(*, quick: bool, simulated: bool, progress: Progress) -> Effort:
    """The two forms of the command."""
    workers = max(1, min(4, os.cpu_count() or 1))
    if quick:
        return Effort(
            name="quick", seeds=3, seconds=40.0, real=not simulated, real_runs=1, real_seconds=10.0, is_quick=True,
            workers=workers, progress=progress,
        )  # fmt: skip
    return Effort(name="full", seeds=20, seconds=50.0, real=not simulated, workers=workers, progress=progress)


TINY = Effort(name="tiny", seeds=2, seconds=20.0, real=False, is_tiny=True)
"""For tests: it shows that everything runs, and proves nothing."""
