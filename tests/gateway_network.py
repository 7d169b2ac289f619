"""Gateways in memory, wired as in Figure 1 of the Bill-Pay paper: A–X–Y–B, with B–Z–X for the way back.

Each gateway is a real packet core under the fake data plane on a virtual clock.  Between them is a wire that routes by
mark and destination as the kernel would, takes one off the TTL, and writes down what it carried.  Packets are built and
read by scapy, so that the judge of what is on the wire is not the code under test; only the MAC is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

import msgspec
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from billpay import header as h
from billpay.header import Header, Located, Slot
from billpay.mac import compute_mac, epoch_of
from billpay.messages import FlowSelector, Grant, GrantKind
from billpay.packet import FlowKey, decrement_ttl, flow_key
from billpay.tolls import TollSchedule
from dataplane.counters import CounterFile
from dataplane.fake import Delivered, FakeDataPlane
from dataplane.port import OAD_MARK_MASK, OAD_MARK_SHIFT
from gateway.commands import Answer, Command, Done, GrantAnswer, OpenGrant, SetLink
from gateway.datapath import GatewayCore
from gateway.plan import AlternativePlan, GatewayPlan, LinkPlan, Peer, RoutePlan
from gateway.routing import Routes

X, Y, Z = 64512, 64513, 64514
A_V4, B_V4 = "10.0.1.1", "10.0.2.1"
A_V6, B_V6 = "fd00:1::1", "fd00:2::1"
TO_A = ("10.0.1.0/24", "fd00:1::/64")
TO_B = ("10.0.2.0/24", "fd00:2::/64")
KEY = bytes(range(16))
OTHER_KEY = bytes(range(16, 32))
UNIX_S = 1_750_000_000
MS = 1_000_000
FREE = Slot(0, 0, 0)


def never() -> float:
    """A draw that no chance below 1 wins."""
    return 0.999_999


# --- plans -----------------------------------------------------------------------------------------------------------


def to_host(name: str, interface_index: int, **more: Any) -> LinkPlan:
    return LinkPlan(name=name, interface_index=interface_index, peer=Peer.HOST, **more)


def to_gateway(name: str, interface_index: int, peer_as: int, **more: Any) -> LinkPlan:
    return LinkPlan(name=name, interface_index=interface_index, peer=Peer.GATEWAY, peer_as=peer_as, **more)


def to_legacy(name: str, interface_index: int, **more: Any) -> LinkPlan:
    return LinkPlan(name=name, interface_index=interface_index, peer=Peer.LEGACY, **more)


def routes(prefixes: tuple[str, ...], *links: str) -> tuple[RoutePlan, ...]:
    """One route for each prefix; alternatives are numbered 1, 2, … in the order of `links`."""
    alternatives = tuple(AlternativePlan(number=i, link=name) for i, name in enumerate(links, start=1))
    return tuple(RoutePlan(prefix=ip_network(prefix), alternatives=alternatives) for prefix in prefixes)


def fixed(nanodollars: int, **more: Any) -> TollSchedule:
    return TollSchedule(fixed_nanodollars_per_packet=nanodollars, **more)


def plan_x(**more: Any) -> GatewayPlan:
    """X: A is its host; B is behind Y (1) and behind Z (2). Takes 1 nanodollar everywhere."""
    toll = fixed(1)
    links = (
        to_host("toA", 1, toll=toll),
        to_gateway("toY", 2, Y, toll=toll),
        to_gateway("toZ", 3, Z, toll=toll),
    )
    return GatewayPlan(as_number=X, links=links, routes=routes(TO_A, "toA") + routes(TO_B, "toY", "toZ"), **more)


def plan_edge(as_number: int, *, toll: TollSchedule, to_b: dict[str, Any] | None = None) -> GatewayPlan:
    """Y and Z: between X and B."""
    links = (to_gateway("toX", 1, X, toll=toll), to_host("toB", 2, **({"toll": toll} | (to_b or {}))))
    return GatewayPlan(as_number=as_number, links=links, routes=routes(TO_A, "toX") + routes(TO_B, "toB"))


# --- one gateway -----------------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """Where the money of one gateway is, in nanodollars."""

    received: int
    sent: int
    retained: int
    kept: int
    waiting: int


class Gateway:
    """A packet core under the fake data plane."""

    def __init__(
        self, plan: GatewayPlan, *, draw: Callable[[], float] = never, counters: CounterFile | None = None
    ) -> None:
        self.plan = plan
        self.counters = counters or CounterFile.in_memory(capacity=8192)
        self.core = GatewayCore(plan, self.counters, draw)
        self.plane = FakeDataPlane(self.core, self.counters, unix_s=UNIX_S)
        self.routes = Routes(plan.routes)
        self.interfaces = {link.name: link.interface_index for link in plan.links}

    def ask(self, command: Command) -> Answer:
        reply = self.plane.command(msgspec.json.encode(command))
        assert reply is not None
        answer: Answer = msgspec.json.decode(reply, type=Answer)
        return answer

    def agree(self, *links: str) -> None:
        """With the neighbours on these links; without a name with all of them but the legacy ones."""
        for name in links or [link.name for link in self.plan.links if link.peer is not Peer.LEGACY]:
            assert self.ask(SetLink(link=name, agreed=True, in_default=False)) == Done()

    def open(self, link: str, grant: Grant) -> None:
        answer = self.ask(OpenGrant(link=link, grant=grant))
        assert isinstance(answer, GrantAnswer), answer

    def deliver(self, link: str, *packets: bytes) -> list[Delivered]:
        """One batch from the neighbour on `link`; gives what left at once."""
        before = len(self.plane.out)
        self.plane.deliver(*packets, interface_index=self.interfaces[link])
        return self.plane.out[before:]

    def count(self, name: str) -> int:
        return self.counters.committed(name)

    def link_count(self, link: str, name: str) -> int:
        return self.count(f"link/{link}/{name}")

    def total(self, name: str) -> int:
        return sum(self.link_count(link.name, name) for link in self.plan.links)

    def sums(self) -> Sums:
        return Sums(
            received=self.total("received_nanodollars"),
            sent=self.total("sent_nanodollars"),
            retained=self.total("retained_nanodollars"),
            kept=self.total("kept_nanodollars") + self.count("held_kept_nanodollars"),
            waiting=self.count("waiting_nanodollars"),
        )

    def assert_conserved(self) -> None:
        sums = self.sums()
        assert sums.received == sums.sent + sums.retained + sums.kept + sums.waiting, sums

    def egress_of(self, delivered: Delivered) -> str | None:
        """The link by which the kernel would send it: by tunnel address, else by route and mark."""
        payload = delivered.payload
        destination = payload[16:20] if payload[0] >> 4 == 4 else payload[24:40]
        for link in self.plan.links:
            if link.tunnel is not None and link.tunnel[1] == destination:
                return link.name
        route = self.routes.find(destination)
        if route is None:
            return None
        marked = (delivered.mark & OAD_MARK_MASK) >> OAD_MARK_SHIFT
        return route.alternatives[marked - 1 if marked else 0].link


# --- several ---------------------------------------------------------------------------------------------------------


class OnWire(NamedTuple):
    """A packet between two nodes."""

    sender: str
    receiver: str
    payload: bytes


@dataclass(slots=True)
class Network:
    """Gateways by name, and what is plugged in where: (gateway, link) ↔ (gateway, link), or a host's name."""

    gateways: dict[str, Gateway]
    cables: dict[tuple[str, str], tuple[str, str]]
    hosts: dict[tuple[str, str], str]
    arrived: dict[str, list[bytes]] = field(default_factory=dict)
    wire: list[OnWire] = field(default_factory=list)
    _seen: dict[str, int] = field(default_factory=dict)

    def agree(self) -> None:
        for gateway in self.gateways.values():
            gateway.agree()

    def send(self, host: str, packet: bytes, *, via: str) -> None:
        """From a host to its gateway `via`, and on until nothing moves."""
        link = next(link for (gateway, link), name in self.hosts.items() if (gateway, name) == (via, host))
        self.wire.append(OnWire(host, via, packet))
        self.gateways[via].deliver(link, packet)
        self.settle()

    def advance(self, duration_ns: int, *, step_ns: int = MS) -> None:
        """Time passes for all."""
        for _ in range(duration_ns // step_ns):
            for gateway in self.gateways.values():
                gateway.plane.advance(step_ns)
            self.settle()

    def settle(self) -> None:
        """Carries packets until no gateway has anything more to say."""
        moved = True
        while moved:
            moved = False
            for name, gateway in self.gateways.items():
                for delivered in gateway.plane.out[self._seen.get(name, 0) :]:
                    self._seen[name] = self._seen.get(name, 0) + 1
                    self._carry(name, gateway, delivered)
                    moved = True

    def amounts(self, sender: str, receiver: str) -> list[int]:
        """What was in the headers between two nodes."""
        seen = [item.payload for item in self.wire if (item.sender, item.receiver) == (sender, receiver)]
        return [header.amount for header in map(header_of, seen) if header is not None]

    def _carry(self, name: str, gateway: Gateway, delivered: Delivered) -> None:
        link = gateway.egress_of(delivered)
        payload = delivered.payload if delivered.queue is None else decrement_ttl(delivered.payload)
        if link is None or payload is None:
            return
        host = self.hosts.get((name, link))
        if host is not None:
            self.wire.append(OnWire(name, host, payload))
            self.arrived.setdefault(host, []).append(payload)
            return
        receiver, there = self.cables[name, link]
        self.wire.append(OnWire(name, receiver, payload))
        self.gateways[receiver].deliver(there, payload)


def figure_1(*, y: GatewayPlan | None = None, z: GatewayPlan | None = None, x: GatewayPlan | None = None) -> Network:
    """A–X–Y–B and B–Z–X, all agreed."""
    network = Network(
        gateways={
            "X": Gateway(x or plan_x()),
            "Y": Gateway(y or plan_edge(Y, toll=fixed(1))),
            "Z": Gateway(z or plan_edge(Z, toll=fixed(1))),
        },
        cables={
            ("X", "toY"): ("Y", "toX"),
            ("Y", "toX"): ("X", "toY"),
            ("X", "toZ"): ("Z", "toX"),
            ("Z", "toX"): ("X", "toZ"),
        },
        hosts={("X", "toA"): "A", ("Y", "toB"): "B", ("Z", "toB"): "B"},
    )
    network.agree()
    return network


# --- packets ---------------------------------------------------------------------------------------------------------


def plain(
    source: str = A_V4, destination: str = B_V4, *, sport: int = 5004, dport: int = 5004, size: int = 100, **ip: Any
) -> bytes:
    """A UDP packet as the program sent it."""
    network = (
        IP(src=source, dst=destination, **ip) if ip_address(source).version == 4 else _ipv6(source, destination, ip)
    )
    return bytes(network / UDP(sport=sport, dport=dport) / Raw(b"b" * size))


def segment(source: str = A_V4, destination: str = B_V4, *, sport: int = 40000, dport: int = 443) -> bytes:
    """A TCP segment."""
    network = IP(src=source, dst=destination) if ip_address(source).version == 4 else IPv6(src=source, dst=destination)
    return bytes(network / TCP(sport=sport, dport=dport, flags="PA") / Raw(b"t" * 60))


def _ipv6(source: str, destination: str, ip: dict[str, Any]) -> Packet:
    names = {"ttl": "hlim", "tos": "tc"}
    return IPv6(src=source, dst=destination, **{names.get(key, key): value for key, value in ip.items()})


def paying(
    packet: bytes, amount: int, *slots: Slot, key: bytes = KEY, unix_s: int = UNIX_S, flow: FlowKey | None = None
) -> bytes:
    """The packet with a header as a host's agent puts it on the first hop."""
    unsigned = h.encode(Header(amount, 0, slots, bytes(6)))[:-6]
    flow = flow or flow_key(packet)
    assert flow is not None
    return carrying(packet, Header(amount, 0, slots, compute_mac(key, flow, epoch_of(unix_s), unsigned)))


def named(packet: bytes, amount: int, *slots: Slot, by: int, path_length: int = 1) -> bytes:
    """The packet with a header as gateway `by` leaves it."""
    return carrying(packet, Header(amount, path_length, slots, h.last_gateway_field(by)))


def carrying(packet: bytes, header: Header) -> bytes:
    carried = h.insert(packet, h.encode(header), mtu=65535)
    assert isinstance(carried, bytes), carried
    return carried


def header_of(packet: bytes) -> Header | None:
    """The header in a packet; None if it has none."""
    located = h.locate(packet)
    assert located is None or isinstance(located, Located), located
    return None if located is None else h.read(packet, located)


def parsed(packet: bytes) -> Packet:
    """Scapy's view of a packet whose every length and checksum is what scapy would have made it."""
    seen = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    rebuilt = seen.copy()
    for layer in (IP, IPv6, TCP, UDP):
        if layer in rebuilt:
            for computed in ("chksum", "len", "plen", "ihl"):
                if computed in rebuilt[layer].fields:
                    delattr(rebuilt[layer], computed)
    assert bytes(rebuilt) == packet
    return seen


def grant_for(
    packet: bytes | str = A_V4, *, cap: int = 10**9, rate: int = 10**9, burst: int = 10**9, **more: Any
) -> Grant:
    """A grant for the packet's flow, or for everything from an address."""
    if isinstance(packet, str):
        flow = FlowSelector(source=packet)
    else:
        key = flow_key(packet)
        assert key is not None
        flow = FlowSelector(
            source=str(ip_address(key.source)),
            destination=str(ip_address(key.destination)),
            protocol=key.protocol,
            source_port=key.source_port,
            destination_port=key.destination_port,
        )
    given: dict[str, Any] = {
        "grant": "00" * 15 + "01",
        "serial": 1,
        "kind": GrantKind.SPEND,
        "not_before_unix_s": UNIX_S - 60,
        "expires_unix_s": UNIX_S + 600,
        "key": KEY.hex(),
    }
    return Grant(flow=flow, cap_nanodollars=cap, rate_nanodollars_per_s=rate, burst_nanodollars=burst, **(given | more))
