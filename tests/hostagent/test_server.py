"""The local API over a real unix socket. Who may ask: test_permissions.py; agents that are none: test_client.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from desks import WHOLE_PARTS, FakeDesk, example, full_snapshot, serving
from snapshots import flow, snapshot
from yarl import URL

from billpay.errors import ConfigurationError, EnvironmentFault, RemoteProtocolError
from hostagent import answering as answering_module
from hostagent import api, streams
from hostagent import client as client_module
from hostagent import server as server_module
from hostagent.client import LocalClient, Unreachable
from hostagent.desk import HistoryQuery, Refused
from hostagent.endpoints import HISTORY_S
from hostagent.server import MAX_STREAMS, LocalServer
from hostagent.streams import EVENT_GAP_S, Feed, Latest

EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
EVENTS_URL = "http://agent/v1/events"
EVENTS_REQUEST = b"GET /v1/events HTTP/1.1\r\nHost: agent\r\n\r\n"


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "agent.sock"


@contextlib.asynccontextmanager
async def talking(socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
        yield session


async def answer_of(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    data = None if body is None else body.encode("latin-1")
    url = URL(f"http://agent{path}", encoded=True)
    async with session.request(method, url, data=data, headers=headers) as response:
        return response.status, await response.json()


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 500])
async def test_every_endpoint_answers_its_part(socket: Path, count: int) -> None:
    flows = tuple(flow(f"tcp ☃ ünïcode 流 {n} " + "x" * 300, amount=20) for n in range(count))
    whole = msgspec.structs.replace(full_snapshot(), flows=flows)
    async with serving(socket, FakeDesk(whole)), LocalClient(socket) as client:
        assert socket.stat().st_mode & 0o777 == 0o600
        assert await client.snapshot() == whole
        for name in WHOLE_PARTS:
            assert await getattr(client, name)() == getattr(whole, name)
        assert await anext(client.events()) == whole
    assert not socket.exists()


async def test_questions_reach_the_desk_as_they_were_asked(socket: Path) -> None:
    desk = FakeDesk()
    async with serving(socket, desk), LocalClient(socket) as client:
        assert await client.why("rsync") == example(api.Why)
        query = HistoryQuery(since_unix_s=1, until_unix_s=2, step="hour", by=("network", "kind"), limit=7)
        assert await client.history(query) == (example(api.HistoryRow),)
        everything = HistoryQuery(since_unix_s=1, until_unix_s=2, by=())
        await client.history(everything)
        assert await client.statement("2026-11") == example(api.Statement)
        assert await client.replay(5, 6) == (example(api.ReplayLine),)
    assert desk.told == [query, everything, "2026-11", (5, 6)]


async def test_the_past_is_the_last_thirty_days_unless_one_says(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = FakeDesk()
    monkeypatch.setattr(time, "time", lambda: 10.0**9)
    async with serving(socket, desk), talking(socket) as session:
        assert await answer_of(session, "GET", "/v1/history") == (200, [msgspec.to_builtins(example(api.HistoryRow))])
    assert desk.told == [HistoryQuery(since_unix_s=10**9 - HISTORY_S, until_unix_s=10**9)]


CHANGES: list[tuple[str, object]] = [
    ("answer", api.Answer(number=3, allow=False, term=api.Term.ONE_HOUR)),
    ("set_mode", api.ModeChange(mode=api.Mode.ACT, trial_s=60)),
    ("set_worth", api.WorthChange(program="/usr/bin/curl", nanodollars_per_mb=0)),
    ("trust", "0123456789abcdef" * 4),
    ("forget", api.Forget(program="curl")),
    ("end_session", "0" * 32),
    ("set_session_worth", api.SessionWorth(session="0" * 32, worth_ppm=1_500_000)),
    ("set_access", api.AccessChange(interface="wlan0")),
    ("reload", None),
    ("stop", None),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
async def test_changes_reach_the_desk(socket: Path, name: str, change: object) -> None:
    desk = FakeDesk()
    async with serving(socket, desk), LocalClient(socket) as client:
        await getattr(client, name)(*([] if change is None else [change]))
        assert desk.told == [name if change is None else change]


@pytest.mark.parametrize(("name", "change"), CHANGES)
async def test_what_the_agent_will_not_do_is_its_own_word(socket: Path, name: str, change: object) -> None:
    desk = FakeDesk()
    async with serving(socket, desk), LocalClient(socket) as client:
        for refusal, code in (
            (Refused("no-engine", "nothing can be shaped\nhere"), "no-engine"),
            (ConfigurationError("agent.toml", "links", "is wrong", "write it right"), "bad-configuration"),
        ):
            desk.refusal = refusal
            with pytest.raises(Refused) as caught:
                await getattr(client, name)(*([] if change is None else [change]))
            assert (caught.value.code, str(caught.value)) == (code, " ".join(str(refusal).split()))
        desk.refusal = EnvironmentFault("write", "history", "No space left on device")
        with pytest.raises(RemoteProtocolError, match="failed: write history: No space left on device"):
            await getattr(client, name)(*([] if change is None else [change]))
        assert desk.told == []


async def test_an_unknown_flow_is_not_found(socket: Path) -> None:
    async with serving(socket, FakeDesk()), LocalClient(socket) as client, talking(socket) as session:
        with pytest.raises(Refused, match="no flow is called nothing & nobody"):
            await client.why("nothing & nobody")
        status, problem = await answer_of(session, "GET", "/v1/why?flow=nothing")
        assert (status, problem["code"]) == (404, "unknown-flow")


async def test_a_change_is_seen_at_once(socket: Path) -> None:
    desk = FakeDesk()
    async with serving(socket, desk), LocalClient(socket) as client:
        await client.snapshot()
        desk.shown = full_snapshot(sequence=2)
        await client.reload()
        assert (await client.snapshot()).sequence == 2


async def test_a_change_goes_on_when_the_one_who_asked_for_it_leaves(socket: Path) -> None:
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    desk = FakeDesk()
    desk.reload = slowly  # type: ignore[method-assign]
    async with serving(socket, desk):
        _, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"POST /v1/reload HTTP/1.1\r\nHost: agent\r\n\r\n")
        await begun.wait()
        writer.transport.abort()
        async with LocalClient(socket) as client:
            await client.status()  # the server has seen that it left
        go_on.set()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_the_agent_may_end_while_it_answers_that_it_will(socket: Path) -> None:
    desk = FakeDesk()
    server = LocalServer(socket, desk)
    stopping: list[asyncio.Task[None]] = []

    async def stop() -> None:
        stopping.append(asyncio.create_task(server.stop()))

    desk.stop = stop  # type: ignore[method-assign]
    await server.start()
    async with LocalClient(socket) as client:
        await client.stop()
    await stopping[0]
    assert not socket.exists()


MALFORMED = [
    ("GET", "/v1/status?verbose=1", None),
    ("GET", "/v1/why", None),
    ("GET", "/v1/why?flow=", None),
    ("GET", "/v1/why?flow=" + "x" * 401, None),
    ("GET", "/v1/why?flow=a&flow=b", None),
    ("GET", "/v1/why?flow=a&more=b", None),
    ("GET", "/v1/history?since=yesterday", None),
    ("GET", "/v1/history?since=-1", None),
    ("GET", "/v1/history?since=2&until=1", None),
    ("GET", "/v1/history?since=99999999999999999", None),
    ("GET", "/v1/history?step=minute", None),
    ("GET", "/v1/history?by=user", None),
    ("GET", "/v1/history?by=program,", None),
    ("GET", "/v1/history?by=program%0A", None),
    ("GET", "/v1/history?limit=0", None),
    ("GET", "/v1/history?limit=10001", None),
    ("GET", "/v1/statement?month=2026-13", None),
    ("GET", "/v1/statement?month=2026-11%0A", None),
    ("GET", "/v1/replay?since=2&until=2", None),
    ("POST", "/v1/answers", ""),
    ("POST", "/v1/answers", "\xff"),
    ("POST", "/v1/answers", "[]"),
    ("POST", "/v1/answers", '{"number": 1, "allow": true, "alow": true}'),
    ("POST", "/v1/answers", '{"number": -1, "allow": true}'),
    ("POST", "/v1/answers", '{"number": 1, "allow": true, "term": "2h"}'),
    ("POST", "/v1/mode", '{"mode": "trial"}'),
    ("POST", "/v1/mode", '{"mode": "act", "trial_s": -1}'),
    ("POST", "/v1/mode", '{"mode": "act", "trial_s": 86401}'),
    ("PUT", "/v1/worths", '{"program": ""}'),
    ("PUT", "/v1/worths", '{"program": "a\\nb"}'),
    ("PUT", "/v1/worths", '{"program": "curl", "kind": ""}'),
    ("PUT", "/v1/worths", '{"program": "curl", "nanodollars_per_mb": -1}'),
    ("PUT", "/v1/worths", '{"program": "curl", "nanodollars_per_mb": 1000000000000001}'),
    ("POST", "/v1/trust", '{"fingerprint": "21fe"}'),
    ("POST", "/v1/forget", "{}"),
    ("POST", "/v1/forget", '{"program": "a", "everything": true}'),
    ("POST", "/v1/forget", '{"network": ""}'),
    ("POST", "/v1/trust", '{"fingerprint": "' + "0" * 64 + '\\n"}'),
    ("POST", "/v1/reload", '{"now": true}'),
    ("POST", "/v1/stop", "null"),
]


@pytest.mark.parametrize(("method", "path", "body"), MALFORMED)
async def test_what_a_request_must_not_say_never_reaches_the_desk(
    socket: Path, method: str, path: str, body: str | None
) -> None:
    desk = FakeDesk()
    async with serving(socket, desk), talking(socket) as session:
        status, problem = await answer_of(session, method, path, body)
    assert (status, problem["code"]) == (400, "malformed")
    assert problem["message"]
    assert "\n" not in problem["message"]
    assert desk.told == []


async def test_a_body_that_is_too_long_or_too_slow_is_not_waited_for(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering_module, "READ_S", 0.01)
    async with serving(socket, FakeDesk()), talking(socket) as session:
        status, problem = await answer_of(session, "PUT", "/v1/worths", '{"program": "' + "x" * 5000 + '"}')
        assert (status, problem["code"]) == (413, "too-long")
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"POST /v1/stop HTTP/1.1\r\nHost: agent\r\nContent-Length: 9\r\n\r\n{")
        answer = await reader.read()  # and the connection is closed
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"too-slow" in answer
        writer.close()


async def test_unknown_paths_and_methods_get_a_problem(socket: Path) -> None:
    async with serving(socket), talking(socket) as session:
        for method, path, status, code in (
            ("GET", "/v1/nothing", 404, "unknown-path"),
            ("GET", "/v1/no%0Aline", 404, "unknown-path"),
            ("POST", "/v1/status", 405, "wrong-method"),
            ("GET", "/v1/stop", 405, "wrong-method"),
        ):
            answered, problem = await answer_of(session, method, path)
            assert (answered, problem["code"]) == (status, code)
            assert problem.keys() == {"code", "message"}
            assert "\n" not in problem["message"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_a_web_page_is_refused_whatever_carries_its_request(socket: Path, headers: dict[str, str]) -> None:
    desk = FakeDesk()
    async with serving(socket, desk), talking(socket) as session:
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/stop"), ("GET", "/v1/events"), ("GET", "/metrics")):
            status, problem = await answer_of(session, method, path, headers=headers)
            assert (status, problem["code"]) == (403, "from-a-browser")
    assert desk.told == []
    assert desk.asked == 0


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
        second = LocalServer(socket, FakeDesk())
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
        await LocalServer(socket, FakeDesk()).start()
    assert socket.read_text() == "precious"


async def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault) as caught:
        await LocalServer(tmp_path / "file" / "agent.sock", FakeDesk()).start()
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


async def test_an_event_is_as_the_standard_has_it(socket: Path) -> None:
    async with serving(socket, FakeDesk()), talking(socket) as session, session.get(EVENTS_URL) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        lines = [(await response.content.readline()).decode() for _ in range(5)]
    assert lines[:3] == ["event: snapshot\n", "id: 1\n", "retry: 1000\n"]
    assert lines[3].startswith('data: {"sequence":1,')
    assert lines[4] == "\n"


async def test_a_stream_that_has_nothing_to_say_says_so(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(client_module, "SILENCE_S", 5)
    desk = FakeDesk()
    async with serving(socket, desk), talking(socket) as session, session.get(EVENTS_URL) as response:
        while await response.content.readline() != b": still here\n":
            pass
    assert desk.asked == 1


async def test_a_reader_that_never_reads_is_cut_off_and_holds_nobody_up(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering_module, "WRITE_S", 0.05)
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


# --- many at once -------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_snapshot_is_asked_for_once_for_all_who_look_before_the_next_change() -> None:
    desk, clock = FakeDesk(), Clock()
    latest = Latest(desk.snapshot, clock)
    for part in (*WHOLE_PARTS, "snapshot") * 3:
        latest.encoded(part)
    assert desk.asked == 1
    desk.shown = full_snapshot(sequence=2)
    latest.changed()
    assert (latest.snapshot().sequence, desk.asked) == (2, 2)
    desk.shown = full_snapshot(sequence=3)
    clock.now_s = EVENT_GAP_S - 0.001
    assert latest.snapshot().sequence == 2
    clock.now_s = EVENT_GAP_S
    assert latest.snapshot().sequence == 3
    assert msgspec.json.decode(latest.encoded("snapshot"), type=api.Snapshot).sequence == 3


async def test_nothing_is_made_while_nobody_listens() -> None:
    desk = FakeDesk()
    feed = Feed(Latest(desk.snapshot, asyncio.get_running_loop().time))
    for _ in range(100):
        feed.changed()
        await asyncio.sleep(0)
    assert desk.asked == 0
    with feed.reading():
        frame = await feed.after(None)
        assert frame is not None
        feed.changed()  # due in a moment, but the reader leaves
    assert desk.asked == 1
    await asyncio.sleep(EVENT_GAP_S + 0.05)
    assert desk.asked == 1


def many_flows(sequence: int) -> api.Snapshot:
    flows = tuple(
        flow(
            f"tcp 198.51.100.10:{40000 + n} → 203.0.113.20:{n}", rate=n * sequence, amount=n % 3, reason="because " * 6
        )
        for n in range(2000)
    )
    return msgspec.structs.replace(full_snapshot(sequence=sequence), flows=flows)


async def test_eight_streams_of_two_thousand_flows_are_encoded_once(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "EVENT_GAP_S", 0.02)
    encoded: list[int] = []
    event_of = streams.event_of

    def counting(whole: api.Snapshot) -> bytearray:
        encoded.append(whole.sequence)
        return event_of(whole)

    monkeypatch.setattr(streams, "event_of", counting)
    prepared = [many_flows(sequence) for sequence in range(1, 5)]
    shown = prepared[0]
    async with serving(socket, lambda: shown) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(LocalClient(socket)) for _ in range(8)]
        events = [client.events() for client in clients]
        for shown in prepared:
            server.changed()
            got = await asyncio.gather(*(_until(each, shown.sequence) for each in events))
            assert all(each == shown for each in got)
        for each in events:
            await each.aclose()
        assert sorted(set(encoded)) == [1, 2, 3, 4]
        assert len(encoded) <= 8  # for each of them once, and again for those that came later to the first


async def _until(events: AsyncGenerator[api.Snapshot, None], sequence: int) -> api.Snapshot:
    while (told := await anext(events)).sequence != sequence:
        pass
    return told


async def test_no_step_of_the_loop_is_much_longer_than_making_one_event(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processor time of this thread, as a ratio: a busy machine does not matter. One event of 2,000 flows takes a
    few milliseconds, far below the 50 that anything else in the agent may have to wait.
    """
    whole = many_flows(1)
    size = len(streams.event_of(whole))
    one = min(_processor_s(lambda: streams.event_of(whole)) for _ in range(5))
    async with serving(socket, lambda: whole) as server, contextlib.AsyncExitStack() as many:
        readers = []
        for _ in range(8):
            reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 16)
            many.callback(writer.close)
            writer.write(EVENTS_REQUEST)
            readers.append(asyncio.create_task(_drain(reader, 3 * size)))
        steps: list[float] = []
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            steps.append(_processor_s(lambda: run(handle)))

        monkeypatch.setattr(asyncio.Handle, "_run", timed)
        pending = set(readers)
        while pending:
            server.changed()
            _, pending = await asyncio.wait(pending, timeout=EVENT_GAP_S)
        monkeypatch.undo()
    assert len(steps) > 100
    assert max(steps) < 10 * one


