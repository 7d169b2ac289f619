"""How many packets pass each second, and what the programs take of that: each way beside plain forwarding.

Decides nothing. Everything that happens to a packet between a's sender and b's interface happens on one core, the
sender's: the rate is the inverse of the whole way's time, and a ratio is the share of it that is left.
"""

from __future__ import annotations

import enum
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bench.hostplane.hosts import progress
from bench.payments.engine import EMPTY as EMPTY_PROGRAM
from bench.payments.figures import differences, figure_of, ratios
from bench.payments.generator import Generator, Volley
from bench.payments.network import Network
from bench.payments.packets import TCP, Carries, Shape, option
from bench.payments.parties import Parties, Party
from bench.payments.plans import HOST_FLOWS_MAX, STREAM_PORT, Role
from bench.payments.rows import Row

RATES: Final = "packets"
STREAMS: Final = "TCP"
COST: Final = "cost"
MANY: Final = 10_000
COUNTED_S: Final = 0.1
MEASURING: Final = "an empty program: the counting itself"
SHARE_GOAL: Final = 0.80
"""Of the packets that pass each second without us."""

COST_GOALS_NS: Final = {Role.HOST: 700.0, Role.FIRST: 900.0, Role.QUEUED: 900.0, Role.TRANSIT: 900.0}
"""Of all programs that a packet meets there, without the counting itself."""

FAULT_AT_MOST: Final = 0.001
"""Of the packets; more of them are told of."""

SEGMENT_BYTES: Final = 1460
"""The most that a packet of the stream brings: there are at least so many packets, and each of them pays."""


