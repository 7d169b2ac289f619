"""A reader process of the eBPF engine for tests: its core does what commands say, and counts by itself when told to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from billpay.errors import EnvironmentFault
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.kernel_reader import serve_kernel

COUNTING_NS = 1_000_000


class ScriptedKernelCore:
    """say TEXT, count, hang, no go, pipe, value; anything else is given back."""

    def __init__(self, counters: KernelCounters) -> None:
        self.counters = counters
        self.counted = counters.index("test.counted")
        self.twice = counters.index("test.twice")
        self.stops = counters.index("test.stops")
        self.events: list[bytes] = []
        self.may_go = True
        self.due_ns: int | None = None
        self.pipe: tuple[int, int] | None = None

    def on_go(self, now_ns: int) -> None:
        if not self.may_go:
            raise EnvironmentFault("attach", "nothing", "it was told not to", "tell it otherwise")
        self.events.append(b"gone")

    def on_timer(self, now_ns: int) -> None:
        self.counters.add(self.counted, 1)
        self.counters.add(self.twice, 2)
        self.due_ns = now_ns + COUNTING_NS

    def next_deadline_ns(self) -> int | None:
        return self.due_ns

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        if data.startswith(b"say "):
            self.events.append(data[4:])
            return None
        if data == b"count":
            self.due_ns = now_ns
        elif data == b"hang":
            time.sleep(60)
        elif data == b"no go":
            self.may_go = False
        elif data == b"pipe":
            self.pipe = os.pipe()
            os.write(self.pipe[1], b"through the pipe")
        elif data == b"value":
            return b"%d" % self.counters.value(self.counted)
        return data

    def take_events(self) -> list[bytes]:
        events, self.events = self.events, []
        return events

    def descriptors(self) -> Sequence[int]:
        return () if self.pipe is None else self.pipe[:1]

    def on_readable(self, descriptor: int, now_ns: int) -> None:
        self.events.append(os.read(descriptor, 100))

    def on_stop(self, now_ns: int) -> None:
        self.counters.add(self.stops, 1)


if __name__ == "__main__":
    sys.exit(serve_kernel(ScriptedKernelCore))
