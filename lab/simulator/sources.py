"""Who sends in the packet mode: paced flows, Poisson and on/off cross traffic, bursts that wait to be sent; and where
flows end.

Decides: when a packet leaves. Refuses to know: prices and reactors (`feedback`), windows (`windows`). Chance comes as a
callable, one for each role, so that two treatments see the same traffic.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lab.simulator.events import NS_PER_BYTE_AT_1_BIT_S, NS_PER_S, Hop, Packet, Timeline

Draw = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What has arrived since the flow began; of CE marks each packet has at most one."""

    packets: int = 0
    bytes: int = 0
    marks: int = 0
    charge_nanodollars: int = 0


class Receiver:
    """The end of a flow: counts, and acknowledges where its sender wants that.

    `nanodollars_per_mark` is what its provider charges now; each mark costs what it cost when it came.
    """

    __slots__ = (
        "_expected",
        "_line",
        "acknowledge",
        "bytes",
        "charge_nanodollars",
        "delay_sum_ns",
        "lost_packets",
        "marks",
        "nanodollars_per_mark",
        "packets",
        "play",
        "return_ns",
    )

    def __init__(self, timeline: Timeline, *, nanodollars_per_mark: int = 0) -> None:
        self._line = timeline
        self.packets = self.bytes = self.marks = self.charge_nanodollars = self.delay_sum_ns = 0
        self.lost_packets = self._expected = 0
        self.nanodollars_per_mark = nanodollars_per_mark
        self.acknowledge: Callable[[Packet], None] | None = None
        self.return_ns = 0
        self.play: Callable[[Packet], None] | None = None

    def arrive(self, packet: Packet) -> None:
        self.packets += 1
        self.bytes += packet.size_bytes
        self.lost_packets += packet.number - self._expected  # FIFO links keep the order
        self._expected = packet.number + 1
        self.delay_sum_ns += self._line.now_ns - packet.sent_ns
        if packet.marked:
            self.marks += 1
            self.charge_nanodollars += self.nanodollars_per_mark
        if self.play is not None:
            self.play(packet)
        if self.acknowledge is not None:
            self._line.schedule(self._line.now_ns + self.return_ns, self.acknowledge, packet)

    def counts(self) -> Counts:
        return Counts(
            packets=self.packets, bytes=self.bytes, marks=self.marks, charge_nanodollars=self.charge_nanodollars
        )


class PacedSource:
    """Packets of one size at a rate that may change at any time, by a bucket of one packet.

    `spread`: gaps are uniform in (1 ± spread) of the mean, so that flows of one rate do not march in step; 0 needs no
    chance. A rate of 0 sends nothing. With `left_bytes` it ends when so much has been sent.
    """

    __slots__ = (
        "_draw",
        "_due_ns",
        "_enter",
        "_gap_ns",
        "_generation",
        "_line",
        "_packet_bytes",
        "_route",
        "_spread",
        "left_bytes",
        "media_rate_bit_s",
        "rate_bit_s",
        "sent_packets",
    )

    def __init__(
        self,
        timeline: Timeline,
        route: tuple[Hop, ...],
        *,
        packet_bytes: int = 1000,
        draw: Draw | None = None,
        spread: float = 0.0,
    ) -> None:
        assert draw is not None or not spread, "a spread needs chance"
        self._line = timeline
        self._route = route
        self._packet_bytes = packet_bytes
        self._draw = draw if spread else None
        self._spread = spread
        self._enter = route[0].arrive
        self._gap_ns = 0.0  # at the last rate that was one
        self._generation = 0
        self._due_ns = 0.0  # when the next packet may leave, at the present rate
        self.rate_bit_s = 0
        self.left_bytes: int | None = None
        self.media_rate_bit_s = 0
        self.sent_packets = 0

    def set_rate(self, rate_bit_s: int) -> None:
        """From now on. What of the present gap has passed counts in packets, not in time."""
        if rate_bit_s == self.rate_bit_s:
            return
        now_ns = self._line.now_ns
        waiting_ns = max(0.0, self._due_ns - now_ns)
        self.rate_bit_s = rate_bit_s
        self._generation += 1
        if rate_bit_s <= 0:
            return
        old_gap_ns, self._gap_ns = self._gap_ns, self._packet_bytes * NS_PER_BYTE_AT_1_BIT_S / rate_bit_s
        self._due_ns = now_ns + (waiting_ns * self._gap_ns / old_gap_ns if old_gap_ns else 0.0)
        self._line.schedule(int(self._due_ns), self._emit, self._generation)

    def _emit(self, generation: int) -> None:
        if generation != self._generation:
            return  # of a rate that no longer holds
        left = self.left_bytes
        if left is not None:
            if left <= 0:
                self.set_rate(0)
                return
            self.left_bytes = left - self._packet_bytes
        line, size = self._line, self._packet_bytes
        packet = Packet(self._route, size, self.sent_packets, line.now_ns)
        if self.media_rate_bit_s:
            packet.media_ns = size * NS_PER_BYTE_AT_1_BIT_S // self.media_rate_bit_s
        self.sent_packets += 1
        draw = self._draw
        if draw is None:
            self._due_ns += self._gap_ns
        else:
            self._due_ns += self._gap_ns * (1.0 + self._spread * (2.0 * draw() - 1.0))
        line.schedule(int(self._due_ns), self._emit, generation)
        self._enter(packet)


