"""Keeps a reader and a watchdog alive for a main process, and carries messages to and from the reader.

Decides: when a reader that died is started again, and which message answers which request.
Refuses to know: what the messages say, and which rules lead packets to the reader.
Source: ARCHITECTURE (safety): whatever dies or hangs, packets go on.

All tasks belong to the object and end with `stop`: one runs reader after reader, one beats for the watchdog and looks
after it, one writes the counters to the disk now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import msgspec

from billpay.errors import BillpayError, EnvironmentFault
from dataplane import command, reader_process
from dataplane.command import Kind
from dataplane.counters import CounterFile
from dataplane.heartbeat import HeartbeatFile, Role
from dataplane.reader_process import Started

FIRST_BACKOFF_S: Final = 0.05
LAST_BACKOFF_S: Final = 1.0
STABLE_S: Final = 10.0
"""A reader that lived this long starts the backoff anew."""

START_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 3.0
REQUEST_TIMEOUT_S: Final = 5.0
SYNC_INTERVAL_S: Final = 10.0
_READERS: Final = "readers"
_BEAT_S: Final = 0.25
_WATCHDOG_SILENCE_NS: Final = 2_000_000_000


class ReaderUnavailable(BillpayError):  # noqa: N818 - a state that passes, not a mistake
    """There is no reader to answer just now; its successor starts from the snapshot."""


class Health(Enum):
    """What the supervisor is doing."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting to start the reader again"
    STOPPED = "stopped"


