"""Packets that cannot wait, beside the strategy for large transfers."""

from __future__ import annotations

import pytest

from lab.studies import timely


@pytest.mark.row("BP-46")
def test_the_timely_strategy_loses_next_to_nothing_where_bulk_loses_much() -> None:
    study = timely.run(1, events=4)
    assert study.timely.sent == study.bulk.sent > 250
    assert study.timely.lost_share < 0.01
    assert study.bulk.lost_share > 0.1
    assert study.timely.paid_nanodollars_per_packet > study.bulk.paid_nanodollars_per_packet  # that is its price


@pytest.mark.row("BP-46")
def test_two_copies_over_disjoint_paths_lose_the_product() -> None:
    study = timely.run(2, events=3)
    assert study.copies == 2
    assert study.single_lost_share == pytest.approx(0.05, rel=0.05)
    assert study.expected_duplicate_lost_share == pytest.approx(0.0025)
    assert study.duplicate_lost_share == pytest.approx(0.0025, abs=0.0008)  # three standard deviations
