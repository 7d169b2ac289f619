"""The allowance of questions, and what an answer is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.learning.asking import AskingSettings, allowance_after

DAY_S = 86_400
SETTINGS = AskingSettings()


def test_the_agreed_rate_falls_day_by_day() -> None:
    rates = [SETTINGS.rate(day) for day in range(120)]
    assert rates == sorted(rates, reverse=True)
    assert sum(rates[14:21]) / 7 <= 0.7
    assert rates[-1] > SETTINGS.last_rate


@given(st.lists(st.floats(0, 60), max_size=40))
def test_who_asks_only_with_a_question_saved_keeps_to_the_rate(days: list[float]) -> None:
    asked: list[int] = []
    for day in sorted(days):
        now = int(day * DAY_S)
        if allowance_after(asked, 0, SETTINGS, 1.0).at(now, 0, SETTINGS, 1.0) >= 1.0:
            asked.append(now)
    agreed = sum(SETTINGS.rate(day / 24) for day in range(60 * 24)) / 24
    assert len(asked) <= 1.0 + agreed + 0.5


def test_questions_are_saved_up_to_a_bound() -> None:
    left = allowance_after([], 0, SETTINGS, 1.0)
    assert left.at(0, 0, SETTINGS, 1.0) == 1.0
    assert left.at(100 * DAY_S, 0, SETTINGS, 1.0) == SETTINGS.saved_questions
    assert left.at(-DAY_S, 0, SETTINGS, 1.0) == 1.0


def test_a_question_uses_one() -> None:
    asked = allowance_after([5 * DAY_S], 0, SETTINGS, 1.0)
    assert asked.at(5 * DAY_S, 0, SETTINGS, 1.0) == pytest.approx(SETTINGS.saved_questions - 1.0)
