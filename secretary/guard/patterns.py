"""Windows of five minutes of one program's payments, as rows for the isolation forest, and the bets on them.

Decides which features a window has, which windows are kept for training (none of a frozen stream), and when a
program's odd windows are too many. Without a forest it collects, and finds nothing.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from secretary.guard.baseline import Baseline
from secretary.guard.forest import FEATURES, Forest, Scorer, TrainingSet, add_evidence

WINDOW_MINUTES = 5
KEPT_MAX = 8192
DROP = 512
ROWS_MIN = 800
NAMES_MAX = 512
NEW_SHARE = 0.3
OVER_REACHED = 20.0
REACHED_MAX = 1e9
RETRAIN_MINUTES = 7 * 24 * 60
_HOUR_PRIOR = 0.5


@dataclass(slots=True, kw_only=True)
class Window:
    """What one program paid in the minutes since `start`."""

    start: int
    by_destination: dict[str, int] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    largest: int = 0
    background: float = 0.0  # money, in nanodollars; what is not known counts half
    minutes: int = 0
    value: float = 0.0  # of the logarithms of its minutes, in all

    def add(self, paid: Mapping[str, int], new: set[str], largest: int, foreground: bool | None) -> None:
        for destination, nanodollars in paid.items():
            self.by_destination[destination] = self.by_destination.get(destination, 0) + nanodollars
        total = sum(paid.values())
        self.new |= new & paid.keys()
        self.largest = max(self.largest, largest)
        self.background += total * (0.5 if foreground is None else 0.0 if foreground else 1.0)
        self.minutes += 1
        self.value += math.log1p(total)


def row_of(window: Window, *, baseline: Baseline | None, cell: int, hours: list[float]) -> list[float]:
    """In the order of FEATURES. `hours`: how much of the program's life is in each hour of the day."""
    total = sum(window.by_destination.values())
    shares = [paid / total for paid in window.by_destination.values() if paid]
    to_new = sum(paid for name, paid in window.by_destination.items() if name in window.new)
    usual = baseline.at(cell) if baseline is not None else window.value / window.minutes
    rarity = -math.log((hours[cell % 24] + _HOUR_PRIOR) / (sum(hours) + 24 * _HOUR_PRIOR))
    row = [
        math.log1p(total),
        math.log1p(window.largest),
        math.log1p(len(window.new)),
        -sum(share * math.log(share) for share in shares),
        to_new / total,
        rarity,
        window.background / total,
        window.value / window.minutes - usual,
    ]
    assert len(row) == len(FEATURES)
    return row


def has_sign_of_theft(row: Sequence[float], *, in_background: float) -> bool:
    """Odd is not enough: money to new destinations, more than usual, or out of the person's sight, where it is not
    always so. A call that lasts into the evening is odd for hours, and nobody's theft.
    """
    to_new, background, more = row[4], row[6], row[7]
    return to_new > NEW_SHARE or more > math.log(2) or background - in_background > NEW_SHARE


class PatternsState(msgspec.Struct, frozen=True, kw_only=True):
    """For a restart."""

    rows: bytes
    minutes: bytes
    programs: bytes
    names: list[str]
    evidence: dict[str, float]
    since: dict[str, int]
    trained: int
    forest: Forest | None


class Patterns:
    """Of one person; `evidence` is each program's Shiryaev-Roberts sum."""

    def __init__(self) -> None:
        self._rows = array("f")
        self._minutes = array("I")
        self._programs = array("H")  # numbers of names
        self._names: dict[str, int] = {}
        self.evidence: dict[str, float] = {}
        self.since: dict[str, int] = {}
        self.trained = 0
        self._scorer: Scorer | None = None

    @property
    def has_forest(self) -> bool:
        return self._scorer is not None

    def judge(self, program: str, row: list[float], minute: int) -> float:
        """The evidence against the program with this window; it grows only by windows odder than most."""
        if self._scorer is None:
            return 0.0
        before = self.evidence.get(program, 0.0)
        if before < 1.0:
            self.since[program] = minute
        p = self._scorer.p_value(program, self._scorer.score(row))
        found = add_evidence(before, p)
        self.evidence[program] = found
        return found

    def limit(self, program: str, run_length: float) -> float:
        """The run length, or well over what the program's honest windows brought: they are no independent draws."""
        reached = self._scorer.forest.reached.get(program, 0.0) if self._scorer is not None else 0.0
        return max(run_length, min(REACHED_MAX, OVER_REACHED * reached))

    def keep(self, program: str, row: list[float], minute: int) -> None:
        if program not in self._names and len(self._names) >= NAMES_MAX:
            return
        self._rows.extend(row)
        self._minutes.append(minute)
        self._programs.append(self._names.setdefault(program, len(self._names)))
        if len(self._minutes) > KEPT_MAX:
            del self._minutes[:DROP]
            del self._programs[:DROP]
            del self._rows[: DROP * len(FEATURES)]

    def forget(self, program: str) -> None:
        self.evidence.pop(program, None)
        self.since.pop(program, None)

    def training_set(self, minute: int, seed: int) -> TrainingSet | None:
        """If it is time for new trees. The rows are a copy."""
        if len(self._minutes) < ROWS_MIN or (self.trained and minute - self.trained < RETRAIN_MINUTES):
            return None
        self.trained = minute  # also if no forest comes of it: not again before next week
        times = array("I", (60 * (at % (2**32 // 60)) for at in self._minutes))
        return TrainingSet(
            rows=self._rows.tobytes(),
            times_s=times.tobytes(),
            programs=self._programs.tobytes(),
            names=list(self._names),
            seed=seed,
        )

    def take(self, forest: Forest) -> None:
        """Evidence is kept: retraining is no amnesty."""
        self._scorer = Scorer(forest)

    def snapshot(self) -> PatternsState:
        return PatternsState(
            rows=self._rows.tobytes(),
            minutes=self._minutes.tobytes(),
            programs=self._programs.tobytes(),
            names=list(self._names),
            evidence=dict(self.evidence),
            since=dict(self.since),
            trained=self.trained,
            forest=self._scorer.forest if self._scorer is not None else None,
        )

    def restore(self, state: PatternsState) -> None:
        self._rows, self._minutes, self._programs = array("f"), array("I"), array("H")
        self._rows.frombytes(state.rows)
        self._minutes.frombytes(state.minutes)
        self._programs.frombytes(state.programs)
        self._names = {name: number for number, name in enumerate(state.names)}
        self.evidence, self.since, self.trained = dict(state.evidence), dict(state.since), state.trained
        self._scorer = Scorer(state.forest) if state.forest is not None else None
