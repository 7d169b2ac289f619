"""a – r1 – r2 – r3 – b in namespaces, over IPv4 and IPv6, with routers that can be told to misbehave.

Nobody limits ICMP errors here unless told to: what a test sees is what it asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from netns import Namespace, connect

QUIET = (
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
)
DESTINATIONS = {4: "10.8.4.2", 6: "fd08:4::2"}


class ProbedPath:
    """Link n joins the nth and the next one: 10.8.n.1 and fd08:n::1 on its left end, 2 on its right."""

    def __init__(self) -> None:
        self.all = [Namespace() for _ in range(5)]
        self.a, self.r1, self.r2, self.r3, self.b = self.all
        for namespace in self.all:
            namespace.run("sysctl", "-qw", *QUIET, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for number, (left, right) in enumerate(zip(self.all, self.all[1:], strict=False), 1):
            connect(left, "right", right, "left")
            for end, name, host in ((left, "right", 1), (right, "left", 2)):
                end.run("ip", "addr", "add", f"10.8.{number}.{host}/24", "dev", name)
                end.run("ip", "addr", "add", f"fd08:{number}::{host}/64", "dev", name, "nodad")
        for place, namespace in enumerate(self.all):
            if place < 4:
                namespace.run("ip", "route", "add", "default", "via", f"10.8.{place + 1}.2")
                namespace.run("ip", "-6", "route", "add", "default", "via", f"fd08:{place + 1}::2")
            for net in range(1, place):
                namespace.run("ip", "route", "add", f"10.8.{net}.0/24", "via", f"10.8.{place}.1")
                namespace.run("ip", "-6", "route", "add", f"fd08:{net}::/64", "via", f"fd08:{place}::1")
        self._resolve_neighbours()

    def _resolve_neighbours(self) -> None:
        """Permanent ones: a first packet does not wait for anything."""
        for number, (left, right) in enumerate(zip(self.all, self.all[1:], strict=False), 1):
            for here, name, there, peer, host in ((left, "right", right, "left", 2), (right, "left", left, "right", 1)):
                mac = there.run("ip", "-br", "link", "show", peer).split()[2]
                for address in (f"10.8.{number}.{host}", f"fd08:{number}::{host}"):
                    here.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", name, "nud", "permanent")

    def close(self) -> None:
        for namespace in self.all:
            namespace.close()

    @contextlib.contextmanager
    def rules(self, where: Namespace, hook: str, *rules: str) -> Iterator[None]:
        """nftables rules of that hook, as long as the block runs. Forwarding ones see packets towards b alone."""
        lines = "\n".join(('oifname "right" ' if hook == "forward" else "") + rule for rule in rules)
        text = f"table inet probed {{\nchain c {{\ntype filter hook {hook} priority mangle;\n{lines}\n}}\n}}\n"
        where.run("nft", "-f", "-", text=text)
        try:
            yield
        finally:
            where.run("nft", "delete", "table", "inet", "probed")

    @contextlib.contextmanager
    def sysctl(self, where: Namespace, *settings: str) -> Iterator[None]:
        """What was there before comes back."""
        names = [each.partition("=")[0] for each in settings]
        before = [f"{name}={where.run('sysctl', '-n', name).strip()}" for name in names]
        where.run("sysctl", "-qw", *settings)
        try:
            yield
        finally:
            where.run("sysctl", "-qw", *before)

    @contextlib.contextmanager
    def narrow(self, mtu: int) -> Iterator[None]:
        """The link between r2 and r3."""
        for end, name in ((self.r2, "right"), (self.r3, "left")):
            end.run("ip", "link", "set", name, "mtu", str(mtu))
        try:
            yield
        finally:
            for end, name in ((self.r2, "right"), (self.r3, "left")):
                end.run("ip", "link", "set", name, "mtu", "1500")
