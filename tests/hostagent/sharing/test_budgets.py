"""A budget's view reaches the local API whole; who sells at a flat price bears the risk."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from hostagent import api
from hostagent.sharing.budgets import FlatOffer, as_api
from secretary.money.budgets import BudgetTerms, Unit, spend
from secretary.money.periods import Cycle

NOON = int(datetime.fromisoformat("2026-11-10T12:00+01:00").timestamp())


def test_the_local_api_shows_all_that_a_budget_says() -> None:
    terms = BudgetTerms(
        name="phone", unit=Unit.NANODOLLARS, cycle=Cycle.MONTH, limit=1000, hard=True, currency="EUR", reset_day=5
    )
    view = spend(terms, None, 850, unix_s=NOON, zone=ZoneInfo("Europe/Berlin")).view
    shown = as_api(view)
    assert (shown.unit, shown.period) == ("nanodollars", "month")
    same = [each for each in api.Budget.__struct_fields__ if each not in ("unit", "period")]
    assert [getattr(shown, each) for each in same] == [getattr(view, each) for each in same]


@pytest.mark.row("MV-46")
def test_who_sells_at_a_flat_price_bears_the_fluctuation() -> None:
    """Sold at 100, spot is 50 or 200: 50 won or 100 lost; even when one time in three is a high one."""
    offer = FlatOffer(flat_nanodollars=100)
    assert (offer.profit_nanodollars(50), offer.profit_nanodollars(200)) == (50, -100)
    assert offer.break_even_ppm(50, 200) == 333_333
    assert (offer.break_even_ppm(110, 200), offer.break_even_ppm(10, 90)) == (0, 1_000_000)
