"""Means of independent runs, with their interval.

Decides: 95 %, two sides, Student's t (runs are few). Refuses to know: what is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from lab.dph.values import Mean

# t of 0.975 by degrees of freedom; beyond 30 the normal distribution is near enough.
_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL: Final = 1.960


def quantile_t(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else _NORMAL


def mean_of(values: Iterable[float]) -> Mean:
    """Of one value at least."""
    found = [float(value) for value in values]
    count = len(found)
    mean = math.fsum(found) / count
    if count < 2:
        return Mean(mean=mean, half=None, runs=count)
    variance = math.fsum((value - mean) ** 2 for value in found) / (count - 1)
    return Mean(mean=mean, half=quantile_t(count - 1) * math.sqrt(variance / count), runs=count)


def mean_difference(one: Sequence[float], other: Sequence[float]) -> Mean:
    """Of pairs with common random numbers."""
    return mean_of(a - b for a, b in zip(one, other, strict=True))
