"""What marks cost a session: its provider's pushed prices, and the running bill of what its receiver reported.

Decides: which price holds (the first provider of the configuration that has said one; what it pushes goes before what
the configuration says of it), and what the marks of each interval cost. Refuses to know: signatures, sockets, clocks.
Pure.

The rule is `billpay.markprices`: a mark costs the price in force where its interval of counting began, and both ends
read once more at the very moment of a change. Where such a reading was lost, the dearer price of the two is taken, so
that the payer never believes that it owes less than it is billed. Where no price is known nothing is charged yet: such
intervals are kept, and charged when their price comes after all.

Source: M3I scenarios 3.3.2 (DPH-02, DPH-21), 3.3.5.2 (push-only tariffs, DPH-26).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from billpay.markprices import PriceSchedule
from billpay.sessions import MarkPrice

MOST_KEPT = 600
"""Intervals whose charge may still change: a minute's, at ten a second. Beyond it the oldest are reckoned together."""

REPRICED_MS = 60_000
"""A push that comes so late still changes what was charged: it was lost on its way and said again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Who charges. Without a public key it cannot push, and its price is as configured; None: not known."""

    name: str
    public_key: bytes | None = None
    nanodollars_per_mark: int | None = None


class Prices(PriceSchedule):
    """One schedule out of all configured providers' ones."""

    def __init__(self, providers: Iterable[Provider] = ()) -> None:
        super().__init__()
        self.providers = tuple(providers)
        self._pushed = {provider.name: PriceSchedule() for provider in self.providers}

    def on_push(self, push: MarkPrice) -> bool:
        """Whether it is news. Whoever calls has verified that it is the provider's own."""
        pushed = self._pushed.get(push.provider)
        return pushed is not None and pushed.on_push(push)

    @property
    def newest(self) -> MarkPrice | None:
        """Of the first provider that has pushed any."""
        return next((pushed.newest for pushed in self._pushed.values() if pushed.newest is not None), None)

    @property
    def highest_known(self) -> int | None:
        """Of all prices that any of them has said, past and to come."""
        said = [provider.nanodollars_per_mark for provider in self.providers]
        said += [pushed.highest_known for pushed in self._pushed.values()]
        return max((price for price in said if price is not None), default=None)

    def price_at(self, unix_ms: int) -> int | None:
        for provider in self.providers:
            pushed = self._pushed[provider.name].price_at(unix_ms)
            price = provider.nanodollars_per_mark if pushed is None else pushed
            if price is not None:
                return price
        return None

    def changes_between(self, start_unix_ms: int, end_unix_ms: int) -> tuple[int, ...]:
        """The times in (start, end] at which the price becomes another one."""
        times = {at for each in self._pushed.values() for at in each.changes_between(start_unix_ms, end_unix_ms)}
        return tuple(at for at in sorted(times) if self.price_at(at) != self.price_at(at - 1))

    def charge_nanodollars(self, start_unix_ms: int, end_unix_ms: int, marks: int) -> int | None:
        """Of the marks in one interval of counting. None: the price is not known."""
        highest = self.highest_between(start_unix_ms, max(start_unix_ms, end_unix_ms - 1))
        return None if highest is None else marks * highest


@dataclass(slots=True)
class _Interval:
    start_unix_ms: int
    end_unix_ms: int
    marks: int
    charged: int | None


class Bill:
    """Of one session. `nanodollars`: what is charged so far."""

    def __init__(self) -> None:
        self.nanodollars = 0
        self._kept: deque[_Interval] = deque()

    def add(self, prices: Prices, start_unix_ms: int, end_unix_ms: int, marks: int) -> int | None:
        """What the marks of this interval cost; None: it is charged when its price comes."""
        charge = prices.charge_nanodollars(start_unix_ms, end_unix_ms, marks)
        if marks == 0:
            return charge
        self._kept.append(_Interval(start_unix_ms, end_unix_ms, marks, charge))
        self.nanodollars += charge or 0
        while self._is_settled(self._kept[0], end_unix_ms):
            self._kept.popleft()
        if len(self._kept) > MOST_KEPT:
            self._join_oldest()
        return charge

    def _join_oldest(self) -> None:
        """One interval out of two. While a price is missing there are more than can be kept apart."""
        first = self._kept.popleft()
        if first.charged is not None:
            return
        second = self._kept[0]
        second.start_unix_ms = first.start_unix_ms
        second.marks += first.marks
        self.nanodollars -= second.charged or 0
        second.charged = None

    @staticmethod
    def _is_settled(interval: _Interval, now_unix_ms: int) -> bool:
        return interval.charged is not None and interval.end_unix_ms < now_unix_ms - REPRICED_MS

    def add_toll(self, nanodollars: int) -> None:
        """What was taken out of our packets is paid already."""
        self.nanodollars += nanodollars

    def reprice(self, prices: Prices) -> int:
        """A price came. How much more the marks that were counted before cost by it (less: below 0)."""
        more = 0
        for interval in self._kept:
            charge = prices.charge_nanodollars(interval.start_unix_ms, interval.end_unix_ms, interval.marks)
            if charge is not None and charge != interval.charged:
                more += charge - (interval.charged or 0)
                interval.charged = charge
        self.nanodollars += more
        return more

    @property
    def uncharged_marks(self) -> int:
        """Whose price is not known."""
        return sum(interval.marks for interval in self._kept if interval.charged is None)
