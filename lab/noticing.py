"""Asks an agent again and again what it believes and found out, so that a report can say when it knew of a change.

Decides what it knows by: which way it has chosen since it costs least; where its packets go follows from that later,
and looking at a dearer way for a while is no belief. A thread of its own, since steps wait for traffic; an agent that
does not answer is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from billpay.errors import RemoteProtocolError
from hostagent.api import Way
from hostagent.client import LocalClient, Unreachable

POLL_S = 0.04  # a round trip of those scenarios
FOUND_S = 0.5
JOIN_S = 5.0

Best = frozenset[tuple[str, str, int]]
"""Of the ways that cost least: destination, AS, alternative."""


Found = dict[tuple[str, str], str]
"""What it accuses ISPs of: AS and kind, with the evidence."""


class Said(NamedTuple):
    """From this unix time on the agent says so."""

    unix_ns: int
    best: Best
    found: Found


class Noticing:
    """A context manager: from entering to leaving it, `said` grows by each change of the answer."""

    def __init__(self, socket: Path) -> None:
        self.said: list[Said] = []
        self._socket = socket
        self._found: Found = {}
        self._accused_s = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), daemon=True)

    def __enter__(self) -> Noticing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(JOIN_S)

    async def _ask(self) -> None:
        async with LocalClient(self._socket) as client:
            while not self._end.is_set():
                with contextlib.suppress(Unreachable, RemoteProtocolError):
                    self._on_answer(best_of(await client.ways()), await self._accused(client))
                await asyncio.sleep(POLL_S)

    async def _accused(self, client: LocalClient) -> Found:
        """Seldom, since an answer costs the agent time, and evidence takes seconds to gather."""
        if time.monotonic() - self._accused_s >= FOUND_S:
            self._accused_s = time.monotonic()
            paths = await client.paths()
            self._found = {(finding.as_name, finding.kind): finding.evidence for finding in paths.findings}
        return self._found

    def _on_answer(self, best: Best, found: Found) -> None:
        before = self.said[-1] if self.said else None
        if before is None or (before.best, before.found.keys()) != (best, found.keys()):
            self.said.append(Said(time.time_ns(), best, found))


def best_of(ways: Iterable[Way]) -> Best:
    """Of each class of flows to each destination the chosen way, if it has the least cost of those that have one."""
    least: dict[tuple[str, str], Way] = {}
    for way in ways:
        key = way.destination, way.wants
        held = least.get(key)
        if way.cost_picodollars is not None and (
            held is None or held.cost_picodollars is None or way.cost_picodollars < held.cost_picodollars
        ):
            least[key] = way
    return frozenset(
        (way.destination, as_name, int(number))
        for way in least.values()
        if way.chosen
        for as_name, _, number in (hop.partition(":") for hop in way.way.split())
        if number.isdecimal()
    )
