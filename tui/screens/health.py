"""Screen 9: health. It is read, and has no table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tui.model import health
from tui.model.texts import FAINT, line
from tui.screens.page import UNHEARD, TextPage


class HealthPage(TextPage):
    NAME = "health"

    def lines(self, _width: int) -> Sequence[Text]:
        shown = self.state.shown
        return [line((UNHEARD, FAINT))] if shown is None else health.lines(shown)
