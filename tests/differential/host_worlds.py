"""The hosts that the engines are compared as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from differential.gateway_worlds import X, Y, Z, packed

from hostagent.payments.plan import HostPlan, UplinkPlan

OWN = packed("10.0.1.1", "10.0.9.1", "fd00:1::1", "fd00:9::1")
REMOTE = packed("10.0.2.1", "10.0.2.2", "10.0.3.1", "fd00:2::1", "fd00:2::2", "fd00:3::1")
PEERS = frozenset(packed("10.0.2.1", "fd00:2::1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWorld:
    """`agreed`: uplinks whose gateway takes headers from the beginning. `offloaded`: some packets are
    segment-offloaded; nothing then pays by a header, because a test run cannot make room in them.
    """

    name: str
    plan: HostPlan
    agreed: tuple[str, ...]
    offloaded: bool = False
    refusing: tuple[str, ...] = ()  # uplinks whose gateway never takes headers
    conversations: int = 30


def paying() -> HostWorld:
    """Two gateways that take headers, with agents at some of the far ends."""
    uplinks = (
        UplinkPlan(name="X", interface_index=5, gateway_as=X, slots=3),
        UplinkPlan(name="Z", interface_index=6, gateway_as=Z, slots=0, mtu=1280),
    )
    return HostWorld(name="paying", plan=HostPlan(uplinks=uplinks, peers=PEERS), agreed=("X", "Z"))


def mixed() -> HostWorld:
    """One gateway of each kind: headers, implied payments, neither; and nobody is known."""
    uplinks = (
        UplinkPlan(name="X", interface_index=5, gateway_as=X, slots=7),
        UplinkPlan(name="implied", interface_index=6, gateway_as=Y, header=False, implied=True),
        UplinkPlan(name="nothing", interface_index=7, gateway_as=Z, header=False),
    )
    return HostWorld(name="mixed", plan=HostPlan(uplinks=uplinks), agreed=("X", "implied", "nothing"))


def offloaded() -> HostWorld:
    """Segment-offloaded packets: those that arrive with a header, and those that leave without one."""
    uplinks = (
        UplinkPlan(name="X", interface_index=5, gateway_as=X, header=False, implied=True),
        UplinkPlan(name="Z", interface_index=6, gateway_as=Z, header=False),
    )
    plan = HostPlan(uplinks=uplinks, peers=PEERS)
    return HostWorld(name="offloaded", plan=plan, agreed=("X",), offloaded=True, refusing=("Z",))


def crowded() -> HostWorld:
    """More flows than one answer tells of."""
    uplinks = (UplinkPlan(name="X", interface_index=5, gateway_as=X),)
    plan = HostPlan(uplinks=uplinks, peers=PEERS)
    return HostWorld(name="crowded", plan=plan, agreed=("X",), conversations=250)


HOST_WORLDS: dict[str, Callable[[], HostWorld]] = {
    "paying": paying,
    "mixed": mixed,
    "offloaded": offloaded,
    "crowded": crowded,
}
