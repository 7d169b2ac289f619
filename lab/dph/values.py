"""What the parts of the experiment hand over: plain values, each with its unit last in its name.

Decides: the shape of a mean with its interval, and of an expectation. Refuses to know: how it is measured, or drawn.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that goes into the report."""


class Mean(Value, frozen=True, kw_only=True):
    """Of `runs` independent runs; half: of the 95 % Student-t interval, None with one run."""

    mean: float
    half: float | None
    runs: int

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)

    def show(self, unit: float = 1.0, digits: int = 3) -> str:
        """Divided by `unit`."""
        shown = f"{self.mean / unit:.{digits}f}"
        return shown if self.half is None else f"{shown} ± {self.half / unit:.{digits}f}"


class Holds(StrEnum):
    """`not_judged`: the form of the run was too short to say, or that part was left out."""

    YES = "yes"
    NO = "no"
    NOT_JUDGED = "not judged"


class Expectation(Value, frozen=True, kw_only=True):
    """What theory or protocol says, and what came out."""

    name: str
    expected: str
    measured: str
    holds: Holds


def expect(name: str, *, expected: str, measured: str, holds: bool | None) -> Expectation:
    """None: not judged."""
    found = Holds.NOT_JUDGED if holds is None else Holds.YES if holds else Holds.NO
    return Expectation(name=name, expected=expected, measured=measured, holds=found)


class PartResult(Value, frozen=True, kw_only=True):
    """Base of each part's result. `seconds`: of computing."""

    title: str
    expectations: tuple[Expectation, ...]
