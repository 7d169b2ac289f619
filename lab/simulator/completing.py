"""What follows from the rest of an experiment: RTTs from delays, money from weights; and what contradicts it.

Decides: what the types cannot say. Refuses to know: how it was written (`forms`) and how it is run.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import ConfigurationError
from lab.simulator import experiment as model
from lab.simulator.experiment import Experiment, MarkingKind, ReactorKind

TYPICAL_MARKED_SHARE: Final = 0.1
LARGEST_MARKED_SHARE: Final = 0.5
DEFAULT_RTT_MS: Final = 40.0
_OF_LINKS: Final = ("price_nanodollars_per_mark", "price_factor")
_OF_FLOWS: Final = ("weight", "willingness_nanodollars_per_s")


def complete(written: Experiment, file: Path) -> Experiment:
    """RTTs from delays, money from weights, and what the types cannot say."""
    for key, problem, remedy in _contradictions(written):
        raise ConfigurationError(file, key, problem, remedy)
    unit, notes = _weight_unit(written)
    reference = _equal_share(written)
    delays = {link.name: link.delay_ms for link in written.links}
    price = written.price_nanodollars_per_mark
    flows = []
    for flow in written.flows:
        money, weight = flow.willingness_nanodollars_per_s, flow.weight
        terms = {"price_nanodollars_per_mark": price, "packet_bytes": flow.packet_bytes}
        if money:
            weight = model.weight_of(money, **terms) / unit
        else:
            money = model.willingness_of(weight * unit, **terms)
        way = 2 * sum(delays[name] for name in flow.path)
        reactor = flow.reactor
        if reactor.kind is ReactorKind.ALPHA_FAIR and reactor.reference_bit_s is None:
            reactor = msgspec.structs.replace(reactor, reference_bit_s=reference)
        flows.append(
            msgspec.structs.replace(
                flow,
                weight=weight,
                willingness_nanodollars_per_s=money,
                rtt_ms=flow.rtt_ms or way or (0.0 if written.slotted else DEFAULT_RTT_MS),
                reactor=reactor,
            )
        )
    return msgspec.structs.replace(
        written,
        flows=tuple(flows),
        weight_mbit_s=unit,
        events=tuple(sorted(written.events, key=lambda event: event.at_s)),
        notes=(*written.notes, *notes),
    )


def _weight_unit(written: Experiment) -> tuple[float, tuple[str, ...]]:
    """Weights that ask for more marks than links can carry are meant as shares: they are made smaller, all alike."""
    if written.weight_mbit_s is not None:
        return written.weight_mbit_s, ()
    weights = dict.fromkeys((link.name for link in written.links), 0.0)
    for flow in written.flows:
        if flow.reactor.kind in (ReactorKind.UNRESPONSIVE, ReactorKind.STREAMING, ReactorKind.RENO):
            continue
        for name in set(flow.path):
            weights[name] += 0.0 if flow.willingness_nanodollars_per_s else flow.weight
    if any(link.marking.kind is MarkingKind.POWER for link in written.links):
        return 1.0, ()
    shares = [(weights[link.name] * model.MEGABIT / link.rate_bit_s, link.name) for link in written.links]
    most, name = max(shares)
    if most <= LARGEST_MARKED_SHARE:
        return 1.0, ()
    unit = TYPICAL_MARKED_SHARE / most
    return unit, (
        f"weights would mark {most:.0%} of link {name}: a weight of 1 bears {unit:.4g} Mbit/s of marks, not 1",
    )


def _equal_share(written: Experiment) -> float:
    """The rate that alpha-fair flows are measured by: the least equal share of a link."""
    users = dict.fromkeys((link.name for link in written.links), 0)
    for flow in written.flows:
        for name in flow.path:
            users[name] += 1
    return min((link.rate_bit_s / users[link.name] for link in written.links if users[link.name]), default=1e6)


def _contradictions(written: Experiment) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    names = [link.name for link in written.links]
    flow_names = [flow.name for flow in written.flows]
    for key, each in (("links", names), ("flows", flow_names)):
        if len(set(each)) != len(each):
            double = next(name for name in each if each.count(name) > 1)
            found.append((key, f"{double!r} is there twice", "give each a name of its own"))
    known, known_flows = set(names), set(flow_names)
    for flow in written.flows:
        found += _flow_contradictions(flow, known, written)
    for number, event in enumerate(written.events):
        found += _event_contradictions(event, f"events[{number}]", known, known_flows, written)
    if written.measured_from_s >= written.seconds:
        found.append(("warm_up_s", "nothing is left to measure", f"less than seconds, which is {written.seconds:g}"))
    return found


def _flow_contradictions(flow: model.Flow, links: set[str], written: Experiment) -> list[tuple[str, str, str]]:
    key, reactor = f"flows.{flow.name}", flow.reactor
    found: list[tuple[str, str, str]] = []
    for name in flow.path:
        if name not in links:
            remedy = f"there are {', '.join(sorted(links)[:8])}"
            found.append((f"{key}.path", f"there is no link {name!r}", remedy))
    if len(set(flow.path)) != len(flow.path):
        found.append((f"{key}.path", "goes over a link twice", "name each link once"))
    if flow.stop_s is not None and flow.stop_s <= flow.start_s:
        found.append((f"{key}.stop_s", f"is not after start_s, which is {flow.start_s:g}", "make it later"))
    if reactor.kind is ReactorKind.STREAMING and not _rises(reactor.ladder_bit_s):
        found.append((f"{key}.reactor.ladder_bit_s", "is no ladder", "the rates of its encodings, each above the last"))
    if reactor.kind is ReactorKind.TRANSFER and not (reactor.size_bytes and reactor.deadline_s):
        found.append((f"{key}.reactor", "says not how much by when", "add size_bytes and deadline_s"))
    if reactor.kind is ReactorKind.UNRESPONSIVE and not reactor.rate_bit_s:
        found.append((f"{key}.rate_bit_s", "missing", "say how fast it sends"))
    if reactor.max_bit_s is not None and reactor.max_bit_s < reactor.min_bit_s:
        found.append((f"{key}.reactor.max_bit_s", "is less than min_bit_s", "exchange them"))
    if flow.willingness_nanodollars_per_s and not written.price_nanodollars_per_mark:
        found.append((f"{key}.willingness_nanodollars_per_s", "marks cost nothing", "set price_nanodollars_per_mark"))
    return found


def _rises(ladder: tuple[float, ...]) -> bool:
    return len(ladder) > 0 and all(low < high for low, high in pairwise(ladder))


def _event_contradictions(
    event: model.Event, key: str, links: set[str], flows: set[str], written: Experiment
) -> list[tuple[str, str, str]]:
    given = [name for name in (*_OF_LINKS, *_OF_FLOWS, "rate_bit_s") if getattr(event, name) is not None]
    if len(given) != 1:
        choice = ", ".join((*_OF_LINKS, *_OF_FLOWS, "rate_bit_s"))
        return [(key, "changes nothing" if not given else f"changes {' and '.join(given)}", f"one of {choice} each")]
    if event.link is not None and event.flow is not None:
        return [(key, "names a link and a flow", "write two events")]
    if event.link is not None and (event.link not in links or given[0] in _OF_FLOWS):
        problem = f"there is no link {event.link!r}" if event.link not in links else f"a link has no {given[0]}"
        return [(f"{key}.link", problem, "name what changes")]
    if event.flow is not None and (event.flow not in flows or given[0] in _OF_LINKS):
        problem = f"there is no flow {event.flow!r}" if event.flow not in flows else f"a flow has no {given[0]}"
        return [(f"{key}.flow", problem, "name what changes")]
    if given[0] == "rate_bit_s" and event.link is None and event.flow is None:
        return [(f"{key}.rate_bit_s", "of which link or flow?", "add link or flow")]
    if event.at_s >= written.seconds:
        return [(f"{key}.at_s", "is after the end", f"less than seconds, which is {written.seconds:g}")]
    return []
