"""The ways to destinations: how good each is, what it costs, why one is taken; who is greedy; what is checked.

Decides: the columns at each width, and how a number that nobody measured here is told from one that is measured.
Refuses to know: where the values come from. What nobody knows is a question mark, never a 0. Pure but for the last
function of each part, which writes.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.cells import cell_len

from cli.show.text import GAP, UNKNOWN, Grid, facts, harmless, lines_of, moment, money, per_gb, rate, span
from hostagent import api

PS_PER_NANODOLLAR: Final = 1000
NS_PER_MS: Final = 1_000_000
PPM_PER_PERCENT: Final = 10_000
INDENT: Final = 4
WAY_LEAST: Final = 16  # characters for the way, however narrow the terminal
WAY_MOST: Final = 60
USED: Final = ">"
ONLY_WAY: Final = "the only one"
MEASURED: Final = "measured"
EMPTY: Final = "no ways: nobody was reached yet over anything that is measured"
LEGEND_UNMEASURED: Final = "( ) not measured here: promised by an ISP, or from the campus service"
LEGEND_UNKNOWN: Final = "? not known"
KINDS: Final = {
    "keeps-and-drops": "keeps payments and drops the packets",
    "fakes-congestion": "fakes congestion",
    "lies": "promises what it does not keep",
    "ignores": "takes other ways than asked",
}
_FINE: Final = 9.995, 99.95


# --- numbers ----------------------------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """About three digits; 0 only for what is 0."""
    if value == 0:
        return "0"
    if abs(value) < 0.0995:
        return f"{value:.3f}" if abs(value) >= 0.0005 else ("<0.001" if value > 0 else ">-0.001")
    return f"{value:,.{2 if abs(value) < _FINE[0] else 1 if abs(value) < _FINE[1] else 0}f}"


def ms(nanoseconds: float | None) -> str:
    return UNKNOWN if nanoseconds is None else digits(nanoseconds / NS_PER_MS)


def percent(ppm: float | None) -> str:
    return UNKNOWN if ppm is None else digits(ppm / PPM_PER_PERCENT)


def nanodollars(picodollars: float | None) -> str:
    return UNKNOWN if picodollars is None else digits(picodollars / PS_PER_NANODOLLAR)


def bit_s(value: float | None) -> str:
    return UNKNOWN if value is None else rate(round(value), nothing="0")


def figure(known: api.Figure | None, show: Callable[[float | None], str], *, with_error: bool = True) -> str:
    """`21.0 ±0.3`; in parentheses what was not measured here; a question mark for what nobody knows."""
    if known is None:
        return UNKNOWN
    text = show(known.value)
    if with_error and known.uncertainty:
        text += f" ±{_short(show(known.uncertainty))}"
    return text if known.source == MEASURED else f"({text})"


def _short(text: str) -> str:
    """An error has fewer digits than its value: 0.30 is 0.3."""
    return text.rstrip("0").rstrip(".") if "." in text and text[-1].isdigit() else text


def figures(way: api.Way) -> tuple[api.Figure | None, ...]:
    return (
        *(way.delay_ns, way.jitter_ns, way.loss_ppm, way.marks_ppm, way.throughput_bit_s),
        *(way.forward_toll_picodollars, way.return_toll_picodollars),
    )


def age(way: api.Way) -> str:
    """Of the newest measurement of anything."""
    ages = [each.age_s for each in figures(way) if each is not None and each.age_s is not None]
    return short_span(min(ages)) if ages else UNKNOWN


def short_span(seconds: int) -> str:
    """The largest unit alone: 2 h."""
    return " ".join(span(seconds).split()[:2])


def sources(way: api.Way) -> str:
    """Who says the numbers, the first of them first."""
    return ", ".join(dict.fromkeys(each.source for each in figures(way) if each is not None)) or UNKNOWN


def share(ppm: int) -> str:
    return "0 %" if ppm == 0 else "<1 %" if ppm < PPM_PER_PERCENT else f"{ppm // PPM_PER_PERCENT} %"


def way_name(way: str) -> str:
    return harmless(way) or ONLY_WAY


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    """`rank`: the highest is left out first; 0 is always there."""

    title: str
    rank: int
    text: Callable[[api.Way], str]


_COLUMNS: Final = (
    _Column("share", 0, lambda way: share(way.share_ppm)),
    _Column("delay ms", 0, lambda way: figure(way.delay_ns, ms)),
    _Column("jitter", 5, lambda way: figure(way.jitter_ns, ms)),
    _Column("lost %", 1, lambda way: figure(way.loss_ppm, percent)),
    _Column("marked %", 6, lambda way: figure(way.marks_ppm, percent)),
    _Column("bit/s", 4, lambda way: figure(way.throughput_bit_s, bit_s)),
    _Column("n$ there", 1, lambda way: figure(way.forward_toll_picodollars, nanodollars)),
    _Column("n$ back", 3, lambda way: figure(way.return_toll_picodollars, nanodollars)),
    _Column("cost n$", 0, lambda way: nanodollars(way.cost_picodollars)),
    _Column("age", 2, age),
    _Column("by", 7, sources),
)


class WayTable:
    """All groups have the same columns, so that they stand below each other."""

    def __init__(self, ways: Sequence[api.Way], width: int) -> None:
        self._ways = ways
        self._cells = {
            column.title: [column.text(way) for way in ways]  # made once, and measured and shown from there
            for column in _COLUMNS
        }
        self._widths = {title: max(cell_len(text) for text in (title, *cells)) for title, cells in self._cells.items()}
        self._width = width
        names = max((cell_len(way_name(way.way)) for way in ways), default=0)
        wanted = min(names, WAY_MOST)
        self.columns = list(_COLUMNS)
        while self._room() < wanted and any(column.rank for column in self.columns):
            if self._room() >= WAY_LEAST and max(column.rank for column in self.columns) <= 2:
                break  # a long way is wrapped before the price or the loss is left out
            self.columns.remove(max(self.columns, key=lambda column: column.rank))
        self._way = max(WAY_LEAST, min(wanted, self._room()))

    def _room(self) -> int:
        return self._width - len(USED) - 1 - sum(GAP + self._widths[column.title] for column in self.columns)

    def header(self) -> str:
        cells = (f"{column.title:>{self._widths[column.title]}}" for column in self.columns)
        return (" " * GAP).join((f"  {'way':<{self._way}}", *cells))

    def lines(self, place: int) -> Iterator[str]:
        """A way's numbers, and below them why it is taken or not."""
        way = self._ways[place]
        first, *others = textwrap.wrap(way_name(way.way), self._way) or [""]
        mark = USED if way.chosen else " "
        cells = (_right(self._cells[column.title][place], self._widths[column.title]) for column in self.columns)
        yield (" " * GAP).join((f"{mark} {first:<{self._way}}", *cells)).rstrip()
        for other in others:
            yield f"  {other}"
        reason = harmless(way.reason) or ("it is taken" if way.chosen else "nobody said why it is not taken")
        yield from wrapped(reason, self._width, INDENT)


