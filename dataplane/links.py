"""What the kernel says of an interface: index, name, MTU, addresses. Reads only.

Decides: nothing. Source: ip-address(8), `ip -json`; netdevice(7).
"""

from __future__ import annotations

import socket

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import kernel_tools


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One interface. Addresses without prefix length; link-local ones are among them."""

    index: int
    name: str
    mtu: int
    is_up: bool
    addresses: tuple[str, ...]


class _Address(msgspec.Struct, frozen=True):
    local: str = ""


class _Shown(msgspec.Struct, frozen=True):
    """What we read of an `ip -json address show` entry."""

    ifindex: int = 0
    ifname: str = ""
    mtu: int = 0
    flags: tuple[str, ...] = ()
    addr_info: tuple[_Address, ...] = ()


def read_link(name: str) -> Link:
    """Raises EnvironmentFault in one line when there is no such interface."""
    try:
        socket.if_nametoindex(name)
    except OSError as error:
        there = ", ".join(sorted(each for _, each in socket.if_nameindex()))
        raise EnvironmentFault("use interface", name, "there is no such interface", f"there are: {there}") from error
    return _read(["dev", name], target=name)[0]


def read_links() -> list[Link]:
    """All interfaces of this network namespace."""
    return _read([], target="interfaces")


class _Options(msgspec.Struct, frozen=True):
    """Of a qdisc that has one rate, in bytes per second."""

    rate: int = 0  # tbf
    bandwidth: int | str = 0  # cake; "unlimited"


class _Qdisc(msgspec.Struct, frozen=True):
    kind: str = ""
    root: bool = False
    options: _Options = _Options()


def read_limit(name: str) -> int | None:
    """The rate, in bits per second, to which somebody has limited what leaves by the interface: a root tbf or cake.

    Whoever puts another qdisc in its place takes that limit over. None: there is none, or no such interface.
    """
    try:
        text = kernel_tools.run(["tc", "-json", "qdisc", "show", "dev", name], operation="read", target=name)
    except EnvironmentFault:
        return None
    for qdisc in msgspec.json.decode(text, type=list[_Qdisc]):
        bandwidth = qdisc.options.bandwidth
        rate = qdisc.options.rate or (bandwidth if isinstance(bandwidth, int) else 0)
        if qdisc.root and qdisc.kind in ("tbf", "cake") and rate:
            return rate * 8
    return None


def _read(selection: list[str], *, target: str) -> list[Link]:
    text = kernel_tools.run(["ip", "-json", "address", "show", *selection], operation="read", target=target)
    # An interface that the selection leaves out is shown as an empty object.
    shown = [each for each in msgspec.json.decode(text, type=list[_Shown]) if each.ifindex]
    return [
        Link(
            index=each.ifindex,
            name=each.ifname,
            mtu=each.mtu,
            is_up="UP" in each.flags,
            addresses=tuple(address.local for address in each.addr_info if address.local),
        )
        for each in shown
    ]
