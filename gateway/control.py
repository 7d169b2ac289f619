"""The control API of a gateway: HTTPS for its neighbours, TLS 1.3, both certificates pinned.

Decides: which call of which neighbour is allowed, and what it is answered (docs/spec/control-api.md lists the status
codes). Refuses to know: packets, grants (`gateway.granting`), accounts (`neighbour.exchange`), prices
(`gateway.publishing`). A neighbour can only ever speak about its own link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

import msgspec
from aiohttp import web

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.mac import epoch_of
from billpay.messages import (
    AgreementRequest,
    Identity,
    IntroducedOads,
    PriceQuote,
    Problem,
    Signed,
    Statement,
)
from billpay.signing import verify
from dataplane.supervisor import ReaderUnavailable
from gateway.configuration import Configuration
from gateway.granting import GrantDesk
from gateway.neighbours import Neighbour, Neighbours
from neighbour.identity import NodeIdentity
from neighbour.tls import peer_public_key

LOG = logging.getLogger("gateway")
BODY_BYTES_MAX = 256 * 1024
STREAMS_MAX = 64
DEFAULT_SIZE_BYTES = 1500

STATUS = {
    "not-a-neighbour": 403,
    "wrong-signer": 403,
    "bad-signature": 403,
    "foreign-grant": 403,
    "foreign-source": 403,
    "never-pays": 403,
    "unknown-grant": 404,
    "unknown-path": 404,
    "no-agreement": 409,
    "grant-closed": 409,
    "grant-expired": 409,
    "old-serial": 409,
    "old-interval": 409,
    "counter-went-back": 409,
    "too-many-grants": 429,
    "too-many-streams": 429,
    "data-plane-unavailable": 503,
    "out-of-order-here": 503,
}
"""Of a problem's code; every other one is a 400."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Published:
    """The newest signed documents, and a bell for those who stream the tariff."""

    tariff: Signed | None = None
    oads: tuple[Signed, ...] = ()
    bell: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def publish(self, tariff: Signed, oads: tuple[Signed, ...]) -> None:
        async with self.bell:
            self.tariff, self.oads = tariff, oads
            self.bell.notify_all()

    async def next_after(self, known: Signed | None) -> Signed:
        """The newest tariff, as soon as it is another one than `known`."""
        async with self.bell:
            while self.tariff is None or self.tariff == known:
                await self.bell.wait()
            return self.tariff


