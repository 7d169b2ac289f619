"""The book of a node: accounts, both sides' signed statements, settlements; on disk, and true after any crash.

Decides: what is kept, in which file, and that what was written once is never changed.
Refuses to know: what follows from a statement or an order (`neighbour.exchange` and the cores in `billpay`).
Source: docs/architecture.md ("The way of a payment"); SQLite's own guarantees for WAL with synchronous=FULL.

One transaction is one decision: a crash leaves all of it or nothing.  The tables of transfers, statements, rounds,
differences and settlements are append only, by triggers; what moves on (balances, comparison, standing) follows
from them and is written in the same transaction.  A broken disk or file is an EnvironmentFault with one line, never
a traceback.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from billpay.errors import EnvironmentFault, LocalProtocolError
from billpay.ledger import Account, Balance, Phase, Transfer, TransferResult, judge, movements
from billpay.links import Agreed, ComparisonState, DifferenceLine, Direction, LineKind
from billpay.messages import Closing, Settlement, Signed, Statement
from billpay.settlement import Parties, Role, Standing, StandingState
from billpay.signing import canonical_bytes
from neighbour.book_schema import APPLICATION_ID, MIGRATIONS

BUSY_S: Final = 1.0
"""Another process looks into the book (a backup, a person): it is done sooner than that."""


class Side(enum.Enum):
    """Whose document it is."""

    OWN = "own"
    PEER = "peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStatement:
    """`signed` is the evidence, `statement` what it says."""

    signed: Signed
    statement: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOrder:
    """`side`: who ordered. A peer's order is kept when it is accepted, hence posted from the start."""

    side: Side
    signed: Signed
    order: Settlement
    posted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Sums of a link's settlements. Ordered ones include the posted ones."""

    ordered_by_us: int
    posted_by_us: int
    posted_by_peer: int
    count: int  # posted, both


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What moves on from interval to interval.

    `settled_period`: the last month whose rest was dealt with, 0: none yet. `trouble`: what was refused last, "":
    nothing.
    """

    comparison: ComparisonState
    standing: StandingState
    settled_period: int
    trouble: str


class Book:
    """Open it with `Book.open`; one thread, one process writes. Reads outside a transaction see the last commit."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.revision = 0
        """Grows with every commit: what was read at the same revision still holds."""

    @classmethod
    def open(cls, path: Path | str) -> Book:
        """Makes the file (0600) or brings it up to date. Raises EnvironmentFault if it cannot be used."""
        path = Path(path)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
        except OSError as error:
            raise EnvironmentFault("use book", str(path), error.strerror, "check the state directory") from error
        except sqlite3.Error as error:
            raise EnvironmentFault("use book", str(path), error, "check the state directory") from error
        book = cls(connection, path)
        try:
            book._prepare()
        except BaseException:
            connection.close()
            raise
        return book

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Book:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is one decision. Not to be nested, and nothing is awaited inside."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # some faults (a full disk) have rolled it back already
                self._run("ROLLBACK")
            raise
        self.revision += 1

    # --- the ledger -------------------------------------------------------------------------------------------------

    def apply(self, transfer: Transfer) -> TransferResult:
        """Decides by `billpay.ledger.judge`, and books what it applied. Inside a transaction."""
        reserve = self._transfer(_BY_ID, transfer.reserved) if transfer.reserved else None
        result = judge(
            transfer,
            same_id=self._transfer(_BY_ID, transfer.transfer),
            reserve=reserve,
            closed_by=self._transfer(_BY_RESERVE, transfer.reserved) if transfer.reserved else None,
        )
        if result is not TransferResult.APPLIED:
            return result
        self._run(
            "INSERT INTO transfer (transfer, debit, credit, amount, phase, reserved) VALUES (?, ?, ?, ?, ?, ?)",
            transfer.transfer,
            str(transfer.debit),
            str(transfer.credit),
            transfer.amount_nanodollars,
            transfer.phase.value,
            transfer.reserved or None,
        )
        for movement in movements(transfer, reserve):
            self._run(
                "INSERT INTO balance (account, posted, reserved) VALUES (?, ?, ?) ON CONFLICT (account)"
                " DO UPDATE SET posted = posted + excluded.posted, reserved = reserved + excluded.reserved",
                str(movement.account),
                movement.posted_nanodollars,
                movement.reserved_nanodollars,
            )
        return result

    def balance(self, account: Account) -> Balance:
        row = self._one("SELECT posted, reserved FROM balance WHERE account = ?", str(account))
        return Balance(*row) if row else Balance()

    def balances(self) -> dict[Account, Balance]:
        rows = self._all("SELECT account, posted, reserved FROM balance ORDER BY account")
        return {Account.parse(account): Balance(posted, reserved) for account, posted, reserved in rows}

    def transfers(self) -> tuple[Transfer, ...]:
        """All of them in the order in which they were applied."""
        return tuple(map(_transfer_of, self._all(f"{_TRANSFERS} ORDER BY rowid")))

    def _transfer(self, sql: str, value: str) -> Transfer | None:
        row = self._one(sql, value)
        return _transfer_of(row) if row else None

    # --- links ------------------------------------------------------------------------------------------------------

    def open_link(self, parties: Parties, role: Role) -> None:
        """Begins or continues the account of a link. Raises EnvironmentFault if it is with somebody else."""
        known = self._one("SELECT us, peer, role FROM link WHERE link = ?", parties.link)
        if known is None:
            with self.transaction():
                self._run(
                    "INSERT INTO link (link, us, peer, role, comparison, standing, due_intervals, settled_period,"
                    " trouble) VALUES (?, ?, ?, ?, ?, ?, 0, 0, '')",
                    *(parties.link, parties.us, parties.peer, role.value),
                    *(msgspec.json.encode(ComparisonState()), Standing.GOOD.value),
                )
        elif known != (parties.us, parties.peer, role.value):
            raise EnvironmentFault(
                "continue the account of link",
                parties.link,
                f"in {self._path} it is with {known[1][:16]}… and another key or role",
                "give the link a new name: a new key is a new agreement",
            )

    def link_state(self, link: str) -> LinkState:
        row = self._one(
            "SELECT comparison, standing, due_intervals, settled_period, trouble FROM link WHERE link = ?", link
        )
        if row is None:
            raise LocalProtocolError(f"link {link} was not opened in the book")
        comparison, standing, due, period, trouble = row
        return LinkState(
            comparison=msgspec.json.decode(comparison, type=ComparisonState),
            standing=StandingState(standing=Standing(standing), due_intervals=due),
            settled_period=period,
            trouble=trouble,
        )

    def put_comparison(self, link: str, state: ComparisonState) -> None:
        self._run("UPDATE link SET comparison = ? WHERE link = ?", msgspec.json.encode(state), link)

    def put_standing(self, link: str, state: StandingState) -> None:
        self._run(
            "UPDATE link SET standing = ?, due_intervals = ? WHERE link = ?",
            *(state.standing.value, state.due_intervals, link),
        )

    def put_settled_period(self, link: str, period: int) -> None:
        self._run("UPDATE link SET settled_period = ? WHERE link = ?", period, link)

    def put_trouble(self, link: str, trouble: str) -> None:
        self._run("UPDATE link SET trouble = ? WHERE link = ?", trouble, link)

    # --- statements -------------------------------------------------------------------------------------------------

    def put_statement(self, side: Side, signed: Signed, statement: Statement) -> None:
        self._run(
            "INSERT INTO statement (link, interval, side, document, signer, signature) VALUES (?, ?, ?, ?, ?, ?)",
            *(statement.link, statement.interval, side.value, signed.document, signed.signer, signed.signature),
        )

    def statement(self, link: str, interval: int, side: Side) -> KeptStatement | None:
        row = self._one(
            "SELECT document, signer, signature FROM statement WHERE link = ? AND interval = ? AND side = ?",
            *(link, interval, side.value),
        )
        return _statement_of(row) if row else None

    def last_statement(self, link: str, side: Side) -> KeptStatement | None:
        row = self._one(
            "SELECT document, signer, signature FROM statement WHERE link = ? AND side = ?"
            " ORDER BY interval DESC LIMIT 1",
            *(link, side.value),
        )
        return _statement_of(row) if row else None

    # --- rounds: intervals of which both statements are here ----------------------------------------------------------

    def put_round(self, link: str, interval: int, totals: Agreed) -> None:
        self._run(
            "INSERT INTO round (link, interval, forward, backward) VALUES (?, ?, ?, ?)",
            *(link, interval, totals.forward_nanodollars, totals.backward_nanodollars),
        )

    def round(self, link: str, interval: int) -> Agreed | None:
        row = self._one("SELECT forward, backward FROM round WHERE link = ? AND interval = ?", link, interval)
        return Agreed(forward_nanodollars=row[0], backward_nanodollars=row[1]) if row else None

    def last_round(self, link: str) -> int:
        """0: none yet."""
        row = self._one("SELECT max(interval) FROM round WHERE link = ?", link)
        return (row[0] if row else None) or 0

    def put_closing(self, link: str, closing: Closing) -> None:
        self._run(
            "INSERT INTO closing (link, interval, document) VALUES (?, ?, ?)",
            *(link, closing.interval, canonical_bytes(closing)),
        )

    def closing(self, link: str, interval: int) -> Closing | None:
        row = self._one("SELECT document FROM closing WHERE link = ? AND interval = ?", link, interval)
        return msgspec.json.decode(row[0], type=Closing) if row else None

    def put_line(self, link: str, line: DifferenceLine) -> None:
        self._run(
            "INSERT INTO difference (link, interval, direction, kind, since_interval, nanodollars)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            *(link, line.interval, line.direction.value, line.kind.value, line.since_interval, line.nanodollars),
        )

    def lines(self, link: str) -> tuple[DifferenceLine, ...]:
        rows = self._all(
            "SELECT interval, direction, kind, since_interval, nanodollars FROM difference WHERE link = ?"
            " ORDER BY rowid",
            link,
        )
        return tuple(
            DifferenceLine(
                direction=Direction(direction),
                kind=LineKind(kind),
                since_interval=since,
                interval=interval,
                nanodollars=nanodollars,
            )
            for interval, direction, kind, since, nanodollars in rows
        )

    # --- settlements ------------------------------------------------------------------------------------------------

    def put_order(self, side: Side, signed: Signed, order: Settlement) -> None:
        """An order of ours, or one of the peer's that we accept (which posts it)."""
        self._run(
            "INSERT INTO settlement (settlement, link, side, number, amount, document, signer, signature)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(order.settlement, order.link, side.value, order.number, order.amount_nanodollars),
            *(signed.document, signed.signer, signed.signature),
        )
        if side is Side.PEER:
            self.put_posted(order)

    def put_posted(self, order: Settlement) -> None:
        self._run("INSERT INTO posted (settlement) VALUES (?)", order.settlement)

    def orders(self, link: str) -> tuple[KeptOrder, ...]:
        """Of both sides, oldest first."""
        return tuple(map(_order_of, self._all(f"{_ORDERS} WHERE link = ? ORDER BY settlement.rowid", link)))

    def order(self, link: str, side: Side, number: int) -> KeptOrder | None:
        row = self._one(f"{_ORDERS} WHERE link = ? AND side = ? AND number = ?", link, side.value, number)
        return _order_of(row) if row else None

    def order_by_id(self, settlement: str) -> KeptOrder | None:
        """On whatever link."""
        row = self._one(f"{_ORDERS} WHERE settlement = ?", settlement)
        return _order_of(row) if row else None

    def unposted_orders(self, link: str) -> tuple[KeptOrder, ...]:
        """Ours that are under way, in the order of their numbers."""
        rows = self._all(
            f"{_ORDERS} WHERE link = ? AND side = 'own' AND posted.settlement IS NULL ORDER BY number", link
        )
        return tuple(map(_order_of, rows))

    def last_number(self, link: str, side: Side) -> int:
        row = self._one("SELECT max(number) FROM settlement WHERE link = ? AND side = ?", link, side.value)
        return (row[0] if row else None) or 0

    def settled(self, link: str) -> Settled:
        rows = self._all(
            "SELECT side, posted.settlement IS NOT NULL, sum(amount), count(*) FROM settlement"
            " LEFT JOIN posted USING (settlement) WHERE link = ? GROUP BY 1, 2",
            link,
        )
        sums = {(Side(side), bool(posted)): amount for side, posted, amount, _ in rows}
        ours = sums.get((Side.OWN, True), 0)
        return Settled(
            ordered_by_us=ours + sums.get((Side.OWN, False), 0),
            posted_by_us=ours,
            posted_by_peer=sums.get((Side.PEER, True), 0),
            count=sum(count for _, posted, _, count in rows if posted),
        )

    # --- the file ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        version = self._read_version()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._run(f"PRAGMA {pragma}")
        if version > len(MIGRATIONS):
            raise self._fault(f"it is of version {version}, we know {len(MIGRATIONS)}", "install a newer version of us")
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            with self.transaction():
                for statement in statements:
                    self._run(statement)
                self._run(f"PRAGMA application_id = {APPLICATION_ID}")
                self._run(f"PRAGMA user_version = {number}")
        if sum(balance.posted_nanodollars for balance in self.balances().values()) != 0:
            raise self._fault("its balances do not add up to zero", "restore it from a backup")

    def _read_version(self) -> int:
        """Raises EnvironmentFault, before anything is written, if the file is somebody else's."""
        (application,) = self._one("PRAGMA application_id") or (0,)
        (version,) = self._one("PRAGMA user_version") or (0,)
        (tables,) = self._one("SELECT count(*) FROM sqlite_schema") or (0,)
        if (application != APPLICATION_ID) if version or tables else application:
            raise self._fault("it is another program's file", "name another file")
        return int(version)

    def _fault(self, cause: object, remedy: str) -> EnvironmentFault:
        return EnvironmentFault("use book", str(self._path), cause, remedy)

    def _run(self, sql: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, values)
        except sqlite3.IntegrityError as error:
            raise LocalProtocolError(f"book {self._path}: {error}") from error
        except sqlite3.Error as error:
            raise self._fault(error, _REMEDIES.get(_code(error), "restore it from a backup")) from error

    def _all(self, sql: str, *values: object) -> list[Any]:
        try:
            return self._run(sql, *values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error, _REMEDIES.get(_code(error), "restore it from a backup")) from error

    def _one(self, sql: str, *values: object) -> Any | None:
        rows = self._all(sql, *values)
        return rows[0] if rows else None


