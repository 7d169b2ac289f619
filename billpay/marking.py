"""Marking: which packets get a congestion mark, by four rules on a virtual queue or a price.

Decides yes or no for each arrival; refuses to know packets and clocks.  All four share one interface, `on_arrival`.
A segment-offloaded packet of n segments is one arrival of its whole length, marked with probability 1 − (1 − p)^n.
Bytes and nanoseconds are integers; what a queue holds is kept in byte·ns/s fractions so that nothing is lost between
close arrivals.

Sources: Gibbens and Kelly 1999 (virtual queue; behaviour of the authors' simulator: the mark flag stays until the
virtual queue is empty); ALTQ's RED defaults (th_min 5, th_max 15 packets, p_max 1/10, w 1/512); Kunniyur and Srikant
2001 (AVQ, γ 0.98, α 0.15, initial capacity 0.8 C); Athuraliya et al. 2001 (REM, φ 1.001, γ 0.001, α 0.1, 2 ms,
reference 20 packets).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

NS_PER_S = 1_000_000_000
PPM = 1_000_000
Draw = Callable[[], float]


class Marking(Protocol):
    """What every rule is to its caller."""

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        """Whether this arrival is marked. `draw` gives a number in [0, 1) and is asked only where chance decides."""
        ...


def probability_of_burst(probability: float, segments: int) -> float:
    """1 − (1 − p)^n: the probability that a packet of n segments is marked."""
    return probability if segments == 1 else 1.0 - (1.0 - probability) ** segments


class _Backlog:
    """A queue on paper that drains at `bytes_per_s`; its level is in bytes, with the fraction kept."""

    __slots__ = ("_fraction", "_last_ns", "level_bytes")

    def __init__(self) -> None:
        self.level_bytes = 0
        self._fraction = 0
        self._last_ns: int | None = None

    def drain(self, bytes_per_s: int, now_ns: int) -> int:
        """Brings the level to `now_ns`; gives the ns since the last call, 0 for a time that is not later."""
        last = self._last_ns
        if last is None or now_ns <= last:
            self._last_ns = now_ns if last is None else last
            return 0
        self._last_ns = now_ns
        drained, self._fraction = divmod((now_ns - last) * bytes_per_s + self._fraction, NS_PER_S)
        self.level_bytes -= drained
        if self.level_bytes <= 0:
            self.level_bytes = 0
            self._fraction = 0
        return now_ns - last


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualLink:
    """The real link and how much smaller the virtual one is (θ for both capacity and buffer)."""

    capacity_bytes_per_s: int
    buffer_bytes: int
    theta_ppm: int = 950_000

    @property
    def virtual_bytes_per_s(self) -> int:
        return self.capacity_bytes_per_s * self.theta_ppm // 1_000_000

    @property
    def virtual_buffer_bytes(self) -> int:
        return self.buffer_bytes * self.theta_ppm // 1_000_000


class VirtualQueue:
    """Gibbens–Kelly: from an overflow of the virtual queue until it is empty, every packet is marked."""

    def __init__(self, link: VirtualLink) -> None:
        self._rate = link.virtual_bytes_per_s
        self._limit = link.virtual_buffer_bytes
        self._backlog = _Backlog()
        self._flag = False

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:  # noqa: ARG002
        backlog = self._backlog
        backlog.drain(self._rate, now_ns)
        if backlog.level_bytes == 0:
            self._flag = False
        backlog.level_bytes += size_bytes
        if backlog.level_bytes > self._limit:
            backlog.level_bytes -= size_bytes
            self._flag = True
        return self._flag


@dataclass(frozen=True, slots=True, kw_only=True)
class RedSettings:
    """Thresholds in bytes (packets of 1000 in ALTQ's defaults), the weight as a shift: 9 is 1/512."""

    min_bytes: int = 5_000
    max_bytes: int = 15_000
    p_max: float = 0.1
    weight_shift: int = 9
    packet_bytes: int = 1_000


class VirtualRed:
    """Linear RED on the average of the virtual queue; marks are spread by the count since the last one.

    The average is of what an arrival finds. From the upper threshold on, and where the virtual queue is full (four
    times that threshold, ALTQ's limit of 60 packets), every arrival is marked.
    """

    def __init__(self, link: VirtualLink, settings: RedSettings | None = None) -> None:
        self._rate = link.virtual_bytes_per_s
        self._settings = settings or RedSettings()
        self._backlog = _Backlog()
        self._average_scaled = 0  # bytes << weight_shift
        self._count = 0

    @property
    def average_bytes(self) -> int:
        return self._average_scaled >> self._settings.weight_shift

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        s = self._settings
        backlog = self._backlog
        self._decay(self._drained_and_idle_ns(now_ns))
        self._average_scaled += backlog.level_bytes - self.average_bytes
        full = backlog.level_bytes + size_bytes > 4 * s.max_bytes
        if not full:
            backlog.level_bytes += size_bytes
        average = self.average_bytes
        if full or average >= s.max_bytes:
            self._count = 0
            return True
        if average < s.min_bytes:
            self._count = 0
            return False
        self._count += 1
        probability = spread_probability(base_probability(average, s), self._count)
        if draw() < probability_of_burst(probability, segments):
            self._count = 0
            return True
        return False

    def _drained_and_idle_ns(self, now_ns: int) -> int:
        """Drains the queue; gives how long it has been empty."""
        level = self._backlog.level_bytes
        elapsed_ns = self._backlog.drain(self._rate, now_ns)
        return max(0, elapsed_ns - level * NS_PER_S // self._rate)

    def _decay(self, idle_ns: int) -> None:
        """While idle the average falls as if n packets had found an empty queue: avg (1 − w)^n.

        This arrival, which finds it empty too, is one of them.
        """
        packets = idle_ns * self._rate // (self._settings.packet_bytes * NS_PER_S) - 1
        if packets > 0:
            factor = (1.0 - 0.5**self._settings.weight_shift) ** min(packets, 100_000)
            self._average_scaled = int(self._average_scaled * factor)


def base_probability(average_bytes: int, settings: RedSettings) -> float:
    """p_b = p_max (avg − th_min)/(th_max − th_min)."""
    span = settings.max_bytes - settings.min_bytes
    return settings.p_max * (average_bytes - settings.min_bytes) / span


def spread_probability(base: float, count: int) -> float:
    """p_a = p_b/(2 − count p_b): half of p_b just after a mark, 1 at count = 2/p_b."""
    left = 2.0 - count * base
    return 1.0 if left <= base else base / left


class Avq:
    """Adaptive virtual queue: the virtual capacity follows γC − λ, so that the real link settles at γ."""

    def __init__(self, link: VirtualLink, *, gamma_ppm: int = 980_000, alpha_ppm: int = 150_000) -> None:
        self._capacity = link.capacity_bytes_per_s
        self._limit = link.buffer_bytes
        self._gamma_ppm = gamma_ppm
        self._alpha_ppm = alpha_ppm
        self._fraction = 0  # of a byte/s; lost fractions would add up to a lower utilisation than γ
        self.virtual_bytes_per_s = self._capacity * 8 // 10
        self._backlog = _Backlog()

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:  # noqa: ARG002
        backlog = self._backlog
        elapsed_ns = backlog.drain(self.virtual_bytes_per_s, now_ns)
        self._adapt(elapsed_ns, size_bytes)
        backlog.level_bytes += size_bytes
        if backlog.level_bytes > self._limit:
            backlog.level_bytes -= size_bytes
            return True
        return False

    def _adapt(self, elapsed_ns: int, size_bytes: int) -> None:
        """C̃ ← C̃ + α (γ C dt − s), between 0 and C."""
        excess = elapsed_ns * self._capacity * self._gamma_ppm - size_bytes * NS_PER_S * PPM
        change, self._fraction = divmod(self._alpha_ppm * excess + self._fraction, NS_PER_S * PPM * PPM)
        wanted = self.virtual_bytes_per_s + change
        self.virtual_bytes_per_s = min(self._capacity, max(0, wanted))
        if self.virtual_bytes_per_s != wanted:
            self._fraction = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemSettings:
    gain: float = 0.001
    alpha: float = 0.1
    phi: float = 1.001
    reference_packets: float = 20.0
    period_ns: int = 2_000_000
    packet_bytes: int = 1_000


class Rem:
    """Random exponential marking: a link price that adds up along a path; p = 1 − φ^(−price).

    Each period: price ← [price + g (arrived + α (q − q_ref) − capacity)]⁺, all in packets. The queue drains at the
    link's rate and holds no more than its buffer. The price moves at an arrival, by all the periods that passed.
    """

    def __init__(self, link: VirtualLink, settings: RemSettings | None = None) -> None:
        self._settings = settings or RemSettings()
        self._rate = link.capacity_bytes_per_s
        self._limit = link.buffer_bytes
        self._backlog = _Backlog()
        self._arrived_bytes = 0
        self._period_start_ns: int | None = None
        self.price = 0.0

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        self._pass_periods(now_ns)
        backlog = self._backlog
        backlog.drain(self._rate, now_ns)
        backlog.level_bytes = min(backlog.level_bytes + size_bytes, self._limit)
        self._arrived_bytes += size_bytes
        probability = marking_probability(self.price, self._settings.phi)
        return probability > 0 and draw() < probability_of_burst(probability, segments)

    def _pass_periods(self, now_ns: int) -> None:
        """Moves the price once for each period that has ended; those of an empty queue all at once."""
        period_ns = self._settings.period_ns
        if self._period_start_ns is None:
            self._period_start_ns = now_ns
            self._backlog.drain(self._rate, now_ns)
        while now_ns - self._period_start_ns >= period_ns:
            self._period_start_ns += period_ns
            self._backlog.drain(self._rate, self._period_start_ns)
            self._move_price(1)
            self._arrived_bytes = 0
            if self._backlog.level_bytes == 0:
                idle_periods = (now_ns - self._period_start_ns) // period_ns
                self._period_start_ns += idle_periods * period_ns
                self._move_price(idle_periods)

    def _move_price(self, periods: int) -> None:
        s = self._settings
        capacity_packets = self._rate * s.period_ns / NS_PER_S / s.packet_bytes
        arrived_packets = self._arrived_bytes / s.packet_bytes
        queue_packets = self._backlog.level_bytes / s.packet_bytes
        pressure = arrived_packets + s.alpha * (queue_packets - s.reference_packets) - capacity_packets
        self.price = max(0.0, self.price + s.gain * pressure * periods)


def marking_probability(price: float, phi: float) -> float:
    """1 − φ^(−price)."""
    return -math.expm1(-price * math.log(phi))


def price_of_marks(marked_share: float, phi: float) -> float:
    """The receiver's inverse: the sum of the prices along a path from the share of packets that were marked.

    Infinite where every packet is marked.
    """
    return math.inf if marked_share >= 1 else -math.log1p(-marked_share) / math.log(phi)
