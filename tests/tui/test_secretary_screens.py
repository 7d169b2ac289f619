"""What the secretary asks and tells, on the screens: answers, undo, money, statements, rules; and a secretary that is
not there, or says no.
"""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest
from snapshots import NOW_UNIX_S, household
from textual.widgets import Input
from tui_driving import Script, grid, keys, picture, seen, until
from tui_secretary import (
    ANSWERED,
    KEY,
    PURSE,
    SOCKET,
    ScriptedSecretary,
    household_with_secretary,
    with_secretary,
)

from hostagent import api
from tui.app import AgentApp
from tui.model.personal import Inbox
from tui.source import NotAnswered
from tui.widgets.answering import AskAmount, AskYes
from tui.widgets.dialogs import Choose, Confirm

GONE = NotAnswered(f"no secretary answers on {SOCKET}: nobody listens there")


def at_home() -> tuple[AgentApp, Script, ScriptedSecretary]:
    script, secretary = Script(household_with_secretary()), ScriptedSecretary()
    script.personal = secretary
    return AgentApp(script, title="laptop"), script, secretary


async def ready(app: AgentApp) -> None:
    await until(lambda: app.state.shown is not None and app.drawn > 1)


async def rows(app: AgentApp, *expected: str) -> None:
    await until(lambda: keys(app, "#question-table") == list(expected))


ALL = ("packet 8", "packet 7", "secretary 7", "secretary 6", "secretary 5")


# --- inbox --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(7)
@pytest.mark.expectation(8)
async def test_the_inbox_has_the_engines_and_the_secretarys_questions_with_their_defaults_and_reasons() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await seen(app, "3 inbox!5")
        assert secretary.asked == []  # the agent's count is enough while nobody looks
        await pilot.press("i")
        await rows(app, *ALL)
        await seen(app, "asked today 1 of at most 3 · none now: it is a quiet hour")
        await pilot.press("down", "down")
        text = picture(app)
        for part in (
            "a yes allows up to 30 mUSD",
            "4 transfers wait",
            "otherwise  do not pay, from 12:30:40 on, in 4 min",
        ):
            assert part in text
        assert "why  your answer is worth 40 mUSD" in text
        await pilot.press("end")
        await seen(app, "holds now  it stays frozen, since 2026-11-10 12:31")


@pytest.mark.expectation(9)
@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["y", "1"], ("answer", 7, True, None, api.Term.ONCE)),
        (["y", "3"], ("answer", 7, True, None, api.Term.TEN_MINUTES)),
        (["y", "tab", *"0.05", "enter", "6"], ("answer", 7, True, 50_000_000, api.Term.ALWAYS)),
        (["y", "tab", *"20m", "enter", "down", "enter"], ("answer", 7, True, 20_000_000, api.Term.UNTIL_QUIT)),
        (["d", "5"], ("answer", 7, False, None, api.Term.TODAY)),
    ],
)
async def test_a_question_of_worth_is_answered_with_a_term_and_a_price(
    typed: list[str], told: tuple[object, ...]
) -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        await pilot.press("down", "down", *typed)
        await until(lambda: secretary.told == [told])
        await seen(app, "question 7:")
        await rows(app, *(key for key in ALL if key != "secretary 7"))


async def test_a_price_that_is_none_is_said_and_nothing_is_answered() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        await pilot.press("down", "down", "y", "tab", *"much", "enter")
        await seen(app, "an amount is a number")
        assert isinstance(app.screen, AskYes)
        await pilot.press("escape", "d", "escape")
        assert secretary.told == []


async def test_an_alarm_and_a_budget_are_answered_with_yes_or_no() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        await pilot.press("end", "d")
        assert isinstance(app.screen, Confirm)
        await seen(app, "12 times as much as usual")
        await pilot.press("n")
        assert secretary.told == []
        await pilot.press("d", "y")
        await until(lambda: secretary.told == [("answer", 5, False, None, api.Term.ONCE)])
        await rows(app, *ALL[:-1])
        await pilot.press("end", "y", "y")
        await until(lambda: secretary.told[1:] == [("answer", 6, True, None, api.Term.ONCE)])


async def test_u_takes_the_latest_answer_back_and_v_shows_the_answered_ones() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        await pilot.press("u")
        await until(lambda: secretary.told == [("undo", None)])
        await seen(app, "the answer to question 3")
        await pilot.press("v")
        await rows(app, *ALL, f"secretary {ANSWERED.number}")
        await pilot.press("end", "y")
        await seen(app, "it is answered: yes, today")
        await pilot.press("u")
        await until(lambda: secretary.told[1:] == [("undo", ANSWERED.number)])
        await pilot.press("v")
        await rows(app, *ALL)


async def test_an_answer_that_the_secretary_refuses_is_said() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        secretary.refuses = NotAnswered("the secretary says: question 7 is bob's")
        await pilot.press("down", "down", "y", "1")
        await seen(app, "question 7 is bob's")
        assert app.is_running


