"""`python -m bench.probing [--quick] [--json] [--rounds N]`: how fast, with how many packets, and how true.

Decides: which tools with which options, and the goal: not slower than the fastest of the others, and all hops right.
Others run as they are without options (names off), one after the other in each round. Ours counts twice: as a call in
a process that runs, and as a process of its own, which first starts Python and loads scapy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench.probing.network import DESTINATION, HOPS, INTERFACES, Probed, probed
from bench.probing.once import discover_once, trace_once

ROUNDS: Final = 5
DELAYS_MS: Final = (0.0, 10.0)
OURS: Final = "ours"
OURS_STARTED: Final = "ours, with its start"
TRACERS: Final = {
    "traceroute": ["traceroute", "-n", DESTINATION],
    "mtr": ["mtr", "-n", "--report", "-c", "3", DESTINATION],
    "scamper": ["scamper", "-I", f"trace -P udp-paris -q 3 {DESTINATION}"],
    OURS_STARTED: [sys.executable, "-m", "bench.probing.once"],
}
_LINE: Final = re.compile(r"^ +\d+\.?(?:\|--)? +([0-9.]+|\*|\?\?\?)(?: |$)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """right: hops or interfaces that are as they are; ratio: ours by theirs, in time."""

    what: str
    delay_ms: float
    silent_hop: bool
    tool: str
    seconds: float
    right: int
    of: int
    ratio: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if we were slower than the fastest of the others, or not right."""
    parser = argparse.ArgumentParser(prog="bench.probing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, nothing silent: ten seconds")
    parser.add_argument("--json", action="store_true", help="a line for each row")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}")
    options = parser.parse_args(arguments if arguments is not None else [])
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    missing = [tool for tool in ("traceroute", "mtr", "scamper") if shutil.which(tool) is None]
    if missing:
        print(f"not installed, so not compared: {', '.join(missing)}", file=sys.stderr)
    rows: list[Row] = []
    for delay_ms in DELAYS_MS:
        with probed(delay_ms=delay_ms) as network:
            _one_trace(network)  # scapy is loaded, every route has been used
            for silent in (False,) if options.quick else (False, True):
                if silent:
                    network.silence(on=True)
                rows += _traces(network, rounds, delay_ms=delay_ms, silent=silent)
            if not options.quick:
                network.silence(on=False)
            rows += _multipaths(network, rounds, delay_ms=delay_ms)
    _show(rows, as_json=options.json)
    missed = _missed(rows)
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return int(bool(missed))


def _one_trace(network: Probed) -> list[str]:
    route = network["a"].inside(lambda: asyncio.run(trace_once()))
    return [hop.addresses[0] if hop.addresses else "*" for hop in route.hops]


def _traces(network: Probed, rounds: int, *, delay_ms: float, silent: bool) -> list[Row]:
    runs: dict[str, Callable[[], list[str]]] = {OURS: lambda: _one_trace(network)}
    for tool, words in TRACERS.items():
        if shutil.which(words[0]):
            runs[tool] = lambda words=words: _LINE.findall(network["a"].run(words))  # type: ignore[misc]
    truth = [{"*", "???"} if silent and number == 3 else known for number, known in enumerate(HOPS)]

    def right(found: list[str]) -> int:
        return sum(name in known for name, known in zip(found, truth, strict=False)) - max(0, len(found) - len(truth))

    return _rows("trace", runs, right, rounds, of=len(HOPS), delay_ms=delay_ms, silent=silent)


def _multipaths(network: Probed, rounds: int, *, delay_ms: float) -> list[Row]:
    def ours() -> list[str]:
        paths = network["a"].inside(lambda: asyncio.run(discover_once()))
        return [each.address for hop in paths.hops for each in hop.interfaces]

    runs: dict[str, Callable[[], list[str]]] = {OURS: ours}
    if shutil.which("scamper"):
        words = ["scamper", "-I", f"tracelb -P udp-sport {DESTINATION}"]
        runs["scamper"] = lambda: re.findall(r"[0-9.]{7,}", network["a"].run(words).partition("\n")[2])
    known = set().union(*HOPS)
    return _rows(
        "all paths", runs, lambda found: len(set(found) & known), rounds, of=INTERFACES, delay_ms=delay_ms, silent=False
    )


def _rows(
    what: str,
    runs: dict[str, Callable[[], list[str]]],
    right: Callable[[list[str]], int],
    rounds: int,
    *,
    of: int,
    delay_ms: float,
    silent: bool,
) -> list[Row]:
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[int]] = defaultdict(list)
    for _ in range(rounds):
        for tool, run in runs.items():
            begun = time.perf_counter()
            hops = run()
            seconds[tool].append(time.perf_counter() - begun)
            found[tool].append(right(hops))
    ours = statistics.median(seconds[OURS])
    return [
        Row(
            what=what,
            delay_ms=delay_ms,
            silent_hop=silent,
            tool=tool,
            seconds=round(statistics.median(times), 4),
            right=min(found[tool]),
            of=of,
            ratio=None if tool == OURS else round(ours / statistics.median(times), 2),
        )
        for tool, times in seconds.items()
    ]


def _missed(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        where = f"{row.what}, {row.delay_ms} ms{', a silent hop' if row.silent_hop else ''}"
        if row.tool == OURS and row.right < row.of:
            lines.append(f"{where}: {row.right} of {row.of} right")
        if row.ratio is not None and row.tool != OURS_STARTED and row.ratio > 1:
            lines.append(f"{where}: {row.ratio} × {row.tool}")
    return lines


def _show(rows: Sequence[Row], *, as_json: bool) -> None:
    if not as_json:
        print(f"{'':12}{'delay':>8}  {'':12}{'tool':24}{'seconds':>9}{'right':>8}{'ours/theirs':>13}")
    for row in rows:
        line = (
            f"{row.what:12}{row.delay_ms:5.0f} ms  {'silent hop' if row.silent_hop else '':12}{row.tool:24}"
            f"{row.seconds:9.3f}{row.right:5}/{row.of}{row.ratio if row.ratio is not None else '':>13}"
        )
        print(json.dumps(asdict(row)) if as_json else line, flush=True)
