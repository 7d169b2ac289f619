"""Budgets of grants: what was spent and what open grants may still spend, never together above a hard limit.

Decides how much more may be promised to a transfer, what is told (50, 80, 100 %, once each), and how hard a budget
presses; refuses to know rules, documents, clocks and files. Pure, and driven by journalled entries: their order and
their times are the state. Source: TigerBeetle's two-phase transfers (reserve, then post or void).

- Reserve, then post or void: a grant reserves its whole cap in every budget that it falls under. What is told as spent
  moves from reserved to used, so nothing that stays unsaid, and no crash, can make both exceed the limit.
- When a period ends, nothing is used in the new one, and what open grants may still spend is reserved there. Where a
  top-up was a part of what they were promised, the promised rest of it goes with them; no more of it does.
- A period ends when an entry says so (`on_time` gives it): a clock that is set back renews nothing, nor does a restart.
- A soft limit refuses nothing. It is told, and what is paid then is slowed (`press`).
- DNS, the control channel and top-ups are never refused, slowed or paid.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Final

import msgspec

from billpay.errors import LocalProtocolError
from secretary.money.budgets import (
    Announcement,
    BudgetMemory,
    BudgetTerms,
    BudgetView,
    Pressure,
    Unit,
    announce,
    count,
    look,
    moved,
    show_amount,
)
from secretary.transfers import Transfer

NO_LIMIT: Final = 10**18
"""What a budget that there is not would leave."""
SLOWED_PERCENT: Final = 50
"""Of its ceiling and its rate, for whom a soft limit is reached."""
EXEMPT_KINDS: Final = frozenset({"control"})


class Purpose(enum.Enum):
    """Why something would be paid."""

    USUAL = "usual"
    UNJUSTIFIED = "unjustified"  # small, and paid without being sure that its user would: a budget of its own
    EXEMPT = "exempt"  # DNS, the control channel, the top-up: never blocked, and never paid


class Dimension(enum.Enum):
    """What a budget is about."""

    ALL = "all"
    PROGRAM = "program"
    NETWORK = "network"
    PERSON = "person"
    PURPOSE = "purpose"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantScope:
    """Which budgets a grant falls under."""

    person: str = ""
    program: str = ""
    network: str = ""
    purpose: Purpose = Purpose.USUAL

    def who(self, dimension: Dimension) -> str:
        match dimension:
            case Dimension.PROGRAM:
                return self.program
            case Dimension.NETWORK:
                return self.network
            case Dimension.PERSON:
                return self.person
            case Dimension.PURPOSE:
                return self.purpose.value
            case Dimension.ALL:
                return ""


def scope_of(transfer: Transfer, purpose: Purpose = Purpose.USUAL) -> GrantScope:
    exempt = transfer.kind in EXEMPT_KINDS
    return GrantScope(
        person=transfer.user,
        program=transfer.program,
        network=transfer.network,
        purpose=Purpose.EXEMPT if exempt else purpose,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantBudget:
    """A limit in money. `who`: whose; "" where it is not about all: each program, network or person has its own."""

    terms: BudgetTerms
    about: Dimension = Dimension.ALL
    who: str = ""

    def __post_init__(self) -> None:
        assert self.terms.unit is Unit.NANODOLLARS
        assert self.about is not Dimension.ALL or not self.who

    @property
    def is_each(self) -> bool:
        return self.about is not Dimension.ALL and not self.who

    def covers(self, scope: GrantScope) -> bool:
        return self.is_each or self.who == scope.who(self.about)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverBudget:
    """A refusal: which budget, what it has left, and when it begins anew."""

    budget: str
    left_nanodollars: int
    resets_unix_s: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Press:
    """What budgets that are used up do to a transfer: `percent` of its ceiling and of its rate remain."""

    pressure: Pressure = Pressure.NONE
    percent: int = 100
    message: str = ""


NO_PRESS: Final = Press()


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStanding:
    """A budget for a screen. `scope`: "all", "program firefox"."""

    view: BudgetView
    scope: str
    reserved_nanodollars: int
    left_nanodollars: int


class PeriodsMoved(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A period was over at this time. In the journal before anything is promised for the next one."""

    unix_s: int


