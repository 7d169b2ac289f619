"""Priced against unpriced users of one demand."""

from __future__ import annotations

import pytest

from lab.studies import bursts


@pytest.mark.row("MV-37")
def test_bursts_shrink_when_they_cost_something() -> None:
    study = bursts.run(1)
    priced, unpriced = study.priced, study.unpriced
    assert priced.mean_bit_s == pytest.approx(unpriced.mean_bit_s, rel=0.1)  # the same is carried
    assert priced.peak_to_mean < 0.8 * unpriced.peak_to_mean
    assert priced.p99_to_mean < 0.8 * unpriced.p99_to_mean
    assert priced.deviation_to_mean < 0.8 * unpriced.deviation_to_mean
    assert priced.lost_share < unpriced.lost_share / 5
    assert priced.burst_mean_s > unpriced.burst_mean_s  # who waits is who pays less


@pytest.mark.deep
@pytest.mark.row("MV-37")
@pytest.mark.parametrize("seed", range(2, 12))
def test_bursts_shrink_for_every_demand(seed: int) -> None:
    study = bursts.run(seed)
    assert study.priced.peak_to_mean < 0.8 * study.unpriced.peak_to_mean
