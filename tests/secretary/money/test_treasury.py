"""All money together, against a model of its own: whatever is asked, told, left unsaid, lost and set back.

The world has gateways that really take money, hosts that lie about it, a clock that leaps both ways over days with 25
hours, and a secretary that dies before or after a word is in its journal. After every step no hard budget is exceeded
and the books balance; after every death the journal's state is the state that there was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
import pytest

from secretary.money.budgets import BudgetMemory, BudgetTerms, Unit
from secretary.money.periods import Cycle, Schedule
from secretary.money.purse import Fee, PurseResult, Refund, TopUp, Transferred, VoucherAdded, VoucherExpired
from secretary.money.reserving import BudgetRaised, ClockSetRight, Dimension, GrantBudget, GrantScope, Purpose
from secretary.money.spending import GrantContext, Reserved, Settled, SpendTold, Word
from secretary.money.statements import COLUMNS
from secretary.money.treasury import MoneyEntry, Treasury, TreasuryKept
from secretary.transfers import Transfer

BERLIN = ZoneInfo("Europe/Berlin")
START = int(datetime.fromisoformat("2026-10-23T18:00+02:00").timestamp())
HOUR, DAY = 3600, 86_400
LATE_MAX: Final = 100
Key = tuple[str, str]


def budget(
    name: str,
    limit: int,
    cycle: Cycle,
    *,
    about: Dimension = Dimension.ALL,
    who: str = "",
    hard: bool = True,
    reset_day: int = 1,
) -> GrantBudget:
    terms = BudgetTerms(name=name, unit=Unit.NANODOLLARS, cycle=cycle, limit=limit, hard=hard, reset_day=reset_day)
    return GrantBudget(terms=terms, about=about, who=who)


def household(dice: random.Random) -> tuple[GrantBudget, ...]:
    def limit(most: int) -> int:
        return dice.randrange(most // 4, most)

    return (
        budget("day", limit(4000), Cycle.DAY),
        budget("week", limit(12_000), Cycle.WEEK, reset_day=dice.randrange(1, 8)),
        budget("month", limit(40_000), Cycle.MONTH, reset_day=dice.randrange(1, 29)),
        budget("program", limit(2000), Cycle.DAY, about=Dimension.PROGRAM),
        budget("ann", limit(8000), Cycle.WEEK, about=Dimension.PERSON, who="ann"),
        budget("network", limit(3000), Cycle.DAY, about=Dimension.NETWORK, hard=False),
        budget("unjustified", limit(800), Cycle.DAY, about=Dimension.PURPOSE, who="unjustified"),
    )


@dataclass(slots=True)
class Account:
    """The model's budget of somebody. `allowed`: by all its periods and top-ups so far."""

    budget: GrantBudget
    end_unix_s: int = 0
    used: int = 0
    reserved: int = 0
    allowed: int = 0
    spent: int = 0  # ever


@dataclass(slots=True)
class Taken:
    """A grant as its gateway knows it, and as the model books it."""

    scope: GrantScope
    keys: list[Key]
    cap: int = 0  # in the journal
    known_cap: int = 0  # of the document that the gateway has
    really: int = 0
    budgeted: int = 0  # never falls
    booked: int = 0
    is_open: bool = True


