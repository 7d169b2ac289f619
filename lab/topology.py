"""A scenario as people write it: nodes, links, routes, prices, rules and traffic steps, read from TOML into frozen
values.

Decides: which scenario files are valid. Refuses to know: addresses, interface names and commands (`lab.plan`), how
anything is started. Everything is bounded, unknown keys are refused by name, and every complaint names the file and
the key."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError

NodeName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9]{0,7}$", description="fits into an interface name")
]
BitRate = Annotated[int, msgspec.Meta(ge=10_000, le=100_000_000_000)]
PartsPerMillion = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=0xFF_FFFF)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
DEFAULT_DESTINATION = "default"
LEAST_SCALE = 0.1  # a run that is asked to be shorter than this is still that long


class ScenarioValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a scenario file."""


class NodeKind(enum.Enum):
    HOST = "host"  # runs the secretary and the agent
    ISP = "isp"  # runs a gateway
    LEGACY = "legacy"  # forwards, knows nothing of Bill-Pay
    PLAIN = "plain"  # a host without an agent
    AGENT = "agent"  # a host with an agent that pays no gateway: its flows follow prices by their rates


class Toll(ScenarioValue, frozen=True, kw_only=True):
    """What an ISP keeps of each packet; `towards` is the next node, "" for all links without an entry of their own."""

    towards: str = ""
    fixed_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    fixed_picodollars_per_byte: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    proportional_ppm: PartsPerMillion = 0
    congestion: bool = False  # adds the congestion toll, set by the gateway's controller
    cap_nanodollars: Amount | None = None  # on the whole toll of one packet


