"""Server and player that leave the reaction to the agents of their hosts, over loopback with scripted desks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_agent import ScriptedDesk

from billpay.sessions import Payer
from hostagent import api
from hostagent.server import LocalServer
from lab.streaming.clock import MachineClock
from lab.streaming.player import Played, PlayerOptions, play
from lab.streaming.server import Served, Server, ServerOptions
from lab.streaming.video import Shape, synthetic_video

LADDER = (60_000, 150_000, 300_000)
VIDEO = synthetic_video(Shape(seconds=4, segment_ms=200, ladder_bit_s=LADDER))
FAST = MachineClock(8)


class AgentDesk(ScriptedDesk):
    """Says the scripted targets one after the other, each when the one before was read; the last one stays."""

    def __init__(self, *targets: tuple[int | None, str]) -> None:
        super().__init__()
        self._targets = targets
        self._request: api.SessionRequest | None = None

    def _now(self, number: int) -> api.Session:
        number = min(number, len(self._targets))
        target, verdict = self._targets[number - 1]
        assert self._request is not None
        return api.Session(
            session="cd" * 16,
            number=number,
            flow="udp",
            task="video",
            kind="streaming",
            sends=self._request.sends,
            pays=self._request.pays,
            adapts=True,
            verdict=verdict,
            target_bit_s=target,
            spent_nanodollars=number * 1_000,
            reason="its money is used up" if verdict == "stop" else "",
        )

    async def session(self, session: str, after: int, wait_s: int) -> api.Session:
        await asyncio.sleep(0.02)
        return self._now(after + 1)

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        self._take(request)
        self._request = request
        return self._now(1)


async def watch(tmp_path: Path, payer: Payer, sender: AgentDesk, receiver: AgentDesk) -> tuple[Played, Served]:
    at_sender, at_receiver = tmp_path / "sender.sock", tmp_path / "receiver.sock"
    agents = [LocalServer(at_sender, sender), LocalServer(at_receiver, receiver)]
    for agent in agents:
        await agent.start()
    server = Server(VIDEO, ServerOptions(address="127.0.0.1", payer=payer, clock=FAST, agent=at_sender))
    try:
        port = await server.start()
        played = await play(
            PlayerOptions(address="127.0.0.1", port=port, payer=payer, buffer_ms=1_000, clock=FAST, agent=at_receiver)
        )
        return played, await asyncio.wait_for(server.served.get(), 10)
    finally:
        await server.close()
        for agent in agents:
            await agent.stop()


def requests(desk: AgentDesk) -> list[api.SessionRequest]:
    return [told for told in desk.told if isinstance(told, api.SessionRequest)]


@pytest.mark.row("DPH-14", "DPH-29")
async def test_the_receivers_agent_pays_and_the_senders_agent_says_the_rate(tmp_path: Path) -> None:
    """Each program asks its own agent about the same flow, seen from its side; between them goes no rate."""
    sender = AgentDesk((None, "let go"), (300_000, "go"), (150_000, "go"))
    receiver = AgentDesk((60_000, "go"))
    played, served = await watch(tmp_path, Payer.RECEIVER, sender, receiver)
    assert played.ended == "all shown"
    assert [change.level for change in served.levels][-1] == 1
    assert (served.targets_heard, played.reports) == (0, 0)
    assert (played.spent_nanodollars, served.spent_nanodollars) == (1_000, 0), "as the payer's agent has it"
    (sends,), (receives,) = requests(sender), requests(receiver)
    assert (sends.sends, sends.pays, sends.policy) == (True, False, None), "who does not pay has no policy to tell"
    assert (receives.sends, receives.pays) == (False, True)
    assert receives.policy is not None
    assert receives.policy.ladder_bit_s == LADDER
    assert (receives.local, receives.remote) == (sends.remote, sends.local)
    assert receives.remote_port == sends.local_port
    assert receives.local_port == sends.remote_port


async def test_the_senders_agent_pays(tmp_path: Path) -> None:
    sender, receiver = AgentDesk((60_000, "go"), (300_000, "go")), AgentDesk((None, "go"))
    played, served = await watch(tmp_path, Payer.SENDER, sender, receiver)
    assert (played.ended, played.reports, served.levels[-1].level) == ("all shown", 0, 2)
    assert requests(receiver) == [], "its agent counts without being asked"
    assert requests(sender)[0].policy is not None
    assert (played.spent_nanodollars, served.spent_nanodollars) == (0, 2_000)


async def test_a_session_ends_when_its_agent_says_stop(tmp_path: Path) -> None:
    sender = AgentDesk((60_000, "go"), (60_000, "go"), (0, "stop"))
    played, served = await watch(tmp_path, Payer.SENDER, sender, AgentDesk((None, "go")))
    assert served.ended == "its money is used up"
    assert played.ended == "the server has closed the connection"
