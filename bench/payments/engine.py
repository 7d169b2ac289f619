"""One measured part in a process of its own, in the namespace that it was started in; orders come on standard input.

Decides nothing. Each order is a line of JSON and has a line as its answer; the process ends with its input, and what it
attached to the kernel ends with it. `python -m bench.payments.engine ROLE DIRECTORY FAMILY FLOWS`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.payments.network import A_LINK, R_LEFT, go_on_program
from bench.payments.parts import Part, part_of
from bench.payments.plans import Role
from dataplane.ebpf.libbpf import AttachType, Link, counting_run_time

EMPTY: Final = "an empty program"


class Session:
    """One part, attached or not; and an empty program beside it while run time is counted."""

    def __init__(self, role: Role, part: Part) -> None:
        self._part = part
        self._interface, self._kind = (
            (A_LINK, AttachType.TCX_EGRESS) if role is Role.HOST else (R_LEFT, AttachType.TCX_INGRESS)
        )
        self._empty = go_on_program("bench_empty")
        self._counting: list[Link] = []
        self._is_attached = False
        self.orders: dict[str, Callable[..., Any]] = {
            "attach": self.attach,
            "detach": self.detach,
            "count_runs": self.count_runs,
            "stop_counting": self.stop_counting,
            "runs": self.runs,
            "paid_packets": lambda: self._part.paid_packets(),
            "price_to_effect_ns": self.price_to_effect_ns,
        }

    def attach(self) -> None:
        self._part.attach()
        self._is_attached = True

    def detach(self) -> None:
        self._is_attached = False
        self._part.detach()

    def count_runs(self) -> None:
        """The kernel's own statistics, from now on, of the part's programs and of an empty one at the same packets."""
        index = socket.if_nametoindex(self._interface)
        self._counting = [counting_run_time(), self._empty.attach(index, self._kind, where=self._interface)]

    def stop_counting(self) -> None:
        for link in self._counting:
            link.close()
        self._counting = []

    def runs(self) -> dict[str, tuple[int, int]]:
        """Runs and nanoseconds so far, by program."""
        programs = {**self._part.programs, EMPTY: self._empty}
        return {name: program.statistics() for name, program in programs.items()}

    def price_to_effect_ns(self, trials: int, core: int) -> list[int]:
        """On this core, which is not the sender's where there are two: they must not wait for each other."""
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            return self._part.price_to_effect_ns(trials)
        finally:
            os.sched_setaffinity(0, cores)

    def on_time(self) -> float:
        """Does what is due; seconds until the next time."""
        return self._part.on_time(time.monotonic_ns()) if self._is_attached else 1.0

    def close(self) -> None:
        self.stop_counting()
        if self._is_attached:
            self.detach()
        self._part.close()


def serve(role: Role, directory: Path, family: int, flows: int) -> None:
    session = Session(role, part_of(role, directory, family, flows))
    print("ready", flush=True)
    try:
        while True:
            readable, _, _ = select.select([sys.stdin], [], [], session.on_time())
            if not readable:
                continue
            line = sys.stdin.readline()  # one order at a time: the next comes after its answer
            if not line:
                return
            order = json.loads(line)
            answer = session.orders[order.pop("order")](**order)
            print(json.dumps(answer), flush=True)
    finally:
        session.close()


if __name__ == "__main__":
    serve(Role[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
