"""The book behind statements: opening + topped up - spent - fees = closing, and lines that sum up to what was spent.

Decides on which day, and to whom, every nanodollar is put down; refuses to know budgets, clocks and files. Pure, and
driven by journalled entries together with what the purse posted for them.

- A day is a local one, in the zone of the book. What was spent counts on the day on which it was told; a receipt that
  says less than was told is a line below zero on its own day, so the sum is what the gateways' receipts say.
- topped up = top-ups + vouchers + refunds - vouchers that expired. Spent and fees say how much of them vouchers paid.
- Totals of a day are kept for ever (a row a day); lines of the latest days only, and no more than a bound for each day:
  beyond it destinations are one. Lines of an older month come from a book that reads the journal again (`only`).
- A line's key names its days, its columns and itself, so it can be traced to grants, flows and intervals (`trace`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta, tzinfo
from typing import Final, NamedTuple, Protocol

import msgspec

from billpay.money import show_nanodollars
from secretary.money.periods import date_start_unix_s, local_date
from secretary.money.purse import UNCONFIRMED_MAX, Fee, Posting, PurseEntry, Refund, TopUp, VoucherAdded, VoucherExpired
from secretary.money.spending import (
    Disputed,
    GrantContext,
    GrantCourse,
    Reserved,
    Settled,
    SpendingEntry,
    SpendTold,
    Step,
    Word,
    course_of,
    is_doubtful,
)

COLUMNS: Final = ("day", "user", "program", "destination", "gateway", "network")
KEEP_DAYS: Final = 70
"""This month and the last one, and some."""
LINES_PER_DAY_MAX: Final = 1000
OTHERS: Final = "others"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What is not grouped by is "". `grants`: whose first payment is in it."""

    key: str
    day: str = ""
    user: str = ""
    program: str = ""
    destination: str = ""
    gateway: str = ""
    network: str = ""
    grants: int
    nanodollars: int
    of_vouchers_nanodollars: int
    told_nanodollars: int  # of it: as told, by grants that are open
    assumed_nanodollars: int  # of it: no word came
    disputed: bool


