"""The screens in a browser: who gets in, what the page may do, and that the screens come through."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from billpay.errors import EnvironmentFault
from tui import loopback
from tui.loopback import LoopbackServer
from tui.web import listening, serve

ROOT = Path(__file__).parent.parent.parent
TOKEN = "a-secret-of-this-test"


@contextlib.asynccontextmanager
async def served(command: str) -> AsyncIterator[tuple[LoopbackServer, list[str]]]:
    said: list[str] = []
    with listening(0) as listener:
        server = LoopbackServer(command, listener, token=TOKEN, title="laptop", say=said.append)
        runner = web.AppRunner(await server.application(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        try:
            yield server, said
        finally:
            await runner.cleanup()


async def status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


async def test_the_page_is_there_for_who_knows_its_address() -> None:
    async with served("true") as (server, said):
        assert said == [f"open {server.address} in a browser on this machine; Ctrl-C ends it"]
        assert server.address.startswith("http://127.0.0.1:")
        async with aiohttp.ClientSession() as session, session.get(server.address) as response:
            assert response.status == 200
            text = await response.text()
            policy = response.headers["Content-Security-Policy"]
            assert response.headers["Referrer-Policy"] == "no-referrer"
        assert f"ws://127.0.0.1:{server.port}/{TOKEN}/ws" in text
        assert "default-src 'none'" in policy
        assert f"connect-src ws://127.0.0.1:{server.port};" in policy
        assert await status(f"{server.address}static/js/textual.js") == 200


@pytest.mark.parametrize(
    "path", ["", "ws", "static/js/textual.js", "a-secret-of-another-test/", "A-SECRET-OF-THIS-TEST/"]
)
async def test_without_the_secret_nothing_is_found(path: str) -> None:
    async with served("true") as (server, _said):
        assert await status(f"{server.public_url}/{path}") == 404


async def test_a_site_that_gives_its_own_name_our_address_gets_nothing() -> None:
    async with served("true") as (server, _said):
        assert await status(server.address, Host=f"evil.example:{server.port}") == 403
        assert await status(server.address, Host="127.0.0.1:1") == 403


@pytest.mark.parametrize(
    "origin", [None, "http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"]
)
async def test_keys_are_taken_from_our_own_page_only(origin: str | None) -> None:
    async with served("true") as (server, _said), aiohttp.ClientSession() as session:
        headers = {} if origin is None else {"Origin": origin.format(port=server.port)}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{server.address}ws", headers=headers)
        assert refused.value.status == 403


async def test_the_screens_come_through_and_keys_go_back(tmp_path: Path) -> None:
    async with _serving(tmp_path / "agent.sock") as address, aiohttp.ClientSession() as session:
        headers = {"Origin": address.rsplit("/", 2)[0]}
        async with session.ws_connect(f"{address}ws?width=80&height=24", headers=headers) as screen:
            await _until_shown(screen, "NOT CONNECTED")
            await screen.send_json(["stdin", "?"])
            await _until_shown(screen, "on every screen")
            await screen.send_json(["stdin", "?"])
            await screen.send_json(["stdin", "q"])
            await _until_closed(screen)


@contextlib.asynccontextmanager
async def _serving(socket: Path) -> AsyncIterator[str]:
    """A server in a process of its own, as a person starts it; it ends in order when it is told to."""
    program = f"from pathlib import Path; from tui.web import serve; serve(Path({str(socket)!r}), 0)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", program, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(10):
            said = (await process.stdout.readline()).decode().split()
        yield next(word for word in said if word.startswith("http://127.0.0.1:"))
    finally:
        process.terminate()
        assert await process.wait() == 0


async def _until_shown(screen: aiohttp.ClientWebSocketResponse, text: str) -> None:
    shown = ""
    async with asyncio.timeout(10):
        while text not in shown:
            message = await screen.receive()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
            if message.type is aiohttp.WSMsgType.BINARY:
                shown += message.data.decode(errors="replace")


async def _until_closed(screen: aiohttp.ClientWebSocketResponse) -> None:
    async with asyncio.timeout(10):
        while True:
            message = await screen.receive()
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING):
                return


async def test_there_are_no_more_screens_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "MOST_SCREENS", 0)
    async with served("true") as (server, _said):
        assert await status(f"{server.address}ws", Origin=server.public_url) == 503


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with listening(0) as listener, pytest.raises(EnvironmentFault, match="listen on") as caught:
        serve(tmp_path / "agent.sock", listener.getsockname()[1])
    assert "\n" not in str(caught.value)


def test_without_textual_serve_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    monkeypatch.delitem(sys.modules, "tui.loopback")
    with pytest.raises(EnvironmentFault, match="pip install textual-serve") as caught:
        serve(tmp_path / "agent.sock", 0)
    assert "\n" not in str(caught.value)


def test_each_time_the_address_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(LoopbackServer, "run", lambda self: said.append(self.address))
    for _ in range(2):
        serve(tmp_path / "agent.sock", 0)
    assert said[0].split("/")[3] != said[1].split("/")[3]
    assert all(len(address.split("/")[3]) >= 32 for address in said)
