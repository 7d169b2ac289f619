"""Screen 7: networks and gateways. A person can take a gateway's new fingerprint for the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from hostagent import api
from tui.model import networks
from tui.model.state import State
from tui.model.texts import FAINT, fingerprint_text, line
from tui.screens.page import Picture, TablePage, plots, price_picture, rate_pictures
from tui.source import Source
from tui.widgets.dialogs import Confirm
from tui.widgets.grid import Grid


class NetworksPage(TablePage):
    NAME = "nets"
    WHAT = "network"
    OPEN = True  # there are few networks, and much to say of each
    BINDINGS: ClassVar[list[BindingType]] = [Binding("g", "trust", "Trust gateway")]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._grid: Grid[api.Network] = Grid("network-table", networks.EMPTY)

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._grid,)

    def total(self) -> int:
        return len(self.state.shown.networks) if self.state.shown is not None else 0

    def fill(self) -> None:
        shown = self.state.shown.networks if self.state.shown is not None else ()
        self._grid.show(networks.listing(shown, self.sorting(self._grid), self.wanted))

    def pane_lines(self, width: int) -> Sequence[Text]:
        network, shown = self._grid.selected, self.state.shown
        if network is None or shown is None:
            return [line(("no network is chosen", FAINT))]
        lines = networks.detail(network, shown.prices)
        return [*lines, *plots(self._pictures(network, shown), width)] if network.active else lines

    def _pictures(self, network: api.Network, shown: api.Snapshot) -> list[Picture]:
        pictures: list[Picture] = []
        if any(link.interface == network.interface for link in shown.links):
            pictures += rate_pictures(self.state.history, ("link", network.interface))
        for price in shown.prices:
            if price.interface == network.interface and price.direction == "out":
                key = ("price", f"{price.interface} {price.direction}")
                pictures.append(price_picture(self.state.history, key))
        return pictures

    def action_trust(self) -> None:
        network = self._grid.selected
        gateway = networks.can_be_trusted(network)
        if gateway is None:
            self.app.notify("no new fingerprint waits for your word here")
            return
        lines = [
            line(gateway.name or gateway.url or "a gateway", f", {gateway.how}" if gateway.how else ""),
            line(fingerprint_text(gateway.fingerprint)),
            Text(),
            line("Its owner can tell you whether this is the right fingerprint."),
            line("From then on this gateway prices the network and is paid."),
        ]

        def done(yes: bool | None) -> None:
            if yes:
                self.do(lambda: self.source.trust(gateway.fingerprint), f"{gateway.name or 'the gateway'} is trusted")

        self.app.push_screen(Confirm("Trust this gateway?", lines), done)
