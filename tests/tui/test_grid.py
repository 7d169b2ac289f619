"""The table: its cursor and its scrolling while rows come, go and change places."""

from __future__ import annotations

from snapshots import flow, many_flows, snapshot
from tui_driving import Script, grid, keys, picture, seen, until

from hostagent import api
from tui.app import AgentApp


async def show(app: AgentApp, flows: tuple[api.Flow, ...]) -> None:
    app.state.on_snapshot(snapshot(flows=flows))
    app.refresh_all()
    await app.animator.wait_until_complete()


def chosen(app: AgentApp) -> str:
    thing = grid(app).selected
    return thing.flow if thing is not None else ""


async def test_the_cursor_stays_on_the_flow_that_a_person_chose() -> None:
    app = AgentApp(Script(snapshot(flows=(flow("one", rate=5), flow("two", rate=4)))))
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await until(lambda: len(keys(app)) == 2)
        await pilot.press("down")
        assert chosen(app) == "two"
        await show(app, (flow("one", rate=1), flow("two", rate=9)))
        assert keys(app) == ["two", "one"]
        assert chosen(app) == "two"


async def test_until_a_person_chooses_the_cursor_stays_on_the_first_row() -> None:
    app = AgentApp(Script(snapshot(flows=(flow("one", rate=5), flow("two", rate=4)))))
    async with app.run_test(notifications=True, size=(100, 30)):
        await until(lambda: keys(app) == ["one", "two"])
        await show(app, (flow("one", rate=1), flow("two", rate=9)))
        assert chosen(app) == "two"


async def test_flows_come_and_go_and_scrolling_stays() -> None:
    many = tuple(flow(f"f{n}", rate=1000 - n) for n in range(500))
    app = AgentApp(Script(snapshot()))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await seen(app, "no flow yet")
        await show(app, many)
        assert keys(app) == [f"f{n}" for n in range(500)]
        await pilot.press("end")
        assert chosen(app) == "f499"
        top = grid(app).scroll_offset.y
        assert top > 400
        assert "f499" in picture(app)
        await show(app, tuple(flow(f"f{n}", rate=2000 - n) for n in range(500)))
        assert grid(app).scroll_offset.y == top
        await show(app, (*many[:480], *many[490:]))
        assert chosen(app) == "f499"
        await show(app, many[:3])
        assert chosen(app) == "f2"
        assert "f0" in picture(app)
        await show(app, ())
        assert chosen(app) == ""
        assert "no flow yet" in picture(app)
        await show(app, (flow("x" * 3000),))
        assert "xxx…" in picture(app)


async def test_every_moving_key_moves() -> None:
    app = AgentApp(Script(snapshot(flows=many_flows(100, 0))))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: len(keys(app)) == 100)
        rows = []
        for key in ("down", "down", "up", "pagedown", "pageup", "end", "up", "down", "down", "home", "up"):
            await pilot.press(key)
            rows.append(grid(app).cursor_row)
        page = rows[3] - 1
        assert page > 10
        assert rows == [1, 2, 1, 1 + page, 1, 99, 98, 99, 99, 0, 0]
        assert grid(app).scroll_offset.y == 0


async def test_the_wheel_scrolls_and_the_cursor_stays() -> None:
    app = AgentApp(Script(snapshot(flows=many_flows(100, 0))))
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: len(keys(app)) == 100)
        grid(app).scroll_to(y=50, animate=False)
        await pilot.pause()
        assert grid(app).cursor_row == 0
        row = grid(app)._row_at(1)
        assert row == 50
        await pilot.click("#flow-table", offset=(5, 1))
        assert grid(app).cursor_row == 50
