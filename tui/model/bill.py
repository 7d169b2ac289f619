"""The secretary's statement: sums that add up to the nanodollar, lines with the word they rest on, what is behind one.

Decides which days a month has, and how a line is read. An amount that a gateway has not confirmed has its mark.
"""

from __future__ import annotations

import calendar
from typing import Final

from rich.text import Text

from billpay.money import show_nanodollars
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.personal import Line, Statement, Step, Trace, TracedGrant
from tui.model.statement import AMOUNT, WHAT
from tui.model.texts import (
    FAINT,
    NOTHING,
    STRONG,
    UNKNOWN,
    cell,
    clock_text,
    cut,
    date_text,
    day_text,
    exact_money,
    line,
    several,
)

EMPTY: Final = "nothing was paid"
CONFIRMED: Final = "confirmed"
MOST_GRANTS: Final = 50
LOADING: Final = "asking the secretary …"


def days_of(month: str) -> tuple[str, str]:
    """The first and the last of 2026-11, both in it."""
    year, number_ = (int(part) for part in month.split("-"))
    return f"{month}-01", f"{month}-{calendar.monthrange(year, number_)[1]:02d}"


def sums(statement: Statement, width: int) -> list[Text]:
    parts = " · ".join(f"{what} {show_nanodollars(amount)}" for what, amount in statement.topped_up_parts)
    vouchers = statement.of_vouchers_nanodollars
    room = max(0, width - WHAT - AMOUNT - 2)
    fees = " · ".join(f"{what} {exact_money(amount)}" for what, amount in statement.fee_lines)
    return [
        _sum("  opening", statement.opening_nanodollars, statement.currency),
        _sum("+ topped up", statement.topped_up_nanodollars, cut(parts, room)),
        _sum("− spent", statement.spent_nanodollars, f"vouchers {exact_money(vouchers)}" if vouchers else ""),
        _sum("− fees", statement.fees_nanodollars, cut(fees, room)),
        line(("─" * (WHAT + AMOUNT), FAINT)),
        _sum("= closing", statement.closing_nanodollars, statement.currency, STRONG),
    ]


def _sum(what: str, nanodollars: int, note: str, style: str = "") -> Text:
    return line((f"{cell(what, WHAT)}{exact_money(nanodollars):>{AMOUNT}}", style), (f"  {note}", FAINT))


# --- lines ------------------------------------------------------------------------------------------------------------


def mark_of(state: str) -> str:
    """What is not confirmed stands out without a colour."""
    return state if state == CONFIRMED else f"! {state}" if "disputed" in state else f"~ {state}"


def columns_of(by: str) -> tuple[Column[Line], ...]:
    return (
        Column(by, 22, 0, lambda line_: line_.what or UNKNOWN, most=60),
        Column("user", 10, 2, lambda line_: line_.user or NOTHING, most=20),
        number("paid", AMOUNT, 0, lambda line_: exact_money(line_.nanodollars), lambda line_: line_.nanodollars),
        number("grants", 6, 1, lambda line_: f"{line_.grants:,}", lambda line_: line_.grants),
        Column("rests on", 20, 0, lambda line_: mark_of(line_.state), most=30),
        number(
            "of vouchers",
            AMOUNT,
            3,
            lambda line_: exact_money(line_.of_vouchers_nanodollars),
            lambda line_: line_.of_vouchers_nanodollars,
        ),
    )


COLUMNS: Final = {by: columns_of(by) for by in ("program", "destination", "gateway", "network", "day", "user")}


def listing(statement: Statement, sorting: Sorting, wanted: str) -> Listing[Line]:
    """The dearest first, as they came."""
    found = matching(wanted, statement.lines, lambda line_: (line_.what, line_.user, line_.state))
    columns = COLUMNS[statement.by]
    return Listing(
        columns=columns,
        things=sorting.sort(columns, found),
        key=lambda line_: line_.key,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


# --- what is behind a line --------------------------------------------------------------------------------------------


def trace_lines(of: Line, trace: Trace) -> list[Text]:
    total = sum(step.nanodollars for grant in trace.grants for step in grant.steps)
    differs = "" if total == of.nanodollars else f"  ! its grants sum up to {exact_money(total)}"
    made = [
        line(
            (of.what or UNKNOWN, STRONG),
            f"  {exact_money(of.nanodollars)}, {of.state}, {several(len(trace.grants), 'grant')}",
            (differs, STRONG),
        )
    ]
    for grant in trace.grants[:MOST_GRANTS]:
        made += _grant_lines(grant)
    if len(trace.grants) > MOST_GRANTS:
        made.append(
            line(f"{several(len(trace.grants) - MOST_GRANTS, 'more grant')}: hostagent secretary trace {of.key}")
        )
    return made


def _grant_lines(grant: TracedGrant) -> list[Text]:
    disputed = ", disputed" if grant.is_disputed else ""
    made = [
        line(("grant ", FAINT), grant.grant),
        line(("  rests on ", FAINT), f"{grant.word}{disputed}; at most {show_nanodollars(grant.cap_nanodollars)}"),
        line(("  flow ", FAINT), f"{grant.flow}  by {grant.gateway}"),
        line(("  why ", FAINT), grant.because),
    ]
    return [*made, *(_step_line(step) for step in grant.steps)]


def _step_line(step: Step) -> Text:
    one_day = day_text(step.from_unix_s) == day_text(step.until_unix_s)
    until = clock_text(step.until_unix_s) if one_day else date_text(step.until_unix_s)
    when = f"  {day_text(step.from_unix_s)} {clock_text(step.from_unix_s)} to {until}"
    return line(f"{when:<40}{exact_money(step.nanodollars):>{AMOUNT - 4}}  {step.what}")
