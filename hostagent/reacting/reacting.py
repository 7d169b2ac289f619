"""The driver of sessions: their sockets, their one timer, their engine, and the file of what was spent today.

Moves datagrams between the session port and the pure parts (`wire`, `session`, `aggregator`), reads only its own
flows' meters, and asks the engine for paces when one has changed. Decides nothing about rates or money. Whatever is
forged, altered, replayed or nobody's is counted and changes nothing.

With no sessions it waits for a datagram or a request, and for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

from billpay.errors import ConfigurationError, EnvironmentFault, LocalProtocolError
from billpay.messages import Echo, Message
from billpay.sessions import SESSION_PORT, MarkPrice, MarkReport, Payer, SessionTerms, TargetRate
from dataplane.host_engine import PACED_MAX, Ability, HostEngine, PacedFlow
from dataplane.marks_seen import MarksSeen, SenderView
from dataplane.metering import FlowKey, FlowMeter, Program, Tally
from hostagent import api
from hostagent.datagrams import udp_socket
from hostagent.desk import Refused
from hostagent.reacting.admission import check_engine, counts_marks, limit_of, policy_of, role_of
from hostagent.reacting.aggregator import Aggregator
from hostagent.reacting.days import KeptDays
from hostagent.reacting.door import Door
from hostagent.reacting.evidence import Moment
from hostagent.reacting.matching import Launcher, SessionRule, is_idle
from hostagent.reacting.money import DayPurses, TaskPurse
from hostagent.reacting.naming import key_of, key_of_selector, selector_of
from hostagent.reacting.offers import Offers
from hostagent.reacting.prices import Prices, Provider
from hostagent.reacting.session import Beginning, Readings, Role, Session
from hostagent.reacting.wheel import Wheel
from hostagent.reacting.wire import UNVERIFIED, Believed, Disbelief, Numbers, Reader, SessionPeer, write
from hostagent.traffic import flow_text, name_of
from neighbour.identity import NodeIdentity, PeerCertificate
from pricereactor.policies import reactor_for_task
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateReactor
from secretary.clock import Clock

LOG = logging.getLogger("hostagent")
MS = 1_000_000
NS_PER_S = 1_000_000_000
DATAGRAM_BYTES_MAX: Final = 4_096
DATAGRAMS_A_TURN: Final = 64
SESSIONS_MAX: Final = PACED_MAX
ROUND_TRIP_NS: Final = 100 * MS
"""Where nobody knows it (UDP, what arrives)."""

PACE_EVERY_NS: Final = 20 * MS
"""The engine is told all paces together, not more often."""

HOUSEKEEPING: Final = "housekeeping"
PACING: Final = "pacing"
TROUBLE: Final = "sessions"


class PeerLike(Protocol):
    """`[[peers]]` of the configuration."""

    @property
    def name(self) -> str: ...

    @property
    def addresses(self) -> tuple[str, ...]: ...

    @property
    def certificate(self) -> str: ...


class ReactorMaker(Protocol):
    """`pricereactor.policies.reactor_for_task`, or a program's own. Raises ConfigurationError, LocalProtocolError."""

    def __call__(
        self,
        policy: TaskPolicy,
        *,
        now_ns: int,
        round_trip_ns: int,
        spent_today_nanodollars: int,
        nanodollars_per_mark: int | None,
    ) -> RateReactor: ...


Views = Callable[[Sequence[FlowKey]], Sequence[SenderView | None]]
"""What the transport of each of these flows has counted; None: not known, or no TCP of ours."""


