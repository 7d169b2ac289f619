"""What all screens have in common: what they show, how they ask the agent, and how a table is filtered and sorted.

Decides that only the screen that is seen is drawn, and that what the agent refuses is said and not fatal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Input, Static

from billpay.errors import BillpayError
from tui.model.columns import Sorting
from tui.model.history import MISSING, History, Key, plot
from tui.model.state import State
from tui.model.texts import FAINT, PICTURE, cell, joined, line, price_text, rate_text, several
from tui.source import Source
from tui.widgets.grid import Grid

PLOT_LINES: Final = 3
PLOT_GAP: Final = 2
LEAST_PLOT: Final = 10  # cells
UNHEARD: Final = "nothing is known yet"
TALL: Final = 34  # lines from which details are open from the start

T = TypeVar("T")


class Page(Vertical):
    """A screen. `refresh_page` is called when something changed and the screen is seen."""

    NAME: ClassVar[str]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(id=self.NAME, classes="page")
        self.state = state
        self.source = source

    def refresh_page(self) -> None:
        """Shows what is known now."""

    def first_focus(self) -> Widget | None:
        """What gets the keys when the screen is opened."""
        return None

    def opened(self) -> None:
        """The screen is seen from now on."""

    def ask(
        self,
        question: Callable[[], Awaitable[T]],
        answered: Callable[[T], None],
        refused: Callable[[str], None],
        *,
        group: str,
    ) -> None:
        """Asks the agent without holding up the screen; a newer question of the group replaces an older one."""

        async def work() -> None:
            try:
                answer = await question()
            except BillpayError as error:
                refused(str(error))
            else:
                answered(answer)

        self.run_worker(work(), group=group, exclusive=True)

    def do(self, order: Callable[[], Awaitable[None]], done: str) -> None:
        """Has the agent do something, and says that it did."""

        def refused(why: str) -> None:
            self.app.notify(why, severity="error", markup=False)

        self.ask(order, lambda _nothing: self.app.notify(done, markup=False), refused, group="do")


class TextPage(Page):
    """A screen that is read: lines, and no table."""

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._scroll = VerticalScroll(can_focus=True, classes="text")
        self._text = Static(markup=False)

    def compose(self) -> ComposeResult:
        with self._scroll:
            yield self._text

    def first_focus(self) -> Widget | None:
        return self._scroll

    def refresh_page(self) -> None:
        self._text.update(joined(self.lines(max(20, self._scroll.size.width - 3))))

    def lines(self, width: int) -> Sequence[Text]:
        raise AssertionError(f"a text screen says what it shows at {width} columns")


class TablePage(Page):
    """A screen with a table or two, details below, a filter and a sort order."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "detail", "Details", key_display="⏎"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("S,shift+s", "turn", "Reverse", show=False),
        Binding("escape", "leave", "Leave", show=False),
    ]
    WHAT: ClassVar[str] = "row"
    OPEN: ClassVar[bool | None] = None  # whether details are open from the start; None: on a tall terminal

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self.wanted = ""
        self.pane: str = ""  # "": closed, "detail", or what else a screen has
        self._touched = False
        self.sortings: dict[str | None, Sorting] = {}
        self._below = VerticalScroll(can_focus=False, classes="below")
        self._pane_text = Static(markup=False)
        self._caption = Static(classes="caption", markup=False)
        self._filter = Input(placeholder="words that must occur", compact=True)
        self._filter_line = Horizontal(Static("/ "), self._filter, classes="filter")

    # --- a screen says ----------------------------------------------------------------------------------------------

    def tables(self) -> Sequence[Grid[Any]]:
        raise AssertionError("a screen with tables names them")

    def fill(self) -> None:
        """Shows the tables what there is."""

    def pane_lines(self, width: int) -> Sequence[Text]:
        raise AssertionError(f"a screen with tables says what is below them at {width} columns")

    def total(self) -> int:
        """Rows of the first table if nothing was filtered."""
        return len(self.tables()[0].things)

    # --- parts ------------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield from self.tables()
        yield from self.foot()

    def foot(self) -> ComposeResult:
        with self._below:
            yield self._pane_text
        yield self._filter_line
        yield self._caption

    def on_mount(self) -> None:
        self._filter_line.display = False
        self._below.display = False

    def on_resize(self) -> None:
        if not self._touched and self.app.size.height:
            is_open = self.app.size.height >= TALL if self.OPEN is None else self.OPEN
            self.pane = "detail" if is_open else ""

    def first_focus(self) -> Widget | None:
        return self.tables()[0]

    @property
    def table(self) -> Grid[Any]:
        """The one that the keys are for."""
        return next((table for table in self.tables() if table.has_focus), self.tables()[0])

    def sorting(self, table: Grid[Any]) -> Sorting:
        return self.sortings.setdefault(table.id, Sorting())

    def refresh_page(self) -> None:
        self.fill()
        self._say_caption()
        self.refresh_pane()

    def refresh_pane(self) -> None:
        self._below.display = bool(self.pane)
        if self.pane:
            self._pane_text.update(joined(self.pane_lines(max(20, self.size.width - 3))))

    def _say_caption(self) -> None:
        wanted = f"with “{self.wanted}”" if self.wanted else ""
        order = self.sorting(self.table).text()
        said = [f"{self.counted()} {wanted}".rstrip(), order]
        self._caption.update(line((" · ".join(part for part in said if part), FAINT)))

    def counted(self) -> str:
        shown, total = len(self.tables()[0].things), self.total()
        return several(total, self.WHAT) if shown == total else f"{shown:,} of {several(total, self.WHAT)}"

    # --- keys and mouse ---------------------------------------------------------------------------------------------

    def action_detail(self) -> None:
        self.toggle("detail")

    def toggle(self, pane: str) -> None:
        self._touched = True
        self.pane = "" if self.pane == pane else pane
        self.refresh_page()

    def action_filter(self) -> None:
        self._filter_line.display = True
        self._filter.focus()

    def action_sort(self) -> None:
        table = self.table
        self.sorting(table).cycle([column.title for column in table.columns])
        self.refresh_page()

    def action_turn(self) -> None:
        self.sorting(self.table).turn()
        self.refresh_page()

    def action_leave(self) -> None:
        """Closes what is open: the filter first, then the details."""
        if self._filter_line.display or self.wanted:
            self._filter.value = self.wanted = ""
            self._close_filter()
        elif self.pane:
            self.toggle(self.pane)
        self.refresh_page()

    def _close_filter(self) -> None:
        self._filter_line.display = False
        self.tables()[0].focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.wanted = event.value.strip()
        self.refresh_page()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._close_filter()

    def on_grid_header_clicked(self, event: Grid.HeaderClicked) -> None:
        event.stop()
        event.grid.focus()
        self.sorting(event.grid).choose(event.title)
        self.refresh_page()

    def on_grid_moved(self, event: Grid.Moved) -> None:
        event.stop()
        self.refresh_pane()

    def on_grid_opened(self, event: Grid.Opened) -> None:
        event.stop()
        self.action_detail()


