"""From a scenario to addresses and routes."""

from __future__ import annotations

from lab.plan import Plan, PlannedRoute, make_plan, next_hops
from lab.scenarios import find_scenario


def figure1() -> Plan:
    return make_plan(find_scenario("figure1"))


def route(plan: Plan, node: str, destination: str) -> PlannedRoute:
    return next(route for route in plan.routes if route.node == node and route.destination == destination)


def walk(plan: Plan, start: str, goal: str) -> list[str]:
    """The nodes that a packet passes, by each node's own next hop."""
    path = [start]
    while path[-1] != goal:
        path.append(next_hops(plan.scenario, path[-1])[goal])
        assert len(path) < 10, path
    return path


def test_the_figures_two_directions_differ() -> None:
    assert walk(figure1(), "A", "B") == ["A", "X", "Y", "B"]
    assert walk(figure1(), "B", "A") == ["B", "Z", "X", "A"]
    assert walk(figure1(), "C", "B") == ["C", "Y", "B"]


def test_addresses_follow_the_numbers_of_cables_and_hosts() -> None:
    plan = figure1()
    assert plan.end("X", "Y").ipv4 == "10.77.2.1"
    assert plan.end("Y", "X").ipv6 == "fd77:2::2"
    assert [plan.address(node, 4) for node in "ABC"] == ["10.77.200.1", "10.77.200.2", "10.77.200.3"]
    assert plan.address("B", 6) == "fd77:200::2"
    assert plan.end("X", "Y").mac != plan.end("Y", "X").mac


def test_hosts_speak_with_their_stable_address() -> None:
    plan = figure1()
    assert route(plan, "A", "default").source == "10.77.200.1"
    assert route(plan, "B", "default").via == plan.end("Z", "B").ipv4
    assert route(plan, "X", "10.77.200.2/32").interface == "to-Y"
    assert route(plan, "X", "fd77:200::2/128").source is None


def test_every_node_reaches_every_host_and_every_cable() -> None:
    for scenario in ("figure1", "discovery", "partial", "congested"):
        plan = make_plan(find_scenario(scenario))
        for node in plan.scenario.nodes:
            for host in plan.hosts:
                if host.node != node.name:
                    assert walk(plan, node.name, host.node)[-1] == host.node
            known = {route.destination for route in plan.routes if route.node == node.name}
            for cable in plan.cables:
                own = node.name in (end.node for end in cable.ends)
                assert own or "default" in known or {cable.network(4), cable.network(6)} <= known
