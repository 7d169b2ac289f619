"""The gateway as its operator sees it: one status document, on a unix socket of its own.

Values and their transport; `gateway.daemon` fills them in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
from aiohttp import web

from billpay.errors import ConfigurationError, EnvironmentFault, LocalProtocolError
from billpay.sessions import MarkPrice

TIMEOUT_S = 10


class AdminValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything on the admin socket."""


class LossLine(AdminValue, frozen=True, kw_only=True):
    """A difference between the two ends' counters with its interval (`billpay.links`)."""

    direction: str  # "out" or "in"
    kind: str  # "loss", "found", "excess", "withdrawn"
    since_interval: int
    interval: int
    nanodollars: int


class SettlementLine(AdminValue, frozen=True, kw_only=True):
    number: int
    debtor: str  # "us" or "peer"
    amount_nanodollars: int
    reason: str


class LinkStatus(AdminValue, frozen=True, kw_only=True):
    """A link: what packets did on it, what the two books say, and who owes whom. `peer_*`: by its last statement.

    `cut_*`: above the ceiling of the host's organisation, cut off and not owed. `role_refused_*`: what a host offered
    that its role does not let it pay; it went on unpaid.
    """

    name: str
    neighbour: str
    state: str
    sent_nanodollars: int
    received_nanodollars: int
    sent_packets: int
    received_packets: int
    retained_nanodollars: int
    kept_nanodollars: int
    carry_picodollars: int
    congestion_picodollars: int
    backlog_bytes: int
    dropped_packets: int
    marked_packets: int
    unpaid_packets: int
    role: str  # of a host: "payer", "mirror" or "never"; of others ""
    role_refused_packets: int
    role_refused_nanodollars: int
    cut_packets: int
    cut_nanodollars: int
    peer_sent_nanodollars: int | None
    peer_received_nanodollars: int | None
    owed_by_us_nanodollars: int
    owed_by_peer_nanodollars: int
    settled_by_us_nanodollars: int
    settled_by_peer_nanodollars: int
    last_interval: int
    standing: str
    agrees: bool
    losses: tuple[LossLine, ...]
    settlements: tuple[SettlementLine, ...]


class GatewayStatus(AdminValue, frozen=True, kw_only=True):
    """`held_kept_nanodollars`: payments of packets that waited here when a reader was killed."""

    name: str
    as_number: int
    data_plane: str
    engine: str = ""  # of payments: "ebpf" or "nfqueue"; "" before it has started
    engine_reason: str = ""  # why this one, and why not the better one
    open_grants: int
    held_kept_nanodollars: int
    links: tuple[LinkStatus, ...]
    counters: dict[str, int]
    mark_price: MarkPrice | None = None


class MarkPriceChange(AdminValue, frozen=True, kw_only=True):
    """What a mark costs from now on, as soon as it was announced."""

    nanodollars_per_mark: Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Reloaded(AdminValue, frozen=True, kw_only=True):
    """What of the configuration file has changed, and the serial of the documents that say so."""

    changed: tuple[str, ...]
    serial: int


class AdminServer:
    """GET /status, POST /mark-price, POST /reload; whoever may open the socket may ask and tell."""

    def __init__(
        self,
        socket: Path,
        status: Callable[[], Awaitable[GatewayStatus]],
        set_mark_price: Callable[[int], MarkPrice] | None = None,
        reload: Callable[[], Awaitable[Reloaded]] | None = None,
    ) -> None:
        self._socket = socket
        self._status = status
        self._set_mark_price = set_mark_price
        self._reload = reload
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/status", self._get_status)
        application.router.add_post("/mark-price", self._post_mark_price)
        application.router.add_post("/reload", self._post_reload)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            self._socket.unlink(missing_ok=True)  # the state directory is locked by us: nobody else listens on it
            await web.UnixSite(self._runner, str(self._socket)).start()
            self._socket.chmod(0o600)
        except OSError as error:
            await self._runner.cleanup()
            raise EnvironmentFault("listen on", str(self._socket), error.strerror or error, "name another") from error

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.unlink(missing_ok=True)

    async def _post_mark_price(self, request: web.Request) -> web.Response:
        try:
            change = msgspec.json.decode(await request.read(), type=MarkPriceChange)
            if self._set_mark_price is None:
                raise LocalProtocolError("marks have no price here")
            price = self._set_mark_price(change.nanodollars_per_mark)
        except (msgspec.DecodeError, UnicodeDecodeError, LocalProtocolError) as error:
            return web.Response(status=400, text=str(error))
        return web.Response(body=msgspec.json.encode(price), content_type="application/json")

    async def _post_reload(self, _request: web.Request) -> web.Response:
        try:
            if self._reload is None:
                raise LocalProtocolError("there is nothing to read again")
            reloaded = await self._reload()
        except (ConfigurationError, EnvironmentFault, LocalProtocolError) as error:
            return web.Response(status=400, text=str(error))
        return web.Response(body=msgspec.json.encode(reloaded), content_type="application/json")

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(await self._status()), content_type="application/json")


async def read_status(socket: Path) -> GatewayStatus:
    """Asks a running gateway. Raises EnvironmentFault when nobody answers there."""
    return msgspec.json.decode(await _ask(socket, "GET", "/status"), type=GatewayStatus)


async def change_mark_price(socket: Path, nanodollars_per_mark: int) -> MarkPrice:
    """Raises EnvironmentFault when nobody answers there, or marks have no price."""
    body = msgspec.json.encode(MarkPriceChange(nanodollars_per_mark=nanodollars_per_mark))
    return msgspec.json.decode(await _ask(socket, "POST", "/mark-price", body), type=MarkPrice)


async def reload(socket: Path) -> Reloaded:
    """Raises EnvironmentFault when nobody answers there, or the file cannot be taken in; then all is as before."""
    return msgspec.json.decode(await _ask(socket, "POST", "/reload"), type=Reloaded)


async def _ask(socket: Path, method: str, path: str, body: bytes | None = None) -> bytes:
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            ) as session,
            session.request(method, f"http://gateway{path}", data=body) as response,
        ):
            answer = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        refused = getattr(error, "os_error", None)
        remedy = "run as root or as its user" if isinstance(refused, PermissionError) else "is it running?"
        raise EnvironmentFault(
            "ask gateway at", str(socket), getattr(refused, "strerror", None) or error, remedy
        ) from error
    if response.status != 200:
        cause = answer.decode("utf-8", "replace")
        raise EnvironmentFault("tell gateway at", str(socket), cause, "see its configuration")
    return answer
