"""Screen 5: paths, their alternatives and what each costs; below, the networks to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from hostagent import api
from tui.model import paths
from tui.model.state import State
from tui.model.texts import FAINT, joined, line
from tui.screens.page import TablePage
from tui.source import Source
from tui.widgets.grid import Grid


class PathsPage(TablePage):
    NAME = "paths"
    WHAT = "alternative"

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.PathAlternative] = Grid("path-table", paths.EMPTY)
        self._networks = Static(id="path-networks", markup=False)

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def compose(self) -> ComposeResult:
        yield self._grid
        yield self._networks
        yield from self.foot()

    def total(self) -> int:
        return len(self.state.shown.paths.alternatives) if self.state.shown is not None else 0

    def fill(self) -> None:
        shown = self.state.shown
        alternatives = shown.paths.alternatives if shown is not None else ()
        self._grid.show(paths.listing(alternatives, self.sorting(self._grid), self.wanted))
        lines = (
            paths.network_lines(shown.networks, shown.prices, max(40, self.size.width - 3)) if shown is not None else []
        )
        self._networks.update(joined(lines))

    def pane_lines(self, _width: int) -> Sequence[Text]:
        chosen = self._grid.selected
        return paths.detail(chosen) if chosen is not None else [line(("no alternative is chosen", FAINT))]
