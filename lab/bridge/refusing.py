"""Which experiments can be run in namespaces, and one line for each that cannot: what, where, what to do.

Decides: that nothing is left out or scaled in silence. Refuses to know: how one is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from billpay.errors import ConfigurationError
from billpay.pricesetting import GAIN_MAX
from lab.simulator.experiment import (
    MARKING_DEFAULTS,
    Event,
    Experiment,
    Flow,
    Link,
    MarkingKind,
    Pattern,
    ReactorKind,
)

MOST_LINKS: Final = 4
MOST_FLOWS: Final = 16
MOST_BIT_S: Final = 50_000_000
LEAST_BIT_S: Final = 200_000
MOST_SECONDS: Final = 600
MOST_RTT_MS: Final = 2_000.0
LEAST_PACKET_BYTES: Final = 200
MOST_PACKET_BYTES: Final = 1_500
LEAST_BUFFER_BYTES: Final = 3_100
"""A gateway's queue holds two full packets at least."""

RULES: Final = {
    MarkingKind.NONE: "none",
    MarkingKind.VIRTUAL_QUEUE: "virtual-queue",
    MarkingKind.RED: "virtual-red",
    MarkingKind.AVQ: "avq",
    MarkingKind.REM: "rem",
}
"""What a gateway calls them."""

_SET_BY_THETA: Final = frozenset({"theta"})
_MARKING_OF_1000: Final = (MarkingKind.RED, MarkingKind.REM)
_REACTORS: Final = (ReactorKind.ELASTIC, ReactorKind.RENO, ReactorKind.UNRESPONSIVE)

Complaint = tuple[str, str, str]
"""Key, problem, remedy."""


def refuse(experiment: Experiment, file: Path | str) -> None:
    """Raises ConfigurationError for the first thing that real packets or the product's daemons cannot do."""
    for key, problem, remedy in complaints(experiment):
        raise ConfigurationError(file, key, f"{problem} in namespaces", remedy)


def complaints(experiment: Experiment) -> Iterator[Complaint]:
    if len(experiment.links) > MOST_LINKS:
        yield "links", f"are {len(experiment.links)}, {MOST_LINKS} at most", "simulate it: leave out --namespaces"
    if len(experiment.flows) > MOST_FLOWS:
        yield "flows", f"are {len(experiment.flows)}, {MOST_FLOWS} at most", "simulate it: leave out --namespaces"
    if experiment.seconds > MOST_SECONDS:
        yield "seconds", f"is {experiment.seconds:g} of real time, {MOST_SECONDS} at most", "give --seconds"
    for link in experiment.links:
        yield from _of_link(link, experiment)
    for flow in experiment.flows:
        yield from _of_flow(flow)
    for number, event in enumerate(experiment.events):
        yield from _of_event(event, f"events[{number}]", experiment)
    yield from _of_paths(experiment)


def _of_link(link: Link, experiment: Experiment) -> Iterator[Complaint]:
    key = f"links.{link.name}"
    if link.rate_bit_s > MOST_BIT_S:
        remedy = f"{MOST_BIT_S:,} at most; nobody scales it for you"
        yield f"{key}.rate_bit_s", f"is {link.rate_bit_s:,.0f}: too fast for this machine", remedy
    if link.rate_bit_s < LEAST_BIT_S:
        yield (
            f"{key}.rate_bit_s",
            f"is {link.rate_bit_s:,.0f}: too slow for its daemons' talk",
            f"{LEAST_BIT_S:,} at least",
        )
    if link.buffer_packets * experiment.packet_bytes < LEAST_BUFFER_BYTES:
        remedy = f"packet_bytes times buffer_packets is {LEAST_BUFFER_BYTES} at least"
        yield f"{key}.buffer_packets", f"is {link.buffer_packets}: too few", remedy
    yield from _of_marking(link, key, experiment.packet_bytes)
    if link.target_utilisation is not None and (link.target_utilisation >= 1 or link.target_utilisation < 0.1):
        yield f"{key}.target_utilisation", f"is {link.target_utilisation:g}: not", "from 0.1 to 0.99"
    if link.target_utilisation is not None and link.price_gain != GAIN_MAX:
        yield f"{key}.price_gain", f"is {link.price_gain:g}: a gateway has one gain", f"leave it at {GAIN_MAX:g}"


def _of_marking(link: Link, key: str, packet_bytes: int) -> Iterator[Complaint]:
    rule = link.marking
    if rule.kind not in RULES:
        known = ", ".join(kind.value for kind in RULES)
        yield f"{key}.marking", f"is {rule.kind.value}: no gateway marks so", f"one of {known}"
        return
    if rule.kind in (MarkingKind.VIRTUAL_QUEUE, MarkingKind.RED) and not 0.1 <= rule.theta <= 1:
        yield f"{key}.marking.theta", f"is {rule.theta:g}: not", "from 0.1 to 1"
    for name, usual in MARKING_DEFAULTS[rule.kind].items():
        if name not in _SET_BY_THETA and getattr(rule, name) != usual:
            problem = f"is {getattr(rule, name):g}: a gateway's is {usual:g}"
            yield f"{key}.marking.{name}", problem, "leave it out, or simulate it"
    if rule.kind in _MARKING_OF_1000 and packet_bytes != 1_000:
        problem = f"is {packet_bytes}, and a gateway's {rule.kind.value} reckons in packets of 1,000"
        yield "packet_bytes", problem, "leave it at 1000; flows may have their own"


