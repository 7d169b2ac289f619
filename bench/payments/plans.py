"""What the measured parts are told: the same for the programs in the kernel and for the packet cores behind NFQUEUE.

Decides: which links, tolls, grants and flows there are. The first gateway checks MACs, takes a toll and takes headers
out towards a neighbour that knows nothing of payments; the one on the way knows its neighbours by name.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Final

from bench.payments.network import A_LINK, DESTINATION, R_LEFT, R_RIGHT, SOURCE
from bench.payments.packets import (
    AMOUNT,
    GATEWAY_AS,
    NEIGHBOUR_AS,
    SLOTS,
    TCP,
    UDP,
    grant,
    ports_of,
    selector,
)
from billpay.messages import FlowSelector
from billpay.tolls import TollSchedule
from gateway import commands as gateway_commands
from gateway.plan import AlternativePlan, GatewayPlan, LinkPlan, MarkingRule, Peer, RoutePlan
from hostagent.payments import commands as host_commands
from hostagent.payments.plan import HostPlan, UplinkPlan

TOLL: Final = TollSchedule(fixed_nanodollars_per_packet=1, fixed_picodollars_per_byte=2)
RATE_BIT_S: Final = 40_000_000_000
"""Of the link with a virtual queue: more than this machine sends, so that what is measured is the marking's cost and
not what it does to TCP."""

ECHO_PORT: Final = 7001
STREAM_PORT: Final = 7003
UPLINK: Final = "r"
HOST_FLOWS_MAX: Final = 10_000
"""A host's table holds 12,288 flows; the first of them are the bench's."""


class Role(enum.Enum):
    """Who is measured."""

    HOST = "host that pays"
    FIRST = "first gateway"
    QUEUED = "first gateway, link with a queue"
    TRANSIT = "transit gateway"
    NFQUEUE = "first gateway behind NFQUEUE"
    EMPTY = "an empty program"
    TREE = "a queue, and nobody who decides"


def gateway_plan(role: Role) -> GatewayPlan:
    """Read in r: interfaces are looked up."""
    first = role is not Role.TRANSIT
    rate = RATE_BIT_S if role in (Role.QUEUED, Role.TREE) else 0
    marking = MarkingRule.VIRTUAL_QUEUE if rate else MarkingRule.NONE
    left = LinkPlan(
        name="a",
        interface_index=socket.if_nametoindex(R_LEFT),
        peer=Peer.HOST if first else Peer.GATEWAY,
        peer_as=0 if first else NEIGHBOUR_AS,
        toll=TOLL,
    )
    right = LinkPlan(
        name="b",
        interface_index=socket.if_nametoindex(R_RIGHT),
        peer=Peer.LEGACY if first else Peer.GATEWAY,
        peer_as=0 if first else NEIGHBOUR_AS + 1,
        toll=TOLL,
        rate_bit_s=rate,
        congestion=bool(rate),
        marking=marking,
    )
    routes = tuple(
        RoutePlan(prefix=ip_network(ends[family]), alternatives=(AlternativePlan(number=1, link=link),))
        for ends, link in ((SOURCE, "a"), (DESTINATION, "b"))
        for family in (4, 6)
    )
    return GatewayPlan(as_number=GATEWAY_AS, links=(left, right), routes=routes)


def gateway_orders(role: Role) -> Iterator[gateway_commands.Command]:
    """One grant for each address, for all its flows."""
    first = role is not Role.TRANSIT
    yield gateway_commands.Tick()
    yield gateway_commands.SetLink(link="a", agreed=True, in_default=False)
    yield gateway_commands.SetLink(link="b", agreed=not first, in_default=False)
    if first:
        for family, address in SOURCE.items():
            yield gateway_commands.OpenGrant(link="a", grant=grant(FlowSelector(source=address), family))


def host_plan() -> HostPlan:
    """Read in a."""
    uplink = UplinkPlan(name=UPLINK, interface_index=socket.if_nametoindex(A_LINK), gateway_as=GATEWAY_AS)
    return HostPlan(uplinks=(uplink,))


def host_orders(family: int, flows: int) -> Iterator[host_commands.Command]:
    """Pays for the generator's flows, for the echo and for the stream; each flow has a grant of its own."""
    yield host_commands.Tick()
    yield host_commands.SetUplink(uplink=UPLINK, agreed=True)
    paid = [selector(family, UDP, ports_of(number)) for number in range(flows)]
    paid += [selector(family, UDP, (ECHO_PORT, ECHO_PORT)), selector(family, TCP, (STREAM_PORT, STREAM_PORT))]
    slots = tuple((slot.as_number, slot.alternatives, slot.choice) for slot in SLOTS)
    for number, flow in enumerate(paid):
        yield host_commands.PayFlow(
            flow=flow, grant=grant(flow, family << 32 | number), amount_nanodollars=AMOUNT, slots=slots
        )
