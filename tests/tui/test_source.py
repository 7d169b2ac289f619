"""The screens against the real client and server: what a key does reaches the agent."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_agent import ScriptedDesk
from snapshots import FINGERPRINT, FLOWS, NOVEMBER
from tui_driving import keys, seen, until

from billpay.errors import BillpayError
from hostagent import api
from hostagent.client import Unreachable
from hostagent.server import LocalServer
from tui.app import AgentApp
from tui.source import LocalSource


async def test_everything_that_screens_ask_reaches_the_agent(tmp_path: Path) -> None:
    desk = ScriptedDesk()
    server = LocalServer(tmp_path / "agent.sock", desk)
    source = LocalSource(tmp_path / "agent.sock")
    await server.start()
    try:
        assert await anext(aiter(source.events())) == desk.shown
        assert source.secretary("/run/none") is None
        assert (await source.why("zoom")).flow == FLOWS[0].flow
        assert await source.statement("2026-11") == NOVEMBER
        orders = (
            api.Answer(number=8, allow=True, term=api.Term.TODAY),
            api.WorthChange(program="restic", kind="call", term=api.Term.ONE_HOUR),
            api.ModeChange(mode=api.Mode.ACT, trial_s=60),
        )
        await source.answer(orders[0])
        await source.set_worth(orders[1])
        await source.set_mode(orders[2])
        assert tuple(desk.told) == orders
        await source.trust(FINGERPRINT)
        assert len(desk.told) == 4
        with pytest.raises(BillpayError, match="no kind"):
            await source.set_worth(api.WorthChange(program="restic", kind="nonsense"))
    finally:
        await server.stop()
    with pytest.raises(Unreachable):
        await source.statement("2026-11")


@pytest.mark.expectation(10)
async def test_two_people_look_and_one_begins_a_trial(tmp_path: Path) -> None:
    desk = ScriptedDesk()
    server = LocalServer(tmp_path / "agent.sock", desk)
    await server.start()
    first, second = (AgentApp(LocalSource(tmp_path / "agent.sock"), title=name) for name in ("one", "two"))
    try:
        async with first.run_test(size=(80, 24)) as pilot, second.run_test(size=(80, 24)):
            await until(lambda: bool(keys(first)) and bool(keys(second)))
            await pilot.press("x", "y")
            await until(lambda: desk.shown.status.mode is api.Mode.TRIAL)
            server.changed()
            await seen(first, "TRIAL 60 s left")
            await seen(second, "TRIAL 60 s left")
    finally:
        await server.stop()
