"""Thresholds of the control charts: how long a chart runs on honest samples before it is wrong once.

Decides h for a wanted average run length (ARL), for standard normal samples. One recursion covers both charts:
s' = max(0, a·s + b·z − c); CUSUM is a = b = 1, c = k (Page 1954), EWMA a = 1 − λ, b = λ, c = 0 (Roberts 1959), both
watching upwards only. The exact length is a Markov chain's (Brook, Evans 1972), solved by `average_run_length`; what
runs every day reads the table below, in which ln ARL is nearly a straight line in h. Siegmund's approximation (1985)
is the check, good for small k only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Chart:
    """`carry` a, `gain` b, `slack` c."""

    carry: float
    gain: float
    slack: float

    def step(self, statistic: float, z: float) -> float:
        return max(0.0, self.carry * statistic + self.gain * z - self.slack)


SURGE: Final = Chart(1.0, 1.0, 1.72)
"""k is half of ln 10 / 0.67: of all charts this one finds a tenfold stream of such a person soonest (Lorden 1971)."""
DRIFT: Final = Chart(1.0, 1.0, 0.5)
EWMA_GAIN: Final = 0.2
SLOW: Final = Chart(1.0 - EWMA_GAIN, EWMA_GAIN, 0.0)


def siegmund_run_length(h: float, k: float) -> float:
    b = h + 1.166
    return (math.exp(2 * k * b) - 2 * k * b - 1) / (2 * k * k)


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def average_run_length(chart: Chart, h: float, *, shift: float = 0.0, states: int = 80) -> float:
    """From s = 0, for samples of N(shift, 1): (I − Q)·L = 1, by elimination."""
    width = h / states
    middles = [(i + 0.5) * width for i in range(states)]
    middles[0] = 0.0 if chart.carry == 1.0 else middles[0]  # the first state is mostly the floor
    rows = []
    for i, s in enumerate(middles):
        edges = [
            normal_cdf((j * width - chart.carry * s + chart.slack) / chart.gain - shift) for j in range(states + 1)
        ]
        edges[0] = 0.0
        row = [edges[j] - edges[j + 1] for j in range(states)]
        row[i] += 1.0
        row.append(1.0)
        rows.append(row)
    return _first_unknown(rows)


def _first_unknown(rows: list[list[float]]) -> float:
    """Gauss elimination from the last unknown up; I − Q is diagonally dominant, so no pivots are sought."""
    for pivot in range(len(rows) - 1, 0, -1):
        below = rows[pivot]
        for row in rows[:pivot]:
            factor = row[pivot] / below[pivot]
            if factor:
                for j in range(pivot):
                    row[j] -= factor * below[j]
                row[-1] -= factor * below[-1]
    return rows[0][-1] / rows[0][0] if rows[0][0] > 1e-13 else math.inf


def solve_threshold(chart: Chart, run_length: float, *, states: int = 80) -> float:
    low, high = 0.05, 14.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if average_run_length(chart, middle, states=states) < run_length:
            low = middle
        else:
            high = middle
    return high


RUN_LENGTHS: Final = (1e3, 1e4, 1e5, 1e6, 1e7)
THRESHOLDS: Final = {
    SURGE: (1.426, 2.122, 2.781, 3.442, 4.114),
    DRIFT: (5.071, 7.363, 9.670, 11.981, 14.292),
    SLOW: (1.036, 1.257, 1.444, 1.608, 1.757),
}
"""From `solve_threshold`, with 70 states."""


def threshold_for(chart: Chart, run_length: float) -> float:
    """Between the table's entries, and beyond them, in a straight line over ln ARL; never below the first."""
    table = THRESHOLDS[chart]
    if run_length <= RUN_LENGTHS[0]:
        return table[0]
    i = min(bisect_right(RUN_LENGTHS, run_length), len(table) - 1)
    part = math.log(run_length / RUN_LENGTHS[i - 1]) / math.log(RUN_LENGTHS[i] / RUN_LENGTHS[i - 1])
    return table[i - 1] + part * (table[i] - table[i - 1])