class Rule(ScenarioValue, frozen=True, kw_only=True):
    """A rule of a host's secretary: what the traffic to a port of a node is worth."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    to: NodeName
    protocol: Annotated[str, msgspec.Meta(pattern=r"^(tcp|udp)$")] = "tcp"
    port: Port
    strategy: Annotated[str, msgspec.Meta(pattern=r"^(fixed|bulk|timely)$")] = "fixed"
    amount_nanodollars: Amount  # for each packet; the most of it for "bulk" and "timely" (willingness to pay)
    target_bit_s: BitRate = 1_000_000  # bulk: pays only when the goodput stays below
    sum_nanodollars: Annotated[int, msgspec.Meta(ge=1, le=10**12)] = 100_000_000


class Node(ScenarioValue, frozen=True, kw_only=True):
    name: NodeName
    kind: NodeKind
    as_number: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    share_nanodollars: Amount = 1  # host: what it keeps of each paid packet that it receives
    delay_value_nanodollars_per_ms: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 1  # host: its packets' time
    tolls: tuple[Toll, ...] = ()
    rules: tuple[Rule, ...] = ()
    ignores_wishes: bool = False  # ISP: a user-OAD binds nobody, and this one heeds none


class Link(ScenarioValue, frozen=True, kw_only=True):
    """A cable. Rates hold for each direction; delay, loss and reordering are done by a wire process of the lab."""

    ends: tuple[NodeName, NodeName]
    rate_bit_s: BitRate | None = None
    delay_ms: Annotated[float, msgspec.Meta(ge=0, le=2000)] = 0
    loss_ppm: PartsPerMillion = 0
    reorder_ppm: PartsPerMillion = 0
    marking: Annotated[str, msgspec.Meta(pattern=r"^(none|virtual-queue|virtual-red|avq|rem)$")] = "none"  # by ISPs
    virtual_ppm: Annotated[int, msgspec.Meta(ge=100_000, le=1_000_000)] = 950_000
    virtual_limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    queueing: Annotated[str, msgspec.Meta(pattern=r"^(fair|fifo)$")] = "fair"
    limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0  # of an ISP's queue; 0: 100 ms
    wire: bool = False  # a wire process even while it harms nothing, since a step will make it do so

    @property
    def has_wire(self) -> bool:
        return self.wire or bool(self.delay_ms or self.loss_ppm or self.reorder_ppm)


class Route(ScenarioValue, frozen=True, kw_only=True):
    """At `node`, packets to the host `to` ("default": all) go by `via`; what is not listed goes the shortest way."""

    node: NodeName
    to: str = DEFAULT_DESTINATION
    via: NodeName


class Alternative(ScenarioValue, frozen=True, kw_only=True):
    """An OAD alternative of an ISP towards a host: another next hop."""

    node: NodeName
    to: NodeName
    number: Annotated[int, msgspec.Meta(ge=1, le=11)]
    via: NodeName
    title: Annotated[str, msgspec.Meta(max_length=60)] = ""
    delay_ms: Annotated[float, msgspec.Meta(ge=0, le=10_000)] | None = None  # what is promised
    toll_nanodollars: Amount | None = None  # what is promised; None: the toll of the link that it leaves by
    available: bool = True
    default: bool = False  # what packets take for which nothing is asked; none: the one by the ISP's own route


class Tunnel(ScenarioValue, frozen=True, kw_only=True):
    """Two ISPs that agree across legacy networks: the header travels in UDP between them."""

    ends: tuple[NodeName, NodeName]


# --- traffic ----------------------------------------------------------------------------------------------------------


class Step(ScenarioValue, frozen=True, kw_only=True, tag_field="do"):
    """Base of what happens one after another once the network and its daemons run."""


class Pause(Step, frozen=True, kw_only=True, tag="pause"):
    seconds: Seconds
    stretches: bool = False  # longer and shorter with the run; else it gives something the time that it needs


class Flood(Step, frozen=True, kw_only=True, tag="flood"):
    """A paced UDP stream that runs on until `stop` (or the end of the steps)."""

    name: str
    source: NodeName
    destination: NodeName
    port: Port
    rate_bit_s: BitRate  # of whole IP packets
    packet_bytes: Annotated[int, msgspec.Meta(ge=60, le=1500)] = 1200


class Stop(Step, frozen=True, kw_only=True, tag="stop"):
    name: str


class Exchange(Step, frozen=True, kw_only=True, tag="exchange"):
    """Numbered UDP requests, each answered by one reply: the packets whose amounts are followed link by link."""

    name: str
    source: NodeName
    destination: NodeName
    port: Port
    packets_per_s: Annotated[int, msgspec.Meta(ge=1, le=20_000)]
    packet_bytes: Annotated[int, msgspec.Meta(ge=60, le=1400)] = 200
    flows: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1  # source ports that take turns
    seconds: Seconds
    background: bool = False


class Transfer(ScenarioValue, frozen=True, kw_only=True):
    name: str
    source: NodeName
    destination: NodeName
    port: Port
    rate_bit_s: BitRate | None = None  # the program sends no faster than that; None: as fast as TCP can


class Transfers(Step, frozen=True, kw_only=True, tag="transfers"):
    """TCP transfers by an unmodified program (iperf3), all at once."""

    seconds: Seconds
    congestion_control: Annotated[str, msgspec.Meta(pattern=r"^(cubic|bbr|reno)$")] = "cubic"
    flows: Annotated[tuple[Transfer, ...], msgspec.Meta(min_length=1, max_length=16)]


class Fetch(Step, frozen=True, kw_only=True, tag="fetch"):
    """One HTTP download by curl: `source` is the client, `destination` the server."""

    name: str
    source: NodeName
    destination: NodeName
    port: Port
    megabytes: Annotated[float, msgspec.Meta(gt=0, le=1000)]


class Impair(Step, frozen=True, kw_only=True, tag="impair"):
    """Changes what a link's wire process does from now on."""

    name: str = ""  # by which an expectation means this step
    link: tuple[NodeName, NodeName]
    delay_ms: Annotated[float, msgspec.Meta(ge=0, le=2000)] = 0
    loss_ppm: PartsPerMillion = 0
    reorder_ppm: PartsPerMillion = 0


class Kill(Step, frozen=True, kw_only=True, tag="kill"):
    """SIGKILL (or SIGSTOP) to a node's daemon."""

    node: NodeName
    signal: Annotated[str, msgspec.Meta(pattern=r"^(KILL|STOP)$")] = "KILL"


class Restart(Step, frozen=True, kw_only=True, tag="restart"):
    node: NodeName


