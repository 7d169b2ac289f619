"""A host, its modem and a server on the Internet: 20 Mbit/s up, 50 down, 30 ms there and back, and a modem that queues.

Decides nothing. host – modem – wire – server; the modem is two token buckets with long queues, as sold. A kernel may
have no netem: what the distance costs in time is a process between modem and server (`lab.wire`). What the host hands
to its interface as one is single frames on the link, as with hardware. Every process that is started here ends here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.hostplane.hosts import line_of, start, stop
from bench.nfqueue import inside
from lab.wire import Harm, WireOrder, Wires

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = str(Path(__file__).parent / "programs.py")
UP_BIT_S: Final = 20_000_000
DOWN_BIT_S: Final = 50_000_000
MODEM_QUEUE_MS: Final = 400
ONE_WAY_NS: Final = 15_000_000
FRAME_BYTES: Final = 1514

UPLINK: Final = "uplink"
"""The host's interface."""

SERVER: Final = {4: "10.9.2.1", 6: "fd09:2::1"}
CALL_PORT: Final = 5004
PAGE_PORT: Final = 8080
UPLOAD_PORT: Final = 5401
OTHER_UPLOAD_PORT: Final = 5402

CALLER: Final = "caller"
BROWSER: Final = "browser"
BACKUP: Final = "backup"
MIRROR: Final = "mirror"
"""The programs of the household, by the file names that they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modem:
    up_bit_s: int = UP_BIT_S
    down_bit_s: int = DOWN_BIT_S
    queue_ms: int = MODEM_QUEUE_MS
    one_way_ns: int = ONE_WAY_NS

    def queue_words(self, rate_bit_s: int) -> list[str]:
        limit = rate_bit_s * self.queue_ms // 8000
        burst = 2 * FRAME_BYTES
        return f"tbf rate {rate_bit_s}bit burst {burst} limit {limit}".split()


class Rig:
    """`close` ends it all."""

    def __init__(self, directory: Path, modem: Modem) -> None:
        self.directory = directory
        self._modem = modem
        self._left: list[subprocess.Popen[Any]] = []
        self.host, self.modem, self.far, self.server = (self._namespace() for _ in range(4))
        self._connect(self.host, UPLINK, self.modem, "lan")
        self._connect(self.modem, "wan", self.far, "near")
        self._connect(self.server, "net", self.far, "away")
        self._address()
        self.set_rates(modem.up_bit_s, modem.down_bit_s)
        order = WireOrder(name="wire", interfaces=("near", "away"), harm=Harm(delay_ns=modem.one_way_ns), seed=1)
        prompt = ["chrt", "-f", "5"] if _may_be_prompt() else []
        self._errors = (directory / "wires.log").open("wb")
        enter = ["nsenter", "-t", str(self.far.pid), "-n", *prompt]
        self._wires = Wires([order], lambda words: [*enter, *words], self._errors)
        for name in (CALLER, BROWSER, BACKUP, MIRROR):
            shutil.copy(sys._base_executable, directory / name)  # type: ignore[attr-defined]

    def _namespace(self) -> subprocess.Popen[Any]:
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        line_of_empty(process)
        self._left.append(process)
        inside(process.pid, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        inside(process.pid, "ip", "link", "set", "lo", "up")
        return process

    def _connect(self, one: subprocess.Popen[Any], name: str, other: subprocess.Popen[Any], peer: str) -> None:
        words = ["ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", str(other.pid)]
        inside(one.pid, *words)
        for end, interface in ((one, name), (other, peer)):
            # Behind the server's interface a process reads frames: they must be whole, with their checksums.
            plain = ["tso", "gro"] if interface == UPLINK else ["tso", "gso", "gro", "tx"]
            inside(end.pid, "ethtool", "-K", interface, *(word for each in plain for word in (each, "off")))
            inside(end.pid, "ip", "link", "set", interface, "up")

    def _address(self) -> None:
        for end, name, number, last in (
            (self.host, UPLINK, 1, 1),
            (self.modem, "lan", 1, 2),
            (self.modem, "wan", 2, 2),
            (self.server, "net", 2, 1),
        ):
            inside(end.pid, "ip", "addr", "add", f"10.9.{number}.{last}/24", "dev", name)
            inside(end.pid, "ip", "addr", "add", f"fd09:{number}::{last}/64", "dev", name, "nodad")
        inside(self.modem.pid, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for end, number in ((self.host, 1), (self.server, 2)):
            inside(end.pid, "ip", "route", "add", "default", "via", f"10.9.{number}.2")
            inside(end.pid, "ip", "-6", "route", "add", "default", "via", f"fd09:{number}::2")
        self.set_queue("pfifo_fast")
        # A program that ended leaves datagrams behind: nobody is told that nobody listens.
        for tool, kind in (("iptables", "icmp"), ("ip6tables", "icmpv6")):
            words = [tool, "-A", "OUTPUT", "-p", kind]
            inside(self.host.pid, *words, f"--{kind}-type", "destination-unreachable", "-j", "DROP")

    def set_queue(self, kind: str) -> None:
        """Of the host's own interface, which is never what is slow here."""
        inside(self.host.pid, "tc", "qdisc", "replace", "dev", UPLINK, "root", kind)

    def has_queue(self, kind: str) -> bool:
        """Whether this kernel has such a one."""
        words = ["nsenter", "-t", str(self.far.pid), "-n", "tc", "qdisc", "add", "dev", "lo", "root", kind]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def set_rates(self, up_bit_s: int, down_bit_s: int) -> None:
        """Of the modem, while packets pass."""
        for name, rate_bit_s in (("wan", up_bit_s), ("lan", down_bit_s)):
            words = self._modem.queue_words(rate_bit_s)
            inside(self.modem.pid, "tc", "qdisc", "replace", "dev", name, "root", "handle", "1:", *words)

    def on_host(self, name: str, *arguments: object) -> subprocess.Popen[str]:
        """One of the household's programs does its thing."""
        function = {CALLER: "call", BROWSER: "browse", BACKUP: "upload", MIRROR: "upload"}[name]
        home = ["env", f"PYTHONHOME={sys.base_prefix}"]
        words = [*home, str(self.directory / name), "-sS", PROGRAMS, function, *map(str, arguments)]
        return self._started(self.host, words)

    def on_server(self, function: str, *arguments: object) -> subprocess.Popen[str]:
        process = self._started(self.server, [sys.executable, "-I", PROGRAMS, function, *map(str, arguments)])
        line_of(process)
        return process

    def _started(self, end: subprocess.Popen[Any], words: Sequence[str]) -> subprocess.Popen[str]:
        process = start(end, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._left.append(process)
        return process

    def sent_bytes(self) -> int:
        """What left the modem for the Internet so far, with Ethernet's headers."""
        found = json.loads(inside(self.modem.pid, "ip", "-j", "-s", "link", "show", "wan"))
        return int(found[0]["stats64"]["tx"]["bytes"])

    def close(self) -> None:
        for process in reversed(self._left[4:]):
            stop(process)
        self._wires.close()
        self._errors.close()
        for process in self._left[:4]:
            stop(process)


def line_of_empty(process: subprocess.Popen[str]) -> None:
    """Until the process says that it is there."""
    assert process.stdout is not None
    assert process.stdout.readline(), "no network namespace: is unshare allowed here?"


def _may_be_prompt() -> bool:
    found = shutil.which("chrt")
    return (
        found is not None
        and not subprocess.run([found, "-f", "5", "true"], capture_output=True, check=False).returncode
    )


@contextmanager
def rig(modem: Modem | None = None) -> Iterator[Rig]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-uplink-")))
        made = Rig(directory, modem or Modem())
        stack.callback(made.close)
        yield made
