"""Verbs about what was: history, statements, replayed tariffs, and the report for a bug.

Decides: periods and file formats. Refuses to know: how anything is summed up (the agent does).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from cli.agent import ask, socket_option
from cli.arguments import MOMENT, MONTH
from cli.command import json_option, one_line_errors
from cli.deciding import done
from cli.show.text import harmless, write_json
from cli.words import NotUnderstood, parse_names
from hostagent import api

DEFAULT_DAYS = 30
DIMENSIONS = ("program", "destination", "network", "kind")
ROWS_MAX = 10_000

since_option = click.option(
    "--since",
    type=MOMENT,
    help=f"A day, a moment, `yesterday`, or `7d` for so long ago.  [default: {DEFAULT_DAYS} days ago]",
)
until_option = click.option("--until", type=MOMENT, default="now", show_default=True, help="Until when, written alike.")
csv_option = click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Writes comma-separated values into this file, - for standard output.",
)


@click.command()
@since_option
@until_option
@click.option(
    "--by", default="program", show_default=True, help=f"Any of {', '.join(DIMENSIONS)}, with commas between."
)
@click.option(
    "--step",
    type=click.Choice(["hour", "day", "month", "all"]),
    default="all",
    show_default=True,
    help="A row for each.",
)
@click.option("--rows", type=click.IntRange(1, ROWS_MAX), default=1000, show_default=True, help="At most so many rows.")
@csv_option
@socket_option
@json_option
@one_line_errors
def history(
    since: datetime | None,
    until: datetime,
    by: str,
    step: str,
    rows: int,
    csv_file: str | None,
    socket: Path,
    as_json: bool,
) -> None:
    """Totals of the past, which restarts do not end: who sent and received how much, and what it cost."""
    from hostagent.desk import HistoryQuery

    try:
        names = parse_names(by, DIMENSIONS)
    except NotUnderstood as error:
        raise click.BadParameter(str(error), param_hint="--by") from error
    since_unix_s, until_unix_s = _period(since, until)
    query = HistoryQuery(since_unix_s=since_unix_s, until_unix_s=until_unix_s, step=step, by=names, limit=rows)
    found = ask(socket, lambda client: client.history(query))
    if as_json:
        write_json(found)
        return
    from cli.show.amounts import csv_of, show_history, write_csv

    if csv_file is not None:
        write_csv(csv_of(found, api.HistoryRow), csv_file)
        return
    show_history(found, step)
    if len(found) == rows:
        click.echo(f"these are the first {rows} rows (--rows gives more)", err=True)


@click.command()
@click.argument("month", type=MONTH, default="this")
@csv_option
@socket_option
@json_option
@one_line_errors
def statement(month: str, csv_file: str | None, socket: Path, as_json: bool) -> None:
    """What MONTH (2026-11, this, last) cost, line by line; it adds up to the nanodollar."""
    found = ask(socket, lambda client: client.statement(month))
    if as_json:
        write_json(found)
        return
    from cli.show.amounts import show_statement, statement_csv, write_csv

    if csv_file is not None:
        write_csv(statement_csv(found), csv_file)
        return
    show_statement(found)


@click.command()
@since_option
@until_option
@socket_option
@json_option
@one_line_errors
def replay(since: datetime | None, until: datetime, socket: Path, as_json: bool) -> None:
    """You would have paid …: that time's real traffic under other tariffs, the cheapest first."""
    since_unix_s, until_unix_s = _period(since, until)
    found = ask(socket, lambda client: client.replay(since_unix_s, until_unix_s))
    if as_json:
        write_json(found)
        return
    from cli.show.amounts import show_replay

    show_replay(found)


@click.command()
@click.option("--program", help="All that a program did, whomever it talked to.")
@click.option("--destination", help="With whom: an address as `hostagent history --by destination` shows it.")
@click.option("--network", help="A network's title or key, as `hostagent networks` shows them.")
@click.option("--everything", is_flag=True, help="All but the sums of money.")
@click.option("--yes", is_flag=True, help="Does not ask whether you are sure.")
@socket_option
@json_option
@one_line_errors
def forget(
    program: str | None,
    destination: str | None,
    network: str | None,
    everything: bool,
    yes: bool,
    socket: Path,
    as_json: bool,
) -> None:
    """Deletes a name out of what was kept, or all of it. Its numbers stay without it, so that sums stay true."""
    named = [name for name in (program, destination, network) if name is not None]
    if len(named) + everything != 1:
        raise click.UsageError("say one of --program, --destination, --network and --everything")
    what = "everything" if everything else named[0]
    if not yes:
        click.confirm(f"delete {harmless(what)} out of the history, for good?", abort=True, err=True)
    told = api.Forget(program=program, destination=destination, network=network, everything=everything)
    ask(socket, lambda client: client.forget(told))
    done("forget", f"{what} is deleted out of the history", what, as_json=as_json)


def _period(since: datetime | None, until: datetime) -> tuple[int, int]:
    begin = since if since is not None else until - timedelta(days=DEFAULT_DAYS)
    if begin >= until:
        raise click.BadParameter(f"it begins at {begin:%Y-%m-%d %H:%M}, after its end", param_hint="--since")
    return int(begin.timestamp()), int(until.timestamp())


record_verbs: tuple[click.Command, ...] = (history, statement, replay, forget)
