"""Signs of life of our processes in one shared page: who beats, when it last did, and what the kernel says of a
process.

Decides: nothing. Imports the standard library only, so that the watchdog stays small.
Source: proc(5) for /proc/PID/stat; timer_create(2) and prctl(2) for the two ways in which the kernel itself ends a
process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

BEAT_NS: Final = 50_000_000
"""A reader beats at least this often: six times within the watchdog's limit of 300 ms."""

_WORDS_IN_SLOT: Final = 4
_PAGE_BYTES: Final = 4096
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29
_CLOCK_MONOTONIC: Final = 1
_SIGEV_SIGNAL: Final = 0


class Role(IntEnum):
    """The slots of the page."""

    READER = 0
    MAIN = 1
    WATCHDOG = 2


class Beat(NamedTuple):
    """The process in a slot (pid 0 = none), its start time as /proc has it, and its last beat (monotonic)."""

    pid: int
    start_ticks: int
    beat_ns: int


class HeartbeatFile:
    """A page that main creates and the others open; each process writes its own slot only."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _PAGE_BYTES:
                os.ftruncate(descriptor, _PAGE_BYTES)
            self._memory = mmap.mmap(descriptor, _PAGE_BYTES)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._memory).cast("q")

    def close(self) -> None:
        self._words.release()
        self._memory.close()

    def enrol(self, role: Role, now_ns: int) -> None:
        """This process beats in that slot from now on."""
        first = role * _WORDS_IN_SLOT
        self._words[first] = 0  # nobody, while the rest changes
        self._words[first + 1] = process_state(os.getpid())[1]
        self._words[first + 2] = now_ns
        self._words[first] = os.getpid()

    def leave(self, role: Role) -> None:
        self._words[role * _WORDS_IN_SLOT] = 0

    def beat(self, role: Role, now_ns: int) -> None:
        self._words[role * _WORDS_IN_SLOT + 2] = now_ns

    def read(self, role: Role) -> Beat:
        first = role * _WORDS_IN_SLOT
        return Beat(self._words[first], self._words[first + 1], self._words[first + 2])


def process_state(pid: int) -> tuple[str, int]:
    """The state letter of a process (R running, S sleeping, T stopped, Z dead ...) and its start; ("", 0) if it is
    gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def die_with_parent(parent_pid: int) -> None:
    """The kernel kills this process when its parent dies; at once (exit 1) if it has died already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def sharpen_timers() -> None:
    """Timed waits of this thread end within a microsecond of their time, not 50."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)


class _SignalEvent(ctypes.Structure):
    """struct sigevent with SIGEV_SIGNAL."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_char * 48),
    )


class _TimerSpec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class DeadManTimer:
    """A kernel timer that SIGKILLs this process unless it is wound up again in time.

    It works on a stopped process too, and when the watchdog is stopped with it: the last line of failing open.
    """

    def __init__(self, limit_ns: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _SignalEvent(None, signal.SIGKILL, _SIGEV_SIGNAL)
        if self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        self._limit = _TimerSpec(0, 0, limit_ns // 1_000_000_000, limit_ns % 1_000_000_000)

    def wind(self) -> None:
        self._libc.timer_settime(self._timer, 0, ctypes.byref(self._limit), None)

    def cancel(self) -> None:
        self._libc.timer_delete(self._timer)
