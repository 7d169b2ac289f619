"""Paying for packets: the packet reader, the grants, the far end's echoes, and the books with the gateways.

Decides: the order of things in one turn. What a flow is worth is the secretary's word, how much it carries now the
price reactor's, which way it asks for the cartographer's; grants are opened by `granting`, echoes and probes are
`measuring`'s.

One turn, five times a second: what the packet core counted → what each flow should carry → the packet core → echoes to
those who pay us.  While traffic moves to another way, what each flow should carry is asked more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import msgspec

from billpay.links import Reading
from billpay.messages import Echo
from cartographer.cartographer import Cartographer
from dataplane.attribution.processes import running_executables
from dataplane.ebpf.machine import machine_faults
from dataplane.links import read_links
from dataplane.payment_engines import PaymentEngine, WantedPaymentEngine
from dataplane.payment_plane import Means, PaymentPlane
from dataplane.service import report_fault
from dataplane.supervisor import ReaderUnavailable
from hostagent.configuration import OWNER, Configuration, SecretarySection, desired_state, plan_of
from hostagent.payments import view
from hostagent.payments.commands import (
    Answer,
    AskFlows,
    Command,
    DropFlow,
    Event,
    FlowReports,
    PayFlow,
    ProbeSeen,
    ReturnFlow,
    SetUplink,
    Tick,
)
from hostagent.payments.context import ContextOf, nothing_known
from hostagent.payments.flowbook import FlowBook
from hostagent.payments.flows import Flow
from hostagent.payments.granting import Granting
from hostagent.payments.measuring import Measuring
from hostagent.payments.telling import Telling
from hostagent.payments.uplinks import Uplink, Uplinks
from hostagent.views import PaidView
from neighbour.book import Book
from neighbour.exchange import book_node_counters
from neighbour.identity import NodeIdentity, PeerCertificate
from secretary.client import RemoteSecretary, SecretaryClient

LOG = logging.getLogger("hostagent")
TURN_S = 0.2
QUICK_TURN_S = 0.02
QUICK_TURN_REST = 10
"""With thousands of flows one takes long: so many times as long there is none."""
SECOND_S = 1.0
DESCRIPTIONS_EVERY_S = 5


class Paying:
    """Present when the configuration names uplinks to gateways. `on_change` is called after each turn."""

    def __init__(
        self,
        configuration: Configuration,
        config_path: Path,
        *,
        on_change: Callable[[], None],
        context_of: ContextOf = nothing_known,
        tell: Callable[[str, str], object] = lambda _code, _message: None,
        heard: Callable[[Echo, int], object] = lambda _echo, _amount: None,
        cartographer: Cartographer | None = None,
    ) -> None:
        """`tell(code, message)`: what a person should know once. `heard`: of an echo and our amount (`measuring`)."""
        self._configuration = configuration
        self._config_path = config_path
        secretary = configuration.secretary
        assert secretary is not None, "a configuration with uplinks names a secretary"
        plan_of(configuration)  # an unknown interface is said before anything is opened
        directory = configuration.state_directory
        self._plane = self._make_plane()
        self._identity = NodeIdentity.load_or_create(directory, name=configuration.agent.name)
        self._book = Book.open(directory / "book.sqlite")
        self._uplinks = Uplinks(
            configuration,
            identity=self._identity,
            book=self._book,
            read=self._reading,
            on_change=self._uplink_changed,
            clock=lambda: int(time.time()),
        )
        self._flows = FlowBook(
            delay_value_nanodollars_per_ms=configuration.paths.delay_value_nanodollars_per_ms, cartographer=cartographer
        )
        self._secretary_socket = secretary.socket
        self._secretary = SecretaryClient(self._where(secretary))
        self._granting = Granting(
            secretary=self._secretary,
            secretary_key=PeerCertificate.read(secretary.certificate).public_key,
            uplinks=self._uplinks,
            context_of=context_of,
            running_programs=running_executables,
        )
        self._measuring = Measuring(
            configuration,
            identity=self._identity,
            flows=self._flows,
            session=secrets.token_hex(16),
            tell=self.ask,
            heard=heard,
        )
        self._hurry = asyncio.Event()
        self._since_turn = 0
        self._quick_turn_s = QUICK_TURN_S
        self._on_change = on_change
        self._telling = Telling()
        self._tell_person = tell
        self._tasks: set[asyncio.Task[None]] = set()

    def _make_plane(self) -> PaymentPlane:
        configuration = self._configuration
        return PaymentPlane(
            Means(
                faults=_engine_faults,
                command=self._reader_command,
                desired=lambda engine: desired_state(configuration, engine),
            ),
            wanted=configuration.payments.engine,
            state_directory=configuration.state_directory,
            owner=OWNER,
            on_event=self._on_event,
            snapshot=self._reader_state,
            on_started=self._catch_up,
        )

    def _reader_command(self, engine: PaymentEngine) -> list[str]:
        config_path = str(self._config_path.resolve())
        return [sys.executable, "-m", "hostagent.payments.reader", config_path, "--engine", engine.value]

    def _where(self, section: SecretarySection) -> Path | RemoteSecretary:
        if section.socket:
            return Path(section.socket)
        host, _, port = section.address.rpartition(":")
        return RemoteSecretary(
            address=host.strip("[]"),
            port=int(port),
            identity=self._identity,
            certificate=PeerCertificate.read(section.transport),
        )

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up inside; nothing of us is left after it."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._book.close)
            stack.callback(self._plane.close)
            stack.push_async_callback(self._secretary.close)
            await self._measuring.start()
            stack.callback(self._measuring.stop)
            await stack.enter_async_context(self._plane.running())
            yield
            await self._pay_no_more()
            await self._granting.close_all(self._flows.flows.values())

    async def _pay_no_more(self) -> None:
        """Then what we count is all that there was when the gateways close the grants."""
        flows = list(self._flows.flows.values())
        with contextlib.suppress(ReaderUnavailable):
            for flow in flows:
                if flow.told is not None or flow.return_told is not None:  # it may know an older document
                    await self.ask(DropFlow(flow=flow.selector))
            answer = await self.ask(AskFlows(since_turn=self._since_turn))
            assert isinstance(answer, FlowReports)
            self._flows.on_reports(answer.flows, time.monotonic_ns())

    async def work(self) -> None:
        """Runs until cancelled; a fault in any part ends it all."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._plane.watch())
            group.create_task(self._turns())
            group.create_task(self._seconds())
            for uplink in self._uplinks.by_name.values():
                group.create_task(uplink.caller.run())
                group.create_task(self._learn_paths(uplink))

    # --- the packet core --------------------------------------------------------------------------------------------

    async def change_engine(self, wanted: WantedPaymentEngine) -> None:
        """While traffic goes on. Raises EnvironmentFault where a named one cannot be; then it is as before."""
        await self._plane.change(wanted)

    async def ask(self, command: Command) -> Answer:
        """A command for the packet core. Raises ReaderUnavailable."""
        answer: Answer = msgspec.json.decode(await self._plane.request(msgspec.json.encode(command)), type=Answer)
        return answer

    def _reader_state(self) -> list[bytes]:
        """What a fresh packet core has to know."""
        self._since_turn = 0
        commands: list[Command] = [Tick()]
        uplinks = self._uplinks.by_name.values()
        commands += [SetUplink(uplink=uplink.name, agreed=uplink.agreed) for uplink in uplinks]
        for flow in self._flows.flows.values():
            commands += _commands_for(flow)
        return [msgspec.json.encode(command) for command in commands]

    def _on_event(self, data: bytes) -> None:
        event = msgspec.json.decode(data, type=Event)
        if isinstance(event, ProbeSeen):
            self._measuring.on_probe(event)
        self._hurry.set()

    def _uplink_changed(self, uplink: Uplink) -> None:
        LOG.info("uplink %s: %s", uplink.name, uplink.state if uplink.agreed else "no headers")
        self._start(self._tell_uplink(uplink))

    def _catch_up(self) -> None:
        """What has changed since a fresh reader's state was taken."""
        for uplink in self._uplinks.by_name.values():
            self._start(self._tell_uplink(uplink))
        for flow in self._flows.flows.values():
            flow.told = flow.return_told = None

    async def _tell_uplink(self, uplink: Uplink) -> None:
        """Its state as it is when this is sent: an older one never follows a newer one."""
        await self._tell(SetUplink(uplink=uplink.name, agreed=uplink.agreed))

    async def _tell(self, command: Command) -> None:
        with contextlib.suppress(ReaderUnavailable):  # a fresh reader gets it with its state
            await self.ask(command)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        """A short task beside the turns; kept until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(report_fault)

    # --- turns ------------------------------------------------------------------------------------------------------

    async def _turns(self) -> None:
        turned_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._turn_s()):
                    await self._hurry.wait()
            now_s = time.monotonic()
            with contextlib.suppress(ReaderUnavailable):
                if not self._hurry.is_set() and now_s - turned_s < TURN_S:
                    await self._tell_flows(time.monotonic_ns())
                    self._quick_turn_s = max(QUICK_TURN_S, QUICK_TURN_REST * (time.monotonic() - now_s))
                    continue
                self._hurry.clear()
                turned_s = now_s
                await self._turn()
            self._on_change()

    def _turn_s(self) -> float:
        """Traffic that moves to another way does so by round trips, which are shorter than a turn."""
        now_ns = time.monotonic_ns()
        due_ns = self._flows.cartographer.next_move_ns(now_ns)
        return TURN_S if due_ns is None else min(TURN_S, max(self._quick_turn_s, (due_ns - now_ns) / 1e9))

    async def _turn(self) -> None:
        now_ns, unix_s = time.monotonic_ns(), int(time.time())
        answer = await self.ask(AskFlows(since_turn=self._since_turn))
        assert isinstance(answer, FlowReports)
        self._since_turn = answer.turn
        self._flows.on_reports(answer.flows, now_ns)
        await self._tell_flows(now_ns)
        for work in self._granting.due(self._flows, now_ns=now_ns, unix_s=unix_s):
            self._start(work)
        self._measuring.send_echoes(now_ns, int(time.time() * 1000))
        await self._measuring.send_probes(now_ns)

    async def _tell_flows(self, now_ns: int) -> None:
        for flow in self._flows.decide(now_ns):
            for command in _commands_for(flow):
                await self.ask(command)
            _mark_told(flow)

    async def _seconds(self) -> None:
        while True:
            await self._tell(Tick())
            self._uplinks.on_second()
            own = frozenset(address for link in read_links() for address in link.addresses)
            self._measuring.own_addresses = own
            counters = self._plane.counters()
            book_node_counters(
                self._book,
                retained_nanodollars=0,
                kept_nanodollars=counters.get("unreturned_nanodollars", 0),
                share_nanodollars=counters.get("share_nanodollars", 0) + counters.get("refunded_nanodollars", 0),
            )
            await self._granting.close_idle(self._flows, now_ns=time.monotonic_ns())
            self._tell_news()
            await asyncio.sleep(SECOND_S)

    def _tell_news(self) -> None:
        budget = self._granting.budget
        news = self._telling.on_budget(budget) if budget is not None else []
        for code, message in [*news, *self._telling.on_money(view.out_of_money(self._flows))]:
            self._tell_person(code, message)

    async def _learn_paths(self, uplink: Uplink) -> None:
        """What the gateway says of alternatives, and of its prices."""
        for second in itertools.count():
            if second % DESCRIPTIONS_EVERY_S == 0:
                await self._measuring.learn_descriptions(uplink)
            await self._measuring.learn_prices(uplink)
            await asyncio.sleep(SECOND_S)

    # --- what others see --------------------------------------------------------------------------------------------

    def _reading(self, uplink: str) -> Reading:
        value = self._plane.counters()
        return Reading(
            sent_nanodollars=value.get(f"link/{uplink}/sent_nanodollars", 0),
            received_nanodollars=value.get(f"link/{uplink}/received_nanodollars", 0),
            sent_packets=value.get(f"link/{uplink}/sent_packets", 0),
            received_packets=value.get(f"link/{uplink}/received_packets", 0),
        )

    def view(self, *, now_ns: int, unix_s: int) -> PaidView:
        paying = view.Paying(
            data_plane=self._plane.health,
            engine=self._plane.choice,
            flows=self._flows,
            uplinks=self._uplinks,
            counters=self._plane.counters(),
            granting=self._granting,
            secretary_socket=self._secretary_socket,
        )
        return view.view_of(paying, now_ns=now_ns, unix_s=unix_s)


def _engine_faults() -> tuple[str, ...]:
    from hostagent.payments.kernel_datapath import PAYER_OBJECT  # of what a reader loads, nothing is needed here

    return machine_faults(PAYER_OBJECT)


def _commands_for(flow: Flow) -> list[Command]:
    commands: list[Command] = []
    if flow.is_to_be_dropped():
        commands.append(DropFlow(flow=flow.selector))
    if flow.grant is not None and flow.opened_at:
        commands.append(
            PayFlow(
                flow=flow.selector,
                grant=flow.grant,
                amount_nanodollars=flow.amount_nanodollars,
                slots=flow.slots,
            )
        )
    if flow.return_grant is not None and flow.return_opened_at:
        commands.append(
            ReturnFlow(
                flow=flow.selector,
                grant=flow.return_grant,
                share_nanodollars=flow.return_share,
                ceiling_nanodollars=flow.return_ceiling,
            )
        )
    return commands


def _mark_told(flow: Flow) -> None:
    flow.told = flow.wanted()
    flow.return_told = flow.wanted_return()
