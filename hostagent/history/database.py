"""The history's file: what is written is there after a SIGKILL, and a write that is tried again happens once.

Decides nothing about what is counted.  SQLite in WAL mode, ours alone (0600); what is deleted is overwritten.  Every
write has a number within its writer's life and leaves it in the file: whoever does not know whether it came through
can look.
Refuses to know clocks, threads and what to do when the disk is full: sqlite3's errors come out as they are.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from hostagent.history.calendar import Span, day_of
from hostagent.history.values import FORGOTTEN, HOUR_S, SLOT_S, Increments

VERSION: Final = 1
DAY_S: Final = 86_400
BUSY_S: Final = 5.0
COMPANIONS: Final = ("", "-wal", "-shm")
ASIDE: Final = ".damaged-"
ASIDE_MAX: Final = 3

COUNTS: Final = ("sent_bytes", "received_bytes", "sent_packets", "received_packets", "received_ce_packets")
AMOUNTS: Final = (*COUNTS, "spent_nanodollars", "priced_nanodollars")
NAMES: Final = ("program", "kind", "destination", "network")


def _integers(names: Iterable[str]) -> str:
    return ", ".join(f"{name} INTEGER NOT NULL" for name in names)


SCHEMA: Final = f"""
CREATE TABLE traffic (
    from_unix_s INTEGER NOT NULL, seconds INTEGER NOT NULL, program TEXT NOT NULL, kind TEXT NOT NULL,
    destination TEXT NOT NULL, network TEXT NOT NULL, {_integers(AMOUNTS)},
    PRIMARY KEY (from_unix_s, seconds, network, program, kind, destination)) STRICT, WITHOUT ROWID;
CREATE TABLE links (
    from_unix_s INTEGER NOT NULL, seconds INTEGER NOT NULL, network TEXT NOT NULL, {_integers(COUNTS)},
    PRIMARY KEY (from_unix_s, seconds, network)) STRICT, WITHOUT ROWID;
CREATE TABLE credits (
    id TEXT PRIMARY KEY, unix_s INTEGER NOT NULL, nanodollars INTEGER NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL
    ) STRICT;
CREATE TABLE last_write (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), life TEXT NOT NULL,
    number INTEGER NOT NULL) STRICT;
