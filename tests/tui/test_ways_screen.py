"""The ways to a destination over the screen of paths: numbers with their errors, reasons, the map; asked while seen."""

from __future__ import annotations

import msgspec
import pytest
from snapshots import LARGE_MAP, LONG_WAYS, MAP, WAYS, household
from textual.pilot import Pilot
from tui_driving import Script, grid, keys, picture, seen, until

from billpay.errors import RemoteProtocolError
from hostagent import api
from tui.app import AgentApp
from tui.model import ways
from tui.model.columns import Sorting
from tui.screens.ways import WaysScreen, show_ways

TABLE = "#way-table"
HOME = "203.0.113.20"


class WayScript(Script):
    """Also says ways, and counts who asks."""

    def __init__(self, known: tuple[api.Way, ...] = LONG_WAYS, network: api.NetworkMap = MAP) -> None:
        super().__init__(household())
        self.known = known
        self.network = network

    async def ways(self, destination: str) -> tuple[api.Way, ...]:
        self._told(("ways", destination))
        return tuple(each for each in self.known if destination in ("", each.destination))

    async def network_map(self, destination: str) -> api.NetworkMap:
        self._told(("map", destination))
        return self.network


async def opened(app: AgentApp, pilot: Pilot[None], destination: str = HOME) -> None:
    await until(lambda: app.state.shown is not None)
    show_ways(app.page, destination)
    await until(lambda: isinstance(app.screen, WaysScreen))
    await pilot.pause()


def table(app: AgentApp) -> list[str]:
    return [thing.way for thing in app.screen.query_one(TABLE).things]  # type: ignore[attr-defined]


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(21)
def test_what_nobody_knows_is_a_question_mark_and_a_promise_is_in_parentheses() -> None:
    used, promised, _only = WAYS
    assert ways.figure(used.delay_ns, ways.ms) == "21.0 ±0.3"
    assert ways.figure(promised.delay_ns, ways.ms) == "(25.0)"
    assert ways.figure(promised.loss_ppm, ways.percent) == "?"
    words = "\n".join(map(str, ways.detail(promised)))
    assert "(25.0)  promised, nobody measured it here" in words
    assert "11.0 ±0.2  measured, 2 min ago" in words
    assert "lost %        ?  not known" in words
    assert ways.newest_s(msgspec.structs.replace(promised, forward_toll_picodollars=None)) is None
    assert ways.age_text(None) == "?"


def test_reasons_and_shares_are_said_in_words() -> None:
    words = "\n".join(map(str, ways.detail(WAYS[0])))
    assert "the choice for timely, 90 % of its flows" in words
    assert "costs 12 n$ less" in words
    assert ways.share_text(4_000) == "<1 %"
    assert ways.share_text(0) == "0 %"


def test_what_is_not_known_sorts_below_what_is() -> None:
    listing = ways.listing(LONG_WAYS, Sorting(by="delay ms"))
    assert listing.things[-1].delay_ns is None
    assert listing.things[0].delay_ns == max(
        (each.delay_ns for each in LONG_WAYS if each.delay_ns is not None), key=lambda known: known.value
    )
    assert len({listing.key(way) for way in listing.things if way.destination == HOME}) == 2


def test_the_map_is_a_tree_that_ends_and_names_who_is_accused() -> None:
    words = "\n".join(map(str, ways.map_texts(MAP)))
    assert "━2━▶ AS64514  21.0 ms, ? n$, its part promised in 5.00 ms" in words
    assert "─1─→ AS64513  ? ms" in words
    assert "! promises 5 ms, measured 41 ms" in words
    large = ways.map_texts(LARGE_MAP)
    assert len(large) < 2 * len(LARGE_MAP.links), "a circle ends"
    assert str(ways.map_texts(api.NetworkMap(network=""))[0]) == ways.EMPTY


# --- the screen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_numbers_reasons_and_the_map_are_on_one_screen(size: tuple[int, int]) -> None:
    script = WayScript()
    app = AgentApp(script, title="laptop")
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot)
        for text in (
            *(f"ways to {HOME}", "way  ", "share", "delay ms", "cost n$", "21.0 ±0.3", "(25.0)", "0.12 ±0.05"),
            *("costs 12 n$ less than AS64512:1 AS64513:1", "measured, 4 s ago", "━2━▶ AS64514", "! promises 5 ms"),
        ):
            await seen(app, text)
        assert all(len(line) <= size[0] for line in picture(app).splitlines())
        await pilot.press("down")
        await seen(app, "not the choice for timely, 10 % of its flows")
        await pilot.press(*["s"] * (2 if size[0] == 80 else 3))  # a narrow table has no column for the class
        assert table(app) == ["AS64512:2 AS64514:1", "AS64512:1 AS64513:1"], "by share, the most first"
        await pilot.press("S")
        assert table(app) == ["AS64512:1 AS64513:1", "AS64512:2 AS64514:1"]


async def test_the_agent_is_asked_while_the_screen_is_seen_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.screens.ways.EVERY_S", 0.01)
    script = WayScript()
    app = AgentApp(script, title="laptop")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        assert script.calls == []
        await opened(app, pilot)
        await until(lambda: script.calls.count(("ways", HOME)) > 2)
        await pilot.press("escape")
        await until(lambda: not isinstance(app.screen, WaysScreen))
        await pilot.pause()
        asked = len(script.calls)
        for _ in range(5):
            await pilot.pause(0.01)
        assert len(script.calls) == asked
        assert keys(app), "and the screens below go on"


async def test_what_the_agent_refuses_is_said_and_what_was_known_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.screens.ways.EVERY_S", 0.01)
    script = WayScript()
    app = AgentApp(script, title="laptop")
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await seen(app, "AS64512:2")
        script.refuses = RemoteProtocolError("gone", "the agent \x1b[2J ended")
        await seen(app, "! gone: the agent")
        assert "21.0 ±0.3" in picture(app)
        script.refuses = None
        await until(lambda: "! gone" not in picture(app))


async def test_a_destination_without_ways_says_so() -> None:
    app = AgentApp(WayScript(known=(), network=api.NetworkMap(network="")), title="laptop")
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, "192.0.2.99")
        await seen(app, ways.EMPTY)
        await seen(app, "no way is chosen")


async def test_without_a_destination_all_are_shown_each_with_its_own() -> None:
    app = AgentApp(WayScript(network=LARGE_MAP), title="laptop")
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, "")
        for text in ("ways to all destinations", "to  ", HOME, "2001:db8:1234:5678:9abc:def0:1234:5678"):
            await seen(app, text)
        await pilot.press("pagedown")
        await seen(app, "! fakes congestion")
        assert len(table(app)) == len(LONG_WAYS)
        await pilot.press("escape")
        await until(lambda: bool(grid(app).things))
