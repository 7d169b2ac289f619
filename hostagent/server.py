"""The local API's server: HTTP on a unix socket for people and programs on this machine, docs/spec/local-api.md.

Decides: who may ask what (`hostagent.permissions`), what a request may say at all (`hostagent.endpoints`), and that
nobody holds the agent up: a reader that is too slow misses snapshots, one that takes nothing is cut off, a change goes
on when the one who asked for it leaves.  Refuses to know what an answer means: the `Desk` answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket as sockets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from dataplane.peers import Peer, peer_of
from hostagent import answering, api, endpoints, listening
from hostagent.answering import Answered, Handler
from hostagent.desk import Desk
from hostagent.endpoints import Endpoint
from hostagent.listening import Door
from hostagent.metrics import LoopLag, Metrics, ServerFacts
from hostagent.permissions import Permissions, Right
from hostagent.streams import HEARTBEAT, Feed, Frame, Latest

LOG = logging.getLogger("hostagent")
MAX_STREAMS = 32
HEARTBEAT_S = 10.0  # a stream says something at least so often
SHUTDOWN_S = 0.5  # what requests under way get when the agent ends
LINGER_S = 0.5  # for the rest of a request that was refused already
QUESTIONS_AT_ONCE: Final = 4  # of those that need time

OWN_CONNECTIONS: Final = 256  # of root and the agent's own user
USER_CONNECTIONS: Final = 64  # of each other user that may do something
STRANGERS_CONNECTIONS: Final = 16  # of all that may not
METRICS_CONNECTIONS: Final = 16  # on loopback, where nobody can tell whose they are


class LocalServer:
    """`changed()` says that streams should look again; `permit()` changes who may do what.

    `metrics_listen`: "127.0.0.1:9414" or "[::1]:9414", where /metrics and nothing else is answered, to anybody who can
    connect there; "" for nowhere.
    """

    def __init__(
        self,
        socket: Path,
        desk: Desk,
        permissions: Permissions | None = None,
        metrics_listen: str = "",
    ) -> None:
        self._socket = socket
        self._desk = desk
        self._permissions = permissions if permissions is not None else Permissions()
        self._metrics_address = listening.loopback_address(metrics_listen) if metrics_listen else None
        self._latest = Latest(self._desk.snapshot, time.monotonic)
        self._feed = Feed(self._latest)
        self._lag = LoopLag()
        self._metrics = Metrics(self._latest.snapshot, self._facts)
        self._changes: set[asyncio.Task[Any]] = set()
        self._thinking = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._doors: list[Door] = []
        self._parts: AsyncExitStack | None = None

    async def start(self) -> None:
        """Raises EnvironmentFault when another agent answers there, or a socket cannot be made."""
        assert self._parts is None, "it is started once"
        self._feed = Feed(self._latest)
        async with AsyncExitStack() as stack:
            listener = listening.unix_listener(self._socket, self._mode())
            stack.callback(self._socket.unlink, missing_ok=True)  # only from now on: it is ours
            stack.callback(listener.close)
            await self._open(stack, answering.application(self._routes(), self._guard), listener, self._place)
            if self._metrics_address is not None:
                listener = listening.loopback_listener(*self._metrics_address)
                stack.callback(listener.close)
                alone = answering.application(
                    {endpoints.METRICS: self._answer_metrics}, answering.loopback_guard(listener)
                )
                await self._open(stack, alone, listener, lambda _: (None, METRICS_CONNECTIONS))
            stack.push_async_callback(_cancelled, asyncio.get_running_loop().create_task(self._lag.work()))
            self._parts = stack.pop_all()

    async def stop(self) -> None:
        parts, self._parts = self._parts, None
        if parts is None:
            return
        self._feed.end()
        await self._finish_changes()
        await parts.aclose()
        self._doors.clear()

    def changed(self) -> None:
        self._feed.changed()

    def permit(self, permissions: Permissions) -> None:
        """From now on; who is connected is asked again at its next request."""
        self._permissions = permissions
        if self._parts is not None:
            listening.change_mode(self._socket, self._mode())

    @property
    def metrics_port(self) -> int | None:
        """That of the loopback, once started."""
        return self._doors[1].port if len(self._doors) > 1 else None

    def _mode(self) -> int:
        return listening.PUBLIC_MODE if self._permissions.others_may else listening.PRIVATE_MODE

    async def _open(
        self,
        stack: AsyncExitStack,
        application: web.Application,
        listener: sockets.socket,
        place: Callable[[sockets.socket], listening.Place],
    ) -> None:
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # a stream ends when its reader leaves, not at the next change
            shutdown_timeout=SHUTDOWN_S,
            lingering_time=LINGER_S,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        door = Door(listener, runner.server, place)
        door.open()
        stack.push_async_callback(door.close)
        self._doors.append(door)

    async def _finish_changes(self) -> None:
        """Those under way get a moment; the one that stops us is not waited for."""
        waiting = self._changes - {asyncio.current_task()}
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=SHUTDOWN_S)
            for task in late:
                task.cancel()

    def _facts(self) -> ServerFacts:
        connections = sum(door.connections for door in self._doors)
        return ServerFacts(streams=self._feed.readers, connections=connections, lag_s=self._lag.longest_s)

    # --- who may ask --------------------------------------------------------------------------------------------------

    def _place(self, connection: sockets.socket) -> listening.Place:
        peer = peer_of(connection)
        if self._permissions.is_own(peer):
            return "own", OWN_CONNECTIONS
        if self._permissions.allows(peer, Right.READ):
            return peer.user_id, USER_CONNECTIONS
        return "strangers", STRANGERS_CONNECTIONS

    def _guard(self, request: web.Request) -> None:
        answering.refuse_browsers(request)
        peer = _asking(request)
        right = Right.READ if request.method in ("GET", "HEAD", "OPTIONS") else Right.SPEND
        allowed = self._permissions.allows(peer, right)
        if right is Right.SPEND:
            what = f"{request.method} {request.path[:100]}".encode("ascii", "backslashreplace").decode()
            verdict = "" if allowed else ": refused"
            LOG.info("local API: %s by user %d, process %d%s", what, peer.user_id, peer.process_id, verdict)
        if not allowed:
            raise Answered(answering.NOT_ALLOWED, self._permissions.refusal(peer, right))

    # --- what is answered ---------------------------------------------------------------------------------------------

    def _routes(self) -> Mapping[Endpoint, Handler]:
        routes: dict[Endpoint, Handler] = {
            part: self._answer_part(part) for part in (*endpoints.PARTS, endpoints.WHOLE)
        }
        answers = self._answers()
        routes |= {each: self._answer_question(each, answers[each.name]) for each in endpoints.QUESTIONS}
        routes |= {each: self._make_change(each, answers[each.name]) for each in endpoints.CHANGES}
        routes[endpoints.OPEN_SESSION] = self._make_change(endpoints.OPEN_SESSION, self._desk.open_session)
        routes[endpoints.PROBE] = self._make_change(endpoints.PROBE, self._desk.probe)
        routes[endpoints.EVENTS] = self._events
        routes[endpoints.OPENAPI] = _answer_openapi  # made when somebody asks
        routes[endpoints.METRICS] = self._answer_metrics
        return routes

    def _answers(self) -> dict[str, Callable[[Any], Awaitable[object]]]:
        desk = self._desk

        async def why(question: endpoints.WhyQuestion) -> api.Why:
            return desk.why(question.flow)

        async def history(question: endpoints.HistoryQuestion) -> tuple[api.HistoryRow, ...]:
            return await desk.history(question.query(int(time.time())))

        async def replay(question: endpoints.ReplayQuestion) -> tuple[api.ReplayLine, ...]:
            return await desk.replay(*question.period(int(time.time())))

        return {
            "why": why,
            "history": history,
            "statement": lambda question: desk.statement(question.month),
            "replay": replay,
            "session": lambda question: desk.session(question.session, question.after, question.wait_s),
            "ways": lambda question: desk.ways(question.destination, question.limit),
            "map": lambda question: desk.network_map(question.destination),
            "quality": lambda question: desk.quality(question.query(int(time.time()))),
            "probe": lambda question: desk.probing(question.number, question.after, question.wait_s),
            "access": desk.set_access,
            "end": lambda body: desk.end_session(body.session),
            "worth": desk.set_session_worth,
            "answers": desk.answer,
            "mode": desk.set_mode,
            "worths": desk.set_worth,
            "trust": lambda body: desk.trust(body.fingerprint),
            "forget": desk.forget,
            "reload": lambda _: desk.reload(),
            "stop": lambda _: desk.stop(),
        }

    def _answer_part(self, endpoint: Endpoint) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            answering.no_query(request)
            return await answering.send(request, self._latest.encoded(endpoint.name))

        return handler

    def _answer_question(self, endpoint: Endpoint, ask: Callable[[Any], Awaitable[object]]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            question = answering.parameters(request, endpoint)
            async with contextlib.nullcontext() if endpoint.waits else self._thinking:
                answer = await answering.of_desk(lambda: ask(question))
            return await answering.send(request, msgspec.json.encode(answer))

        return handler

    def _make_change(self, endpoint: Endpoint, change: Callable[[Any], Awaitable[object]]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            answering.no_query(request)
            body = await answering.body(request, endpoint)
            answer = await self._to_its_end(answering.of_desk(lambda: change(body)))
            self.changed()
            return await answering.send(request, b"{}" if answer is None else msgspec.json.encode(answer))

        return handler

    async def _to_its_end(self, change: Coroutine[Any, Any, object]) -> object:
        """Even if the one who asked leaves: half a change is worse than a change that nobody waits for."""
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _answer_metrics(self, request: web.Request) -> web.StreamResponse:
        answering.no_query(request)
        return await answering.send(request, *self._metrics.text(request.headers.get("Accept", "")))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """A snapshot now, and one after each change, at most four a second."""
        answering.no_query(request)
        if self._feed.readers >= MAX_STREAMS:
            raise Answered(answering.TOO_MANY_STREAMS, f"{MAX_STREAMS} streams are open")
        headers = {"Content-Type": endpoints.EVENT_STREAM, "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        with self._feed.reading():
            try:
                await response.prepare(request)
                await self._follow(response, _asking(request))
            except (TimeoutError, ConnectionError):  # too slow, or gone
                answering.cut_off(request)
        return response

    async def _follow(self, response: web.StreamResponse, peer: Peer) -> None:
        frame: Frame | None = None
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    frame = await self._feed.after(frame)
            except TimeoutError:
                await answering.write(response, HEARTBEAT)
                continue
            if frame is None or not self._permissions.allows(peer, Right.READ):
                return
            await answering.write(response, frame.text)


def _asking(request: web.Request) -> Peer:
    """Raises OSError when the connection is gone."""
    if request.transport is None:
        raise ConnectionResetError("the reader left")
    return peer_of(request.transport.get_extra_info("socket"))


async def _answer_openapi(request: web.Request) -> web.StreamResponse:
    from hostagent.openapi import document

    answering.no_query(request)
    return await answering.send(request, msgspec.json.encode(document()))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
