"""The secretary's journal on the disk: what it promised is there before anybody hears of it.

Decides nothing. SQLite in WAL mode, every entry synced; the file holds the grants' keys and is ours alone (0600).
Refuses to know what the entries mean.
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
_RESTORE = "restore it from a backup, or move it away"


class Journal:
    """Append and read back. Raises EnvironmentFault: file, cause, what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _make_private(path)
            self._database = sqlite3.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault("open journal", str(path), error, _RESTORE) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._database.close()
            raise EnvironmentFault("open journal", str(path), error, _RESTORE) from error

    def append(self, entry: Entry) -> None:
        """On the disk when this returns; after a fault it may be there or not: only a fresh start knows."""
        try:
            self._database.execute("INSERT INTO journal (entry) VALUES (?)", (msgspec.json.encode(entry).decode(),))
        except sqlite3.Error as error:
            raise EnvironmentFault("write journal", str(self._path), error, "free some disk space") from error

    def entries(self) -> Iterator[Entry]:
        """In the order in which they were appended."""
        try:
            for (text,) in self._database.execute("SELECT entry FROM journal ORDER BY number"):
                yield msgspec.json.decode(text, type=Entry)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise EnvironmentFault("read journal", str(self._path), error, _RESTORE) from error

    def close(self) -> None:
        self._database.close()


def _make_private(path: Path) -> None:
    """SQLite gives its two companion files the mode of the first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
