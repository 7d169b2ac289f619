"""The local API over a real unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from snapshots import flow, snapshot

from billpay.errors import EnvironmentFault
from hostagent.client import LocalClient, Unreachable
from hostagent.server import LocalServer


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "agent.sock"


async def test_every_endpoint_answers_its_part(socket: Path) -> None:
    whole = snapshot(flows=(flow("tcp ☃", amount=20),))
    server = LocalServer(socket, lambda: whole)
    await server.start()
    try:
        assert socket.stat().st_mode & 0o777 == 0o600
        async with LocalClient(socket) as client:
            assert await client.snapshot() == whole
            assert await client.status() == whole.status
            assert await client.flows() == whole.flows
            assert await client.accounts() == whole.accounts
            assert await client.paths() == whole.paths
            assert await anext(client.events()) == whole
    finally:
        await server.stop()
    assert not socket.exists()


async def test_unknown_paths_and_methods_get_a_problem(socket: Path) -> None:
    server = LocalServer(socket, snapshot)
    await server.start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
            async with session.get("http://agent/v1/nothing") as response:
                assert response.status == 404
                assert (await response.json())["code"] == "unknown-path"
            async with session.post("http://agent/v1/status") as response:
                assert response.status == 405
    finally:
        await server.stop()


async def test_a_live_socket_is_respected_a_stale_one_replaced(socket: Path) -> None:
    server = LocalServer(socket, snapshot)
    await server.start()
    with pytest.raises(EnvironmentFault, match="another agent answers there"):
        await LocalServer(socket, snapshot).start()
    await server.stop()
    socket.parent.mkdir(exist_ok=True)
    socket.touch()  # what a killed agent leaves
    again = LocalServer(socket, snapshot)
    await again.start()
    await again.stop()


async def test_a_missing_agent_is_one_line_that_says_what_to_do(socket: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        async with LocalClient(socket) as client:
            await client.snapshot()
    line = str(caught.value)
    assert "\n" not in line
    assert str(socket) in line
    assert "hostagent up" in line


async def test_a_reader_that_never_reads_holds_nobody_up(socket: Path) -> None:
    big = snapshot(flows=tuple(flow(f"flow {n}" + "x" * 200) for n in range(500)))
    server = LocalServer(socket, lambda: big)
    await server.start()
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: agent\r\n\r\n")
        await writer.drain()
        async with LocalClient(socket) as client:
            for _ in range(20):
                server.changed()
                assert len((await client.snapshot()).flows) == 500
        writer.close()
        del reader
    finally:
        await server.stop()


async def test_events_end_when_the_agent_ends(socket: Path) -> None:
    server = LocalServer(socket, snapshot)
    await server.start()
    async with LocalClient(socket) as client:
        events = client.events()
        assert await anext(events) == snapshot()
        await server.stop()
        with pytest.raises((StopAsyncIteration, Unreachable)):
            await anext(events)
