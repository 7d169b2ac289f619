"""The local API's server: the agent's snapshot over HTTP on a unix socket, for people and programs on this machine.

Decides nothing: whoever may open the socket (0600) may look, and answer what the agent asks.  A reader that is too slow
misses snapshots, one that takes nothing is cut off; none holds the agent up.  Refuses to know what a snapshot means.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from billpay.errors import EnvironmentFault
from hostagent import api

MAX_STREAMS = 32
EVENT_GAP_S = 0.25
WRITE_S = 5.0  # a reader that takes nothing for so long is cut off
SHUTDOWN_S = 0.5  # what requests under way get when the agent ends
PROBE_S = 1.0  # to see whether another agent answers
BACKLOG = 32
ANSWER_BYTES_MAX = 4096

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LocalServer:
    """`snapshot()` is asked for each answer; `changed()` says that streams should look again; `on_answer` is told what
    a person answers.
    """

    def __init__(
        self,
        socket: Path,
        snapshot: Callable[[], api.Snapshot],
        on_answer: Callable[[api.Answer], Awaitable[None]] | None = None,
    ) -> None:
        self._socket = socket
        self._snapshot = snapshot
        self._on_answer = on_answer
        self._runner: web.AppRunner | None = None
        self._news = asyncio.Event()
        self._streams = 0
        self._ending = False

    async def start(self) -> None:
        """Raises EnvironmentFault when another agent answers there, or the socket cannot be made."""
        assert self._runner is None, "it is started once"
        self._ending = False
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # a stream ends when its reader leaves, not at the next change
            shutdown_timeout=SHUTDOWN_S,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, _listener(self._socket), backlog=BACKLOG).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner  # only now: `stop` removes the socket, which must be ours

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._socket.unlink(missing_ok=True)
        self._ending = True
        self.changed()
        await runner.cleanup()

    def changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_problems], client_max_size=ANSWER_BYTES_MAX)
        application.router.add_get("/v1/snapshot", self._answer(lambda snapshot: snapshot))
        application.router.add_get("/v1/status", self._answer(lambda snapshot: snapshot.status))
        application.router.add_get("/v1/flows", self._answer(lambda snapshot: snapshot.flows))
        application.router.add_get("/v1/accounts", self._answer(lambda snapshot: snapshot.accounts))
        application.router.add_get("/v1/paths", self._answer(lambda snapshot: snapshot.paths))
        application.router.add_get("/v1/programs", self._answer(lambda snapshot: snapshot.programs))
        application.router.add_get("/v1/questions", self._answer(lambda snapshot: snapshot.questions))
        application.router.add_get("/v1/events", self._events)
        application.router.add_post("/v1/answers", self._take_answer)
        return application

    def _answer(self, part: Callable[[api.Snapshot], object]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = msgspec.json.encode(part(self._snapshot()))
            response = web.Response(body=body, content_type="application/json")
            try:
                async with asyncio.timeout(WRITE_S):
                    await response.prepare(request)
                    await response.write_eof()
            except (TimeoutError, ConnectionError):
                _cut_off(request)
            return response

        return handler

    async def _take_answer(self, request: web.Request) -> web.StreamResponse:
        try:
            answer = msgspec.json.decode(await request.read(), type=api.Answer)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(reason=str(error).replace("\n", " ")) from error
        if self._on_answer is not None:
            await self._on_answer(answer)
        return web.Response(body=b"{}", content_type="application/json")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """JSON lines: a snapshot now, and one after each change, at most four a second."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPTooManyRequests(reason=f"{MAX_STREAMS} streams are open")
        self._streams += 1
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        try:
            await response.prepare(request)
            while not self._ending:
                news = self._news
                async with asyncio.timeout(WRITE_S):
                    await response.write(msgspec.json.encode(self._snapshot()) + b"\n")
                await asyncio.sleep(EVENT_GAP_S)
                await news.wait()
        except (TimeoutError, ConnectionError):  # too slow, or gone
            _cut_off(request)
        finally:
            self._streams -= 1
        return response


def _cut_off(request: web.Request) -> None:
    """What it has not read is thrown away with the connection, which would otherwise wait for the reader for ever."""
    if request.transport is not None:
        request.transport.abort()


def _listener(path: Path) -> sockets.socket:
    """A socket of mode 0600 from its first moment on.  Raises EnvironmentFault."""
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path)
        os.fchmod(listener.fileno(), 0o600)  # Linux creates the file with the mode of the unbound socket
        listener.bind(str(path))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        cause = error.strerror or error
        raise EnvironmentFault("listen on", str(path), cause, "name another socket, or check its folder") from error
    except EnvironmentFault:
        listener.close()
        raise
    return listener


def _make_room(path: Path) -> None:
    """Removes what a killed agent left; never the socket of a living one, or somebody's file."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise EnvironmentFault("listen on", str(path), "it is there and is not a socket", "name another socket")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):  # stale, or just gone
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):  # somebody listens who does not get round to it
            pass
    cause = "another agent answers there"
    raise EnvironmentFault("listen on", str(path), cause, "stop the other agent, or name another socket")


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        code = {404: "unknown-path", 405: "wrong-method", 429: "too-many-streams"}.get(error.status, "malformed")
        body = msgspec.json.encode({"code": code, "message": f"{request.method} {request.path}: {error.reason}"})
        return web.Response(body=body, status=error.status, content_type="application/json")