class Charge(Step, frozen=True, kw_only=True, tag="charge"):
    """An ISP's toll on the link to its neighbour `towards` is this from now on; it publishes that."""

    name: str = ""
    node: NodeName
    toll: Toll


class Describe(Step, frozen=True, kw_only=True, tag="describe"):
    """An ISP's alternative is this from now on: promised, withdrawn, the default. Nobody makes it keep a promise."""

    name: str = ""
    node: NodeName
    to: NodeName
    number: Annotated[int, msgspec.Meta(ge=1, le=11)]
    delay_ms: Annotated[float, msgspec.Meta(ge=0, le=10_000)] | None = None
    toll_nanodollars: Amount | None = None
    available: bool = True
    default: bool = False


class Heed(Step, frozen=True, kw_only=True, tag="heed"):
    """Whether an ISP follows what users ask for from now on."""

    name: str = ""
    node: NodeName
    wishes: bool


class Swallow(Step, frozen=True, kw_only=True, tag="swallow"):
    """Packets with a payment that `link[0]` counted as sent to `link[1]` vanish, when it has taken its toll; 0: no
    more.

    The lab does it, where they would leave: a gateway does not cheat.
    """

    name: str = ""
    link: tuple[NodeName, NodeName]
    share_ppm: PartsPerMillion = 1_000_000


Changing = Charge | Describe | Heed
"""Steps that change what an ISP's own configuration says."""

AnyStep = (
    Pause | Flood | Stop | Exchange | Transfers | Fetch | Impair | Kill | Restart | Charge | Describe | Heed | Swallow
)


# --- what a run has to show ------------------------------------------------------------------------------------------


class Expectation(ScenarioValue, frozen=True, kw_only=True, tag_field="that"):
    """Base of what a run checks; one that does not hold makes the command fail."""


class Amounts(Expectation, frozen=True, kw_only=True, tag="amounts"):
    """The most frequent amounts of an exchange on the figure's links."""

    exchange: str
    are: tuple[Amount, ...]


class Faster(Expectation, frozen=True, kw_only=True, tag="faster"):
    """One transfer got at least so many times another one's goodput."""

    transfer: str
    than: str
    times: Annotated[float, msgspec.Meta(gt=1, le=1000)]


class Alike(Expectation, frozen=True, kw_only=True, tag="alike"):
    """Two transfers' goodput differs by less than this (of the greater one)."""

    transfers: tuple[str, str]
    within_percent: Annotated[float, msgspec.Meta(gt=0, le=100)]


class Passes(Expectation, frozen=True, kw_only=True, tag="passes"):
    """So many requests of an exchange (of those that were sent) went over a link with a header."""

    exchange: str
    link: tuple[NodeName, NodeName]  # in the packets' direction
    at_least_percent: Annotated[float, msgspec.Meta(gt=0, le=100)]


class Answered(Expectation, frozen=True, kw_only=True, tag="answered"):
    """So many requests of an exchange got their reply."""

    exchange: str
    at_least_percent: Annotated[float, msgspec.Meta(gt=0, le=100)]


class Moves(Expectation, frozen=True, kw_only=True, tag="moves"):
    """After a step the share of an exchange's packets that leave by a link falls below, or rises to, so much.

    `within_s` is counted from the step; `within_round_trips` from when the sender's agent said that it knows, or from
    the step where no agent says anything. `back`: rises instead of falls.
    """

    exchange: str
    link: tuple[NodeName, NodeName]
    after: str
    back: bool = False
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10
    within_s: Annotated[float, msgspec.Meta(gt=0, le=600)]
    within_round_trips: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None


class Found(Expectation, frozen=True, kw_only=True, tag="found"):
    """So soon after a step a host's agent accuses an ISP, with evidence; the kinds are the cartographer's."""

    by: NodeName
    isp: NodeName
    kind: Annotated[str, msgspec.Meta(pattern=r"^(keeps-and-drops|fakes-congestion|lies|ignores)$")]
    after: str
    within_s: Annotated[float, msgspec.Meta(gt=0, le=600)]


class Packets(Expectation, frozen=True, kw_only=True, tag="packets"):
    """The run's length: paid packets that hosts sent (less, when a run is asked to be shorter)."""

    at_least: Annotated[int, msgspec.Meta(ge=1)]