class Reacting:
    """`running` around everything; `work` in a task of its own. `own_addresses` None: any address may be ours.

    `identity` None: it has no peers, and says nothing. `acts`: False while a person only wants to see what it would do:
    nothing is paced then. `marks_survive`: whether packets to an address keep their marks, by all that is known.
    """

    def __init__(
        self,
        *,
        peers: Sequence[PeerLike],
        identity: NodeIdentity | None,
        engine: Callable[[], HostEngine],
        directory: Path,
        clock: Clock,
        tasks: Mapping[str, TaskPolicy],
        prices: Iterable[Provider],
        on_change: Callable[[], None],
        say: Callable[[str, str], object],
        acts: Callable[[], bool] = lambda: True,
        views: Views | None = None,
        marks_survive: Callable[[str], bool] = lambda _remote: True,
        make_reactor: ReactorMaker = reactor_for_task,
        listen: Sequence[str] = ("0.0.0.0", "::"),  # noqa: S104 - peers are anywhere
        port: int = SESSION_PORT,
        unix_ms: Callable[[], int] = lambda: time.time_ns() // MS,
    ) -> None:
        providers = tuple(prices)
        self._peers = tuple(_peer_of(peer) for peer in peers)
        self._identity = identity
        self._engine = engine
        self._directory = directory
        self._clock = clock
        self.tasks = dict(tasks)
        self.own_addresses: frozenset[str] | None = None
        self._acts = acts
        self._on_change = on_change
        self._say = say
        self._views = views
        self._marks_survive = marks_survive
        self._make_reactor = make_reactor
        self._listen = tuple(listen)
        self._port = port
        self._unix_ms = unix_ms
        self.disbelieved: Counter[Disbelief] = Counter()
        self._prices = Prices(providers)
        self._reader = Reader(self._peers, providers)
        self._peer_addresses = frozenset(address for peer in self._peers for address in peer.addresses)
        self._door = Door(self._peer_addresses)
        self._numbers = Numbers()
        self._aggregator = Aggregator(lambda session: self._numbers.next(session, self._unix_ms()))
        self._to_begin: set[str] = set()  # counted sessions whose meter was not read yet
        self._sessions: dict[str, Session] = {}
        self._automatic: dict[FlowKey, str] = {}
        self._refused_flows: set[FlowKey] = set()
        self._acted = False
        self._launcher = Launcher()
        self._offers = Offers()
        self._wheel = Wheel()
        self._wake = asyncio.Event()
        self._news: dict[str, asyncio.Event] = {}
        self._shown: dict[str, int] = {}
        self._paced: dict[str, PacedFlow] = {}
        self._asked: tuple[PacedFlow, ...] = ()
        self._pace_ns = 0
        self._prices_seen_ms = 0
        self._sockets: dict[int, socket.socket] = {}
        self._days: KeptDays | None = None
        self._purses: DayPurses
        self._troubles: set[str] = set()

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises EnvironmentFault when the session port is taken, or what was spent cannot be read."""
        today = self._today()
        self._days = KeptDays(self._directory, day=today.isoformat())
        self._purses = DayPurses(self._days.book, day=today.toordinal())
        if self._days.trouble:
            self._say(TROUBLE, self._days.trouble)
        self._prices_seen_ms = self._unix_ms()
        loop, seen = asyncio.get_running_loop(), None
        if self._views is None:
            seen = MarksSeen()
            self._views = lambda keys: [seen.read_sender_view(key) for key in keys]
        try:
            for address in self._listen:
                sock = udp_socket(address, self._port)
                self._sockets[ip_address(address).version] = sock
                loop.add_reader(sock, self._receive, sock)
            yield
        finally:
            await self._stop()
            if seen is not None:
                seen.close()
                self._views = None

    async def _stop(self) -> None:
        for session in list(self._sessions):
            self._end(session)
        try:
            await self._pace()
            if self._days is not None:
                self._days.close()
        except EnvironmentFault as fault:
            LOG.warning("%s", fault)
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets = {}

    def _now(self) -> Moment:
        return Moment(ns=self._clock.monotonic_ns(), unix_ms=self._unix_ms())

    def _today(self) -> datetime.date:
        return datetime.datetime.fromtimestamp(self._clock.unix_s(), self._clock.zone()).date()

    # --- what programs and people ask ---------------------------------------------------------------------------------

    async def open(self, request: api.SessionRequest, *, program: str = "") -> api.Session:
        """Raises Refused."""
        key = key_of(request)
        if any(session.beginning.key == key for session in self._sessions.values()):
            raise Refused("already-a-session", "this flow has a session already")
        if len(self._sessions) >= SESSIONS_MAX:
            raise Refused("too-many-sessions", f"there are {SESSIONS_MAX} sessions, and no room for more")
        role = role_of(request, peer_addresses=self._peer_addresses, acts=self._acts())
        policy = policy_of(request, self.tasks)
        check_engine(self._engine(), request)
        view = self._read_views([key])[0] if role is not Role.RECEIVER_PAYS else None
        name = secrets.token_hex(16)
        beginning = Beginning(
            session=name,
            flow=selector_of(request),
            key=key,
            role=role,
            task=policy.name if policy is not None else request.task,
            policy=policy,
            adapts=request.adapts,
            program=program,
            title=flow_text(key),
            round_trip_ns=view.rtt_us * 1000 if view is not None and view.rtt_us else ROUND_TRIP_NS,
        )
        session = self._begin(beginning)
        try:
            await self._turn([name])
        except EnvironmentFault as fault:
            self._end(name)
            raise Refused("cannot-read", str(fault)) from fault
        return session.view()

    def _begin(self, beginning: Beginning) -> Session:
        name, policy, moment = beginning.session, beginning.policy, self._now()
        self._keep_day(moment)
        purse: TaskPurse | None = None
        if policy is not None:
            self._reserve(policy.name)
            book = self._open_days().book
            purse = TaskPurse(policy, book=book, days=self._purses, prices=self._prices, moment=moment)
        try:
            session = Session(
                beginning,
                prices=self._prices,
                number=lambda: self._numbers.next(self._sessions[name].wire, self._unix_ms()),
                make_reactor=self._maker(policy),
                purse=purse,
                moment=moment,
                marks_survive=lambda: self._marks_survive(beginning.flow.destination),
            )
        except (ConfigurationError, LocalProtocolError) as error:
            raise Refused("bad-policy", str(error)) from error
        self._sessions[name] = session
        self._news[name] = asyncio.Event()
        self._wheel.by(HOUSEKEEPING, moment.ns + NS_PER_S)
        offered = self._offers.take(beginning.key, moment.ns)
        if beginning.role is Role.RECEIVER_PAYS and offered is not None:
            session.on_terms(offered, moment)
        self._wake.set()
        return session

    def _maker(self, policy: TaskPolicy | None) -> Callable[[int, int], RateReactor] | None:
        if policy is None:
            return None
        book = self._open_days().book
        return lambda round_trip_ns, now_ns: self._make_reactor(
            policy,
            now_ns=now_ns,
            round_trip_ns=round_trip_ns,
            spent_today_nanodollars=book.spent(policy.name),
            nanodollars_per_mark=self._prices.price_at(self._unix_ms()),
        )

    def _open_days(self) -> KeptDays:
        assert self._days is not None, "it is running"
        return self._days

    def _reserve(self, task: str) -> None:
        try:
            self._open_days().reserve(task)
        except EnvironmentFault as fault:
            raise Refused("cannot-keep-account", str(fault)) from fault

    async def close(self, session: str) -> None:
        """A person's or a program's word: no rule gives that flow another one. Raises Refused."""
        if session not in self._sessions:
            raise Refused("no-such-session", "there is no such session")
        self._refused_flows |= {key for key, each in self._automatic.items() if each == session}
        self._end(session)
        await self._pace()

    async def revalue(self, session: str, worth_ppm: int) -> None:
        """A person's word while it runs: worth more or less than its policy says. Raises Refused."""
        if (there := self._sessions.get(session)) is None:
            raise Refused("no-such-session", "there is no such session")
        if there.beginning.policy is None:
            raise Refused("not-ours-to-pay", "who pays decides what it is worth, and that is the far end")
        if not there.revalue(worth_ppm):
            raise Refused("cannot-revalue", "its program decides what it is worth")
        self._tell([there])

    def _end(self, name: str) -> None:
        session = self._sessions[name]
        self._send_all(session, session.end())
        del self._sessions[name]
        self._wheel.drop(name)
        self._paced.pop(name, None)
        self._shown.pop(name, None)
        self._automatic = {key: each for key, each in self._automatic.items() if each != name}
        self._news.pop(name).set()
        self._on_change()

    def destinations(self) -> list[str]:
        """Where flows go that follow marks."""
        sending = (each for each in self._sessions.values() if each.role is not Role.RECEIVER_PAYS)
        return list(dict.fromkeys(each.beginning.flow.destination for each in sending))

    def sessions(self) -> tuple[api.Session, ...]:
        """The latest first."""
        return tuple(session.view() for session in reversed(self._sessions.values()))

    async def wait(self, session: str, after: int, timeout_s: float) -> api.Session:
        """As it is when its number is above `after`, or when the time is over. Raises Refused when it is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (there := self._sessions.get(session)) is not None and there.number <= after:
                    await self._news[session].wait()
        if (there := self._sessions.get(session)) is None:
            raise Refused("no-such-session", "there is no such session")
        return there.view()

    # --- programs that know nothing of it -----------------------------------------------------------------------------

    async def match(self, rules: Sequence[SessionRule], flows: Sequence[tuple[FlowMeter, Program]]) -> None:
        """Once a second: flows that a rule names get a session, and lose it when they are idle or gone."""
        self._launcher.use(rules)
        if (acts := self._acts()) != self._acted:
            self._acted = acts
            self._refused_flows.clear()
        now_ns, there = self._clock.monotonic_ns(), set[FlowKey]()
        taken = {session.beginning.key for session in self._sessions.values()} | self._refused_flows
        for flow, program in flows:
            key = flow.key._replace(interface_index=0)
            if is_idle(flow, now_ns):
                continue
            there.add(key)
            request = None if key in taken else self._launcher.request_for(flow, program)
            if request is not None:
                taken.add(key)
                await self._open_automatic(key, request, name_of(program))
        self._refused_flows &= there
        self._launcher.forget_others(flow.key for flow, _ in flows)
        gone = [session for key, session in self._automatic.items() if key not in there]
        for session in gone:
            self._end(session)
        if gone:
            await self._pace()

    async def _open_automatic(self, key: FlowKey, request: api.SessionRequest, program: str) -> None:
        try:
            self._automatic[key] = (await self.open(request, program=program)).session
        except Refused as refused:
            self._refused_flows.add(key)
            self._trouble(f"{flow_text(key)} has no session: {refused}", once=refused.code)

    def _trouble(self, words: str, *, once: str) -> None:
        if once not in self._troubles:
            self._troubles.add(once)
            self._say(TROUBLE, words)

    # --- turns --------------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            await self._until_due()
            names = self._wheel.take(self._clock.monotonic_ns())
            try:
                await self._turn(names)
            except EnvironmentFault as fault:  # an interface that goes while we look at it: the next turn sees it
                self._trouble(str(fault), once=fault.operation)
                for name in names:
                    self._wheel.at(name, self._clock.monotonic_ns() + ROUND_TRIP_NS)

    async def _until_due(self) -> None:
        now_ns = self._clock.monotonic_ns()
        due = [self._wheel.next_ns(), self._price_change_ns(now_ns)]
        if self._to_begin:
            return
        known = [each for each in due if each is not None]
        handle = None
        if known:
            delay_s = max(0, min(known) - now_ns) / NS_PER_S
            handle = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if handle is not None:
            handle.cancel()

    def _price_change_ns(self, now_ns: int) -> int | None:
        """When the next change is that a meter has to be read at."""
        if not len(self._aggregator) and not self._sessions:
            return None
        changes = self._prices.changes_between(self._prices_seen_ms, self._unix_ms() + 60_000)
        return now_ns + max(0, changes[0] - self._unix_ms()) * MS if changes else None

    async def _turn(self, names: list[str]) -> None:
        """One reading of the engine for all who are due."""
        moment = self._now()
        changes = self._prices.changes_between(self._prices_seen_ms, moment.unix_ms)
        self._prices_seen_ms = moment.unix_ms
        own = [self._sessions[name] for name in names if name in self._sessions]
        counted = [name for name in names if self._aggregator.get(name) is not None]
        begins = [name for name in self._to_begin if self._aggregator.get(name) is not None]
        self._to_begin = set()
        if changes:
            await self._at_price_change(own)
        keys = [session.beginning.key for session in own]
        more = [each.key for name in (*counted, *begins) if (each := self._aggregator.get(name)) is not None]
        meters = await self._engine().meters([*keys, *more]) if keys or more else []
        views = self._read_views([session.beginning.key if session.wants_view else None for session in own])
        moment = self._now()
        for session, meter, view in zip(own, meters, views, strict=False):
            self._on_interval(session, moment, Readings(meter=meter, view=view))
        for name, meter in zip((*counted, *begins), meters[len(keys) :], strict=True):
            seen = meter.received if meter is not None else None
            self._aggregator.begin(name, seen)
            if name in counted:
                self._report(name, seen, moment)
        if HOUSEKEEPING in names:
            self._keep_house(moment)
        if names:
            self._keep_days()
            await self._pace_soon()
        self._tell(own)

    def _on_interval(self, session: Session, moment: Moment, readings: Readings) -> None:
        name = session.beginning.session
        if self._sessions.get(name) is not session:
            return  # it was closed meanwhile
        self._send_all(session, session.on_interval(moment, readings))
        self._wheel.at(name, session.next_ns)
        self._note_pace(session)

    def _note_pace(self, session: Session) -> None:
        name, paced = session.beginning.session, session.paced
        if paced is None:
            self._paced.pop(name, None)
        else:
            self._paced[name] = paced

    def _report(self, name: str, seen: Tally | None, moment: Moment, *, extra: bool = False) -> None:
        counted = self._aggregator.get(name)
        if counted is None:
            return
        report = self._aggregator.report(name, seen, moment.ns, extra=extra)
        self._send(report, counted.address)
        self._wheel.at(name, counted.next_ns)

    async def _at_price_change(self, due: list[Session]) -> None:
        """Every meter that is charged by is read, so that the bill splits where the price does."""
        receiving = [each for each in self._sessions.values() if each.role is Role.RECEIVER_PAYS and each not in due]
        counted = [each for each in self._aggregator.all() if each.has_begun]
        keys = [*(each.beginning.key for each in receiving), *(each.key for each in counted)]
        meters = await self._engine().meters(keys) if keys else []
        moment = self._now()
        for session, meter in zip(receiving, meters, strict=False):
            session.at_price_change(moment, Readings(meter=meter))
        for each, meter in zip(counted, meters[len(receiving) :], strict=True):
            self._report(each.session, meter.received if meter is not None else None, moment, extra=True)

    def _read_views(self, keys: Sequence[FlowKey | None]) -> list[SenderView | None]:
        wanted = [key for key in keys if key is not None and key.protocol == socket.IPPROTO_TCP]
        if self._views is None or not wanted:
            return [None] * len(keys)
        found = dict(zip(wanted, self._views(wanted), strict=True))
        return [found.get(key) if key is not None else None for key in keys]

    async def _pace_soon(self) -> None:
        """At once, unless it has just been done."""
        due_ns = self._pace_ns + PACE_EVERY_NS
        if self._clock.monotonic_ns() < due_ns:
            self._wheel.by(PACING, due_ns)
        else:
            await self._pace()

    async def _pace(self) -> None:
        """Only when something has changed."""
        wanted = tuple(self._paced.values()) if self._acts() else ()
        if wanted == self._asked or limit_of(self._engine(), Ability.PACE_FLOW):
            return
        self._pace_ns = self._clock.monotonic_ns()
        try:
            await self._engine().pace(wanted)
            self._asked = wanted
        except EnvironmentFault as fault:  # the flows are as they were; the next turn asks again
            self._trouble(str(fault), once=fault.operation)

    def _keep_days(self) -> None:
        try:
            self._open_days().keep()
        except EnvironmentFault as fault:
            self._trouble(f"what sessions spend cannot be kept: {fault}", once="keep")

    def _keep_house(self, moment: Moment) -> None:
        """Once a second: days that end, senders and payers that are gone."""
        self._keep_day(moment)
        for name in self._aggregator.forget_silent(moment.ns):
            self._wheel.drop(name)
        self._offers.forget_old(moment.ns)
        acts = self._acts()
        for name, session in list(self._sessions.items()):
            if session.is_over or not (acts or session.role is Role.SENDER_PAYS):
                self._end(name)
        if self._sessions or len(self._aggregator) or len(self._offers):
            self._wheel.by(HOUSEKEEPING, moment.ns + NS_PER_S)

    def _keep_day(self, moment: Moment) -> None:
        """Before anything is asked of a budget: what was spent yesterday is no concern of today."""
        today = self._today()
        if self._open_days().book.on_day(today.isoformat()):
            self._purses.begin_day(today.toordinal())
            for session in self._sessions.values():
                session.on_new_day(moment)

    def _tell(self, sessions: Iterable[Session]) -> None:
        """Whoever waits for a session that has changed."""
        is_news = False
        for session in sessions:
            name = session.beginning.session
            if name in self._news and self._shown.get(name) != session.number:
                self._shown[name] = session.number
                self._news[name].set()
                self._news[name] = asyncio.Event()
                is_news = True
        if is_news:
            self._on_change()

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def _send_all(self, session: Session, messages: Iterable[Message]) -> None:
        flow = session.beginning.flow
        address = flow.source if session.role is Role.RECEIVER_PAYS else flow.destination
        for message in messages:
            self._send(message, address)

    def _send(self, message: Message, address: str) -> None:
        sock = self._sockets.get(ip_address(address).version)
        if sock is None or self._identity is None or address not in self._peer_addresses:
            return  # nothing that a stranger answers would be believed
        try:
            sock.sendto(write(self._identity.key, message), (address, self._port))
        except OSError as error:  # no route, a full buffer: the next one says it all again
            LOG.debug("session message to %s: %s", address, error)

    def _receive(self, sock: socket.socket) -> None:
        now_ns = self._clock.monotonic_ns()
        for _ in range(DATAGRAMS_A_TURN):
            try:
                datagram, (host, *_) = sock.recvfrom(DATAGRAM_BYTES_MAX)
            except OSError:  # nothing there any more, or an ICMP error for something that we sent
                return
            address = host.partition("%")[0]
            if self._door.admits(address, now_ns):
                self._on_datagram(datagram, address)
            else:
                self.disbelieved[Disbelief.TOO_MANY] += 1

    def _on_datagram(self, datagram: bytes, address: str) -> None:
        said = self._reader.read(datagram)
        if isinstance(said, MarkPrice):
            disbelief = self._on_price(said)
        else:
            disbelief = said if isinstance(said, Disbelief) else self._on_message(said)
        if disbelief is None:
            self._door.on_news(address)
            return
        self.disbelieved[disbelief] += 1
        if disbelief not in UNVERIFIED:
            self._door.on_vain(address)
        LOG.debug("a session message changes nothing: %s", disbelief.value)

    def _on_price(self, price: MarkPrice) -> Disbelief | None:
        if not self._prices.on_push(price):
            return Disbelief.REPLAYED
        for session in self._sessions.values():
            session.on_price()
        self._wake.set()
        return None

    def _on_message(self, believed: Believed) -> Disbelief | None:
        message = believed.message
        if isinstance(message, SessionTerms):
            return self._on_terms(believed, message)
        session = self._sessions.get(message.session)
        if session is None:
            return Disbelief.UNKNOWN_SESSION
        if session.beginning.flow.destination not in believed.peer.addresses:
            return Disbelief.FOREIGN_FLOW
        if (disbelief := self._reader.is_new(believed, self._unix_ms())) is not None:
            return disbelief
        moment = self._now()
        if isinstance(message, MarkReport):
            session.on_report(message, moment)
        else:
            assert isinstance(message, TargetRate)
            session.on_target(message, moment)
            self._note_pace(session)
            session.next_ns = min(session.next_ns, moment.ns)
        self._wheel.at(session.beginning.session, session.next_ns)
        self._wake.set()
        return None

    def _on_terms(self, believed: Believed, terms: SessionTerms) -> Disbelief | None:
        flow, peer = terms.flow, believed.peer
        key = key_of_selector(flow)
        if key is None or flow.source not in peer.addresses:
            return Disbelief.FOREIGN_FLOW
        if self.own_addresses is not None and flow.destination not in self.own_addresses:
            return Disbelief.FOREIGN_FLOW
        if (disbelief := self._reader.is_new(believed, self._unix_ms())) is not None:
            return disbelief
        if terms.payer is Payer.RECEIVER:
            return self._on_offer(peer, terms, key)
        if not counts_marks(self._engine(), key.protocol):
            return Disbelief.NOT_COUNTED
        moment = self._now()
        was_there = self._aggregator.get(terms.session) is not None
        if self._aggregator.on_terms(terms, peer=peer.fingerprint, key=key, now_ns=moment.ns):
            counted = self._aggregator.get(terms.session)
            assert counted is not None
            self._wheel.at(terms.session, counted.next_ns)
            self._wheel.by(HOUSEKEEPING, moment.ns + NS_PER_S)
            if not was_there:
                self._to_begin.add(terms.session)
            self._wake.set()
            return None
        self._wheel.drop(terms.session)
        return None if terms.ends else Disbelief.NOT_COUNTED

    def _on_offer(self, peer: SessionPeer, terms: SessionTerms, key: FlowKey) -> Disbelief | None:
        """A sender would keep to a target rate; it gets one when somebody here pays for the flow."""
        moment = self._now()
        for session in self._sessions.values():
            if session.beginning.key == key and session.role is Role.RECEIVER_PAYS:
                session.on_terms(terms, moment)
                self._wheel.at(session.beginning.session, session.next_ns)
                self._wake.set()
                return None
        self._offers.on_terms(terms, peer=peer.fingerprint, key=key, now_ns=moment.ns)
        if len(self._offers):
            self._wheel.by(HOUSEKEEPING, moment.ns + NS_PER_S)
            self._wake.set()
        return None

    def on_echo(self, echo: Echo, *, amount_nanodollars: int) -> None:
        """From the payments part, which has believed it: what was left of our payments at the far end."""
        for session in self._sessions.values():
            if session.beginning.flow == echo.flow:
                session.on_echo(echo, amount_nanodollars=amount_nanodollars, moment=self._now())
                self._wheel.at(session.beginning.session, session.next_ns)
                self._wake.set()


def _peer_of(section: PeerLike) -> SessionPeer:
    known = PeerCertificate.read(section.certificate)
    return SessionPeer(
        name=section.name,
        public_key=known.public_key,
        fingerprint=known.fingerprint,
        addresses=frozenset(str(ip_address(address)) for address in section.addresses),
    )
