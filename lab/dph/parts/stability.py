"""Part 2, fluid: how far a rate swings, against its gain and against its delay.

Decides: below 0.95 of the bound a rate stands still (2 %), above 1.05 it swings (20 %). Refuses to know: packets.
Theory: dx/dt = κ (w − x p) with round trip T is stable iff κ T (p + y p') < π/2; with κ = κ̄/T whatever T is
(algorithms C.1; Gibbens and Kelly 1999). With p = (y/C)^4 the swing at 1.1 of the bound is 43 % of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from billpay.errors import LocalProtocolError
from lab.dph.effort import Effort
from lab.dph.values import Expectation, PartResult, Value, expect
from lab.dph.worlds import experiment_of
from lab.simulator.running import run_experiment
from pricereactor.elastic import ElasticPlan

STILL: Final = 0.02
SWINGS: Final = 0.20
EXPONENT: Final = 4.0
CAPACITY_BIT_S: Final = 100_000_000
WEIGHT: Final = 2.0
BOUND_AT_MS: Final = 60.0
"""The delay at which the fixed gain of the delay's sweep is the bound."""
STEADY_KAPPA_BAR: Final = 0.5
"""Of the bound, in the sweep where the gain follows the round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    rtt_ms: float
    gain_of_bound: float
    round_trips: int


class Swing(Value, frozen=True, kw_only=True):
    """amplitude: (largest − least)/mean in the last quarter of the run."""

    rtt_ms: float
    gain_of_bound: float
    amplitude: float


class Stability(PartResult, frozen=True, kw_only=True):
    """`fixed`: one κ for all round trips; `following`: κ̄/T."""

    by_gain: tuple[Swing, ...]
    fixed: tuple[Swing, ...]
    following: tuple[Swing, ...]
    product_refuses_from: float


def run(effort: Effort) -> Stability:
    gains = effort.pick(
        full=(0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 1.75, 2.0),
        quick=(0.1, 0.5, 0.9, 0.95, 1.05, 1.1, 1.5, 2.0),
        tiny=(0.5, 1.5),
    )
    trips = effort.pick(full=(10.0, 40.0, 120.0), quick=(10.0, 120.0), tiny=(40.0,))
    delays = effort.pick(
        full=(10.0, 20.0, 30.0, 40.0, 50.0, 55.0, 65.0, 70.0, 80.0, 100.0, 120.0),
        quick=(10.0, 50.0, 70.0, 120.0),
        tiny=(30.0, 90.0),
    )
    (length,) = effort.pick(full=(600,), quick=(500,), tiny=(150,))
    by_gain = [Run(rtt_ms=trip, gain_of_bound=gain, round_trips=length) for trip in trips for gain in gains]
    fixed = [Run(rtt_ms=delay, gain_of_bound=delay / BOUND_AT_MS, round_trips=length) for delay in delays]
    following = [Run(rtt_ms=delay, gain_of_bound=STEADY_KAPPA_BAR, round_trips=length) for delay in delays]
    swings = effort.each(measure, [*by_gain, *fixed, *following])
    first, second = len(by_gain), len(by_gain) + len(fixed)
    refuses = product_refuses_from()
    return Stability(
        title="Rates stand still below the bound and swing above it",
        expectations=_judged(swings[:first], swings[first:second], swings[second:], refuses),
        by_gain=tuple(swings[:first]),
        fixed=tuple(swings[first:second]),
        following=tuple(swings[second:]),
        product_refuses_from=refuses,
    )


def measure(it: Run) -> Swing:
    """One fluid run; the simulator turns a part of the bound into κ."""
    experiment = experiment_of(
        {
            "mode": "fluid",
            "name": "stability",
            "seconds": it.round_trips * it.rtt_ms / 1000,
            "links": [
                {
                    "name": "link",
                    "rate_bit_s": CAPACITY_BIT_S,
                    "marking": {"kind": "power", "exponent": EXPONENT},
                }
            ],
            "flows": [
                {
                    "name": "flow",
                    "path": ["link"],
                    "weight": WEIGHT,
                    "rtt_ms": it.rtt_ms,
                    "gain_of_bound": it.gain_of_bound,
                }
            ],
        }
    )
    results = run_experiment(experiment)
    return Swing(rtt_ms=it.rtt_ms, gain_of_bound=it.gain_of_bound, amplitude=results.largest_amplitude or 0.0)


def product_refuses_from() -> float:
    """The smallest part of its bound, to a hundredth, that the product's own reactor refuses as a gain."""
    bound = ElasticPlan(willingness_nanodollars_per_s=1_000_000).largest_gain
    for percent in range(90, 120):
        try:
            ElasticPlan(willingness_nanodollars_per_s=1_000_000, gain=bound * percent / 100)
        except LocalProtocolError:
            return percent / 100
    return float("inf")


def _judged(
    by_gain: list[Swing], fixed: list[Swing], following: list[Swing], refuses: float
) -> tuple[Expectation, ...]:
    below = max((swing.amplitude for swing in (*by_gain, *fixed) if swing.gain_of_bound <= 0.95), default=0.0)
    above = min((swing.amplitude for swing in (*by_gain, *fixed) if swing.gain_of_bound >= 1.05), default=1.0)
    steady = max(swing.amplitude for swing in following)
    return (
        expect(
            "the amplitude jumps across the bound",
            expected=f"below {STILL:.0%} up to 0.95 of the bound, above {SWINGS:.0%} from 1.05 on",
            measured=f"at most {below:.2%} below it, at least {above:.0%} above it",
            holds=below < STILL and above > SWINGS,
        ),
        expect(
            "a gain that follows the round trip is stable for all of them",
            expected=f"below {STILL:.0%} for every round trip",
            measured=f"at most {steady:.2%}",
            holds=steady < STILL,
        ),
        expect(
            "the product's reactor refuses a gain beyond its bound",
            expected="refused from 1.00 of the bound on",
            measured=f"refused from {refuses:.2f} on",
            holds=abs(refuses - 1.0) < 0.011,
        ),
    )
