"""The charts' thresholds, against the exact chain, Siegmund's approximation and published values."""

from __future__ import annotations

import math
import random

import pytest

from secretary.guard.runlength import (
    DRIFT,
    RUN_LENGTHS,
    SLOW,
    SURGE,
    THRESHOLDS,
    Chart,
    average_run_length,
    siegmund_run_length,
    solve_threshold,
    threshold_for,
)


@pytest.mark.row("BP-40")
def test_cusum_run_lengths_are_the_published_ones() -> None:
    """Montgomery, Introduction to Statistical Quality Control, one-sided, k = 0.5."""
    for h, honest, one_sigma in ((4.0, 335, 8.4), (5.0, 931, 10.4), (6.0, 2552, 12.4)):
        assert average_run_length(DRIFT, h) == pytest.approx(honest, rel=0.01)
        assert average_run_length(DRIFT, h, shift=1.0) == pytest.approx(one_sigma, rel=0.02)


def test_siegmund_agrees_where_it_is_meant_to() -> None:
    assert average_run_length(DRIFT, 8.8) == pytest.approx(siegmund_run_length(8.8, 0.5), rel=0.03)
    assert siegmund_run_length(8.8, 0.5) == pytest.approx(43_200, rel=0.03)


@pytest.mark.parametrize("chart", [SURGE, DRIFT, SLOW])
def test_the_table_is_what_the_chain_says(chart: Chart) -> None:
    for wanted, h in list(zip(RUN_LENGTHS, THRESHOLDS[chart], strict=True))[:4]:
        assert solve_threshold(chart, wanted, states=50) == pytest.approx(h, abs=0.02)


def test_between_and_beyond_the_table_thresholds_go_on_in_a_straight_line() -> None:
    assert threshold_for(DRIFT, 10) == THRESHOLDS[DRIFT][0]
    assert threshold_for(DRIFT, 1e5) == THRESHOLDS[DRIFT][2]
    middle = threshold_for(SURGE, 10**5.5)
    assert math.log(average_run_length(SURGE, middle)) == pytest.approx(5.5 * math.log(10), rel=0.01)
    assert threshold_for(DRIFT, 1e8) == pytest.approx(2 * THRESHOLDS[DRIFT][4] - THRESHOLDS[DRIFT][3])


@pytest.mark.row("BP-40")
def test_a_tenfold_stream_is_found_within_three_samples_at_the_guards_threshold() -> None:
    """log 10 = 2.30 is 3.44 sigma of a person whose log-spend has a standard deviation of 0.67."""
    h = threshold_for(SURGE, 43_200 / (0.8 * 0.45))
    assert average_run_length(SURGE, h + 0.1, shift=math.log(10) / 0.67 - 0.1) < 2.7


def test_the_chain_is_what_a_simulation_sees() -> None:
    rng = random.Random(5)
    h, statistic, alarms, count = 1.426, 0.0, 0, 200_000
    for _ in range(count):
        statistic = SURGE.step(statistic, rng.gauss(0.0, 1.0))
        if statistic > h:
            alarms, statistic = alarms + 1, 0.0
    assert count / alarms == pytest.approx(1000, rel=0.2)
