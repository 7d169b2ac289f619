"""What a campus service is worth: 20 hosts that share converge at least five times faster than alone."""

from __future__ import annotations

import pytest

from lab.studies import pooling


@pytest.mark.row("BP-32")
@pytest.mark.parametrize("seed", [2, 7])
def test_twenty_hosts_that_share_find_the_way_five_times_faster(seed: int) -> None:
    study = pooling.run(seed, steps=260, worlds=1)
    assert study.together.converged_after is not None
    assert study.times_faster >= 5
    assert study.together.last_regret < study.alone.last_regret / 2
    assert study.together.right_share > study.alone.right_share
    assert study.together.probes <= study.alone.probes


def test_convergence_is_for_good() -> None:
    near, far = [0.01] * 40, [0.2] * 40
    assert pooling.converged_after(near) == 0
    assert pooling.converged_after(far) is None
    assert pooling.converged_after([*near, *far]) is None
    assert pooling.converged_after([*far, *near]) == pytest.approx(36, abs=1)
    assert pooling.converged_after([*near, *far, *near]) == pytest.approx(76, abs=1)
