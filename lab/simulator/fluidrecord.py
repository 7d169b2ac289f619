"""What a fluid run remembers, and the numbers made of it.

Decides: means over blocks of steps, what is measured, how much something oscillates. Refuses to know: the laws.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from lab.simulator.equilibrium import Equilibrium, Routing, equilibrium
from lab.simulator.experiment import BITS_PER_BYTE, MEGABIT, Experiment, Mode, ReactorKind
from lab.simulator.fluidmarking import Markings
from lab.simulator.fluidtasks import Tasks
from lab.simulator.gains import Gains
from lab.simulator.results import FlowResult, LinkResult, Phase, PhaseFlow, PhaseLink, Results, Series
from lab.simulator.state import State

Array = NDArray[np.float64]

BLOCKS: Final = 1_200
CELLS: Final = 8_000_000  # numbers that one recorded quantity may take
SERIES_POINTS: Final = 600
SETTLED: Final = 0.05
OSCILLATION_PART: Final = 0.75  # of the run: what comes after shows whether it still moves


class Record:
    """Sums of the steps of each block; extremes of the last quarter, of every step."""

    def __init__(self, experiment: Experiment, *, steps: int, dt_s: float, routing: Routing) -> None:
        self.experiment, self.dt_s, self.routing = experiment, dt_s, routing
        flows, links = len(experiment.flows), len(experiment.links)
        wanted = min(BLOCKS, steps, max(20, CELLS // max(flows, links)))
        self._block = -(-steps // wanted)
        count = -(-steps // self._block)
        self.rates, self.charged, self.marked = (np.zeros((count, flows)) for _ in range(3))
        self.loads, self.link_marks, self.queues, self.lost, self.ratios = (np.zeros((count, links)) for _ in range(5))
        self.worst_queues = np.zeros((count, links))
        self._sizes = np.full(count, float(self._block))
        self._sizes[-1] = steps - self._block * (count - 1)
        self.ends_s = np.minimum(np.arange(1, count + 1) * self._block, steps) * dt_s
        self._extremes_from = int(steps * OSCILLATION_PART)
        self._low, self._high = np.full(flows, np.inf), np.zeros(flows)
        self._low_link, self._high_link = np.full(links, np.inf), np.zeros(links)

    def add(
        self, step: int, x: Array, q: Array, share: Array, y: Array, marked: Array, markings: Markings, ratio: Array
    ) -> None:
        at = step // self._block
        self.rates[at] += x
        self.charged[at] += x * q
        if share is not q:
            self.marked[at] += x * share
        self.loads[at] += y
        self.link_marks[at] += y * marked
        self.queues[at] += markings.queue
        np.maximum(self.worst_queues[at], markings.queue, out=self.worst_queues[at])
        self.lost[at] += y * markings.lost
        self.ratios[at] = ratio
        if step >= self._extremes_from:
            np.minimum(self._low, x, out=self._low)
            np.maximum(self._high, x, out=self._high)
            np.minimum(self._low_link, y, out=self._low_link)
            np.maximum(self._high_link, y, out=self._high_link)

    def end(self, *, alike: bool, tasks: Tasks) -> None:
        """Sums become means."""
        self.tasks = tasks
        sizes = self._sizes[:, None]
        for sums in (self.rates, self.charged, self.marked, self.loads, self.link_marks, self.queues, self.lost):
            sums /= sizes
        if alike:
            self.marked = self.charged

    def of_time(self, from_s: float, to_s: float) -> NDArray[np.bool_]:
        """The blocks that lie in it; the last one where there is none."""
        starts = np.concatenate(([0.0], self.ends_s[:-1]))
        inside = (starts >= from_s - 1e-9) & (self.ends_s <= to_s + 1e-9)
        if not inside.any():
            inside[min(len(inside) - 1, int(np.searchsorted(self.ends_s, to_s - 1e-9)))] = True
        return inside

    def amplitudes(self) -> tuple[Array, Array]:
        """(max − min)/mean in the last quarter, of flows and of links; NaN of what stands still at 0."""
        late = self.of_time(self.ends_s[-1] * OSCILLATION_PART, self.ends_s[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            flows = (self._high - self._low) / self.rates[late].mean(axis=0)
            links = (self._high_link - self._low_link) / self.loads[late].mean(axis=0)
        return flows, links

    def swings(self) -> Array:
        """max − min of each flow in the last quarter."""
        return np.asarray(self._high - self._low)

    def settled_s(self, values: Array, number: int) -> float | None:
        """From when on it stayed near its last mean."""
        series = values[:, number]
        last = series[self.of_time(self.ends_s[-1] * OSCILLATION_PART, self.ends_s[-1])].mean()
        if last <= 0:
            return None
        away = np.nonzero(np.abs(series - last) > SETTLED * last)[0]
        if not len(away):
            return 0.0
        return float(self.ends_s[away[-1]]) if away[-1] + 1 < len(series) else None


def results_of(record: Record, state: State, gains: Gains, *, series: bool) -> Results:
    experiment = record.experiment
    expected = equilibrium(experiment, state)
    flows, links = _flows(record, gains, expected, state), _links(record, state, expected)
    moving = [flow.amplitude for flow in flows if flow.amplitude is not None]
    return Results(
        name=experiment.name,
        title=experiment.title,
        mode=Mode.FLUID.value,
        seed=experiment.seed,
        seconds=experiment.seconds,
        measured_from_s=experiment.measured_from_s,
        step_ms=record.dt_s * 1e3,
        largest_amplitude=max(moving, default=None),
        flows=flows,
        links=links,
        phases=_phases(record),
        series=_series(record) if series else None,
        notes=experiment.notes + _notes(record, state),
    )


def _flows(record: Record, gains: Gains, expected: Equilibrium | None, state: State) -> tuple[FlowResult, ...]:
    experiment = record.experiment
    price = experiment.price_nanodollars_per_mark
    unit = experiment.weight_mbit_s or 1.0
    amplitudes, _ = record.amplitudes()
    block_s = np.diff(np.concatenate(([0.0], record.ends_s)))
    whole_bits = block_s @ record.rates
    whole_charged = block_s @ record.charged
    found = []
    for number, flow in enumerate(experiment.flows):
        end_s = min(experiment.seconds, flow.stop_s if flow.stop_s is not None else experiment.seconds)
        begin_s = min(max(experiment.measured_from_s, flow.start_s), end_s)
        inside = record.of_time(begin_s, end_s)
        rate = float(record.rates[inside, number].mean())
        charged = float(record.charged[inside, number].mean())  # bit/s of marks, at the first price
        marked = float(record.marked[inside, number].mean())
        cost = charged / flow.packet_bits * price
        found.append(
            FlowResult(
                name=flow.name,
                rate_bit_s=rate,
                share=0.0,
                expected_bit_s=_said(expected, number),
                weight=float(state.weight_bit_s[number]) / unit / MEGABIT,
                willingness_nanodollars_per_s=float(state.weight_bit_s[number]) / flow.packet_bits * price,
                price=charged / rate / unit if rate else None,
                marked_share=min(1.0, marked / rate) if rate else None,
                marks_per_s=marked / flow.packet_bits,
                cost_nanodollars_per_s=cost,
                cost_nanodollars=round(float(whole_charged[number]) / flow.packet_bits * price),
                cost_nanodollars_per_mb=cost / rate * BITS_PER_BYTE * MEGABIT if rate else None,
                bytes_sent=round(float(whole_bits[number]) / BITS_PER_BYTE),
                lost_share=None,
                amplitude=_number(amplitudes[number]),
                amplitude_of_expected=_of_expected(record, expected, number),
                settled_s=record.settled_s(record.rates, number),
                gain_of_bound=_number(gains.of_bound[number]),
                rtt_ms=flow.rtt_ms,
                switches=record.tasks.switches(number),
                finished_s=record.tasks.finished_s(number),
            )
        )
    return _with_shares(found, record)


def _with_shares(found: list[FlowResult], record: Record) -> tuple[FlowResult, ...]:
    total = sum(flow.rate_bit_s for flow in found)
    losses = _losses(record)
    return tuple(
        msgspec.structs.replace(flow, share=flow.rate_bit_s / total if total else 0.0, lost_share=losses[number])
        for number, flow in enumerate(found)
    )


def _losses(record: Record) -> list[float]:
    """By flow: what its links lost of their loads in the measured time."""
    inside = record.of_time(record.experiment.measured_from_s, record.experiment.seconds)
    lost = record.lost[inside].mean(axis=0) / np.maximum(record.loads[inside].mean(axis=0), 1.0)
    kept = np.multiply.reduceat((1.0 - np.minimum(lost, 1.0))[record.routing.link], record.routing.flow_starts)
    return [float(1.0 - each) for each in kept]


def _said(expected: Equilibrium | None, number: int) -> float | None:
    return None if expected is None else float(expected.rates_bit_s[number])


def _of_expected(record: Record, expected: Equilibrium | None, number: int) -> float | None:
    if expected is None or expected.rates_bit_s[number] <= 0:
        return None
    return _number(record.swings()[number] / expected.rates_bit_s[number])


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _links(record: Record, state: State, expected: Equilibrium | None) -> tuple[LinkResult, ...]:
    experiment = record.experiment
    base, unit = experiment.price_nanodollars_per_mark, experiment.weight_mbit_s or 1.0
    bits = experiment.packet_bytes * BITS_PER_BYTE
    inside = record.of_time(experiment.measured_from_s, experiment.seconds)
    loads, marks = record.loads[inside].mean(axis=0), record.link_marks[inside].mean(axis=0)
    charged = (record.link_marks[inside] * record.ratios[inside]).mean(axis=0)
    lost = record.lost[inside].mean(axis=0)
    _, amplitudes = record.amplitudes()
    found = []
    for number, link in enumerate(experiment.links):
        load, capacity = float(loads[number]), float(state.capacity[number])
        ms_of_packet = bits / capacity * 1e3
        mean = float(record.queues[inside, number].mean())
        high = float(np.quantile(record.worst_queues[inside, number], 0.99))
        share = float(marks[number]) / load if load else 0.0
        found.append(
            LinkResult(
                name=link.name,
                rate_bit_s=load - float(lost[number]),
                utilisation=min(1.0, (load - float(lost[number])) / capacity),
                expected_utilisation=None if expected is None else float(expected.loads[number]) / capacity,
                marked_share=share,
                price=(float(charged[number]) / load if load else 0.0) / unit,
                expected_price=None if expected is None else float(expected.prices[number]) / unit,
                price_nanodollars_per_mark=float(state.ratio[number]) * base,
                marks_per_s=float(marks[number]) / bits,
                revenue_nanodollars_per_s=float(charged[number]) / bits * base,
                queue_mean_packets=mean,
                queue_p99_packets=high,
                queue_mean_ms=mean * ms_of_packet,
                queue_p99_ms=high * ms_of_packet,
                lost_share=float(lost[number]) / load if load else 0.0,
                amplitude=_number(amplitudes[number]),
            )
        )
    return tuple(found)


def _phases(record: Record) -> tuple[Phase, ...]:
    experiment = record.experiment
    edges = sorted({0.0, experiment.seconds, *(event.at_s for event in experiment.events)})
    if len(edges) < 3:
        return ()
    return tuple(_phase(record, begin, end) for begin, end in pairwise(edges))


def _phase(record: Record, begin: float, end: float) -> Phase:
    experiment, inside = record.experiment, record.of_time((begin + end) / 2, end)
    price, bits = experiment.price_nanodollars_per_mark, experiment.packet_bytes * BITS_PER_BYTE
    rates, charged = record.rates[inside].mean(axis=0), record.charged[inside].mean(axis=0)
    marked = record.marked[inside].mean(axis=0)
    loads, marks = record.loads[inside].mean(axis=0), record.link_marks[inside].mean(axis=0)
    paid = (record.link_marks[inside] * record.ratios[inside]).mean(axis=0)
    return Phase(
        from_s=begin,
        to_s=end,
        flows=tuple(
            PhaseFlow(
                name=flow.name,
                rate_bit_s=float(rates[n]),
                marks_per_s=float(marked[n]) / flow.packet_bits,
                cost_nanodollars_per_s=float(charged[n]) / flow.packet_bits * price,
            )
            for n, flow in enumerate(experiment.flows)
        ),
        links=tuple(
            PhaseLink(
                name=link.name,
                utilisation=float(loads[n]) / link.rate_bit_s,
                marked_share=float(marks[n] / loads[n]) if loads[n] else 0.0,
                price_nanodollars_per_mark=float(record.ratios[inside][-1, n]) * price,
                revenue_nanodollars_per_s=float(paid[n]) / bits * price,
            )
            for n, link in enumerate(experiment.links)
        ),
    )


def _series(record: Record) -> Series:
    together = -(-len(record.ends_s) // SERIES_POINTS)
    starts = np.arange(0, len(record.ends_s), together)
    sizes = np.diff(np.append(starts, len(record.ends_s)))[:, None]

    def means(values: Array) -> Array:
        return np.asarray(np.add.reduceat(values, starts, axis=0) / sizes)

    flows, links = record.experiment.flows, record.experiment.links
    rates, loads, queues = means(record.rates), means(record.loads), means(record.queues)
    shares = means(record.link_marks) / np.maximum(loads, 1.0)
    prices = means(record.ratios) * record.experiment.price_nanodollars_per_mark
    ends = np.append(starts[1:], len(record.ends_s)) - 1

    def named(values: Array, names: list[str]) -> dict[str, tuple[float, ...]]:
        return {name: tuple(values[:, n].tolist()) for n, name in enumerate(names)}

    flow_names, link_names = [flow.name for flow in flows], [link.name for link in links]
    return Series(
        at_s=tuple(record.ends_s[ends].tolist()),
        flow_rates_bit_s=named(rates, flow_names),
        link_rates_bit_s=named(loads, link_names),
        link_marked_shares=named(shares, link_names),
        link_queues_packets=named(queues, link_names),
        link_prices_nanodollars_per_mark=named(prices, link_names),
    )


def _notes(record: Record, state: State) -> tuple[str, ...]:
    notes = []
    experiment = record.experiment
    free = [link.name for link in experiment.links if link.marking.kind == "none"]
    if free and any(flow.reactor.kind is ReactorKind.ELASTIC for flow in experiment.flows):
        notes.append(f"link {free[0]} marks nothing, and a fluid flow that pays nothing there grows without an end")
    inside = record.of_time(experiment.measured_from_s, experiment.seconds)
    over = record.loads[inside].mean(axis=0) / state.capacity
    if (over > 1.02).any():
        worst = int(np.argmax(over))
        notes.append(f"link {experiment.links[worst].name} is offered {over[worst]:.0%} of its rate: the rest is lost")
    return tuple(notes)
