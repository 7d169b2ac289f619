"""Small unjustified payments: a budget of their own, so that the secretary may err instead of asking.

Decides: what of the money that was paid unasked turns out not to have been wanted, and when the day's allowance for
that is used up. Refuses to know: how anything was decided. Pure; an instant is an argument.

What the secretary pays by itself is remembered for the day by the question that it would have been. When the person
says no to that question, what was paid for it that day, at prices that the no is about, was unjustified.
Source: Bill-Pay 2.3 ("small unjustified nanopayments to avoid bothering the user").
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import date
from typing import Final

import msgspec

from secretary.inbox.questions import Group
from secretary.transfers import Moment, Nanodollars

GROUPS_MAX: Final = 4096


class Unasked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    group: Group
    price_nanodollars: Nanodollars
    nanodollars: Nanodollars


class AllowanceState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    day: str
    unjustified_nanodollars: Nanodollars
    paid: tuple[Unasked, ...]


class Allowance:
    """Of one host for a local day. `limit_nanodollars` None: no bound."""

    def __init__(self, limit_nanodollars: int | None, kept: AllowanceState | None = None) -> None:
        self.limit_nanodollars = limit_nanodollars
        self._day = date.fromisoformat(kept.day) if kept is not None else date.min
        self.unjustified_nanodollars = kept.unjustified_nanodollars if kept is not None else 0
        self._paid: OrderedDict[tuple[Group, int], int] = OrderedDict(
            ((each.group, each.price_nanodollars), each.nanodollars) for each in (kept.paid if kept is not None else ())
        )

    def is_used_up(self, now: Moment) -> bool:
        self._on(now)
        return self.limit_nanodollars is not None and self.unjustified_nanodollars >= self.limit_nanodollars

    def paid(self, group: Group, price_nanodollars: int, nanodollars: int, now: Moment) -> None:
        """Unasked, on the learner's word: so much more."""
        self._on(now)
        place = (group, price_nanodollars)
        self._paid[place] = self._paid.pop(place, 0) + nanodollars
        while len(self._paid) > GROUPS_MAX:
            self._paid.popitem(last=False)

    def declined(self, group: Group, bound_nanodollars: int, now: Moment) -> int:
        """The person said no to that price: gives what was unjustified of today's payments, and remembers it."""
        self._on(now)
        over = [place for place in self._paid if place[0] == group and place[1] >= bound_nanodollars]
        unjustified = sum(self._paid.pop(place) for place in over)
        self.unjustified_nanodollars += unjustified
        return unjustified

    def state(self) -> AllowanceState:
        return AllowanceState(
            day=self._day.isoformat(),
            unjustified_nanodollars=self.unjustified_nanodollars,
            paid=tuple(
                Unasked(group=group, price_nanodollars=price, nanodollars=nanodollars)
                for (group, price), nanodollars in self._paid.items()
            ),
        )

    def _on(self, now: Moment) -> None:
        """Another day begins with nothing; a clock set back begins none."""
        day = now.local.date()
        if day > self._day:
            self._day, self.unjustified_nanodollars = day, 0
            self._paid.clear()
