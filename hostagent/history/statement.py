"""Statements of a month: opening + topped up - spent - fees = closing, to the nanodollar; the lines sum up to spent.

Decides what belongs to a month and to whom it is put down; refuses to know where history is kept and what time it is.
It is a function of what is in the books, so making it twice, or booking a credit twice, changes nothing.

- Spent is what was really paid in packets, and the usage part of tariffs by the byte and by the mark. Fees are the
  monthly fees of the networks that were used in the month.
- A contract whose provider collects its money itself (not prepaid) is paid for in the same month: the same sum is among
  what was topped up, so that nothing of it is carried on.
- Vouchers are used before money that was topped up (MV-44).
- Internal money (the embedded gateway's prices) stands apart: it shares a link out and is nobody's bill.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from billpay.money import NANODOLLARS_PER_DOLLAR
from billpay.tariffs import AnyTariff, Tolls
from hostagent import api
from hostagent.history.calendar import Span
from hostagent.history.export import harmless
from hostagent.history.values import OTHERS

VOUCHER: Final = "voucher"
TOP_UP: Final = "top-up"
LINES_MAX: Final = 200
DOLLARS: Final = "USD"
"""Payments in packets are nanodollars: they are in the statement of this currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Money that came in. The same `id` is the same credit, however often it is told."""

    id: str
    unix_s: int
    nanodollars: int
    kind: str = TOP_UP
    reason: str = ""

    def __post_init__(self) -> None:
        if self.nanodollars <= 0 or self.kind not in (VOUCHER, TOP_UP):
            raise ValueError("a credit is a voucher or a top-up above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A network's own tariff. `prepaid`: it is paid out of what was topped up; else its provider collects it."""

    network: str
    title: str
    tariff: AnyTariff
    prepaid: bool = False

    @property
    def fee_nanodollars(self) -> int:
        return 0 if isinstance(self.tariff, Tolls) else self.tariff.monthly_fee_nanodollars


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthOfMoney:
    """What history has of one month: rows by program and network, and the contracts of the networks that were used."""

    rows: Sequence[api.HistoryRow]
    contracts: Sequence[Contract] = ()

    def prepaid_nanodollars(self) -> int:
        prepaid = [contract for contract in self.contracts if contract.prepaid]
        networks = {contract.network for contract in prepaid}
        usage = sum(row.tariff_nanodollars for row in self.rows if row.network in networks)
        return usage + sum(contract.fee_nanodollars for contract in prepaid)


class Cover(NamedTuple):
    """Who paid: vouchers first, then what was topped up; the rest is owed."""

    voucher_nanodollars: int
    top_up_nanodollars: int
    owed_nanodollars: int


def cover(credits: Iterable[Credit], charged_nanodollars: int) -> Cover:  # noqa: A002 - the word of the books
    """Of everything that was charged so far. What is left of either is what came in less this."""
    vouchers = top_ups = 0
    for credit in credits:
        if credit.kind == VOUCHER:
            vouchers += credit.nanodollars
        else:
            top_ups += credit.nanodollars
    by_voucher = min(vouchers, charged_nanodollars)
    by_top_up = min(top_ups, charged_nanodollars - by_voucher)
    return Cover(by_voucher, by_top_up, charged_nanodollars - by_voucher - by_top_up)


