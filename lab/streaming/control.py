"""The player's end of the control connection: requests, and their answers in turn.

Decides: which answers are awaited. Refuses to know: what is asked for.
"""

from __future__ import annotations

import asyncio
from typing import Final

from lab.streaming import rtsp
from lab.streaming.rtsp import Method, Request, Response

_READ_BYTES: Final = 16_384
_ANSWER_S: Final = 10.0


class PlayError(RuntimeError):
    """It cannot be played; one line for a person."""


class Control:
    """The control connection: a request each, answered in turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, uri: str) -> None:
        self._reader = reader
        self._writer = writer
        self._uri = uri
        self._messages = rtsp.Reader()
        self._sequence = 0
        self.peer: str = writer.get_extra_info("peername")[0]
        self.session: str | None = None
        self._unanswered: set[int] = set()

    async def ask(self, method: Method, headers: dict[str, str] | None = None) -> Response:
        """Raises PlayError for an answer other than 200."""
        wanted = self._send(method, headers or {}, b"")
        while True:
            response = await asyncio.wait_for(self._next(), _ANSWER_S)
            if response.sequence == wanted:
                return response

    def tell(self, values: dict[str, int]) -> None:
        """Its answer is looked at when the next one is read: what comes each interval does not wait a round trip."""
        self._send(Method.SET_PARAMETER, {"Content-Type": "text/parameters"}, rtsp.parameters_body(values))

    async def watch(self) -> str:
        """Never returns: raises PlayError when the connection ends, and for whatever the server refuses."""
        while True:
            await self._next()

    def _send(self, method: Method, headers: dict[str, str], body: bytes) -> int:
        self._sequence += 1
        said = {"Session": self.session, **headers} if self.session else headers
        request = Request(method=method.value, uri=self._uri, sequence=self._sequence, headers=said, body=body)
        self._writer.write(rtsp.request_bytes(request))
        self._unanswered.add(self._sequence)
        return self._sequence

    async def _next(self) -> Response:
        while (message := self._messages.next()) is None:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise PlayError("the server has closed the connection")
            self._messages.feed(data)
        if isinstance(message, Request) or message.sequence not in self._unanswered:
            raise PlayError("the server said something that was not asked")
        self._unanswered.remove(message.sequence)
        if message.code != 200:
            raise PlayError(f"the server refuses: {message.code} {message.reason}")
        return message

    def close(self) -> None:
        self._writer.close()
