"""Both kinds of callers' side of the secretary's socket: typed questions, one at a time, connected anew when needed.

Decides when the secretary counts as gone. Refuses to know grants, and whether their signatures hold. `SecretaryClient`
is the agent's, `PersonClient` a person's (command line, terminal UI, notifier); either may go over mutual TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from billpay.messages import FlowSelector, Signed
from neighbour.identity import NodeIdentity, PeerCertificate
from neighbour.tls import client_context
from secretary import messages
from secretary.messages import (
    ANSWER_BYTES_MAX,
    Answer,
    AskBudget,
    AskGrant,
    AskReturn,
    Budget,
    Closed,
    CloseGrant,
    ExtendGrant,
    Granted,
    PersonQuestion,
    Question,
    Refused,
    Reply,
    Request,
    Unpaid,
)
from secretary.transfers import Transfer

TIMEOUT_S = 3.0

AnswerT = TypeVar("AnswerT", bound=Answer)


class SecretaryUnavailable(BillpayError):  # noqa: N818 - a state that passes, not a mistake
    """Nobody answers on the secretary's socket: nothing new is granted meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSecretary:
    """Where a secretary listens that lives outside this operating system, and the two keys that are pinned."""

    address: str
    port: int
    identity: NodeIdentity
    certificate: PeerCertificate

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


class _Conversation:
    """One connection. Raises SecretaryUnavailable, or RemoteProtocolError when the question was refused or the answer
    is not one to it. A question whose answer got lost can be asked again: the secretary answers it alike.
    """

    def __init__(self, where: Path | RemoteSecretary) -> None:
        self._where = where
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, question: Question) -> Answer:
        async with self._turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await self._ask_once(question)
            except (OSError, TimeoutError, EOFError, ValueError, msgspec.DecodeError) as error:
                await self.close()
                why = str(error) or "no answer in time"
                raise SecretaryUnavailable(f"the secretary does not answer on {self._where}: {why}") from error
        if isinstance(answer, Refused):
            raise RemoteProtocolError(answer.code, answer.message)
        return answer

    async def _ask_once(self, question: Question) -> Answer:
        """Again on a new connection if an old one has ended: the secretary was started again meanwhile."""
        was_connected = self._streams is not None
        try:
            return await self._exchange(question)
        except (OSError, EOFError):
            if not was_connected:
                raise
        await self.close()
        return await self._exchange(question)

    async def _exchange(self, question: Question) -> Answer:
        if self._streams is None:
            self._streams = await self._connect()
        reader, writer = self._streams
        self._number += 1
        writer.write(msgspec.json.encode(Request(number=self._number, question=question)) + b"\n")
        await writer.drain()
        while line := await reader.readline():
            reply = msgspec.json.decode(line, type=Reply)
            if reply.number in (self._number, 0):  # an earlier one belongs to a question that was given up
                return reply.answer
        raise EOFError("it closed the connection")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = self._where
        if isinstance(where, Path):
            return await asyncio.open_unix_connection(where, limit=ANSWER_BYTES_MAX)
        context = client_context(where.identity, where.certificate)
        return await asyncio.open_connection(where.address, where.port, ssl=context, limit=ANSWER_BYTES_MAX)


class SecretaryClient:
    """The agent's. Every method raises what `_Conversation` raises."""

    def __init__(self, where: Path | RemoteSecretary) -> None:
        self._conversation = _Conversation(where)

    async def ask_grant(
        self,
        flow: FlowSelector,
        *,
        gateway: str = "",
        transfer: Transfer = messages.NO_TRANSFER,
        price_nanodollars_per_mb: int = 0,
        probes_of: str = "",
        implied: bool = False,
    ) -> Granted | Unpaid:
        question = AskGrant(
            flow=flow,
            gateway=gateway,
            transfer=transfer,
            price_nanodollars_per_mb=price_nanodollars_per_mb,
            probes_of=probes_of,
            implied=implied,
        )
        return _granted(await self._conversation.ask(question))

    async def extend(self, grant: str, spent_nanodollars: int) -> Granted | Unpaid:
        return _granted(await self._conversation.ask(ExtendGrant(grant=grant, spent_nanodollars=spent_nanodollars)))

    async def ask_return(
        self, flow: FlowSelector, received_nanodollars: int, received_packets: int, *, gateway: str = ""
    ) -> Granted | Unpaid:
        question = AskReturn(
            flow=flow,
            gateway=gateway,
            received_nanodollars=received_nanodollars,
            received_packets=received_packets,
        )
        return _granted(await self._conversation.ask(question))

    async def close_grant(
        self,
        grant: str,
        spent_nanodollars: int,
        *,
        size_bytes: int = 0,
        receipt: Signed | None = None,
        gateway_key: bytes = b"",
    ) -> int:
        """Gives what is booked as spent: all of the grant without a receipt."""
        question = CloseGrant(
            grant=grant,
            spent_nanodollars=spent_nanodollars,
            size_bytes=size_bytes,
            receipt=receipt,
            gateway_key=gateway_key,
        )
        return _expected(Closed, await self._conversation.ask(question)).spent_nanodollars

    async def tell_quit(self, programs: Sequence[str]) -> None:
        _expected(messages.Done, await self._conversation.ask(messages.TellQuit(programs=tuple(programs))))

    async def successions(self) -> tuple[Signed, ...]:
        return _expected(messages.Successions, await self._conversation.ask(messages.AskSuccessions())).signed

    async def budget(self) -> Budget:
        return _expected(Budget, await self._conversation.ask(AskBudget()))

    async def close(self) -> None:
        await self._conversation.close()


class PersonClient:
    """A person's. `async with` closes it; every method raises what `_Conversation` raises."""

    def __init__(self, where: Path | RemoteSecretary) -> None:
        self._conversation = _Conversation(where)

    async def __aenter__(self) -> PersonClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(self, question: PersonQuestion, expected: type[AnswerT]) -> AnswerT:
        return _expected(expected, await self._conversation.ask(question))

    async def close(self) -> None:
        await self._conversation.close()


def _granted(answer: Answer) -> Granted | Unpaid:
    return answer if isinstance(answer, Unpaid) else _expected(Granted, answer)


def _expected(kind: type[AnswerT], answer: Answer) -> AnswerT:
    if not isinstance(answer, kind):
        raise RemoteProtocolError("wrong-answer", f"the secretary answered {type(answer).__name__}")
    return answer