def make_statement(
    month: str,
    span: Span,
    this: MonthOfMoney,
    earlier: Iterable[MonthOfMoney] = (),
    *,
    paid_before_nanodollars: int = 0,
    credits: Iterable[Credit] = (),  # noqa: A002 - the word of the books
    until_unix_s: int,
    by: str = "program",
    currency: str = DOLLARS,
) -> api.Statement:
    """`paid_before_nanodollars`: payments in packets before this month. `until_unix_s`: now, or the month's end.

    `earlier` matters only for prepaid contracts. Contracts are of the statement's currency (see `in_currency`).
    """
    if by not in ("program", "network"):
        raise ValueError("a statement is by program or by network")
    dollars = currency == DOLLARS
    booked = tuple(credits) if dollars else ()
    titles = {contract.network: contract.title for contract in this.contracts}
    lines: dict[str, list[int]] = {}
    for row in this.rows:
        name = row.program if by == "program" else titles.get(row.network, row.network)
        line = lines.setdefault(name, [0, 0])
        line[0] += row.sent_bytes + row.received_bytes
        line[1] += row.tariff_nanodollars + (row.spent_nanodollars if dollars else 0)
    spent = sum(amount for _, amount in lines.values())
    usage = sum(row.tariff_nanodollars for row in this.rows)
    fees = sum(contract.fee_nanodollars for contract in this.contracts)
    collected = usage + fees - this.prepaid_nanodollars()
    opening = sum(credit.nanodollars for credit in booked if credit.unix_s < span.from_unix_s)
    opening -= (paid_before_nanodollars if dollars else 0) + sum(each.prepaid_nanodollars() for each in earlier)
    topped_up = collected + sum(
        credit.nanodollars for credit in booked if span.from_unix_s <= credit.unix_s < span.until_unix_s
    )
    elapsed_s = min(until_unix_s, span.until_unix_s) - span.from_unix_s
    return api.Statement(
        month=month,
        currency=currency,
        opening_nanodollars=opening,
        topped_up_nanodollars=topped_up,
        spent_nanodollars=spent,
        fees_nanodollars=fees,
        closing_nanodollars=opening + topped_up - spent - fees,
        lines=_lines(lines),
        fee_lines=tuple(
            api.StatementLine(what=contract.title, bytes=0, nanodollars=contract.fee_nanodollars)
            for contract in this.contracts
            if contract.fee_nanodollars
        ),
        internal_nanodollars=sum(row.priced_nanodollars for row in this.rows),
        bytes=sum(size for size, _ in lines.values()),
        flat_nanodollars_per_month=fees + spent * span.seconds // elapsed_s if elapsed_s > 0 else None,
    )


def in_currency(contracts: Iterable[Contract], currency: str) -> tuple[Contract, ...]:
    return tuple(contract for contract in contracts if contract.tariff.currency == currency)


def _lines(lines: dict[str, list[int]]) -> tuple[api.StatementLine, ...]:
    """The dearest first; beyond a bound they are one."""
    order = sorted(lines.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))
    if len(order) > LINES_MAX:
        rest = [line for _, line in order[LINES_MAX - 1 :]]
        order = [*order[: LINES_MAX - 1], (OTHERS, [sum(column) for column in zip(*rest, strict=True)])]
    return tuple(api.StatementLine(what=what, bytes=size, nanodollars=amount) for what, (size, amount) in order)


# --- as text ----------------------------------------------------------------------------------------------------------


def show(nanodollars: int, currency: str) -> str:
    """All nine digits, since this is a document: "-0.000000150 USD"."""
    whole, rest = divmod(abs(nanodollars), NANODOLLARS_PER_DOLLAR)
    return f"{'-' if nanodollars < 0 else ''}{whole}.{rest:09d} {currency}"


def as_json(statement: api.Statement) -> str:
    return msgspec.json.format(msgspec.json.encode(statement), indent=2).decode() + "\n"


def as_csv(statement: api.Statement) -> str:
    """One table: what a row is, of what, bytes, nanodollars. `line`s sum up to `spent`, `fee`s to `fees`."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(("row", "what", "bytes", "nanodollars", "currency"))
    for row, what, size, amount in _table(statement):
        table.writerow((row, harmless(what), size, amount, statement.currency))
    return file.getvalue()


def as_markdown(statement: api.Statement) -> str:
    """For people; reads well as plain text too."""
    text = [f"# Statement of {statement.month}", "", "| | bytes | amount |", "|---|---:|---:|"]
    for row, what, size, amount in _table(statement):
        clean = " ".join((what or row).replace("|", "\\|").split())
        name = f"&nbsp;&nbsp;{clean}" if row in ("line", "fee") else f"**{clean}**"
        text.append(f"| {name} | {size or ''} | {show(amount, statement.currency)} |")
    text += ["", f"Internal money, nobody's bill: {show(statement.internal_nanodollars, statement.currency)}."]
    if statement.flat_nanodollars_per_month is not None:
        text.append(f"At this pace a month costs {show(statement.flat_nanodollars_per_month, statement.currency)}.")
    return "\n".join(text) + "\n"


def _table(statement: api.Statement) -> Iterable[tuple[str, str, int, int]]:
    yield "opening", "", 0, statement.opening_nanodollars
    yield "topped up", "", 0, statement.topped_up_nanodollars
    yield "spent", "", statement.bytes, -statement.spent_nanodollars
    for line in statement.lines:
        yield "line", line.what, line.bytes, -line.nanodollars
    yield "fees", "", 0, -statement.fees_nanodollars
    for line in statement.fee_lines:
        yield "fee", line.what, 0, -line.nanodollars
    yield "closing", "", 0, statement.closing_nanodollars
