"""The agent's side of the secretary's socket: typed questions, one at a time, connected anew when it is needed.

Decides when the secretary counts as gone. Refuses to know grants, and whether their signatures hold.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from billpay.messages import FlowSelector
from secretary.messages import (
    LINE_BYTES_MAX,
    Answer,
    AskBudget,
    AskGrant,
    AskReturn,
    Budget,
    Closed,
    CloseGrant,
    ExtendGrant,
    Granted,
    Question,
    Refused,
    Reply,
    Request,
    Unpaid,
)

TIMEOUT_S = 3.0

AnswerT = TypeVar("AnswerT", Granted, Closed, Budget)


class SecretaryUnavailable(BillpayError):  # noqa: N818 - a state that passes, not a mistake
    """Nobody answers on the secretary's socket: nothing new is granted meanwhile."""


class SecretaryClient:
    """Every method raises SecretaryUnavailable, or RemoteProtocolError when the question was refused or the answer is
    not one to it. A question whose answer got lost can be asked again: the secretary answers it alike.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    async def ask_grant(self, flow: FlowSelector, *, gateway: str = "") -> Granted | Unpaid:
        return _granted(await self._ask(AskGrant(flow=flow, gateway=gateway)))

    async def extend(self, grant: str, spent_nanodollars: int) -> Granted | Unpaid:
        return _granted(await self._ask(ExtendGrant(grant=grant, spent_nanodollars=spent_nanodollars)))

    async def ask_return(
        self, flow: FlowSelector, received_nanodollars: int, received_packets: int, *, gateway: str = ""
    ) -> Granted | Unpaid:
        question = AskReturn(
            flow=flow,
            gateway=gateway,
            received_nanodollars=received_nanodollars,
            received_packets=received_packets,
        )
        return _granted(await self._ask(question))

    async def close_grant(self, grant: str, spent_nanodollars: int) -> None:
        _expected(Closed, await self._ask(CloseGrant(grant=grant, spent_nanodollars=spent_nanodollars)))

    async def budget(self) -> Budget:
        return _expected(Budget, await self._ask(AskBudget()))

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask(self, question: Question) -> Answer:
        async with self._turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await self._ask_once(question)
            except (OSError, TimeoutError, EOFError, ValueError, msgspec.DecodeError) as error:
                await self.close()
                why = str(error) or "no answer in time"
                raise SecretaryUnavailable(f"the secretary does not answer on {self._socket}: {why}") from error
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
            self._streams = await asyncio.open_unix_connection(self._socket, limit=LINE_BYTES_MAX)
        reader, writer = self._streams
        self._number += 1
        writer.write(msgspec.json.encode(Request(number=self._number, question=question)) + b"\n")
        await writer.drain()
        while line := await reader.readline():
            reply = msgspec.json.decode(line, type=Reply)
            if reply.number in (self._number, 0):  # an earlier one belongs to a question that was given up
                return reply.answer
        raise EOFError("it closed the connection")


def _granted(answer: Answer) -> Granted | Unpaid:
    return answer if isinstance(answer, Unpaid) else _expected(Granted, answer)


def _expected(kind: type[AnswerT], answer: Answer) -> AnswerT:
    if not isinstance(answer, kind):
        raise RemoteProtocolError("wrong-answer", f"the secretary answered {type(answer).__name__}")
    return answer
