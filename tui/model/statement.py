"""A month's statement: what was there, what was paid, to what it came, to the nanodollar.

Decides how months are counted on and back, and how a bill is laid out.  Internal prices stand apart: they share the
link, and are nobody's bill.
"""

from __future__ import annotations

from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.texts import FAINT, STRONG, bytes_text, cell, cents_text, exact_money, line

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
AMOUNT: Final = 20  # cells of a sum
WHAT: Final = 18
LOADING: Final = "asking the agent …"
NO_LINES: Final = "nothing was paid in this month"


def month_name(month: str) -> str:
    year, _, number = month.partition("-")
    return f"{MONTHS[int(number) - 1]} {year}"


def other_month(month: str, by: int) -> str:
    year, number = (int(part) for part in month.split("-"))
    year, number = divmod(year * 12 + number - 1 + by, 12)
    return f"{year:04d}-{number + 1:02d}"


def lines(statement: api.Statement, width: int) -> list[Text]:
    made = [
        _sum("  opening", statement.opening_nanodollars, statement.currency),
        _sum("+ topped up", statement.topped_up_nanodollars),
        _sum("− spent", statement.spent_nanodollars),
        _sum("− fees", statement.fees_nanodollars),
        line(("─" * (WHAT + AMOUNT), FAINT)),
        _sum("= closing", statement.closing_nanodollars, statement.currency, STRONG),
        Text(),
    ]
    flat = statement.flat_nanodollars_per_month
    if flat is not None:
        made.append(line(f"at this pace {cents_text(flat, statement.currency)} a month"))
    if statement.internal_nanodollars:
        made.append(
            line(
                f"apart from that {exact_money(statement.internal_nanodollars)} {statement.currency} "
                "at internal prices, nobody's bill",
            )
        )
    made.append(line(f"{bytes_text(statement.bytes)} in this month"))
    made += [Text(), *_table("spent on", statement.lines, statement.spent_nanodollars, width)]
    if statement.fee_lines:
        made += [Text(), *_table("fees", statement.fee_lines, statement.fees_nanodollars, width)]
    return made


def _sum(what: str, nanodollars: int, currency: str = "", style: str = "") -> Text:
    return line((f"{cell(what, WHAT)}{exact_money(nanodollars):>{AMOUNT}}", style), f" {currency}")


def _table(title: str, rows: tuple[api.StatementLine, ...], total: int, width: int) -> list[Text]:
    """The largest first; the sum below, so that everybody can add up."""
    if not rows:
        return [line((NO_LINES, FAINT))]
    name = max(WHAT - 10, min(40, width - 10 - AMOUNT))
    made = [line((f"{cell(title, name)}{'traffic':>10}{'paid':>{AMOUNT}}", STRONG))]
    ordered = sorted(rows, key=lambda row: (-row.nanodollars, -row.bytes, row.what))
    made += [_row(row.what, row.bytes, row.nanodollars, name) for row in ordered]
    made.append(line(("─" * (name + 10 + AMOUNT), FAINT)))
    made.append(_row("in all", sum(row.bytes for row in rows), total, name))
    return made


def _row(what: str, count: int, nanodollars: int, name: int) -> Text:
    return Text(f"{cell(what, name)}{bytes_text(count):>10}{exact_money(nanodollars):>{AMOUNT}}")
