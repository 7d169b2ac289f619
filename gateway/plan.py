"""What a gateway is, as values: its links, and the alternatives by which it reaches each destination.

Made once from the configuration with the interfaces' indexes filled in; the packet core and the daemon read it. Pure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

import msgspec

from billpay.messages import Grant
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


class Queueing(enum.Enum):
    """Who leaves first where packets wait."""

    FAIR = "fair"  # by what they pay, then flow by flow (`scheduler`)
    FIFO = "fifo"  # as they came, whoever they are: every difference is then made by the hosts


class HostRole(enum.Enum):
    """What a host may do with money, whatever its secretary signs (BP-41: servers and mirrors)."""

    PAYER = "payer"
    MIRROR = "mirror"  # never emits more than it took in
    NEVER = "never"  # never pays


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What an organisation allows its hosts, above what their users and programs bid. None: no ceiling."""

    packet_nanodollars: int | None = None
    grant_nanodollars: int | None = None
    grant_nanodollars_per_s: int | None = None

    def under(self, grant: Grant) -> Grant:
        """The grant as far as it is admitted; a burst is a second at most of the ceiling's rate."""
        return msgspec.structs.replace(
            grant,
            cap_nanodollars=_lower(grant.cap_nanodollars, self.grant_nanodollars),
            rate_nanodollars_per_s=_lower(grant.rate_nanodollars_per_s, self.grant_nanodollars_per_s),
            burst_nanodollars=_lower(grant.burst_nanodollars, self.grant_nanodollars_per_s),
            implied_nanodollars=_lower(grant.implies_nanodollars, self.packet_nanodollars) or msgspec.UNSET,
        )


NO_CEILING = Ceiling()


def _lower(value: int, ceiling: int | None) -> int:
    return value if ceiling is None else min(value, ceiling)


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
    virtual_ppm: int = 950_000
    virtual_limit_bytes: int = 0  # of the buffer that virtual_ppm is of; 0: the real one
    queueing: Queueing = Queueing.FAIR
    tunnel: tuple[bytes, bytes] | None = None  # our and the neighbour's packed addresses
    tunnel_mtu_bytes: int = 1500  # what the network between us takes whole
    role: HostRole = HostRole.PAYER
    ceiling: Ceiling = NO_CEILING


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativePlan:
    """`number` 1..11 is what hosts see; the first alternative of a route is the kernel's own route."""

    number: int
    link: str
    available: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    prefix: IPv4Network | IPv6Network
    alternatives: tuple[AlternativePlan, ...]
    default: int = 0  # the number of the alternative that is taken unless asked otherwise; 0: the first


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    as_number: int
    links: tuple[LinkPlan, ...]
    routes: tuple[RoutePlan, ...]
    honours_preferences: bool = True  # BP-26: an ISP is free to ignore what users ask for
