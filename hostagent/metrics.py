"""The agent's state as Prometheus metrics: docs/metrics.md, names and units by Prometheus' conventions.

Decides: which numbers there are, and that their labels stay few: fifty programs at once, the rest is "other".  Refuses
to know how a number came about: everything is from the latest snapshot and from the server's own facts.  The client
library is loaded by the first scrape (about 1 MB of memory from then on); an agent that nobody scrapes never has it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hostagent import api

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

PROGRAMS_MAX: Final = 50
OTHER: Final = ("other", "other")
LABEL_CHARACTERS_MAX: Final = 100
NANODOLLARS: Final = 1e9
NANODOLLARS_PER_MB: Final = 1e15  # in a dollar per byte
LAG_EVERY_S = 1.0
LAG_KEPT: Final = 60
OPENMETRICS: Final = "application/openmetrics-text"

Labels = tuple[str, ...]
Sample = tuple[str, Labels, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`name` without the `_total` that a counter's samples get."""

    name: str
    kind: str  # "counter", "gauge" or "info"
    unit: str = ""
    labels: Labels = ()
    help: str

    @property
    def shown(self) -> str:
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def _counter(name: str, unit: str, labels: Labels, help_: str) -> Family:
    return Family(name=f"hostagent_{name}", kind="counter", unit=unit, labels=labels, help=help_)


def _gauge(name: str, unit: str, labels: Labels, help_: str) -> Family:
    return Family(name=f"hostagent_{name}", kind="gauge", unit=unit, labels=labels, help=help_)


_PROGRAM: Final = ("program", "kind", "direction")
_LINK: Final = ("interface", "direction")
_BUDGET: Final = ("budget", "period")
_MONEY: Final = ("budget", "period", "currency")

FAMILIES: Final = (
    _counter("program_bytes", "bytes", _PROGRAM, "Bytes of a program at the IP layer, over all links."),
    _counter("program_packets", "packets", _PROGRAM, "Packets of a program, as on the wire."),
    _counter("program_marked_packets", "packets", ("program", "kind"), "Packets that arrived with a congestion mark."),
    _counter("link_bytes", "bytes", _LINK, "Bytes at the IP layer that the agent counted on an interface."),
    _counter("link_packets", "packets", _LINK, "Packets that the agent counted on an interface, as on the wire."),
    _counter("interface_packets", "packets", _LINK, "What the interface itself counted: offloaded segments are one."),
    _counter("kind_bytes", "bytes", ("kind", "direction"), "Bytes of a kind of traffic at the IP layer."),
    _counter("kind_spent_dollars", "dollars", ("kind",), "What a kind of traffic cost at the prices of the moment."),
    _gauge("kind_worth_dollars_per_byte", "dollars_per_byte", ("kind",), "What a byte of a kind is worth to the user."),
    _gauge("kind_cap_bits_per_second", "bits_per_second", ("kind",), "The rate a kind is held to, where it is."),
    _gauge("price_dollars_per_byte", "dollars_per_byte", (*_LINK, "source"), "What a byte costs now."),
    _gauge("link_used_ratio", "ratio", _LINK, "How much of a link's rate is used, where that is known."),
    _gauge("budget_limit_bytes", "bytes", _BUDGET, "A budget of bytes."),
    _gauge("budget_used_bytes", "bytes", _BUDGET, "What is used of it in this period."),
    _gauge("budget_forecast_bytes", "bytes", _BUDGET, "What will be used of it at the period's end, at this pace."),
    _gauge("budget_limit_dollars", "dollars", _MONEY, "A budget of money."),
    _gauge("budget_used_dollars", "dollars", _MONEY, "What is spent of it in this period."),
    _gauge("budget_forecast_dollars", "dollars", _MONEY, "What will be spent of it at the period's end, at this pace."),
    _gauge("budget_reset_timestamp_seconds", "seconds", _BUDGET, "When a budget's period ends."),
    _gauge("spent_today_dollars", "dollars", (), "Real payments since midnight."),
    _gauge("budget_today_dollars", "dollars", (), "What the secretary may pay today."),
    _counter("account_sent_dollars", "dollars", ("neighbour",), "Payments in packets to a neighbour."),
    _counter("account_received_dollars", "dollars", ("neighbour",), "Payments in packets from a neighbour."),
    _gauge("account_owed_dollars", "dollars", ("neighbour",), "What we owe a neighbour; below 0: it owes us."),
    _gauge("account_agrees", "", ("neighbour",), "1 while both ends' counters agree."),
    _gauge("flows_active", "", (), "Flows that something left by lately."),
    _gauge("questions_open", "", (), "Flows that wait for a person's answer."),
    _gauge("engine", "", ("name",), "1 for the engine that counts and shapes."),
    _gauge("health", "", ("state",), "1 for the state that holds."),
    _gauge("mode", "", ("state",), "1 for the mode that holds."),
    _gauge("warning", "", ("code",), "1 for each fault that a person should know of."),
    _gauge("history_trouble", "", (), "1 while the history cannot be kept."),
    _gauge("event_streams", "", (), "Readers of events on the local API."),
    _gauge("api_connections", "", (), "Open connections of the local API."),
    _gauge("event_loop_lag_seconds", "seconds", (), "The longest wait for the event loop in the last minute."),
    Family(name="hostagent_build", kind="info", labels=("version",), help="Which version runs."),
)

