"""How fast each flow answers, and at which gain theory says that it begins to oscillate.

Decides: κ of each flow, out of the file's gain or part of the bound. Refuses to know: how a run goes on.
Continuous: κ T Σ (p + y p') < π/2 (Vinnicombe, Massoulié; one link: Kelly). Slotted, with a delay of D slots:
κ Σ (p + y p') < 2 sin(π/(2(2D + 1))) a slot (Johari and Tan 2001). Where a rule is no function of its load, y p' is
that of an elasticity of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lab.simulator.equilibrium import Equilibrium, Routing
from lab.simulator.experiment import Experiment, Link, MarkingKind, ReactorKind
from lab.simulator.fluidmarking import STATIC, static_share
from lab.simulator.state import State
from pricereactor.stability import largest_slotted_gain

Array = NDArray[np.float64]

OF_BOUND: Final = 0.25
_GAINED: Final = frozenset((ReactorKind.ELASTIC, ReactorKind.WINDOW, ReactorKind.ALPHA_FAIR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """κ by flow, per second, and the part of its bound that it is; 0 and NaN where a flow has none."""

    per_s: Array
    of_bound: Array


def gains_of(
    experiment: Experiment, found: Equilibrium | None, *, dt_s: float, delay_slots: NDArray[np.intp], routing: Routing
) -> Gains:
    steepness = _steepness(experiment, found, routing)
    slots = np.maximum(delay_slots, 1)
    if experiment.slotted:
        bound = np.array([largest_slotted_gain(int(each)) for each in delay_slots]) / dt_s / steepness
    else:
        bound = math.pi / 2 / (slots * dt_s) / steepness
    per_s = np.zeros(len(experiment.flows))
    of_bound = np.full(len(experiment.flows), np.nan)
    for number, flow in enumerate(experiment.flows):
        if flow.reactor.kind not in _GAINED or flow.reactor.exact:
            continue
        given = flow.reactor.gain_per_s
        part = flow.reactor.gain_of_bound or OF_BOUND
        per_s[number] = given if given is not None else part * bound[number]
        of_bound[number] = per_s[number] / bound[number]
    return Gains(per_s=per_s, of_bound=of_bound)


def _steepness(experiment: Experiment, found: Equilibrium | None, routing: Routing) -> Array:
    """Σ (p + y p') along each path, in the equilibrium."""
    if found is None:
        weights = State.first(experiment).weight_bit_s
        equal = {link.name: link.rate_bit_s for link in experiment.links}
        users = np.bincount(routing.link, minlength=len(experiment.links))
        number = experiment.index_of()
        fair = [min(equal[n] / max(1, users[number[n]]) for n in flow.path) for flow in experiment.flows]
        return np.asarray(np.maximum(2.0 * weights / np.array(fair), 1e-3))
    ratio = State.first(experiment).ratio
    of_link = np.array(
        [
            _steepness_of(link, price, load, part)
            for link, price, load, part in zip(experiment.links, found.prices, found.loads, ratio, strict=True)
        ]
    )
    return np.maximum(np.add.reduceat(of_link[routing.link], routing.flow_starts), 1e-9)


def _steepness_of(link: Link, price: float, load: float, ratio: float) -> float:
    if link.marking.kind is MarkingKind.POWER:
        return (1.0 + link.marking.exponent) * float(price)
    if link.marking.kind in STATIC:
        nudge = max(load, 1.0) * 1e-4
        slope = (static_share(link, load + nudge) - static_share(link, load - nudge)) / (2 * nudge)
        if link.target_utilisation is not None:  # the provider's price makes of that share what clears
            ratio = float(price) / max(static_share(link, load), 1e-9)
        return float(price + load * slope * ratio)
    if link.marking.kind is MarkingKind.AVQ:
        return float(ratio)  # (y − C̃)/y: p + y p' = p + 1 − p
    return 2.0 * float(price)
