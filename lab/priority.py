"""What a run has started goes before other programs of this machine, where that is allowed: a gateway that waits for a
processor is a slower link, and then the run shows the machine.

Decides: how much before (nice -10; real-time priority could stop the machine). Refuses to know: what the processes do.
Source: sched(7), "the autogroup feature": where it is on, each session has a share of its own, and nice alone is none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_NICE: Final = -10
_PARENT_WORD: Final = 1  # in /proc/PID/stat, behind the name and its bracket


@contextlib.contextmanager
def before_others() -> Iterator[None]:
    """Of what is started meanwhile."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(usual, _NICE))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


def put_sessions_first() -> None:
    """Of all processes that descend from this one and have sessions of their own."""
    own = os.getsid(0)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended, or there are no such groups, or we may not
            if os.getsid(pid) != own:
                Path(f"/proc/{pid}/autogroup").write_text(str(_NICE), encoding="ascii")


def waited_ns(pid: int) -> int:
    """How long a process and its descendants have waited for a processor; 0 where the kernel does not say."""
    waited = 0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                waited += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return waited


def descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (directory / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                children.setdefault(int(words[_PARENT_WORD]), []).append(int(directory.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = [child for child in children.get(waiting.pop(), ()) if child not in found]
        found.update(new)
        waiting += new
    return found