async def test_the_engines_questions_are_answered_as_before() -> None:
    app, script, _secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        await pilot.press("y")
        assert isinstance(app.screen, Choose)
        await pilot.press("1")
        await until(lambda: script.calls == [api.Answer(number=8, allow=True, term=api.Term.ONCE)])


# --- when it is asked, and when it is not there -------------------------------------------------------------------


async def test_it_is_asked_only_while_somebody_looks_and_at_once_when_there_are_more_questions() -> None:
    app, script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await until(lambda: secretary.asked == ["inbox"])
        script.push(household_with_secretary(unix_s=NOW_UNIX_S + 1))
        await until(lambda: app.state.latest is not None and app.state.latest.unix_s == NOW_UNIX_S + 1)
        app.refresh_all()
        assert secretary.asked == ["inbox"]
        script.push(household_with_secretary(unix_s=NOW_UNIX_S + 2, questions=4))
        await until(lambda: secretary.asked == ["inbox"] * 2)
        script.push(household_with_secretary(unix_s=NOW_UNIX_S + 8, questions=4))
        await until(lambda: secretary.asked == ["inbox"] * 3)
        await pilot.press("1")
        script.push(household_with_secretary(unix_s=NOW_UNIX_S + 60, questions=2))
        await seen(app, "3 inbox!4")
        assert secretary.asked == ["inbox"] * 3


async def test_a_secretary_that_does_not_answer_is_one_line_on_each_screen_and_nothing_else_changes() -> None:
    app, script, secretary = at_home()
    secretary.refuses = GONE
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await seen(app, "! 3 questions there: no secretary answers on")
        assert keys(app, "#question-table") == ["packet 8", "packet 7"]
        await pilot.press("b")
        await seen(app, "no secretary answers on")
        assert "0.42 USD used, 21 %" in picture(app)
        await pilot.press("m")
        await seen(app, "= closing                 15.753132110 USD")
        await pilot.press("k", "r")
        await seen(app, "no secretary answers on")
        assert len(keys(app, "#rule-table")) == 3
        await pilot.press("i")
        secretary.refuses = None  # it is back
        script.push(household_with_secretary(unix_s=NOW_UNIX_S + 20))
        await rows(app, *ALL)


async def test_one_that_never_answers_holds_nothing_up() -> None:
    class Silent(ScriptedSecretary):
        async def inbox(self, *, answered: bool) -> Inbox:
            await asyncio.Event().wait()
            raise AssertionError(answered)

    script = Script(household_with_secretary())
    script.personal = Silent()
    app = AgentApp(script)
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i", "d")
        assert isinstance(app.screen, Choose)
        await pilot.press("1", "1")
        assert script.calls == [api.Answer(number=8, allow=False)]
        assert app.page.NAME == "flows"


@pytest.mark.parametrize(
    ("secretary", "socket", "said"),
    [
        ("none: no uplinks are configured", "", "no secretary: no uplinks are configured"),
        ("connected", "", "no secretary on this machine"),
        ("connected", SOCKET, "`hostagent secretary inbox --socket /run/hostagent-secretary"),
    ],
)
async def test_without_a_way_to_the_secretary_the_reason_is_said(secretary: str, socket: str, said: str) -> None:
    shown = household()
    shown = msgspec.structs.replace(shown, status=msgspec.structs.replace(shown.status, secretary=secretary))
    app = AgentApp(Script(with_secretary(shown, questions=0, socket=socket)))
    async with app.run_test(notifications=True, size=(160, 30)) as pilot:
        await ready(app)
        await pilot.press("i")
        await seen(app, said)
        await pilot.press("u")
        await pilot.press("b", "plus", *"5", "enter")
        await pilot.pause()
        assert app.is_running


# --- money --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(15)
async def test_an_empty_purse_is_said_loudly_and_can_be_filled_at_once() -> None:
    app, _script, secretary = at_home()
    secretary.purse_now = dataclasses.replace(PURSE, balance_nanodollars=0, reserved_nanodollars=0, open_grants=0)
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("b")
        await seen(app, "! PURSE EMPTY: unless it has credit, all goes unpaid, and slower · + pays in")
        await pilot.press("plus")
        assert isinstance(app.screen, AskAmount)
        await pilot.press(*"0", "enter")
        await seen(app, "an amount is a number")
        app.screen.query_one(Input).value = "5"
        secretary.purse_now = PURSE
        await pilot.press("enter")
        await until(lambda: len(secretary.told) == 1)
        assert secretary.told[0][2] == 5 * 10**9
        await seen(app, "purse  12.34 USD")
        assert "PURSE EMPTY" not in picture(app)


