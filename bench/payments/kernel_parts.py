"""The parts that are programs in the kernel, with the cores of their readers: loaded once, attached when asked.

Decides nothing. A reader attaches its programs once and for all; here that is done and undone around each volley, while
the core stays as it is. What it counts is in memory and unpinned: a bench's counters are nobody's.
"""

from __future__ import annotations

import json
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

import msgspec

from dataplane.ebpf.kernel_reader import KernelCore
from dataplane.ebpf.libbpf import Program

TICK_NS: Final = 1_000_000_000


class KernelPart(ABC):
    """A core without the reader process around it: its time, its commands and its events are served here."""

    def __init__(self, core: KernelCore, programs: dict[str, Program], tick: msgspec.Struct) -> None:
        """`programs`: those that packets meet; `tick`: the command that tells the core the time of day."""
        self.programs = programs
        self._core = core
        self._tick = tick
        self._tick_ns = 0

    @abstractmethod
    def _go(self) -> None:
        """Attaches the programs."""

    @abstractmethod
    def _stop(self) -> None:
        """Detaches them."""

    def obey(self, orders: Iterable[msgspec.Struct]) -> None:
        for order in orders:
            answer = self._core.on_message(msgspec.json.encode(order), time.monotonic_ns(), int(time.time()))
            assert answer is not None
            assert json.loads(answer)["type"] != "Refused", answer

    def attach(self) -> None:
        self.on_time(time.monotonic_ns())
        self._go()

    def detach(self) -> None:
        self._stop()

    def on_time(self, now_ns: int) -> float:
        core = self._core
        if now_ns >= self._tick_ns:  # a tick brings the minute that MACs are of
            self.obey((self._tick,))
            self._tick_ns = now_ns + TICK_NS
        deadline_ns = core.next_deadline_ns()
        if deadline_ns is not None and now_ns >= deadline_ns:
            core.on_timer(now_ns)
        for descriptor in select.select(core.descriptors(), (), (), 0)[0]:
            core.on_readable(descriptor, now_ns)
        core.take_events()
        deadline_ns = core.next_deadline_ns()
        due_ns = self._tick_ns if deadline_ns is None else min(self._tick_ns, deadline_ns)
        return max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
