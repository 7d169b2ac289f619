"""One stream's samples, its baseline, and the charts that watch it.

Decides when a chart has gone over its threshold. A sample is a minute (or an hour) in which the stream paid; idle time
is no sample. While there is no baseline nothing is over. Refuses to know programs, persons and money's units.

Thresholds come from the table of run lengths, which is for independent draws. People are not: they do one thing for an
hour, then another. So each chart's slack is raised until the samples on which the baseline rests stay well below its
threshold. Later samples cannot raise it much: what goes over is taken out of them, unless the person says it was them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from secretary.guard.baseline import Baseline, bounded, fit
from secretary.guard.runlength import Chart, threshold_for
from secretary.guard.values import Detector

WEEK = 7 * 24 * 60
DAY = 24 * 60
KEPT_MAX = 8192
DROP = 512  # at once, so that dropping is rare
BURSTY_SHARE = 0.5
"""Of the threshold. Honest samples that went over it were not independent; a month brings longer stretches than they
show, so the slack is for half of it.
"""
SLACK_MAX = 8.0
SLACK_STEPS = 7
YOUNG_SLACK = 0.5  # in the first week


class Gauge(msgspec.Struct, kw_only=True):
    """A chart's state: `statistic`, and since when it is above 0, and what was paid since."""

    statistic: float = 0.0
    since: int = 0
    paid: int = 0
    slack: float = 0.0  # beyond the chart's own, in sigma

    def clear(self) -> None:
        self.statistic, self.paid = 0.0, 0