class By(enum.Enum):
    """How packets leave a."""

    SOCKETS = "by sockets"
    FRAMES = "as frames"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One configuration. `beside`: the one that it is compared with, of the same kind of sender."""

    name: str
    by: By
    carries: Carries = Carries.NOTHING
    roles: tuple[Role, ...] = ()
    beside: str = ""
    also_beside: str = ""


PLAIN_HOST: Final = Way(name="plain, from sockets", by=By.SOCKETS)
HOST: Final = Way(name="host pays", by=By.SOCKETS, roles=(Role.HOST,), beside=PLAIN_HOST.name)
PLAIN: Final = Way(name="plain", by=By.FRAMES)
EMPTY: Final = Way(name="empty programs", by=By.FRAMES, roles=(Role.EMPTY,), beside=PLAIN.name)
TREE: Final = Way(name="plain, HTB", by=By.FRAMES, roles=(Role.TREE,), beside=PLAIN.name)
CARRIED: Final = Way(name="header, nobody looks", by=By.FRAMES, carries=Carries.MAC, beside=PLAIN.name)
FIRST: Final = Way(name="first gateway", by=By.FRAMES, carries=Carries.MAC, roles=(Role.FIRST,), beside=PLAIN.name)
QUEUED: Final = Way(
    name="first gateway, queue",
    by=By.FRAMES,
    carries=Carries.MAC,
    roles=(Role.QUEUED,),
    beside=PLAIN.name,
    also_beside=TREE.name,
)
TRANSIT: Final = Way(
    name="transit gateway", by=By.FRAMES, carries=Carries.NAME, roles=(Role.TRANSIT,), beside=PLAIN.name
)
NFQUEUE: Final = Way(
    name="first gateway, NFQUEUE", by=By.FRAMES, carries=Carries.MAC, roles=(Role.NFQUEUE,), beside=PLAIN.name
)
WAYS: Final = (PLAIN_HOST, HOST, PLAIN, EMPTY, TREE, CARRIED, FIRST, QUEUED, TRANSIT)
IDLE_ROLES: Final = (Role.EMPTY, Role.TREE)
"""They know nothing of payments."""

"""In each round all of them with the same packets, one after the other, in an order that changes."""

SHAPES: Final = (
    *(Shape(family=4, size=size, flows=flows) for size in (64, 512, 1400) for flows in (1, MANY)),
    Shape(family=6, size=512, flows=1),
    Shape(family=6, size=512, flows=MANY),
)
FOR_SCALE: Final = SHAPES[0]
"""NFQUEUE is measured with this shape alone."""


@dataclass(slots=True)
class Samples:
    """Of each shape and way, a sample a round. `packets_per_s`: that arrived and, where there is who pays or takes
    payments, were paid; `cost_ns`: by program, way and packets, and of the empty program beside it.
    """

    packets_per_s: dict[tuple[Shape, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    unpaid: dict[tuple[Shape, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[tuple[Shape, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    cost_ns: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Measures packets; `seconds`: of each volley."""

    network: Network
    generator: Generator
    parties: Parties
    seconds: float

    def measure(self, *, rounds: int, shapes: Sequence[Shape] = SHAPES, ways: Sequence[Way] = WAYS) -> list[Row]:
        """Ways whose part cannot be made here are left out, and said so."""
        samples, faults = Samples(), self.parties.faults(ways_roles(ways))
        able = [way for way in ways if not any(role in faults for role in way.roles)]
        with self.network.dropping_at_b():
            for number in range(rounds):
                progress(f"packets, round {number + 1} of {rounds}")
                for shape in shapes:
                    here = [way for way in able if way is not NFQUEUE or shape == FOR_SCALE]
                    for way in random.sample(here, len(here)):
                        self._measure_one(samples, shape, way)
        rows = [row for shape in shapes for way in able for row in _rows_of(samples, shape, way)]
        return [
            *rows,
            *cost_rows(samples),
            *(unable(RATES, way.name, way.roles, faults) for way in ways if way not in able),
        ]

    def _measure_one(self, samples: Samples, shape: Shape, way: Way) -> None:
        with self.parties.attached(way.roles, shape.family) as chosen:
            paid_before = [party.order("paid_packets") for party in chosen]
            volley = self._fire(shape, way, self.seconds)
            paid = [party.order("paid_packets") - before for party, before in zip(chosen, paid_before, strict=True)]
            is_payment = way.roles and way.roles[0] not in IDLE_ROLES
            passed = min(volley.arrived, *paid) if is_payment else volley.arrived
            key = shape, way.name
            samples.packets_per_s[key].append(passed / volley.seconds)
            samples.lost[key].append(1 - volley.arrived / max(1, volley.sent))
            samples.unpaid[key].append(1 - passed / max(1, volley.arrived))
            for party in chosen:
                if party.role not in (Role.NFQUEUE, Role.TREE):
                    self._count_runs(samples, shape, way, party)

    def _count_runs(self, samples: Samples, shape: Shape, way: Way, party: Party) -> None:
        """In a volley of its own: counting costs each run something, too."""
        party.order("count_runs")
        before = party.order("runs")
        self._fire(shape, way, min(COUNTED_S, self.seconds))
        for name, (runs, took_ns) in party.order("runs").items():
            runs_before, took_before_ns = before[name]
            if runs > runs_before:
                mean_ns = (took_ns - took_before_ns) / (runs - runs_before)
                samples.cost_ns[name, way.name, shape_name(shape, way)].append(mean_ns)
        party.order("stop_counting")

    def _fire(self, shape: Shape, way: Way, seconds: float) -> Volley:
        before = self.network.arrived_packets()
        if way.by is By.FRAMES:
            return self.generator.volley_of(self.generator.frames(shape, way.carries, seconds), before)
        fewer = replace(shape, flows=min(shape.flows, HOST_FLOWS_MAX))
        return self.generator.volley_of(self.generator.datagrams(fewer, seconds), before)


def ways_roles(ways: Sequence[Way]) -> set[Role]:
    return {role for way in ways for role in way.roles}


def unable(section: str, what: str, roles: Sequence[Role], faults: dict[Role, str]) -> Row:
    """In place of figures."""
    why = dict.fromkeys(faults[role] for role in roles if role in faults)
    return Row(section=section, what=what, note=f"not measured: {'; '.join(why)}")


def _rows_of(samples: Samples, shape: Shape, way: Way) -> Iterator[Row]:
    found = samples.packets_per_s.get((shape, way.name))
    if not found:
        return
    what = f"{way.name}: {shape_name(shape, way)}"
    note = _note(samples, shape, way)
    thousands = figure_of([value / 1e3 for value in found])
    yield Row(section=RATES, what=what, unit="kpps", figure=thousands, note=note)
    carried = CARRIED.name if way.carries is not Carries.NOTHING else ""
    for base in dict.fromkeys((way.beside, way.also_beside, carried)):
        beside = samples.packets_per_s.get((shape, base))
        if beside and base != way.name:
            ratio = figure_of(ratios(found, beside))
            goal = SHARE_GOAL if base == way.beside and set(way.roles) & set(COST_GOALS_NS) else None
            yield Row(section=RATES, what=f'{what}, to "{base}"', unit="×", figure=ratio, at_least=goal)


def shape_name(shape: Shape, way: Way) -> str:
    return shape.name if way.by is By.FRAMES else replace(shape, flows=min(shape.flows, HOST_FLOWS_MAX)).name


