"""Which streams are frozen, and what the person said to that.

Decides that a program with many frozen destinations, or a second alarm within an hour, is frozen as a whole: a thief
who moves on to the next destination is stopped at the second. A freeze ends by the person's word only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from secretary.guard.values import Alarm, Freeze

WHOLE = ""
DESTINATIONS_MAX = 8
MOVES_ON_S = 3600

Odd = Sequence[tuple[float, int, int]]


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """A freeze, and the samples that brought it, to be learnt if they were the person's."""

    freeze: Freeze
    minutes: Odd = ()
    hours: Odd = ()
    totals: Odd = ()  # of all programs together


class Freezes:
    """Of one person."""

    def __init__(self) -> None:
        self._by_stream: dict[tuple[str, str], Frozen] = {}

    def __len__(self) -> int:
        return len(self._by_stream)

    @property
    def all(self) -> list[Frozen]:
        return list(self._by_stream.values())

    def find(self, program: str, destination: str) -> Freeze | None:
        if not self._by_stream:
            return None
        found = self._by_stream.get((program, WHOLE)) or self._by_stream.get((program, destination))
        return found.freeze if found is not None else None

    def has(self, program: str) -> bool:
        return any(stream[0] == program for stream in self._by_stream)

    def must_be_whole(self, program: str, unix_s: int) -> bool:
        alarms = [frozen.freeze.alarm for (name, _), frozen in self._by_stream.items() if name == program]
        moves_on = any(0 <= unix_s - alarm.unix_s <= MOVES_ON_S for alarm in alarms)
        return moves_on or len(alarms) >= DESTINATIONS_MAX

    def add(self, alarm: Alarm, *, minutes: Odd = (), hours: Odd = (), totals: Odd = ()) -> None:
        stream = (alarm.program, alarm.destination)
        if stream not in self._by_stream:
            self._by_stream[stream] = Frozen(freeze=Freeze(alarm=alarm), minutes=minutes, hours=hours, totals=totals)

    def put(self, frozen: Frozen) -> None:
        alarm = frozen.freeze.alarm
        self._by_stream[alarm.program, alarm.destination] = frozen

    def refuse(self, alarm: str) -> bool:
        """It was not the person: the stream stays frozen, and is not asked about again."""
        found = self._find(alarm)
        if found is not None:
            self.put(msgspec.structs.replace(found, freeze=msgspec.structs.replace(found.freeze, refused=True)))
        return found is not None

    def lift(self, alarm: str) -> Frozen | None:
        found = self._find(alarm)
        if found is not None:
            del self._by_stream[found.freeze.alarm.program, found.freeze.alarm.destination]
        return found

    def _find(self, alarm: str) -> Frozen | None:
        return next((frozen for frozen in self._by_stream.values() if frozen.freeze.alarm.alarm == alarm), None)