class ControlApi:
    """The handlers; `application()` is what a server runs."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        identity: NodeIdentity,
        neighbours: Neighbours,
        grants: GrantDesk,
        published: Published,
        told: Callable[[Neighbour], IntroducedOads],
        introduced: Callable[[Neighbour, IntroducedOads], IntroducedOads],
        quote: Callable[[str, int, int], Awaitable[PriceQuote]],
        clock: Callable[[], int],
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._neighbours = neighbours
        self._grants = grants
        self._published = published
        self._told = told
        self._introduced = introduced
        self._quote = quote
        self._unix_s = clock
        self._streams = 0

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_problems])
        application.router.add_get("/v1/identity", self._get_identity)
        application.router.add_post("/v1/agreement", self._post_agreement)
        application.router.add_put("/v1/grants/{grant}", self._put_grant)
        application.router.add_get("/v1/grants/{grant}", self._get_grant)
        application.router.add_delete("/v1/grants/{grant}", self._delete_grant)
        application.router.add_get("/v1/secretary-key", self._get_secretary_key)
        application.router.add_put("/v1/secretary-key", self._put_secretary_key)
        application.router.add_get("/v1/tariff", self._get_tariff)
        application.router.add_get("/v1/tariff/stream", self._stream_tariff)
        application.router.add_get("/v1/price", self._get_price)
        application.router.add_get("/v1/oads", self._get_oads)
        application.router.add_get("/v1/oads/introduced", self._get_introduced)
        application.router.add_post("/v1/oads/introduced", self._post_introduced)
        application.router.add_post("/v1/statements", self._post_statement)
        application.router.add_post("/v1/settlements", self._post_settlement)
        return application

    # --- who is there -----------------------------------------------------------------------------------------------

    def _caller(self, request: web.Request) -> Neighbour:
        transport = request.transport
        key = peer_public_key(transport.get_extra_info("ssl_object") if transport is not None else None)
        found = self._neighbours.by_key(key) if key is not None else []
        if not found:
            raise RemoteProtocolError("not-a-neighbour", "no link is configured to the node of this certificate")
        return found[0]

    async def _get_identity(self, request: web.Request) -> web.Response:
        self._caller(request)
        gateway = self._configuration.gateway
        return _json(
            Identity(
                name=gateway.name,
                as_number=gateway.as_number,
                fingerprint=self._identity.fingerprint,
                epoch=epoch_of(self._unix_s()),
            )
        )

    async def _post_agreement(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        wanted = await _body(request, AgreementRequest)
        if wanted.source_addresses and request.remote not in wanted.source_addresses:
            raise RemoteProtocolError(
                "address-translated", f"you arrive from {request.remote}: payments would not match"
            )
        now_unix_s = self._unix_s()
        return _json(self._neighbours.answer(caller, wanted, epoch=epoch_of(now_unix_s), now_unix_s=now_unix_s))

    # --- grants -----------------------------------------------------------------------------------------------------

    async def _put_grant(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        signed = await _body(request, Signed)
        return _json(await self._grants.open(caller, request.match_info["grant"], signed))

    async def _get_grant(self, request: web.Request) -> web.Response:
        return _json(await self._grants.usage(self._caller(request), request.match_info["grant"]))

    async def _delete_grant(self, request: web.Request) -> web.Response:
        return _json(await self._grants.close(self._caller(request), request.match_info["grant"]))

    async def _get_secretary_key(self, request: web.Request) -> web.Response:
        return _json(self._neighbours.secretary_keys.state(self._host(request).name))

    async def _put_secretary_key(self, request: web.Request) -> web.Response:
        caller = self._host(request)
        before = caller.grant_signer.fingerprint
        state = self._neighbours.secretary_keys.succeed(caller.name, await _body(request, Signed))
        if state.fingerprint != before:
            LOG.warning("link %s: grants are signed by %s… from now on", caller.name, state.fingerprint[:16])
        return _json(state)

    def _host(self, request: web.Request) -> Neighbour:
        caller = self._caller(request)
        if caller.section.peer != "host":
            raise RemoteProtocolError("foreign-grant", "only hosts have a secretary")
        return caller

    # --- prices and alternatives ------------------------------------------------------------------------------------

    async def _get_tariff(self, request: web.Request) -> web.Response:
        self._caller(request)
        return _json(self._tariff())

    def _tariff(self) -> Signed:
        if self._published.tariff is None:
            raise RemoteProtocolError("data-plane-unavailable", "no tariff has been published yet")
        return self._published.tariff

    async def _stream_tariff(self, request: web.Request) -> web.StreamResponse:
        """JSON lines: the tariff now, and each new one as it is published."""
        self._caller(request)
        if self._streams >= STREAMS_MAX:
            raise RemoteProtocolError("too-many-streams", f"{STREAMS_MAX} streams are open")
        self._streams += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
            await response.prepare(request)
            sent: Signed | None = None
            while True:
                sent = await self._published.next_after(sent)
                await response.write(msgspec.json.encode(sent) + b"\n")
        finally:
            self._streams -= 1

    async def _get_price(self, request: web.Request) -> web.Response:
        self._caller(request)
        destination = request.query.get("destination", "")
        try:
            ip_address(destination)
            size_bytes = int(request.query.get("size", str(DEFAULT_SIZE_BYTES)))
            amount = int(request.query.get("amount", "0"))
        except ValueError as error:
            raise RemoteProtocolError("malformed", f"destination, size or amount: {error}") from error
        if not (0 < size_bytes <= 65_535 and 0 <= amount <= 0xFF_FFFF):
            raise RemoteProtocolError("malformed", "size is 1 to 65535 bytes, amount 0 to 16777215 nanodollars")
        return _json(await self._quote(destination, size_bytes, amount))

    async def _get_oads(self, request: web.Request) -> web.Response:
        self._caller(request)
        return _json(self._published.oads)

    async def _get_introduced(self, request: web.Request) -> web.Response:
        return _json(self._told(self._caller(request)))

    async def _post_introduced(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        return _json(self._introduced(caller, await _body(request, IntroducedOads)))

    # --- accounts ---------------------------------------------------------------------------------------------------

    async def _post_statement(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        signed = await _body(request, Signed)
        exchange = caller.exchange
        if exchange is None or not caller.state.startswith("agreed"):
            raise RemoteProtocolError("no-agreement", "ask for an agreement first")
        verify(signed, caller.certificate.public_key, Statement)
        reply = exchange.answer_statement(signed, self._unix_s())
        self._neighbours.heard(caller, self._unix_s())
        await exchange.let_pass()
        return _json(reply)

    async def _post_settlement(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        signed = await _body(request, Signed)
        if caller.exchange is None:
            raise RemoteProtocolError("no-agreement", "ask for an agreement first")
        receipt = caller.exchange.accept_settlement(signed, self._unix_s())
        self._neighbours.report(caller)
        return _json(receipt)


async def _body(request: web.Request, expected: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=expected)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError("malformed", str(error)) from error


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _problem(code: str, message: str, status: int) -> web.Response:
    body = msgspec.json.encode(Problem(code=code, message=message[:400]))
    return web.Response(body=body, status=status, content_type="application/json")


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every refusal is a Problem with a stable code; our own bugs stay a 500 without details."""
    try:
        return await handler(request)
    except RemoteProtocolError as error:
        return _problem(error.code, error.message, STATUS.get(error.code, 400))
    except ReaderUnavailable as error:
        return _problem("data-plane-unavailable", str(error), 503)
    except EnvironmentFault as error:  # a full disk: nothing was promised, ask again
        LOG.error("%s", error)
        return _problem("out-of-order-here", str(error), 503)
    except web.HTTPException as error:
        if error.status == 404:
            return _problem("unknown-path", f"there is no {request.method} {request.path}", 404)
        return _problem("malformed", error.reason, error.status)
