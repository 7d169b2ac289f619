"""The gateway as its operator sees it: one status document, on a unix socket of its own.

Values and their transport; `gateway.daemon` fills them in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from billpay.errors import EnvironmentFault

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
    open_grants: int
    held_kept_nanodollars: int
    links: tuple[LinkStatus, ...]
    counters: dict[str, int]


class AdminServer:
    """GET /status; whoever may open the socket may ask."""

    def __init__(self, socket: Path, status: Callable[[], Awaitable[GatewayStatus]]) -> None:
        self._socket = socket
        self._status = status
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/status", self._get_status)
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

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(await self._status()), content_type="application/json")


async def read_status(socket: Path) -> GatewayStatus:
    """Asks a running gateway. Raises EnvironmentFault when nobody answers there."""
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            ) as session,
            session.get("http://gateway/status") as response,
        ):
            return msgspec.json.decode(await response.read(), type=GatewayStatus)
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
        cause = getattr(getattr(error, "os_error", None), "strerror", None) or error
        raise EnvironmentFault("ask gateway at", str(socket), cause, "is it running?") from error
