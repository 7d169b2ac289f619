"""Single flows that left their way because it was too slow for them, and what they avoid.

Decides where such a flow goes next: to the cheapest way that it has not just left, then to one that nobody has tried,
then back to the one that it left longest ago.  All other flows stay where they are.  Refuses to know when a transfer is
too slow (the price reactors).  Source: Bill-Pay 3.1 (alternate paths while the payment rises).  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cartographer.map import Ask
from cartographer.values import Belief, Way

MAX_PINS = 4096


@dataclass(slots=True, kw_only=True)
class Pin:
    """A flow goes `way` until a time."""

    way: Way
    ask: Ask
    since_ns: int
    until_ns: int
    reason: str
    avoided: dict[Way, int] = field(default_factory=dict)  # until when


class Pins:
    """By destination, class and flow number; the longest untouched goes first."""

    def __init__(self) -> None:
        self._pins: dict[tuple[str, str, int], Pin] = {}

    def __len__(self) -> int:
        return len(self._pins)

    def get(self, key: tuple[str, str, int], now_ns: int) -> Pin | None:
        pin = self._pins.get(key)
        if pin is not None and pin.until_ns <= now_ns:
            del self._pins[key]
            return None
        return pin

    def put(self, key: tuple[str, str, int], pin: Pin) -> None:
        self._pins.pop(key, None)
        while len(self._pins) >= MAX_PINS:
            del self._pins[next(iter(self._pins))]
        self._pins[key] = pin


def another(beliefs: Sequence[Belief], left: Way, avoided: dict[Way, int], now_ns: int) -> Way | None:
    """Where a flow goes that leaves `left`; None: there is nothing else."""
    others = [belief for belief in beliefs if belief.way != left and not belief.objection]
    fresh = [belief for belief in others if avoided.get(belief.way, 0) <= now_ns]
    known = [belief for belief in fresh if belief.samples > 0]
    if known:
        return min(known, key=lambda belief: belief.cost_picodollars).way
    if fresh:
        return fresh[0].way
    return min(others, key=lambda belief: avoided[belief.way]).way if others else None
