"""What a screen asks the secretary: while it is seen, now and then, and never so that anything waits for it.

Decides when the answer at hand is too old, and the one line that says why there is none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from hostagent import api
from tui.screens.page import Page
from tui.source import PersonalSource

ASK_AGAIN_S: Final = 10

T = TypeVar("T")


def no_secretary(status: api.Status) -> str:
    """Why there is none that a person could ask, as far as the agent knows."""
    if status.secretary != "connected":
        return f"no secretary: {status.secretary.removeprefix('none: ')}"
    return "no secretary on this machine"


class Asked(Generic[T]):
    """`value` is what was answered last; without one, `trouble` says why. `what` names it among the page's."""

    def __init__(
        self,
        page: Page,
        what: str,
        question: Callable[[PersonalSource], Awaitable[T]],
        *,
        every_s: int = ASK_AGAIN_S,
    ) -> None:
        self.value: T | None = None
        self.trouble = ""
        self._page = page
        self._what = what
        self._question = question
        self._every_s = every_s
        self._asked_unix_s: int | None = None

    def again(self) -> None:
        """What is at hand may be wrong by now."""
        self._asked_unix_s = None

    def forget(self) -> None:
        """What is at hand is an answer to another question."""
        self.value, self.trouble = None, ""
        self.again()

    def look(self) -> None:
        """The screen is seen: asks if it is time to. A frozen display asks only for what it has not got."""
        latest = self._page.state.latest
        if latest is None or not self._is_due(latest.unix_s):
            return
        self._asked_unix_s = latest.unix_s
        socket = latest.status.secretary_socket
        source = self._page.source.secretary(socket) if socket else None
        if source is None:
            way = f"`hostagent secretary inbox --socket {socket}` reaches the secretary, this screen does not"
            self.value, self.trouble = None, way if socket else no_secretary(latest.status)
            return
        self._page.ask(lambda: self._question(source), self._answered, self._refused, group=self._what)

    def _is_due(self, now_unix_s: int) -> bool:
        if self._asked_unix_s is None:
            return True
        if self._page.state.frozen and self.value is not None:
            return False
        return not 0 <= now_unix_s - self._asked_unix_s < self._every_s  # clocks are set back, too

    def _answered(self, value: T) -> None:
        self.value, self.trouble = value, ""
        self._page.refresh_page()

    def _refused(self, why: str) -> None:
        self.value, self.trouble = None, why
        self._page.refresh_page()


def tell(page: Page, order: Callable[[PersonalSource], Awaitable[str]], done: Callable[[], None]) -> None:
    """Tells the secretary, and shows what it says to that; then `done` is called."""
    latest = page.state.latest
    socket = latest.status.secretary_socket if latest is not None else ""
    source = page.source.secretary(socket) if socket else None
    if latest is None or source is None:
        page.app.notify("no secretary can be told" if latest is None else no_secretary(latest.status), markup=False)
        return

    def said(line: str) -> None:
        page.app.notify(line, markup=False)
        done()

    def refused(why: str) -> None:
        page.app.notify(why, severity="error", markup=False)
        done()

    page.ask(lambda: order(source), said, refused, group="tell")
