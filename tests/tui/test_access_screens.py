"""Accesses on screen 5: what each costs and why, and a key that goes by another one."""

from __future__ import annotations

import msgspec
import pytest
from snapshots import household
from tui_driving import Script, picture, seen, until

from hostagent import api
from tui.app import AgentApp
from tui.model import paths
from tui.widgets.dialogs import Confirm

HOME = api.Access(
    interface="wlan0",
    network="Wi-Fi Home",
    router="192.0.2.1",
    used=True,
    chosen_by="system",
    delay_ns=18_000_000,
    loss_ppm=1200,
    price_nanodollars_per_mb=0,
    cost_nanodollars_per_packet=180,
    reason="costs least (18 ms, 0.12 % lost, price 0 n$)",
)
PHONE = api.Access(
    interface="wwan0",
    network="mobile network on wwan0",
    router="",
    used=False,
    chosen_by="system",
    cost_nanodollars_per_packet=None,
    reason="nothing is known of it yet",
)


async def ready(app: AgentApp) -> None:
    await until(lambda: app.state.shown is not None and app.drawn > 1)


class Switchable(Script):
    async def set_access(self, change: api.AccessChange) -> None:
        self._told(change)


def with_accesses(*accesses: api.Access) -> api.Snapshot:
    told = household()
    return msgspec.structs.replace(told, paths=msgspec.structs.replace(told.paths, accesses=accesses))


@pytest.mark.row("BP-60")
async def test_a_person_goes_by_another_access_and_leaves_it_to_the_agent_again() -> None:
    script = Switchable(with_accesses(HOME, PHONE))
    app = AgentApp(script)
    async with app.run_test(notifications=True, size=(120, 40)) as pilot:
        await ready(app)
        await pilot.press("p", "g")
        await seen(app, "no access is chosen: press tab to get to them")
        text = picture(app)
        for part in ("Wi-Fi Home", "18.0 ms", "0.12 %", "costs least", "nothing is known of it yet"):
            assert part in text
        await pilot.press("tab", "down", "g")
        assert isinstance(app.screen, Confirm)
        await seen(app, "instead of Wi-Fi Home")
        await pilot.press("n")
        assert script.calls == []
        await pilot.press("g", "y")
        await until(lambda: script.calls == [api.AccessChange(interface="wwan0")])
        said = {"used": True, "chosen_by": "person"}
        moved = (msgspec.structs.replace(HOME, used=False), msgspec.structs.replace(PHONE, **said))
        script.push(with_accesses(*moved))
        await until(lambda: app.state.shown is not None and app.state.shown.paths.accesses == moved)
        app.refresh_all()
        await pilot.press("home", "g")
        await seen(app, "Leave the access to the agent?")
        await pilot.press("y")
        await until(lambda: script.calls[1:] == [api.AccessChange(interface="")])
        await seen(app, "mobile network on wwan0 on wwan0  used, chosen by the person")


async def test_without_accesses_the_networks_stand_there() -> None:
    app = AgentApp(Switchable(household()))
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        await ready(app)
        await pilot.press("p", "tab", "g")
        await seen(app, "no access is chosen")
        assert "networks to choose from" in picture(app)


def test_what_a_switch_would_change_is_said_first() -> None:
    lines = [text.plain for text in paths.switch_lines(PHONE, HOME)]
    assert lines[0] == "new connections go by mobile network on wwan0 (wwan0) instead of Wi-Fi Home"
    assert "those that are there keep their access" in lines
    assert paths.access_detail(PHONE)[0].plain.endswith("on wwan0  not used")