def _right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text


def wrapped(text: str, width: int, indent: int) -> list[str]:
    blank = " " * indent
    return textwrap.wrap(
        harmless(text), max(20, width), initial_indent=blank, subsequent_indent=blank, break_long_words=True
    )


def way_lines(ways: Sequence[api.Way], width: int) -> list[str]:
    """By destination and class; `ways` of one group stand together already."""
    if not ways:
        return [EMPTY]
    table = WayTable(ways, width)
    lines, last = [table.header()], None
    for place, way in enumerate(ways):
        group = (way.destination, way.wants)
        if group != last:
            lines.append(f"{harmless(way.destination)} for {harmless(way.wants)}")
            last = group
        lines += table.lines(place)
    shown = [cell for column in table.columns for cell in table._cells[column.title]]
    lines += [f"{USED} the choice: traffic moves there"]
    if any(cell.startswith("(") for cell in shown):
        lines.append(LEGEND_UNMEASURED)
    if UNKNOWN in shown:
        lines.append(LEGEND_UNKNOWN)
    return lines


def grouped(ways: Iterable[api.Way]) -> list[api.Way]:
    """Those of one destination and class together, in the agent's order else."""
    groups: dict[tuple[str, str], list[api.Way]] = {}
    for way in ways:
        groups.setdefault((way.destination, way.wants), []).append(way)
    return [way for group in groups.values() for way in group]


# --- what else is known -----------------------------------------------------------------------------------------------


def alternative_grid(alternatives: Iterable[api.PathAlternative]) -> Grid:
    """One line for each choice that an ISP offers, with the whole way's toll and delay."""
    grid = Grid("to", "by", ">choice", "", ">toll", ">delay", ">age")
    for each in alternatives:
        grid.add(
            each.destination,
            each.as_name,
            str(each.alternative),
            "chosen" if each.chosen else "",
            money(each.toll_nanodollars),
            UNKNOWN if each.delay_ns is None else f"{ms(each.delay_ns)} ms",
            UNKNOWN if each.age_s is None else span(each.age_s),
        )
    return grid


