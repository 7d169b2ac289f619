"""How this network namespace is connected: interfaces, addresses, default routes, routers, Wi-Fi names. Reads only.

Decides: when it must be read anew, and what an interface is by the kernel's own words. Refuses to know: which network
that is (`hostagent.networks`). Source: RFC 3549, linux/rtnetlink.h, linux/nl80211.h; sysfs `class/net`;
clock_gettime(2) for CLOCK_BOOTTIME, which goes on while the machine sleeps.

No program is started, and nothing is sent on a wire. A look costs four short questions as long as the kernel reports no
change.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane import network_messages as messages
from dataplane.attribution.netlink import NETLINK_ROUTE, NetlinkSocket

ROUTES_READ_MAX: Final = 4096
"""The kernel tells default routes first: a router's whole table is not read."""
READ_ANEW_LOOKS: Final = 30
"""Also without a report: a report can be lost when its socket overflows."""

_NETLINK_GENERIC: Final = 16
_GENERIC_CONTROL: Final = 16
_SOL_NETLINK: Final = 270
_NETLINK_GET_STRICT_CHK: Final = 12
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18  # link; IPv4 and IPv6 address, route, rule
_REPORT_BYTES: Final = 1 << 16
_REPORTS_READ_MAX: Final = 256
_ARPHRD_ETHER, _ARPHRD_PPP, _ARPHRD_LOOPBACK, _ARPHRD_NONE, _ARPHRD_RAW_IP = 1, 512, 772, 0xFFFE, 519
_OUTSIDE: Final = {4: "198.51.100.1", 6: "2001:db8:ffff::1"}
"""Nobody's addresses (RFC 5737, RFC 3849), for the question by which interface the kernel would send to outside. They
are only asked about: nothing is sent."""


class InterfaceKind(Enum):
    CABLE = "cable"
    WIFI = "wifi"
    MOBILE = "mobile"  # a modem in or at this machine
    PHONE = "phone"  # tethered by USB or Bluetooth
    CONTAINER = "container"  # the inner end of a virtual cable
    BRIDGE = "bridge"
    TUNNEL = "tunnel"  # WireGuard, tun, IPsec, GRE …
    PPP = "ppp"  # a dial-up or PPPoE line, or a tunnel
    LOOPBACK = "loopback"
    OTHER = "other"


