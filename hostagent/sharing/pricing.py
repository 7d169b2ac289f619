"""Prices of all links, second by second, and what everybody owes at them: the embedded gateway's books. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hostagent.sharing.clearing import Clearing, Demand, InternalAccount, LinkClearing
from hostagent.sharing.demand import Demands, Moves
from hostagent.sharing.links import CountedLink
from hostagent.sharing.policy import Policy

AT_ITS_CAP_PERCENT: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceNow:
    """Of one link and direction, "out" or "in"."""

    interface: str
    direction: str
    clearing: Clearing


class Pricing:
    """`prices`: those of the last second; `internal`: what each kind owes, since the agent began."""

    def __init__(self) -> None:
        self.prices: tuple[PriceNow, ...] = ()
        self.internal = InternalAccount()
        self._clearings: dict[tuple[str, str], LinkClearing] = {}

    @property
    def is_any_link_full(self) -> bool:
        return any(each.busy for each in self._clearings.values())

    def of(self, interface: str, direction: str) -> int:
        """Nanodollars for a megabyte; 0 for a link that is not there."""
        return next(
            (
                each.clearing.nanodollars_per_mb
                for each in self.prices
                if (each.interface, each.direction) == (interface, direction)
            ),
            0,
        )

    def on_moves(
        self,
        moves: Moves,
        demands: Demands,
        links: Sequence[CountedLink],
        names: Mapping[int, str],
        policy: Policy,
    ) -> None:
        """`names`: of interfaces, by index."""
        indexes = {name: index for index, name in names.items()}
        prices = []
        for link in links:
            index = indexes.get(link.interface, -1)
            for direction, at, limit in (
                ("out", 0, link.shaped.egress_bit_s or link.rates.egress_bit_s),
                ("in", 1, link.shaped.ingress_bit_s or link.rates.ingress_bit_s),
            ):
                clearing = self._clearings.setdefault((link.interface, direction), LinkClearing())
                priced = clearing.clear(limit, _demands_on(index, at, demands, policy))
                prices.append(PriceNow(interface=link.interface, direction=direction, clearing=priced))
                owed = {
                    policy.kinds[number].name: moved[at]
                    for (interface, number), moved in moves.kinds.items()
                    if interface == index and number < len(policy.kinds)
                }
                self.internal.charge(owed, priced.nanodollars_per_mb)
        self.prices = tuple(prices)
        there = {(each.interface, each.direction) for each in prices}
        self._clearings = {place: each for place, each in self._clearings.items() if place in there}


def _demands_on(index: int, at: int, demands: Demands, policy: Policy) -> list[Demand]:
    """What each kind gets now on an interface, leaving (0) or arriving (1)."""
    found = []
    for number, (kind, each) in enumerate(zip(policy.kinds, policy.plan.classes, strict=True)):
        bit_s = demands.rate(index, number)[at]
        if bit_s:
            found.append(
                Demand(
                    kind=kind.name,
                    bit_s=bit_s,
                    worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb,
                    weight=each.weight,
                    capped=each.cap_bit_s is not None and bit_s * 100 >= each.cap_bit_s * AT_ITS_CAP_PERCENT,
                )
            )
    return found
