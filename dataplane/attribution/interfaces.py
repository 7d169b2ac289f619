"""The interfaces of a network namespace, as the kernel tells anyone by rtnetlink.

Decides: how its messages are read. Refuses to know: who uses an interface. Source: rtnetlink(7), linux/if_link.h
(IFLA_LINK_NETNSID, struct rtnl_link_stats64), linux/net_namespace.h (RTM_GETNSID).

Netlink, not /sys/class/net: that shows the namespace in which it was mounted, which need not be ours. Needs no
privilege.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from dataplane.attribution.netlink import NETLINK_ROUTE, NetlinkSocket, attribute, attributes

ETHERNET_HEADER_BYTES: Final = 14

_RTM_GETLINK: Final = 18
_RTM_GETADDR: Final = 22
_RTM_GETNSID: Final = 90
_IFNAME, _LINK, _MASTER, _LINKINFO, _STATS64, _LINK_NETNSID = 3, 5, 10, 18, 23, 37
_INFO_KIND: Final = 1
_ADDRESS, _LOCAL = 1, 2
_NSID, _NS_FD = 1, 3
_INTERFACE: Final = struct.Struct("=BxHiII")  # family, hardware, index, flags, change
_INTERFACE_ADDRESS: Final = struct.Struct("=BBBBi")  # family, prefix, flags, scope, index
_STATISTICS: Final = struct.Struct("=4Q")  # packets received and sent, bytes received and sent
_S32: Final = struct.Struct("=i")
_HARDWARE_ETHERNET: Final = 1
_FLAG_LOOPBACK: Final = 0x8


class Interface(NamedTuple):
    """`kind`: the driver's own word ("veth", "bridge", "tun", "wireguard"), "" for hardware and loopback.

    peer_namespace: this namespace's number for the one in which the other end is, None if it is here.
    Bytes are at the IP layer: the link-layer header is taken off.
    """

    interface_index: int
    name: str
    kind: str
    is_loopback: bool
    is_ethernet: bool
    master_index: int  # the bridge or bond that it is a port of, 0 without
    peer_index: int  # the other end of a veth pair, the lower interface of a VLAN; 0 without
    peer_namespace: int | None
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


class Interfaces:
    """Asks about the network namespace of the thread that makes it. Raises EnvironmentFault on opening."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> dict[str, Interface]:
        """All, by name."""
        body = _INTERFACE.pack(0, 0, 0, 0, 0)
        found = (
            _interface(answer.buffer, answer.start, answer.end) for answer in self._netlink.dump(_RTM_GETLINK, body)
        )
        return {each.name: each for each in found}

    def addresses(self) -> dict[bytes, int]:
        """The index of the interface that has an address (packed). A link-local one may be on several: on the last."""
        found: dict[bytes, int] = {}
        for answer in self._netlink.dump(_RTM_GETADDR, _INTERFACE_ADDRESS.pack(0, 0, 0, 0, 0)):
            *_, index = _INTERFACE_ADDRESS.unpack_from(answer.buffer, answer.start)
            given = attributes(answer.buffer, answer.start + _INTERFACE_ADDRESS.size, answer.end)
            address = given.get(_LOCAL) or given.get(_ADDRESS)  # of a tunnel, ADDRESS is the other end's
            if address:
                found[address] = index
        return found

    def namespace_number(self, namespace_file: str) -> int | None:
        """This namespace's number for the one that a file such as /proc/PID/ns/net stands for; None: it has none."""
        try:
            descriptor = os.open(namespace_file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            body = bytes(4) + attribute(_NS_FD, struct.pack("=I", descriptor))
            answer = self._netlink.ask(_RTM_GETNSID, body)
        finally:
            os.close(descriptor)
        if answer is None:
            return None
        number = attributes(answer.buffer, answer.start + 4, answer.end).get(_NSID)
        return int(_S32.unpack(number)[0]) if number and _S32.unpack(number)[0] >= 0 else None


def _interface(buffer: bytes, start: int, end: int) -> Interface:
    _, hardware, index, flags, _ = _INTERFACE.unpack_from(buffer, start)
    given = attributes(buffer, start + _INTERFACE.size, end)
    details = given.get(_LINKINFO, b"")
    kind = attributes(details, 0, len(details)).get(_INFO_KIND, b"")
    received, sent, received_bytes, sent_bytes = _STATISTICS.unpack_from(given.get(_STATS64) or bytes(32))
    is_loopback = bool(flags & _FLAG_LOOPBACK)
    # Drivers count the Ethernet header, of a whole segment-offloaded packet only once; tunnels have none.
    header = ETHERNET_HEADER_BYTES if hardware == _HARDWARE_ETHERNET or is_loopback else 0
    return Interface(
        interface_index=index,
        name=_text(given.get(_IFNAME, b"")),
        kind=_text(kind),
        is_loopback=is_loopback,
        is_ethernet=hardware == _HARDWARE_ETHERNET,
        master_index=_number(given.get(_MASTER)),
        peer_index=_number(given.get(_LINK)),
        peer_namespace=_number(given[_LINK_NETNSID]) if _LINK_NETNSID in given else None,
        sent_packets=sent,
        sent_bytes=max(sent_bytes - header * sent, 0),
        received_packets=received,
        received_bytes=max(received_bytes - header * received, 0),
    )


def _number(data: bytes | None) -> int:
    return int(_S32.unpack(data)[0]) if data and len(data) == 4 else 0


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
