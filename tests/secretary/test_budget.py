"""A day's budget: promised and spent together stay within it, whatever is asked, reported and left unsaid."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secretary.budget import DAY_S, DayBudget

DAY = 20_000 * DAY_S


def budget_of(limit: int = 100) -> DayBudget:
    budget = DayBudget(limit)
    budget.on_time(DAY)
    return budget


def seen(budget: DayBudget) -> tuple[int, int, int]:
    return budget.spent_nanodollars, budget.reserved_nanodollars, budget.left_nanodollars


def test_a_grant_reserves_its_cap_and_gives_the_rest_back() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    assert seen(budget) == (0, 60, 40)
    budget.close("a", 25)
    assert seen(budget) == (25, 0, 75)


def test_extending_reserves_more() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.reserve("b", 10)
    assert budget.highest_cap("a") == 90
    budget.reserve("a", 90, spent_nanodollars=50)
    assert seen(budget) == (0, 100, 0)
    assert (budget.highest_cap("a"), budget.highest_cap("b")) == (90, 10)


def test_a_signed_cap_is_never_taken_back() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.reserve("a", 30)
    assert seen(budget) == (0, 60, 40)


def test_more_than_the_cap_cannot_have_been_spent() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.close("a", 10**18)
    assert seen(budget) == (60, 0, 40)


def test_what_was_once_spent_does_not_come_back() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.reserve("a", 60, spent_nanodollars=50)
    budget.close("a", 3)
    assert seen(budget) == (50, 0, 50)


def test_closing_twice_or_what_was_never_open_changes_nothing() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.close("a", 25)
    budget.close("a", 25)
    budget.close("other", 40)
    assert seen(budget) == (25, 0, 75)


def test_a_new_day_starts_with_nothing_spent() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.close("a", 60)
    budget.on_time(DAY + DAY_S - 1)
    assert seen(budget) == (60, 0, 40)
    budget.on_time(DAY + DAY_S)
    assert seen(budget) == (0, 0, 100)


def test_a_clock_that_is_set_back_gives_no_second_budget() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.close("a", 60)
    budget.on_time(DAY - 1)
    budget.on_time(DAY)
    assert seen(budget) == (60, 0, 40)


def test_a_grant_over_midnight_takes_from_the_new_day_what_was_not_reported_as_spent() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.reserve("a", 80, spent_nanodollars=50)
    budget.on_time(DAY + DAY_S)
    assert seen(budget) == (0, 30, 70)
    assert budget.highest_cap("a") == 150
    budget.close("a", 70)
    assert seen(budget) == (20, 0, 80)


def test_a_grant_that_lives_for_days_gets_each_days_budget() -> None:
    budget = budget_of()
    budget.reserve("a", 100)
    for day in range(1, 6):
        budget.reserve("a", 100 * day, spent_nanodollars=100 * day)
        assert budget.left_nanodollars == 0
        budget.on_time(DAY + day * DAY_S)
        budget.reserve("a", budget.highest_cap("a"))
        assert seen(budget) == (0, 100, 0)


def test_a_limit_that_was_lowered_below_what_is_promised_leaves_nothing() -> None:
    budget = budget_of()
    budget.reserve("a", 60)
    budget.limit_nanodollars = 50
    assert budget.left_nanodollars == 0
    assert budget.highest_cap("a") == 60


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "close", "midnight", "back"]),
        st.sampled_from("abcd"),
        st.integers(0, 200),
        st.integers(0, 200),
    ),
    max_size=40,
)


@given(limit=st.integers(0, 150), steps=STEPS)
def test_promised_and_spent_stay_within_every_day(limit: int, steps: list[tuple[str, str, int, int]]) -> None:
    """Also over all days together: no more is ever authorised than a limit for each of them."""
    budget, caps, days, authorised = budget_of(limit), dict[str, int](), 1, 0
    for step, grant, cap, spent in steps:
        match step:
            case "reserve":
                if grant in caps:
                    new = min(cap, budget.highest_cap(grant))
                    budget.reserve(grant, new, spent_nanodollars=spent)
                    caps[grant] = max(new, caps[grant])
                else:
                    caps[grant] = min(cap, budget.left_nanodollars)
                    budget.reserve(grant, caps[grant])
            case "close":
                budget.close(grant, spent)
                authorised += min(spent, caps.pop(grant, 0))
            case "midnight":
                days += 1
                budget.on_time(DAY + (days - 1) * DAY_S)
            case _:
                budget.on_time(DAY)
        assert min(seen(budget)) >= 0
        assert budget.spent_nanodollars + budget.reserved_nanodollars + budget.left_nanodollars == limit
        assert authorised + sum(caps.values()) <= limit * days
