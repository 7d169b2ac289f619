"""Every screen at 80x24 and 160x50, as text that is reviewed, and as the pictures of the docs.

`UPDATE_SCREENS=1 pytest tests/tui/test_pictures.py` writes both anew: look at what `git diff` says then.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec
import pytest
from snapshots import FLOWS, NOW_UNIX_S, household, snapshot
from tui_driving import Script, picture, until
from tui_secretary import ScriptedSecretary, household_with_secretary

from hostagent import api
from tui.app import AgentApp
from tui.model.history import LENGTH, STEP_S

GOLDEN = Path(__file__).parent / "golden"
SCREENS = Path(__file__).parent.parent.parent / "docs" / "screens"
UPDATE = bool(os.environ.get("UPDATE_SCREENS"))
SIZES = {"80x24": (80, 24), "160x50": (160, 50)}
SCENES: dict[str, list[str]] = {
    "flows": [],
    "details": ["down", "enter"],
    "why": ["down", "down", "down", "w"],
    "sessions": ["v", "enter"],
    "filter": ["slash", *"443"],
    "sorted": ["s", "s", "s", "S"],
    "kinds": ["2"],
    "worth": ["down", "e"],
    "inbox": ["3"],
    "answer": ["3", "y"],
    "budgets": ["4"],
    "paths": ["5"],
    "month": ["6"],
    "nets": ["7", "down", "down"],
    "trust": ["7", "down", "g"],
    "accounts": ["8"],
    "health": ["9"],
    "act": ["x"],
    "frozen": ["space"],
    "help": ["question_mark"],
    "themes": ["t"],
}
WARNING = api.Warning(code="no-agreement", message="gateway.campus.example: unreachable", since_unix_s=NOW_UNIX_S)
STATES: dict[str, api.Snapshot | None] = {
    "trial": household(mode=api.Mode.TRIAL, trial_seconds_left=42, warnings=(WARNING,)),
    "nothing": msgspec.structs.replace(
        snapshot(), accounts=api.Accounts(links=()), status=msgspec.structs.replace(household().status, network="")
    ),
}
SPENT = api.Budget(
    name="payments",
    unit="nanodollars",
    period="day",
    limit=2 * 10**9,
    used=2 * 10**9,
    resets_unix_s=NOW_UNIX_S + 32_000,
    hard=True,
    burn_per_day=3_200_000_000,
    forecast=2 * 10**9,
    noticed_percent=100,
    reason="all of it is spent",
)
WITH_SECRETARY: dict[str, list[str]] = {
    "questions": ["3", "down", "down"],
    "yes": ["3", "down", "down", "y"],
    "rules": ["2", "r"],
    "purse": ["4"],
    "bill": ["6"],
    "trace": ["6", "enter"],
}
ALL_SCENES = (*SCENES, *STATES, *WITH_SECRETARY)
SHOWN_IN_DOCS = {
    "questions": "80x24",
    "yes": "80x24",
    "rules": "80x24",
    "purse": "80x24",
    "bill": "80x24",
    "trace": "80x24",
    "flows": "160x50",
    "details": "80x24",
    "why": "80x24",
    "sessions": "80x24",
    "kinds": "160x50",
    "worth": "80x24",
    "inbox": "80x24",
    "answer": "80x24",
    "budgets": "80x24",
    "paths": "80x24",
    "month": "80x24",
    "nets": "80x24",
    "accounts": "80x24",
    "health": "80x24",
    "act": "80x24",
    "trial": "80x24",
    "help": "80x24",
}


def _wave(bit_s: int, step: int, shift: int) -> int:
    return int(bit_s * (0.7 + 0.3 * math.sin(step / 11 + shift)))


def _past(app: AgentApp, now: api.Snapshot) -> None:
    """Five minutes in which rates went up and down."""
    for step in range(LENGTH - 1, 0, -1):
        flows = tuple(
            msgspec.structs.replace(
                flow,
                rate_bit_s=_wave(flow.rate_bit_s, step, place),
                received_bit_s=_wave(flow.received_bit_s, step, place + 2),
                price_nanodollars_per_mb=_wave(1_200_000, step, 5),
            )
            for place, flow in enumerate(now.flows)
        )
        sessions = tuple(
            msgspec.structs.replace(
                session,
                rate_bit_s=_wave(session.rate_bit_s, step, place),
                price_nanodollars_per_mb=_wave(session.price_nanodollars_per_mb or 0, step, place + 3),
            )
            for place, session in enumerate(now.sessions)
        )
        then = now.unix_s - STEP_S * step
        app.state.on_snapshot(msgspec.structs.replace(now, unix_s=then, flows=flows, sessions=sessions))


async def drawn(scene: str, size: tuple[int, int]) -> tuple[str, str]:
    """The screen as text and as SVG."""
    now = STATES.get(scene) or household()
    script = Script(now)
    if scene in WITH_SECRETARY:
        now = msgspec.structs.replace(household_with_secretary(), budgets=(SPENT, *now.budgets[1:]))
        script = Script(now)
        script.personal = ScriptedSecretary()
    app = AgentApp(script, title="laptop")
    async with app.run_test(size=size) as pilot:
        await until(lambda: app.state.shown is not None)
        _past(app, now)
        app.state.on_snapshot(now)
        app.refresh_all()
        await pilot.pause()
        for key in SCENES.get(scene) or WITH_SECRETARY.get(scene, []):
            await pilot.press(key)
            await pilot.pause()
        await until(lambda: "asking the" not in picture(app))
        app.refresh_all()
        await pilot.pause()
        _stop_blinking(app)
        await pilot.pause()
        return picture(app), _svg(app)


def _stop_blinking(app: AgentApp) -> None:
    from textual.widgets import Input

    for field in app.screen.query(Input):
        field.cursor_blink = False


def _svg(app: AgentApp) -> str:
    """Blanks at the begin of a text stay, wherever it is looked at; the fonts are the reader's own."""
    text = app.export_screenshot(title="hostagent tui").replace("<text ", '<text xml:space="preserve" ')
    return re.sub(r"\s*@font-face \{.*?\}", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", ALL_SCENES)
async def test_a_screen_looks_as_it_was_reviewed(scene: str, size: str) -> None:
    text, svg = await drawn(scene, SIZES[size])
    file = GOLDEN / f"{scene}-{size}.txt"
    if UPDATE:
        file.write_text(text, encoding="utf-8")
        if SHOWN_IN_DOCS.get(scene) == size:
            (SCREENS / f"{scene}.svg").write_text(svg, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "UPDATE_SCREENS=1 writes it anew; review the difference"


def test_there_is_no_picture_of_what_is_no_more() -> None:
    wanted = {f"{scene}-{size}.txt" for scene in ALL_SCENES for size in SIZES}
    assert {file.name for file in GOLDEN.iterdir()} == wanted
    assert {file.stem for file in SCREENS.iterdir()} == set(SHOWN_IN_DOCS)


def test_the_docs_show_every_picture() -> None:
    text = (SCREENS.parent / "tui.md").read_text(encoding="utf-8")
    for scene in SHOWN_IN_DOCS:
        assert f"(screens/{scene}.svg)" in text


@pytest.mark.parametrize("size", SIZES)
def test_no_screen_is_wider_or_taller_than_its_terminal(size: str) -> None:
    width, height = SIZES[size]
    for scene in ALL_SCENES:
        lines = (GOLDEN / f"{scene}-{size}.txt").read_text(encoding="utf-8").splitlines()
        assert len(lines) <= height
        assert all(len(line) <= width for line in lines)


def test_the_household_has_every_flow_on_its_screen() -> None:
    text = (GOLDEN / "flows-80x24.txt").read_text(encoding="utf-8")
    assert all(flow.program in text for flow in FLOWS)
