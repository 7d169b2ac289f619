"""What events change: weights, rates, capacities and prices, as arrays; and who is there.

Decides: what an event does. Refuses to know: dynamics. Both the fluid run and the theory of its end use it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lab.simulator.experiment import MEGABIT, Event, Experiment, Flow, Pattern

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What may differ from the experiment by its end: arrays by flow and by link. `ratio`: price to the first price."""

    weight_bit_s: Array
    rate_bit_s: Array  # of unresponsive flows
    active: NDArray[np.bool_]
    capacity: Array
    ratio: Array

    @classmethod
    def first(cls, experiment: Experiment) -> State:
        unit = (experiment.weight_mbit_s or 1.0) * MEGABIT
        base = experiment.price_nanodollars_per_mark
        return cls(
            weight_bit_s=np.array([flow.weight * unit for flow in experiment.flows]),
            rate_bit_s=np.array([_sent(flow) for flow in experiment.flows]),
            active=np.ones(len(experiment.flows), dtype=bool),
            capacity=np.array([link.rate_bit_s for link in experiment.links]),
            ratio=np.array([experiment.price_of(link) / base if base else 1.0 for link in experiment.links]),
        )


def _sent(flow: Flow) -> float:
    """In the mean."""
    reactor = flow.reactor
    part = reactor.on_s / (reactor.on_s + reactor.off_s) if reactor.pattern is Pattern.ON_OFF else 1.0
    return reactor.rate_bit_s * part


def apply(event: Event, experiment: Experiment, state: State) -> None:
    """In place: the arrays are the state's own."""
    base = experiment.price_nanodollars_per_mark
    links = [n for n, link in enumerate(experiment.links) if event.link in (None, link.name)]
    flows = [n for n, flow in enumerate(experiment.flows) if event.flow in (None, flow.name)]
    if event.price_factor is not None:
        state.ratio[links] *= event.price_factor
    if event.price_nanodollars_per_mark is not None and base:
        state.ratio[links] = event.price_nanodollars_per_mark / base
    if event.weight is not None:
        state.weight_bit_s[flows] = event.weight * (experiment.weight_mbit_s or 1.0) * MEGABIT
    if event.willingness_nanodollars_per_s is not None and base:
        for number in flows:
            bits = experiment.flows[number].packet_bits
            state.weight_bit_s[number] = event.willingness_nanodollars_per_s / base * bits
    if event.rate_bit_s is not None and event.link is not None:
        state.capacity[links] = max(event.rate_bit_s, 1.0)
    elif event.rate_bit_s is not None:
        state.rate_bit_s[flows] = event.rate_bit_s


def at_end(experiment: Experiment, state: State) -> State:
    """The same, with those alone who are there then."""
    end = experiment.seconds
    active = [flow.start_s < end and (flow.stop_s is None or flow.stop_s >= end) for flow in experiment.flows]
    return replace(state, active=np.array(active))


def after_events(experiment: Experiment) -> State:
    """What the file alone says of the end. A price controller's price is not in it."""
    state = State.first(experiment)
    for event in experiment.events:
        apply(event, experiment, state)
    return at_end(experiment, state)
