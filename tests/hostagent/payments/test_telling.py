"""What a person is told of the secretary, and that it is told once."""

from __future__ import annotations

import msgspec
import pytest

from hostagent.payments.telling import BUDGET, MONEY_IS_OUT, QUESTIONS, Telling
from secretary.messages import Budget, BudgetLine

DAY = BudgetLine(
    name="day",
    scope="all",
    period="day",
    hard=True,
    limit_nanodollars=1_000_000,
    spent_nanodollars=0,
    reserved_nanodollars=0,
    resets_unix_s=1_000,
)


def budget(*lines: BudgetLine, questions: int = 0) -> Budget:
    return Budget(
        day_nanodollars=1, spent_today_nanodollars=0, reserved_nanodollars=0, lines=lines, questions=questions
    )


def line(percent: int, **more: object) -> BudgetLine:
    return msgspec.structs.replace(DAY, noticed_percent=percent, spent_nanodollars=percent * 10_000, **more)


@pytest.mark.expectation(14)
def test_each_threshold_is_told_once_in_a_period() -> None:
    telling = Telling()
    said = []
    for percent in (0, 0, 50, 50, 80, 80, 100, 100):
        said += telling.on_budget(budget(line(percent)))
    assert [code for code, _ in said] == [BUDGET] * 3
    assert [message.split(" %")[0] for _, message in said] == ["50", "80", "100"]
    assert "nothing more is paid" in said[-1][1]
    assert [code for code, _ in telling.on_budget(budget(line(50, resets_unix_s=2_000)))] == [BUDGET]


def test_a_raised_budget_that_was_told_of_is_not_told_again() -> None:
    telling = Telling()
    for percent in (0, 50, 80, 40):
        telling.on_budget(budget(line(percent)))
    assert telling.on_budget(budget(line(80))) == []


def test_what_was_told_before_the_agents_start_is_told_again_only_when_the_budget_is_used_up() -> None:
    assert Telling().on_budget(budget(line(80))) == []
    ((code, message),) = Telling().on_budget(budget(line(100, hard=False, name="web", scope="program firefox")))
    assert code == BUDGET
    assert "web (program firefox)" in message
    assert "slowed" in message


def test_budgets_of_the_same_name_are_told_each_for_itself() -> None:
    telling = Telling()
    telling.on_budget(budget(line(0), line(0, scope="program ssh")))
    assert len(telling.on_budget(budget(line(50), line(50, scope="program ssh")))) == 2


@pytest.mark.expectation(7)
def test_questions_are_told_as_they_come() -> None:
    telling = Telling()
    assert telling.on_budget(budget()) == []
    assert telling.on_budget(budget(questions=1)) == [
        (QUESTIONS, "1 question waits at the secretary: hostagent secretary inbox")
    ]
    assert telling.on_budget(budget(questions=1)) == []
    assert len(telling.on_budget(budget(questions=2))) == 1
    assert telling.on_budget(budget()) == []
    assert len(telling.on_budget(budget(questions=1))) == 1


@pytest.mark.expectation(15)
def test_money_that_is_out_is_told_once_and_so_is_its_return() -> None:
    telling = Telling()
    assert telling.on_money("") == []
    assert telling.on_money("2 flows go on without payment") == [(MONEY_IS_OUT, "2 flows go on without payment")]
    assert telling.on_money("3 flows go on without payment") == []
    ((code, message),) = telling.on_money("")
    assert code == MONEY_IS_OUT
    assert "money again" in message
