"""The local API over a real unix socket: its server and its typed client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from snapshots import flow, snapshot

from billpay.errors import EnvironmentFault, RemoteProtocolError
from hostagent import api
from hostagent import client as client_module
from hostagent import server as server_module
from hostagent.client import LocalClient, Unreachable
from hostagent.server import MAX_STREAMS, LocalServer

EVENTS_REQUEST = b"GET /v1/events HTTP/1.1\r\nHost: agent\r\n\r\n"


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "agent.sock"


@contextlib.asynccontextmanager
async def serving(socket: Path, shown: Callable[[], api.Snapshot] = snapshot) -> AsyncIterator[LocalServer]:
    server = LocalServer(socket, shown)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def answering(socket: Path, answer: bytes) -> AsyncIterator[None]:
    """Something on the socket that is no agent of ours: says `answer` to whatever it is asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()
        writer.close()

    socket.parent.mkdir(exist_ok=True)
    server = await asyncio.start_unix_server(talk, socket)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 500])
async def test_every_endpoint_answers_its_part(socket: Path, count: int) -> None:
    whole = snapshot(flows=tuple(flow(f"tcp ☃ ünïcode 流 {n} " + "x" * 300, amount=20) for n in range(count)))
    async with serving(socket, lambda: whole), LocalClient(socket) as client:
        assert socket.stat().st_mode & 0o777 == 0o600
        assert await client.snapshot() == whole
        assert await client.status() == whole.status
        assert await client.flows() == whole.flows
        assert await client.accounts() == whole.accounts
        assert await client.paths() == whole.paths
        assert await anext(client.events()) == whole
    assert not socket.exists()


async def test_unknown_paths_and_methods_get_a_problem(socket: Path) -> None:
    async with (
        serving(socket),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
    ):
        async with session.get("http://agent/v1/nothing") as response:
            assert response.status == 404
            problem = await response.json()
            assert problem.keys() == {"code", "message"}
            assert problem["code"] == "unknown-path"
        async with session.post("http://agent/v1/status") as response:
            assert response.status == 405
            assert (await response.json())["code"] == "wrong-method"


# --- the socket ---------------------------------------------------------------------------------------------------


async def test_the_socket_is_the_owners_whatever_the_umask(socket: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(socket):
            assert socket.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


async def test_a_living_agent_keeps_its_socket(socket: Path) -> None:
    async with serving(socket):
        second = LocalServer(socket, snapshot)
        with pytest.raises(EnvironmentFault, match="another agent answers there") as caught:
            await second.start()
        assert "\n" not in str(caught.value)
        await second.stop()
        async with LocalClient(socket) as client:
            assert await client.status() == snapshot().status


async def test_a_stale_socket_is_replaced(socket: Path) -> None:
    socket.parent.mkdir()
    with sockets.socket(sockets.AF_UNIX) as killed:
        killed.bind(str(socket))  # closing does not remove the file, and neither does SIGKILL
    async with serving(socket), LocalClient(socket) as client:
        assert await client.status() == snapshot().status


async def test_a_file_that_is_no_socket_is_left_alone(socket: Path) -> None:
    socket.parent.mkdir()
    socket.write_text("precious")
    with pytest.raises(EnvironmentFault, match="not a socket"):
        await LocalServer(socket, snapshot).start()
    assert socket.read_text() == "precious"


async def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault) as caught:
        await LocalServer(tmp_path / "file" / "agent.sock", snapshot).start()
    assert "\n" not in str(caught.value)


# --- streams ------------------------------------------------------------------------------------------------------


async def test_events_follow_changes(socket: Path) -> None:
    sequence = 1
    async with serving(socket, lambda: snapshot(sequence=sequence)) as server, LocalClient(socket) as client:
        events = client.events()
        assert (await anext(events)).sequence == 1
        sequence = 2
        server.changed()
        assert (await anext(events)).sequence == 2
        await events.aclose()


async def test_many_changes_at_once_are_one_event(socket: Path) -> None:
    asked = 0

    def shown() -> api.Snapshot:
        nonlocal asked
        asked += 1
        return snapshot(sequence=asked)

    async with serving(socket, shown) as server, LocalClient(socket) as client:
        events = client.events()
        assert (await anext(events)).sequence == 1
        for _ in range(1000):
            server.changed()
        assert (await anext(events)).sequence == 2
        assert asked == 2
        await events.aclose()


