"""Two hosts on one link, the programs on them, and the arithmetic of rounds.

Decides nothing. "left" is measured; "right" is the other end. Every process that is started here ends here.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.nfqueue import inside
from dataplane.shaping.plan import NO_SHAPING, Rule, ShapedLink, ShapingPlan, TrafficClass

LEFT: Final = {4: "10.9.1.1", 6: "fd09:1::1"}
RIGHT: Final = {4: "10.9.1.2", 6: "fd09:1::2"}
TRAFFIC: Final = str(Path(__file__).parent / "traffic.py")
PATIENCE_S: Final = 60
ROOT: Final = Path(__file__).parents[2]


class Hosts:
    """Both, each a namespace as long as its holder lives; the interfaces are "left" and "right"."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.left, self.right = (
            subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]) for _ in "lr"
        )
        ours, until_s = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
        for host in (self.left, self.right):
            while os.readlink(f"/proc/{host.pid}/ns/net") == ours:
                assert time.monotonic() < until_s, "no network namespace: is unshare allowed here?"
                time.sleep(0.005)
        link = ["ip", "link", "add", "left", "type", "veth", "peer", "name", "right", "netns", str(self.right.pid)]
        inside(self.left.pid, *link)
        for host, name, number in ((self.left, "left", 1), (self.right, "right", 2)):
            for words in (
                f"link set {name} up",
                "link set lo up",
                f"addr add 10.9.1.{number}/24 dev {name}",
                f"addr add fd09:1::{number}/64 dev {name} nodad",
            ):
                inside(host.pid, "ip", *words.split())
        # Nobody hears "port unreachable" about a volley.
        inside(self.left.pid, "iptables", "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
        inside(self.right.pid, "iptables", "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
        for host in (self.left, self.right):
            inside(host.pid, *["ip6tables", "-A", "OUTPUT", "-p", "icmpv6", "--icmpv6-type", "1", "-j", "DROP"])
        self.index = self._index()

    def _index(self) -> int:
        return int(json.loads(inside(self.left.pid, "ip", "-j", "link", "show", "left"))[0]["ifindex"])

    def set_offloads(self, on: bool) -> None:
        switches = [word for feature in ("tso", "gso", "gro") for word in (feature, "on" if on else "off")]
        inside(self.left.pid, "ethtool", "-K", "left", *switches)
        inside(self.right.pid, "ethtool", "-K", "right", *switches)

    def close(self) -> None:
        for host in (self.left, self.right):
            host.kill()
            host.wait()


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="bench-hostplane-") as directory:
        hosts = Hosts(Path(directory))
        try:
            yield hosts
        finally:
            hosts.close()


def start(host: subprocess.Popen[Any], *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A program on a host; killed with us."""
    words = ["setpriv", "--pdeathsig", "KILL", "nsenter", "-t", str(host.pid), "-n", *arguments]
    return subprocess.Popen(words, text=True, **options)


def traffic(host: subprocess.Popen[Any], name: str, *arguments: object) -> subprocess.Popen[str]:
    """One of traffic.py."""
    words = [sys.executable, "-I", TRAFFIC, name, *map(str, arguments)]
    return start(host, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def line_of(process: subprocess.Popen[str]) -> str:
    """Its next line. One that says nothing for a minute is ended."""
    assert process.stdout is not None
    patience = threading.Timer(PATIENCE_S, process.kill)
    patience.start()
    try:
        line = process.stdout.readline()
    finally:
        patience.cancel()
    assert line, f"{process.args!r} ended"
    return line.strip()


def stop(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def result_of(process: subprocess.Popen[str]) -> str:
    """The last line of a program that ends by itself."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        stop(process)
    assert output.strip(), f"{process.args!r} said nothing"
    return output.strip().splitlines()[-1]


@contextmanager
def running(host: subprocess.Popen[Any], name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A server of traffic.py, from when it is ready."""
    process = traffic(host, name, *arguments)
    try:
        line_of(process)
        yield process
    finally:
        stop(process)


class Engine:
    """The process of bench/hostplane/engine.py on the left host."""

    def __init__(self, hosts: Hosts) -> None:
        self._folder = tempfile.mkdtemp(dir=hosts.directory)
        words = [sys.executable, "-m", "bench.hostplane.engine", self._folder]
        self._process = start(hosts.left, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        line_of(self._process)

    def order(self, order: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(line_of(self._process))

    def start(self, name: str, plan: ShapingPlan, *, ticks: bool = False) -> list[str]:
        limits: list[str] = self.order("start", name=name, plan=msgspec.to_builtins(plan), ticks=ticks)
        return limits

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            stop(self._process)


@contextmanager
def engine_on(hosts: Hosts) -> Iterator[Engine]:
    engine = Engine(hosts)
    try:
        yield engine
    finally:
        engine.close()


def plan_of(*classes: TrafficClass, rules: Sequence[Rule] = ()) -> ShapingPlan:
    """On the left host's link."""
    return ShapingPlan(
        classes=(*NO_SHAPING.classes, *classes), rules=tuple(rules), links=(ShapedLink(interface="left"),)
    )


# -- rounds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median and the interval that has the true one in it at 95 % (by ranks; of few rounds: all that was seen)."""

    median: float
    low: float
    high: float
    rounds: int


def spread(samples: Sequence[float]) -> Spread:
    """Sign test: the narrowest symmetric pair of ranks whose coverage is 95 % or more."""
    ordered, count = sorted(samples), len(samples)
    rank, outside = 0, 2 * 0.5**count
    while outside <= 0.05 and rank + 1 < (count + 1) // 2:
        outside += 2 * math.comb(count, rank + 1) * 0.5**count
        if outside > 0.05:
            break
        rank += 1
    return Spread(median=statistics.median(ordered), low=ordered[rank], high=ordered[count - 1 - rank], rounds=count)


def progress(text: str) -> None:
    print(f"  … {text}", file=sys.stderr, flush=True)
