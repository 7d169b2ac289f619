"""The life of a daemon: alone in its state directory, until it is told to stop.

Decides: nothing else. Source: flock(2), signal(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Protocol

from billpay.errors import EnvironmentFault

LOG = logging.getLogger("service")


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
    """What `serve` runs: everything is up inside `running()`, and `work()` goes on until it is cancelled."""

    def running(self) -> contextlib.AbstractAsyncContextManager[None]: ...

    async def work(self) -> None: ...


async def serve(name: str, state_directory: Path, make: Callable[[], Daemon]) -> None:
    """The life of a daemon from its lock to its end. Raises what keeps it from starting or working."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    with locked(state_directory):
        daemon = make()
        async with daemon.running():
            LOG.info("%s is up", name)
            await until_told_to_stop(daemon.work())
            LOG.info("stopping")


async def until_told_to_stop(work: Coroutine[object, object, None]) -> None:
    """Runs `work` until SIGTERM or SIGINT cancels it; a fault in it is raised here.

    The handlers stay: a second signal does not end a daemon that is just putting the kernel back.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    waiting = loop.create_task(told.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        while not task.done():  # a library may swallow one cancellation
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        with contextlib.suppress(asyncio.CancelledError):
            task.result()
    finally:
        waiting.cancel()
