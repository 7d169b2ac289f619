"""What a bit costs now, as one session finds it, what it has cost in all, and how long nothing was heard.

Decides: how fast an old price is forgotten, and what proves nothing. Refuses to know: what follows. Pure.

The price is charge over bits, both with the same exponential weights, so that a nearly empty interval counts for as
little as it knows; it is exact at once where the price stands still. A report without a price, or of nothing that
arrived, leaves it as it was: neither is a price of 0. Source: algorithms of M3I's price reaction, c = pi * m / S.
"""

from __future__ import annotations

import math

from pricereactor.signals import NS_PER_S, PriceSignal

BITS_PER_MB = 8_000_000
HALF_LIFE_NS = 2_000_000_000
HOLD_NS = 10_000_000_000
"""Silence for so long says nothing; the longest outage that a person waits through without touching anything."""
CONGESTION_EXPONENT = 10
"""The steepest price that is reckoned with: p(y) = (y/C)^B, a virtual queue at its fullest (as in `elastic`)."""


class BitPrice:
    """`nanodollars_per_bit` None: not known yet. `spent_nanodollars`: all charges heard, estimates too."""

    def __init__(self, *, half_life_ns: int = HALF_LIFE_NS) -> None:
        self._half_life_ns = half_life_ns
        self._charge = 0.0
        self._bits = 0.0
        self._heard_ns: int | None = None
        self._silent_since_ns: int | None = None
        self._accounted_ns: int | None = None
        self.nanodollars_per_bit: float | None = None
        self.spent_nanodollars = 0
        self.dearest_interval_nanodollars = 0

    def hear(self, now_ns: int, signal: PriceSignal | None) -> bool:
        """Whether it says what a bit costs."""
        if self._silent_since_ns is None:
            self._silent_since_ns = self._accounted_ns = now_ns
        if signal is None or signal.charge_nanodollars is None:
            return False
        charge = signal.charge_nanodollars
        self._accounted_ns = now_ns  # even where nothing arrived: then nothing was spent
        self.spent_nanodollars += charge
        self.dearest_interval_nanodollars = max(self.dearest_interval_nanodollars, charge)
        if signal.bytes <= 0:
            return False
        past_ns = now_ns - self._heard_ns if self._heard_ns is not None else 0
        keep = math.exp2(-past_ns / self._half_life_ns)
        self._charge = self._charge * keep + charge
        self._bits = self._bits * keep + signal.bytes * 8
        self._heard_ns = self._silent_since_ns = now_ns
        self.nanodollars_per_bit = self._charge / self._bits
        return True

    def silent_ns(self, now_ns: int) -> int:
        """Since the last price, or since the first time it was asked."""
        return now_ns - self._silent_since_ns if self._silent_since_ns is not None else 0

    def unaccounted_ns(self, now_ns: int) -> int:
        """Since the last report that said what was spent."""
        return now_ns - self._accounted_ns if self._accounted_ns is not None else 0

    def could_use_up(self, budget: int | None, now_ns: int, *, rate_bit_s: int, interval_ns: int) -> bool:
        """What is spent, with what is not yet heard of and what the next interval will cost at this rate."""
        if budget is None:
            return False
        ahead_ns = self.unaccounted_ns(now_ns) + interval_ns
        ahead = (self.nanodollars_per_bit or 0.0) * rate_bit_s * ahead_ns / NS_PER_S
        return self.spent_nanodollars + max(ahead, self.dearest_interval_nanodollars) > budget


def largest_elasticity(*, interval_ns: int, half_life_ns: int = HALF_LIFE_NS) -> float:
    """How strongly a rate may answer the smoothed price: x ~ c^-e is stable with e below this.

    With price p(y) = (y/C)^B, smoothing weight g = 1 - 2^(-interval/half life) and an answer that is heard one interval
    later, a deviation s of ln c follows s(t+1) = (1-g) s(t) - g e B s(t-1): stable if and only if g e B < 1.
    """
    weight = 1 - math.exp2(-interval_ns / half_life_ns)
    return 1 / (weight * CONGESTION_EXPONENT)
