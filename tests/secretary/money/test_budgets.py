"""Budgets tell once, also over restarts and leaps, press as they say, and recover at once."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.money.budgets import (
    BudgetMemory,
    BudgetStep,
    BudgetTerms,
    Pressure,
    Unit,
    next_period,
    per_month,
    show_amount,
    show_bytes,
    spend,
)
from secretary.money.periods import Cycle, Schedule

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = 3600, 86_400
GB = 10**9
NOON = int(datetime.fromisoformat("2026-11-10T12:00+01:00").timestamp())


def terms(**changes: object) -> BudgetTerms:
    given_ = {"name": "phone", "unit": Unit.BYTES, "cycle": Cycle.DAY, "limit": 1000, **changes}
    return BudgetTerms(**given_)  # type: ignore[arg-type]


class Meter:
    """A budget with its memory, which goes through the store at every step."""

    def __init__(self, about: BudgetTerms, zone: ZoneInfo = BERLIN) -> None:
        self.terms, self.zone = about, zone
        self.stored: bytes | None = None
        self.codes: list[str] = []

    def spend(self, amount: int, unix_s: int, *, top_up: int = 0) -> BudgetStep:
        memory = msgspec.json.decode(self.stored, type=BudgetMemory) if self.stored else None
        step = spend(self.terms, memory, amount, unix_s=unix_s, zone=self.zone, top_up=top_up)
        self.stored = msgspec.json.encode(step.memory)
        self.codes += [each.code for each in step.announcements]
        return step


@pytest.mark.expectation(14)
def test_each_threshold_is_told_once_in_a_period_also_over_restarts() -> None:
    meter = Meter(terms())
    for second in range(100):
        meter.spend(10, NOON + second)
    assert meter.codes == ["budget-50", "budget-80", "budget-100"]
    meter.spend(0, NOON + DAY)
    meter.spend(500, NOON + DAY + 1)
    assert meter.codes[3:] == ["budget-50"]


def test_a_leap_over_two_thresholds_tells_the_highest_and_marks_the_others() -> None:
    meter = Meter(terms())
    step = meter.spend(850, NOON)
    assert [each.message for each in step.announcements] == [
        "phone: 80 % of 1 kB for this day are used; at this pace 1.35 kB by the reset: more than there is"
    ]
    assert step.view.noticed_percent == 80
    meter.spend(10, NOON + 1)
    assert meter.codes == ["budget-80"]


@pytest.mark.expectation(15)
@pytest.mark.parametrize(("hard", "pressure"), [(False, Pressure.SLOWED), (True, Pressure.FLOOR)])
def test_a_limit_presses_at_once_and_a_top_up_relieves_at_once(hard: bool, pressure: Pressure) -> None:
    meter = Meter(terms(hard=hard))
    assert meter.spend(999, NOON).pressure is Pressure.NONE
    assert meter.spend(1, NOON + 1).pressure is pressure
    relieved = meter.spend(0, NOON + 1, top_up=500)
    assert relieved.pressure is Pressure.NONE
    assert relieved.view.limit == 1500
    assert relieved.view.noticed_percent == 50
    meter.spend(500, NOON + 2)
    assert meter.codes == ["budget-80", "budget-100", "budget-100"], "the second is about the new limit"
    assert meter.spend(0, NOON + DAY).pressure is Pressure.NONE
    assert meter.spend(0, NOON + DAY).view.limit == 1000, "a top-up is for its period"


def test_a_clock_that_is_set_back_renews_nothing() -> None:
    meter = Meter(terms())
    meter.spend(1000, NOON)
    step = meter.spend(0, NOON - 18 * HOUR)
    assert (step.view.used, step.pressure) == (1000, Pressure.SLOWED)
    assert meter.spend(1, NOON).view.used == 1001
    assert meter.codes == ["budget-100"]


def test_a_machine_that_begins_in_1970_renews_nothing() -> None:
    meter = Meter(terms())
    meter.spend(900, NOON)
    assert meter.spend(5, 100).view.used == 905
    assert meter.spend(5, NOON + 1).view.used == 910
    assert meter.spend(0, NOON + DAY).view.used == 0


def test_sleep_over_midnight_renews_once_and_loses_nothing() -> None:
    meter = Meter(terms())
    meter.spend(1000, NOON)
    step = meter.spend(7, NOON + 3 * DAY)
    assert (step.view.used, step.pressure) == (7, Pressure.NONE)


def test_travel_makes_no_short_period() -> None:
    """Who flies west at the month's end gets no second month of six hours."""
    berlin = Schedule(cycle=Cycle.MONTH, zone=BERLIN)
    november = berlin.at(NOON)
    new_york = Schedule(cycle=Cycle.MONTH, zone=ZoneInfo("America/New_York"))
    found = next_period(november, new_york, november.end_unix_s)
    assert found.start_unix_s == november.end_unix_s
    assert found.end_unix_s == int(datetime.fromisoformat("2027-01-01T00:00-05:00").timestamp())


