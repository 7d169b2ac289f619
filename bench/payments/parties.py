"""The measured parts as the bench holds them: a process for each, in its namespace, that waits for orders.

Decides nothing. A part is made when it is first asked for, and stays loaded; it is attached only while it is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from bench.hostplane.hosts import ROOT, line_of, stop
from bench.payments.network import Network
from bench.payments.plans import Role

END_S: Final = 20
LOG: Final = "log"
LAST_WORDS: Final = 200  # characters


class CannotBeMade(Exception):  # noqa: N818 (named for what it says)
    """A part whose process ended: what it said last."""


class Party:
    """One part. Raises CannotBeMade."""

    def __init__(self, network: Network, role: Role, family: int, host_flows: int) -> None:
        self.role = role
        directory = network.directory / f"{role.name}-{family}"
        directory.mkdir()
        host = network.a if role is Role.HOST else network.r
        words = [role.name, str(directory), str(family), str(host_flows)]
        with (directory / LOG).open("wb") as log:
            self.process: subprocess.Popen[str] = host.start(
                *(sys.executable, "-m", "bench.payments.engine", *words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )
        try:
            line_of(self.process)
        except AssertionError:
            stop(self.process)
            said = (directory / LOG).read_text(errors="replace").strip()
            raise CannotBeMade(said.rpartition("\n")[2][:LAST_WORDS]) from None

    def order(self, order: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"order": order, **arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(line_of(self.process))

    def end(self) -> None:
        """It detaches what it has attached, and ends by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        try:
            self.process.wait(END_S)
        finally:
            stop(self.process)


class Parties:
    """All of them. A host has a table for the flows of one IP version; the others have both.

    `host_flows`: of the generator's, how many a host pays for; it is told of each by a command.
    """

    def __init__(self, network: Network, *, host_flows: int) -> None:
        self._network = network
        self._host_flows = host_flows
        self._made: dict[tuple[Role, int], Party | CannotBeMade] = {}

    def get(self, role: Role, family: int) -> Party:
        """Raises CannotBeMade, each time again."""
        key = role, family if role is Role.HOST else 0
        if key not in self._made:
            try:
                self._made[key] = Party(self._network, *key, self._host_flows)
            except CannotBeMade as fault:
                self._made[key] = fault
        found = self._made[key]
        if isinstance(found, CannotBeMade):
            raise found
        return found

    def faults(self, roles: Iterable[Role], family: int = 4) -> dict[Role, str]:
        """Why a part cannot be made here, by role; those that are not named can."""
        found = {}
        for role in roles:
            try:
                self.get(role, family)
            except CannotBeMade as fault:
                found[role] = str(fault)
        return found

    @contextmanager
    def attached(self, roles: Sequence[Role], family: int) -> Iterator[list[Party]]:
        with ExitStack() as stack:
            chosen = [self.get(role, family) for role in roles]
            for party in chosen:
                party.order("attach")
                stack.callback(party.order, "detach")
            yield chosen

    def close(self) -> None:
        made = [party for party in self._made.values() if isinstance(party, Party)]
        for party in made:
            party.end()
        for party in made:
            party.close()