@dataclass(slots=True)
class Model:
    """What has to be true, kept from the entries in the plainest way."""

    budgets: tuple[GrantBudget, ...]
    accounts: dict[Key, Account] = field(default_factory=dict)
    grants: dict[str, Taken] = field(default_factory=dict)
    open: dict[str, None] = field(default_factory=dict)
    assumed: dict[str, None] = field(default_factory=dict)
    latest_unix_s: int = 0
    next_end_unix_s: int = 0
    balance: int = 0
    spent: int = 0
    reserved: int = 0

    def account(self, about: GrantBudget, who: str) -> Account:
        key = (about.terms.name, who)
        if key not in self.accounts:
            self.accounts[key] = Account(about)
            self._renew(self.accounts[key])
        return self.accounts[key]

    def _renew(self, account: Account) -> None:
        terms = account.budget.terms
        schedule = Schedule(cycle=terms.cycle, zone=BERLIN, reset_day=terms.reset_day)
        account.end_unix_s = schedule.at(self.latest_unix_s).end_unix_s
        account.used = 0
        account.allowed += terms.limit
        self.next_end_unix_s = min(each.end_unix_s for each in self.accounts.values())

    def advance(self, unix_s: int) -> None:
        self.latest_unix_s = max(self.latest_unix_s, unix_s)
        if self.latest_unix_s >= self.next_end_unix_s:
            for account in self.accounts.values():
                if self.latest_unix_s >= account.end_unix_s:
                    self._renew(account)

    def apply(self, entry: MoneyEntry) -> None:
        if isinstance(entry, ClockSetRight) and entry.unix_s < self.latest_unix_s:
            self.set_right(entry.unix_s)
        elif not isinstance(entry, TopUp | VoucherAdded | Refund | Fee | VoucherExpired):
            self.advance(entry.unix_s)
        match entry:
            case Reserved():
                self._reserve(entry)
            case SpendTold():
                taken = self.grants[entry.grant]
                self._book(taken, max(taken.booked, min(entry.spent_nanodollars, taken.cap)))
            case Settled():
                self._settle(entry)
            case TopUp() | VoucherAdded() | Refund():
                self.balance += entry.nanodollars
            case Fee() | VoucherExpired():
                self.balance -= entry.nanodollars
            case BudgetRaised():
                about = next(each for each in self.budgets if each.terms.name == entry.budget)
                self.account(about, entry.who or about.who).allowed += entry.nanodollars

    def set_right(self, unix_s: int) -> None:
        self.latest_unix_s = unix_s
        for account in self.accounts.values():
            if account.end_unix_s > unix_s:
                terms = account.budget.terms
                schedule = Schedule(cycle=terms.cycle, zone=BERLIN, reset_day=terms.reset_day)
                account.end_unix_s = schedule.at(unix_s).end_unix_s
        self.next_end_unix_s = min((each.end_unix_s for each in self.accounts.values()), default=0)

    def _reserve(self, entry: Reserved) -> None:
        taken = self.grants.get(entry.grant)
        if taken is None:
            scope = entry.context.scope
            about = [each for each in self.budgets if each.covers(scope)]
            for each in about:
                self.account(each, scope.who(each.about))
            keys = [(each.terms.name, scope.who(each.about)) for each in about]
            taken = self.grants[entry.grant] = Taken(scope, keys)
            self.open[entry.grant] = None
        more = entry.cap_nanodollars - taken.cap
        taken.cap += more
        self.reserved += more
        for key in taken.keys:
            self.accounts[key].reserved += more

    def _book(self, taken: Taken, booked: int) -> None:
        more = booked - taken.booked
        taken.booked = booked
        self.balance -= more
        self.spent += more
        self.reserved -= more
        used = max(0, booked - taken.budgeted)
        taken.budgeted += used
        for key in taken.keys:
            account = self.accounts[key]
            account.used += used
            account.spent += used
            account.reserved -= used

    def _settle(self, entry: Settled) -> None:
        taken = self.grants[entry.grant]
        if not taken.is_open:  # a receipt that came late
            more = min(0, entry.spent_nanodollars - taken.booked)
            taken.booked += more
            self.balance -= more
            self.spent += more
            del self.assumed[entry.grant]
            return
        self._book(taken, min(entry.spent_nanodollars, taken.cap))
        self.reserved -= taken.cap - taken.booked
        for key in taken.keys:
            self.accounts[key].reserved -= taken.cap - taken.budgeted
        taken.is_open = False
        del self.open[entry.grant]
        if entry.word is not Word.CONFIRMED:
            self.assumed[entry.grant] = None


