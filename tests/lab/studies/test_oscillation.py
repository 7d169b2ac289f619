"""Fifty hosts on two paths: nobody swings, and a path that lost half its capacity is left to 2:1."""

from __future__ import annotations

import pytest

from cartographer.split import SplitTerms
from lab.studies import oscillation
from lab.studies.oscillation import Field, judge, pace_allowed, shares

SEEDS = (1, 2, 3)


@pytest.mark.row("BP-58")
@pytest.mark.parametrize("seed", SEEDS)
def test_shares_keep_still_and_follow_a_halved_capacity(seed: int) -> None:
    ours = judge(shares(seed, Field()))
    assert ours.deviation < 0.05
    assert ours.settled_after is not None
    assert ours.settled_after <= 30
    assert abs(ours.least_in_the_end - 2 / 3) <= 0.05 * 2 / 3
    assert abs(ours.most_in_the_end - 2 / 3) <= 0.05 * 2 / 3


@pytest.mark.row("BP-58")
def test_naive_hosts_swing() -> None:
    naive = judge(shares(1, Field(naive=True)))
    assert naive.swing > 0.5
    assert naive.deviation > 0.25  # more than half of the mean share
    assert naive.settled_after is None


@pytest.mark.row("BP-58")
def test_single_flows_keep_still() -> None:
    found = judge(shares(1, Field(single=True)))
    assert found.deviation < 0.05
    assert 0.58 < found.least_in_the_end < found.most_in_the_end < 0.76


@pytest.mark.row("BP-58")
def test_with_the_real_statistics_and_chooser() -> None:
    found = judge(shares(1, Field(chooser=True)))
    assert found.deviation < 0.05
    assert found.settled_after is not None
    assert found.settled_after <= 40
    assert found.least_in_the_end > 0.63


def test_the_rule_is_what_separates_calm_from_swinging() -> None:
    """Without slowing down after reversals: half the pace that the rule allows is calm, three times that swings."""

    def deviation(part: float) -> float:
        pace = part * pace_allowed(4.0)
        terms = SplitTerms(pace_ppm=round(pace * 1e6), slowest_part=1)
        found = shares(1, Field(terms=terms, stale=4.0, start=0.7, round_trips=60))
        return oscillation._deviation(found[len(found) // 2 :])

    assert deviation(0.5) < 0.05 < deviation(3)


def test_the_rule_in_numbers() -> None:
    assert oscillation.steepness(0.6) == pytest.approx(2.31, abs=0.01)
    assert pace_allowed(2.0) == pytest.approx(0.102, abs=0.001)  # the default is 0.1
    assert pace_allowed(4.0) == pytest.approx(pace_allowed(2.0) / 2)