async def _drain(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        size -= len(await reader.read(1 << 16))


def _processor_s(run: Callable[[], object]) -> float:
    begun = time.thread_time()
    run()
    return time.thread_time() - begun


# --- metrics on the loopback --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
async def test_metrics_and_nothing_else_on_the_loopback(socket: Path, address: str) -> None:
    host = address.removesuffix(":0")
    async with serving(socket, FakeDesk(), metrics_listen=address) as server, aiohttp.ClientSession() as session:
        base = f"{host}:{server.metrics_port}"

        async def ask_for(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.request(method, f"http://{base}{path}", headers=sent) as response:
                return response.status, await response.text()

        status, text = await ask_for("/metrics")
        assert status == 200
        assert "hostagent_build_info" in text
        assert (await ask_for("/metrics", Host=f"localhost:{server.metrics_port}"))[0] == 200
        for path, method, headers, expected in (
            ("/v1/status", "GET", {}, 404),
            ("/v1/stop", "POST", {}, 404),
            ("/metrics", "POST", {}, 405),
            ("/metrics", "GET", {"Host": "evil.example"}, 421),
            ("/metrics", "GET", {"Host": f"evil.example:{server.metrics_port}"}, 421),
            ("/metrics", "GET", {"Origin": "http://evil.example"}, 403),
            ("/metrics", "GET", {"Sec-Fetch-Site": "same-site"}, 403),
        ):
            status, text = await ask_for(path, method, **headers)
            assert status == expected
            assert msgspec.json.decode(text).keys() == {"code", "message"}


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9414", "[::]:9414", "192.0.2.1:9414", "localhost:9414", "127.0.0.1", ":9414", "127.0.0.1:65536"],
)
def test_metrics_are_for_this_machine_only(socket: Path, address: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback") as caught:
        LocalServer(socket, FakeDesk(), metrics_listen=address)
    assert "\n" not in str(caught.value)


async def test_a_port_that_is_taken_leaves_no_socket_behind(socket: Path, tmp_path: Path) -> None:
    async with serving(tmp_path / "other.sock", FakeDesk(), metrics_listen="127.0.0.1:0") as other:
        second = LocalServer(socket, FakeDesk(), metrics_listen=f"127.0.0.1:{other.metrics_port}")
        with pytest.raises(EnvironmentFault, match="Address already in use"):
            await second.start()
        assert not socket.exists()
