"""The arithmetic of rounds: means with their confidence, and ratios within a round.

Decides nothing. A round measures every configuration once, so that a busy machine hits all of them alike: what is
compared is compared within a round. The interval is of the mean, for about normal samples.
Source: Student 1908; Abramowitz and Stegun 26.7.5 for the quantile beyond the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

_QUANTILES: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Of Student's t at 97.5 %, for 1, 2, 3 ... degrees of freedom."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Of `rounds` samples: median, mean, and the interval that has the true mean in it at 95 %.

    One sample has no interval: it is the sample itself.
    """

    median: float
    mean: float
    low: float
    high: float
    rounds: int


def figure_of(samples: Sequence[float]) -> Figure:
    """Raises ValueError for no samples."""
    mean, half = statistics.fmean(samples), 0.0
    if len(samples) > 1:
        half = student_quantile(len(samples) - 1) * statistics.stdev(samples) / math.sqrt(len(samples))
    median = statistics.median(samples)
    return Figure(median=median, mean=mean, low=mean - half, high=mean + half, rounds=len(samples))


def student_quantile(degrees: int) -> float:
    """Of Student's t at 97.5 %, within 0.0002; degrees of freedom: 1 or more."""
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def ratios(samples: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round."""
    return [value / beside for value, beside in zip(samples, base, strict=True)]


def differences(samples: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round."""
    return [value - beside for value, beside in zip(samples, base, strict=True)]


def quantile_of(values: Sequence[float], part: float) -> float:
    """The smallest value that has this part of them below it; nan for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else math.nan
