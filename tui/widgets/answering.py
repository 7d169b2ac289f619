"""Dialogs about money: a yes with its price and its time, and what is paid into the purse.

Decide nothing: each gives what a person said to who asked, or None when the person leaves with escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static

from hostagent import api
from tui.model.kinds import TERMS
from tui.model.texts import amount_from_text, joined, line
from tui.widgets.dialogs import KEYS, options

NO_AMOUNT: Final = "an amount is a number, with m for thousandths: 0.05, 1.5, 200m"
_LEAVE: Final = (("esc", "reverse"), " leave")
TERMS_ASKED: Final = tuple(api.Term)


class AskYes(ModalScreen[tuple[int | None, api.Term] | None]):
    """For how long; and up to which price, None for the one that was asked about."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave")]

    def __init__(self, title: str, lines: Sequence[Text]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(line((self._title, "bold")), classes="dialog-title")
            yield Static(joined(self._lines), classes="dialog-text")
            yield options([TERMS[term] for term in TERMS_ASKED], 0)
            yield Input(placeholder="or up to a price of yours: 0.05, 200m", id="amount", compact=True)
            yield Static(line(("enter", "reverse"), " take   ", ("tab", "reverse"), " price   ", *_LEAVE), id="keys")

    def on_key(self, event: events.Key) -> None:
        place = KEYS.find(event.key) if len(event.key) == 1 else -1
        if 0 <= place < len(TERMS_ASKED) and not self.query_one(Input).has_focus:
            event.stop()
            self._take(place)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._take(event.option_index)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The price is said; the time comes next."""
        if self._said(event.value) is not None:
            self.query_one(OptionList).focus()

    def _take(self, place: int) -> None:
        said = self._said(self.query_one(Input).value)
        if said is not None:
            self.dismiss((*said, TERMS_ASKED[place]))

    def _said(self, text: str) -> tuple[int | None] | None:
        """The price; None: it is none, and the person has been told."""
        if not text.strip():
            return (None,)
        amount = amount_from_text(text)
        if amount is None:
            self.notify(NO_AMOUNT, severity="warning")
            return None
        return (amount,)

    def action_leave(self) -> None:
        self.dismiss(None)


class AskAmount(ModalScreen[int | None]):
    """An amount above 0."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave")]

    def __init__(self, title: str, lines: Sequence[Text]) -> None:
        super().__init__()
        self._title = title
        self._lines = lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(line((self._title, "bold")), classes="dialog-title")
            yield Static(joined(self._lines), classes="dialog-text")
            yield Input(placeholder="5, 1.5, 200m", id="amount", compact=True)
            yield Static(line(("enter", "reverse"), " pay in   ", *_LEAVE), id="keys")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        amount = amount_from_text(event.value)
        if amount:
            self.dismiss(amount)
        else:
            self.notify(NO_AMOUNT, severity="warning")

    def action_leave(self) -> None:
        self.dismiss(None)
