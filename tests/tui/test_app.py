"""The app around the screens: the connection, the first lines, freezing, modes, themes, the lab's notices."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from desks import FakeDesk
from snapshots import FLOWS, NOW_UNIX_S, flow, household, snapshot
from textual.widgets import ContentSwitcher, Static
from tui_driving import Script, home, keys, picture, seen, until

import tui.app
from billpay.errors import EnvironmentFault, RemoteProtocolError
from hostagent import api
from hostagent.client import Unreachable
from hostagent.server import LocalServer
from tui.app import ALL_THEMES, AgentApp, few_colours, run_tui
from tui.model.head import TABS
from tui.source import LocalSource
from tui.widgets.dialogs import Choose, Confirm, Help

DEEP = pytest.mark.deep
SIZES = [(80, 24), (40, 12), pytest.param((120, 40), marks=DEEP), pytest.param((160, 50), marks=DEEP)]
"""The pictures are drawn at 160x50 as well."""


def header(app: AgentApp) -> str:
    return str(app.query_one("#header", Static).render())


def warnings(app: AgentApp) -> str:
    return str(app.query_one("#warnings", Static).render())


# --- the connection -----------------------------------------------------------------------------------------------


async def test_an_agent_that_goes_away_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.app.RETRY_S", 0.01)
    gone = Unreachable(Path("/run/none"), "nobody listens")
    wrong = RemoteProtocolError("malformed", "another version")
    source = Script(gone, snapshot(flows=(flow("one"),)), wrong, None, gone, snapshot(flows=(flow("two"),)))
    app = AgentApp(source)
    async with app.run_test(notifications=True, size=(100, 30)):
        await until(lambda: keys(app) == ["two"])
    assert source.asked == 5


async def test_a_missing_agent_is_said_with_what_to_do() -> None:
    app = AgentApp(Script(Unreachable(Path("/run/none"), "no such file")))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: "NOT CONNECTED" in header(app))
        await pilot.pause()
        assert "/run/none: no such file (start it" in warnings(app)
        assert app.query_one("#warnings").size.height == 2  # wrapped, not cut


async def test_over_a_real_socket_it_follows_an_agent_that_goes_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.app.RETRY_S", 0.01)
    monkeypatch.setattr("tui.app.DRAW_S", 0.01)
    socket = tmp_path / "agent.sock"
    desk = FakeDesk(snapshot(flows=(flow("one"),)))
    app = AgentApp(LocalSource(socket))
    async with app.run_test(notifications=True, size=(80, 24)):
        await until(lambda: "NOT CONNECTED" in header(app))
        async with _agent(socket, desk) as server:
            await until(lambda: keys(app) == ["one"])
            desk.shown = snapshot(flows=(flow("two"),), sequence=2)
            server.changed()
            await until(lambda: keys(app) == ["two"])
            assert "NOT CONNECTED" not in header(app)
        await until(lambda: "NOT CONNECTED" in header(app))
        assert keys(app) == ["two"]
        assert "last seen" in header(app)
        async with _agent(socket, FakeDesk(snapshot(flows=(flow("three"),)))):
            await until(lambda: keys(app) == ["three"])
            assert "NOT CONNECTED" not in header(app)


@contextlib.asynccontextmanager
async def _agent(socket: Path, desk: FakeDesk) -> AsyncIterator[LocalServer]:
    server = LocalServer(socket, desk)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_an_agent_that_falls_silent_is_said() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)):
        await until(lambda: "OBSERVING" in header(app))
        app.state.on_quiet(30)
        app._show_head()
        await seen(app, "NOTHING HEARD for 30 s")


# --- every screen, every size -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", range(len(TABS)), ids=[tab.name for tab in TABS])
async def test_each_screen_opens_by_its_digit_its_letter_and_a_click(place: int, size: tuple[int, int]) -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=size) as pilot:
        await until(lambda: app.state.shown is not None)
        current = app.query_one(ContentSwitcher)
        elsewhere = "1" if place else "2"
        await pilot.press(str(place + 1))
        assert current.current == TABS[place].name
        await pilot.press(elsewhere, TABS[place].name[0])
        assert current.current == TABS[place].name
        assert f"[{place + 1} {TABS[place].name[0]}" in picture(app).splitlines()[1] or size[0] == 40
        await pilot.press(elsewhere)
        x = app._tabs._ends[place] - 2
        if x < size[0]:
            await pilot.click("#tabs", offset=(x, 0))
            assert current.current == TABS[place].name
        assert all(len(line) <= size[0] for line in picture(app).splitlines())


@pytest.mark.parametrize("size", SIZES)
async def test_the_last_line_names_keys_and_help_names_all(size: tuple[int, int]) -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=size) as pilot:
        await pilot.pause()
        bottom = app.screen.find_widget(app.query_one("Footer")).region
        assert bottom.bottom == size[1]
        if size[0] >= 80:
            last = picture(app).splitlines()[-1]
            words = ("⏎ Details", "/ Filter", "s Sort", "w Why", "e Worth", "Freeze", "x Act", "? Help", "q Quit")
            assert [word for word in words if word in last] == list(words)


async def test_every_key_of_every_screen_stands_in_the_help() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(160, 70)) as pilot:
        await until(lambda: app.state.shown is not None)
        bound = set()
        for place in range(len(TABS)):
            await pilot.press(str(place + 1))
            own = [*app.page._bindings.key_to_bindings, *app._bindings.key_to_bindings]
            bound |= {key for key in own if not key.startswith("ctrl+")}
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        text = picture(app)
    named = {
        "question_mark": "?",
        "slash": "/",
        "plus": "+",
        "minus": "-",
        "escape": "esc",
        "left": "←",
        "right": "→",
        "left_square_bracket": "[ ]",
        "right_square_bracket": "[ ]",
        "shift+s": "s S",
        "S": "s S",
    }
    lines = text.splitlines()
    for key in sorted(bound):
        name = named.get(key, key)
        assert any(f" {name} " in line for line in lines), f"{key} is not in the help"


async def test_help_opens_scrolls_and_closes() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        await seen(app, "screens: the number")
        await pilot.press("down", "pagedown", "pagedown", "pagedown")
        await seen(app, "█ used")
        await pilot.press("pageup", "up", "escape")
        assert not isinstance(app.screen, Help)


# --- freezing -----------------------------------------------------------------------------------------------------


async def test_space_freezes_loudly_and_space_goes_on() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: len(keys(app)) == len(FLOWS))
        await pilot.press("space")
        script.push(household(unix_s=NOW_UNIX_S + 12, flows=FLOWS[:1]))
        await until(lambda: app.state.behind_s == 12)
        app.refresh_all()
        await pilot.pause()
        assert len(keys(app)) == len(FLOWS)
        await seen(app, "FROZEN for 12 s: space goes on")
        await pilot.press("down", "3", "1")  # a frozen display can be looked at
        await pilot.press("space")
        assert keys(app) == [FLOWS[0].flow]
        assert "FROZEN" not in picture(app)


# --- modes --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(22)
async def test_acting_is_asked_for_with_what_changes_and_is_a_trial() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("x")
        assert isinstance(app.screen, Confirm)
        text = picture(app)
        assert "update: waits" in text
        assert "trial of 60 s: unless you press c" in text
        await pilot.press("n")
        assert script.calls == []
        await pilot.press("x", "y")
        await until(lambda: script.calls == [api.ModeChange(mode=api.Mode.ACT, trial_s=60)])
        script.push(household(mode=api.Mode.TRIAL, trial_seconds_left=58))
        await until(lambda: "TRIAL 58 s left: c keeps it" in header(app))
        await pilot.press("c")
        await until(lambda: script.calls[1:] == [api.ModeChange(mode=api.Mode.ACT)])
        await seen(app, "confirmed")


async def test_observing_is_asked_for_too() -> None:
    app, script = home(mode=api.Mode.ACT)
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("o", "escape")
        assert script.calls == []
        await pilot.press("o", "enter")
        await until(lambda: script.calls == [api.ModeChange(mode=api.Mode.OBSERVE)])


@pytest.mark.parametrize(
    ("mode", "key", "said"),
    [
        (api.Mode.OBSERVE, "o", "it observes already"),
        (api.Mode.ACT, "x", "it acts already"),
        (api.Mode.TRIAL, "x", "it acts already; c keeps it"),
        (api.Mode.OBSERVE, "c", "no trial waits"),
    ],
)
async def test_a_key_that_changes_nothing_says_so(mode: api.Mode, key: str, said: str) -> None:
    app, script = home(mode=mode)
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press(key)
        await pilot.pause()
        assert said in picture(app)
        assert script.calls == []


async def test_what_the_agent_refuses_is_said_and_the_screens_stay() -> None:
    app, script = home()
    script.refuses = RemoteProtocolError("not-allowed", "only root may change the mode [yet]")
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("x", "y")
        await until(lambda: len(script.calls) == 1)
        await seen(app, "not-allowed: only root")
        assert app.is_running


async def test_without_an_agent_no_key_fails() -> None:
    app = AgentApp(Script(Unreachable(Path("/run/none"), "no such file")))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: "NOT CONNECTED" in header(app))
        await pilot.press("x", "o", "c", "space", "space", "down", "end")
        for tab in TABS:
            await pilot.press(tab.name[0])
            shared = () if tab.name == "flows" else ("enter", "slash", "s", "S", "shift+s", "escape")
            await pilot.press(*(key for key in app.page._bindings.key_to_bindings if key not in shared), "escape")
        assert app.is_running


async def has_theme(app: AgentApp, name: str) -> None:
    await until(lambda: app.theme == name)


# --- themes -------------------------------------------------------------------------------------------------------


async def test_themes_are_previewed_and_taken_or_left() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await pilot.press("t")
        assert isinstance(app.screen, Choose)
        await pilot.press("down")
        await until(lambda: app.theme == ALL_THEMES[1])
        await pilot.press("escape")
        await until(lambda: app.theme == ALL_THEMES[0])
        for name in ("nord", "ansi-light"):
            await pilot.press("t", str(ALL_THEMES.index(name) + 1))
            await has_theme(app, name)
            await seen(app, "OBSERVING")


@pytest.mark.parametrize(
    ("environment", "few"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "linux"}, True),
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, False),
        ({"TERM": "xterm-256color", "TEXTUAL_COLOR_SYSTEM": "standard"}, True),
        ({"TERM": "xterm", "TEXTUAL_COLOR_SYSTEM": "truecolor"}, False),
    ],
)
def test_a_terminal_of_16_colours_gets_a_theme_of_16_colours(
    environment: dict[str, str], few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert few_colours() is few
    assert (AgentApp(Script()).theme == "ansi-dark") is few


async def test_nothing_depends_on_colour() -> None:
    """The chosen row, the chosen screen, what is wrong and what is frozen are signs, and not only colours."""
    warning = api.Warning(code="no-agreement", message="X: unreachable", since_unix_s=0)
    app, _script = home(warnings=(warning,))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("space")
        text = picture(app)
        assert "› " in text
        assert "[1 flows]" in text
        assert "! no-agreement" in text
        assert "FROZEN" in text


# --- the lab ------------------------------------------------------------------------------------------------------


async def test_notices_of_the_lab_stand_at_the_bottom_and_its_end_ends_the_screens() -> None:
    lines = [["building", "starting"], ["done"]]
    over = asyncio.Event()
    app = AgentApp(
        Script(snapshot()), title="figure1, host A", notices=lambda: lines.pop(0) if lines else [], finished=over.is_set
    )
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: "done" in str(app.query_one("#notices", Static).render()))
        await pilot.pause()
        assert picture(app).startswith(" figure1, host A")
        over.set()
        await until(lambda: not app.is_running)


async def test_q_quits() -> None:
    app, _script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await pilot.press("q")
        await until(lambda: not app.is_running)


async def test_only_what_changed_is_drawn_and_only_a_few_times_a_second() -> None:
    app, script = home()
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.pause()
        before, version = app.drawn, app.state.version
        for number in range(50):
            script.push(msgspec.structs.replace(household(), sequence=number))
        await until(lambda: app.state.version == version + 50)
        assert app.drawn <= before + 5


def test_without_a_terminal_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    with pytest.raises(EnvironmentFault, match="no terminal") as caught:
        run_tui(tmp_path / "agent.sock")
    assert "\n" not in str(caught.value)


def test_behind_a_web_server_no_terminal_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.web_driver:WebDriver")
    monkeypatch.setattr(tui.app.AgentApp, "run", lambda self: ran.append(self.title))
    run_tui(tmp_path / "agent.sock")
    assert ran == ["hostagent"]
