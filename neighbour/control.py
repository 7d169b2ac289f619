"""Calls to one neighbour's control API: HTTPS with both keys pinned, typed requests and answers.

Decides: how a call fails.  What the neighbour says wrong is a RemoteProtocolError with a code, what does not come
through is `Unreachable` with one line.  Refuses to know: what follows from an answer, when to call, and what a
signature is worth (the documents come as `Signed` and are verified by who uses them).
Source: docs/architecture.md ("control API"); RFC 9110 for statuses.

Every answer is bounded in size and time, since the neighbour's word is not ours.  All calls are idempotent, so one
that met a connection that the other side had closed meanwhile is made once more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Annotated, Final, TypeVar

import aiohttp
import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from billpay.messages import (
    Agreement,
    AgreementRequest,
    GrantTerms,
    Identity,
    IntroducedOads,
    Message,
    PriceQuote,
    Problem,
    SecretaryKey,
    SettlementReceipt,
    Signed,
    SignedUsage,
    StatementReply,
)
from neighbour.identity import NodeIdentity, PeerCertificate
from neighbour.tls import client_context

CONNECT_S: Final = 2
TOTAL_S: Final = 5
ANSWER_BYTES_MAX: Final = 4 << 20
"""Ample for a thousand published alternatives; no other answer comes near it."""
LINE_BYTES_MAX: Final = 128 << 10
"""A signed document has 64 KiB at most, in base64."""
_PROBLEM_BYTES_SHOWN: Final = 100
_ERROR_STATUS: Final = 400

_OadList = Annotated[tuple[Signed, ...], msgspec.Meta(max_length=10_000)]
AnswerT = TypeVar("AnswerT")


class Unreachable(BillpayError):  # noqa: N818 (a state of the neighbour, not an error of anybody)
    """No answer came: network, TLS or time. One line with the URL and the cause."""

    def __init__(self, url: str, cause: object) -> None:
        super().__init__(url, cause)
        self.url = url
        self.cause = cause

    def __str__(self) -> str:
        return " ".join(f"{self.url}: {self.cause}".split())


class ControlClient:
    """The control API of one neighbour. Connects at the first call; `close()` it, or use it as a context manager.

    Every method raises Unreachable, or RemoteProtocolError with the code of the neighbour's Problem, or with
    `malformed`, `too-large` or `http-<status>`.
    """

    def __init__(self, identity: NodeIdentity, peer: PeerCertificate, url: str) -> None:
        self.peer = peer
        self.url = url.rstrip("/")
        self._context = client_context(identity, peer)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- who is there -----------------------------------------------------------------------------------------------

    async def identity(self) -> Identity:
        return await self._call("GET", "/v1/identity", Identity)

    async def agree(self, request: AgreementRequest) -> Agreement:
        return await self._call("POST", "/v1/agreement", Agreement, body=request)

    # --- grants -----------------------------------------------------------------------------------------------------

    async def open_grant(self, grant_id: str, grant: Signed) -> GrantTerms:
        return await self._call("PUT", f"/v1/grants/{grant_id}", GrantTerms, body=grant)

    async def grant_usage(self, grant_id: str) -> SignedUsage:
        return await self._call("GET", f"/v1/grants/{grant_id}", SignedUsage)

    async def close_grant(self, grant_id: str) -> SignedUsage:
        """For ever. Again: the same receipt again. `billpay.grants.verify_receipt` judges it."""
        return await self._call("DELETE", f"/v1/grants/{grant_id}", SignedUsage)

    async def secretary_key(self) -> SecretaryKey:
        """Whose grants the gateway takes from us."""
        return await self._call("GET", "/v1/secretary-key", SecretaryKey)

    async def succeed_secretary_key(self, succession: Signed) -> SecretaryKey:
        """Gives it our secretary's new key: a `KeySuccession`, signed by the old one."""
        return await self._call("PUT", "/v1/secretary-key", SecretaryKey, body=succession)

    # --- prices and alternatives ------------------------------------------------------------------------------------

    async def tariff(self) -> Signed:
        return await self._call("GET", "/v1/tariff", Signed)

    async def price(self, destination: str, size_bytes: int, *, amount_nanodollars: int = 0) -> PriceQuote:
        """For a packet that pays so much: proportional tolls depend on it."""
        query = {"destination": destination, "size": str(size_bytes), "amount": str(amount_nanodollars)}
        return await self._call("GET", "/v1/price", PriceQuote, query=query)

    async def oads(self) -> tuple[Signed, ...]:
        documents: tuple[Signed, ...] = await self._call("GET", "/v1/oads", _OadList)
        return documents

    async def introduced_oads(self) -> IntroducedOads:
        """Descriptions of other ISPs that it hands on; `billpay.introductions` judges them."""
        return await self._call("GET", "/v1/oads/introduced", IntroducedOads)

    async def introduce_oads(self, ours: IntroducedOads) -> IntroducedOads:
        """Between gateways: what each of the two hands on to the other."""
        return await self._call("POST", "/v1/oads/introduced", IntroducedOads, body=ours)

    async def tariff_stream(self) -> AsyncIterator[Signed]:
        """Each tariff as it comes into force, until the neighbour ends the stream. Waits for the next one for ever."""
        url = f"{self.url}/v1/tariff/stream"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        try:
            async with self._open().get(url, timeout=timeout, allow_redirects=False) as response:
                if response.status != 200:
                    raise _refusal(response.status, await _bounded(response))
                async for line in _lines(response):
                    yield _decode(line, Signed)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error

    # --- accounts ---------------------------------------------------------------------------------------------------

    async def post_statement(self, statement: Signed) -> StatementReply:
        return await self._call("POST", "/v1/statements", StatementReply, body=statement)

    async def post_settlement(self, order: Signed) -> SettlementReceipt:
        return await self._call("POST", "/v1/settlements", SettlementReceipt, body=order)

    # --- the connection ---------------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        expected: type[AnswerT],
        *,
        body: Message | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AnswerT:
        url = self.url + path
        data = msgspec.json.encode(body) if body is not None else None
        try:
            try:
                status, answer = await self._exchange(method, url, data, query)
            except aiohttp.ServerDisconnectedError:
                status, answer = await self._exchange(method, url, data, query)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(url, error) from error
        if status != 200:
            raise _refusal(status, answer)
        return _decode(answer, expected)

    async def _exchange(
        self, method: str, url: str, data: bytes | None, query: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if data is not None else None
        session = self._open()
        async with session.request(
            method, url, data=data, params=query, headers=headers, allow_redirects=False
        ) as response:
            return response.status, await _bounded(response)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context, limit=8),
                timeout=aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, total = [], 0
    async for part in response.content.iter_any():
        total += len(part)
        if total > ANSWER_BYTES_MAX:
            raise RemoteProtocolError("too-large", f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Those that are not empty, the last with or without its end."""
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield line
        if len(rest) > LINE_BYTES_MAX:
            raise RemoteProtocolError("too-large", f"a line of more than {LINE_BYTES_MAX} bytes")
    if rest.strip():
        yield rest


def _decode(data: bytes, expected: type[AnswerT]) -> AnswerT:
    try:
        return msgspec.json.decode(data, type=expected)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError("malformed", str(error)) from error


def _refusal(status: int, answer: bytes) -> RemoteProtocolError:
    """What the neighbour gave as the reason, if it gave one in our form."""
    if status >= _ERROR_STATUS:
        try:
            problem = msgspec.json.decode(answer, type=Problem)
        except (msgspec.DecodeError, UnicodeError):
            pass
        else:
            return RemoteProtocolError(problem.code, problem.message)
    shown = " ".join(answer[:_PROBLEM_BYTES_SHOWN].decode(errors="replace").split())
    return RemoteProtocolError(f"http-{status}", shown or "no reason given")


def _unreachable(url: str, error: Exception) -> Unreachable:
    silent = f"no answer within {TOTAL_S} s" if isinstance(error, TimeoutError) else type(error).__name__
    return Unreachable(url, str(error) or silent)
