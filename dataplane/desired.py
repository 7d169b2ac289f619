"""The desired kernel state of one daemon, as values.

Decides: nothing; `rules` brings it about. Source: ARCHITECTURE ("kernel state is a desired-state value").
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

Family = Literal[4, 6]


class Chain(StrEnum):
    """Where packets are queued: what arrives on an interface, or what this host itself sends by it."""

    PREROUTING = "PREROUTING"
    OUTPUT = "OUTPUT"


class QueueRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packets of one family that enter (PREROUTING) or locally leave (OUTPUT) by `interface` go to NFQUEUE `queue`.

    `skip_local`: not those to one of our own addresses (a gateway's ingress forwards; a host's ingress wants its own).
    """

    family: Family
    chain: Chain
    interface: str
    queue: int
    skip_local: bool = False


class PolicyRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packets whose mark equals `mark` under `mask` follow `prefix` via `via` (None = on link) out of `interface`.

    `prefix` as `ip route` prints it: "default", or an address with its length (a host route without).
    """

    family: Family
    mark: int
    table: int
    priority: int
    prefix: str
    interface: str
    via: str | None = None
    mask: int = 0x0FFF_0000


class Sysctl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`name` with dots as sysctl(8) has it; a dot inside an interface's name is written as a slash."""

    name: str
    value: str


class AccessRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A default route by one of several accesses, as the main table has it: for tables of ours.

    `via`: the router, "" on a link without one; `is_foreign_router`: an IPv4 route by an IPv6 router. `source`: the
    address that packets get which have none, "" for the kernel's choice.
    """

    family: Family
    interface: str
    via: str = ""
    is_foreign_router: bool = False
    is_onlink: bool = False
    source: str = ""
    mtu: int | None = None


class DesiredState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that one daemon (`owner`: 1 to 10 letters, digits or hyphens) wants in this network namespace."""

    owner: str
    queues: tuple[QueueRule, ...] = ()
    routes: tuple[PolicyRoute, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()


class RuleCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel itself counted for one QueueRule since it was installed.

    queued: offered to the queue (a segment-offloaded packet counts once here, but as its segments below);
    accepted: went on by our verdict; bypassed: went on without one (no reader, or a full queue).
    """

    queued_packets: int
    accepted_packets: int
    bypassed_packets: int