class ReaderSupervisor:
    """`async with ReaderSupervisor(...)`: within it there is a reader, or soon one again.

    argv: the reader's command line; its `main` calls `reader.serve` or `ebpf.kernel_reader.serve_kernel`. The rules
    are installed before and removed after.
    on_event(bytes): an event of the core. on_started(Started): a reader is ready. on_health(Health, why): a change.
    snapshot(): the commands that bring a fresh core to the present state, asked anew for each reader.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        counters_path: Path,
        owner: str,
        on_event: Callable[[bytes], None],
        snapshot: Callable[[], list[bytes]],
        on_started: Callable[[Started], None] | None = None,
        on_health: Callable[[Health, str], None] | None = None,
    ) -> None:
        self._argv = list(argv)
        self._counters_path = counters_path
        self._heartbeat_path = counters_path.with_name(counters_path.name + ".heartbeat")
        self._owner = owner
        self._on_event = on_event
        self._snapshot = snapshot
        self._on_started = on_started
        self._on_health = on_health
        self.health = Health.STOPPED
        self._process: asyncio.subprocess.Process | None = None
        self._link: _Link | None = None
        self._killer: _Killer | None = None
        self._stopping = False
        self._replacement: _Replacement | None = None
        self._wake = asyncio.Event()
        self._first_start: asyncio.Future[BillpayError | None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._page: HeartbeatFile | None = None

    @property
    def reader_pid(self) -> int | None:
        """The running reader's process id."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def __aenter__(self) -> ReaderSupervisor:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, argv: Sequence[str] | None = None) -> None:
        """Returns when the first reader is ready. `argv`: another command line than before.

        Raises EnvironmentFault when it cannot work here; it may then be started again.
        """
        self._argv = list(argv) if argv is not None else self._argv
        self._stopping = False
        self._page = HeartbeatFile(self._heartbeat_path)
        self._page.leave(Role.READER)
        self._page.enrol(Role.MAIN, time.monotonic_ns())
        loop = asyncio.get_running_loop()
        self._first_start = loop.create_future()
        self._tasks = [
            loop.create_task(self._run_watchdogs(), name="watchdog"),
            loop.create_task(self._run_readers(), name=_READERS),
            loop.create_task(self._sync_counters(), name="counter sync"),
        ]
        try:
            _raise(await self._first_start)
        except BaseException:
            await self.stop()
            raise

    async def watch(self) -> None:
        """Waits until `stop`, or raises what ended one of the tasks before (a fault in a callback)."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            if not task.cancelled():
                task.result()

    async def request(self, message: bytes) -> bytes:
        """A command for the core, and its reply (b"" when it has none). Raises ReaderUnavailable."""
        link = self._link
        if link is None:
            raise ReaderUnavailable("the packet reader is not running just now")
        return await link.request(Kind.COMMAND, message)

    async def replace(self, argv: Sequence[str], *, between: Callable[[], None]) -> None:
        """Another reader from now on: this one ends in good order, then `between` (in a thread), then the other starts.

        Returns when that is ready. Raises EnvironmentFault when it cannot work here, or what `between` raised: then
        readers are tried again and again until somebody replaces them by others. One call at a time.
        """
        done: asyncio.Future[BillpayError | None] = asyncio.get_running_loop().create_future()
        self._replacement = _Replacement(argv=list(argv), between=between, done=done)
        self._wake.set()
        if self._link is not None:
            with contextlib.suppress(ReaderUnavailable):
                await self._link.send(Kind.STOP, 0, b"")
        await asyncio.wait({done}, timeout=STOP_TIMEOUT_S)
        if self._replacement is not None and self._killer is not None:
            self._killer.kill()  # it does not end by itself
        _raise(await done)

    async def stop(self) -> None:
        """Lets the reader drain what it holds and exit; then ends everything. No packet is lost by it."""
        self._stopping = True
        if self._link is not None:
            with contextlib.suppress(ReaderUnavailable):
                await self._link.send(Kind.STOP, 0, b"")
                readers = [task for task in self._tasks if task.get_name() == _READERS]
                await asyncio.wait(readers, timeout=STOP_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        done = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._replacement is not None:
            self._first_start, self._replacement = self._replacement.done, None
        self._settle(ReaderUnavailable("the packet reader was stopped"))
        self._report(Health.STOPPED, "")
        if self._page is not None:
            self._page.close()
            self._page = None
            self._heartbeat_path.unlink(missing_ok=True)
        for result in done:
            if isinstance(result, Exception):
                raise result

    # -- readers -----------------------------------------------------------------------------------------------------

    async def _run_readers(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            self._report(Health.STARTING, "")
            began_s = time.monotonic()
            why = await self._run_reader()
            if self._stopping:
                return
            if time.monotonic() - began_s > STABLE_S:
                backoff_s = FIRST_BACKOFF_S
            if self._replacement is None:
                self._report(Health.WAITING, why)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s):
                        await self._wake.wait()
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
            if self._replacement is not None:
                await self._take_replacement(self._replacement)
                backoff_s = FIRST_BACKOFF_S

    async def _take_replacement(self, replacement: _Replacement) -> None:
        """No reader runs. What goes wrong is the caller's of `replace`."""
        self._replacement = None
        self._wake.clear()
        self._argv, self._first_start = replacement.argv, replacement.done
        try:
            await asyncio.to_thread(replacement.between)
        except EnvironmentFault as fault:
            self._could_not_start(fault)

    async def _run_reader(self) -> str:
        """One reader from birth to death; why it died."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            try:
                with theirs:
                    process = await self._spawn(theirs.fileno())
            except OSError as error:
                return self._could_not_start(EnvironmentFault("start", self._argv[0], error.strerror, "reinstall"))
            self._process = process
            link = _Link(ours, self._on_event)
            try:
                with _Killer(process) as killer:
                    self._killer = killer
                    await self._attend(process, link, killer)
            finally:
                self._link = self._killer = None
                code = await process.wait()
        if link.fault is not None:
            return self._could_not_start(link.fault)
        why = f"it ended by signal {-code}" if code < 0 else f"it exited with code {code}"
        return self._could_not_start(EnvironmentFault("start", "packet reader", why, "see its output"))

    async def _attend(self, process: asyncio.subprocess.Process, link: _Link, killer: _Killer) -> None:
        """Brings the reader up and receives from it until it closes its end."""
        receiving = asyncio.get_running_loop().create_task(link.receive(), name="reader link")
        try:
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await self._bring_up(link)
            except (ReaderUnavailable, TimeoutError):
                killer.kill()
            await receiving
            if self._stopping or self._replacement is not None:
                await process.wait()
        finally:
            receiving.cancel()

    async def _spawn(self, command_fd: int) -> asyncio.subprocess.Process:
        environment = {
            **os.environ,
            reader_process.ENVIRONMENT_COMMAND_FD: str(command_fd),
            reader_process.ENVIRONMENT_COUNTERS: str(self._counters_path),
            reader_process.ENVIRONMENT_HEARTBEAT: str(self._heartbeat_path),
            reader_process.ENVIRONMENT_OWNER: self._owner,
            reader_process.ENVIRONMENT_PARENT: str(os.getpid()),
        }
        # A session of its own: Ctrl-C is for main, which stops the reader in good order.
        return await asyncio.create_subprocess_exec(
            *self._argv,
            env=environment,
            pass_fds=(command_fd,),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _bring_up(self, link: _Link) -> None:
        """State first, then packets."""
        for message in self._snapshot():
            await link.request(Kind.COMMAND, message, timeout_s=START_TIMEOUT_S)  # the first waits for the process
        started = msgspec.json.decode(await link.request(Kind.GO, b"", timeout_s=START_TIMEOUT_S), type=Started)
        self._link = link
        self._report(Health.RUNNING, "")
        if self._on_started is not None:
            self._on_started(started)
        self._settle(None)

    def _could_not_start(self, fault: EnvironmentFault) -> str:
        """Before the first reader was ready the fault is the caller's; afterwards it is the reason to try again."""
        self._settle(fault)
        return str(fault)

    def _settle(self, outcome: BillpayError | None) -> None:
        """Tells whoever waits for the first reader of a kind."""
        if self._first_start is not None and not self._first_start.done():
            self._first_start.set_result(outcome)

    def _report(self, health: Health, why: str) -> None:
        if health is not self.health:
            self.health = health
            if self._on_health is not None:
                self._on_health(health, why)

    # -- watchdog and counters ---------------------------------------------------------------------------------------

    async def _run_watchdogs(self) -> None:
        argv = [sys.executable, "-m", "dataplane.watchdog", str(self._heartbeat_path), str(os.getpid())]
        while True:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                raise EnvironmentFault("start", argv[0], error.strerror, "reinstall") from error
            try:
                with _Killer(process):
                    await self._beat_while(process)
            finally:
                await process.wait()
            await asyncio.sleep(FIRST_BACKOFF_S)

    async def _beat_while(self, watchdog: asyncio.subprocess.Process) -> None:
        """Beats for main until the watchdog has died, or is silent while we are not."""
        silent_ns = 0
        last = before_ns = 0
        assert self._page is not None
        while watchdog.returncode is None and silent_ns < _WATCHDOG_SILENCE_NS:
            now_ns = time.monotonic_ns()
            self._page.beat(Role.MAIN, now_ns)
            beat = self._page.read(Role.WATCHDOG)
            if beat.pid == watchdog.pid and beat.beat_ns == last and before_ns:
                silent_ns += min(now_ns - before_ns, int(2e9 * _BEAT_S))
            else:
                silent_ns = 0
            last, before_ns = beat.beat_ns, now_ns
            await asyncio.sleep(_BEAT_S)

    async def _sync_counters(self) -> None:
        """After a power loss at most this interval is missing."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            if self._counters_path.exists():
                await asyncio.to_thread(_sync, self._counters_path)


class _Replacement(NamedTuple):
    """The next reader's command line, and what to do before it starts."""

    argv: list[str]
    between: Callable[[], None]
    done: asyncio.Future[BillpayError | None]


