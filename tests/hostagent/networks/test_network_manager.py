"""What NetworkManager says, by one contract: a fake one on a bus of its own, and the real one where it is installed.

Both live in namespaces of their own (network, mounts), with their own bus: nothing of this machine is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest
from dbus_fast import PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_property
from netns import Namespace, connect
from scapy.layers.dhcp import BOOTP, DHCP

from hostagent.networks import network_manager
from hostagent.networks.leases import NO_LEASE
from hostagent.networks.network_manager import NO_BUS, NetworkManagerWatch, managed_of
from hostagent.networks.situation import Connectivity, Managed, ManagedMetered

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/>
</policy>
</busconfig>
"""
UUID = "11111111-2222-3333-4444-555555555555"


@contextlib.contextmanager
def a_bus(directory: Path) -> Iterator[str]:
    """A bus of its own; its address."""
    path = directory / "bus"
    (directory / "bus.conf").write_text(BUS.format(socket=path))
    command = ["dbus-daemon", f"--config-file={directory / 'bus.conf'}", "--nofork", "--nopidfile", "--print-address"]
    bus = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert bus.stdout is not None
    try:
        assert bus.stdout.readline()
        yield f"unix:path={path}"
    finally:
        bus.kill()
        bus.wait()
        bus.stdout.close()
        path.unlink(missing_ok=True)


class Told:
    """A watch, and everything that it said."""

    def __init__(self, address: str) -> None:
        self._bell = asyncio.Event()
        self.watch = NetworkManagerWatch(address=address, heard=self._bell.set)
        self.watch.start()

    async def until(self, wanted: Callable[[Managed], bool]) -> Managed:
        async with asyncio.timeout(15):
            while not wanted(self.watch.managed):
                self._bell.clear()
                await self._bell.wait()
        return self.watch.managed


@contextlib.asynccontextmanager
async def told(address: str) -> AsyncIterator[Told]:
    listener = Told(address)
    try:
        yield listener
    finally:
        await listener.watch.close()


class Peer(Protocol):
    """A NetworkManager with a cable on v0."""

    address: str

    async def set_metered(self, word: str) -> None: ...

    async def set_portal(self, is_there: bool) -> None: ...

    async def stop(self) -> None: ...


# -- the fake --------------------------------------------------------------------------------------------------------

SERVICE = "org.freedesktop.NetworkManager"
DEVICE_PATH = "/org/freedesktop/NetworkManager/Devices/2"


