"""What an agent costs that only watches: how soon it shows a flow, how busy it is when nothing happens, its memory.

    python -m bench.footprint [--seconds 60] [--json]

It runs as a person starts it, without any configuration, in a network of its own: first with a program that sends a
little all the time, for the start; then with nobody sending, for the rest. The start is beside that of the same Python
that only imports aiohttp, the largest library the agent needs, so that the machine's own speed can be told from ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.hostplane.hosts import RIGHT, ROOT, Hosts, start, stop, two_hosts
from bench.nfqueue import inside
from dataplane.ceilings import read_usage
from hostagent import api
from hostagent.client import LocalClient, Unreachable, ask

STARTS: Final = 5
PATIENCE_S: Final = 20
SETTLE_S: Final = 10
SENDER: Final = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    out.sendto(b"x", (sys.argv[1], 9))
    time.sleep(0.05)
"""


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from the start of the command to its first flow; parts of a core; bytes."""

    first_flow_ms: float
    baseline_start_ms: float
    idle_cpu_percent: float
    memory_mb: float
    idle_s: int


def measure(seconds: int) -> Footprint:
    with two_hosts() as hosts:
        for words in ("ip route add default via 10.9.1.2", "ip -6 route add default via fd09:1::2"):
            inside(hosts.left.pid, *words.split())
        starts = [_first_flow_ms(hosts, number) for number in range(STARTS)]
        cpu_percent, memory_mb = _idle(hosts, seconds)
    return Footprint(
        first_flow_ms=statistics.median(starts),
        baseline_start_ms=statistics.median(_import_ms() for _ in range(STARTS)),
        idle_cpu_percent=cpu_percent,
        memory_mb=memory_mb,
        idle_s=seconds,
    )


def _up(hosts: Hosts, name: str) -> tuple[subprocess.Popen[Any], Path]:
    state = hosts.directory / name
    words = [sys.executable, "-m", "cli.main", "up", "--service", "--observe"]
    places = ["--state-directory", str(state), "--socket", str(state / api.SOCKET_NAME)]
    process = start(hosts.left, *words, *places, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return process, state / api.SOCKET_NAME


def _first_flow_ms(hosts: Hosts, number: int) -> float:
    sender = start(hosts.left, sys.executable, "-c", SENDER, RIGHT[4])
    begun_s = time.monotonic()
    process, socket = _up(hosts, f"start{number}")
    try:
        while not _flows(socket):
            assert time.monotonic() - begun_s < PATIENCE_S, "no flow is shown"
            time.sleep(0.02)
        return (time.monotonic() - begun_s) * 1000
    finally:
        _end(process)
        stop(sender)


def _flows(socket: Path) -> tuple[api.Flow, ...]:
    try:
        return ask(socket, LocalClient.flows)
    except Unreachable:
        return ()


def _idle(hosts: Hosts, seconds: int) -> tuple[float, float]:
    process, socket = _up(hosts, "idle")
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not socket.exists():
            assert time.monotonic() < until_s, "the agent does not get up"
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        proc = Path(f"/proc/{process.pid}")  # setpriv and nsenter have become the program
        before = read_usage(time.monotonic_ns(), proc)
        time.sleep(seconds)
        after = read_usage(time.monotonic_ns(), proc)
        return (after.cpu_ns - before.cpu_ns) * 100 / (after.now_ns - before.now_ns), after.memory_bytes / 1e6
    finally:
        _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    process.wait(PATIENCE_S)


def _import_ms() -> float:
    begun_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import aiohttp.web"], check=True, env=dict(os.environ))
    return (time.monotonic() - begun_s) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.footprint", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="of idling; default 60")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options, _ = parser.parse_known_args()
    found = measure(options.seconds)
    if options.json:
        print(json.dumps(msgspec.to_builtins(found)))
        return
    table = Table("", "measured", "goal", title="An agent that only watches")
    times = found.first_flow_ms / found.baseline_start_ms
    table.add_row("start to first flow", f"{found.first_flow_ms:.0f} ms ({times:.1f} × importing aiohttp)", "2000 ms")
    table.add_row(f"CPU over {found.idle_s} s, idle", f"{found.idle_cpu_percent:.2f} % of a core", "1 %")
    table.add_row("resident memory", f"{found.memory_mb:.0f} MB", "80 MB")
    Console().print(table)


if __name__ == "__main__":
    main()
