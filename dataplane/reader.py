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
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import command
from dataplane.command import Kind
from dataplane.counters import ACCEPTS, CounterFile, Recovery
from dataplane.hardening import FOR_MAIN_ONLY, drop_capabilities
from dataplane.heartbeat import BEAT_NS, DeadManTimer, HeartbeatFile, Role, die_with_parent, sharpen_timers
from dataplane.nfqueue import BATCH_PACKETS, NfqueueSocket, QueueConfig, Troubles
from dataplane.port import Action, PacketCore
from dataplane.rules import read_kernel_accepts

EXIT_FAULT: Final = 3
"""The environment does not allow the work; the reason went to main as a FAULT frame."""

EVENT_INTERVAL_NS: Final = 20_000_000
EVENTS_KEPT_MAX: Final = 4096
"""Events waiting for a slow main; what comes beyond is counted as lost."""

COMMANDS_IN_TURN: Final = 16
DEAD_MAN_NS: Final = 900_000_000
"""Traffic must go on within a second even when the watchdog is stopped together with the reader."""

DRAIN_TURNS_MAX: Final = 4096

ENVIRONMENT_COMMAND_FD: Final = "DATAPLANE_COMMAND_FD"
ENVIRONMENT_COUNTERS: Final = "DATAPLANE_COUNTERS"
ENVIRONMENT_HEARTBEAT: Final = "DATAPLANE_HEARTBEAT"
ENVIRONMENT_OWNER: Final = "DATAPLANE_OWNER"
ENVIRONMENT_PARENT: Final = "DATAPLANE_PARENT"

Build = Callable[[CounterFile], tuple[PacketCore, Sequence[QueueConfig]]]


