"""The one line that a person reads."""

from __future__ import annotations

from dataclasses import replace

from secretary.guard.telling import Sight, tell
from secretary.guard.values import Detector

SIGHT = Sight(
    program="curl",
    destination="203.0.113.9",
    detector=Detector.SURGE,
    ratio=10.23,
    is_new=True,
    is_rare_hour=True,
    foreground=False,
    clock="03:10",
    minutes=2,
    paid_nanodollars=20_000_000,
)


def test_all_that_is_odd_is_in_the_line() -> None:
    assert tell(SIGHT) == (
        "curl paid 10.2 times its usual rate, to 203.0.113.9, which it never paid before, "
        "at 03:10, when it seldom pays, in the background"
    )


def test_what_is_not_odd_is_not() -> None:
    plain = replace(SIGHT, destination="", is_new=False, is_rare_hour=False, foreground=None, ratio=2.0, minutes=40)
    assert tell(plain) == "curl paid 2.0 times its usual rate, at 03:10"
    assert tell(replace(plain, detector=Detector.DRIFT)) == (
        "curl has paid 2.0 times its usual rate for 40 min, at 03:10"
    )
    assert tell(replace(plain, detector=Detector.HOURS)) == (
        "curl has paid 2.0 times as much as in its usual hours, at 03:10"
    )


def test_without_a_baseline_the_money_is_named() -> None:
    assert tell(replace(SIGHT, ratio=0.0, destination="", is_rare_hour=False)) == (
        "curl paid 2 cents within 2 min, and nothing is usual for it yet, at 03:10, in the background"
    )
