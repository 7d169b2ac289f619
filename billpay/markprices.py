"""What a mark costs, when, and what so many marks cost together across changes of the price.

Decides: which of a provider's pushed prices is in force at a time, and the bill of a list of readings. The provider and
the payer both use it, so they agree to the nanodollar. Refuses to know: signatures, who pushed, clocks. Pure.

The rule: a mark costs the price in force where an interval of counting began. An interval lies between two readings of
the receiver's cumulative count. Prices are published before they hold, so both sides know the next change and can take
a reading at that very millisecond; then the bill splits exactly at the change. Who has lost a reading cannot know
on which side of a change its marks were: `most_nanodollars` takes the dearer one, so it is never less than the bill.

Source: M3I scenarios 3.3.2 ("effectively a fixed price per mark", sessions that span a change of it: DPH-02, DPH-21),
3.3.5.2 (push-only tariffs); a price that reaches back is no price that was published (UD-03).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from billpay.errors import LocalProtocolError
from billpay.sessions import MarkPrice

MOST_PRICES_KEPT = 4_096
"""Of one provider; beyond it the oldest serials go. A change each ten seconds fills it in eleven hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkReading:
    """The receiver's cumulative count of marks at a time of day."""

    unix_ms: int
    marks: int


class PriceSchedule:
    """All prices that one provider has pushed, in any order, any number of times."""

    def __init__(self, pushes: Iterable[MarkPrice] = ()) -> None:
        self._by_serial: dict[int, MarkPrice] = {}
        self._times: list[int] = []  # when the price becomes another one, rising; and what it is from then on
        self._prices: list[int] = []
        for push in pushes:
            self.on_push(push)

    @property
    def newest(self) -> MarkPrice | None:
        """Of the highest serial, in force already or not."""
        return self._by_serial[max(self._by_serial)] if self._by_serial else None

    def on_push(self, push: MarkPrice) -> bool:
        """Whether it is news. A serial is worth what it said first; a price from before its own publication is none."""
        if push.serial in self._by_serial or push.valid_from_unix_ms < push.published_unix_s * 1000:
            return False
        if len(self._by_serial) >= MOST_PRICES_KEPT:
            oldest = min(self._by_serial)
            if push.serial < oldest:
                return False
            del self._by_serial[oldest]
        self._by_serial[push.serial] = push
        self._lay_out()
        return True

    def _lay_out(self) -> None:
        self._times, self._prices = [], []
        highest = 0
        for push in sorted(self._by_serial.values(), key=lambda push: (push.valid_from_unix_ms, push.serial)):
            if push.serial < highest:
                continue  # a later serial holds already
            highest = push.serial
            if self._times and self._times[-1] == push.valid_from_unix_ms:
                self._prices[-1] = push.nanodollars_per_mark
            else:
                self._times.append(push.valid_from_unix_ms)
                self._prices.append(push.nanodollars_per_mark)

    @property
    def highest_known(self) -> int | None:
        """Of all prices, past and to come."""
        return max(self._prices, default=None)

    def price_at(self, unix_ms: int) -> int | None:
        """Nanodollars per mark: of the highest serial among those that hold already. None: no price is known."""
        at = bisect_right(self._times, unix_ms)
        return self._prices[at - 1] if at else None

    def changes_between(self, start_unix_ms: int, end_unix_ms: int) -> tuple[int, ...]:
        """The times in (start, end] at which the price becomes another one: when to take a reading."""
        first, last = bisect_right(self._times, start_unix_ms), bisect_right(self._times, end_unix_ms)
        return tuple(
            self._times[at] for at in range(first, last) if at == 0 or self._prices[at] != self._prices[at - 1]
        )

    def highest_between(self, start_unix_ms: int, end_unix_ms: int) -> int | None:
        """The highest price in force at any time from start to end. None: at one of them no price is known."""
        times = (start_unix_ms, *self.changes_between(start_unix_ms, end_unix_ms))
        prices = [self.price_at(at) for at in times]
        known = [price for price in prices if price is not None]
        return max(known) if len(known) == len(prices) else None

    def bill_nanodollars(self, readings: Sequence[MarkReading]) -> int | None:
        """What the marks from the first reading to the last one cost. None: for some of them no price is known."""
        return _sum_of((marks, self.price_at(start)) for start, _, marks in _intervals(readings))

    def most_nanodollars(self, readings: Sequence[MarkReading]) -> int | None:
        """What they can have cost at most if readings are missing in between."""
        return _sum_of(
            (marks, self.highest_between(start, max(start, end - 1))) for start, end, marks in _intervals(readings)
        )


def _intervals(readings: Sequence[MarkReading]) -> Iterable[tuple[int, int, int]]:
    """(start, end, marks) of each interval."""
    for earlier, later in pairwise(readings):
        if later.unix_ms < earlier.unix_ms or later.marks < earlier.marks:
            raise LocalProtocolError(f"readings run backwards: {earlier} before {later}")
        yield earlier.unix_ms, later.unix_ms, later.marks - earlier.marks


def _sum_of(parts: Iterable[tuple[int, int | None]]) -> int | None:
    total = 0
    for marks, price in parts:
        if marks == 0:
            continue
        if price is None:
            return None
        total += marks * price
    return total
