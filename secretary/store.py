"""The secretary's journal on the disk: what it promised is there before anybody hears of it.

Decides nothing. SQLite in WAL mode, every entry synced; the file holds the grants' keys and is ours alone (0600).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from billpay.errors import EnvironmentFault
from secretary.issuing import Entry

JOURNAL_FILE = "journal.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (number INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS journal_keeps BEFORE UPDATE ON journal BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS journal_stays BEFORE DELETE ON journal BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


class Journal:
    """Append and read back. Raises EnvironmentFault: file, cause, what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault(
                "open journal", str(path), error, "restore it from a backup, or move it away"
            ) from error

    def append(self, entry: Entry) -> None:
        try:
            self._database.execute("INSERT INTO journal (entry) VALUES (?)", (msgspec.json.encode(entry).decode(),))
        except sqlite3.Error as error:
            raise EnvironmentFault("write journal", str(self._path), error, "free some disk space") from error

    def entries(self) -> Iterator[Entry]:
        try:
            for (text,) in self._database.execute("SELECT entry FROM journal ORDER BY number"):
                yield msgspec.json.decode(text, type=Entry)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise EnvironmentFault("read journal", str(self._path), error, "restore it from a backup") from error

    def close(self) -> None:
        self._database.close()
