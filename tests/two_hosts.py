"""Two hosts on one link, and small programs that talk over it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netns import Namespace, connect


@dataclass(frozen=True, slots=True)
class Family:
    left: str
    right: str
    url_right: str
    address_bytes: int


HOSTS = {
    4: Family("10.9.1.1", "10.9.1.2", "10.9.1.2", 4),
    6: Family("fd09:1::1", "fd09:1::2", "[fd09:1::2]", 16),
}

SERVE_FILES = """
import http.server, socket, sys, functools
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
Server(("::", 8000), functools.partial(Quiet, directory=sys.argv[1])).serve_forever()
"""

# One request datagram, `size` bytes of answer in datagrams of 1200; a short pause after each few keeps queues short.
SERVE_DATAGRAMS = """
import socket, sys, time
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(("::", 4433))
while True:
    _, peer = server.recvfrom(2048)
    left = int(sys.argv[1])
    while left > 0:
        server.sendto(bytes(min(1200, left)), peer)
        left -= 1200
        if left % (1200 * 16) < 1200: time.sleep(0.0002)
"""

ECHO = """
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(("::", 53))
while True: server.sendto(*server.recvfrom(2048))
"""

UDP_CLIENT = """
use IO::Socket::IP; use Socket;
my ($host, $port, $want) = @ARGV;
my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => 'udp', Type => SOCK_DGRAM) or die "$@";
setsockopt($s, SOL_SOCKET, SO_RCVBUF, 1 << 22);
$s->send("get");
my $got = 0;
while ($got < $want) {
    my $r = ''; vec($r, fileno($s), 1) = 1;
    last unless select($r, undef, undef, 2);
    $s->recv(my $d, 2048); $got += length $d;
    $s->send("ack") if 0;
}
exit($got >= $want * 0.9 ? 0 : 1);
"""

ONE_DATAGRAM = """
use IO::Socket::IP; use Socket;
my ($host, $port, $local) = @ARGV;
my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => 'udp', Type => SOCK_DGRAM,
                            $local ? (LocalPort => $local) : ()) or die "$@";