"""


def _adding(table: str, keys: Iterable[str], values: Iterable[str]) -> tuple[str, str]:
    """INSERT with its columns, and what to do where the row is there already: add."""
    values = tuple(values)
    columns = (*keys, *values)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in values)
    return f"INSERT INTO {table} ({', '.join(columns)}) ", f" ON CONFLICT DO UPDATE SET {sums}"


_TRAFFIC_KEYS: Final = ("from_unix_s", "program", "kind", "destination", "network", "seconds")
_ROW, _ROW_AGAIN = _adding("traffic", _TRAFFIC_KEYS, AMOUNTS)
_LINK, _LINK_AGAIN = _adding("links", ("from_unix_s", "network", "seconds"), COUNTS)
ADD_ROW: Final = f"{_ROW} VALUES (?, ?, ?, ?, ?, {HOUR_S}{', ?' * len(AMOUNTS)}) {_ROW_AGAIN}"
ADD_LINK: Final = f"{_LINK} VALUES (?, ?, {SLOT_S}{', ?' * len(COUNTS)}) {_LINK_AGAIN}"

AMOUNT_SUMS: Final = ", ".join(f"SUM({name})" for name in AMOUNTS)
COUNT_SUMS: Final = ", ".join(f"SUM({name})" for name in COUNTS)
IN_SPAN: Final = (
    "from_unix_s > :since - 50000 AND from_unix_s < :until"  # the key finds these: no day is longer than 25 hours
    " AND from_unix_s + seconds / 2 >= :since AND from_unix_s + seconds / 2 < :until"
)
"""The middle of a row lies in the span."""
Write = tuple[str, int]
"""The writer's life, and the number of the write in it."""
DayWork = Callable[[sqlite3.Connection, Span], None]
MONEY_ONLY: Final = "program = :forgotten AND network = :forgotten AND kind = '' AND destination = ''"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Days. Then hours become days, destinations are no longer told apart, and days are deleted."""

    hours: int = 62
    destinations: int = 35
    days: int = 5 * 366


class NewerFile(Exception):  # noqa: N818 - a fact about the file
    """A later version of this program wrote it."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken; else the disk, or another program, is in the way."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """One writer. Calls may come from any thread, one at a time goes on."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error, OSError, NewerFile."""
        self.path = path
        self._turn = threading.Lock()
        make_private(path)
        self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._begin()
        except BaseException:
            self._connection.close()
            raise

    def _begin(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise NewerFile(f"version {version} of the file is newer than ours, {VERSION}")
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            error = sqlite3.DatabaseError(found)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        if version == 0:
            self._connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        with self._turn:
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, increments: Increments, write: Write) -> None:
        """Once, however often it is tried."""
        with self._writing() as connection:
            if not is_written(connection, write):
                add_increments(connection, increments)
                connection.execute("INSERT OR REPLACE INTO last_write VALUES (1, ?, ?)", write)

    def credit(self, row: tuple[str, int, int, str, str]) -> tuple[bool, tuple[str, int, int, str, str]]:
        """Whether it is new, and what is in the file under that id now."""
        with self._writing() as connection:
            text = "INSERT INTO credits VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
            is_new = connection.execute(text, row).rowcount > 0
            found = connection.execute("SELECT * FROM credits WHERE id = ?", (row[0],)).fetchone()
        return is_new, found

    # --- what does not stay -----------------------------------------------------------------------------------------

    def roll_up(self, now_unix_s: int, retention: Retention, zone: ZoneInfo) -> None:
        """Sums stay exact. One local day at a time, so that nobody waits for long."""
        self._each_day(
            f"traffic WHERE destination <> '' AND seconds = {HOUR_S}",
            now_unix_s,
            retention.destinations,
            zone,
            _same_hour,
        )
        self._each_day(f"traffic WHERE seconds = {HOUR_S}", now_unix_s, retention.hours, zone, _hours_to_day)
        self._each_day(f"links WHERE seconds = {SLOT_S}", now_unix_s, retention.hours, zone, _slots_to_day)
        not_money = f"traffic WHERE NOT ({MONEY_ONLY})"
        self._each_day(not_money, now_unix_s, retention.days, zone, _keep_money)

    def _each_day(self, where: str, now_unix_s: int, days: int, zone: ZoneInfo, work: DayWork) -> None:
        """`where`: the rows that have still to be worked on; what is older than so many days is."""
        before = day_of(now_unix_s - days * DAY_S, zone).from_unix_s
        last: Span | None = None
        while True:
            with self._turn:
                oldest = self._connection.execute(
                    f"SELECT from_unix_s + seconds / 2 FROM {where} ORDER BY from_unix_s LIMIT 1",  # noqa: S608 - ours
                    {"forgotten": FORGOTTEN},
                ).fetchone()
            span = day_of(oldest[0], zone) if oldest is not None else None
            if span is None or span.from_unix_s >= before or span == last:
                return
            with self._writing() as connection:
                work(connection, span)
            last = span

    def forget(self, column: str, name: str) -> int:
        """Rows of that name are added to those of "(forgotten)". How many there were."""
        assert column in ("program", "destination", "network")
        with self._writing() as connection:
            others = [each for each in _TRAFFIC_KEYS if each != column]
            keys = ", ".join([":forgotten", *others])
            parameters = {"forgotten": FORGOTTEN, "name": name}
            insert, again = _adding("traffic", (column, *others), AMOUNTS)
            connection.execute(
                f"{insert} SELECT {keys}, {AMOUNT_SUMS} FROM traffic WHERE {column} = :name"  # noqa: S608
                f" GROUP BY {', '.join(others)}{again}",
                parameters,
            )
            rows = connection.execute(f"DELETE FROM traffic WHERE {column} = :name", parameters).rowcount  # noqa: S608
            if column == "network":
                connection.execute(
                    f"{_LINK} SELECT from_unix_s, :forgotten, seconds, {', '.join(COUNTS)} FROM links"  # noqa: S608
                    f" WHERE network = :name{_LINK_AGAIN}",
                    parameters,
                )
                connection.execute("DELETE FROM links WHERE network = :name", parameters)
        self._leave_no_trace()
        return rows

    def forget_all(self, zone: ZoneInfo) -> int:
        """Everything but money: real payments stay, as one row a day without any name, and so do credits."""
        parameters = {"forgotten": FORGOTTEN}
        with self._writing() as connection:
            days = {
                day_of(middle, zone)
                for (middle,) in connection.execute("SELECT DISTINCT from_unix_s + seconds / 2 FROM traffic")
            }
            for span in days:
                _keep_money(connection, span)
            rows = connection.execute(f"DELETE FROM traffic WHERE NOT ({MONEY_ONLY})", parameters).rowcount  # noqa: S608
            connection.execute("DELETE FROM links")
        self._leave_no_trace()
        return rows

    def _leave_no_trace(self) -> None:
        """Deleted content is overwritten in the file; the log that still has it is cut, and damaged files go."""
        with self._turn:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for aside in aside_files(self.path):
            aside.unlink(missing_ok=True)

    def close(self) -> None:
        with self._turn:
            self._connection.close()


def _of(span: Span) -> dict[str, object]:
    return {"since": span.from_unix_s, "until": span.until_unix_s, "seconds": span.seconds, "forgotten": FORGOTTEN}


def _same_hour(connection: sqlite3.Connection, span: Span) -> None:
    """Destinations are no longer told apart."""
    where = f"{IN_SPAN} AND seconds = {HOUR_S} AND destination <> ''"
    connection.execute(
        f"{_ROW} SELECT from_unix_s, program, kind, '', network, seconds, {AMOUNT_SUMS} FROM traffic"  # noqa: S608
        f" WHERE {where} GROUP BY from_unix_s, program, kind, network, seconds{_ROW_AGAIN}",
        _of(span),
    )
    connection.execute(f"DELETE FROM traffic WHERE {where}", _of(span))  # noqa: S608


