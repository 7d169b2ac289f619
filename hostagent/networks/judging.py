"""Which networks this host is on, judged from what was read: values in, a `Situation` out.

Decides: what counts as one network and what its key is, which of several is the primary one, what a VPN goes over,
whether a network is metered and by whose word, and what changed. Refuses to know: files, sockets, the clock, and what
anybody does about it. Source: RFC 8981 (temporary addresses say nothing about a network), RFC 5798 and RFC 2281 (MACs
that are the same at every site); Android's tethering server (ANDROID_METERED) and iOS's hotspot prefix.

A network is known by its Wi-Fi name, else by its router's MAC (one router has one for IPv4 and IPv6), else by its
prefix. The key depends on that only, not on addresses, interface names or indexes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Final

from dataplane.network_state import DefaultRoute, InterfaceKind, InterfaceState, NetworkState, slept_ns
from hostagent.networks.leases import NO_LEASE, Lease
from hostagent.networks.situation import (
    ActiveNetwork,
    Canonical,
    Change,
    ChangeKind,
    Connectivity,
    ManagedDevice,
    ManagedMetered,
    NetworkKind,
    Router,
    Seen,
    Situation,
    Tunnel,
    printable,
)

SETTLE_NS: Final = 5_000_000_000
"""So long a router's MAC is waited for before its network is known by the prefix."""
SLEEP_NS: Final = 2_000_000_000
"""A shorter pause is none: a look may come late."""
LAST_METRIC: Final = 1 << 32

_IPHONE_HOTSPOT: Final = ip_network("172.20.10.0/28")
_SHARED_MACS: Final = ("00:00:5e:00:01:", "00:00:5e:00:02:", "00:00:0c:07:ac:", "00:00:0c:9f:f")
"""VRRP for IPv4 and IPv6, HSRP versions 1 and 2: at many sites the same."""
_KEY_DIGITS: Final = 16


def judge(seen: Seen, before: Situation | None, *, canonical: Canonical = lambda keys: keys[0]) -> Situation:
    state = seen.state
    slept = slept_ns(before.clocks, state.clocks) if before is not None and before.clocks is not None else 0
    resumed_s = slept // 1_000_000_000 if slept >= SLEEP_NS else 0
    usable = [each for each in _with_carriers(state) if _is_running(state, each.interface)]
    tunnel_names = _tunnel_names(state, usable)
    primary = _primary(state, usable, tunnel_names)
    stays = {each.interface: each for each in before.networks} if before is not None else {}
    networks = []
    for name in dict.fromkeys(each.interface for each in usable if each.interface not in tunnel_names):
        interface = state.interface(name)
        assert interface is not None  # _is_running saw it
        stay = _Stay(
            interface=interface,
            routes=tuple(each for each in usable if each.interface == name),
            device=seen.managed.devices.get(name, ManagedDevice()),
            lease=seen.leases.get(name, NO_LEASE),
            absent=seen.managed.absent,
            now_ns=state.clocks.monotonic_ns,
        )
        networks.append(_network(stay, stays.get(name), bool(resumed_s), name == primary, canonical))
    networks.sort(key=lambda each: (not each.is_primary, *_order(each.metrics), each.interface))
    situation = Situation(
        networks=tuple(networks),
        tunnels=_tunnels(state, usable, tunnel_names, primary),
        resumed_s=resumed_s,
        container=state.container,
        clocks=state.clocks,
    )
    return replace(situation, changes=tuple(_changes(before or Situation(), situation, is_first=before is None)))


# -- which interfaces are networks -----------------------------------------------------------------------------------


def _with_carriers(state: NetworkState) -> list[DefaultRoute]:
    """The main table's default routes, and what other tables' rules lead to."""
    routes = list(state.default_routes)
    for family, carrier in zip((4, 6), state.carriers, strict=True):
        if carrier and all((each.family, each.interface) != (family, carrier) for each in routes):
            routes.append(DefaultRoute(family=family, metric=LAST_METRIC, interface=carrier))
    return routes


def _is_running(state: NetworkState, name: str) -> bool:
    interface = state.interface(name)
    return interface is not None and interface.is_running and interface.kind is not InterfaceKind.LOOPBACK


def _tunnel_names(state: NetworkState, usable: Iterable[DefaultRoute]) -> frozenset[str]:
    """Those with something below them. A PPP line or tun that is all there is, is a network itself."""
    names = {each.interface for each in usable}
    sure = {name for name in names if _kind(state, name) is InterfaceKind.TUNNEL}
    maybe = {name for name in names if _kind(state, name) is InterfaceKind.PPP}
    if names - sure - maybe:
        return frozenset(sure | maybe)
    return frozenset(sure) if maybe else frozenset()