class ClockSetRight(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A person says that the clock was ahead and is right now. Only a person: whoever sets a clock could say it too."""

    unix_s: int


class BudgetRaised(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """More for the period that runs. `who`: of a budget that each has of their own."""

    budget: str
    nanodollars: int
    unix_s: int
    who: str = ""


class AccountKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    budget: str
    who: str
    memory: BudgetMemory


class PromiseKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`accounts`: their places in `BudgetsKept.accounts`."""

    grant: str
    cap_nanodollars: int
    told_nanodollars: int
    accounts: tuple[int, ...]


class BudgetsKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state at an entry, so that a start need not read the journal from its beginning."""

    accounts: tuple[AccountKept, ...]
    promises: tuple[PromiseKept, ...]
    latest_unix_s: int


@dataclass(slots=True)
class _Account:
    """A budget of somebody, in the period that runs."""

    budget: GrantBudget
    who: str
    terms: BudgetTerms  # named after both
    memory: BudgetMemory
    reserved_nanodollars: int = 0
    grants: int = 0  # that are open, also those that have nothing left

    @property
    def left_nanodollars(self) -> int:
        return max(0, self.memory.limit - self.memory.used - self.reserved_nanodollars)

    @property
    def is_idle(self) -> bool:
        return not (self.grants or self.memory.used or self.memory.topped_up)


@dataclass(slots=True)
class _Promise:
    """An open grant: its cap, and what was said to be spent of it."""

    cap_nanodollars: int = 0
    told_nanodollars: int = 0
    accounts: list[_Account] = field(default_factory=list)


class Budgets:
    """The state that entries make. Only what changes it creates anything: to ask costs no memory."""

    def __init__(self, budgets: Iterable[GrantBudget], zone: tzinfo) -> None:
        self._budgets = tuple(budgets)
        assert len({each.terms.name for each in self._budgets}) == len(self._budgets)
        self._zone = zone
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._open: dict[str, _Promise] = {}
        self._latest_unix_s = 0
        self._next_end_unix_s = NO_LIMIT

    # --- time -------------------------------------------------------------------------------------------------------

    def on_time(self, unix_s: int) -> PeriodsMoved | None:
        """The entry that a period's end needs. To be applied (`move`) before anything is asked for the new one."""
        return PeriodsMoved(unix_s=unix_s) if unix_s >= self._next_end_unix_s else None

    def move(self, unix_s: int) -> None:
        """Time only moves on. What nobody used and nobody may use is forgotten."""
        if unix_s <= self._latest_unix_s:
            return
        self._latest_unix_s = unix_s
        if unix_s < self._next_end_unix_s:
            return
        for key, account in list(self._accounts.items()):
            self._renew(account)
            if account.is_idle:
                del self._accounts[key]
        self._set_next_end()

    def ahead_s(self, unix_s: int) -> int:
        """By how much the latest entry is later than now. Above a day: the clock was wrong, and no budget begins anew
        until that time, unless a person says so.
        """
        return max(0, self._latest_unix_s - unix_s)

    def set_right(self, unix_s: int) -> None:
        """Back into the periods of now, with all that is used and promised: nothing is renewed by it."""
        if unix_s >= self._latest_unix_s:
            self.move(unix_s)
            return
        self._latest_unix_s = unix_s
        for account in self._accounts.values():
            now = moved(account.terms, None, unix_s=unix_s, zone=self._zone)
            account.memory = msgspec.structs.replace(
                account.memory,
                start_unix_s=now.start_unix_s,
                end_unix_s=now.end_unix_s,
                since_unix_s=now.start_unix_s,
                last_unix_s=min(unix_s, account.memory.last_unix_s),
            )
        self._set_next_end()

    def _renew(self, account: _Account) -> None:
        old = account.memory
        memory = moved(account.terms, old, unix_s=self._latest_unix_s, zone=self._zone)
        if memory is not old:
            promised = max(0, account.reserved_nanodollars - account.terms.limit)
            carried = min(promised, max(0, old.topped_up - max(0, old.used - account.terms.limit)))
            limit = account.terms.limit + carried
            account.memory = msgspec.structs.replace(memory, topped_up=carried, limit=limit)

    def _set_next_end(self) -> None:
        ends = (account.memory.end_unix_s for account in self._accounts.values())
        self._next_end_unix_s = min(ends, default=NO_LIMIT)

    # --- asking -----------------------------------------------------------------------------------------------------

    def left_nanodollars(self, scope: GrantScope, unix_s: int) -> int:
        """The highest cap of a new grant: 0 also when a limit was lowered below what is promised."""
        self._check_time(unix_s)
        if scope.purpose is Purpose.EXEMPT:
            return 0
        return min((self._left(budget, scope) for budget in self._hard(scope)), default=NO_LIMIT)

    def highest_cap(self, grant: str, unix_s: int) -> int:
        """The cap that an open grant could have; never below the one that it has."""
        self._check_time(unix_s)
        promise = self._open[grant]
        lefts = (account.left_nanodollars for account in promise.accounts if account.terms.hard)
        return min(NO_LIMIT, promise.cap_nanodollars + min(lefts, default=NO_LIMIT))

    def refusal(self, scope: GrantScope, needed_nanodollars: int, unix_s: int) -> OverBudget | None:
        """The tightest of the hard budgets that have less than is needed; never of what is exempt."""
        if self.left_nanodollars(scope, unix_s) >= needed_nanodollars or scope.purpose is Purpose.EXEMPT:
            return None
        budget = min(self._hard(scope), key=lambda each: self._left(each, scope))
        return self._over(self._look_up(budget, scope, unix_s))

    def refusal_to_extend(self, grant: str, cap_nanodollars: int, unix_s: int) -> OverBudget | None:
        """The same, for an open grant's higher cap."""
        if self.highest_cap(grant, unix_s) >= cap_nanodollars:
            return None
        hard = [account for account in self._open[grant].accounts if account.terms.hard]
        return self._over(min(hard, key=lambda each: each.left_nanodollars))

    def press(self, scope: GrantScope, unix_s: int) -> Press:
        """The hardest that any of its budgets presses, at once; and not any more as soon as there is a top-up."""
        pressed = NO_PRESS
        if scope.purpose is Purpose.EXEMPT:
            return pressed
        for budget in self._budgets:
            account = self._find(budget, scope)
            memory = account.memory if account is not None else None
            used, limit = (memory.used, memory.limit) if memory is not None else (0, budget.terms.limit)
            if used < limit or not budget.covers(scope):
                continue
            if budget.terms.hard:
                return Press(
                    pressure=Pressure.FLOOR, percent=0, message=self._over(self._look_up(budget, scope, unix_s)).message
                )
            if pressed is NO_PRESS:
                pressed = self._slowed(self._look_up(budget, scope, unix_s))
        return pressed

    def is_open(self, grant: str) -> bool:
        return grant in self._open

    def told_nanodollars(self, grant: str, spent_nanodollars: int = 0) -> int:
        """What counts as spent of an open grant when its host says so: it cannot be more than the cap, and what was
        spent does not come back.
        """
        promise = self._open[grant]
        return max(promise.told_nanodollars, min(spent_nanodollars, promise.cap_nanodollars))

    # --- reserve, then post or void ---------------------------------------------------------------------------------

    def reserve(self, grant: str, cap_nanodollars: int, scope: GrantScope, unix_s: int) -> None:
        """Opens a grant, or raises its cap; the caller has asked how much is left."""
        self.move(unix_s)
        promise = self._open.get(grant)
        if promise is None:
            accounts = [self._account(budget, scope) for budget in self._budgets if budget.covers(scope)]
            promise = self._open[grant] = _Promise(accounts=accounts)
            for account in accounts:
                account.grants += 1
        more = max(0, cap_nanodollars - promise.cap_nanodollars)
        promise.cap_nanodollars += more
        for account in promise.accounts:
            account.reserved_nanodollars += more

    def told(self, grant: str, spent_nanodollars: int, unix_s: int) -> tuple[Announcement, ...]:
        """So much was spent of an open grant in all; what of it is new counts in the period that runs."""
        self.move(unix_s)
        if grant not in self._open:
            return ()
        told = self.told_nanodollars(grant, spent_nanodollars)
        promise = self._open[grant]
        more, promise.told_nanodollars = told - promise.told_nanodollars, told
        announcements = []
        for account in promise.accounts if more else ():
            account.reserved_nanodollars -= more
            account.memory, percent = count(account.terms, account.memory, more, unix_s=unix_s, zone=self._zone)
            if percent:
                announcements.append(announce(account.terms, account.memory, percent, unix_s))
        return tuple(announcements)

    def close(self, grant: str, spent_nanodollars: int, unix_s: int) -> tuple[Announcement, ...]:
        """Books what was spent and frees the rest; a grant that is not open changes nothing but the time."""
        announcements = self.told(grant, spent_nanodollars, unix_s)
        promise = self._open.pop(grant, None)
        if promise is not None:
            for account in promise.accounts:
                account.reserved_nanodollars -= promise.cap_nanodollars - promise.told_nanodollars
                account.grants -= 1
        return announcements

    def raise_limit(self, raised: BudgetRaised) -> bool:
        """More for the period that runs; False: there is no such budget."""
        self.move(raised.unix_s)
        for budget in self._budgets:
            if budget.terms.name == raised.budget and bool(raised.who) == budget.is_each:
                account = self._account_of(budget, raised.who or budget.who)
                account.memory, _ = count(
                    account.terms,
                    account.memory,
                    0,
                    unix_s=raised.unix_s,
                    zone=self._zone,
                    top_up=max(0, raised.nanodollars),
                )
                return True
        return False

    # --- showing ----------------------------------------------------------------------------------------------------

    def standings(self, unix_s: int) -> tuple[BudgetStanding, ...]:
        """As configured; of those that each has of their own, the ones in use."""
        shown = []
        for budget in self._budgets:
            accounts: Sequence[_Account] = [each for each in self._accounts.values() if each.budget is budget]
            if not accounts and not budget.is_each:
                accounts = [self._new(budget, budget.who, unix_s)]
            for account in sorted(accounts, key=lambda each: each.who):
                about = budget.about.value if budget.about is Dimension.ALL else f"{budget.about.value} {account.who}"
                shown.append(
                    BudgetStanding(
                        view=look(account.terms, account.memory, max(unix_s, account.memory.start_unix_s)),
                        scope=about,
                        reserved_nanodollars=account.reserved_nanodollars,
                        left_nanodollars=account.left_nanodollars,
                    )
                )
        return tuple(shown)

    def keep(self) -> BudgetsKept:
        places = {id(account): place for place, account in enumerate(self._accounts.values())}
        return BudgetsKept(
            accounts=tuple(
                AccountKept(budget=each.budget.terms.name, who=each.who, memory=each.memory)
                for each in self._accounts.values()
            ),
            promises=tuple(
                PromiseKept(
                    grant=grant,
                    cap_nanodollars=each.cap_nanodollars,
                    told_nanodollars=each.told_nanodollars,
                    accounts=tuple(places[id(account)] for account in each.accounts),
                )
                for grant, each in self._open.items()
            ),
            latest_unix_s=self._latest_unix_s,
        )

    def restore(self, kept: BudgetsKept) -> None:
        """Of the same budgets in the same zone; into a new one."""
        self._latest_unix_s = kept.latest_unix_s
        by_name = {each.terms.name: each for each in self._budgets}
        for each in kept.accounts:
            self._account_of(by_name[each.budget], each.who).memory = each.memory
        accounts = list(self._accounts.values())
        for promise in kept.promises:
            mine = [accounts[place] for place in promise.accounts]
            self._open[promise.grant] = _Promise(promise.cap_nanodollars, promise.told_nanodollars, mine)
            for account in mine:
                account.grants += 1
                account.reserved_nanodollars += promise.cap_nanodollars - promise.told_nanodollars
        self._set_next_end()

    def state(self) -> tuple[object, ...]:
        """All of it, comparable."""
        accounts = {key: (each.memory, each.reserved_nanodollars) for key, each in self._accounts.items()}
        grants = {name: (each.cap_nanodollars, each.told_nanodollars) for name, each in self._open.items()}
        return accounts, grants, self._latest_unix_s, self._next_end_unix_s

    # --- accounts ---------------------------------------------------------------------------------------------------

    def _check_time(self, unix_s: int) -> None:
        if unix_s >= self._next_end_unix_s:
            raise LocalProtocolError("a budget's period is over, and the entry that says so was not applied")

    def _hard(self, scope: GrantScope) -> list[GrantBudget]:
        return [budget for budget in self._budgets if budget.terms.hard and budget.covers(scope)]

    def _left(self, budget: GrantBudget, scope: GrantScope) -> int:
        account = self._find(budget, scope)
        return account.left_nanodollars if account is not None else budget.terms.limit

    def _find(self, budget: GrantBudget, scope: GrantScope) -> _Account | None:
        return self._accounts.get((budget.terms.name, scope.who(budget.about)))

    def _look_up(self, budget: GrantBudget, scope: GrantScope, unix_s: int) -> _Account:
        """For showing only: not kept when it is new."""
        return self._find(budget, scope) or self._new(budget, scope.who(budget.about), unix_s)

    def _account(self, budget: GrantBudget, scope: GrantScope) -> _Account:
        return self._account_of(budget, scope.who(budget.about))

    def _account_of(self, budget: GrantBudget, who: str) -> _Account:
        account = self._accounts.get((budget.terms.name, who))
        if account is None:
            account = self._accounts[budget.terms.name, who] = self._new(budget, who, self._latest_unix_s)
            self._next_end_unix_s = min(self._next_end_unix_s, account.memory.end_unix_s)
        return account

    def _new(self, budget: GrantBudget, who: str, unix_s: int) -> _Account:
        """It begins in the period of the latest entry, not of a clock that was set back."""
        terms = (
            replace(budget.terms, name=f"{budget.terms.name} of {who or 'nobody known'}")
            if budget.is_each
            else budget.terms
        )
        memory, _ = count(terms, None, 0, unix_s=max(unix_s, self._latest_unix_s), zone=self._zone)
        return _Account(budget=budget, who=who, terms=terms, memory=memory)

    def _over(self, account: _Account) -> OverBudget:
        left, memory, terms = account.left_nanodollars, account.memory, account.terms
        held = f", {_money(account.reserved_nanodollars, terms)} promised" if account.reserved_nanodollars else ""
        return OverBudget(
            budget=terms.name,
            left_nanodollars=left,
            resets_unix_s=memory.end_unix_s,
            message=f"budget {terms.name}: {_money(left, terms)} left of {_money(memory.limit, terms)} for this "
            f"{terms.cycle.value}{held}; it resets on {self._when(memory.end_unix_s)}",
        )

    def _slowed(self, account: _Account) -> Press:
        terms, memory = account.terms, account.memory
        return Press(
            pressure=Pressure.SLOWED,
            percent=SLOWED_PERCENT,
            message=f"budget {terms.name}: {_money(memory.used, terms)} used of {_money(memory.limit, terms)} for this "
            f"{terms.cycle.value}: ceilings and rates are at {SLOWED_PERCENT} % until {self._when(memory.end_unix_s)}",
        )

    def _when(self, unix_s: int) -> str:
        return datetime.fromtimestamp(unix_s, self._zone).strftime("%Y-%m-%d %H:%M")


def _money(nanodollars: int, terms: BudgetTerms) -> str:
    return show_amount(nanodollars, Unit.NANODOLLARS, terms.currency)
