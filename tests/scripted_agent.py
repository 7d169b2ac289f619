"""An agent as the command line's tests need it: the real server on a unix socket, with what it is scripted to say."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from snapshots import MAP, NOVEMBER, NOW_UNIX_S, QUALITY, WAYS, household

from cartographer.measuring.report import ProbeRequest
from hostagent import api
from hostagent.desk import HistoryQuery, QualityQuery, Refused
from hostagent.server import LocalServer

START_S = 10


class ScriptedDesk:
    """A household's laptop. What it is told is kept in `told`, and what was asked for in `asked`."""

    def __init__(self) -> None:
        self.shown = household()
        self.told: list[object] = []
        self.asked: list[object] = []
        self.refusal: Refused | None = None
        self.stopped = threading.Event()

    def snapshot(self) -> api.Snapshot:
        return self.shown

    def why(self, flow: str) -> api.Why:
        fitting = [each for each in self.shown.flows if flow in each.flow or flow in each.program]
        if len(fitting) != 1:
            raise Refused("unknown-flow", f"{len(fitting)} flows have {flow!r} in them")
        one = fitting[0]
        lines = (("program", one.program), ("kind", one.traffic_class), ("share", one.reason))
        return api.Why(flow=one.flow, lines=tuple(api.WhyLine(question=q, answer=a) for q, a in lines))

    async def history(self, query: HistoryQuery) -> tuple[api.HistoryRow, ...]:
        self.asked.append(query)
        rows = (("firefox", 3_470_000_000, 31_000_000_000), ("=cmd|' /C calc'!A0", 12, 0))
        return tuple(
            api.HistoryRow(
                from_unix_s=NOW_UNIX_S - 86_400,
                seconds=86_400,
                program=name,
                sent_bytes=sent,
                received_bytes=received,
                received_ce_packets=sent // 10**9,
                tariff_nanodollars=sent // 3,
            )
            for name, sent, received in rows
        )

    async def statement(self, month: str) -> api.Statement:
        self.asked.append(month)
        return NOVEMBER

    async def replay(self, since_unix_s: int, until_unix_s: int) -> tuple[api.ReplayLine, ...]:
        self.asked.append((since_unix_s, until_unix_s))
        return (
            api.ReplayLine(tariff="per byte", nanodollars=62_960_000_000, reason="12.6 GB at 5 USD/GB"),
            api.ReplayLine(tariff="flat", nanodollars=29_900_000_000, reason="one month"),
        )

    async def session(self, session: str, after: int, wait_s: int) -> api.Session:
        self.asked.append((session, after, wait_s))
        return next(each for each in self.shown.sessions if each.session == session)

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        self._take(request)
        return self.shown.sessions[0]

    async def end_session(self, session: str) -> None:
        self._take(session)

    async def set_session_worth(self, change: api.SessionWorth) -> None:
        self._take(change)

    async def ways(self, destination: str, limit: int) -> tuple[api.Way, ...]:
        self.asked.append((destination, limit))
        return tuple(each for each in WAYS if destination in ("", each.destination))[:limit]

    async def network_map(self, destination: str) -> api.NetworkMap:
        self.asked.append(destination)
        return MAP

    async def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]:
        self.asked.append(query)
        return QUALITY

    async def probing(self, number: int, after: int, wait_s: int) -> api.Probing:
        self.asked.append((number, after, wait_s))
        return api.Probing(number=number, sequence=after + 1, done=True, problem="nothing is probed here")

    async def probe(self, request: ProbeRequest) -> api.Probing:
        self._take(request)
        return api.Probing(number=1, sequence=1, done=False)

    async def set_access(self, change: api.AccessChange) -> None:
        self._take(change)

    async def answer(self, answer: api.Answer) -> None:
        self._take(answer)

    async def set_mode(self, change: api.ModeChange) -> None:
        self._take(change)
        mode = api.Mode.TRIAL if change.trial_s else change.mode
        self.shown = household(mode=mode, trial_seconds_left=change.trial_s or None)

    async def set_worth(self, change: api.WorthChange) -> None:
        if change.kind == "nonsense":
            raise Refused("unknown-kind", "there is no kind 'nonsense'; there are: call, web")
        self._take(change)

    async def trust(self, fingerprint: str) -> None:
        self._take(fingerprint)

    async def forget(self, what: api.Forget) -> None:
        self._take(what)

    async def reload(self) -> None:
        self._take("reload")

    async def stop(self) -> None:
        self._take("stop")
        self.stopped.set()

    def _take(self, change: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(change)


class FakeAgent:
    """Serves the desk in a thread of its own, until it is told to stop or the test ends."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.desk = ScriptedDesk()
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: LocalServer | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> FakeAgent:
        self._thread.start()
        assert self._up.wait(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.desk.stopped.set()
        self._thread.join()

    def show(self, snapshot: api.Snapshot) -> None:
        """From now on, also to those who follow its events."""
        self.desk.shown = snapshot
        assert self._loop is not None
        assert self._server is not None
        self._loop.call_soon_threadsafe(self._server.changed)

    async def _serve(self) -> None:
        server = self._server = LocalServer(self.socket, self.desk)
        self._loop = asyncio.get_running_loop()
        await server.start()
        self._up.set()
        while not self.desk.stopped.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the answer to `stop` leaves first
        await server.stop()


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program that ends with the test at the latest, and the first line that it wrote."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()
