"""From a scenario to what a network of namespaces needs: interfaces, addresses and routes, as values.

Decides: names, addresses, next hops. Refuses to know: how they are set up (`lab.namespaces`). Pure. Cable n (from 1)
has 10.77.n.0/24 and fd77:n::/64, its ends .1 and .2; host k (from 1) has 10.77.200.k and fd77:200::k on lo. Routes
are shortest paths (ties: file order of the links) unless the scenario says otherwise; a packet to a link's own
network is routed as well, since control connections and ICMP errors use those addresses."""

from __future__ import annotations

import ipaddress
from collections import deque
from dataclasses import dataclass

from lab.topology import DEFAULT_DESTINATION, Link, NodeKind, Scenario

HOST_NETWORK = 200
ETHERNET_MTU = 1500
_FORWARDING = (NodeKind.ISP, NodeKind.LEGACY)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a cable."""

    node: str
    peer: str
    interface: str
    mac: str
    ipv4: str
    ipv6: str

    def address(self, family: int) -> str:
        return self.ipv4 if family == 4 else self.ipv6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    number: int
    ends: tuple[End, End]
    link: Link

    def end_at(self, node: str) -> End:
        return self.ends[0] if self.ends[0].node == node else self.ends[1]

    def network(self, family: int) -> str:
        return f"10.77.{self.number}.0/24" if family == 4 else f"fd77:{self.number}::/64"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAddress:
    node: str
    ipv4: str
    ipv6: str

    def address(self, family: int) -> str:
        return self.ipv4 if family == 4 else self.ipv6


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRoute:
    node: str
    family: int
    destination: str  # a prefix or "default"
    via: str
    interface: str
    source: str | None  # a host's own stable address


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    scenario: Scenario
    cables: tuple[Cable, ...]
    hosts: tuple[HostAddress, ...]
    routes: tuple[PlannedRoute, ...]

    def cables_of(self, node: str) -> list[Cable]:
        return [cable for cable in self.cables if any(end.node == node for end in cable.ends)]

    def cable(self, one: str, other: str) -> Cable:
        return next(cable for cable in self.cables if {end.node for end in cable.ends} == {one, other})

    def end(self, node: str, peer: str) -> End:
        """`node`'s end of the cable to `peer`."""
        return self.cable(node, peer).end_at(node)

    def address(self, node: str, family: int) -> str:
        """The stable address of a host."""
        return next(host for host in self.hosts if host.node == node).address(family)

    def via(self, node: str, to: str) -> str:
        """The neighbour by which packets from `node` to another node leave."""
        return next_hops(self.scenario, node)[to]

    def passes(self, node: str, to: str, over: str) -> bool:
        """Whether the way from `node` to `to` leads over the node `over`."""
        at = node
        for _ in self.scenario.nodes:
            if at == to:
                return False
            at = self.via(at, to)
            if at == over:
                return True
        return False

    def forwards(self, node: str) -> bool:
        return self.scenario.node(node).kind in _FORWARDING


def make_plan(scenario: Scenario) -> Plan:
    cables = tuple(_cable(number, link) for number, link in enumerate(scenario.links, start=1))
    hosts = tuple(
        HostAddress(node=node.name, ipv4=f"10.77.{HOST_NETWORK}.{k}", ipv6=f"fd77:{HOST_NETWORK}::{k:x}")
        for k, node in enumerate(scenario.hosts(), start=1)
    )
    bare = Plan(scenario=scenario, cables=cables, hosts=hosts, routes=())
    routes = tuple(route for node in scenario.nodes for route in _routes(bare, node.name))
    return Plan(scenario=scenario, cables=cables, hosts=hosts, routes=routes)


def _cable(number: int, link: Link) -> Cable:
    def end(index: int) -> End:
        node, peer = link.ends[index], link.ends[1 - index]
        return End(
            node=node,
            peer=peer,
            interface=f"to-{peer}",
            mac=f"02:77:00:00:{number:02x}:{index + 1:02x}",
            ipv4=f"10.77.{number}.{index + 1}",
            ipv6=f"fd77:{number}::{index + 1}",
        )

    return Cable(number=number, ends=(end(0), end(1)), link=link)


def _routes(plan: Plan, node: str) -> list[PlannedRoute]:
    """Everything that `node` must know to reach each host and each cable's network, by both families."""
    hops = next_hops(plan.scenario, node)
    own_default = next((r.via for r in plan.scenario.routes if r.node == node and r.to == DEFAULT_DESTINATION), None)
    is_host = not plan.forwards(node)
    routes: list[PlannedRoute] = []
    for family in (4, 6):
        source = plan.address(node, family) if is_host else None

        def add(destination: str, via: str, family: int = family, source: str | None = source) -> None:
            cable = plan.cable(node, via)
            routes.append(
                PlannedRoute(
                    node=node,
                    family=family,
                    destination=destination,
                    via=cable.end_at(via).address(family),
                    interface=cable.end_at(node).interface,
                    source=source,
                )
            )

        default = own_default or (plan.scenario.neighbours(node)[0] if is_host else None)
        if default:
            add("default", default)
        for host in plan.hosts:
            via = hops.get(host.node)
            if host.node != node and via and via != default:
                add(_single(host.address(family)), via)
        for cable in plan.cables:
            nearest = _nearest_end(plan, node, cable)
            via = hops.get(nearest.node)
            if node not in (end.node for end in cable.ends) and via and via != default:
                add(cable.network(family), via)
    return routes


def next_hops(scenario: Scenario, node: str) -> dict[str, str]:
    """The neighbour that leads to each other node: the scenario's routes first, then shortest paths over ISPs."""
    forced = {route.to: route.via for route in scenario.routes if route.node == node}
    found: dict[str, str] = {}
    waiting = deque((neighbour, neighbour) for neighbour in scenario.neighbours(node))
    while waiting:
        name, first = waiting.popleft()
        if name == node or name in found:
            continue
        found[name] = first
        if scenario.node(name).kind in _FORWARDING:
            waiting.extend((further, first) for further in scenario.neighbours(name))
    default = forced.get(DEFAULT_DESTINATION)
    neighbours = set(scenario.neighbours(node))
    return {
        name: forced.get(name, first if default is None or name in neighbours else default)
        for name, first in found.items()
    }


def _nearest_end(plan: Plan, node: str, cable: Cable) -> End:
    """The end of `cable` whose node is fewer hops away: the way to its network."""
    distance = _distances(plan.scenario, node)
    return min(cable.ends, key=lambda end: distance.get(end.node, 1 << 30))


def _distances(scenario: Scenario, node: str) -> dict[str, int]:
    found = {node: 0}
    waiting = deque([node])
    while waiting:
        name = waiting.popleft()
        if name != node and scenario.node(name).kind not in _FORWARDING:
            continue
        for neighbour in scenario.neighbours(name):
            if neighbour not in found:
                found[neighbour] = found[name] + 1
                waiting.append(neighbour)
    return found


def _single(address: str) -> str:
    return str(ipaddress.ip_network(address))
