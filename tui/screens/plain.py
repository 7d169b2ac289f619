"""Screens 4, 6 and 9: budgets, the month's statement, health. Each is read, and has no table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType

from hostagent import api
from tui.model import budgets, health, statement
from tui.model.state import State
from tui.model.texts import FAINT, STRONG, line, month_of
from tui.screens.page import TextPage
from tui.source import Source

UNHEARD: Final = "nothing is known yet"
ASK_AGAIN_S: Final = 10


class BudgetsPage(TextPage):
    NAME = "budgets"

    def lines(self, width: int) -> Sequence[Text]:
        shown = self.state.shown
        if shown is None:
            return [line((UNHEARD, FAINT))]
        return budgets.lines(shown.budgets, shown.unix_s, width)


class HealthPage(TextPage):
    NAME = "health"

    def lines(self, _width: int) -> Sequence[Text]:
        shown = self.state.shown
        return [line((UNHEARD, FAINT))] if shown is None else health.lines(shown)


class MonthPage(TextPage):
    """Asked for while it is seen, and no oftener than every few seconds."""

    NAME = "month"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,left_square_bracket", "turn(-1)", "Before", key_display="←"),
        Binding("right,right_square_bracket", "turn(1)", "Next", key_display="→"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._month = ""  # "": this one
        self._statement: api.Statement | None = None
        self._asked = ("", 0)
        self._refusal = ""

    def opened(self) -> None:
        self._asked = ("", 0)

    def action_turn(self, by: int) -> None:
        if self.state.latest is None:
            return
        this = month_of(self.state.latest.unix_s)
        month = min(statement.other_month(self._month or this, by), this)
        self._month = "" if month == this else month
        self._statement = None
        self.refresh_page()

    def lines(self, width: int) -> Sequence[Text]:
        latest = self.state.latest
        if latest is None:
            return [line((UNHEARD, FAINT))]
        month = self._month or month_of(latest.unix_s)
        if self._asked[0] != month or latest.unix_s - self._asked[1] >= ASK_AGAIN_S:
            self._asked = (month, latest.unix_s)
            self.ask(lambda: self.source.statement(month), self._answered, self._refused, group="statement")
        made = [line((statement.month_name(month), STRONG)), Text()]
        if self._refusal:
            return [*made, line(f"! {self._refusal}")]
        if self._statement is None or self._statement.month != month:
            return [*made, line((statement.LOADING, FAINT))]
        return [*made, *statement.lines(self._statement, width)]

    def _answered(self, answer: api.Statement) -> None:
        self._statement, self._refusal = answer, ""
        self.refresh_page()

    def _refused(self, why: str) -> None:
        self._refusal = why
        self.refresh_page()
