"""All money of the secretary in one: what a grant may cost, by the budgets and the purse, and what became of it.

Decides the least of what budgets and the purse leave, and that an entry reaches all of them in one order; refuses to
know rules, worth, documents, clocks and files. Pure: the same entries in the same order are the same state.

Who drives it: `on_time` and its entries first, then `room` for a transfer, then the entry of what was decided: each in
the journal before it is applied, and applied before anybody hears of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, tzinfo

import msgspec

from secretary.money.budgets import Announcement
from secretary.money.purse import (
    NOTHING_POSTED,
    Fee,
    Purse,
    PurseEntry,
    PurseKept,
    PurseResult,
    Refund,
    TopUp,
    Transferred,
    VoucherAdded,
    VoucherExpired,
)
from secretary.money.reserving import (
    BudgetRaised,
    Budgets,
    BudgetsKept,
    ClockSetRight,
    GrantBudget,
    GrantScope,
    OverBudget,
    PeriodsMoved,
    Press,
    Purpose,
)
from secretary.money.spending import Disputed, Reserved, Settled, SpendingEntry, SpendTold, Word
from secretary.money.statements import Book, BookKept

MoneyEntry = (
    Reserved
    | SpendTold
    | Settled
    | Disputed
    | TopUp
    | VoucherAdded
    | VoucherExpired
    | Fee
    | Refund
    | PeriodsMoved
    | BudgetRaised
    | ClockSetRight
)


class TreasuryKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state after so many entries, so that a start reads only the later ones. Encode it before the next entry.

    `terms`: of the configuration that it holds for; under another the journal is read from its beginning.
    """

    terms: str
    budgets: BudgetsKept
    purse: PurseKept
    book: BookKept


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a new grant, or one's higher cap, may be. `refused`: one line, where that is less than what is needed."""

    cap_nanodollars: int
    press: Press
    refused: str = ""
    over: OverBudget | None = None  # None with `refused`: it is the purse, or what is asked for is never paid


class Treasury:
    """The state that entries make. `credit_nanodollars`: of a postpaid purse; 0: prepaid. `only`: as in `Book`."""

    def __init__(
        self,
        budgets: Iterable[GrantBudget],
        zone: tzinfo,
        *,
        credit_nanodollars: int = 0,
        currency: str = "USD",
        only: tuple[date, date] | None = None,
    ) -> None:
        configured = tuple(budgets)
        facts = repr((configured, str(zone), credit_nanodollars, currency))
        self._terms = hashlib.blake2s(facts.encode(), digest_size=16).hexdigest()
        self.budgets = Budgets(configured, zone)
        self.purse = Purse(credit_nanodollars=credit_nanodollars)
        self.book = Book(zone, currency=currency, only=only)

    # --- asking -----------------------------------------------------------------------------------------------------

    def room(self, scope: GrantScope, unix_s: int, *, needed_nanodollars: int = 1) -> Room:
        """For a new grant."""
        if scope.purpose is Purpose.EXEMPT:
            return Room(cap_nanodollars=0, press=self.budgets.press(scope, unix_s), refused="this is never paid")
        purse = self.purse.left_nanodollars(unix_s)
        cap = min(self.budgets.left_nanodollars(scope, unix_s), purse)
        press = self.budgets.press(scope, unix_s)
        if cap >= needed_nanodollars:
            return Room(cap_nanodollars=cap, press=press)
        over = self.budgets.refusal(scope, needed_nanodollars, unix_s)
        return Room(cap_nanodollars=cap, press=press, refused=over.message if over else self._empty(purse), over=over)

    def room_to_extend(self, grant: str, scope: GrantScope, unix_s: int, *, cap_nanodollars: int) -> Room:
        """For an open grant's higher cap: `cap_nanodollars` is the one that is wanted."""
        cap = min(self.budgets.highest_cap(grant, unix_s), self.purse.highest_cap(grant, unix_s))
        press = self.budgets.press(scope, unix_s)
        if cap >= cap_nanodollars:
            return Room(cap_nanodollars=cap, press=press)
        over = self.budgets.refusal_to_extend(grant, cap_nanodollars, unix_s)
        refused = over.message if over else self._empty(self.purse.left_nanodollars(unix_s))
        return Room(cap_nanodollars=cap, press=press, refused=refused, over=over)

    def judge(self, entry: Transferred) -> PurseResult:
        """Only what is APPLIED belongs in the journal."""
        return self.purse.judge(entry)

    def changes(self, entry: SpendTold | Settled) -> bool:
        """Whether it would change anything: else it does not belong in the journal."""
        if isinstance(entry, Settled):
            return self.purse.is_open(entry.grant) or (
                entry.word is Word.CONFIRMED and self.purse.is_unconfirmed(entry.grant)
            )
        return self.purse.is_open(entry.grant) and (
            self.budgets.told_nanodollars(entry.grant, entry.spent_nanodollars)
            > self.budgets.told_nanodollars(entry.grant)
        )

    # --- entries ----------------------------------------------------------------------------------------------------

    def on_time(self, unix_s: int) -> tuple[PeriodsMoved | VoucherExpired, ...]:
        """What time alone brings; before anything else at this time."""
        moved = self.budgets.on_time(unix_s)
        return (*((moved,) if moved else ()), *self.purse.on_time(unix_s))

    def apply(self, entry: MoneyEntry) -> tuple[Announcement, ...]:
        """What is to be told of it; nobody is told again when the journal is read again."""
        match entry:
            case Reserved() | SpendTold() | Settled() | Disputed():
                return self._spend(entry)
            case PeriodsMoved(unix_s=unix_s):
                self.budgets.move(unix_s)
            case ClockSetRight(unix_s=unix_s):
                self.budgets.set_right(unix_s)
            case BudgetRaised():
                self.budgets.raise_limit(entry)
            case _:
                self._transfer(entry)
        return ()

    def _spend(self, entry: SpendingEntry) -> tuple[Announcement, ...]:
        telling: tuple[Announcement, ...] = ()
        posting = NOTHING_POSTED
        match entry:
            case Reserved(grant=grant, cap_nanodollars=cap):
                self.budgets.reserve(grant, cap, entry.context.scope, entry.unix_s)
                self.purse.reserve(grant, cap)
            case SpendTold(grant=grant, spent_nanodollars=spent):
                telling = self.budgets.told(grant, spent, entry.unix_s)
                posting = self.purse.told(grant, spent)
            case Settled(grant=grant, spent_nanodollars=spent):
                telling = self.budgets.close(grant, spent, entry.unix_s)
                posting = self.purse.close(grant, spent, confirmed=entry.word is Word.CONFIRMED)
        self.book.spend(entry, posting)
        return telling

    def _transfer(self, entry: PurseEntry) -> None:
        posting = self.purse.apply(entry)
        if posting is not None:
            self.book.book(entry, posting)

    def _empty(self, left_nanodollars: int) -> str:
        amount = self.book.show(left_nanodollars)
        return f"the purse has {amount} left that no open grant holds: top it up"

    def keep(self) -> TreasuryKept:
        return TreasuryKept(
            terms=self._terms, budgets=self.budgets.keep(), purse=self.purse.keep(), book=self.book.keep()
        )

    def restore(self, kept: TreasuryKept) -> bool:
        """Into a new one. False: the configuration is another, and nothing was done."""
        if kept.terms != self._terms:
            return False
        self.budgets.restore(kept.budgets)
        self.purse.restore(kept.purse)
        self.book.restore(kept.book)
        return True

    def state(self) -> tuple[object, ...]:
        """All of it, comparable."""
        return self.budgets.state(), self.purse.state(), self.book.state()