class SeriesState(msgspec.Struct, frozen=True, kw_only=True):
    """All of a series, for a restart."""

    gauges: list[Gauge]
    baseline: Baseline | None
    first: int | None
    fitted: int
    confirmed: bool
    lenient_until: int
    lenient_by: float
    values: bytes
    cells: bytes
    minutes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A chart is over its threshold."""

    detector: Detector
    statistic: float
    threshold: float
    since: int
    paid: int


class Series:
    """`samples_min`: fewer make no baseline; nor does less than a day. `late`: charts that wait for a week.

    `slack_min`: of the late ones, for the errors of the baseline itself. A drift chart is ten times as often wrong if
    the middle is 0.1 sigma too low.
    """

    def __init__(
        self,
        charts: Sequence[tuple[Detector, Chart]],
        *,
        late: frozenset[Detector],
        samples_min: int,
        growth_per_week: float,
        slack_min: float = 0.0,
    ) -> None:
        self._charts = charts
        self._late = late
        self._slack_min = slack_min
        self._samples_min = samples_min
        self._growth = growth_per_week
        self.gauges = [Gauge() for _ in charts]
        self.baseline: Baseline | None = None
        self._first: int | None = None
        self._fitted = 0
        self._confirmed = False
        self._lenient_until = 0
        self._lenient_by = 0.0
        self._values = array("f")
        self._cells = array("B")
        self._minutes = array("I")

    @property
    def detectors(self) -> list[Detector]:
        return [detector for detector, _ in self._charts]

    # --- samples ----------------------------------------------------------------------------------------------------

    def step(self, value: float, cell: int, minute: int, paid: int, run_lengths: Sequence[float]) -> Excess | None:
        """One sample more; the first chart that is over with it."""
        self._keep(value, cell, minute)
        if self.baseline is None:
            return None
        z = self._z(value, cell, minute)
        found = None
        for (detector, chart), gauge, run_length in zip(self._charts, self.gauges, run_lengths, strict=True):
            if gauge.statistic == 0.0:
                gauge.since, gauge.paid = minute, 0
            gauge.statistic = chart.step(gauge.statistic, z - gauge.slack)
            gauge.paid += paid
            limit = threshold_for(chart, run_length)
            if detector in self._late and not self._is_settled:
                gauge.clear()
            if gauge.statistic > limit and found is None:
                found = Excess(
                    detector=detector,
                    statistic=gauge.statistic,
                    threshold=limit,
                    since=gauge.since,
                    paid=gauge.paid,
                )
        return found

    def foresee(self, value: float, cell: int, minute: int, paid: int, run_length: float) -> Excess | None:
        """Is the first chart over with what was paid in this minute so far? It can only grow until the minute ends,
        so an early word is never a wrong one that the end of the minute would not have said too.
        """
        if self.baseline is None:
            return None
        detector, chart = self._charts[0]
        gauge = self.gauges[0]
        if detector in self._late and not self._is_settled:
            return None
        statistic = chart.step(gauge.statistic, self._z(value, cell, minute) - gauge.slack)
        limit = threshold_for(chart, run_length)
        if statistic <= limit:
            return None
        since, before = (gauge.since, gauge.paid) if gauge.statistic else (minute, 0)
        return Excess(detector=detector, statistic=statistic, threshold=limit, since=since, paid=before + paid)

    def _z(self, value: float, cell: int, minute: int) -> float:
        assert self.baseline is not None
        return self.baseline.z(value - (self._lenient_by if minute < self._lenient_until else 0.0), cell)

    def _keep(self, value: float, cell: int, minute: int) -> None:
        if self._first is None:
            self._first = minute
        self._values.append(value)
        self._cells.append(cell)
        self._minutes.append(minute)
        if len(self._values) > KEPT_MAX:
            for kept in (self._values, self._cells, self._minutes):
                del kept[:DROP]

    # --- alarms and answers -----------------------------------------------------------------------------------------

    def forget_since(self, minute: int) -> list[tuple[float, int, int]]:
        """Takes the odd stretch out of the samples, and gives it; the charts begin anew."""
        keep = len(self._minutes)
        while keep and self._minutes[keep - 1] >= minute:
            keep -= 1
        odd = list(zip(self._values[keep:], self._cells[keep:], self._minutes[keep:], strict=True))
        for kept in (self._values, self._cells, self._minutes):
            del kept[keep:]
        self.clear()
        return odd

    def clear(self) -> None:
        for gauge in self.gauges:
            gauge.clear()

    def accept(self, odd: Sequence[tuple[float, int, int]], minute: int) -> float:
        """The person says that it was them: learn it, and let it pass for a day until a fit has it. By how much."""
        if not odd or self.baseline is None:
            return 0.0
        excesses = sorted(value - self.baseline.at(cell) for value, cell, _ in odd)
        excess = max(0.0, excesses[len(excesses) // 2])
        for value, cell, _ in odd:
            self._keep(value, cell, minute)
        self.lend(excess, minute)
        return excess

    def lend(self, excess: float, minute: int) -> None:
        """So much more than usual is well for a day; the next fit is free to follow."""
        self._lenient_by = max(excess, self._lenient_by if minute < self._lenient_until else 0.0)
        self._lenient_until = minute + DAY
        self._confirmed = True
        self.clear()

    # --- baseline ---------------------------------------------------------------------------------------------------

    def is_due(self, minute: int) -> bool:
        """At first whenever the samples have doubled, then after a week, and weekly."""
        count = len(self._values)
        if self._first is None or count < self._samples_min or minute - self._first < DAY:
            return False
        if self.baseline is None:
            return True
        if self._confirmed and minute >= self._lenient_until:
            return True
        if minute - self._first >= WEEK and not self._is_settled:
            return True
        grown = count >= 2 * self.baseline.samples and minute - self._first < WEEK
        return grown or minute - self._fitted >= WEEK

    def refit(self, minute: int, run_lengths: Sequence[float]) -> None:
        new = fit(self._values, self._cells)
        weeks = max(1, minute - self._fitted) / WEEK
        is_free = self.baseline is None or self._confirmed or not self._is_settled
        if self.baseline is not None and not is_free:
            new = bounded(new, self.baseline, weeks=weeks, growth_per_week=self._growth)
        room = SLACK_MAX if is_free else weeks * math.log(self._growth) / new.sigma
        self.baseline, self._fitted, self._confirmed = new, minute, False
        residuals = [new.z(value, cell) for value, cell in zip(self._values, self._cells, strict=True)]
        for (detector, chart), gauge, run_length in zip(self._charts, self.gauges, run_lengths, strict=True):
            wanted = _slack_for(chart, residuals, threshold_for(chart, run_length))
            settled = self._slack_min if detector in self._late else 0.0
            least = settled if self._is_settled else YOUNG_SLACK
            gauge.slack = max(least, min(gauge.slack + room, wanted))

    @property
    def _is_settled(self) -> bool:
        return self._first is not None and self._fitted - self._first >= WEEK

    # --- restarts ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> SeriesState:
        return SeriesState(
            gauges=self.snapshot_gauges(),
            baseline=self.baseline,
            first=self._first,
            fitted=self._fitted,
            confirmed=self._confirmed,
            lenient_until=self._lenient_until,
            lenient_by=self._lenient_by,
            values=self._values.tobytes(),
            cells=self._cells.tobytes(),
            minutes=self._minutes.tobytes(),
        )

    def snapshot_gauges(self) -> list[Gauge]:
        return [msgspec.structs.replace(gauge) for gauge in self.gauges]

    def restore(self, state: SeriesState) -> None:
        self.take_gauges(state.gauges)
        self.baseline, self._first, self._fitted = state.baseline, state.first, state.fitted
        self._confirmed = state.confirmed
        self._lenient_until, self._lenient_by = state.lenient_until, state.lenient_by
        self._values, self._cells, self._minutes = array("f"), array("B"), array("I")
        self._values.frombytes(state.values)
        self._cells.frombytes(state.cells)
        self._minutes.frombytes(state.minutes)

    def take_gauges(self, gauges: Sequence[Gauge]) -> None:
        if len(gauges) == len(self._charts):
            self.gauges = [msgspec.structs.replace(gauge) for gauge in gauges]


def _slack_for(chart: Chart, residuals: Sequence[float], limit: float) -> float:
    """The least with which the samples stay well below the limit."""
    if _highest(chart, residuals, 0.0) <= limit:
        return 0.0
    low, high = 0.0, SLACK_MAX
    for _ in range(SLACK_STEPS):
        middle = (low + high) / 2
        if _highest(chart, residuals, middle) <= BURSTY_SHARE * limit:
            high = middle
        else:
            low = middle
    return high


def _highest(chart: Chart, residuals: Sequence[float], slack: float) -> float:
    statistic = highest = 0.0
    carry, gain, slack = chart.carry, chart.gain, chart.slack + chart.gain * slack
    for z in residuals:
        statistic = carry * statistic + gain * z - slack
        if statistic < 0.0:
            statistic = 0.0
        elif statistic > highest:
            highest = statistic
    return highest