class World:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.budgets = household(self.dice)
        self.credit = self.dice.choice([0, 0, 3000])
        self.model = Model(self.budgets)
        self.treasury = self.fresh()
        self.journal: list[bytes] = []
        self.kept = (0, b"")
        self.unix_s = START
        self.number = 0
        self.told: set[tuple[str, str, int, int]] = set()
        self.deaths = 0
        self.refused = 0

    def fresh(self) -> Treasury:
        return Treasury(self.budgets, BERLIN, credit_nanodollars=self.credit)

    # --- the secretary ----------------------------------------------------------------------------------------------

    def put(self, entry: MoneyEntry) -> None:
        self.journal.append(msgspec.json.encode(entry))
        announcements = self.treasury.apply(entry)
        self.model.apply(entry)
        accounts = dict(self.memories()) if announcements else {}
        for each in announcements:
            name = each.message.split(":")[0]
            memory = accounts[name]
            about = (name, each.code, memory.end_unix_s, memory.limit)
            assert about not in self.told
            self.told.add(about)

    def memories(self) -> list[tuple[str, BudgetMemory]]:
        accounts = self.treasury.budgets.state()[0]
        assert isinstance(accounts, dict)
        each_name = {each.terms.name for each in self.budgets if each.is_each}
        return [(f"{n} of {who}" if n in each_name else n, memory) for (n, who), (memory, _) in accounts.items()]

    def tick(self) -> None:
        for entry in self.treasury.on_time(self.unix_s):
            self.put(entry)

    def die(self) -> None:
        """What was journalled is all that is left: from its beginning, and from what was kept on the way."""
        self.deaths += 1
        again, sooner = self.fresh(), self.fresh()
        self.read(again, 0)
        assert again.state() == self.treasury.state()
        number, kept = self.kept
        if kept:
            assert sooner.restore(msgspec.json.decode(kept, type=TreasuryKept))
        self.read(sooner, number)
        assert sooner.state() == self.treasury.state()
        self.treasury = self.dice.choice([again, sooner])

    def read(self, treasury: Treasury, first: int) -> None:
        for text in self.journal[first:]:
            treasury.apply(msgspec.json.decode(text, type=MoneyEntry))

    # --- what happens -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.tick()
        getattr(self, self.dice.choice(CHANCES))()
        self.check()

    def some(self, among: dict[str, None]) -> str | None:
        return self.dice.choice(list(among)) if among else None

    def open(self) -> None:
        dice = self.dice
        self.number += 1
        context = GrantContext(
            transfer=Transfer(
                user=dice.choice(["ann", "bob"]),
                program=f"p{dice.randrange(5)}",
                destination=f"d{dice.randrange(5)}",
                network=dice.choice(["Home", "Cafe"]),
            ),
            gateway=dice.choice("ab") * 64,
            purpose=dice.choice([Purpose.USUAL, Purpose.USUAL, Purpose.UNJUSTIFIED]),
        )
        wanted = dice.randrange(1, 1000)
        room = self.treasury.room(context.scope, self.unix_s, needed_nanodollars=wanted // 2 + 1)
        if room.refused:
            assert room.cap_nanodollars < wanted // 2 + 1
            self.refused += 1
            return
        grant = f"{self.number:032x}"
        self.deliver(grant, context, min(wanted, room.cap_nanodollars))

    def extend(self) -> None:
        grant = self.some(self.model.open)
        if grant is None:
            return
        taken = self.model.grants[grant]
        wanted = taken.cap + self.dice.randrange(1, 800)
        room = self.treasury.room_to_extend(grant, taken.scope, self.unix_s, cap_nanodollars=wanted)
        assert bool(room.refused) == (room.cap_nanodollars < wanted)
        context = GrantContext(transfer=Transfer())
        self.deliver(grant, context, min(wanted, room.cap_nanodollars))

    def deliver(self, grant: str, context: GrantContext, cap: int) -> None:
        """A death before the entry: it never was. After it: reserved, and nobody has the document."""
        fate = self.dice.randrange(100)
        if fate == 0:
            self.die()
            return
        self.put(Reserved(grant=grant, cap_nanodollars=cap, context=context, unix_s=self.unix_s))
        if fate == 1:
            self.die()
            return
        self.model.grants[grant].known_cap = cap

    def pay(self) -> None:
        """At the gateway; nobody tells the secretary."""
        grant = self.some(self.model.open)
        if grant is not None:
            taken = self.model.grants[grant]
            taken.really = min(taken.known_cap, taken.really + self.dice.randrange(600))

    def tell(self) -> None:
        """The host says what it counted, or anything."""
        grant = self.some(self.model.open)
        if grant is not None:
            taken = self.model.grants[grant]
            said = self.dice.choice([taken.really, taken.really, taken.really // 2, 0, self.dice.randrange(4000)])
            entry = SpendTold(grant=grant, spent_nanodollars=said, unix_s=self.unix_s)
            if self.treasury.changes(entry):
                self.put(entry)

    def settle(self) -> None:
        grant = self.some(self.model.open)
        if grant is not None:
            self.receipt(grant)

    def receipt(self, grant: str) -> None:
        taken = self.model.grants[grant]
        entry = Settled(
            grant=grant,
            spent_nanodollars=taken.really,
            unix_s=self.unix_s,
            word=Word.CONFIRMED,
            counted_nanodollars=self.dice.choice([None, taken.really, taken.really // 2]),
        )
        assert self.treasury.changes(entry)
        self.put(entry)
        assert not self.treasury.changes(entry)

    def assume(self) -> None:
        """No word came until it expired."""
        grant = self.some(self.model.open)
        if grant is not None and len(self.model.assumed) < LATE_MAX:
            cap = self.model.grants[grant].cap
            self.put(Settled(grant=grant, spent_nanodollars=cap, unix_s=self.unix_s, word=Word.ASSUMED))

    def late(self) -> None:
        grant = self.some(self.model.assumed)
        if grant is not None:
            self.receipt(grant)

    def bank(self) -> None:
        """Money comes and goes; ids come again."""
        self.number += 1
        name = f"x{self.number - self.dice.randrange(3)}"
        amount, now = self.dice.randrange(1, 9000), self.unix_s
        expires = now + self.dice.randrange(1, 5 * DAY)
        entries: list[Transferred] = [
            TopUp(transfer=name, nanodollars=amount, unix_s=now),
            VoucherAdded(transfer=name, voucher=name, nanodollars=amount, unix_s=now, expires_unix_s=expires),
            Fee(transfer=name, what=f"fee {amount % 3}", nanodollars=amount // 3 + 1, unix_s=now),
            Refund(transfer=name, nanodollars=amount // 9 + 1, unix_s=now),
        ]
        entry = self.dice.choice([entries[0], entries[0], *entries])
        if self.treasury.judge(entry) is PurseResult.APPLIED:
            self.put(entry)

    def allow(self) -> None:
        about = self.dice.choice(self.budgets)
        who = self.dice.choice(["p1", "p2"]) if about.is_each else ""
        more = self.dice.choice([self.dice.randrange(1, 1000), 5000])
        self.put(BudgetRaised(budget=about.terms.name, nanodollars=more, unix_s=self.unix_s, who=who))

    def wait(self) -> None:
        self.unix_s += self.dice.randrange(600)

    def leap(self) -> None:
        self.unix_s += self.dice.randrange(3 * DAY)

    def set_back(self) -> None:
        self.unix_s -= self.dice.choice([HOUR, HOUR, DAY, self.dice.randrange(5 * DAY)])

    def set_right(self) -> None:
        """Seldom: a person has to say it."""
        if self.dice.randrange(5) == 0 and self.treasury.budgets.ahead_s(self.unix_s) > DAY:
            self.put(ClockSetRight(unix_s=self.unix_s))
            self.told.clear()  # it is another period, though it ends when an earlier one did

    def perish(self) -> None:
        if self.dice.randrange(3) == 0:
            self.die()

    # --- what has to be true ----------------------------------------------------------------------------------------

    def check(self) -> None:
        model, purse = self.model, self.treasury.purse
        accounts = self.treasury.budgets.state()[0]
        assert isinstance(accounts, dict)
        for (name, who), (memory, reserved) in accounts.items():
            account = model.accounts[name, who]
            assert (memory.used, reserved, memory.end_unix_s) == (account.used, account.reserved, account.end_unix_s)
            if account.budget.terms.hard:
                assert memory.used + reserved <= memory.limit
                assert account.spent + reserved <= account.allowed
        assert purse.balance_nanodollars == model.balance
        assert purse.reserved_nanodollars == model.reserved
        assert 0 <= model.reserved <= model.balance + self.credit
        assert sum(purse.balances.values()) == 0

    def audit(self) -> None:
        """Slower: what gateways really took, accounts that were forgotten, and the statement."""
        for key, account in self.model.accounts.items():
            if key not in self.treasury.budgets.state()[0]:  # type: ignore[operator]
                assert (account.used, account.reserved) == (0, 0)
        really = sum(each.really for each in self.model.grants.values())
        assert really <= self.model.spent + self.model.reserved
        today = datetime.fromtimestamp(self.unix_s, BERLIN).date()
        first = today - timedelta(days=self.dice.randrange(30))
        by = self.dice.sample(COLUMNS, self.dice.randrange(len(COLUMNS) + 1))
        if self.treasury.book.has_lines(first):
            assert self.treasury.book.statement(first, today, by).adds_up
        everything = self.treasury.book.statement(date(2026, 1, 1), date(2200, 1, 1)) if self.is_young else None
        if everything is not None:
            assert everything.adds_up
            assert everything.closing_nanodollars == self.model.balance
            assert everything.spent_nanodollars == self.model.spent

    @property
    def is_young(self) -> bool:
        return self.treasury.book.has_lines(date(2026, 1, 1))

    def finish(self) -> None:
        """All receipts come in: what was spent is what the gateways took, to the nanodollar."""
        for grant in [*self.model.open, *self.model.assumed]:
            self.tick()
            self.receipt(grant)
            self.check()
        assert self.model.spent == sum(each.really for each in self.model.grants.values())
        self.audit()
        self.die()


CHANCES: Final = (
    ["open"] * 18
    + ["extend"] * 14
    + ["pay"] * 22
    + ["tell"] * 14
    + ["settle"] * 14
    + ["assume", "late", "late"]
    + ["bank"] * 8
    + ["allow"] * 3
    + ["wait"] * 8
    + ["leap", "leap", "set_back", "set_right", "perish"]
)


def live(seed: int, operations: int) -> World:
    world = World(seed)
    for number in range(operations):
        world.step()
        if number % 100 == 0:
            world.audit()
        if number % 250 == 100:
            world.kept = len(world.journal), msgspec.json.encode(world.treasury.keep())
    world.finish()
    return world


@pytest.mark.expectation(14, 15, 16, 17)
@pytest.mark.row("BP-38", "MV-17", "MV-44")
def test_budgets_and_books_hold_in_20_000_random_operations_with_deaths_between() -> None:
    worlds = [live(seed, 1000) for seed in range(20)]
    assert sum(world.deaths for world in worlds) > 100
    assert sum(world.refused for world in worlds) > 1000
    assert sum(world.model.spent for world in worlds) > 200_000


@pytest.mark.deep
def test_budgets_and_books_hold_in_a_million_random_operations_with_deaths_between() -> None:
    for seed in range(1000, 1500):
        live(seed, 2000)


def test_a_room_says_why_it_is_too_small() -> None:
    treasury = Treasury([budget("day", 100, Cycle.DAY)], BERLIN)
    scope = GrantScope(program="p")
    assert treasury.room(scope, START).refused == "the purse has 0 USD left that no open grant holds: top it up"
    treasury.apply(TopUp(transfer="t", nanodollars=1000, unix_s=START))
    assert treasury.room(scope, START, needed_nanodollars=100).refused == ""
    over = treasury.room(scope, START, needed_nanodollars=101)
    assert over.over is not None
    assert over.refused.startswith("budget day: 100 nUSD left of 100 nUSD for this day; it resets on ")
    exempt = treasury.room(GrantScope(purpose=Purpose.EXEMPT), START)
    assert (exempt.cap_nanodollars, exempt.refused, exempt.over) == (0, "this is never paid", None)


def test_what_was_kept_under_another_configuration_is_not_taken() -> None:
    entry = TopUp(transfer="t", nanodollars=1000, unix_s=START)
    before = Treasury([budget("day", 100, Cycle.DAY)], BERLIN)
    before.apply(entry)
    after = Treasury([budget("day", 101, Cycle.DAY)], BERLIN)
    empty = after.state()
    assert not after.restore(before.keep())
    assert after.state() == empty
