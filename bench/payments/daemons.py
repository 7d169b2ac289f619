"""What the real daemons take while 1 Gbit/s of paid TCP passes: an agent that pays, and its gateway.

Decides nothing. Three hosts of the lab with the processes of the product, started as on real machines; which engine
carries the packets is theirs to choose, and said beside the figures. What the kernel does for a packet is done in the
time of whoever sends, so a part in the kernel shows as nothing here: that is in the other parts of this bench.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.hostplane.hosts import line_of, progress, result_of, stop
from bench.payments.figures import figure_of
from bench.payments.generator import build
from bench.payments.rows import Row
from lab.audit import ask_gateway
from lab.configurations import AGENT, GATEWAY
from lab.daemons import Daemons
from lab.namespaces import Network
from lab.plan import make_plan
from lab.topology import load

LOADED: Final = "daemons at 1 Gbit/s"
IDLE: Final = "daemons, idle"
PORT: Final = 7100
BYTES_PER_S: Final = 125_000_000
SETTLE_S: Final = 3.0
"""Until the agent has learned of the flow, asked its secretary, and pays."""

SCENARIO: Final = f"""
name = "bench"
title = "A pays, X earns, B returns nothing"
statement_interval_s = 10
settlement_threshold_nanodollars = 100_000_000_000

[[nodes]]
name = "A"
kind = "host"

[[nodes.rules]]
name = "stream"
to = "B"
port = {PORT}
amount_nanodollars = 20
sum_nanodollars = 1_000_000_000

[[nodes]]
name = "X"
kind = "isp"
as_number = 64512
tolls = [{{ fixed_nanodollars = 1 }}]

[[nodes]]
name = "B"
kind = "host"
share_nanodollars = 1000000

[[links]]
ends = ["A", "X"]

[[links]]
ends = ["X", "B"]
"""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_WATCHED: Final = (("A", AGENT, "agent"), ("X", GATEWAY, "gateway"))


def measure(directory: Path, *, seconds: float) -> list[Row]:
    """Idle first, then under traffic, `seconds` each."""
    program = build(directory)
    with _lab(directory) as lab:
        processes = lab.processes()
        progress("daemons, idle")
        rows = list(_watch(IDLE, processes, seconds))
        progress("daemons at 1 Gbit/s")
        with lab.traffic(program, SETTLE_S + seconds + 1) as (receiver, sender):
            time.sleep(SETTLE_S)
            paid_before, begun_s = lab.paid_packets(), time.monotonic()
            rows += _watch(LOADED, processes, seconds)
            paid = (lab.paid_packets() - paid_before) / (time.monotonic() - begun_s)
            result_of(sender)
            received, took_ns = map(int, line_of(receiver).split())
    engines = ", ".join(f"{name}: {lab.engine_of(pid)}" for name, pid in processes.items() if "reader" in name)
    arrived = figure_of([received * 8 / took_ns])
    rows.append(Row(section=LOADED, what="TCP payload that arrived", unit="Gbit/s", figure=arrived, note=engines))
    took = figure_of([paid / 1e3])
    return [*rows, Row(section=LOADED, what="payments that the gateway took", unit="kpps", figure=took)]


class _Lab:
    """The three nodes with their daemons."""

    def __init__(self, network: Network, daemons: Daemons, directory: Path) -> None:
        self._network = network
        self._daemons = daemons
        self._directory = directory
        self._commands: dict[int, str] = {}

    def processes(self) -> dict[str, int]:
        """By daemon and what it runs: the daemon itself, its reader, its watchdog."""
        found = {}
        for node, role, name in _WATCHED:
            main = self._daemons.process_of(node, role).pid
            found[f"{name}, main"] = main
            for pid, command in _children(main):
                module = command.partition(" -m ")[2].partition(" ")[0].rpartition(".")[2]
                found[f"{name}, {module or 'helper'}"] = pid
                self._commands[pid] = command
        return found

    def engine_of(self, reader: int) -> str:
        return "eBPF" if "--engine ebpf" in self._commands[reader] else "NFQUEUE"

    def paid_packets(self) -> int:
        """What the gateway counts that it took from A."""
        status = ask_gateway(self._directory / "X" / GATEWAY / "admin.sock")
        return next(link.received_packets for link in status.links if link.neighbour == "A")

    @contextlib.contextmanager
    def traffic(self, program: str, seconds: float) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
        """The receiver at B, and the sender at A, which ends by itself."""
        source, destination = (self._network.plan.address(node, 4) for node in "AB")
        cores = sorted(os.sched_getaffinity(0))
        receiver = self._start("B", program, "receive", destination, PORT, cores[-1])
        sender = None
        try:
            line_of(receiver)
            words = (source, destination, PORT, seconds, cores[0], "-", BYTES_PER_S)
            sender = self._start("A", program, "stream", *words)
            yield receiver, sender
        finally:
            for process in (receiver, sender):
                if process is not None:
                    stop(process)

    def _start(self, node: str, *words: object) -> subprocess.Popen[str]:
        command = self._network[node].argv([str(word) for word in words])
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def _lab(directory: Path) -> Iterator[_Lab]:
    path = directory / "bench.toml"
    path.write_text(SCENARIO)
    with Network(make_plan(load(path))) as network:
        daemons = Daemons(network, family=4, directory=directory, progress=lambda _line: None)
        try:
            daemons.start(lambda: None)
            yield _Lab(network, daemons, directory)
        finally:
            daemons.close()


def _watch(section: str, processes: dict[str, int], seconds: float) -> Iterator[Row]:
    """Parts of a core, and resident memory at the end."""
    before, begun_s = {name: _cpu_s(pid) for name, pid in processes.items()}, time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - begun_s
    for name, pid in processes.items():
        used = figure_of([(_cpu_s(pid) - before[name]) * 100 / took_s])
        note = f"{_resident_mb(pid):.0f} MB resident"
        yield Row(section=section, what=name, unit="% of a core", figure=used, note=note)


def _children(parent: int) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                yield int(entry.name), (entry / "cmdline").read_bytes().decode().replace("\0", " ")


def _cpu_s(pid: int) -> float:
    """In programs and in the kernel for them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
