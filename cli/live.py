"""The agent's life as plain lines: `hostagent top`, and what `hostagent up` says where there is no terminal.

Decides: what is worth a line each second, what comes first, and the summary at the end. Refuses to know: where lines
go and when (`cli.watching`), and the clock. Pure: snapshots in, lines out; no escape codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from cli.show.amounts import budget_grid
from cli.show.state import mode_text
from cli.show.text import Grid, bit_rate, harmless, lines_of, per_gb, rate, size, span
from cli.show.traffic import price, program_name, short_flow
from hostagent import api

BY: Final = ("program", "flow", "kind")
SORTS: Final = ("rate", "out", "in", "sent", "received", "worth", "name")
LIVE_ROWS: Final = 4
SUMMARY_ROWS: Final = 15
WIDE: Final = 100


def top_lines(snapshot: api.Snapshot, *, by: str, sort: str, width: int, rows: int) -> list[str]:
    """Two lines about the whole, and the busiest below."""
    grid = {"program": _programs, "flow": _flows, "kind": _kinds}[by](snapshot, sort, rows, is_wide=width >= WIDE)
    body = lines_of(grid, width) if grid else ["nothing yet"]
    return [_cut(line, width) for line in (header(snapshot), money_line(snapshot), "")] + body


def header(snapshot: api.Snapshot) -> str:
    """When, how, where, how much."""
    status = snapshot.status
    sent = sum(link.sent_bit_s for link in snapshot.links)
    received = sum(link.received_bit_s for link in snapshot.links)
    parts = (
        clock(snapshot.unix_s),
        mode_word(status),
        harmless(status.network) or "no network",
        f"out {bit_rate(sent)}",
        f"in {bit_rate(received)}",
        "" if status.health is api.Health.OK else status.health.value,
    )
    return "  ".join(part for part in parts if part)


def clock(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%H:%M:%S")


def mode_word(status: api.Status) -> str:
    if status.mode is api.Mode.TRIAL:
        return f"on trial ({span(status.trial_seconds_left or 0)} left)"
    return "observes" if status.mode is api.Mode.OBSERVE else "acts"


def money_line(snapshot: api.Snapshot) -> str:
    """The dearest price, and the budget that is fullest."""
    parts = []
    if snapshot.prices:
        dearest = max(snapshot.prices, key=lambda each: each.nanodollars_per_mb)
        if dearest.nanodollars_per_mb:
            said = f"price {per_gb(dearest.nanodollars_per_mb)} {dearest.direction} ({harmless(dearest.source)})"
            parts.append(said)
        else:
            parts.append("price 0: nobody is in anybody's way")
    limited = [each for each in snapshot.budgets if each.limit]
    if limited:
        fullest = max(limited, key=lambda each: each.used / each.limit)
        parts.append(f"{harmless(fullest.name)} {fullest.used * 100 // fullest.limit} % used")
    if snapshot.questions:
        parts.append(f"{len(snapshot.questions)} questions wait (hostagent inbox)")
    return "  ".join(parts)


def _programs(snapshot: api.Snapshot, sort: str, rows: int, *, is_wide: bool) -> Grid:
    grid = Grid(
        "program",
        "kind",
        ">out bit/s",
        ">in bit/s",
        ">sent",
        ">received",
        ">worth",
        *(["|decision"] if is_wide else []),
    )
    for each in _sorted(snapshot.programs, sort, program_name)[:rows]:
        grid.add(
            f"{program_name(each)} ({each.task})" if each.task else program_name(each),
            each.traffic_class,
            rate(each.sent_bit_s),
            rate(each.received_bit_s),
            size(each.sent_bytes),
            size(each.received_bytes),
            per_gb(each.worth_nanodollars_per_mb),
            *([each.decision] if is_wide else []),
        )
    return grid


def _flows(snapshot: api.Snapshot, sort: str, rows: int, *, is_wide: bool) -> Grid:
    grid = Grid("program", "flow", "kind", ">out bit/s", ">in bit/s", ">price", *(["|why"] if is_wide else []))
    for each in _sorted(snapshot.flows, sort, lambda flow: flow.program)[:rows]:
        grid.add(
            each.program,
            short_flow(each.flow),
            each.traffic_class,
            rate(each.rate_bit_s),
            rate(each.received_bit_s),
            price(each.price_nanodollars_per_mb),
            *([each.reason] if is_wide else []),
        )
    return grid


def _kinds(snapshot: api.Snapshot, sort: str, rows: int, *, is_wide: bool) -> Grid:
    grid = Grid(
        "kind",
        ">worth",
        ">weight",
        ">out bit/s",
        ">in bit/s",
        ">sent",
        ">received",
        "state",
        *(["|why"] if is_wide else []),
    )
    for each in _sorted(snapshot.kinds, sort, lambda kind: kind.name)[:rows]:
        grid.add(
            each.name,
            per_gb(each.worth_nanodollars_per_mb),
            str(each.weight),
            rate(each.sent_bit_s),
            rate(each.received_bit_s),
            size(each.sent_bytes),
            size(each.received_bytes),
            each.state.value,
            *([each.reason] if is_wide else []),
        )
    return grid


def _sorted(items: Sequence[Any], sort: str, name: Callable[[Any], str]) -> list[Any]:
    """The most first; equals by name, so that lines do not change places without a reason."""

    def value(item: Any) -> int:
        if isinstance(item, api.Flow):
            out, sent = item.rate_bit_s, item.bytes
        else:
            out, sent = item.sent_bit_s, item.sent_bytes
        values: dict[str, int] = {
            "rate": out + item.received_bit_s,
            "out": out,
            "in": item.received_bit_s,
            "sent": sent,
            "received": item.received_bytes,
            "worth": item.worth_nanodollars_per_mb or 0,
            "name": 0,
        }
        return values[sort]

    return sorted(items, key=lambda item: (-value(item), name(item)))


# -- one short block a second ----------------------------------------------------------------------------------------


def live_lines(snapshot: api.Snapshot, width: int) -> list[str]:
    """A few lines: the whole, and those that send or receive now, each with what was decided about it."""
    lines = ["  ".join(part for part in (header(snapshot), money_line(snapshot)) if part)]
    busy = [each for each in _sorted(snapshot.programs, "rate", program_name) if each.sent_bit_s or each.received_bit_s]
    for each in busy[:LIVE_ROWS]:
        rates = f"out {rate(each.sent_bit_s, nothing='0'):>6} in {rate(each.received_bit_s, nothing='0'):>6}"
        name, kind = _cell(program_name(each), 20), _cell(each.traffic_class, 10)
        lines.append(f"          {name} {kind} {rates}  {harmless(each.decision)}")
    return [_cut(line.rstrip(), width) for line in lines]


def _cell(text: str, width: int) -> str:
    return set_cell_size(_cut(harmless(text), width), width)


def _cut(line: str, width: int) -> str:
    """Characters may be two cells wide."""
    return line if cell_len(line) <= width else f"{set_cell_size(line, width - 1)}…"


# -- the end ---------------------------------------------------------------------------------------------------------


def summary_lines(first: api.Snapshot, last: api.Snapshot, width: int) -> list[str]:
    """What passed, by program, and where it stands with money; all since the agent started."""
    status = last.status
    lines = [
        "",
        f"watched for {span(max(0, last.unix_s - first.unix_s))}: the agent {mode_text(status)}",
        f"engine: {harmless(status.engine_reason or status.engine)}",
        f"network: {harmless(status.network) or 'none'}",
    ]
    lines += [f"{warning.code}: {harmless(warning.message)}" for warning in status.warnings]
    moved = [each for each in last.programs if each.sent_bytes or each.received_bytes]
    by_bytes = sorted(moved, key=lambda each: -(each.sent_bytes + each.received_bytes))[:SUMMARY_ROWS]
    if by_bytes:
        grid = Grid("program", "kind", ">sent", ">received", ">worth", "|decision")
        for each in by_bytes:
            worth = per_gb(each.worth_nanodollars_per_mb)
            counts = size(each.sent_bytes), size(each.received_bytes)
            grid.add(program_name(each), each.traffic_class, *counts, worth, each.decision)
        lines += ["", *lines_of(grid, width)]
    else:
        lines += ["", "no program sent or received anything"]
    if last.budgets:
        lines += ["", *lines_of(budget_grid(last.budgets), width)]
    return lines
