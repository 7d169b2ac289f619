"""A budget as the local API shows it, and the price of a flat offer beside it.

Decides: whether a flat price is one that its seller can bear. Refuses to know: how a budget counts, presses and
forecasts (`secretary.money.budgets`), and what it is about.
"""

from __future__ import annotations

from dataclasses import dataclass

from hostagent import api
from secretary.money.budgets import BudgetView
from secretary.money.periods import PPM


def as_api(view: BudgetView) -> api.Budget:
    return api.Budget(
        name=view.name,
        unit=view.unit.value,
        period=view.cycle.value,
        limit=view.limit,
        used=view.used,
        resets_unix_s=view.resets_unix_s,
        hard=view.hard,
        burn_per_day=view.burn_per_day,
        forecast=view.forecast,
        noticed_percent=view.noticed_percent,
        flat_nanodollars_per_month=view.flat_nanodollars_per_month,
        currency=view.currency,
        reason=view.reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatOffer:
    """Who sells at a flat price what costs another price each time bears the risk (MacKie-Mason and Varian 1995)."""

    flat_nanodollars: int

    def profit_nanodollars(self, spot_nanodollars: int) -> int:
        """Of the seller, below 0 for a loss; the buyer would have won as much."""
        return self.flat_nanodollars - spot_nanodollars

    def break_even_ppm(self, low_nanodollars: int, high_nanodollars: int) -> int:
        """How likely the high of two prices may be before the seller loses in the mean."""
        assert low_nanodollars < high_nanodollars
        part_ppm = (self.flat_nanodollars - low_nanodollars) * PPM // (high_nanodollars - low_nanodollars)
        return min(max(0, part_ppm), PPM)
