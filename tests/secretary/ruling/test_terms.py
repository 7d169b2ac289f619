"""An answer holds as long as was said, whatever the clocks do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.ruling.terms import Deadline, Term, deadline_of
from secretary.transfers import Moment

NOW = Moment(unix_s=1_795_000_000, boot_ns=50_000_000_000_000, boot="b1", zone=UTC)


def later(seconds: int, *, wall: int | None = None, moment: Moment = NOW) -> Moment:
    """`wall`: what the wall clock says to have passed, when it was set."""
    passed = seconds if wall is None else wall
    return replace(moment, unix_s=moment.unix_s + passed, boot_ns=moment.boot_ns + seconds * 10**9)


def rebooted(seconds: int) -> Moment:
    return replace(NOW, boot="b2", boot_ns=1_000_000_000, unix_s=NOW.unix_s + seconds)


# --- when a term ends -------------------------------------------------------------------------------------------------


@pytest.mark.expectation(9)
@pytest.mark.parametrize(("term", "seconds"), [(Term.TEN_MINUTES, 600), (Term.ONE_HOUR, 3600)])
def test_a_term_ends_when_its_time_is_over_and_not_before(term: Term, seconds: int) -> None:
    end = deadline_of(term, NOW)
    assert not end.is_over(later(seconds - 1))
    assert end.is_over(later(seconds))
    assert end.is_over(later(seconds + 1, wall=-86_400)), "a clock that is set back renews nothing"
    assert end.is_over(later(5, wall=seconds)), "nor does one that is set on lengthen it"
    assert end.seconds_left(rebooted(60)) == seconds - 60, "after a reboot the wall clock decides"


@pytest.mark.expectation(9)
def test_the_time_asleep_counts() -> None:
    """CLOCK_BOOTTIME and the wall clock both went on; only the monotonic clock, which nobody asks, stood still."""
    assert deadline_of(Term.ONE_HOUR, NOW).is_over(later(8 * 3600))


@pytest.mark.parametrize("term", [Term.ONCE, Term.UNTIL_QUIT, Term.ALWAYS])
def test_some_terms_have_no_end_on_a_clock(term: Term) -> None:
    assert deadline_of(term, NOW) == Deadline()
    assert deadline_of(term, NOW).seconds_left(later(10**9)) is None


@pytest.mark.expectation(9)
@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 11, 21), 24)])
def test_today_ends_at_the_next_local_midnight(day: tuple[int, int, int], hours: int) -> None:
    zone = ZoneInfo("Europe/Berlin")

    midnight = replace(NOW, unix_s=int(datetime(*day, tzinfo=zone).timestamp()), zone=zone)
    assert deadline_of(Term.TODAY, midnight).seconds_left(midnight) == hours * 3600


@given(st.sampled_from([Term.TEN_MINUTES, Term.ONE_HOUR, Term.TODAY]), st.lists(st.integers(-(10**6), 10**6)))
@pytest.mark.expectation(9)
def test_no_setting_of_the_wall_clock_lengthens_a_term(term: Term, jumps: list[int]) -> None:
    end, now = deadline_of(term, NOW), NOW
    whole = end.seconds_left(NOW)
    assert whole is not None
    for number, jump in enumerate(jumps):
        now = later(1, wall=jump, moment=now)
        left = end.seconds_left(now)
        assert left is not None
        assert left <= whole - number - 1
