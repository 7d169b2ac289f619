"""The reader: the loop that drives one packet core between its queues, its deadlines and its main process.

Decides: in which order packets, deadlines, commands and events are served, and how each turn's verdicts are journalled.
Refuses to know: what the core decides.
Source: ARCHITECTURE (data plane; "Counters survive a killed process"; safety).

A turn receives at most one batch, asks the core, writes the intent, sends all verdicts, commits. Packets held by the
core get their verdict from `on_timer` later. A graceful stop lets new packets pass, has the core release what it
holds, and leaves.
"""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from dataplane.counters import ACCEPTS, CounterFile, Recovery
from dataplane.hardening import FOR_MAIN_ONLY
from dataplane.heartbeat import BEAT_NS, sharpen_timers
from dataplane.nfqueue import BATCH_PACKETS, NfqueueSocket, QueueConfig, Troubles
from dataplane.port import Action, PacketCore
from dataplane.reader_process import (
    ENVIRONMENT_COMMAND_FD,
    ENVIRONMENT_COUNTERS,
    ENVIRONMENT_HEARTBEAT,
    ENVIRONMENT_OWNER,
    ENVIRONMENT_PARENT,
    EVENT_INTERVAL_NS,
    Circumstances,
    Conversation,
    Pulse,
    Started,
    live,
    started,
)
from dataplane.rules import read_kernel_accepts

__all__ = [
    "ENVIRONMENT_COMMAND_FD",
    "ENVIRONMENT_COUNTERS",
    "ENVIRONMENT_HEARTBEAT",
    "ENVIRONMENT_OWNER",
    "ENVIRONMENT_PARENT",
    "Build",
    "Reader",
    "Started",
    "run_reader",
    "serve",
]

DRAIN_TURNS_MAX: Final = 4096

Build = Callable[[CounterFile], tuple[PacketCore, Sequence[QueueConfig]]]


def serve(build: Build, *, event_interval_ns: int = EVENT_INTERVAL_NS) -> int:
    """The whole life of a reader process that a ReaderSupervisor started; returns the exit code.

    `build` gets the recovered counters and returns the core and its queues; it may raise EnvironmentFault.
    event_interval_ns: how long events may wait to be told together.
    """

    def work(told: Circumstances) -> None:
        sharpen_timers()
        counters = CounterFile.open(told.counters)
        recovery = counters.recover(read_kernel_accepts(told.owner))
        core, queues = build(counters)
        gc.collect()
        gc.freeze()  # what exists now stays: no later collection walks through it
        with Reader(
            core,
            queues=queues,
            counters=counters,
            command_fd=told.command_fd,
            recovery=recovery,
            pulse=Pulse(told.heartbeat),
            event_interval_ns=event_interval_ns,
        ) as reader:
            reader.run()
        counters.close()

    return live(work, gives_up=FOR_MAIN_ONLY)


def run_reader(core: PacketCore, *, queues: Sequence[QueueConfig], counters: CounterFile, command_fd: int) -> None:
    """The loop without the process around it (no heartbeat, no recovery): until STOP, or until the other end closes."""
    with Reader(core, queues=queues, counters=counters, command_fd=command_fd, recovery=None) as reader:
        reader.run()