@pytest.mark.expectation(16)
async def test_the_same_payment_after_an_error_is_the_same_transfer() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("b")
        secretary.refuses = NotAnswered("no answer in time")
        await pilot.press("plus", "5", "enter")
        await until(lambda: len(secretary.told) == 1)
        await seen(app, "no answer in time")
        secretary.refuses = None
        await pilot.press("plus", "5", "enter")
        await until(lambda: len(secretary.told) == 2)
        await pilot.press("plus", "5", "enter")
        await until(lambda: len(secretary.told) == 3)
        transfers = [told[1] for told in secretary.told]
        assert transfers[0] == transfers[1] != transfers[2]


@pytest.mark.expectation(14)
async def test_budgets_show_what_was_told_and_that_one_is_used_up() -> None:
    now = household_with_secretary()
    used_up = msgspec.structs.replace(now.budgets[0], used=2 * 10**9, hard=True, noticed_percent=100)
    script = Script(msgspec.structs.replace(now, budgets=(used_up, now.budgets[1])))
    script.personal = ScriptedSecretary()
    app = AgentApp(script)
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("b")
        await seen(app, "purse  12.34 USD, 0.15 USD of it in 2 open grants")
        text = picture(app)
        assert "! stopped: backup.exe pays unknown.example" in text
        assert "! OUT OF MONEY: it goes unpaid, and slower, for 8 h 53 min yet" in text
        assert "told at ■ 50 %  ■ 80 %  ■ 100 %" in text
        assert "told at ■ 50 %  □ 80 %  □ 100 %" in text


@pytest.mark.expectation(17)
async def test_the_statement_adds_up_is_grouped_and_a_line_is_traced_to_its_grants() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("m")
        await seen(app, "= closing                  4.278999904")
        assert secretary.asked == ["statement 2026-11-01 2026-11-30 program"]
        text = picture(app)
        for part in (
            "~ as told",
            "! assumed, disputed",
            "confirmed",
            "vouchers 1.500000000",
            "November 2026, by program",
        ):
            assert part in text
        await pilot.press("enter")
        await until(lambda: f"trace {KEY}" in secretary.asked)
        await seen(app, "flow tcp 192.0.2.7:40000 > 203.0.113.7:443  by isp-x (3f9ac21b)")
        await seen(app, "12:15:00 to 12:20:00")
        await pilot.press("down", "escape", "down", "enter")  # inside the pane keys scroll it
        await seen(app, "! its grants sum up to 0.000000000")
        await pilot.press("enter", "tab")
        await seen(app, "by destination")
        await seen(app, "video.example")
        for by in ("gateway", "network", "day", "user", "program"):
            await pilot.press("tab")
            await seen(app, f"November 2026, by {by}")
        await pilot.press("left")
        await seen(app, "October 2026, by program")
        assert secretary.asked[-1] == "statement 2026-10-01 2026-10-31 program"
        await pilot.press("slash", *"disputed", "enter")
        assert len(keys(app, "#bill-table")) == 1


async def test_v_shows_what_the_agent_counted_and_back() -> None:
    app, script, _secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("m")
        await seen(app, "rests on")
        assert grid(app, "#bill-table").has_focus
        assert script.calls == []
        await pilot.press("v")
        await seen(app, "as the agent counted")
        await until(lambda: script.calls == [("statement", "2026-11")])
        await pilot.press("enter", "v")
        await seen(app, "rests on")
        assert grid(app, "#bill-table").has_focus


async def test_a_trace_that_is_refused_is_said_in_its_place() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("m")
        await seen(app, "rests on")
        secretary.refuses = NotAnswered("the secretary says: no line of the last months has that key")
        await pilot.press("enter")
        await seen(app, "! the secretary says: no line of the last months")


# --- rules --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(11)
async def test_rules_stand_in_their_order_with_hits_and_faults() -> None:
    app, _script, secretary = at_home()
    async with app.run_test(notifications=True, size=(160, 30)) as pilot:
        await ready(app)
        await pilot.press("k", "r")
        await seen(app, "no-updates")
        assert [rule.place for rule in grid(app, "#rule-table").things] == list(range(1, 8))
        assert [rule.by for rule in grid(app, "#rule-table").things][3:] == [
            "ceiling",
            "your answer",
            "mine.toml",
            "organisation",
        ]
        await seen(app, "! mine.toml: rules[2].ports: not a list (write [443])")
        await pilot.press("slash", *"updates", "enter", "enter")
        await seen(app, "1 of 7 rules")
        await seen(app, "mine.toml · fitted 41 times")
        await pilot.press("e")
        await seen(app, "choose a program")
        await pilot.press("escape", "escape", "tab")
        assert grid(app, "#program-table").has_focus
        assert secretary.asked == ["rules"]


async def test_a_frozen_display_asks_for_nothing_new() -> None:
    app, script, secretary = at_home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("i")
        await rows(app, *ALL)
        await pilot.press("space")
        script.push(household_with_secretary(unix_s=NOW_UNIX_S + 60))
        await until(lambda: app.state.behind_s == 60)
        app.refresh_all()
        assert secretary.asked == ["inbox"]
