"""The life of a daemon: alone in its state directory, known to the service manager, until it is told to stop.

Decides: when it says that it is up, when it lives, when it reads its configuration again. Refuses to know: what it
does. Source: flock(2), signal(7); sd_notify(3) by `dataplane.notify`.

SIGTERM and SIGINT end it in good order. SIGHUP makes it read its configuration again, or ends it in good order when it
was started in a terminal: then the terminal has gone. The watchdog is fed from the event loop, and only while the
daemon's own work goes on: whichever of them hangs, the service manager starts us again.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from billpay.errors import BillpayError, EnvironmentFault
from dataplane import journal
from dataplane.notify import Notifier

LOG = logging.getLogger("service")
STATUS_NS: Final = 5_000_000_000
"""So often the service manager gets our status, when it does not wait for signs of life more often."""

FEEDS_IN_PERIOD: Final = 3
STOP_NS: Final = 60_000_000_000
"""Putting the kernel back waits for other people's locks; being killed in the middle of it helps nobody."""


@contextlib.contextmanager
def locked(state_directory: Path) -> Iterator[None]:
    """Makes the directory (0700) and holds its lock, which the kernel lets go of however we end.

    Raises EnvironmentFault when it cannot be used, or when another daemon works there.
    """
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EnvironmentFault("use", str(state_directory), error.strerror, "run as root, or name another") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        remedy = "stop it first, or name another directory"
        raise EnvironmentFault("use", str(state_directory), "another daemon works there", remedy) from error
    try:
        yield
    finally:
        os.close(descriptor)


def report_fault(task: asyncio.Task[None]) -> None:
    """A done callback for a task that nobody awaits: what ended it is in the log, with its traceback."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        LOG.error("a background task failed", exc_info=fault)


class Daemon(Protocol):
    """What `serve` runs: everything is up inside `running()`, and `work()` goes on until it is cancelled.

    It may have more: see Reporting, Beating and Reloading.
    """

    def running(self) -> contextlib.AbstractAsyncContextManager[None]: ...

    async def work(self) -> None: ...


@runtime_checkable
class Reporting(Protocol):
    def status_line(self) -> str:
        """For `systemctl status`."""
        ...


@runtime_checkable
class Beating(Protocol):
    def heartbeat_ns(self) -> int:
        """When its regular work was last finished, by the monotonic clock; at first, when it was started."""
        ...


@runtime_checkable
class Reloading(Protocol):
    async def reload(self) -> None:
        """Raises a BillpayError, and leaves everything as it was, when the new configuration cannot be used."""
        ...


async def serve(name: str, state_directory: Path, make: Callable[[], Daemon], *, seconds: float | None = None) -> None:
    """The life of a daemon from its lock to its end. Raises what keeps it from starting or working.

    `seconds`: it ends by itself, so long after it was up.
    """
    with locked(state_directory):
        journal.set_up(sys.stderr, state_directory)
        show_where_it_hangs()
        daemon = make()
        async with daemon.running():
            LOG.info("%s is up", name)
            await until_told_to_stop(daemon.work(), daemon, seconds=seconds)
            LOG.info("stopping")


def show_where_it_hangs() -> None:
    """The watchdog's SIGABRT then leaves the stack of each thread in the log."""
    if not faulthandler.is_enabled():
        with contextlib.suppress(io.UnsupportedOperation, OSError, ValueError):  # no file behind standard error
            faulthandler.enable()


async def until_told_to_stop(
    work: Coroutine[object, object, None],
    daemon: object = None,
    *,
    notifier: Notifier | None = None,
    seconds: float | None = None,
) -> None:
    """Everything is up: runs `work` until SIGTERM or SIGINT cancels it, or `seconds` are over; a fault in it is raised
    here.

    `daemon`: what may be Reporting, Beating and Reloading. The handlers stay: a second signal does not end a daemon
    that is just putting the kernel back.
    """
    life = _Life(daemon, notifier if notifier is not None else Notifier.from_environment())
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    loop.add_signal_handler(signal.SIGHUP, told.set if os.isatty(0) else life.ask_reload)
    if seconds is not None:
        loop.call_later(seconds, told.set)
    beside = [loop.create_task(part) for part in (_wait(told), life.reload_when_asked(), life.feed())]
    life.begin()
    try:
        await asyncio.wait({task, *beside}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        life.end()
        for part in (*beside, task):  # the work last: a reload may be changing it
            await _ended(part)
    for part in (*beside, task):
        with contextlib.suppress(asyncio.CancelledError):
            part.result()  # a reload that failed in an unknown way leaves nothing to rely on


async def _wait(told: asyncio.Event) -> None:
    await told.wait()


async def _ended(task: asyncio.Task[None]) -> None:
    while not task.done():  # a library may swallow one cancellation
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)


class _Life:
    """What the service manager is told of a daemon while it works."""

    def __init__(self, daemon: object, notifier: Notifier) -> None:
        self._daemon = daemon
        self._notifier = notifier
        self._asked = asyncio.Event()
        self._refused = ""
        self._hangs = False

    def begin(self) -> None:
        self._notifier.ready(self._status())

    def end(self) -> None:
        self._notifier.stopping("stopping", within_ns=STOP_NS)

    def ask_reload(self) -> None:
        self._asked.set()

    async def reload_when_asked(self) -> None:
        """Several signals during one reload make one more."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading(time.monotonic_ns())
            await self._reload()
            self._notifier.ready(self._status())

    async def _reload(self) -> None:
        if not isinstance(self._daemon, Reloading):
            LOG.warning("the configuration is read at the start only: restart instead")
            return
        try:
            await self._daemon.reload()
        except BillpayError as error:
            self._refused = f"the configuration stays as it was: {error}"
            LOG.error("%s", self._refused)
        else:
            self._refused = ""
            LOG.info("read the configuration again")

    async def feed(self) -> None:
        """Signs of life and the status, for as long as the loop and the work go on."""
        period_ns, said = self._notifier.watchdog_ns, ""
        pause_ns = min(STATUS_NS, period_ns // FEEDS_IN_PERIOD) if period_ns is not None else STATUS_NS
        while self._notifier.is_heard:
            if period_ns is not None and self._works(period_ns):
                self._notifier.alive()
            if (status := self._status()) != said:
                self._notifier.status(status)
                said = status
            await asyncio.sleep(pause_ns / 1e9)
        await asyncio.Event().wait()  # it ends when it is cancelled, as the others do

    def _works(self, period_ns: int) -> bool:
        if not isinstance(self._daemon, Beating):
            return True
        silent_ns = time.monotonic_ns() - self._daemon.heartbeat_ns()
        hung_before, self._hangs = self._hangs, silent_ns > period_ns // 2
        if self._hangs and not hung_before:
            LOG.error("the work hangs since %d s: the watchdog is not fed any more", silent_ns // 1_000_000_000)
        return not self._hangs

    def _status(self) -> str:
        if self._refused:
            return self._refused
        return self._daemon.status_line() if isinstance(self._daemon, Reporting) else ""
