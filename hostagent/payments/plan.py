"""What the host's packet core works by: its uplinks and the other agents. Values, made once from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

OUTPUT_QUEUE = 7416
INPUT_QUEUE = 7417


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkPlan:
    """A link to a gateway. `slots`: room for ISP-OADs in every paid packet; the MSS is lowered by that header's
    size. `implied`: packets pay without a header, what their grant says.
    """

    name: str
    interface_index: int
    gateway_as: int
    mtu: int = 1500
    header: bool = True
    implied: bool = False
    slots: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """`peers`: packed addresses of hosts whose agents we tell what arrived, also of traffic that pays nothing."""

    uplinks: tuple[UplinkPlan, ...]
    peers: frozenset[bytes] = frozenset()
