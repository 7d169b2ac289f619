"""The last five minutes of some readings, and pictures of them.

Decides how often a reading is kept (every two seconds) and how it is drawn.  Bounded: a ring of 150 small integers for
each thing that the latest snapshot has; what is gone is forgotten.  Refuses to know what is measured.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from tui.model.texts import SPARKS

STEP_S: Final = 2
LENGTH: Final = 150  # steps: five minutes
MISSING: Final = -1  # nothing was heard
MOST: Final = (1 << 63) - 1

Key = tuple[str, str]  # what it is ("flow", "program", "link", "price") and its name


class History:
    def __init__(self) -> None:
        self._step = 0
        self._rings: dict[Key, tuple[array[int], ...]] = {}

    def note(self, unix_s: int, readings: Iterable[tuple[Key, tuple[int, ...]]]) -> None:
        """Once in each step; a clock that was set back begins again."""
        step = unix_s // STEP_S
        if step == self._step:
            return
        gap = min(LENGTH, step - self._step - 1) if 0 < self._step < step else 0
        if step < self._step:
            self._rings.clear()
        self._step = step
        before, self._rings = self._rings, {}
        for key, values in readings:
            rings = before.get(key) or tuple(array("q") for _ in values)
            for ring, value in zip(rings, values, strict=True):
                ring.extend([MISSING] * gap)
                ring.append(MISSING if value == MISSING else min(max(value, 0), MOST))
                del ring[: max(0, len(ring) - LENGTH)]
            self._rings[key] = rings

    def of(self, key: Key, place: int = 0) -> Sequence[int]:
        """The oldest first."""
        rings = self._rings.get(key)
        return rings[place] if rings is not None else ()

    def __len__(self) -> int:
        return len(self._rings)


def plot(values: Sequence[int], width: int, height: int) -> list[str]:
    """`height` lines of `width` cells, the newest at the right, the largest as high as the picture."""
    columns = _squeezed(values, width)
    most = max(columns, default=0)
    rows = range(height - 1, -1, -1)
    return ["".join(_block(value, most, row, height) for value in columns).rjust(width) for row in rows]


def _block(value: int, most: int, row: int, height: int) -> str:
    if value == MISSING:
        return " "
    eighths = -(-value * height * len(SPARKS) // most) if most > 0 else 0
    here = eighths - row * len(SPARKS)
    if here <= 0:
        return SPARKS[0] if row == 0 else " "  # a line along the bottom: known, and next to nothing
    return SPARKS[min(here, len(SPARKS)) - 1]


def _squeezed(values: Sequence[int], width: int) -> list[int]:
    """Five minutes on all the cells that there are: of what falls on one cell, the largest."""
    padded = [MISSING] * (LENGTH - len(values)) + list(values)
    if width <= 0:
        return []
    ends = [place * LENGTH // width for place in range(width + 1)]
    return [max(padded[start : max(end, start + 1)]) for start, end in pairwise(ends)]
