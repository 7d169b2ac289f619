"""Budgets, accounts, statements, replayed tariffs and history.

Decides: the columns, and the lines of a CSV. Refuses to know: how a table is laid out (`cli.show.text`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime

import click
import msgspec

from billpay.errors import EnvironmentFault
from cli.show.text import Grid, amount, facts, moment, money, size, write, write_or
from hostagent import api

_SHAPES = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m", "all": "%Y-%m-%d"}


def show_budgets(budgets: Sequence[api.Budget]) -> None:
    write_or(budget_grid(budgets), "no budgets: no network is metered, and none is configured")
    for each in budgets:
        if each.reason:
            write(f"{each.name}: {each.reason}")


def budget_grid(budgets: Sequence[api.Budget]) -> Grid:
    grid = Grid("|budget", ">used", ">of", ">a day", ">at reset", "resets", ">flat/month")
    for each in budgets:
        flat = each.flat_nanodollars_per_month
        grid.add(
            each.name,
            amount(each.used, each.unit, each.currency),
            f"{amount(each.limit, each.unit, each.currency)}/{each.period}",
            amount(each.burn_per_day, each.unit, each.currency),
            amount(each.forecast, each.unit, each.currency),
            moment(each.resets_unix_s)[5:10],
            "" if flat is None else money(flat, each.currency),
        )
    return grid


def show_accounts(accounts: api.Accounts) -> None:
    grid = Grid("neighbour", "state", ">sent", ">received", ">lost", ">we owe", ">settled")
    for link in accounts.links:
        grid.add(
            f"{link.neighbour} ({link.interface})",
            link.state,
            money(link.sent_nanodollars),
            money(link.received_nanodollars),
            money(link.lost_nanodollars),
            money(link.owed_nanodollars),
            f"{money(link.settled_nanodollars)} ({link.settlements})" if link.settlements else "",
        )
    write_or(grid, "no accounts: no neighbour is configured")
    for loss in accounts.losses:
        direction = {"out": "to", "in": "from"}.get(loss.direction, loss.direction)
        write(f"{loss.kind}: {money(loss.nanodollars)} {direction} {loss.link} in interval {loss.interval}")


def show_statement(statement: api.Statement) -> None:
    """opening + topped up - spent - fees = closing, in that order, each followed by what it is made of."""
    currency = statement.currency
    grid = Grid(f"statement {statement.month}", ">traffic", ">amount", ">to the nanodollar")

    def line(what: str, bytes_: int | None, nanodollars: int) -> None:
        grid.add(what, "" if bytes_ is None else size(bytes_), money(nanodollars, currency), exact(nanodollars))

    line("opening", None, statement.opening_nanodollars)
    line("+ topped up", None, statement.topped_up_nanodollars)
    line("- spent", statement.bytes, statement.spent_nanodollars)
    for each in statement.lines:
        line(f"· {each.what}", each.bytes, each.nanodollars)
    line("- fees", None, statement.fees_nanodollars)
    for each in statement.fee_lines:
        line(f"· {each.what}", None, each.nanodollars)
    line("= closing", None, statement.closing_nanodollars)
    write(grid)
    if statement.flat_nanodollars_per_month is not None:
        write(f"at this pace {money(statement.flat_nanodollars_per_month, currency)} a month")
    if statement.internal_nanodollars:
        write(f"not on any bill: {money(statement.internal_nanodollars, currency)} at our own gateway's prices")


def exact(nanodollars: int) -> str:
    """All nine decimals, so that a column can be added up."""
    sign = "-" if nanodollars < 0 else ""
    whole, rest = divmod(abs(nanodollars), 10**9)
    return f"{sign}{whole}.{rest:09d}"


def show_replay(lines: Sequence[api.ReplayLine]) -> None:
    grid = Grid("|you would have paid", ">amount", "|because")
    for each in sorted(lines, key=lambda each: each.nanodollars):
        grid.add(each.tariff, money(each.nanodollars, each.currency), each.reason)
    write_or(grid, "there is no history of that time")


def show_history(rows: Sequence[api.HistoryRow], step: str) -> None:
    grid = Grid(
        *("from", "program", "destination", "network", "kind"),
        *(">sent", ">received", ">CE in", ">paid", ">by tariff", ">internal"),
    )
    for each in rows:
        grid.add(
            datetime.fromtimestamp(each.from_unix_s).astimezone().strftime(_SHAPES[step]),
            each.program,
            each.destination,
            each.network,
            each.kind,
            size(each.sent_bytes),
            size(each.received_bytes),
            str(each.received_ce_packets or ""),
            *(money(value) if value else "" for value in _sums(each)),
        )
    write_or(grid, "there is no history of that time")
    if rows:
        sent, received = sum(each.sent_bytes for each in rows), sum(each.received_bytes for each in rows)
        write(facts([("together", f"{size(sent)} sent, {size(received)} received")]))


def _sums(row: api.HistoryRow) -> tuple[int, int, int]:
    return row.spent_nanodollars, row.tariff_nanodollars, row.priced_nanodollars


def csv_of(rows: Sequence[msgspec.Struct], kind: type[msgspec.Struct]) -> str:
    """A heading and a line for each row, the fields of the JSON in their order. No cell begins like a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(kind.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(value) for value in msgspec.structs.astuple(row)])
    return out.getvalue()


def _cell(value: object) -> object:
    """A name from a stranger that begins like a formula would be one in a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write_csv(text: str, file: str) -> None:
    """To standard output for `-`, else to the file. Raises EnvironmentFault."""
    try:
        with click.open_file(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise EnvironmentFault("write", file, error.strerror, "name another file") from error


def statement_csv(statement: api.Statement) -> str:
    """One line for each entry; the amounts of a statement's first column, opening to closing, add up."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("month", "entry", "what", "bytes", "nanodollars", "currency"))

    def line(entry: str, what: str, bytes_: int | str, nanodollars: int) -> None:
        writer.writerow((statement.month, entry, _cell(what), bytes_, nanodollars, statement.currency))

    line("opening", "", "", statement.opening_nanodollars)
    line("topped up", "", "", statement.topped_up_nanodollars)
    for each in statement.lines:
        line("spent", each.what, each.bytes, -each.nanodollars)
    for each in statement.fee_lines:
        line("fee", each.what, each.bytes, -each.nanodollars)
    line("closing", "", "", statement.closing_nanodollars)
    return out.getvalue()
