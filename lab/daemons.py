"""The real daemons of a scenario: started in their namespaces, killed and restarted by its steps, asked for their
books, ended.

Decides: when all of them are ready.  Everything goes through files, command lines and sockets, as on real machines;
`lab.configurations` says what is in the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from billpay.errors import EnvironmentFault
from dataplane.ebpf.kernel_counters import fold_pinned
from dataplane.payment_engines import WantedPaymentEngine
from dataplane.payment_plane import COUNTERS_NAME
from dataplane.supervisor import Health
from gateway.admin import reload
from lab.audit import LEGACY, ask_agent, ask_gateway, gateway_books, host_books
from lab.books import NodeBooks
from lab.configurations import (
    AGENT,
    GATEWAY,
    SECRETARY,
    Configurations,
    Places,
    Table,
    roles_of,
    to_toml,
    with_more,
)
from lab.namespaces import Network, end_process
from lab.plan import Plan
from lab.topology import Node, Scenario
from neighbour.identity import NodeIdentity
from secretary.keys.keeper import SEALED_FILE, Keeper

START_S = 30.0
STOP_S = 8.0
POLL_S = 0.05
AGREED = "agreed"
_VERBS = {GATEWAY: ["gateway", "run"], SECRETARY: ["secretary", "run"], AGENT: ["up"]}
_LAST_WORDS = 300  # characters
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)$", re.MULTILINE)

Progress = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Daemon:
    """One process of the product."""

    node: str
    role: str
    arguments: list[str]
    log_path: Path
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = field(default=None, repr=False)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """Its process, of which something is wanted."""
        assert self.process is not None, f"{self.role} of {self.node} was never started"
        return self.process

    def last_words(self) -> str:
        """The last line of its log: mostly why it did not start."""
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError as fault:
            return f"it has no log: {fault.strerror}"
        return lines[-1][:_LAST_WORDS] if lines else "it said nothing"


class Daemons:
    """All daemons of a network. `close()` ends them in order and waits."""

    def __init__(
        self,
        network: Network,
        *,
        family: int,
        directory: Path,
        progress: Progress,
        more: Mapping[tuple[str, str], Table] | None = None,
        engine: WantedPaymentEngine = "auto",
    ) -> None:
        """`more`: what the files of a node's role say beside, or instead of, what the scenario does."""
        self._network = network
        self._engine: WantedPaymentEngine = engine
        self._more = more or {}
        self._plan: Plan = network.plan
        self._family = family
        self._directory = directory
        self._places = Places(directory=directory)
        self._progress = progress
        self._check: Callable[[], None] = lambda: None
        self._daemons: dict[tuple[str, str], Daemon] = {}
        self._certificates: dict[tuple[str, str], str] = {}
        self._last_books: dict[str, NodeBooks] = {}

    # --- start, faults, end -----------------------------------------------------------------------------------------

    def start(self, check: Callable[[], None]) -> None:
        """Returns when every daemon answers and every neighbour has agreed; `check` is called again and again and may
        raise. Raises EnvironmentFault that names a daemon which is not ready in time, with its last words."""
        self._check = check
        self._write_configurations()
        self._progress(f"starting {len(self._daemons)} daemons")
        for role in (GATEWAY, SECRETARY, AGENT):
            for daemon in self._of(role):
                self._spawn(daemon)
        deadline_s = time.monotonic() + START_S
        for role in (GATEWAY, SECRETARY, AGENT):
            for daemon in self._of(role):
                self._await_ready(daemon, deadline_s)

    def kill(self, node: str, signal_name: str) -> None:
        """KILL or STOP to the main process of the node's gateway or agent."""
        process = self._main(node).running
        process.send_signal(signal.Signals[f"SIG{signal_name}"])
        if signal_name == "KILL":
            process.wait()

    def restart(self, node: str, role: str = "") -> None:
        """Of the node's gateway or agent, or of the role that is named. Returns when it is ready, as `start` does."""
        daemon = self._daemons[node, role] if role else self._main(node)
        end_process(daemon.running, patience_s=0.0)
        self._spawn(daemon)
        self._await_ready(daemon, time.monotonic() + START_S)

    def change(self, node: str, scenario: Scenario) -> None:
        """The node's gateway reads its file again, as it would be for this scenario."""
        plan = dataclasses.replace(self._plan, scenario=scenario)
        self._write(scenario.node(node), GATEWAY, self._configurations_for(plan))
        asyncio.run(reload(self._places.admin_socket(node)))

    def main_pid(self, node: str) -> int:
        return self._main(node).running.pid

    def process_of(self, node: str, role: str) -> subprocess.Popen[bytes]:
        return self._daemons[node, role].running

    def socket_of(self, node: str) -> Path:
        """The local API of a host's agent."""
        return self._places.agent_socket(node)

    def close(self) -> None:
        """SIGTERM to all, some patience, then SIGKILL; agents first, since they still close their grants then."""
        for roles in ((AGENT,), (SECRETARY, GATEWAY)):
            chosen = [daemon for role in roles for daemon in self._of(role) if daemon.process is not None]
            for daemon in chosen:
                if daemon.running.poll() is None:
                    daemon.running.send_signal(signal.SIGCONT)
                    daemon.running.terminate()
            deadline_s = time.monotonic() + STOP_S
            for daemon in chosen:
                end_process(daemon.running, patience_s=max(0.01, deadline_s - time.monotonic()))
        for daemon in self._daemons.values():
            if daemon.log is not None:
                daemon.log.close()
            with contextlib.suppress(EnvironmentFault):  # one that had to be killed leaves its counters in the kernel
                fold_pinned(self._places.of(daemon.node, daemon.role) / COUNTERS_NAME)

    def _of(self, role: str) -> list[Daemon]:
        return [daemon for daemon in self._daemons.values() if daemon.role == role]

    def _main(self, node: str) -> Daemon:
        return self._daemons.get((node, GATEWAY)) or self._daemons[node, AGENT]

    def _spawn(self, daemon: Daemon) -> None:
        if daemon.log is None:
            daemon.log = daemon.log_path.open("ab")
        command = [sys.executable, "-m", "cli.main", *daemon.arguments]
        daemon.process = self._network[daemon.node].start(command, stdout=daemon.log, stderr=daemon.log)

    def _await_ready(self, daemon: Daemon, deadline_s: float) -> None:
        name = f"{daemon.role} of {daemon.node}"
        while True:
            self._check()
            if daemon.running.poll() is not None:
                raise EnvironmentFault("start", name, daemon.last_words(), f"see {daemon.log_path}")
            waits_for = self._not_ready(daemon)
            if not waits_for:
                return
            if time.monotonic() > deadline_s:
                cause = f"not ready after {START_S:.0f} s ({waits_for}); its last words: {daemon.last_words()}"
                raise EnvironmentFault("start", name, cause, f"see {daemon.log_path}")
            time.sleep(POLL_S)

    def _not_ready(self, daemon: Daemon) -> str:
        """What is still missing; "" when it is ready."""
        try:
            match daemon.role:
                case "secretary":
                    return "" if self._places.secretary_socket(daemon.node).exists() else "no socket yet"
                case "gateway":
                    status = ask_gateway(self._places.admin_socket(daemon.node))
                    if status.data_plane != Health.RUNNING.value:
                        return f"packets: {status.data_plane}"
                    return _no_agreement([(link.neighbour, link.state) for link in status.links])
                case _:
                    accounts = ask_agent(self._places.agent_socket(daemon.node)).accounts
                    return _no_agreement([(link.neighbour, link.state) for link in accounts.links])
        except EnvironmentFault as fault:
            return str(fault.cause)

    def _write_configurations(self) -> None:
        """Everybody's identity first, since the files name each other's certificates."""
        scenario = self._plan.scenario
        places = [(node, role, self._places.of(node.name, role)) for node in scenario.nodes for role in roles_of(node)]
        self._certificates = {
            (node.name, role): str(_identity_of(node.name, role, directory).certificate_path)
            for node, role, directory in places
        }
        configurations = self._configurations_for(self._plan)
        for node, role, _ in places:
            path = self._write(node, role, configurations)
            self._daemons[node.name, role] = Daemon(
                node=node.name,
                role=role,
                arguments=[*_VERBS[role], "--config", str(path)],
                log_path=self._directory / f"{node.name}-{role}.log",
            )

    def _configurations_for(self, plan: Plan) -> Configurations:
        return Configurations(
            plan,
            family=self._family,
            places=self._places,
            certificate=lambda node, role: self._certificates[node, role],
            engine=self._engine,
        )

    def _write(self, node: Node, role: str, configurations: Configurations) -> Path:
        path = self._places.of(node.name, role) / f"{role}.toml"
        table = with_more(configurations.table(node, role), self._more.get((node.name, role), {}))
        path.write_text(to_toml(table), encoding="utf-8")
        return path

    def tracebacks(self) -> tuple[str, ...]:
        """What the logs show of our own bugs: one line for each kind at each daemon."""
        found: dict[str, None] = {}
        for daemon in self._daemons.values():
            try:
                text = daemon.log_path.read_text(encoding="utf-8", errors="replace") if daemon.log else ""
            except OSError as fault:  # somebody tidied up behind our back: nobody can say any more what was in it
                found[f"{daemon.role} of {daemon.node}: no log to look at: {fault.strerror}"] = None
                continue
            found |= dict.fromkeys(f"{daemon.role} of {daemon.node}: {line}" for line in exceptions_in(text))
        return tuple(found)

    # --- books ------------------------------------------------------------------------------------------------------

    def books(self) -> dict[str, NodeBooks]:
        """What every node says now. One that does not answer keeps what it said last, which then counts as not agreed
        with anybody."""
        for node, role in self._daemons:
            try:
                if role == GATEWAY:
                    self._last_books[node] = gateway_books(node, ask_gateway(self._places.admin_socket(node)))
                elif role == AGENT:
                    self._last_books[node] = host_books(node, ask_agent(self._places.agent_socket(node)))
            except EnvironmentFault:
                if node in self._last_books:
                    self._last_books[node] = dataclasses.replace(self._last_books[node], statements_agree=False)
        return dict(self._last_books)


def _identity_of(node: str, role: str, directory: Path) -> NodeIdentity:
    """Made where its daemon finds it at its start; the secretary's is sealed from the beginning."""
    if role == SECRETARY:
        return Keeper(directory, name=node, store=SEALED_FILE).identity
    return NodeIdentity.load_or_create(directory, name=node)


def exceptions_in(log: str) -> list[str]:
    """The last line of each traceback: which exception it was."""
    return [line.strip()[:_LAST_WORDS] for line in _TRACEBACK.findall(log)]


def _no_agreement(links: Sequence[tuple[str, str]]) -> str:
    waiting = [f"{name}: {state}" for name, state in links if not state.startswith((AGREED, LEGACY))]
    return "; ".join(waiting)
