"""Verbs about the secretary's money: budgets, the purse, statements, what is behind a line of one.

Decides: days, file formats, and the name of a payment that is told twice. Refuses to know: how anything adds up (the
secretary does), and whether this user may (it says so).
"""

from __future__ import annotations

import calendar
import secrets
from datetime import datetime
from pathlib import Path

import click
from click.core import ParameterSource

from billpay.errors import EnvironmentFault
from cli.arguments import MOMENT, MONTH, Understood
from cli.command import json_option, one_line_errors
from cli.deciding import done
from cli.prices import PAID
from cli.secretary_line import ask, socket_option
from cli.show.text import harmless, write_json
from cli.words import NotUnderstood, parse_names

COLUMNS = ("day", "user", "program", "destination", "gateway", "network")
NAME_MAX = 64


def _name(text: str) -> str:
    """As messages have names."""
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-")
    if not text or len(text) > NAME_MAX or not set(text) <= allowed:
        raise NotUnderstood(f"{text!r} is no name: 1 to {NAME_MAX} of A-Z a-z 0-9 . _ : / -")
    return text


def _grant(text: str) -> str:
    if len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise NotUnderstood(
            f"{text!r} is no grant: 32 hexadecimal digits, as `hostagent secretary trace KEY` shows them"
        )
    return text


NAME = Understood("name", _name)


# --- budgets ----------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True)
@socket_option
@json_option
@click.pass_context
def budget(context: click.Context, socket: Path, as_json: bool) -> None:
    """Budgets: what is spent, reserved and left of each; `raise` gives one more."""
    verb = context.invoked_subcommand
    if verb is None:
        context.invoke(budget_list, socket=socket, as_json=as_json)
    elif as_json or context.get_parameter_source("socket") is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"options go behind the verb: budget {verb} … --json")


@budget.command("list")
@socket_option
@json_option
@one_line_errors
def budget_list(socket: Path, as_json: bool) -> None:
    """What is spent, reserved and left of each budget, and where its pace leads."""
    from secretary.messages import AskBudgets, Budgets

    told = ask(socket, AskBudgets(), Budgets)
    if as_json:
        write_json(told)
        return
    from cli.show.secretary import show_budgets

    show_budgets(told)


@budget.command("raise")
@click.argument("name")
@click.argument("amount", type=PAID)
@click.option("--who", default="", help="Whose, of a budget that each program, network or person has of its own.")
@socket_option
@json_option
@one_line_errors
def budget_raise(name: str, amount: int, who: str, socket: Path, as_json: bool) -> None:
    """Gives budget NAME so much more for the period that runs. AMOUNT is money: 2, 2 USD, 500 mUSD."""
    from secretary.messages import Done, RaiseBudget

    told = ask(socket, RaiseBudget(budget=name, nanodollars=amount, who=who), Done)
    done("secretary budget raise", told.message, name, as_json=as_json)


# --- the purse --------------------------------------------------------------------------------------------------------


@click.command("top-up")
@click.argument("amount", type=PAID)
@click.option("--voucher", type=NAME, metavar="NAME", help="As a voucher of that name, which is spent first.")
@click.option("--expires", type=MOMENT, metavar="DATE", help="When what is left of the voucher is gone.")
@click.option("--id", "transfer", type=NAME, metavar="ID", help="Of this payment: the same ID again pays in nothing.")
@socket_option
@json_option
@one_line_errors
def top_up(
    amount: int, voucher: str | None, expires: datetime | None, transfer: str | None, socket: Path, as_json: bool
) -> None:
    """Pays AMOUNT into the purse. AMOUNT is money: 20, 20 USD, 500 mUSD.

    Without --id one is drawn, and said before anything is paid in: whoever is not sure that it went through says the
    same again with it.
    """
    from secretary.messages import Done, TopUpPurse

    if expires is not None and voucher is None:
        raise click.UsageError("money does not expire: --expires goes with --voucher")
    if transfer is None:
        transfer = f"cli-{secrets.token_hex(8)}"
        click.echo(f"this payment is {transfer}: to try again, add --id {transfer}", err=True)
    question = TopUpPurse(
        transfer=transfer,
        nanodollars=amount,
        voucher=voucher or "",
        expires_unix_s=0 if expires is None else int(expires.timestamp()),
    )
    done("secretary top-up", ask(socket, question, Done).message, transfer, as_json=as_json)


