"""Budgets of grants: promised and spent stay within every hard limit, in every period; soft ones press."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from billpay.errors import LocalProtocolError
from secretary.money.budgets import BudgetTerms, Pressure, Unit
from secretary.money.periods import Cycle
from secretary.money.reserving import (
    NO_LIMIT,
    BudgetRaised,
    Budgets,
    Dimension,
    GrantBudget,
    GrantScope,
    PeriodsMoved,
    Purpose,
    scope_of,
)
from secretary.transfers import Transfer

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = 3600, 86_400
NOON = int(datetime.fromisoformat("2026-11-10T12:00+01:00").timestamp())
MIDNIGHT = NOON + 12 * HOUR
ANN = GrantScope(person="ann", program="firefox", network="Home")
BOB = GrantScope(person="bob", program="curl", network="Home")


def budget(
    name: str = "all",
    limit: int = 100,
    *,
    cycle: Cycle = Cycle.DAY,
    hard: bool = True,
    about: Dimension = Dimension.ALL,
    who: str = "",
    reset_day: int = 1,
) -> GrantBudget:
    terms = BudgetTerms(name=name, unit=Unit.NANODOLLARS, cycle=cycle, limit=limit, hard=hard, reset_day=reset_day)
    return GrantBudget(terms=terms, about=about, who=who)


class Till:
    """Budgets as they are driven: time first, entries applied in order."""

    def __init__(self, *budgets: GrantBudget) -> None:
        self.budgets = Budgets(budgets or (budget(),), BERLIN)
        self.unix_s = NOON
        self.codes: list[str] = []

    def wait_until(self, unix_s: int) -> None:
        self.unix_s = unix_s
        entry = self.budgets.on_time(unix_s)
        if entry is not None:
            self.budgets.move(entry.unix_s)

    def left(self, scope: GrantScope = ANN) -> int:
        return self.budgets.left_nanodollars(scope, self.unix_s)

    def reserve(self, grant: str, cap: int, scope: GrantScope = ANN) -> None:
        self.budgets.reserve(grant, cap, scope, self.unix_s)

    def told(self, grant: str, spent: int) -> None:
        self.codes += [each.code for each in self.budgets.told(grant, spent, self.unix_s)]

    def close(self, grant: str, spent: int) -> None:
        self.codes += [each.code for each in self.budgets.close(grant, spent, self.unix_s)]

    def raise_by(self, amount: int, name: str = "all", who: str = "") -> bool:
        raised = BudgetRaised(budget=name, nanodollars=amount, unix_s=self.unix_s, who=who)
        return self.budgets.raise_limit(raised)

    @property
    def seen(self) -> tuple[int, int, int]:
        """Of the first budget: used, reserved, left."""
        first = self.budgets.standings(self.unix_s)[0]
        return first.view.used, first.reserved_nanodollars, first.left_nanodollars


# --- reserve, then post or void ---------------------------------------------------------------------------------------


@pytest.mark.expectation(16)
def test_a_grant_reserves_its_cap_and_gives_the_rest_back() -> None:
    till = Till()
    till.reserve("a", 60)
    assert till.seen == (0, 60, 40)
    till.told("a", 10)
    assert till.seen == (10, 50, 40)
    till.close("a", 25)
    assert till.seen == (25, 0, 75)


@pytest.mark.expectation(16)
def test_posting_again_or_what_was_never_open_changes_nothing() -> None:
    till = Till()
    till.reserve("a", 60)
    till.reserve("a", 60)
    till.told("a", 10)
    till.told("a", 10)
    assert till.seen == (10, 50, 40)
    till.close("a", 25)
    till.close("a", 25)
    till.close("b", 25)
    till.told("b", 25)
    assert till.seen == (25, 0, 75)


def test_neither_more_than_the_cap_nor_less_than_was_told() -> None:
    till = Till()
    till.reserve("a", 60)
    till.told("a", 50)
    till.told("a", 3)
    assert till.seen == (50, 10, 40)
    till.close("a", 10**18)
    assert till.seen == (60, 0, 40)


def test_a_signed_cap_is_never_taken_back_and_may_grow() -> None:
    till = Till()
    till.reserve("a", 60)
    till.reserve("a", 30)
    assert till.budgets.highest_cap("a", till.unix_s) == 100
    till.reserve("a", 100)
    assert till.seen == (0, 100, 0)
    assert till.budgets.highest_cap("a", till.unix_s) == 100


def test_asking_costs_no_memory() -> None:
    till = Till(budget(about=Dimension.PROGRAM))
    for number in range(10):
        assert till.left(GrantScope(program=f"p{number}")) == 100
    assert till.budgets.standings(till.unix_s) == ()


# --- whose budget -----------------------------------------------------------------------------------------------------


def test_the_tightest_of_all_that_are_about_a_grant_decides() -> None:
    till = Till(
        budget("all", 100),
        budget("month", 90, cycle=Cycle.MONTH),
        budget("firefox", 50, about=Dimension.PROGRAM, who="firefox"),
        budget("person", 70, about=Dimension.PERSON),
        budget("network", 80, about=Dimension.NETWORK),
    )
    assert (till.left(ANN), till.left(BOB)) == (50, 70)
    till.reserve("a", 50)
    assert (till.left(ANN), till.left(BOB)) == (0, 30), "the network's 80, of which 50 are promised"
    assert till.left(GrantScope(person="ann", program="vlc", network="Home")) == 20, "ann's 70"
    assert till.left(GrantScope(person="eve", network="Cafe")) == 40, "the month's 90"
    till.close("a", 0)
    assert (till.left(ANN), till.left(BOB)) == (50, 70)


def test_unjustified_payments_have_a_budget_of_their_own() -> None:
    till = Till(budget("all", 100), budget("trial", 5, about=Dimension.PURPOSE, who="unjustified"))
    assert till.left(GrantScope(purpose=Purpose.UNJUSTIFIED)) == 5
    assert till.left() == 100


def test_without_a_hard_budget_nothing_is_refused() -> None:
    till = Till(budget(hard=False))
    till.reserve("a", 10**9)
    till.told("a", 10**9)
    assert till.left() == NO_LIMIT
    assert till.budgets.refusal(ANN, 10**12, till.unix_s) is None
    assert till.budgets.highest_cap("a", till.unix_s) == NO_LIMIT


@pytest.mark.expectation(15)
def test_what_is_exempt_is_never_blocked_slowed_or_paid() -> None:
    till = Till(budget(limit=10), budget("soft", 5, hard=False))
    till.reserve("a", 10)
    till.told("a", 10)
    control = scope_of(Transfer(user="ann", program="ssh", kind="control"))
    assert control.purpose is Purpose.EXEMPT
    assert till.budgets.refusal(control, 1, till.unix_s) is None
    assert till.budgets.press(control, till.unix_s).pressure is Pressure.NONE
    assert till.left(control) == 0


# --- refusals, pressure, notices --------------------------------------------------------------------------------------


def test_a_refusal_says_which_budget_what_is_left_and_when_it_resets() -> None:
    till = Till(budget("household", 10**9), budget("month", 20 * 10**9, cycle=Cycle.MONTH))
    till.reserve("a", 700_000_000)
    till.close("a", 700_000_000)
    till.reserve("b", 200_000_000)
    assert till.budgets.refusal(ANN, 100_000_000, till.unix_s) is None
    over = till.budgets.refusal(ANN, 100_000_001, till.unix_s)
    assert over is not None
    assert (over.budget, over.left_nanodollars, over.resets_unix_s) == ("household", 100_000_000, MIDNIGHT)
    assert over.message == (
        "budget household: 100 mUSD left of 1 USD for this day, 200 mUSD promised; it resets on 2026-11-11 00:00"
    )
    assert till.budgets.refusal_to_extend("b", 300_000_000, till.unix_s) is None
    assert till.budgets.refusal_to_extend("b", 300_000_001, till.unix_s) == over


@pytest.mark.expectation(14)
def test_each_threshold_is_told_once_in_a_period() -> None:
    till = Till(budget(limit=100, hard=False))
    till.reserve("a", 1000)
    for spent in range(0, 120, 5):
        till.told("a", spent)
    assert till.codes == ["budget-50", "budget-80", "budget-100"]
    till.wait_until(MIDNIGHT)
    till.told("a", 175)
    assert till.codes[3:] == ["budget-50"]


@pytest.mark.expectation(14)
def test_a_budget_of_each_tells_whose_it_is_and_shows_burn_and_forecast() -> None:
    till = Till(budget("program", 1000, about=Dimension.PROGRAM, cycle=Cycle.MONTH, reset_day=10, hard=False))
    till.reserve("a", 10_000)
    till.wait_until(NOON + 3 * DAY)
    (told,) = till.budgets.told("a", 500, till.unix_s)
    assert told.message.startswith("program of firefox: 50 % of 1 µUSD for this month are used; at this pace ")
    (shown,) = till.budgets.standings(till.unix_s)
    assert (shown.scope, shown.view.used, shown.reserved_nanodollars) == ("program firefox", 500, 9500)
    assert shown.view.burn_per_day == pytest.approx(500 / 3, rel=0.1)
    assert shown.view.forecast > 3000


@pytest.mark.expectation(15)
def test_a_soft_limit_slows_at_once_and_a_top_up_relieves_at_once() -> None:
    till = Till(budget("phone", 100, hard=False))
    till.reserve("a", 1000)
    till.told("a", 99)
    assert till.budgets.press(ANN, till.unix_s).percent == 100
    till.told("a", 100)
    pressed = till.budgets.press(ANN, till.unix_s)
    assert (pressed.pressure, pressed.percent) == (Pressure.SLOWED, 50)
    assert pressed.message == (
        "budget phone: 100 nUSD used of 100 nUSD for this day: ceilings and rates are at 50 % until 2026-11-11 00:00"
    )
    assert till.left() == NO_LIMIT, "nothing is refused"
    assert till.raise_by(1, "phone")
    assert till.budgets.press(ANN, till.unix_s).pressure is Pressure.NONE


@pytest.mark.expectation(15)
def test_a_hard_limit_floors_and_a_top_up_recovers_at_once() -> None:
    till = Till()
    till.reserve("a", 100)
    assert till.left() == 0
    assert till.budgets.press(ANN, till.unix_s).pressure is Pressure.NONE, "what was promised may still be spent"
    till.told("a", 100)
    assert till.budgets.press(ANN, till.unix_s).pressure is Pressure.FLOOR
    assert till.raise_by(50)
    assert (till.left(), till.budgets.highest_cap("a", till.unix_s)) == (50, 150)
    assert till.budgets.press(ANN, till.unix_s).pressure is Pressure.NONE
    assert not till.raise_by(50, "nobody's")


def test_a_budget_of_each_is_raised_for_one() -> None:
    till = Till(budget("program", about=Dimension.PROGRAM))
    assert till.raise_by(10, "program", "firefox")
    assert (till.left(ANN), till.left(BOB)) == (110, 100)
    assert not till.raise_by(10, "program")


# --- periods ----------------------------------------------------------------------------------------------------------


def test_a_grant_over_midnight_takes_from_the_new_day_what_was_not_told() -> None:
    till = Till()
    till.reserve("a", 80)
    till.told("a", 50)
    till.wait_until(MIDNIGHT)
    assert till.seen == (0, 30, 70)
    assert till.budgets.highest_cap("a", till.unix_s) == 150
    till.close("a", 70)
    assert till.seen == (20, 0, 80)


def test_a_clock_that_is_set_back_gives_no_second_budget() -> None:
    till = Till()
    till.reserve("a", 60)
    till.close("a", 60)
    for unix_s in (NOON - 2 * DAY, 100, MIDNIGHT - 1):
        till.wait_until(unix_s)
        assert till.seen == (60, 0, 40)


def test_nor_does_one_that_is_set_back_after_it_ran_ahead_and_everything_was_forgotten() -> None:
    till = Till(budget("program", about=Dimension.PROGRAM))
    till.reserve("a", 100)
    till.close("a", 100)
    till.wait_until(MIDNIGHT)
    assert till.budgets.standings(till.unix_s) == (), "an idle one is dropped"
    till.wait_until(NOON)
    till.reserve("b", 100)
    till.wait_until(MIDNIGHT + DAY - 1)
    assert till.left() == 0, "this was the new day's"


def test_a_clock_that_was_years_ahead_is_set_right_by_a_person_and_nothing_is_renewed() -> None:
    till = Till()
    till.reserve("a", 60)
    till.wait_until(NOON + 1000 * DAY)
    till.told("a", 50)
    till.wait_until(NOON + DAY)
    assert till.seen == (50, 10, 40)
    assert till.budgets.ahead_s(till.unix_s) == 999 * DAY
    till.wait_until(NOON + 2 * DAY)
    assert till.seen == (50, 10, 40), "that period is far from over"
    till.budgets.set_right(till.unix_s)
    assert till.seen == (50, 10, 40)
    assert till.budgets.ahead_s(till.unix_s) == 0
    till.wait_until(NOON + 3 * DAY)
    assert till.seen == (0, 10, 90)


def test_nothing_is_asked_across_a_periods_end_before_the_journal_has_it() -> None:
    till = Till()
    till.reserve("a", 10)
    assert till.budgets.on_time(MIDNIGHT - 1) is None
    assert till.budgets.on_time(MIDNIGHT) == PeriodsMoved(unix_s=MIDNIGHT)
    with pytest.raises(LocalProtocolError, match="period is over"):
        till.budgets.left_nanodollars(ANN, MIDNIGHT)
    till.wait_until(MIDNIGHT)
    assert till.left() == 90


def test_a_top_up_goes_with_the_grants_that_were_promised_it_and_no_further() -> None:
    till = Till()
    till.raise_by(900)
    till.reserve("a", 1000)
    till.told("a", 300)
    till.wait_until(MIDNIGHT)
    assert till.seen == (0, 700, 0)
    assert till.budgets.standings(till.unix_s)[0].view.limit == 700
    till.close("a", 300)
    till.wait_until(MIDNIGHT + DAY)
    assert till.seen == (0, 0, 100)


def test_a_limit_that_was_lowered_below_what_is_promised_leaves_nothing_and_is_not_raised_by_a_new_period() -> None:
    """As after a restart with another configuration: the same entries under a lower limit."""
    till = Till(budget(limit=50))
    till.reserve("a", 60)
    assert till.left() == 0
    assert till.budgets.highest_cap("a", till.unix_s) == 60
    till.wait_until(MIDNIGHT)
    assert till.seen == (0, 60, 0)
    assert till.budgets.standings(till.unix_s)[0].view.limit == 50


@pytest.mark.expectation(14)
def test_a_month_begins_on_its_reset_day_in_local_time() -> None:
    till = Till(budget(cycle=Cycle.MONTH, reset_day=17))
    till.reserve("a", 100)
    till.close("a", 100)
    reset = int(datetime.fromisoformat("2026-11-17T00:00+01:00").timestamp())
    till.wait_until(reset - 1)
    assert till.left() == 0
    till.wait_until(reset)
    assert till.left() == 100
