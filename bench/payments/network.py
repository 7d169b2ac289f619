"""a – r – b over veth, IPv4 and IPv6, with neighbours that are known: a sends, r forwards, b counts what came.

Decides nothing. Every namespace lives as long as its holder, and that no longer than the bench.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.hostplane.hosts import start
from bench.nfqueue import inside, received_packets
from dataplane.ebpf.libbpf import AttachType, Program, library

SOURCE: Final = {4: "10.9.1.1", 6: "fd09:1::1"}
DESTINATION: Final = {4: "10.9.2.1", 6: "fd09:2::1"}
A_LINK, R_LEFT, R_RIGHT, B_LINK = "a0", "ra", "rb", "b0"
CLONE_NEWNET: Final = 0x4000_0000
SCHED_CLS: Final = 3
START_S: Final = 10
_DROP: Final = b"\xb7\x00\x00\x00\x02\x00\x00\x00\x95\x00\x00\x00\x00\x00\x00\x00"
"""Two instructions: r0 = TC_ACT_SHOT; exit."""
_GO_ON: Final = b"\xb7\x00\x00\x00\xff\xff\xff\xff\x95\x00\x00\x00\x00\x00\x00\x00"
"""Two instructions: r0 = TCX_NEXT; exit."""

Result = TypeVar("Result")


class Host:
    """A network namespace."""

    def __init__(self) -> None:
        # Killed with us by the kernel. The parent-death signal follows the thread that starts it: keep to the main one.
        self.holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
        self.pid = self.holder.pid
        ours, until_s = os.readlink("/proc/self/ns/net"), time.monotonic() + START_S
        while os.readlink(f"/proc/{self.pid}/ns/net") == ours:
            assert time.monotonic() < until_s, "no network namespace: is unshare allowed here?"
            time.sleep(0.002)

    def run(self, words: str) -> str:
        return inside(self.pid, *words.split())

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A program in here; killed with us."""
        return start(self.holder, *words, **options)

    def call(self, function: Callable[[], Result]) -> Result:
        """Calls it in a thread that is in here."""
        outcome: list[Result] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/proc/{self.pid}/ns/net", "rb") as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(function())
            except BaseException as error:  # handed to the caller, who raises it
                failure.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def mac(self, interface: str) -> str:
        return self.run(f"ip -br link show {interface}").split()[2]

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


class Network:
    """The three of them; `directory` is for whatever the bench writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.a, self.r, self.b = Host(), Host(), Host()
        for host in (self.a, self.r, self.b):
            host.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
            host.run("ip link set lo up")
        self.r.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        for end, name, at_router, number in ((self.a, A_LINK, R_LEFT, 1), (self.b, B_LINK, R_RIGHT, 2)):
            end.run(f"ip link add {name} type veth peer name {at_router} netns {self.r.pid}")
            for host, link, last in ((end, name, 1), (self.r, at_router, 2)):
                host.run(f"ip link set {link} up")
                host.run(f"ip addr add 10.9.{number}.{last}/24 dev {link}")
                host.run(f"ip addr add fd09:{number}::{last}/64 dev {link} nodad")
            end.run(f"ip route add default via 10.9.{number}.2")
            end.run(f"ip -6 route add default via fd09:{number}::2")
            for here, link, there, far, last in (
                (end, name, self.r, at_router, 2),
                (self.r, at_router, end, name, 1),
            ):
                for address in (f"10.9.{number}.{last}", f"fd09:{number}::{last}"):
                    here.run(f"ip neigh replace {address} lladdr {there.mac(far)} dev {link} nud permanent")
        self.ethernet = self._ethernet_to_r()
        self._sink_program = tiny_program("bench_drop", _DROP)

    def _ethernet_to_r(self) -> bytes:
        """Destination and source of a frame from a to r."""
        macs = (self.r.mac(R_LEFT), self.a.mac(A_LINK))
        return b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs)

    @contextmanager
    def dropping_at_b(self) -> Iterator[None]:
        """What arrives at b is counted by its interface and goes no further: nobody answers, no socket is needed."""
        index = int(self.b.run(f"ip -o link show {B_LINK}").partition(":")[0])
        link = self.b.call(lambda: self._sink_program.attach(index, AttachType.TCX_INGRESS, where=B_LINK))
        try:
            yield
        finally:
            link.close()

    def arrived_packets(self) -> int:
        return received_packets(self.b.pid, B_LINK)

    def close(self) -> None:
        for host in (self.a, self.r, self.b):
            host.close()


@contextmanager
def network() -> Iterator[Network]:
    with tempfile.TemporaryDirectory(prefix="bench-payments-") as directory:
        built = Network(Path(directory))
        try:
            yield built
        finally:
            built.close()


def go_on_program(name: str) -> Program:
    """Does nothing: what the kernel's counting of a run costs is measured by it."""
    return tiny_program(name, _GO_ON)


def tiny_program(name: str, code: bytes) -> Program:
    instructions = ctypes.create_string_buffer(code, len(code))
    words = ctypes.c_size_t(len(code) // 8)
    descriptor = library().bpf_prog_load(SCHED_CLS, name.encode(), b"GPL", instructions, words, None)
    assert descriptor >= 0, "the kernel refuses a program of two instructions: is this run as root?"
    return Program(descriptor, name)