def _note(samples: Samples, shape: Shape, way: Way) -> str:
    """What went otherwise than it should."""
    notes, key = [], (shape, way.name)
    if max(samples.unpaid[key]) > FAULT_AT_MOST:
        notes.append(f"paid ones only: up to {max(samples.unpaid[key]):.1%} of what arrived had passed unpaid")
    if max(samples.lost[key]) > FAULT_AT_MOST:
        notes.append(f"up to {max(samples.lost[key]):.1%} of what was sent got lost")
    return "; ".join(notes)


def cost_rows(samples: Samples) -> Iterator[Row]:
    """Nanoseconds a packet, without what the counting itself takes: an empty program at the same packets."""
    empty = [each for (name, _, _), found in samples.cost_ns.items() if name == EMPTY_PROGRAM for each in found]
    if not empty:
        return
    yield Row(section=COST, what=MEASURING, unit="ns", figure=figure_of(empty), note="taken from all that follow")
    goals = {way.name: COST_GOALS_NS.get(way.roles[0]) for way in WAYS if way.roles}
    sums: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for (name, way, packets), found in sorted(samples.cost_ns.items(), key=lambda item: item[0][:2]):
        if name != EMPTY_PROGRAM:
            own = differences(found, samples.cost_ns[EMPTY_PROGRAM, way, packets])
            sums[way, packets].append(own)
            yield Row(section=COST, what=f"{name}, {way}: {packets}", unit="ns", figure=figure_of(own))
    for (way, packets), parts in sums.items():
        if goal := goals.get(way):
            all_of_them = figure_of([sum(each) for each in zip(*parts, strict=True)])
            what = f"all programs, {way}: {packets}"
            yield Row(section=COST, what=what, unit="ns", figure=all_of_them, at_most=goal)


# -- TCP with segmentation offload -----------------------------------------------------------------------------------

STREAM_WAYS: Final = (
    Way(name="plain", by=By.SOCKETS),
    Way(name="host pays", by=By.SOCKETS, roles=(Role.HOST,), beside="plain"),
    Way(name="first gateway", by=By.SOCKETS, carries=Carries.MAC, roles=(Role.FIRST,), beside="plain"),
    Way(name="transit gateway", by=By.SOCKETS, carries=Carries.NAME, roles=(Role.TRANSIT,), beside="plain"),
    Way(name="host pays, first gateway", by=By.SOCKETS, roles=(Role.HOST, Role.FIRST), beside="plain"),
)
STREAM_FOR_SCALE: Final = Way(
    name="first gateway, NFQUEUE", by=By.SOCKETS, carries=Carries.MAC, roles=(Role.NFQUEUE,), beside="plain"
)


def streams(rates: Rates, *, rounds: int, seconds: float, ways: Sequence[Way] = STREAM_WAYS) -> list[Row]:
    """One connection, sender and receiver on a core each where there are two."""
    faults = rates.parties.faults(ways_roles(ways))
    able = [way for way in ways if not any(role in faults for role in way.roles)]
    samples: dict[str, list[float]] = defaultdict(list)
    unpaid: dict[str, float] = defaultdict(float)
    ports = STREAM_PORT, STREAM_PORT
    with rates.generator.receiving(4, STREAM_PORT) as receiver:
        for number in range(rounds):
            progress(f"TCP, round {number + 1} of {rounds}")
            for way in random.sample(able, len(able)):
                with rates.parties.attached(way.roles, 4) as chosen:
                    word = option(TCP, ports, way.carries)
                    before = [party.order("paid_packets") for party in chosen]
                    received, took_ns = rates.generator.stream(receiver, 4, STREAM_PORT, seconds, word)
                    samples[way.name].append(received * 8 / took_ns)
                    for party, already in zip(chosen, before, strict=True):
                        paid = (party.order("paid_packets") - already) * SEGMENT_BYTES / received
                        unpaid[way.name] = max(unpaid[way.name], 1 - paid)
    rows = []
    for way in able:
        figure = figure_of(samples[way.name])
        note = f"up to {unpaid[way.name]:.1%} went unpaid" if unpaid[way.name] > FAULT_AT_MOST else ""
        rows.append(Row(section=STREAMS, what=way.name, unit="Gbit/s", figure=figure, note=note))
        if way.beside:
            ratio = figure_of(ratios(samples[way.name], samples[way.beside]))
            rows.append(Row(section=STREAMS, what=f'{way.name}, to "{way.beside}"', unit="×", figure=ratio))
    return rows + [unable(STREAMS, way.name, way.roles, faults) for way in ways if way not in able]
