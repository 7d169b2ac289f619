"""Network namespaces for tests: each lives as long as its holder process, and that no longer than the test process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")
CLONE_NEWNET = 0x4000_0000
LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace with loopback up. `with Namespace() as a:` or call `close`."""

    def __init__(self) -> None:
        # Killed with us by the kernel. The parent-death signal follows the thread that starts it: keep to the main one.
        arguments = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._holder = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        self.pid = self._holder.pid
        ours = os.readlink("/proc/self/ns/net")
        until_s = time.monotonic() + 10
        while os.readlink(f"/proc/{self.pid}/ns/net") == ours:
            assert time.monotonic() < until_s, "no network namespace: is unshare allowed here?"
            time.sleep(0.002)
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs a program in here."""
        return ["nsenter", "-t", str(self.pid), "-n", *arguments]

    def run(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """The output of a program that ran in here."""
        done = subprocess.run(self.command(*arguments), input=text, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*arguments), **options)

    def call(self, function: Callable[[], Result]) -> Result:
        """Calls it in a thread that is in here: sockets that it opens, and programs that it starts, are in here too."""
        outcome: list[Result] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                self._enter()
                outcome.append(function())
            except BaseException as error:  # handed to the caller, who raises it
                failure.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def thread(self, function: Callable[[], object]) -> threading.Thread:
        """The same without waiting; started."""

        def enter() -> None:
            self._enter()
            function()

        thread = threading.Thread(target=enter)
        thread.start()
        return thread

    def _enter(self) -> None:
        with open(f"/proc/{self.pid}/ns/net", "rb") as file:
            if LIBC.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def connect(left: Namespace, left_name: str, right: Namespace, right_name: str, *, offloads: bool = False) -> None:
    """A veth pair between two namespaces, up; without offloads every packet on it is as on a wire."""
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", str(right.pid))
    for end, name in ((left, left_name), (right, right_name)):
        if not offloads:
            switches = [word for feature in ("tso", "gso", "gro", "tx", "rx", "sg") for word in (feature, "off")]
            end.run("ethtool", "-K", name, *switches)
        end.run("ip", "link", "set", name, "up")


class Routed:
    """a – r – b: 10.9.1.0/24 and fd09:1::/64 on the left, 10.9.2 and fd09:2 on the right; r forwards."""

    def __init__(self, *, offloads: bool = False) -> None:
        self.a, self.r, self.b = Namespace(), Namespace(), Namespace()
        for namespace in (self.a, self.r, self.b):
            for name in ("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"):
                namespace.run("sysctl", "-qw", name)
        connect(self.a, "a0", self.r, "ra", offloads=offloads)
        connect(self.b, "b0", self.r, "rb", offloads=offloads)
        self.r.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for host, name, gateway, number in ((self.a, "a0", "ra", 1), (self.b, "b0", "rb", 2)):
            host.run("ip", "addr", "add", f"10.9.{number}.1/24", "dev", name)
            host.run("ip", "addr", "add", f"fd09:{number}::1/64", "dev", name, "nodad")
            self.r.run("ip", "addr", "add", f"10.9.{number}.2/24", "dev", gateway)
            self.r.run("ip", "addr", "add", f"fd09:{number}::2/64", "dev", gateway, "nodad")
            host.run("ip", "route", "add", "default", "via", f"10.9.{number}.2")
            host.run("ip", "-6", "route", "add", "default", "via", f"fd09:{number}::2")
        self._resolve_neighbours()

    def _resolve_neighbours(self) -> None:
        """Permanent neighbours: a first packet does not wait for anything."""
        for left, left_name, right, right_name, number in (
            (self.a, "a0", self.r, "ra", 1),
            (self.b, "b0", self.r, "rb", 2),
        ):
            for here, name, there, peer, host in (
                (left, left_name, right, right_name, 2),
                (right, right_name, left, left_name, 1),
            ):
                mac = there.run("ip", "-br", "link", "show", peer).split()[2]
                for address in (f"10.9.{number}.{host}", f"fd09:{number}::{host}"):
                    here.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", name, "nud", "permanent")

    def __enter__(self) -> Routed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for namespace in (self.a, self.r, self.b):
            namespace.close()
