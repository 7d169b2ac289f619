"""Screen 8: accounts with neighbours, and the host's own sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from hostagent import api
from tui.model import accounts
from tui.model.state import State
from tui.model.texts import FAINT, joined, line
from tui.screens.page import TablePage
from tui.source import Source
from tui.widgets.grid import Grid


class AccountsPage(TablePage):
    NAME = "accounts"
    WHAT = "neighbour"

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.LinkAccount] = Grid("account-table", accounts.EMPTY)
        self._sums = Static(id="account-lines", markup=False)

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def compose(self) -> ComposeResult:
        yield self._grid
        yield self._sums
        yield from self.foot()

    def total(self) -> int:
        return len(self.state.shown.accounts.links) if self.state.shown is not None else 0

    def fill(self) -> None:
        shown = self.state.shown
        links = shown.accounts.links if shown is not None else ()
        self._grid.show(accounts.listing(links, self.sorting(self._grid), self.wanted))
        self._sums.update(joined(accounts.lines(shown.accounts)) if shown is not None else Text())

    def pane_lines(self, _width: int) -> Sequence[Text]:
        link = self._grid.selected
        return accounts.detail(link) if link is not None else [line(("no neighbour is chosen", FAINT))]
