"""The agent's main process: one server for people and programs, and up to two parts behind it.

Decides: which parts there are. `hostagent.traffic` counts and shapes everybody's traffic on the configured links;
`hostagent.payments.paying` pays for packets on the uplinks to gateways. Each works without the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from dataplane.engines import makers
from dataplane.host_engine import EngineName
from dataplane.links import read_link
from dataplane.service import serve
from hostagent import api
from hostagent.configuration import Configuration, load, shaping_plan
from hostagent.payments.paying import Paying
from hostagent.server import LocalServer
from hostagent.traffic import Traffic
from hostagent.views import snapshot_of


async def run(config_path: Path) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError or EnvironmentFault when it cannot start."""
    configuration = load(config_path)
    await serve(configuration.agent.name, configuration.state_directory, lambda: Agent(configuration, config_path))


class Agent:
    """All parts of one running agent."""

    def __init__(self, configuration: Configuration, config_path: Path) -> None:
        self._configuration = configuration
        self._server = LocalServer(configuration.socket, self._snapshot, self._on_answer)
        self._paying = (
            Paying(configuration, config_path, on_change=self._server.changed) if configuration.uplinks else None
        )
        self._traffic = self._make_traffic(config_path) if configuration.links else None
        self._sequence = 0
        self._started_unix_s = int(time.time())

    def _make_traffic(self, config_path: Path) -> Traffic:
        agent = self._configuration.agent
        for link in self._configuration.links:
            read_link(link.interface)  # an unknown interface is said before anything is changed
        made = makers(agent.engine, state_directory=self._configuration.state_directory)
        queued = {uplink.interface for uplink in self._configuration.uplinks}
        plan = shaping_plan(self._configuration, config_path)
        traffic = Traffic(plan, made, on_change=self._server.changed)
        if queued & {link.interface for link in plan.links}:
            traffic.reject(EngineName.NFQUEUE, "the packet reader that pays has that interface's queue")
        return traffic

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up inside; nothing of us is left after it."""
        async with contextlib.AsyncExitStack() as stack:
            if self._traffic is not None:
                await stack.enter_async_context(self._traffic.running())
            if self._paying is not None:
                await stack.enter_async_context(self._paying.running())
            await self._server.start()
            stack.push_async_callback(self._server.stop)
            yield

    async def work(self) -> None:
        """Runs until cancelled; a fault in any part ends it all."""
        async with asyncio.TaskGroup() as group:
            for part in (self._traffic, self._paying):
                if part is not None:
                    group.create_task(part.work())

    async def _on_answer(self, answer: api.Answer) -> None:
        if self._traffic is not None:
            await self._traffic.answer(answer.number, allow=answer.allow)

    def _snapshot(self) -> api.Snapshot:
        self._sequence += 1
        return snapshot_of(
            self._configuration,
            sequence=self._sequence,
            started_unix_s=self._started_unix_s,
            now_ns=time.monotonic_ns(),
            unix_s=int(time.time()),
            paying=self._paying.view() if self._paying is not None else None,
            traffic=self._traffic.view() if self._traffic is not None else None,
        )
