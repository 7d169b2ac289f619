"""What the screens need of an agent, and the agent behind a local socket; and what they need of the digital secretary.

Decides nothing.  One stream of snapshots for everything that changes by itself; the rest is asked when a person looks
at it, with a connection of its own that ends with the answer.  What is a person's own to say goes to the secretary
itself, past the agent, which may not answer for people; who starts the screens brings the way there.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from billpay.errors import BillpayError
from hostagent import api
from hostagent.client import LocalClient
from tui.model.personal import Inbox, Purse, Rules, Statement, Trace


class NotAnswered(BillpayError):  # noqa: N818 - a state that passes, not a mistake
    """The secretary is not there, or says no: one line for a person."""


class PersonalSource(Protocol):
    """The secretary, as the person who looks on may ask it. Everything may raise BillpayError."""

    async def inbox(self, *, answered: bool) -> Inbox: ...

    async def answer(self, number: int, *, accept: bool, limit_nanodollars: int | None, term: api.Term) -> str:
        """Gives what it says to that, one line; so do `undo` and `top_up`."""

    async def undo(self, number: int | None) -> str:
        """Of this question's answer; None: of the latest."""

    async def rules(self) -> Rules: ...

    async def purse(self) -> Purse: ...

    async def statement(self, first_day: str, last_day: str, by: str) -> Statement: ...

    async def trace(self, key: str) -> Trace: ...

    async def top_up(self, transfer: str, nanodollars: int) -> str:
        """The same transfer again changes nothing."""


Personal = Callable[[Path], PersonalSource]  # behind that socket


class Source(Protocol):
    """Everything may raise BillpayError; `events` may also end, and is asked again then."""

    def events(self) -> AsyncIterator[api.Snapshot]: ...

    async def why(self, flow: str) -> api.Why: ...

    async def statement(self, month: str) -> api.Statement: ...

    async def answer(self, answer: api.Answer) -> None: ...

    async def set_mode(self, change: api.ModeChange) -> None: ...

    async def set_worth(self, change: api.WorthChange) -> None: ...

    async def trust(self, fingerprint: str) -> None: ...

    async def end_session(self, session: str) -> None: ...

    async def set_session_worth(self, change: api.SessionWorth) -> None: ...

    async def set_access(self, change: api.AccessChange) -> None: ...

    async def ways(self, destination: str) -> tuple[api.Way, ...]: ...

    async def network_map(self, destination: str) -> api.NetworkMap: ...

    def secretary(self, socket: str) -> PersonalSource | None:
        """The one behind that socket; None: there is no way to it from here."""


class LocalSource:
    """The agent's local socket."""

    def __init__(self, socket: Path, *, personal: Personal | None = None) -> None:
        self._socket = socket
        self._personal = personal

    def secretary(self, socket: str) -> PersonalSource | None:
        return self._personal(Path(socket)) if self._personal is not None else None

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

    async def end_session(self, session: str) -> None:
        async with LocalClient(self._socket) as client:
            await client.end_session(session)

    async def set_session_worth(self, change: api.SessionWorth) -> None:
        async with LocalClient(self._socket) as client:
            await client.set_session_worth(change)

    async def set_access(self, change: api.AccessChange) -> None:
        async with LocalClient(self._socket) as client:
            await client.set_access(change)

    async def ways(self, destination: str) -> tuple[api.Way, ...]:
        async with LocalClient(self._socket) as client:
            return await client.ways(destination)

    async def network_map(self, destination: str) -> api.NetworkMap:
        async with LocalClient(self._socket) as client:
            return await client.network_map(destination)
