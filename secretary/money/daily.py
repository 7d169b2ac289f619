"""What grants may have spent today under each ceiling with a day's bound.

Decides: an open grant counts whole, an ended one by what it spent; one that is open over midnight counts on both days.
Refuses to know what a ceiling cuts. Pure; an instant is an argument.
"""

from __future__ import annotations

from datetime import date

from secretary.ruling.ceilings import Placed
from secretary.transfers import Moment, Transfer


class Today:
    """Of the local day. `of` asks with the ceilings that hold now: other ceilings than before are counted anew."""

    def __init__(self) -> None:
        self._day = date.min
        self._grants: dict[str, tuple[Transfer, int]] = {}
        self._ended: set[str] = set()
        self._sums: dict[Placed, int] = {}

    def on(self, now: Moment) -> None:
        """A clock set back begins no day."""
        day = now.local.date()
        if day > self._day:
            self._day = day
            for grant in self._ended:
                del self._grants[grant]
            self._ended.clear()
            self._sums.clear()

    def counts(self, grant: str, transfer: Transfer, nanodollars: int, *, ended: bool = False) -> None:
        """So much of it, in all."""
        before = self._grants.get(grant, (transfer, 0))[1]
        self._grants[grant] = (transfer, nanodollars)
        if ended:
            self._ended.add(grant)
        for placed in self._sums:
            if placed.ceiling.holds(transfer):
                self._sums[placed] += nanodollars - before

    def of(self, placed: Placed) -> int:
        known = self._sums.get(placed)
        if known is None:
            held = (amount for transfer, amount in self._grants.values() if placed.ceiling.holds(transfer))
            known = self._sums[placed] = sum(held)
        return known
