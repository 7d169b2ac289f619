"""Screen 4: budgets, and the purse that they limit. A person can pay in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from tui.model import budgets
from tui.model.state import State
from tui.model.texts import FAINT, line
from tui.screens.asking import Asked, tell
from tui.screens.page import UNHEARD, TextPage
from tui.source import PersonalSource, Source
from tui.widgets.answering import AskAmount


class BudgetsPage(TextPage):
    NAME = "budgets"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("plus", "top_up", "Pay in", key_display="+")]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._asked = Asked(self, "purse", lambda secretary: secretary.purse())
        self._unsure: tuple[int, str] | None = None  # an amount and its payment, to which no answer came

    def opened(self) -> None:
        self._asked.again()

    def lines(self, width: int) -> Sequence[Text]:
        shown = self.state.shown
        if shown is None:
            return [line((UNHEARD, FAINT))]
        self._asked.look()
        made = budgets.lines(shown.budgets, shown.unix_s, width)
        purse = self._asked.value
        if purse is not None:
            return [*budgets.purse_lines(purse), Text(), *made]
        return [*made, Text(), line((self._asked.trouble, FAINT))] if self._asked.trouble else made

    def action_top_up(self) -> None:
        def done(amount: int | None) -> None:
            if amount is not None:
                tell(self, lambda secretary: self._pay_in(secretary, amount), self._look_again)

        lines = [line("It is there at once; only a keeper may pay in.")]
        self.app.push_screen(AskAmount("How much goes into the purse?", lines), done)

    async def _pay_in(self, secretary: PersonalSource, amount: int) -> str:
        """Whoever says the same again after an error means the same payment: it is booked once."""
        if self._unsure is None or self._unsure[0] != amount:
            self._unsure = (amount, f"tui-{secrets.token_hex(8)}")
        said = await secretary.top_up(self._unsure[1], amount)
        self._unsure = None
        return said

    def _look_again(self) -> None:
        self._asked.again()
        self.refresh_page()
