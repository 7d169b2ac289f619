"""Each screen and its keys, driven as a person drives them."""

from __future__ import annotations

import msgspec
import pytest
from snapshots import CAMPUS, FINGERPRINT, FLOWS, NOW_UNIX_S, flow, household, snapshot
from textual.widgets import Input
from tui_driving import Script, grid, home, keys, picture, seen, until

from billpay.errors import RemoteProtocolError
from hostagent import api
from tui.app import AgentApp
from tui.widgets.dialogs import AskWorth, Choose, Confirm

CALL = FLOWS[0].flow


async def ready(app: AgentApp) -> None:
    await until(lambda: app.state.shown is not None and app.drawn > 1)


# --- flows --------------------------------------------------------------------------------------------------------


async def test_a_flow_has_program_task_destination_rates_price_worth_and_the_decision() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(160, 50)) as pilot:
        await ready(app)
        await pilot.pause()
        row = next(line for line in picture(app).splitlines() if "restic" in line)
        for part in ("photos", "backup", "198.51.100.9:443", "12.7M", "96.0k", "412", "1.20", "100m", "worth less"):
            assert part in row


async def test_enter_opens_details_with_plots_and_closes_them() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        script.push(household(unix_s=NOW_UNIX_S + 2))
        await until(lambda: len(app.state.history.of(("flow", CALL))) == 2)
        assert "decision  " not in picture(app)
        await pilot.press("down", "enter")
        text = picture(app)
        assert "decision  worth less than the price" in text
        assert "out 12.7M, most 12.7M" in text
        assert "price 1.20" in text
        assert "█" in text
        await pilot.press("enter")
        assert "decision  " not in picture(app)


async def test_on_a_tall_terminal_details_are_open_from_the_start() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(160, 50)) as pilot:
        await ready(app)
        await seen(app, "decision  pays 20 n$")
        await pilot.press("escape")
        assert "decision  pays 20 n$" not in picture(app)


@pytest.mark.expectation(11)
async def test_w_says_why_and_asks_only_while_it_is_looked_at() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        assert script.calls == []
        await pilot.press("w")
        await until(lambda: len(script.calls) == 1)
        await pilot.pause()
        first = keys(app)[0]
        assert script.calls == [("why", first)]
        await seen(app, "payment  none: nobody on the way asks for one")
        await pilot.press("down")
        await until(lambda: script.calls == [("why", first), ("why", keys(app)[1])])
        await pilot.press("w", "down")
        await pilot.pause()
        assert len(script.calls) == 2


async def test_slash_filters_while_one_types_and_escape_ends_it() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("slash", *"443 q")
        assert app.query_one("#flows .filter Input", Input).has_focus
        assert keys(app) == []
        await seen(app, "0 of 6 flows with “443 q”")
        await pilot.press("backspace", "backspace")
        assert len(keys(app)) == 4
        await pilot.press("enter")
        assert grid(app).has_focus
        assert len(keys(app)) == 4
        await pilot.press("1")  # a key again, and not a part of the filter
        assert len(keys(app)) == 4
        await pilot.press("escape")
        assert len(keys(app)) == len(FLOWS)


async def test_s_sorts_by_the_next_column_and_shift_s_turns_it() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        programs = [flow_.program for flow_ in grid(app).things]
        await pilot.press("s")
        assert [flow_.program for flow_ in grid(app).things] == sorted(programs)
        await seen(app, "6 flows · by program")
        await seen(app, "program↓")
        await pilot.press("S")
        assert [flow_.program for flow_ in grid(app).things] == sorted(programs, reverse=True)
        await seen(app, "by program, reversed")
        await pilot.press(*"sssssss")
        assert [flow_.program for flow_ in grid(app).things] == programs


async def test_a_click_on_a_title_sorts_and_another_turns_it() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.pause()
        titles = picture(app).splitlines()[2]
        await pilot.click("#flow-table", offset=(titles.rindex("in") + 1, 0))
        await pilot.pause()
        assert grid(app).things[0].program == "firefox"
        await seen(app, "in↓")
        await pilot.click("#flow-table", offset=(titles.rindex("in") + 1, 0))
        await pilot.pause()
        assert grid(app).things[-1].program == "firefox"
        await seen(app, "in↑")
        await pilot.click("#flow-table", offset=(0, 0))
        await seen(app, "in↑")


