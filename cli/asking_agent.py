"""A probe that the agent makes for somebody who may not open raw sockets himself.

Decides: how its reports are waited for, and that a probe which the agent gave up is trouble of the environment.
Refuses to know: how a path is probed (`cartographer.measuring`), and how a report is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from billpay.errors import EnvironmentFault
from hostagent.client import LocalClient

if TYPE_CHECKING:
    from cartographer.measuring.report import ProbeReport, ProbeRequest
    from hostagent import api

WAIT_S: Final = 25  # for a next report; the agent answers sooner when there is one


async def agent_reports(
    socket: Path, request: ProbeRequest, told: asyncio.Event | None = None
) -> AsyncGenerator[ProbeReport, None]:
    """Reports as they come; the last one is final unless `told` was set before. Raises Unreachable, NotAllowed,
    Refused, and EnvironmentFault when the agent says that no more will come and why.
    """
    async with LocalClient(socket) as client:
        probing: api.Probing | None = await client.probe(request)
        last: ProbeReport | None = None
        while probing is not None:
            if probing.report is not None and probing.report != last:
                yield (last := probing.report)
            if probing.problem:
                raise EnvironmentFault("have the agent probe", request.destination, probing.problem)
            if probing.done:
                return
            probing = await _next(client, probing, told)


async def _next(client: LocalClient, probing: api.Probing, told: asyncio.Event | None) -> api.Probing | None:
    """None: we were told to end. The agent goes on by itself, and forgets the probe in time."""
    asking = asyncio.create_task(client.probing(probing.number, after=probing.sequence, wait_s=WAIT_S))
    ending = asyncio.create_task(told.wait()) if told is not None else None
    waited = {asking} if ending is None else {asking, ending}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return asking.result() if asking.done() else None
    finally:
        for task in waited:
            task.cancel()
        await asyncio.wait(waited)
