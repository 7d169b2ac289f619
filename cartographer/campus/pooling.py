"""Many hosts' sums made into one estimate, which one lying or broken host cannot move far.

Decides: what a quantity of a way to a prefix is, as several hosts together know it, and how much that is worth to a
host that was not there. Refuses to know: who the hosts are, where their lines are kept, what follows from the estimate.
Source: BP-32. The median and the median absolute deviation as centre and scale (Hampel 1974, breakdown point 50 %);
weights by variance within hosts plus variance between hosts (random effects, DerSimonian and Laird 1986). Pure.

The reckoning, for h hosts with means m_i of n_i samples and age factors a_i = 2^(-age/half-life):

1. Centre c = median of m_i, weighted by a_i <= 1 only: no host counts twice however many samples it claims, and what
   was measured before a change gives way. Spread s = median of the hosts' spreads. Scale = 1.4826 × MAD of the m_i.
2. A host farther from c than FAR × sqrt(scale² + s²/n_i) is left out. What it claims as its own spread plays no part.
3. Variance between hosts b² = max(0, scale² − median of s²/n_i). Weight w_i = a_i / (s²/n_i + b²), at most
   WEIGHT_TIMES the median weight; n_i counts up to SAMPLES_OF_HOST. The value is the weighted mean.
4. For a host that was not there, the variance is that of the mean plus b². It is worth s² / variance samples, and no
   more than PRIOR_SAMPLES and the age allow; of one or two hosts, as many samples as hosts: their word is a hint where
   to look, since nobody can say which of two is wrong.

**Breakdown point**: while liars have less than half of the sum of a_i, c and the scale stay within what the honest ones
span, so the value is within FAR × sqrt((1.4826 × span)² + s²) of them: of 3 fresh hosts one may lie, of 20 nine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from cartographer.campus.privacy import PERIOD_S
from cartographer.values import Estimate

FAR: Final = 3.5
MAD_TO_DEVIATION: Final = 1.4826
SAMPLES_OF_HOST: Final = 30
WEIGHT_TIMES: Final = 3.0
PRIOR_SAMPLES: Final = 30.0
FEW_HOSTS: Final = 2
LEAST_AGE_FACTOR: Final = 0.02
"""Older than that (5.6 half-lives), a line is not counted."""
RESOLUTION: Final = 0.01
"""Hosts that agree to this part of the value agree: measurements are no finer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sufficient statistics of samples: what a summary says, in one host's or several destinations' words."""

    count: float
    mean: float
    spread: float  # one standard deviation of single samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one host says."""

    count: int
    mean: int
    spread: int
    age_periods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """`estimate.samples` is what it is worth; `hosts` counts those who were not left out."""

    estimate: Estimate
    hosts: int
    age_periods: int  # of the newest of them


def merged(parts: Iterable[Sums]) -> Sums | None:
    """Samples of several destinations as samples of their prefix: counts, sums and squares are added."""
    parts = tuple(part for part in parts if part.count > 0)
    if not parts:
        return None
    count = math.fsum(part.count for part in parts)
    mean = math.fsum(part.count * part.mean for part in parts) / count
    # from differences, not from squares: sums of squares of nanoseconds lose their last digits
    squares = math.fsum(part.count * (part.spread**2 + (part.mean - mean) ** 2) for part in parts)
    return Sums(count=count, mean=mean, spread=math.sqrt(squares / count))


def pooled(contributions: Sequence[Contribution], *, half_life_s: int) -> Pooled | None:
    """None: nobody said anything that still counts."""
    aged = [(one, 0.5 ** (one.age_periods * PERIOD_S / half_life_s)) for one in contributions]
    aged = [(one, factor) for one, factor in aged if factor >= LEAST_AGE_FACTOR and one.count > 0]
    if not aged:
        return None
    spread = _middle([(one.spread, factor) for one, factor in aged])
    centre = _middle([(one.mean, factor) for one, factor in aged])
    scale = MAD_TO_DEVIATION * _middle([(abs(one.mean - centre), factor) for one, factor in aged])
    kept = [(one, factor) for one, factor in aged if _is_near(one, centre, scale, spread)]
    return _mean_of(kept, spread=spread, scale=scale)


def _middle(weighted: Sequence[tuple[float, float]]) -> float:
    """The weighted median; between two values when each side has just half of the weight."""
    weighted = sorted(weighted)
    half = math.fsum(weight for _, weight in weighted) / 2
    below = 0.0
    for number, (value, weight) in enumerate(weighted):
        below += weight
        if math.isclose(below, half, rel_tol=1e-12) and number + 1 < len(weighted):
            return (value + weighted[number + 1][0]) / 2
        if below > half:
            return value
    return weighted[-1][0]


def _is_near(one: Contribution, centre: float, scale: float, spread: float) -> bool:
    own_error = spread / math.sqrt(one.count)
    return abs(one.mean - centre) <= FAR * math.hypot(scale, own_error) + RESOLUTION * centre


def _mean_of(kept: Sequence[tuple[Contribution, float]], *, spread: float, scale: float) -> Pooled:
    """The weighted mean; the centre is always among `kept`, or between two that are."""
    within = [spread * spread / min(one.count, SAMPLES_OF_HOST) for one, _ in kept]
    between = max(0.0, scale * scale - median(within))
    floor = (RESOLUTION * median(one.mean for one, _ in kept) + 1) ** 2 / 12
    variances = [variance + between + floor for variance in within]
    weights = [factor / variance for (_, factor), variance in zip(kept, variances, strict=True)]
    most = WEIGHT_TIMES * median(weights)
    weights = [min(weight, most) for weight in weights]
    total = math.fsum(weights)
    value = math.fsum(weight * one.mean for weight, (one, _) in zip(weights, kept, strict=True)) / total
    of_mean = math.fsum(w * w * v for w, v in zip(weights, variances, strict=True)) / (total * total)
    freshness = max(factor for _, factor in kept)
    variance = (of_mean + between) / freshness
    worth = min(PRIOR_SAMPLES * freshness, spread * spread / variance) if spread else PRIOR_SAMPLES * freshness
    if len(kept) <= FEW_HOSTS:
        worth = min(worth, float(len(kept)))
        variance = max(variance, spread * spread / len(kept))
    estimate = Estimate(
        value=round(value),
        uncertainty=round(math.sqrt(variance)),
        spread=round(spread),
        samples=max(worth, 0.001),
        measured_ns=None,
    )
    return Pooled(estimate=estimate, hosts=len(kept), age_periods=min(one.age_periods for one, _ in kept))