async def test_a_click_chooses_a_row_and_another_one_opens_it() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.pause()
        await pilot.click("#flow-table", offset=(10, 3))
        assert grid(app).cursor_row == 2
        assert "decision  " not in picture(app)
        await pilot.click("#flow-table", offset=(10, 3))
        await seen(app, "decision  worth more than the price: its share")
        await pilot.click("#flow-table", offset=(10, 8))
        assert grid(app).cursor_row == 2


@pytest.mark.row("DPH-27")
async def test_e_says_what_a_program_is_worth_and_for_how_long() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("down", "e")
        assert isinstance(app.screen, AskWorth)
        await seen(app, "What is traffic of restic worth?")
        await seen(app, "now 100m a GB, as backup")
        await pilot.press("2")  # as call
        await pilot.press("3")  # for one hour
        change = api.WorthChange(program="restic", kind="call", term=api.Term.ONE_HOUR)
        await until(lambda: script.calls == [change])
        await seen(app, "restic counts as call: 1 hour")


async def test_a_worth_of_ones_own_and_back_to_the_table() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("e", "tab", *"1.5 apples", "enter")
        await seen(app, "an amount is a number")
        app.screen.query_one(Input).value = "1.5"
        await pilot.press("enter", "enter")  # always
        change = api.WorthChange(program="curl", nanodollars_per_mb=1_500_000, term=api.Term.ALWAYS)
        await until(lambda: script.calls == [change])
        await pilot.press("e", "8")
        await until(lambda: script.calls[1:] == [api.WorthChange(program="curl")])
        await pilot.press("e", "end", "enter")
        await until(lambda: script.calls[2:] == [api.WorthChange(program="curl")])
        await pilot.press("e", "1", "escape", "escape")
        assert len(script.calls) == 3


async def test_a_flow_of_nobody_has_no_worth_to_set() -> None:
    app = AgentApp(Script(snapshot(flows=(flow("udp x"),))))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("e")
        await seen(app, "nobody knows which program")


async def test_names_are_shown_as_they_are() -> None:
    strange = msgspec.structs.replace(
        FLOWS[0], program="[bold red]ünïcode ☃[/] 名前", flow="udp [fd00::1]:5 → [fd00::2]:6"
    )
    evil = msgspec.structs.replace(FLOWS[1], program="\x1b[2J\u202eevil\nname", flow="tcp evil")
    app = AgentApp(Script(snapshot(flows=(strange, evil))))
    async with app.run_test(notifications=True, size=(120, 24)) as pilot:
        await ready(app)
        await pilot.press("down", "enter")
        text = picture(app)
        assert "› [bold red]ünïcode ☃" in text
        assert "udp [fd00::1]:5 → [fd00::2]:6" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


async def test_an_agent_that_does_not_answer_why_or_with_a_statement_is_said_in_its_place() -> None:
    app, script = home()
    script.refuses = RemoteProtocolError("not-here", "this agent keeps no history")
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("w")
        await seen(app, "! not-here: this agent keeps no history")
        await pilot.press("m")
        await seen(app, "! not-here: this agent keeps no history")
        script.refuses = None
        await pilot.press("left", "f", "w", "w")
        await seen(app, "payment  none")
        await pilot.press("m")
        await seen(app, "= closing")


# --- kinds and programs -------------------------------------------------------------------------------------------


async def test_kinds_and_programs_share_the_screen_and_tab_goes_between_them() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 30)) as pilot:
        await ready(app)
        await pilot.press("k")
        assert grid(app, "#program-table").has_focus
        text = picture(app)
        assert "slowed to 12.7M" in text
        assert "waits" in text
        assert "7 kinds, 6 programs" in text
        await pilot.press("enter")
        await seen(app, "your word  as backup, for 8 h 53 min yet")
        await pilot.press("tab")
        assert grid(app, "#kind-table").has_focus
        await seen(app, "control  DNS, DHCP")
        await pilot.press("e")
        await seen(app, "choose a program")
        await pilot.press("s", "tab", "s", "s", "e")
        assert isinstance(app.screen, AskWorth)
        await pilot.press("escape")
        assert script.calls == []
        await pilot.press("slash", *"web", "enter")
        assert len(keys(app, "#kind-table")) == 1
        assert len(keys(app, "#program-table")) == 1


