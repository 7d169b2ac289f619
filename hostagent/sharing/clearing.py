"""The embedded gateway's price: what a megabyte on our own link takes away from others here.

Decides: the price of each link and direction, and what each kind owes at it, exactly. It is internal money: nobody's
bill, and the reason why one waits for another. Refuses to know: who enforces the shares (an engine does, by weight).
Pure; `now_ns` is an argument.

A link is busy when it carries nearly what it can. On a busy link some kinds are held back (they have taken the whole
share that their worth gets them), the others have all they want. One megabyte more takes room from those that are held
back, in proportion to what they get; so the price is the mean of their worths, weighted by what they get. Where nobody
is held back it is 0. This is the rule of the smart market (MacKie-Mason and Varian 1995: a packet pays what the
packets that it displaces would have given) at the shares of proportional fairness (Kelly 1997), which the weights
make. No rate known: no price, since nobody knows when the link is busy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

PPM: Final = 1_000_000
BYTES_PER_MB: Final = 1_000_000
BUSY_PPM: Final = 900_000
IDLE_PPM: Final = 800_000
"""A link that was busy is busy until it falls below this: a price that flickers tells nobody anything."""

HELD_BACK_PPM: Final = 800_000
"""Of its share by worth: a kind that gets so much would take more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One kind on one link and direction: what it gets now, and what a megabyte is worth to it."""

    kind: str
    bit_s: int
    worth_nanodollars_per_mb: int
    weight: int
    capped: bool = False  # by the data plan or a rule: more room would be no use to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearing:
    """The price of one link and direction now."""

    nanodollars_per_mb: int
    used_ppm: int | None
    reason: str


@dataclass(slots=True)
class LinkClearing:
    """One link and direction over time."""

    busy: bool = False

    def clear(self, rate_bit_s: int | None, demands: Sequence[Demand]) -> Clearing:
        """`demands`: all kinds that sent in the last second or so."""
        if rate_bit_s is None:
            return Clearing(nanodollars_per_mb=0, used_ppm=None, reason="its rate is not known yet: nothing is priced")
        used = sum(each.bit_s for each in demands)
        used_ppm = used * PPM // rate_bit_s
        self.busy = used_ppm >= (IDLE_PPM if self.busy else BUSY_PPM)
        if not self.busy:
            return Clearing(nanodollars_per_mb=0, used_ppm=used_ppm, reason="there is room for everybody")
        held = held_back(rate_bit_s, demands)
        taken = sum(each.bit_s for each in held)
        if not taken:
            return Clearing(nanodollars_per_mb=0, used_ppm=used_ppm, reason="full, and nobody is held back")
        price = sum(each.bit_s * each.worth_nanodollars_per_mb for each in held) // taken
        names = ", ".join(sorted(each.kind for each in held))
        return Clearing(nanodollars_per_mb=price, used_ppm=used_ppm, reason=f"a megabyte more takes room from {names}")


def held_back(rate_bit_s: int, demands: Sequence[Demand]) -> list[Demand]:
    """Those that would take more: they have their share by weight of what the others, who want less, leave."""
    left = rate_bit_s
    waiting = [each for each in demands if each.bit_s > 0 and not each.capped]
    left -= sum(each.bit_s for each in demands if each.capped)
    while waiting:
        total = sum(each.weight for each in waiting)
        content = [each for each in waiting if each.bit_s * total * PPM < max(left, 0) * each.weight * HELD_BACK_PPM]
        if not content:
            return waiting
        waiting = [each for each in waiting if each not in content]
        left -= sum(each.bit_s for each in content)
    return []


@dataclass(slots=True)
class InternalAccount:
    """What has been priced, by whoever it is priced for; what is below a nanodollar is carried, never lost.

    `parts`: millionths of a nanodollar (one byte at one nanodollar for a megabyte).
    """

    parts: dict[str, int] = field(default_factory=dict)

    def charge(self, owed_bytes: Mapping[str, int], nanodollars_per_mb: int) -> None:
        if nanodollars_per_mb:
            for name, count in owed_bytes.items():
                if count:
                    self.parts[name] = self.parts.get(name, 0) + count * nanodollars_per_mb

    def nanodollars(self, name: str) -> int:
        return self.parts.get(name, 0) // BYTES_PER_MB

    @property
    def total_parts(self) -> int:
        return sum(self.parts.values())