def _kind(state: NetworkState, name: str) -> InterfaceKind:
    interface = state.interface(name)
    return interface.kind if interface is not None else InterfaceKind.OTHER


def _primary(state: NetworkState, usable: Sequence[DefaultRoute], tunnels: frozenset[str]) -> str:
    """What the kernel itself would take; below a tunnel, the lowest metric, IPv4's first."""
    plain = [each for each in usable if each.interface not in tunnels]
    for carrier in state.carriers:
        if carrier and any(each.interface == carrier for each in plain):
            return carrier
    return min(plain, key=lambda each: (each.family, each.metric, each.interface)).interface if plain else ""


def _tunnels(
    state: NetworkState, usable: Sequence[DefaultRoute], names: frozenset[str], underlay: str
) -> tuple[Tunnel, ...]:
    found = []
    for name in sorted(names):
        families = {each.family for each in usable if each.interface == name}
        interface = state.interface(name)
        kind = interface.link_kind if interface is not None else ""
        found.append(Tunnel(interface=name, kind=kind or "tunnel", underlay=underlay, families=tuple(sorted(families))))
    return tuple(found)


def _order(metrics: tuple[int | None, int | None]) -> tuple[int, int]:
    four, six = metrics
    return (LAST_METRIC + 1 if four is None else four, LAST_METRIC + 1 if six is None else six)


# -- one network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stay:
    """All that is known of an interface with a default route, now."""

    interface: InterfaceState
    routes: tuple[DefaultRoute, ...]
    device: ManagedDevice
    lease: Lease  # from files
    absent: str
    now_ns: int

    @property
    def ssid(self) -> str:
        return self.interface.ssid or self.device.ssid

    @property
    def best_lease(self) -> Lease:
        return self.device.lease if self.device.lease != NO_LEASE else self.lease


def _network(
    stay: _Stay, before: ActiveNetwork | None, resumed: bool, is_primary: bool, canonical: Canonical
) -> ActiveNetwork:
    routers = tuple(
        Router(family=each.family, address=each.router, mac=each.router_mac) for each in stay.routes if each.router
    )
    same = before is not None and _is_same_stay(before, stay.ssid, routers)
    if same and before is not None and not resumed:  # the kernel forgets a MAC that it did not need for a while
        known = {each.address: each.mac for each in before.routers}
        routers = tuple(replace(each, mac=each.mac or known.get(each.address, "")) for each in routers)
    prefixes = tuple(
        dict.fromkeys(each.network for each in stay.interface.prefixes if not _is_link_local(each.network))
    )
    keys, is_strong = network_keys(stay.interface, ssid=stay.ssid, routers=routers, prefixes=prefixes)
    arrived_ns = before.arrived_ns if same and before is not None else stay.now_ns
    is_settled = is_strong or not routers or stay.now_ns - arrived_ns >= SETTLE_NS
    key = canonical(keys)
    if same and before is not None and before.is_settled and before.key in keys:
        key = before.key  # a second router, or the other family, came later
    metered, because = judge_metered(
        stay.interface, device=stay.device, lease=stay.best_lease, prefixes=prefixes, absent=stay.absent
    )
    kind = _network_kind(stay.interface, device=stay.device, lease=stay.best_lease, prefixes=prefixes)
    return ActiveNetwork(
        key=key,
        aliases=keys,
        is_settled=is_settled,
        title=_title(kind, stay, routers),
        kind=kind,
        interface=stay.interface.name,
        index=stay.interface.index,
        is_primary=is_primary,
        metrics=(_metric(stay.routes, 4), _metric(stay.routes, 6)),
        routers=routers,
        prefixes=prefixes,
        addresses=tuple(each.address for each in stay.interface.prefixes),
        ssid=stay.ssid,
        metered=metered,
        metered_because=because,
        connectivity=stay.device.connectivity,
        connectivity_because=_connectivity_because(stay),
        lease=stay.best_lease,
        arrived_ns=arrived_ns,
    )


def _is_same_stay(before: ActiveNetwork, ssid: str, routers: tuple[Router, ...]) -> bool:
    if before.ssid != ssid:
        return False
    then = {each.address: each.mac for each in before.routers}
    common = [each for each in routers if each.address in then]
    contradicted = any(each.mac and then[each.address] and each.mac != then[each.address] for each in common)
    return not contradicted and (bool(common) or not routers or not then)


