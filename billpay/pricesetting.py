"""The price of a mark that keeps a link at its target: the provider's part of the bargain.

Decides: the next price, from how much of the link was used. Refuses to know: users, what they would pay, clocks. Pure.
Users who spend w each keep π m ρ C = Σ w, so for a target ρ* the price is W / (m(ρ*) ρ* C), W the revenue: a higher
price does not earn more from them, it only moves the load. Nobody tells W and m(ρ*), so it is found by a controller:

    ln π ← ln π + g (ρ − ρ*),  at most doubled or halved in a period, g at most ½ a period

A period has to be long beside the users' own: twenty round trips or more, and a price is published before it holds.
Source: Siris and Courcoubetis, TR 296 (the problem of pricing marks); Gibbens and Kelly 1999 (w = π m x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from billpay.errors import LocalProtocolError

PPM: Final = 1_000_000
GAIN_MAX: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTarget:
    """`gain`: g, a period."""

    utilisation_ppm: int
    gain: float = GAIN_MAX
    least_nanodollars: int = 1
    most_nanodollars: int = 10**9

    def __post_init__(self) -> None:
        if not 0 < self.gain <= GAIN_MAX:
            raise LocalProtocolError(f"a gain of {self.gain} is not in (0, {GAIN_MAX}]: a price that fast swings")
        if not (0 < self.utilisation_ppm < PPM and 0 < self.least_nanodollars <= self.most_nanodollars):
            raise LocalProtocolError(f"{self} is no target: a link is used in part, and a price is positive")


class PriceSetter:
    """Starts at a price; `on_period` gives the next one."""

    def __init__(self, target: PriceTarget, *, nanodollars_per_mark: int) -> None:
        self._target = target
        self._log_price = math.log(self._bounded(nanodollars_per_mark))

    @property
    def nanodollars_per_mark(self) -> int:
        return self._bounded(round(math.exp(self._log_price)))

    def on_period(self, utilisation_ppm: int) -> int:
        """The price of the next period, from the load of the last one (which may be beyond the link's rate)."""
        beyond = (utilisation_ppm - self._target.utilisation_ppm) / PPM
        step = self._target.gain * beyond
        self._log_price += max(-math.log(2), min(math.log(2), step))
        floor, ceiling = math.log(self._target.least_nanodollars), math.log(self._target.most_nanodollars)
        self._log_price = max(floor, min(ceiling, self._log_price))
        return self.nanodollars_per_mark

    def _bounded(self, nanodollars: int) -> int:
        return max(self._target.least_nanodollars, min(self._target.most_nanodollars, nanodollars))
