"""What every reader process is: started by a ReaderSupervisor, it beats, talks with its main process, and ends with it.

Decides: how often it beats, in which order commands are answered, and what happens to events that main does not read.
Refuses to know: how packets are treated (`dataplane.reader`, `dataplane.ebpf.kernel_reader`), and what messages say.
Source: ARCHITECTURE (data plane; safety).
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import command
from dataplane.command import Kind
from dataplane.counters import Recovery
from dataplane.hardening import Capability, drop_capabilities
from dataplane.heartbeat import BEAT_NS, DeadManTimer, HeartbeatFile, Role, die_with_parent
from dataplane.port import Counters

EXIT_FAULT: Final = 3
"""The environment does not allow the work; the reason went to main as a FAULT frame."""

EVENT_INTERVAL_NS: Final = 20_000_000
EVENTS_KEPT_MAX: Final = 4096
"""Events waiting for a slow main; what comes beyond is counted as lost."""

COMMANDS_IN_TURN: Final = 16
DEAD_MAN_NS: Final = 900_000_000
"""Traffic must go on within a second even when the watchdog is stopped together with the reader."""

_NEVER_NS: Final = 1 << 62

ENVIRONMENT_COMMAND_FD: Final = "DATAPLANE_COMMAND_FD"
ENVIRONMENT_COUNTERS: Final = "DATAPLANE_COUNTERS"
ENVIRONMENT_HEARTBEAT: Final = "DATAPLANE_HEARTBEAT"
ENVIRONMENT_OWNER: Final = "DATAPLANE_OWNER"
ENVIRONMENT_PARENT: Final = "DATAPLANE_PARENT"


class Started(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader found when it started: how the open batch was settled, and the packets that its predecessor still
    held."""

    settled: str
    open_accepts: int
    unexplained_accepts: int
    held_lost_packets: int


def started(recovery: Recovery | None, *, held_lost_packets: int = 0) -> Started:
    return Started(
        settled=recovery.settled.name if recovery else "NOTHING_OPEN",
        open_accepts=recovery.open_accepts if recovery else 0,
        unexplained_accepts=recovery.unexplained_accepts if recovery else 0,
        held_lost_packets=held_lost_packets,
    )


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor told the process by its environment. `owner`: of the kernel's rules."""

    command_fd: int
    counters: Path
    heartbeat: Path
    owner: str


def live(work: Callable[[Circumstances], None], *, gives_up: Sequence[Capability]) -> int:
    """The process around `work`, which may raise EnvironmentFault; returns the exit code."""
    environment = os.environ
    die_with_parent(int(environment[ENVIRONMENT_PARENT]))
    drop_capabilities(gives_up)
    command_fd = int(environment[ENVIRONMENT_COMMAND_FD])
    try:
        work(
            Circumstances(
                command_fd=command_fd,
                counters=Path(environment[ENVIRONMENT_COUNTERS]),
                heartbeat=Path(environment[ENVIRONMENT_HEARTBEAT]),
                owner=environment[ENVIRONMENT_OWNER],
            )
        )
    except EnvironmentFault as fault:
        body = msgspec.json.encode([fault.operation, fault.target, str(fault.cause), fault.remedy])
        os.write(command_fd, command.encode(Kind.FAULT, 0, body))
        return EXIT_FAULT
    return 0


class Pulse:
    """Shows that we are not hung: to the watchdog, and to a timer of the kernel's that kills us if we are."""

    def __init__(self, heartbeat: Path) -> None:
        self._page = HeartbeatFile(heartbeat)
        self._dead_man = DeadManTimer(DEAD_MAN_NS)
        self.due_ns = _NEVER_NS

    def begin(self) -> None:
        """From now on somebody waits for the next beat."""
        self.due_ns = 0
        self._page.enrol(Role.READER, time.monotonic_ns())

    def beat(self, now_ns: int) -> None:
        self.due_ns = now_ns + BEAT_NS
        self._page.beat(Role.READER, now_ns)
        self._dead_man.wind()

    def end(self) -> None:
        """Nobody waits for the next beat any more."""
        self.due_ns = _NEVER_NS
        self._dead_man.cancel()
        self._page.leave(Role.READER)


class Answerer(Protocol):
    """What of a core talks with the main process."""

    def on_message(self, data: bytes, now_ns: int, unix_s: int, /) -> bytes | None:
        """A command from the main process, and the reply."""
        ...

    def take_events(self) -> list[bytes]:
        """Events for the main process since the last call; the core bounds the list."""
        ...


class Conversation:
    """Our end of the command socket. `stopping`: main said so, or has closed its end.

    on_go(): state has come, now packets; what it gives is told to main.
    """

    def __init__(
        self,
        command_fd: int,
        core: Answerer,
        *,
        counters: Counters,
        on_go: Callable[[], Started],
        event_interval_ns: int,
    ) -> None:
        self._core = core
        self._counters = counters
        self._on_go = on_go
        self._event_interval_ns = event_interval_ns
        self._socket = socket.socket(fileno=os.dup(command_fd))
        self._socket.setblocking(False)
        self._outbox: deque[bytes] = deque()
        self._events_lost = counters.index("dataplane.events_lost")
        self.stopping = False
        self.events_due_ns: int | None = None

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def serve(self, now_ns: int) -> None:
        """Answers what has come, as far as one turn goes."""
        for _ in range(COMMANDS_IN_TURN):
            try:
                data = self._socket.recv(command.FRAME_LIMIT_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self.stopping = True
                break
            self._obey(command.decode(data), now_ns)
        self._flush()

    def stir(self, now_ns: int) -> None:
        """The core did something: it may have events to tell, within an interval."""
        if self.events_due_ns is None:
            self.events_due_ns = now_ns + self._event_interval_ns

    def report(self, now_ns: int) -> None:
        """Hands the core's events on. A main that does not read costs events, never packets."""
        events = self._core.take_events()
        room = EVENTS_KEPT_MAX - len(self._outbox)
        if len(events) > room:
            self._counters.add(self._events_lost, len(events) - max(room, 0))
            del events[max(room, 0) :]
        self._outbox.extend(command.encode(Kind.EVENT, 0, event) for event in events)
        self._flush()
        self.events_due_ns = now_ns + self._event_interval_ns if self._outbox else None

    def _obey(self, frame: command.Frame, now_ns: int) -> None:
        if frame.kind is Kind.COMMAND:
            reply = self._core.on_message(frame.body, now_ns, int(time.time()))
            kind = Kind.NO_REPLY if reply is None else Kind.REPLY
            self._outbox.append(command.encode(kind, frame.number, reply or b""))
        elif frame.kind is Kind.GO:
            self._outbox.append(command.encode(Kind.READY, frame.number, msgspec.json.encode(self._on_go())))
        elif frame.kind is Kind.STOP:
            self.stopping = True

    def _flush(self) -> None:
        while self._outbox:
            try:
                self._socket.send(self._outbox[0])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._outbox.clear()
                self.stopping = True
                return
            self._outbox.popleft()
