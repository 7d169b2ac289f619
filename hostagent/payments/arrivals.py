"""What became of the packets of one flow: how many arrived, how many are lost, how many were marked.

Decides that out of two counts that are never taken at the same moment: ours of what left, and the far end's of what
arrived, which is of a round trip ago.  So the count of what left is taken as it was then, between two readings in
proportion; and what is missing counts as lost only beyond what the readings can be wrong by.  That doubt is there once,
not with each echo: both counts are from the beginning.  Refuses to know ways, tolls and clocks.  Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

_READINGS = 64
_S = 1_000_000_000
_DOUBT_NS = 100_000_000  # that a reading may be late by
_DOUBT_PACKETS = 2


class Became(NamedTuple):
    """Since the echo before."""

    arrived: int = 0
    lost: int = 0
    marked: int = 0

    @property
    def sent(self) -> int:
        return self.arrived + self.lost


@dataclass(slots=True)
class _Base:
    """The counts from which on it is reckoned."""

    sent: int
    arrived: int
    marked: int


class Arrivals:
    """Of one flow that leaves."""

    __slots__ = ("_base", "_echo_ns", "_last", "_readings", "_told_lost")

    def __init__(self) -> None:
        self._readings: deque[tuple[int, int]] = deque(maxlen=_READINGS)
        self._base: _Base | None = None
        self._last: tuple[int, int] = (0, 0)  # arrived and marked by the last echo
        self._told_lost = 0
        self._echo_ns: int | None = None

    def on_report(self, packets: int, now_ns: int) -> None:
        """So many have left in all."""
        if self._readings and packets < self._readings[-1][1]:
            self._readings.clear()
            self._base = None
        self._readings.append((now_ns, packets))

    def on_echo(self, *, packets: int, marked: int, round_trip_ns: int, now_ns: int) -> Became:
        """So many have arrived in all, by an echo that is here now."""
        self._echo_ns = now_ns
        sent = self._sent_at(now_ns - round_trip_ns)
        before, marked_before = self._last
        if self._base is None or packets < before or sent is None:
            self._last = packets, marked
            self._told_lost = 0
            self._base = None if sent is None else _Base(sent, packets, marked)
            return Became()
        missing = sent - self._base.sent - (packets - self._base.arrived) - self._told_lost
        lost = max(0, missing - self._doubt())
        self._told_lost += lost
        self._last = packets, marked
        return Became(packets - before, lost, max(0, min(packets - before, marked - marked_before)))

    def is_silent(self, now_ns: int, patience_ns: int) -> bool:
        """Packets go on leaving, and the far end, which did speak, says nothing of them."""
        if self._echo_ns is None or now_ns - self._echo_ns < patience_ns or not self._readings:
            return False
        then = self._sent_at(self._echo_ns)
        return then is not None and self._readings[-1][1] - then > self._doubt()

    def _doubt(self) -> int:
        """Packets that a late reading may be wrong by."""
        (first_ns, first), (last_ns, last) = self._readings[0], self._readings[-1]
        span_ns = max(last_ns - first_ns, _S // 10)
        return _DOUBT_PACKETS + (last - first) * _DOUBT_NS // span_ns

    def _sent_at(self, at_ns: int) -> int | None:
        """None: nobody counted so early."""
        readings = self._readings
        if not readings or at_ns < readings[0][0]:
            return None
        later_ns, later = readings[-1]
        if at_ns >= later_ns:
            return later
        for earlier_ns, earlier in reversed(readings):
            if earlier_ns <= at_ns:
                span_ns = max(1, later_ns - earlier_ns)
                return earlier + (later - earlier) * (at_ns - earlier_ns) // span_ns
            later_ns, later = earlier_ns, earlier
        return None


class _Reading(NamedTuple):
    """What had come back by a moment: nanodollars, and paid packets."""

    at_ns: int
    refunded: float
    packets: float


class _Told(NamedTuple):
    """What the far end had returned when its echo arrived here."""

    at_ns: int
    returned: int


class ReturnTolls:
    """What packets cost that come back: what the far end says it returned, less what came back of it.

    An echo leaves with the packets that it counts, so it is compared with what had come back when it arrived: between
    two of our readings in proportion, hence once the later one is there.  Over some seconds what is left of doubt is
    little; less than that is no toll.
    """

    __slots__ = ("_base", "_readings", "_waiting")

    def __init__(self) -> None:
        self._readings: deque[_Reading] = deque(maxlen=_READINGS)
        self._waiting: _Told | None = None  # for a later reading
        self._base: tuple[int, _Reading] | None = None  # returned, and what had come back then

    def on_report(self, *, refunded_nanodollars: int, packets: int, now_ns: int) -> None:
        """So much has come back in all."""
        last = self._readings[-1] if self._readings else None
        if last is not None and (refunded_nanodollars < last.refunded or packets < last.packets):
            self._readings.clear()
            self._base = self._waiting = None
        self._readings.append(_Reading(now_ns, refunded_nanodollars, packets))

    def on_echo(self, *, returned_nanodollars: int, now_ns: int) -> int | None:
        """Picodollars for each paid packet that came back, once there were enough of them."""
        told = self._waiting
        if told is not None and self._readings and self._readings[-1].at_ns < told.at_ns:
            return None
        self._waiting = _Told(now_ns, returned_nanodollars)
        there = self._at(told.at_ns) if told is not None else None
        if told is None or there is None:
            return None
        if self._base is None or told.returned < self._base[0]:
            self._base = told.returned, there
            return None
        returned, span_ns = told.returned - self._base[0], there.at_ns - self._base[1].at_ns
        packets = there.packets - self._base[1].packets
        if span_ns < RETURN_NS or packets < RETURN_PACKETS or not returned:
            return None
        missing = returned - (there.refunded - self._base[1].refunded)
        self._base = told.returned, there
        return round(missing * 1000 / packets) if missing * span_ns > returned * _DOUBT_NS else 0

    def _at(self, at_ns: int) -> _Reading | None:
        """None: nobody counted so early."""
        later: _Reading | None = None
        for earlier in reversed(self._readings):
            if earlier.at_ns <= at_ns:
                if later is None:
                    return earlier
                part = (at_ns - earlier.at_ns) / (later.at_ns - earlier.at_ns)
                refunded = earlier.refunded + part * (later.refunded - earlier.refunded)
                return _Reading(at_ns, refunded, earlier.packets + part * (later.packets - earlier.packets))
            later = earlier
        return None


RETURN_PACKETS = 50
RETURN_NS = 4 * _S
"""Over less than both nothing is reckoned."""
