"""A line of the report: what was measured, its figure, and the goal that it has.

Decides nothing. Refuses to know: how anything is measured.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bench.payments.figures import Figure

UNKNOWN: Final = "-"
_LARGE, _SMALL = 1000, 10


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`figure` None: it could not be measured here, and `note` says why. `at_most`, `at_least`: the goal, which the
    median has to meet.
    """

    section: str
    what: str
    unit: str = ""
    figure: Figure | None = None
    note: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_missed(self) -> bool:
        if self.figure is None:
            return False
        above = self.at_most is not None and self.figure.median > self.at_most
        return above or (self.at_least is not None and self.figure.median < self.at_least)

    def text(self) -> str:
        return f"{self.what:52} {self._value():46} {self._remark()}".rstrip()

    def markdown(self) -> str:
        return f"| {self.section} | {self.what} | {self._value()} | {self._remark()} |"

    def _value(self) -> str:
        if self.figure is None:
            return UNKNOWN
        unit = f" {self.unit}" if self.unit else ""
        if self.figure.rounds == 1:
            return f"{number(self.figure.mean)}{unit}"
        low, high = number(self.figure.low), number(self.figure.high)
        return f"{number(self.figure.median)}; {number(self.figure.mean)} [{low} – {high}]{unit}"

    def _remark(self) -> str:
        goal = ""
        if self.at_most is not None or self.at_least is not None:
            bound = f"≤ {number(self.at_most)}" if self.at_most is not None else f"≥ {number(self.at_least or 0)}"
            goal = f"goal {bound}: {'missed' if self.is_missed else 'met'}"
        return "; ".join(part for part in (self.note, goal) if part)


def number(value: float) -> str:
    if abs(value) >= _LARGE:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= _SMALL else f"{value:.3f}"
