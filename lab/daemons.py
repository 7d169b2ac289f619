"""The real daemons of a scenario: configured, started in their namespaces, killed and restarted by its steps, asked for
their books, ended.

Decides: what a scenario's words mean in the daemons' own configuration files.  Everything goes through files, command
lines and sockets, as on real machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from billpay.errors import EnvironmentFault
from gateway.admin import GatewayStatus, read_status
from hostagent.api import Snapshot
from hostagent.client import LocalClient, Unreachable
from lab.books import LinkCount, LossLine, NodeBooks, SettlementLine
from lab.namespaces import Network, end_process
from lab.plan import Plan
from lab.topology import Node, NodeKind, Toll
from neighbour.identity import NodeIdentity

START_S = 30.0
STOP_S = 8.0
POLL_S = 0.05
CONTROL_PORT = 7414
ECHO_PORT = 7416
RATE_SHARE = 0.95  # a gateway's own queue is a little slower than the wire behind it, so that it is the bottleneck
DAY_NANODOLLARS = 10**12

Progress = Callable[[str], None]
Table = Mapping[str, object]


@dataclass(slots=True)
class Daemon:
    """One process of the product."""

    node: str
    role: str  # "gateway", "secretary", "agent"
    arguments: list[str]
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = field(default=None, repr=False)

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.role}.log"

    def last_words(self) -> str:
        """The last line of its log: mostly why it did not start."""
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1] if lines else "it said nothing"
        return "it has no log"


class Daemons:
    """All daemons of a network. `close()` ends them in order and waits."""

    def __init__(self, network: Network, *, family: int, directory: Path, progress: Progress) -> None:
        self._network = network
        self._plan: Plan = network.plan
        self._family = family
        self._directory = directory
        self._progress = progress
        self._daemons: dict[tuple[str, str], Daemon] = {}
        self._last_books: dict[str, NodeBooks] = {}

    # --- start, faults, end -----------------------------------------------------------------------------------------

    def start(self, check: Callable[[], None]) -> None:
        """Returns when every daemon answers and every neighbour has agreed. Raises EnvironmentFault naming the one that
        does not."""
        self._write_configurations()
        started = len(self._daemons)
        self._progress(f"starting {started} daemons")
        for daemon in self._daemons.values():
            self._spawn(daemon)
        deadline_s = time.monotonic() + START_S
        for daemon in self._daemons.values():
            self._await_ready(daemon, deadline_s, check)

    def kill(self, node: str, signal_name: str) -> None:
        """To the main process of the node's gateway or agent, as the scenario says."""
        process = self._main(node).process
        assert process is not None
        process.send_signal(signal.SIGKILL if signal_name == "KILL" else signal.SIGSTOP)
        if signal_name == "KILL":
            process.wait()

    def restart(self, node: str) -> None:
        daemon = self._main(node)
        if daemon.process is not None:
            end_process(daemon.process, patience_s=0.0)
        self._spawn(daemon)

    def await_ready(self, node: str) -> None:
        """After a restart."""
        self._await_ready(self._main(node), time.monotonic() + START_S, lambda: None)

    def main_pid(self, node: str) -> int:
        process = self._main(node).process
        assert process is not None
        return process.pid

    def socket_of(self, node: str) -> Path:
        """The local API of a host's agent."""
        return self._directory / node / "agent" / "hostagent.sock"

    def admin_of(self, node: str) -> Path:
        return self._directory / node / "gateway" / "admin.sock"

    def close(self) -> None:
        """SIGTERM to all, then a little patience, then SIGKILL; agents before gateways, so that they can close
        grants.
        """
        for roles in (("agent",), ("secretary", "gateway")):
            chosen = [d for d in self._daemons.values() if d.role in roles and d.process is not None]
            for daemon in chosen:
                assert daemon.process is not None
                with contextlib.suppress(ProcessLookupError):
                    daemon.process.send_signal(signal.SIGCONT)
                    daemon.process.terminate()
            deadline_s = time.monotonic() + STOP_S
            for daemon in chosen:
                assert daemon.process is not None
                end_process(daemon.process, patience_s=max(0.01, deadline_s - time.monotonic()))
                if daemon.log is not None:
                    daemon.log.close()

    def _main(self, node: str) -> Daemon:
        return self._daemons.get((node, "gateway")) or self._daemons[node, "agent"]

    def _spawn(self, daemon: Daemon) -> None:
        if daemon.log is None:
            daemon.log = daemon.log_path.open("ab")
        daemon.process = self._network[daemon.node].start(
            [sys.executable, "-m", "cli.main", *daemon.arguments], stdout=daemon.log, stderr=daemon.log
        )

    def _await_ready(self, daemon: Daemon, deadline_s: float, check: Callable[[], None]) -> None:
        while True:
            check()
            assert daemon.process is not None
            if daemon.process.poll() is not None:
                raise EnvironmentFault(
                    "start", f"{daemon.role} of {daemon.node}", daemon.last_words(), f"see {daemon.log_path}"
                )
            waits_for = self._not_ready(daemon)
            if not waits_for:
                return
            if time.monotonic() > deadline_s:
                raise EnvironmentFault(
                    "start", f"{daemon.role} of {daemon.node}", f"not ready after {START_S:.0f} s: {waits_for}"
                )
            time.sleep(POLL_S)

    def _not_ready(self, daemon: Daemon) -> str:
        """What is still missing; "" when it is ready."""
        if daemon.role == "secretary":
            return "" if (daemon.directory / "secretary.sock").exists() else "no socket yet"
        if daemon.role == "gateway":
            try:
                status = asyncio.run(read_status(self.admin_of(daemon.node)))
            except EnvironmentFault as fault:
                return str(fault)
            waiting = [link.name for link in status.links if "agreed" not in link.state and "legacy" not in link.state]
            return f"no agreement with {', '.join(waiting)}" if waiting else ""
        try:
            snapshot = asyncio.run(_ask(self.socket_of(daemon.node)))
        except Unreachable as error:
            return str(error)
        waiting = [link.neighbour for link in snapshot.accounts.links if link.state != "agreed"]
        return f"no agreement with {', '.join(waiting)}" if waiting else ""

    # --- configuration ----------------------------------------------------------------------------------------------

    def _write_configurations(self) -> None:
        identities: dict[tuple[str, str], NodeIdentity] = {}
        for node in self._plan.scenario.nodes:
            for role in _roles(node):
                directory = self._directory / node.name / role
                identities[node.name, role] = NodeIdentity.load_or_create(directory, name=node.name)
        for node in self._plan.scenario.nodes:
            for role in _roles(node):
                directory = self._directory / node.name / role
                table = self._table(node, role, identities)
                path = directory / f"{role}.toml"
                path.write_text(to_toml(table), encoding="utf-8")
                verb = {"gateway": ["gateway", "run"], "secretary": ["secretary", "run"], "agent": ["up"]}[role]
                self._daemons[node.name, role] = Daemon(node.name, role, [*verb, "--config", str(path)], directory)

    def _table(self, node: Node, role: str, identities: Mapping[tuple[str, str], NodeIdentity]) -> Table:
        match role:
            case "gateway":
                return self._gateway_table(node, identities)
            case "secretary":
                return self._secretary_table(node)
            case _:
                return self._agent_table(node, identities)

    def _gateway_table(self, node: Node, identities: Mapping[tuple[str, str], NodeIdentity]) -> Table:
        scenario = self._plan.scenario
        listen = [
            f"[{end.ipv6}]:{CONTROL_PORT}" if version == 6 else f"{end.ipv4}:{CONTROL_PORT}"
            for cable in self._plan.cables_of(node.name)
            for end in (cable.end_at(node.name),)
            for version in (4, 6)
        ]
        return {
            "gateway": {
                "name": node.name,
                "as_number": node.as_number,
                "state_directory": str(self._directory / node.name / "gateway"),
                "preference": "ignore" if node.ignores_wishes else "honour",
            },
            "control": {"listen": listen},
            "settlement": {
                "threshold_nanodollars": scenario.settlement_threshold_nanodollars,
                "interval_s": scenario.statement_interval_s,
                "grace_intervals": 10,
            },
            "links": [
                self._link_table(node, cable.end_at(node.name).peer, identities)
                for cable in self._plan.cables_of(node.name)
            ]
            + [
                self._tunnel_table(node, other, identities)
                for tunnel in scenario.tunnels
                if node.name in tunnel.ends
                for other in tunnel.ends
                if other != node.name
            ],
            "routes": self._routes_table(node),
        }

    def _link_table(self, node: Node, peer_name: str, identities: Mapping[tuple[str, str], NodeIdentity]) -> Table:
        end = self._plan.end(node.name, peer_name)
        peer = self._plan.scenario.node(peer_name)
        table: dict[str, object] = {"name": peer_name, "interface": end.interface, "toll": _toll(node, peer_name)}
        rate_bit_s = self._plan.cable(node.name, peer_name).link.rate_bit_s
        if rate_bit_s:
            table["rate_bit_s"] = int(rate_bit_s * RATE_SHARE)
        match peer.kind:
            case NodeKind.HOST:
                addresses = [self._plan.address(peer_name, 4), self._plan.address(peer_name, 6)]
                table |= {
                    "peer": "host",
                    "peer_name": peer_name,
                    "peer_certificate": str(identities[peer_name, "agent"].certificate_path),
                    "secretary_certificate": str(identities[peer_name, "secretary"].certificate_path),
                    "peer_addresses": addresses,
                }
            case NodeKind.ISP:
                table |= self._peer_gateway(node, peer, self._plan.end(peer_name, node.name).address(self._family))
                table["peer_certificate"] = str(identities[peer_name, "gateway"].certificate_path)
            case _:
                table["peer"] = "legacy"
        return table

    def _peer_gateway(self, node: Node, peer: Node, address: str) -> dict[str, object]:
        table: dict[str, object] = {"peer": "gateway", "peer_name": peer.name, "peer_as": peer.as_number}
        if node.as_number < peer.as_number:
            table["control_url"] = control_url(address)
        return table

    def _tunnel_table(self, node: Node, other: str, identities: Mapping[tuple[str, str], NodeIdentity]) -> Table:
        """Towards a gateway behind legacy networks: the interface is that of the first hop."""
        peer = self._plan.scenario.node(other)
        hop = self._plan.via(node.name, other)
        back = self._plan.via(other, node.name)
        local = self._plan.end(node.name, hop).address(self._family)
        remote = self._plan.end(other, back).address(self._family)
        return {
            "name": other,
            "interface": self._plan.end(node.name, hop).interface,
            "toll": _toll(node, other),
            "peer_certificate": str(identities[other, "gateway"].certificate_path),
            "tunnel_local": local,
            "tunnel_remote": remote,
            **self._peer_gateway(node, peer, remote),
        }

    def _routes_table(self, node: Node) -> list[Table]:
        """A route to each host, by the link that leads there; alternatives where the scenario gives them."""
        routes: list[Table] = []
        for host in self._plan.hosts:
            offered = [a for a in self._plan.scenario.alternatives if (a.node, a.to) == (node.name, host.node)]
            first = self._plan.via(node.name, host.node)
            for version in (4, 6):
                prefix = f"{host.address(version)}/{32 if version == 4 else 128}"
                alternatives: list[Table] = [
                    {
                        "number": item.number,
                        "link": self._egress(node.name, host.node, item.via),
                        "via": self._plan.end(item.via, node.name).address(version),
                        "title": item.title,
                        **({"delay_ms": int(item.delay_ms)} if item.delay_ms is not None else {}),
                    }
                    for item in offered
                ] or [{"number": 1, "link": self._egress(node.name, host.node, first)}]
                alternatives.sort(key=lambda item: item["link"] != first)
                routes.append({"prefix": prefix, "alternatives": alternatives})
        return routes

    def _egress(self, node: str, host: str, via: str) -> str:
        """The link's name: that of the far gateway where a tunnel leads on behind `via`."""
        for tunnel in self._plan.scenario.tunnels:
            if node in tunnel.ends:
                other = tunnel.ends[1 - tunnel.ends.index(node)]
                if self._plan.via(node, other) == via and self._plan.passes(node, host, other):
                    return other
        return via

    def _secretary_table(self, node: Node) -> Table:
        directory = self._directory / node.name / "secretary"
        rules: list[Table] = []
        for rule in node.rules:
            destination = [self._plan.address(rule.to, 4), self._plan.address(rule.to, 6)]
            rules.append(
                {
                    "name": rule.name,
                    "protocol": rule.protocol,
                    "destination": destination,
                    "ports": [rule.port],
                    "strategy": rule.strategy,
                    "amount_nanodollars": rule.amount_nanodollars if rule.strategy == "fixed" else 0,
                    "willingness_nanodollars": rule.amount_nanodollars,
                    "target_bit_s": rule.target_bit_s,
                    "grant_nanodollars": rule.sum_nanodollars,
                    "rate_nanodollars_per_s": rule.sum_nanodollars,
                    "burst_nanodollars": rule.sum_nanodollars,
                }
            )
        if rules:
            most = max(rule.amount_nanodollars for rule in node.rules)
            rules.append(
                {
                    "name": "probes",
                    "protocol": "udp",
                    "ports": [ECHO_PORT],
                    "strategy": "fixed",
                    "amount_nanodollars": most,
                    "grant_nanodollars": 1_000_000,
                    "rate_nanodollars_per_s": 1_000_000,
                    "burst_nanodollars": 1_000_000,
                }
            )
        return {
            "secretary": {"name": node.name, "state_directory": str(directory)},
            "budget": {"day_nanodollars": DAY_NANODOLLARS},
            "returns": {"share_nanodollars": node.share_nanodollars, "day_nanodollars": DAY_NANODOLLARS},
            "rules": rules,
        }

    def _agent_table(self, node: Node, identities: Mapping[tuple[str, str], NodeIdentity]) -> Table:
        scenario = self._plan.scenario
        secretary = self._directory / node.name / "secretary"
        uplinks: list[Table] = []
        for cable in self._plan.cables_of(node.name):
            peer = scenario.node(cable.end_at(node.name).peer)
            if peer.kind is NodeKind.ISP:
                uplinks.append(
                    {
                        "name": peer.name,
                        "interface": cable.end_at(node.name).interface,
                        "gateway_name": peer.name,
                        "gateway_as": peer.as_number,
                        "gateway_certificate": str(identities[peer.name, "gateway"].certificate_path),
                        "control_url": control_url(cable.end_at(peer.name).address(self._family)),
                    }
                )
        return {
            "agent": {"name": node.name, "state_directory": str(self._directory / node.name / "agent")},
            "secretary": {
                "socket": str(secretary / "secretary.sock"),
                "certificate": str(identities[node.name, "secretary"].certificate_path),
            },
            "settlement": {"threshold_nanodollars": scenario.settlement_threshold_nanodollars, "grace_intervals": 10},
            "uplinks": uplinks,
            "peers": [
                {
                    "name": other.name,
                    "addresses": [self._plan.address(other.name, 4), self._plan.address(other.name, 6)],
                    "certificate": str(identities[other.name, "agent"].certificate_path),
                }
                for other in scenario.nodes
                if other.kind is NodeKind.HOST and other.name != node.name
            ],
        }

    # --- books ------------------------------------------------------------------------------------------------------

    def books(self) -> dict[str, NodeBooks]:
        """What every node says now; a node that does not answer keeps what it said last."""
        return asyncio.run(self._all_books())

    async def _all_books(self) -> dict[str, NodeBooks]:
        for node, role in self._daemons:
            try:
                if role == "gateway":
                    self._last_books[node] = gateway_books(node, await read_status(self.admin_of(node)))
                elif role == "agent":
                    self._last_books[node] = host_books(node, await _ask(self.socket_of(node)))
            except (EnvironmentFault, Unreachable):
                continue
        return dict(self._last_books)


