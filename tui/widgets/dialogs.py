"""Dialogs: a question that is answered with yes or no, a choice out of a list, and what traffic is worth.

Decide nothing: each gives its answer to who asked, or None when a person leaves with escape.  Every choice has a key of
its own, so that nobody needs the arrows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hostagent import api
from tui.model.kinds import TERMS
from tui.model.texts import joined, line, plain, price_text, worth_from_text

KEYS: Final = "1234567890abcdefghijklmnoprstuvw"


class Confirm(ModalScreen[bool]):
    """Yes or no, with what yes will change."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, title: str, lines: Sequence[Text]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(line((self._title, "bold")), classes="dialog-title")
            with VerticalScroll(can_focus=False, classes="dialog-text"):
                yield Static(joined(self._lines))
            yield Static(line(("y", "reverse"), " yes   ", ("n", "reverse"), " no"), classes="dialog-keys")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Choose(ModalScreen[int | None]):
    """One of a list, by its key, by arrows and enter, or by a click. `preview` is told what the cursor stands on."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave")]

    def __init__(
        self,
        title: str,
        lines: Sequence[Text],
        choices: Sequence[str],
        *,
        chosen: int = 0,
        preview: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._choices = choices
        self._chosen = chosen
        self._preview = preview

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(line((self._title, "bold")), classes="dialog-title")
            if self._lines:
                yield Static(joined(self._lines), classes="dialog-text")
            yield options(self._choices, self._chosen)
            yield Static(line(("enter", "reverse"), " take   ", ("esc", "reverse"), " leave"), classes="dialog-keys")

    def on_key(self, event: events.Key) -> None:
        place = KEYS.find(event.key) if len(event.key) == 1 else -1
        if 0 <= place < len(self._choices):
            event.stop()
            self.dismiss(place)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if self._preview is not None:
            self._preview(event.option_index)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)

    def action_leave(self) -> None:
        self.dismiss(None)


class AskWorth(ModalScreen[api.WorthChange | None]):
    """What a program's traffic is worth: as some kind's, an amount of its own, or what the table of kinds says."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave")]

    def __init__(self, program: str, kinds: Sequence[api.Kind], now: str) -> None:
        super().__init__()
        self._program = program
        self._kinds = sorted(kinds, key=lambda kind: (-kind.worth_nanodollars_per_mb, kind.name))
        self._now = now

    def compose(self) -> ComposeResult:
        width = max((len(kind.name) for kind in self._kinds), default=0)
        choices = [
            f"as {plain(kind.name):<{width}}  {price_text(kind.worth_nanodollars_per_mb):>5} a GB"
            for kind in self._kinds
        ]
        with Vertical(classes="dialog"):
            yield Static(line(("What is traffic of ", ""), (self._program, "bold"), " worth?"), classes="dialog-title")
            yield Static(line(self._now), classes="dialog-text")
            yield options([*choices, "what the table of kinds says"], 0)
            yield Input(placeholder="or an amount for a GB: 20, 1.5, 200m", id="amount", compact=True)
            yield Static(line(("enter", "reverse"), " take   ", ("tab", "reverse"), " amount   ", *_LEAVE), id="keys")

    def on_key(self, event: events.Key) -> None:
        place = KEYS.find(event.key) if len(event.key) == 1 else -1
        if 0 <= place <= len(self._kinds) and not self.query_one(Input).has_focus:
            event.stop()
            self._take(place)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._take(event.option_index)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        amount = worth_from_text(event.value)
        if amount is None:
            self.notify("an amount is a number, with m for thousandths: 20, 1.5, 200m", severity="warning")
            return
        self._ask_term(api.WorthChange(program=self._program, nanodollars_per_mb=amount))

    def _take(self, place: int) -> None:
        if place == len(self._kinds):
            self.dismiss(api.WorthChange(program=self._program))
        else:
            self._ask_term(api.WorthChange(program=self._program, kind=self._kinds[place].name))

    def _ask_term(self, change: api.WorthChange) -> None:
        terms = [term for term in api.Term if term is not api.Term.ONCE]
        choose = Choose("For how long?", (), [TERMS[term] for term in terms], chosen=len(terms) - 1)

        def done(place: int | None) -> None:
            if place is not None:
                word = api.WorthChange(
                    program=change.program,
                    kind=change.kind,
                    nanodollars_per_mb=change.nanodollars_per_mb,
                    term=terms[place],
                )
                self.dismiss(word)

        self.app.push_screen(choose, done)

    def action_leave(self) -> None:
        self.dismiss(None)


class Help(ModalScreen[None]):
    """Every key, and what numbers mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "leave", "Leave"),
        Binding("up", "scroll(-1)", "Up", show=False),
        Binding("down", "scroll(1)", "Down", show=False),
        Binding("pageup", "scroll(-10)", "Page up", show=False),
        Binding("pagedown,space", "scroll(10)", "Page down", show=False),
    ]

    def __init__(self, lines: Sequence[Text]) -> None:
        super().__init__()
        self._lines = lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog", id="help"):
            with VerticalScroll(can_focus=False, classes="dialog-text"):
                yield Static(joined(self._lines))
            yield Static(line(("↑ ↓", "reverse"), " move   ", *_LEAVE), classes="dialog-keys")

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_leave(self) -> None:
        self.dismiss(None)


_LEAVE: Final = (("esc", "reverse"), " leave")


def options(choices: Sequence[str], chosen: int) -> OptionList:
    options = [
        Option(line((KEYS[place] if place < len(KEYS) else " ", "bold"), f"  {choice}"))
        for place, choice in enumerate(choices)
    ]
    made = OptionList(*options, markup=False)
    made.highlighted = chosen
    return made
