"""Screen 3: the inbox. Questions that wait for a yes or no, and notices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from hostagent import api
from tui.model import inbox
from tui.model.kinds import TERMS
from tui.model.state import State
from tui.model.texts import joined, line
from tui.screens.page import TablePage
from tui.source import Source
from tui.widgets.dialogs import Choose
from tui.widgets.grid import Grid


class InboxPage(TablePage, inherit_bindings=False):
    NAME = "inbox"
    WHAT = "question"
    OPEN = False  # the table has it all
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes …", key_display="y"),
        Binding("d", "answer(False)", "No …"),
        *(binding for binding in TablePage.BINDINGS if isinstance(binding, Binding) and binding.key != "enter"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.Question] = Grid("question-table", inbox.NOTHING_TO_ANSWER)
        self._notice_text = Static(markup=False)

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def compose(self) -> ComposeResult:
        yield self._grid
        yield Static(line(("notices", "bold")), classes="title")
        with VerticalScroll(can_focus=True, id="notice-list"):
            yield self._notice_text
        yield from self.foot()

    def total(self) -> int:
        return len(self.state.shown.questions) if self.state.shown is not None else 0

    def fill(self) -> None:
        shown = self.state.shown
        questions = shown.questions if shown is not None else ()
        self._grid.show(inbox.listing(questions, self.sorting(self._grid), self.wanted))
        self._notice_text.update(joined(inbox.notice_lines(shown.notices if shown is not None else ())))

    def toggle(self, pane: str) -> None:
        """A click on the chosen question answers nothing by itself."""

    def action_answer(self, allow: bool) -> None:
        question = self._grid.selected
        if question is None:
            self.app.notify(inbox.NOTHING_TO_ANSWER)
            return
        terms = list(api.Term)
        lines = [
            line(question.program or "some program", f", {question.traffic_class or 'no kind'}"),
            line(question.flow),
        ]
        title = "Yes, it may go on. For how long?" if allow else "No, it is stopped. For how long?"

        def done(place: int | None) -> None:
            if place is not None:
                answer = api.Answer(number=question.number, allow=allow, term=terms[place])
                said = f"{'yes' if allow else 'no'}, {TERMS[terms[place]]}: {question.program or question.flow}"
                self.do(lambda: self.source.answer(answer), said)

        self.app.push_screen(Choose(title, lines, [TERMS[term] for term in terms]), done)