async def _ask(socket: Path) -> Snapshot:
    async with LocalClient(socket) as client:
        return await client.snapshot()


def gateway_books(node: str, status: GatewayStatus) -> NodeBooks:
    links = [link for link in status.links if "legacy" not in link.state]
    return NodeBooks(
        node=node,
        links=tuple(
            LinkCount(
                node=node,
                peer=link.neighbour,
                sent_nanodollars=link.sent_nanodollars,
                received_nanodollars=link.received_nanodollars,
                sent_packets=link.sent_packets,
                received_packets=link.received_packets,
            )
            for link in links
        ),
        retained_nanodollars=sum(link.retained_nanodollars for link in status.links),
        kept_nanodollars=sum(link.kept_nanodollars for link in status.links) + status.held_kept_nanodollars,
        losses=tuple(
            _loss(node, link.neighbour, line.direction, line.interval, line.nanodollars, line.kind)
            for link in links
            for line in link.losses
        ),
        settlements=tuple(
            _settlement(node, link.neighbour, line.debtor, line.number, line.amount_nanodollars, line.reason)
            for link in links
            for line in link.settlements
        ),
        statements_agree=all(link.agrees for link in links),
    )


def host_books(node: str, snapshot: Snapshot) -> NodeBooks:
    accounts = snapshot.accounts
    names = {link.interface.removeprefix("to-"): link.neighbour for link in accounts.links}
    return NodeBooks(
        node=node,
        links=tuple(
            LinkCount(
                node=node,
                peer=link.neighbour,
                sent_nanodollars=link.sent_nanodollars,
                received_nanodollars=link.received_nanodollars,
                sent_packets=link.sent_packets,
                received_packets=link.received_packets,
            )
            for link in accounts.links
        ),
        retained_nanodollars=accounts.share_nanodollars,
        kept_nanodollars=accounts.kept_nanodollars,
        in_hand_nanodollars=accounts.in_hand_nanodollars,
        losses=tuple(
            _loss(node, names.get(line.link, line.link), line.direction, line.interval, line.nanodollars, line.kind)
            for line in accounts.losses
        ),
        settlements=tuple(
            _settlement(node, line.link, line.debtor, line.number, line.nanodollars, line.reason)
            for line in accounts.settlements
        ),
        statements_agree=all(link.agrees for link in accounts.links),
    )