class FeeLine(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    nanodollars: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """From the first day to the last, both in it."""

    first_day: str
    last_day: str
    zone: str
    currency: str
    by: tuple[str, ...]
    opening_nanodollars: int
    top_ups_nanodollars: int
    vouchers_nanodollars: int
    refunds_nanodollars: int
    expired_nanodollars: int
    topped_up_nanodollars: int
    spent_nanodollars: int
    spent_of_vouchers_nanodollars: int
    fees_nanodollars: int
    fees_of_vouchers_nanodollars: int
    closing_nanodollars: int
    closing_vouchers_nanodollars: int  # of it
    lines: tuple[Line, ...]
    fee_lines: tuple[FeeLine, ...]

    @property
    def adds_up(self) -> bool:
        topped_up = self.top_ups_nanodollars + self.vouchers_nanodollars + self.refunds_nanodollars
        return (
            topped_up - self.expired_nanodollars == self.topped_up_nanodollars
            and self.opening_nanodollars + self.topped_up_nanodollars - self.spent_nanodollars - self.fees_nanodollars
            == self.closing_nanodollars
            and sum(line.nanodollars for line in self.lines) == self.spent_nanodollars
            and sum(line.of_vouchers_nanodollars for line in self.lines) == self.spent_of_vouchers_nanodollars
            and sum(line.nanodollars for line in self.fee_lines) == self.fees_nanodollars
        )


class TracedGrant(NamedTuple):
    """A grant behind a line, and which of its steps are in the line."""

    course: GrantCourse
    steps: tuple[Step, ...]


class Traced(NamedTuple):
    line: Line
    grants: tuple[TracedGrant, ...]

    @property
    def adds_up(self) -> bool:
        """Not where the journal is not the one that the line was made of."""
        return sum(step.nanodollars for grant in self.grants for step in grant.steps) == self.line.nanodollars


class TraceSource(Protocol):
    """The journal, as the trace reads it."""

    def grants_between(self, since_unix_s: int, until_unix_s: int) -> Iterable[str]:
        """Which grants have an entry in this time, `until` not in it."""

    def entries_of(self, grant: str) -> Sequence[SpendingEntry]:
        """All of them, in their order."""


class _Key(NamedTuple):
    user: str
    program: str
    destination: str
    gateway: str
    network: str


@dataclass(slots=True)
class _Cell:
    """A line of a day."""

    grants: int = 0
    nanodollars: int = 0
    of_vouchers_nanodollars: int = 0
    told_nanodollars: int = 0
    assumed_nanodollars: int = 0
    disputed: int = 0

    def add(self, other: _Cell) -> None:
        self.grants += other.grants
        self.nanodollars += other.nanodollars
        self.of_vouchers_nanodollars += other.of_vouchers_nanodollars
        self.told_nanodollars += other.told_nanodollars
        self.assumed_nanodollars += other.assumed_nanodollars
        self.disputed += other.disputed


@dataclass(slots=True)
class _Totals:
    """A day's money."""

    top_ups: int = 0
    vouchers: int = 0
    refunds: int = 0
    expired: int = 0
    spent: int = 0
    spent_of_vouchers: int = 0
    fees_of_vouchers: int = 0
    fees: dict[str, int] = field(default_factory=dict)

    @property
    def topped_up(self) -> int:
        return self.top_ups + self.vouchers + self.refunds - self.expired

    @property
    def change(self) -> int:
        return self.topped_up - self.spent - sum(self.fees.values())

    @property
    def voucher_change(self) -> int:
        return self.vouchers - self.expired - self.spent_of_vouchers - self.fees_of_vouchers


@dataclass(slots=True)
class _Running:
    """A grant whose last word is not known yet. `by_day`: what it has paid."""

    key: _Key
    cap_nanodollars: int
    by_day: dict[date, int] = field(default_factory=dict)
    word: Word = Word.TOLD
    is_disputed: bool = False


class BookKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state at an entry."""

    totals: dict[date, _Totals]
    cells: dict[date, tuple[tuple[_Key, _Cell], ...]]
    running: dict[str, _Running]
    unconfirmed: dict[str, _Running]
    lines_from: date


class Book:
    """`only`: the lines of these days and no others, whatever comes later (totals are always of all days)."""

    def __init__(self, zone: tzinfo, *, currency: str = "USD", only: tuple[date, date] | None = None) -> None:
        self._zone = zone
        self._currency = currency
        self._only = only
        self._totals: dict[date, _Totals] = {}
        self._cells: dict[date, dict[_Key, _Cell]] = {}
        self._running: dict[str, _Running] = {}
        self._unconfirmed: dict[str, _Running] = {}
        self._lines_from = only[0] if only else date.min
        self._day = date.min
        self._day_ends_unix_s = 0
        self._day_starts_unix_s = 0

    # --- entries ----------------------------------------------------------------------------------------------------

    def book(self, entry: PurseEntry, posting: Posting) -> None:
        """What came in, a fee, or what expired: after the purse has applied it."""
        totals = self._totals_of(self._on_day(entry.unix_s))
        match entry:
            case TopUp():
                totals.top_ups += entry.nanodollars
            case VoucherAdded():
                totals.vouchers += entry.nanodollars
            case Refund():
                totals.refunds += entry.nanodollars
            case VoucherExpired():
                totals.expired += posting.nanodollars
            case Fee():
                totals.fees[entry.what] = totals.fees.get(entry.what, 0) + entry.nanodollars
                totals.fees_of_vouchers += posting.voucher_nanodollars

    def spend(self, entry: SpendingEntry, posting: Posting) -> None:
        """A grant's entry, and what the purse has posted for it."""
        day = self._on_day(entry.unix_s)
        match entry:
            case Reserved():
                running = self._running.get(entry.grant)
                if running is None:
                    self._running[entry.grant] = _Running(key_of(entry.context), entry.cap_nanodollars)
                else:
                    running.cap_nanodollars = max(running.cap_nanodollars, entry.cap_nanodollars)
            case SpendTold() if entry.grant in self._running:
                self._put(self._running[entry.grant], day, posting)
            case Settled():
                self._settle(entry, day, posting)
            case Disputed():
                key = key_of(entry.context)
                for each in entry.days:
                    self._dispute(key, date.fromisoformat(each))

    def _settle(self, entry: Settled, day: date, posting: Posting) -> None:
        running = self._running.pop(entry.grant, None)
        if running is None and entry.word is Word.CONFIRMED:
            running = self._unconfirmed.pop(entry.grant, None)
        if running is None:
            return
        self._put(running, day, posting)
        self._reword(running, entry.word)
        if is_doubtful(entry, running.cap_nanodollars) and not running.is_disputed:
            running.is_disputed = True
            for each in running.by_day:
                self._dispute(running.key, each)
        if entry.word is not Word.CONFIRMED:
            self._unconfirmed[entry.grant] = running
            if len(self._unconfirmed) > UNCONFIRMED_MAX:
                del self._unconfirmed[next(iter(self._unconfirmed))]

    def _put(self, running: _Running, day: date, posting: Posting) -> None:
        if not posting.nanodollars and not posting.voucher_nanodollars:
            return
        totals = self._totals_of(day)
        totals.spent += posting.nanodollars
        totals.spent_of_vouchers += posting.voucher_nanodollars
        cell = self._cell(day, running.key)
        if cell is not None:
            cell.grants += not running.by_day
            cell.nanodollars += posting.nanodollars
            cell.of_vouchers_nanodollars += posting.voucher_nanodollars
            self._weigh(cell, running.word, posting.nanodollars)
        running.by_day[day] = running.by_day.get(day, 0) + posting.nanodollars

    def _reword(self, running: _Running, word: Word) -> None:
        """What a grant paid on all its days rests on another word now."""
        for day, nanodollars in running.by_day.items():
            cell = self._cell(day, running.key)
            if cell is not None:
                self._weigh(cell, running.word, -nanodollars)
                self._weigh(cell, word, nanodollars)
        running.word = word

    @staticmethod
    def _weigh(cell: _Cell, word: Word, nanodollars: int) -> None:
        if word is Word.TOLD:
            cell.told_nanodollars += nanodollars
        elif word is Word.ASSUMED:
            cell.assumed_nanodollars += nanodollars

    def _dispute(self, key: _Key, day: date) -> None:
        cell = self._cell(day, key)
        if cell is not None:
            cell.disputed += 1

    # --- days -------------------------------------------------------------------------------------------------------

    def _on_day(self, unix_s: int) -> date:
        """Nearly always the day of the entry before."""
        if self._day_starts_unix_s <= unix_s < self._day_ends_unix_s:
            return self._day
        self._day = day = local_date(unix_s, self._zone)
        self._day_starts_unix_s = date_start_unix_s(day, self._zone)
        self._day_ends_unix_s = date_start_unix_s(day + timedelta(days=1), self._zone)
        if self._only is None and day - timedelta(days=KEEP_DAYS) > self._lines_from:
            self._lines_from = day - timedelta(days=KEEP_DAYS)
            for old in [each for each in self._cells if each < self._lines_from]:
                del self._cells[old]
        return day

    def _totals_of(self, day: date) -> _Totals:
        totals = self._totals.get(day)
        if totals is None:
            totals = self._totals[day] = _Totals()
        return totals

    def _cell(self, day: date, key: _Key) -> _Cell | None:
        """None: lines of that day are not kept."""
        if day < self._lines_from or (self._only is not None and day > self._only[1]):
            return None
        cells = self._cells.setdefault(day, {})
        if key not in cells and len(cells) >= LINES_PER_DAY_MAX:
            key = _others(key)
        return cells.setdefault(key, _Cell())

    def show(self, nanodollars: int) -> str:
        """For a line of text, in the book's currency."""
        return show_nanodollars(nanodollars, self._currency)

    # --- statements -------------------------------------------------------------------------------------------------

    def has_lines(self, first: date) -> bool:
        """Else they are in a book that reads the journal again, with `only`."""
        return first >= self._lines_from or not any(day < self._lines_from for day in self._totals)

    def statement(self, first: date, last: date, by: Sequence[str] = ("program",)) -> Statement:
        """Raises ValueError for what is no column, no range of days, or a day without lines."""
        unknown = [each for each in by if each not in COLUMNS]
        if unknown:
            raise ValueError(f"a statement has no column {unknown[0]!r}: group by {', '.join(COLUMNS)}")
        if last < first:
            raise ValueError(f"a statement ends before it begins: {first} to {last}")
        if not self.has_lines(first):
            raise ValueError(f"lines of {first} are in the journal only")
        before = [each for day, each in self._totals.items() if day < first]
        within = [each for day, each in self._totals.items() if first <= day <= last]
        opening = sum(each.change for each in before)
        fees: dict[str, int] = {}
        for each in within:
            for what, amount in each.fees.items():
                fees[what] = fees.get(what, 0) + amount
        return Statement(
            first_day=first.isoformat(),
            last_day=last.isoformat(),
            zone=str(self._zone),
            currency=self._currency,
            by=tuple(by),
            opening_nanodollars=opening,
            top_ups_nanodollars=sum(each.top_ups for each in within),
            vouchers_nanodollars=sum(each.vouchers for each in within),
            refunds_nanodollars=sum(each.refunds for each in within),
            expired_nanodollars=sum(each.expired for each in within),
            topped_up_nanodollars=sum(each.topped_up for each in within),
            spent_nanodollars=sum(each.spent for each in within),
            spent_of_vouchers_nanodollars=sum(each.spent_of_vouchers for each in within),
            fees_nanodollars=sum(fees.values()),
            fees_of_vouchers_nanodollars=sum(each.fees_of_vouchers for each in within),
            closing_nanodollars=opening + sum(each.change for each in within),
            closing_vouchers_nanodollars=sum(each.voucher_change for each in (*before, *within)),
            lines=self._lines(first, last, tuple(by)),
            fee_lines=tuple(FeeLine(what=what, nanodollars=amount) for what, amount in sorted(fees.items())),
        )

    def _lines(self, first: date, last: date, by: tuple[str, ...]) -> tuple[Line, ...]:
        """The dearest first."""
        sums: dict[tuple[str, ...], _Cell] = {}
        for day, cells in self._cells.items():
            if first <= day <= last:
                for key, cell in cells.items():
                    sums.setdefault(_group(day, key, by), _Cell()).add(cell)
        lines = [_line(first, last, by, group, cell) for group, cell in sums.items()]
        return tuple(sorted(lines, key=lambda line: (-line.nanodollars, line.day, line.key)))

    # --- traces -----------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Line | None:
        """The line that a statement had under this key, as it is now."""
        known = _read_key(key)
        if known is None or not self.has_lines(known[0]):
            return None
        return next((line for line in self._lines(*known) if line.key == key), None)

    def trace(self, line: Line, source: TraceSource) -> Traced:
        """The grants behind a line, with the steps that are in it: their flows and intervals."""
        known = _read_key(line.key)
        assert known is not None
        first, last, by = known
        wanted = tuple(getattr(line, each) for each in by)
        since = date_start_unix_s(first, self._zone)
        until = date_start_unix_s(last + timedelta(days=1), self._zone)
        grants = []
        for grant in source.grants_between(since, until):
            course = course_of(source.entries_of(grant))
            if course is None:
                continue
            key = key_of(course.context)
            steps = tuple(
                step
                for step in course.steps
                if since <= step.until_unix_s < until and wanted == self._group_now(step, key, by)
            )
            if any(step.nanodollars for step in steps):
                grants.append(TracedGrant(course, steps))
        return Traced(line, tuple(grants))

    def _group_now(self, step: Step, key: _Key, by: tuple[str, ...]) -> tuple[str, ...]:
        day = local_date(step.until_unix_s, self._zone)
        return _group(day, key if key in self._cells.get(day, ()) else _others(key), by)

    def keep(self) -> BookKept:
        """To be encoded before the next entry: it is no copy."""
        return BookKept(
            totals=self._totals,
            cells={day: tuple(cells.items()) for day, cells in self._cells.items()},
            running=self._running,
            unconfirmed=self._unconfirmed,
            lines_from=self._lines_from,
        )

    def restore(self, kept: BookKept) -> None:
        """Of the same zone; into a new one without `only`."""
        self._totals, self._running, self._unconfirmed = kept.totals, kept.running, kept.unconfirmed
        self._cells = {day: dict(cells) for day, cells in kept.cells.items()}
        self._lines_from = kept.lines_from

    def state(self) -> tuple[object, ...]:
        """All of it, comparable."""
        return self._totals, self._cells, self._running, self._unconfirmed, self._lines_from


def dispute(course: GrantCourse, zone: tzinfo, *, unix_s: int, note: str) -> Disputed:
    """The entry that marks the lines in which a grant is."""
    days = {local_date(step.until_unix_s, zone).isoformat() for step in course.steps if step.nanodollars}
    return Disputed(grant=course.grant, context=course.context, days=tuple(sorted(days)), unix_s=unix_s, note=note)


def key_of(context: GrantContext) -> _Key:
    transfer = context.transfer
    return _Key(transfer.user, transfer.program, transfer.destination, context.isp, transfer.network)


def _others(key: _Key) -> _Key:
    return key._replace(destination=OTHERS)


def _group(day: date, key: _Key, by: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(day.isoformat() if each == "day" else getattr(key, each) for each in by)


def _line(first: date, last: date, by: tuple[str, ...], group: tuple[str, ...], cell: _Cell) -> Line:
    digest = hashlib.blake2s("\0".join(group).encode(), digest_size=8).hexdigest()
    return Line(
        key=f"{first}/{last}/{'+'.join(by)}/{digest}",
        **dict(zip(by, group, strict=True)),
        grants=cell.grants,
        nanodollars=cell.nanodollars,
        of_vouchers_nanodollars=cell.of_vouchers_nanodollars,
        told_nanodollars=cell.told_nanodollars,
        assumed_nanodollars=cell.assumed_nanodollars,
        disputed=cell.disputed > 0,
    )


def _read_key(key: str) -> tuple[date, date, tuple[str, ...]] | None:
    """None: it is none of ours."""
    parts = key.split("/")
    if len(parts) != 4:
        return None
    by = tuple(parts[2].split("+")) if parts[2] else ()
    if any(each not in COLUMNS for each in by):
        return None
    try:
        return date.fromisoformat(parts[0]), date.fromisoformat(parts[1]), by
    except ValueError:
        return None
