"""The gateway's main process: starts everything in order, keeps its neighbours and books current, stops in order.

Decides: the order of things.  Everything else is decided elsewhere: packets by the core in the reader process,
agreements by `gateway.neighbours`, accounts by `neighbour.exchange`, calls by `gateway.control`.

Order of the start: configuration, state directory (locked), listening sockets, kernel rules, reader.  Whatever fails
before the rules leaves nothing behind; a stop takes things down in the opposite order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from ipaddress import ip_address
from pathlib import Path

import msgspec
from aiohttp import web

from billpay.errors import EnvironmentFault, LocalProtocolError
from billpay.links import Reading
from billpay.messages import Agreement, AgreementRequest, PriceQuote
from billpay.sessions import MarkPrice
from billpay.settlement import Role
from dataplane.payment_engines import PaymentEngine
from dataplane.payment_plane import Means, PaymentPlane
from dataplane.service import report_fault, serve
from dataplane.supervisor import ReaderUnavailable
from gateway.admin import AdminServer, GatewayStatus, Reloaded
from gateway.commands import Alarm, Answer, AskReport, Command, Report, SetLink, Tick
from gateway.configuration import Configuration, listen_address, load, plan_of, pricing_of
from gateway.control import ControlApi, Published
from gateway.grant_store import STORE_NAME, GrantStore
from gateway.granting import GrantDesk
from gateway.kernel_datapath import engine_faults
from gateway.kernel_queue import passing_s
from gateway.kernel_state import OWNER, desired_state
from gateway.mark_prices import MarkPricing
from gateway.neighbours import Neighbour, Neighbours
from gateway.plan import MarkingRule
from gateway.publishing import descriptions_of, quote, tariff_of
from gateway.pushing import Load, PricePusher
from gateway.relaying import Relay
from gateway.routing import Routes
from gateway.status import status_of, total
from gateway.terms import changes, commands_for
from neighbour.book import Book
from neighbour.calling import Caller
from neighbour.exchange import LinkExchange, book_node_counters
from neighbour.identity import NodeIdentity
from neighbour.tls import PinnedPeers, server_context

LOG = logging.getLogger("gateway")
TICK_S = 1.0
PUBLISH_S = 0.5
REPUBLISH_S = 600


async def run(config_path: Path) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError or EnvironmentFault when it cannot start."""
    configuration = load(config_path)
    await serve(configuration.gateway.name, configuration.state_directory, lambda: Gateway(configuration, config_path))