def _hours_to_day(connection: sqlite3.Connection, span: Span) -> None:
    where = f"{IN_SPAN} AND seconds = {HOUR_S}"
    connection.execute(
        f"{_ROW} SELECT :since, program, kind, destination, network, :seconds, {AMOUNT_SUMS} FROM traffic"  # noqa: S608
        f" WHERE {where} GROUP BY program, kind, destination, network{_ROW_AGAIN}",
        _of(span),
    )
    connection.execute(f"DELETE FROM traffic WHERE {where}", _of(span))  # noqa: S608


def _slots_to_day(connection: sqlite3.Connection, span: Span) -> None:
    where = f"{IN_SPAN} AND seconds = {SLOT_S}"
    connection.execute(
        f"{_LINK} SELECT :since, network, :seconds, {COUNT_SUMS} FROM links"  # noqa: S608
        f" WHERE {where} GROUP BY network{_LINK_AGAIN}",
        _of(span),
    )
    connection.execute(f"DELETE FROM links WHERE {where}", _of(span))  # noqa: S608


def _keep_money(connection: sqlite3.Connection, span: Span) -> None:
    """What was really paid on that day, in one row without names; the rest is deleted."""
    where = f"{IN_SPAN} AND NOT ({MONEY_ONLY})"
    connection.execute(
        f"{_ROW} SELECT :since, :forgotten, '', '', :forgotten, :seconds, 0, 0, 0, 0, 0,"  # noqa: S608
        f" spent, 0 FROM (SELECT SUM(spent_nanodollars) AS spent FROM traffic WHERE {where})"
        f" WHERE spent <> 0{_ROW_AGAIN}",
        _of(span),
    )
    connection.execute(f"DELETE FROM traffic WHERE {where}", _of(span))  # noqa: S608


# --- what readers share -----------------------------------------------------------------------------------------------


def is_written(connection: sqlite3.Connection, write: Write) -> bool:
    found = connection.execute("SELECT life, number FROM last_write").fetchone()
    return found is not None and found[0] == write[0] and found[1] >= write[1]


def add_increments(connection: sqlite3.Connection, increments: Increments, prefix: str = "") -> None:
    """Into the tables, or into those of a reader's own whose names begin with `prefix`."""
    row, link = (text.replace("INSERT INTO ", f"INSERT INTO {prefix}") for text in (ADD_ROW, ADD_LINK))
    connection.executemany(row, ((*key, *amounts) for key, amounts in increments.traffic.items()))
    connection.executemany(link, ((*key, *counts) for key, counts in increments.links.items()))


@contextmanager
def reading(path: Path | None, batches: Iterable[tuple[Write, Increments]]) -> Iterator[sqlite3.Connection]:
    """One moment of the file and of the batches that are not in it yet, as `all_traffic` and `all_links`.

    None: no file.
    Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(path or ":memory:", timeout=BUSY_S, isolation_level=None)) as connection:
        if path is None:
            connection.executescript(SCHEMA)
        connection.execute("PRAGMA temp_store = MEMORY")
        own = SCHEMA.partition("CREATE TABLE credits")[0].replace("CREATE TABLE ", "CREATE TEMP TABLE pending_")
        connection.executescript(own)
        connection.execute("BEGIN")
        for write, increments in batches:
            if not is_written(connection, write):
                add_increments(connection, increments, "pending_")
        for table in ("traffic", "links"):
            columns = ", ".join((*(_TRAFFIC_KEYS if table == "traffic" else ("from_unix_s", "network", "seconds")),
                                 *(AMOUNTS if table == "traffic" else COUNTS)))  # fmt: skip
            connection.execute(
                f"CREATE TEMP VIEW all_{table} AS SELECT {columns} FROM main.{table}"  # noqa: S608 - our own words
                f" UNION ALL SELECT {columns} FROM pending_{table}"
            )
        yield connection


def make_private(path: Path) -> None:
    """SQLite gives its two companion files the mode of the first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def set_aside(path: Path, unix_s: int) -> Path:
    """The file and its companions get another name; of those that were set aside the latest few are kept."""
    number = unix_s
    while (aside := path.with_name(f"{path.name}{ASIDE}{number}")).exists():
        number += 1
    for companion in COMPANIONS:
        old = path.with_name(path.name + companion)
        if old.exists():
            old.rename(aside.with_name(aside.name + companion))
    firsts = sorted({each.name.removesuffix("-wal").removesuffix("-shm") for each in aside_files(path)})
    for name in firsts[:-ASIDE_MAX]:
        for companion in COMPANIONS:
            path.with_name(name + companion).unlink(missing_ok=True)
    return aside


def aside_files(path: Path) -> list[Path]:
    return [each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}{ASIDE}")]
