"""The marking rules as functions of a fluid: what share of the traffic a link marks, and how its queues move.

Decides: the marked share of each link from its load, step by step. Refuses to know: flows, prices, delays.
Vectorised: links of one kind are one array. Rates in bit/s, queues in packets of the experiment's size.

The virtual queue's share is that of Poisson arrivals, by a diffusion: with drift μ = ρ − 1 and variance ρ of the load
ρ = y/(θC), buffer b and a = 2μb/ρ, the time from an overflow until it is empty, as a part of the whole cycle, is
(eᵃ − 1 − a)/(2 cosh a − 2): half at ρ = 1. Open loop it is within a tenth of the packets' where marks are not rare.
Sources: Gibbens and Kelly 1999; Kunniyur and Srikant 2001 (dC̃/dt = α (γC − y), share (y − C̃)⁺/y); Athuraliya et al.
2001 (REM); ALTQ (RED). `clearing` is the dual of Kelly, Maulloo and Tan in logarithms, so that it finds any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from lab.simulator.experiment import BITS_PER_BYTE, Link, MarkingKind

Array = NDArray[np.float64]

STATIC: Final = frozenset((MarkingKind.NONE, MarkingKind.POWER, MarkingKind.OVERLOAD, MarkingKind.VIRTUAL_QUEUE))
"""Their share is a function of the load; the others move until the load is what they want."""
FIRST_SHARE: Final = 0.01
LEAST_SHARE: Final = 1e-12
_LARGEST_A: Final = 40.0
_LN_SHARE_LEAST: Final = float(np.log(LEAST_SHARE))


def virtual_queue_share(a: Array) -> Array:
    """(eᵃ − 1 − a)/(2 cosh a − 2), by its series where a is small."""
    a = np.clip(a, -_LARGEST_A, _LARGEST_A)
    small = np.abs(a) < 1e-3
    safe = np.where(small, 1.0, a)
    exact = (np.expm1(safe) - safe) / (2.0 * np.cosh(safe) - 2.0)
    return np.where(small, 0.5 + a / 6.0, exact)


def virtual_queue_load(share: Array, buffer_packets: Array) -> Array:
    """The load y/(θC) at which that share is marked: the inverse."""
    a = np.interp(share, _SHARES, _A)
    return np.asarray(1.0 / np.maximum(1.0 - a / (2.0 * buffer_packets), 1e-3))


_A: Final = np.linspace(-_LARGEST_A, _LARGEST_A, 8001)
_SHARES: Final = virtual_queue_share(_A)


class Rule(Protocol):
    """Links of one kind. `step` moves what they remember by `dt_s` and gives the shares; `y` is their load."""

    def step(self, y: Array, queue: Array, dt_s: float) -> Array: ...

    def change_rate(self, capacity: Array) -> None: ...


class _Static:
    def __init__(self, links: Sequence[Link], capacity: Array) -> None:  # noqa: ARG002 - the others read theirs
        self.capacity = capacity

    def change_rate(self, capacity: Array) -> None:
        self.capacity = capacity


def _parameter(links: Sequence[Link], name: str) -> Array:
    return np.array([getattr(link.marking, name) for link in links], dtype=float)


class _None(_Static):
    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        return np.zeros_like(y)


class _Power(_Static):
    def __init__(self, links: Sequence[Link], capacity: Array) -> None:
        super().__init__(links, capacity)
        self._exponent = _parameter(links, "exponent")

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        return np.asarray((y / self.capacity) ** self._exponent)


class _Overload(_Static):
    def __init__(self, links: Sequence[Link], capacity: Array) -> None:
        super().__init__(links, capacity)
        self._theta = _parameter(links, "theta")

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        return np.asarray(np.maximum(0.0, y - self._theta * self.capacity) / np.maximum(y, 1.0))


class _VirtualQueue(_Static):
    def __init__(self, links: Sequence[Link], capacity: Array) -> None:
        super().__init__(links, capacity)
        self._theta = _parameter(links, "theta")
        self._twice_buffer = 2.0 * self._theta * np.array([link.buffer_packets for link in links], dtype=float)

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        wanted = self._theta * self.capacity
        return virtual_queue_share((1.0 - wanted / np.maximum(y, wanted * 1e-3)) * self._twice_buffer)


class _Clearing(_Static):
    """d ln m/dt = gain (y/γC − 1)/T."""

    def __init__(self, links: Sequence[Link], capacity: Array, longest_rtt_s: Array) -> None:
        super().__init__(links, capacity)
        self._gain = _parameter(links, "gain") / longest_rtt_s
        self._gamma = _parameter(links, "gamma")
        self._ln = np.full(len(links), np.log(FIRST_SHARE))

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        over = np.minimum(y / (self._gamma * self.capacity) - 1.0, 1.0)
        self._ln = np.clip(self._ln + self._gain * over * dt_s, _LN_SHARE_LEAST, 0.0)
        return np.asarray(np.exp(self._ln))


class _Avq(_Static):
    def __init__(self, links: Sequence[Link], capacity: Array) -> None:
        super().__init__(links, capacity)
        self._alpha, self._gamma = _parameter(links, "alpha"), _parameter(links, "gamma")
        self._virtual = 0.8 * capacity
        self._before: Array | None = None

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        share = np.maximum(0.0, y - self._virtual) / np.maximum(y, 1.0)
        speed = self._alpha * (self._gamma * self.capacity - y)
        ahead = speed if self._before is None else 1.5 * speed - 0.5 * self._before
        self._before = speed
        self._virtual = np.clip(self._virtual + ahead * dt_s, 0.0, self.capacity)
        return share


class _Rem(_Static):
    def __init__(self, links: Sequence[Link], capacity: Array, packet_bits: float) -> None:
        super().__init__(links, capacity)
        self._gain, self._alpha = _parameter(links, "gain"), _parameter(links, "alpha")
        self._reference = _parameter(links, "reference_packets")
        self._period_s = _parameter(links, "period_ms") / 1e3
        self._ln_phi = np.log(_parameter(links, "phi"))
        self._bits = packet_bits
        self._price = np.zeros(len(links))

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:
        over = (y - self.capacity) * self._period_s / self._bits + self._alpha * (queue - self._reference)
        self._price = np.maximum(0.0, self._price + self._gain * over * dt_s / self._period_s)
        return -np.expm1(-self._price * self._ln_phi)


class _OnVirtualQueue(_Static):
    """RED and STEP: a virtual queue that really moves."""

    def __init__(self, links: Sequence[Link], capacity: Array, packet_bits: float) -> None:
        super().__init__(links, capacity)
        self._theta, self._bits = _parameter(links, "theta"), packet_bits
        self._limit = self._theta * np.array([link.buffer_packets for link in links], dtype=float)
        self._backlog = np.zeros(len(links))

    def _move(self, y: Array, dt_s: float) -> Array:
        grown = self._backlog + (y - self._theta * self.capacity) * dt_s / self._bits
        self._backlog = np.clip(grown, 0.0, self._limit)
        return self._backlog


class _Red(_OnVirtualQueue):
    def __init__(self, links: Sequence[Link], capacity: Array, packet_bits: float) -> None:
        super().__init__(links, capacity, packet_bits)
        self._min, self._max = _parameter(links, "min_packets"), _parameter(links, "max_packets")
        self._max_p, self._weight = _parameter(links, "max_p"), _parameter(links, "average_weight")
        self._limit = np.maximum(self._limit, 4.0 * self._max)  # as the gateway's own: four upper thresholds
        self._average = np.zeros(len(links))

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        backlog = self._move(y, dt_s)
        arrivals = np.maximum(y, self._theta * self.capacity * (backlog <= 0)) * dt_s / self._bits
        self._average += (1.0 - (1.0 - self._weight) ** arrivals) * (backlog - self._average)
        return red_share(self._average, self._min, self._max, self._max_p)


def red_share(average: Array, least: Array, most: Array, max_p: Array) -> Array:
    """p_max (avg − min)/(max − min), 0 below and 1 above: marks spread by their count have that mean."""
    inside = max_p * (average - least) / np.maximum(most - least, 1e-9)
    return np.where(average < least, 0.0, np.where(average >= most, 1.0, inside))


class _Step(_OnVirtualQueue):
    """Marks begin at the threshold; over one packet's width, since a fluid has no jumps."""

    def __init__(self, links: Sequence[Link], capacity: Array, packet_bits: float) -> None:
        super().__init__(links, capacity, packet_bits)
        self._threshold = _parameter(links, "threshold_packets")

    def step(self, y: Array, queue: Array, dt_s: float) -> Array:  # noqa: ARG002
        return np.clip(self._move(y, dt_s) - self._threshold, 0.0, 1.0)


