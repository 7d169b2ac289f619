"""The secretary's journal on the disk: what it promised is there before anybody hears of it.

Decides nothing. SQLite in WAL mode, every entry synced; the file holds the grants' keys and is ours alone (0600).
Beside the journal there are states: what may be lost for a minute and is only taken from what was seen (how often
transfers come, what is usual). Refuses to know what entries and states mean.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from secretary.secretary import Entry, grant_of

JOURNAL_FILE: Final = "journal.sqlite"
VERSION: Final = 2

_SCHEMA = """
CREATE TABLE journal (number INTEGER PRIMARY KEY, grant_id TEXT, unix_s INTEGER, entry TEXT NOT NULL) STRICT;
CREATE INDEX journal_grant ON journal (grant_id) WHERE grant_id IS NOT NULL;
CREATE INDEX journal_time ON journal (unix_s) WHERE grant_id IS NOT NULL;
CREATE TABLE states (name TEXT PRIMARY KEY, state BLOB NOT NULL) STRICT;
CREATE TRIGGER journal_keeps BEFORE UPDATE ON journal BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER journal_stays BEFORE DELETE ON journal BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
_RESTORE = "restore it from a backup, or move it away"


class Journal:
    """Append and read back. Raises EnvironmentFault: file, cause, what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Entry)
        try:
            _make_private(path)
            self._database = sqlite3.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault("open journal", str(path), error, _RESTORE) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._begin()
        except (sqlite3.Error, msgspec.DecodeError) as error:
            self._database.close()
            raise EnvironmentFault("open journal", str(path), error, _RESTORE) from error
        except EnvironmentFault:
            self._database.close()
            raise

    def _begin(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            remedy = "install the version that wrote it"
            raise EnvironmentFault("open journal", str(self._path), f"it is of a newer version ({version})", remedy)
        if version == VERSION:
            return
        old: list[tuple[int, str]] = []
        known = self._database.execute("SELECT name FROM sqlite_master WHERE name = 'journal'").fetchone()
        if known is not None:
            old = self._database.execute("SELECT number, entry FROM journal ORDER BY number").fetchall()
        rows = [(number, *self._place(self._decoder.decode(text)), text) for number, text in old]
        self._database.execute("BEGIN IMMEDIATE")
        try:
            if known is not None:
                self._database.execute("DROP TABLE journal")
            for statement in _SCHEMA.strip().split(";\n"):
                self._database.execute(statement)
            self._database.executemany("INSERT INTO journal VALUES (?, ?, ?, ?)", rows)
            self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise

    @staticmethod
    def _place(entry: Entry) -> tuple[str | None, int | None]:
        grant = grant_of(entry)
        return (grant[0], grant[1]) if grant is not None else (None, None)

    # --- entries ----------------------------------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        """On the disk when this returns; after a fault it may be there or not: only a fresh start knows."""
        row = (*self._place(entry), self._encoder.encode(entry).decode())
        try:
            self._database.execute("INSERT INTO journal (grant_id, unix_s, entry) VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:
            raise EnvironmentFault("write journal", str(self._path), error, "free some disk space") from error

    def entries(self) -> Iterator[Entry]:
        """In the order in which they were appended."""
        return self._read("SELECT entry FROM journal ORDER BY number")

    def entries_of(self, grant: str) -> list[Entry]:
        return list(self._read("SELECT entry FROM journal WHERE grant_id = ? ORDER BY number", (grant,)))

    def grants_between(self, since_unix_s: int, until_unix_s: int) -> list[str]:
        """Which grants have an entry in this time, in the order of their first one there."""
        query = (
            "SELECT grant_id FROM journal WHERE grant_id IS NOT NULL AND unix_s >= ? AND unix_s < ? "
            "GROUP BY grant_id ORDER BY min(number)"
        )
        try:
            return [grant for (grant,) in self._database.execute(query, (since_unix_s, until_unix_s))]
        except sqlite3.Error as error:
            raise EnvironmentFault("read journal", str(self._path), error, _RESTORE) from error

    def _read(self, query: str, arguments: tuple[str, ...] = ()) -> Iterator[Entry]:
        try:
            for (text,) in self._database.execute(query, arguments):
                yield self._decoder.decode(text)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise EnvironmentFault("read journal", str(self._path), error, _RESTORE) from error

    # --- states -----------------------------------------------------------------------------------------------------

    def put_states(self, states: Iterable[tuple[str, bytes]]) -> None:
        """All of them or none."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany("INSERT OR REPLACE INTO states VALUES (?, ?)", states)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise EnvironmentFault("write journal", str(self._path), error, "free some disk space") from error

    def states(self) -> dict[str, bytes]:
        try:
            return dict(self._database.execute("SELECT name, state FROM states"))
        except sqlite3.Error as error:
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
