"""Grants on the disk: what was told open stays open when the gateway starts again, and what was closed stays closed.

Decides: that a closed grant is remembered, with its receipt, until no document of it can be valid any more; then what
expired by then is refused for good, so that a clock that is set back revives nothing.  Refuses to know: what a document
permits, and what was spent (the counters say).
Source: docs/adr/0012; SQLite's own guarantees for WAL with synchronous=FULL.

A grant is *open*, then *closing* (it is never opened again, its receipt is not written yet), then *closed*. Keys are
inside the documents of open ones, so the file is ours alone; a closed one keeps its receipt only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from billpay.errors import EnvironmentFault
from billpay.messages import Signed, SignedUsage

REMEMBER_S: Final = 3600
"""How long after its expiry a grant's receipt is there; far more than clocks may differ."""
MAX_REMEMBERED_PER_LINK: Final = 20_000
"""Open and closed grants of one host: one is opened every 200 ms for as long as one is remembered."""
STORE_NAME: Final = "grants.sqlite"
BUSY_S: Final = 1.0
_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS remembered (
        grant_id TEXT PRIMARY KEY,
        link TEXT NOT NULL,
        expires_unix_s INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'closing', 'closed')),
        document BLOB,
        receipt BLOB
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS by_link ON remembered (link)",
    "CREATE INDEX IF NOT EXISTS by_expiry ON remembered (expires_unix_s)",
    "CREATE TABLE IF NOT EXISTS horizon (one INTEGER PRIMARY KEY CHECK (one = 1), unix_s INTEGER NOT NULL) STRICT",
    "INSERT OR IGNORE INTO horizon VALUES (1, 0)",
)


class StoredGrant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`expires_unix_s`: of the latest of its documents. `signed` is None when it is closed or cannot be read any more,
    `receipt` until it is closed.
    """

    grant: str
    link: str
    expires_unix_s: int
    state: str  # "open", "closing" or "closed"
    signed: Signed | None = None
    receipt: SignedUsage | None = None


class GrantStore:
    """One thread of one process writes; every change is on the disk when its call returns. Raises EnvironmentFault."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._named("open"):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            for statement in _SCHEMA:
                self._connection.execute(statement)

    def close(self) -> None:
        self._connection.close()

    # --- what is known ----------------------------------------------------------------------------------------------

    def find(self, grant: str) -> StoredGrant | None:
        rows = self._run("SELECT * FROM remembered WHERE grant_id = ?", grant)
        return _stored(rows[0]) if rows else None

    def count(self, link: str) -> int:
        number: int = self._run("SELECT count(*) FROM remembered WHERE link = ?", link)[0][0]
        return number

    def not_closed(self) -> list[StoredGrant]:
        """Open ones and those whose receipt is not written: their counters are needed."""
        return [_stored(row) for row in self._run("SELECT * FROM remembered WHERE state <> 'closed'")]

    def expired_before(self, unix_s: int) -> list[StoredGrant]:
        """Of those that are not closed."""
        sql = "SELECT * FROM remembered WHERE state <> 'closed' AND expires_unix_s < ? LIMIT 20"
        return [_stored(row) for row in self._run(sql, unix_s)]

    def horizon_unix_s(self) -> int:
        """A grant that expired by then may be one that was forgotten."""
        unix_s: int = self._run("SELECT unix_s FROM horizon")[0][0]
        return unix_s

    # --- what happens to a grant --------------------------------------------------------------------------------------

    def put_open(self, grant: str, link: str, signed: Signed, *, expires_unix_s: int) -> None:
        """A new one, or a newer document of one that is open."""
        self._run(
            "INSERT INTO remembered VALUES (?, ?, ?, 'open', ?, NULL) ON CONFLICT (grant_id) DO UPDATE SET"
            " document = excluded.document, expires_unix_s = max(expires_unix_s, excluded.expires_unix_s)"
            " WHERE state = 'open'",
            *(grant, link, expires_unix_s, msgspec.json.encode(signed)),
        )

    def drop(self, grant: str) -> None:
        """It was never opened: the packet core refused it."""
        self._run("DELETE FROM remembered WHERE grant_id = ? AND state = 'open'", grant)

    def put_closing(self, grant: str) -> None:
        self._run("UPDATE remembered SET state = 'closing' WHERE grant_id = ? AND state = 'open'", grant)

    def put_closed(self, grant: str, receipt: SignedUsage) -> None:
        data = msgspec.json.encode(receipt)
        sql = "UPDATE remembered SET state = 'closed', document = NULL, receipt = ? WHERE grant_id = ?"
        self._run(sql, data, grant)

    def forget_closed(self, now_unix_s: int) -> None:
        """Those that expired an hour ago. What expired by then is never opened any more, whatever the clock says."""
        until = now_unix_s - REMEMBER_S
        if self._run("SELECT 1 FROM remembered WHERE state = 'closed' AND expires_unix_s < ? LIMIT 1", until):
            with self._named("write"), self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute("UPDATE horizon SET unix_s = max(unix_s, ?)", (until,))
                self._connection.execute(
                    "DELETE FROM remembered WHERE state = 'closed' AND expires_unix_s < ?", (until,)
                )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _run(self, sql: str, *values: object) -> list[Any]:
        with self._named("use"):
            return self._connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault(
                f"{what} grants", str(self._path), error, "check the disk, or restore the file from a backup"
            ) from error


def not_closed(path: Path) -> frozenset[str]:
    """For the packet reader, beside the process that writes: the grants whose counters are needed."""
    if not path.exists():
        return frozenset()
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_S)) as file:
            return frozenset(row[0] for row in file.execute("SELECT grant_id FROM remembered WHERE state <> 'closed'"))
    except sqlite3.Error as error:
        raise EnvironmentFault("read grants", str(path), error, "restore the file from a backup") from error


def _stored(row: tuple[Any, ...]) -> StoredGrant:
    grant, link, expires_unix_s, state, document, receipt = row
    return StoredGrant(
        grant=grant,
        link=link,
        expires_unix_s=expires_unix_s,
        state=state,
        signed=_decoded(document, Signed),
        receipt=_decoded(receipt, SignedUsage),
    )


def _decoded(data: bytes | None, expected: type[Any]) -> Any:
    try:
        return None if data is None else msgspec.json.decode(data, type=expected)
    except msgspec.DecodeError:  # a damaged row: the grant pays nothing any more
        return None
