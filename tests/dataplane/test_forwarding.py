"""Who is behind an interface: real interfaces and namespaces, and a made-up /proc that calls processes containers."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from netns import Namespace, connect

from dataplane.attribution.forwarding import AGE_NS, Forwarding
from dataplane.attribution.interfaces import Interfaces
from dataplane.attribution.processes import Processes
from dataplane.metering import Kind, Program

pytestmark = pytest.mark.netns
HEX = "ab" * 32


@pytest.fixture(scope="module")
def bridge() -> Iterator[tuple[Namespace, Namespace]]:
    """A host with a bridge, and what is behind it."""
    with Namespace() as host, Namespace() as inside:
        host.run("ip", "link", "add", "br9", "type", "bridge")
        connect(host, "ve-web", inside, "eth0")
        host.run("ip", "link", "set", "ve-web", "master", "br9")
        host.run("ip", "link", "add", "here0", "type", "veth", "peer", "name", "here1")
        yield host, inside


def ask(
    host: Namespace, exercise: Callable[[Forwarding], None], processes: Processes | None = None, **options: object
) -> None:
    def inside() -> None:
        with closing(Forwarding(processes or Processes(), **options)) as forwarding:  # type: ignore[arg-type]
            exercise(forwarding)

    host.call(inside)


def contain(proc: Path, process_id: int, group: str, *, start: int = 5, namespace_of: int | None = None) -> None:
    """A process as the real one, but for its control group and its age."""
    directory = proc / str(process_id)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns" / "net").symlink_to(f"/proc/{namespace_of or process_id}/ns/net")
    (directory / "exe").symlink_to("/usr/bin/nginx")
    (directory / "stat").write_text(f"{process_id} (nginx) S 1 1 1 0 -1 0 {'0 ' * 12}{start} 0\n")
    (directory / "status").write_text("Uid:\t0\t0\t0\t0\n")
    (directory / "cgroup").write_text(f"0::{group}\n")


def named(interface: str, **more: str) -> Program:
    return Program(kind=Kind.FORWARDED, interface=interface, **more)  # type: ignore[arg-type]


def test_a_veth_is_called_by_the_container_at_its_other_end(
    bridge: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    host, inside = bridge
    contain(tmp_path, host.pid, "/system.slice/docker.service")
    contain(tmp_path, inside.pid, f"/system.slice/docker-{HEX}.scope")
    contain(tmp_path, 999_999, "/user.slice/session-1.scope", start=3, namespace_of=inside.pid)  # joined from outside

    def exercise(forwarding: Forwarding) -> None:
        expected = named("ve-web", container="ab" * 6, unit=f"docker-{HEX}.scope")
        assert forwarding.behind("ve-web") == expected
        index = forwarding._by_name["ve-web"].interface_index
        assert forwarding.behind(index) == expected

    ask(host, exercise, Processes(proc=tmp_path))


def test_without_a_container_the_unit_of_the_first_process(bridge: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    host, inside = bridge
    contain(tmp_path, inside.pid, "/system.slice/late.service", start=9)
    contain(tmp_path, 999_999, "/system.slice/first.service", start=3, namespace_of=inside.pid)
    ask(
        host,
        lambda forwarding: _equal(forwarding.behind("ve-web"), named("ve-web", unit="first.service")),
        Processes(proc=tmp_path),
    )


def test_the_real_processes_are_found(bridge: tuple[Namespace, Namespace]) -> None:
    host, inside = bridge

    def exercise(forwarding: Forwarding) -> None:
        number = forwarding._interfaces.read()["ve-web"].peer_namespace
        assert number is not None
        program, name = forwarding._behind_veth(number)
        assert program == Processes().program(inside.pid)
        assert name == ""

    ask(host, exercise)


@pytest.mark.parametrize("has_process", [True, False])
def test_a_named_namespace(bridge: tuple[Namespace, Namespace], tmp_path: Path, has_process: bool) -> None:
    host, inside = bridge
    proc, netns = tmp_path / "proc", tmp_path / "netns"
    proc.mkdir()
    netns.mkdir()
    (netns / "other").symlink_to(f"/proc/{host.pid}/ns/net")
    (netns / "lab1").symlink_to(f"/proc/{inside.pid}/ns/net")
    if has_process:
        contain(proc, inside.pid, "/")

    def exercise(forwarding: Forwarding) -> None:
        assert forwarding.behind("ve-web") == named("ve-web", container="lab1")

    ask(host, exercise, Processes(proc=proc), named_namespaces=netns)


def test_bridges_pairs_that_stay_here_and_strangers_have_their_own_names(
    bridge: tuple[Namespace, Namespace],
) -> None:
    def exercise(forwarding: Forwarding) -> None:
        for name in ("br9", "here0", "lo"):
            assert forwarding.behind(name) == named(name)
        assert forwarding.behind("gone0") == named("gone0")
        assert forwarding.behind(4242) == named("")
        assert forwarding.bridge_ports("br9") == ("ve-web",)
        assert forwarding.bridge_ports("here0") == ()
        assert forwarding.bridge_ports("gone0") == ()

    ask(bridge[0], exercise)


def test_a_tap_is_called_by_its_virtual_machine(bridge: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    host, _ = bridge
    contain(tmp_path, 77, r"/machine.slice/machine-qemu\x2d1\x2ddebian.scope/libvirt/emulator")
    for directory in ("fd", "fdinfo"):
        (tmp_path / "77" / directory).mkdir()
    (tmp_path / "77" / "fd" / "30").symlink_to("/dev/net/tun")
    (tmp_path / "77" / "fdinfo" / "30").write_text("pos:\t0\nflags:\t0104002\niff:\tvnet7\n")

    def exercise(forwarding: Forwarding) -> None:
        assert forwarding.behind("vnet7").container == "debian"
        assert forwarding.behind("vnet8") == named("vnet8")

    with _taps(host, "vnet7", "vnet8"):
        ask(host, exercise, Processes(proc=tmp_path))


def test_the_kernel_says_whose_tap_it_is_where_we_look(bridge: tuple[Namespace, Namespace]) -> None:
    host, _ = bridge

    def exercise(forwarding: Forwarding) -> None:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(descriptor, 0x4004_54CA, struct.pack("16sH22x", b"vnet9", 2))  # TUNSETIFF, IFF_TAP
            assert forwarding._behind_tap("vnet9") == Processes().program(os.getpid())
        finally:
            os.close(descriptor)

    ask(host, exercise)


def test_an_answer_holds_for_a_while(bridge: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    host, inside = bridge
    clock = [0]

    def exercise(forwarding: Forwarding) -> None:
        assert forwarding.behind("ve-web").container == ""
        contain(tmp_path, inside.pid, "/lxc.payload.web")
        assert forwarding.behind("ve-web").container == ""
        clock[0] += AGE_NS
        assert forwarding.behind("ve-web").container == "web"

    ask(host, exercise, Processes(proc=tmp_path), now_ns=lambda: clock[0])


def test_addresses_and_statistics_of_interfaces(bridge: tuple[Namespace, Namespace]) -> None:
    host, inside = bridge
    host.run("ip", "link", "set", "br9", "up")
    host.run("ip", "addr", "add", "10.7.0.1/24", "dev", "br9")
    inside.run("ip", "addr", "add", "10.7.0.2/24", "dev", "eth0")
    receiver = host.call(lambda: socket.create_server(("10.7.0.1", 0)))
    sender = inside.call(lambda: socket.create_connection(receiver.getsockname()))
    with receiver, sender:
        sender.sendall(bytes(100))
        with receiver.accept()[0] as accepted:
            assert accepted.recv(100)

    def exercise() -> None:
        with closing(Interfaces()) as interfaces:
            found = interfaces.read()["ve-web"]
            assert found.received_packets >= 4  # ARP, SYN, its acknowledgement, data
            assert found.received_bytes >= 28 + 60 + 52 + 152
            assert (found.kind, found.is_ethernet, found.is_loopback) == ("veth", True, False)
            assert interfaces.addresses()[bytes([10, 7, 0, 1])] == interfaces.read()["br9"].interface_index
            assert interfaces.namespace_number("/proc/self/no such file") is None

    host.call(exercise)


@contextmanager
def _taps(host: Namespace, *names: str) -> Iterator[None]:
    for name in names:
        host.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
    yield
    for name in names:
        host.run("ip", "link", "del", name)


def _equal(left: Program, right: Program) -> None:
    assert left == right
