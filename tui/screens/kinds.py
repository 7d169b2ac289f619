"""Screen 2: kinds of traffic above, programs below. A person can say what a program's traffic is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from hostagent import api
from tui.model import kinds
from tui.model.state import State
from tui.model.texts import FAINT, line, price_text, several
from tui.screens.page import TablePage, plots, rate_pictures
from tui.screens.words import ask_worth
from tui.source import Source
from tui.widgets.grid import Grid


class KindsPage(TablePage):
    NAME = "kinds"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "other", "Other", key_display="tab"),
        Binding("e", "worth", "Worth"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._kinds: Grid[api.Kind] = Grid("kind-table", "no kinds: the agent does not tell traffic apart")
        self._programs: Grid[api.Program] = Grid("program-table", "no program yet: whoever sends something shows up")

    def tables(self) -> Sequence[Grid[Any]]:
        return self._programs, self._kinds

    def compose(self) -> Any:
        yield self._kinds
        yield self._programs
        yield from self.foot()

    def counted(self) -> str:
        return f"{several(len(self._kinds.things), 'kind')}, {several(len(self._programs.things), 'program')}"

    def fill(self) -> None:
        shown = self.state.shown
        self._kinds.show(
            kinds.kind_listing(shown.kinds if shown is not None else (), self.sorting(self._kinds), self.wanted)
        )
        self._programs.show(
            kinds.program_listing(
                shown.programs if shown is not None else (), self.sorting(self._programs), self.wanted
            )
        )

    def pane_lines(self, width: int) -> Sequence[Text]:
        chosen = self.table.selected
        shown = self.state.shown
        if chosen is None or shown is None:
            return [line(("nothing is chosen", FAINT))]
        if isinstance(chosen, api.Kind):
            key, lines = ("kind", chosen.name), kinds.kind_detail(chosen, shown.rules)
        else:
            key, lines = ("program", kinds.program_key(chosen)), kinds.program_detail(chosen, shown.worths)
        return [*lines, *plots(rate_pictures(self.state.history, key), width)]

    def action_other(self) -> None:
        (self._kinds if self._programs.has_focus else self._programs).focus()
        self.call_after_refresh(self.refresh_page)

    def action_worth(self) -> None:
        program = self._programs.selected
        if self._kinds.has_focus or program is None:
            self.app.notify("choose a program: what kinds are worth stands in the configuration", severity="warning")
            return
        worth = program.worth_nanodollars_per_mb
        now = "nobody said until now" if worth is None else f"now {price_text(worth)} a GB, as {program.traffic_class}"
        ask_worth(self, program.name, now)