def finding_lines(findings: Iterable[api.Finding], width: int) -> list[str]:
    """Who is greedy, since when, and the evidence."""
    lines = []
    for each in findings:
        by = f" by alternative {each.alternative}" if each.alternative is not None else ""
        what = KINDS.get(each.kind, each.kind)
        when = f"since {moment(each.since_unix_s)}, held against it until {moment(each.until_unix_s)}"
        lines += wrapped(f"! {each.as_name}{by} {what}", width, 0)
        lines += wrapped(each.evidence, width, INDENT) + wrapped(when, width, INDENT)
    return lines


def check_lines(checks: Iterable[api.PathCheck], width: int) -> list[str]:
    """Whether marks arrive, how large a packet may be, and how that is known."""
    lines = []
    for each in checks:
        mtu = UNKNOWN if each.mtu is None else f"{each.mtu} bytes"
        lines += wrapped(f"{each.destination}: ECN {each.ecn}, MTU {mtu}, {short_span(each.age_s)} ago", width, 0)
        lines += wrapped(each.reason, width, INDENT)
    return lines


def access_lines(accesses: Iterable[api.Access], width: int) -> list[str]:
    """The ways into the Internet; `hostagent access` has them as a table, and chooses."""
    lines = []
    for each in accesses:
        price, cost = per_gb(each.price_nanodollars_per_mb), each.cost_nanodollars_per_packet
        numbers = ", ".join(
            (
                f"delay {UNKNOWN}" if each.delay_ns is None else f"{ms(each.delay_ns)} ms",
                f"loss {UNKNOWN}" if each.loss_ppm is None else f"{percent(each.loss_ppm)} % lost",
                price or f"price {UNKNOWN}",
                f"cost {UNKNOWN}" if cost is None else f"{cost:,} n$ a packet",
            )
        )
        mark, by = (USED, f"; chosen by {each.chosen_by}") if each.used else (" ", "")
        first, *others = wrapped(f"{each.interface} on {each.network}: {numbers}{by}", width - 2, 0)
        lines += [f"{mark} {first}", *(f"  {line}" for line in others), *wrapped(each.reason, width, INDENT)]
    return lines


def fact_pairs(paths: api.Paths) -> list[tuple[str, str]]:
    limit = paths.probes_limit_nanodollars
    probes = (
        f"{money(paths.probes_nanodollars)} of {money(limit)} that they may cost an hour" if limit else "none bought"
    )
    known = f"{paths.destinations:,} destination{'' if paths.destinations == 1 else 's'}"
    return [("known", known), ("paid probes", probes), ("campus service", paths.campus or "none is asked")]


def page_lines(paths: api.Paths, ways: Sequence[api.Way], width: int) -> list[str]:
    """All that `hostagent paths` says."""
    if not ways and not paths.alternatives and not paths.accesses and not paths.checks and not paths.findings:
        return [EMPTY]
    lines = way_lines(ways, width) if ways else []
    with_ways = {way.destination for way in ways}
    offered = [each for each in paths.alternatives if each.destination not in with_ways]
    blocks = (
        finding_lines(paths.findings, width),
        lines_of(grid, width) if (grid := alternative_grid(offered)) else [],
        check_lines(paths.checks, width),
        access_lines(paths.accesses, width),
    )
    for block in blocks:
        if block:
            lines += [*_gap(lines), *block]
    return [*lines, *_gap(lines), *lines_of(facts(fact_pairs(paths)), width)]


def _gap(lines: Sequence[str]) -> list[str]:
    return [""] if lines else []


# --- over time --------------------------------------------------------------------------------------------------------

SPARKS: Final = "▁▂▃▄▅▆▇█"
SPARK_CELLS: Final = 60


def spark(values: Sequence[float | None], cells: int = SPARK_CELLS) -> str:
    """The least at the bottom, the most at the top; a blank where nothing was measured."""
    squeezed = _squeezed(values, cells)
    known = [value for value in squeezed if value is not None]
    if not known:
        return ""
    least, most = min(known), max(known)
    step = (most - least) / (len(SPARKS) - 1) or 1
    return "".join(" " if value is None else SPARKS[round((value - least) / step)] for value in squeezed)