class _Manager(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(SERVICE)

    @dbus_property(access=PropertyAccess.READ)
    def ConnectivityCheckEnabled(self) -> "b":  # type: ignore[name-defined]  # noqa: F821, N802, UP037
        return True


class _Device(ServiceInterface):
    def __init__(self) -> None:
        super().__init__(f"{SERVICE}.Device")
        self.metered, self.connectivity = 4, 4

    @dbus_property(access=PropertyAccess.READ)
    def Interface(self) -> "s":  # type: ignore[name-defined]  # noqa: F821, N802, UP037
        return "v0"

    @dbus_property(access=PropertyAccess.READ)
    def Metered(self) -> "u":  # type: ignore[name-defined]  # noqa: F821, N802, UP037
        return self.metered

    @dbus_property(access=PropertyAccess.READ)
    def Ip4Connectivity(self) -> "u":  # type: ignore[name-defined]  # noqa: F821, N802, UP037
        return self.connectivity


class Fake:
    def __init__(self, address: str, bus: MessageBus, device: _Device) -> None:
        self.address = address
        self._bus = bus
        self._device = device

    async def set_metered(self, word: str) -> None:
        self._device.metered = {"yes": 1, "no": 2, "unknown": 4}[word]
        self._device.emit_properties_changed({"Metered": self._device.metered})

    async def set_portal(self, is_there: bool) -> None:
        self._device.connectivity = 2 if is_there else 4
        self._device.emit_properties_changed({"Ip4Connectivity": self._device.connectivity})

    async def stop(self) -> None:
        await self._bus.release_name(SERVICE)


@contextlib.asynccontextmanager
async def fake(directory: Path) -> AsyncIterator[Peer]:
    with a_bus(directory) as address:
        bus = await MessageBus(bus_address=address).connect()
        device = _Device()
        bus.export("/org/freedesktop", ServiceInterface("test.Root"))  # it answers GetManagedObjects for all below
        bus.export("/org/freedesktop/NetworkManager", _Manager())
        bus.export(DEVICE_PATH, device)
        await bus.request_name(SERVICE)
        try:
            yield Fake(address, bus, device)
        finally:
            bus.disconnect()


# -- the real one ----------------------------------------------------------------------------------------------------

CONFIGURATION = """
    [main]
    plugins=keyfile
    dns=none
    rc-manager=unmanaged
    no-auto-default=*
    auth-polkit=false
    [connectivity]
    enabled=true
    uri=http://10.33.0.1:8033/check
    response=here
    interval=600
"""
PROFILE = f"""
    [connection]
    id=Desk
    uuid={UUID}
    type=ethernet
    interface-name=v0
    [ipv4]
    method=manual
    address1=10.33.0.2/24,10.33.0.1
    [ipv6]
    method=disabled
"""
START = """
    set -e
    mount -t sysfs -o ro sysfs /sys  # of this namespace; read-only: there is no udev
    for each in /run/NetworkManager /var/lib/NetworkManager /etc/NetworkManager; do
        mkdir -p $each; mount -t tmpfs none $each
    done
    mkdir -p /etc/NetworkManager/system-connections
    cp $1/NetworkManager.conf /etc/NetworkManager/
    install -m 600 $1/desk.nmconnection /etc/NetworkManager/system-connections/
    exec setpriv --pdeathsig KILL NetworkManager --no-daemon
"""


class Real:
    def __init__(self, address: str, where: Namespace, process: subprocess.Popen[bytes], site: _Site) -> None:
        self.address = address
        self._where = where
        self._process = process
        self._site = site

    async def _nmcli(self, *words: str) -> None:
        command = self._where.command("env", f"DBUS_SYSTEM_BUS_ADDRESS={self.address}", "nmcli", *words)
        done = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, complaint = await done.communicate()
        assert done.returncode == 0, complaint

    async def set_metered(self, word: str) -> None:
        await self._nmcli("connection", "modify", UUID, "connection.metered", word)
        await self._nmcli("device", "reapply", "v0")

    async def set_portal(self, is_there: bool) -> None:
        self._site.is_portal = is_there
        await self._nmcli("networking", "connectivity", "check")

    async def stop(self) -> None:
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)


class _Site:
    """What NetworkManager asks for to see whether the Internet is there; a portal answers something else."""

    def __init__(self, where: Namespace) -> None:
        site = self
        self.is_portal = False

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("X-NetworkManager-Status", "online") if not site.is_portal else None
                self.end_headers()
                self.wfile.write(b"please sign in" if site.is_portal else b"here")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = where.call(lambda: HTTPServer(("10.33.0.1", 8033), Handler))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Phone:
    """A DHCP server that says what Android's tethering does, and our private option."""

    def __init__(self, where: Namespace) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"r0\0")
            made.bind(("", 67))
            made.settimeout(0.05)
            return made

        self._socket = where.call(listen)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                asked = BOOTP(self._socket.recv(2000))
            except TimeoutError:
                continue
            is_discover = ("message-type", 1) in asked[DHCP].options
            options = [
                ("message-type", "offer" if is_discover else "ack"),
                ("server_id", "10.33.0.1"),
                ("lease_time", 3600),
                ("subnet_mask", "255.255.255.0"),
                ("router", "10.33.0.1"),
                ("name_server", "10.33.0.1"),
                ("domain", b"phone.example"),
                (43, b"ANDROID_METERED"),
                (224, b"billpay 10.33.0.1:7500"),
                "end",
            ]
            reply = BOOTP(op=2, xid=asked.xid, flags=0x8000, yiaddr="10.33.0.7", chaddr=asked.chaddr)
            self._socket.sendto(bytes(reply / DHCP(options=options)), ("255.255.255.255", 68))

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()