class Markings:
    """All links' rules, and their real queues."""

    def __init__(self, links: Sequence[Link], *, packet_bytes: int, longest_rtt_s: Array) -> None:
        self._bits = float(packet_bytes * BITS_PER_BYTE)
        self.capacity = np.array([link.rate_bit_s for link in links])
        self.buffer = np.array([link.buffer_packets for link in links], dtype=float)
        self.queue = np.zeros(len(links))
        self.lost = np.zeros(len(links))  # share of what arrived in the last step
        kinds = [link.marking.kind for link in links]
        self._groups: list[tuple[Array | slice, Rule]] = []
        for kind in sorted(set(kinds)):
            members = np.array([number for number, each in enumerate(kinds) if each is kind])
            rule = _rule(kind, [links[n] for n in members], self.capacity[members], self._bits, longest_rtt_s[members])
            self._groups.append((slice(None) if len(members) == len(links) else members, rule))

    def change_rate(self, capacity: Array) -> None:
        self.capacity = capacity
        for members, rule in self._groups:
            rule.change_rate(capacity[members])

    def step(self, y: Array, dt_s: float) -> Array:
        """The marked shares under the load `y`."""
        grown = np.maximum(self.queue + (y - self.capacity) * (dt_s / self._bits), 0.0)
        self.queue = np.minimum(grown, self.buffer)
        self.lost = (grown - self.queue) * (self._bits / dt_s) / np.maximum(y, 1.0)
        if len(self._groups) == 1:
            return self._groups[0][1].step(y, self.queue, dt_s)
        shares = np.empty_like(y)
        for members, rule in self._groups:
            shares[members] = rule.step(y[members], self.queue[members], dt_s)
        return shares


def _rule(kind: MarkingKind, links: list[Link], capacity: Array, packet_bits: float, rtt_s: Array) -> Rule:
    match kind:
        case MarkingKind.NONE:
            return _None(links, capacity)
        case MarkingKind.POWER:
            return _Power(links, capacity)
        case MarkingKind.OVERLOAD:
            return _Overload(links, capacity)
        case MarkingKind.VIRTUAL_QUEUE:
            return _VirtualQueue(links, capacity)
        case MarkingKind.CLEARING:
            return _Clearing(links, capacity, rtt_s)
        case MarkingKind.AVQ:
            return _Avq(links, capacity)
        case MarkingKind.REM:
            return _Rem(links, capacity, packet_bits)
        case MarkingKind.RED:
            return _Red(links, capacity, packet_bits)
        case MarkingKind.STEP:
            return _Step(links, capacity, packet_bits)


def static_share(link: Link, y: float) -> float:
    """What a static rule marks of the load `y`."""
    one = np.array([link.rate_bit_s])
    return float(_rule(link.marking.kind, [link], one, 1.0, one).step(np.array([y]), np.zeros(1), 0.0)[0])
