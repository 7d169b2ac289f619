"""Sessions on screen 1, in the place of flows: a person looks, and says when one shall end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model import sessions
from tui.model.texts import FAINT, line, rate_text
from tui.screens.page import Picture, TablePage, plots, price_picture
from tui.widgets.dialogs import Confirm
from tui.widgets.grid import Grid

NONE_CHOSEN: Final = "no session is chosen"


class SessionTable:
    """The table and what its keys do, for the page that has it."""

    def __init__(self, page: TablePage) -> None:
        self._page = page
        self.grid: Grid[api.Session] = Grid("session-table", sessions.EMPTY)
        self._said_of: tuple[str, int] | None = None  # a session as it was when a person spoke, until that is heard
        self._said_ppm = 0

    @property
    def there(self) -> Sequence[api.Session]:
        shown = self._page.state.shown
        return shown.sessions if shown is not None else ()

    def fill(self) -> None:
        self.grid.show(sessions.listing(self.there, self._page.sorting(self.grid), self._page.wanted))

    def pane_lines(self, width: int) -> Sequence[Text]:
        session, shown = self.grid.selected, self._page.state.shown
        if session is None or shown is None:
            return [line((NONE_CHOSEN, FAINT))]
        history, key = self._page.state.history, ("session", session.session)
        pictures = [Picture("rate", history.of(key), rate_text)]
        if session.pays:
            pictures.append(price_picture(history, key, place=1))
        return [*sessions.detail(session, shown.unix_s), *plots(pictures, width)]

    def turn_worth(self, steps: int) -> None:
        """Tells the agent at once: who looks on sees what it does to rate and price."""
        session, page = self.grid.selected, self._page
        if session is None or not session.pays:
            page.app.notify("the far end pays" if session is not None else NONE_CHOSEN, severity="warning")
            return
        seen = (session.session, session.worth_ppm)
        worth_ppm = sessions.turned(self._said_ppm if seen == self._said_of else session.worth_ppm, steps)
        self._said_of, self._said_ppm = seen, worth_ppm
        change = api.SessionWorth(session=session.session, worth_ppm=worth_ppm)

        def refused(why: str) -> None:
            self._said_of = None
            page.app.notify(why, severity="error", markup=False)

        name = sessions.program_of(session) or session.flow
        said = f"{name}: worth {sessions.worth_text(worth_ppm)} of what its policy says"
        page.ask(
            lambda: page.source.set_session_worth(change),
            lambda _nothing: page.app.notify(said, markup=False),
            refused,
            group="do",
        )

    def ask_end(self) -> None:
        session, page = self.grid.selected, self._page
        if session is None:
            page.app.notify(NONE_CHOSEN, severity="warning")
            return

        def done(yes: bool | None) -> None:
            if yes:
                page.do(lambda: page.source.end_session(session.session), f"ended: {session.flow}")

        page.app.push_screen(Confirm("End this session?", sessions.end_lines(session)), done)
