"""`python -m bench.uplink [--quick] [--json] [--ipv6] [--rounds N]`: runs the phases and shows what was felt.

Decides: which phases, how often, and the goals. Refuses to know: how it is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.hostplane.hosts import progress
from bench.uplink.measure import Figures, Phase, Side, Swap, as_json, figures_of, measure, measure_swap
from bench.uplink.rig import rig

ROUNDS: Final = 5
SECONDS: Final = 8.0
QUICK_SECONDS: Final = 5.0
CONTROLS: Final = ("cubic", "bbr")
ADDED_P95_MS: Final = 5.0
PAGES: Final = 1.2
SHARE: Final = 0.85
SWAP_S: Final = 2.0
SWAP_RATIO: Final = 3.5
IDLE: Final = Phase(side=Side.IDLE)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.uplink", description="a call, pages and an upload on a narrow uplink")
    parser.add_argument("--quick", action="store_true", help="one round, and cubic alone: half a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--ipv6", action="store_true", help="over IPv6")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}")
    parser.add_argument("--learn", action="store_true", help="also with an agent that is not told the line's rates")
    options = parser.parse_args(arguments)
    family = 6 if options.ipv6 else 4
    controls = CONTROLS[:1] if options.quick else CONTROLS
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    with rig() as made:
        sides = [Side.BARE, *([Side.FQ_CODEL] if made.has_queue("fq_codel") else []), Side.AGENT]
        sides += [Side.LEARNING] if options.learn else []
        phases = [IDLE, *(Phase(side=side, congestion_control=control) for control in controls for side in sides)]
        felt = measure(made, phases, rounds=rounds, seconds=seconds, family=family)
    figures = {phase: figures_of(each, felt[IDLE]) for phase, each in felt.items()}
    swaps = {}
    for control in controls:
        progress(f"two programs swap their worth, {control}")
        with rig() as made:
            swaps[control] = measure_swap(made, control, family)
    missed = [*_missed(figures), *_missed_swaps(swaps)]
    if options.json:
        print(json.dumps(_document(figures, swaps, missed)))
    else:
        Console(width=150).print(_table(figures), _swap_table(swaps))
    print(f"{len(missed)} goals missed", *missed, sep="\n  ", file=sys.stderr)
    return 0


def _missed(figures: Mapping[Phase, Figures]) -> list[str]:
    found = []
    idle = statistics.median(figures[IDLE].pages_ms)
    for phase, each in figures.items():
        if phase.side not in (Side.AGENT, Side.LEARNING):
            continue
        if each.added_ms(0.95) > ADDED_P95_MS:
            found.append(
                f"{phase.title}: p95 added delay of the call {each.added_ms(0.95):.1f} ms (goal ≤ {ADDED_P95_MS})"
            )
        if statistics.median(each.pages_ms) > PAGES * idle:
            found.append(f"{phase.title}: pages {statistics.median(each.pages_ms) / idle:.2f} of idle (goal ≤ {PAGES})")
        if statistics.median(each.share) < SHARE:
            found.append(f"{phase.title}: upload {statistics.median(each.share):.1%} of the rest (goal ≥ {SHARE:.0%})")
    return found


def _missed_swaps(swaps: Mapping[str, Swap]) -> list[str]:
    found = []
    for control, each in swaps.items():
        if each.took_s is None or each.took_s > SWAP_S:
            took = "never" if each.took_s is None else f"{each.took_s:.2f} s"
            found.append(f"swap, {control}: {took} (goal ≤ {SWAP_S} s)")
        if min(each.before, each.after) < SWAP_RATIO:
            found.append(
                f"swap, {control}: ratios {each.before:.2f} and {each.after:.2f} (goal ≥ {SWAP_RATIO}, worth says 4)"
            )
    return found


def _document(figures: Mapping[Phase, Figures], swaps: Mapping[str, Swap], missed: Sequence[str]) -> dict[str, Any]:
    return {
        "phases": {phase.title: as_json(each) for phase, each in figures.items()},
        "swaps": {
            control: {"before": each.before, "after": each.after, "took_s": each.took_s}
            for control, each in swaps.items()
        },
        "missed": list(missed),
    }


def _table(figures: Mapping[Phase, Figures]) -> Table:
    table = Table(title="A call, pages and an upload on 20 Mbit/s up")
    for name in (
        "",
        "call up: added ms",
        "call down: added ms",
        "page, ms",
        "of idle",
        "first page",
        "upload Mbit/s",
        "of the rest",
    ):
        table.add_column(name, justify="right" if name else "left")
    idle = statistics.median(figures[IDLE].pages_ms)
    for phase, each in figures.items():
        page = statistics.median(each.pages_ms) if each.pages_ms else math.inf
        first = statistics.median(each.first_pages_ms) if each.first_pages_ms else math.inf
        told = as_json(each)["added_delay_ms"]
        table.add_row(
            phase.title,
            *(" / ".join(f"{value:.1f}" for value in told[way].values()) for way in ("up", "down")),
            f"{page:.0f}",
            f"{page / idle:.2f}",
            f"{first:.0f}",
            *(
                (f"{statistics.median(each.upload_bit_s) / 1e6:.2f}", f"{statistics.median(each.share):.1%}")
                if each.share
                else ("", "")
            ),
        )
    table.caption = "added delay: 50th / 95th / 99th percentile against the idle line's median"
    return table


def _swap_table(swaps: Mapping[str, Swap]) -> Table:
    table = Table(title="Two uploads, one worth four times the other, swap their worth")
    for name in ("", "ratio before", "ratio after", "seconds until served so"):
        table.add_column(name, justify="right" if name else "left")
    for control, each in swaps.items():
        took = "never" if each.took_s is None else f"{each.took_s:.2f}"
        table.add_row(control, f"{each.before:.2f}", f"{each.after:.2f}", took)
    return table
