"""Means, intervals and expectations."""

from __future__ import annotations

import math

import pytest

from lab.dph.effort import TINY, effort_of
from lab.dph.statistics import mean_difference, mean_of, quantile_t
from lab.dph.values import Holds, expect


def test_the_interval_is_students() -> None:
    found = mean_of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.half is not None
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5))
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_one_run_has_no_interval() -> None:
    found = mean_of([7.0])
    assert (found.mean, found.half, found.low) == (7.0, None, 7.0)
    assert found.show(digits=1) == "7.0"


def test_quantiles_fall_to_the_normal_distribution() -> None:
    values = [quantile_t(freedom) for freedom in range(1, 40)]
    assert values == sorted(values, reverse=True)
    assert values[18] == 2.093
    assert values[-1] == 1.96


def test_pairs_with_common_numbers_differ_by_less_than_each_varies() -> None:
    found = mean_difference([10.1, 20.1, 30.1], [10.0, 20.0, 30.0])
    assert found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(0.0, abs=1e-9)


def test_what_was_too_short_to_judge_is_not_said_to_hold() -> None:
    assert expect("a", expected="", measured="", holds=None).holds is Holds.NOT_JUDGED
    assert expect("a", expected="", measured="", holds=False).holds is Holds.NO


def test_work_comes_back_in_order() -> None:
    assert TINY.each(abs, [-3, 2, -1]) == [3, 2, 1]
    assert TINY.pick(full=(1, 2, 3), quick=(1, 3), tiny=(1,)) == (1,)


def test_a_quick_run_is_smaller_and_a_simulated_one_touches_no_network() -> None:
    full = effort_of(quick=False, simulated=False, progress=print)
    quick = effort_of(quick=True, simulated=True, progress=print)
    assert (full.seeds, full.real, quick.real) == (20, True, False)
    assert quick.seeds * quick.seconds < full.seeds * full.seconds / 5
