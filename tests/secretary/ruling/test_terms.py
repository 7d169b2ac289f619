"""An answer holds as long as was said, whatever the clocks do, and for what it was about, the most specific first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.ruling import terms
from secretary.ruling.rules import Most
from secretary.ruling.terms import Deadline, Scope, Standing, StandingAnswers, Term, deadline_of, standing_answer
from secretary.transfers import Moment, Transfer

NOW = Moment(unix_s=1_795_000_000, boot_ns=50_000_000_000_000, boot="b1", zone=UTC)
ZOOM = Transfer(user="ann", program="zoom", kind="call", destination="meet.example", network="phone", size_bytes=10**6)
PRICE = Most(mb_nanodollars=100)


def later(seconds: int, *, wall: int | None = None, moment: Moment = NOW) -> Moment:
    """`wall`: what the wall clock says to have passed, when it was set."""
    passed = seconds if wall is None else wall
    return replace(moment, unix_s=moment.unix_s + passed, boot_ns=moment.boot_ns + seconds * 10**9)


def rebooted(seconds: int) -> Moment:
    return replace(NOW, boot="b2", boot_ns=1_000_000_000, unix_s=NOW.unix_s + seconds)


def answer(scope: Scope, term: Term = Term.ALWAYS, *, number: int = 1, most: Most | None = PRICE) -> Standing:
    made = standing_answer(number, scope, term, NOW, most=most)
    assert made is not None
    return made


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


# --- which answer -----------------------------------------------------------------------------------------------------


def test_the_most_specific_answer_is_found_and_of_two_alike_the_latest() -> None:
    answers = StandingAnswers(
        [
            answer(Scope(), number=1),
            answer(Scope(user="ann", program="zoom"), number=2),
            answer(Scope(user="ann", program="zoom", network="phone"), number=3, most=None),
            answer(Scope(user="ann", program="zoom", destination="meet.example"), number=4),
            answer(Scope(user="bob", program="zoom", kind="call", network="phone"), number=5),
        ]
    )
    found = answers.of(ZOOM, NOW)
    assert found is not None
    assert found.number == 4
    other = answers.of(msgspec.structs.replace(ZOOM, destination="x.example"), NOW)
    assert other is not None
    assert (other.number, other.most) == (3, None)
    nobody = answers.of(Transfer(), NOW)
    assert nobody is not None
    assert nobody.number == 1


TEXTS = st.sampled_from(["", "x", "y"])
SCOPES = st.builds(Scope, user=TEXTS, program=TEXTS, kind=TEXTS, destination=TEXTS, network=TEXTS)
TRANSFERS = st.builds(Transfer, user=TEXTS, program=TEXTS, kind=TEXTS, destination=TEXTS, network=TEXTS)


@given(st.lists(SCOPES, max_size=20), TRANSFERS)
def test_finding_by_scope_is_looking_at_all(scopes: list[Scope], transfer: Transfer) -> None:
    answers = StandingAnswers(answer(scope, number=number) for number, scope in enumerate(scopes))
    fitting = [each for each in answers.all() if each.scope.holds(transfer)]
    best = max(fitting, key=lambda each: (each.scope.specificity, each.number), default=None)
    assert answers.of(transfer, NOW) == best


@pytest.mark.expectation(9)
def test_an_answer_that_is_over_holds_no_more_even_before_it_is_expired() -> None:
    answers = StandingAnswers([answer(Scope(program="zoom"), Term.TEN_MINUTES), answer(Scope(), number=2)])
    assert [found.number for now in (NOW, later(600)) if (found := answers.of(ZOOM, now))] == [1, 2]
    assert [each.number for each in answers.expire(later(600))] == [1]
    assert answers.expire(later(600)) == ()
    assert len(answers.all()) == 1


@pytest.mark.expectation(9)
def test_once_answers_its_own_question_only() -> None:
    assert standing_answer(1, Scope(program="zoom"), Term.ONCE, NOW, most=PRICE) is None


@pytest.mark.expectation(9)
def test_until_it_quits() -> None:
    answers = StandingAnswers([answer(Scope(program="zoom"), Term.UNTIL_QUIT)])
    assert answers.waits_for_end_of() == {"zoom"}
    assert answers.quit({"/opt/zoom/zoom"}) == ()
    assert [each.number for each in answers.quit({"/usr/bin/firefox"})] == [1]
    assert answers.of(ZOOM, NOW) is None
    with pytest.raises(ValueError, match="needs a program"):
        standing_answer(1, Scope(user="ann"), Term.UNTIL_QUIT, NOW, most=PRICE)


@pytest.mark.expectation(9)
def test_answers_survive_a_restart_and_rest_while_nobody_can_say_how_much_time_is_left() -> None:
    before = StandingAnswers([answer(Scope(program="zoom"), Term.ONE_HOUR)])
    kept = msgspec.json.decode(msgspec.json.encode(before.all()), type=tuple[Standing, ...])
    answers = StandingAnswers(kept)
    assert answers.all() == before.all()
    assert answers.of(ZOOM, rebooted(3599)) is not None
    assert answers.of(ZOOM, rebooted(3600)) is None
    # The machine came up with a clock of last year, until the time service corrects it.
    assert answers.of(ZOOM, rebooted(-(10**7))) is None
    assert answers.expire(rebooted(-(10**7))) == ()
    assert answers.of(ZOOM, rebooted(60)) is not None


def test_an_answer_takes_the_place_of_the_last_one_and_can_be_undone() -> None:
    answers = StandingAnswers()
    answers.say(answer(Scope(program="zoom"), number=1))
    answers.say(answer(Scope(program="zoom"), number=2, most=None))
    assert len(answers.all()) == 1
    assert answers.withdraw(1) is None
    assert answers.withdraw(2) is not None
    assert answers.of(ZOOM, NOW) is None


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "STANDING_MAX", 2)
    answers = StandingAnswers(answer(Scope(program=f"p{number}"), number=number) for number in range(4))
    assert [each.number for each in answers.all()] == [2, 3]


def test_a_scope_is_said_in_words() -> None:
    assert str(Scope()) == "anything"
    assert str(Scope(user="ann", program="zoom", network="phone")) == "user ann, program zoom, on phone"