def _squeezed(values: Sequence[float | None], cells: int) -> list[float | None]:
    """The mean of what falls on one cell."""
    if len(values) <= cells:
        return list(values)
    found: list[float | None] = []
    for place in range(cells):
        part = values[place * len(values) // cells : (place + 1) * len(values) // cells]
        known = [each for each in part if each is not None]
        found.append(sum(known) / len(known) if known else None)
    return found


def by_way(rows: Iterable[api.QualityRow]) -> dict[tuple[str, str], list[api.QualityRow]]:
    """The oldest first, for each destination and way."""
    found: dict[tuple[str, str], list[api.QualityRow]] = {}
    for row in sorted(rows, key=lambda row: row.from_unix_s):
        found.setdefault((row.destination, row.way), []).append(row)
    return found


def with_gaps(
    rows: Sequence[api.QualityRow], value: Callable[[api.QualityRow], int | None], *, most: int = 100_000
) -> list[float | None]:
    """One for each stretch from the first to the last: None where there is no row, too."""
    if not rows:
        return []
    first, step = rows[0].from_unix_s, max(1, min(row.seconds for row in rows))
    count = (rows[-1].from_unix_s - first) // step + 1
    if count > most:
        return [value(row) for row in rows]
    values: list[float | None] = [None] * count
    for row in rows:
        values[(row.from_unix_s - first) // step] = value(row)
    return values


@dataclass(frozen=True, slots=True)
class Measure:
    """What is drawn of a row: its name, its value, and how an amount of it reads."""

    name: str
    value: Callable[[api.QualityRow], int | None]
    text: Callable[[float | None], str]


MEASURES: Final = (
    Measure("delay ms", lambda row: row.delay_ns, ms),
    Measure("jitter ms", lambda row: row.jitter_ns, ms),
    Measure("lost %", lambda row: row.loss_ppm, percent),
    Measure("marked %", lambda row: row.marks_ppm, percent),
    Measure("bit/s", lambda row: row.throughput_bit_s, bit_s),
    Measure("n$ there", lambda row: row.toll_picodollars, nanodollars),
)


def history_lines(rows: Sequence[api.QualityRow], width: int, most: int) -> list[str]:
    """For each way: pictures of what was measured at all, and its last rows."""
    lines: list[str] = []
    for (destination, way), of_it in by_way(rows).items():
        lines += [*_gap(lines), *wrapped(f"{destination} by {way_name(way)}", width, 0)]
        lines += _pictures(of_it, width)
        lines += [f"  {line}" for line in lines_of(_history_grid(of_it[-most:]), max(40, width - 2))]
        if len(of_it) > most:
            lines.append(f"  the last {most} of {len(of_it)} rows (--rows gives more)")
    return lines


def _pictures(rows: Sequence[api.QualityRow], width: int) -> Iterator[str]:
    for measure in MEASURES:
        values = with_gaps(rows, measure.value)
        known = [value for value in values if value is not None]
        if len(known) > 1:
            ends = f"{measure.text(min(known))} to {measure.text(max(known))}"
            yield f"  {measure.name:<9} {ends:<16} {spark(values, max(10, min(SPARK_CELLS, width - 31)))}".rstrip()


def _history_grid(rows: Sequence[api.QualityRow]) -> Grid:
    grid = Grid(
        *(">from", ">count", ">delay ms", ">±", ">jitter", ">lost %", ">marked %", ">bit/s", ">n$ there"),
    )
    for row in rows:
        cells = [measure.text(measure.value(row)) for measure in MEASURES]
        shown = datetime.fromtimestamp(row.from_unix_s).astimezone().strftime("%m-%d %H:%M")
        grid.add(shown, str(row.samples), cells[0], ms(row.delay_spread_ns), *cells[1:])
    return grid


# --- for programs -----------------------------------------------------------------------------------------------------

_FIGURES: Final = (
    *("delay_ns", "jitter_ns", "loss_ppm", "marks_ppm", "throughput_bit_s"),
    *("forward_toll_picodollars", "return_toll_picodollars"),
)
CSV_COLUMNS: Final = (
    *("destination", "way", "wants", "chosen", "share_ppm"),
    *(f"{name}{part}" for name in _FIGURES for part in ("", "_uncertainty", "_age_s", "_source")),
    *("cost_picodollars", "reason"),
)


def ways_csv(ways: Iterable[api.Way]) -> str:
    """A row for each way, every figure with its uncertainty, age and source; what is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for way in ways:
        row: list[object] = [way.destination, way.way, way.wants, "yes" if way.chosen else "no", way.share_ppm]
        for known in figures(way):
            row += ["", "", "", ""] if known is None else [known.value, known.uncertainty, known.age_s, known.source]
        row += [way.cost_picodollars, way.reason]
        writer.writerow([_no_formula(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue()


def _no_formula(cell: str) -> str:
    """Reasons come from strangers, and a spreadsheet computes what begins like this."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
