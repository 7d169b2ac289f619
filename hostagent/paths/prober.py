"""Probes that people and the agent itself ask for: one process each, which reports until it has finished.

Decides: how many run at once, and how long a finished one's report is kept. Refuses to know what is measured
(`cartographer.measuring`): scapy and what it knows stay out of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from cartographer.measuring.report import ProbeReport, ProbeRequest, Trouble
from hostagent import api
from hostagent.desk import Refused

LOG = logging.getLogger("hostagent")
AT_ONCE_MAX: Final = 4
KEPT_MAX: Final = 32
LINE_BYTES_MAX: Final = 4 << 20
END_S: Final = 3.0
WORKER: Final = (sys.executable, "-m", "cartographer.measuring.worker")


async def reports(request: ProbeRequest) -> AsyncIterator[ProbeReport]:
    """Reports so far, the last one final. Raises EnvironmentFault with the prober's own words."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*WORKER, stdin=pipe, stdout=pipe, limit=LINE_BYTES_MAX)
    except OSError as error:  # the interpreter went with an upgrade, or there are too many processes
        raise EnvironmentFault("start", "the prober", error.strerror or str(error)) from error
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    try:
        with contextlib.suppress(ConnectionError):  # it ends early with a line that says why
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            await process.stdin.drain()
            process.stdin.close()
        while line := await _line(process.stdout):
            yield _report_in(line)
        if await process.wait() != 0:
            raise EnvironmentFault("probe", request.destination, f"the prober ended with status {process.returncode}")
    finally:
        await _end(process)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError as error:
        raise EnvironmentFault("probe", "the prober", f"a report is longer than {LINE_BYTES_MAX} bytes") from error


def _report_in(line: bytes) -> ProbeReport:
    try:
        return msgspec.json.decode(line, type=ProbeReport)
    except msgspec.DecodeError:
        pass
    try:
        trouble = msgspec.json.decode(line, type=Trouble)
    except msgspec.DecodeError:  # half a line of one that was killed, or a version that is not ours
        raise EnvironmentFault("probe", "the prober", "what it wrote is no report") from None
    raise EnvironmentFault(trouble.operation, trouble.target, trouble.cause, trouble.remedy)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


@dataclass(slots=True)
class _Run:
    shown: api.Probing
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Probers:
    """`on_report(request, report)` hears every report. `reports`: how one is run (tests give their own)."""

    def __init__(
        self,
        *,
        on_report: Callable[[ProbeRequest, ProbeReport], object],
        run: Callable[[ProbeRequest], AsyncIterator[ProbeReport]] = reports,
    ) -> None:
        self._on_report = on_report
        self._run = run
        self._runs: dict[int, _Run] = {}
        self._number = 0

    def start(self, request: ProbeRequest) -> api.Probing:
        """Raises Refused."""
        busy = sum(not run.shown.done for run in self._runs.values())
        if busy >= AT_ONCE_MAX:
            raise Refused("too-many-probes", f"{busy} probes are under way: wait for one to end")
        self._number += 1
        run = self._runs[self._number] = _Run(api.Probing(number=self._number, sequence=1, done=False))
        run.task = asyncio.get_running_loop().create_task(self._follow(run, request))
        for number, each in list(self._runs.items()):
            if len(self._runs) > KEPT_MAX and each.shown.done:
                del self._runs[number]
        return run.shown

    async def wait(self, number: int, after: int, wait_s: int) -> api.Probing:
        """As it is; with `after` its next report, or as it is when `wait_s` are over. Raises Refused."""
        run = self._runs.get(number)
        if run is None:
            raise Refused("no-such-probe", f"there is no probe {number}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while run.shown.sequence <= after and not run.shown.done:
                    run.news.clear()
                    await run.news.wait()
        return run.shown

    async def run(self, request: ProbeRequest) -> ProbeReport | None:
        """To its end, for the agent itself; None: it found nothing to report. Raises EnvironmentFault."""
        last = None
        async for report in self._run(request):
            last = report
        if last is not None:
            self._on_report(request, last)
        return last

    async def stop(self) -> None:
        tasks = [run.task for run in self._runs.values() if run.task is not None and not run.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, run: _Run, request: ProbeRequest) -> None:
        problem = ""
        try:
            async for report in self._run(request):
                self._on_report(request, report)
                self._tell(run, report=report)
        except EnvironmentFault as fault:
            problem = str(fault)
        except asyncio.CancelledError:
            problem = "the agent ends"
            raise
        finally:
            self._tell(run, done=True, problem=problem)

    def _tell(self, run: _Run, **changes: object) -> None:
        run.shown = msgspec.structs.replace(run.shown, sequence=run.shown.sequence + 1, **changes)
        run.news.set()
