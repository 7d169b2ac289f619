"""Sessions on the screen of flows: what is seen of them, and what a person does to one while it runs."""

from __future__ import annotations

import msgspec
import pytest
from snapshots import FLOWS, NOW_UNIX_S, SESSIONS, household
from tui_driving import Script, grid, home, keys, picture, seen, until

from billpay.errors import RemoteProtocolError
from hostagent import api
from tui.app import AgentApp
from tui.model import sessions
from tui.model.columns import Sorting
from tui.model.history import MISSING
from tui.model.state import State
from tui.widgets.dialogs import Confirm

TABLE = "#session-table"
SILENT = msgspec.structs.replace(
    SESSIONS[0],
    verdict="let go",
    target_bit_s=None,
    source="",
    billed=False,
    nanodollars_per_mark=None,
    marked_ppm=None,
    price_nanodollars_per_mb=None,
    spent_nanodollars=0,
    session_budget_nanodollars=None,
)
THEIRS = msgspec.structs.replace(SESSIONS[1], session="0" * 32, pays=False, task="", program="/usr/bin/player", level=2)


async def opened(app: AgentApp) -> None:
    await until(lambda: app.state.shown is not None and bool(keys(app, TABLE)))


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-27")
def test_an_estimate_is_told_from_a_bill_wherever_money_stands() -> None:
    billed, guessed = SESSIONS
    assert (sessions.price_of(billed), sessions.spent_of(billed)) == ("26.5m", "12.6m")
    assert (sessions.price_of(guessed), sessions.spent_of(guessed)) == ("~408m", "~511µ")
    words = "\n".join(map(str, sessions.detail(guessed, NOW_UNIX_S)))
    assert "an estimate out of classic ECN: nobody bills it" in words
    assert "estimated: 511µ of 20.0m" in words
    assert "×1.5 of what its policy says" in words
    assert "billed by the marks" in "\n".join(map(str, sessions.detail(billed, NOW_UNIX_S)))


def test_what_nobody_has_said_is_no_price_of_zero() -> None:
    assert (sessions.price_of(SILENT), sessions.marks_of(SILENT), sessions.target_of(SILENT)) == ("?", "?", "–")
    words = "\n".join(map(str, sessions.detail(SILENT, NOW_UNIX_S)))
    assert "nothing was heard yet" in words
    assert "its own transport answers congestion" in words
    assert "0 in this session, no limit" in words
    state = State()
    state.on_snapshot(msgspec.structs.replace(household(), sessions=(SILENT,)))
    assert list(state.history.of(("session", SILENT.session), 1)) == [MISSING]


def test_what_the_far_end_pays_shows_no_money_of_ours() -> None:
    assert {sessions.price_of(THEIRS), sessions.spent_of(THEIRS), sessions.worth_of(THEIRS)} == {"–"}
    words = "\n".join(map(str, sessions.detail(THEIRS, NOW_UNIX_S)))
    assert "leaves, paid by who receives it" in words
    assert "player" in words
    assert "level 2" in words
    assert "spent" not in words


def test_worths_go_up_and_down_by_the_same_steps_and_end_somewhere() -> None:
    assert sessions.turned(1_000_000, 1) == 1_500_000
    assert sessions.turned(1_500_000, -1) == 1_000_000
    assert sessions.turned(sessions.turned(1_000_000, -1), 1) == 1_000_000
    assert sessions.worth_text(sessions.turned(1_000_000, -1)) == "×0.667"
    assert 10_000 <= sessions.turned(10_000, -1) == sessions.turned(1, -9)
    assert sessions.turned(100_000_000, 1) == sessions.turned(10**9, 9) <= 100_000_000


def test_every_column_sorts_and_every_word_is_found() -> None:
    there = (*SESSIONS, SILENT, THEIRS)
    for column in sessions.COLUMNS:
        sorting = Sorting(by=column.title)
        assert len(sessions.listing(there, sorting, "").things) == len(there)
    assert list(sessions.listing(there, Sorting(), "delivery pause").things) == [SESSIONS[1]]


# --- screens ------------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-27")
async def test_v_shows_sessions_and_d_ends_one_and_v_goes_back() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("v")
        await opened(app)
        assert keys(app, TABLE) == [session.session for session in SESSIONS]
        assert "2 sessions" in picture(app)
        words = ("+ - Worth", "d End", "v Flows", "? Help", "q Quit")
        last = picture(app).splitlines()[-1]
        assert [word for word in words if word in last] == list(words)
        assert "e Worth" not in last
        await pilot.press("slash", *"curl", "enter")
        assert keys(app, TABLE) == [SESSIONS[1].session]
        await pilot.press("d")
        assert isinstance(app.screen, Confirm)
        await pilot.press("n")
        assert script.calls == []
        await pilot.press("d", "y")
        await until(lambda: script.calls == [("end", SESSIONS[1].session)])
        await seen(app, "ended: tcp 192.0.2.7")
        await pilot.press("w")
        await until(lambda: script.calls[1:] == [("why", SESSIONS[1].flow)])
        await pilot.press("escape", "v")
        assert keys(app) != []
        assert f"{len(FLOWS)} flows" in picture(app)


async def test_without_a_session_it_says_how_one_begins() -> None:
    script = Script(msgspec.structs.replace(household(), sessions=()))
    app = AgentApp(script)
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("v", "enter")
        await seen(app, "no session: no flow follows the price of congestion")
        await pilot.press("d", "plus", "minus", "w")
        await seen(app, "no session is chosen")
        assert script.calls == []


@pytest.mark.row("DPH-27")
async def test_plus_and_minus_say_what_it_is_worth_while_it_runs() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("v")
        await opened(app)
        name = SESSIONS[0].session
        await pilot.press("plus")
        await until(lambda: script.calls == [api.SessionWorth(session=name, worth_ppm=1_500_000)])
        await seen(app, "restic: worth ×1.5 of what its policy says")
        await pilot.press("plus")  # before the agent has shown the first one
        await until(lambda: script.calls[1:] == [api.SessionWorth(session=name, worth_ppm=2_250_000)])
        turned = msgspec.structs.replace(SESSIONS[0], worth_ppm=2_250_000)
        script.push(msgspec.structs.replace(household(), sessions=(turned, SESSIONS[1])))
        await until(lambda: grid(app, TABLE).selected == turned)
        await pilot.press("minus")
        await until(lambda: script.calls[2:] == [api.SessionWorth(session=name, worth_ppm=1_500_000)])
        script.refuses = RemoteProtocolError("cannot-revalue", "its program decides [that]")
        script.calls.clear()
        await pilot.press("down", "plus")
        await seen(app, "its program decides [that]")
        await pilot.press("plus")  # what was refused is not built upon
        await until(lambda: len(script.calls) == 2)
        assert script.calls[0] == script.calls[1]


async def test_who_does_not_pay_has_no_say_in_the_worth() -> None:
    script = Script(msgspec.structs.replace(household(), sessions=(THEIRS,)))
    app = AgentApp(script)
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("v")
        await opened(app)
        await pilot.press("plus")
        await seen(app, "the far end pays")
        assert script.calls == []
