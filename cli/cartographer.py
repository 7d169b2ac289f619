"""`hostagent cartographer …`: what the cartographer would have chosen, on a file of round trips.

Decides: where the rows come from and what is printed. Refuses to know how a path is chosen (`cartographer.chooser`) and
what a step costs (`cartographer.replay`).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from billpay.errors import EnvironmentFault
from cli.cartographer_serve import serve, status
from cli.command import json_option, one_line_errors

if TYPE_CHECKING:
    from cartographer.replay import Matrix

TOLD_EVERY = 500  # steps


@click.group()
def cartographer() -> None:
    """The digital cartographer: which paths there are, what they cost, and which one is taken."""


cartographer.add_command(serve)
cartographer.add_command(status)


@cartographer.command()
@click.argument("rows", metavar="FILE.jsonl", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--nanodollars-per-ms",
    type=click.IntRange(0, 10**6),
    default=1000,
    show_default=True,
    help="What a millisecond of round trip costs; a lost packet counts as 2,000 of them.",
)
@click.option(
    "--probe-nanodollars",
    type=click.IntRange(0, 10**9),
    default=5000,
    show_default=True,
    help="What a probe costs besides its path's toll.",
)
@click.option("--hindsight", is_flag=True, help="With --json: add what nobody could know to the last line.")
@click.option("--summary-only", is_flag=True, help="With --json: the last line alone.")
@json_option
@one_line_errors
def replay(
    rows: str,
    nanodollars_per_ms: int,
    probe_nanodollars: int,
    hindsight: bool,
    summary_only: bool,
    as_json: bool,
) -> None:
    """Which path the cartographer would have chosen at each moment, and what that costs.

    FILE.jsonl has one JSON object a line, - is standard input: {"t": seconds, "path": "…", "rtt_ms": x or null if lost,
    "toll_nanodollars": n}, sorted by t, the same paths at every t. It chooses one path, may probe others (2 % of the
    choices at most), and sees no other row than those.

    With --json a line for each t, then {"summary": …}; without, a summary beside the best path in hindsight.
    """
    import msgspec

    from cartographer.replay import Account, Prices, Traveller
    from cartographer.replay import replay as replayed

    matrix = _matrix(rows)
    prices = Prices(nanodollars_per_ms=nanodollars_per_ms, probe_nanodollars=probe_nanodollars)
    account = Account()
    told = _Progress(len(matrix))
    out = sys.stdout.buffer
    for line in replayed(matrix, Traveller(matrix.paths, prices, len(matrix)), prices, account):
        told.one_more()
        if as_json and not summary_only:
            out.write(msgspec.json.encode(line) + b"\n")
    told.end()
    summary = account.summary(matrix, prices, hindsight=hindsight or not as_json)
    if as_json:
        out.write(msgspec.json.encode({"summary": summary}) + b"\n")
        out.flush()
        return
    from cli.show.text import facts, money, write

    seen = summary.hindsight
    lines = [
        (
            "choices",
            f"{summary.choices} over {summary.paths} paths, {summary.switches} switches, {summary.losses} lost",
        ),
        ("probes", f"{summary.probes}, {money(summary.probes_cost_nanodollars)}"),
        ("total cost", money(summary.total_cost_nanodollars)),
    ]
    if seen is not None:
        best = money(seen.best_fixed_cost_nanodollars)
        lines.append(
            ("in hindsight", f"{best} on {seen.best_fixed_path} all the time: {seen.ratio_to_best_fixed:.3f} of it")
        )
    write(facts(lines))


def _matrix(rows: str) -> Matrix:
    from cartographer.replay import read_matrix

    if rows == "-":
        return read_matrix(sys.stdin.buffer, "standard input")
    try:
        with open(rows, "rb") as file:
            return read_matrix(file, rows)
    except OSError as error:
        raise EnvironmentFault("read", rows, error.strerror, "name a file of rows, or - for standard input") from error


class _Progress:
    """On a terminal's standard error, and nowhere else."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def one_more(self) -> None:
        self._done += 1
        if self._is_shown and self._done % TOLD_EVERY == 0:
            click.echo(f"\r{self._done:,} of {self._steps:,} choices", nl=False, err=True)

    def end(self) -> None:
        if self._is_shown and self._done >= TOLD_EVERY:
            click.echo("\r\x1b[K", nl=False, err=True)
