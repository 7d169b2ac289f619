"""The fluid mode: rates and prices as functions of time, with every flow's delays, in NumPy.

Decides: how rates move. Refuses to know: packets, chance (a fluid has none), files. The laws, with the load
y(t) = Σ x_r(t − forward) of each link, and the price q(t) = Σ p(t − back) of each path, forward + back = RTT:

- elastic, window (Kelly's primal): dx/dt = κ (w − x(t−T) q). The product's elastic reactor comes to rest at the same
  rate on another way, with a memory and a lead; `exact` runs that very reactor
- alpha_fair: dx/dt = κ q (x̂(q) − x(t−T)), x̂ = x₀ (w/(x₀ q))^(1/α); the same law at α = 1
- reno, multcp as N of them: dx/dt = N/T² − (β/N) x(t) x(t−T) q, β = 2/3
- what a mark costs is said by the last link of the path: it is the receiver's provider that bills
- streaming, transfers, exact elastic flows: the product's own reactors, once in their interval (`fluidtasks`)

Steps: Adams and Bashforth's of second order, a twentieth of the shortest RTT, or more of it where the work would be
too much, but a quarter at most. `slotted`: plain steps x(t+1) = x(t) + κ (w − x(t−D) q(t−D)), which are a model of
their own (Johari and Tan 2001).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from billpay.errors import ConfigurationError
from lab.simulator.equilibrium import TCP_DECREASE, Demand, Routing, equilibrium, tcp_count
from lab.simulator.experiment import Event, Experiment, MarkingKind, PathPrice, Pattern, ReactorKind
from lab.simulator.fluidmarking import Markings
from lab.simulator.fluidrecord import Record, results_of
from lab.simulator.fluidtasks import Tasks
from lab.simulator.gains import gains_of
from lab.simulator.results import Results
from lab.simulator.state import State, apply, at_end

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Progress = Callable[[str], None]

FINE: Final = 20  # steps in the shortest RTT, where that is affordable
COARSE: Final = 4
WORK: Final = 60_000_000  # of pairs of flow and link, and so many more for each step's own cost
STEP_COST: Final = 3_000
LEAST_STEP_S: Final = 1e-4
MOST_SLOTS: Final = 20_000  # of a round trip
MOST_STEPS: Final = 50_000_000
MOST_CELLS: Final = 50_000_000


def run_fluid(experiment: Experiment, *, progress: Progress | None = None, series: bool = False) -> Results:
    """Runs it and says what came out."""
    run = _Run(experiment)
    run.go(progress or (lambda _line: None))
    return results_of(run.record, run.final_state(), run.gains, series=series)


def step_of(experiment: Experiment) -> float:
    """In seconds."""
    rtts = [flow.rtt_ms / 1e3 for flow in experiment.flows if flow.rtt_ms > 0]
    if experiment.step_ms is not None:
        return experiment.step_ms / 1e3
    shortest = min(rtts, default=0.1)
    if experiment.slotted:
        return shortest
    work = sum(len(flow.path) for flow in experiment.flows) + STEP_COST
    affordable = experiment.seconds * work / WORK
    # So that the shortest RTT is a whole number of steps.
    parts = min(FINE, max(COARSE, int(shortest / affordable)))
    return max(LEAST_STEP_S, max(rtts, default=0.1) / MOST_SLOTS, shortest / parts)


def _require_bounded(experiment: Experiment, dt_s: float, rows: int) -> None:
    """Raises ConfigurationError for what would take days, or all memory."""
    steps = experiment.seconds / dt_s
    if steps > MOST_STEPS:
        problem = f"{experiment.seconds:g} s in steps of {dt_s * 1e3:.3g} ms are {steps:.2g} steps"
        raise ConfigurationError(experiment.name, "seconds", problem, "make it shorter, or set step_ms")
    if rows * 2 * max(len(experiment.flows), len(experiment.links)) > MOST_CELLS:
        problem = f"{dt_s * 1e3:.3g} ms are too fine for the longest round trip"
        raise ConfigurationError(experiment.name, "step_ms", problem, "make it longer")


class _Ring:
    """The last values of many things. Each row is written twice, so that any row of the past is one slice away."""

    def __init__(self, rows: int, first: Array) -> None:
        self._rows = rows
        self._values = np.tile(first, (2 * rows, 1))
        self._flat = self._values.reshape(-1)
        self._width = len(first)
        self._at = 0

    def offsets(self, delays: Indices, columns: Indices) -> Indices:
        """Where a value of `delays` steps ago lies, from the newest row's slice."""
        return np.asarray((self._rows - delays) * self._width + columns, dtype=np.intp)

    def push(self, row: Array) -> None:
        self._at = (self._at + 1) % self._rows
        self._values[self._at] = row
        self._values[self._at + self._rows] = row

    def past(self, offsets: Indices) -> Array:
        return self._flat[self._at * self._width :].take(offsets)


