"""Flows as a table and one by one: who sends what whereto, what that is worth and costs, what was decided and why.

Decides the columns, the order that a table begins with, and the words of a flow's details.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import (
    FAINT,
    NOTHING,
    STRONG,
    bytes_text,
    line,
    money_text,
    price_text,
    rate_text,
    several,
)

EMPTY: Final = "no flow yet: whatever a program here sends shows up"
_UNPRICED: Final = -1  # sorts below 0


def destination_of(flow: api.Flow) -> str:
    """With the port, where the flow's name has one."""
    return flow.flow.rpartition(" → ")[2] or flow.destination


def _or_none(value: int | None) -> int:
    return _UNPRICED if value is None else value


def _paid(flow: api.Flow, text: str) -> str:
    return text if flow.amount_nanodollars or flow.spent_nanodollars or flow.strategy != "unpaid" else NOTHING


COLUMNS: Final[tuple[Column[api.Flow], ...]] = (
    Column("program", 12, 0, lambda flow: flow.program or NOTHING, most=24),
    Column("task", 10, 6, lambda flow: flow.task or NOTHING, most=24),
    Column("kind", 10, 3, lambda flow: flow.traffic_class or NOTHING, most=16),
    Column("destination", 21, 0, destination_of, most=47),
    number("out", 5, 0, lambda flow: rate_text(flow.rate_bit_s), lambda flow: flow.rate_bit_s),
    number("in", 5, 0, lambda flow: rate_text(flow.received_bit_s), lambda flow: flow.received_bit_s),
    number("marks", 6, 4, lambda flow: f"{flow.marks:,}", lambda flow: flow.marks),
    number(
        "price",
        6,
        0,
        lambda flow: price_text(flow.price_nanodollars_per_mb),
        lambda flow: _or_none(flow.price_nanodollars_per_mb),
    ),
    number(
        "worth",
        6,
        0,
        lambda flow: price_text(flow.worth_nanodollars_per_mb),
        lambda flow: _or_none(flow.worth_nanodollars_per_mb),
    ),
    number("spent", 6, 1, lambda flow: money_text(flow.spent_nanodollars), lambda flow: flow.spent_nanodollars),
    number(
        "pays",
        6,
        7,
        lambda flow: _paid(flow, money_text(flow.amount_nanodollars)),
        lambda flow: flow.amount_nanodollars,
    ),
    number(
        "toll",
        6,
        8,
        lambda flow: _paid(flow, money_text(flow.toll_nanodollars)),
        lambda flow: _or_none(flow.toll_nanodollars),
    ),
    Column("path", 14, 5, lambda flow: flow.path or NOTHING, most=40),
    Column("decision", 34, 2, lambda flow: flow.reason, most=400),
)


# Where packets carry payments and nobody has set a price or a worth, payments take their place.
_PAID_RANKS: Final = {"pays": 0, "toll": 0, "price": 9, "worth": 10}
PAID_COLUMNS: Final = tuple(replace(column, rank=_PAID_RANKS.get(column.title, column.rank)) for column in COLUMNS)


def columns_of(flows: Sequence[api.Flow]) -> tuple[Column[api.Flow], ...]:
    if any(flow.amount_nanodollars for flow in flows) and all(
        flow.price_nanodollars_per_mb is None and flow.worth_nanodollars_per_mb is None for flow in flows
    ):
        return PAID_COLUMNS
    return COLUMNS


def natural_order(flow: api.Flow) -> tuple[bool, bool, int, str]:
    """Paying ones first, then by rate; the silent ones last."""
    pays = flow.amount_nanodollars > 0 or flow.strategy == "return"
    return not flow.active, not pays, -flow.rate_bit_s - flow.received_bit_s, flow.flow


def _texts(flow: api.Flow) -> Iterable[str]:
    return flow.program, flow.task, flow.traffic_class, flow.destination, flow.flow


def listing(flows: Sequence[api.Flow], sorting: Sorting, wanted: str) -> Listing[api.Flow]:
    found = sorted(matching(wanted, flows, _texts), key=natural_order)
    return Listing(
        columns=columns_of(flows),
        things=sorting.sort(COLUMNS, found),
        key=lambda flow: flow.flow,
        faint=lambda flow: not flow.active,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(flow: api.Flow) -> list[Text]:
    """All about one flow, in whole sentences."""
    who = [f"program {flow.program}" if flow.program else "", f"task {flow.task}" if flow.task else ""]
    who += [f"kind {flow.traffic_class}" if flow.traffic_class else "", f"by {flow.network}" if flow.network else ""]
    who += [f"rule {flow.rule}" if flow.rule else ""]
    lines = [line((flow.flow, STRONG), "" if flow.active else "   silent")]
    if any(who):
        lines.append(line(" · ".join(part for part in who if part)))
    lines.append(line(_worth_text(flow)))
    lines.append(line(_payment_text(flow)))
    lines.append(line(_traffic_text(flow)))
    if flow.path:
        lines.append(line(f"path {flow.path}"))
    lines.append(line(("decision  ", FAINT), flow.reason or "none"))
    return lines


def _worth_text(flow: api.Flow) -> str:
    worth = flow.worth_nanodollars_per_mb
    said = "nobody said what it is worth" if worth is None else f"worth {price_text(worth)} a GB"
    price = flow.price_nanodollars_per_mb
    return f"{said}; {'no price' if price is None else f'a GB costs {price_text(price)} now'}"


def _payment_text(flow: api.Flow) -> str:
    spent = f"spent {money_text(flow.spent_nanodollars)}, {money_text(flow.returned_nanodollars)} came back"
    if not flow.amount_nanodollars:
        return f"pays nothing now; {spent}"
    toll = money_text(flow.toll_nanodollars)
    keeps = "nobody told yet what the path keeps" if flow.toll_nanodollars is None else f"the path keeps {toll}"
    return f"pays {money_text(flow.amount_nanodollars)} a packet, {keeps}; {spent}"


def _traffic_text(flow: api.Flow) -> str:
    arrives = "" if flow.goodput_bit_s is None else f"; {rate_text(flow.goodput_bit_s, gap=' ')}bit/s arrive"
    sent = f"sent {several(flow.packets, 'packet')}, {bytes_text(flow.bytes)}"
    marks = several(flow.marks, "congestion mark")
    return f"{sent}; received {bytes_text(flow.received_bytes)}; {marks}{arrives}"


def why_lines(why: api.Why) -> list[Text]:
    """Question and answer beside each other."""
    column = max((len(answer.question) for answer in why.lines), default=0)
    return [line((why.flow, STRONG)), *(line((f"{w.question:<{column}}  ", FAINT), w.answer) for w in why.lines)]
