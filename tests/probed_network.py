"""Networks whose paths are known, for whoever probes them: one of namespaces, and one that is only told.

                    r2
   a --- r1 (ECMP) <  > r4 --- r5 (silent) --- b        10.60.n.{1,2} and fd60:n::{1,2} on link n
                    r3

b is 10.60.7.2 and fd60:7::2, balanced by flow, and 10.61.0.1, balanced by packet.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from netns import Namespace

from billpay.errors import LocalProtocolError
from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Transport

LINKS = (("a", "r1"), ("r1", "r2"), ("r1", "r3"), ("r2", "r4"), ("r3", "r4"), ("r4", "r5"), ("r5", "b"))
"""Link n, from 1: the first has .1, the second .2."""

B = {4: "10.60.7.2", 6: "fd60:7::2"}
B_BY_PACKET = "10.61.0.1"
_MILLISECOND = 1_000_000


def address(link: int, side: int, version: int = 4) -> str:
    return f"10.60.{link}.{side}" if version == 4 else f"fd60:{link}::{side}"


def mac(link: int, side: int) -> str:
    return f"02:00:00:00:0{link}:0{side}"


def hops(version: int) -> list[set[str | None]]:
    """What may answer at each TTL; None: nobody does."""
    r1 = address(1, 2, version)
    middle: set[str | None] = {address(2, 2, version), address(3, 2, version)}
    # IPv4 answers from the address towards the asker, IPv6 from the one where the probe came in (RFC 4443 2.2).
    meeting: set[str | None] = {address(4, 2)} if version == 4 else {address(4, 2, 6), address(5, 2, 6)}
    return [{r1}, middle, meeting, {None}, {B[version]}]


class ProbedNetwork:
    def __init__(self) -> None:
        names = ("a", "r1", "r2", "r3", "r4", "r5", "b")
        self.spaces = {name: Namespace() for name in names}
        for number, (left, right) in enumerate(LINKS, 1):
            self[left].run(
                *("ip", "link", "add", f"l{number}", "address", mac(number, 1), "type", "veth"),
                *("peer", "name", f"l{number}", "address", mac(number, 2), "netns", str(self[right].pid)),
            )
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._set_up, names))
            list(pool.map(self._wait_for_links, names))

    def __getitem__(self, name: str) -> Namespace:
        return self.spaces[name]

    def close(self) -> None:
        for space in self.spaces.values():
            space.close()

    def _set_up(self, name: str) -> None:
        space = self[name]
        settings = [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
            "net.ipv4.fib_multipath_hash_policy=1",
            "net.ipv6.fib_multipath_hash_policy=1",
        ]
        space.run("sysctl", "-qw", *settings)
        space.run("ip", "-batch", "-", text="\n".join([*self._links_of(name), *self._routes_of(name)]) + "\n")
        if name == "r5":  # says nothing of itself; what others say passes
            for tables, kind in (("iptables", "icmp"), ("ip6tables", "icmpv6")):
                space.run(tables, "-w", "-A", "OUTPUT", "-p", kind, f"--{kind}-type", "time-exceeded", "-j", "DROP")
        if name == "r1":
            every = ("-m", "statistic", "--mode", "nth", "--every", "2", "--packet", "0")
            to = ("-w", "-t", "mangle", "-A", "PREROUTING", "-d", B_BY_PACKET)
            space.run("iptables", *to, *every, "-j", "MARK", "--set-mark", "1")

    def _wait_for_links(self, name: str) -> None:
        """The kernel notices a little later that the other end is up too; until then it drops what is sent."""
        until_s = time.monotonic() + 10
        while any(line.split()[1] != "UP" for line in self[name].run("ip", "-br", "link").splitlines() if "@" in line):
            assert time.monotonic() < until_s, f"{name}: no carrier"
            time.sleep(0.01)

    def _links_of(self, name: str) -> list[str]:
        commands = ["link set lo up"]
        for number, ends in enumerate(LINKS, 1):
            if name in ends:
                side = ends.index(name) + 1
                commands += [
                    f"link set l{number} up",
                    f"addr add {address(number, side)}/24 dev l{number}",
                    f"addr add {address(number, side, 6)}/64 dev l{number} nodad",
                ]
                other = 3 - side  # permanent neighbours: the first packets wait for nothing
                for version in (4, 6):
                    there = address(number, other, version)
                    commands.append(f"neigh replace {there} lladdr {mac(number, other)} dev l{number} nud permanent")
        return commands

    def _routes_of(self, name: str) -> list[str]:
        """Towards b by default, towards a by the route for link 1; back always through r2."""
        by = {"a": (1, 2), "r2": (4, 2), "r3": (5, 2), "r4": (6, 2), "r5": (7, 2), "b": (7, 1)}
        back = {"r2": (2, 1), "r3": (3, 1), "r4": (4, 1), "r5": (6, 1)}
        commands = []
        if name == "r1":
            for version, anywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
                over = " ".join(f"nexthop via {address(link, 2, version)} dev l{link}" for link in (2, 3))
                commands.append(f"route add {anywhere} {over}")
            commands += [
                f"route add {B_BY_PACKET}/32 via {address(3, 2)}",
                f"route add {B_BY_PACKET}/32 via {address(2, 2)} table 101",
                "rule add fwmark 1 table 101",
            ]
        elif name == "b":
            commands.append(f"addr add {B_BY_PACKET}/32 dev lo")
        for version, anywhere, home in ((4, "0.0.0.0/0", "10.60.1.0/24"), (6, "::/0", "fd60:1::/64")):
            if name in by:
                commands.append(f"route add {anywhere} via {address(*by[name], version)}")
            if name in back:
                commands.append(f"route add {home} via {address(*back[name], version)}")
        return commands


# --- a network that is only told --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """towards: the next nodes; several: balanced by flow, or by packet. None: the destination."""

    towards: tuple[str, ...] = ()
    by_packet: bool = False
    hashes: tuple[Transport, ...] = tuple(Transport)  # what it balances; the rest goes to the first
    is_silent: bool = False
    answers_first: int | None = None  # so many of the probes are answered, no more


class ToldNetwork:
    """A `Prober` on a topology that is written down. The name of a node is its address; it begins at "start"."""

    def __init__(self, nodes: Mapping[str, Node], *, most_packets: int = 5000, lose_every: int = 0) -> None:
        self._nodes = dict(nodes)
        self._most = most_packets
        self._lose_every = lose_every
        self._turns: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self.asked: list[ProbePacket] = []
        self.rounds = 0

    @property
    def sent(self) -> int:
        return len(self.asked)

    async def ask(self, packets: Sequence[ProbePacket], *, wait_ns: int) -> list[Answer | None]:
        if self.sent + len(packets) > self._most:
            raise LocalProtocolError("enough")
        self.rounds += 1
        answers = []
        for packet in packets:
            self.asked.append(packet)
            lost = self._lose_every and self.sent % self._lose_every == 0
            answers.append(None if lost else self._answer(packet, wait_ns))
        return answers

    def path(self, transport: Transport, flow: int) -> list[str]:
        """For tests of what was found."""
        here, way = "start", list[str]()
        while self._nodes[here].towards:
            here = self._next(here, ProbePacket(destination="", transport=transport, ttl=1, flow=flow))
            way.append(here)
        return way

    def _next(self, here: str, packet: ProbePacket) -> str:
        node = self._nodes[here]
        if len(node.towards) == 1 or packet.transport not in node.hashes:
            return node.towards[0]
        if node.by_packet:
            turn = self._turns[here] = self._turns.get(here, -1) + 1
            return node.towards[turn % len(node.towards)]
        digest = hashlib.sha256(f"{here} {packet.flow}".encode()).digest()
        return node.towards[digest[0] % len(node.towards)]

    def _answer(self, packet: ProbePacket, wait_ns: int) -> Answer | None:
        here, ttl, far = "start", packet.ttl, 0
        while ttl and self._nodes[here].towards:
            here, ttl, far = self._next(here, packet), ttl - 1, far + 1
        node = self._nodes[here]
        count = self._answered[here] = self._answered.get(here, 0) + 1
        if node.is_silent or (node.answers_first is not None and count > node.answers_first):
            return None
        round_trip_ns = far * _MILLISECOND
        if round_trip_ns > wait_ns:
            return None
        traffic_class = packet.dscp << 2 | packet.ecn
        if node.towards:
            return Answer(
                kind=AnswerKind.TIME_EXCEEDED,
                address=here,
                round_trip_ns=round_trip_ns,
                ttl=64 - far,
                quoted_ttl=1,
                quoted_traffic_class=traffic_class,
            )
        if packet.transport is Transport.UDP:
            code = 4 if ":" in packet.destination else 3
            return Answer(
                kind=AnswerKind.UNREACHABLE,
                address=here,
                round_trip_ns=round_trip_ns,
                code=code,
                quoted_ttl=ttl + 1,
                quoted_traffic_class=traffic_class,
            )
        return Answer(kind=AnswerKind.REPLY, address=here, round_trip_ns=round_trip_ns)
