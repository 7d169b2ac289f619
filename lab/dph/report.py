"""The report of the experiment: all parts in one value, and the JSON of `--json`.

Decides: which expectations make the command fail (those that were judged and do not hold). Refuses to know: drawing.
"""

from __future__ import annotations

import msgspec

from lab.dph.parts.honesty import Honesty
from lab.dph.parts.limits import Limits
from lab.dph.parts.marking import Markings
from lab.dph.parts.payers import Payers
from lab.dph.parts.prices import Prices
from lab.dph.parts.realshares import RealShares
from lab.dph.parts.shares import Shares
from lab.dph.parts.stability import Stability
from lab.dph.parts.tasks import Tasks
from lab.dph.values import Expectation, Holds, PartResult, Value


class DphReport(Value, frozen=True, kw_only=True):
    """`real_shares` is None where only the simulator ran. `seconds`: that it took; `took_s`: by part."""

    experiment: str
    title: str
    effort: str
    seeds: int
    seconds: float
    took_s: dict[str, float]
    shares: Shares
    real_shares: RealShares | None
    stability: Stability
    marking: Markings
    prices: Prices
    tasks: Tasks
    payers: Payers
    honesty: Honesty
    limits: Limits

    def parts(self) -> dict[str, PartResult]:
        """By name, in the order of the report."""
        found: dict[str, PartResult | None] = {
            "shares": self.shares,
            "real_shares": self.real_shares,
            "stability": self.stability,
            "marking": self.marking,
            "prices": self.prices,
            "tasks": self.tasks,
            "payers": self.payers,
            "honesty": self.honesty,
            "limits": self.limits,
        }
        return {name: part for name, part in found.items() if part is not None}

    def expectations(self) -> tuple[Expectation, ...]:
        return tuple(each for part in self.parts().values() for each in part.expectations)

    @property
    def failing(self) -> tuple[Expectation, ...]:
        return tuple(each for each in self.expectations() if each.holds is Holds.NO)

    @property
    def holds(self) -> bool:
        return not self.failing

    @property
    def shortfall(self) -> str:
        """One line: what did not hold."""
        return "; ".join(f"{each.name}: {each.measured}" for each in self.failing)

    def to_json(self) -> bytes:
        document = msgspec.to_builtins(self)
        document["ok"] = self.holds
        return msgspec.json.format(msgspec.json.encode(document), indent=1)
