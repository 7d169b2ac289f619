"""One timer for all sessions: who is due, in slots, so that many are dealt with in one turn.

Decides: when a turn is. Refuses to know: what is due. Pure.
"""

from __future__ import annotations

import heapq
from typing import Final

SLOT_NS: Final = 5_000_000
"""Nobody is early, nobody is later than that by the wheel. Who reckons on from when it was due does not drift."""


class Wheel:
    """By name."""

    def __init__(self) -> None:
        self._slots: dict[int, set[str]] = {}
        self._order: list[int] = []
        self._slot_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    def at(self, name: str, due_ns: int) -> None:
        """This one, then and not at any other time."""
        slot = -(-due_ns // SLOT_NS)
        if self._slot_of.get(name) == slot:
            return
        self.drop(name)
        self._slot_of[name] = slot
        if slot not in self._slots:
            self._slots[slot] = set()
            heapq.heappush(self._order, slot)
        self._slots[slot].add(name)

    def by(self, name: str, due_ns: int) -> None:
        """Then at the latest."""
        if name not in self._slot_of or self._slot_of[name] * SLOT_NS > due_ns:
            self.at(name, due_ns)

    def drop(self, name: str) -> None:
        slot = self._slot_of.pop(name, None)
        if slot is not None:
            self._slots[slot].discard(name)

    def next_ns(self) -> int | None:
        """When somebody is due; None: never."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] * SLOT_NS if self._order else None

    def take(self, now_ns: int) -> list[str]:
        """Everybody who is due by now, once."""
        due: list[str] = []
        while (next_ns := self.next_ns()) is not None and next_ns <= now_ns:
            names = self._slots.pop(heapq.heappop(self._order))
            for name in names:
                del self._slot_of[name]
            due.extend(sorted(names))
        return due
