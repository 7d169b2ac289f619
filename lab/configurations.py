"""What a scenario's words mean in the configuration files of the product's own daemons.

Decides: the files' contents, as plain tables, and nothing that the files do not say.  Refuses to know: processes.
Pure but for the identities' file names, which the caller gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataplane.payment_engines import WantedPaymentEngine
from lab.plan import Plan
from lab.topology import Node, NodeKind, Rule, Toll, Tunnel
from secretary.keys.keeper import SEALED_FILE

CONTROL_PORT = 7414
ECHO_PORT = 7416
RATE_SHARE_PPM = 950_000  # a gateway's own queue is a little slower than the wire behind it: it is the bottleneck
DAY_NANODOLLARS = 10**12
GRACE_INTERVALS = 10  # a killed gateway is back long before its neighbours lose patience
PROBES_NANODOLLARS = 1_000_000  # what a host may spend on probes in all, and in a second

GATEWAY, SECRETARY, AGENT = "gateway", "secretary", "agent"

Table = dict[str, object]
Certificate = Callable[[str, str], str]
"""The file with the certificate of a node's role."""


def roles_of(node: Node) -> tuple[str, ...]:
    """The daemons that run on a node."""
    match node.kind:
        case NodeKind.HOST:
            return (SECRETARY, AGENT)
        case NodeKind.AGENT:
            return (AGENT,)
        case NodeKind.ISP:
            return (GATEWAY,)
        case NodeKind.LEGACY | NodeKind.PLAIN:
            return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the files of a run are: a directory for each role of each node."""

    directory: Path

    def of(self, node: str, role: str) -> Path:
        return self.directory / node / role

    def secretary_socket(self, node: str) -> Path:
        return self.of(node, SECRETARY) / "secretary.sock"

    def agent_socket(self, node: str) -> Path:
        return self.of(node, AGENT) / "hostagent.sock"

    def admin_socket(self, node: str) -> Path:
        return self.of(node, GATEWAY) / "admin.sock"


class Configurations:
    """The tables of all daemons of a plan. Control connections use IP version `family`, payments that `engine`."""

    def __init__(
        self,
        plan: Plan,
        *,
        family: int,
        places: Places,
        certificate: Certificate,
        engine: WantedPaymentEngine = "auto",
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._scenario = plan.scenario
        self._family = family
        self._places = places
        self._certificate = certificate

    def table(self, node: Node, role: str) -> Table:
        match role:
            case "gateway":
                return self._gateway(node)
            case "secretary":
                return self._secretary(node)
            case _:
                return self._agent(node)

    # --- gateways ---------------------------------------------------------------------------------------------------

    def _gateway(self, node: Node) -> Table:
        ends = [cable.end_at(node.name) for cable in self._plan.cables_of(node.name)]
        listen = [host_and_port(end.address(version)) for end in ends for version in (4, 6)]
        return {
            "gateway": {
                "name": node.name,
                "as_number": node.as_number,
                "state_directory": str(self._places.of(node.name, GATEWAY)),
                "engine": self._engine,
                "preference": "ignore" if node.ignores_wishes else "honour",
            },
            "control": {"listen": listen},
            "settlement": {
                "threshold_nanodollars": self._scenario.settlement_threshold_nanodollars,
                "interval_s": self._scenario.statement_interval_s,
                "grace_intervals": GRACE_INTERVALS,
            },
            "links": [self._link(node, end.peer) for end in ends],
            "routes": [*self._routes_to_hosts(node), *self._routes_to_cables(node)],
        }

    def _link(self, node: Node, peer_name: str) -> Table:
        """The link on one cable; behind a legacy neighbour it is the tunnel that leads on."""
        peer = self._scenario.node(peer_name)
        table: Table = {"interface": self._plan.end(node.name, peer_name).interface}
        link = self._plan.cable(node.name, peer_name).link
        if link.rate_bit_s:
            table["rate_bit_s"] = link.rate_bit_s * RATE_SHARE_PPM // 1_000_000
            table |= {"marking": link.marking, "virtual_ppm": link.virtual_ppm, "queueing": link.queueing}
            table |= {"limit_bytes": link.limit_bytes, "virtual_limit_bytes": link.virtual_limit_bytes}
        match peer.kind:
            case NodeKind.HOST:
                table |= {"name": peer_name, "toll": toll_table(node, peer_name), **self._peer_host(peer)}
            case NodeKind.ISP:
                address = self._plan.end(peer_name, node.name).address(self._family)
                table |= {"name": peer_name, "toll": toll_table(node, peer_name)}
                table |= self._peer_gateway(node, peer, address)
            case NodeKind.LEGACY | NodeKind.PLAIN | NodeKind.AGENT:
                tunnel = self._tunnel_by(node.name, peer_name)
                if tunnel is None:
                    table |= {"name": peer_name, "toll": toll_table(node, peer_name), "peer": "legacy"}
                else:
                    table |= self._tunnel(node, other_end(tunnel, node.name))
        return table

    def _peer_host(self, peer: Node) -> Table:
        return {
            "peer": "host",
            "peer_name": peer.name,
            "peer_certificate": self._certificate(peer.name, AGENT),
            "secretary_certificate": self._certificate(peer.name, SECRETARY),
            "peer_addresses": [self._plan.address(peer.name, version) for version in (4, 6)],
        }

    def _peer_gateway(self, node: Node, peer: Node, address: str) -> Table:
        """Of two gateways the one with the lower AS number calls."""
        table: Table = {
            "peer": "gateway",
            "peer_name": peer.name,
            "peer_as": peer.as_number,
            "peer_certificate": self._certificate(peer.name, GATEWAY),
        }
        if node.as_number < peer.as_number:
            table["control_url"] = f"https://{host_and_port(address)}"
        return table

    def _tunnel(self, node: Node, far_name: str) -> Table:
        """Towards a gateway behind legacy networks: the interface is that of the first hop."""
        near = self._plan.end(node.name, self._plan.via(node.name, far_name)).address(self._family)
        far = self._plan.end(far_name, self._plan.via(far_name, node.name)).address(self._family)
        return {
            "name": far_name,
            "toll": toll_table(node, far_name),
            "tunnel_local": near,
            "tunnel_remote": far,
            **self._peer_gateway(node, self._scenario.node(far_name), far),
        }

    def _tunnel_by(self, node: str, via: str) -> Tunnel | None:
        """The tunnel of `node` that leaves by its neighbour `via`."""
        for tunnel in self._scenario.tunnels:
            if node in tunnel.ends and self._plan.via(node, other_end(tunnel, node)) == via:
                return tunnel
        return None

    # --- routes -----------------------------------------------------------------------------------------------------

    def _routes_to_hosts(self, node: Node) -> list[Table]:
        """Each host, by the link that leads there first (it is the kernel's own route), then the other alternatives."""
        routes: list[Table] = []
        for host in self._plan.hosts:
            first = self._plan.via(node.name, host.node)
            offered = [a for a in self._scenario.alternatives if (a.node, a.to) == (node.name, host.node)]
            offered.sort(key=lambda item: item.via != first)
            for version in (4, 6):
                alternatives: list[Table] = [
                    {
                        "number": item.number,
                        "link": self._egress(node.name, item.via),
                        "via": self._plan.end(item.via, node.name).address(version),
                        "title": item.title,
                        **({"delay_ms": int(item.delay_ms)} if item.delay_ms is not None else {}),
                        **({} if item.toll_nanodollars is None else {"toll_nanodollars": item.toll_nanodollars}),
                        "available": item.available,
                    }
                    for item in offered
                ]
                prefix = f"{host.address(version)}/{32 if version == 4 else 128}"
                only: list[Table] = [{"number": 1, "link": self._egress(node.name, first)}]
                default = next((item.number for item in offered if item.default), 0)
                routes.append({"prefix": prefix, "default": default, "alternatives": alternatives or only})
        return routes

    def _routes_to_cables(self, node: Node) -> list[Table]:
        """The networks of other nodes' cables: what passes there is control traffic, which must not wait in a queue
        behind the gateway's back."""
        return [
            {"prefix": route.destination, "alternatives": [{"number": 1, "link": self._egress(node.name, via)}]}
            for cable in self._plan.cables
            for route in self._plan.routes
            if route.node == node.name and route.destination in (cable.network(4), cable.network(6))
            for via in (route.interface.removeprefix("to-"),)
        ]

    def _egress(self, node: str, via: str) -> str:
        """The name of the link by which packets leave for the neighbour `via`."""
        tunnel = self._tunnel_by(node, via) if self._scenario.node(via).kind is NodeKind.LEGACY else None
        return via if tunnel is None else other_end(tunnel, node)

    # --- hosts ------------------------------------------------------------------------------------------------------

    def _secretary(self, node: Node) -> Table:
        rules = [self._rule(rule) for rule in node.rules]
        if rules:
            rules.append(_probes(max(rule.amount_nanodollars for rule in node.rules)))
        return {
            "secretary": {"name": node.name, "state_directory": str(self._places.of(node.name, SECRETARY))},
            "keys": {"store": SEALED_FILE},  # nobody's keyring is for the keys of a lab
            "budget": {"day_nanodollars": DAY_NANODOLLARS},
            "returns": {"share_nanodollars": node.share_nanodollars, "day_nanodollars": DAY_NANODOLLARS},
            "rules": rules,
        }

    def _rule(self, rule: Rule) -> Table:
        return {
            "name": rule.name,
            "protocol": rule.protocol,
            "destination": [self._plan.address(rule.to, version) for version in (4, 6)],
            "ports": [rule.port],
            "strategy": rule.strategy,
            "amount_nanodollars": rule.amount_nanodollars if rule.strategy == "fixed" else 0,
            "willingness_nanodollars": rule.amount_nanodollars,
            "target_bit_s": rule.target_bit_s,
            "grant_nanodollars": rule.sum_nanodollars,
            "rate_nanodollars_per_s": rule.sum_nanodollars,
            "burst_nanodollars": rule.sum_nanodollars,
        }

    def _agent(self, node: Node) -> Table:
        return self._paying_agent(node) if node.kind is NodeKind.HOST else self._reacting_agent(node)

    def _reacting_agent(self, node: Node) -> Table:
        """Counts and paces on its cables, and believes the other agents' counts of marks."""
        ends = [cable.end_at(node.name) for cable in self._plan.cables_of(node.name)]
        return {
            "agent": {
                "name": node.name,
                "state_directory": str(self._places.of(node.name, AGENT)),
                "mode": "act",
                "kinds": "none",
                "measure_rates": False,
            },
            "discovery": {"gateway": False},
            "links": [{"interface": end.interface} for end in ends],
            "peers": self._other_agents(node),
        }

    def _other_agents(self, node: Node) -> list[Table]:
        return [
            {
                "name": other.name,
                "addresses": [self._plan.address(other.name, version) for version in (4, 6)],
                "certificate": self._certificate(other.name, AGENT),
            }
            for other in self._scenario.nodes
            if other.kind is node.kind and other.name != node.name
        ]

    def _paying_agent(self, node: Node) -> Table:
        return {
            "agent": {"name": node.name, "state_directory": str(self._places.of(node.name, AGENT))},
            "secretary": {
                "socket": str(self._places.secretary_socket(node.name)),
                "certificate": self._certificate(node.name, SECRETARY),
            },
            "settlement": {
                "threshold_nanodollars": self._scenario.settlement_threshold_nanodollars,
                "grace_intervals": GRACE_INTERVALS,
            },
            "payments": {"engine": self._engine},
            "paths": {"delay_value_nanodollars_per_ms": node.delay_value_nanodollars_per_ms},
            "uplinks": [
                self._uplink(node, peer)
                for peer in map(self._scenario.node, self._scenario.neighbours(node.name))
                if peer.kind is NodeKind.ISP
            ],
            "peers": self._other_agents(node),
        }

    def _uplink(self, node: Node, gateway: Node) -> Table:
        return {
            "name": gateway.name,
            "interface": self._plan.end(node.name, gateway.name).interface,
            "gateway_name": gateway.name,
            "gateway_as": gateway.as_number,
            "gateway_certificate": self._certificate(gateway.name, GATEWAY),
            "control_url": f"https://{host_and_port(self._plan.end(gateway.name, node.name).address(self._family))}",
        }


def _probes(amount_nanodollars: int) -> Table:
    """Probes carry as much as the traffic, so that they meet the same tolls."""
    return {
        "name": "probes",
        "protocol": "udp",
        "ports": [ECHO_PORT],
        "strategy": "fixed",
        "amount_nanodollars": amount_nanodollars,
        "grant_nanodollars": PROBES_NANODOLLARS,
        "rate_nanodollars_per_s": PROBES_NANODOLLARS,
        "burst_nanodollars": PROBES_NANODOLLARS,
    }


def toll_table(node: Node, towards: str) -> Table:
    """The toll of the link towards a neighbour: its own entry, else that for all links, else none."""
    entries = {toll.towards: toll for toll in node.tolls}
    toll = entries.get(towards) or entries.get("") or Toll()
    table: Table = {
        "fixed_nanodollars_per_packet": toll.fixed_nanodollars,
        "fixed_picodollars_per_byte": toll.fixed_picodollars_per_byte,
        "proportional_ppm": toll.proportional_ppm,
        "congestion": toll.congestion,
    }
    if toll.cap_nanodollars is not None:
        table["cap_nanodollars"] = toll.cap_nanodollars
    return table


def other_end(tunnel: Tunnel, node: str) -> str:
    return tunnel.ends[1 - tunnel.ends.index(node)]


def host_and_port(address: str) -> str:
    """Of a gateway's control API."""
    return f"[{address}]:{CONTROL_PORT}" if ":" in address else f"{address}:{CONTROL_PORT}"


def with_more(table: Table, more: Table) -> Table:
    """Sections are joined key by key, lists of tables one after the other; any other value replaces the one before."""
    joined = dict(table)
    for key, value in more.items():
        before = joined.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            joined[key] = before | value
        elif isinstance(before, list) and isinstance(value, list):
            joined[key] = [*before, *value]
        else:
            joined[key] = value
    return joined


def to_toml(table: Mapping[str, object]) -> str:
    """TOML of nested plain values; strings and keys of ours need no more than JSON's escapes."""
    plain: list[str] = []
    tables: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            tables += [f"[{key}]", *(f"{name} = {_inline(item)}" for name, item in value.items()), ""]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                tables += [f"[[{key}]]", *(f"{name} = {_inline(part)}" for name, part in item.items()), ""]
        else:
            plain.append(f"{key} = {_inline(value)}")
    return "\n".join([*plain, "", *tables])


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_inline(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
