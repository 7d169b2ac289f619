"""What a part heard and what it has to say, on its disk before anybody is told.

Decides nothing. SQLite in WAL mode, synced; ours alone (0600). An event and what follows from it to be said go down
together or not at all, so a part that was killed neither forgets nor says twice what it did not know was said: the
other side tells a repetition by its number.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from billpay.errors import EnvironmentFault
from billpay.messages import Signed

STORE_FILE: Final = "market.sqlite"
_REMEDY: Final = "restore it from a backup, or free some disk space"
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, event BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS outgoing (number INTEGER PRIMARY KEY, signed BLOB NOT NULL, heard INTEGER) STRICT",
    "CREATE INDEX IF NOT EXISTS unheard ON outgoing (number) WHERE heard IS NULL",
)


class Store:
    """Append, read back, and tick off. Raises EnvironmentFault."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            for statement in _SCHEMA:
                self._database.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault("open store", str(path), error, _REMEDY) from error

    def append(self, event: bytes | None, outgoing: Sequence[Signed] = ()) -> None:
        """All of it, or none."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                if event is not None:
                    self._database.execute("INSERT INTO events (event) VALUES (?)", (event,))
                rows = [(msgspec.json.encode(signed),) for signed in outgoing]
                self._database.executemany("INSERT INTO outgoing (signed) VALUES (?)", rows)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise EnvironmentFault("write store", str(self._path), error, _REMEDY) from error

    def events(self) -> Iterator[bytes]:
        """In their order."""
        for (event,) in self._rows("SELECT event FROM events ORDER BY number"):
            yield event

    def said(self) -> Iterator[Signed]:
        """Everything that was ever to be said, in its order."""
        for (signed,) in self._rows("SELECT signed FROM outgoing ORDER BY number"):
            yield msgspec.json.decode(signed, type=Signed)

    def next_unheard(self) -> tuple[int, Signed] | None:
        """The oldest document that nobody has acknowledged."""
        for number, signed in self._rows("SELECT number, signed FROM outgoing WHERE heard IS NULL ORDER BY 1 LIMIT 1"):
            return number, msgspec.json.decode(signed, type=Signed)
        return None

    def unheard(self) -> int:
        """How many wait."""
        ((count,),) = self._rows("SELECT count(*) FROM outgoing WHERE heard IS NULL")
        return int(count)

    def heard(self, number: int) -> None:
        """Need not be said again."""
        try:
            self._database.execute("UPDATE outgoing SET heard = 1 WHERE number = ?", (number,))
        except sqlite3.Error as error:
            raise EnvironmentFault("write store", str(self._path), error, _REMEDY) from error

    def close(self) -> None:
        self._database.close()

    def _rows(self, query: str) -> list[Any]:
        try:
            return self._database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise EnvironmentFault("read store", str(self._path), error, _REMEDY) from error
