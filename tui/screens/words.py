"""A person's word about a program: asked with a dialog, told to the agent. For the screens that have programs."""

from __future__ import annotations

from hostagent import api
from tui.model.kinds import TERMS
from tui.model.texts import price_text
from tui.screens.page import Page
from tui.widgets.dialogs import AskWorth


def ask_worth(page: Page, program: str, now: str) -> None:
    kinds = page.state.shown.kinds if page.state.shown is not None else ()

    def tell(change: api.WorthChange | None) -> None:
        if change is not None:
            page.do(lambda: page.source.set_worth(change), told(change))

    page.app.push_screen(AskWorth(program, kinds, now), tell)


def told(change: api.WorthChange) -> str:
    if change.kind is not None:
        return f"{change.program} counts as {change.kind}: {TERMS[change.term]}"
    if change.nanodollars_per_mb is not None:
        return f"{change.program} is worth {price_text(change.nanodollars_per_mb)} a GB: {TERMS[change.term]}"
    return f"{change.program} counts as the table of kinds says"
