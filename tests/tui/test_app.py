"""The terminal UI on a terminal of given size, driven by keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from snapshots import flow, snapshot
from textual.widgets import ContentSwitcher, DataTable, Static

from hostagent import api
from hostagent.client import Unreachable
from hostagent.server import LocalServer
from tui.app import AgentApp, LocalSource


class Script:
    """Gives its snapshots once, then stays open; an exception among them is raised."""

    def __init__(self, *steps: api.Snapshot | Exception) -> None:
        self.steps = list(steps)
        self.asked = 0

    async def events(self) -> AsyncIterator[api.Snapshot]:
        self.asked += 1
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            yield step
        await asyncio.Event().wait()


def text_of(app: AgentApp, selector: str) -> str:
    return str(app.query_one(selector, Static).render())


def cells(app: AgentApp, selector: str = "#flow-table") -> list[list[str]]:
    table = app.query_one(selector, DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (160, 50), (40, 12)])
async def test_flows_and_accounts_at_every_size(size: tuple[int, int]) -> None:
    flows = (flow("tcp 10.77.200.1:40000 → 10.77.200.2:5201", rate=8_440_000, amount=20), flow("udp other"))
    app = AgentApp(Script(snapshot(flows=flows)))
    async with app.run_test(size=size) as pilot:
        await until(lambda: len(cells(app)) == 2)
        assert cells(app)[0][0].startswith("tcp 10.77.200.1:40000 → 10.77.200.2:5201")
        assert "20n" in cells(app)[0]
        assert "A is ok" in text_of(app, "#header")
        assert "why: because" in text_of(app, "#flow-detail")
        await pilot.press("a")
        assert app.query_one(ContentSwitcher).current == "accounts"
        assert cells(app, "#account-table")[0][:2] == ["X", "agreed"]
        await pilot.press("1")
        assert app.query_one(ContentSwitcher).current == "flows"


async def test_the_cursor_stays_on_the_flow_that_a_person_chose() -> None:
    first = snapshot(flows=(flow("one", rate=5, amount=1), flow("two", rate=4, amount=1)))
    later = snapshot(flows=(flow("one", rate=1, amount=1), flow("two", rate=9, amount=1)))
    source = Script(first)
    app = AgentApp(source)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(lambda: len(cells(app)) == 2)
        await pilot.press("down")
        assert text_of(app, "#flow-detail").startswith("two")
        app.model.on_snapshot(later)
        app.refresh_all()
        await pilot.pause()
        assert cells(app)[0][0] == "two"
        assert text_of(app, "#flow-detail").startswith("two")


async def test_an_agent_that_goes_away_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.app.RETRY_S", 0.01)
    gone = Unreachable(Path("/run/none"), "nobody listens")
    source = Script(gone, snapshot(flows=(flow("one"),)), gone, snapshot(flows=(flow("two"),)))
    app = AgentApp(source)
    async with app.run_test(size=(100, 30)):
        await until(lambda: [row[0] for row in cells(app)] == ["two"])
    assert source.asked == 3


async def test_without_flows_with_many_and_with_strange_names() -> None:
    app = AgentApp(Script(snapshot()))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: app.model.snapshot is not None)
        await pilot.pause()
        assert "no flow yet" in text_of(app, "#flow-detail")
        strange = "[bold]udp ünïcode ☃ " + "x" * 300
        app.model.on_snapshot(snapshot(flows=(flow(strange, amount=1), *(flow(f"f{n}") for n in range(500)))))
        app.refresh_all()
        await pilot.pause()
        assert len(cells(app)) == 501
        assert cells(app)[0][0].startswith("[bold]udp")


async def test_warnings_help_notices_and_the_end() -> None:
    warning = api.Warning(code="no-agreement", message="X: unreachable", since_unix_s=0)
    lines = [["building", "starting"], ["done"]]
    over = asyncio.Event()
    app = AgentApp(
        Script(snapshot(warnings=(warning,))),
        notices=lambda: lines.pop(0) if lines else [],
        finished=over.is_set,
    )
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: "no-agreement: X: unreachable" in text_of(app, "#warnings"))
        await until(lambda: "done" in text_of(app, "#notices"))
        await pilot.press("question_mark")
        assert app.query_one("#help").styles.display == "block"
        over.set()
        await until(lambda: not app.is_running)


async def test_over_a_real_socket_it_follows_the_agent(tmp_path: Path) -> None:
    shown = [snapshot(flows=(flow("one"),))]
    server = LocalServer(tmp_path / "agent.sock", lambda: shown[0])
    await server.start()
    app = AgentApp(LocalSource(tmp_path / "agent.sock"))
    try:
        async with app.run_test(size=(80, 24)):
            await until(lambda: [row[0] for row in cells(app)] == ["one"])
            shown[0] = snapshot(flows=(flow("two"),), sequence=2)
            server.changed()
            async with asyncio.timeout(10):
                while [row[0] for row in cells(app)] != ["two"]:
                    server.changed()
                    await asyncio.sleep(0.05)
    finally:
        await server.stop()