def network_keys(
    interface: InterfaceState, *, ssid: str, routers: Sequence[Router], prefixes: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """The keys, the best first, and whether they are as sure as they will get."""
    medium = _medium(interface)
    if interface.kind is InterfaceKind.WIFI and ssid:
        return (_hash(medium, "name", ssid),), True
    stable = _stable_prefixes(interface, prefixes)
    by_prefix = tuple(_hash(medium, "prefix", each) for each in stable)
    if interface.kind is InterfaceKind.CONTAINER and by_prefix:  # its router's MAC is drawn anew at each start
        return by_prefix, True
    by_mac = dict.fromkeys(_hash(medium, *_mac_evidence(each, stable)) for each in routers if each.mac)
    if by_mac:
        return tuple(by_mac), True
    if medium == "mobile" or not by_prefix:  # a mobile network's prefix is another one each time
        return (_hash(medium, "interface", interface.name),), not routers
    return by_prefix, False


def _mac_evidence(router: Router, stable: Sequence[str]) -> tuple[str, ...]:
    if not router.mac.startswith(_SHARED_MACS):
        return ("router", router.mac)
    same_family = [each for each in stable if (":" in each) == (router.family == 6)]
    return ("router", router.mac, *same_family[:1])


def _stable_prefixes(interface: InterfaceState, prefixes: Sequence[str]) -> list[str]:
    """IPv4's first. Those of temporary addresses alone are left out."""
    lasting = {each.network for each in interface.prefixes if not each.is_temporary}
    return sorted((each for each in prefixes if each in lasting), key=lambda each: (":" in each, each))


def _hash(*parts: str) -> str:
    text = "\0".join(("billpay network 1", *parts))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_KEY_DIGITS]


def _medium(interface: InterfaceState) -> str:
    """What the key depends on: unlike the kind, it does not change with what is learnt later."""
    if interface.kind in (InterfaceKind.CABLE, InterfaceKind.BRIDGE, InterfaceKind.PPP):
        return "cable"
    return str(interface.kind.value)


def _metric(routes: Iterable[DefaultRoute], family: int) -> int | None:
    return min((each.metric for each in routes if each.family == family), default=None)


def _is_link_local(prefix: str) -> bool:
    return ip_network(prefix).is_link_local


# -- what is said of it ----------------------------------------------------------------------------------------------


def _phone_evidence(interface: InterfaceState, lease: Lease, prefixes: Iterable[str]) -> str:
    """Why this is a phone that shares its mobile connection; "" if nothing says so."""
    if lease.is_android_metered:
        return f"the DHCP server says ANDROID_METERED ({lease.source})"
    if interface.kind is InterfaceKind.PHONE:
        return f"a phone on {interface.name}" + (f" (driver {interface.driver})" if interface.driver else "")
    is_iphone = any(ip_network(each) == _IPHONE_HOTSPOT for each in prefixes)
    return f"{_IPHONE_HOTSPOT} is an iPhone's hotspot" if is_iphone else ""


def judge_metered(
    interface: InterfaceState, *, device: ManagedDevice, lease: Lease, prefixes: Iterable[str], absent: str
) -> tuple[bool | None, str]:
    """A person's word in NetworkManager, then what the phone says, then guesses."""
    if device.metered is ManagedMetered.YES:
        return True, "set in NetworkManager"
    if device.metered is ManagedMetered.NO:
        return False, "set in NetworkManager"
    phone = _phone_evidence(interface, lease, prefixes)
    if phone:
        return True, phone
    if device.metered is ManagedMetered.GUESS_YES:
        return True, "NetworkManager's guess"
    if interface.kind is InterfaceKind.MOBILE:
        return True, "a mobile connection"
    if device.metered is ManagedMetered.GUESS_NO:
        return False, "NetworkManager's guess"
    return None, f"unknown: {absent or 'NetworkManager does not say'}"


def _network_kind(
    interface: InterfaceState, *, device: ManagedDevice, lease: Lease, prefixes: Iterable[str]
) -> NetworkKind:
    guessed = device.metered is ManagedMetered.GUESS_YES and interface.kind in (InterfaceKind.WIFI, InterfaceKind.CABLE)
    if guessed or _phone_evidence(interface, lease, prefixes):
        return NetworkKind.HOTSPOT
    return {
        InterfaceKind.CABLE: NetworkKind.CABLE,
        InterfaceKind.BRIDGE: NetworkKind.CABLE,
        InterfaceKind.PPP: NetworkKind.CABLE,
        InterfaceKind.WIFI: NetworkKind.WIFI,
        InterfaceKind.MOBILE: NetworkKind.MOBILE,
        InterfaceKind.CONTAINER: NetworkKind.CONTAINER,
        InterfaceKind.TUNNEL: NetworkKind.VPN,
    }.get(interface.kind, NetworkKind.UNKNOWN)


