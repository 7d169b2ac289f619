"""A table on the terminal that changes in place: only cells whose text differs, so that cursor and scrolling stay put.

Decides nothing about what is shown.  Cells are texts and never markup: `[fd00::1]:443` is an address.
"""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from tui.model import ShownColumn, Table

MOVES: Final = frozenset({"up", "down", "pageup", "pagedown", "home", "end", "ctrl+home", "ctrl+end"})


class Grid(DataTable[Text]):
    """`show` it tables.  The cursor stays on the first row until a person moves it, and then with what was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "home", "scroll_top", "First", show=False
        ),  # the table's own meaning is the first and last column of a cell cursor
        Binding("end", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=True)
        self._shown = Table(columns=(), rows=(), keys=())
        self._chosen = False

    @property
    def selected(self) -> str | None:
        """The key of the row under the cursor."""
        return self._shown.keys[self.cursor_row] if 0 <= self.cursor_row < len(self._shown.keys) else None

    def show(self, table: Table) -> None:
        selected = self.selected if self._chosen else None
        row, top = self.cursor_row, self.scroll_offset.y
        begin_again = table.columns != self._shown.columns
        if begin_again:
            self._set_columns(table.columns)
        self._set_rows(table)
        if selected in table.keys:
            row = table.keys.index(selected)
        if row != self.cursor_row:
            self.move_cursor(row=row, scroll=not begin_again)
        if begin_again:
            self.call_after_refresh(self.scroll_to, y=top, animate=False)

    def on_key(self, event: events.Key) -> None:
        if event.key in MOVES:
            self._chosen = True

    def on_click(self) -> None:
        self._chosen = True

    def _set_columns(self, columns: tuple[ShownColumn, ...]) -> None:
        self.clear(columns=True)
        for column in columns:
            self.add_column(_cell(column.title, column), width=column.width)
        self._shown = Table(columns=columns, rows=(), keys=())

    def _set_rows(self, table: Table) -> None:
        before = self._shown.rows
        for place, (row, old) in enumerate(zip(table.rows, before, strict=False)):
            for index, (text, old_text) in enumerate(zip(row, old, strict=True)):
                if text != old_text:
                    self.update_cell_at(Coordinate(place, index), _cell(text, table.columns[index]))
        for place in range(len(before), len(table.rows)):
            cells = (_cell(text, column) for text, column in zip(table.rows[place], table.columns, strict=True))
            self.add_row(*cells, key=str(place))
        for place in range(len(table.rows), len(before)):
            self.remove_row(str(place))
        self._shown = table


def _cell(text: str, column: ShownColumn) -> Text:
    return Text(text, justify="right" if column.is_number else "left", no_wrap=True)