def _of_flow(flow: Flow) -> Iterator[Complaint]:
    key, reactor = f"flows.{flow.name}", flow.reactor
    if reactor.kind not in _REACTORS:
        known = ", ".join(kind.value for kind in _REACTORS)
        yield f"{key}.reactor", f"is {reactor.kind.value}: not of an unmodified program", f"one of {known}"
        return
    if flow.rtt_ms > MOST_RTT_MS:
        yield f"{key}.rtt_ms", f"is {flow.rtt_ms:g}: not", f"{MOST_RTT_MS:g} at most"
    if not LEAST_PACKET_BYTES <= flow.packet_bytes <= MOST_PACKET_BYTES:
        remedy = f"from {LEAST_PACKET_BYTES} to {MOST_PACKET_BYTES}"
        yield f"{key}.packet_bytes", f"is {flow.packet_bytes}: not", remedy
    for name in ("gain_per_s", "gain_of_bound", "interval_ms"):
        if getattr(reactor, name) is not None:
            yield f"{key}.{name}", "is given: the agent's reactor has its own", "leave it out, or simulate it"
    if reactor.kind is ReactorKind.ELASTIC and flow.willingness_nanodollars_per_s < 1:
        yield f"{key}.weight", "buys less than a nanodollar a second: no task", "raise it, or the price per mark"
    if reactor.kind is ReactorKind.RENO and reactor.max_bit_s is not None:
        yield f"{key}.max_bit_s", "is given: nobody holds a plain TCP back", "leave it out, or simulate it"
    if reactor.kind is ReactorKind.UNRESPONSIVE and reactor.pattern is not Pattern.CONSTANT:
        yield f"{key}.pattern", f"is {reactor.pattern.value}: only constant", "leave it out, or simulate it"
    if reactor.kind is ReactorKind.UNRESPONSIVE and reactor.rate_bit_s > MOST_BIT_S:
        yield f"{key}.rate_bit_s", f"is {reactor.rate_bit_s:,.0f}: too fast", f"{MOST_BIT_S:,} at most"


def _of_event(event: Event, key: str, experiment: Experiment) -> Iterator[Complaint]:
    if event.rate_bit_s is not None and event.link is not None:
        yield f"{key}.rate_bit_s", "is of a link: a gateway's rate stays", "change the price, or simulate it"
    if event.rate_bit_s is not None and event.rate_bit_s > MOST_BIT_S:
        yield f"{key}.rate_bit_s", f"is {event.rate_bit_s:,.0f}: too fast", f"{MOST_BIT_S:,} at most"
    if event.weight is None and event.willingness_nanodollars_per_s is None:
        return
    for flow in experiment.flows:
        if flow.reactor.kind is ReactorKind.ELASTIC and event.flow in (None, flow.name):
            worth_ppm = worth_after(event, flow)
            if not 10_000 <= worth_ppm <= 100_000_000:
                problem = f"makes {flow.name} {worth_ppm / 1e6:g} times as willing: too much at once"
                yield key, problem, "from a hundredth to a hundredfold of what it began with"


def worth_after(event: Event, flow: Flow) -> int:
    """What a flow is worth from that event on, in millionths of what it was worth at first."""
    if event.willingness_nanodollars_per_s is not None:
        return round(event.willingness_nanodollars_per_s / flow.willingness_nanodollars_per_s * 1e6)
    assert event.weight is not None
    return round(event.weight / flow.weight * 1e6)


def _of_paths(experiment: Experiment) -> Iterator[Complaint]:
    """Links in a row, or rows that join: then each packet has one way, there and back."""
    following: dict[str, str] = {}
    for flow in experiment.flows:
        for name, after in zip(flow.path, flow.path[1:], strict=False):
            if following.setdefault(name, after) != after:
                problem = f"goes on from {name} by {after}, another by {following[name]}: rows that part cannot be run"
                yield f"flows.{flow.name}.path", problem, "let them join, or simulate it"
                return
    used = {name for flow in experiment.flows for name in flow.path}
    for link in experiment.links:
        if link.name not in used:
            yield f"links.{link.name}", "no flow goes over it: nothing to run", "remove it"
            return
    ends = {_end_of(link.name, following) for link in experiment.links}
    if "" in ends:
        yield "flows", "paths go round in a circle: they cannot be run", "simulate it"
    elif len(ends) > 1:
        problem = f"{' and '.join(sorted(ends))} have no link in common: not one network"
        yield "links", problem, "run each with its flows on its own"


def _end_of(name: str, following: dict[str, str]) -> str:
    """The last link of its row; "": it comes back to itself."""
    for _ in range(len(following) + 1):
        if name not in following:
            return name
        name = following[name]
    return ""
