"""`python -m bench.paths [--quick] [--json] [--markdown]`: one table, what each way of choosing costs on each matrix.

Decides: which matrices, how many of each, and how they are shown. 100 % is the best fixed path in hindsight on a
stationary matrix, and the best path of each part on one whose paths change roles. Refuses to know how anyone chooses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from bench.paths.matrices import KINDS, Case, made, outage, priced, unseen
from bench.paths.rivals import RIVALS
from cartographer.replay import Account, Player, Prices, Traveller, replay

STEPS: Final = 2000
SEEDS: Final = 5
FIRST_SEED: Final = 200  # the terms were found on seeds below that
OURS: Final = "cartographer"
FIXED: Final = "best fixed"

PLAYERS: Final[dict[str, Callable[[Sequence[str], Prices], Player]]] = {
    OURS: lambda paths, prices: Traveller(paths, prices, STEPS),
    **RIVALS,
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of matrix: cost above the best in percent, the mean over the seeds; and the worst of ours."""

    matrix: str
    changes: bool
    percent: dict[str, float]
    worst: float
    probes_share: float
    us_a_choice: float


def cost_of(case: Case, player: Player) -> Account:
    account = Account()
    for _ in replay(case.matrix, player, case.prices, account):
        pass
    return account


def cases(seed: int, steps: int = STEPS) -> Iterator[Case]:
    for kind in KINDS:
        yield made(kind, seed, steps, changing=False)
        yield made(kind, seed, steps, changing=True)
    yield unseen(seed, steps)
    yield outage(seed, steps)
    yield priced(seed, steps)


def measure(seeds: int) -> list[Row]:
    found: dict[str, list[tuple[Case, dict[str, float], float, float]]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for case in cases(seed):
            best = case.best_sequence()
            above = {FIXED: case.best_fixed() / best - 1.0}
            probes = elapsed = 0.0
            for name, make in PLAYERS.items():
                began = time.perf_counter()
                account = cost_of(case, make(case.matrix.paths, case.prices))
                above[name] = account.total / best - 1.0
                if name == OURS:
                    elapsed = (time.perf_counter() - began) / len(case.matrix) * 1e6
                    probes = account.probes / account.choices
            found.setdefault(case.name, []).append((case, above, probes, elapsed))
    return [_row(name, tries) for name, tries in found.items()]


def _row(name: str, tries: list[tuple[Case, dict[str, float], float, float]]) -> Row:
    names = tries[0][1]
    return Row(
        matrix=name,
        changes=bool(tries[0][0].changes),
        percent={each: 100.0 * statistics.fmean(above[each] for _, above, _, _ in tries) for each in names},
        worst=100.0 * max(above[OURS] for _, above, _, _ in tries),
        probes_share=statistics.fmean(probes for _, _, probes, _ in tries),
        us_a_choice=statistics.median(elapsed for _, _, _, elapsed in tries),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.paths", description="what each way of choosing a path costs")
    parser.add_argument("--quick", action="store_true", help="one matrix of each kind instead of five")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--markdown", action="store_true", help="the table as the documentation has it")
    options = parser.parse_args([] if arguments is None else arguments)
    rows = measure(1 if options.quick else SEEDS)
    if options.json:
        print(json.dumps(msgspec.to_builtins(rows)))
        return 0
    names = (OURS, *RIVALS, FIXED)
    separator = " | " if options.markdown else "  "
    widths = [24, *(max(len(name), 9) for name in names), 9]
    _line(("cost above the best", *names, "our worst"), widths, separator)
    if options.markdown:
        print("|---|" + "---:|" * (len(names) + 1))
    for row in rows:
        cells = [f"{row.percent[name]:.1f} %" for name in names]
        _line((row.matrix, *cells, f"{row.worst:.1f} %"), widths, separator)
    speed = statistics.median(row.us_a_choice for row in rows)
    print(
        f"\nA choice among up to 8 paths, with what is learnt from it, takes {speed:.0f} µs (median of the matrices)."
    )
    return 0


def _line(cells: Sequence[str], widths: Sequence[int], separator: str) -> None:
    text = separator.join(
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    print(f"| {text} |" if separator.strip() else text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