# --- statements -------------------------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--month",
    type=MONTH,
    metavar="[MONTH]",
    is_flag=False,
    flag_value="this",
    help="2026-11, last, or this: the default.",
)
@click.option("--from", "first", type=MOMENT, metavar="DAY", help="The first day, instead of a month.")
@click.option("--to", "last", type=MOMENT, metavar="DAY", help="The last day, itself in it.  [default: today]")
@click.option("--by", default="program", show_default=True, help=f"Any of {', '.join(COLUMNS)}, with commas between.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="Writes a table, to standard output if no file is named.",
)
@click.option(
    "--html", "html_file", type=click.Path(dir_okay=False, allow_dash=True), help="Writes a page that prints well."
)
@socket_option
@json_option
@one_line_errors
def statement(
    month: str | None,
    first: datetime | None,
    last: datetime | None,
    by: str,
    csv_file: str | None,
    html_file: str | None,
    socket: Path,
    as_json: bool,
) -> None:
    """Opening + topped up - spent - fees = closing, to the nanodollar, and what was spent on whom.

    Keepers see the host's; a person what is their own.
    """
    from secretary.messages import AskStatement, StatementView
    from secretary.money import statement_pages

    if sum((csv_file is not None, html_file is not None, as_json)) > 1:
        raise click.UsageError("say one of --csv, --html and --json")
    try:
        names = parse_names(by, COLUMNS)
    except NotUnderstood as error:
        raise click.BadParameter(str(error), param_hint="--by") from error
    first_day, last_day = _days(month, first, last)
    found = ask(socket, AskStatement(first_day=first_day, last_day=last_day, by=names), StatementView).statement
    if as_json:
        click.echo(statement_pages.as_json(found), nl=False)
    elif csv_file is not None:
        write_text(statement_pages.as_csv(found), csv_file)
    elif html_file is not None:
        write_text(statement_pages.as_html(found), html_file)
    else:
        from cli.show.secretary import show_statement

        show_statement(found)


def _days(month: str | None, first: datetime | None, last: datetime | None) -> tuple[str, str]:
    """The first and the last one, both in it."""
    from cli.arguments import now

    if first is None and last is None:
        year, number = map(int, (month or now().strftime("%Y-%m")).split("-"))
        if year < 1:
            raise click.BadParameter("a year is 0001 to 9999", param_hint="--month")
        return f"{year:04}-{number:02}-01", f"{year:04}-{number:02}-{calendar.monthrange(year, number)[1]:02}"
    if month is not None:
        raise click.UsageError("say --month, or --from and --to")
    if first is None:
        raise click.UsageError("--to needs a --from")
    end = last or now()
    if end.date() < first.date():
        raise click.BadParameter(f"it begins on {first.date()}, after its end", param_hint="--from")
    return first.date().isoformat(), end.date().isoformat()


def write_text(text: str, file: str) -> None:
    """To standard output for `-`, else to the file. Raises EnvironmentFault."""
    try:
        with click.open_file(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise EnvironmentFault("write", file, error.strerror, "name another file") from error


@click.command()
@click.argument("key")
@socket_option
@json_option
@one_line_errors
def trace(key: str, socket: Path, as_json: bool) -> None:
    """What is behind the line of a statement that has KEY: its grants, their flows, and when each paid what."""
    from secretary.messages import AskTrace, TraceView

    traced = ask(socket, AskTrace(key=key), TraceView).traced
    if as_json:
        write_json(traced)
        return
    from cli.show.secretary import show_trace

    show_trace(traced)


@click.command()
@click.argument("grant", type=Understood("grant", _grant))
@click.option("--note", default="", help="Why, one line: it is kept with the grant.")
@socket_option
@json_option
@one_line_errors
def dispute(grant: str, note: str, socket: Path, as_json: bool) -> None:
    """Marks every line of a statement that GRANT is in as disputed, and says whose gateway to ask."""
    from secretary.messages import DisputeGrant, Done

    told = ask(socket, DisputeGrant(grant=grant, note=harmless(note)[:256]), Done)
    done("secretary dispute", told.message, grant, as_json=as_json)


money_verbs: tuple[click.Command, ...] = (budget, top_up, statement, trace, dispute)
