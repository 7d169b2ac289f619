"""Periods: whole, without gaps, in local time, through every change of the clock."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.money.periods import Cycle, Period, Schedule, dates_between, day_at, local_date

HOUR = 3600
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "America/St_Johns")]


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def local(unix_s: int, zone: ZoneInfo = BERLIN) -> str:
    return datetime.fromtimestamp(unix_s, zone).isoformat()


def test_days_of_a_clock_change_have_23_and_25_hours() -> None:
    spring = day_at(unix("2026-03-29T12:00+02:00"), BERLIN)
    autumn = day_at(unix("2026-10-25T12:00+01:00"), BERLIN)
    assert (spring.seconds, autumn.seconds) == (23 * HOUR, 25 * HOUR)
    assert local(spring.end_unix_s) == "2026-03-30T00:00:00+02:00"


def test_a_month_begins_on_its_reset_day() -> None:
    schedule = Schedule(cycle=Cycle.MONTH, zone=BERLIN, reset_day=17)
    period = schedule.at(unix("2026-03-16T23:59:59+01:00"))
    assert (local(period.start_unix_s), local(period.end_unix_s)) == (
        "2026-02-17T00:00:00+01:00",
        "2026-03-17T00:00:00+01:00",
    )
    assert local(schedule.after(period).end_unix_s) == "2026-04-17T00:00:00+02:00"
    assert schedule.at(unix("2026-01-05T12:00+01:00")).start_unix_s == unix("2025-12-17T00:00+01:00")


def test_a_week_begins_on_its_reset_day() -> None:
    schedule = Schedule(cycle=Cycle.WEEK, zone=BERLIN, reset_day=1)
    period = schedule.at(unix("2026-11-11T12:00+01:00"))
    assert (local(period.start_unix_s), local(period.end_unix_s)) == (
        "2026-11-09T00:00:00+01:00",
        "2026-11-16T00:00:00+01:00",
    )


def test_how_much_is_gone() -> None:
    period = Period(start_unix_s=1000, end_unix_s=2000)
    assert [period.elapsed_ppm(at) for at in (0, 1000, 1250, 2000, 9000)] == [0, 0, 250_000, 1_000_000, 1_000_000]
    assert [period.left_s(at) for at in (0, 1250, 9000)] == [1000, 750, 0]


def test_a_midnight_that_was_left_out() -> None:
    """Brazil's clocks went from 0 h to 1 h: the day began at 1 h."""
    zone = ZoneInfo("America/Sao_Paulo")
    day = day_at(unix("2018-11-04T12:00-02:00"), zone)
    assert local(day.start_unix_s, zone) == "2018-11-04T01:00:00-02:00"
    assert day.seconds == 23 * HOUR


def test_a_midnight_that_came_twice() -> None:
    """Newfoundland's clocks went back at 0:01: the new date stays, it has begun."""
    zone = ZoneInfo("America/St_Johns")
    just_after = unix("2010-11-07T00:00:30-02:30")
    half_an_hour_later = just_after + HOUR // 2
    assert datetime.fromtimestamp(half_an_hour_later, zone).date() == date(2010, 11, 6)
    assert local_date(half_an_hour_later, zone) == date(2010, 11, 7)
    assert day_at(just_after, zone) == day_at(half_an_hour_later, zone)


def test_a_date_that_never_was() -> None:
    zone = ZoneInfo("Pacific/Apia")
    day = day_at(unix("2011-12-30T09:59:59+00:00"), zone)
    assert local_date(day.end_unix_s, zone) == date(2011, 12, 31)
    assert day.seconds == 24 * HOUR


def test_dates_between() -> None:
    assert dates_between(date(2026, 2, 27), date(2026, 3, 2)) == [
        date(2026, 2, 27),
        date(2026, 2, 28),
        date(2026, 3, 1),
    ]
    assert dates_between(date(2026, 3, 2), date(2026, 3, 2)) == []


@given(
    unix_s=st.integers(0, 2**31),
    zone=st.sampled_from(ZONES),
    cycle=st.sampled_from(Cycle),
    reset_day=st.integers(1, 7),
)
def test_periods_have_neither_gap_nor_overlap(unix_s: int, zone: ZoneInfo, cycle: Cycle, reset_day: int) -> None:
    schedule = Schedule(cycle=cycle, zone=zone, reset_day=reset_day)
    period = schedule.at(unix_s)
    assert period.start_unix_s <= unix_s < period.end_unix_s
    assert schedule.at(period.start_unix_s) == period == schedule.at(period.end_unix_s - 1)
    assert schedule.after(period).start_unix_s == period.end_unix_s


@pytest.mark.parametrize(("cycle", "reset_day"), [(Cycle.MONTH, 29), (Cycle.WEEK, 8), (Cycle.MONTH, 0)])
def test_a_reset_day_that_not_every_period_has(cycle: Cycle, reset_day: int) -> None:
    with pytest.raises(AssertionError):
        Schedule(cycle=cycle, zone=BERLIN, reset_day=reset_day)
