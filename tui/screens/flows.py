"""Screen 1: flows. The table, and below it all about the chosen one, or why it gets what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from hostagent import api
from tui.model import flows
from tui.model.state import State
from tui.model.texts import FAINT, line, price_text
from tui.screens.page import TablePage, plots, price_picture, rate_pictures
from tui.screens.words import ask_worth
from tui.source import Source
from tui.widgets.grid import Grid


class FlowsPage(TablePage):
    NAME = "flows"
    WHAT = "flow"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "worth", "Worth"),
        Binding("w", "why", "Why"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.Flow] = Grid("flow-table", flows.EMPTY)
        self._why: api.Why | None = None
        self._asked_about = ""
        self._refusal = ""

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def total(self) -> int:
        return len(self.state.shown.flows) if self.state.shown is not None else 0

    def fill(self) -> None:
        shown = self.state.shown.flows if self.state.shown is not None else ()
        self._grid.show(flows.listing(shown, self.sorting(self._grid), self.wanted))

    def pane_lines(self, width: int) -> Sequence[Text]:
        flow = self._grid.selected
        if flow is None:
            return [line(("no flow is chosen", FAINT))]
        if self.pane == "why":
            return self._why_lines(flow)
        history = self.state.history
        key = ("flow", flow.flow)
        pictures = rate_pictures(history, key)
        if flow.price_nanodollars_per_mb is not None:
            pictures.append(price_picture(history, key, place=2))
        return [*flows.detail(flow), *plots(pictures, width)]

    def _why_lines(self, flow: api.Flow) -> Sequence[Text]:
        if self._asked_about != flow.flow:
            self._ask_why(flow)
        if self._refusal:
            return [line(f"! {self._refusal}")]
        if self._why is None:
            return [line(("asking the agent why …", FAINT))]
        return flows.why_lines(self._why)

    def _ask_why(self, flow: api.Flow) -> None:
        self._why, self._refusal, self._asked_about = None, "", flow.flow
        self.ask(lambda: self.source.why(flow.flow), self._answered, self._refused, group="why")

    def _answered(self, why: api.Why) -> None:
        self._why = why
        self.refresh_pane()

    def _refused(self, why: str) -> None:
        self._refusal = why
        self.refresh_pane()

    def action_why(self) -> None:
        self._asked_about = ""  # what was true a while ago may not be true now
        self.toggle("why")

    def action_worth(self) -> None:
        flow = self._grid.selected
        if flow is None or not flow.program:
            self.app.notify("nobody knows which program sends this", severity="warning")
            return
        worth = flow.worth_nanodollars_per_mb
        now = "nobody said until now" if worth is None else f"now {price_text(worth)} a GB, as {flow.traffic_class}"
        ask_worth(self, flow.program, now)