def _title(kind: NetworkKind, stay: _Stay, routers: Sequence[Router]) -> str:
    name, ssid, connection = stay.interface.name, printable(stay.ssid), printable(stay.device.connection)
    match kind:
        case NetworkKind.WIFI:
            return f"Wi-Fi {ssid}" if ssid else f"Wi-Fi on {name}"
        case NetworkKind.HOTSPOT:
            return f"phone hotspot {ssid}" if ssid else f"phone hotspot on {name}"
        case NetworkKind.MOBILE:
            return f"mobile network {connection}" if connection else f"mobile network on {name}"
        case NetworkKind.CONTAINER:
            return f"container network on {name}"
        case NetworkKind.VPN:
            return f"VPN on {name}"
        case NetworkKind.CABLE:
            words = "dial-up or PPPoE" if stay.interface.kind is InterfaceKind.PPP else "cable"
        case NetworkKind.UNKNOWN:
            words = "network"
    address = next((each.address for each in routers), "")
    return f"{words} on {name} (router {address})" if address else f"{words} on {name}"


def _connectivity_because(stay: _Stay) -> str:
    if stay.device.connectivity is not Connectivity.UNKNOWN:
        return "NetworkManager's check"
    return f"unknown: {stay.absent or 'NetworkManager does not check'}"


# -- what changed ----------------------------------------------------------------------------------------------------


def _changes(before: Situation, now: Situation, *, is_first: bool) -> Iterable[Change]:
    if now.resumed_s:
        yield Change(kind=ChangeKind.RESUMED, message=f"the machine slept for {now.resumed_s} s")
    then = {(each.interface, each.key): each for each in before.networks}
    here = {(each.interface, each.key): each for each in now.networks}
    for place, network in then.items():
        if place not in here:
            yield _change(ChangeKind.LEFT, network, f"left {network.title}")
    for place, network in here.items():
        if place not in then:
            yield _change(ChangeKind.ARRIVED, network, f"now on {network.title}")
            if network.is_settled:
                yield _change(ChangeKind.SETTLED, network, f"{network.title} is known by key {network.key}")
        else:
            yield from _differences(then[place], network)
    if not now.networks and (before.networks or is_first):
        yield Change(kind=ChangeKind.OFFLINE, message="no network: there is no default route")
    old, new = before.primary, now.primary
    if new is not None and (old is None or (old.interface, old.key) != (new.interface, new.key)):
        yield _change(ChangeKind.PRIMARY, new, f"traffic goes by {new.title}")
    yield from _tunnel_changes(before.tunnels, now.tunnels)


def _differences(before: ActiveNetwork, now: ActiveNetwork) -> Iterable[Change]:
    if now.is_settled and not before.is_settled:
        yield _change(ChangeKind.SETTLED, now, f"{now.title} is known by key {now.key}")
    if now.metered != before.metered:
        words = {True: "metered", False: "not metered", None: "perhaps metered"}[now.metered]
        yield _change(ChangeKind.METERED, now, f"{now.title} is {words}: {now.metered_because}")
    if now.connectivity is not before.connectivity:
        words = "behind a captive portal" if now.connectivity is Connectivity.PORTAL else now.connectivity.value
        yield _change(ChangeKind.CONNECTIVITY, now, f"{now.title}: connectivity is {words}")


def _tunnel_changes(before: Sequence[Tunnel], now: Sequence[Tunnel]) -> Iterable[Change]:
    then, here = {each.interface: each for each in before}, {each.interface: each for each in now}
    for name, tunnel in then.items():
        if name not in here:
            message = f"VPN {name} ({tunnel.kind}) no longer carries default traffic"
            yield Change(kind=ChangeKind.TUNNEL_DOWN, message=message, interface=name)
    for name, tunnel in here.items():
        if name not in then or then[name].underlay != tunnel.underlay:
            over = f" over {tunnel.underlay}" if tunnel.underlay else ""
            message = f"VPN {name} ({tunnel.kind}) carries default traffic{over}"
            yield Change(kind=ChangeKind.TUNNEL_UP, message=message, interface=name)


def _change(kind: ChangeKind, network: ActiveNetwork, message: str) -> Change:
    return Change(kind=kind, message=message, key=network.key, interface=network.interface)
