"""Screen 5: paths, their alternatives and what each costs; below, the accesses to choose from, and a key that does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from hostagent import api
from tui.model import paths
from tui.model.state import State
from tui.model.texts import FAINT, joined, line
from tui.screens.page import TablePage
from tui.screens.ways import show_ways
from tui.source import Source
from tui.widgets.dialogs import Confirm
from tui.widgets.grid import Grid

NONE_CHOSEN: Final = "no access is chosen: press tab to get to them"


class PathsPage(TablePage):
    NAME = "paths"
    WHAT = "alternative"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "other", "Other", key_display="tab"),
        Binding("g", "go", "Go"),
        Binding("v", "ways", "Ways"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.PathAlternative] = Grid("path-table", paths.EMPTY)
        self._accesses: Grid[api.Access] = Grid("access-table", "no access to the Internet")
        self._networks = Static(id="path-networks", markup=False)

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid, self._accesses)

    def compose(self) -> ComposeResult:
        yield self._grid
        yield self._accesses
        yield self._networks
        yield from self.foot()

    def on_mount(self) -> None:
        super().on_mount()
        self._accesses.display = False
        self._accesses.styles.height = "auto"
        self._accesses.styles.max_height = "40%"

    @property
    def _there(self) -> Sequence[api.Access]:
        return self.state.shown.paths.accesses if self.state.shown is not None else ()

    def total(self) -> int:
        return len(self.state.shown.paths.alternatives) if self.state.shown is not None else 0

    def fill(self) -> None:
        shown = self.state.shown
        alternatives = shown.paths.alternatives if shown is not None else ()
        self._grid.show(paths.listing(alternatives, self.sorting(self._grid), self.wanted))
        self._accesses.show(paths.access_listing(self._there, self.sorting(self._accesses)))
        # An agent that does not look at accesses still says which networks there are.
        self._accesses.display = bool(self._there)
        self._networks.display = not self._there
        lines = (
            paths.network_lines(shown.networks, shown.prices, max(40, self.size.width - 3)) if shown is not None else []
        )
        self._networks.update(joined(lines))

    def pane_lines(self, _width: int) -> Sequence[Text]:
        chosen = self.table.selected
        if isinstance(chosen, api.Access):
            return paths.access_detail(chosen)
        return paths.detail(chosen) if chosen is not None else [line(("no alternative is chosen", FAINT))]

    def action_other(self) -> None:
        if self._there:
            (self._grid if self._accesses.has_focus else self._accesses).focus()
            self.call_after_refresh(self.refresh_page)

    def action_ways(self) -> None:
        """All ways to the chosen destination; without one, to all."""
        chosen = self._grid.selected
        show_ways(self, chosen.destination if chosen is not None else "")

    def action_go(self) -> None:
        """New connections go by the chosen access; where a person said so already, the agent chooses again."""
        access = self._accesses.selected
        source = self.source
        if not self._accesses.has_focus or access is None:
            self.app.notify(NONE_CHOSEN, severity="warning")
            return
        gives_back = paths.is_word(access)
        change = api.AccessChange(interface="" if gives_back else access.interface)
        said = "the agent chooses the access again" if gives_back else f"new connections go by {access.network}"
        now = next((each for each in self._there if each.used), None)

        def done(yes: bool | None) -> None:
            if yes:
                self.do(lambda: source.set_access(change), said)

        title = "Leave the access to the agent?" if gives_back else f"Go by {access.network}?"
        self.app.push_screen(Confirm(title, paths.switch_lines(access, now)), done)