class Loss(Expectation, frozen=True, kw_only=True, tag="loss"):
    """The books of a link's neighbours name payments that were lost on it, in its direction."""

    link: tuple[NodeName, NodeName]


class Settled(Expectation, frozen=True, kw_only=True, tag="settled"):
    """So many times a balance reached the threshold and was settled (fewer in a shorter run)."""

    at_least: Annotated[int, msgspec.Meta(ge=1)]


AnyExpectation = Amounts | Faster | Alike | Passes | Answered | Moves | Found | Packets | Loss | Settled


class Scenario(ScenarioValue, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    title: Annotated[str, msgspec.Meta(max_length=120)]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 1
    statement_interval_s: Annotated[int, msgspec.Meta(ge=1, le=60)] = 2
    settlement_threshold_nanodollars: Annotated[int, msgspec.Meta(ge=1, le=10**15)] = 20_000
    figure: tuple[NodeName, ...] = ()  # the nodes that a followed request and its reply pass, in order: "AXYBZXA"
    shows: str = ""  # the exchange whose packet the report shows first; "": the last one
    nodes: Annotated[tuple[Node, ...], msgspec.Meta(min_length=2, max_length=32)]
    links: Annotated[tuple[Link, ...], msgspec.Meta(min_length=1, max_length=99)]
    routes: tuple[Route, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    steps: tuple[AnyStep, ...] = ()
    expect: tuple[AnyExpectation, ...] = ()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def neighbours(self, name: str) -> list[str]:
        """The nodes at the other ends of `name`'s cables, in file order."""
        return [link.ends[1 - link.ends.index(name)] for link in self.links if name in link.ends]

    def hosts(self) -> list[Node]:
        """The nodes with a stable host address."""
        return [node for node in self.nodes if node.kind in (NodeKind.HOST, NodeKind.PLAIN, NodeKind.AGENT)]

    @property
    def seconds(self) -> float:
        """How long the steps take, without starting up and settling."""
        return sum(getattr(step, "seconds", 0.0) for step in self.steps if not getattr(step, "background", False))

    def scale_for(self, seconds: float) -> float:
        """By how much to stretch the steps so that they take so long; pauses that do not stretch keep their length."""
        fixed = sum(step.seconds for step in self.steps if isinstance(step, Pause) and not step.stretches)
        stretching = self.seconds - fixed
        return max(LEAST_SCALE, (seconds - fixed) / stretching) if stretching > 0 else 1.0


def load(path: Path) -> Scenario:
    """The scenario in a TOML file.  Raises ConfigurationError naming the file, the key and what to do."""
    scenario = load_toml(path, Scenario)
    for key, problem in _contradictions(scenario):
        raise ConfigurationError(path, key, problem, "names must be those of nodes and links in this file")
    return scenario


def _contradictions(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What the types cannot say: names that do not exist, cables that are missing, roles that do not fit."""
    names = [node.name for node in scenario.nodes]
    if len(set(names)) != len(names):
        yield "nodes", "a name is used twice"
        return
    for key, name in _mentions(scenario):
        if name not in names:
            yield key, f"there is no node {name!r}"
            return
    cables = [frozenset(link.ends) for link in scenario.links]
    if len(set(cables)) != len(cables) or any(len(cable) == 1 for cable in cables):
        yield "links", "two nodes are joined twice, or a node to itself"
    for node in scenario.nodes:
        if (node.kind is NodeKind.ISP) != bool(node.as_number):
            yield f"nodes.{node.name}.as_number", "an ISP has an AS number, the others have none"
        for toll in node.tolls:
            if toll.towards and frozenset((node.name, toll.towards)) not in cables:
                yield f"nodes.{node.name}.tolls", f"{node.name} has no link to {toll.towards}"
    hops = [("routes", route.node, route.via) for route in scenario.routes]
    hops += [("alternatives", alternative.node, alternative.via) for alternative in scenario.alternatives]
    hops += [("steps", *step.link) for step in scenario.steps if isinstance(step, Impair | Swallow)]
    hops += [
        ("steps", step.node, step.toll.towards)
        for step in scenario.steps
        if isinstance(step, Charge) and step.toll.towards
    ]
    for key, node_name, via in hops:
        if frozenset((node_name, via)) not in cables:
            yield key, f"{node_name} has no link to {via}"
    ways = [*cables, *(frozenset(tunnel.ends) for tunnel in scenario.tunnels)]
    payments = [("figure", *pair) for pair in pairwise(scenario.figure)]
    payments += [("expect", *item.link) for item in scenario.expect if isinstance(item, Passes | Moves | Loss)]
    for key, node_name, via in payments:
        if frozenset((node_name, via)) not in ways:
            yield key, f"{node_name} has neither a link nor a tunnel to {via}"
    wires = {frozenset(link.ends) for link in scenario.links if link.has_wire}
    for step in scenario.steps:
        if isinstance(step, Impair) and frozenset(step.link) not in wires:
            yield "steps", f"the link {'–'.join(step.link)} has no wire process: give it `wire = true`"
    yield from _unknown_names(scenario)


def _unknown_names(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Expectations of traffic that no step makes would never hold, and floods that nobody started cannot be stopped."""
    exchanges = {step.name for step in scenario.steps if isinstance(step, Exchange)}
    transfers = {flow.name for step in scenario.steps if isinstance(step, Transfers) for flow in step.flows}
    transfers |= {step.name for step in scenario.steps if isinstance(step, Fetch)}
    floods = {step.name for step in scenario.steps if isinstance(step, Flood)}
    if scenario.shows and scenario.shows not in exchanges:
        yield "shows", f"there is no exchange {scenario.shows!r}"
    for step in scenario.steps:
        if isinstance(step, Stop) and step.name not in floods:
            yield "steps", f"there is no flood {step.name!r}"
        if isinstance(step, Charge | Describe | Heed) and scenario.node(step.node).kind is not NodeKind.ISP:
            yield "steps", f"{step.node} is no ISP"
        if isinstance(step, Describe) and not any(
            (item.node, item.to, item.number) == (step.node, step.to, step.number) for item in scenario.alternatives
        ):
            yield "steps", f"{step.node} has no alternative {step.number} to {step.to}"
    named = [step.name for step in scenario.steps if isinstance(step, Impair | Changing | Swallow) and step.name]
    if len(set(named)) != len(named):
        yield "steps", "two changes have one name"
    for item in scenario.expect:
        wanted: tuple[str, ...] = ()
        if isinstance(item, Moves | Found) and item.after not in named:
            yield "expect", f"there is no change {item.after!r}"
        if isinstance(item, Amounts | Passes | Answered | Moves):
            wanted, known = (item.exchange,), exchanges
        elif isinstance(item, Faster | Alike):
            wanted = (item.transfer, item.than) if isinstance(item, Faster) else item.transfers
            known = transfers
        for name in wanted:
            if name not in known:
                yield "expect", f"there is no exchange or transfer {name!r}"


def _mentions(scenario: Scenario) -> Iterator[tuple[str, str]]:
    for link in scenario.links:
        yield from (("links", name) for name in link.ends)
    for node in scenario.nodes:
        yield from ((f"nodes.{node.name}.rules", rule.to) for rule in node.rules)
    for route in scenario.routes:
        yield from (("routes", name) for name in (route.node, route.via))
        if route.to != DEFAULT_DESTINATION:
            yield "routes", route.to
    for alternative in scenario.alternatives:
        yield from (("alternatives", name) for name in (alternative.node, alternative.to, alternative.via))
    for tunnel in scenario.tunnels:
        yield from (("tunnels", name) for name in tunnel.ends)
    yield from (("figure", name) for name in scenario.figure)
    for step in scenario.steps:
        for flow in step.flows if isinstance(step, Transfers) else (step,):
            for field in ("source", "destination", "node", "to"):
                if hasattr(flow, field):
                    yield "steps", getattr(flow, field)
        if isinstance(step, Impair | Swallow):
            yield from (("steps", name) for name in step.link)
    for item in scenario.expect:
        if isinstance(item, Passes | Moves | Loss):
            yield from (("expect", name) for name in item.link)
        if isinstance(item, Found):
            yield from (("expect", name) for name in (item.by, item.isp))
