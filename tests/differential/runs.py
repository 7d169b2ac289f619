"""Whole comparisons: worlds, seeds, and which engines.

    PYTHONPATH=tests python -m differential.runs gateway first --seed 3 --packets 4000 --kernel
    PYTHONPATH=tests python -m differential.runs gateway first --replay SCRIPT

A script is what a failing comparison prints: one event a line. What happened how often is printed at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from differential.events import Engine, Event, read_back
from differential.gateway_engines import (
    CoreEngine,
    NfqueueEngine,
    WatchedCoreEngine,
    counter_file,
    gateway_core,
    in_memory,
)
from differential.gateway_scripts import GatewayScript
from differential.gateway_worlds import GATEWAY_WORLDS, GatewayWorld
from differential.harness import Chance, Coverage, MakeEngines, explained, first_difference, with_end
from differential.host_engines import host_core, host_nfqueue
from differential.host_scripts import HostScript
from differential.host_worlds import HOST_WORLDS, HostWorld
from differential.interfaces import interfaces

SESSION_PACKETS = 4_000
"""Of one pair of fresh engines: short enough to be shortened, long enough for grants to end and prices to move."""

INTERFACES = (1, 2, 3, 4, 5, 6, 7, 99)
"""All that the worlds' packets come by."""


def gateway_engines(world: GatewayWorld, seed: int, *, kernel: bool) -> Sequence[Engine]:
    """The core first; the kernel's programs in place of the NFQUEUE engine, if asked for."""
    counters = in_memory()
    core = gateway_core(world.plan, counters, Chance(seed))
    if kernel:
        from differential.kernel_engines import KernelGatewayEngine

        return WatchedCoreEngine(core, counters), KernelGatewayEngine(world.plan, Chance(seed))
    if world.offloaded:
        return (CoreEngine(core, counters),)  # to the NFQUEUE engine the kernel gives segments
    file = counter_file()
    return CoreEngine(core, counters), NfqueueEngine(gateway_core(world.plan, file, Chance(seed)), file)


def host_engines(world: HostWorld, *, kernel: bool) -> Sequence[Engine]:
    core = host_core(world.plan, punctual=kernel)
    if kernel:
        from differential.kernel_engines import KernelPayerEngine

        return core, KernelPayerEngine(world.plan)
    return (core,) if world.offloaded else (core, host_nfqueue(world.plan, counter_file()))


def maker(side: str, name: str, seed: int, *, kernel: bool) -> MakeEngines:
    """Fresh engines as often as asked."""
    if side == "gateway":
        return lambda: gateway_engines(GATEWAY_WORLDS[name](), seed, kernel=kernel)
    return lambda: host_engines(HOST_WORLDS[name](), kernel=kernel)


def script(side: str, name: str, seed: int, packets: int) -> list[Event]:
    made = GatewayScript(GATEWAY_WORLDS[name](), seed) if side == "gateway" else HostScript(HOST_WORLDS[name](), seed)
    return list(with_end(made.events(packets)))


def compare(side: str, name: str, seeds: Iterable[int], *, kernel: bool, packets: int = SESSION_PACKETS) -> Coverage:
    """A session for each seed. Raises AssertionError with the shortest script on which the engines disagree."""
    coverage = Coverage()
    with around(kernel=kernel):
        for seed in seeds:
            events = script(side, name, seed, packets)
            make = maker(side, name, seed, kernel=kernel)
            engines = make()
            try:
                found = first_difference(engines, events, coverage)
            finally:
                for engine in engines:
                    engine.close()
            if found is not None:
                raise AssertionError(explained(f"{side} {name}", seed, make, events))
    return coverage


def around(*, kernel: bool) -> AbstractContextManager[None]:
    """What the engines need."""
    return interfaces(INTERFACES) if kernel else nullcontext()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="differential.runs", description="Compare engines on the same packets.")
    parser.add_argument("side", choices=("gateway", "host"))
    parser.add_argument("world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--packets", type=int, default=SESSION_PACKETS, help="in each session")
    parser.add_argument("--kernel", action="store_true", help="the eBPF programs instead of NFQUEUE")
    parser.add_argument("--replay", type=Path, help="a file of events, one a line")
    given = parser.parse_args(arguments)
    make = maker(given.side, given.world, given.seed, kernel=given.kernel)
    if given.replay is not None:
        lines = (line for line in given.replay.read_text(encoding="utf-8").splitlines() if line[:1].isdigit())
        with around(kernel=given.kernel):
            print(first_difference(make(), [read_back(line) for line in lines]))
        return 0
    began = time.monotonic()
    seeds = range(given.seed, given.seed + given.sessions)
    coverage = compare(given.side, given.world, seeds, kernel=given.kernel, packets=given.packets)
    print(coverage.table())
    print(f"{coverage.packets:,} packets, no difference, {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
