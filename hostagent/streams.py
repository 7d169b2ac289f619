"""The agent's latest snapshot for everybody who asks: made and encoded once, however many there are.

Decides: how often a snapshot is made (after a change, at most four a second for streams, and never when nobody asks).
Refuses to know what is in one, and who reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from hostagent import api

EVENT_GAP_S = 0.25
RETRY_MS: Final = 1000  # when a browser-like reader comes back
HEARTBEAT: Final = b": still here\n\n"


_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One event, as all streams send it."""

    number: int
    text: bytearray  # never changed


class Latest:
    """`snapshot` is asked again after `changed()`, and when what it said is older than the gap between events."""

    def __init__(self, snapshot: Callable[[], api.Snapshot], now_s: Callable[[], float]) -> None:
        self._ask = snapshot
        self._now_s = now_s
        self._snapshot: api.Snapshot | None = None
        self._asked_s = 0.0
        self._encoded: dict[str, bytes] = {}

    def changed(self) -> None:
        self._snapshot = None
        self._encoded.clear()

    def snapshot(self) -> api.Snapshot:
        if self._snapshot is None or self._now_s() - self._asked_s >= EVENT_GAP_S:
            self.changed()
            self._snapshot = self._ask()
            self._asked_s = self._now_s()
        return self._snapshot

    def encoded(self, part: str) -> bytes:
        """One of its fields; "snapshot" is the whole."""
        snapshot = self.snapshot()
        if part not in self._encoded:
            value = snapshot if part == "snapshot" else getattr(snapshot, part)
            self._encoded[part] = msgspec.json.encode(value)
        return self._encoded[part]


class Feed:
    """Frames for streams. `changed()` may be called as often as one likes."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest
        self._frame: Frame | None = None
        self._number = 0
        self._made_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self.readers = 0
        self.ended = False

    def changed(self) -> None:
        self._latest.changed()
        if self.readers:
            self._make_soon()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While it is open frames are made."""
        self.readers += 1
        if self.readers == 1:
            self._make_soon()
        try:
            yield
        finally:
            self.readers -= 1
            if not self.readers:
                self._rest()

    async def after(self, seen: Frame | None) -> Frame | None:
        """The latest frame if it is another one, else the next; None: there will be none."""
        while not self.ended:
            if self._frame is not None and (seen is None or self._frame.number != seen.number):
                return self._frame
            await self._news.wait()
        return None

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _rest(self) -> None:
        self._frame = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_soon(self) -> None:
        if self._timer is None and not self.ended:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._made_s + EVENT_GAP_S), self._make)

    def _make(self) -> None:
        self._timer = None
        self._made_s = asyncio.get_running_loop().time()
        snapshot = self._latest.snapshot()
        self._number += 1
        self._frame = Frame(number=self._number, text=event_of(snapshot))
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def event_of(snapshot: api.Snapshot) -> bytearray:
    """A server-sent event (WHATWG HTML, 9.2): JSON has no line break in it, so the data is one line."""
    text = bytearray(f"event: snapshot\nid: {snapshot.sequence}\nretry: {RETRY_MS}\ndata: ".encode())
    _ENCODER.encode_into(snapshot, text, -1)
    text += b"\n\n"
    return text