@contextlib.asynccontextmanager
async def real(directory: Path, *, profile: str = PROFILE) -> AsyncIterator[Peer]:
    for name, text in (("NetworkManager.conf", CONFIGURATION), ("desk.nmconnection", profile), ("start", START)):
        (directory / name).write_text(textwrap.dedent(text).lstrip())
    with a_bus(directory) as address, Namespace() as host, Namespace() as router:
        connect(host, "v0", router, "r0")
        router.run("ip", "addr", "add", "10.33.0.1/24", "dev", "r0")
        site, phone = _Site(router), _Phone(router)
        with (directory / "log").open("wb") as log:
            command = host.command(
                "env",
                f"DBUS_SYSTEM_BUS_ADDRESS={address}",
                *("unshare", "--mount", "sh", str(directory / "start"), str(directory)),
            )
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - it does not wait
        try:
            yield Real(address, host, process, site)
        finally:
            process.kill()
            process.wait()
            site.close()
            phone.close()


is_installed = shutil.which("NetworkManager") is not None and shutil.which("nmcli") is not None
NOT_INSTALLED = "NO REAL NetworkManager WAS ASKED: apt install network-manager"
PEERS = [
    pytest.param(fake, id="fake"),
    pytest.param(
        real,
        id="real",
        marks=[
            pytest.mark.netns,
            pytest.mark.skipif(
                not is_installed, reason="NO REAL NetworkManager WAS ASKED: apt install network-manager"
            ),
        ],
    ),
]


# -- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.expectation(20)
@pytest.mark.parametrize("peer", PEERS)
async def test_metered_and_portal_are_heard_as_they_change(peer: Any, tmp_path: Path) -> None:
    def metered(managed: Managed) -> ManagedMetered | None:
        device = managed.devices.get("v0")
        return device.metered if device is not None else None

    def connectivity(managed: Managed) -> Connectivity | None:
        device = managed.devices.get("v0")
        return device.connectivity if device is not None else None

    async with peer(tmp_path) as manager, told(manager.address) as listener:
        await listener.until(lambda seen: metered(seen) is ManagedMetered.GUESS_NO)
        assert listener.watch.managed.absent == ""
        await listener.until(lambda seen: connectivity(seen) is Connectivity.FULL)
        await manager.set_metered("yes")
        await listener.until(lambda seen: metered(seen) is ManagedMetered.YES)
        await manager.set_metered("no")
        await listener.until(lambda seen: metered(seen) is ManagedMetered.NO)
        await manager.set_portal(True)
        await listener.until(lambda seen: connectivity(seen) is Connectivity.PORTAL)
        await manager.set_portal(False)
        await listener.until(lambda seen: connectivity(seen) is Connectivity.FULL)
        await manager.stop()
        gone = await listener.until(lambda seen: bool(seen.absent))
        assert gone == Managed(absent="NetworkManager is not there")


@pytest.mark.expectation(20)
@pytest.mark.netns
@pytest.mark.skipif(not is_installed, reason=NOT_INSTALLED)
async def test_a_phones_dhcp_server_is_understood_by_way_of_the_real_one(tmp_path: Path) -> None:
    profile = PROFILE.replace("method=manual\n    address1=10.33.0.2/24,10.33.0.1", "method=auto")
    async with real(tmp_path, profile=profile) as manager, told(manager.address) as listener:
        managed = await listener.until(lambda seen: "v0" in seen.devices and seen.devices["v0"].lease != NO_LEASE)
        assert managed.devices["v0"].metered is ManagedMetered.GUESS_YES
        lease = managed.devices["v0"].lease
        assert (lease.source, lease.domains, lease.name_servers) == (
            "NetworkManager",
            ("phone.example",),
            ("10.33.0.1",),
        )
        assert lease.gateway == ("10.33.0.1", 7500)


# -- who is not there ------------------------------------------------------------------------------------------------