class PoissonSource:
    """Packets at exponential gaps; `steps`: (from this time on, this mean rate), rising times."""

    __slots__ = ("_draw", "_generation", "_line", "_mean_gap_ns", "_packet_bytes", "_route", "sent_packets")

    def __init__(
        self,
        timeline: Timeline,
        route: tuple[Hop, ...],
        steps: Iterable[tuple[int, int]],
        draw: Draw,
        *,
        packet_bytes: int = 1000,
    ) -> None:
        self._line = timeline
        self._route = route
        self._draw = draw
        self._packet_bytes = packet_bytes
        self._mean_gap_ns = 0.0
        self._generation = 0
        self.sent_packets = 0
        for from_ns, rate_bit_s in steps:
            timeline.schedule(from_ns, self.set_rate, rate_bit_s)

    def set_rate(self, rate_bit_s: int) -> None:
        """The mean, from now on."""
        self._generation += 1
        if rate_bit_s > 0:
            self._mean_gap_ns = self._packet_bytes * NS_PER_BYTE_AT_1_BIT_S / rate_bit_s
            self._wait(self._generation)

    def _wait(self, generation: int) -> None:
        gap_ns = -math.log(1.0 - self._draw()) * self._mean_gap_ns
        self._line.schedule(self._line.now_ns + int(gap_ns), self._emit, generation)

    def _emit(self, generation: int) -> None:
        if generation != self._generation:
            return
        packet = Packet(self._route, self._packet_bytes, self.sent_packets, self._line.now_ns)
        self.sent_packets += 1
        self._wait(generation)
        self._route[0].arrive(packet)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnOff:
    """Bursts at a peak rate; how long they last and how far apart they are is exponential."""

    peak_bit_s: int
    mean_on_ns: int
    mean_off_ns: int

    @property
    def mean_bit_s(self) -> int:
        return self.peak_bit_s * self.mean_on_ns // (self.mean_on_ns + self.mean_off_ns)


def bursts(pattern: OnOff, draw: Draw, end_ns: int) -> list[tuple[int, int]]:
    """(when, bytes) of all bursts that somebody has to send: the same demand for whoever carries it."""
    found: list[tuple[int, int]] = []
    now_ns = 0
    while True:
        now_ns += int(-math.log(1.0 - draw()) * pattern.mean_off_ns)
        on_ns = int(-math.log(1.0 - draw()) * pattern.mean_on_ns)
        if now_ns >= end_ns:
            return found
        found.append((now_ns, max(1, on_ns * pattern.peak_bit_s // NS_PER_BYTE_AT_1_BIT_S)))
        now_ns += on_ns


class BurstSource:
    """Sends bursts one after the other, each at once, at the source's rate: what is slow waits, and nothing is lost
    before the network. `done` hears how long each burst took, from when it was wanted."""

    __slots__ = ("_line", "_source", "_waiting", "done_ns", "pace_bit_s")

    def __init__(
        self, timeline: Timeline, source: PacedSource, demand: Iterable[tuple[int, int]], *, pace_bit_s: int
    ) -> None:
        self._line = timeline
        self._source = source
        self._waiting: deque[tuple[int, int]] = deque()
        self.pace_bit_s = pace_bit_s
        self.done_ns: list[int] = []
        for when_ns, size_bytes in demand:
            timeline.schedule(when_ns, self._want, (when_ns, size_bytes))

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def set_rate(self, rate_bit_s: int) -> None:
        """The pace of what is there to be sent."""
        self.pace_bit_s = rate_bit_s
        if self._waiting:
            self._source.set_rate(rate_bit_s)
            self._check()

    def _want(self, burst: tuple[int, int]) -> None:
        self._waiting.append(burst)
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        self._source.left_bytes = self._waiting[0][1]
        self._source.set_rate(self.pace_bit_s)
        self._check()

    def _check(self) -> None:
        """Looks again when the burst should be over at this pace."""
        left, rate = self._source.left_bytes or 0, self._source.rate_bit_s
        if rate > 0:
            when_ns = self._line.now_ns + max(0, left) * NS_PER_BYTE_AT_1_BIT_S // rate + 1
            self._line.schedule(when_ns, self._look, (self._waiting[0], rate))

    def _look(self, expected: tuple[tuple[int, int], int]) -> None:
        burst, rate = expected
        if not self._waiting or self._waiting[0] != burst or rate != self.pace_bit_s:
            return  # an earlier pace: another look has been asked for
        if (self._source.left_bytes or 0) > 0:
            self._check()
            return
        self._waiting.popleft()
        self.done_ns.append(self._line.now_ns - burst[0])
        self._source.set_rate(0)
        if self._waiting:
            self._begin()


def steps_of(shares: Iterable[float], *, capacity_bit_s: int, step_ns: int) -> list[tuple[int, int]]:
    """Cross traffic that changes each `step_ns`: 0, 0.5, 0.9, 0.2 of the capacity in experiment B.2."""
    return [(number * step_ns, int(share * capacity_bit_s)) for number, share in enumerate(shares)]


__all__ = [
    "NS_PER_S",
    "BurstSource",
    "Counts",
    "OnOff",
    "PacedSource",
    "PoissonSource",
    "Receiver",
    "bursts",
    "steps_of",
]
