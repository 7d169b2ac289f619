"""What is known now: the latest snapshot, the one on the screen, and what is to be said when there is none.

Decides that a frozen display keeps its snapshot while newer ones and their history are taken in behind it.  Refuses to
know the connection and the clock: it is told what happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from hostagent import api
from tui.model.history import MISSING, History, Key
from tui.model.kinds import program_key

QUIET_S: Final = 5  # an agent that works tells something several times a second
MAX_NOTICES: Final = 200


@dataclass(slots=True)
class State:
    """`shown` is what screens show. Without a connection it is old, and screens go on to show it."""

    latest: api.Snapshot | None = None
    shown: api.Snapshot | None = None
    frozen: bool = False
    trouble: str = ""  # why there is no connection
    connected: bool = False
    quiet_s: int = 0  # since the latest snapshot
    history: History = field(default_factory=History)
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))
    version: int = 0  # of `shown`

    # --- what happened ----------------------------------------------------------------------------------------------

    def on_snapshot(self, snapshot: api.Snapshot) -> None:
        self.latest = snapshot
        self.connected, self.trouble, self.quiet_s = True, "", 0
        self.history.note(snapshot.unix_s, _readings(snapshot))
        if not self.frozen or self.shown is None:
            self._show(snapshot)

    def on_lost(self, why: str) -> None:
        """The agent went away: the last snapshot stays on the screen, marked as old."""
        self.connected, self.trouble = False, why

    def on_quiet(self, seconds: int) -> None:
        """Nothing has been heard for so long, though nobody hung up."""
        self.quiet_s = seconds

    def freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        if not frozen and self.latest is not None:
            self._show(self.latest)

    def _show(self, snapshot: api.Snapshot) -> None:
        self.shown = snapshot
        self.version += 1

    # --- what screens ask -------------------------------------------------------------------------------------------

    @property
    def is_old(self) -> bool:
        return not self.connected or self.quiet_s > QUIET_S

    @property
    def behind_s(self) -> int:
        """How old the frozen display is."""
        if self.latest is None or self.shown is None:
            return 0
        return max(0, self.latest.unix_s - self.shown.unix_s)

    def active_network(self) -> api.Network | None:
        networks = self.shown.networks if self.shown is not None else ()
        return next((network for network in networks if network.active), None)


def _readings(snapshot: api.Snapshot) -> Iterator[tuple[Key, tuple[int, ...]]]:
    """What is remembered: rates out and in, and the price where there is one."""
    for flow in snapshot.flows:
        yield ("flow", flow.flow), (flow.rate_bit_s, flow.received_bit_s, flow.price_nanodollars_per_mb or 0)
    for session in snapshot.sessions:
        asked = session.price_nanodollars_per_mb
        yield ("session", session.session), (session.rate_bit_s, MISSING if asked is None else asked)
    for program in snapshot.programs:
        yield ("program", program_key(program)), (program.sent_bit_s, program.received_bit_s)
    for kind in snapshot.kinds:
        yield ("kind", kind.name), (kind.sent_bit_s, kind.received_bit_s)
    for link in snapshot.links:
        yield ("link", link.interface), (link.sent_bit_s, link.received_bit_s)
    for price in snapshot.prices:
        yield ("price", f"{price.interface} {price.direction}"), (price.nanodollars_per_mb,)
