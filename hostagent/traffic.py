"""Everybody's traffic: starts the best engine that works here, reads it once a second, and says what it saw.

Decides: which engine runs (the first of `ebpf`, `nfqueue`, `sockets` that starts, or the one that was asked for), and
when a meter cannot be believed. Refuses to know: how an engine counts; payments; why the plan is as it is: whoever
steers (`hostagent.steering`) hears of every second, and says what the classes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

import msgspec

from billpay.errors import EnvironmentFault
from dataplane.host_engine import EngineName, HostEngine
from dataplane.metering import FlowKey, FlowMeter, Kind, LinkMeter, Program, Reading, Tally
from dataplane.shaping.plan import ShapingPlan
from hostagent import api
from hostagent.payments.flows import Meter

LOG = logging.getLogger("hostagent")
SECOND_S = 1.0
QUICK_LOOKS = 4
QUICK_S = 0.25
"""The first second is looked at in quarters: a person who has just started it wants to see something."""

NS_PER_S = 1_000_000_000
FLOWS_SHOWN = 2000
"""The busiest ones; the engine's own table has them all."""

ACTIVE_NS = 5_000_000_000

FLOWS_READ_EVERY_S = 5
FEW_FLOWS = 2000
VERY_FEW_FLOWS = 100
"""So many are read every second, more only every few."""

MISMATCH_PACKETS = 200
"""Fewer packets in a second are no reason to doubt a meter."""

