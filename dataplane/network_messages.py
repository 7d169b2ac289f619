"""The kernel's messages about interfaces, addresses, routes and neighbours, as values.

Decides: which fields of a message are read. Refuses to know: what an interface is for (`dataplane.network_state`), and
what a network is (`hostagent.networks`). Source: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h,
linux/neighbour.h, linux/nl80211.h, linux/genetlink.h; RFC 3549.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Final

from dataplane.attribution.netlink import Answer, attribute, attributes

RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_GETNEIGH: Final = 30

MAIN_TABLE: Final = 254
_RTN_UNICAST: Final = 1
_NEXT_HOP_DEAD: Final = 1
_NEXT_HOP_LINK_DOWN: Final = 16

_IFINFO: Final = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change
_IFADDR: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, lengths of dst and src, tos, table, protocol, scope, type, flags
_NDMSG: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NEXT_HOP: Final = struct.Struct("=HBBi")  # length, flags, hops, index
_U32: Final = struct.Struct("=I")
_GENERIC: Final = struct.Struct("=BBxx")  # command, version

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER = 1, 3, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_CARRIER = 16, 18, 29, 33
_IFLA_INFO_KIND = 1
_SKIP_STATISTICS: Final = 1 << 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 6, 9, 15, 18
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_USE: Final = 1
_NUD_KNOWN: Final = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # reachable, stale, delay, probe, permanent
_IFA_F_TEMPORARY: Final = 0x01
_IFA_F_UNUSABLE: Final = 0x08 | 0x20 | 0x40  # duplicate, deprecated, tentative

_CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 3, 1, 2
_NL80211_GET_INTERFACE, _NL80211_IFINDEX, _NL80211_SSID = 5, 3, 52

OPERSTATES: Final = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMessage:
    index: int
    name: str
    hardware: int  # ARPHRD_…
    kind: str  # "veth", "wireguard", "tun", "bridge" …; "" for a network card
    is_up: bool
    has_carrier: bool
    operstate: str
    mac: str  # "" for none
    master_index: int  # the bridge or bond that it is part of, 0 for none


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressMessage:
    index: int
    address: str
    prefix: str  # "192.0.2.0/24"
    is_temporary: bool  # RFC 8981


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RouteMessage:
    """A default route's next hop. `router`: "" on a link without routers."""

    family: int  # 4 or 6
    metric: int
    index: int
    router: str


def ask_links() -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATISTICS))


def ask_addresses() -> bytes:
    return _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


def ask_routes(family: int) -> bytes:
    return _RTMSG.pack(_af(family), 0, 0, 0, MAIN_TABLE, 0, 0, 0, 0)


def ask_route_to(address: str) -> bytes:
    packed = _packed(address)
    return _RTMSG.pack(_family_of(packed), len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, packed)


def ask_neighbour(index: int, address: str) -> bytes:
    packed = _packed(address)
    return _NDMSG.pack(_family_of(packed), index, 0, 0, 0) + attribute(_NDA_DST, packed)


def use_neighbour(index: int, address: str) -> bytes:
    """The kernel resolves the address as if somebody had a packet for it."""
    packed = _packed(address)
    return _NDMSG.pack(_family_of(packed), index, 0, _NTF_USE, 0) + attribute(_NDA_DST, packed)


def ask_family(name: str) -> bytes:
    return _GENERIC.pack(_CTRL_GETFAMILY, 1) + attribute(_CTRL_FAMILY_NAME, name.encode() + b"\0")


def ask_wireless(index: int) -> bytes:
    return _GENERIC.pack(_NL80211_GET_INTERFACE, 0) + attribute(_NL80211_IFINDEX, _U32.pack(index))


def read_link(answer: Answer) -> LinkMessage:
    _, hardware, index, flags, _ = _IFINFO.unpack_from(answer.buffer, answer.start)
    found = attributes(answer.buffer, answer.start + _IFINFO.size, answer.end)
    info = found.get(_IFLA_LINKINFO, b"")
    state = found.get(_IFLA_OPERSTATE, b"\0")[0]
    return LinkMessage(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        hardware=hardware,
        kind=_text(attributes(info, 0, len(info)).get(_IFLA_INFO_KIND, b"")),
        is_up=bool(flags & 1),
        has_carrier=found.get(_IFLA_CARRIER, b"\1")[0] == 1,
        operstate=OPERSTATES[state] if state < len(OPERSTATES) else OPERSTATES[0],
        mac=_mac(found.get(_IFLA_ADDRESS, b"")),
        master_index=_number(found.get(_IFLA_MASTER)),
    )


