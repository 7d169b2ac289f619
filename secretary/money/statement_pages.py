"""Statements as text for people and programs: CSV, JSON, plain text, and a page that prints well.

Decides the form: amounts have all their digits, and nothing is rounded, so what is read back is what was booked. The
page is one file without scripts, fonts or addresses of anybody; it prints in black on white, its head on each sheet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from html import escape
from typing import Final

import msgspec

from billpay.money import NANODOLLARS_PER_DOLLAR
from secretary.money.spending import GrantContext
from secretary.money.statements import COLUMNS, Line, Statement, Traced

PROTOCOLS: Final = {6: "tcp", 17: "udp"}
_CSS: Final = """
body { font: 11pt/1.4 sans-serif; color: #000; background: #fff; margin: 2em auto; max-width: 60em; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; margin: 1em 0 2em; }
th { text-align: left; border-bottom: 1.5px solid #000; }
td { border-bottom: 1px solid #bbb; overflow-wrap: anywhere; }
th, td { padding: .2em .5em; vertical-align: top; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.sum td { font-weight: bold; border-top: 1.5px solid #000; }
.sub td:first-child { padding-left: 2em; }
thead { display: table-header-group; }
tr { break-inside: avoid; }
@page { size: A4; margin: 18mm; }
@media print { body { margin: 0; max-width: none; padding: 0; font-size: 9.5pt; } }
"""


def exact_amount(nanodollars: int, currency: str) -> str:
    """All nine digits: "-0.000000150 USD"."""
    whole, rest = divmod(abs(nanodollars), NANODOLLARS_PER_DOLLAR)
    return f"{'-' if nanodollars < 0 else ''}{whole}.{rest:09d} {currency}"


def harmless(text: str) -> str:
    """For a spreadsheet: a program may be called `=cmd`."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def as_json(statement: Statement) -> str:
    return msgspec.json.format(msgspec.json.encode(statement), indent=2).decode() + "\n"


def as_csv(statement: Statement) -> str:
    """One table, amounts in nanodollars with their sign: opening + topped up + spent + fees = closing. `line`s sum up
    to `spent`, `fee`s to `fees`.
    """
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    numbers = ("nanodollars", "of_vouchers_nanodollars", "unconfirmed_nanodollars", "grants")
    table.writerow(("row", "what", *COLUMNS, *numbers, "state", "key", "currency"))
    nothing = [""] * len(COLUMNS)
    for row, nanodollars, vouchers in _sums(statement):
        table.writerow((row.strip(), "", *nothing, nanodollars, vouchers, "", "", "", "", statement.currency))
    for fee in statement.fee_lines:
        table.writerow(("fee", harmless(fee.what), *nothing, -fee.nanodollars, "", "", "", "", "", statement.currency))
    for line in statement.lines:
        columns = [harmless(getattr(line, each)) for each in COLUMNS]
        amounts = (-line.nanodollars, -line.of_vouchers_nanodollars, -_unconfirmed(line), line.grants)
        table.writerow(("line", "", *columns, *amounts, state_of(line), line.key, statement.currency))
    return file.getvalue()


def as_text(statement: Statement) -> str:
    """For a terminal or a mail: no line is wrapped."""
    currency = statement.currency
    rows = [(row, exact_amount(amount, currency)) for row, amount, _ in _sums(statement)]
    after = [row for row, _ in rows].index("fees") + 1
    rows[after:after] = [
        (f"  {_clean(fee.what)}", exact_amount(-fee.nanodollars, currency)) for fee in statement.fee_lines
    ]
    lines = [(_what(each), exact_amount(-each.nanodollars, currency), state_of(each)) for each in statement.lines]
    wide = max((len(each[0]) for each in (*rows, *lines)), default=0)
    high = max((len(each[1]) for each in (*rows, *lines)), default=0)
    text = [_title(statement), ""]
    text += [f"{what.ljust(wide)}  {amount.rjust(high)}" for what, amount in rows]
    text += ["", f"Spent, by {', '.join(statement.by) or 'nothing'}:", ""]
    text += [f"{what.ljust(wide)}  {amount.rjust(high)}  {state}".rstrip() for what, amount, state in lines]
    return "\n".join(text) + "\n"


def as_html(statement: Statement) -> str:
    """One file, for a browser's print."""
    currency = statement.currency
    sums = "".join(
        f"<tr class={_class(row)!r}><td>{escape(row)}</td><td class='n'>{exact_amount(amount, currency)}</td></tr>\n"
        for row, amount, _ in _sums(statement)
    )
    fees = "".join(
        f"<tr><td>{escape(_clean(fee.what))}</td><td class='n'>{exact_amount(-fee.nanodollars, currency)}</td></tr>\n"
        for fee in statement.fee_lines
    )
    heads = "".join(f"<th>{each}</th>" for each in (*statement.by, "state"))
    lines = "".join(_html_line(statement, line) for line in statement.lines)
    spent = exact_amount(-statement.spent_nanodollars, currency)
    title = escape(_title(statement))
    return (
        f"<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<title>{title}</title>\n"
        f"<style>{_CSS}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<table>\n<tbody>\n{sums}</tbody>\n</table>\n"
        + (f"<h2>Fees</h2>\n<table>\n<tbody>\n{fees}</tbody>\n</table>\n" if fees else "")
        + f"<h2>Spent</h2>\n<table>\n<thead><tr>{heads}<th class='n'>vouchers</th><th class='n'>amount</th></tr>"
        f"</thead>\n<tbody>\n{lines}<tr class='sum'><td colspan='{len(statement.by) + 2}'>spent</td>"
        f"<td class='n'>{spent}</td></tr>\n</tbody>\n</table>\n"
        "<p>opening + topped up &minus; spent &minus; fees = closing. Vouchers are spent first. "
        "Each line can be traced to its grants by its key.</p>\n</body>\n</html>\n"
    )


def trace_as_text(traced: Traced, currency: str) -> str:
    """A line, its grants with their flows, and when each part was spent (seconds of Unix time)."""
    text = [f"{_what(traced.line) or 'spent'}: {exact_amount(traced.line.nanodollars, currency)}"]
    for grant, steps in traced.grants:
        context = grant.context
        text.append(f"  grant {grant.grant}  {show_flow(context)}  at {_clean(context.isp)}")
        text.append(f"    {_clean(context.why or context.rule)}; {'disputed; ' * grant.is_disputed}{grant.word.value}")
        for step in steps:
            amount = exact_amount(step.nanodollars, currency)
            text.append(f"    {step.from_unix_s} to {step.until_unix_s}  {amount}  {_clean(step.what)}")
    return "\n".join(text) + "\n"


def show_flow(context: GrantContext) -> str:
    """ "tcp 10.0.0.2:40000 > 192.0.2.7:443", or where a transfer goes when its flow is not known."""
    flow = context.flow
    if flow is None:
        return _clean(context.transfer.destination)
    name = PROTOCOLS.get(flow.protocol, str(flow.protocol))
    return f"{name} {flow.source}:{flow.source_port} > {flow.destination}:{flow.destination_port}"


def state_of(line: Line) -> str:
    """ "confirmed" where every gateway has said so."""
    open_, assumed = line.told_nanodollars != 0, line.assumed_nanodollars != 0
    states = [word for word, holds in (("as told", open_), ("assumed", assumed), ("disputed", line.disputed)) if holds]
    return ", ".join(states) or "confirmed"


def _sums(statement: Statement) -> Iterator[tuple[str, int, int]]:
    """Each row with its sign, and what of it are vouchers."""
    vouchers = statement.spent_of_vouchers_nanodollars + statement.fees_of_vouchers_nanodollars
    kept = statement.closing_vouchers_nanodollars
    came = statement.vouchers_nanodollars - statement.expired_nanodollars
    yield "opening", statement.opening_nanodollars, kept - came + vouchers
    yield "topped up", statement.topped_up_nanodollars, came
    yield "  vouchers", statement.vouchers_nanodollars, statement.vouchers_nanodollars
    yield "  vouchers that expired", -statement.expired_nanodollars, -statement.expired_nanodollars
    yield "  top-ups", statement.top_ups_nanodollars, 0
    yield "  refunds", statement.refunds_nanodollars, 0
    yield "spent", -statement.spent_nanodollars, -statement.spent_of_vouchers_nanodollars
    yield "  of vouchers", -statement.spent_of_vouchers_nanodollars, -statement.spent_of_vouchers_nanodollars
    yield "  of money", statement.spent_of_vouchers_nanodollars - statement.spent_nanodollars, 0
    yield "fees", -statement.fees_nanodollars, -statement.fees_of_vouchers_nanodollars
    yield "closing", statement.closing_nanodollars, kept
    yield "  in vouchers", kept, kept


def _title(statement: Statement) -> str:
    return f"Statement of {statement.first_day} to {statement.last_day} ({statement.zone})"


def _class(row: str) -> str:
    return "sub" if row.startswith(" ") else "sum" if row == "closing" else ""


def _html_line(statement: Statement, line: Line) -> str:
    cells = "".join(f"<td>{escape(_clean(getattr(line, each)))}</td>" for each in statement.by)
    vouchers = exact_amount(-line.of_vouchers_nanodollars, statement.currency)
    amount = exact_amount(-line.nanodollars, statement.currency)
    return (
        f"<tr id='{escape(line.key)}'>{cells}<td>{state_of(line)}</td><td class='n'>{vouchers}</td>"
        f"<td class='n'>{amount}</td></tr>\n"
    )


def _what(line: Line) -> str:
    return "  ".join(_clean(getattr(line, each)) or "?" for each in COLUMNS if getattr(line, each))


def _unconfirmed(line: Line) -> int:
    return line.told_nanodollars + line.assumed_nanodollars


def _clean(text: str) -> str:
    """One line, whatever a program is called."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
