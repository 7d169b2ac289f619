"""Screen 1: flows. The table, and below it all about the chosen one, or why it gets what it gets; or sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from hostagent import api
from tui.model import flows
from tui.model.state import State
from tui.model.texts import FAINT, line, price_text, several
from tui.screens.page import TablePage, plots, price_picture, rate_pictures
from tui.screens.sessions import SessionTable
from tui.screens.words import ask_worth
from tui.source import Source
from tui.widgets.grid import Grid


class FlowsPage(TablePage):
    NAME = "flows"
    WHAT = "flow"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "worth", "Worth"),
        Binding("w", "why", "Why"),
        Binding("w", "session_why", "Why", show=False),  # its details have the reason already
        Binding("plus", "revalue(1)", "Worth", key_display="+ -"),
        Binding("minus", "revalue(-1)", "Worth less", show=False),
        Binding("d", "end", "End"),
        Binding("v", "sessions", "Sessions"),
        Binding("v", "flows", "Flows"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.Flow] = Grid("flow-table", flows.EMPTY)
        self._sessions = SessionTable(self)
        self._with_sessions = False
        self._why: api.Why | None = None
        self._asked_about = ""
        self._refusal = ""

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._sessions.grid,) if self._with_sessions else (self._grid,)

    def compose(self) -> ComposeResult:
        yield self._grid
        yield self._sessions.grid
        yield from self.foot()

    def on_mount(self) -> None:
        super().on_mount()
        self._sessions.grid.display = False

    def total(self) -> int:
        if self._with_sessions:
            return len(self._sessions.there)
        return len(self.state.shown.flows) if self.state.shown is not None else 0

    def counted(self) -> str:
        shown, total, what = len(self.table.things), self.total(), "session" if self._with_sessions else "flow"
        return several(total, what) if shown == total else f"{shown:,} of {several(total, what)}"

    def fill(self) -> None:
        if self._with_sessions:
            self._sessions.fill()
            return
        shown = self.state.shown.flows if self.state.shown is not None else ()
        self._grid.show(flows.listing(shown, self.sorting(self._grid), self.wanted))

    def pane_lines(self, width: int) -> Sequence[Text]:
        chosen = self.table.selected
        if self.pane == "why" and chosen is not None:
            return self._why_lines(chosen.flow)
        if self._with_sessions:
            return self._sessions.pane_lines(width)
        flow = self._grid.selected
        if flow is None:
            return [line(("no flow is chosen", FAINT))]
        history = self.state.history
        key = ("flow", flow.flow)
        pictures = rate_pictures(history, key)
        if flow.price_nanodollars_per_mb is not None:
            pictures.append(price_picture(history, key, place=2))
        return [*flows.detail(flow), *plots(pictures, width)]

    def _why_lines(self, flow: str) -> Sequence[Text]:
        if self._asked_about != flow:
            self._ask_why(flow)
        if self._refusal:
            return [line(f"! {self._refusal}")]
        if self._why is None:
            return [line(("asking the agent why …", FAINT))]
        return flows.why_lines(self._why)

    def _ask_why(self, flow: str) -> None:
        self._why, self._refusal, self._asked_about = None, "", flow
        self.ask(lambda: self.source.why(flow), self._answered, self._refused, group="why")

    def _answered(self, why: api.Why) -> None:
        self._why = why
        self.refresh_pane()

    def _refused(self, why: str) -> None:
        self._refusal = why
        self.refresh_pane()

    def action_why(self) -> None:
        self._asked_about = ""  # what was true a while ago may not be true now
        self.toggle("why")

    def action_session_why(self) -> None:
        self.action_why()

    def action_worth(self) -> None:
        flow = self._grid.selected
        if flow is None or not flow.program:
            self.app.notify("nobody knows which program sends this", severity="warning")
            return
        worth = flow.worth_nanodollars_per_mb
        now = "nobody said until now" if worth is None else f"now {price_text(worth)} a GB, as {flow.traffic_class}"
        ask_worth(self, flow.program, now)

    # --- sessions instead -------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Each table has keys of its own."""
        if action in ("worth", "why", "sessions"):
            return not self._with_sessions
        if action in ("end", "revalue", "session_why", "flows"):
            return self._with_sessions
        return super().check_action(action, parameters)

    def action_sessions(self) -> None:
        """Sessions instead of flows."""
        self._show(with_sessions=True)

    def action_flows(self) -> None:
        self._show(with_sessions=False)

    def _show(self, *, with_sessions: bool) -> None:
        self._with_sessions = with_sessions
        self._grid.display, self._sessions.grid.display = not self._with_sessions, self._with_sessions
        self.refresh_bindings()
        self.table.focus()
        self.refresh_page()
        self.call_after_refresh(self.refresh_page)

    def action_revalue(self, steps: int) -> None:
        self._sessions.turn_worth(steps)

    def action_end(self) -> None:
        self._sessions.ask_end()
