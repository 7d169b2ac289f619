"""The typed client of the local API: what the command line, the terminal UI and other programs use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from hostagent import api

ANSWER_BYTES_MAX = 16 << 20
TIMEOUT_S = 5
BASE = "http://hostagent"

T = TypeVar("T")


class Unreachable(BillpayError):  # noqa: N818 - a state of the agent, not an error of anybody
    """No agent answers on the socket: one line with the socket, the cause and what to do."""

    def __init__(self, socket: Path, cause: object) -> None:
        super().__init__(socket, cause)
        self.socket = socket
        self.cause = cause

    def __str__(self) -> str:
        return f"no agent answers on {self.socket}: {self.cause} (start it with `hostagent up`, or name its --socket)"


class LocalClient:
    """An async context manager. Every method raises Unreachable."""

    def __init__(self, socket: Path) -> None:
        self._path = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LocalClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self._path)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=None),
            read_bufsize=ANSWER_BYTES_MAX,
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

    async def events(self) -> AsyncIterator[api.Snapshot]:
        """Ends when the agent ends."""
        session = self._open()
        try:
            async with session.get(f"{BASE}/v1/events") as response:
                response.raise_for_status()
                async for line in response.content:
                    yield msgspec.json.decode(line, type=api.Snapshot)
        except (aiohttp.ClientError, OSError, ValueError, msgspec.DecodeError) as error:
            raise Unreachable(self._path, _cause(error)) from error

    async def _get(self, path: str, expected: type[T]) -> T:
        session = self._open()
        try:
            async with session.get(f"{BASE}{path}", timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as response:
                body = await response.read()
                if response.status != 200:
                    raise RemoteProtocolError(f"http-{response.status}", body.decode(errors="replace")[:200])
                return msgspec.json.decode(body, type=expected)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise Unreachable(self._path, _cause(error)) from error

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use it with `async with`"
        return self._session


def _cause(error: BaseException) -> str:
    """What a person would call it."""
    reason = getattr(error, "os_error", None) or error
    return getattr(reason, "strerror", None) or str(reason) or "no answer in time"
