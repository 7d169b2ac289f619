"""The terminal UI on a terminal of given size, driven by keys."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from snapshots import flow, snapshot
from textual.widgets import ContentSwitcher, Static

from billpay.errors import EnvironmentFault, RemoteProtocolError
from hostagent import api
from hostagent.client import Unreachable
from hostagent.server import LocalServer
from tui.app import AgentApp, LocalSource, run_tui
from tui.grid import Grid

SIZES = [(80, 24), (120, 40), (160, 50), (40, 12)]


class Script:
    """Gives its snapshots once, then stays open; an exception among them is raised, `None` ends the stream."""

    def __init__(self, *steps: api.Snapshot | Exception | None) -> None:
        self.steps = list(steps)
        self.asked = 0

    async def events(self) -> AsyncIterator[api.Snapshot]:
        self.asked += 1
        while self.steps:
            step = self.steps.pop(0)
            if step is None:
                return
            if isinstance(step, Exception):
                raise step
            yield step
        await asyncio.Event().wait()


def text_of(app: AgentApp, selector: str) -> str:
    return str(app.query_one(selector, Static).render())


def cells(app: AgentApp, selector: str = "#flow-table") -> list[list[str]]:
    table = app.query_one(selector, Grid)
    return [[cell.plain for cell in table.get_row_at(row)] for row in range(table.row_count)]


def names(app: AgentApp) -> list[str]:
    return [row[0] for row in cells(app)]


def line(app: AgentApp, number: int, selector: str = "#flow-table") -> str:
    """As it is on the terminal; 0 is the line of titles."""
    return app.query_one(selector, Grid).render_line(number).text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", SIZES)
async def test_flows_and_accounts_at_every_size(size: tuple[int, int]) -> None:
    flows = (flow("tcp 10.77.200.1:40000 → 10.77.200.2:5201", rate=8_440_000, amount=20), flow("udp other"))
    app = AgentApp(Script(snapshot(flows=flows)))
    async with app.run_test(size=size) as pilot:
        await until(lambda: len(cells(app)) == 2)
        assert names(app)[0] == "tcp 10.77.200.1:40000 → 10.77.200.2:5201"
        assert "20n" in cells(app)[0]
        assert "A is ok" in text_of(app, "#header")
        assert "why: because" in text_of(app, "#flow-detail")
        await pilot.press("a")
        assert app.query_one(ContentSwitcher).current == "accounts"
        assert cells(app, "#account-table")[0][:2] == ["X", "agreed"]
        assert "kept as our share" in text_of(app, "#account-lines")
        await pilot.press("1")
        assert app.query_one(ContentSwitcher).current == "flows"
        await pilot.press("2", "f")
        assert app.query_one(ContentSwitcher).current == "flows"


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_a_table_needs_no_scrolling_sideways(size: tuple[int, int]) -> None:
    flows = tuple(flow(f"udp {n}", amount=1, reason="why " * 200) for n in range(100))
    app = AgentApp(Script(snapshot(flows=flows)))
    async with app.run_test(size=size) as pilot:
        await until(lambda: len(cells(app)) == 100)
        await pilot.pause()
        assert app.query_one("#flow-table", Grid).max_scroll_x == 0
        await pilot.press("a")
        await pilot.pause()
        assert app.query_one("#account-table", Grid).max_scroll_x == 0


@pytest.mark.parametrize("size", SIZES)
async def test_the_last_line_names_the_keys(size: tuple[int, int]) -> None:
    app = AgentApp(Script(snapshot()))
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        bottom = app.screen.find_widget(app.query_one("Footer")).region
        assert bottom.bottom == size[1]
        labels = [str(key.tooltip or key.render()) for key in app.query("FooterKey")]
        assert [word for word in ("Flows", "Accounts", "Help", "Quit") if word in " ".join(labels)] == [
            "Flows",
            "Accounts",
            "Help",
            "Quit",
        ]


async def test_names_are_shown_as_they_are() -> None:
    ipv6 = "tcp [fd00:77::1]:40000 → [fd00:77::2]:5201"
    strange = "udp [bold red]ünïcode ☃[/] 名前"
    app = AgentApp(Script(snapshot(flows=(flow(ipv6, rate=2, amount=1), flow(strange, rate=1, amount=1)))))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: len(cells(app)) == 2)
        await pilot.pause()
        assert line(app, 1).strip().startswith(ipv6)
        assert line(app, 2).strip().startswith(strange)
        assert text_of(app, "#flow-detail").startswith(ipv6)


async def test_the_cursor_stays_on_the_flow_that_a_person_chose() -> None:
    first = snapshot(flows=(flow("one", rate=5, amount=1), flow("two", rate=4, amount=1)))
    later = snapshot(flows=(flow("one", rate=1, amount=1), flow("two", rate=9, amount=1)))
    app = AgentApp(Script(first))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(lambda: len(cells(app)) == 2)
        await pilot.press("down")
        assert text_of(app, "#flow-detail").startswith("two")
        app.model.on_snapshot(later)
        app.refresh_all()
        await pilot.pause()
        assert names(app) == ["two", "one"]
        assert text_of(app, "#flow-detail").startswith("two")


async def test_until_a_person_chooses_the_cursor_stays_on_the_first_row() -> None:
    app = AgentApp(Script(snapshot(flows=(flow("one", rate=5), flow("two", rate=4)))))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(lambda: names(app) == ["one", "two"])
        app.model.on_snapshot(snapshot(flows=(flow("one", rate=1), flow("two", rate=9))))
        app.refresh_all()
        await pilot.pause()
        assert text_of(app, "#flow-detail").startswith("two")


async def test_flows_come_and_go_and_scrolling_stays() -> None:
    many = tuple(flow(f"f{n}", rate=1000 - n) for n in range(500))
    app = AgentApp(Script(snapshot()))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: app.model.snapshot is not None)
        await pilot.pause()
        assert "no flow yet" in text_of(app, "#flow-detail")

        async def show(flows: tuple[api.Flow, ...]) -> None:
            app.model.on_snapshot(snapshot(flows=flows))
            app.refresh_all()
            await pilot.pause()

        await show(many)
        assert names(app) == [f"f{n}" for n in range(500)]
        await pilot.press("end")
        assert text_of(app, "#flow-detail").startswith("f499")
        table = app.query_one("#flow-table", Grid)
        top = table.scroll_offset.y
        assert top > 400
        await show(tuple(flow(f"f{n}", rate=2000 - n) for n in range(500)))
        assert table.scroll_offset.y == top
        await show((*many[:480], flow("longer than the forty-four characters of a narrow column"), *many[490:]))
        assert len(names(app)) == 491
        assert text_of(app, "#flow-detail").startswith("f499")
        await show(many[:3])
        assert names(app) == ["f0", "f1", "f2"]
        assert text_of(app, "#flow-detail").startswith("f2")
        await show(())
        assert names(app) == []
        assert "no flow yet" in text_of(app, "#flow-detail")
        await show((flow("x" * 3000),))
        assert names(app)[0].endswith("…")


async def test_an_agent_that_goes_away_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.app.RETRY_S", 0.01)
    gone = Unreachable(Path("/run/none"), "nobody listens")
    wrong = RemoteProtocolError("malformed", "another version")
    source = Script(gone, snapshot(flows=(flow("one"),)), wrong, None, gone, snapshot(flows=(flow("two"),)))
    app = AgentApp(source)
    async with app.run_test(size=(100, 30)):
        await until(lambda: names(app) == ["two"])
    assert source.asked == 5


async def test_a_missing_agent_is_said_with_what_to_do() -> None:
    app = AgentApp(Script(Unreachable(Path("/run/none"), "no such file")))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: "NOT CONNECTED" in text_of(app, "#header"))
        await pilot.pause()
        assert "/run/none: no such file (start it" in text_of(app, "#warnings")
        assert app.query_one("#warnings").size.height == 2  # wrapped, not cut


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
        assert not app.query_one("#help").display
        await pilot.press("question_mark")
        assert app.query_one("#help").display
        await pilot.press("question_mark")
        assert not app.query_one("#help").display
        over.set()
        await until(lambda: not app.is_running)


async def test_q_quits() -> None:
    app = AgentApp(Script(snapshot()))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("q")
        await until(lambda: not app.is_running)


async def test_over_a_real_socket_it_follows_an_agent_that_goes_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.app.RETRY_S", 0.01)
    socket = tmp_path / "agent.sock"
    shown = snapshot(flows=(flow("one"),))
    app = AgentApp(LocalSource(socket))
    async with app.run_test(size=(80, 24)):
        await until(lambda: "NOT CONNECTED" in text_of(app, "#header"))
        async with _agent(socket, lambda: shown) as server:
            await until(lambda: names(app) == ["one"])
            shown = snapshot(flows=(flow("two"),), sequence=2)
            server.changed()
            await until(lambda: names(app) == ["two"])
            assert "NOT CONNECTED" not in text_of(app, "#header")
        await until(lambda: "NOT CONNECTED" in text_of(app, "#header"))
        assert names(app) == ["two"]
        shown = snapshot(flows=(flow("three"),))
        async with _agent(socket, lambda: shown):
            await until(lambda: names(app) == ["three"])
            assert "NOT CONNECTED" not in text_of(app, "#header")


@contextlib.asynccontextmanager
async def _agent(socket: Path, shown: Callable[[], api.Snapshot]) -> AsyncIterator[LocalServer]:
    server = LocalServer(socket, shown)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def test_without_a_terminal_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(EnvironmentFault, match="no terminal") as caught:
        run_tui(tmp_path / "agent.sock")
    assert "\n" not in str(caught.value)
