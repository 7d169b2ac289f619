"""The gateways that the engines are compared as: what each is for stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from billpay.tolls import TollSchedule
from gateway.plan import (
    AlternativePlan,
    Ceiling,
    GatewayPlan,
    HostRole,
    LinkPlan,
    MarkingRule,
    Peer,
    Queueing,
    RoutePlan,
)

X, Y, Z, W = 64512, 64513, 64514, 64515
NO_LIMIT_BYTES = 1 << 30
"""Of a real queue: nothing ever waits for room, so that what is compared is decided at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayWorld:
    """`hosts`: packed addresses of those behind each host link. `remote`: addresses that packets go to or come from.
    `offloaded`: some packets are segment-offloaded; then no link may want a header stripped.
    """

    name: str
    plan: GatewayPlan
    hosts: dict[str, tuple[bytes, ...]]
    remote: tuple[bytes, ...]
    agreed: tuple[str, ...]
    offloaded: bool = False
    settled: bool = False  # links stay agreed and not in default


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(ip_address(address).packed for address in addresses)


def toll(fixed: int = 0, per_byte: int = 0, ppm: int = 0, cap: int | None = None) -> TollSchedule:
    return TollSchedule(
        fixed_nanodollars_per_packet=fixed,
        fixed_picodollars_per_byte=per_byte,
        proportional_ppm=ppm,
        cap_nanodollars=cap,
    )


def host(name: str, number: int, **more: Any) -> LinkPlan:
    return LinkPlan(name=name, interface_index=number, peer=Peer.HOST, **more)


def gateway(name: str, number: int, peer_as: int, **more: Any) -> LinkPlan:
    return LinkPlan(name=name, interface_index=number, peer=Peer.GATEWAY, peer_as=peer_as, **more)


def legacy(name: str, number: int, **more: Any) -> LinkPlan:
    return LinkPlan(name=name, interface_index=number, peer=Peer.LEGACY, **more)


def route(prefix: str, *ways: tuple[int, str], default: int = 0, gone: tuple[int, ...] = ()) -> RoutePlan:
    alternatives = tuple(AlternativePlan(number=n, link=link, available=n not in gone) for n, link in ways)
    return RoutePlan(prefix=ip_network(prefix), alternatives=alternatives, default=default)


def both(v4: str, v6: str, *ways: tuple[int, str], **more: Any) -> tuple[RoutePlan, ...]:
    return route(v4, *ways, **more), route(v6, *ways, **more)


HOSTS = {
    "toA": packed("10.0.1.1", "10.0.1.2", "fd00:1::1", "fd00:1::2"),
    "toM": packed("10.0.5.1", "fd00:5::1"),
    "toN": packed("10.0.6.1", "fd00:6::1"),
    "toC": packed("10.0.7.1", "fd00:7::1"),
}
REMOTE = packed(
    "10.0.2.1", "10.0.2.129", "10.0.2.200", "10.0.3.1", "10.0.4.4", "192.0.2.9",
    "fd00:2::1", "fd00:2::8001", "fd00:3::1", "fd00:4::4", "2001:db8::9",
)  # fmt: skip


def home_routes(*links: str) -> tuple[RoutePlan, ...]:
    networks = {"toA": 1, "toM": 5, "toN": 6, "toC": 7}
    found: tuple[RoutePlan, ...] = ()
    for link in links:
        number = networks[link]
        found += both(f"10.0.{number}.0/24", f"fd00:{number}::/64", (1, link))
    return found


WAYS_OUT = (
    *both("10.0.2.0/24", "fd00:2::/64", (1, "toY"), (2, "toZ"), (3, "out")),
    *both("10.0.2.128/25", "fd00:2::8000/113", (7, "toZ"), (2, "toY"), (11, "out"), default=2),
    *both("10.0.2.200/32", "fd00:2::8001/128", (4, "out"), (5, "toZ"), (6, "toY"), gone=(4,)),
    *both("10.0.3.0/24", "fd00:3::/48", (1, "out")),
    *both("10.0.0.0/16", "fd00::/16", (1, "toZ"), (2, "toY")),
)


def first() -> GatewayWorld:
    """The first gateway of hosts of every role, with alternatives towards the rest of the world."""
    links = (
        host("toA", 1, toll=toll(1)),
        host("toM", 2, toll=toll(2, 3), role=HostRole.MIRROR),
        host("toN", 3, role=HostRole.NEVER),
        host(
            "toC",
            4,
            toll=toll(0, 0, 10_000),
            max_amount_nanodollars=50_000,
            ceiling=Ceiling(packet_nanodollars=900, grant_nanodollars=2_000_000, grant_nanodollars_per_s=400_000),
        ),
        gateway("toY", 5, Y, toll=toll(1, 7, 33_333, 12)),
        gateway("toZ", 6, Z, toll=toll(0, 333)),
        legacy("out", 7, toll=toll(5, 1)),
    )
    plan = GatewayPlan(as_number=X, links=links, routes=home_routes("toA", "toM", "toN", "toC") + WAYS_OUT)
    return GatewayWorld(name="first", plan=plan, hosts=HOSTS, remote=REMOTE, agreed=("toA", "toM", "toC", "toY", "toZ"))


