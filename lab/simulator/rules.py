"""The marking rules of theory that no router of ours has, on packets; and the rule of a link of an experiment.

Decides: yes or no for each arrival, with the interface of `billpay.marking`, which has all the rules of the product.
Refuses to know: links and flows. A load is measured here over a time constant, where theory knows it at once.

Sources: Kelly, Maulloo, Tan 1998 (a price that rises while the link is over its rate; p = (y/C)^B; the share that a
smaller link would lose); L4S's step on a virtual queue (RFC 9332, 2.5.1.1).
"""

from __future__ import annotations

import math

from billpay import marking
from billpay.marking import NS_PER_S, PPM, Draw, VirtualLink
from lab.simulator.experiment import Link, Marking, MarkingKind

_MEMORY_NS = 100_000_000  # of a measured load


class _Load:
    """Arrivals over the link's rate, with an exponential memory."""

    __slots__ = ("_last_ns", "_rate", "share")

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._last_ns = 0
        self.share = 0.0

    def add(self, size_bytes: int, now_ns: int) -> int:
        """Gives the time since the last arrival."""
        elapsed_ns, self._last_ns = now_ns - self._last_ns, now_ns
        self.share *= math.exp(-elapsed_ns / _MEMORY_NS)
        self.share += size_bytes / self._rate * (NS_PER_S / _MEMORY_NS)
        return elapsed_ns


class ClearingMarking:
    """dp/dt = gain (y/C − γ), p between 0 and 1: no price but one that fills the link leaves it where it is."""

    def __init__(self, link: VirtualLink, *, gain_per_s: float, gamma: float) -> None:
        self._gain = gain_per_s
        self._gamma = gamma
        self._rate = link.capacity_bytes_per_s
        self._last_ns = 0
        self.share = 0.0

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        elapsed_s, self._last_ns = (now_ns - self._last_ns) / NS_PER_S, now_ns
        share = self.share + self._gain * (size_bytes / self._rate - self._gamma * elapsed_s)
        if share < 0.0:
            share = 0.0
        elif share > 1.0:
            share = 1.0
        self.share = share
        return share > 0.0 and draw() < marking.probability_of_burst(share, segments)


class PowerMarking:
    """p = min(1, (y/C)^B)."""

    def __init__(self, link: VirtualLink, *, exponent: float) -> None:
        self._exponent = exponent
        self._load = _Load(link.capacity_bytes_per_s)

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        self._load.add(size_bytes, now_ns)
        share = min(1.0, self._load.share) ** self._exponent
        return draw() < marking.probability_of_burst(share, segments)


class OverloadMarking:
    """p = (y − θC)⁺/y."""

    def __init__(self, link: VirtualLink) -> None:
        self._load = _Load(link.virtual_bytes_per_s)

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:
        self._load.add(size_bytes, now_ns)
        load = self._load.share
        return load > 1.0 and draw() < marking.probability_of_burst(1.0 - 1.0 / load, segments)


class StepMarking:
    """Every packet that finds more than a threshold in the virtual queue."""

    def __init__(self, link: VirtualLink, *, threshold_bytes: int) -> None:
        self._ns_per_byte = NS_PER_S / link.virtual_bytes_per_s
        self._limit_ns = link.virtual_buffer_bytes * self._ns_per_byte
        self._threshold_ns = threshold_bytes * self._ns_per_byte
        self._free_ns = 0.0

    def on_arrival(self, size_bytes: int, now_ns: int, draw: Draw, segments: int = 1) -> bool:  # noqa: ARG002
        waits_ns = max(0.0, self._free_ns - now_ns)
        takes_ns = size_bytes * self._ns_per_byte
        if waits_ns + takes_ns <= self._limit_ns:
            self._free_ns = now_ns + waits_ns + takes_ns
        return waits_ns > self._threshold_ns


def rule_of(link: Link, *, packet_bytes: int) -> marking.Marking | None:
    """The rule of a link of an experiment; packets of thresholds have `packet_bytes`."""
    rule = link.marking
    virtual = VirtualLink(
        capacity_bytes_per_s=int(link.rate_bit_s / 8),
        buffer_bytes=link.buffer_packets * packet_bytes,
        theta_ppm=round((rule.theta or 1.0) * PPM),
    )
    match rule.kind:
        case MarkingKind.NONE:
            return None
        case MarkingKind.CLEARING:
            return ClearingMarking(virtual, gain_per_s=rule.gain, gamma=rule.gamma)
        case MarkingKind.POWER:
            return PowerMarking(virtual, exponent=rule.exponent)
        case MarkingKind.OVERLOAD:
            return OverloadMarking(virtual)
        case MarkingKind.STEP:
            return StepMarking(virtual, threshold_bytes=round(rule.threshold_packets * packet_bytes))
        case _:
            return _product_rule(rule, virtual, packet_bytes)


def _product_rule(rule: Marking, virtual: VirtualLink, packet_bytes: int) -> marking.Marking:
    match rule.kind:
        case MarkingKind.VIRTUAL_QUEUE:
            return marking.VirtualQueue(virtual)
        case MarkingKind.RED:
            settings = marking.RedSettings(
                min_bytes=round(rule.min_packets * packet_bytes),
                max_bytes=round(rule.max_packets * packet_bytes),
                p_max=rule.max_p,
                weight_shift=max(0, round(-math.log2(rule.average_weight))) if rule.average_weight else 9,
                packet_bytes=packet_bytes,
            )
            return marking.VirtualRed(virtual, settings)
        case MarkingKind.AVQ:
            return marking.Avq(virtual, gamma_ppm=round(rule.gamma * PPM), alpha_ppm=round(rule.alpha * PPM))
        case _:
            return marking.Rem(
                virtual,
                marking.RemSettings(
                    gain=rule.gain,
                    alpha=rule.alpha,
                    phi=rule.phi,
                    reference_packets=rule.reference_packets,
                    period_ns=round(rule.period_ms * 1_000_000),
                    packet_bytes=packet_bytes,
                ),
            )
