"""The alpha-fair reactor of theory, for comparison: alpha 1 is the elastic law, 2 is like TCP, many is max-min.

Decides: a rate from the marks that were heard. Refuses to know: money beyond its weight. No product reactor: people
state what they pay, and that is alpha 1. dx/dt = κ (w − x₀ (x/x₀)^α q), the step at most a quarter of the rate.
Source: Mo and Walrand 2000; algorithms C.1.
"""

from __future__ import annotations

from pricereactor.rates import RateDecision
from pricereactor.signals import NS_PER_S, PriceSignal

_MEGABIT = 1e6
_LARGEST_STEP = 0.25


class AlphaFairRate:
    """`weight` and the rate in its law in Mbit/s, so that q is the marked share."""

    def __init__(
        self,
        *,
        weight: float,
        alpha: float,
        reference_bit_s: float,
        gain_per_s: float,
        interval_ns: int,
        start_bit_s: float,
        least_bit_s: float,
        most_bit_s: float,
    ) -> None:
        self.interval_ns = interval_ns
        self._weight = weight
        self._alpha = alpha
        self._reference = reference_bit_s / _MEGABIT
        self._gain = gain_per_s
        self._rate = start_bit_s / _MEGABIT
        self._least = least_bit_s / _MEGABIT
        self._most = most_bit_s / _MEGABIT

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:  # noqa: ARG002 - its interval
        if signal is not None and signal.packets:
            share = signal.marks / signal.packets
            bears = self._reference * (self._rate / self._reference) ** self._alpha * share
            step = self._gain * signal.interval_ns / NS_PER_S * (self._weight - bears)
            most = _LARGEST_STEP * self._rate
            self._rate = min(self._most, max(self._least, self._rate + min(most, max(-most, step))))
        return RateDecision(target_bit_s=round(self._rate * _MEGABIT), reason="the alpha-fair law")
