"""The small client for programs, against the real server with a scripted desk."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from desks import FakeDesk, example, serving

from hostagent import api
from hostagent.desk import Refused
from hostagent.session_client import Agent, Unreachable, default_socket, flow_of
from pricereactor.policy import TaskPolicy

POLICY = TaskPolicy(name="call", willingness_nanodollars_per_s=10_000)


@contextlib.contextmanager
def connected(family: socket.AddressFamily = socket.AF_INET, far: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((far, 5004))
        yield sock


@pytest.mark.row("DPH-29")
async def test_a_program_asks_for_quality_like_for_a_socket_option(tmp_path: Path) -> None:
    path, desk = tmp_path / "agent.sock", FakeDesk()

    def program() -> tuple[int | None, int | None, str]:
        with connected() as sock, Agent(path).session(sock, policy=POLICY) as session:
            session.wait(2.0)
            session.refresh()
            return session.target_bit_s, session.level, session.verdict

    async with serving(path, desk):
        assert await asyncio.to_thread(program) == (750_000, 1, "go")
    request, waited, looked, ended = desk.told
    assert isinstance(request, api.SessionRequest)
    assert (request.protocol, request.remote, request.remote_port) == ("udp", "127.0.0.1", 5004)
    assert (request.policy, request.adapts, request.sends) == (POLICY, True, True)
    shown = example(api.Session)
    assert waited == (shown.session, shown.number, 2)
    assert looked == (shown.session, 0, 0)
    assert ended == shown.session


async def test_a_refusal_is_the_agents_words(tmp_path: Path) -> None:
    path, desk = tmp_path / "agent.sock", FakeDesk()
    desk.refusal = Refused("no-such-task", "there is no task 'film'")

    def program() -> None:
        with connected() as sock:
            Agent(path).session(sock, task="film")

    async with serving(path, desk):
        with pytest.raises(Refused, match="no task 'film'") as refused:
            await asyncio.to_thread(program)
        assert refused.value.code == "no-such-task"


async def test_all_sessions_can_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with serving(path, FakeDesk()):
        assert await asyncio.to_thread(Agent(path).sessions) == (example(api.Session),)


def test_where_no_agent_is_the_program_is_told_in_one_line(tmp_path: Path) -> None:
    with connected() as sock, pytest.raises(Unreachable, match=r"no agent answers on .*agent\.sock"):
        Agent(tmp_path / "agent.sock").session(sock, task="film")


def test_which_flow_a_socket_is() -> None:
    with connected() as sock:
        flow = flow_of(sock)
        assert (flow.local, flow.local_port) == sock.getsockname()
    with connected(socket.AF_INET6, "::ffff:127.0.0.1") as sock:
        assert flow_of(sock).remote == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(Refused, match="not connected"):
        flow_of(sock)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(Refused, match="TCP or UDP"):
        flow_of(sock)


def test_the_environment_names_the_agents_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTAGENT_SOCKET", "/tmp/other.sock")
    assert default_socket() == Path("/tmp/other.sock")
    monkeypatch.delenv("HOSTAGENT_SOCKET")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_socket().name == api.SOCKET_NAME
