"""What theory expects: the rates and prices at which nothing moves any more, without running anything.

Decides: the fixed point of demand x_r(q_r) and of the links' prices. Refuses to know: dynamics and delays.
A link whose rule is a function of its load has the price of its load; any other has the price at which its load is
what the rule wants, or 0 where the load stays below that. Solved by p ← p (y/s(p))^η, where s is the load that goes
with the price: for logarithmic utilities the step that never makes the dual worse (Kelly, Maulloo, Tan 1998).
None: the flows at the end are of kinds that have no such point (streams, transfers), or it was not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lab.simulator.experiment import Experiment, Flow, Link, MarkingKind, PathPrice, ReactorKind
from lab.simulator.fluidmarking import STATIC, virtual_queue_load
from lab.simulator.state import State

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_ITERATIONS: Final = 20_000
_CLOSE: Final = 1e-10
_LEAST_PRICE: Final = 1e-15
RATE_OVER_PATH: Final = 10.0
"""A flow without a limit of its own is held at so many times its path's least rate, where nothing marks."""
TCP_DECREASE: Final = 2 / 3
"""β of dx/dt = 1/T² − β x(t) x(t−T) q: a rate of sqrt(1.5/q)/T."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The pairs of flow and link, in the order of the flows and in that of the links."""

    flow: Indices  # of each pair, in flow order
    link: Indices
    flow_starts: Indices
    by_link: Indices  # the pairs in link order
    used: Indices  # links that have flows
    link_starts: Indices
    last: Indices  # by flow: its last link, whose provider bills

    @classmethod
    def of(cls, experiment: Experiment) -> Routing:
        number = experiment.index_of()
        lengths = np.array([len(flow.path) for flow in experiment.flows])
        link = np.array([number[name] for flow in experiment.flows for name in flow.path], dtype=np.intp)
        flow = np.repeat(np.arange(len(experiment.flows)), lengths)
        by_link = np.argsort(link, kind="stable")
        used, starts = np.unique(link[by_link], return_index=True)
        flow_starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        last = link[np.cumsum(lengths) - 1]
        return cls(
            flow=flow,
            link=link,
            flow_starts=flow_starts,
            by_link=by_link,
            used=used,
            link_starts=starts,
            last=last,
        )

    def loads(self, rates: Array, links: int) -> Array:
        y = np.zeros(links)
        y[self.used] = np.add.reduceat(rates[self.flow[self.by_link]], self.link_starts)
        return y

    def path_prices(self, prices: Array, how: PathPrice) -> Array:
        if how is PathPrice.SUM:
            return np.add.reduceat(prices[self.link], self.flow_starts)
        spared = np.log1p(-np.minimum(prices, 1 - 1e-12))
        return -np.expm1(np.add.reduceat(spared[self.link], self.flow_starts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equilibrium:
    """prices: by link, in units of marked share (times the price's change since the beginning)."""

    rates_bit_s: Array
    path_prices: Array
    prices: Array
    loads: Array


class Demand:
    """x(q) of each flow."""

    def __init__(self, experiment: Experiment, state: State) -> None:
        flows, number = experiment.flows, experiment.index_of()
        kinds = [flow.reactor.kind for flow in flows]
        least = np.array([min(state.capacity[number[name]] for name in flow.path) for flow in flows])
        top = [flow.reactor.max_bit_s for flow in flows]
        self.most = np.where([t is None for t in top], RATE_OVER_PATH * least, [t or 0.0 for t in top])
        self.least = np.array([flow.reactor.min_bit_s for flow in flows])
        self._state = state
        self._fixed = np.array([kind is ReactorKind.UNRESPONSIVE for kind in kinds])
        self._alpha = np.array(
            [flow.reactor.alpha if flow.reactor.kind is ReactorKind.ALPHA_FAIR else 1.0 for flow in flows]
        )
        self._reference = np.array([flow.reactor.reference_bit_s or 1.0 for flow in flows])
        self._tcp = np.array([kind in (ReactorKind.RENO, ReactorKind.MULTCP) for kind in kinds])
        self._tcp_rate = np.array([tcp_count(flow) * flow.packet_bits / max(flow.rtt_ms / 1e3, 1e-3) for flow in flows])

    @property
    def elasticity(self) -> float:
        """The largest α: an iteration on prices may be so much bolder."""
        return float(np.max(np.where(self._tcp, 2.0, self._alpha)))

    def rates(self, q: Array) -> Array:
        q = np.maximum(q, 1e-30)
        state = self._state
        wanted = self._reference * (state.weight_bit_s / (self._reference * q)) ** (1.0 / self._alpha)
        tcp = self._tcp_rate * np.sqrt(1.0 / (TCP_DECREASE * q))
        x = np.clip(np.where(self._tcp, tcp, wanted), self.least, self.most)
        return np.where(state.active, np.where(self._fixed, state.rate_bit_s, x), 0.0)


def tcp_count(flow: Flow) -> float:
    """As how many Renos it behaves."""
    return flow.weight if flow.reactor.kind is ReactorKind.MULTCP else 1.0


def equilibrium(experiment: Experiment, state: State | None = None) -> Equilibrium | None:
    """At the beginning with all flows there, or in another state."""
    state = state or State.first(experiment)
    kinds = {flow.reactor.kind for flow, active in zip(experiment.flows, state.active, strict=True) if active}
    if kinds & {ReactorKind.STREAMING, ReactorKind.TRANSFER}:
        return None
    if kinds != {ReactorKind.UNRESPONSIVE} and any(link.marking.kind is MarkingKind.NONE for link in experiment.links):
        return None
    routing, demand = Routing.of(experiment), Demand(experiment, state)
    supply = _Supply(experiment.links, state)
    return _solve(experiment, routing, demand, supply)


def _solve(experiment: Experiment, routing: Routing, demand: Demand, supply: _Supply) -> Equilibrium | None:
    count = len(experiment.links)
    ratio = supply.ratio[routing.last]
    prices = np.full(count, 0.1)
    step = demand.elasticity
    before = np.inf
    for _ in range(_ITERATIONS):
        q = routing.path_prices(prices, experiment.path_price) * ratio
        loads = routing.loads(demand.rates(q), count)
        change = np.clip((np.maximum(loads, 1e-6) / supply.loads(prices)) ** (step * supply.boldness), 0.2, 5.0)
        moved = np.clip(prices * change, _LEAST_PRICE, supply.most)
        error = float(np.max(np.abs(moved - prices) / np.maximum(prices, 1e-7)))
        prices = moved
        if error < _CLOSE:
            break
        if error > before * 1.5 and step > 0.02:
            step *= 0.7
        before = min(error, before * 1.01)
    else:
        if error > 1e-4:
            return None
    q = routing.path_prices(prices, experiment.path_price) * ratio
    rates = demand.rates(q)
    return Equilibrium(
        rates_bit_s=rates, path_prices=q, prices=prices * supply.ratio, loads=routing.loads(rates, count)
    )


class _Supply:
    """s(p): the load that goes with a price. Where a rule wants a load, that one, whatever the price."""

    def __init__(self, links: Sequence[Link], state: State) -> None:
        self._kinds = np.array([_wanting(link) for link in links])
        self._capacity = state.capacity
        # Where a provider moves its price, the price that clears is what is looked for, and not the share.
        self.ratio = np.where([link.target_utilisation is not None for link in links], 1.0, state.ratio)
        self._wanted = state.capacity * np.array([wanted_load(link) for link in links])
        self._exponent = np.maximum([link.marking.exponent for link in links], 1e-9)
        self._theta = np.array([link.marking.theta for link in links])
        self._buffer = np.maximum(self._theta * [link.buffer_packets for link in links], 1.0)
        self.most = np.where(self._kinds == "power", 1e6, 1.0)
        # With a price p = (y/C)^B of its own a link moves s as well: the whole step of the two is 1 at (1 + 1/B).
        self.boldness = np.where(self._kinds == "power", 1.0 / (1.0 + 1.0 / self._exponent), 0.8)

    def loads(self, prices: Array) -> Array:
        found = self._wanted
        if (self._kinds == "power").any():
            found = np.where(self._kinds == "power", self._capacity * prices ** (1.0 / self._exponent), found)
        if (self._kinds == "overload").any():
            over = self._theta * self._capacity / np.maximum(1.0 - prices, 1e-6)
            found = np.where(self._kinds == "overload", over, found)
        if (self._kinds == "virtual_queue").any():
            queue = self._theta * self._capacity * virtual_queue_load(prices, self._buffer)
            found = np.where(self._kinds == "virtual_queue", queue, found)
        return np.asarray(found)


def _wanting(link: Link) -> str:
    """The rule that decides; with a price controller the load is wanted, whatever the rule."""
    return link.marking.kind.value if link.target_utilisation is None and link.marking.kind in STATIC else "wanted"


def wanted_load(link: Link) -> float:
    """As a part of the link's rate."""
    if link.target_utilisation is not None:
        return link.target_utilisation
    match link.marking.kind:
        case MarkingKind.CLEARING | MarkingKind.AVQ:
            return link.marking.gamma
        case MarkingKind.RED | MarkingKind.STEP:
            return link.marking.theta
        case _:
            return 1.0
