"""What a gateway is, as values: its links, and the alternatives by which it reaches each destination.

Made once from the configuration with the interfaces' indexes filled in; the packet core and the daemon read it. Pure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from billpay.tolls import DEFAULT_TARGET_UTILISATION_PPM, TollSchedule

NO_TOLL = TollSchedule()


class Peer(enum.Enum):
    """Who is at the other end of a link."""

    HOST = "host"  # we are its first gateway: MACs are checked here
    GATEWAY = "gateway"  # it names itself in the packets that it processed
    LEGACY = "legacy"  # knows nothing of payments: headers are stripped


class MarkingRule(enum.Enum):
    """Which rule of `billpay.marking` sets CE at an egress."""

    NONE = "none"
    VIRTUAL_QUEUE = "virtual-queue"
    VIRTUAL_RED = "virtual-red"
    AVQ = "avq"
    REM = "rem"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """One link. `rate_bit_s` 0: the egress has no queue of ours and nothing is ever congested."""

    name: str
    interface_index: int
    peer: Peer
    peer_as: int = 0
    max_amount_nanodollars: int = 1_000_000
    toll: TollSchedule = NO_TOLL
    congestion: bool = False
    target_utilisation_ppm: int = DEFAULT_TARGET_UTILISATION_PPM
    rate_bit_s: int = 0
    limit_bytes: int = 0
    overhead_bytes: int = 14
    marking: MarkingRule = MarkingRule.NONE
    tunnel: tuple[bytes, bytes] | None = None  # our and the neighbour's packed addresses
    tunnel_mtu_bytes: int = 1500  # what the network between us takes whole


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativePlan:
    """`number` 1..11 is what hosts see; the first alternative of a route is the kernel's own route."""

    number: int
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    prefix: IPv4Network | IPv6Network
    alternatives: tuple[AlternativePlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    as_number: int
    links: tuple[LinkPlan, ...]
    routes: tuple[RoutePlan, ...]
    honours_preferences: bool = True  # BP-26: an ISP is free to ignore what users ask for
