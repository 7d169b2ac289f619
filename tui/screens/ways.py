"""The ways to a destination, over the screen of paths: their numbers, the reasons, and the map; asked while it is seen.

Decides nothing about ways.  The agent is asked every few seconds and when the screen is opened, and no more once it is
left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from billpay.errors import BillpayError
from hostagent import api
from tui.model import ways
from tui.model.columns import Sorting
from tui.model.texts import FAINT, joined, line
from tui.screens.page import Page
from tui.source import Source
from tui.widgets.grid import Grid

EVERY_S: Final = 2.0
ALL: Final = "all destinations"
KEYS: Final = "↑ ↓ choose a way   page ↑ ↓ read on   s S sort   esc leave"


def show_ways(page: Page, destination: str) -> None:
    """`destination` "": to all that are known."""
    page.app.push_screen(WaysScreen(page.source, destination))


class WaysScreen(ModalScreen[None]):
    """The table above; below it the chosen way, and the map."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,v,q", "leave", "Leave"),
        Binding("s", "sort", "Sort"),
        Binding("S,shift+s", "turn", "Reverse", show=False),
        Binding("pagedown", "read(1)", "Read on", show=False, priority=True),
        Binding("pageup", "read(-1)", "Read back", show=False, priority=True),
    ]
    DEFAULT_CSS = """
    WaysScreen { background: $background; }
    WaysScreen .ways { width: 100%; height: 100%; padding: 0 1; }
    WaysScreen #way-table { height: auto; max-height: 45%; }
    WaysScreen .ways-below { height: 1fr; margin-top: 1; }
    WaysScreen .ways-head, WaysScreen .ways-foot { height: 1; }
    """

    def __init__(self, source: Source, destination: str) -> None:
        super().__init__()
        self._source = source
        self._destination = destination
        self._grid: Grid[api.Way] = Grid("way-table", ways.EMPTY)
        self._head = Static(classes="ways-head", markup=False)
        self._below = VerticalScroll(can_focus=False, classes="ways-below")
        self._text = Static(markup=False)
        self._sorting = Sorting()
        self._ways: Sequence[api.Way] | None = None
        self._map: api.NetworkMap | None = None
        self._refusal = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="ways"):
            yield self._head
            yield self._grid
            with self._below:
                yield self._text
            yield Static(line((KEYS, FAINT)), classes="ways-foot")

    def on_mount(self) -> None:
        self._grid.focus()
        self._show()
        self.run_worker(self._ask(), exclusive=True)

    async def _ask(self) -> None:
        """Until the screen is left, which ends its workers."""
        while True:
            try:
                self._ways = await self._source.ways(self._destination)
                self._map = await self._source.network_map(self._destination)
                self._refusal = ""
            except BillpayError as error:
                self._refusal = str(error)  # what was known before stays on the screen
            self._show()
            await asyncio.sleep(EVERY_S)

    def _show(self) -> None:
        said = f"! {self._refusal}" if self._refusal else "asking the agent …" if self._ways is None else ""
        self._head.update(line((f"ways to {self._destination or ALL}  ", "bold"), said))
        if self._ways is not None:
            self._grid.styles.height = max(2, len(self._ways) + 1)  # a title and its rows
            self._grid.show(ways.listing(self._ways, self._sorting, with_destination=not self._destination))
            self.call_after_refresh(self._grid.refresh)  # it has its height then
        self._show_below()

    def _show_below(self) -> None:
        lines: Sequence[Text] = () if self._ways is None else ways.screen_lines(self._grid.selected, self._map)
        self._text.update(joined(lines))

    # --- keys -------------------------------------------------------------------------------------------------------

    def on_grid_moved(self, event: Grid.Moved) -> None:
        event.stop()
        self._show_below()

    def on_grid_header_clicked(self, event: Grid.HeaderClicked) -> None:
        event.stop()
        self._sorting.choose(event.title)
        self._show()

    def action_sort(self) -> None:
        self._sorting.cycle([column.title for column in self._grid.columns])
        self._show()

    def action_turn(self) -> None:
        self._sorting.turn()
        self._show()

    def action_read(self, way: int) -> None:
        if way > 0:
            self._below.scroll_page_down(animate=False)
        else:
            self._below.scroll_page_up(animate=False)

    def action_leave(self) -> None:
        self.dismiss(None)
