"""A network namespace whose interfaces have the numbers that the worlds give them, for test runs of programs.

A test run looks for a packet's device in the namespace of the thread that asks for it; nothing is ever sent.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x4000_0000
LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def interfaces(numbers: Iterable[int]) -> Iterator[None]:
    """This thread is in a namespace of its own; 1 is the loopback interface there."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _require(LIBC.unshare(CLONE_NEWNET))
        try:
            for number in sorted(set(numbers) - {1}):
                subprocess.run(
                    ["ip", "link", "add", f"w{number}", "index", str(number), "type", "bridge"],
                    check=True,
                    capture_output=True,
                )
            yield
        finally:
            _require(LIBC.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


def _require(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
