"""Screen 6: the month's statement. The secretary's, each line traced to its grants; or the agent's own count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from hostagent import api
from tui.model import bill, personal, statement
from tui.model.state import State
from tui.model.texts import FAINT, STRONG, joined, line, month_of
from tui.screens.asking import Asked
from tui.screens.page import TALL, UNHEARD, TablePage
from tui.source import PersonalSource, Source
from tui.widgets.grid import Grid

ASK_AGAIN_S: Final = 10
TRACE_AGAIN_S: Final = 60  # it is read out of the journal


class MonthPage(TablePage):
    """Asked for while it is seen, and no oftener than every few seconds."""

    NAME = "month"
    WHAT = "line"
    OPEN = False  # what is behind a line is read out of the secretary's journal
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,left_square_bracket", "turn_month(-1)", "Before", key_display="←"),
        Binding("right,right_square_bracket", "turn_month(1)", "Next", key_display="→"),
        Binding("tab", "by", "By", key_display="tab"),
        Binding("v", "view", "Agent's", show=False),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._month = ""  # "": this one
        self._by = personal.COLUMNS[0]
        self._of_agent = False
        self._bill = Asked(self, "bill", self._ask_bill, every_s=ASK_AGAIN_S)
        self._trace = Asked(self, "trace", self._ask_trace, every_s=TRACE_AGAIN_S)
        self._traced = ""  # key of the line that was asked about
        self._statement: api.Statement | None = None
        self._asked = ("", 0)
        self._refusal = ""
        self._sums = Static(id="bill-sums", markup=False)
        self._grid: Grid[personal.Line] = Grid("bill-table", bill.EMPTY)
        self._scroll = VerticalScroll(can_focus=True, classes="text")
        self._text = Static(markup=False)
        self._below.can_focus = True  # a trace may be long

    # --- parts ------------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        with self._scroll:
            yield self._text
        yield self._sums
        yield self._grid
        yield from self.foot()

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def first_focus(self) -> Widget | None:
        return self._grid if self._bill.value is not None and not self._of_agent else self._scroll

    def opened(self) -> None:
        self._asked = ("", 0)
        self._bill.again()

    def total(self) -> int:
        return len(self._bill.value.lines) if self._bill.value is not None else 0

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _shown_month(self) -> str:
        latest = self.state.latest
        return self._month or (month_of(latest.unix_s) if latest is not None else "")

    async def _ask_bill(self, secretary: PersonalSource) -> personal.Statement:
        first, last = bill.days_of(self._shown_month())
        return await secretary.statement(first, last, self._by)

    async def _ask_trace(self, secretary: PersonalSource) -> personal.Trace:
        return await secretary.trace(self._traced)

    def _ask_agent(self, unix_s: int) -> None:
        month = self._shown_month()
        if self._asked[0] != month or unix_s - self._asked[1] >= ASK_AGAIN_S:
            self._asked = (month, unix_s)
            self.ask(lambda: self.source.statement(month), self._answered, self._refused, group="statement")

    def _answered(self, answer: api.Statement) -> None:
        self._statement, self._refusal = answer, ""
        self.refresh_page()

    def _refused(self, why: str) -> None:
        self._refusal = why
        self.refresh_page()

    # --- what is shown ----------------------------------------------------------------------------------------------

    def refresh_page(self) -> None:
        latest = self.state.latest
        if latest is not None:
            self._bill.look()
        is_bill = self._bill.value is not None and not self._of_agent
        for widget in (self._grid, self._caption, self._sums):
            widget.display = is_bill
        self._scroll.display = not is_bill
        wrong = (self._scroll,) if is_bill else (self._grid, self._below)
        if any(widget.has_focus for widget in wrong):
            (self._grid if is_bill else self._scroll).focus()
        if is_bill:
            super().refresh_page()
            return
        self._below.display = False
        if latest is None:
            self._text.update(line((UNHEARD, FAINT)))
            return
        if not self._of_agent and not self._bill.trouble:
            self._text.update(line((bill.LOADING, FAINT)))
            return
        self._ask_agent(latest.unix_s)
        self._text.update(joined(self._agent_lines(max(20, self._scroll.size.width - 3))))

    def _agent_lines(self, width: int) -> list[Text]:
        month = self._shown_month()
        made = [line((statement.month_name(month), STRONG), ("  as the agent counted", FAINT)), Text()]
        trouble = [line((self._bill.trouble, FAINT)), Text()] if self._bill.trouble else []
        if self._refusal:
            return [*made, line(f"! {self._refusal}"), Text(), *trouble]
        if self._statement is None or self._statement.month != month:
            return [*made, line((statement.LOADING, FAINT))]
        return [*made, *statement.lines(self._statement, width), Text(), *trouble]

    def fill(self) -> None:
        told = self._bill.value
        if told is None:
            return
        title = line((f"{statement.month_name(told.first_day[:7])}, by {told.by}", STRONG))
        self._sums.display = not self.pane or self.app.size.height >= TALL
        self._sums.update(joined([title, *bill.sums(told, max(20, self.size.width - 2))]))
        self._grid.show(bill.listing(told, self.sorting(self._grid), self.wanted))

    def pane_lines(self, _width: int) -> Sequence[Text]:
        chosen = self._grid.selected
        if chosen is None:
            return [line(("no line is chosen", FAINT))]
        if chosen.key != self._traced:
            self._traced = chosen.key
            self._trace.forget()
        self._trace.look()
        trace = self._trace.value
        if trace is not None and trace.key == chosen.key:
            return bill.trace_lines(chosen, trace)
        return [line(f"! {self._trace.trouble}") if self._trace.trouble else line((bill.LOADING, FAINT))]

    def toggle(self, pane: str) -> None:
        """Keys are for what is behind the line while that is open, then for the lines again."""
        if self._bill.value is None or self._of_agent:
            return
        super().toggle(pane)
        (self._below if self.pane else self._grid).focus()

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_turn_month(self, by: int) -> None:
        if self.state.latest is None:
            return
        this = month_of(self.state.latest.unix_s)
        month = min(statement.other_month(self._shown_month(), by), this)
        self._month = "" if month == this else month
        self._statement = None
        self._look_anew()

    def action_by(self) -> None:
        columns = personal.COLUMNS
        self._by = columns[(columns.index(self._by) + 1) % len(columns)]
        self._look_anew()

    def action_view(self) -> None:
        self._of_agent = not self._of_agent
        self.refresh_page()

    def _look_anew(self) -> None:
        """Another month, other columns: what is shown stays until the answer is there."""
        self._bill.again()
        self.refresh_page()
