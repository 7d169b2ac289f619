"""Which networks this host is on: the values.

Decides nothing (`hostagent.networks.judging` does). Frozen, and without anything that belongs to a process: a situation
can be kept, compared and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from dataplane.network_state import Clocks, NetworkState
from hostagent.networks.leases import NO_LEASE, Lease

_TEXT_MAX: Final = 200


class NetworkKind(Enum):
    WIFI = "wifi"
    CABLE = "cable"
    MOBILE = "mobile"
    HOTSPOT = "hotspot"  # a phone's
    CONTAINER = "container"
    VPN = "vpn"  # a tunnel without anything below it that could be seen
    UNKNOWN = "unknown"


class Connectivity(Enum):
    FULL = "full"
    LIMITED = "limited"
    PORTAL = "portal"
    NONE = "none"
    UNKNOWN = "unknown"


class ManagedMetered(Enum):
    """NetworkManager's NMMetered."""

    UNKNOWN = 0
    YES = 1
    NO = 2
    GUESS_YES = 3
    GUESS_NO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedDevice:
    """What NetworkManager says of one interface."""

    metered: ManagedMetered = ManagedMetered.UNKNOWN
    connectivity: Connectivity = Connectivity.UNKNOWN
    connection: str = ""  # the profile's name
    ssid: str = ""
    lease: Lease = NO_LEASE


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """`absent`: why NetworkManager says nothing, "" when it does."""

    absent: str = "NetworkManager is not there"
    devices: Mapping[str, ManagedDevice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at everything."""

    state: NetworkState
    managed: Managed = Managed()
    leases: Mapping[str, Lease] = field(default_factory=dict)  # by interface, from files


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    family: int
    address: str
    mac: str  # "" not known


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveNetwork:
    """A network with a default route. An interface has at most one."""

    key: str
    aliases: tuple[str, ...]  # every key that it could be known by; `key` is one of them
    is_settled: bool  # False: the key may still change, remember nothing under it
    title: str
    kind: NetworkKind
    interface: str
    index: int
    is_primary: bool
    metrics: tuple[int | None, int | None]  # of its default routes, IPv4 and IPv6
    routers: tuple[Router, ...]
    prefixes: tuple[str, ...]
    addresses: tuple[str, ...]
    ssid: str = ""
    metered: bool | None = None
    metered_because: str = ""
    connectivity: Connectivity = Connectivity.UNKNOWN
    connectivity_because: str = ""
    lease: Lease = NO_LEASE
    arrived_ns: int = 0  # monotonic

    @property
    def router(self) -> str:
        """For people."""
        return next((each.address for each in self.routers if each.address), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A VPN that default traffic goes into. `underlay`: the interface that carries it, "" when nobody can tell."""

    interface: str
    kind: str  # "wireguard", "tun", "ppp" …
    underlay: str
    families: tuple[int, ...]


class ChangeKind(Enum):
    ARRIVED = "arrived"
    LEFT = "left"
    SETTLED = "settled"
    PRIMARY = "primary"
    TUNNEL_UP = "tunnel up"
    TUNNEL_DOWN = "tunnel down"
    METERED = "metered"
    CONNECTIVITY = "connectivity"
    RESUMED = "resumed"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    kind: ChangeKind
    message: str
    key: str = ""
    interface: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """`networks`: the primary one first. `unread`: why this look failed, and everything is as at the last one."""

    networks: tuple[ActiveNetwork, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    changes: tuple[Change, ...] = ()
    resumed_s: int = 0  # > 0: the machine slept so long since the last look
    container: str = ""
    clocks: Clocks | None = None
    unread: str = ""

    @property
    def primary(self) -> ActiveNetwork | None:
        return self.networks[0] if self.networks else None

    def on(self, interface: str) -> ActiveNetwork | None:
        """The network of an interface, or that below a tunnel."""
        below = next((each.underlay for each in self.tunnels if each.interface == interface), interface)
        return next((each for each in self.networks if each.interface == below), None)


Canonical = Callable[[Sequence[str]], str]
"""Of several keys for one network, the one under which it was remembered; else the first."""


def printable(text: str) -> str:
    """What strangers call themselves (Wi-Fi, certificates), without what would steer a terminal, and not too long."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:_TEXT_MAX])
