"""What NetworkManager knows of each interface: metered or not, captive portal or not, DHCP's words. Reads only.

Decides: which of its objects speak of an interface, and when they are asked again. Refuses to know: what follows
(`hostagent.networks.judging`). Source: NetworkManager's D-Bus reference (org.freedesktop.NetworkManager, Device,
DHCP4Config, NMMetered, NMConnectivityState); D-Bus specification (ObjectManager, PropertiesChanged).

Optional: without a system bus, without NetworkManager, or without the package dbus-fast, everything is unknown, with
the reason. The D-Bus code is loaded only where the bus has a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hostagent.networks.leases import (
    ANDROID_METERED,
    GATEWAY_OPTION,
    NO_LEASE,
    Lease,
    addresses_of,
    domains_of,
    gateway_of,
    octets_of,
)
from hostagent.networks.situation import Connectivity, Managed, ManagedDevice, ManagedMetered

LOG = logging.getLogger("hostagent")

ABSENT: Final = "NetworkManager is not there"
NO_BUS: Final = "NetworkManager is not there: no system bus"
NO_PACKAGE: Final = "NetworkManager is not asked: the package dbus-fast is not installed"

RETRY_S: Final = (1.0, 5.0, 30.0, 120.0)
"""Between attempts to reach the bus; the last one again and again."""
SERVICE: Final = "org.freedesktop.NetworkManager"
_DEVICE: Final = f"{SERVICE}.Device"
_WIRELESS: Final = f"{_DEVICE}.Wireless"
_ACCESS_POINT: Final = f"{SERVICE}.AccessPoint"
_ACTIVE: Final = f"{SERVICE}.Connection.Active"
_DHCP4: Final = f"{SERVICE}.DHCP4Config"
_IP4: Final = f"{SERVICE}.IP4Config"
_IP6: Final = f"{SERVICE}.IP6Config"
TELLING: Final = frozenset({SERVICE, _DEVICE, _WIRELESS, _ACTIVE, _DHCP4, _IP4, _IP6})
"""Interfaces whose changes matter; access points tell their signal's strength all the time."""

_CONNECTIVITIES: Final = {
    1: Connectivity.NONE,
    2: Connectivity.PORTAL,
    3: Connectivity.LIMITED,
    4: Connectivity.FULL,
}
_BEST_FIRST: Final = (Connectivity.FULL, Connectivity.PORTAL, Connectivity.LIMITED, Connectivity.NONE)

Objects = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By path, interface and property; values without their variants."""


def managed_of(objects: Objects) -> Managed:
    """What ObjectManager's answer says of each interface."""
    manager = objects.get("/org/freedesktop/NetworkManager", {}).get(SERVICE, {})
    checks = bool(manager.get("ConnectivityCheckEnabled", False))
    devices: dict[str, ManagedDevice] = {}
    for interfaces in objects.values():
        device = interfaces.get(_DEVICE)
        if device is None:
            continue
        name = str(device.get("IpInterface") or device.get("Interface") or "")
        if name:
            devices[name] = _device(objects, interfaces, checks)
    return Managed(absent="", devices=devices)


def _device(objects: Objects, interfaces: Mapping[str, Mapping[str, Any]], checks: bool) -> ManagedDevice:
    device = interfaces[_DEVICE]
    metered = device.get("Metered", 0)
    wireless = interfaces.get(_WIRELESS, {})
    access_point = _follow(objects, wireless.get("ActiveAccessPoint"), _ACCESS_POINT)
    active = _follow(objects, device.get("ActiveConnection"), _ACTIVE)
    families = [_CONNECTIVITIES.get(device.get(f"Ip{family}Connectivity", 0)) for family in (4, 6)]
    connectivity = next((each for each in _BEST_FIRST if each in families), Connectivity.UNKNOWN)
    return ManagedDevice(
        metered=ManagedMetered(metered) if metered in range(5) else ManagedMetered.UNKNOWN,
        connectivity=connectivity if checks else Connectivity.UNKNOWN,
        connection=str(active.get("Id", "")),
        ssid=bytes(access_point.get("Ssid", b"")).decode("utf-8", "backslashreplace"),
        lease=_lease(objects, device),
    )


def _lease(objects: Objects, device: Mapping[str, Any]) -> Lease:
    options = _follow(objects, device.get("Dhcp4Config"), _DHCP4).get("Options", {})
    four = _follow(objects, device.get("Ip4Config"), _IP4)
    six = _follow(objects, device.get("Ip6Config"), _IP6)
    servers = [str(each.get("address", "")) for each in four.get("NameserverData", ())]
    servers += [_packed(each) for each in six.get("Nameservers", ())]
    domains = [*four.get("Domains", ()), *four.get("Searches", ()), *six.get("Domains", ()), *six.get("Searches", ())]
    vendor = str(options.get("vendor_encapsulated_options", options.get("vendor_specific_information", "")))
    lease = Lease(
        domains=domains_of([str(options.get("domain_name", "")), *map(str, domains)]),
        name_servers=addresses_of(servers),
        is_android_metered=ANDROID_METERED in octets_of(vendor),
        gateway=gateway_of(octets_of(str(options.get(f"private_{GATEWAY_OPTION}", "")))),
    )
    if lease == NO_LEASE:
        return NO_LEASE
    return Lease(
        source="NetworkManager",
        domains=lease.domains,
        name_servers=lease.name_servers,
        is_android_metered=lease.is_android_metered,
        gateway=lease.gateway,
    )


def _packed(address: object) -> str:
    data = bytes(address) if isinstance(address, bytes | bytearray | list) else b""
    return ":".join(data[at : at + 2].hex() for at in range(0, 16, 2)) if len(data) == 16 else ""


def _follow(objects: Objects, path: object, interface: str) -> Mapping[str, Any]:
    return objects.get(str(path), {}).get(interface, {})


class NetworkManagerWatch:
    """`managed` is what was said last. `start()` it in a running loop, and `close()` it; it reconnects by itself."""

    def __init__(self, *, address: str = "", heard: Callable[[], None] = lambda: None) -> None:
        """`address`: of the bus, "" for the system's. `heard()`: called after each change of `managed`."""
        self._address = address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "") or _default_address()
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.managed = Managed(absent=NO_BUS)

    def start(self) -> None:
        """Does nothing when it runs."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="network manager")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        attempt = 0
        while True:
            if not _has_socket(self._address):
                self._say(Managed(absent=NO_BUS))
            else:
                try:  # the D-Bus library is loaded only here, where there is a bus
                    from hostagent.networks.manager_bus import BusSession, Unreachable
                except ImportError:
                    self._say(Managed(absent=NO_PACKAGE))
                    return
                try:
                    async with BusSession(self._address) as session:
                        async for objects in session.objects():
                            attempt = 0
                            self._say(managed_of(objects) if objects else Managed(absent=ABSENT))
                except Unreachable as error:
                    self._say(Managed(absent=f"{ABSENT}: {error}"))
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    def _say(self, managed: Managed) -> None:
        if managed == self.managed:
            return
        if managed.absent != self.managed.absent:
            LOG.info("%s", managed.absent or "NetworkManager tells of metered connections and captive portals")
        self.managed = managed
        self._heard()


def _default_address() -> str:
    return "unix:path=/run/dbus/system_bus_socket"


def _has_socket(address: str) -> bool:
    """Addresses of other kinds are believed."""
    paths = [part.removeprefix("unix:path=").partition(",")[0] for part in address.split(";")]
    return any(not path.startswith("/") or Path(path).is_socket() for path in paths)