def test_burn_and_forecast_follow_an_even_use() -> None:
    meter = Meter(terms(cycle=Cycle.MONTH, limit=100 * GB))
    start = int(datetime.fromisoformat("2026-11-01T00:00+01:00").timestamp())
    step = meter.spend(0, start)
    for hour in range(10 * 24):
        step = meter.spend(GB // 24, start + (hour + 1) * HOUR)
    assert step.view.burn_per_day == pytest.approx(GB, rel=0.01)
    assert step.view.forecast == pytest.approx(30 * GB, rel=0.01)


@pytest.mark.expectation(21)
def test_the_first_seconds_of_a_period_forecast_neither_nothing_nor_ruin() -> None:
    meter = Meter(terms(cycle=Cycle.MONTH, limit=100 * GB))
    start = int(datetime.fromisoformat("2026-11-01T00:00+01:00").timestamp())
    assert meter.spend(0, start).view.forecast == 100 * GB
    burst = meter.spend(5_000_000, start + 1)
    assert burst.view.forecast < 110 * GB
    assert burst.view.burn_per_day < GB


@pytest.mark.row("MV-45")
def test_money_has_a_flat_rate_equivalent_and_shows_at_once() -> None:
    meter = Meter(terms(unit=Unit.NANODOLLARS, cycle=Cycle.MONTH, limit=20 * GB, currency="EUR"))
    start = int(datetime.fromisoformat("2026-11-01T00:00+01:00").timestamp())
    meter.spend(0, start)
    step = meter.spend(7_100_000_000, start + 15 * DAY)
    assert step.view.used == 7_100_000_000
    assert step.view.flat_nanodollars_per_month == pytest.approx(14_200_000_000, rel=0.01)
    assert step.view.currency == "EUR"
    assert meter.spend(1, start + 15 * DAY).view.used == 7_100_000_001, "within the same second"
    assert per_month(GB, 28 * DAY) == GB
    assert 30 * GB < per_month(GB, DAY) < 31 * GB


def test_a_limit_of_nothing() -> None:
    meter = Meter(terms(limit=0, hard=True))
    assert meter.spend(0, NOON).pressure is Pressure.FLOOR
    assert meter.codes == []
    meter.spend(1, NOON)
    assert meter.codes == ["budget-100"]


def test_amounts_for_a_screen() -> None:
    assert [show_bytes(count) for count in (0, 999, 1000, 1_234_567, 1_999_999_999, 20 * GB)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "1.99 GB",
        "20 GB",
    ]
    assert show_amount(14_200_000_000, Unit.NANODOLLARS, "EUR") == "14.2 EUR"


@given(
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(-2 * HOUR, 30 * HOUR), st.integers(0, 300)), max_size=40),
    hard=st.booleans(),
    cycle=st.sampled_from(Cycle),
)
def test_whatever_happens(steps: list[tuple[int, int, int]], hard: bool, cycle: Cycle) -> None:
    """Sums are exact, periods move on, and each threshold is told at most once for one limit of one period."""
    meter = Meter(terms(hard=hard, cycle=cycle))
    unix_s, spent, last_end = NOON, 0, 0
    told: set[tuple[int, int, str]] = set()
    for amount, passed_s, top_up in steps:
        unix_s += passed_s
        step = meter.spend(amount, unix_s, top_up=top_up)
        spent = amount if step.memory.end_unix_s != last_end else spent + amount
        assert step.memory.end_unix_s >= last_end
        last_end = step.memory.end_unix_s
        assert step.view.used == spent
        assert (step.pressure is Pressure.NONE) == (spent < step.view.limit)
        assert step.view.forecast >= spent
        assert len(step.announcements) <= 1
        for each in step.announcements:
            about = (last_end, step.view.limit, each.code)
            assert about not in told
            told.add(about)
