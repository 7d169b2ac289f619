"""Unusual combinations: an isolation forest, grown elsewhere, that scores one window of payments in this process.

Decides how odd a window is (Liu, Ting, Zhou 2008), how seldom an honest one is that odd (conformal p-value), and when
odd windows in a row are too many. For the last, each p becomes a bet e = ε·p^(ε − 1), whose mean is at most 1 for an
honest window, and the bets are summed and multiplied up as Shiryaev and Roberts do: r' = (1 + r)·e. The mean of r after
n honest windows is at most n, so it stays below A for A windows on average (Pollak 1985; Vovk 2021). Honest windows
that depend on each other are the exception; that is what the rest of the false alarms is for.

Refuses to know scikit-learn: `secretary.guard.training` grows the trees in a process of its own.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import msgspec

FEATURES: Final = (
    "spend",
    "largest payment",
    "destinations never paid before",
    "spread over destinations",
    "money to destinations never paid before",
    "unusual hour",
    "paid in the background",
    "more than usual",
)
BET: Final = 0.35
EVIDENCE_MAX: Final = 1e30
EULER: Final = 0.5772156649


class Forest(msgspec.Struct, frozen=True, kw_only=True):
    """Trees laid end to end. `features`: of a node, −1 for a leaf; `values`: its threshold, or the leaf's path length.

    `roots`: where each tree begins. `calibration`: by program, scores of honest windows that no tree has seen, in
    order. A program is compared with itself only: one that is always unlike the others is not odd for that.
    """

    roots: list[int]
    features: bytes  # array "b"
    values: bytes  # array "d"
    left: bytes  # array "I"
    right: bytes  # array "I"
    samples: int  # that each tree was grown from
    calibration: dict[str, list[float]]
    reached: dict[str, float] = {}  # by program, the highest evidence that its honest windows brought together


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True):
    """`rows`: windows × features; `times_s`, `programs`: of each, when, and which of the names.

    `seed`: no outsider may foresee the trees.
    """

    rows: bytes  # array "f"
    times_s: bytes  # array "I"
    programs: bytes  # array "H"
    names: list[str]
    seed: int


class Scorer:
    """A forest ready for use."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self._features, self._values = array("b", forest.features), array("d", forest.values)
        self._left, self._right = array("I", forest.left), array("I", forest.right)
        self._normal = usual_path(forest.samples) * len(forest.roots)

    def score(self, row: Sequence[float]) -> float:
        """Near 1 is odd, below 0.5 is not."""
        features, values, left, right = self._features, self._values, self._left, self._right
        path = 0.0
        for node in self.forest.roots:
            while (feature := features[node]) >= 0:
                node = left[node] if row[feature] <= values[node] else right[node]
            path += values[node]
        return float(2.0 ** (-path / self._normal))

    def p_value(self, program: str, score: float) -> float:
        """(1 + how many honest windows are at least as odd) / (n + 1); 1 for a program without any."""
        calibration = self.forest.calibration.get(program, ())
        return (1 + len(calibration) - bisect_left(calibration, score)) / (len(calibration) + 1)


def usual_path(samples: int) -> float:
    """Of an unsuccessful search in a binary tree of so many."""
    if samples <= 2:
        return float(max(0, samples - 1))
    return 2.0 * (math.log(samples - 1) + EULER) - 2.0 * (samples - 1) / samples


def add_evidence(before: float, p: float) -> float:
    return min(EVIDENCE_MAX, (1.0 + before) * bet(p))


def bet(p: float) -> float:
    return float(BET * p ** (BET - 1.0))