def test_without_a_bus_everything_is_unknown_and_no_dbus_code_is_loaded(tmp_path: Path) -> None:
    check = (
        "import asyncio, sys\n"
        "from hostagent.networks.network_manager import NetworkManagerWatch\n"
        "async def main():\n"
        f"    watch = NetworkManagerWatch(address='unix:path={tmp_path}/nowhere')\n"
        "    watch.start()\n"
        "    await asyncio.sleep(0)\n"
        "    await asyncio.sleep(0)\n"
        "    await watch.close()\n"
        "    print(watch.managed.absent, any(name.startswith('dbus') for name in sys.modules))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{NO_BUS} False"


async def test_a_bus_that_comes_goes_and_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_manager, "RETRY_S", (0.05,))
    async with told(f"unix:path={tmp_path}/bus") as listener:
        assert listener.watch.managed.absent == NO_BUS
        with a_bus(tmp_path):
            await listener.until(lambda seen: seen.absent == "NetworkManager is not there")
        await listener.until(lambda seen: seen.absent != "NetworkManager is not there")
        async with fake(tmp_path):
            await listener.until(lambda seen: "v0" in seen.devices)


async def test_a_socket_that_is_no_bus_is_said_in_one_line(tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, tmp_path / "bus")
    async with told(f"unix:path={tmp_path}/bus") as listener:
        gone = await listener.until(lambda seen: seen.absent.startswith("NetworkManager is not there: the system bus"))
        assert "\n" not in gone.absent
    server.close()
    await server.wait_closed()


# -- what the objects mean -------------------------------------------------------------------------------------------


def test_a_phone_a_wifi_name_and_a_modem_are_read() -> None:
    objects: dict[str, dict[str, dict[str, Any]]] = {
        "/org/freedesktop/NetworkManager": {SERVICE: {"ConnectivityCheckEnabled": False}},
        "/wifi": {
            f"{SERVICE}.Device": {
                "Interface": "wlan0",
                "Metered": 3,
                "Ip4Connectivity": 4,
                "ActiveConnection": "/active",
                "Dhcp4Config": "/dhcp",
                "Ip4Config": "/ip4",
                "Ip6Config": "/ip6",
            },
            f"{SERVICE}.Device.Wireless": {"ActiveAccessPoint": "/ap"},
        },
        "/modem": {f"{SERVICE}.Device": {"Interface": "cdc-wdm0", "IpInterface": "wwan0", "Metered": 99}},
        "/ap": {f"{SERVICE}.AccessPoint": {"Ssid": b"Pixel"}},
        "/active": {f"{SERVICE}.Connection.Active": {"Id": "my phone"}},
        "/dhcp": {
            f"{SERVICE}.DHCP4Config": {
                "Options": {
                    "vendor_encapsulated_options": "41:4e:44:52:4f:49:44:5f:4d:45:54:45:52:45:44",
                    "domain_name": "campus.example",
                    "private_224": "62:69:6c:6c:70:61:79:20:31:30:2e:30:2e:30:2e:31",
                }
            }
        },
        "/ip4": {f"{SERVICE}.IP4Config": {"NameserverData": [{"address": "10.0.0.53"}]}},
        "/ip6": {f"{SERVICE}.IP6Config": {"Nameservers": [bytes(15) + b"\1", b"short"], "Searches": ["ra.example"]}},
    }
    managed = managed_of(objects)
    assert managed.absent == ""
    wifi = managed.devices["wlan0"]
    assert (wifi.metered, wifi.ssid, wifi.connection) == (ManagedMetered.GUESS_YES, "Pixel", "my phone")
    assert wifi.connectivity is Connectivity.UNKNOWN  # nobody checks
    assert wifi.lease.is_android_metered
    assert wifi.lease.gateway == ("10.0.0.1", 7414)
    assert wifi.lease.domains == ("campus.example", "ra.example")
    assert wifi.lease.name_servers == ("10.0.0.53", "::1")
    assert managed.devices["wwan0"].metered is ManagedMetered.UNKNOWN
    assert managed_of({}) == Managed(absent="")