def transit() -> GatewayWorld:
    """Between gateways, one of which has no name; whoever asks for an alternative is not heard."""
    links = (
        gateway("toW", 1, W, toll=toll(3, 1, 500_000)),
        gateway("toY", 5, Y, toll=toll(0, 0, 1_000_000)),
        gateway("toZ", 6, Z, toll=toll(10**6, 0, 0, 40), max_amount_nanodollars=0xFFFFFF),
        gateway("nameless", 7, 0, toll=toll(1)),
    )
    ways = (
        *both("10.0.2.0/24", "fd00:2::/64", (1, "toY"), (2, "toZ")),
        *both("10.0.1.0/24", "fd00:1::/64", (1, "toW"), (2, "nameless")),
        *both("10.0.3.0/24", "fd00:3::/64", (3, "nameless"), (1, "toZ"), default=1),
        *both("0.0.0.0/0", "::/0", (9, "toZ"), (10, "toW")),
    )
    plan = GatewayPlan(as_number=X, links=links, routes=ways, honours_preferences=False)
    return GatewayWorld(
        name="transit",
        plan=plan,
        hosts={},
        remote=REMOTE + HOSTS["toA"],
        agreed=("toW", "toY", "toZ", "nameless"),
    )


def edge() -> GatewayWorld:
    """The last one: to hosts, and to a neighbour that knows nothing of payments."""
    links = (
        gateway("toY", 5, Y, toll=toll(1)),
        host("toA", 1, toll=toll(0, 999, 0, 3)),
        host("toM", 2, role=HostRole.MIRROR, toll=toll(7)),
        legacy("out", 7, toll=toll(2, 0, 250_000)),
    )
    ways = (
        *home_routes("toA", "toM"),
        *both("10.0.2.0/24", "fd00:2::/64", (1, "toY")),
        *both("10.0.3.0/24", "fd00:3::/64", (1, "out"), (2, "toY")),
        *both("192.0.2.0/24", "2001:db8::/32", (1, "out")),
    )
    plan = GatewayPlan(as_number=X, links=links, routes=ways)
    hosts = {name: HOSTS[name] for name in ("toA", "toM")}
    return GatewayWorld(name="edge", plan=plan, hosts=hosts, remote=REMOTE, agreed=("toY", "toA", "toM"))


def congested() -> GatewayWorld:
    """Links with a rate: prices that move, packets dropped for paying less, congestion marks."""
    busy: dict[str, Any] = {"limit_bytes": NO_LIMIT_BYTES, "congestion": True}
    marking: dict[str, Any] = {"marking": MarkingRule.VIRTUAL_QUEUE, "virtual_limit_bytes": 20_000}
    links = (
        host("toA", 1, toll=toll(1, 0, 0, 100), rate_bit_s=1_000_000, **busy, **marking),
        gateway("toY", 5, Y, toll=toll(1, 7, 33_333, 300), rate_bit_s=800_000, **busy, **marking),
        gateway("toZ", 6, Z, toll=toll(0, 0, 0, 100), rate_bit_s=400_000, **busy, queueing=Queueing.FIFO),
        legacy(
            "out",
            7,
            rate_bit_s=2_000_000,
            limit_bytes=NO_LIMIT_BYTES,
            overhead_bytes=38,
            virtual_ppm=500_000,
            **marking,
        ),
    )
    plan = GatewayPlan(as_number=X, links=links, routes=home_routes("toA") + WAYS_OUT)
    hosts = {"toA": HOSTS["toA"]}
    return GatewayWorld(name="congested", plan=plan, hosts=hosts, remote=REMOTE, agreed=("toA", "toY", "toZ"))


def offloaded() -> GatewayWorld:
    """Segment-offloaded packets; every neighbour takes headers, because what is offloaded cannot be stripped here."""
    busy: dict[str, Any] = {"limit_bytes": NO_LIMIT_BYTES, "congestion": True, "rate_bit_s": 8_000_000}
    links = (
        host("toA", 1, toll=toll(1, 3)),
        host("toM", 2, toll=toll(3, 7, 12_345), role=HostRole.MIRROR),
        gateway("toY", 5, Y, toll=toll(1, 7, 33_333, 12)),
        gateway("toZ", 6, Z, toll=toll(1, 1, 0, 2_000), **busy, marking=MarkingRule.VIRTUAL_QUEUE,
                virtual_limit_bytes=40_000),
    )  # fmt: skip
    ways = (
        *home_routes("toA", "toM"),
        *both("10.0.2.0/24", "fd00:2::/64", (1, "toY"), (2, "toZ")),
        *both("10.0.0.0/16", "fd00::/16", (1, "toZ")),
    )
    plan = GatewayPlan(as_number=X, links=links, routes=ways)
    hosts = {name: HOSTS[name] for name in ("toA", "toM")}
    return GatewayWorld(
        name="offloaded",
        plan=plan,
        hosts=hosts,
        remote=REMOTE,
        agreed=("toA", "toM", "toY", "toZ"),
        offloaded=True,
        settled=True,
    )


GATEWAY_WORLDS: dict[str, Callable[[], GatewayWorld]] = {
    "first": first,
    "transit": transit,
    "edge": edge,
    "congested": congested,
    "offloaded": offloaded,
}
