"""A day's budget: what was spent today and what open grants may still spend, never together above the limit.

Decides how much more may be promised; refuses to know flows, rules and clocks (time is an argument). Pure.

A day is a UTC day. A grant that is open over midnight takes from the new day what it may still spend by the last word
that was heard of it, so the limit holds on each day whatever was not reported, and on n days no more than n limits go.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400


@dataclass(slots=True)
class _Promise:
    """An open grant: its cap, what was said to be spent of it, and how much of that was before today."""

    cap_nanodollars: int
    told_nanodollars: int = 0
    before_today_nanodollars: int = 0

    @property
    def today_nanodollars(self) -> int:
        return self.cap_nanodollars - self.before_today_nanodollars


class DayBudget:
    """Promises by grant; `unix_s` may not run backwards over midnight (an earlier day is taken as the latest)."""

    def __init__(self, limit_nanodollars: int) -> None:
        self.limit_nanodollars = limit_nanodollars
        self.spent_nanodollars = 0
        self._open: dict[str, _Promise] = {}
        self._day = 0

    @property
    def reserved_nanodollars(self) -> int:
        """What open grants may take from today."""
        return sum(promise.today_nanodollars for promise in self._open.values())

    @property
    def left_nanodollars(self) -> int:
        """For grants that are not open yet; 0 also when the limit was lowered below what is promised."""
        return max(0, self.limit_nanodollars - self.spent_nanodollars - self.reserved_nanodollars)

    def on_time(self, unix_s: int) -> None:
        """A new day begins with nothing spent."""
        day = unix_s // DAY_S
        if day > self._day:
            self._day = day
            self.spent_nanodollars = 0
            for promise in self._open.values():
                promise.before_today_nanodollars = promise.told_nanodollars

    def highest_cap(self, grant: str) -> int:
        """The cap that an open grant could have; never below the one that it has."""
        return self._open[grant].cap_nanodollars + self.left_nanodollars

    def told(self, grant: str, spent_nanodollars: int) -> int:
        """What counts as spent of an open grant when its host says so: it cannot be more than the cap, and what was
        spent does not come back.
        """
        promise = self._open[grant]
        return max(promise.told_nanodollars, min(spent_nanodollars, promise.cap_nanodollars))

    def reserve(self, grant: str, cap_nanodollars: int, *, spent_nanodollars: int = 0) -> None:
        """Opens a grant, or raises its cap; the caller has asked how much is left."""
        promise = self._open.setdefault(grant, _Promise(cap_nanodollars))
        promise.told_nanodollars = self.told(grant, spent_nanodollars)
        promise.cap_nanodollars = max(promise.cap_nanodollars, cap_nanodollars)

    def close(self, grant: str, spent_nanodollars: int) -> None:
        """Books what was spent today and frees the rest; a grant that is not open changes nothing."""
        if grant in self._open:
            spent = self.told(grant, spent_nanodollars)
            self.spent_nanodollars += spent - self._open.pop(grant).before_today_nanodollars
