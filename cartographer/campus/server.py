"""The campus service: HTTPS for an organisation's hosts, both keys pinned; a status for its operator on a unix socket.

Decides: which call of which host is allowed, and what it is answered (docs/spec/campus-protocol.md lists the status
codes). Refuses to know: what hosts' numbers make together (`cartographer.campus.pooling`), where they are kept
(`cartographer.campus.store`), what may be told at all (`cartographer.campus.privacy`). A host is known by its key,
and speaks for itself only.

Everything that it knows is in the database: it may be killed and started again at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.messages import OadDescription, Problem
from billpay.signing import fingerprint_of, verify
from cartographer.campus.configuration import Configuration, admitted, known_isps, listen_address, load
from cartographer.campus.limits import CallLimit
from cartographer.campus.messages import (
    ESTIMATES_MAX,
    PERIODS_MAX,
    REPORT_BYTES_MAX,
    CampusStatus,
    Descriptions,
    Prior,
    Priors,
    PriorsRequest,
    Report,
    Vouched,
    check_report,
)
from cartographer.campus.pooling import pooled
from cartographer.campus.privacy import PERIOD_S, checked_prefix, pseudonym_of
from cartographer.campus.store import Store, Verified
from dataplane.service import serve
from neighbour.identity import NodeIdentity, PeerCertificate
from neighbour.tls import PinnedPeers, peer_public_key, server_context

LOG: Final = logging.getLogger("cartographer.campus")
FORGET_S: Final = 600
DAY_S: Final = 86_400
CALLS_AT_ONCE: Final = 32
"""More wait: each may hold the largest body."""
BODY_S: Final = 10.0
"""Within this time a request is there, or it does not take up room any longer."""

STATUS: Final = {
    "not-admitted": 403,
    "unknown-path": 404,
    "too-slow": 408,
    "too-large": 413,
    "too-many-calls": 429,
    "out-of-order-here": 503,
}
"""Of a problem's code; every other one is a 400."""

T = TypeVar("T")


async def run(config_path: Path, ready: Callable[[tuple[str, ...], int], None] = lambda _urls, _hosts: None) -> None:
    """Until SIGTERM or SIGINT. `ready(urls, hosts)` once it listens. Raises ConfigurationError or EnvironmentFault."""
    configuration = load(config_path)
    await serve(
        configuration.campus.name,
        configuration.state_directory,
        lambda: CampusServer(configuration, config_path, ready),
    )


