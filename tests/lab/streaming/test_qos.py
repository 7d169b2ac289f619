"""The thin interface for any program, against the agent's own local server with a scripted desk behind it."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from scripted_agent import FakeAgent, ScriptedDesk

from hostagent import api
from hostagent.client import Unreachable
from hostagent.desk import Refused
from hostagent.server import LocalServer
from lab.streaming.qos import Ends, Held, ends_of, following, session
from lab.streaming.reacting import default_policy
from lab.streaming.video import LADDER_BIT_S
from pricereactor import sdp

POLICY = default_policy((60_000, 150_000, 300_000))
FIRST = api.Session(
    session="ab" * 16,
    number=1,
    flow="udp 127.0.0.1:1 → 127.0.0.1:2",
    task="video",
    kind="streaming",
    sends=True,
    pays=True,
    adapts=True,
    verdict="go",
    target_bit_s=150_000,
)


class SessionDesk(ScriptedDesk):
    """One session, whose changes are awaited as those of an agent are."""

    def __init__(self) -> None:
        super().__init__()
        self.now = FIRST

    def change(self, target_bit_s: int | None, verdict: str = "go") -> None:
        self.now = msgspec.structs.replace(
            self.now, number=self.now.number + 1, target_bit_s=target_bit_s, verdict=verdict
        )

    async def session(self, session: str, after: int, wait_s: int) -> api.Session:
        if session != self.now.session:
            raise Refused("unknown-session", "there is no such session")
        for _ in range(wait_s * 500):
            if self.now.number > after:
                break
            await asyncio.sleep(0.002)
        return self.now

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        self._take(request)
        return self.now


@asynccontextmanager
async def an_agent(path: Path) -> AsyncIterator[tuple[SessionDesk, LocalServer]]:
    desk = SessionDesk()
    server = LocalServer(path, desk)
    await server.start()
    try:
        yield desk, server
    finally:
        await server.stop()


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    """A sender's socket, connected, and the one that it sends to."""
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.bind(("127.0.0.1", 0))
    receiving.setblocking(False)
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.connect(receiving.getsockname())
    return sending, receiving


@pytest.mark.row("DPH-29")
async def test_a_socket_has_a_rate_and_nothing_leaves_the_host(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    sending, receiving = pair
    path = tmp_path / "agent.sock"
    with sending, receiving:
        async with an_agent(path) as (desk, _server):
            async with following(sending, POLICY, agent=path) as held:
                assert held.target_bit_s == 150_000
                desk.change(60_000)
                await asyncio.wait_for(held.changed(), 5)
                assert (held.target_bit_s, held.now.number) == (60_000, 2)
                desk.change(None, "let go")
                await asyncio.wait_for(held.changed(), 5)
                assert held.target_bit_s is None
                assert not held.stopped
                desk.change(0, "stop")
                await asyncio.wait_for(held.changed(), 5)
                assert held.stopped
            asked, ended = desk.told
        with pytest.raises(BlockingIOError):
            receiving.recv(1)
        assert ended == FIRST.session
        assert isinstance(asked, api.SessionRequest)
        ports = (sending.getsockname()[1], receiving.getsockname()[1])
        assert (asked.protocol, asked.local_port, asked.remote_port) == ("udp", *ports)
        assert (asked.sends, asked.pays, asked.adapts, asked.policy) == (True, True, True, POLICY)


@pytest.mark.row("DPH-29")
def test_the_same_without_an_event_loop(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    agent = FakeAgent(tmp_path / "agent.sock")
    desk = agent.desk = SessionDesk()
    with pair[0], pair[1], agent:
        with session(pair[0], POLICY, agent=agent.socket) as held:
            assert held.target_bit_s == 150_000
            desk.change(300_000)
            while held.target_bit_s == 150_000:
                pass
            assert held.target_bit_s == 300_000
        assert desk.told[-1] == FIRST.session


async def test_an_agent_that_goes_leaves_no_target(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    ends = Ends(protocol="udp", local="127.0.0.1", local_port=5, remote="127.0.0.1", remote_port=6)
    async with an_agent(path) as (_desk, server), following(ends, POLICY, agent=path) as held:
        await server.stop()
        await asyncio.wait_for(held.changed(), 5)
        assert held.target_bit_s is None
        assert held.lost
        assert not held.stopped


def test_without_an_agent_there_is_no_session(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    with pair[0], pair[1], pytest.raises(Unreachable), session(pair[0], POLICY, agent=tmp_path / "none.sock"):
        pass


async def test_what_the_agent_refuses_is_raised(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    path = tmp_path / "agent.sock"
    with pair[0], pair[1]:
        async with an_agent(path) as (desk, _server):
            desk.refusal = Refused("no-price", "nobody says what a mark costs")
            with pytest.raises(Refused, match="mark costs"):
                async with following(pair[0], POLICY, agent=path):
                    pass


def test_the_ends_of_a_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    with pair[0], pair[1]:
        ends = ends_of(pair[0])
        assert (ends.protocol, ends.remote, ends.remote_port) == ("udp", *pair[1].getsockname())
        with pytest.raises(OSError, match="not connected"):
            ends_of(pair[1])


HOWTO = Path(__file__).parents[3] / "docs" / "howto" / "adaptive-programs.md"


def test_the_document_shows_what_there_is() -> None:
    """Its program compiles and takes what these modules have; its policy is one."""
    text = HOWTO.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, each.name) for each in node.names)
    held = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "held"
    }
    assert held
    assert all(hasattr(Held, name) for name in held)
    (description,) = re.findall(r"^```sdp\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    policy = sdp.from_sdp(description)
    assert policy is not None
    assert policy.ladder_bit_s == LADDER_BIT_S
