"""The typed client of the local API against agents that are not there, not well, or not ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from desks import FakeDesk, example, serving
from snapshots import snapshot

from billpay.errors import RemoteProtocolError
from hostagent import api, streams
from hostagent import client as client_module
from hostagent.client import LocalClient, Unreachable, ask

EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "agent.sock"


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


# --- events ------------------------------------------------------------------------------------------------------


async def test_the_client_takes_events_in_any_pieces_and_passes_over_what_it_does_not_know(socket: Path) -> None:
    first, second = (bytes(streams.event_of(snapshot(sequence=n))) for n in (1, 2))
    said = b": hello\n\nevent: weather\ndata: rain\n\n" + first.replace(b"\n", b"\r\n") + b"id: 3\n\n" + second
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    for size in (1, 7, len(said)):
        pieces = [said[start : start + size] for start in range(0, len(said), size)]

        async def talk(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pieces: list[bytes] = pieces
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for piece in (head, *pieces):
                writer.write(piece)
                await asyncio.sleep(0)
            writer.close()

        socket.parent.mkdir(exist_ok=True)
        server = await asyncio.start_unix_server(talk, socket)
        async with LocalClient(socket) as client:
            assert [each.sequence async for each in client.events()] == [1, 2]
        server.close()
        await server.wait_closed()


async def test_a_stream_that_says_nothing_hangs(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 0.5)
    async with serving(socket, FakeDesk()), LocalClient(socket) as client:
        events = client.events()
        await anext(events)
        with pytest.raises(Unreachable):
            await anext(events)


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
        for asked in (client.status(), client.why("x"), anext(client.events())):
            with pytest.raises(RemoteProtocolError, match="malformed"):
                await asked


@pytest.mark.parametrize("data", [b"null", b"not json", b'{"name": "A"}', b"\xff\xfe"])
async def test_an_event_of_another_version_is_the_agents_fault(socket: Path, data: bytes) -> None:
    async with (
        answering(socket, EVENTS_HEAD + b"event: snapshot\ndata: " + data + b"\n\n"),
        LocalClient(socket) as client,
    ):
        with pytest.raises(RemoteProtocolError, match="malformed"):
            await anext(client.events())


async def test_fields_of_a_newer_agent_are_passed_over(socket: Path) -> None:
    status = msgspec.to_builtins(example(api.Status)) | {
        "mood": "good",
        "limits": [{"ability": "a", "cause": "b", "x": 1}],
    }
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with answering(socket, head + msgspec.json.encode(status)), LocalClient(socket) as client:
        told = await client.status()
    assert (told.name, told.limits[0].ability) == (example(api.Status).name, "a")


async def test_an_endless_answer_is_not_taken(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with answering(socket, head + b" " * (2 << 20)), LocalClient(socket) as client:
        with pytest.raises(RemoteProtocolError, match="too-long"):
            await client.status()
    async with answering(socket, EVENTS_HEAD + b" " * (2 << 20)), LocalClient(socket) as client:
        with pytest.raises(RemoteProtocolError, match="too-long"):
            await anext(client.events())


async def test_an_answer_that_breaks_off_is_unreachable(socket: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    async with answering(socket, head), LocalClient(socket) as client:
        with pytest.raises(Unreachable):
            await client.status()
    head = EVENTS_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 100\r\n\r\n")
    async with answering(socket, head + b"event"), LocalClient(socket) as client:
        with pytest.raises(Unreachable):
            await anext(client.events())


def test_a_program_without_a_loop_asks_in_one_call(socket: Path) -> None:
    with pytest.raises(Unreachable, match="no such file"):
        ask(socket, LocalClient.status)


async def test_a_program_without_a_loop_gets_the_answer(socket: Path) -> None:
    async with serving(socket, FakeDesk()):
        assert await asyncio.to_thread(ask, socket, LocalClient.status) == example(api.Status)
        assert await asyncio.to_thread(ask, socket, lambda client: client.why("rsync")) == example(api.Why)
