"""`python -m bench.hostplane [--quick] [--json]`: runs the parts and shows what they found.

Decides: which parts run, and how often. Refuses to know: how they measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.hostplane import capping, cost, naming
from bench.hostplane.hosts import Hosts, two_hosts
from bench.hostplane.rows import Row

ROUNDS: Final = 10
QUICK_ROUNDS: Final = 2

Part = Callable[[Hosts, bool, Path | None], list[Row]]
PARTS: Final[dict[str, Part]] = {
    "cost": lambda hosts, quick, _: cost.nanoseconds(hosts, rounds=_rounds(quick), quick=quick),
    "burden": lambda hosts, quick, _: cost.burden(hosts, rounds=_rounds(quick), quick=quick),
    "capacity": lambda hosts, _quick, _: cost.capacity(hosts),
    "naming": lambda hosts, quick, _: naming.measure(hosts, quick=quick),
    "capping": lambda hosts, quick, tools: capping.measure(hosts, quick=quick, tools=tools),
}


def _rounds(quick: bool) -> int:
    return QUICK_ROUNDS if quick else ROUNDS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.hostplane", description="what the host's own data plane costs")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a minute instead of eight")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--markdown", action="store_true", help="the table as docs/bench.md has it")
    parser.add_argument("--tools", type=Path, help="a virtual environment that has other programs (traffictoll)")
    parser.add_argument("--only", choices=sorted(PARTS), help="one part")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for name, part in PARTS.items():
        if options.only in (None, name):
            with two_hosts() as hosts:
                found = part(hosts, options.quick, options.tools)
            rows += found
            if not options.json and not options.markdown:
                _show(found)
    if options.json:
        print(json.dumps([msgspec.to_builtins(row) | {"missed": row.is_missed} for row in rows]))
    elif options.markdown:
        print("| | | median [95 % interval] | |\n|---|---|---|---|")
        print("\n".join(row.markdown() for row in rows))
    _show_missed(rows)
    return 0


def _show(rows: Sequence[Row]) -> None:
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            print(f"\n## {section}")
        print(row.text(), flush=True)


def _show_missed(rows: Sequence[Row]) -> None:
    missed = [row for row in rows if row.is_missed]
    print(f"\n{len(missed)} goals missed", file=sys.stderr)
    for row in missed:
        print(f"  {row.section}: {row.text()}", file=sys.stderr)
