"""What is usual: robust, by hour and foreground, and bounded in its growth."""

from __future__ import annotations

import math
import random

import pytest

from secretary.guard.baseline import CELLS, SIGMA_MIN, bounded, cell_of, fit


def normals(count: int, middle: float, sigma: float, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(middle, sigma) for _ in range(count)]


def test_it_finds_middle_and_spread() -> None:
    found = fit(normals(4000, 12.0, 0.67), [0] * 4000)
    assert found.middle == pytest.approx(12.0, abs=0.05)
    assert found.sigma == pytest.approx(0.67, rel=0.06)


def test_few_samples_make_a_dull_baseline_not_a_nervous_one() -> None:
    """On the safe side by one standard error: over the true middle in about five of six cases."""
    above = sum(fit(normals(120, 0.0, 1.0, seed), [0] * 120).middle > 0.0 for seed in range(100))
    assert above >= 75


@pytest.mark.row("BP-43")
def test_a_few_wild_samples_move_it_little() -> None:
    values = normals(4000, 12.0, 0.5) + [18.0] * 30
    found = fit(values, [0] * len(values))
    assert found.middle < 12.05
    assert found.z(12.0 + math.log(10), 0) > 3.5


def test_a_person_of_two_rates_has_a_spread_that_covers_both() -> None:
    values = normals(900, 10.0, 0.3) + normals(100, 13.4, 0.3)
    assert fit(values, [0] * 1000).z(13.4, 0) < 2.5


def test_an_hour_has_its_own_middle_once_it_has_samples() -> None:
    night, day = cell_of(3, False), cell_of(12, True)
    found = fit(normals(1000, 10.0, 0.3) + normals(600, 13.0, 0.3), [day] * 1000 + [night] * 600)
    assert found.at(night) == pytest.approx(13.0, abs=0.4)
    assert found.at(day) == pytest.approx(10.0, abs=0.4)
    assert found.at(cell_of(5, None)) == found.middle


def test_cells_are_all_different() -> None:
    assert sorted(cell_of(hour, seen) for hour in range(24) for seen in (None, False, True)) == list(range(CELLS))


def test_the_spread_has_a_floor() -> None:
    assert fit([5.0] * 200, [0] * 200).sigma == SIGMA_MIN


@pytest.mark.row("BP-43")
def test_a_new_baseline_grows_by_no_more_than_its_allowance() -> None:
    old = fit(normals(1000, 10.0, 0.5), [3] * 1000)
    new = fit(normals(1000, 12.0, 2.0), [4] * 1000)
    kept = bounded(new, old, weeks=1.0, growth_per_week=1.25)
    for cell in range(CELLS):
        assert kept.at(cell) <= old.at(cell) + math.log(1.25) + 1e-9
    assert kept.sigma <= old.sigma * 1.1 + 1e-9
    lower = fit(normals(1000, 8.0, 0.5), [3] * 1000)
    assert bounded(lower, old, weeks=1.0, growth_per_week=1.25).middle == lower.middle
