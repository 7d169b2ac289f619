"""The data plane of payments of one daemon: its reader with the rules and counters that belong to its engine.

Decides: the order of things when an engine starts, is changed for the other, or cannot go on. Refuses to know: what is
counted and commanded, and which engine is the better one (`payment_engines`).

An engine is changed while traffic goes on: the reader ends in good order and leaves its counts in the counter file, the
kernel's rules are changed, the other reader starts from the file. What passes meanwhile passes unpaid, and is counted
by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.desired import DesiredState
from dataplane.ebpf.kernel_counters import CountersView, fold_pinned, pinning_fault
from dataplane.payment_engines import PaymentChoice, PaymentEngine, WantedPaymentEngine, choose, instead
from dataplane.record import QUEUE_RECORD, RECORD_NAME
from dataplane.rules import restore
from dataplane.startup import prepare
from dataplane.supervisor import Health, ReaderSupervisor

LOG = logging.getLogger("payments")
COUNTERS_NAME: Final = "counters"
"""In the daemon's state directory."""

FAILURES_MAX: Final = 5
"""So many readers in a row that could not start: the engine does not work here any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a daemon needs for an engine. `faults`: why the one in the kernel cannot be, each in a line; none: it can.

    `command`: of its reader; `desired`: of the kernel beside.
    """

    faults: Callable[[], Sequence[str]]
    command: Callable[[PaymentEngine], list[str]]
    desired: Callable[[PaymentEngine], DesiredState]


class PaymentPlane:
    """`async with plane.running()`: within it there is a reader, or soon one again. `close()` when nobody reads the
    counters any more. on_event, snapshot, on_started: as of `ReaderSupervisor`."""

    def __init__(
        self,
        means: Means,
        *,
        wanted: WantedPaymentEngine,
        state_directory: Path,
        owner: str,
        on_event: Callable[[bytes], None],
        snapshot: Callable[[], list[bytes]],
        on_started: Callable[[], None],
    ) -> None:
        self._means = means
        self._wanted: WantedPaymentEngine = wanted
        self._record_path = state_directory / RECORD_NAME
        self._queue_record_path = state_directory / QUEUE_RECORD
        self._counters_path = state_directory / COUNTERS_NAME
        self._on_started = on_started
        self._choice: PaymentChoice | None = None
        self._view: CountersView | None = None
        self._changing = asyncio.Lock()
        self._failures = 0
        self._cannot_go_on = asyncio.Event()
        self._why = ""
        self._supervisor = ReaderSupervisor(
            (),
            counters_path=self._counters_path,
            owner=owner,
            on_event=on_event,
            snapshot=snapshot,
            on_started=lambda _started: self._started(),
            on_health=self._health_changed,
        )

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises EnvironmentFault when no engine works here, or the one that is named does not."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._put_back)
            stack.push_async_callback(self._supervisor.stop)
            await self._start()
            yield

    async def _start(self) -> None:
        choice = self._choose(self._wanted)
        try:
            await self._start_with(choice)
        except EnvironmentFault as fault:
            choice = instead(choice, fault)
            await self._start_with(choice)

    async def _start_with(self, choice: PaymentChoice) -> None:
        self._set_out(choice.engine)
        await self._supervisor.start(self._means.command(choice.engine))
        self._choice = choice
        self._say(choice)

    def _set_out(self, engine: PaymentEngine) -> None:
        """No reader runs: everything that the next one relies on."""
        if engine is PaymentEngine.NFQUEUE:
            self._tidy_up()
        prepare(self._means.desired(engine), record_path=self._record_path, counters_path=self._counters_path)

    def _put_back(self) -> None:
        try:
            self._tidy_up()
        finally:
            restore(self._record_path)

    def _tidy_up(self) -> None:
        """What an eBPF reader leaves that was killed and has no successor."""
        fold_pinned(self._counters_path)
        restore(self._queue_record_path)

    def close(self) -> None:
        """After everything that reads the counters."""
        if self._view is not None:
            self._view.close()
            self._view = None

    async def watch(self) -> None:
        """Until cancelled, or until something of it fails. An engine that stops to work here is changed for the other,
        unless it was named."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._supervisor.watch())
            group.create_task(self._fall_back())

    # --- which engine -----------------------------------------------------------------------------------------------

    @property
    def choice(self) -> PaymentChoice | None:
        """Of the engine that runs; None before one does."""
        return self._choice

    def _running(self) -> PaymentChoice:
        assert self._choice is not None, "it was started"
        return self._choice

    async def change(self, wanted: WantedPaymentEngine) -> None:
        """Raises EnvironmentFault where the one that is named cannot be; then it is as before."""
        async with self._changing:
            choice, before = self._choose(wanted), self._running()
            if choice.engine is not before.engine:
                await self._replace(choice, before)
            else:
                self._choice = choice
            self._say(self._running())

    def _choose(self, wanted: WantedPaymentEngine) -> PaymentChoice:
        return choose(wanted, self._faults() if wanted != "nfqueue" else ())

    def _faults(self) -> list[str]:
        pinning = pinning_fault(self._counters_path)
        return [*self._means.faults(), *([pinning] if pinning else [])]

    async def _replace(self, choice: PaymentChoice, before: PaymentChoice) -> None:
        """There are two engines: the one that is left is the one that worked before."""
        try:
            await self._replace_by(choice)
        except EnvironmentFault as fault:
            if choice.is_named or choice.engine is PaymentEngine.NFQUEUE:
                await self._replace_by(before)
                raise
            await self._replace_by(instead(choice, fault))

    async def _replace_by(self, choice: PaymentChoice) -> None:
        command = self._means.command(choice.engine)
        await self._supervisor.replace(command, between=lambda: self._set_out(choice.engine))
        self._choice = choice

    async def _fall_back(self) -> None:
        while True:
            await self._cannot_go_on.wait()
            async with self._changing:
                self._cannot_go_on.clear()
                if self._running().engine is PaymentEngine.NFQUEUE or self._running().is_named:
                    continue
                choice = PaymentChoice(engine=PaymentEngine.NFQUEUE, faults=(self._why,))
                try:
                    await self._replace_by(choice)
                except EnvironmentFault as fault:  # its readers are tried again and again
                    LOG.error("%s", fault)
                    self._choice = choice
                self._say(choice)

    def _say(self, choice: PaymentChoice) -> None:
        LOG.info("engine of payments: %s", choice.reason)

    # --- the reader -------------------------------------------------------------------------------------------------

    @property
    def health(self) -> Health:
        return self._supervisor.health

    @property
    def reader_pid(self) -> int | None:
        """The running reader's process id."""
        return self._supervisor.reader_pid

    async def request(self, message: bytes) -> bytes:
        """A command for the core, and its reply. Raises ReaderUnavailable."""
        return await self._supervisor.request(message)

    def _started(self) -> None:
        self._failures = 0
        self._on_started()

    def _health_changed(self, health: Health, why: str) -> None:
        LOG.info("packet reader: %s %s", health.value, why)
        if health is Health.WAITING:
            self._failures, self._why = self._failures + 1, why
            if self._failures >= FAILURES_MAX:
                self._cannot_go_on.set()

    # --- counters ---------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """All of them, whichever engine counts, also before the start; none when there were never any."""
        if self._view is None:
            if not self._counters_path.exists():
                return {}
            self._view = CountersView(self._counters_path)
        return self._view.snapshot()
