"""What a scenario means in the daemons' files: every file is one that the daemon itself accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import gateway.configuration
import hostagent.configuration
import secretary.configuration
from lab.configurations import Configurations, Places, roles_of, to_toml, toll_table
from lab.plan import make_plan
from lab.scenarios import find_scenario, list_scenarios
from lab.topology import Scenario

LOADERS = {
    "gateway": gateway.configuration.load,
    "secretary": secretary.configuration.load,
    "agent": hostagent.configuration.load,
}


def configurations(scenario: Scenario, *, family: int = 4, directory: Path = Path("/lab")) -> Configurations:
    return Configurations(
        make_plan(scenario),
        family=family,
        places=Places(directory=directory),
        certificate=lambda node, role: f"/lab/{node}/{role}/certificate.pem",
    )


def gateway_file(tmp_path: Path, scenario: str, node: str, *, family: int = 4) -> gateway.configuration.Configuration:
    found = find_scenario(scenario)
    path = tmp_path / "gateway.toml"
    path.write_text(to_toml(configurations(found, family=family).table(found.node(node), "gateway")), encoding="utf-8")
    return gateway.configuration.load(path)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("scenario", list_scenarios(), ids=lambda scenario: scenario.name)
def test_every_daemon_accepts_its_file(scenario: Scenario, family: int, tmp_path: Path) -> None:
    made = configurations(scenario, family=family)
    for node in scenario.nodes:
        for role in roles_of(node):
            path = tmp_path / f"{node.name}-{role}.toml"
            path.write_text(to_toml(made.table(node, role)), encoding="utf-8")
            LOADERS[role](path)


def test_the_congested_link_has_a_queue_a_little_slower_than_the_wire(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, "figure1", "Y")
    link = next(link for link in file.links if link.name == "B")
    assert (link.rate_bit_s, link.toll.congestion, link.toll.cap_nanodollars) == (9_500_000, True, 10)
    assert link.secretary_certificate == "/lab/B/secretary/certificate.pem"
    assert [link.rate_bit_s for link in file.links if link.name != "B"] == [0, 0]


def test_the_kernels_own_route_is_the_first_alternative(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, "discovery", "X")
    by_prefix = {route.prefix: route.alternatives for route in file.routes}
    assert [(item.number, item.link) for item in by_prefix["10.77.200.2/32"]] == [(1, "Y"), (2, "Z")]
    assert [item.via for item in by_prefix["fd77:200::2/128"]] == ["fd77:2::2", "fd77:5::1"]


def test_the_gateway_with_the_lower_as_number_calls(tmp_path: Path) -> None:
    urls = {link.name: link.control_url for link in gateway_file(tmp_path, "figure1", "X", family=6).links}
    assert urls == {"A": "", "Y": "https://[fd77:2::2]:7414", "Z": "https://[fd77:5::1]:7414"}
    assert {link.control_url for link in gateway_file(tmp_path, "figure1", "Z").links} == {""}


def test_behind_a_legacy_neighbour_is_the_tunnel(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, "partial", "X")
    tunnel = next(link for link in file.links if link.tunnel_remote)
    assert (tunnel.name, tunnel.interface, tunnel.peer, tunnel.peer_as) == ("Y", "to-L", "gateway", 64513)
    assert (tunnel.tunnel_local, tunnel.tunnel_remote) == ("10.77.2.1", "10.77.3.2")
    towards_b = next(route for route in file.routes if route.prefix == "10.77.200.2/32")
    assert [item.link for item in towards_b.alternatives] == ["Y"]


def test_a_tolls_own_entry_for_a_neighbour_replaces_the_general_one() -> None:
    y = find_scenario("figure1").node("Y")
    assert "cap_nanodollars" in toll_table(y, "B")
    assert "cap_nanodollars" not in toll_table(y, "X")
    assert toll_table(find_scenario("figure1").node("A"), "X")["fixed_nanodollars_per_packet"] == 0


def test_only_payers_have_rules_and_probes_are_worth_as_much() -> None:
    scenario = find_scenario("figure1")
    made = configurations(scenario)
    rules = made.table(scenario.node("A"), "secretary")["rules"]
    assert isinstance(rules, list)
    assert [(rule["name"], rule["amount_nanodollars"]) for rule in rules] == [
        ("exchange", 20),
        ("transfer", 20),
        ("probes", 20),
    ]
    assert made.table(scenario.node("B"), "secretary")["rules"] == []


def test_toml_reads_back_as_it_was() -> None:
    table = {
        "plain": 'a "quoted" ümlaut',
        "numbers": [1, 2],
        "section": {"flag": True, "inner": {"x": 1, "y": [1.5]}},
        "rows": [{"name": "a", "toll": {"n": 1}}, {"name": "b", "list": []}],
    }
    assert tomllib.loads(to_toml(table)) == table
