"""The time of a session: that of the machine, a faster one, or a test's own.

Decides: when a wait is not worth one. Refuses to know: who waits. Server and player of a session have the same clock.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, Protocol

NS_PER_S: Final = 1_000_000_000
_NOT_WORTH_A_SLEEP_NS: Final = 500_000


class Clock(Protocol):
    def now_ns(self) -> int: ...

    async def sleep_until(self, due_ns: int) -> None: ...


@dataclass(frozen=True, slots=True)
class MachineClock:
    """With a factor of 10 a minute of video passes in six seconds, at ten times the rate on the wire."""

    factor: int = 1

    def now_ns(self) -> int:
        return time.monotonic_ns() * self.factor

    async def sleep_until(self, due_ns: int) -> None:
        """Not for less than half a millisecond: the kernel would not wake us in time."""
        left_ns = (due_ns - self.now_ns()) // self.factor
        if left_ns > _NOT_WORTH_A_SLEEP_NS:
            await asyncio.sleep(left_ns / NS_PER_S)