@dataclass(frozen=True, slots=True)
class Picture:
    """A reading over time: its name, how it is now, how an amount of it reads."""

    name: str
    values: Sequence[int]
    text: Callable[[int], str]

    def title(self) -> str:
        known = [value for value in self.values if value != MISSING]
        if not known:
            return self.name
        return f"{self.name} {self.text(known[-1])}, most {self.text(max(known))}"


def rate_pictures(history: History, key: Key) -> list[Picture]:
    return [Picture(name, history.of(key, place), rate_text) for place, name in enumerate(("out", "in"))]


def price_picture(history: History, key: Key, place: int = 0) -> Picture:
    return Picture("price", history.of(key, place), price_text)


def plots(pictures: Sequence[Picture], width: int) -> list[Text]:
    """Beside each other, each with its title above: the last five minutes."""
    each = (width - PLOT_GAP * (len(pictures) - 1)) // max(1, len(pictures))
    if each < LEAST_PLOT or not any(picture.values for picture in pictures):
        return []
    between = " " * PLOT_GAP
    titles = between.join(cell(picture.title(), each) for picture in pictures)
    drawn = [plot(picture.values, each, PLOT_LINES) for picture in pictures]
    rows = [between.join(parts) for parts in zip(*drawn, strict=True)]
    return [Text(titles, style=FAINT, no_wrap=True), *(Text(row, style=PICTURE, no_wrap=True) for row in rows)]
