"""The file of what is known of paths: one map for each network, and how good each way was over time.

Decides: what is forgotten when there is too much. A map is kept by destination, so that only what changed is written; a
network that comes back gets its map back. Ages are stored with the time of day of their writing: whoever recalls adds
what has passed since. Refuses to know what any of it means (`cartographer.remembered`).

SQLite in WAL mode, ours alone (0600). What it holds can be measured again: a file that is broken is put aside, and a
full disk costs memory of the past, nothing else.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cartographer.judging import RememberedAccusation
from cartographer.remembered import FORMAT, RememberedDestination, RememberedMap
from hostagent import api
from hostagent.desk import QualityQuery
from hostagent.history.database import make_private

FILE_NAME: Final = "paths.sqlite"
VERSION: Final = 1
NETWORKS_MAX: Final = 64
QUALITY_KEPT_S: Final = 35 * 86_400
BUSY_S: Final = 5.0
NS_PER_S: Final = 1_000_000_000

SCHEMA: Final = """
CREATE TABLE networks (network TEXT PRIMARY KEY, unix_s INTEGER NOT NULL, document BLOB NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE destinations (network TEXT NOT NULL, destination TEXT NOT NULL, unix_s INTEGER NOT NULL,
    document BLOB NOT NULL, PRIMARY KEY (network, destination)) STRICT, WITHOUT ROWID;
CREATE TABLE quality (from_unix_s INTEGER NOT NULL, network TEXT NOT NULL, destination TEXT NOT NULL,
    way TEXT NOT NULL, document BLOB NOT NULL, PRIMARY KEY (from_unix_s, network, destination, way))
    STRICT, WITHOUT ROWID;
"""


class Recalled(NamedTuple):
    """What was written at one time, and how long ago that was."""

    known: RememberedMap
    elapsed_ns: int
    accusations: tuple[RememberedAccusation, ...] = ()


class _Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A network's row: all but the destinations."""

    known: RememberedMap
    accusations: tuple[RememberedAccusation, ...] = ()


class PathMemory:
    """One writer; calls may come from any thread. Everything raises sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        """Raises OSError too. A file of another version, or a broken one, is put aside as `.broken`."""
        self.path = path
        self.trouble = ""
        self._turn = threading.Lock()
        self._written: dict[tuple[str, str], int] = {}  # the second in which a destination was last used, as written
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            self.trouble = f"{path} could not be read ({error}) and is put aside: paths are learned anew"
            _put_aside(path)
            self._connection = _open(path)

    def close(self) -> None:
        with self._turn:
            self._connection.close()

    # --- maps --------------------------------------------------------------------------------------------------------

    def keep(
        self,
        network: str,
        known: RememberedMap,
        unix_s: int,
        accusations: tuple[RememberedAccusation, ...] = (),
        *,
        names: frozenset[str] | None = None,
    ) -> int:
        """Writes what changed since the last time; how many destinations those were."""
        changed = []
        for item in known.destinations:
            used_s = unix_s - item.age_ns // NS_PER_S
            if abs(self._written.get((network, item.destination), -2) - used_s) > 1:
                self._written[network, item.destination] = used_s
                changed.append((network, item.destination, unix_s, msgspec.msgpack.encode(item)))
        rest = msgspec.structs.replace(known, destinations=())
        whole = msgspec.msgpack.encode(_Whole(known=rest, accusations=accusations))
        there = names if names is not None else {item.destination for item in known.destinations}
        with self._turn, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO networks VALUES (?, ?, ?)", (network, unix_s, whole))
            self._connection.executemany("INSERT OR REPLACE INTO destinations VALUES (?, ?, ?, ?)", changed)
            held = self._connection.execute("SELECT destination FROM destinations WHERE network = ?", (network,))
            gone = [(network, destination) for (destination,) in held if destination not in there]
            self._connection.executemany("DELETE FROM destinations WHERE network = ? AND destination = ?", gone)
            self._forget_networks()
        for key in gone:
            self._written.pop(key, None)
        return len(changed)

    def _forget_networks(self) -> None:
        rows = self._connection.execute("SELECT network FROM networks ORDER BY unix_s DESC, network LIMIT -1 OFFSET ?",
                                        (NETWORKS_MAX,)).fetchall()  # fmt: skip
        for table in ("networks", "destinations", "quality"):
            self._connection.executemany(f"DELETE FROM {table} WHERE network = ?", rows)  # noqa: S608 - our own names

    def recall(self, network: str, unix_s: int) -> list[Recalled]:
        """Part by part, the oldest first; nothing of a new network, or what this version cannot read."""
        with self._turn:
            row = self._connection.execute(
                "SELECT unix_s, document FROM networks WHERE network = ?", (network,)
            ).fetchone()
            rows = self._connection.execute(
                "SELECT unix_s, document FROM destinations WHERE network = ? ORDER BY unix_s, destination", (network,)
            ).fetchall()
        if row is None:
            return []
        try:
            whole = msgspec.msgpack.decode(row[1], type=_Whole)
            parts = [
                (written, tuple(msgspec.msgpack.decode(each, type=RememberedDestination) for _, each in group))
                for written, group in groupby(rows, key=itemgetter(0))
            ]
        except msgspec.DecodeError:  # of a version that remembered otherwise: learned anew
            return []
        if whole.known.format != FORMAT:
            return []
        first = Recalled(whole.known, _since(row[0], unix_s), whole.accusations)
        return [
            first,
            *(Recalled(RememberedMap(destinations=each), _since(written, unix_s)) for written, each in parts),
        ]

    # --- quality over time -------------------------------------------------------------------------------------------

    def add_quality(self, network: str, rows: Iterable[api.QualityRow]) -> None:
        values = [
            (row.from_unix_s, network, row.destination, row.way, msgspec.msgpack.encode(row)) for row in rows
        ]  # fmt: skip
        newest = max((row[0] for row in values), default=0)
        with self._turn, self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO quality VALUES (?, ?, ?, ?, ?)", values)
            self._connection.execute("DELETE FROM quality WHERE from_unix_s < ?", (newest - QUALITY_KEPT_S,))

    def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]:
        """The latest first."""
        with self._turn:
            rows = self._connection.execute(
                "SELECT document FROM quality WHERE from_unix_s >= ? AND from_unix_s < ?"
                " AND (? = '' OR destination = ?) ORDER BY from_unix_s DESC, destination, way LIMIT ?",
                (query.since_unix_s, query.until_unix_s, query.destination, query.destination, query.limit),
            ).fetchall()
        found = []
        for (row,) in rows:
            with contextlib.suppress(msgspec.DecodeError):  # of a version that wrote it otherwise
                found.append(msgspec.msgpack.decode(row, type=api.QualityRow))
        return tuple(found)

    # --- what a person does not want to be kept ----------------------------------------------------------------------

    def forget(self, *, destination: str | None = None, network: str | None = None) -> None:
        """Both None: everything. Of a destination its address is meant."""
        with self._turn, self._connection:
            for table in ("destinations", "quality", "networks"):
                if destination is not None:
                    if table != "networks":
                        self._connection.execute(f"DELETE FROM {table} WHERE destination = ?", (destination,))  # noqa: S608
                elif network is not None:
                    self._connection.execute(f"DELETE FROM {table} WHERE network = ?", (network,))  # noqa: S608
                else:
                    self._connection.execute(f"DELETE FROM {table}")  # noqa: S608
            self._written.clear()
        self._leave_no_trace()

    def _leave_no_trace(self) -> None:
        """The log still has what was deleted, and so has a file that was put aside."""
        with self._turn:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        _aside(self.path).unlink(missing_ok=True)


def _since(written_unix_s: int, unix_s: int) -> int:
    return max(0, unix_s - written_unix_s) * NS_PER_S


def _open(path: Path) -> sqlite3.Connection:
    make_private(path)
    connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"version {version} of the file is not ours, {VERSION}")
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _put_aside(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.replace(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_suffix(".broken")
