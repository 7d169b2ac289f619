"""Rates by willingness to pay on real packets: 1 : 3 for every kind of sender, beside the same without reactors.

    python -m bench.sharing [--seconds S] [--rounds N]

Each line is a run in namespaces: two flows of one kind of program, or two of each, through a gateway that is a plain
FIFO with virtual-queue marks at 10 Mbit/s (20 for the mixture); IPv4 and IPv6, round trips of 10 and 80 ms. `off` is
the largest deviation of a rate per willingness from the mean of all; measured from 3 s after a cold start on.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product

from rich.console import Console
from rich.table import Table

from lab.dph.sharing import SharedFlow, Shares, Sharing, share_link
from lab.namespaces import gain_privilege

PROGRAMS = ("reno", "cubic", "bbr", "udp")
WILLINGNESS = (100_000, 300_000)


def pair(program: str, *, family: int, trips: tuple[int, int]) -> tuple[SharedFlow, ...]:
    return tuple(
        SharedFlow(
            name=f"{program}-{number}",
            program=program,
            willingness_nanodollars_per_s=worth,
            round_trip_ms=trip,
            family=family,
        )
        for number, (worth, trip) in enumerate(zip(WILLINGNESS, trips, strict=True))
    )


def mixture() -> tuple[SharedFlow, ...]:
    return tuple(
        SharedFlow(
            name=f"{program}-{number}",
            program=program,
            willingness_nanodollars_per_s=worth,
            round_trip_ms=(10, 80)[(place + number) % 2],
            family=(4, 6)[place % 2],
        )
        for place, program in enumerate(PROGRAMS)
        for number, worth in enumerate(WILLINGNESS)
    )


def show(table: Table, name: str, shares: Shares, *, reacts: bool) -> None:
    per = shares.per_willingness()
    off = max(abs(value - 1) for value in per.values())
    light = [flow.rate_bit_s for flow in shares.flows if flow.willingness_nanodollars_per_s == WILLINGNESS[0]]
    heavy = [flow.rate_bit_s for flow in shares.flows if flow.willingness_nanodollars_per_s == WILLINGNESS[1]]
    table.add_row(
        name,
        "reactors" if reacts else "transports",
        f"1 : {sum(heavy) / max(1, sum(light)):.2f}",
        f"{100 * off:.1f} %",
        f"{100 * shares.utilisation:.1f} %",
        f"{shares.mean_queue_ms:.1f} ms",
        str(shares.dropped_packets),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments if arguments is not None else [])
    gain_privilege()
    table = Table("flows", "rates by", "shares", "off", "used", "queue", "dropped")
    runs = [
        (f"{program} IPv{family}, {near}/{far} ms", pair(program, family=family, trips=(near, far)), 10_000_000, reacts)
        for reacts, program, (family, near, far) in product(
            (True, False), PROGRAMS, ((4, 10, 80), (6, 80, 10), (4, 10, 10))
        )
    ]
    runs += [("all, mixed", mixture(), 20_000_000, reacts) for reacts in (True, False)]
    for _ in range(options.rounds):
        for number, (name, flows, rate, reacts) in enumerate(runs, start=1):
            print(f"\r{number} of {len(runs)}: {name}    ", end="", file=sys.stderr, flush=True)
            price = 3_000 if rate > 10_000_000 else 1_500
            sharing = Sharing(flows=flows, rate_bit_s=rate, reacts=reacts, nanodollars_per_mark=price)
            shares = share_link(sharing, seconds=options.seconds, settle_s=3.0, progress=lambda _line: None)
            show(table, name, shares, reacts=reacts)
    print(file=sys.stderr)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
