"""History that survives restarts: takes increments without delay, writes them every few seconds, answers queries.

Decides what happens when the file cannot be written or is broken: the agent goes on, what came is kept in memory and
written later, and `trouble` says so.  Refuses to know what increments mean.  Every touch of the file is in a thread, so
the caller's loop never waits for a disk; answers hold what is not written yet as well.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TextIO, TypeVar
from zoneinfo import ZoneInfo

from billpay.errors import EnvironmentFault, LocalProtocolError
from billpay.tariffs import AnyTariff
from hostagent import api
from hostagent.desk import HistoryQuery
from hostagent.history import calendar, queries
from hostagent.history.calendar import Span
from hostagent.history.database import Database, NewerFile, Retention, Write, is_damage, reading, set_aside
from hostagent.history.export import Format, write_rows
from hostagent.history.queries import Tariffs, Volumes
from hostagent.history.replay import Bill, Replayed, replay
from hostagent.history.statement import Contract, Credit, MonthOfMoney, in_currency, make_statement
from hostagent.history.values import FORGOTTEN, HOUR_S, OTHERS, Counts, Increments, LinkKey

FILE: Final = "history.sqlite"
FLUSH_S: Final = 10
ROLL_UP_S: Final = 3600
PENDING_MAX: Final = 20_000
"""Rows in memory, a few megabytes; beyond it destinations and then programs are no longer told apart."""
Answer = TypeVar("Answer")


def compact(increments: Increments, rows_max: int = PENDING_MAX) -> Increments:
    """The same sums in fewer rows, where there are too many."""
    for field in ("destination", "program"):
        if len(increments.traffic) <= rows_max:
            break
        smaller = Increments(links=increments.links)
        for key, amounts in increments.traffic.items():
            merged = key._replace(destination=OTHERS) if field == "destination" else key._replace(program=OTHERS)
            smaller.add_row(merged, amounts)
        increments = smaller
    if len(increments.links) > rows_max:
        hours = Increments(traffic=increments.traffic)
        for link, counts in increments.links.items():
            hours.add_link(LinkKey(link.from_unix_s // HOUR_S * HOUR_S, link.network), counts)
        increments = hours
    return increments


class History:
    """Made by `History.open`. Calls come from one loop; `trouble` is "" while everything that comes is written."""

    def __init__(self, path: Path, retention: Retention, zone: ZoneInfo, unix_s: Callable[[], int]) -> None:
        self._path = path
        self._retention = retention
        self._zone = zone
        self._unix_s = unix_s
        self._database: Database | None = None
        self._pending = Increments()
        self._life = secrets.token_hex(8)
        self._writes = 0
        self._in_flight: Increments | None = None  # write number `_writes`; what is pending will be the next
        self._turn = asyncio.Lock()
        self._notices: list[str] = []
        self.trouble = ""

    @classmethod
    async def open(
        cls,
        path: Path,
        retention: Retention | None = None,
        *,
        zone: ZoneInfo,
        unix_s: Callable[[], int] = lambda: int(time.time()),
    ) -> History:
        """Never fails: what is wrong with the file is in `trouble`. `zone`: whose days hours are rolled up to."""
        history = cls(path, retention or Retention(), zone, unix_s)
        async with history._turn:
            await history._try(_look)
        return history

    def take_notices(self) -> list[str]:
        """What a person should know once, since the last call: a file that was set aside."""
        taken, self._notices = self._notices, []
        return taken

    # --- writing ----------------------------------------------------------------------------------------------------

    def add(self, increments: Increments) -> None:
        """In memory; on the disk after the next flush."""
        self._pending.add(increments)
        self._pending = compact(self._pending)

    async def flush(self) -> bool:
        """Writes what came. False: it is kept, and `trouble` says why."""
        async with self._turn:
            return await self._flush()

    async def _flush(self) -> bool:
        """One batch has one number, so a write whose end nobody saw is not repeated."""
        if not self._in_flight and not self._pending:
            return not self.trouble or await self._try(_look)
        while self._in_flight is not None or self._pending:
            if self._in_flight is None:
                self._in_flight, self._pending = self._pending, Increments()
                self._writes += 1
            if not await self._try(
                partial(Database.write, increments=self._in_flight, write=(self._life, self._writes))
            ):
                return False
            self._in_flight = None
        return True

    async def work(self) -> None:
        """Flushes every ten seconds and rolls up every hour, until cancelled."""
        rolled_up_s = None
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()
            if rolled_up_s is None or self._unix_s() - rolled_up_s >= ROLL_UP_S:
                rolled_up_s = self._unix_s()
                await self.roll_up()

    async def roll_up(self) -> bool:
        """What is older than its retention becomes coarser, or goes."""
        async with self._turn:
            work = partial(Database.roll_up, now_unix_s=self._unix_s(), retention=self._retention, zone=self._zone)
            return await self._try(work)

    async def credit(self, credit: Credit) -> bool:
        """Books a voucher or a top-up. False: it was booked before.

        Raises LocalProtocolError where another one has its id, EnvironmentFault when it cannot be written.
        """
        row = (credit.id, credit.unix_s, credit.nanodollars, credit.kind, credit.reason)
        found: list[tuple[bool, tuple[str, int, int, str, str]]] = []
        async with self._turn:
            if not await self._try(lambda database: found.append(database.credit(row))):
                raise EnvironmentFault("book credit", str(self._path), self.trouble, "try again")
        is_new, booked = found[-1]
        if booked != row:
            raise LocalProtocolError(f"credit {credit.id} is booked already, and it is another one")
        return is_new

    async def credits(self) -> tuple[Credit, ...]:
        """All, the oldest first; `statement.cover` says what they paid for."""
        return await self._read(_credits)

    async def forget(
        self,
        *,
        program: str | None = None,
        destination: str | None = None,
        network: str | None = None,
        all: bool = False,  # noqa: A002
    ) -> int:
        """Deletes a name, or everything but money, at a person's wish; how many rows it was in.

        The numbers of a name that is deleted are kept as "(forgotten)": hours and statements still add up. Raises
        EnvironmentFault when it cannot be done now: then nothing is deleted.
        """
        named = [(column, name) for column, name in (("program", program), ("destination", destination),
                                                     ("network", network)) if name is not None]  # fmt: skip
        if len(named) + all != 1 or (FORGOTTEN in dict(named).values()):
            raise ValueError("one of program, destination, network and all")
        rows: list[int] = []

        def work(database: Database) -> None:
            rows.append(database.forget_all(self._zone) if all else database.forget(*named[0]))

        async with self._turn:
            if not await self._flush() or not await self._try(work):
                raise EnvironmentFault("delete from", str(self._path), self.trouble, "nothing was deleted")
        return rows[0]

    async def close(self) -> None:
        """Writes what there is. Idempotent."""
        async with self._turn:
            await self._flush()
            if self._database is not None:
                await asyncio.to_thread(self._database.close)
                self._database = None

    async def _try(self, work: Callable[[Database], None]) -> bool:
        """In a thread; a broken file is set aside, and the work is done on a new one. Otherwise `trouble`."""
        for _ in range(2):
            try:
                await asyncio.to_thread(self._open_and, work)
            except (sqlite3.Error, OSError, NewerFile) as error:
                if not isinstance(error, sqlite3.Error) or not is_damage(error):
                    self.trouble = f"history is not written, it is kept in memory: {self._path}: {error}"
                    return False
                if not await self._set_aside(error):
                    return False
            else:
                self.trouble = ""
                return True
        return False

    def _open_and(self, work: Callable[[Database], None]) -> None:
        if self._database is None:
            self._database = Database(self._path)
        work(self._database)

    async def _set_aside(self, error: sqlite3.Error) -> bool:
        database, self._database = self._database, None
        if database is not None:
            await asyncio.to_thread(database.close)
        try:
            aside = await asyncio.to_thread(set_aside, self._path, self._unix_s())
        except OSError as fault:
            self.trouble = f"history is broken and cannot be set aside: {self._path}: {fault}"
            return False
        self._notices.append(f"the history's file was broken ({error}); it is kept as {aside}, and a new one was begun")
        self.trouble = self._notices[-1]
        return True

    # --- reading ----------------------------------------------------------------------------------------------------

    async def rows(
        self, query: HistoryQuery, zone: ZoneInfo, tariffs: Tariffs | None = None
    ) -> tuple[api.HistoryRow, ...]:
        """`tariffs`: of networks, for `tariff_nanodollars`. Raises ValueError for a query that cannot be answered."""
        return await self._read(lambda connection: queries.rows(connection, query, zone, tariffs or {}))

    async def moved(self, network: str, since_unix_s: int, until_unix_s: int) -> Counts:
        """What the network's link moved, to the byte."""
        span = Span(since_unix_s, until_unix_s)
        return await self._read(lambda connection: queries.link_counts(connection, network, span))

    async def month_usage(self, network: str, month: str, zone: ZoneInfo, reset_day: int = 1) -> dict[str, int]:
        """Bytes by kind, in the billing period that begins in that month; what a data plan is spent on."""
        span = calendar.month_span(month, zone, reset_day)
        moved = await self._read(lambda connection: queries.kinds_moved(connection, network, span))
        return {kind: counts.bytes for kind, counts in moved.items()}

    async def volumes(self, network: str, since_unix_s: int, until_unix_s: int) -> Volumes:
        """Of each five minutes, for the 95th percentile."""
        span = Span(since_unix_s, until_unix_s)
        return await self._read(lambda connection: queries.volumes(connection, network, span))

    async def export(
        self,
        query: HistoryQuery,
        format: Format,  # noqa: A002
        file: TextIO,
        zone: ZoneInfo,
        tariffs: Tariffs | None = None,
    ) -> int:
        """How many rows were written."""
        found = await self.rows(query, zone, tariffs)
        await asyncio.to_thread(write_rows, found, format, file)
        return len(found)

    async def statement(
        self,
        month: str,
        zone: ZoneInfo,
        contracts: tuple[Contract, ...] = (),
        *,
        by: str = "program",
        currency: str = "USD",
    ) -> api.Statement:
        """`contracts`: the tariffs of networks; `by`: "program" or "network". Raises ValueError for no month."""
        ours = in_currency(contracts, currency)
        return await self._read(lambda connection: self._statement(connection, month, zone, ours, by, currency))

    def _statement(
        self,
        connection: sqlite3.Connection,
        month: str,
        zone: ZoneInfo,
        contracts: tuple[Contract, ...],
        by: str,
        currency: str,
    ) -> api.Statement:
        now = self._unix_s()
        span = calendar.month_span(month, zone)
        (first,) = connection.execute("SELECT MIN(from_unix_s + seconds / 2) FROM all_links").fetchone()
        tariffs = {contract.network: contract.tariff for contract in contracts}

        def money(of: Span) -> MonthOfMoney:
            query = HistoryQuery(since_unix_s=of.from_unix_s, until_unix_s=of.until_unix_s, step="all",
                                 by=("program", "network"), limit=10**9)  # fmt: skip
            used = queries.networks(connection, of)
            return MonthOfMoney(
                rows=queries.rows(connection, query, zone, tariffs),
                contracts=tuple(contract for contract in contracts if contract.network in used),
            )

        prepaid = any(contract.prepaid for contract in contracts)
        start = min(span.from_unix_s, calendar.period_of(first, 1, zone).from_unix_s if first is not None else span[0])
        earlier = calendar.spans(start, span.from_unix_s, "month", zone) if prepaid else []
        (paid,) = connection.execute(
            "SELECT COALESCE(SUM(spent_nanodollars), 0) FROM all_traffic WHERE from_unix_s + seconds / 2 < ?",
            (span.from_unix_s,),
        ).fetchone()
        return make_statement(
            month,
            span,
            money(span),
            [money(each) for each in earlier],
            paid_before_nanodollars=paid,
            credits=_credits(connection),
            until_unix_s=min(now, span.until_unix_s),
            by=by,
            currency=currency,
        )

    async def replay(
        self,
        since_unix_s: int,
        until_unix_s: int,
        zone: ZoneInfo,
        tariffs: tuple[tuple[str, AnyTariff], ...] | None = None,
    ) -> tuple[api.ReplayLine, ...]:
        """You would have paid …: under each tariff, with its title; None: the typical ones."""
        bills = await self.replay_bills(since_unix_s, until_unix_s, zone, tariffs)
        return tuple(bill.line() for bill in bills)

    async def replay_bills(
        self,
        since_unix_s: int,
        until_unix_s: int,
        zone: ZoneInfo,
        tariffs: tuple[tuple[str, AnyTariff], ...] | None = None,
    ) -> tuple[Bill, ...]:
        span = Span(since_unix_s, until_unix_s)

        def work(connection: sqlite3.Connection) -> tuple[Bill, ...]:
            return replay(lambda piece: _replayed(connection, piece), span, zone, tariffs)

        return await self._read(work)

    async def _read(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Of the file and of what is not in it yet, at one moment; of the latter alone when the file cannot be read."""
        pending = Increments(dict(self._pending.traffic), dict(self._pending.links))
        batches = [((self._life, self._writes + 1), pending)]
        if self._in_flight is not None:
            batches.append(((self._life, self._writes), self._in_flight))
        path = self._path if self._database is not None else None
        try:
            return await asyncio.to_thread(_read_in_thread, path, batches, work)
        except sqlite3.Error as error:
            if is_damage(error):
                async with self._turn:
                    await self._set_aside(error)
            else:
                self.trouble = f"history cannot be read: {self._path}: {error}"
            return await asyncio.to_thread(_read_in_thread, None, batches, work)


def _look(database: Database) -> None:
    """Opening the file is all."""


def _read_in_thread(
    path: Path | None,
    batches: Sequence[tuple[Write, Increments]],
    work: Callable[[sqlite3.Connection], Answer],
) -> Answer:
    with reading(path, batches) as connection:
        return work(connection)


def _credits(connection: sqlite3.Connection, id_: str | None = None) -> tuple[Credit, ...]:
    found = connection.execute(
        "SELECT id, unix_s, nanodollars, kind, reason FROM credits WHERE :id IS NULL OR id = :id ORDER BY unix_s, id",
        {"id": id_},
    )
    return tuple(
        Credit(id=name, unix_s=unix_s, nanodollars=amount, kind=kind, reason=reason)
        for name, unix_s, amount, kind, reason in found
    )


def _replayed(connection: sqlite3.Connection, piece: Span) -> Replayed:
    """All networks together: one contract for everything."""
    moved = {name: queries.link_counts(connection, name, piece) for name in queries.networks(connection, piece)}
    return Replayed.of(piece, moved, queries.volumes(connection, None, piece))
