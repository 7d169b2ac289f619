"""The typed client of the local API: what the command line, the terminal UI and other programs use.

Decides: what counts as no agent (`Unreachable`), what as one that will not (`Refused`, `NotAllowed`), and what as one
that answers what it must not (`RemoteProtocolError`).  No answer is longer than a bound: whatever listens on the
socket cannot fill our memory.  Refuses to know: what an answer means, and when to ask again.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from cartographer.measuring.report import ProbeRequest
from hostagent import api
from hostagent.desk import HistoryQuery, QualityQuery, Refused
from hostagent.endpoints import EVENT_STREAM, Problem, SessionEnd, Trust

ANSWER_BYTES_MAX: Final = 16 << 20  # of one answer, or of one line of events
PROBLEM_BYTES_MAX: Final = 4 << 10
CONNECT_S: Final = 5
TIMEOUT_S: Final = 5
QUESTION_S: Final = 60  # for what needs time: the past
SILENCE_S: Final = 30  # a stream of events says something every ten
BASE: Final = "http://hostagent"

_START: Final = "start it with `hostagent up`, or name its --socket"
_WHO_MAY: Final = "only the user that the agent runs as may look, and whom its configuration names"
# By errno: what a person would call it, and what to do.
_CAUSES: Final = {
    errno.ENOENT: ("no such file", _START),
    errno.ENOTDIR: ("no such file", _START),
    errno.ECONNREFUSED: ("nobody listens there", _START),
    errno.EACCES: ("permission denied", _WHO_MAY),
    errno.EPERM: ("permission denied", _WHO_MAY),
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


class NotAllowed(BillpayError):  # noqa: N818 - the agent's answer, not a fault
    """We may not ask that: one line with who may and what to do."""

    def __init__(
        self, message: str, remedy: str = "ask as one of them, or have the agent's configuration name you"
    ) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(f"{self.message} ({self.remedy})".split())


class LocalClient:
    """An async context manager. Every method raises Unreachable, NotAllowed, RemoteProtocolError for an answer that is
    none, and where the agent may say no, Refused.
    """

    def __init__(self, socket: Path) -> None:
        self._path = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LocalClient:
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # --- what is ------------------------------------------------------------------------------------------------------

    async def snapshot(self) -> api.Snapshot:
        return await self._get("/v1/snapshot", api.Snapshot)

    async def status(self) -> api.Status:
        return await self._get("/v1/status", api.Status)

    async def flows(self) -> tuple[api.Flow, ...]:
        return await self._get("/v1/flows", tuple[api.Flow, ...])

    async def programs(self) -> tuple[api.Program, ...]:
        return await self._get("/v1/programs", tuple[api.Program, ...])

    async def links(self) -> tuple[api.Link, ...]:
        return await self._get("/v1/links", tuple[api.Link, ...])

    async def kinds(self) -> tuple[api.Kind, ...]:
        return await self._get("/v1/kinds", tuple[api.Kind, ...])

    async def prices(self) -> tuple[api.Price, ...]:
        return await self._get("/v1/prices", tuple[api.Price, ...])

    async def networks(self) -> tuple[api.Network, ...]:
        return await self._get("/v1/networks", tuple[api.Network, ...])

    async def budgets(self) -> tuple[api.Budget, ...]:
        return await self._get("/v1/budgets", tuple[api.Budget, ...])

    async def worths(self) -> tuple[api.Worth, ...]:
        return await self._get("/v1/worths", tuple[api.Worth, ...])

    async def rules(self) -> tuple[api.Rule, ...]:
        return await self._get("/v1/rules", tuple[api.Rule, ...])

    async def notices(self) -> tuple[api.Notice, ...]:
        return await self._get("/v1/notices", tuple[api.Notice, ...])

    async def accounts(self) -> api.Accounts:
        return await self._get("/v1/accounts", api.Accounts)

    async def paths(self) -> api.Paths:
        return await self._get("/v1/paths", api.Paths)

    async def sessions(self) -> tuple[api.Session, ...]:
        return await self._get("/v1/sessions", tuple[api.Session, ...])

    async def questions(self) -> tuple[api.Question, ...]:
        return await self._get("/v1/questions", tuple[api.Question, ...])

    async def openapi(self) -> dict[str, Any]:
        return await self._get("/v1/openapi.json", dict[str, Any])

    async def metrics(self) -> str:
        """Prometheus' text."""
        return (await self._ask("GET", "/metrics")).decode("utf-8", "replace")

    # --- questions ----------------------------------------------------------------------------------------------------

    async def why(self, flow: str) -> api.Why:
        """`flow`: as `api.Flow.flow`, or a part of it or of a program's name that only one flow has."""
        return await self._get("/v1/why", api.Why, flow=flow)

    async def history(self, query: HistoryQuery) -> tuple[api.HistoryRow, ...]:
        return await self._get(
            "/v1/history",
            tuple[api.HistoryRow, ...],
            since=query.since_unix_s,
            until=query.until_unix_s,
            step=query.step,
            by=",".join(query.by),
            limit=query.limit,
        )

    async def statement(self, month: str) -> api.Statement:
        """`month`: "2026-11"."""
        return await self._get("/v1/statement", api.Statement, month=month)

    async def replay(self, since_unix_s: int, until_unix_s: int) -> tuple[api.ReplayLine, ...]:
        return await self._get("/v1/replay", tuple[api.ReplayLine, ...], since=since_unix_s, until=until_unix_s)

    async def session(self, session: str, *, after: int = 0, wait_s: int = 0) -> api.Session:
        """With `after`: its next change, or as it is when `wait_s` are over."""
        return await self._get("/v1/session", api.Session, session=session, after=after, wait_s=wait_s)

    async def ways(self, destination: str = "", limit: int = 1000) -> tuple[api.Way, ...]:
        """To a destination, or to all that are known."""
        return await self._get("/v1/ways", tuple[api.Way, ...], destination=destination, limit=limit)

    async def network_map(self, destination: str = "") -> api.NetworkMap:
        """Everything, or the ways to a destination."""
        return await self._get("/v1/map", api.NetworkMap, destination=destination)

    async def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]:
        return await self._get(
            "/v1/quality",
            tuple[api.QualityRow, ...],
            since=query.since_unix_s,
            until=query.until_unix_s,
            destination=query.destination,
            limit=query.limit,
        )

    async def probing(self, number: int, *, after: int = 0, wait_s: int = 0) -> api.Probing:
        """With `after`: its next report, or as it is when `wait_s` are over."""
        return await self._get("/v1/probe", api.Probing, number=number, after=after, wait_s=wait_s)

    # --- changes ------------------------------------------------------------------------------------------------------

    async def answer(self, answer: api.Answer) -> None:
        """Answers a question; nothing happens when it is gone."""
        await self._change("POST", "/v1/answers", answer)

    async def set_mode(self, change: api.ModeChange) -> None:
        await self._change("POST", "/v1/mode", change)

    async def set_worth(self, change: api.WorthChange) -> None:
        await self._change("PUT", "/v1/worths", change)

    async def trust(self, fingerprint: str) -> None:
        """A person looked at a gateway's fingerprint and takes it for the right one."""
        await self._change("POST", "/v1/trust", Trust(fingerprint=fingerprint))

    async def forget(self, what: api.Forget) -> None:
        """Deletes from history; one of its four fields is given."""
        await self._change("POST", "/v1/forget", what)

    async def reload(self) -> None:
        """Has the configuration read again; Refused, and nothing changes, when it is wrong."""
        await self._change("POST", "/v1/reload")

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        """A flow follows the price of congestion from now on."""
        return _decoded(await self._ask("POST", "/v1/sessions", body=msgspec.json.encode(request)), api.Session)

    async def end_session(self, session: str) -> None:
        await self._change("POST", "/v1/sessions/end", SessionEnd(session=session))

    async def set_session_worth(self, change: api.SessionWorth) -> None:
        """What it is worth against its policy; its limits stay."""
        await self._change("POST", "/v1/sessions/worth", change)

    async def probe(self, request: ProbeRequest) -> api.Probing:
        """Probes a destination from now on, without any payment."""
        return _decoded(await self._ask("POST", "/v1/probes", body=msgspec.json.encode(request)), api.Probing)

    async def set_access(self, change: api.AccessChange) -> None:
        """By which interface packets go from now on, or that the agent chooses."""
        await self._change("POST", "/v1/access", change)

    async def stop(self) -> None:
        await self._change("POST", "/v1/stop")

    # --- events -------------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[api.Snapshot, None]:
        """A snapshot now and one after each change.  Ends when the agent ends; calling again is the caller's
        business.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        try:
            async with self._open().get(f"{BASE}/v1/events", timeout=timeout) as response:
                await _raise_for_problem(response)
                if response.content_type != EVENT_STREAM:
                    raise RemoteProtocolError("malformed", f"the agent's events are {response.content_type}")
                async for data in _snapshots(_lines(response)):
                    yield _decoded(data, api.Snapshot)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _get(self, path: str, expected: type[T], **query: str | int) -> T:
        return _decoded(await self._ask("GET", path, query=query), expected)

    async def _change(self, method: str, path: str, body: msgspec.Struct | None = None) -> None:
        await self._ask(method, path, body=b"{}" if body is None else msgspec.json.encode(body))

    async def _ask(
        self, method: str, path: str, *, query: dict[str, str | int] | None = None, body: bytes | None = None
    ) -> bytes:
        seconds = QUESTION_S if query or body is not None else TIMEOUT_S
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_S)
        try:
            async with self._open().request(
                method, f"{BASE}{path}", params=query or None, data=body, timeout=timeout
            ) as response:
                await _raise_for_problem(response)
                read = bytearray()
                async for piece in response.content.iter_any():
                    read += piece
                    _raise_for_length(read)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        return bytes(read)

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use it with `async with`"
        return self._session

    def _unreachable(self, error: BaseException) -> Unreachable:
        reason = getattr(error, "os_error", None) or error
        number = getattr(reason, "errno", None)
        if number in _CAUSES:
            return Unreachable(self._path, *_CAUSES[number])
        return Unreachable(self._path, getattr(reason, "strerror", None) or str(reason) or "no answer in time")


def ask(socket: Path, question: Callable[[LocalClient], Awaitable[T]]) -> T:
    """Without an event loop: `ask(socket, LocalClient.status)`, `ask(socket, lambda client: client.why("curl"))`."""

    async def once() -> T:
        async with LocalClient(socket) as client:
            return await question(client)

    return asyncio.run(once())


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    begun = bytearray()
    async for piece in response.content.iter_any():
        *lines, rest = piece.split(b"\n")
        for line in lines:
            begun += line
            yield bytes(begun.removesuffix(b"\r"))
            begun.clear()
        begun += rest
        _raise_for_length(begun)


async def _snapshots(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of the events called snapshot; the agent writes them on one line. Other events are of newer agents."""
    kind, data = b"", b""
    async for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if line == b"":
            if kind == b"snapshot" and data:
                yield data
            kind, data = b"", b""
        elif name == b"event":
            kind = value
        elif name == b"data":
            data = value


async def _raise_for_problem(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    body = await response.content.read(PROBLEM_BYTES_MAX)
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = Problem(code=f"http-{response.status}", message=response.reason or "no reason given")
    if response.status == 403:
        raise NotAllowed(problem.message)
    if response.status == 409 or problem.code == "unknown-flow":
        raise Refused(problem.code, problem.message)
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
