"""What of a network namespace concerns programs at its interfaces: indexes, addresses, and when they change.

Decides: which destinations are nobody's business but the kernel's. Refuses to know: programs, maps and plans.
Source: netdevice(7); rtnetlink(7); RFC 6890 for what is never forwarded.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.links import read_links

Network = IPv4Network | IPv6Network

NEVER_FORWARDED: Final[tuple[Network, ...]] = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("255.255.255.255/32"),
    IPv6Network("fe80::/10"),
    IPv6Network("ff00::/8"),
)

ETHERNET_HEADER_BYTES: Final = 14
_ETHERNET_LIKE: Final = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK (linux/if_arp.h)
_SIOCGIFHWADDR: Final = 0x8927
_IFREQ: Final = struct.Struct("=16sH22x")
_GROUPS: Final = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


def own_addresses() -> frozenset[Network]:
    """Of all interfaces, each as a network of its own. Raises EnvironmentFault."""
    return frozenset(
        ip_network(address.partition("%")[0]) for link in read_links() for address in link.addresses if address
    )


def index_of(name: str) -> int:
    """0: there is no such interface now."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def name_of(index: int, link: str) -> str:
    """Raises EnvironmentFault when there is no such interface."""
    try:
        return socket.if_indextoname(index)
    except OSError as error:
        raise EnvironmentFault("watch interface of", link, f"there is none with index {index}") from error


def header_bytes(name: str) -> int:
    """Of the link layer in front of the IP packet, as programs at that interface meet it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, _IFREQ.pack(name.encode(), 0))
        return ETHERNET_HEADER_BYTES if _IFREQ.unpack(answer)[1] in _ETHERNET_LIKE else 0
    return ETHERNET_HEADER_BYTES


class Changes:
    """Becomes readable when an interface or an address comes or goes."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            self._socket.setblocking(False)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise EnvironmentFault("watch", "interfaces", error.strerror or str(error)) from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> None:
        """Reads all that was said: that something changed is enough, also when some of it was lost."""
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        self._socket.close()
