"""Paris Metro prices by tolls, against the computed equilibria."""

from __future__ import annotations

import pytest

from lab.studies import metro


@pytest.mark.row("BP-53")
@pytest.mark.parametrize("seed", [1, 7])
def test_tolls_by_class_settle_where_paris_metro_prices_do(seed: int) -> None:
    first, second = metro.run(seed).outcomes
    assert [first.border, first.last] == pytest.approx([0.52, 0.9438], abs=0.003)
    assert list(first.loads) == pytest.approx([0.8476, 1.04], abs=0.005)
    assert [second.border, second.last] == pytest.approx([0.5854, 1.0], abs=0.003)
    assert list(second.loads) == pytest.approx([0.8292, 1.1708], abs=0.005)
    for outcome in (first, second):
        assert outcome.changed_in_last_round == 0
        assert outcome.kept_nanodollars == outcome.owed_nanodollars
        assert outcome.classes[0] > outcome.classes[1]
