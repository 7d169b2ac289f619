"""Reading a request of the local API and sending its answer, whatever both are about.

Decides: what is malformed, what each fault's status and code are, and when a reader is cut off.  Everything that is
read is bounded.  Refuses to know the agent.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from billpay.errors import BillpayError, ConfigurationError
from hostagent import endpoints
from hostagent.desk import Refused
from hostagent.endpoints import BODY_BYTES_MAX, JSON, Endpoint, Problem

LOG = logging.getLogger("hostagent")
WRITE_S = 5.0  # a reader that takes nothing for so long is cut off
READ_S = 5.0  # for a request's body
PIECE_BYTES: Final = 128 << 10  # of a long answer: no more of it waits in a connection's buffer
MESSAGE_CHARACTERS_MAX: Final = 1000

CODES: Final = {404: "unknown-path", 405: "wrong-method", 413: "too-long"}
"""Of what aiohttp refuses by itself."""

MALFORMED: Final = (400, "malformed")
TOO_SLOW: Final = (408, "too-slow")
NOT_ALLOWED: Final = (403, "not-allowed")
FROM_A_BROWSER: Final = (403, "from-a-browser")
WRONG_HOST: Final = (421, "wrong-host")
TOO_MANY_STREAMS: Final = (429, "too-many-streams")
BAD_CONFIGURATION: Final = (409, "bad-configuration")
FAILED: Final = (503, "failed")
REFUSED_STATUS: Final = 409
REFUSED_STATUSES: Final = {"unknown-flow": 404}

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guard = Callable[[web.Request], None]


class Answered(Exception):  # noqa: N818 - an answer, not a fault
    """Ends a request with a problem."""

    def __init__(self, status_and_code: tuple[int, str], message: str) -> None:
        super().__init__(status_and_code, message)
        self.status, code = status_and_code
        self.problem = Problem(code=code, message=" ".join(message.split())[:MESSAGE_CHARACTERS_MAX])


def application(routes: Mapping[Endpoint, Handler], guard: Guard) -> web.Application:
    """`guard` raises Answered for who must not ask."""

    @web.middleware
    async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            guard(request)
            return await handler(request)
        except Answered as error:
            answered = error
        except web.HTTPException as error:
            reason = f"{request.method} {request.path[:100]}: {error.reason}"
            answered = Answered((error.status, CODES.get(error.status, MALFORMED[1])), reason)
        response = web.Response(
            body=msgspec.json.encode(answered.problem), status=answered.status, content_type=endpoints.JSON
        )
        if answered.status in (NOT_ALLOWED[0], TOO_SLOW[0], 413):
            response.force_close()
        return response

    made = web.Application(middlewares=[problems], client_max_size=BODY_BYTES_MAX)
    for endpoint, handler in routes.items():
        made.router.add_route(endpoint.method, endpoint.path, handler)
    return made


# --- guards -----------------------------------------------------------------------------------------------------------


def refuse_browsers(request: web.Request) -> None:
    """A page cannot open a unix socket, but something might carry its requests here, and anything may open a port of
    the loopback. Browsers say what a request is for (Fetch Standard; Fetch Metadata), and pages cannot forge that.
    """
    if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        raise Answered(FROM_A_BROWSER, "a web page may not ask this")


def loopback_guard(listener: sockets.socket) -> Guard:
    """Only requests for this machine by its own name: no page whose name was pointed to it (DNS rebinding)."""
    host, port = listener.getsockname()[:2]
    written = f"[{host}]" if ":" in host else host
    known = {f"{name}:{port}" for name in (written, "localhost")}

    def guard(request: web.Request) -> None:
        refuse_browsers(request)
        if request.headers.get("Host", "").lower() not in known:
            raise Answered(WRONG_HOST, f"ask for one of {', '.join(sorted(known))}")

    return guard


# --- requests ---------------------------------------------------------------------------------------------------------


def no_query(request: web.Request) -> None:
    if request.query:
        raise Answered(MALFORMED, f"{request.path} takes no parameters")


def parameters(request: web.Request, endpoint: Endpoint) -> Any:
    """An instance of its `query`."""
    assert endpoint.query is not None
    if len(set(request.query)) != len(request.query):
        raise Answered(MALFORMED, "a parameter is there twice")
    try:
        return msgspec.convert(dict(request.query), endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        raise Answered(MALFORMED, str(error)) from error


async def body(request: web.Request, endpoint: Endpoint) -> Any:
    """An instance of its `body`."""
    assert endpoint.body is not None
    try:
        async with asyncio.timeout(READ_S):
            read = await request.read()
    except TimeoutError as error:
        raise Answered(TOO_SLOW, f"the request did not come within {READ_S:.0f} s") from error
    try:
        value = msgspec.json.decode(read or b"{}", type=endpoint.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Answered(MALFORMED, str(error)) from error
    wrong = endpoints.out_of_bounds(value)
    if wrong is not None:
        raise Answered(MALFORMED, wrong)
    return value


async def of_desk(ask: Callable[[], Awaitable[T]]) -> T:
    """What the agent will not or cannot do becomes a problem."""
    try:
        return await ask()
    except Refused as error:
        raise Answered((REFUSED_STATUSES.get(error.code, REFUSED_STATUS), error.code), error.message) from error
    except ConfigurationError as error:
        raise Answered(BAD_CONFIGURATION, str(error)) from error
    except BillpayError as error:
        LOG.warning("local API: %s", error)
        raise Answered(FAILED, str(error)) from error


# --- answers ----------------------------------------------------------------------------------------------------------


async def send(request: web.Request, text: bytes, content_type: str = JSON) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(len(text))})
    try:
        await response.prepare(request)
        await write(response, text)
        async with asyncio.timeout(WRITE_S):
            await response.write_eof()
    except (TimeoutError, ConnectionError):
        cut_off(request)
    return response


async def write(response: web.StreamResponse, text: bytes | bytearray) -> None:
    """Raises TimeoutError for a reader that does not take it in time."""
    view = memoryview(text)
    async with asyncio.timeout(WRITE_S):
        for start in range(0, len(view), PIECE_BYTES):
            await response.write(view[start : start + PIECE_BYTES])


def cut_off(request: web.Request) -> None:
    """What it has not read is thrown away with the connection, which would otherwise wait for the reader for ever."""
    if request.transport is not None:
        request.transport.abort()