EngineMaker = Callable[[], HostEngine]


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What was read just now. `flows` None: not this time, there are many."""

    reading: Reading
    flows: list[FlowMeter] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabel:
    """What a class of the plan means to a person."""

    worth_nanodollars_per_mb: int | None = None
    decision: str = ""  # "shares by worth", "waits: …"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLabel:
    """What an interface means to a person."""

    network: str = ""
    price_nanodollars_per_mb: int | None = None


NO_CLASS_LABEL = ClassLabel()
NO_LINK_LABEL = LinkLabel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """By class number and by interface index."""

    classes: dict[int, ClassLabel] = field(default_factory=dict)
    links: dict[int, LinkLabel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficView:
    """What people see of it."""

    engine: str
    because: str
    limits: tuple[api.Limit, ...]
    programs: tuple[api.Program, ...]
    links: tuple[api.Link, ...]
    questions: tuple[api.Question, ...]
    flows: tuple[api.Flow, ...]
    doubts: tuple[str, ...]

    def warnings(self, unix_s: int) -> list[api.Warning]:
        return [api.Warning(code="meter", message=doubt, since_unix_s=unix_s) for doubt in self.doubts]

    def name_flows(self, paying: Sequence[api.Flow]) -> tuple[api.Flow, ...]:
        """The flows that pay, with the names of their programs; then those that nobody pays for."""
        seen = {flow.flow: flow for flow in self.flows}
        named = [_named(flow, seen.pop(flow.flow, None)) for flow in paying]
        return (*named, *seen.values())


class Traffic:
    """`makers`: how each engine is made, the best first."""

    def __init__(
        self,
        plan: ShapingPlan,
        makers: dict[EngineName, EngineMaker],
        *,
        on_change: Callable[[], None],
        on_second: Callable[[Second], Awaitable[None]] | None = None,
    ) -> None:
        self._plan = plan
        self._makers = dict(makers)
        self._on_change = on_change
        self._on_second = on_second
        self.labels = Labels()
        self.reads_seldom = False  # the agent is above its ceilings
        self.last_second_ns = time.monotonic_ns()
        self._engine: HostEngine | None = None
        self._rejected: list[tuple[EngineName, str]] = []
        self._rates = _Rates()
        self._reading: Reading | None = None
        self._flows: list[FlowMeter] = []
        self._shown: dict[str, FlowMeter] = {}  # by the name that they are shown by
        self._shown_of = self._flows
        self._questions: tuple[api.Question, ...] = ()
        self._programs: dict[int, Program] = {}
        self._doubts: tuple[str, ...] = ()

    # --- start and stop ---------------------------------------------------------------------------------------------

    def reject(self, name: EngineName, why: str) -> None:
        """It will not be tried."""
        if self._makers.pop(name, None) is not None:
            self._rejected.append((name, why))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises EnvironmentFault when no engine works here."""
        self._engine = engine = await self._start_best()
        LOG.info("engine: %s", self._because())
        try:
            yield
        finally:
            await engine.close()

    async def _start_best(self) -> HostEngine:
        fault = EnvironmentFault("count", "traffic", "; ".join(why for _, why in self._rejected) or "no engine is left")
        for name, make in self._makers.items():
            engine = make()
            try:
                await engine.start(self._plan)
            except EnvironmentFault as error:
                LOG.warning("engine %s: %s", name.value, error)
                self._rejected.append((name, str(error)))
                fault = error
            else:
                return engine
        raise fault

    @property
    def engine(self) -> EngineName:
        return self._running().name

    def _because(self) -> str:
        assert self._engine is not None
        if not self._rejected:
            return f"{self._engine.name.value}: the best there is"
        return f"{self._engine.name.value}; " + "; ".join(f"not {name.value}: {why}" for name, why in self._rejected)

    # --- once a second ----------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Until cancelled."""
        seconds = 0
        while True:
            try:
                many = self.reads_seldom or (self._reading is not None and self._reading.flows_tracked > FEW_FLOWS)
                await self._second(with_flows=not many or seconds % FLOWS_READ_EVERY_S == 0)
            except EnvironmentFault as fault:  # an interface that goes while we look at it: the next second sees it
                LOG.warning("%s", fault)
                self._doubts = (str(fault),)
            seconds += 1
            self.last_second_ns = time.monotonic_ns()
            self._on_change()
            await asyncio.sleep(QUICK_S if seconds < QUICK_LOOKS else SECOND_S)

    async def _second(self, *, with_flows: bool) -> None:
        engine = self._running()
        await engine.on_second()
        before, self._reading = self._reading, await engine.read()
        self._doubts = tuple(_doubts(before, self._reading))
        self._programs = {meter.number: meter.program for meter in self._reading.programs}
        for program, (sent, received) in _by_program(self._reading).items():
            self._rates.add(("program", program), sent, received, self._reading.now_ns)
        for link in self._reading.links:
            self._rates.add(("link", link.interface), link.sent, link.received, self._reading.now_ns)
        if with_flows:
            self._flows = await engine.flows()
            for flow in self._flows:
                self._rates.add(("flow", flow.key), flow.sent, flow.received, self._reading.now_ns)
        if self._on_second is not None:
            await self._on_second(Second(reading=self._reading, flows=self._flows if with_flows else None))
        self._rates.forget(self._reading.now_ns)
        questions = await engine.questions()
        self._questions = tuple(
            api.Question(
                number=question.number,
                flow=flow_text(question.key),
                program=name_of(question.program),
                traffic_class=self._class_name(question.traffic_class),
                seconds_left=max(0, (question.expires_ns - time.monotonic_ns()) // NS_PER_S),
            )
            for question in questions
        )

    async def answer(self, number: int, *, allow: bool) -> None:
        await self._running().answer(number, allow=allow)

    async def apply(self, plan: ShapingPlan) -> None:
        """Another plan from now on. Raises EnvironmentFault."""
        await self._running().apply(plan)
        self._plan = plan

    def meter_of(self, flow: str) -> FlowMeter | None:
        """The one that is shown as `flow`."""
        if self._shown_of is not self._flows:
            self._shown, self._shown_of = {flow_text(each.key): each for each in self._flows}, self._flows
        return self._shown.get(flow)

    def program_of(self, flow: FlowMeter) -> Program | None:
        return self._programs.get(flow.program_number)

    def class_of(self, flow: FlowMeter) -> str:
        return self._class_name(flow.traffic_class)

    def open_questions(self) -> tuple[api.Question, ...]:
        return self._questions

    @property
    def may_be_read_often(self) -> bool:
        """Five times a second, for a third of a hundredth of a core at most."""
        return self._reading is None or self._reading.flows_tracked <= VERY_FEW_FLOWS

    @property
    def flows(self) -> Sequence[FlowMeter]:
        """As they were when they were read last; the same list until they are read again."""
        return self._flows

    def running_engine(self) -> HostEngine:
        """For those who ask it about single flows; started."""
        return self._running()

    def _running(self) -> HostEngine:
        assert self._engine is not None, "it is started first"
        return self._engine

    # --- what others see --------------------------------------------------------------------------------------------

    def view(self) -> TrafficView:
        reading = self._reading
        return TrafficView(
            engine=self._running().name.value,
            because=self._because(),
            limits=tuple(api.Limit(ability=each.ability.value, cause=each.cause) for each in self._running().limits),
            programs=self._view_programs(reading) if reading is not None else (),
            links=tuple(self._view_link(link) for link in reading.links) if reading is not None else (),
            questions=self._questions,
            flows=self._view_flows(),
            doubts=self._doubts,
        )

    def _view_programs(self, reading: Reading) -> tuple[api.Program, ...]:
        classes = self._class_by_program()
        lines = [
            api.Program(
                name=name_of(program),
                kind=program.kind.value,
                executable=program.executable,
                unit=program.unit,
                container=program.container,
                task=program.task,
                user_id=program.user_id,
                sent_bytes=sent.bytes,
                received_bytes=received.bytes,
                sent_packets=sent.packets,
                received_packets=received.packets,
                sent_bit_s=self._rates.sent_bit_s(("program", program)),
                received_bit_s=self._rates.received_bit_s(("program", program)),
                received_ce_packets=received.ce_packets,
                traffic_class=self._class_name(classes.get(program, -1)),
                worth_nanodollars_per_mb=self._label(classes.get(program, -1)).worth_nanodollars_per_mb,
                decision=self._label(classes.get(program, -1)).decision,
            )
            for program, (sent, received) in _by_program(reading).items()
            if sent.packets or received.packets or program.kind is Kind.UNATTRIBUTED
        ]
        return tuple(sorted(lines, key=lambda line: -(line.sent_bytes + line.received_bytes)))

    def _class_by_program(self) -> dict[Program | None, int]:
        """The class of most of a program's bytes, by the flows that are there."""
        sums: dict[tuple[Program | None, int], int] = {}
        for flow in self._flows:
            place = (self._programs.get(flow.program_number), flow.traffic_class)
            sums[place] = sums.get(place, 0) + flow.sent.bytes + flow.received.bytes
        return {program: number for (program, number), _ in sorted(sums.items(), key=lambda item: item[1])}

    def _class_name(self, number: int) -> str:
        """ "" when it is not known, or the plan is younger than what was read and has fewer classes."""
        return self._plan.classes[number].name if 0 <= number < len(self._plan.classes) else ""

    def _label(self, number: int) -> ClassLabel:
        return self.labels.classes.get(number, NO_CLASS_LABEL)

    def _view_link(self, link: LinkMeter) -> api.Link:
        return api.Link(
            interface=link.interface,
            sent_bytes=link.sent.bytes,
            received_bytes=link.received.bytes,
            sent_bit_s=self._rates.sent_bit_s(("link", link.interface)),
            received_bit_s=self._rates.received_bit_s(("link", link.interface)),
            sent_packets=link.sent.packets,
            received_packets=link.received.packets,
            interface_sent_packets=link.interface_sent_packets,
            interface_received_packets=link.interface_received_packets,
        )

    def _view_flows(self) -> tuple[api.Flow, ...]:
        now_ns = time.monotonic_ns()
        shown = heapq.nlargest(
            FLOWS_SHOWN,
            self._flows,
            key=lambda flow: (now_ns - flow.last_ns < ACTIVE_NS, flow.sent.bytes + flow.received.bytes),
        )
        return tuple(self._view_flow(flow, now_ns) for flow in shown)

    def _view_flow(self, flow: FlowMeter, now_ns: int) -> api.Flow:
        traffic_class = self._class_name(flow.traffic_class)
        label = self._label(flow.traffic_class)
        link = self.labels.links.get(flow.key.interface_index, NO_LINK_LABEL)
        program = self._programs.get(flow.program_number)
        return api.Flow(
            flow=flow_text(flow.key),
            rule="",
            strategy="unpaid",
            rate_bit_s=self._rates.sent_bit_s(("flow", flow.key)),
            packets=flow.sent.packets,
            bytes=flow.sent.bytes,
            amount_nanodollars=0,
            toll_nanodollars=None,
            spent_nanodollars=0,
            returned_nanodollars=0,
            goodput_bit_s=None,
            marks=flow.received.ce_packets,
            path="",
            reason=label.decision or f"class {traffic_class}",
            active=now_ns - flow.last_ns < ACTIVE_NS,
            program=name_of(program),
            traffic_class=traffic_class,
            received_bytes=flow.received.bytes,
            received_bit_s=self._rates.received_bit_s(("flow", flow.key)),
            task=program.task if program is not None else "",
            destination=str(ip_address(flow.key.remote)),
            worth_nanodollars_per_mb=label.worth_nanodollars_per_mb,
            price_nanodollars_per_mb=link.price_nanodollars_per_mb,
            network=link.network,
        )


class _Rates:
    """Rates out of cumulative counts, by whatever they are counted for; bounded by forgetting what is idle."""

    def __init__(self) -> None:
        self._meters: dict[object, tuple[Meter, Meter]] = {}

    def add(self, key: object, sent: Tally, received: Tally, now_ns: int) -> None:
        out, into = self._meters.setdefault(key, (Meter(), Meter()))
        out.add(now_ns, sent.bytes)
        into.add(now_ns, received.bytes)

    def forget(self, now_ns: int) -> None:
        old = [
            key
            for key, (out, _) in self._meters.items()
            if now_ns - (out.last_ns() or 0) > 3 * FLOWS_READ_EVERY_S * NS_PER_S
        ]
        for key in old:
            del self._meters[key]

    def sent_bit_s(self, key: object) -> int:
        found = self._meters.get(key)
        return (found[0].per_s() or 0) * 8 if found is not None else 0

    def received_bit_s(self, key: object) -> int:
        found = self._meters.get(key)
        return (found[1].per_s() or 0) * 8 if found is not None else 0


def _by_program(reading: Reading) -> dict[Program, tuple[Tally, Tally]]:
    """Several identities of one program (two versions of its file) are one line."""
    totals: dict[Program, tuple[Tally, Tally]] = {}
    for meter in reading.programs:
        sent, received = totals.get(meter.program, (Tally(), Tally()))
        totals[meter.program] = (sent.plus(meter.sent), received.plus(meter.received))
    return totals


def _doubts(before: Reading | None, now: Reading) -> list[str]:
    """A meter that stands still while its interface does not must not be believed."""
    if before is None:
        return []
    earlier = {link.interface: link for link in before.links}
    found = []
    for link in now.links:
        old = earlier.get(link.interface)
        if old is None:
            continue
        for direction, counted, interface in (
            ("out", link.sent.packets - old.sent.packets, link.interface_sent_packets - old.interface_sent_packets),
            (
                "in",
                link.received.packets - old.received.packets,
                link.interface_received_packets - old.interface_received_packets,
            ),
        ):
            if interface > MISMATCH_PACKETS and counted * 2 < interface:
                found.append(
                    f"{link.interface} {direction}: the interface passed {interface} packets and we counted {counted}:"
                    " another program may take them before us; see `hostagent doctor`"
                )
    return found


def _named(flow: api.Flow, seen: api.Flow | None) -> api.Flow:
    if seen is None:
        return flow
    names = (
        "program",
        "traffic_class",
        "received_bytes",
        "received_bit_s",
        "task",
        "destination",
        "worth_nanodollars_per_mb",
        "price_nanodollars_per_mb",
        "network",
    )
    return msgspec.structs.replace(flow, **{name: getattr(seen, name) for name in names})


def name_of(program: Program | None) -> str:
    """One word or two for a person."""
    if program is None or program.kind is Kind.UNATTRIBUTED:
        return "(unattributed)"
    if program.kind is Kind.FORWARDED:
        return program.container or program.interface or "(forwarded)"
    return program.executable.rpartition("/")[2] or "(ended)"


_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp", 58: "icmp6"}


def flow_text(key: FlowKey) -> str:
    """As the paying part writes it: "tcp 10.77.200.1:40000 → 10.77.200.2:5201"."""
    protocol = _PROTOCOLS.get(key.protocol, str(key.protocol))
    return f"{protocol} {_end(key.local, key.local_port)} → {_end(key.remote, key.remote_port)}"


def _end(address: bytes, port: int) -> str:
    text = str(ip_address(address))
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"
