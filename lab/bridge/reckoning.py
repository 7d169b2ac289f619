"""The results of a run in namespaces, out of its ticks: the same numbers as the simulator's, theory beside them.

Decides: what cannot be said of real packets is None. Refuses to know: how readings came about. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from lab.bridge.layout import Hop, Layout, Place, names
from lab.bridge.readings import Sample, Ticks
from lab.simulator.experiment import Experiment, ReactorKind
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
from lab.simulator.results import FlowResult, LinkResult, Phase, Results
from lab.simulator.running import with_theory

MODE: Final = "namespaces"
BUSY: Final = 0.25
"""A gateway that waits for a processor is late, and its link slower than it should be."""


def results_of(layout: Layout, samples: Sequence[Sample], *, booked_nanodollars: int, waited_share: float) -> Results:
    """`booked_nanodollars`: what the payers' agents believe to owe, all together. `waited_share`: of the time, for
    which the gateway that waited most did so for a processor.
    """
    experiment = layout.experiment
    ticks = Ticks(layout, samples, seconds=experiment.seconds)
    flows, links = ticks.flows(), ticks.links()
    first, last = round(experiment.measured_from_s * TICKS_PER_S), ticks.count
    found = [_flow(place, each, experiment, first, last) for place, each in zip(layout.places, flows, strict=True)]
    total = sum(flow.rate_bit_s for flow in found)
    waits = [sample for sample in samples if experiment.measured_from_s <= sample.at_s <= experiment.seconds]
    amplitudes = [flow.amplitude for flow in found if flow.amplitude is not None]
    charged = sum(ticks.charges(place)[-1] for place in layout.places if place.has_session)
    results = Results(
        name=experiment.name,
        title=experiment.title,
        mode=MODE,
        seed=experiment.seed,
        seconds=experiment.seconds,
        measured_from_s=experiment.measured_from_s,
        largest_amplitude=max(amplitudes, default=None),
        flows=tuple(msgspec.structs.replace(flow, share=ratio(flow.rate_bit_s, total)) for flow in found),
        links=tuple(
            _link(hop, each, experiment, waits, first, last) for hop, each in zip(layout.hops, links, strict=True)
        ),
        phases=_phases(experiment, flows, links, last),
        series=series_of(flows, links, last),
        notes=(*experiment.notes, *_notes(layout, charged, booked_nanodollars, waited_share)),
    )
    return with_theory(experiment, results)


def _flow(place: Place, readings: FlowReadings, experiment: Experiment, first: int, last: int) -> FlowResult:
    flow = place.flow
    begins, ends = readings.ticks(first, last)
    began = readings.ticks(0, last)[0]
    rate = 8 * per_s(readings.received_bytes, begins, ends)
    marks, packets = per_s(readings.marks, begins, ends), per_s(readings.packets, begins, ends)
    cost = per_s(readings.charge_nanodollars, begins, ends)
    first_price = experiment.price_nanodollars_per_mark * (experiment.weight_mbit_s or 1.0)
    settled = settled_tick(readings.rates(began, ends))
    answers = flow.reactor.kind is not ReactorKind.UNRESPONSIVE
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
        cost_nanodollars=readings.charge_nanodollars[-1],
        cost_nanodollars_per_mb=cost * 8e6 / rate if rate else None,
        bytes_sent=readings.received_bytes[-1],
        amplitude=amplitude(readings.rates(begins, ends)) if answers else None,
        settled_s=None if settled is None else (settled + began) / TICKS_PER_S,
    )


def _link(
    hop: Hop, readings: LinkReadings, experiment: Experiment, waits: Sequence[Sample], first: int, last: int
) -> LinkResult:
    link = hop.link
    marks, arrived = per_s(readings.marked_packets, first, last), per_s(readings.arrived_packets, first, last)
    revenue = ratio(readings.revenue_nanodollars(first, last), (last - first) / TICKS_PER_S)
    first_price = experiment.price_nanodollars_per_mark * (experiment.weight_mbit_s or 1.0)
    carried = 8 * per_s(readings.sent_bytes, first, last)
    queues = sorted(sample.links[link.name].backlog_bytes for sample in waits) or [0]
    mean_bytes = sum(queues) / len(queues)
    p99_bytes = queues[max(0, math.ceil(0.99 * len(queues)) - 1)]
    loads = [8.0 * TICKS_PER_S * (b - a) for a, b in pairwise(readings.sent_bytes[first : last + 1])]
    return LinkResult(
        name=link.name,
        rate_bit_s=carried,
        utilisation=carried / hop.rate_bit_s,
        marked_share=ratio(marks, arrived),
        price=ratio(revenue, first_price * arrived) if first_price else 0.0,
        price_nanodollars_per_mark=readings.price_nanodollars[last],
        marks_per_s=marks,
        revenue_nanodollars_per_s=revenue,
        queue_mean_packets=mean_bytes / experiment.packet_bytes,
        queue_p99_packets=p99_bytes / experiment.packet_bytes,
        queue_mean_ms=mean_bytes * 8_000 / hop.rate_bit_s,
        queue_p99_ms=p99_bytes * 8_000 / hop.rate_bit_s,
        lost_share=ratio(per_s(readings.dropped_packets, first, last), arrived),
        amplitude=amplitude(loads),
    )


def _phases(
    experiment: Experiment, flows: Sequence[FlowReadings], links: Sequence[LinkReadings], ticks: int
) -> tuple[Phase, ...]:
    """As the packet mode's: between two events, the second half of each."""
    inner = {event.at_s for event in experiment.events if 0 < event.at_s < experiment.seconds}
    if not inner:
        return ()
    phases = []
    for begins_s, ends_s in pairwise([0.0, *sorted(inner), experiment.seconds]):
        last = min(ticks, max(1, round(ends_s * TICKS_PER_S)))
        first = min(last - 1, round((begins_s + ends_s) / 2 * TICKS_PER_S))
        phases.append(
            Phase(
                from_s=begins_s,
                to_s=ends_s,
                flows=tuple(phase_flow(each, first, last) for each in flows),
                links=tuple(phase_link(each, first, last) for each in links),
            )
        )
    return tuple(phases)


def _notes(layout: Layout, charged: int, booked: int, waited: float) -> list[str]:
    notes = [
        "real packets: rates are of what arrived, each quarter of a second; bytes_sent is what arrived",
        f"the payers' agents booked {booked:,} n$; all marks that arrived cost {charged:,} n$",
    ]
    if waited > BUSY:
        notes.append(f"a gateway waited for a processor {waited:.0%} of the time: repeat it on a quiet machine")
    if any(len(place.flow.path) > 1 for place in layout.places):
        notes.append(
            "a packet that two links mark is charged once, by the last link of its path, and counts at the first"
        )
    if any(link.delay_ms for link in layout.experiment.links):
        notes.append("a round trip is all on its sender's cable: links have no delay of their own")
    deaf = [place for place in layout.places if place.flow.reactor.kind is ReactorKind.UNRESPONSIVE]
    if deaf:
        notes.append(f"{names(deaf[:5])}: knows no marks, so that none of its packets is marked or charged")
    return notes
