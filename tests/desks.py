"""A desk for the local API's server, a server for a desk, and values of the API with everything in them."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from snapshots import snapshot

from cartographer.measuring.report import ProbeRequest
from hostagent import api
from hostagent.desk import Desk, HistoryQuery, QualityQuery, Refused
from hostagent.server import LocalServer

SPEC = Path(__file__).parents[1] / "docs" / "spec" / "local-api.md"
LISTED: dict[str, type[msgspec.Struct]] = {
    "flows": api.Flow,
    "programs": api.Program,
    "links": api.Link,
    "questions": api.Question,
    "kinds": api.Kind,
    "prices": api.Price,
    "networks": api.Network,
    "budgets": api.Budget,
    "worths": api.Worth,
    "notices": api.Notice,
    "rules": api.Rule,
    "sessions": api.Session,
}
WHOLE_PARTS = [field.name for field in msgspec.structs.fields(api.Snapshot) if field.name not in ("sequence", "unix_s")]
T = TypeVar("T")


@functools.cache
def examples() -> dict[str, str]:
    return dict(re.findall(r"```json (\w+)\n(.*?)\n```", SPEC.read_text(encoding="utf-8"), re.DOTALL))


def example(kind: type[T]) -> T:
    """As the document of the API shows it: every field is there."""
    return msgspec.json.decode(examples()[kind.__name__], type=kind)


def full_snapshot(sequence: int = 1) -> api.Snapshot:
    """Something in every list."""
    parts: dict[str, Any] = {name: (example(kind),) for name, kind in LISTED.items()}
    whole = msgspec.structs.replace(example(api.Snapshot), sequence=sequence, status=example(api.Status), **parts)
    return msgspec.structs.replace(whole, accounts=example(api.Accounts), paths=example(api.Paths))


class FakeDesk:
    """Answers with the document's examples, and remembers what it was told."""

    def __init__(self, shown: api.Snapshot | None = None) -> None:
        self.shown = shown if shown is not None else full_snapshot()
        self.asked = 0
        self.told: list[object] = []
        self.refusal: Exception | None = None

    def snapshot(self) -> api.Snapshot:
        self.asked += 1
        return self.shown

    def why(self, flow: str) -> api.Why:
        if all(flow not in each.flow and flow not in each.program for each in self.shown.flows):
            raise Refused("unknown-flow", f"no flow is called {flow}")
        return example(api.Why)

    async def history(self, query: HistoryQuery) -> tuple[api.HistoryRow, ...]:
        self._take(query)
        return (example(api.HistoryRow),)

    async def statement(self, month: str) -> api.Statement:
        self._take(month)
        return example(api.Statement)

    async def replay(self, since_unix_s: int, until_unix_s: int) -> tuple[api.ReplayLine, ...]:
        self._take((since_unix_s, until_unix_s))
        return (example(api.ReplayLine),)

    async def session(self, session: str, after: int, wait_s: int) -> api.Session:
        self._take((session, after, wait_s))
        return example(api.Session)

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        self._take(request)
        return example(api.Session)

    async def end_session(self, session: str) -> None:
        self._take(session)

    async def set_session_worth(self, change: api.SessionWorth) -> None:
        self._take(change)

    async def ways(self, destination: str, limit: int) -> tuple[api.Way, ...]:
        self._take((destination, limit))
        return (example(api.Way),)

    async def network_map(self, destination: str) -> api.NetworkMap:
        self._take(destination)
        return example(api.NetworkMap)

    async def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]:
        self._take(query)
        return (example(api.QualityRow),)

    async def probing(self, number: int, after: int, wait_s: int) -> api.Probing:
        self._take((number, after, wait_s))
        return example(api.Probing)

    async def probe(self, request: ProbeRequest) -> api.Probing:
        self._take(request)
        return example(api.Probing)

    async def set_access(self, change: api.AccessChange) -> None:
        self._take(change)

    async def answer(self, answer: api.Answer) -> None:
        self._take(answer)

    async def set_mode(self, change: api.ModeChange) -> None:
        self._take(change)

    async def set_worth(self, change: api.WorthChange) -> None:
        self._take(change)

    async def trust(self, fingerprint: str) -> None:
        self._take(fingerprint)

    async def forget(self, what: api.Forget) -> None:
        self._take(what)

    async def reload(self) -> None:
        self._take("reload")

    async def stop(self) -> None:
        self._take("stop")

    def _take(self, what: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(what)


def desk_showing(shown: Callable[[], api.Snapshot]) -> FakeDesk:
    desk = FakeDesk()
    desk.snapshot = shown  # type: ignore[method-assign]
    return desk


@contextlib.asynccontextmanager
async def serving(
    socket: Path, shown: Callable[[], api.Snapshot] | Desk = snapshot, metrics_listen: str = ""
) -> AsyncIterator[LocalServer]:
    server = LocalServer(socket, desk_showing(shown) if callable(shown) else shown, metrics_listen=metrics_listen)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
