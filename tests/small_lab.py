"""A host, a gateway and a host, with the real daemons: the least network in which payments travel."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.audit import ask_agent
from lab.configurations import Table
from lab.daemons import Daemons
from lab.namespaces import Network
from lab.plan import make_plan
from lab.topology import load

COMMAND = [sys.executable, "-m", "cli.main"]
PAID_PORT = 7000
UNPAID_PORT = 7001

SCENARIO = """
name = "small"
title = "A pays, X earns, B returns the rest"
statement_interval_s = 1

[[nodes]]
name = "A"
kind = "host"
rules = [{ name = "exchange", to = "B", protocol = "udp", port = 7000, strategy = "fixed", amount_nanodollars = 20 }]

[[nodes]]
name = "X"
kind = "isp"
as_number = 64512
tolls = [{ fixed_nanodollars = 1 }]

[[nodes]]
name = "B"
kind = "host"
share_nanodollars = 1

[[links]]
ends = ["A", "X"]

[[links]]
ends = ["X", "B"]
"""


class SmallLab:
    """`lines`: what the lab said."""

    def __init__(self, network: Network, daemons: Daemons, directory: Path) -> None:
        self.network = network
        self.daemons = daemons
        self.directory = directory

    def address(self, node: str, family: int = 4) -> str:
        return self.network.plan.address(node, family)

    def config(self, node: str, role: str = "agent") -> Path:
        return self.directory / node / role / f"{role}.toml"

    def socket(self, node: str) -> Path:
        return self.daemons.socket_of(node)

    def snapshot(self, node: str):  # type: ignore[no-untyped-def]
        return ask_agent(self.socket(node))

    def run_up(self, config: Path, node: str = "A", prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """`hostagent up` in a node that cannot start: its output and exit code."""
        command = self.network[node].argv([*prefix, *COMMAND, "up", "--config", str(config)])
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    def exchange(
        self, port: int, *, seconds: float, packets_per_s: int = 100, family: int = 4
    ) -> subprocess.Popen[bytes]:
        """Numbered UDP requests from A to B, answered one to one; the process prints `lab.traffic.Counted`."""
        ask = [sys.executable, "-m", "lab.traffic", "ask", self.address("B", family), str(port), str(packets_per_s)]
        return self.network["A"].start([*ask, "100", str(seconds), "1"], stdout=subprocess.PIPE)

    def answer(self, port: int, *, family: int = 4) -> subprocess.Popen[bytes]:
        """Returns when it listens."""
        namespace = self.network["B"]
        process = namespace.start([sys.executable, "-m", "lab.traffic", "answer", self.address("B", family), str(port)])
        while not namespace.run(["ss", "-H", "-u", "-l", "-n", "sport", "=", f":{port}"]):
            assert process.poll() is None
        return process


@contextlib.contextmanager
def small_lab(
    directory: Path,
    *,
    start: bool = True,
    family: int = 4,
    scenario: str = SCENARIO,
    more: Mapping[tuple[str, str], Table] | None = None,
) -> Iterator[SmallLab]:
    """`more`: what a test adds to the daemons' files."""
    path = directory / "small.toml"
    path.write_text(scenario)
    with Network(make_plan(load(path))) as network:
        daemons = Daemons(network, family=family, directory=directory, progress=lambda _line: None, more=more)
        try:
            if start:
                daemons.start(lambda: None)
            yield SmallLab(network, daemons, directory)
        finally:
            daemons.close()