_BY_KIND: Final = {
    "veth": InterfaceKind.CONTAINER,
    "netkit": InterfaceKind.CONTAINER,
    "bridge": InterfaceKind.BRIDGE,
    "ppp": InterfaceKind.PPP,
    "wwan": InterfaceKind.MOBILE,
    "rmnet": InterfaceKind.MOBILE,
    "bond": InterfaceKind.CABLE,
    "team": InterfaceKind.CABLE,
    "vlan": InterfaceKind.CABLE,
    "macvlan": InterfaceKind.CABLE,
    "ipvlan": InterfaceKind.CABLE,
    "dummy": InterfaceKind.OTHER,
    "ifb": InterfaceKind.OTHER,
    "vxlan": InterfaceKind.OTHER,  # they carry Ethernet between hosts; whoever has its default route there has a LAN
    "geneve": InterfaceKind.OTHER,
    **dict.fromkeys(
        (
            "wireguard",
            "tun",
            "ipip",
            "sit",
            "ip6tnl",
            "gre",
            "ip6gre",
            "vti",
            "vti6",
            "xfrm",
            "gtp",
            "l2tp",
            "amneziawg",
        ),
        InterfaceKind.TUNNEL,
    ),
}
_BY_DEVICE_TYPE: Final = {
    "wlan": InterfaceKind.WIFI,
    "wwan": InterfaceKind.MOBILE,
    "bluetooth": InterfaceKind.PHONE,
}
_PHONE_DRIVERS: Final = frozenset({"ipheth", "rndis_host"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """An address of our own with the prefix that is on the link."""

    address: str
    network: str
    is_temporary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceState:
    index: int
    name: str
    kind: InterfaceKind
    link_kind: str = ""  # the kernel's word: "wireguard", "tun" …
    is_running: bool = True  # up, with a carrier
    operstate: str = "up"
    mac: str = ""
    prefixes: tuple[Prefix, ...] = ()  # without loopback; link-local ones are among them
    ssid: str = ""
    driver: str = ""
    ports: tuple[str, ...] = ()  # of a bridge or bond


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRoute:
    family: int  # 4 or 6
    metric: int
    interface: str
    router: str = ""  # "" on a link without routers
    router_mac: str = ""  # "" as long as nobody has asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    monotonic_ns: int
    boottime_ns: int  # goes on while the machine sleeps


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """`carriers`: by which interface the kernel would send to outside, IPv4 and IPv6 ("" for not at all)."""

    interfaces: tuple[InterfaceState, ...] = ()
    default_routes: tuple[DefaultRoute, ...] = ()
    carriers: tuple[str, str] = ("", "")
    container: str = ""  # why this is a container or a namespace of its own, "" if it is not
    clocks: Clocks = Clocks(monotonic_ns=0, boottime_ns=0)

    def interface(self, name: str) -> InterfaceState | None:
        return next((each for each in self.interfaces if each.name == name), None)


def slept_ns(before: Clocks, now: Clocks) -> int:
    """How long the machine was suspended between two looks."""
    return max(0, (now.boottime_ns - before.boottime_ns) - (now.monotonic_ns - before.monotonic_ns))


def read_clocks() -> Clocks:
    monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return Clocks(monotonic_ns=monotonic_ns, boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME))


class NetworkReader:
    """Belongs to the network namespace of the thread that makes it. Raises EnvironmentFault on opening."""

    def __init__(self, *, system: Path = Path("/sys")) -> None:
        self._system = system
        self._questions = _Questions()
        self._reports = _open_reports()
        self._wireless: _Wireless | None = None
        self._hardware: dict[tuple[int, str], tuple[str, str]] = {}
        self._container = container_reason()
        self._state = NetworkState()
        self._looks_left = 0
        self.reads = 0  # how often everything was read

    def close(self) -> None:
        self._questions.close()
        self._reports.close()
        if self._wireless is not None:
            self._wireless.close()

    def read(self) -> NetworkState:
        """What is the case now. Raises EnvironmentFault."""
        clocks = read_clocks()
        was_reported = self._was_reported()
        self._looks_left -= 1
        if was_reported or self._looks_left < 0 or slept_ns(self._state.clocks, clocks) > 1_000_000_000:
            self._looks_left = READ_ANEW_LOOKS
            self.reads += 1
            self._state = self._read_all()
        indexes = {each.name: each.index for each in self._state.interfaces}
        routes = tuple(
            replace(each, router_mac=self._questions.mac(indexes[each.interface], each.router)) if each.router else each
            for each in self._state.default_routes
        )
        interfaces = tuple(
            replace(each, ssid=self._ssid(each.index)) if each.kind is InterfaceKind.WIFI else each
            for each in self._state.interfaces
        )
        self._state = replace(self._state, interfaces=interfaces, default_routes=routes, clocks=clocks)
        return self._state

    def resolve(self, interface: str, router: str) -> None:
        """Lets the kernel ask the link for that router's MAC (ARP, RFC 826; or neighbour discovery, RFC 4861)."""
        found = self._state.interface(interface)
        if found is not None:
            self._questions.resolve(found.index, router)

    def _was_reported(self) -> bool:
        reported = False
        for _ in range(_REPORTS_READ_MAX):
            try:
                self._reports.recv(_REPORT_BYTES)
            except BlockingIOError:
                return reported
            except OSError:  # ENOBUFS: some were lost
                reported = True
            reported = True
        return reported

    def _read_all(self) -> NetworkState:
        links = self._questions.links()
        names = {each.index: each.name for each in links}
        addresses = self._questions.addresses()
        interfaces = []
        for link in links:
            device_type, driver = self._hardware_of(link)
            interfaces.append(
                InterfaceState(
                    index=link.index,
                    name=link.name,
                    kind=kind_of(link, device_type=device_type, driver=driver),
                    link_kind=link.kind,
                    is_running=link.is_up and link.has_carrier and link.operstate in ("up", "unknown"),
                    operstate=link.operstate,
                    mac=link.mac,
                    prefixes=tuple(addresses.get(link.index, ())),
                    driver=driver,
                    ports=tuple(each.name for each in links if each.master_index == link.index),
                )
            )
        self._hardware = {key: value for key, value in self._hardware.items() if names.get(key[0]) == key[1]}
        routes = [each for family in (4, 6) for each in sorted(self._questions.default_routes(family))]
        return NetworkState(
            interfaces=tuple(interfaces),
            default_routes=tuple(
                DefaultRoute(family=each.family, metric=each.metric, interface=names[each.index], router=each.router)
                for each in routes
                if each.index in names
            ),
            carriers=(names.get(self._questions.carrier(4), ""), names.get(self._questions.carrier(6), "")),
            container=self._container,
        )

    def _hardware_of(self, link: messages.LinkMessage) -> tuple[str, str]:
        key = (link.index, link.name)
        if key not in self._hardware:
            self._hardware[key] = read_hardware(self._system / "class/net" / link.name, link.index)
        return self._hardware[key]

    def _ssid(self, index: int) -> str:
        if self._wireless is None:
            self._wireless = _Wireless()
        return self._wireless.ssid(index)


def kind_of(link: messages.LinkMessage, *, device_type: str = "", driver: str = "") -> InterfaceKind:
    """By what made it, then by its driver, then by the hardware's type."""
    if link.hardware == _ARPHRD_LOOPBACK:
        return InterfaceKind.LOOPBACK
    if device_type in _BY_DEVICE_TYPE:
        return _BY_DEVICE_TYPE[device_type]
    if driver in _PHONE_DRIVERS:
        return InterfaceKind.PHONE
    if link.kind == "tun" and link.hardware == _ARPHRD_ETHER:  # a tap: the card of a virtual machine, or of a VPN
        return InterfaceKind.TUNNEL
    if link.kind in _BY_KIND:
        return _BY_KIND[link.kind]
    return {
        _ARPHRD_ETHER: InterfaceKind.CABLE,
        _ARPHRD_PPP: InterfaceKind.PPP,
        _ARPHRD_RAW_IP: InterfaceKind.MOBILE,
        _ARPHRD_NONE: InterfaceKind.TUNNEL,
    }.get(link.hardware, InterfaceKind.OTHER)


def read_hardware(directory: Path, index: int) -> tuple[str, str]:
    """Device type and driver by sysfs; both "" where it shows another namespace's interfaces, or nothing."""
    try:
        if int((directory / "ifindex").read_text(encoding="ascii")) != index:
            return "", ""
        lines = (directory / "uevent").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return "", ""
    device_type = next((line.partition("=")[2] for line in lines if line.startswith("DEVTYPE=")), "")
    if not device_type and ((directory / "phy80211").exists() or (directory / "wireless").exists()):
        device_type = "wlan"
    driver = ""
    with contextlib.suppress(OSError):
        driver = (directory / "device/driver").readlink().name
    return device_type, driver


def container_reason(root: Path = Path("/")) -> str:
    """Why this is not the machine's own network: a container, or a namespace of its own."""
    for marker in (".dockerenv", "run/.containerenv"):
        if (root / marker).exists():
            return f"there is a /{marker}"
    with contextlib.suppress(OSError):
        return f"systemd says: {(root / 'run/systemd/container').read_text(encoding='utf-8', errors='replace').strip()}"
    with contextlib.suppress(OSError):  # only the superuser may look at process 1
        if (root / "proc/1/ns/net").readlink() != (root / "proc/thread-self/ns/net").readlink():
            return "it is a network namespace of its own"
    return ""


class _Questions:
    """Values of the answers. A dump that was not read to its end costs its socket: a new one is opened."""

    def __init__(self) -> None:
        self._socket = _StrictSocket()

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[messages.LinkMessage]:
        return [messages.read_link(each) for each in self._socket.dump(messages.RTM_GETLINK, messages.ask_links())]

    def addresses(self) -> dict[int, list[Prefix]]:
        found: dict[int, list[Prefix]] = {}
        for answer in self._socket.dump(messages.RTM_GETADDR, messages.ask_addresses()):
            each = messages.read_address(answer)
            if each is not None and not each.prefix.startswith("127.") and each.address != "::1":
                prefix = Prefix(address=each.address, network=each.prefix, is_temporary=each.is_temporary)
                found.setdefault(each.index, []).append(prefix)
        return found

    def default_routes(self, family: int) -> list[messages.RouteMessage]:
        found: list[messages.RouteMessage] = []
        try:
            for count, answer in enumerate(self._socket.dump(messages.RTM_GETROUTE, messages.ask_routes(family))):
                if count == ROUTES_READ_MAX:
                    self._socket.close()
                    self._socket = _StrictSocket()
                    break
                found += messages.read_default_routes(answer)
        except EnvironmentFault:  # this family is switched off, or has no main table
            return []
        return found

    def carrier(self, family: int) -> int:
        answer = self._socket.ask(messages.RTM_GETROUTE, messages.ask_route_to(_OUTSIDE[family]))
        return 0 if answer is None else messages.read_outgoing(answer)

    def mac(self, index: int, router: str) -> str:
        answer = self._socket.ask(messages.RTM_GETNEIGH, messages.ask_neighbour(index, router))
        return "" if answer is None else messages.read_neighbour(answer)

    def resolve(self, index: int, router: str) -> None:
        """Needs CAP_NET_ADMIN; without it the MAC is known as soon as any program sends something."""
        with contextlib.suppress(OSError):
            self._socket.change(messages.RTM_NEWNEIGH, messages.use_neighbour(index, router), create=True)


class _StrictSocket(NetlinkSocket):
    """The kernel itself leaves out what is not asked for (Linux 4.20; before, everything is told)."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)


class _Wireless:
    """nl80211. Without it (no Wi-Fi in this kernel) no name is known."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_GENERIC)
        answer = self._socket.ask(_GENERIC_CONTROL, messages.ask_family("nl80211"))
        self._family = messages.read_family(answer) if answer is not None else 0

    def close(self) -> None:
        self._socket.close()

    def ssid(self, index: int) -> str:
        answer = self._socket.ask(self._family, messages.ask_wireless(index)) if self._family else None
        return "" if answer is None else messages.read_ssid(answer)


def _open_reports() -> socket.socket:
    try:
        reports = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        reports.setblocking(False)
        reports.bind((0, _GROUPS))
    except OSError as error:
        raise EnvironmentFault("open", "netlink socket for reports", error.strerror or error) from error
    return reports
