"""One stream's charts: when they begin to watch, what they find, and what bursts teach them."""

from __future__ import annotations

import math
import random

import pytest

from secretary.guard.series import DAY, WEEK, Series
from secretary.guard.streams import HOURS_MIN, SAMPLES_MIN, new_series
from secretary.guard.values import Detector

LENGTHS = (100_000.0, 400_000.0)


def pair(growth: float = 1.25) -> tuple[Series, Series]:
    return new_series(Detector.SURGE, Detector.DRIFT, Detector.HOURS, growth, 0.1)


def live(series: Series, count: int, *, start: int = 0, step: int = 1, seed: int = 1, middle: float = 12.0) -> int:
    """Normal samples, with fits when they are due; the next minute."""
    rng = random.Random(seed)
    lengths = LENGTHS[: len(series.detectors)]
    for number in range(count):
        minute = start + number * step
        series.step(rng.gauss(middle, 0.5), 0, minute, 1, lengths)
        if series.is_due(minute):
            series.refit(minute, lengths)
    return start + count * step


def test_a_baseline_needs_a_day_and_enough_samples() -> None:
    minutes, _ = pair()
    live(minutes, SAMPLES_MIN * 2)
    assert minutes.baseline is None
    live(minutes, 2, start=DAY)
    assert minutes.baseline is not None


@pytest.mark.row("BP-40")
def test_hours_that_are_six_times_as_busy_are_found_the_same_night() -> None:
    """The minutes are as usual, there are only more of them."""
    _, hours = pair()
    minute = live(hours, 10 * 24, step=60)
    assert len(hours.detectors) == 1
    assert minute // 60 > HOURS_MIN
    for number in range(8):
        found = hours.step(12.0 + math.log(6), 0, minute + 60 * number, 1, LENGTHS[:1])
        if found is not None:
            assert found.detector is Detector.HOURS
            assert number <= 3
            return
    pytest.fail("not found")


def test_what_would_be_over_at_the_end_of_a_minute_is_foreseen_and_nothing_else() -> None:
    rng = random.Random(7)
    minutes, _ = pair()
    minute = live(minutes, WEEK + 10)
    for number in range(400):
        value = rng.gauss(12.8, 0.5)
        early = minutes.foresee(value, 0, minute + number, 1, LENGTHS[0])
        late = minutes.step(value, 0, minute + number, 1, LENGTHS)
        if early is not None:
            assert late is not None
            assert (late.detector, late.statistic) == (Detector.SURGE, early.statistic)
            return
        assert late is None or late.detector is Detector.DRIFT
    pytest.fail("no surge in 400 samples of 1.6 sigma")


@pytest.mark.row("BP-43")
def test_what_is_taken_out_is_as_if_it_had_never_been() -> None:
    minutes, _ = pair()
    minute = live(minutes, WEEK + 10)
    before = minutes.snapshot().values
    for number in range(5):
        minutes.step(13.5, 0, minute + number, 1, LENGTHS)
    odd = minutes.forget_since(minute)
    assert [value for value, _, _ in odd] == [13.5] * 5
    assert minutes.snapshot().values == before
    assert all(gauge.statistic == 0.0 for gauge in minutes.gauges)


@pytest.mark.row("BP-43")
def test_whoever_teaches_slowly_moves_a_settled_baseline_by_its_allowance_only() -> None:
    minutes, _ = pair()
    minute = live(minutes, WEEK + 10)
    assert minutes.baseline is not None
    first = minutes.baseline.at(0)
    for week in range(1, 4):
        minute = live(minutes, WEEK, start=minute, middle=12.0 + 0.5 * week, seed=week)
        assert minutes.baseline.at(0) <= first + week * math.log(1.25) + 1e-6


def test_a_person_of_bursts_gets_slack_and_one_without_gets_none() -> None:
    calm, _ = pair()
    live(calm, WEEK + 10)
    assert calm.gauges[0].slack == 0.0
    bursty, _ = pair()
    rng = random.Random(3)
    level = 0.0
    for minute in range(WEEK + 10):
        if minute % 30 == 0:
            level = 2.0 if rng.random() < 0.15 else 0.0
        bursty.step(rng.gauss(12.0 + level, 0.4), 0, minute, 1, LENGTHS)
        if bursty.is_due(minute):
            bursty.refit(minute, LENGTHS)
    assert bursty.gauges[1].slack > 0.3


def test_a_months_samples_are_bounded() -> None:
    minutes, _ = pair()
    live(minutes, 9000)
    assert len(minutes.snapshot().cells) <= 8192