def read_address(answer: Answer) -> AddressMessage | None:
    """None for what cannot be used (yet)."""
    _, length, short_flags, _, index = _IFADDR.unpack_from(answer.buffer, answer.start)
    found = attributes(answer.buffer, answer.start + _IFADDR.size, answer.end)
    flags = _number(found.get(_IFA_FLAGS)) or short_flags
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)  # with a peer, _IFA_ADDRESS is the peer's
    if packed is None or flags & _IFA_F_UNUSABLE:
        return None
    own = ip_interface((packed, length))
    return AddressMessage(
        index=index,
        address=str(own.ip),
        prefix=str(own.network),
        is_temporary=own.version == 6 and bool(flags & _IFA_F_TEMPORARY),
    )


def read_default_routes(answer: Answer) -> Iterator[RouteMessage]:
    """The next hops of a default route of the main table that can be used; nothing for any other route."""
    family, length, _, _, table, _, _, kind, flags = _RTMSG.unpack_from(answer.buffer, answer.start)
    if length or kind != _RTN_UNICAST:
        return
    found = attributes(answer.buffer, answer.start + _RTMSG.size, answer.end)
    if (_number(found.get(_RTA_TABLE)) or table) != MAIN_TABLE:
        return
    metric = _number(found.get(_RTA_PRIORITY))
    version = 4 if family == socket.AF_INET else 6
    hops = (
        _next_hops(found[_RTA_MULTIPATH]) if _RTA_MULTIPATH in found else [(flags, _number(found.get(_RTA_OIF)), found)]
    )
    for hop_flags, index, hop in hops:
        if not hop_flags & (_NEXT_HOP_DEAD | _NEXT_HOP_LINK_DOWN) and index:
            yield RouteMessage(family=version, metric=metric, index=index, router=_router(hop))


def read_outgoing(answer: Answer) -> int:
    """The interface of a route that was asked for by its destination; 0 for none."""
    if _RTMSG.unpack_from(answer.buffer, answer.start)[7] != _RTN_UNICAST:
        return 0
    found = attributes(answer.buffer, answer.start + _RTMSG.size, answer.end)
    return _number(found.get(_RTA_OIF))


def read_neighbour(answer: Answer) -> str:
    """Its MAC, "" as long as nobody knows."""
    state = _NDMSG.unpack_from(answer.buffer, answer.start)[2]
    found = attributes(answer.buffer, answer.start + _NDMSG.size, answer.end)
    return _mac(found.get(_NDA_LLADDR, b"")) if state & _NUD_KNOWN else ""


def read_family(answer: Answer) -> int:
    found = attributes(answer.buffer, answer.start + _GENERIC.size, answer.end)
    data = found.get(_CTRL_FAMILY_ID)
    return int.from_bytes(data, "little" if struct.pack("=H", 1)[0] else "big") if data else 0


def read_ssid(answer: Answer) -> str:
    found = attributes(answer.buffer, answer.start + _GENERIC.size, answer.end)
    return show_ssid(found.get(_NL80211_SSID, b""))


def show_ssid(ssid: bytes) -> str:
    """Any octets are allowed in one: what is no text is shown as numbers, two names never as the same."""
    return ssid.decode("utf-8", "backslashreplace")


def _next_hops(data: bytes) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    start = 0
    while start + _NEXT_HOP.size <= len(data):
        size, flags, _, index = _NEXT_HOP.unpack_from(data, start)
        if size < _NEXT_HOP.size or start + size > len(data):
            return
        yield flags, index, attributes(data, start + _NEXT_HOP.size, start + size)
        start += (size + 3) & ~3


def _router(found: dict[int, bytes]) -> str:
    packed = found.get(_RTA_GATEWAY) or found.get(_RTA_VIA, b"\0\0")[2:]  # an IPv4 route may go by an IPv6 router
    return str(ip_address(packed)) if len(packed) in (4, 16) else ""


def _packed(address: str) -> bytes:
    return ip_address(address.partition("%")[0]).packed


def _family_of(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def _af(family: int) -> int:
    return socket.AF_INET if family == 4 else socket.AF_INET6


def _number(data: bytes | None) -> int:
    return int(_U32.unpack_from(data)[0]) if data is not None and len(data) >= 4 else 0


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _mac(data: bytes) -> str:
    """Only of six octets that say something: tunnels have addresses of other lengths, or zeros."""
    return data.hex(":") if len(data) == 6 and any(data) else ""
