"""What people write on the command line, and what it means."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.words import (
    NotUnderstood,
    WorthWord,
    parse_moment,
    parse_month,
    parse_names,
    parse_span_s,
    parse_worth,
)

NOW = datetime(2026, 11, 11, 15, 6, 40, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "nanodollars_per_mb", "currency"),
    [
        ("2 USD/GB", 2_000_000, "USD"),
        ("2USD/GB", 2_000_000, "USD"),
        ("2 usd/gb", 2_000_000, "USD"),
        ("0.5", 500_000, ""),
        (".5", 500_000, ""),
        ("0", 0, ""),
        ("$3 per GB", 3_000_000, "USD"),
        ("3 $", 3_000_000, "USD"),
        ("3 € a GB", 3_000_000, "EUR"),
        ("500 mUSD/GB", 500_000, "USD"),
        ("7 µEUR/MB", 7_000, "EUR"),
        ("1 nUSD/MB", 1, "USD"),
        ("4 USD/TB", 4_000, "USD"),
        ("0.000001", 1, ""),
    ],
)
def test_money_for_a_gigabyte(text: str, nanodollars_per_mb: int, currency: str) -> None:
    assert parse_worth(text) == WorthWord(nanodollars_per_mb=nanodollars_per_mb, currency=currency)


def test_a_kind_and_a_reset() -> None:
    assert parse_worth("call") == WorthWord(kind="call")
    assert parse_worth(" Reset ") == WorthWord()


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "- 1 USD", "1e5", "2 GB", "2 m/GB", "$2 USD", "0.0000001", "1000000000000000 USD/MB"),
        *("2 USD/kB", "2,5", "call now", "call;rm", "x" * 65, "2 USD/GB/GB", "0x10", "١", "1_000", "1 USD GB"),
    ],
)
def test_what_is_not_understood_says_what_would_be(text: str) -> None:
    with pytest.raises(NotUnderstood) as caught:
        parse_worth(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


@given(st.integers(0, 10**12))
def test_no_worth_is_rounded(millionths: int) -> None:
    assert parse_worth(f"{millionths // 10**6}.{millionths % 10**6:06d}").nanodollars_per_mb == millionths


@given(st.text(max_size=40))
def test_any_text_is_a_worth_within_bounds_or_not_understood(text: str) -> None:
    with contextlib.suppress(NotUnderstood):
        said = parse_worth(text)
        assert said.nanodollars_per_mb is None or 0 <= said.nanodollars_per_mb <= 10**15


def test_spans() -> None:
    assert [parse_span_s(text) for text in ("30s", "30", "0s", "10m", "10 min", "1h", "2d", "1w")] == [
        *(30, 30, 0, 600, 600, 3600, 172_800, 604_800)
    ]
    for text in ("", "-1s", "1.5h", "367d", "1 year", "9999999999"):
        with pytest.raises(NotUnderstood):
            parse_span_s(text)


def test_moments_are_of_the_zone_that_the_person_is_in() -> None:
    assert parse_moment("now", NOW) == NOW
    assert parse_moment("today", NOW).isoformat() == "2026-11-11T00:00:00+01:00"
    assert parse_moment("yesterday", NOW).isoformat() == "2026-11-10T00:00:00+01:00"
    assert parse_moment("2h", NOW) == NOW - timedelta(hours=2)
    assert parse_moment("2026-11-03", NOW).isoformat() == "2026-11-03T00:00:00+01:00"
    assert parse_moment("2026-11-03T14:00", NOW).isoformat() == "2026-11-03T14:00:00+01:00"
    assert parse_moment("2026-11-03T14:00Z", NOW) == datetime(2026, 11, 3, 14, tzinfo=UTC)
    for text in ("", "soon", "12", "2026-13-01", "-1h"):
        with pytest.raises(NotUnderstood):
            parse_moment(text, NOW)


def test_months() -> None:
    assert [parse_month(text, NOW) for text in ("this", "last", "2026-02")] == ["2026-11", "2026-10", "2026-02"]
    assert parse_month("last", NOW.replace(month=1)) == "2025-12"
    for text in ("", "2026-13", "2026-00", "26-11", "november"):
        with pytest.raises(NotUnderstood):
            parse_month(text, NOW)


def test_names() -> None:
    assert parse_names("program, network", ("program", "network", "kind")) == ("program", "network")
    assert parse_names("", ("program",)) == ()
    for text in ("programs", "program,program"):
        with pytest.raises(NotUnderstood):
            parse_names(text, ("program",))
