"""A person at home who pays: a host with an agent and a secretary, a gateway, and the host at the far end; all real.

What a test says: the secretary's own tables, people's rules, and how the agent reaches the secretary. A program of the
person sends TCP; the agent knows whose program it is, since it counts the same interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from real_gateway import wait_until
from small_lab import SmallLab, small_lab

from gateway.admin import GatewayStatus
from hostagent import api
from lab.audit import ask_gateway
from lab.configurations import Table
from lab.namespaces import end_process
from secretary import messages
from secretary.client import PersonClient
from secretary.messages import Answer, PersonQuestion
from secretary.money.statements import Statement

AnswerT = TypeVar("AnswerT", bound=Answer)

PORT = 7100
TOLL = 20

SCENARIO = f"""
name = "home"
title = "A pays, X earns, B keeps the rest"
statement_interval_s = 1

[[nodes]]
name = "A"
kind = "host"

[[nodes]]
name = "X"
kind = "isp"
as_number = 64512
tolls = [{{ fixed_nanodollars = {TOLL} }}]

[[nodes]]
name = "B"
kind = "host"
share_nanodollars = 1000000

[[links]]
ends = ["A", "X"]

[[links]]
ends = ["X", "B"]
"""

SENDER = """
import socket, sys, time
address, port, packets_per_s, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
with socket.create_connection((address, port)) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        sock.sendall(bytes(1000))
        time.sleep(1 / packets_per_s)
"""
TAKER = """
import socket, sys, threading
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ":" in sys.argv[1] else 2)
def take(sock):
    while sock.recv(65536):
        pass
while True:
    threading.Thread(target=take, args=(server.accept()[0],), daemon=True).start()
"""


def fixed(port: int = PORT, **more: object) -> Table:
    """A rule of the secretary's own file: `TOLL` in each packet to that port."""
    return {
        "name": f"port-{port}",
        "protocol": "tcp",
        "ports": [port],
        "strategy": "fixed",
        "amount_nanodollars": TOLL,
        "grant_nanodollars": 4_000,
        "rate_nanodollars_per_s": 1_000_000,
        "burst_nanodollars": 1_000_000,
        "lifetime_s": 10,
        **more,
    }


class PaidHome:
    """The person's host is A."""

    def __init__(self, lab: SmallLab, directory: Path, family: int) -> None:
        self.lab = lab
        self.family = family
        self.state = directory / "A" / "secretary"
        self.socket = self.state / "secretary.sock"
        self.directory = directory
        self._programs: list[subprocess.Popen[bytes]] = []

    # --- traffic ----------------------------------------------------------------------------------------------------

    def take(self, port: int = PORT) -> None:
        """B takes connections there."""
        command = [sys.executable, "-c", TAKER, self.lab.address("B", self.family), str(port)]
        self._programs.append(self.lab.network["B"].start(command))
        while not self.lab.network["B"].run(["ss", "-H", "-t", "-l", "-n", "sport", "=", f":{port}"]):
            assert self._programs[-1].poll() is None

    def send(self, port: int = PORT, *, packets_per_s: int = 100, seconds: float = 60) -> subprocess.Popen[bytes]:
        address = self.lab.address("B", self.family)
        command = [sys.executable, "-c", SENDER, address, str(port), str(packets_per_s), str(seconds)]
        self._programs.append(self.lab.network["A"].start(command))
        return self._programs[-1]

    def flow(self, port: int = PORT) -> api.Flow | None:
        """The latest to that port, of those that are active."""
        found = [
            flow for flow in self.snapshot().flows if flow.active and flow.flow.endswith(f":{port}") and flow.rate_bit_s
        ]
        return found[-1] if found else None

    def the_flow(self, port: int = PORT) -> api.Flow:
        wait_until(lambda: self.flow(port) is not None)
        flow = self.flow(port)
        assert flow is not None
        return flow

    # --- what the parts say -----------------------------------------------------------------------------------------

    def snapshot(self) -> api.Snapshot:
        found: api.Snapshot = self.lab.snapshot("A")
        return found

    def ask(self, question: PersonQuestion, expected: type[AnswerT]) -> AnswerT:
        """As the person, at the secretary's socket."""

        async def exchange() -> AnswerT:
            async with PersonClient(self.socket) as client:
                return await client.ask(question, expected)

        return asyncio.run(exchange())

    def gateway(self) -> GatewayStatus:
        return ask_gateway(self.directory / "X" / "gateway" / "admin.sock")

    def at_the_gateway(self) -> int:
        """What X counts that it took in from A."""
        return next(link.received_nanodollars for link in self.gateway().links if link.neighbour == "A")

    def statement(self, *by: str) -> Statement:
        """Of yesterday to tomorrow: a test may run at midnight."""
        today = datetime.now().astimezone().date()
        days = (str(today - timedelta(days=1)), str(today + timedelta(days=1)))
        question = messages.AskStatement(first_day=days[0], last_day=days[1], by=by or ("program",))
        return self.ask(question, messages.StatementView).statement

    def budget(self, name: str = "day") -> messages.BudgetLine:
        found = self.ask(messages.AskBudgets(), messages.Budgets).budgets
        return next(line for line in found if line.name == name)

    # --- faults and the end -----------------------------------------------------------------------------------------

    def kill(self, role: str) -> None:
        node = "X" if role == "gateway" else "A"
        process = self.lab.daemons.process_of(node, role)
        process.kill()
        process.wait()

    def restart(self, role: str) -> None:
        self.lab.daemons.restart("X" if role == "gateway" else "A", role)

    def end_programs(self) -> None:
        for process in self._programs:
            end_process(process, patience_s=0)

    def stop_agent(self) -> None:
        """It closes its grants then."""
        process = self.lab.daemons.process_of("A", "agent")
        process.terminate()
        process.wait(timeout=20)


@contextlib.contextmanager
def paid_home(
    directory: Path,
    *,
    family: int = 4,
    secretary: Table | None = None,
    agent: Table | None = None,
    rules: str = "",
    before: Callable[[Path], None] = lambda _directory: None,
) -> Iterator[PaidHome]:
    """`rules`: of the person. `before`: what is to be made before the daemons start."""
    host = directory / "A" / "secretary"
    (host / "rules.d").mkdir(parents=True)
    (host / "rules.d" / "own.toml").write_text(rules, encoding="utf-8")
    quiet = {"quiet": "", "pause_s": 0, "a_day": 50}
    more: dict[tuple[str, str], Table] = {
        ("A", "secretary"): {"questions": quiet, "guard": {"forest": False}, **(secretary or {})},
        ("A", "agent"): {"links": [{"interface": "to-X"}], "discovery": {"gateway": False}, **(agent or {})},
    }
    before(directory)
    with small_lab(directory, family=family, scenario=SCENARIO, more=more) as lab:
        home = PaidHome(lab, directory, family)
        try:
            yield home
        finally:
            home.end_programs()


def within(seconds: float, condition: Callable[[], object]) -> float:
    """Waits for it; how long that took."""
    start_s = time.monotonic()
    wait_until(lambda: bool(condition()), patience_s=seconds)
    return time.monotonic() - start_s