def _loss(node: str, peer: str, direction: str, interval: int, nanodollars: int, kind: str) -> LossLine:
    sender, receiver = (node, peer) if direction == "out" else (peer, node)
    return LossLine(sender=sender, receiver=receiver, interval=interval, nanodollars=nanodollars, kind=kind)


def _settlement(node: str, peer: str, debtor: str, number: int, nanodollars: int, reason: str) -> SettlementLine:
    payer, payee = (node, peer) if debtor == "us" else (peer, node)
    return SettlementLine(debtor=payer, creditor=payee, number=number, nanodollars=nanodollars, reason=reason)


def control_url(address: str) -> str:
    return f"https://[{address}]:{CONTROL_PORT}" if ":" in address else f"https://{address}:{CONTROL_PORT}"


def _roles(node: Node) -> tuple[str, ...]:
    return {NodeKind.HOST: ("secretary", "agent"), NodeKind.ISP: ("gateway",)}.get(node.kind, ())


def _toll(node: Node, towards: str) -> Table:
    toll = next((toll for toll in node.tolls if toll.towards == towards), None)
    toll = toll or next((toll for toll in node.tolls if not toll.towards), Toll())
    table: dict[str, object] = {
        "fixed_nanodollars_per_packet": toll.fixed_nanodollars,
        "fixed_picodollars_per_byte": toll.fixed_picodollars_per_byte,
        "proportional_ppm": toll.proportional_ppm,
        "congestion": toll.congestion,
    }
    if toll.cap_nanodollars is not None:
        table["cap_nanodollars"] = toll.cap_nanodollars
    return table


def to_toml(table: Table) -> str:
    """TOML of nested plain values; strings and keys of ours need no more than JSON's escapes."""
    lines: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += [f"[{key}]", *(f"{name} = {_inline(item)}" for name, item in value.items()), ""]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                lines += [f"[[{key}]]", *(f"{name} = {_inline(part)}" for name, part in item.items()), ""]
        else:
            lines.insert(0, f"{key} = {_inline(value)}")
    return "\n".join(lines) + "\n"


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_inline(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
