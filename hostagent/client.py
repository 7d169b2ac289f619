"""The typed client of the local API: what the command line, the terminal UI and other programs use.

Decides: what counts as no agent (`Unreachable`), and what as one that answers what it must not (`RemoteProtocolError`).
Refuses to know: what an answer means, and when to ask again.  No answer is longer than a bound, so that whatever
listens on the socket cannot fill our memory.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import aiohttp
import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from hostagent import api

ANSWER_BYTES_MAX: Final = 16 << 20  # of one answer, or of one line of events
PROBLEM_BYTES_MAX: Final = 4 << 10
TIMEOUT_S: Final = 5
BASE: Final = "http://hostagent"

_START: Final = "start it with `hostagent up`, or name its --socket"
# By errno: what a person would call it, and what to do.
_CAUSES: Final = {
    errno.ENOENT: ("no such file", _START),
    errno.ENOTDIR: ("no such file", _START),
    errno.ECONNREFUSED: ("nobody listens there", _START),
    errno.EACCES: ("permission denied", "only the user that the agent runs as may look"),
    errno.EPERM: ("permission denied", "only the user that the agent runs as may look"),
}

T = TypeVar("T")


class Unreachable(BillpayError):  # noqa: N818 - a state of the agent, not an error of anybody
    """No agent answers on the socket: one line with the socket, the cause and what to do."""

    def __init__(self, socket: Path, cause: object, remedy: str = _START) -> None:
        super().__init__(socket, cause, remedy)
        self.socket = socket
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(f"no agent answers on {self.socket}: {self.cause} ({self.remedy})".split())


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is not 200."""

    code: str
    message: str


class LocalClient:
    """An async context manager. Every method raises Unreachable, or RemoteProtocolError for an answer that is none."""

    def __init__(self, socket: Path) -> None:
        self._path = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LocalClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self._path)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=None),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def snapshot(self) -> api.Snapshot:
        return await self._get("/v1/snapshot", api.Snapshot)

    async def status(self) -> api.Status:
        return await self._get("/v1/status", api.Status)

    async def flows(self) -> tuple[api.Flow, ...]:
        return await self._get("/v1/flows", tuple[api.Flow, ...])

    async def accounts(self) -> api.Accounts:
        return await self._get("/v1/accounts", api.Accounts)

    async def paths(self) -> api.Paths:
        return await self._get("/v1/paths", api.Paths)

    async def programs(self) -> tuple[api.Program, ...]:
        return await self._get("/v1/programs", tuple[api.Program, ...])

    async def questions(self) -> tuple[api.Question, ...]:
        return await self._get("/v1/questions", tuple[api.Question, ...])

    async def answers(self, number: int, *, allow: bool) -> None:
        """Answers a question; nothing happens when it is gone."""
        body = msgspec.json.encode(api.Answer(number=number, allow=allow))
        try:
            async with self._open().post(f"{BASE}/v1/answers", data=body) as response:
                await _raise_for_problem(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def events(self) -> AsyncGenerator[api.Snapshot, None]:
        """A snapshot now and one after each change.  Ends when the agent ends; calling again is the caller's
        business.
        """
        try:
            async with self._open().get(f"{BASE}/v1/events") as response:
                await _raise_for_problem(response)
                begun = bytearray()
                async for piece in response.content.iter_any():
                    *lines, rest = piece.split(b"\n")
                    for line in lines:
                        yield _decoded(bytes(begun + line), api.Snapshot)
                        begun.clear()
                    begun += rest
                    _raise_for_length(begun)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _get(self, path: str, expected: type[T]) -> T:
        try:
            async with self._open().get(f"{BASE}{path}", timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as response:
                await _raise_for_problem(response)
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    _raise_for_length(body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        return _decoded(bytes(body), expected)

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use it with `async with`"
        return self._session

    def _unreachable(self, error: BaseException) -> Unreachable:
        reason = getattr(error, "os_error", None) or error
        number = getattr(reason, "errno", None)
        if number in _CAUSES:
            return Unreachable(self._path, *_CAUSES[number])
        return Unreachable(self._path, getattr(reason, "strerror", None) or str(reason) or "no answer in time")


async def _raise_for_problem(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    body = await response.content.read(PROBLEM_BYTES_MAX)
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        problem = Problem(code=f"http-{response.status}", message=response.reason or "no reason given")
    raise RemoteProtocolError(problem.code, problem.message)


def _raise_for_length(body: bytearray) -> None:
    if len(body) > ANSWER_BYTES_MAX:
        raise RemoteProtocolError("too-long", f"the agent's answer is longer than {ANSWER_BYTES_MAX >> 20} MiB")


def _decoded(body: bytes, expected: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the agent's answer is not one of this version's: {error}"
        raise RemoteProtocolError("malformed", message) from error
