"""What a packet costs over one way, for a class of flows, as far as is known; and how sure that is.

Decides: money for delay, jitter, loss, tolls and a missing rate, added up, with their uncertainties in quadrature.
Refuses to know: where the statistics come from and what is chosen. The loss function of C.9 in picodollars:
toll + delay + jitter + P(lost) × loss + the missing part of the target rate. A lost packet has no delay, so delay and
jitter count for those that arrive.  Pure.
"""

from __future__ import annotations

import math
from typing import Final

from cartographer.statistics import WayStatistics
from cartographer.values import Belief, Quantity, Wants, Way

PICO_PER_NANO: Final = 1000
NS_PER_MS: Final = 1_000_000
PPM: Final = 1_000_000


def _wants_something(wants: Wants) -> bool:
    return bool(
        wants.delay_nanodollars_per_ms or wants.jitter_nanodollars_per_ms or wants.toll_ppm or wants.loss_nanodollars
    )


def belief_of(
    way: Way,
    statistics: WayStatistics,
    wants: Wants,
    *,
    now_ns: int,
    probe_picodollars: int | None = None,
    objection: str = "",
) -> Belief | None:
    """The chooser's view of one way. `probe_picodollars`: what a probe costs besides the way's own toll.

    A way of which nothing is known has a belief worth 0 samples: it is to be found out, not to be left out. None: the
    class wants nothing that a way could be worse at, so ways cannot be compared.
    """
    wants_rate = bool(wants.target_bit_s and wants.short_nanodollars)
    if not (wants_rate or _wants_something(wants)):
        return None
    loss = statistics.moments(Quantity.LOSS_PPM, now_ns)
    arrives = 1.0 if loss is None else 1.0 - loss[0]
    cost = variance = single = 0.0
    samples = 0.0
    measured_ns: int | None = None

    def add(quantity: Quantity, weight: float) -> None:
        nonlocal cost, variance, single, samples, measured_ns
        moments = statistics.moments(quantity, now_ns)
        if moments is None:
            return
        value, its_variance, its_single, its_samples, its_ns = moments
        cost += value * weight
        variance += its_variance * weight * weight
        single += its_single * weight * weight
        samples = max(samples, its_samples)
        if its_ns is not None and (measured_ns is None or its_ns > measured_ns):
            measured_ns = its_ns

    if wants.delay_nanodollars_per_ms:
        add(Quantity.DELAY_NS, arrives * wants.delay_nanodollars_per_ms * PICO_PER_NANO / NS_PER_MS)
    if wants.jitter_nanodollars_per_ms:
        add(Quantity.JITTER_NS, arrives * wants.jitter_nanodollars_per_ms * PICO_PER_NANO / NS_PER_MS)
    toll_before = cost
    if wants.toll_ppm:
        add(Quantity.FORWARD_TOLL_PICODOLLARS, wants.toll_ppm / PPM)
        add(Quantity.RETURN_TOLL_PICODOLLARS, wants.toll_ppm / PPM)
    toll = cost - toll_before
    if wants.loss_nanodollars:
        add(Quantity.LOSS_PPM, float(wants.loss_nanodollars) * PICO_PER_NANO)
    if wants_rate:
        moments = statistics.moments(Quantity.THROUGHPUT_BIT_S, now_ns)
        if moments is not None:
            weight = wants.short_nanodollars * PICO_PER_NANO / wants.target_bit_s
            cost += max(wants.target_bit_s - moments[0], 0.0) * weight
            variance += moments[1] * weight * weight
            single += moments[2] * weight * weight
            samples = max(samples, moments[3])
            if moments[4] is not None and (measured_ns is None or moments[4] > measured_ns):
                measured_ns = moments[4]
    return Belief(
        way=way,
        cost_picodollars=round(cost),
        uncertainty_picodollars=round(math.sqrt(variance)),
        spread_picodollars=round(math.sqrt(single)),
        samples=samples,
        measured_ns=measured_ns,
        probe_picodollars=None if probe_picodollars is None else probe_picodollars + round(toll),
        objection=objection,
    )
