"""Screen 3: the inbox. What waits for a yes or no, at the agent and at the secretary, and notices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from billpay.money import show_nanodollars
from hostagent import api
from tui.model import inbox, personal
from tui.model.inbox import Entry
from tui.model.kinds import TERMS
from tui.model.state import State
from tui.model.texts import FAINT, joined, line, several
from tui.screens.asking import Asked, tell
from tui.screens.page import TablePage
from tui.source import PersonalSource, Source
from tui.widgets.answering import AskYes
from tui.widgets.dialogs import Choose, Confirm
from tui.widgets.grid import Grid

ASK_AGAIN_S = 5


class InboxPage(TablePage, inherit_bindings=False):
    NAME = "inbox"
    WHAT = "question"
    OPEN = True  # whoever decides needs all of a question
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes …", key_display="y"),
        Binding("d", "answer(False)", "No …"),
        Binding("u", "undo", "Undo"),
        Binding("v", "answered", "Answered"),
        *(binding for binding in TablePage.BINDINGS if isinstance(binding, Binding) and binding.key != "enter"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[Entry] = Grid("question-table", inbox.NOTHING_TO_ANSWER)
        self._notice_text = Static(markup=False)
        self._trouble = Static(classes="caption", markup=False)
        self._with_answered = False
        self._asked = Asked(self, "inbox", self._ask_inbox, every_s=ASK_AGAIN_S)
        self._waited = 0
        self._entries: list[Entry] = []

    async def _ask_inbox(self, source: PersonalSource) -> personal.Inbox:
        return await source.inbox(answered=self._with_answered)

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def compose(self) -> ComposeResult:
        yield self._grid
        with self._below:
            yield self._pane_text
        yield self._trouble
        yield Static(line(("notices", "bold")), classes="title")
        with VerticalScroll(can_focus=True, id="notice-list"):
            yield self._notice_text
        yield self._filter_line
        yield self._caption

    def opened(self) -> None:
        self._asked.again()

    def total(self) -> int:
        return len(self._entries)

    def counted(self) -> str:
        told = self._asked.value
        said = super().counted()
        return f"{said} · {inbox.counted(told)}" if told is not None else said

    def fill(self) -> None:
        shown = self.state.shown
        self._ask_if_it_is_time()
        told = self._asked.value
        asked = told.questions if told is not None else ()
        questions = shown.questions if shown is not None else ()
        self._entries = inbox.entries(questions, asked, shown.unix_s if shown is not None else 0)
        self._grid.show(inbox.listing(self._entries, self.sorting(self._grid), self.wanted))
        self._trouble.display = bool(self._asked.trouble)
        self._trouble.update(self._trouble_line())
        self._notice_text.update(joined(inbox.notice_lines(shown.notices if shown is not None else ())))

    def _ask_if_it_is_time(self) -> None:
        """At once where the agent has heard of more questions, or fewer."""
        latest = self.state.latest
        waiting = latest.status.secretary_questions if latest is not None else 0
        if waiting != self._waited:
            self._waited = waiting
            self._asked.again()
        self._asked.look()

    def _trouble_line(self) -> Text:
        waiting = f"{several(self._waited, 'question')} there: " if self._waited else ""
        return line((f"{'! ' if self._waited else ''}{waiting}{self._asked.trouble}", "" if self._waited else FAINT))

    def refresh_pane(self) -> None:
        super().refresh_pane()
        self._below.display = self._grid.selected is not None

    def pane_lines(self, _width: int) -> Sequence[Text]:
        entry, shown = self._grid.selected, self.state.shown
        return inbox.detail(entry, shown.unix_s) if entry is not None and shown is not None else ()

    def toggle(self, pane: str) -> None:
        """A click on the chosen question answers nothing by itself, and what is asked stays to be read."""

    # --- answers ----------------------------------------------------------------------------------------------------

    def action_answer(self, allow: bool) -> None:
        entry = self._grid.selected
        if entry is None:
            self.app.notify(inbox.NOTHING_TO_ANSWER)
        elif isinstance(entry.question, api.Question):
            self._answer_engine(entry.question, allow)
        elif entry.question.is_answered:
            self.app.notify(f"it is answered: {entry.question.answer}; u takes that back", markup=False)
        elif entry.question.kind == "worth":
            self._answer_worth(entry.question, allow)
        else:
            self._answer_once(entry.question, allow)

    def _answer_engine(self, question: api.Question, allow: bool) -> None:
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

    def _answer_worth(self, question: personal.Question, allow: bool) -> None:
        terms = list(api.Term)
        price = show_nanodollars(question.price_nanodollars)

        def yes(said: tuple[int | None, api.Term] | None) -> None:
            if said is not None:
                limit, term = said
                self._say(question, accept=True, limit=limit, term=term)

        def no(place: int | None) -> None:
            if place is not None:
                self._say(question, accept=False, term=terms[place])

        if allow:
            self.app.push_screen(AskYes(f"Yes, up to {price}. For how long?", [line(question.title)]), yes)
        else:
            lines = [line(question.title), line(f"not for {price} or more")]
            names = [TERMS[term] for term in terms]
            self.app.push_screen(Choose("No, it goes unpaid. For how long?", lines, names), no)

    def _answer_once(self, question: personal.Question, allow: bool) -> None:
        """Whether that was you, or whether a budget may have more: for now, and by no price of yours."""

        def done(yes: bool | None) -> None:
            if yes:
                self._say(question, accept=allow, term=api.Term.ONCE)

        lines = [line(question.title), line((question.why, FAINT))]
        self.app.push_screen(Confirm(f"Answer {'yes' if allow else 'no'}?", lines), done)

    def _say(self, question: personal.Question, *, accept: bool, term: api.Term, limit: int | None = None) -> None:
        async def order(source: PersonalSource) -> str:
            return await source.answer(question.number, accept=accept, limit_nanodollars=limit, term=term)

        tell(self, order, self._look_again)

    def action_undo(self) -> None:
        """Of the chosen question where it is an answered one, else of the latest answer."""
        entry = self._grid.selected
        number = entry.question.number if entry is not None and entry.is_answered else None
        tell(self, lambda source: source.undo(number), self._look_again)

    def _look_again(self) -> None:
        self._asked.again()
        self.refresh_page()

    def action_answered(self) -> None:
        self._with_answered = not self._with_answered
        self.app.notify("answered questions are shown, too" if self._with_answered else "only what waits is shown")
        self._look_again()
