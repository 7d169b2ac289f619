"""What the screens need of an agent, and the agent behind a local socket.

Decides nothing.  One stream of snapshots for everything that changes by itself; the rest is asked when a person looks
at it, with a connection of its own that ends with the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from hostagent import api
from hostagent.client import LocalClient


class Source(Protocol):
    """Everything may raise BillpayError; `events` may also end, and is asked again then."""

    def events(self) -> AsyncIterator[api.Snapshot]: ...

    async def why(self, flow: str) -> api.Why: ...

    async def statement(self, month: str) -> api.Statement: ...

    async def answer(self, answer: api.Answer) -> None: ...

    async def set_mode(self, change: api.ModeChange) -> None: ...

    async def set_worth(self, change: api.WorthChange) -> None: ...

    async def trust(self, fingerprint: str) -> None: ...


class LocalSource:
    """The agent's local socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def events(self) -> AsyncIterator[api.Snapshot]:
        async with LocalClient(self._socket) as client, contextlib.aclosing(client.events()) as snapshots:
            async for snapshot in snapshots:
                yield snapshot

    async def why(self, flow: str) -> api.Why:
        async with LocalClient(self._socket) as client:
            return await client.why(flow)

    async def statement(self, month: str) -> api.Statement:
        async with LocalClient(self._socket) as client:
            return await client.statement(month)

    async def answer(self, answer: api.Answer) -> None:
        async with LocalClient(self._socket) as client:
            await client.answer(answer)

    async def set_mode(self, change: api.ModeChange) -> None:
        async with LocalClient(self._socket) as client:
            await client.set_mode(change)

    async def set_worth(self, change: api.WorthChange) -> None:
        async with LocalClient(self._socket) as client:
            await client.set_worth(change)

    async def trust(self, fingerprint: str) -> None:
        async with LocalClient(self._socket) as client:
            await client.trust(fingerprint)
