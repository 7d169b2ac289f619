"""What a person said holds as long as was said, whatever the clocks do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from hostagent.api import Term
from hostagent.sharing.words import WORDS_MAX, Words
from secretary.transfers import Moment

NOW = Moment(unix_s=1_795_000_000, boot_ns=50_000_000_000_000, boot="b1", zone=UTC)


def later(seconds: int, *, wall: int | None = None, moment: Moment = NOW) -> Moment:
    """`wall`: what the wall clock says to have passed, when it was set."""
    passed = seconds if wall is None else wall
    return replace(moment, unix_s=moment.unix_s + passed, boot_ns=moment.boot_ns + seconds * 10**9)


@pytest.mark.expectation(9)
@pytest.mark.parametrize(("term", "seconds"), [(Term.TEN_MINUTES, 600), (Term.ONE_HOUR, 3600)])
def test_a_word_ends_when_its_time_is_over_and_not_before(term: Term, seconds: int) -> None:
    words = Words()
    words.say("zoom", term, NOW, kind="game")
    assert words.expire(later(seconds - 1)) == []
    assert [word.program for word in words.expire(later(seconds))] == ["zoom"]
    assert words.all() == ()


@pytest.mark.expectation(9)
def test_a_clock_that_is_set_back_renews_nothing() -> None:
    words = Words()
    words.say("zoom", Term.TEN_MINUTES, NOW, kind="game")
    assert words.expire(later(601, wall=-86_400))


@pytest.mark.expectation(9)
def test_the_time_asleep_counts() -> None:
    """CLOCK_BOOTTIME and the wall clock both went on; only the monotonic clock, which nobody asks, stood still."""
    words = Words()
    words.say("zoom", Term.ONE_HOUR, NOW, nanodollars_per_mb=5)
    assert words.expire(later(8 * 3600))


def test_after_a_reboot_the_wall_clock_decides() -> None:
    words = Words()
    words.say("zoom", Term.ONE_HOUR, NOW, kind="game")
    rebooted = replace(NOW, boot="b2", boot_ns=1_000_000_000, unix_s=NOW.unix_s + 60)
    kept = Words(words.all())
    assert kept.expire(rebooted) == []
    assert kept.all()[0].seconds_left(rebooted) == 3540
    assert kept.expire(replace(rebooted, unix_s=NOW.unix_s + 3600))


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 11, 21), 24)])
def test_today_ends_at_the_next_local_midnight(day: tuple[int, int, int], hours: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    start = Moment(unix_s=int(datetime(*day, tzinfo=zone).timestamp()), boot_ns=1, boot="b", zone=zone)
    words = Words()
    words.say("zoom", Term.TODAY, start, kind="game")
    assert words.all()[0].seconds_left(start) == hours * 3600


def test_until_it_quits_is_over_when_nothing_of_it_runs() -> None:
    words = Words()
    words.say("zoom", Term.UNTIL_QUIT, NOW, kind="game")
    words.say("/opt/game", Term.UNTIL_QUIT, NOW, kind="game")
    assert words.waits_for_end_of() == ("zoom", "/opt/game")
    assert words.quit({"/usr/bin/zoom", "/usr/bin/game"})[0].program == "/opt/game"
    assert words.quit({"/usr/bin/zoom"}) == []
    assert words.expire(later(10**6)) == []


def test_a_path_goes_before_a_name() -> None:
    words = Words()
    words.say("zoom", Term.ALWAYS, NOW, kind="game")
    words.say("/opt/zoom", Term.ALWAYS, NOW, kind="call")
    found = [words.of("/opt/zoom"), words.of("/usr/bin/zoom"), words.of("/usr/bin/curl")]
    assert [word.kind if word else None for word in found] == ["call", "game", None]


def test_the_latest_word_stands_alone_and_an_empty_one_takes_it_back() -> None:
    words = Words()
    words.say("zoom", Term.ALWAYS, NOW, kind="game")
    words.say("zoom", Term.ALWAYS, NOW, nanodollars_per_mb=7)
    assert [(word.kind, word.nanodollars_per_mb) for word in words.all()] == [(None, 7)]
    words.say("zoom", Term.ALWAYS, NOW)
    assert words.all() == ()


def test_there_is_room_for_so_many_and_the_oldest_gives_way() -> None:
    words = Words()
    for number in range(WORDS_MAX + 3):
        words.say(f"p{number}", Term.ALWAYS, NOW, kind="game")
    assert [words.all()[0].program, len(words.all())] == ["p3", WORDS_MAX]