async def test_a_reader_that_never_reads_is_cut_off_and_holds_nobody_up(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "WRITE_S", 0.05)
    monkeypatch.setattr(server_module, "MAX_STREAMS", 1)
    big = snapshot(flows=tuple(flow(f"flow {n}" + "x" * 2000) for n in range(500)))  # more than sockets buffer
    async with serving(socket, lambda: big) as server, LocalClient(socket) as client:
        slow = []
        for path in (b"snapshot", b"events"):
            reader, writer = await asyncio.open_unix_connection(socket, limit=1)
            writer.write(EVENTS_REQUEST.replace(b"events", path))
            slow.append((reader, writer))
        for _ in range(5):
            server.changed()
            assert len(await client.flows()) == 500
        assert await _first_event(client) == big  # so the stream of the slow one has been ended
        for reader, writer in slow:
            with contextlib.suppress(ConnectionError):
                assert len(await reader.read()) < 600_000  # what was on its way, not the whole
            writer.close()


async def _first_event(client: LocalClient) -> api.Snapshot:
    """As soon as there is a place."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(RemoteProtocolError):
                return await anext(client.events())
            await asyncio.sleep(0.01)


async def test_streams_are_bounded_and_free_again_when_their_reader_leaves(socket: Path) -> None:
    async with serving(socket), contextlib.AsyncExitStack() as many:
        for _ in range(MAX_STREAMS):
            reader, writer = await asyncio.open_unix_connection(socket)
            many.callback(writer.close)
            writer.write(EVENTS_REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with LocalClient(socket) as client:
            with pytest.raises(RemoteProtocolError, match="too-many-streams"):
                await anext(client.events())
            assert await client.status() == snapshot().status  # one look is always possible
            writer.close()  # nothing changes meanwhile: the place is free because the reader left
            assert await _first_event(client) == snapshot()


async def test_events_end_when_the_agent_ends(socket: Path) -> None:
    async with serving(socket) as server, LocalClient(socket) as client:
        events = client.events()
        assert await anext(events) == snapshot()
        await server.stop()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_an_agent_that_comes_back_is_asked_by_the_same_client(socket: Path) -> None:
    async with LocalClient(socket) as client:
        async with serving(socket):
            await client.status()
        with pytest.raises(Unreachable):
            await client.status()
        async with serving(socket):
            assert await client.status() == snapshot().status


# --- no agent, or none of ours ------------------------------------------------------------------------------------


async def _one_line(socket: Path) -> str:
    async with LocalClient(socket) as client:
        with pytest.raises(Unreachable) as caught:
            await client.snapshot()
        with pytest.raises(Unreachable):
            await anext(client.events())
    assert "\n" not in str(caught.value)
    assert str(socket) in str(caught.value)
    return str(caught.value)


async def test_a_missing_agent_is_one_line_that_says_what_to_do(socket: Path) -> None:
    line = await _one_line(socket)
    assert "no such file" in line
    assert "hostagent up" in line


async def test_a_dead_agents_socket_is_one_line(socket: Path) -> None:
    socket.parent.mkdir()
    with sockets.socket(sockets.AF_UNIX) as killed:
        killed.bind(str(socket))
    assert "nobody listens there" in await _one_line(socket)


async def test_somebody_elses_socket_is_one_line(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_arguments: object, **_named: object) -> None:
        raise PermissionError(13, "Permission denied")  # root, who runs this, is never refused by the kernel

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", refused)
    line = await _one_line(socket)
    assert "permission denied" in line
    assert "hostagent up" not in line


async def test_an_agent_that_does_not_answer_in_time_is_one_line(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT_S", 0.05)
    socket.parent.mkdir()
    with sockets.socket(sockets.AF_UNIX) as hung:
        hung.bind(str(socket))
        hung.listen()
        async with LocalClient(socket) as client:
            with pytest.raises(Unreachable) as caught:
                await client.status()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"null", b"not json", b'{"name": "A"}', b"\xff\xfe"])
async def test_an_answer_of_another_version_is_the_agents_fault(socket: Path, body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with answering(socket, head + body + b"\n"), LocalClient(socket) as client:
        with pytest.raises(RemoteProtocolError, match="malformed"):
            await client.status()
        with pytest.raises(RemoteProtocolError, match="malformed"):
            await anext(client.events())


async def test_an_endless_answer_is_not_taken(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with answering(socket, head + b" " * (2 << 20)), LocalClient(socket) as client:
        with pytest.raises(RemoteProtocolError, match="too-long"):
            await client.status()
        with pytest.raises(RemoteProtocolError, match="too-long"):
            await anext(client.events())


async def test_an_answer_that_breaks_off_is_unreachable(socket: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    async with answering(socket, head), LocalClient(socket) as client:
        with pytest.raises(Unreachable):
            await client.status()
        with pytest.raises(Unreachable):
            await anext(client.events())
