"""What screens say of the secretary's questions, rules, purse, statements and traces."""

from __future__ import annotations

import dataclasses

import pytest
from rich.text import Text
from snapshots import NOW_UNIX_S, QUESTIONS, household
from tui_secretary import ALARM, ANSWERED, MORE, PURSE, RULES, TRACE, WORTH, statement, with_secretary

from tui.model import bill, budgets, inbox, rules
from tui.model.columns import Sorting
from tui.model.personal import COLUMNS, Inbox
from tui.model.texts import amount_from_text, exact_money


def said(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


# --- inbox --------------------------------------------------------------------------------------------------------


def test_what_runs_out_first_stands_first_then_what_waits_then_what_is_answered() -> None:
    late = dataclasses.replace(WORTH, number=4, state="waiting")
    shown = inbox.entries(QUESTIONS, (ANSWERED, late, ALARM, MORE, WORTH), NOW_UNIX_S)
    assert [entry.key for entry in shown] == [
        "packet 8",
        "packet 7",
        "secretary 7",
        "secretary 6",
        "secretary 5",
        "secretary 4",
        "secretary 3",
    ]
    found = inbox.listing(shown, Sorting(), "ann")
    assert [entry.question.number for entry in found.things] == [7, 5, 4, 3]
    assert [found.faint(entry) for entry in found.things] == [False, False, False, True]
    assert [entry.key for entry in inbox.listing(shown, Sorting(by="left"), "").things][:2] == ["packet 8", "packet 7"]


def test_an_answered_question_says_its_answer() -> None:
    (entry,) = inbox.entries((), (ANSWERED,), NOW_UNIX_S)
    assert entry.otherwise == "yes, today"
    assert "answered  yes, today; u takes it back" in said(inbox.detail(entry, NOW_UNIX_S))


def test_questions_are_counted_wherever_they_wait() -> None:
    assert inbox.waiting(None) == 0
    assert inbox.waiting(household()) == 2
    assert inbox.waiting(with_secretary(household(), questions=3)) == 5
    assert inbox.counted(Inbox(questions=(), asked_today=2, a_day=3)) == "asked today 2 of at most 3"


# --- rules --------------------------------------------------------------------------------------------------------


def test_faults_of_rules_are_bounded_and_an_empty_condition_is_always() -> None:
    many = dataclasses.replace(RULES, faults=tuple(f"mine.toml: fault {place}" for place in range(5)))
    notes = said(list(rules.notes(many, "")))
    assert "! mine.toml: fault 2" in notes
    assert "2 more faults" in notes
    assert rules.notes(None, "") == []
    ceiling = next(rule for rule in rules.rules_of((), RULES) if rule.by == "ceiling")
    assert "when  always" in said(rules.detail(ceiling))
    answer = next(rule for rule in rules.rules_of((), RULES) if rule.by == "your answer")
    assert "ends in 8 h 53 min" in said(rules.detail(answer))


# --- money --------------------------------------------------------------------------------------------------------


def test_a_purse_that_is_not_ones_own_shows_no_sums() -> None:
    hidden = dataclasses.replace(PURSE, balance_nanodollars=None, reserved_nanodollars=None, warnings=("clock",))
    text = said(budgets.purse_lines(hidden))
    assert "purse  a keeper's to see, 2 open grants" in text
    assert "EMPTY" not in text
    assert "! clock" in text
    assert "Example Ltd" in said(budgets.purse_lines(dataclasses.replace(PURSE, organisation="Example Ltd")))


@pytest.mark.expectation(17)
@pytest.mark.parametrize("by", COLUMNS)
def test_a_statement_has_every_sum_to_the_nanodollar_and_its_lines_sum_up(by: str) -> None:
    told = statement("2026-11-01", "2026-11-30", by)
    text = said(bill.sums(told, 160))
    for amount in (told.opening_nanodollars, told.topped_up_nanodollars, told.spent_nanodollars, told.fees_nanodollars):
        assert exact_money(amount) in text
    change = told.topped_up_nanodollars - told.spent_nanodollars - told.fees_nanodollars
    assert told.opening_nanodollars + change == told.closing_nanodollars
    listing = bill.listing(told, Sorting(), "")
    assert sum(line.nanodollars for line in listing.things) == told.spent_nanodollars
    assert listing.columns[0].title == by


def test_a_long_trace_is_cut_and_one_that_does_not_add_up_says_so() -> None:
    line = statement("2026-11-01", "2026-11-30", "program").lines[0]
    assert "!" not in said(bill.trace_lines(line, TRACE))
    many = dataclasses.replace(TRACE, grants=TRACE.grants * (bill.MOST_GRANTS + 2))
    text = said(bill.trace_lines(line, many))
    assert "2 more grants: hostagent secretary trace" in text
    assert "! its grants sum up to 124.8" in text
    night = dataclasses.replace(TRACE.grants[0].steps[0], until_unix_s=NOW_UNIX_S + 86_400)
    grant = dataclasses.replace(TRACE.grants[0], steps=(night,), is_disputed=True)
    text = said(bill.trace_lines(line, dataclasses.replace(TRACE, grants=(grant,))))
    assert "to 2026-11-12 12:26" in text
    assert "confirmed by the gateway, disputed" in text


def test_a_month_has_its_days() -> None:
    assert bill.days_of("2026-02") == ("2026-02-01", "2026-02-28")
    assert bill.days_of("2028-02") == ("2028-02-01", "2028-02-29")


@pytest.mark.parametrize(
    ("text", "amount"), [("5", 5 * 10**9), ("0.05", 50_000_000), ("200m", 2 * 10**8), ("", None), ("-1", None)]
)
def test_an_amount_is_money(text: str, amount: int | None) -> None:
    assert amount_from_text(text) == amount