class CampusServer:
    """`unix_s` and `now_ns` are the clocks: of the wall for periods, monotonic for limits."""

    def __init__(
        self,
        configuration: Configuration,
        config_path: Path,
        ready: Callable[[tuple[str, ...], int], None] = lambda _urls, _hosts: None,
        *,
        unix_s: Callable[[], float] = time.time,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._configuration = configuration
        self._config_path = config_path
        self._ready = ready
        self._unix_s = unix_s
        self._now_ns = now_ns
        self._identity = NodeIdentity.load_or_create(configuration.state_directory, name=configuration.campus.name)
        self._hosts = _by_fingerprint(admitted(configuration, config_path))
        self._isps = known_isps(configuration)
        self._peers = PinnedPeers(tuple(self._hosts.values()))
        self._secret = hashlib.sha256(
            b"campus pseudonyms\x00" + self._identity.key.private.private_bytes_raw()
        ).digest()
        self._reports = CallLimit(configuration.hosts.reports_per_minute)
        self._questions = CallLimit(configuration.hosts.questions_per_minute)
        self._at_once = asyncio.Semaphore(CALLS_AT_ONCE)
        self._store: Store | None = None
        self._reported = self._asked = self._refused = 0
        self._trouble = ""
        self.urls: tuple[str, ...] = ()

    @property
    def certificate(self) -> PeerCertificate:
        """What hosts pin."""
        return self._identity.certificate

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It listens inside; a call that is under way is answered before the database closes."""
        async with contextlib.AsyncExitStack() as stack:
            self._store = await asyncio.to_thread(Store.open, self._configuration.database)
            stack.callback(self._store.close)
            await self._drop_strangers()
            stack.push_async_callback((await self._listen_for_people()).cleanup)
            runner = await self._listen_for_hosts()
            stack.push_async_callback(runner.cleanup)
            self._ready(self.urls, len(self._hosts))
            yield

    async def _listen_for_hosts(self) -> web.AppRunner:
        runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        tls = server_context(self._identity, self._peers)
        urls: list[str] = []
        for text in self._configuration.campus.listen:
            host, port = listen_address(text)
            site = web.TCPSite(runner, host, port, ssl_context=tls)
            try:
                await site.start()
            except OSError as error:
                await runner.cleanup()
                remedy = "stop what uses it, or change campus.listen"
                raise EnvironmentFault("listen on", text, error.strerror or error, remedy) from error
            bound = runner.addresses[len(urls)][1]
            urls.append(f"https://[{host}]:{bound}" if ":" in host else f"https://{host}:{bound}")
        self.urls = tuple(urls)
        return runner

    async def _listen_for_people(self) -> web.AppRunner:
        application = web.Application()
        application.router.add_get("/v1/status", self._get_status)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        path = self._configuration.status_socket
        try:
            path.unlink(missing_ok=True)
            await web.UnixSite(runner, str(path)).start()
            path.chmod(0o600)
        except OSError as error:
            await runner.cleanup()
            remedy = "check campus.status_socket"
            raise EnvironmentFault("listen on", str(path), error.strerror or error, remedy) from error
        return runner

    async def work(self) -> None:
        """Forgets what is too old, from time to time, until cancelled."""
        while True:
            await self._forget()
            await asyncio.sleep(FORGET_S)

    async def _forget(self) -> None:
        now_ns = self._now_ns()
        self._reports.forget(now_ns)
        self._questions.forget(now_ns)
        try:
            await asyncio.to_thread(self._open_store().forget, before=self._since(), unix_s=int(self._unix_s()))
            self._trouble = ""
        except EnvironmentFault as error:  # the database is away: it is used again when it is back
            self._complain(error)

    async def reload(self) -> None:
        """Who is admitted, by the files as they are now. Everything else is read at the start."""
        configuration = load(self._config_path)
        hosts, isps = _by_fingerprint(admitted(configuration, self._config_path)), known_isps(configuration)
        for fingerprint in self._hosts.keys() - hosts.keys():
            self._peers.remove(fingerprint)
        for fingerprint in hosts.keys() - self._hosts.keys():
            self._peers.add(hosts[fingerprint])
        self._hosts, self._isps = hosts, isps
        await self._drop_strangers()

    async def _drop_strangers(self) -> None:
        """Who is put out takes along what it said."""
        known = [self._pseudonym(fingerprint) for fingerprint in self._hosts]
        gone = await asyncio.to_thread(self._open_store().keep_only, known)
        if gone:
            LOG.info("what %d hosts had reported is deleted: they are not admitted any more", gone)

    def status_line(self) -> str:
        if self._trouble:
            return self._trouble
        return f"{len(self._hosts)} hosts admitted, {self._reported} reports, {self._asked} questions"

    # --- calls ------------------------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        application = web.Application(client_max_size=REPORT_BYTES_MAX, middlewares=[self._problems])
        application.router.add_post("/v1/reports", self._post_report)
        application.router.add_post("/v1/priors", self._post_priors)
        application.router.add_get("/v1/descriptions", self._get_descriptions)
        return application

    async def _post_report(self, request: web.Request) -> web.Response:
        host = self._caller(request, self._reports)
        report = await _body(request, Report)
        check_report(report)
        verified = [self._verified(one) for one in report.descriptions]
        receipt = await asyncio.to_thread(
            self._open_store().take,
            host,
            report,
            verified,
            period=self._period(),
            lines_max=self._configuration.hosts.lines_max,
        )
        self._reported += 1
        return _json(receipt)

    def _verified(self, vouched: Vouched) -> Verified:
        """Raises RemoteProtocolError. `issuer` is who signed; an ISP whose key is known signs with that one."""
        description = verify(vouched.signed, vouched.public_key, OadDescription)
        try:
            ip_network(description.prefix)
        except ValueError as error:
            raise RemoteProtocolError("bad-prefix", str(error)) from error
        known = self._isps.get(description.as_number)
        if description.issuer != fingerprint_of(vouched.public_key):
            raise RemoteProtocolError("wrong-signer", "a description that names another issuer than its signer")
        if known is not None and known != vouched.public_key:
            raise RemoteProtocolError("wrong-signer", f"AS {description.as_number} has another key here")
        return Verified(vouched=vouched, description=description)

    async def _post_priors(self, request: web.Request) -> web.Response:
        host = self._caller(request, self._questions)
        question = await _body(request, PriorsRequest)
        for prefix in question.prefixes:
            checked_prefix(prefix)
        answer = await asyncio.to_thread(self._answer, host, question)
        self._asked += 1
        return _json(answer)

    def _answer(self, host: str, question: PriorsRequest) -> Priors:
        """What the asker itself said is left out: it knows that already, and would believe it twice."""
        store, terms = self._open_store(), self._configuration.pooling
        since = self._since()
        said = store.contributions(
            question.place,
            question.prefixes,
            asker=host,
            since=since,
            period=self._period(),
            hosts_min=terms.hosts_min,
        )
        estimates: list[Prior] = []
        for (prefix, way, quantity), contributions in said.items():
            found = pooled(contributions, half_life_s=terms.half_life_s)
            if found is None or len(estimates) == ESTIMATES_MAX:
                continue
            estimate = found.estimate
            estimates.append(
                Prior(
                    prefix=prefix,
                    way=way,
                    quantity=quantity,
                    value=estimate.value,
                    uncertainty=estimate.uncertainty,
                    spread=estimate.spread,
                    samples_milli=max(1, round(estimate.samples * 1000)),
                    hosts=found.hosts,
                    age_periods=min(PERIODS_MAX, found.age_periods),
                )
            )
        findings = store.findings(asker=host, since=since, hosts_min=terms.hosts_min)
        return Priors(estimates=tuple(estimates), findings=findings)

    async def _get_descriptions(self, request: web.Request) -> web.Response:
        host = self._caller(request, self._questions)
        found = await asyncio.to_thread(
            self._open_store().descriptions,
            asker=host,
            since=self._since(),
            unix_s=int(self._unix_s()),
            hosts_min=self._configuration.pooling.hosts_min,
            known=self._isps,
        )
        return _json(Descriptions(descriptions=found))

    async def _get_status(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp gives it
        return _json(await self.status())

    async def status(self) -> CampusStatus:
        """The database may be away: then its counts are 0, and `trouble` says why."""
        store, hosts_min = self._open_store(), self._configuration.pooling.hosts_min
        try:
            counts = await asyncio.to_thread(
                store.counts, since=self._since(), unix_s=int(self._unix_s()), hosts_min=hosts_min
            )
        except EnvironmentFault as error:
            self._complain(error)
            counts = None
        return CampusStatus(
            listen=self.urls,
            database=store.kind,
            admitted_hosts=len(self._hosts),
            reporting_hosts=counts.reporting_hosts if counts else 0,
            lines=counts.lines if counts else 0,
            prefixes=counts.prefixes if counts else 0,
            shown_prefixes=counts.shown_prefixes if counts else 0,
            descriptions=counts.descriptions if counts else 0,
            reports=self._reported,
            questions=self._asked,
            refused=self._refused,
            trouble=self._trouble,
        )

    # --- who and when -----------------------------------------------------------------------------------------------

    def _caller(self, request: web.Request, limit: CallLimit) -> str:
        """The host's pseudonym. Raises RemoteProtocolError."""
        transport = request.transport
        key = peer_public_key(transport.get_extra_info("ssl_object") if transport is not None else None)
        if key is None or fingerprint_of(key) not in self._hosts:  # put out since the connection was made
            raise RemoteProtocolError("not-admitted", "this host's certificate is not admitted here")
        fingerprint = fingerprint_of(key)
        if not limit.allows(fingerprint, self._now_ns()):
            raise RemoteProtocolError("too-many-calls", "ask again in a minute")
        return self._pseudonym(fingerprint)

    def _pseudonym(self, fingerprint: str) -> str:
        return pseudonym_of(fingerprint, self._secret)

    def _period(self) -> int:
        return int(self._unix_s()) // PERIOD_S

    def _since(self) -> int:
        return self._period() - self._configuration.pooling.kept_days * DAY_S // PERIOD_S

    def _open_store(self) -> Store:
        assert self._store is not None, "inside running()"
        return self._store

    def _complain(self, error: EnvironmentFault) -> None:
        """Once for each new trouble."""
        if str(error) != self._trouble:
            LOG.error("%s", error)
        self._trouble = str(error)

    @web.middleware
    async def _problems(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Every refusal is a Problem with a stable code; our own bugs stay a 500 without details."""
        try:
            async with self._at_once:
                return await handler(request)
        except RemoteProtocolError as error:
            self._refused += 1
            return _problem(error.code, error.message)
        except EnvironmentFault as error:  # nothing was promised: ask again
            self._complain(error)
            return _problem("out-of-order-here", "the database does not answer")
        except web.HTTPException as error:
            self._refused += 1
            if error.status == 404:
                return _problem("unknown-path", f"there is no {request.method} {request.path}")
            return _problem("too-large" if error.status == 413 else "malformed", error.reason)


def _pseudonym_secret(identity: NodeIdentity) -> bytes:
    """Follows from the node's key: nothing else has to be kept, and the database alone names nobody."""
    return hashlib.sha256(b"campus pseudonyms\x00" + identity.key.private.private_bytes_raw()).digest()


def _by_fingerprint(peers: tuple[PeerCertificate, ...]) -> dict[str, PeerCertificate]:
    return {peer.fingerprint: peer for peer in peers}


async def _body(request: web.Request, expected: type[T]) -> T:
    try:
        async with asyncio.timeout(BODY_S):
            data = await request.read()
        return msgspec.json.decode(data, type=expected)
    except TimeoutError as error:
        raise RemoteProtocolError("too-slow", f"the request was not there within {BODY_S:g} s") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError("malformed", str(error)) from error


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _problem(code: str, message: str) -> web.Response:
    body = msgspec.json.encode(Problem(code=code, message=message[:400]))
    return web.Response(body=body, status=STATUS.get(code, 400), content_type="application/json")
