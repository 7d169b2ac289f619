"""`python -m bench.payments [--json | --markdown] [--rounds N] [--seconds S] [--only PART]`: runs parts, shows figures.

Decides: which parts run, and how often. Refuses to know: how they measure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.payments import daemons, delays, rates
from bench.payments.generator import Generator
from bench.payments.network import Network, network
from bench.payments.parties import Parties
from bench.payments.plans import HOST_FLOWS_MAX
from bench.payments.rates import Rates
from bench.payments.rows import Row

ROUNDS: Final = 10
SECONDS: Final = 0.25
STREAM_TIMES: Final = 2
"""A stream lasts so many volleys: it has to open its window first."""

DAEMONS_TIMES: Final = 40
"""Ten seconds: what daemons do every second has to be in it."""

HEADING: Final = "| | | median; mean [95 % interval of the mean] | |\n|---|---|---|---|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every part gets."""

    network: Network
    generator: Generator
    parties: Parties
    rounds: int
    seconds: float

    @property
    def rates(self) -> Rates:
        return Rates(network=self.network, generator=self.generator, parties=self.parties, seconds=self.seconds)


def _packets(bench: Bench) -> list[Row]:
    return bench.rates.measure(rounds=bench.rounds)


def _streams(bench: Bench) -> list[Row]:
    return rates.streams(bench.rates, rounds=bench.rounds, seconds=STREAM_TIMES * bench.seconds)


def _nfqueue(bench: Bench) -> list[Row]:
    """Beside the programs, in rounds of its own: only what it needs to be compared with."""
    shape, ways = rates.FOR_SCALE, (rates.PLAIN, rates.CARRIED, rates.FIRST, rates.NFQUEUE)
    rows = bench.rates.measure(rounds=bench.rounds, shapes=(shape,), ways=ways)
    streams = (rates.STREAM_WAYS[0], rates.STREAM_FOR_SCALE)
    rows += rates.streams(bench.rates, rounds=bench.rounds, seconds=STREAM_TIMES * bench.seconds, ways=streams)
    return [
        msgspec.structs.replace(row, section=f"NFQUEUE, {row.section}") for row in rows if row.section != rates.COST
    ]


Part = Callable[[Bench], list[Row]]
PARTS: Final[dict[str, Part]] = {
    "packets": _packets,
    "streams": _streams,
    "delay": lambda bench: delays.round_trips(bench.rates, rounds=bench.rounds),
    "price": lambda bench: delays.price_to_effect(bench.rates, rounds=bench.rounds),
    "daemons": lambda bench: daemons.measure(bench.network.directory, seconds=DAEMONS_TIMES * bench.seconds),
    "nfqueue": _nfqueue,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("bench.payments: network namespaces and eBPF programs need root", file=sys.stderr)
        return 2
    rows: list[Row] = []
    begun_s = time.monotonic()
    for name in options.only or PARTS:
        found = _run(name, rounds=options.rounds, seconds=options.seconds)
        rows += found
        if not options.json and not options.markdown:
            _show(found)
    if options.json:
        print(json.dumps([msgspec.to_builtins(row) | {"missed": row.is_missed} for row in rows]))
    elif options.markdown:
        print(HEADING)
        print("\n".join(row.markdown() for row in rows))
    _show_missed(rows, time.monotonic() - begun_s)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.payments", description="what payments in the kernel cost")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of a volley; default {SECONDS}")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--markdown", action="store_true", help="the table as docs/bench.md has it")
    parser.add_argument("--only", action="append", choices=sorted(PARTS), help="one part; may be given again")
    return parser


def _run(name: str, *, rounds: int, seconds: float) -> list[Row]:
    with network() as built:
        parties = Parties(built, host_flows=HOST_FLOWS_MAX if name == "packets" else 0)
        try:
            bench = Bench(network=built, generator=Generator(built), parties=parties, rounds=rounds, seconds=seconds)
            return PARTS[name](bench)
        finally:
            parties.close()


def _show(rows: Sequence[Row]) -> None:
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            print(f"\n## {section}: median; mean [95 % interval of the mean]")
        print(row.text(), flush=True)


def _show_missed(rows: Sequence[Row], took_s: float) -> None:
    missed = [row for row in rows if row.is_missed]
    print(f"\n{took_s:.0f} s; {len(missed)} goals missed", file=sys.stderr)
    for row in missed:
        print(f"  {row.section}: {row.text()}", file=sys.stderr)