class Reader:
    """One core, its queues, its counters and its command socket."""

    def __init__(
        self,
        core: PacketCore,
        *,
        queues: Sequence[QueueConfig],
        counters: CounterFile,
        command_fd: int,
        recovery: Recovery | None,
        pulse: Pulse | None = None,
        event_interval_ns: int = EVENT_INTERVAL_NS,
    ) -> None:
        self._pulse = pulse
        self._core = core
        self._queues = queues
        self._counters = counters
        self._socket = NfqueueSocket()
        self._full_batch = False
        self._look_up_ns = 0
        self._received = counters.index("dataplane.received")
        self._dropped = counters.index("dataplane.dropped")
        self._malformed = counters.index("dataplane.malformed")
        self._refused = counters.index("dataplane.refused_verdicts")
        self._refused_accepts = counters.index("dataplane.refused_accepts")
        self._held_lost = counters.index("dataplane.held_lost")
        self._held_passed = counters.index("dataplane.held_passed")
        self._injects_failed = counters.index("dataplane.injects_failed")
        self._started = self._count_held(recovery)
        self._main = Conversation(
            command_fd, core, counters=counters, on_go=self._bind_queues, event_interval_ns=event_interval_ns
        )
        self._inputs = [self._socket.fileno(), self._main.fileno()]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._main.close()

    def run(self) -> None:
        """Serves until STOP or until main closes its end; then drains."""
        if self._pulse is not None:
            self._pulse.begin()
        while not self._main.stopping:
            self._turn()
        self._drain()
        if self._pulse is not None:
            self._pulse.end()

    # -- a turn ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        core = self._core
        deadline_ns = core.next_deadline_ns()
        now_ns = time.monotonic_ns()
        if self._pulse is not None and now_ns >= self._pulse.due_ns:
            self._pulse.beat(now_ns)
        if self._full_batch and now_ns < self._look_up_ns:
            packets_ready, command_ready = True, False
        else:
            self._look_up_ns = now_ns + EVENT_INTERVAL_NS
            packets_ready, command_ready = self._wait(now_ns, deadline_ns)
            now_ns = time.monotonic_ns()
        actions: Sequence[Action] = ()
        active = False
        if command_ready:
            self._main.serve(now_ns)
            active = True
        if packets_ready:
            packets = self._socket.receive()
            self._full_batch = len(packets) >= BATCH_PACKETS
            if packets:
                self._counters.add(self._received, len(packets))
                actions = core.on_batch(packets, now_ns)
                active = True
        if deadline_ns is not None and now_ns >= deadline_ns:
            timed = core.on_timer(now_ns)
            actions = [*actions, *timed] if actions else timed
            active = True
        if active:
            self._carry_out(actions)
            self._main.stir(now_ns)
        due_ns = self._main.events_due_ns
        if due_ns is not None and now_ns >= due_ns:
            self._main.report(now_ns)

    def _wait(self, now_ns: int, deadline_ns: int | None) -> tuple[bool, bool]:
        """Until a packet, a command, or the next thing to do by the clock; select() is exact to a microsecond."""
        until_ns = now_ns + BEAT_NS if self._pulse is None else self._pulse.due_ns
        if deadline_ns is not None and deadline_ns < until_ns:
            until_ns = deadline_ns
        due_ns = self._main.events_due_ns
        if due_ns is not None and due_ns < until_ns:
            until_ns = due_ns
        ready, _, _ = select.select(self._inputs, (), (), (until_ns - now_ns) / 1e9 if until_ns > now_ns else 0)
        if not ready:
            return False, False
        return self._inputs[0] in ready, self._inputs[1] in ready

    def _carry_out(self, actions: Sequence[Action]) -> None:
        """Intent, verdicts, commit: the counter changes of this turn become durable with its verdicts."""
        counters = self._counters
        netlink = self._socket
        batch = netlink.build(actions)
        if batch.drops:
            counters.add(self._dropped, batch.drops)
        if netlink.troubles is not None:
            self._count_troubles(netlink.troubles)
        counters.begin(batch.accepts)
        netlink.send(batch)
        counters.commit()

    def _count_troubles(self, troubles: Troubles) -> None:
        self._socket.troubles = None
        self._counters.add(self._malformed, troubles.malformed_messages)
        self._counters.add(self._injects_failed, troubles.injects_failed)
        self._counters.add(self._refused, troubles.refused_verdicts)
        self._counters.add(self._refused_accepts, troubles.refused_accepts)
        self._counters.refused(troubles.refused_accepts)

    def _bind_queues(self) -> Started:
        for queue in self._queues:
            self._socket.bind(queue)
        return self._started

    # -- beginning and end -------------------------------------------------------------------------------------------

    def _count_held(self, recovery: Recovery | None) -> Started:
        """What a killed predecessor had received and never given a verdict: the kernel dropped it with the queue."""
        held = self._without_verdict()
        self._counters.add(self._held_lost, held)
        self._counters.begin(0)
        self._counters.commit()
        return started(recovery, held_lost_packets=held)

    def _without_verdict(self) -> int:
        value = self._counters.value
        settled = value(self._counters.index(ACCEPTS)) + value(self._dropped) + value(self._refused_accepts)
        return value(self._received) - settled - value(self._held_lost) - value(self._held_passed)

    def _drain(self) -> None:
        """No packet is lost to a graceful stop: new ones pass, those in the queue and those held get their verdict."""
        self._socket.let_new_packets_pass()
        for _ in range(DRAIN_TURNS_MAX):
            now_ns = time.monotonic_ns()
            if self._pulse is not None:
                self._pulse.beat(now_ns)
            packets = self._socket.receive()
            if not packets:
                break
            self._counters.add(self._received, len(packets))
            self._carry_out(self._core.on_batch(packets, now_ns))
        self._carry_out(self._core.on_drain(time.monotonic_ns()))
        forgotten = self._without_verdict()
        self._socket.accept_everything_left()
        self._counters.add(self._held_passed, forgotten)
        self._carry_out(())
        self._main.report(time.monotonic_ns())