PROCESS_FAMILIES: Final = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
)
"""Prometheus' standard ones about the agent's own process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    streams: int
    connections: int
    lag_s: float


class LoopLag:
    """How late the event loop comes to what is due: everything else in the agent waits as long."""

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=LAG_KEPT)

    @property
    def longest_s(self) -> float:
        return max(self._late_s, default=0.0)

    async def work(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._late_s.append(max(0.0, loop.time() - due))


# --- programs ---------------------------------------------------------------------------------------------------------

_COUNTS: Final = ("sent_bytes", "received_bytes", "sent_packets", "received_packets", "received_ce_packets")


@dataclass(slots=True)
class TopPrograms:
    """Counters of the programs with the most traffic, and of all others together.

    A program keeps its own counters for as long as the agent knows it; whoever takes a place that became free counts
    from there. So no counter ever falls, and all of them together are everything.
    """

    places: int = PROGRAMS_MAX
    _last: dict[Labels, tuple[int, ...]] = field(default_factory=dict)
    _totals: dict[Labels, tuple[int, ...]] = field(default_factory=dict)

    def count(self, programs: Sequence[api.Program]) -> dict[Labels, tuple[int, ...]]:
        """By name and kind, in the order of `_COUNTS`."""
        now = _by_name(programs)
        for gone in self._totals.keys() - now.keys() - {OTHER}:
            del self._totals[gone]
        free = self.places - len(self._totals.keys() - {OTHER})
        newcomers = sorted(now.keys() - self._totals.keys(), key=lambda each: (-sum(now[each][:2]), each))
        nothing = (0,) * len(_COUNTS)
        self._totals |= dict.fromkeys(newcomers[:free], nothing)
        for each, counts in now.items():
            grown = _grown(self._last.get(each, nothing), counts)
            place = each if each in self._totals else OTHER
            self._totals[place] = _sum(self._totals.get(place, nothing), grown)
        self._last = now
        return dict(self._totals)


def _by_name(programs: Sequence[api.Program]) -> dict[Labels, tuple[int, ...]]:
    found: dict[Labels, tuple[int, ...]] = {}
    for program in programs:
        key = (program.name[:LABEL_CHARACTERS_MAX], program.kind)
        counts = tuple(getattr(program, name) for name in _COUNTS)
        found[key] = _sum(found[key], counts) if key in found else counts
    return found


def _grown(before: tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    """Each by itself; a counter that fell began anew."""
    return tuple(new - old if new >= old else new for old, new in zip(before, now, strict=True))


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


# --- samples ----------------------------------------------------------------------------------------------------------


def samples(snapshot: api.Snapshot, programs: Mapping[Labels, Sequence[int]], facts: ServerFacts) -> Iterator[Sample]:
    """Pure. `programs`: as TopPrograms has them."""
    yield from _traffic(snapshot, programs)
    yield from _money(snapshot)
    yield from _state(snapshot)
    yield "hostagent_event_streams", (), facts.streams
    yield "hostagent_api_connections", (), facts.connections
    yield "hostagent_event_loop_lag_seconds", (), facts.lag_s


def _traffic(snapshot: api.Snapshot, programs: Mapping[Labels, Sequence[int]]) -> Iterator[Sample]:
    for labels, (out_bytes, in_bytes, out_packets, in_packets, marked) in programs.items():
        yield from _both("program_bytes", labels, out_bytes, in_bytes)
        yield from _both("program_packets", labels, out_packets, in_packets)
        yield "hostagent_program_marked_packets", labels, marked
    for link in snapshot.links:
        labels = (link.interface,)
        yield from _both("link_bytes", labels, link.sent_bytes, link.received_bytes)
        yield from _both("link_packets", labels, link.sent_packets, link.received_packets)
        yield from _both("interface_packets", labels, link.interface_sent_packets, link.interface_received_packets)
    for kind in snapshot.kinds:
        yield from _both("kind_bytes", (kind.name,), kind.sent_bytes, kind.received_bytes)
        if kind.cap_bit_s is not None:
            yield "hostagent_kind_cap_bits_per_second", (kind.name,), kind.cap_bit_s


def _both(name: str, labels: Labels, out: int, into: int) -> Iterator[Sample]:
    yield f"hostagent_{name}", (*labels, "out"), out
    yield f"hostagent_{name}", (*labels, "in"), into


def _money(snapshot: api.Snapshot) -> Iterator[Sample]:
    for kind in snapshot.kinds:
        yield "hostagent_kind_spent_dollars", (kind.name,), kind.spent_nanodollars / NANODOLLARS
        worth = kind.worth_nanodollars_per_mb / NANODOLLARS_PER_MB
        yield "hostagent_kind_worth_dollars_per_byte", (kind.name,), worth
    for price in snapshot.prices:
        link = (price.interface, price.direction)
        now = price.nanodollars_per_mb / NANODOLLARS_PER_MB
        yield "hostagent_price_dollars_per_byte", (*link, price.source), now
        if price.used_ppm is not None:
            yield "hostagent_link_used_ratio", link, price.used_ppm / 1e6
    for budget in snapshot.budgets:
        yield from _budget(budget)
    yield "hostagent_spent_today_dollars", (), snapshot.status.spent_today_nanodollars / NANODOLLARS
    yield "hostagent_budget_today_dollars", (), snapshot.status.budget_today_nanodollars / NANODOLLARS
    for account in snapshot.accounts.links:
        neighbour = (account.neighbour,)
        yield "hostagent_account_sent_dollars", neighbour, account.sent_nanodollars / NANODOLLARS
        yield "hostagent_account_received_dollars", neighbour, account.received_nanodollars / NANODOLLARS
        yield "hostagent_account_owed_dollars", neighbour, account.owed_nanodollars / NANODOLLARS
        yield "hostagent_account_agrees", neighbour, account.agrees


def _budget(budget: api.Budget) -> Iterator[Sample]:
    labels: Labels = (budget.name, budget.period)
    yield "hostagent_budget_reset_timestamp_seconds", labels, budget.resets_unix_s
    unit, scale = ("bytes", 1.0)
    if budget.unit != unit:
        unit, scale, labels = "dollars", NANODOLLARS, (*labels, budget.currency)
    yield f"hostagent_budget_limit_{unit}", labels, budget.limit / scale
    yield f"hostagent_budget_used_{unit}", labels, budget.used / scale
    yield f"hostagent_budget_forecast_{unit}", labels, budget.forecast / scale


def _state(snapshot: api.Snapshot) -> Iterator[Sample]:
    status = snapshot.status
    yield "hostagent_flows_active", (), sum(flow.active for flow in snapshot.flows)
    yield "hostagent_questions_open", (), len(snapshot.questions)
    yield "hostagent_engine", (status.engine,), 1
    for health in api.Health:
        yield "hostagent_health", (health.value,), status.health is health
    for mode in api.Mode:
        yield "hostagent_mode", (mode.value,), status.mode is mode
    codes = {warning.code for warning in status.warnings}
    for code in sorted(codes):
        yield "hostagent_warning", (code,), 1
    yield "hostagent_history_trouble", (), any(code.startswith("history") for code in codes)
    yield "hostagent_build", (status.version,), 1


# --- the text ---------------------------------------------------------------------------------------------------------


class Metrics:
    """What a scrape gets."""

    def __init__(self, snapshot: Callable[[], api.Snapshot], facts: Callable[[], ServerFacts]) -> None:
        self._snapshot = snapshot
        self._facts = facts
        self._programs = TopPrograms()
        self._registry: CollectorRegistry | None = None

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """And its content type: OpenMetrics for who asks for that, else Prometheus' own."""
        from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        if self._registry is None:
            self._registry = self._made()
        if OPENMETRICS in accept:
            from prometheus_client.openmetrics import exposition as openmetrics

            text = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def _made(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        return registry

    def describe(self) -> Iterable[Metric]:
        return ()  # asked while it is registered: before anybody scrapes there is nothing to look at

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        values: dict[str, dict[Labels, float]] = defaultdict(dict)
        for name, labels, value in samples(snapshot, self._programs.count(snapshot.programs), self._facts()):
            cut = tuple(label[:LABEL_CHARACTERS_MAX] for label in labels)
            values[name][cut] = values[name].get(cut, 0.0) + value
        for family in FAMILIES:
            yield _metric(family, values[family.name])


def _metric(family: Family, values: Mapping[Labels, float]) -> Metric:
    from prometheus_client.metrics_core import Metric

    metric = Metric(family.name, family.help, family.kind, family.unit)
    name = family.shown
    for labels, value in values.items():
        metric.add_sample(name, dict(zip(family.labels, labels, strict=True)), float(value))
    return metric
