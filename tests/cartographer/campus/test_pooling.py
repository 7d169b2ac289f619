"""Many hosts' numbers made one: exact sums, age, and what liars and broken hosts can do to it."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cartographer.campus.pooling import (
    FAR,
    MAD_TO_DEVIATION,
    PRIOR_SAMPLES,
    RESOLUTION,
    Contribution,
    Pooled,
    Sums,
    merged,
    pooled,
)

HALF_LIFE_S = 3600
PERIODS = 12  # of a half-life
MS = 1_000_000


def said(mean: int, *, count: int = 10, spread: int = 5 * MS, age_periods: int = 0) -> Contribution:
    return Contribution(count=count, mean=mean, spread=spread, age_periods=age_periods)


def pool(*contributions: Contribution) -> Pooled:
    found = pooled(contributions, half_life_s=HALF_LIFE_S)
    assert found is not None
    return found


@given(some.lists(some.lists(some.integers(0, 10**10), min_size=1, max_size=8), min_size=1, max_size=8))
def test_merged_sums_are_those_of_all_samples_together(groups: list[list[int]]) -> None:
    parts = [Sums(count=len(g), mean=statistics.fmean(g), spread=statistics.pstdev(g)) for g in groups]
    together = merged(parts)
    everything = [sample for group in groups for sample in group]
    assert together is not None
    assert together.count == len(everything)
    assert together.mean == pytest.approx(statistics.fmean(everything), rel=1e-9, abs=1e-3)
    assert together.spread == pytest.approx(statistics.pstdev(everything), rel=1e-6, abs=1)


def test_nothing_makes_nothing() -> None:
    assert merged([]) is None
    assert merged([Sums(count=0, mean=5, spread=1)]) is None
    assert pooled([], half_life_s=HALF_LIFE_S) is None
    assert pooled([said(50 * MS, age_periods=100 * PERIODS)], half_life_s=HALF_LIFE_S) is None


def test_the_estimate_is_as_good_as_its_uncertainty_says() -> None:
    """600 pools of 12 hosts with 5 samples each: the standard error that is claimed is the one that is made."""
    chance = random.Random(1)
    errors = []
    for _ in range(600):
        hosts = []
        for _ in range(12):
            samples = [chance.gauss(50 * MS, 5 * MS) for _ in range(5)]
            hosts.append(said(round(statistics.fmean(samples)), count=5, spread=round(statistics.stdev(samples))))
        found = pool(*hosts).estimate
        errors.append((found.value - 50 * MS) / found.uncertainty)
    assert statistics.fmean(errors) == pytest.approx(0, abs=0.1)
    assert 0.6 < statistics.pstdev(errors) < 1.15  # differences between hosts are counted in, and seldom are none seen


def test_more_hosts_know_better() -> None:
    def uncertainty(hosts: int) -> int:
        return pool(*[said(50 * MS + (number % 3 - 1) * MS) for number in range(hosts)]).estimate.uncertainty

    assert uncertainty(1) > uncertainty(2) > uncertainty(3) > uncertainty(30)


def test_one_or_two_hosts_are_a_hint_only() -> None:
    assert pool(said(50 * MS, count=10_000)).estimate.samples == 1
    assert pool(said(50 * MS), said(51 * MS)).estimate.samples == 2
    assert pool(*[said(50 * MS)] * 3).estimate.samples > 10
    assert pool(*[said(50 * MS)] * 60).estimate.samples <= PRIOR_SAMPLES


def test_hosts_that_find_it_different_make_a_prior_that_is_worth_little() -> None:
    apart = pool(*[said(mean * MS, count=30, spread=2 * MS) for mean in (20, 40, 60, 80, 100)]).estimate
    alike = pool(*[said(mean * MS, count=30, spread=2 * MS) for mean in (60, 60, 60, 61, 59)]).estimate
    assert apart.samples < 0.1 < 10 < alike.samples
    assert apart.uncertainty > 20 * MS


def test_what_was_measured_before_a_change_gives_way() -> None:
    old = [said(50 * MS, age_periods=2 * PERIODS)] * 8  # a quarter of the weight each
    assert pool(*old, *[said(90 * MS)] * 1).estimate.value == pytest.approx(50 * MS, rel=0.02)
    assert pool(*old, *[said(90 * MS)] * 4).estimate.value == pytest.approx(90 * MS, rel=0.02)


def test_age_makes_it_worth_less() -> None:
    fresh, old = (pool(*[said(50 * MS, age_periods=age)] * 5) for age in (0, PERIODS))
    assert old.estimate.samples == pytest.approx(fresh.estimate.samples / 2, rel=0.05)
    assert old.estimate.uncertainty > fresh.estimate.uncertainty
    assert (fresh.age_periods, old.age_periods) == (0, PERIODS)


honest_means = some.lists(some.integers(40 * MS, 60 * MS), min_size=2, max_size=12)
anything = some.builds(
    Contribution,
    count=some.integers(1, 1_000_000),
    mean=some.integers(0, 10**12),
    spread=some.integers(0, 10**12),
    age_periods=some.just(0),
)


@pytest.mark.row("BP-32")
@given(honest=honest_means, data=some.data())
def test_breakdown_point_fewer_than_half_of_the_hosts_move_it_no_farther_than_stated(
    honest: list[int], data: some.DataObject
) -> None:
    liars = data.draw(some.lists(anything, max_size=len(honest) - 1))
    found = pool(*[said(mean, count=30, spread=5 * MS) for mean in honest], *liars)
    low, high = min(honest), max(honest)
    reach = FAR * ((MAD_TO_DEVIATION * (high - low)) ** 2 + (5 * MS) ** 2) ** 0.5 + RESOLUTION * high
    assert low - reach <= found.estimate.value <= high + reach
    assert found.estimate.spread <= 5 * MS


@pytest.mark.parametrize("lie", [0, 1, 10 * MS, 10**12])
@pytest.mark.parametrize(("hosts", "liars"), [(3, 1), (5, 2), (20, 9)])
def test_a_lie_that_is_far_off_has_no_part_in_it(hosts: int, liars: int, lie: int) -> None:
    honest = [said(50 * MS + number * MS // 10) for number in range(hosts - liars)]
    lying = [said(lie, count=1_000_000, spread=10**12)] * liars
    assert pool(*honest, *lying).hosts == hosts - liars
    assert pool(*honest, *lying).estimate.value == pytest.approx(50 * MS, rel=0.03)


def test_one_host_is_never_most_of_it() -> None:
    quiet = [said(50 * MS, count=1)] * 9
    assert pool(*quiet, said(54 * MS, count=1_000_000)).estimate.value <= 50 * MS + MS


def test_the_order_of_hosts_is_of_no_account() -> None:
    hosts = [said((40 + 3 * number) * MS, count=1 + number, age_periods=number) for number in range(9)]
    assert pool(*hosts) == pool(*reversed(hosts))


def test_tolls_that_are_all_the_same_are_that() -> None:
    found = pool(*[said(3_000, spread=0)] * 4).estimate
    assert (found.value, found.spread, found.samples) == (3_000, 0, PRIOR_SAMPLES)
    assert found.uncertainty <= 3_000 * RESOLUTION