class Started(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader found when it started: how the open batch was settled, and the packets that its predecessor still
    held."""

    settled: str
    open_accepts: int
    unexplained_accepts: int
    held_lost_packets: int


def serve(build: Build, *, event_interval_ns: int = EVENT_INTERVAL_NS) -> int:
    """The whole life of a reader process that a ReaderSupervisor started; returns the exit code.

    `build` gets the recovered counters and returns the core and its queues; it may raise EnvironmentFault.
    event_interval_ns: how long events may wait to be told together.
    """
    environment = os.environ
    die_with_parent(int(environment[ENVIRONMENT_PARENT]))
    drop_capabilities(FOR_MAIN_ONLY)
    sharpen_timers()
    command_fd = int(environment[ENVIRONMENT_COMMAND_FD])
    try:
        counters = CounterFile.open(Path(environment[ENVIRONMENT_COUNTERS]))
        recovery = counters.recover(read_kernel_accepts(environment[ENVIRONMENT_OWNER]))
        core, queues = build(counters)
        gc.collect()
        gc.freeze()  # what exists now stays: no later collection walks through it
        with Reader(core, queues=queues, counters=counters, command_fd=command_fd, recovery=recovery) as reader:
            reader.heartbeat = HeartbeatFile(Path(environment[ENVIRONMENT_HEARTBEAT]))
            reader.dead_man = DeadManTimer(DEAD_MAN_NS)
            reader.event_interval_ns = event_interval_ns
            reader.run()
        counters.close()
    except EnvironmentFault as fault:
        body = msgspec.json.encode([fault.operation, fault.target, str(fault.cause), fault.remedy])
        os.write(command_fd, command.encode(Kind.FAULT, 0, body))
        return EXIT_FAULT
    return 0


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
    ) -> None:
        self.heartbeat: HeartbeatFile | None = None
        self.dead_man: DeadManTimer | None = None
        self.event_interval_ns = EVENT_INTERVAL_NS
        self._core = core
        self._queues = queues
        self._counters = counters
        self._socket = NfqueueSocket()
        self._command = socket.socket(fileno=os.dup(command_fd))
        self._command.setblocking(False)
        self._inputs = [self._socket.fileno(), self._command.fileno()]
        self._outbox: deque[bytes] = deque()
        self._stopping = False
        self._full_batch = False
        self._next_beat_ns = 0
        self._look_up_ns = 0
        self._events_due_ns: int | None = None
        self._received = counters.index("dataplane.received")
        self._dropped = counters.index("dataplane.dropped")
        self._malformed = counters.index("dataplane.malformed")
        self._refused = counters.index("dataplane.refused_verdicts")
        self._refused_accepts = counters.index("dataplane.refused_accepts")
        self._held_lost = counters.index("dataplane.held_lost")
        self._held_passed = counters.index("dataplane.held_passed")
        self._injects_failed = counters.index("dataplane.injects_failed")
        self._events_lost = counters.index("dataplane.events_lost")
        self._started = self._count_held(recovery)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._command.close()

    def run(self) -> None:
        """Serves until STOP or until main closes its end; then drains."""
        if self.heartbeat is not None:
            self.heartbeat.enrol(Role.READER, time.monotonic_ns())
        while not self._stopping:
            self._turn()
        self._drain()
        if self.dead_man is not None:
            self.dead_man.cancel()
        if self.heartbeat is not None:
            self.heartbeat.leave(Role.READER)

    # -- a turn ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        core = self._core
        deadline_ns = core.next_deadline_ns()
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_beat_ns:
            self._beat(now_ns)
        if self._full_batch and now_ns < self._look_up_ns:
            packets_ready, command_ready = True, False
        else:
            self._look_up_ns = now_ns + EVENT_INTERVAL_NS
            packets_ready, command_ready = self._wait(now_ns, deadline_ns)
            now_ns = time.monotonic_ns()
        actions: Sequence[Action] = ()
        active = False
        if command_ready:
            self._serve_commands(now_ns)
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
            if self._events_due_ns is None:
                self._events_due_ns = now_ns + self.event_interval_ns
        if self._events_due_ns is not None and now_ns >= self._events_due_ns:
            self._report(now_ns)

    def _wait(self, now_ns: int, deadline_ns: int | None) -> tuple[bool, bool]:
        """Until a packet, a command, or the next thing to do by the clock; select() is exact to a microsecond."""
        until_ns = self._next_beat_ns
        if deadline_ns is not None and deadline_ns < until_ns:
            until_ns = deadline_ns
        if self._events_due_ns is not None and self._events_due_ns < until_ns:
            until_ns = self._events_due_ns
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

    def _beat(self, now_ns: int) -> None:
        self._next_beat_ns = now_ns + BEAT_NS
        if self.heartbeat is not None:
            self.heartbeat.beat(Role.READER, now_ns)
        if self.dead_man is not None:
            self.dead_man.wind()

    # -- main's side -------------------------------------------------------------------------------------------------

    def _serve_commands(self, now_ns: int) -> None:
        for _ in range(COMMANDS_IN_TURN):
            try:
                data = self._command.recv(command.FRAME_LIMIT_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self._stopping = True
                break
            self._obey(command.decode(data), now_ns)
        self._flush()

    def _obey(self, frame: command.Frame, now_ns: int) -> None:
        if frame.kind is Kind.COMMAND:
            reply = self._core.on_message(frame.body, now_ns, int(time.time()))
            kind = Kind.NO_REPLY if reply is None else Kind.REPLY
            self._outbox.append(command.encode(kind, frame.number, reply or b""))
        elif frame.kind is Kind.GO:
            for queue in self._queues:
                self._socket.bind(queue)
            self._outbox.append(command.encode(Kind.READY, frame.number, msgspec.json.encode(self._started)))
        elif frame.kind is Kind.STOP:
            self._stopping = True

    def _report(self, now_ns: int) -> None:
        """Hands the core's events on. A main that does not read costs events, never packets."""
        events = self._core.take_events()
        room = EVENTS_KEPT_MAX - len(self._outbox)
        if len(events) > room:
            self._counters.add(self._events_lost, len(events) - max(room, 0))
            del events[max(room, 0) :]
        self._outbox.extend(command.encode(Kind.EVENT, 0, event) for event in events)
        self._flush()
        self._events_due_ns = now_ns + self.event_interval_ns if self._outbox else None

    def _flush(self) -> None:
        while self._outbox:
            try:
                self._command.send(self._outbox[0])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._outbox.clear()
                self._stopping = True
                return
            self._outbox.popleft()

    # -- beginning and end -------------------------------------------------------------------------------------------

    def _count_held(self, recovery: Recovery | None) -> Started:
        """What a killed predecessor had received and never given a verdict: the kernel dropped it with the queue."""
        held = self._without_verdict()
        self._counters.add(self._held_lost, held)
        self._counters.begin(0)
        self._counters.commit()
        return Started(
            settled=recovery.settled.name if recovery else "NOTHING_OPEN",
            open_accepts=recovery.open_accepts if recovery else 0,
            unexplained_accepts=recovery.unexplained_accepts if recovery else 0,
            held_lost_packets=held,
        )

    def _without_verdict(self) -> int:
        value = self._counters.value
        settled = value(self._counters.index(ACCEPTS)) + value(self._dropped) + value(self._refused_accepts)
        return value(self._received) - settled - value(self._held_lost) - value(self._held_passed)

    def _drain(self) -> None:
        """No packet is lost to a graceful stop: new ones pass, those in the queue and those held get their verdict."""
        self._socket.let_new_packets_pass()
        for _ in range(DRAIN_TURNS_MAX):
            now_ns = time.monotonic_ns()
            self._beat(now_ns)
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
        self._report(time.monotonic_ns())