class Gateway:
    """All parts of one running gateway."""

    def __init__(self, configuration: Configuration, config_path: Path) -> None:
        self._configuration = configuration
        self._config_path = config_path
        self._plan = plan_of(configuration)
        self._routes = Routes(self._plan.routes)
        directory = configuration.state_directory
        self._plane = self._make_plane()
        self._identity = NodeIdentity.load_or_create(directory, name=configuration.gateway.name)
        self._book = Book.open(directory / "book.sqlite")
        self._neighbours = Neighbours(
            configuration=configuration,
            identity=self._identity,
            book=self._book,
            read=self._reading,
            on_change=self._link_changed,
            passing_s=self._passing_s,
        )
        self._neighbours.open(int(time.time()))
        self._grant_store = GrantStore(directory / STORE_NAME)
        self._grants = GrantDesk(
            identity=self._identity,
            neighbours=self._neighbours,
            store=self._grant_store,
            ask=self.ask,
            read=self._plane.counters,
        )
        self._store_trouble = ""
        self._prices = self._make_prices()
        self._published = Published()
        self._publish_serial = 0
        self._reloading = asyncio.Lock()
        self._relay = Relay(
            own_as=configuration.gateway.as_number,
            identity=self._identity,
            neighbours=self._neighbours,
            published=self._published,
        )
        self._changes: set[asyncio.Task[None]] = set()

    def _make_plane(self) -> PaymentPlane:
        return PaymentPlane(
            Means(
                faults=lambda: engine_faults(self._plan),
                command=self._reader_command,
                desired=lambda engine: desired_state(self._configuration, engine),
            ),
            wanted=self._configuration.gateway.engine,
            state_directory=self._configuration.state_directory,
            owner=OWNER,
            on_event=self._on_event,
            snapshot=self._snapshot,
            on_started=self._catch_up,
        )

    def _reader_command(self, engine: PaymentEngine) -> list[str]:
        return [sys.executable, "-m", "gateway.reader", str(self._config_path.resolve()), "--engine", engine.value]

    def _make_prices(self) -> PricePusher | None:
        configuration = self._configuration
        if configuration.tariff.kind != "per-mark":
            return None
        provider, unix_ms = configuration.gateway.name, time.time_ns() // 1_000_000
        rates = {
            link.interface: link.rate_bit_s for link in configuration.links if link.marking is not MarkingRule.NONE
        }
        return PricePusher(
            MarkPricing(pricing_of(configuration), provider=provider, unix_ms=unix_ms),
            identity=self._identity,
            addresses=configuration.marks.push_to,
            load_ppm=Load(rates).ppm,
        )

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up inside; nothing of us is left after it."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._book.close)
            stack.callback(self._grant_store.close)
            stack.callback(self._plane.close)
            admin = AdminServer(self._configuration.admin_socket, self.status, self.set_mark_price, self.reload)
            await admin.start()
            stack.push_async_callback(admin.stop)
            runner = await self._listen()
            stack.push_async_callback(runner.cleanup)
            await stack.enter_async_context(self._plane.running())
            yield

    async def _listen(self) -> web.AppRunner:
        peers = PinnedPeers(tuple(neighbour.certificate for neighbour in self._neighbours.by_link.values()))
        tls = server_context(self._identity, peers)
        api = ControlApi(
            configuration=self._configuration,
            identity=self._identity,
            neighbours=self._neighbours,
            grants=self._grants,
            published=self._published,
            told=self._relay.told,
            introduced=self._relay.exchange,
            quote=self._quote,
            clock=lambda: int(time.time()),
        )
        runner = web.AppRunner(api.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        for text in self._configuration.control.listen:
            await self._listen_at(runner, text, tls)
        return runner

    async def _listen_at(self, runner: web.AppRunner, text: str, tls: ssl.SSLContext) -> None:
        host, port = listen_address(text)
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError as error:
            await runner.cleanup()
            raise EnvironmentFault(
                "listen on", text, error.strerror or error, "stop what uses it, or change control.listen"
            ) from error

    async def work(self) -> None:
        """Runs until cancelled; a fault in any part ends it all."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._plane.watch())
            group.create_task(self._tick())
            group.create_task(self._publish())
            group.create_task(self._keep_intervals())
            if self._prices is not None:
                group.create_task(self._prices.work())
            for neighbour in self._neighbours.by_link.values():
                if neighbour.role is Role.CALLER:
                    caller = self._caller(neighbour)
                    group.create_task(caller.run())
                    interval_s = self._configuration.settlement.interval_s
                    group.create_task(self._relay.keep_introducing(neighbour, caller.client, interval_s))

    # --- the packet core --------------------------------------------------------------------------------------------

    async def ask(self, command: Command) -> Answer:
        """A command for the packet core. Raises ReaderUnavailable."""
        answer: Answer = msgspec.json.decode(await self._plane.request(msgspec.json.encode(command)), type=Answer)
        return answer

    def _snapshot(self) -> list[bytes]:
        """What a fresh packet core has to know: the time, the links, the grants."""
        terms = commands_for(self._configuration)  # the file may have been changed and not reloaded
        commands: list[Command] = [Tick(), *terms, *self._neighbours.states(), *self._grants.snapshot()]
        return [msgspec.json.encode(command) for command in commands]

    def _on_event(self, data: bytes) -> None:
        alarm = msgspec.json.decode(data, type=Alarm)
        LOG.warning("%s on link %s: %d packets", alarm.kind, alarm.link, alarm.count)

    def _link_changed(self, state: SetLink) -> None:
        """Tells the core soon; a core that is down learns it from the snapshot."""
        LOG.info("link %s: headers %s%s", state.link, state.agreed, ", in default" if state.in_default else "")
        self._start(self._tell(state.link))

    def _start(self, work: Coroutine[object, object, None]) -> None:
        """A short task beside the others; kept until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(report_fault)

    async def _tell(self, *links: str) -> None:
        """The state of each link as it is when its turn comes: an older one never follows a newer one."""
        with contextlib.suppress(ReaderUnavailable):
            for link in links:
                await self.ask(self._neighbours.by_link[link].link_state())

    def _catch_up(self) -> None:
        """What has changed since a fresh reader's snapshot was taken."""
        self._start(self._tell(*self._neighbours.by_link))

    async def _tick(self) -> None:
        while True:
            with contextlib.suppress(ReaderUnavailable):
                await self.ask(Tick())
                await self._close_expired_grants()
            self._neighbours.on_second(int(time.time()))
            await asyncio.sleep(TICK_S)

    async def _close_expired_grants(self) -> None:
        """A full disk passes: they are closed a second later."""
        try:
            await self._grants.close_expired()
            self._store_trouble = ""
        except EnvironmentFault as error:
            if str(error) != self._store_trouble:
                LOG.error("%s", error)
            self._store_trouble = str(error)

    # --- prices -----------------------------------------------------------------------------------------------------

    async def _congestion(self) -> dict[str, int]:
        return {link.name: link.congestion_picodollars for link in (await self._report()).links}

    async def _report(self) -> Report:
        report = await self.ask(AskReport())
        assert isinstance(report, Report)
        return report

    async def _quote(self, destination: str, size_bytes: int, amount_nanodollars: int) -> PriceQuote:
        return quote(
            self._plan,
            self._routes,
            destination,
            ip_address(destination).packed,
            size_bytes=size_bytes,
            amount_nanodollars=amount_nanodollars,
            congestion=await self._congestion(),
        )

    async def _publish(self) -> None:
        """A new tariff when a toll has moved by a nanodollar, and from time to time."""
        last: dict[str, int] = {}
        published_s = 0.0
        while True:
            with contextlib.suppress(ReaderUnavailable):
                congestion = {name: toll // 1000 for name, toll in (await self._congestion()).items()}
                if congestion != last or time.monotonic() - published_s > REPUBLISH_S or not published_s:
                    last, published_s = congestion, time.monotonic()
                    await self._publish_now({name: toll * 1000 for name, toll in congestion.items()})
            await asyncio.sleep(PUBLISH_S)

    async def _publish_now(self, congestion: dict[str, int]) -> None:
        now_unix_s = int(time.time())
        self._publish_serial = max(self._publish_serial + 1, time.time_ns() // 1_000_000)
        tariff = tariff_of(
            self._configuration,
            issuer=self._identity.fingerprint,
            serial=self._publish_serial,
            now_unix_s=now_unix_s,
            congestion=congestion,
        )
        oads = descriptions_of(
            self._configuration,
            issuer=self._identity.fingerprint,
            serial=self._publish_serial,
            now_unix_s=now_unix_s,
            congestion=congestion,
        )
        await self._published.publish(self._identity.sign(tariff), tuple(map(self._identity.sign, oads)))

    # --- accounts ---------------------------------------------------------------------------------------------------

    def _reading(self, link: str) -> Reading:
        value = self._plane.counters()
        return Reading(
            sent_nanodollars=value.get(f"link/{link}/sent_nanodollars", 0),
            received_nanodollars=value.get(f"link/{link}/received_nanodollars", 0),
            sent_packets=value.get(f"link/{link}/sent_packets", 0),
            received_packets=value.get(f"link/{link}/received_packets", 0),
            cut_nanodollars=value.get(f"link/{link}/cut_nanodollars", 0),
        )

    async def _keep_intervals(self) -> None:
        """Our own clock: standing of every neighbour, and our own income in the books."""
        interval_s = self._configuration.settlement.interval_s
        while True:
            await asyncio.sleep(interval_s)
            now_unix_s = int(time.time())
            for neighbour in self._neighbours.by_link.values():
                if neighbour.exchange is not None:
                    neighbour.exchange.close_interval(now_unix_s)
                    self._neighbours.report(neighbour)
            counters = self._plane.counters()
            book_node_counters(
                self._book,
                retained_nanodollars=total(counters, "retained_nanodollars"),
                kept_nanodollars=total(counters, "kept_nanodollars") + counters.get("held_kept_nanodollars", 0),
                share_nanodollars=0,
            )

    def _passing_s(self, link: str) -> float:
        """The kernel's queue has what the programs there counted as sent."""
        choice = self._plane.choice
        if choice is None or choice.engine is not PaymentEngine.EBPF:
            return 0.0
        return next(passing_s(each) for each in self._plan.links if each.name == link)

    def _caller(self, neighbour: Neighbour) -> Caller:
        """The calls to a neighbour that we call."""
        gateway = self._configuration.gateway

        def adopt(agreement: Agreement) -> LinkExchange:
            LOG.info("agreed with %s on link %s", neighbour.section.peer_name or neighbour.name, agreement.link)
            return self._neighbours.adopt(neighbour, agreement, int(time.time()))

        return Caller(
            identity=self._identity,
            peer=neighbour.certificate,
            url=neighbour.section.control_url,
            request=AgreementRequest(name=gateway.name, as_number=gateway.as_number, header=neighbour.section.header),
            adopt=adopt,
            heard=lambda: self._neighbours.heard(neighbour, int(time.time())),
            lost=lambda why: self._neighbours.lost(neighbour, why),
        )

    # --- for the operator -------------------------------------------------------------------------------------------

    def set_mark_price(self, nanodollars_per_mark: int) -> MarkPrice:
        """From now on, as soon as it was announced. Raises LocalProtocolError where marks cost nothing at all."""
        if self._prices is None:
            raise LocalProtocolError('marks have no price here: the tariff is not of the kind "per-mark"')
        return self._prices.set_price(nanodollars_per_mark)

    async def reload(self) -> Reloaded:
        """Takes in the tolls, alternatives, the preference and the engine of the file, and publishes them, all at once.

        Raises ConfigurationError, LocalProtocolError for a change that needs a restart, or EnvironmentFault for an
        engine that cannot be; then all is as before.
        """
        configuration = load(self._config_path)
        changed = changes(self._configuration, configuration)
        plan = plan_of(configuration)
        async with self._reloading:
            if configuration.gateway.engine != self._configuration.gateway.engine:
                await self._plane.change(configuration.gateway.engine)
            self._configuration, self._plan, self._routes = configuration, plan, Routes(plan.routes)
            congestion: dict[str, int] = {}
            with contextlib.suppress(ReaderUnavailable):  # the next one has it from its snapshot
                for command in commands_for(configuration):
                    await self.ask(command)
                congestion = await self._congestion()
            await self._publish_now(congestion)
        LOG.info("read again: %s", ", ".join(changed) or "nothing changed")
        return Reloaded(changed=changed, serial=self._publish_serial)

    async def status(self) -> GatewayStatus:
        """Everything that is known, for the admin socket."""
        try:
            report = await self._report()
        except ReaderUnavailable:
            report = Report(links=(), open_grants=0)
        return status_of(
            self._configuration,
            self._neighbours,
            {link.name: link for link in report.links},
            self._plane.counters(),
            data_plane=self._plane.health.value,
            engine=self._plane.choice,
            open_grants=report.open_grants,
            mark_price=self._prices.newest if self._prices is not None else None,
        )
