"""The terminal UI: two screens over the local API, flows and accounts.

Decides nothing: `tui.model` says what is shown, this puts it on a terminal and keeps the connection.  Refuses to know
anything of the agent but what its local API says.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ClassVar, Final, Protocol

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import ContentSwitcher, Footer, Static

from billpay.errors import BillpayError, EnvironmentFault
from hostagent import api
from hostagent.client import LocalClient
from tui.grid import Grid
from tui.model import Model, cut

RETRY_S = 1.0
NOTICE_S = 0.2
LOOK_S = 1.0
NOTICE_LINES: Final = 4
SIDES: Final = 2  # columns that a table leaves to its scroll bar, and a box to its padding

HELP: Final = """\
f or 1: flows, what each pays, for which path, and why
a or 2: accounts, what we and our neighbours owe each other
arrow keys: choose a flow; its whole story is below the table
amounts are dollars: n 10^-9, µ 10^-6, m 10^-3; ? is not known yet
pays, toll: of a packet now   spent, back: in all   arrives: says the far end
we sent, we got: our counters   they got, they sent: the neighbour's, signed
?: closes this help   q: quit"""


class SnapshotSource(Protocol):
    """Where snapshots come from; `events` may end or raise what the client raises, and is asked again then."""

    def events(self) -> AsyncIterator[api.Snapshot]: ...


class LocalSource:
    """The agent's local socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def events(self) -> AsyncIterator[api.Snapshot]:
        async with LocalClient(self._socket) as client, contextlib.aclosing(client.events()) as snapshots:
            async for snapshot in snapshots:
                yield snapshot


class AgentApp(App[None]):
    """`notices()` gives new lines for a log at the bottom (the lab's progress); `finished()` says when to leave."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #header { height: 1; padding: 0 1; background: $primary-background; text-style: bold; }
    #warnings { height: auto; max-height: 6; padding: 0 1; color: $text-warning; }
    #switcher { height: 1fr; }
    Grid { height: 1fr; min-height: 4; background: $background; }
    .below { height: auto; max-height: 14; border-top: solid $primary; padding: 0 1; }
    .below Static { height: auto; }
    #notices { height: auto; max-height: 5; border-top: dashed $primary; padding: 0 1; }
    #help { display: none; height: auto; max-height: 60%; padding: 0 1; border-top: solid $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("f,1", "show('flows')", "Flows"),
        ("a,2", "show('accounts')", "Accounts"),
        ("question_mark", "help", "Help"),
        ("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        source: SnapshotSource,
        *,
        title: str = "hostagent",
        notices: Callable[[], list[str]] | None = None,
        finished: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        self.title = title
        self.model = Model()
        self._source = source
        self._new_notices = notices
        self._finished = finished
        self._heard_s = 0.0
        self._header = Static(id="header", markup=False)
        self._warnings = Static(id="warnings", markup=False)
        self._flows = Grid("flow-table")
        self._detail = Static(id="flow-detail", markup=False)
        self._accounts = Grid("account-table")
        self._account_lines = Static(id="account-lines", markup=False)
        self._help = Static(HELP, id="help", markup=False)
        self._notices = Static(id="notices", markup=False)

    def compose(self) -> ComposeResult:
        yield self._header
        yield self._warnings
        with ContentSwitcher(initial="flows", id="switcher"):
            with Vertical(id="flows"):
                yield self._flows
                with VerticalScroll(classes="below", can_focus=False):
                    yield self._detail
            with Vertical(id="accounts"):
                yield self._accounts
                with VerticalScroll(classes="below", can_focus=False):
                    yield self._account_lines
        yield self._help
        if self._new_notices is not None:
            yield self._notices
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        self.run_worker(self._follow(), exclusive=False)
        self.set_interval(LOOK_S, self._look_whether_quiet)
        self.set_interval(NOTICE_S, self._show_notices)
        self._flows.focus()
        self.refresh_all()

    def on_resize(self) -> None:
        self.call_after_refresh(self.refresh_all)

    async def _follow(self) -> None:
        """Snapshots for ever: when the agent goes away, again and again until it is back."""
        while True:
            try:
                async for snapshot in self._source.events():
                    self._heard_s = asyncio.get_running_loop().time()
                    self.model.on_snapshot(snapshot)
                    self.refresh_all()
                self.model.on_lost("the agent ended")
            except BillpayError as error:
                self.model.on_lost(str(error))
            self.refresh_all()
            await asyncio.sleep(RETRY_S)

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_show(self, screen: str) -> None:
        self.query_one(ContentSwitcher).current = screen
        (self._flows if screen == "flows" else self._accounts).focus()

    def action_help(self) -> None:
        self._help.display = not self._help.display

    def on_data_table_row_highlighted(self) -> None:
        self._show_detail()

    # --- what is shown ----------------------------------------------------------------------------------------------

    def refresh_all(self) -> None:
        if not self._is_shown():
            return
        width = self.size.width - SIDES
        self._header.update(cut(f"{self.title}: {self.model.header()}", width))
        warnings = self.model.warnings()
        self._warnings.display = bool(warnings)
        self._warnings.update("\n".join(cut(line, 2 * width) for line in warnings))
        self._flows.show(self.model.flow_table(width))
        self._accounts.show(self.model.account_table(width))
        self._account_lines.update("\n".join(self.model.account_lines()))
        self._show_detail()

    def _show_detail(self) -> None:
        if self._is_shown():
            self._detail.update("\n".join(self.model.detail(self._flows.selected)))

    def _is_shown(self) -> bool:
        """Not before everything is composed, and not while it is taken down."""
        return self.is_running and all(part.is_attached for part in (self._header, self._detail, self._account_lines))

    def _look_whether_quiet(self) -> None:
        self.model.on_quiet(int(asyncio.get_running_loop().time() - self._heard_s))
        self.refresh_all()

    def _show_notices(self) -> None:
        if self._new_notices is not None:
            self.model.notices.extend(self._new_notices())
            lines = list(self.model.notices)[-NOTICE_LINES:]
            self._notices.update("\n".join(cut(line, self.size.width - SIDES) for line in lines))
        if self._finished is not None and self._finished():
            self.exit()


def run_tui(socket: Path) -> None:
    """Until the user quits; a missing agent is shown, not an error.  Raises EnvironmentFault without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        remedy = "`hostagent status`, `flows` and `accounts` need none"
        raise EnvironmentFault("show", "the terminal UI", "this is no terminal", remedy)
    AgentApp(LocalSource(socket)).run()
