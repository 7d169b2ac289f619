"""Flows, programs and kinds of traffic, and what decided about one flow.

Decides: the columns. Refuses to know: where the values come from, and how a table is laid out (`cli.show.text`).
"""

from __future__ import annotations

from collections.abc import Sequence

from cli.show.text import WIDE_COLUMNS, Grid, columns, facts, money, per_gb, rate, size, write, write_or
from hostagent import api

NO_PRICE = "0"


def show_flows(flows: Sequence[api.Flow]) -> None:
    """In a wide terminal, and into a pipe, each with its reason; in a narrow one `hostagent why` has it."""
    # What a payment does is shown where there is one: most hosts have none.
    pays = any(flow.rule or flow.amount_nanodollars or flow.path for flow in flows)
    is_wide = columns() >= WIDE_COLUMNS
    if pays:
        _write_paying(flows, is_wide=is_wide)
        return
    grid = Grid("program", "task", "flow", "kind", ">out bit/s", ">in bit/s", ">price", *(["|why"] if is_wide else []))
    for flow in flows:
        grid.add(
            flow.program,
            flow.task,
            flow.flow if is_wide else short_flow(flow.flow),
            flow.traffic_class,
            rate(flow.rate_bit_s),
            rate(flow.received_bit_s),
            price(flow.price_nanodollars_per_mb),
            *([flow.reason] if is_wide else []),
        )
    write_or(grid, "no flows: nothing has been sent yet")


def _write_paying(flows: Sequence[api.Flow], *, is_wide: bool) -> None:
    wide = ("rule", "path", "|why") if is_wide else ()
    grid = Grid("program", "flow", ">out bit/s", ">pays", ">toll", ">spent", ">returned", *wide)
    for flow in flows:
        spends = bool(flow.amount_nanodollars or flow.spent_nanodollars)
        amounts = (flow.toll_nanodollars, flow.spent_nanodollars, flow.returned_nanodollars)
        grid.add(
            flow.program,
            flow.flow if is_wide else short_flow(flow.flow),
            rate(flow.rate_bit_s),
            money(flow.amount_nanodollars) if spends else "nothing",
            *((money(each) for each in amounts) if spends else ("", "", "")),
            *((flow.rule, flow.path, flow.reason) if is_wide else ()),
        )
    write(grid)


def short_flow(flow: str) -> str:
    """Protocol and far end, which is enough for `hostagent why` in most cases."""
    protocol, _, ends = flow.partition(" ")
    _, arrow, remote = ends.rpartition("→ ")
    return f"{protocol} {remote}" if arrow else flow


def price(nanodollars_per_mb: int | None) -> str:
    """Of a gigabyte, since a megabyte's is hard to imagine; 0: nobody is in anybody's way."""
    if nanodollars_per_mb is None:
        return ""
    return per_gb(nanodollars_per_mb) if nanodollars_per_mb else NO_PRICE


def show_programs(programs: Sequence[api.Program], *, is_counting: bool) -> None:
    is_wide = columns() >= WIDE_COLUMNS
    wide = ("unit", ">user", "|decision", ">CE marks in") if is_wide else ()
    grid = Grid("program", "task", "kind", ">out bit/s", ">in bit/s", ">sent", ">received", ">worth", *wide)
    for each in programs:
        more = (
            each.container or each.unit,
            "" if each.user_id is None else str(each.user_id),
            each.decision,
            str(each.received_ce_packets),
        )
        grid.add(
            program_name(each),
            each.task,
            each.traffic_class,
            rate(each.sent_bit_s),
            rate(each.received_bit_s),
            size(each.sent_bytes),
            size(each.received_bytes),
            per_gb(each.worth_nanodollars_per_mb),
            *(more if is_wide else ()),
        )
    otherwise = (
        "no traffic yet" if is_counting else "nothing is counted: there is no network, and no [[links]] is configured"
    )
    write_or(grid, otherwise)


def program_name(program: api.Program) -> str:
    return f"({program.kind})" if program.kind == "unattributed" else program.name


def show_kinds(kinds: Sequence[api.Kind]) -> None:
    is_wide = columns() >= WIDE_COLUMNS
    wide = ("what", ">at least", ">sent", ">received", "|why") if is_wide else ()
    grid = Grid("kind", ">worth", ">weight", ">cap bit/s", ">out bit/s", ">in bit/s", ">spent", "state", *wide)
    for each in kinds:
        more = (each.title, rate(each.minimum_bit_s), size(each.sent_bytes), size(each.received_bytes), each.reason)
        grid.add(
            each.name,
            per_gb(each.worth_nanodollars_per_mb),
            str(each.weight),
            "" if each.cap_bit_s is None else rate(each.cap_bit_s),
            rate(each.sent_bit_s),
            rate(each.received_bit_s),
            money(each.spent_nanodollars) if each.spent_nanodollars else "",
            each.state.value,
            *(more if is_wide else ()),
        )
    write_or(grid, "no kinds: nothing is shaped here")


def show_why(why: api.Why) -> None:
    write(why.flow, facts((line.question, line.answer) for line in why.lines))
