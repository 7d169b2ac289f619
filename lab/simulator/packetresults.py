"""The results of a packet run, out of its readings.

Decides: over which time each number is a mean. Refuses to know: how packets come about. Theory is put beside it by
`running`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from lab.simulator.experiment import Experiment, Flow, ReactorKind
from lab.simulator.feedback import FeedbackLoop
from lab.simulator.handlers import Handler
from lab.simulator.links import FifoLink
from lab.simulator.measuring import (
    TICKS_PER_S,
    FlowReadings,
    LinkReadings,
    amplitude,
    per_s,
    phase_flow,
    phase_link,
    ratio,
    series_of,
    settled_tick,
)
from lab.simulator.playback import Playback
from lab.simulator.results import FlowResult, LinkResult, Phase, Results
from lab.simulator.sources import PacedSource, PoissonSource, Receiver
from lab.simulator.windows import WindowSource


class PacketFlow:
    """A flow with all that belongs to it. `source` of a window flow has no rate; `loop` is of priced flows."""

    __slots__ = (
        "flow",
        "handler",
        "loop",
        "playback",
        "readings",
        "receiver",
        "return_ns",
        "source",
        "window",
    )

    def __init__(self, flow: Flow, receiver: Receiver, return_ns: int) -> None:
        self.flow = flow
        self.receiver = receiver
        self.return_ns = return_ns
        self.readings = FlowReadings(flow=flow)
        self.source: PacedSource | PoissonSource | None = None
        self.window: WindowSource | None = None
        self.loop: FeedbackLoop | None = None
        self.handler: Handler | None = None
        self.playback: Playback | None = None

    @property
    def is_paced(self) -> bool:
        return self.loop is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketRecord:
    """Everything that a run leaves. `prices`: at its end, in nanodollars per mark."""

    experiment: Experiment
    flows: Sequence[PacketFlow]
    links: Sequence[FifoLink]
    link_readings: Sequence[LinkReadings]
    prices: Sequence[int]
    ticks: int

    @property
    def unit(self) -> float:
        return self.experiment.weight_mbit_s or 1.0

    def results(self) -> Results:
        first = round(self.experiment.measured_from_s * TICKS_PER_S)
        last = self.ticks
        flows = [self._flow_result(found, first, last) for found in self.flows]
        total = sum(flow.rate_bit_s for flow in flows)
        flows = [_with_share(flow, ratio(flow.rate_bit_s, total)) for flow in flows]
        links = [self._link_result(number, first, last) for number in range(len(self.links))]
        amplitudes = [flow.amplitude for flow in flows if flow.amplitude is not None]
        experiment = self.experiment
        return Results(
            name=experiment.name,
            title=experiment.title,
            mode=experiment.mode.value,
            seed=experiment.seed,
            seconds=experiment.seconds,
            measured_from_s=experiment.measured_from_s,
            largest_amplitude=max(amplitudes, default=None),
            flows=tuple(flows),
            links=tuple(links),
            phases=self._phases(),
            series=series_of([found.readings for found in self.flows], self.link_readings, last),
            notes=(*experiment.notes, *self._notes()),
        )

    def _flow_result(self, found: PacketFlow, first: int, last: int) -> FlowResult:
        flow, readings, receiver = found.flow, found.readings, found.receiver
        begins, ends = readings.ticks(first, last)
        rates = readings.rates(begins, ends)
        rate = 8 * per_s(readings.received_bytes, begins, ends)
        marks, packets = per_s(readings.marks, begins, ends), per_s(readings.packets, begins, ends)
        cost = per_s(readings.charge_nanodollars, begins, ends)
        settled = settled_tick(readings.rates(readings.ticks(0, last)[0], ends))
        swing = amplitude(rates) if found.is_paced or found.window is not None else None
        first_price = self.experiment.price_nanodollars_per_mark * self.unit
        return FlowResult(
            name=flow.name,
            rate_bit_s=rate,
            share=0.0,
            weight=flow.weight,
            willingness_nanodollars_per_s=flow.willingness_nanodollars_per_s,
            price=cost * flow.packet_bits / (first_price * rate) if first_price and rate else None,
            marked_share=marks / packets if packets else None,
            marks_per_s=marks,
            cost_nanodollars_per_s=cost,
            cost_nanodollars=receiver.charge_nanodollars,
            cost_nanodollars_per_mb=cost * 8e6 / rate if rate else None,
            bytes_sent=(receiver.packets + receiver.lost_packets) * flow.packet_bytes,
            lost_share=ratio(receiver.lost_packets, receiver.packets + receiver.lost_packets),
            amplitude=swing,
            settled_s=None if settled is None else (settled + readings.ticks(0, last)[0]) / TICKS_PER_S,
            gain_of_bound=None if found.handler is None else found.handler.gain_of_bound,
            rtt_ms=(ratio(receiver.delay_sum_ns, receiver.packets) + found.return_ns) / 1e6,
            switches=_switches(found),
            finished_s=_finished_s(found),
        )

    def _link_result(self, number: int, first: int, last: int) -> LinkResult:
        link, readings, settings = self.links[number], self.link_readings[number], self.experiment.links[number]
        seconds = (last - first) / TICKS_PER_S
        marks, arrived = per_s(readings.marked_packets, first, last), per_s(readings.arrived_packets, first, last)
        revenue = ratio(readings.revenue_nanodollars(first, last), seconds)
        first_price = self.experiment.price_nanodollars_per_mark * self.unit
        mean_ns, p99_ns = link.waits.mean_ns, link.waits.quantile_ns(0.99)
        packets_per_ns = settings.rate_bit_s / (8e9 * self.experiment.packet_bytes)
        loads = [
            (b - a) * 8.0 * TICKS_PER_S
            for a, b in zip(readings.sent_bytes[first:last], readings.sent_bytes[first + 1 :], strict=True)
        ]
        return LinkResult(
            name=settings.name,
            rate_bit_s=8 * per_s(readings.sent_bytes, first, last),
            utilisation=per_s(readings.sent_ns, first, last) / 1e9,
            marked_share=ratio(marks, arrived),
            price=ratio(revenue, first_price * arrived) if first_price else ratio(marks, arrived) / self.unit,
            price_nanodollars_per_mark=self.prices[number],
            marks_per_s=marks,
            revenue_nanodollars_per_s=revenue,
            queue_mean_packets=mean_ns * packets_per_ns,
            queue_p99_packets=p99_ns * packets_per_ns,
            queue_mean_ms=mean_ns / 1e6,
            queue_p99_ms=p99_ns / 1e6,
            lost_share=ratio(per_s(readings.dropped_packets, first, last), arrived),
            amplitude=amplitude(loads),
        )

    def _phases(self) -> tuple[Phase, ...]:
        """Between two changes; the second half of each, when it has settled."""
        inner = {event.at_s for event in self.experiment.events if 0 < event.at_s < self.experiment.seconds}
        if not inner:
            return ()
        edges = [0.0, *sorted(inner), self.experiment.seconds]
        return tuple(self._phase(begins, ends) for begins, ends in pairwise(edges))

    def _phase(self, begins_s: float, ends_s: float) -> Phase:
        last = min(self.ticks, max(1, round(ends_s * TICKS_PER_S)))
        first = min(last - 1, round((begins_s + ends_s) / 2 * TICKS_PER_S))
        return Phase(
            from_s=begins_s,
            to_s=ends_s,
            flows=tuple(phase_flow(found.readings, first, last) for found in self.flows),
            links=tuple(phase_link(readings, first, last) for readings in self.link_readings),
        )

    def _notes(self) -> Sequence[str]:
        notes = []
        if any(len(flow.path) > 1 for flow in self.experiment.flows):
            notes.append("a packet that two links mark is charged once, by the last link of its path")
        plain = [found.flow.name for found in self.flows if found.handler is not None and found.handler.is_plain_law]
        if plain:
            notes.append(f"{', '.join(plain[:5])}: the plain law of theory with this gain, not the product's reactor")
        return notes


def _with_share(flow: FlowResult, share: float) -> FlowResult:
    return msgspec.structs.replace(flow, share=share)


def _switches(found: PacketFlow) -> int | None:
    if found.loop is None or found.flow.reactor.kind is not ReactorKind.STREAMING:
        return None
    levels = [heard.level for heard in found.loop.history if heard.level is not None]
    return sum(a != b for a, b in pairwise(levels))


def _finished_s(found: PacketFlow) -> float | None:
    """When a transfer's last byte had arrived, to a tick."""
    size = found.flow.reactor.size_bytes
    if size is None:
        return None
    for tick, received in enumerate(found.readings.received_bytes):
        if received >= size:
            return tick / TICKS_PER_S
    return None