# --- inbox --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(9)
@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (["y"], ["enter"], api.Answer(number=8, allow=True, term=api.Term.ONCE)),
        (["enter"], ["2"], api.Answer(number=8, allow=True, term=api.Term.UNTIL_QUIT)),
        (["d"], ["6"], api.Answer(number=8, allow=False, term=api.Term.ALWAYS)),
        (["down", "d"], ["down", "down", "enter"], api.Answer(number=7, allow=False, term=api.Term.TEN_MINUTES)),
        (["y"], ["4"], api.Answer(number=8, allow=True, term=api.Term.ONE_HOUR)),
        (["y"], ["5"], api.Answer(number=8, allow=True, term=api.Term.TODAY)),
    ],
)
async def test_a_question_is_answered_with_a_term(first: list[str], second: list[str], answer: api.Answer) -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await seen(app, "3 inbox!2")
        await pilot.press("i", *first)
        assert isinstance(app.screen, Choose)
        await pilot.press(*second)
        await until(lambda: script.calls == [answer])


async def test_leaving_answers_nothing_and_an_empty_inbox_says_so() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("3", "y", "escape")
        await seen(app, "half of the data plan")
        script.push(household(questions=()))
        await until(lambda: not keys(app, "#question-table"))
        await seen(app, "nothing to answer")
        await pilot.press("y")
        assert not isinstance(app.screen, Choose)
        assert script.calls == []


# --- screens that are read ----------------------------------------------------------------------------------------


async def test_budgets_show_use_pace_forecast_and_the_flat_rate() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("b")
        await pilot.pause()
        text = picture(app)
        for part in (
            "520 MB used, 52 %",
            "1.43 GB at the reset in 19 d",
            "! will go 430 MB over",
            "told at ■ 50 %  □ 80 %",
        ):
            assert part in text
        assert "at this pace 14.20 USD a month" in text


async def test_the_month_is_asked_for_when_it_is_looked_at_and_can_be_turned() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 30)) as pilot:
        await ready(app)
        assert script.calls == []
        await pilot.press("m")
        await until(lambda: script.calls == [("statement", "2026-11")])
        await seen(app, "= closing                 15.753132110 USD")
        await pilot.press("left")
        await until(lambda: script.calls[1:] == [("statement", "2026-10")])
        await seen(app, "October 2026")
        await pilot.press("right", "right")  # the future has no statement
        await until(lambda: script.calls[2:] == [("statement", "2026-11")])
        await pilot.press("left_square_bracket", "right_square_bracket")
        await until(lambda: len(script.calls) >= 4)
        told = len(script.calls)
        script.push(household(unix_s=NOW_UNIX_S + 3))
        await until(lambda: app.state.latest is not None and app.state.latest.unix_s == NOW_UNIX_S + 3)
        app.refresh_all()
        await pilot.pause()
        assert len(script.calls) == told
        script.push(household(unix_s=NOW_UNIX_S + 20))
        await until(lambda: len(script.calls) == told + 1)


async def test_health_says_what_it_runs_on() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await ready(app)
        await pilot.press("h")
        await seen(app, "ebpf: the kernel is 6.1")
        await seen(app, "2,122,003")


# --- paths, networks, accounts ------------------------------------------------------------------------------------


async def test_paths_show_alternatives_and_the_networks_to_choose_from() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await ready(app)
        await pilot.press("p", "down", "enter")
        text = picture(app)
        assert "used  Wi-Fi Home" in text
        assert "to 203.0.113.77, way 2 of AS64512  not used" in text
        assert "costs 10.9 n$ a packet more" in text


async def test_a_new_fingerprint_is_trusted_after_a_look_at_it() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await ready(app)
        await pilot.press("n", "g")
        await seen(app, "no new fingerprint waits")
        place = keys(app, "#network-table").index(CAMPUS.key)
        await pilot.press(*["down"] * place, "g")
        assert isinstance(app.screen, Confirm)
        await seen(app, "3f9a c21b 77e0")
        await pilot.press("n")
        assert script.calls == []
        await pilot.press("g", "y")
        await until(lambda: script.calls == [("trust", FINGERPRINT)])


async def test_accounts_show_both_books() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await ready(app)
        await pilot.press("a", "enter")
        text = picture(app)
        assert "loss: 20 nUSD to gateway.campus.example in interval 7" in text
        assert "both books agree up to interval 12" in text
