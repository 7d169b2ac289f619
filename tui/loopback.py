"""A web server for one user's browser on the same machine: textual-serve behind a guard.

Other users and other web sites can reach a port of 127.0.0.1, too.  So every request must name the secret in its path
(else: not found), must have been meant for this host and port (else a site could give its own name our address), and
the connection that carries keys must come from our own page.  The page may load nothing from elsewhere and tells nobody
where it came from.  Whoever knows the address can do what its owner can; it is shown once, on the owner's terminal.
"""

from __future__ import annotations

import hmac
import socket as sockets
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server

MOST_SCREENS: Final = 8  # at a time: each is a process
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src ws://{here}; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LoopbackServer(Server):
    """`run` blocks until it is told to end."""

    def __init__(
        self, command: str, listener: sockets.socket, *, token: str, title: str, say: Callable[[str], None]
    ) -> None:
        host, port = listener.getsockname()[:2]
        self._here = f"{host}:{port}"
        super().__init__(command, host=host, port=port, title=title, public_url=f"http://{self._here}")
        self._listener = listener
        self._token = token
        self._say = say
        self._screens = 0

    @property
    def address(self) -> str:
        return f"{self.public_url}/{self._token}/"

    def run(self) -> None:
        web.run_app(self.application(), sock=self._listener, print=None, access_log=None)

    async def application(self) -> web.Application:
        outer = web.Application(middlewares=[self._guard])
        outer.add_subapp(f"/{self._token}", await self._make_app())
        outer.on_response_prepare.append(self._add_headers)
        return outer

    async def on_startup(self, app: web.Application) -> None:  # noqa: ARG002 - textual-serve's signature
        self._say(f"open {self.address} in a browser on this machine; Ctrl-C ends it")

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        secret = request.path.split("/")[1]
        if not hmac.compare_digest(secret.encode(), self._token.encode()):
            raise web.HTTPNotFound
        if request.host != self._here:
            raise web.HTTPForbidden(text="this address is for another host")
        if request.path != f"/{self._token}/ws":
            return await handler(request)
        if request.headers.get("Origin") != self.public_url:
            raise web.HTTPForbidden(text="keys are taken from our own page only")
        if self._screens >= MOST_SCREENS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_SCREENS} screens are open already")
        self._screens += 1
        try:
            return await handler(request)
        finally:
            self._screens -= 1

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            response.headers[name] = value.replace("{here}", self._here)
