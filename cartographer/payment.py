"""How much to put on a packet, and on which way: the payment level that costs least, from the tolls that were seen.

Decides: the amount, the part of the packets that it lets drop, and why, in words. Refuses to know who sets the ceiling
(the secretary) and where the tolls come from (echoes). Cost is what is paid and does not come back, plus the packet's
value times the chance that it is dropped. Tolls are totals over the way, of one packet.

If the receiver returns what was not taken, and the toll does not hang on the bid, the packet's full value is best: the
toll is paid and no more, as in a second-price auction (Vickrey 1961). If the rest is lost, x + v·P(drop | x) is
minimised over the tolls seen:

- proportional dropping, P = E[(toll − x)⁺ / toll]: convex in x, so at its least where v·E[1{toll > x} / toll] falls to
  1; between two tolls the slope is constant, so the best x is 0 or one of the tolls;
- cut-off dropping, P = P(toll > x): again 0 or one of the tolls, a quantile of them, found by trying all.

All in integers. Pure.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from billpay.money import PICODOLLARS_PER_NANODOLLAR
from cartographer.values import Way

MAX_TOLLS = 256  # the newest ones count, no more
_PPM = 1_000_000
_SCALE = 10**18  # of 1/toll, in integers


class Dropping(enum.Enum):
    """What a gateway does to a packet that has less than its toll."""

    PROPORTIONAL = "proportional"  # dropped with probability (toll − amount) / toll, as billpay.tolls.must_drop
    CUT_OFF = "cut-off"  # always dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """`cost_picodollars`: expected, with what a drop loses; to be compared with other ways' costs."""

    amount_nanodollars: int
    drop_ppm: int
    cost_picodollars: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One way: its tolls as seen, and what a packet costs there besides (delay, losses that money cannot help)."""

    way: Way
    tolls_nanodollars: Sequence[int]
    other_picodollars: int = 0


def best_payment(
    tolls: Sequence[int],
    *,
    value_nanodollars: int,
    ceiling_nanodollars: int,
    returned: bool,
    dropping: Dropping = Dropping.PROPORTIONAL,
) -> Payment:
    """Tolls in nanodollars, oldest first. Never more than the ceiling, nor than the packet is worth."""
    most = min(value_nanodollars, ceiling_nanodollars)
    if most < 0 or any(toll < 0 for toll in tolls):
        raise ValueError("tolls, value and ceiling may not be negative")
    seen = _Tolls(tolls[-MAX_TOLLS:], dropping)
    if returned:
        amount, reason = most, "its full worth: what is not taken comes back"
    elif not seen.tolls:
        amount, reason = 0, "no toll has been seen yet, and what is not taken would be lost"
    else:
        amount, reason = _where_the_rest_is_lost(seen, value_nanodollars, most)
    if amount == most < value_nanodollars:
        reason = f"all that may be spent ({most} n$); the packet is worth {value_nanodollars} n$"
    if amount and seen.tolls and amount < seen.tolls[0]:
        reason += "; every toll seen is higher"
    paid = seen.taken_picodollars(amount) if returned else amount * PICODOLLARS_PER_NANODOLLAR
    drop_ppm = seen.drop_ppm(amount)
    return Payment(
        amount_nanodollars=amount,
        drop_ppm=drop_ppm,
        cost_picodollars=paid + value_nanodollars * drop_ppm * PICODOLLARS_PER_NANODOLLAR // _PPM,
        reason=reason,
    )


def best_offer(
    offers: Sequence[Offer],
    *,
    value_nanodollars: int,
    ceiling_nanodollars: int,
    returned: bool,
    dropping: Dropping = Dropping.PROPORTIONAL,
) -> tuple[Offer, Payment]:
    """Path and payment together: the way that costs least at its own best payment. Ties: the first one."""
    priced = [
        (
            offer,
            best_payment(
                offer.tolls_nanodollars,
                value_nanodollars=value_nanodollars,
                ceiling_nanodollars=ceiling_nanodollars,
                returned=returned,
                dropping=dropping,
            ),
        )
        for offer in offers
    ]
    if not priced:
        raise ValueError("there is no way to choose from")
    return min(priced, key=lambda each: each[0].other_picodollars + each[1].cost_picodollars)


class _Tolls:
    """Sums over the tolls above any amount, so that a payment is judged without going through all of them."""

    __slots__ = ("_cut_off", "_inverse_above", "_sum_below", "tolls")

    def __init__(self, tolls: Sequence[int], dropping: Dropping) -> None:
        self.tolls = sorted(tolls)
        self._cut_off = dropping is Dropping.CUT_OFF
        inverses = [_SCALE // toll if toll else 0 for toll in self.tolls]
        above = list(accumulate(reversed(inverses), initial=0))
        self._inverse_above = above[::-1]  # of the tolls from that index on
        self._sum_below = list(accumulate(self.tolls, initial=0))

    def drop_ppm(self, amount: int) -> int:
        """Nothing seen: nothing is known to drop."""
        first = bisect_right(self.tolls, amount)
        dearer = len(self.tolls) - first
        if dearer == 0:
            return 0
        kept = 0 if self._cut_off else amount * self._inverse_above[first]
        return max(0, dearer * _SCALE - kept) * _PPM // (_SCALE * len(self.tolls))

    def taken_picodollars(self, amount: int) -> int:
        """On the mean, where the rest comes back: the toll, or all of it where that is less."""
        if not self.tolls:
            return 0
        first = bisect_right(self.tolls, amount)
        taken = self._sum_below[first] + amount * (len(self.tolls) - first)
        return taken * PICODOLLARS_PER_NANODOLLAR // len(self.tolls)

    def is_worth_more(self, amount: int, value: int) -> bool:
        """Whether another nanodollar saves more than it costs: v·E[1{toll > x} / toll] > 1."""
        return value * self._inverse_above[bisect_right(self.tolls, amount)] > _SCALE * len(self.tolls)

    @property
    def cuts_off(self) -> bool:
        return self._cut_off


def _where_the_rest_is_lost(seen: _Tolls, value: int, most: int) -> tuple[int, str]:
    levels = sorted({0, *(toll for toll in seen.tolls if toll <= most)})
    if seen.cuts_off:
        amount = min(levels, key=lambda level: (level * _PPM + value * seen.drop_ppm(level), level))
        carried = 100 - seen.drop_ppm(amount) // 10_000
        reason = f"enough for {carried} % of the tolls seen" if amount else "no toll is worth paying"
        return amount, reason
    # The slope falls from level to level, so the first one where another nanodollar is not worth it is the best.
    index = bisect_left(levels, True, key=lambda level: not seen.is_worth_more(level, value))
    if index == len(levels):
        return most, "another nanodollar would still save more than it costs"
    return levels[index], "another nanodollar would cost more than it saves" if levels[index] else "no toll is worth it"
