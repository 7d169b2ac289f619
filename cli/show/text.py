"""How the command line writes: numbers short and aligned, tables that fit, nothing that a terminal obeys.

Decides: units, digits, and what gives way in a narrow terminal (long texts, never numbers). Refuses to know what is
shown. Names and reasons come from neighbours, programs and networks, so every text is made harmless here, once.
Into a pipe nothing is cut off: who greps wants the whole line.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from billpay.money import show_nanodollars

PIPE_COLUMNS: Final = 100_000
WIDE_COLUMNS: Final = 120
"""From here on tables have their reasons too."""

GAP: Final = 2  # characters between columns
LEAST: Final = 6  # characters of a column of texts, however narrow the terminal
READABLE: Final = 28  # of one that is wrapped, if there is room
UNKNOWN: Final = "?"
MB_PER_GB: Final = 1000

_RATES: Final = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
_SIZES: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_SPANS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))


def harmless(text: str) -> str:
    """One line without anything that a terminal obeys: escape sequences, changes of direction, line ends."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def rate(bit_s: int | None, *, nothing: str = "") -> str:
    """Three digits and a prefix: 8.44M, 250k. The column's title says bit/s."""
    if bit_s is None:
        return UNKNOWN
    for unit, prefix in _RATES:
        if bit_s * 1000 >= unit * 999.5:
            return _digits(bit_s / unit) + prefix
    return str(bit_s) if bit_s else nothing


def bit_rate(bit_s: int | None) -> str:
    """In a sentence: 20.0 Mbit/s."""
    if bit_s is None:
        return UNKNOWN
    text = rate(bit_s, nothing="0")
    return f"{text[:-1]} {text[-1]}bit/s" if text[-1:] in ("k", "M", "G") else f"{text} bit/s"


def size(count: int) -> str:
    """Three digits and a unit: 1.20 GB."""
    for unit, name in _SIZES:
        if abs(count) * 1000 >= unit * 999.5:  # what rounds to 1000 of a unit is 1 of the next
            return f"{_digits(count / unit)} {name}"
    return f"{count} B"


def money(nanodollars: int | None, currency: str = "USD") -> str:
    return UNKNOWN if nanodollars is None else show_nanodollars(nanodollars, harmless(currency))


def per_gb(nanodollars_per_mb: int | None, currency: str = "USD") -> str:
    """As people say it: 2 USD/GB."""
    return "" if nanodollars_per_mb is None else f"{money(nanodollars_per_mb * MB_PER_GB, currency)}/GB"


def span(seconds: int) -> str:
    """The largest two units: 2 d 3 h."""
    parts = []
    for unit, name in _SPANS:
        count, seconds = divmod(seconds, unit)
        if count:
            parts.append(f"{count} {name}")
    if not parts or (seconds and len(parts) < 2):
        parts.append(f"{seconds} s")
    return " ".join(parts[:2])


def moment(unix_s: int) -> str:
    """In local time, to the minute."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M") if unix_s else UNKNOWN


def amount(value: int, unit: str, currency: str = "USD") -> str:
    """A budget's number in its unit."""
    return size(value) if unit == "bytes" else money(value, currency)


def _digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


# -- tables ----------------------------------------------------------------------------------------------------------


class Grid:
    """A table. A title that begins with `>` heads a column of numbers; one with `|` of texts that are wrapped, not cut.

    Numbers are always whole. In a narrow terminal wrapped columns give way first, to a readable width, then the longest
    other texts, which end with an ellipsis. Empty columns are left out.
    """

    def __init__(self, *titles: str) -> None:
        self._titles = titles
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self._titles)
        self._rows.append(tuple(harmless(cell) for cell in cells))

    def __bool__(self) -> bool:
        return bool(self._rows)

    def table(self, width: int) -> Table:
        used = [number for number in range(len(self._titles)) if any(row[number] for row in self._rows)]
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for number, room in zip(used, self._widths(used, width), strict=True):
            title = self._titles[number]
            justify: Literal["right", "left"] = "right" if title.startswith(">") else "left"
            table.add_column(Text(title.lstrip(">|"), no_wrap=True), justify=justify, width=room)
        for row in self._rows:
            table.add_row(*(_cell(row[number], self._titles[number]) for number in used))
        return table

    def _widths(self, used: list[int], width: int) -> list[int]:
        wanted = {
            number: max(
                cell_len(text) for text in (self._titles[number].lstrip(">|"), *(row[number] for row in self._rows))
            )
            for number in used
        }
        kinds = {number: self._titles[number][:1] for number in used}
        given = {number: wanted[number] if kinds[number] == ">" else min(wanted[number], LEAST) for number in used}
        left = width - sum(given.values()) - GAP * (len(used) - 1)
        wrapped = [number for number in used if kinds[number] == "|"]
        cut = [number for number in used if kinds[number] not in (">", "|")]
        readable = {number: min(wanted[number], READABLE) for number in wrapped}
        for growing, up_to in ((wrapped, readable), (cut, wanted), (wrapped, wanted)):
            left = _grow(given, up_to, growing, left)
        return [given[number] for number in used]


def _grow(given: dict[int, int], wanted: dict[int, int], growing: list[int], left: int) -> int:
    """Gives what is left, one character at a time to the shortest that wants more; what is still left."""
    while left > 0 and (hungry := [number for number in growing if given[number] < wanted[number]]):
        if sum(wanted[number] - given[number] for number in hungry) <= left:
            left -= sum(wanted[number] - given[number] for number in hungry)
            given.update({number: wanted[number] for number in hungry})
            break
        given[min(hungry, key=given.__getitem__)] += 1
        left -= 1
    return left


def _cell(text: str, title: str) -> Text:
    return Text(text) if title.startswith("|") else Text(text, no_wrap=True, overflow="ellipsis")


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and what is known of them; long texts are wrapped beside their name."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in pairs:
        table.add_row(Text(harmless(name)), Text(harmless(text)))
    return table


def columns() -> int:
    """How wide a line may be."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return max(40, shutil.get_terminal_size().columns)
    return PIPE_COLUMNS


def lines_of(what: Grid | Table | str, width: int | None = None) -> list[str]:
    """As they are printed, without blanks at their ends."""
    room = width or columns()
    shown = _renderable(what, room)
    if isinstance(shown, Table):
        # Too many numbers for the terminal, and it breaks the lines: better that than half of a number.
        room = max(room, sum(each.width or 0 for each in shown.columns) + GAP * len(shown.columns))
    console = Console(width=room, markup=False, highlight=False, emoji=False, no_color=True, color_system=None)
    with console.capture() as caught:
        console.print(shown)
    return [line.rstrip() for line in caught.get().splitlines()]


def _renderable(what: Grid | Table | str, width: int) -> Table | Text:
    if isinstance(what, Grid):
        return what.table(width)
    return Text(harmless(what)) if isinstance(what, str) else what


def write(*parts: Grid | Table | str) -> None:
    for part in parts:
        for line in lines_of(part):
            click.echo(line)


def write_or(grid: Grid, otherwise: str) -> None:
    """The table, or one line that says why there is none."""
    write(grid if grid else otherwise)


def as_json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def write_json(value: object) -> None:
    click.echo(as_json(value))