_TRANSFERS: Final = "SELECT transfer, debit, credit, amount, phase, reserved FROM transfer"
_BY_ID: Final = f"{_TRANSFERS} WHERE transfer = ?"
_BY_RESERVE: Final = f"{_TRANSFERS} WHERE reserved = ?"
_ORDERS: Final = (
    "SELECT side, posted.settlement IS NOT NULL, document, signer, signature"
    " FROM settlement LEFT JOIN posted USING (settlement)"
)
_REMEDIES: Final = {
    sqlite3.SQLITE_FULL: "free some disk space; nothing half done was kept",
    sqlite3.SQLITE_NOTADB: "name another file, or restore it from a backup",
    sqlite3.SQLITE_BUSY: "another process holds it: end that one",
    sqlite3.SQLITE_READONLY: "check its owner and permissions",
    sqlite3.SQLITE_CANTOPEN: "check its owner and permissions",
    sqlite3.SQLITE_IOERR: "check the disk",
}


def _code(error: sqlite3.Error) -> int:
    """The primary code, without what extends it."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _transfer_of(row: Any) -> Transfer:
    transfer, debit, credit, amount, phase, reserved = row
    return Transfer(
        transfer=transfer,
        debit=Account.parse(debit),
        credit=Account.parse(credit),
        amount_nanodollars=amount,
        phase=Phase(phase),
        reserved=reserved or "",
    )


def _statement_of(row: Any) -> KeptStatement:
    document, signer, signature = row
    signed = Signed(kind="statement", document=document, signer=signer, signature=signature)
    return KeptStatement(signed=signed, statement=msgspec.json.decode(document, type=Statement))


def _order_of(row: Any) -> KeptOrder:
    side, posted, document, signer, signature = row
    signed = Signed(kind="settlement", document=document, signer=signer, signature=signature)
    order = msgspec.json.decode(document, type=Settlement)
    return KeptOrder(side=Side(side), signed=signed, order=order, posted=bool(posted))
