"""A table on the terminal that draws the rows that are seen, and no others: thousands may change many times a second.

Decides nothing about what is shown.  Cells are texts and never markup: `[fd00::1]:443` is an address.  The chosen row
has a mark besides its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.model.columns import GAP, Column, Layout, Listing
from tui.model.texts import cell

MARK: Final = "› "
REMEMBERED: Final = "· "  # the chosen row of a table that has not got the keys
HEADER_LINES: Final = 1

T = TypeVar("T")


class Grid(ScrollView, Generic[T], can_focus=True):
    """`show` it listings.  The cursor stays on the first row until a person moves it, and then with what was chosen."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"grid--header", "grid--cursor", "grid--cursor-blurred", "grid--faint"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "end(-1)", "First", show=False),
        Binding("end", "end(1)", "Last", show=False),
    ]

    class Moved(Message):
        """Another row is the chosen one, or none is."""

        def __init__(self, grid: Grid[Any]) -> None:
            super().__init__()
            self.grid = grid

    class HeaderClicked(Message):
        def __init__(self, grid: Grid[Any], title: str) -> None:
            super().__init__()
            self.grid = grid
            self.title = title

    class Opened(Message):
        """A click on the row that was chosen already."""

        def __init__(self, grid: Grid[Any]) -> None:
            super().__init__()
            self.grid = grid

    def __init__(self, name: str, empty: str = "") -> None:
        super().__init__(id=name)
        self._empty = empty
        self._listing: Listing[T] | None = None
        self._layout: Layout[T] | None = None
        self._row = 0
        self._chosen = False
        self._selected_key: str | None = None

    # --- what others ask --------------------------------------------------------------------------------------------

    @property
    def selected(self) -> T | None:
        """What stands under the cursor."""
        things = self.things
        return things[self._row] if 0 <= self._row < len(things) else None

    @property
    def things(self) -> Sequence[T]:
        return self._listing.things if self._listing is not None else ()

    @property
    def cursor_row(self) -> int:
        return self._row

    @property
    def columns(self) -> list[Column[T]]:
        """Those that there is room for."""
        return self._layout.columns if self._layout is not None else []

    def show(self, listing: Listing[T]) -> None:
        self._listing = listing
        count = len(listing.things)
        row = self._row if self._chosen else 0
        if self._chosen and self._selected_key is not None:
            row = next((at for at, thing in enumerate(listing.things) if listing.key(thing) == self._selected_key), row)
        size = Size(0, count + HEADER_LINES)
        if self.virtual_size != size:
            self.virtual_size = size
            last = max(0, size.height - self.size.height)
            if self.scroll_y > last:
                self._scroll(last)
        self._go(min(row, max(0, count - 1)))
        self._measure()
        self.refresh()

    # --- keys and mouse ---------------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        self._choose(self._row + by)

    def action_page(self, by: int) -> None:
        self._choose(self._row + by * max(1, self.size.height - HEADER_LINES - 1))

    def action_end(self, which: int) -> None:
        self._choose(0 if which < 0 else len(self.things) - 1)

    def on_click(self, event: events.Click) -> None:
        if self._listing is None or self._layout is None:
            return
        if event.y < HEADER_LINES:
            column = self._layout.column_at(event.x)
            if column is not None:
                self.post_message(self.HeaderClicked(self, column.title))
            return
        row = self._row_at(event.y)
        if row >= len(self._listing.things):
            return
        if row == self._row and self._chosen:
            self.post_message(self.Opened(self))
        self._choose(row)

    def _choose(self, row: int) -> None:
        count = len(self._listing.things) if self._listing is not None else 0
        if count:
            self._chosen = True
            self._go(min(max(row, 0), count - 1))
            self._scroll_to_cursor()

    def _go(self, row: int) -> None:
        """The cursor stands there now; said when that is something else than before."""
        before, old_key = self._row, self._selected_key
        self._row = row
        thing = self.selected
        self._selected_key = self._listing.key(thing) if self._listing is not None and thing is not None else None
        if before != row:
            self._refresh_row(before)
            self._refresh_row(row)
        if self._selected_key != old_key:
            self.post_message(self.Moved(self))

    def _scroll_to_cursor(self) -> None:
        seen = max(1, self.size.height - HEADER_LINES)
        top = round(self.scroll_y)
        if self._row < top:
            self._scroll(self._row)
        elif self._row >= top + seen:
            self._scroll(self._row - seen + 1)

    def _scroll(self, row: int) -> None:
        """This row is the first one that is seen. At once: the rows may be newer than the scroll bar."""
        self.scroll_to(y=row, animate=False, force=True, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._measure()

    def on_resize(self) -> None:
        self._layout = None
        self._measure()
        if self._chosen:
            self._scroll_to_cursor()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.refresh()

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Room for what the visible rows need."""
        listing, width = self._listing, self.size.width
        if listing is None or not width:
            return
        if self._layout is None or self._layout.width != width or self._layout.choice is not listing.columns:
            self._layout = Layout.of(listing.columns, width)
        top = max(0, round(self.scroll_y))
        if self._layout.learn(listing.things[top : top + self.size.height]):
            self.refresh()

    def _row_at(self, y: int) -> int:
        return round(self.scroll_y) + y - HEADER_LINES

    def _refresh_row(self, row: int) -> None:
        y = row - round(self.scroll_y) + HEADER_LINES
        if HEADER_LINES <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        listing, layout = self._listing, self._layout
        plain_style = self.rich_style
        if listing is None or layout is None:
            return Strip.blank(width, plain_style)
        if y < HEADER_LINES:
            style = self.get_component_rich_style("grid--header")
            return _strip([" " * len(MARK)], layout.titles(listing.sorted_by, listing.reverse), width, style)
        if not listing.things:
            text = cell(self._empty if y == HEADER_LINES else "", max(0, width - len(MARK)))
            return Strip([Segment(" " * len(MARK) + text, plain_style)]).adjust_cell_length(width, plain_style)
        row = self._row_at(y)
        if row >= len(listing.things):
            return Strip.blank(width, plain_style)
        thing = listing.things[row]
        mark, style = self._look_of(row, faint=listing.faint(thing))
        return _strip([mark], layout.cells(thing), width, style)

    def _look_of(self, row: int, *, faint: bool) -> tuple[str, Style]:
        if row == self._row:
            if self.has_focus:
                return MARK, self.get_component_rich_style("grid--cursor")
            return REMEMBERED, self.get_component_rich_style("grid--cursor-blurred")
        return " " * len(MARK), self.get_component_rich_style("grid--faint") if faint else self.rich_style


def _strip(mark: list[str], cells: list[str], width: int, style: Style) -> Strip:
    return Strip([Segment("".join(mark) + (" " * GAP).join(cells), style)]).adjust_cell_length(width, style)
