"""What each task has spent today, over restarts and crashes.

Decides: how much is written down ahead of being spent, so that an agent that was killed has forgotten nothing: what was
written counts as spent when it starts again, at most one chunk too much. Refuses to know: sessions, prices, who may
spend what. `DayBook` is pure; `KeptDays` keeps it in a file, written whole or not at all.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from hostagent.keeping import put_aside, write_whole

FILE_NAME: Final = "sessions.json"
LEAST_CHUNK: Final = 1_000_000
"""Nanodollars: a tenth of a cent."""
CHUNK_PARTS: Final = 100
"""Of what is spent already: so often it is written at most while it grows tenfold, some 230 times."""


class DayFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`spent_nanodollars`: by task, never below what is spent."""

    day: str  # "2026-11-21", in local time
    spent_nanodollars: dict[str, int]


class DayBook:
    """`spent` never runs ahead of `file` without `wants_writing` saying so."""

    def __init__(self, kept: DayFile) -> None:
        self.day = kept.day
        self._spent = dict(kept.spent_nanodollars)
        self._written = dict(kept.spent_nanodollars)
        self._latest: dict[str, int] = {}
        self._claimed: dict[str, int] = {}

    def on_day(self, day: str) -> bool:
        """Whether a new one has begun. A clock that goes back does not bring an old one back."""
        if day <= self.day:
            return False
        self.day = day
        self._spent, self._written, self._latest, self._claimed = {}, {}, {}, {}
        return True

    def spent(self, task: str) -> int:
        return self._spent.get(task, 0)

    def add(self, task: str, nanodollars: int) -> None:
        """Below 0: a price that came late was lower."""
        self._spent[task] = max(0, self.spent(task) + nanodollars)
        self._latest[task] = max(nanodollars, self._latest.get(task, 0) * 15 // 16)

    def claim(self, task: str, nanodollars: int) -> None:
        """What it can have cost today at most, with all that is under way."""
        self._claimed[task] = nanodollars

    def _most(self, task: str) -> int:
        return max(self.spent(task), self._claimed.get(task, 0))

    def _chunk(self, task: str) -> int:
        return max(LEAST_CHUNK, self.spent(task) // CHUNK_PARTS, 16 * self._latest.get(task, 0))

    def wants_writing(self) -> bool:
        """Before more is spent: what is written ahead is less than half a chunk."""
        return any(self._written.get(task, 0) < self._most(task) + self._chunk(task) // 2 for task in self._spent)

    def ahead(self) -> DayFile:
        """What to write now, with a chunk that may be spent until the next time."""
        return DayFile(
            day=self.day, spent_nanodollars={task: self._most(task) + self._chunk(task) for task in self._spent}
        )

    def exact(self) -> DayFile:
        """What to write when nothing more will be spent."""
        return DayFile(day=self.day, spent_nanodollars={task: self._most(task) for task in self._spent})

    def on_written(self, kept: DayFile) -> None:
        self._written = dict(kept.spent_nanodollars)


def _day_after(day: str) -> str:
    return (datetime.date.fromisoformat(day) + datetime.timedelta(days=1)).isoformat()


class KeptDays:
    """In a state directory. Raises EnvironmentFault where it cannot be written."""

    def __init__(self, directory: Path, *, day: str) -> None:
        self._path = directory / FILE_NAME
        self.trouble = ""
        kept = self._read(day)
        if kept.day > _day_after(day):  # by a clock that was far ahead: no day would ever begin again
            kept = msgspec.structs.replace(kept, day=day)
        self.book = DayBook(kept)
        self.book.on_day(day)

    def _read(self, day: str) -> DayFile:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=DayFile)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise EnvironmentFault("read", str(self._path), error.strerror, "check the state directory") from error
        except (msgspec.DecodeError, UnicodeError) as error:
            self.trouble = put_aside(self._path, error)
        return DayFile(day=day, spent_nanodollars={})

    def reserve(self, task: str) -> None:
        """Before a session of the task begins."""
        self.book.add(task, 0)
        self.keep()

    def keep(self) -> None:
        """Cheap unless something has to be written."""
        if self.book.wants_writing():
            self._write(self.book.ahead())

    def close(self) -> None:
        self._write(self.book.exact())

    def _write(self, kept: DayFile) -> None:
        write_whole(self._path, msgspec.json.encode(kept))
        self.book.on_written(kept)
