"""What is read off a packet run ten times a second, and the results that follow from it.

Decides: which readings make which number. Refuses to know: how packets come about. Readings are cumulative, so a mean
over any time is a difference of two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.simulator.experiment import Flow, Link
from lab.simulator.results import PhaseFlow, PhaseLink, Series

TICK_NS = 100_000_000
TICKS_PER_S = 10
_MOST_POINTS = 600
_SETTLED = 0.05


@dataclass(slots=True, kw_only=True)
class FlowReadings:
    """Cumulative counts of its receiver, and what its sender sends at each tick (None: it has no rate, a window)."""

    flow: Flow
    received_bytes: list[int] = field(default_factory=list)
    packets: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    charge_nanodollars: list[int] = field(default_factory=list)
    sent_rate_bit_s: list[int] = field(default_factory=list)

    def ticks(self, first: int, last: int) -> tuple[int, int]:
        """The part of it in which the flow ran."""
        begins = max(first, round(self.flow.start_s * TICKS_PER_S))
        ends = last if self.flow.stop_s is None else min(last, round(self.flow.stop_s * TICKS_PER_S))
        return begins, max(begins, ends)

    def rates(self, first: int, last: int) -> list[float]:
        """In each tick: what its sender was told to send, or else what arrived."""
        if self.sent_rate_bit_s:
            return [float(rate) for rate in self.sent_rate_bit_s[first:last]]
        received = self.received_bytes
        return [(received[t + 1] - received[t]) * 8.0 * TICKS_PER_S for t in range(first, last)]


@dataclass(slots=True, kw_only=True)
class LinkReadings:
    """Cumulative counts; the backlog and the price are of the moment."""

    link: Link
    sent_bytes: list[int] = field(default_factory=list)
    sent_ns: list[int] = field(default_factory=list)
    arrived_packets: list[int] = field(default_factory=list)
    marked_packets: list[int] = field(default_factory=list)
    dropped_packets: list[int] = field(default_factory=list)
    backlog_packets: list[float] = field(default_factory=list)
    price_nanodollars: list[int] = field(default_factory=list)

    def revenue_nanodollars(self, first: int, last: int) -> int:
        marked, prices = self.marked_packets, self.price_nanodollars
        return sum((marked[t + 1] - marked[t]) * prices[t] for t in range(first, last))


def per_s(counts: Sequence[int], first: int, last: int) -> float:
    """The mean rate of a count between two ticks."""
    return (counts[last] - counts[first]) * TICKS_PER_S / (last - first) if last > first else 0.0


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def amplitude(rates: Sequence[float]) -> float | None:
    """(max − min)/mean of the last quarter."""
    tail = rates[-max(1, len(rates) // 4) :]
    mean = sum(tail) / len(tail) if tail else 0.0
    return (max(tail) - min(tail)) / mean if mean else None


def settled_tick(rates: Sequence[float]) -> int | None:
    """From which tick on means over a second stayed within 5 % of the mean of the last quarter."""
    tail = rates[-max(1, len(rates) // 4) :]
    mean = sum(tail) / len(tail) if tail else 0.0
    if not mean or len(rates) <= TICKS_PER_S:
        return None
    last = None
    window = sum(rates[-TICKS_PER_S:])
    for tick in range(len(rates) - TICKS_PER_S, -1, -1):
        if abs(window / TICKS_PER_S - mean) > _SETTLED * mean:
            break
        last = tick
        if tick:
            window += rates[tick - 1] - rates[tick - 1 + TICKS_PER_S]
    return last


def phase_flow(readings: FlowReadings, first: int, last: int) -> PhaseFlow:
    return PhaseFlow(
        name=readings.flow.name,
        rate_bit_s=8 * per_s(readings.received_bytes, first, last),
        marks_per_s=per_s(readings.marks, first, last),
        cost_nanodollars_per_s=per_s(readings.charge_nanodollars, first, last),
    )


def phase_link(readings: LinkReadings, first: int, last: int) -> PhaseLink:
    marks, arrived = per_s(readings.marked_packets, first, last), per_s(readings.arrived_packets, first, last)
    seconds = (last - first) / TICKS_PER_S
    return PhaseLink(
        name=readings.link.name,
        utilisation=per_s(readings.sent_ns, first, last) / 1e9,
        marked_share=ratio(marks, arrived),
        price_nanodollars_per_mark=readings.price_nanodollars[last - 1],
        revenue_nanodollars_per_s=ratio(readings.revenue_nanodollars(first, last), seconds),
    )


def series_of(flows: Sequence[FlowReadings], links: Sequence[LinkReadings], ticks: int) -> Series:
    """Means over as many ticks as it takes to have no more than 600 points."""
    step = -(-ticks // _MOST_POINTS)
    spans = [(first, min(first + step, ticks)) for first in range(0, ticks, step)]
    return Series(
        at_s=tuple(last / TICKS_PER_S for _, last in spans),
        flow_rates_bit_s={f.flow.name: tuple(8 * per_s(f.received_bytes, a, b) for a, b in spans) for f in flows},
        link_rates_bit_s={k.link.name: tuple(8 * per_s(k.sent_bytes, a, b) for a, b in spans) for k in links},
        link_marked_shares={
            k.link.name: tuple(ratio(per_s(k.marked_packets, a, b), per_s(k.arrived_packets, a, b)) for a, b in spans)
            for k in links
        },
        link_queues_packets={k.link.name: tuple(k.backlog_packets[b] for _, b in spans) for k in links},
        link_prices_nanodollars_per_mark={
            k.link.name: tuple(float(k.price_nanodollars[b]) for _, b in spans) for k in links
        },
    )
