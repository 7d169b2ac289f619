"""The price of a mark that this provider publishes: as the operator says, or as the load asks (M3I 3.3.4, DPH-22).

Decides: which price holds from when, and what is to be pushed again. Refuses to know: sockets, keys, who is charged.
Pure: times are arguments. A price is published before it holds, so that both sides can split a bill at the very
change: also the first one, since a gateway that was started again may have had another; serials grow with the time of
day, so over restarts too. Pushed again and again, since a datagram may be lost (push only, DPH-26).
"""

from __future__ import annotations

from dataclasses import dataclass

from billpay.pricesetting import PriceSetter, PriceTarget
from billpay.sessions import MarkPrice


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingSettings:
    """`announced_ms`: how long before it holds a price is published. `target` None: only the operator moves it."""

    nanodollars_per_mark: int
    announced_ms: int = 4_000
    period_ms: int = 10_000
    target: PriceTarget | None = None


class MarkPricing:
    """`pushes()` is what to send now, the oldest first."""

    def __init__(self, settings: PricingSettings, *, provider: str, unix_ms: int) -> None:
        self._settings = settings
        self._provider = provider
        self._serial = 0
        self._setter = self._setter_from(settings.nanodollars_per_mark)
        self._next_period_ms = unix_ms + settings.period_ms
        self._pushed: tuple[MarkPrice, ...] = ()
        self._publish(settings.nanodollars_per_mark, unix_ms)

    @property
    def newest(self) -> MarkPrice:
        return self._pushed[-1]

    def pushes(self) -> tuple[MarkPrice, ...]:
        """The one that holds, and those that will."""
        return self._pushed

    def set_price(self, nanodollars_per_mark: int, unix_ms: int) -> MarkPrice:
        """The operator's word; a controller goes on from there."""
        self._setter = self._setter_from(nanodollars_per_mark)
        self._next_period_ms = unix_ms + self._settings.period_ms
        return self._publish(nanodollars_per_mark, unix_ms)

    def on_load(self, utilisation_ppm: int, unix_ms: int) -> MarkPrice | None:
        """Once a period, with the load of that period; None: the price stays, or it is not time yet."""
        if self._setter is None or unix_ms < self._next_period_ms:
            return None
        self._next_period_ms = unix_ms + self._settings.period_ms
        price = self._setter.on_period(utilisation_ppm)
        return None if price == self.newest.nanodollars_per_mark else self._publish(price, unix_ms)

    def is_period_over(self, unix_ms: int) -> bool:
        return self._setter is not None and unix_ms >= self._next_period_ms

    def _publish(self, nanodollars_per_mark: int, unix_ms: int) -> MarkPrice:
        self._serial = max(self._serial + 1, unix_ms)
        published_unix_s = unix_ms // 1_000
        price = MarkPrice(
            provider=self._provider,
            serial=self._serial,
            nanodollars_per_mark=nanodollars_per_mark,
            valid_from_unix_ms=unix_ms + self._settings.announced_ms,
            published_unix_s=published_unix_s,
        )
        held = [each for each in self._pushed if each.valid_from_unix_ms <= unix_ms][-1:]
        coming = [each for each in self._pushed if each.valid_from_unix_ms > unix_ms]
        self._pushed = (*held, *coming[-1:], price)
        return price

    def _setter_from(self, nanodollars_per_mark: int) -> PriceSetter | None:
        target = self._settings.target
        return None if target is None else PriceSetter(target, nanodollars_per_mark=nanodollars_per_mark)