def _raise(outcome: BillpayError | None) -> None:
    if outcome is not None:
        raise outcome


class _Link:
    """Our end of one reader's command socket."""

    def __init__(self, ours: socket.socket, on_event: Callable[[bytes], None]) -> None:
        self._socket = ours
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._sending = asyncio.Lock()
        self._closed = False
        self.fault: EnvironmentFault | None = None

    async def receive(self) -> None:
        """Until the reader's end closes; those who still wait then get ReaderUnavailable."""
        try:
            while data := await self._next():
                self._take(command.decode(data))
        finally:
            self._closed = True
            for waiter in self._waiting.values():
                if not waiter.done():
                    waiter.set_exception(ReaderUnavailable("the packet reader died before it answered"))

    async def _next(self) -> bytes:
        """Empty at the end. Who dies with a command of ours unread says so once, before its last frames."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            with contextlib.suppress(ConnectionResetError):
                return await loop.sock_recv(self._socket, command.FRAME_LIMIT_BYTES)
        return b""

    async def request(self, kind: Kind, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
        self._number = number = self._number + 1 & 0xFFFF_FFFF
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiter
        try:
            await self.send(kind, number, body)
            async with asyncio.timeout(timeout_s):  # not wait_for: that one may swallow a cancellation (Python 3.11)
                return await waiter
        except TimeoutError as error:
            raise ReaderUnavailable(f"the packet reader did not answer in {timeout_s} s") from error
        finally:
            del self._waiting[number]

    async def send(self, kind: Kind, number: int, body: bytes) -> None:
        if self._closed:
            raise ReaderUnavailable("the packet reader has died")
        frame = command.encode(kind, number, body)
        try:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._socket, frame)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ReaderUnavailable("the packet reader has died") from error

    def _take(self, frame: command.Frame) -> None:
        if frame.kind is Kind.EVENT:
            self._on_event(frame.body)
        elif frame.kind is Kind.FAULT:
            self.fault = EnvironmentFault(*msgspec.json.decode(frame.body, type=tuple[str, str, str, str]))
        else:
            waiter = self._waiting.get(frame.number)
            if waiter is not None and not waiter.done():
                waiter.set_result(frame.body)


class _Killer:
    """SIGKILL to one child, whoever may have its number now.

    Not `Process.kill`: that looks for the child's exit status itself, and asyncio's watcher may then miss it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._descriptor = os.pidfd_open(process.pid)

    def __enter__(self) -> _Killer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        os.close(self._descriptor)

    def kill(self) -> None:
        """Nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


def _sync(path: Path) -> None:
    counters = CounterFile.attach(path)
    try:
        counters.sync()
    finally:
        counters.close()
