"""The terminal UI: two screens over the local API, flows and accounts.

Decides nothing: `tui.model` says what is shown, this puts it on a terminal and keeps the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ClassVar, Protocol

from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import ContentSwitcher, DataTable, Footer, Static

from hostagent import api
from hostagent.client import LocalClient, Unreachable
from tui.model import ACCOUNT_COLUMNS, FLOW_COLUMNS, Model, columns_for, cut

RETRY_S = 1.0
NOTICE_S = 0.2
NOTICE_LINES = 4

HELP = [
    "f or 1: flows, what each pays, for which path, and why",
    "a or 2: accounts, what we and our neighbours owe each other",
    "arrow keys: choose a flow; its whole story is below the table",
    "amounts are in dollars: n = 10^-9, µ = 10^-6, m = 10^-3; those of flows are for one packet (pays, toll) or in all",
    "?: this help     q: quit",
]


class SnapshotSource(Protocol):
    """Where snapshots come from; `events` may end or raise Unreachable, and is asked again then."""

    def events(self) -> AsyncIterator[api.Snapshot]: ...


class LocalSource:
    """The agent's local socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def events(self) -> AsyncIterator[api.Snapshot]:
        async with LocalClient(self._socket) as client:
            async for snapshot in client.events():
                yield snapshot


class AgentApp(App[None]):
    """`notices()` gives new lines for a log at the bottom (the lab's progress); `finished()` says when to leave."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #header { height: 1; background: $primary-background; text-style: bold; }
    #warnings { height: auto; max-height: 3; color: $warning; }
    #switcher { height: 1fr; }
    DataTable { height: 1fr; }
    .below { height: auto; max-height: 9; border-top: solid $primary; padding: 0 1; }
    #notices { height: auto; max-height: 5; border-top: dashed $primary; padding: 0 1; }
    #help { display: none; height: auto; padding: 0 1; border-top: solid $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("f", "show('flows')", "Flows"),
        ("a", "show('accounts')", "Accounts"),
        ("1", "show('flows')", ""),
        ("2", "show('accounts')", ""),
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
        self._notices = notices
        self._finished = finished
        self._order: list[str] = []
        self._chose = False  # until a person moves the cursor it stays on the first row

    def compose(self) -> ComposeResult:
        yield Static(id="header", markup=False)
        yield Static(id="warnings", markup=False)
        with ContentSwitcher(initial="flows", id="switcher"):
            with Vertical(id="flows"):
                yield DataTable[str](id="flow-table", cursor_type="row", zebra_stripes=True)
                yield Static(id="flow-detail", classes="below", markup=False)
            with Vertical(id="accounts"):
                yield DataTable[str](id="account-table", cursor_type="row", zebra_stripes=True)
                yield Static(id="account-lines", classes="below", markup=False)
        yield Static("\n".join(HELP), id="help", markup=False)
        if self._notices is not None:
            yield Static(id="notices", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.run_worker(self._follow(), exclusive=False)
        if self._notices is not None:
            self.set_interval(NOTICE_S, self._show_notices)
        self.refresh_all()

    def on_resize(self) -> None:
        self.call_after_refresh(self.refresh_all)

    async def _follow(self) -> None:
        """Snapshots for ever: when the agent goes away, again and again until it is back."""
        while True:
            try:
                async for snapshot in self._source.events():
                    self.model.on_snapshot(snapshot)
                    self.refresh_all()
                self.model.on_lost("the agent ended")
            except Unreachable as error:
                self.model.on_lost(str(error))
            self.refresh_all()
            await asyncio.sleep(RETRY_S)

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_show(self, screen: str) -> None:
        self.query_one(ContentSwitcher).current = screen
        table = "#flow-table" if screen == "flows" else "#account-table"
        self.query_one(table, DataTable).focus()
        self.refresh_all()

    def action_help(self) -> None:
        box = self.query_one("#help")
        box.styles.display = "none" if box.styles.display == "block" else "block"

    def on_key(self, event: events.Key) -> None:
        if event.key in ("up", "down", "pageup", "pagedown", "home", "end"):
            self._chose = True

    def on_data_table_row_highlighted(self) -> None:
        self._show_detail()

    # --- what is shown ----------------------------------------------------------------------------------------------

    def refresh_all(self) -> None:
        if not self.query("#header"):  # not composed yet
            return
        width = self.size.width
        self.query_one("#header", Static).update(cut(f"{self.title}  {self.model.header()}", width))
        self.query_one("#warnings", Static).update("\n".join(cut(line, width) for line in self.model.warnings()))
        self._fill_flows(width)
        self._fill_accounts(width)
        self.query_one("#account-lines", Static).update(
            "\n".join(cut(line, width - 2) for line in self.model.account_lines())
        )
        self._show_detail()

    def _fill_flows(self, width: int) -> None:
        table = self.query_one("#flow-table", DataTable)
        flows = self.model.flows()
        shown = columns_for(FLOW_COLUMNS, width - 2)
        chosen = self._chose and 0 <= table.cursor_row < len(self._order)
        selected = self._order[table.cursor_row] if chosen else None
        table.clear(columns=True)
        for column in shown:
            table.add_column(column.title, width=column.width)
        for flow in flows:
            table.add_row(*(cut(column.text(flow), column.width) for column in shown))
        self._order = [flow.flow for flow in flows]
        if selected in self._order:
            table.move_cursor(row=self._order.index(selected), animate=False)

    def _fill_accounts(self, width: int) -> None:
        table = self.query_one("#account-table", DataTable)
        shown = columns_for(ACCOUNT_COLUMNS, width - 2)
        row = table.cursor_row
        table.clear(columns=True)
        for column in shown:
            table.add_column(column.title, width=column.width)
        if self.model.snapshot is not None:
            for link in self.model.snapshot.accounts.links:
                table.add_row(*(cut(column.text(link), column.width) for column in shown))
        if table.row_count:
            table.move_cursor(row=min(row, table.row_count - 1), animate=False)

    def _show_detail(self) -> None:
        table = self.query_one("#flow-table", DataTable)
        flows = self.model.flows()
        flow = flows[table.cursor_row] if 0 <= table.cursor_row < len(flows) else None
        self.query_one("#flow-detail", Static).update("\n".join(self.model.detail(flow)))

    def _show_notices(self) -> None:
        assert self._notices is not None
        self.model.notices.extend(self._notices())
        lines = list(self.model.notices)[-NOTICE_LINES:]
        self.query_one("#notices", Static).update("\n".join(cut(line, self.size.width - 2) for line in lines))
        if self._finished is not None and self._finished():
            self.exit()


def run_tui(socket: Path) -> None:
    """Until the user quits; a missing agent is shown, not an error."""
    AgentApp(LocalSource(socket)).run()
