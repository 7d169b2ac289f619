"""What is usual for a stream: the middle and the spread of the logarithm of what it pays in a minute (or an hour).

Decides by median and MAD, so a tenth of bad samples moves little; the spread also covers the upper quantiles, so that
people who pay in bursts are not normal distributions by decree. Every hour of the day, in the foreground or not, has
a middle of its own, drawn towards the common one as long as it has few samples. A new baseline may be only so much
higher than the last one: whoever teaches the guard slowly is bounded.

Source: Hampel (1974) for median and MAD; reference C.11 (log, weekly, ignore alarmed windows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

CELLS = 72  # 24 hours × (not known, background, foreground)
MAD_TO_SIGMA = 1.4826
MEDIAN_ERROR = 1.2533  # standard error of a median, in sigma/√n
SIGMA_MIN = 0.3
"""Below it, three payments instead of one would be an event."""
CELL_SAMPLES_MIN = 10
CELL_PRIOR = 60  # samples at which a cell counts half
UPPER = ((0.95, 1.645, 60), (0.99, 2.326, 300))  # quantile, of the normal, from so many samples on
SPREAD_GROWTH_PER_WEEK = 1.1


def cell_of(hour: int, foreground: bool | None) -> int:
    return hour + (0 if foreground is None else 48 if foreground else 24)


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """`offsets`: of the cells from `middle`, where they differ. `samples`: on how many it rests."""

    middle: float
    sigma: float
    samples: int
    offsets: dict[int, float] = {}

    def at(self, cell: int) -> float:
        return self.middle + self.offsets.get(cell, 0.0)

    def z(self, value: float, cell: int) -> float:
        return (value - self.middle - self.offsets.get(cell, 0.0)) / self.sigma


def fit(values: Sequence[float], cells: Sequence[int]) -> Baseline:
    """On the safe side by one standard error, both ways: few samples make a dull guard, not a nervous one."""
    count = len(values)
    middle = median(values)
    offsets = _offsets(values, cells, middle)
    residuals = sorted(value - middle - offsets.get(cell, 0.0) for value, cell in zip(values, cells, strict=True))
    around = median(residuals)
    sigma = MAD_TO_SIGMA * median(abs(residual - around) for residual in residuals)
    for share, normal, enough in UPPER:
        if count >= enough:
            sigma = max(sigma, (residuals[int(share * count)] - around) / normal)
    error = 1 / math.sqrt(count)
    sigma = max(SIGMA_MIN, sigma * (1 + error))
    return Baseline(middle=middle + MEDIAN_ERROR * sigma * error, sigma=sigma, samples=count, offsets=offsets)


def _offsets(values: Sequence[float], cells: Sequence[int], middle: float) -> dict[int, float]:
    by_cell: dict[int, list[float]] = {}
    for value, cell in zip(values, cells, strict=True):
        by_cell.setdefault(cell, []).append(value)
    return {
        cell: (median(found) - middle) * len(found) / (len(found) + CELL_PRIOR)
        for cell, found in by_cell.items()
        if len(found) >= CELL_SAMPLES_MIN
    }


def bounded(new: Baseline, old: Baseline, *, weeks: float, growth_per_week: float) -> Baseline:
    """The new one, nowhere higher than the old one by more than the growth of so many weeks."""
    room = weeks * math.log(growth_per_week)
    middle = min(new.middle, old.middle + room)
    offsets: Mapping[int, float] = {
        cell: min(new.at(cell), old.at(cell) + room) - middle for cell in new.offsets.keys() | old.offsets.keys()
    }
    sigma = min(new.sigma, old.sigma * SPREAD_GROWTH_PER_WEEK**weeks)
    return Baseline(middle=middle, sigma=sigma, samples=new.samples, offsets=dict(offsets))
