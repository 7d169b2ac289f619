"""What has arrived: counts of packets and marks, and the buffer that a person watches from.

Decides: what is lost, when the picture stops and when it goes on. Refuses to know: sockets, clocks, prices, levels.
Pure. Source: M3I scenarios 3.5.1 (5 to 10 s of buffer at the receiver), 3.3.3.4 (marks are counted there for the price
reaction); RFC 3550 A.1 (extended sequence numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

_HALF: Final = 1 << 15
_FAR: Final = 3_000
"""RFC 3550 A.1, MAX_DROPOUT: a jump beyond that is another stream, not loss."""


class Ecn(IntEnum):
    """The two bits of an IP header (RFC 3168)."""

    NOT_ECT = 0
    ECT_1 = 1
    ECT_0 = 2
    CE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Since the session began; bytes at the IP layer. `ect`: without CE. 0 of many packets: somebody bleaches them."""

    packets: int = 0
    bytes: int = 0
    ce: int = 0
    ect: int = 0
    lost: int = 0


class Counter:
    """A packet that comes twice counts twice: it was carried twice, and marked or not each time."""

    def __init__(self) -> None:
        self._packets = self._bytes = self._ce = self._ect = 0
        self._first: int | None = None
        self._highest = 0

    def on_packet(self, *, sequence: int, wire_bytes: int, ecn: Ecn) -> None:
        self._packets += 1
        self._bytes += wire_bytes
        self._ce += ecn is Ecn.CE
        self._ect += ecn in (Ecn.ECT_0, Ecn.ECT_1)
        if self._first is None:
            self._first = self._highest = sequence
            return
        ahead = ((sequence - self._highest + _HALF) & 0xFFFF) - _HALF
        if 0 < ahead < _FAR:
            self._highest += ahead

    @property
    def counts(self) -> Counts:
        expected = 0 if self._first is None else self._highest - self._first + 1
        return Counts(
            packets=self._packets,
            bytes=self._bytes,
            ce=self._ce,
            ect=self._ect,
            lost=max(0, expected - self._packets),
        )


class Screen(Enum):
    FILLING = "filling"  # before the first picture
    PLAYING = "playing"
    STALLED = "stalled"
    OVER = "over"


class Buffer:
    """Media that has arrived and was not shown yet.

    It plays when `buffer_ns` of it is there, and again after a stall when a quarter of that is. What was lost leaves
    a hole in the picture, not a stall. The last `tail_ns` may be lost without anyone waiting for them.
    """

    def __init__(self, *, buffer_ns: int, duration_ns: int, tail_ns: int) -> None:
        self._enough_ns = min(buffer_ns, duration_ns - tail_ns)
        self._again_ns = self._enough_ns // 4
        self._duration_ns = duration_ns
        self._tail_ns = tail_ns
        self._arrived_ns = 0
        self._shown_ns = 0
        self._looked_ns: int | None = None
        self.screen = Screen.FILLING
        self.stalls = 0
        self.stalled_ns = 0

    @property
    def filled_ns(self) -> int:
        return self._arrived_ns - self._shown_ns

    @property
    def has_all(self) -> bool:
        return self._arrived_ns >= self._duration_ns - self._tail_ns

    def on_media(self, now_ns: int, until_ns: int) -> None:
        """Media up to there has arrived."""
        self.look(now_ns)
        self._arrived_ns = max(self._arrived_ns, min(until_ns, self._duration_ns))
        self.look(now_ns)

    def look(self, now_ns: int) -> None:
        """To be called now and then: time passes for who watches."""
        passed_ns = 0 if self._looked_ns is None else now_ns - self._looked_ns
        self._looked_ns = now_ns
        if self.screen is Screen.STALLED:
            self.stalled_ns += passed_ns
        if self.screen is Screen.PLAYING:
            self._show(passed_ns)
        elif self.screen is not Screen.OVER:
            needed_ns = self._enough_ns if self.screen is Screen.FILLING else self._again_ns
            if self.filled_ns > 0 and (self.filled_ns >= needed_ns or self.has_all):
                self.screen = Screen.PLAYING

    def _show(self, passed_ns: int) -> None:
        missing_ns = passed_ns - self.filled_ns
        if missing_ns < 0:
            self._shown_ns += passed_ns
            return
        self._shown_ns = self._arrived_ns
        if self.has_all:
            self.screen = Screen.OVER
        else:
            self.screen = Screen.STALLED
            self.stalls += 1
            self.stalled_ns += missing_ns
