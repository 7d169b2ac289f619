"""The local API's server: the agent's snapshot over HTTP on a unix socket, for people and programs on this machine.

Decides nothing: whoever may open the socket (0600) may look. A reader that is too slow misses snapshots, never holds
the agent up.
"""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from billpay.errors import EnvironmentFault
from hostagent import api

MAX_STREAMS = 32
EVENT_GAP_S = 0.25
WRITE_S = 5.0


class LocalServer:
    """`snapshot()` is asked for each answer; `changed()` says that streams should look again."""

    def __init__(self, socket: Path, snapshot: Callable[[], api.Snapshot]) -> None:
        self._socket = socket
        self._snapshot = snapshot
        self._runner: web.AppRunner | None = None
        self._news = asyncio.Event()
        self._streams = 0

    async def start(self) -> None:
        """Raises EnvironmentFault when another agent answers there, or the socket cannot be made."""
        application = web.Application(middlewares=[_problems])
        application.router.add_get("/v1/snapshot", self._answer(lambda snapshot: snapshot))
        application.router.add_get("/v1/status", self._answer(lambda snapshot: snapshot.status))
        application.router.add_get("/v1/flows", self._answer(lambda snapshot: snapshot.flows))
        application.router.add_get("/v1/accounts", self._answer(lambda snapshot: snapshot.accounts))
        application.router.add_get("/v1/paths", self._answer(lambda snapshot: snapshot.paths))
        application.router.add_get("/v1/events", self._events)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            self._socket.parent.mkdir(parents=True, exist_ok=True)
            if _is_live(self._socket):
                raise OSError("another agent answers there")
            self._socket.unlink(missing_ok=True)
            await web.UnixSite(self._runner, str(self._socket)).start()
            self._socket.chmod(0o600)
        except OSError as error:
            await self._runner.cleanup()
            remedy = "stop the other agent, or name another socket"
            raise EnvironmentFault("listen on", str(self._socket), error.strerror or error, remedy) from error

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._socket.unlink(missing_ok=True)

    def changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _answer(self, part: Callable[[api.Snapshot], object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(_request: web.Request) -> web.StreamResponse:
            body = msgspec.json.encode(part(self._snapshot()))
            return web.Response(body=body, content_type="application/json")

        return handler

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """JSON lines: a snapshot now, and one after each change, at most four a second."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPTooManyRequests(reason=f"{MAX_STREAMS} streams are open")
        self._streams += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
            await response.prepare(request)
            while True:
                news = self._news
                async with asyncio.timeout(WRITE_S):
                    await response.write(msgspec.json.encode(self._snapshot()) + b"\n")
                await asyncio.sleep(EVENT_GAP_S)
                await news.wait()
        except (TimeoutError, ConnectionError):  # too slow, or gone
            return response
        finally:
            self._streams -= 1


def _is_live(path: Path) -> bool:
    if not path.exists():
        return False
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = {404: "unknown-path", 405: "wrong-method", 429: "too-many-streams"}.get(error.status, "malformed")
        body = msgspec.json.encode({"code": code, "message": f"{request.method} {request.path}: {error.reason}"})
        return web.Response(body=body, status=error.status, content_type="application/json")
