"""A day's budget: what was spent today and what open grants may still spend, never together above the limit. Pure.

Decides whether more may be promised. A day is a UTC day. What is promised over midnight counts on the new day too, so
that the limit holds on each.
"""

from __future__ import annotations

DAY_S = 86_400


class DayBudget:
    """Reservations by grant; `unix_s` may not run backwards over midnight (an earlier day is taken as the latest)."""

    def __init__(self, limit_nanodollars: int) -> None:
        self.limit_nanodollars = limit_nanodollars
        self.spent_nanodollars = 0
        self._reserved: dict[str, int] = {}
        self._day = 0

    @property
    def reserved_nanodollars(self) -> int:
        return sum(self._reserved.values())

    def on_time(self, unix_s: int) -> None:
        """A new day begins with nothing spent."""
        day = unix_s // DAY_S
        if day > self._day:
            self._day = day
            self.spent_nanodollars = 0

    def available(self, grant: str = "") -> int:
        """What may be promised to a grant in all, what it has been promised already included."""
        others = self.reserved_nanodollars - self._reserved.get(grant, 0)
        return max(0, self.limit_nanodollars - self.spent_nanodollars - others)

    def reserve(self, grant: str, cap_nanodollars: int) -> None:
        """Replaces what the grant had reserved; the caller has asked `available`."""
        self._reserved[grant] = cap_nanodollars

    def close(self, grant: str, spent_nanodollars: int) -> None:
        """Books what was spent and frees the rest; a grant that is not open changes nothing."""
        reserved = self._reserved.pop(grant, None)
        if reserved is not None:
            self.spent_nanodollars += min(spent_nanodollars, reserved)