class _Run:
    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._dt_s = step_of(experiment)
        self._steps = max(1, round(experiment.seconds / self._dt_s))
        self._routing = Routing.of(experiment)
        self._delays()
        self._state = State.first(experiment)
        found = equilibrium(experiment)
        self.gains = gains_of(experiment, found, dt_s=self._dt_s, delay_slots=self._round_trips, routing=self._routing)
        longest = np.full(len(experiment.links), self._dt_s)
        np.maximum.at(longest, self._routing.link, (self._round_trips * self._dt_s)[self._routing.flow])
        self._markings = Markings(experiment.links, packet_bytes=experiment.packet_bytes, longest_rtt_s=longest)
        self._tasks = Tasks(experiment)
        self._laws()
        self._watch_prices(longest)
        self.record = Record(experiment, steps=self._steps, dt_s=self._dt_s, routing=self._routing)

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _delays(self) -> None:
        """Forward: the links before; back: the rest of the RTT."""
        flows, delay = self._experiment.flows, {link.name: link.delay_ms for link in self._experiment.links}
        least = 0 if self._experiment.slotted else 1
        totals, forwards = [], []
        for flow in flows:
            total = max(least, round(flow.rtt_ms / 1e3 / self._dt_s))
            before_ms = 0.0
            for name in flow.path:
                forwards.append(min(total, round(before_ms / 1e3 / self._dt_s)))
                before_ms += delay[name]
            totals.append(total)
        self._round_trips = np.array(totals, dtype=np.intp)
        self._forward = np.array(forwards, dtype=np.intp)
        self._back = self._round_trips[self._routing.flow] - self._forward
        self._rows = int(self._round_trips.max()) + 2
        _require_bounded(self._experiment, self._dt_s, self._rows)

    def _laws(self) -> None:
        """Each kind's members, as masks or numbers."""
        experiment, state = self._experiment, self._state
        flows, kinds = experiment.flows, [flow.reactor.kind for flow in experiment.flows]
        demand = Demand(experiment, state)
        self._most, self._least = demand.most, demand.least
        self._fixed = _members(kinds, ReactorKind.UNRESPONSIVE)
        self._decided = self._tasks.numbers()
        self._tcp = _members(kinds, ReactorKind.RENO, ReactorKind.MULTCP)
        self._alpha = _members(kinds, ReactorKind.ALPHA_FAIR)
        self._exponent = np.array([1.0 / flows[n].reactor.alpha for n in self._alpha])
        self._reference = np.array([flows[n].reactor.reference_bit_s or 1.0 for n in self._alpha])
        bits = np.array([flow.packet_bits for flow in flows], dtype=float)
        rtt = self._round_trips * self._dt_s
        count = np.array([tcp_count(flow) for flow in flows])
        with np.errstate(divide="ignore"):
            self._increase = np.where(rtt > 0, count * bits / np.square(rtt), 0.0)[self._tcp]
        self._decrease = (TCP_DECREASE / count / bits)[self._tcp]
        self._least[self._tcp] = np.maximum(self._least, 0.1 * bits / np.maximum(rtt, 1e-3))[self._tcp]
        self._on_off = np.array([n for n in self._fixed if flows[n].reactor.pattern is Pattern.ON_OFF], dtype=np.intp)
        self._starts = np.array([flow.start_s for flow in flows])
        self._stops = np.array([np.inf if flow.stop_s is None else flow.stop_s for flow in flows])
        users = np.bincount(self._routing.link, minlength=len(experiment.links))
        fair = np.minimum.reduceat(
            (state.capacity / np.maximum(users, 1))[self._routing.link], self._routing.flow_starts
        )
        self._first = np.clip(0.5 * fair, self._least, self._most)

    def _watch_prices(self, longest_rtt_s: Array) -> None:
        """Links with a price controller."""
        links = self._experiment.links
        self._priced = np.array(
            [n for n, link in enumerate(links) if link.target_utilisation is not None], dtype=np.intp
        )
        targets = [links[n].target_utilisation or 1.0 for n in self._priced]
        self._targets, self._price_gains = np.array(targets), np.array([links[n].price_gain for n in self._priced])
        periods = [links[n].price_period_s or max(1.0, 20 * longest_rtt_s[n]) for n in self._priced]
        self._periods = np.maximum(1, np.round(np.array(periods) / self._dt_s)).astype(np.intp)
        self._seen = np.zeros(len(self._priced))
        unmarked = any(link.marking.kind is MarkingKind.NONE for link in links)
        self._drops = unmarked and len(self._tcp) > 0

    # -- the run ---------------------------------------------------------------------------------------------------

    def go(self, progress: Progress) -> None:
        self._begin()
        changes = self._changes()
        next_change = 0
        for step in range(self._steps):
            while next_change < len(changes) and changes[next_change][0] <= step:
                changes[next_change][1]()
                next_change += 1
            self._step(step)
            if step % max(1, self._steps // 10) == 0 and step:
                progress(f"{step * self._dt_s:.0f} of {self._experiment.seconds:g} s")
        self.record.end(alike=self._alike, tasks=self._tasks)

    def _begin(self) -> None:
        """Everybody is where they start, and has been for a while."""
        x = np.where(self._starts <= 0, self._first, 0.0)
        x[self._fixed] = np.where(self._starts[self._fixed] <= 0, self._state.rate_bit_s[self._fixed], 0.0)
        self._x = x
        self._active = self._starts <= 0
        self._bounds()
        routing, links = self._routing, len(self._experiment.links)
        self._xs = _Ring(self._rows, x)
        self._ms = _Ring(self._rows, np.zeros(links))
        forward = self._forward[routing.by_link]
        self._load_offsets = self._xs.offsets(forward, routing.flow[routing.by_link])
        self._price_offsets = self._ms.offsets(self._back, routing.link)
        self._own_offsets = self._xs.offsets(self._round_trips, np.arange(len(x)))
        self._alike = (
            bool(np.all(self._state.ratio == 1.0))
            and not len(self._priced)
            and not (any(_moves_price(event) for event in self._experiment.events))
        )
        self._before: Array | None = None
        self._has_tcp, self._has_alpha = len(self._tcp) > 0, len(self._alpha) > 0
        self._has_fixed = len(self._fixed) + len(self._decided) > 0

    def _bounds(self) -> None:
        self._low = np.where(self._active, self._least, 0.0)
        self._high = np.where(self._active, self._most, 0.0)

    def _step(self, step: int) -> None:
        state, dt_s = self._state, self._dt_s
        routing = self._routing
        y = np.zeros(len(self._experiment.links))
        y[routing.used] = np.add.reduceat(self._xs.past(self._load_offsets), routing.link_starts)
        marked = self._markings.step(y, dt_s)
        self._ms.push(marked)
        q = share = self._along_paths(self._ms)
        if not self._alike:
            q = share * state.ratio[routing.last]
        self.record.add(step, self._x, q, share, y, marked, self._markings, state.ratio)
        if self._has_fixed:
            self._tasks.on_step(step * dt_s, dt_s, self._x, q, share)
        self._move(q, self._with_losses(q) if self._drops else q, step)
        if len(self._priced):
            self._move_prices(step, y)

    def _along_paths(self, ring: _Ring) -> Array:
        values = ring.past(self._price_offsets)
        if self._experiment.path_price is PathPrice.SUM:
            return np.add.reduceat(values, self._routing.flow_starts)
        spared = np.log1p(-np.minimum(values, 1 - 1e-12))
        return -np.expm1(np.add.reduceat(spared, self._routing.flow_starts))

    def _with_losses(self, q: Array) -> Array:
        """What a Reno hears: a loss is as good as a mark."""
        lost = np.add.reduceat(self._markings.lost[self._routing.link], self._routing.flow_starts)
        return np.asarray(q + lost)

    def _move(self, q: Array, heard: Array, step: int) -> None:
        past = self._xs.past(self._own_offsets)
        weight = self._state.weight_bit_s
        rate = weight - past * q
        if self._has_alpha:
            members = self._alpha
            q_a = np.maximum(q[members], 1e-30)
            wanted = self._reference * (weight[members] / (self._reference * q_a)) ** self._exponent
            # Where a price is all but nothing, it still moves: by a tenth of what it would at its usual price.
            speed = np.maximum(q_a, 0.1 * weight[members] / self._reference)
            rate[members] = speed * (np.minimum(wanted, self._high[members]) - past[members])
        rate *= self.gains.per_s
        if self._has_tcp:
            members = self._tcp
            rate[members] = self._increase - self._decrease * self._x[members] * past[members] * heard[members]
        if self._experiment.slotted or self._before is None:
            moved = self._x + self._dt_s * rate
        else:
            moved = self._x + self._dt_s * (1.5 * rate - 0.5 * self._before)
        self._before = rate
        np.maximum(moved, self._low, out=moved)
        np.minimum(moved, self._high, out=moved)
        if self._has_fixed:
            self._set_fixed(moved, (step + 1) * self._dt_s)
        self._x = moved
        self._xs.push(moved)

    def _set_fixed(self, x: Array, now_s: float) -> None:
        members = self._fixed
        x[members] = self._state.rate_bit_s[members] * self._active[members]
        for n in self._on_off:
            reactor = self._experiment.flows[n].reactor
            # As much later as it has earlier neighbours: on/off flows that all begin together are no model of anything.
            phase = (now_s - self._starts[n] + n * 0.618 * (reactor.on_s + reactor.off_s)) % (
                reactor.on_s + reactor.off_s
            )
            x[n] = reactor.rate_bit_s * (phase < reactor.on_s) * self._active[n]
        for n in self._decided:
            x[n] = self._tasks.rate_bit_s(int(n)) * self._active[n]

    def _move_prices(self, step: int, y: Array) -> None:
        """ln π ← ln π + g (ρ̂ − ρ*), no more than twofold, at the end of each period."""
        self._seen += y[self._priced]
        due = (step + 1) % self._periods == 0
        if not due.any():
            return
        load = self._seen / self._periods / self._markings.capacity[self._priced]
        self._seen[due] = 0.0
        change = np.clip(np.exp(self._price_gains * (load - self._targets)), 0.5, 2.0)
        self._state.ratio[self._priced] *= np.where(due, change, 1.0)

    # -- changes ---------------------------------------------------------------------------------------------------

    def _changes(self) -> list[tuple[int, Callable[[], None]]]:
        """What happens from outside, in order: starts, stops, events."""
        found: list[tuple[float, Callable[[], None]]] = []
        edges = set(self._starts[self._starts > 0]) | set(self._stops[np.isfinite(self._stops)])
        found += [(float(at_s), self._activate_at(float(at_s))) for at_s in edges]
        found += [(event.at_s, self._event(event)) for event in self._experiment.events]
        return [(round(at_s / self._dt_s), change) for at_s, change in sorted(found, key=lambda each: each[0])]

    def _activate_at(self, at_s: float) -> Callable[[], None]:
        def activate() -> None:
            self._active = (self._starts <= at_s) & (self._stops > at_s)
            self._bounds()
            begins = self._starts == at_s
            self._x = np.where(begins, self._first, np.where(self._active, self._x, 0.0))

        return activate

    def _event(self, event: Event) -> Callable[[], None]:
        def happen() -> None:
            apply(event, self._experiment, self._state)
            if event.rate_bit_s is not None and event.link is not None:
                self._markings.change_rate(self._state.capacity)

        return happen

    def final_state(self) -> State:
        return at_end(self._experiment, self._state)


def _moves_price(event: Event) -> bool:
    return event.price_factor is not None or event.price_nanodollars_per_mark is not None


def _members(kinds: list[ReactorKind], *wanted: ReactorKind) -> Indices:
    return np.array([number for number, kind in enumerate(kinds) if kind in wanted], dtype=np.intp)
