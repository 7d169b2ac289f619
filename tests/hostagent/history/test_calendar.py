"""Local days, months and billing periods, on days of 23, 24 and 25 hours."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.history.calendar import Span, day_of, day_span, month_of, month_span, period_of, periods, spans

BERLIN = ZoneInfo("Europe/Berlin")
zones = st.sampled_from(
    [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/Sao_Paulo", "Pacific/Apia")]
)
times = st.integers(
    int(datetime(2005, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2035, 1, 1, tzinfo=UTC).timestamp())
)


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 7, 1), 24), (date(2026, 12, 31), 24)],
)
def test_days_have_the_hours_that_clocks_give_them(day: date, hours: int) -> None:
    span = day_span(day, BERLIN)
    assert span.seconds == hours * 3600
    assert day_of(span.from_unix_s, BERLIN) == day_of(span.until_unix_s - 1, BERLIN) == span
    assert len(spans(*span, "hour", BERLIN)) == hours


def test_a_day_without_a_midnight_begins_when_its_clock_does() -> None:
    """In São Paulo clocks were put from 0:00 to 1:00 on 2018-11-04."""
    zone = ZoneInfo("America/Sao_Paulo")
    span = day_span(date(2018, 11, 4), zone)
    assert span.seconds == 23 * 3600
    assert datetime.fromtimestamp(span.from_unix_s, zone).hour == 1
    assert day_span(date(2018, 11, 3), zone).until_unix_s == span.from_unix_s


def test_months() -> None:
    assert month_span("2026-03", BERLIN).seconds == 31 * 86400 - 3600
    assert month_of(month_span("2026-12", BERLIN).until_unix_s, BERLIN) == "2027-01"
    with pytest.raises(ValueError, match="2026-13"):
        month_span("2026-13", BERLIN)


@pytest.mark.parametrize(
    ("today", "reset_day", "first", "after"),
    [
        (date(2026, 3, 14), 15, date(2026, 2, 15), date(2026, 3, 15)),
        (date(2026, 3, 15), 15, date(2026, 3, 15), date(2026, 4, 15)),
        (date(2026, 2, 27), 31, date(2026, 1, 31), date(2026, 2, 28)),
        (date(2026, 2, 28), 31, date(2026, 2, 28), date(2026, 3, 31)),
        (date(2026, 1, 1), 2, date(2025, 12, 2), date(2026, 1, 2)),
    ],
)
def test_billing_periods_begin_on_their_reset_day(today: date, reset_day: int, first: date, after: date) -> None:
    found = period_of(day_span(today, BERLIN).from_unix_s, reset_day, BERLIN)
    assert found == Span(day_span(first, BERLIN).from_unix_s, day_span(after, BERLIN).from_unix_s)


@given(times, st.integers(1, 40 * 86400), st.sampled_from(["hour", "day", "month", "all"]), zones)
def test_spans_cover_every_second_once(since: int, length: int, step: str, zone: ZoneInfo) -> None:
    found = spans(since, since + length, step, zone)
    assert (found[0].from_unix_s, found[-1].until_unix_s) == (since, since + length)
    assert all(one.until_unix_s == other.from_unix_s for one, other in pairwise(found))
    assert all(span.seconds > 0 for span in found)
    assert spans(since, since, step, zone) == []


@given(times, st.integers(1, 31), zones)
def test_periods_hold_their_seconds(unix_s: int, reset_day: int, zone: ZoneInfo) -> None:
    found = period_of(unix_s, reset_day, zone)
    assert found.from_unix_s <= unix_s < found.until_unix_s
    assert 27 * 86400 < found.seconds < 32 * 86400
    assert periods(unix_s, found.until_unix_s + 1, reset_day, zone)[1].from_unix_s == found.until_unix_s
