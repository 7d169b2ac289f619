"""The journal, read again: what is behind a line of a statement, and statements of days that are not in memory.

Decides nothing. Refuses to know what is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

from secretary.issuing import Ended, Opened, context_of, settled_of
from secretary.money.spending import Disputed, Reserved, SpendingEntry, SpendTold
from secretary.money.statements import Book
from secretary.secretary import Entry, Secretary
from secretary.store import Journal


class JournalArchive:
    """`fresh(only)` makes a secretary with nothing in it, which keeps the statement's lines of these days."""

    def __init__(self, journal: Journal, fresh: Callable[[tuple[date, date]], Secretary]) -> None:
        self._journal = journal
        self._fresh = fresh

    def grants_between(self, since_unix_s: int, until_unix_s: int) -> Sequence[str]:
        return self._journal.grants_between(since_unix_s, until_unix_s)

    def entries_of(self, grant: str) -> Sequence[SpendingEntry]:
        found: list[SpendingEntry] = []
        for entry in self._journal.entries_of(grant):
            found += spending_of(entry)
        return found

    def book_of(self, first: date, last: date) -> Book:
        again = self._fresh((first, last))
        for entry in self._journal.entries():
            again.apply(entry)
        return again.treasury.book


def spending_of(entry: Entry) -> tuple[SpendingEntry, ...]:
    match entry:
        case Opened(grant=grant):
            reserved = Reserved(
                grant=grant.grant, cap_nanodollars=grant.cap_nanodollars, context=context_of(entry), unix_s=entry.unix_s
            )
            told = SpendTold(grant=grant.grant, spent_nanodollars=entry.spent_nanodollars, unix_s=entry.unix_s)
            return (reserved, told)
        case Ended():
            return (settled_of(entry),)
        case Disputed():
            return (entry,)
    return ()
