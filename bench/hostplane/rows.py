"""A line of the report: what was measured, its value, and the goal that it has.

Decides: nothing. Refuses to know: how anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.hostplane.hosts import Spread

UNKNOWN: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`at_most`, `at_least`: the goal, which the median has to meet."""

    section: str
    what: str
    unit: str
    value: Spread | None = None
    note: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_missed(self) -> bool:
        if self.value is None:
            return False
        above = self.at_most is not None and self.value.median > self.at_most
        return above or (self.at_least is not None and self.value.median < self.at_least)

    def text(self) -> str:
        return f"{self.what:44} {self._value():34} {self.note}{self._goal()}".rstrip()

    def markdown(self) -> str:
        return f"| {self.section} | {self.what} | {self._value()} | {self.note}{self._goal()} |"

    def _value(self) -> str:
        if self.value is None:
            return UNKNOWN
        middle = f"{_number(self.value.median)} {self.unit}".rstrip()
        if self.value.rounds < 2:
            return middle
        return f"{middle}  [{_number(self.value.low)} – {_number(self.value.high)}]"

    def _goal(self) -> str:
        if self.at_most is None and self.at_least is None:
            return ""
        goal = f"≤ {_number(self.at_most)}" if self.at_most is not None else f"≥ {_number(self.at_least or 0)}"
        verdict = "missed" if self.is_missed else "met"
        return f"{' ' if self.note else ''}(goal {goal}: {verdict})"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def one(value: float) -> Spread:
    """Measured once."""
    return Spread(median=value, low=value, high=value, rounds=1)
