"""The real agent in the host's namespace: a process, with a configuration as its user would write it.

Decides: what the agent is told. All that the bench says to it is said here.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.hostplane.hosts import start
from bench.uplink.rig import BACKUP, BROWSER, CALLER, MIRROR, ROOT, UPLINK, Rig
from hostagent import api
from hostagent.client import LocalClient

START_S: Final = 20
KINDS: Final = {CALLER: "call", BROWSER: "web", BACKUP: "backup", MIRROR: "backup"}
"""As the shipped table has the programs that they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The line's rates, as a user knows them; None: the agent is to find out."""

    up_bit_s: int | None = None
    down_bit_s: int | None = None


def configuration_of(rig: Rig, state: Path, told: Told) -> str:
    """The file."""
    lines = ["[agent]", 'name = "household"', f'state_directory = "{state}"', 'engine = "ebpf"']
    if told.up_bit_s or told.down_bit_s:
        lines += ["[[networks]]", f'match = "{UPLINK}"']
    if told.up_bit_s:
        lines.append(f"egress_bit_s = {told.up_bit_s}")
    if told.down_bit_s:
        lines.append(f"ingress_bit_s = {told.down_bit_s}")
    for program, kind in KINDS.items():
        lines += ["[[rules]]", f'class = "{kind}"', f'program = "{rig.directory / program}"']
    return "\n".join([*lines, ""])


class Agent:
    """`hostagent up` until `close`."""

    def __init__(self, rig: Rig, told: Told) -> None:
        self._rig = rig
        self._state = rig.directory / "state"
        self._socket = self._state / api.SOCKET_NAME
        self._log = rig.directory / "log"
        config = rig.directory / "hostagent.toml"
        config.write_text(configuration_of(rig, self._state, told))
        self._socket.unlink(missing_ok=True)
        self._process = self._start(config)

    def _start(self, config: Path) -> subprocess.Popen[Any]:
        with self._log.open("ab") as log:
            words = [sys.executable, "-m", "cli.main", "up", "--config", str(config)]
            process = start(self._rig.host, *words, stdout=log, stderr=log, cwd=ROOT)
        until_s = time.monotonic() + START_S
        while not self._socket.exists():
            assert process.poll() is None, self._log.read_text()
            assert time.monotonic() < until_s, "the agent does not get up"
            time.sleep(0.02)
        return process

    def set_worths(self, worths: Mapping[str, int]) -> None:
        """What a megabyte of each program is worth from now on: the words of a person, by the local API."""

        async def say() -> None:
            async with LocalClient(self._socket) as client:
                for program, worth in worths.items():
                    path = str(self._rig.directory / program)
                    await client.set_worth(api.WorthChange(program=path, nanodollars_per_mb=worth))

        asyncio.run(say())

    def snapshot(self) -> api.Snapshot:
        async def ask() -> api.Snapshot:
            async with LocalClient(self._socket) as client:
                return await client.snapshot()

        return asyncio.run(ask())

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()


@contextmanager
def agent_on(rig: Rig, told: Told) -> Iterator[Agent]:
    agent = Agent(rig, told)
    try:
        yield agent
    finally:
        agent.close()
