"""The reader of the eBPF engine: the loop that drives a core whose packets are treated by programs in the kernel.

Decides: in which order commands, deadlines and readable descriptors are served, and when counters are copied to their
file. Refuses to know: which programs there are, and what the core writes into their maps.
Source: ARCHITECTURE (data plane; "fail open"): programs are attached by descriptors of this process, so that whatever
ends it takes them away, and packets go on as if nobody were there.

Nothing happens for a packet. An idle reader wakes up to beat, and for the core's deadlines.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.hardening import Capability
from dataplane.reader_process import (
    EVENT_INTERVAL_NS,
    Circumstances,
    Conversation,
    Pulse,
    Started,
    live,
    started,
)

SYNC_NS: Final = 1_000_000_000
"""What a power loss takes; a killed reader loses nothing."""

GIVES_UP: Final = (Capability.SYS_PTRACE,)


class KernelCore(Protocol):
    """What the loop drives. All of it is called in one thread, with positional arguments; nothing may block long."""

    def on_go(self, now_ns: int, /) -> None:
        """State has come: attach the programs. Raises EnvironmentFault."""
        ...

    def on_timer(self, now_ns: int, /) -> object:
        """The deadline has passed (or nearly: compare with `now_ns` and set a new one). What it gives is not used."""
        ...

    def next_deadline_ns(self) -> int | None:
        """When `on_timer` is due (monotonic clock), None = never. Asked once a turn."""
        ...

    def on_message(self, data: bytes, now_ns: int, unix_s: int, /) -> bytes | None:
        """A command from the main process, and the reply. Bounded by `command.MESSAGE_LIMIT_BYTES` both ways."""
        ...

    def take_events(self) -> list[bytes]:
        """Events for the main process since the last call; the core bounds the list. Asked every 20 ms at most."""
        ...

    def descriptors(self) -> Sequence[int]:
        """What to wait for besides commands: ring buffers, netlink sockets. Asked once a turn."""
        ...

    def on_readable(self, descriptor: int, now_ns: int, /) -> None:
        """One of them has something to read: all of it is read, or `select` says so again."""
        ...

    def on_stop(self, now_ns: int, /) -> None:
        """A graceful stop: detach the programs. No counter changes after it."""
        ...


Build = Callable[[KernelCounters], KernelCore]


def serve_kernel(build: Build, *, event_interval_ns: int = EVENT_INTERVAL_NS) -> int:
    """The whole life of a reader process that a ReaderSupervisor started; returns the exit code.

    `build` gets the counters as they were left and returns the core; it may raise EnvironmentFault.
    """

    def work(told: Circumstances) -> None:
        counters = KernelCounters.open(told.counters)
        reader = KernelReader(
            build(counters),
            counters=counters,
            command_fd=told.command_fd,
            pulse=Pulse(told.heartbeat),
            event_interval_ns=event_interval_ns,
        )
        reader.run()
        counters.close()  # not after a fault: the pin has it all, and programs may still count until we are gone

    return live(work, gives_up=GIVES_UP)


class KernelReader:
    """One core, its counters and its command socket."""

    def __init__(
        self,
        core: KernelCore,
        *,
        counters: KernelCounters,
        command_fd: int,
        pulse: Pulse,
        event_interval_ns: int = EVENT_INTERVAL_NS,
    ) -> None:
        self._core = core
        self._counters = counters
        self._pulse = pulse
        self._sync_due_ns = 0
        self._main = Conversation(
            command_fd, core, counters=counters, on_go=self._go, event_interval_ns=event_interval_ns
        )

    def run(self) -> None:
        """Serves until STOP or until main closes its end; then detaches. Raises EnvironmentFault.

        Beats while programs are attached: to attach and detach them may take longer than a beat, and main waits for it.
        """
        while not self._main.stopping:
            self._turn()
        self._pulse.end()
        self._core.on_stop(time.monotonic_ns())
        self._main.report(time.monotonic_ns())
        self._main.close()

    def _go(self) -> Started:
        self._core.on_go(time.monotonic_ns())
        self._pulse.begin()
        return started(self._counters.recovery)

    def _turn(self) -> None:
        core, main = self._core, self._main
        ready = self._wait()
        now_ns = time.monotonic_ns()
        if now_ns >= self._pulse.due_ns:
            self._pulse.beat(now_ns)
        active = bool(ready)
        for descriptor in ready:
            if descriptor == main.fileno():
                main.serve(now_ns)
            else:
                core.on_readable(descriptor, now_ns)
        deadline_ns = core.next_deadline_ns()
        if deadline_ns is not None and now_ns >= deadline_ns:
            core.on_timer(now_ns)
            active = True
        if now_ns >= self._sync_due_ns:
            self._sync_due_ns = now_ns + SYNC_NS
            self._counters.sync()
        if active:
            main.stir(now_ns)
        if main.events_due_ns is not None and now_ns >= main.events_due_ns:
            main.report(now_ns)

    def _wait(self) -> list[int]:
        """Until there is something to read, or the next thing to do by the clock."""
        until_ns = min(
            self._pulse.due_ns,
            self._sync_due_ns,
            *(due_ns for due_ns in (self._core.next_deadline_ns(), self._main.events_due_ns) if due_ns is not None),
        )
        left_ns = until_ns - time.monotonic_ns()
        inputs = [self._main.fileno(), *self._core.descriptors()]
        ready, _, _ = select.select(inputs, (), (), left_ns / 1e9 if left_ns > 0 else 0)
        return ready
