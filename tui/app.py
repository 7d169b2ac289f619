"""The terminal UI: nine screens over the local API.

Decides what the keys of every screen do, and when to draw: at most a few times a second, and only the screen that is
seen.  `tui.model` says what is shown.  Keeps the one stream of snapshots, and asks again when the agent went away.
Refuses to know anything of the agent but what its local API says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher, Footer, Static

from billpay.errors import BillpayError, EnvironmentFault
from hostagent import api
from tui.model import head, inbox, modes
from tui.model.state import State
from tui.model.texts import cut
from tui.screens import ALL
from tui.screens import help as help_screen
from tui.screens.page import Page
from tui.source import LocalSource, Personal, Source
from tui.widgets.dialogs import Choose, Confirm, Help
from tui.widgets.head import TabLine

RETRY_S = 1.0
DRAW_S = 0.25  # the screen follows the agent no faster
NOTICE_S = 0.2
LOOK_S = 1.0
NOTICE_LINES: Final = 4
SIDES: Final = 2  # columns that a box leaves to its padding
THEMES: Final = ("textual-dark", "textual-light", "nord", "gruvbox", "solarized-dark", "solarized-light", "ansi-dark")
FEW_COLOURS: Final = ("ansi-dark", "ansi-light")
ALL_THEMES: Final = (*THEMES, "ansi-light")


class AgentApp(App[None]):
    """`notices()` gives new lines for a log at the bottom (the lab's progress); `finished()` says when to leave."""

    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = Path(__file__).parent / "style.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(f"{place},{tab.name[0]}", f"show({place - 1})", tab.name, show=False)
            for place, tab in enumerate(head.TABS, 1)
        ),
        Binding("space", "freeze", "Freeze", key_display="␣"),
        Binding("x", "act", "Act"),
        Binding("o", "observe", "Observe", show=False),
        Binding("c", "confirm", "Confirm", show=False),
        Binding("t", "theme", "Theme", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        source: Source,
        *,
        title: str = "hostagent",
        notices: Callable[[], list[str]] | None = None,
        finished: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        self.title = title
        self.state = State()
        self.drawn = 0  # times that a screen was refreshed
        self._source = source
        self._new_notices = notices
        self._finished = finished
        self._heard_s = 0.0
        self._stale = True
        self._header = Static(id="header", markup=False)
        self._tabs = TabLine()
        self._warnings = Static(id="warnings", markup=False)
        self._pages: list[Page] = [page(self.state, source) for page in ALL]
        self._notices = Static(id="notices", markup=False)
        if few_colours():
            self.theme = FEW_COLOURS[0]

    def compose(self) -> ComposeResult:
        yield self._header
        yield self._tabs
        yield self._warnings
        with ContentSwitcher(initial=self._pages[0].NAME, id="switcher"):
            yield from self._pages
        if self._new_notices is not None:
            yield self._notices
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        self.run_worker(self._follow(), exclusive=False)
        self.set_interval(DRAW_S, self._draw)
        self.set_interval(LOOK_S, self._look_whether_quiet)
        self.set_interval(NOTICE_S, self._show_notices)
        self.action_show(0)

    def on_resize(self) -> None:
        self.call_after_refresh(self.refresh_all)

    # --- the agent --------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Snapshots for ever: when the agent goes away, again and again until it is back."""
        while True:
            try:
                async for snapshot in self._source.events():
                    self._heard_s = asyncio.get_running_loop().time()
                    first = self.state.shown is None
                    self.state.on_snapshot(snapshot)
                    self._stale = True
                    if first or self.state.is_old:
                        self.refresh_all()
                self.state.on_lost("the agent ended")
            except BillpayError as error:
                self.state.on_lost(str(error))
            self.refresh_all()
            await asyncio.sleep(RETRY_S)

    def _look_whether_quiet(self) -> None:
        self.state.on_quiet(int(asyncio.get_running_loop().time() - self._heard_s))
        self._show_head()

    # --- what is shown ----------------------------------------------------------------------------------------------

    @property
    def page(self) -> Page:
        return next(page for page in self._pages if self.query_one(ContentSwitcher).current == page.NAME)

    def _draw(self) -> None:
        if self._stale:
            self.refresh_all()

    def refresh_all(self) -> None:
        if not self._is_shown():
            return
        self._stale = False
        self.drawn += 1
        self._show_head()
        self.page.refresh_page()

    def _show_head(self) -> None:
        if not self._is_shown():
            return
        width = self.size.width
        self._header.update(head.header(self.state, self.title))
        self._header.set_class(self.state.is_old or self.state.frozen, "-loud")
        questions = inbox.waiting(self.state.latest)
        self._tabs.show(self._pages.index(self.page), questions, width)
        warnings = head.warnings(self.state)
        self._warnings.display = bool(warnings)
        self._warnings.update("\n".join(cut(text, 2 * (width - SIDES)) for text in warnings))

    def _is_shown(self) -> bool:
        """Not before everything is composed, and not while it is taken down."""
        return self.is_running and all(part.is_attached for part in (self._header, self._tabs, *self._pages))

    def _show_notices(self) -> None:
        if self._new_notices is not None:
            self.state.notices.extend(self._new_notices())
            lines = list(self.state.notices)[-NOTICE_LINES:]
            self._notices.update("\n".join(cut(text, self.size.width - SIDES) for text in lines))
        if self._finished is not None and self._finished():
            self.exit()

    # --- keys and mouse ---------------------------------------------------------------------------------------------

    def action_show(self, place: int) -> None:
        page = self._pages[place]
        self.query_one(ContentSwitcher).current = page.NAME
        page.opened()
        focused = page.first_focus()
        if focused is not None:
            focused.focus()
        self.refresh_all()
        self.call_after_refresh(self.refresh_all)

    def on_tab_line_clicked(self, event: TabLine.Clicked) -> None:
        self.action_show(event.place)

    def action_freeze(self) -> None:
        self.state.freeze(not self.state.frozen)
        self.refresh_all()

    def action_help(self) -> None:
        self.push_screen(Help(help_screen.lines()))

    def action_theme(self) -> None:
        before = self.theme
        chosen = ALL_THEMES.index(before) if before in ALL_THEMES else 0

        def done(place: int | None) -> None:
            self.theme = before if place is None else ALL_THEMES[place]

        def preview(place: int) -> None:
            self.theme = ALL_THEMES[place]

        names = [f"{name}  (16 colours)" if name in FEW_COLOURS else name for name in ALL_THEMES]
        self.push_screen(Choose("Theme", (), names, chosen=chosen, preview=preview), done)

    def action_act(self) -> None:
        shown = self.state.latest
        if shown is None:
            return
        if shown.status.mode is not api.Mode.OBSERVE:
            self.notify("it acts already" + ("; c keeps it" if shown.status.mode is api.Mode.TRIAL else ""))
            return
        change = api.ModeChange(mode=api.Mode.ACT, trial_s=modes.TRIAL_S)
        self._confirm_mode("Act on this machine's traffic?", modes.act_lines(shown), change, "on trial: c keeps it")

    def action_observe(self) -> None:
        shown = self.state.latest
        if shown is None:
            return
        if shown.status.mode is api.Mode.OBSERVE:
            self.notify("it observes already")
            return
        change = api.ModeChange(mode=api.Mode.OBSERVE)
        self._confirm_mode("Stop acting, only observe?", modes.observe_lines(shown), change, "it only observes now")

    def action_confirm(self) -> None:
        shown = self.state.latest
        if shown is None or shown.status.mode is not api.Mode.TRIAL:
            self.notify("no trial waits for a confirmation")
            return
        self.page.do(lambda: self._source.set_mode(api.ModeChange(mode=api.Mode.ACT)), "confirmed: it goes on acting")

    def _confirm_mode(self, title: str, lines: list[Text], change: api.ModeChange, said: str) -> None:
        def done(yes: bool | None) -> None:
            if yes:
                self.page.do(lambda: self._source.set_mode(change), said)

        self.push_screen(Confirm(title, lines), done)


def few_colours() -> bool:
    """Whether the terminal is one of those that say that they have 16 colours or fewer."""
    asked = os.environ.get("TEXTUAL_COLOR_SYSTEM", "auto")
    if asked != "auto":
        return asked in ("standard", "none")
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return False
    return "256" not in os.environ.get("TERM", "")


def run_tui(socket: Path, *, title: str = "hostagent", personal: Personal | None = None) -> None:
    """Until the user quits; a missing agent is shown, not an error.  Raises EnvironmentFault without a terminal.

    `personal`: the way to the secretary behind a socket that the agent names.
    """
    in_browser = bool(os.environ.get("TEXTUAL_DRIVER"))
    if not in_browser and not (sys.stdin.isatty() and sys.stdout.isatty()):
        remedy = "`hostagent status`, `flows` and `accounts` need none"
        raise EnvironmentFault("show", "the terminal UI", "this is no terminal", remedy)
    AgentApp(LocalSource(socket, personal=personal), title=title).run()