$s->send("x");
"""

SWEEP = """
use Socket; my ($host, $count) = @ARGV;
socket(my $s, PF_INET, SOCK_DGRAM, 0) or die;
for my $n (1 .. $count) { send($s, "x", 0, sockaddr_in(20000 + $n, inet_aton($host))) or die }
"""


class TwoHosts:
    """`left` and `right`, each with an interface of its own name; IPv4 and IPv6 as in HOSTS.

    wired: between them is the namespace `wire`, with the interfaces "wl" and "wr" for a lab.wire.
    """

    def __init__(self, *, wired: bool = False) -> None:
        self.left, self.right = Namespace(), Namespace()
        self.wire = Namespace() if wired else None
        for end in (self.left, self.right):  # addresses hold at once, and nothing changes a moment later
            end.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        if self.wire is not None:
            connect(self.left, "left", self.wire, "wl")
            connect(self.right, "right", self.wire, "wr")
        else:
            connect(self.left, "left", self.right, "right", offloads=True)
        self._add_addresses()
        self.right.run("iptables", "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
        self.right.run("ip6tables", "-A", "OUTPUT", "-p", "icmpv6", "--icmpv6-type", "1", "-j", "DROP")

    def _add_addresses(self) -> None:
        for end, name, number in ((self.left, "left", 1), (self.right, "right", 2)):
            end.run("ip", "addr", "add", f"10.9.1.{number}/24", "dev", name)
            end.run("ip", "addr", "add", f"fd09:1::{number}/64", "dev", name, "nodad")

    def replace_link(self) -> None:
        """The cable with its interfaces goes, and a second later another one is there with the same names."""
        self.left.run("ip", "link", "del", "left")
        time.sleep(1.2)
        connect(self.left, "left", self.right, "right", offloads=True)
        self._add_addresses()

    def __enter__(self) -> TwoHosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for host in (self.left, self.right, self.wire):
            if host is not None:
                host.close()

    def set_offloads(self, on: bool) -> None:
        switches = [word for feature in ("tso", "gso", "gro") for word in (feature, "on" if on else "off")]
        self.left.run("ethtool", "-K", "left", *switches)
        self.right.run("ethtool", "-K", "right", *switches)

    def cut_into_frames(self) -> None:
        """What a host hands over as one is single frames on the link, as it is with hardware; so is what arrives."""
        for host, name in ((self.left, "left"), (self.right, "right")):
            host.run("ethtool", "-K", name, "tso", "off", "gro", "off")

    def interface_counts(self) -> tuple[int, int, int, int]:
        """Packets and bytes that the right host's interface received from the left one, and sent to it."""
        words = self.right.run("ip", "-s", "-s", "link", "show", "right").split("RX:")[1].split("TX:")
        received, sent = (part.split("\n")[1].split() for part in words)
        return int(received[1]), int(received[0]), int(sent[1]), int(sent[0])

    def wait_for_listener(self, host: Namespace, port: int, *, udp: bool = False) -> None:
        until_s = time.monotonic() + 10
        flags = "-Hlun" if udp else "-Hltn"
        while f":{port} " not in host.run("ss", flags):
            assert time.monotonic() < until_s, f"nobody listens on port {port}"
            time.sleep(0.01)

    def wait_for_interface(self, host: Namespace, name: str) -> None:
        """Until it is up."""
        until_s = time.monotonic() + 10
        while f" {name}" not in host.run("ip", "-o", "-4", "addr", "show", "up"):
            assert time.monotonic() < until_s, f"there is no interface {name}"
            time.sleep(0.01)

    def serve_files(self, sizes: dict[str, int], directory: Path) -> subprocess.Popen[bytes]:
        """On the right host's port 8000, by HTTP."""
        folder = directory / "served"
        folder.mkdir(exist_ok=True)
        for name, size in sizes.items():
            (folder / name).write_bytes(bytes(size))
        process = self.right.popen(sys.executable, "-c", SERVE_FILES, str(folder))
        self.wait_for_listener(self.right, 8000)
        return process

    def serve_datagrams(self, size: int) -> subprocess.Popen[bytes]:
        """On the right host's UDP port 4433."""
        process = self.right.popen(sys.executable, "-c", SERVE_DATAGRAMS, str(size))
        self.wait_for_listener(self.right, 4433, udp=True)
        return process

    def udp_client(self, path: Path, size: int) -> Callable[[str], list[str]]:
        """A program of its own name that gets what `serve_datagrams` serves."""
        shutil.copy("/usr/bin/perl", path)
        return lambda address: [str(path), "-e", UDP_CLIENT, address, "4433", str(size)]

    def one_datagram(self, address: str, port: int, *, local_port: int = 0) -> list[str]:
        return ["/usr/bin/perl", "-e", ONE_DATAGRAM, address, str(port), str(local_port)]

    def port_sweeper(self, count: int) -> list[str]:
        """One datagram to each of `count` ports of the right host, from one socket."""
        return ["/usr/bin/perl", "-e", SWEEP, HOSTS[4].right, str(count)]

    @contextlib.contextmanager
    def name_server(self) -> Iterator[None]:
        """Answers every datagram to the right host's port 53 with itself."""
        process = self.right.popen(sys.executable, "-c", ECHO)
        self.wait_for_listener(self.right, 53, udp=True)
        try:
            yield
        finally:
            stop(process)

    def ask_name_server(self) -> float:
        """Milliseconds until the answer."""

        def ask() -> float:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(5)
                begun_ns = time.monotonic_ns()
                asking.sendto(b"?" * 40, (HOSTS[4].right, 53))
                asking.recv(100)
                return (time.monotonic_ns() - begun_ns) / 1e6

        return self.left.call(ask)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
