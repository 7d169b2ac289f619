"""From an experiment to the network that runs it: who is where, as a scenario of the lab.

    sender ── gateway of the first link ══ gateway of the second ══ receiver
    (its RTT)        │                          ├── receiver of who leaves after the first
    sender ──────────┘                          └── sender of who comes after the first

Decides: a gateway for each link, which stands at its beginning; a receiver for each link where paths end; a sender for
each path and round trip, with the whole of the round trip on its own cable. Refuses to know: processes, files. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab.bridge.refusing import RULES
from lab.configurations import RATE_SHARE_PPM
from lab.simulator import experiment as model
from lab.simulator.experiment import Experiment, Flow, ReactorKind
from lab.topology import Link, Node, NodeKind, Scenario

FIRST_PORT: Final = 5301
_FIRST_AS: Final = 64_512
_PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a flow runs. `has_session`: its sender's agent holds it to what its marks cost."""

    flow: Flow
    number: int
    sender: str
    receiver: str
    provider: str  # the gateway of its last link: what a mark costs is its word
    port: int
    has_session: bool

    @property
    def task(self) -> str:
        return f"flow-{self.number + 1}"

    @property
    def is_udp(self) -> bool:
        if self.flow.reactor.kind is ReactorKind.UNRESPONSIVE:
            return True
        return self.has_session and self.flow.program is model.Program.UDP


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A link: the gateway that queues and marks, and the node that its cable leads to."""

    link: model.Link
    gateway: str
    onwards: str

    @property
    def interface(self) -> str:
        return f"to-{self.onwards}"

    @property
    def rate_bit_s(self) -> int:
        return round(self.link.rate_bit_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    experiment: Experiment
    scenario: Scenario
    places: tuple[Place, ...]  # by flow
    hops: tuple[Hop, ...]  # by link

    def receivers(self) -> list[str]:
        return sorted({place.receiver for place in self.places})

    def payers(self) -> list[str]:
        """The senders with agents."""
        return sorted({place.sender for place in self.places if place.has_session})


def layout_of(experiment: Experiment) -> Layout:
    """Of an experiment that `refusing` has nothing against."""
    number = experiment.index_of()
    following = {
        name: after for flow in experiment.flows for name, after in zip(flow.path, flow.path[1:], strict=False)
    }
    hops = tuple(
        Hop(
            link=link,
            gateway=_gateway(at),
            onwards=_gateway(number[following[link.name]]) if link.name in following else _receiver(at),
        )
        for at, link in enumerate(experiment.links)
    )
    places = _places(experiment, number)
    agents = {name for place in places if place.has_session for name in (place.sender, place.receiver)}
    hosts = {name: None for place in places for name in (place.sender, place.receiver)}
    nodes = [
        *(Node(name=hop.gateway, kind=NodeKind.ISP, as_number=_FIRST_AS + at) for at, hop in enumerate(hops)),
        *(Node(name=name, kind=NodeKind.AGENT if name in agents else NodeKind.PLAIN) for name in hosts),
    ]
    cables = [_cable(hop, experiment) for hop in hops]
    cables += [
        Link(ends=(place.sender, _gateway(number[place.flow.path[0]])), delay_ms=place.flow.rtt_ms / 2)
        for place in {place.sender: place for place in places}.values()
    ]
    cables += [
        Link(ends=(hop.onwards, _receiver(at)))
        for at, hop in enumerate(hops)
        if hop.onwards != _receiver(at) and _receiver(at) in hosts
    ]
    scenario = Scenario(
        name="bridge",
        title=(experiment.title or experiment.name)[:100],
        nodes=tuple(nodes),
        links=tuple(cables),
    )
    return Layout(experiment=experiment, scenario=scenario, places=places, hops=hops)


def _places(experiment: Experiment, number: dict[str, int]) -> tuple[Place, ...]:
    senders: dict[tuple[tuple[str, ...], float, bool], str] = {}
    places = []
    for at, flow in enumerate(experiment.flows):
        has_session = flow.reactor.kind is ReactorKind.ELASTIC
        key = (tuple(flow.path), flow.rtt_ms, has_session)
        last = number[flow.path[-1]]
        places.append(
            Place(
                flow=flow,
                number=at,
                sender=senders.setdefault(key, f"s{len(senders) + 1}"),
                receiver=_receiver(last),
                provider=_gateway(last),
                port=FIRST_PORT + at,
                has_session=has_session,
            )
        )
    return tuple(places)


def _cable(hop: Hop, experiment: Experiment) -> Link:
    """The wire is a little faster than the gateway's queue, which is the bottleneck."""
    link = hop.link
    buffer_bytes = link.buffer_packets * experiment.packet_bytes
    return Link(
        ends=(hop.gateway, hop.onwards),
        rate_bit_s=-(-hop.rate_bit_s * _PPM // RATE_SHARE_PPM),
        marking=RULES[link.marking.kind],
        virtual_ppm=round((link.marking.theta or 1.0) * _PPM),
        virtual_limit_bytes=buffer_bytes,
        queueing="fifo",
        limit_bytes=buffer_bytes,
    )


def _gateway(number: int) -> str:
    return f"g{number + 1}"


def _receiver(number: int) -> str:
    return f"d{number + 1}"


def names(places: Sequence[Place]) -> str:
    return ", ".join(place.flow.name for place in places)
