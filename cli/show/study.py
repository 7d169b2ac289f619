"""What a study found, for people: its numbers under their own names, whatever the study is."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

import msgspec

from cli.show.text import Grid, write

ROWS_SHOWN: Final = 20
"""More are in the JSON document."""
_ITEMS_SHOWN: Final = 6


def show_study(question: str, found: msgspec.Struct) -> None:
    write(question)
    single = Grid("", ">")
    tables: list[tuple[str, list[msgspec.Struct]]] = []
    for field in found.__struct_fields__:
        value = getattr(found, field)
        parts = value if isinstance(value, tuple) else (value,)
        rows = [part for part in parts if isinstance(part, msgspec.Struct)]
        if rows:
            tables.append((field, rows))
        else:
            single.add(_words(field), _text(value))
    if single:
        write("", single)
    for field, rows in tables:
        write("", f"{_words(field)}:", _table(rows[:ROWS_SHOWN]))
        if len(rows) > ROWS_SHOWN:
            write(f"and {len(rows) - ROWS_SHOWN} more: --json has all of them")


def _table(rows: list[msgspec.Struct]) -> Grid:
    """One row is easier to read down than across."""
    cells = [list(_cells(row)) for row in rows]
    if len(rows) == 1:
        grid = Grid("", ">")
        for name, text in cells[0]:
            grid.add(name, text)
        return grid
    grid = Grid(*(f">{name}" for name, _ in cells[0]))
    for row in cells:
        grid.add(*(text for _, text in row))
    return grid


def _cells(row: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A value in a value has its fields beside the others."""
    for field in row.__struct_fields__:
        value = getattr(row, field)
        if isinstance(value, msgspec.Struct):
            yield from _cells(value, f"{_words(field)}: ")
        else:
            yield prefix + _words(field), _text(value)


def _words(field: str) -> str:
    return field.replace("bit_s", "bit/s").replace("nanodollars", "n$").replace("_", " ")


def _text(value: Any) -> str:
    if value is None:  # it never came to that, or nobody can say
        return "–"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, tuple):
        more = f" and {len(value) - _ITEMS_SHOWN} more" if len(value) > _ITEMS_SHOWN else ""
        return ", ".join(map(_text, value[:_ITEMS_SHOWN])) + more
    return str(value)
