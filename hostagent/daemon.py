"""The agent's main process: one server for people and programs, and the parts behind it.

Decides: which parts there are. `hostagent.traffic` counts and shapes everybody's traffic, `hostagent.steering` says
how, once a second; `hostagent.payments` pays for packets on the uplinks to gateways. Each works without the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from billpay.errors import EnvironmentFault, LocalProtocolError
from billpay.messages import Echo, FlowSelector
from cartographer.measuring.report import ProbeRequest
from dataplane.attribution.foreground import is_foreground
from dataplane.attribution.processes import running_executables
from dataplane.ceilings import CeilingWatch, Verdict, read_usage
from dataplane.engines import TRAFFIC_CONTROL_RECORD, makers
from dataplane.hardening import Capability, drop_capabilities, forbid_loading_programs
from dataplane.host_engine import EngineName
from dataplane.links import read_limit, read_link
from dataplane.metering import UNATTRIBUTED, FlowMeter
from dataplane.rules import restore
from dataplane.service import serve
from dataplane.shaping.plan import ShapingPlan
from hostagent import api
from hostagent.books import Books
from hostagent.configuration import Configuration, configuration_for, load
from hostagent.desk import HistoryQuery, QualityQuery, Refused
from hostagent.history.values import Payment
from hostagent.networks.situation import Situation
from hostagent.notices import Notices
from hostagent.paths.access import AccessChoice
from hostagent.paths.paths import Paths, wants_of
from hostagent.permissions import Permissions, permissions_of
from hostagent.rates import MeasuredRates
from hostagent.reacting.beginning import EVERYWHERE, providers_of, session_rules_of
from hostagent.reacting.naming import key_of
from hostagent.reacting.reacting import Reacting
from hostagent.said import Said
from hostagent.server import LocalServer
from hostagent.steering import Steering
from hostagent.traffic import Second, Traffic, flow_text, name_of
from hostagent.views import SteeredView, snapshot_of
from hostagent.whereabouts import Whereabouts
from hostagent.why import explain, find_flow
from neighbour.identity import NodeIdentity
from secretary.clock import Clock, SystemClock
from secretary.transfers import Transfer

if TYPE_CHECKING:
    from hostagent.payments.paying import Paying


LOG = logging.getLogger("hostagent")
LAUNCH_S = 0.2
SECOND_S = 1.0


async def run(
    config_path: Path | None,
    *,
    socket: Path | None = None,
    state_directory: Path | None = None,
    mode: api.Mode | None = None,
    trial_s: int = 0,
    seconds: int | None = None,
) -> None:
    """Until SIGTERM or SIGINT, or for so many seconds. Without a file everything is found out. `mode`: what a person
    says with the start.

    Raises ConfigurationError or EnvironmentFault when it cannot start.
    """
    configuration = configuration_for(config_path, socket=socket, state_directory=state_directory)
    first = None if mode is None else api.ModeChange(mode=mode, trial_s=trial_s)
    name, directory = configuration.agent.name, configuration.state_directory
    await serve(name, directory, lambda: Agent(configuration, config_path, first=first, gives_up=True), seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """The parts of an agent that counts and shapes."""

    places: Whereabouts
    books: Books
    rates: MeasuredRates | None
    steering: Steering
    traffic: Traffic

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.books.running())
            if self.rates is not None:
                self.rates.open()
                stack.callback(self.rates.close)
            await stack.enter_async_context(self.places.running())
            await stack.enter_async_context(self.traffic.running())
            yield

    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.books.work())
            group.create_task(self.traffic.work())

    def view(self) -> SteeredView:
        return SteeredView(
            steering=self.steering,
            networks=self.places.view_networks(
                self.steering.situation,
                self.steering.line_rates(),
                self.steering.tariff_texts(),
                self.steering.metered_said(),
            ),
            budgets=self.books.view_budgets(),
            trouble=self.books.trouble,
        )


class Agent:
    """All parts of one running agent, and the desk that its local API asks (`hostagent.desk.Desk`)."""

    def __init__(
        self,
        configuration: Configuration,
        config_path: Path | None,
        *,
        first: api.ModeChange | None = None,
        clock: Clock | None = None,
        gives_up: bool = False,
    ) -> None:
        """`gives_up`: what it needs for its start only, for ever; a process that is to live on as another does not."""
        self._gives_up = gives_up
        self._configuration = configuration
        self._config_path = config_path
        self._clock = clock or SystemClock()
        self._notices = Notices()
        self._server = LocalServer(
            configuration.socket,
            self,
            _permissions(configuration, config_path),
            metrics_listen=configuration.api.metrics_listen,
        )
        # An agent that pays counts only what it is told to: its packet reader has the uplinks' queues.
        self._counting: Counting | None = None
        if configuration.links or not configuration.uplinks:
            self._counting = self._make_counting(first)
        self._paths = Paths(
            configuration,
            clock=self._clock,
            situation=self._situation,
            followed=self._followed,
            say=self._say,
            acts=self._acts,
            access=self._make_access(),
        )
        self._reacting: Reacting | None = None
        self._session_rules = session_rules_of(configuration)
        if self._counting is not None:
            self._reacting = self._make_reacting(self._counting.traffic)
        self._paying: Paying | None = None
        if configuration.uplinks:
            from hostagent.payments.paying import Paying  # a third of the start, and needless for most

            assert config_path is not None, "uplinks are named in a file"
            self._paying = Paying(
                configuration,
                config_path,
                on_change=self._server.changed,
                context_of=self._context_of,
                tell=self._say,
                heard=self._on_echo,
                cartographer=self._paths.cartographer,
            )
        self._ceilings = CeilingWatch()
        self._usage = Verdict()
        self._sequence = 0
        self._started_unix_s = self._clock.unix_s()

    def _make_reacting(self, traffic: Traffic) -> Reacting:
        """Without peers and providers there is nobody to listen to, and without peers nobody to sign for."""
        configuration = self._configuration
        directory = configuration.state_directory
        return Reacting(
            peers=configuration.peers,
            identity=NodeIdentity.load_or_create(directory, name=configuration.agent.name)
            if configuration.peers
            else None,
            engine=traffic.running_engine,
            directory=directory,
            clock=self._clock,
            tasks={task.name: task for task in configuration.tasks},
            prices=providers_of(configuration),
            on_change=self._server.changed,
            say=self._say,
            acts=self._acts,
            marks_survive=self._paths.marks_survive,
            listen=EVERYWHERE if configuration.peers or configuration.providers else (),
        )

    def _say(self, code: str, message: str) -> None:
        self._notices.say(self._clock.unix_s(), code, message)

    def _make_access(self) -> AccessChoice | None:
        if self._counting is None:
            return None
        steering, section = self._counting.steering, self._configuration.access
        return AccessChoice(
            section,
            wants_of(self._configuration)[section.wants],
            state_directory=self._configuration.state_directory,
            say=self._say,
            acts=self._acts,
            prices=steering.view_prices,
            judgement=self._counting.books.judgement,
        )

    def _situation(self) -> Situation | None:
        """Where the host is; None where nobody looks."""
        return self._counting.steering.situation if self._counting is not None else None

    def _followed(self) -> list[str]:
        """Where flows go that follow marks."""
        return self._reacting.destinations() if self._reacting is not None else []

    def _on_echo(self, echo: Echo, amount_nanodollars: int) -> None:
        """A session of a flow that pays hears its tolls."""
        if self._reacting is not None:
            self._reacting.on_echo(echo, amount_nanodollars=amount_nanodollars)

    def _acts(self) -> bool:
        return self._counting is not None and self._counting.steering.said.mode.acts

    def _make_counting(self, first: api.ModeChange | None) -> Counting:
        configuration, clock, notices = self._configuration, self._clock, self._notices
        for link in configuration.links:
            read_link(link.interface)  # an unknown interface is said before anything is changed
        directory = configuration.state_directory
        places = Whereabouts(directory, search=configuration.discovery.gateway, clock=clock, notices=notices)
        books = Books(configuration, clock=clock, notices=notices)
        rates = MeasuredRates() if configuration.agent.measure_rates else None
        said = Said(
            directory,
            mode_at_first=api.Mode(configuration.agent.mode),
            clock=clock,
            notices=notices,
            running_programs=running_executables,
        )
        if first is not None:
            said.mode.change(first, clock.monotonic_ns())
        steering = Steering(
            configuration=configuration,
            config_path=self._config_path or Path("(defaults)"),
            clock=clock,
            looking=places,
            notices=notices,
            books=books,
            measuring=rates,
            apply=self._apply,
            said=said,
            read_limit=read_limit,
        )
        restore(directory / TRAFFIC_CONTROL_RECORD)  # of a killed predecessor: the qdisc that was there says the limit
        plan = steering.first_plan()
        made = makers(configuration.agent.engine, state_directory=directory)
        traffic = Traffic(plan, made, on_change=self._server.changed, on_second=self._on_second)
        if {uplink.interface for uplink in configuration.uplinks} & {link.interface for link in plan.links}:
            traffic.reject(EngineName.NFQUEUE, "the packet reader that pays has that interface's queue")
        return Counting(places=places, books=books, rates=rates, steering=steering, traffic=traffic)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up inside; nothing of us is left after it."""
        async with contextlib.AsyncExitStack() as stack:
            if self._counting is not None:
                await stack.enter_async_context(self._counting.running())
                if self._gives_up and not self._loads_again():
                    give_up_loading(keeps_programs=self._counting.traffic.engine is EngineName.EBPF)
            if self._reacting is not None:
                await stack.enter_async_context(self._reacting.running())
            await stack.enter_async_context(self._paths.running())
            if self._paying is not None:
                await stack.enter_async_context(self._paying.running())
            await self._server.start()
            stack.push_async_callback(self._server.stop)
            yield

    def _loads_again(self) -> bool:
        """Payments in the kernel are a reader's, and each of its successors loads their programs anew."""
        return self._paying is not None and self._configuration.payments.engine != "nfqueue"

    async def work(self) -> None:
        """Runs until cancelled; a fault in any part ends it all."""
        async with asyncio.TaskGroup() as group:
            for part in (self._counting, self._reacting, self._paths, self._paying):
                if part is not None:
                    group.create_task(part.work())
            if self._session_rules:
                group.create_task(self._launch_sessions())

    async def _launch_sessions(self) -> None:
        """A flow that a rule names should not run for a second as if congestion cost nothing; unless there are so many
        that looking for it would cost more than the agent itself: then it waits until all are read anyway.
        """
        assert self._counting is not None, "rules are about what is counted"
        assert self._reacting is not None, "it is there wherever something is counted"
        traffic = self._counting.traffic
        flows: Sequence[FlowMeter] = ()
        while True:
            is_quick = traffic.may_be_read_often
            await asyncio.sleep(LAUNCH_S if is_quick else SECOND_S)
            if not is_quick and traffic.flows is flows:
                continue
            try:
                flows = await traffic.running_engine().flows() if is_quick else traffic.flows
                named = [(flow, traffic.program_of(flow) or UNATTRIBUTED) for flow in flows]
                await self._reacting.match(self._session_rules, named)
            except EnvironmentFault as fault:  # an interface that goes: the next look sees it
                LOG.warning("%s", fault)

    async def _on_second(self, second: Second) -> None:
        assert self._counting is not None, "it was just read"
        steering, traffic = self._counting.steering, self._counting.traffic
        await steering.on_second(second, self._payments())
        traffic.labels = steering.labels()
        self._usage = self._ceilings.judge(read_usage(self._clock.monotonic_ns()))
        traffic.reads_seldom = self._usage.reduce
        for number, allow in steering.said.standing_answers(traffic.open_questions()):
            await traffic.answer(number, allow=allow)

    def _payments(self) -> list[Payment]:
        """What every flow that pays has spent so far, under the names that its bytes are booked by."""
        if self._paying is None or self._counting is None:
            return []
        paid = self._paying.view(now_ns=self._clock.monotonic_ns(), unix_s=self._clock.unix_s())
        keys = {network.title: network.key for network in self._counting.steering.situation.networks}
        return [
            Payment(
                flow=flow.flow,
                program=flow.program,
                kind=flow.traffic_class,
                destination=flow.destination,
                network=keys.get(flow.network, ""),
                spent_nanodollars=flow.spent_nanodollars,
            )
            for flow in self._counting.traffic.view().name_flows(paid.flows)
            if flow.spent_nanodollars
        ]

    def _context_of(self, flow: FlowSelector) -> Transfer | None:
        """What the secretary is told of a flow that asks to be paid for; None: it was not counted yet."""
        from hostagent.payments.context import transfer_of
        from hostagent.payments.flowbook import flow_text

        counting = self._counting
        if counting is None:
            return Transfer(destination=flow.destination)
        meter = counting.traffic.meter_of(flow_text(flow))
        if meter is None:
            return None
        network = counting.steering.situation.primary
        return transfer_of(
            flow,
            counting.traffic.program_of(meter),
            kind=counting.traffic.class_of(meter),
            network=network.title if network is not None else "",
            foreground=is_foreground(meter.process_id) if meter.process_id else None,
        )

    async def _apply(self, plan: ShapingPlan) -> None:
        assert self._counting is not None, "there is an engine"
        await self._counting.traffic.apply(plan)

    # --- for the service manager (`dataplane.service`) --------------------------------------------------------------

    def status_line(self) -> str:
        if self._counting is None:
            return "pays on its uplinks"
        steering = self._counting.steering
        network = steering.situation.primary
        return f"{steering.said.mode.mode.value}, on {network.title if network is not None else 'no network'}"

    def heartbeat_ns(self) -> int:
        return self._counting.traffic.last_second_ns if self._counting is not None else time.monotonic_ns()

    # --- the desk ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> api.Snapshot:
        self._sequence += 1
        counting, now_ns, unix_s = self._counting, self._clock.monotonic_ns(), self._clock.unix_s()
        return snapshot_of(
            self._configuration,
            sequence=self._sequence,
            started_unix_s=self._started_unix_s,
            now_ns=now_ns,
            unix_s=unix_s,
            paid=self._paying.view(now_ns=now_ns, unix_s=unix_s) if self._paying is not None else None,
            traffic=counting.traffic.view() if counting is not None else None,
            steered=counting.view() if counting is not None else None,
            notices=self._notices.all(),
            usage=self._usage,
            sessions=self._named_sessions(),
            paths=self._paths.view(),
        )

    def _named_sessions(self) -> tuple[api.Session, ...]:
        """A session may be older than what is known of its program."""
        if self._reacting is None or self._counting is None:
            return ()
        traffic, named = self._counting.traffic, []
        for session in self._reacting.sessions():
            meter = traffic.meter_of(session.flow)
            program = traffic.program_of(meter) if meter is not None else None
            named.append(msgspec.structs.replace(session, program=name_of(program)) if program else session)
        return tuple(named)

    def why(self, flow: str) -> api.Why:
        snapshot = self.snapshot()
        found = find_flow(snapshot.flows, flow)
        return explain(snapshot, found, self._rule_of(found))

    def _rule_of(self, flow: api.Flow) -> api.Rule | None:
        """The rule that put it into its class."""
        counting = self._counting
        meter = counting.traffic.meter_of(flow.flow) if counting is not None else None
        if counting is None or meter is None:
            return None
        rules = counting.steering.rules
        number = rules.rule_of(meter, counting.traffic.program_of(meter))
        return rules.view()[number] if number is not None else None

    async def history(self, query: HistoryQuery) -> tuple[api.HistoryRow, ...]:
        counting = self._counting_part()
        return await counting.books.history(query, counting.places.known_networks())

    async def statement(self, month: str) -> api.Statement:
        counting = self._counting_part()
        return await counting.books.statement(month, counting.places.known_networks())

    async def replay(self, since_unix_s: int, until_unix_s: int) -> tuple[api.ReplayLine, ...]:
        return await self._counting_part().books.replay(since_unix_s, until_unix_s)

    async def session(self, session: str, after: int, wait_s: int) -> api.Session:
        return await self._reacting_part().wait(session, after, wait_s)

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        traffic = self._counting_part().traffic
        meter = traffic.meter_of(flow_text(key_of(request)))
        program = name_of(traffic.program_of(meter)) if meter is not None else ""
        return await self._reacting_part().open(request, program=program)

    async def end_session(self, session: str) -> None:
        await self._reacting_part().close(session)

    async def set_session_worth(self, change: api.SessionWorth) -> None:
        await self._reacting_part().revalue(change.session, change.worth_ppm)

    async def ways(self, destination: str, limit: int) -> tuple[api.Way, ...]:
        return self._paths.ways(destination, limit)

    async def network_map(self, destination: str) -> api.NetworkMap:
        return self._paths.map(destination)

    async def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]:
        return await self._paths.quality(query)

    async def probing(self, number: int, after: int, wait_s: int) -> api.Probing:
        return await self._paths.probing(number, after, wait_s)

    async def probe(self, request: ProbeRequest) -> api.Probing:
        return self._paths.probe(request)

    async def set_access(self, change: api.AccessChange) -> None:
        self._paths.set_access(change)

    async def answer(self, answer: api.Answer) -> None:
        counting = self._counting_part()
        traffic, steering = counting.traffic, counting.steering
        question = next((each for each in traffic.open_questions() if each.number == answer.number), None)
        await traffic.answer(answer.number, allow=answer.allow)
        if question is not None and answer.term is not api.Term.ONCE:
            steering.said.answer(question.program, answer)
        self._server.changed()

    async def set_mode(self, change: api.ModeChange) -> None:
        try:
            await self._counting_part().steering.set_mode(change)
        except LocalProtocolError as error:
            raise Refused("no-such-mode", str(error)) from error
        self._server.changed()

    async def set_worth(self, change: api.WorthChange) -> None:
        await self._counting_part().steering.set_worth(change)
        self._server.changed()

    async def trust(self, fingerprint: str) -> None:
        if not self._counting_part().places.trust(fingerprint):
            raise Refused("unknown-gateway", f"no gateway that was met has the fingerprint {fingerprint[:16]}…")
        self._server.changed()

    async def forget(self, what: api.Forget) -> None:
        counting = self._counting
        known = counting.places.known_networks() if counting is not None else ()
        await self._paths.forget(what, known)  # first: who keeps no history may have paths
        if counting is not None or what.program is not None:
            await self._counting_part().books.forget(what, known)

    async def reload(self) -> None:
        """Classes, rules, networks, rates and permissions; what was opened at the start stays as it was opened."""
        if self._config_path is None:
            raise Refused("no-configuration", "it was started without a configuration file")
        new = await asyncio.to_thread(load, self._config_path)
        given = self._configuration.agent  # where it is and listens may have been said with the start
        agent = msgspec.structs.replace(new.agent, socket=given.socket, state_directory=given.state_directory)
        new = msgspec.structs.replace(new, agent=agent)
        for name in (
            "agent",
            "uplinks",
            "peers",
            "secretary",
            "settlement",
            "paths",
            "campus",
            "access",
            "history",
            "discovery",
            "tasks",
            "sessions",
            "providers",
        ):
            if getattr(new, name) != getattr(self._configuration, name):
                raise Refused("needs-restart", f"[{name}] is read at the start only: restart the agent")
        if new.api.metrics_listen != self._configuration.api.metrics_listen:
            raise Refused("needs-restart", "[api] metrics_listen is read at the start only: restart the agent")
        permissions = _permissions(new, self._config_path)
        if self._paying is not None and new.payments != self._configuration.payments:
            await self._paying.change_engine(new.payments.engine)
        if self._counting is not None:
            for link in new.links:
                read_link(link.interface)
            self._counting.steering.reload(new, self._config_path)
            await self._counting.steering.replan()
        self._server.permit(permissions)
        self._configuration = new
        self._notices.say(self._clock.unix_s(), "reload", f"{self._config_path} was read again")
        self._server.changed()

    async def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _reacting_part(self) -> Reacting:
        self._counting_part()
        assert self._reacting is not None, "it is there wherever something is counted"
        return self._reacting

    def _counting_part(self) -> Counting:
        if self._counting is None:
            raise Refused("not-counting", "this agent only pays: its configuration names no [[links]]")
        return self._counting


def give_up_loading(*, keeps_programs: bool) -> None:
    """Whoever hijacks the agent must not read other processes' memory by programs in the kernel: what is loaded goes
    on, nothing is loaded any more (`dataplane.hardening`).
    """
    try:
        forbid_loading_programs()
        drop_capabilities((Capability.PERFMON,) if keeps_programs else (Capability.PERFMON, Capability.BPF))
    except EnvironmentFault as fault:
        LOG.warning("%s", fault)


def _permissions(configuration: Configuration, config_path: Path | None) -> Permissions:
    file = config_path if config_path is not None else "the defaults"
    return permissions_of(configuration.api.readers, configuration.api.spenders, file=file)
