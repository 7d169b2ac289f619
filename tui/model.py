"""What the screens show, as text: out of snapshots of the local API. Decides columns, order and words; no toolkit.

Columns drop out from the right of importance when the terminal is narrow, so that nothing is cut in the middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from billpay.money import show_nanodollars
from hostagent import api

RATE_HISTORY = 60
MAX_NOTICES = 200
SPARKS = "▁▂▃▄▅▆▇█"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """`rank`: 0 is always shown; the highest drops out first. `width`: characters, separator not included."""

    title: str
    width: int
    rank: int
    text: Callable[[T], str]


def rate_text(bit_s: int) -> str:
    """Three digits and a unit: 8.44M, 250k, 0."""
    for unit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if bit_s >= unit:
            value = bit_s / unit
            return (
                f"{value:.2f}{suffix}"
                if value < 10
                else f"{value:.1f}{suffix}"
                if value < 100
                else f"{value:.0f}{suffix}"
            )
    return str(bit_s)


def money_text(nanodollars: int | None) -> str:
    """Without the currency's letters, which the title has: 20n, 1.5µ."""
    if nanodollars is None:
        return "?"
    return show_nanodollars(nanodollars, currency="").strip().replace(" ", "")


FLOW_COLUMNS: tuple[Column[api.Flow], ...] = (
    Column("flow", 44, 0, lambda flow: flow.flow),
    Column("bit/s", 6, 0, lambda flow: rate_text(flow.rate_bit_s)),
    Column("arrives", 7, 5, lambda flow: "?" if flow.goodput_bit_s is None else rate_text(flow.goodput_bit_s)),
    Column("pays", 6, 0, lambda flow: money_text(flow.amount_nanodollars)),
    Column("toll", 6, 1, lambda flow: money_text(flow.toll_nanodollars)),
    Column("spent", 6, 2, lambda flow: money_text(flow.spent_nanodollars)),
    Column("back", 6, 4, lambda flow: money_text(flow.returned_nanodollars)),
    Column("rule", 10, 3, lambda flow: flow.rule or "unpaid"),
    Column("path", 22, 6, lambda flow: flow.path or "?"),
    Column("why", 60, 7, lambda flow: flow.reason),
)

ACCOUNT_COLUMNS: tuple[Column[api.LinkAccount], ...] = (
    Column("neighbour", 10, 0, lambda link: link.neighbour),
    Column("state", 12, 0, lambda link: link.state),
    Column("we sent", 9, 0, lambda link: money_text(link.sent_nanodollars)),
    Column("they got", 9, 1, lambda link: money_text(link.peer_received_nanodollars)),
    Column("they sent", 9, 3, lambda link: money_text(link.peer_sent_nanodollars)),
    Column("we got", 9, 0, lambda link: money_text(link.received_nanodollars)),
    Column("lost", 7, 4, lambda link: money_text(link.lost_nanodollars)),
    Column("we owe", 9, 0, lambda link: money_text(link.owed_nanodollars)),
    Column("settled", 9, 2, lambda link: money_text(link.settled_nanodollars)),
    Column("orders", 6, 5, lambda link: str(link.settlements)),
    Column("interface", 12, 6, lambda link: link.interface),
)


def columns_for(columns: Sequence[Column[T]], width: int) -> list[Column[T]]:
    """Those that fit, in their order: the least important are left out first."""
    shown = list(columns)
    while sum(column.width + 2 for column in shown) > width:
        worst = max(shown, key=lambda column: column.rank)
        if worst.rank == 0:
            break
        shown.remove(worst)
    return shown


def cut(text: str, width: int) -> str:
    """At most `width` characters, with an ellipsis where something is missing."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: max(0, width - 1)] + "…"


def spark(values: Sequence[int]) -> str:
    most = max(values, default=0)
    if not most:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[min(len(SPARKS) - 1, value * len(SPARKS) // (most + 1))] for value in values)


@dataclass(slots=True)
class Model:
    """The latest snapshot, and what is to be said when there is none."""

    snapshot: api.Snapshot | None = None
    trouble: str = "connecting …"
    history: dict[str, deque[int]] = field(default_factory=dict)
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))

    def on_snapshot(self, snapshot: api.Snapshot) -> None:
        self.snapshot = snapshot
        self.trouble = ""
        for flow in snapshot.flows:
            self.history.setdefault(flow.flow, deque(maxlen=RATE_HISTORY)).append(flow.rate_bit_s)
        shown = {flow.flow for flow in snapshot.flows}
        for name in [name for name in self.history if name not in shown]:
            del self.history[name]

    def on_lost(self, why: str) -> None:
        """The agent went away: the last snapshot stays on the screen, marked as old."""
        self.trouble = why

    def flows(self) -> tuple[api.Flow, ...]:
        """Paying ones first, then by rate; the silent ones last."""
        if self.snapshot is None:
            return ()
        key: Callable[[api.Flow], tuple[bool, bool, int, str]] = lambda flow: (  # noqa: E731 - a sort key
            not flow.active,
            not (flow.amount_nanodollars or flow.strategy == "return"),
            -flow.rate_bit_s,
            flow.flow,
        )
        return tuple(sorted(self.snapshot.flows, key=key))

    def header(self) -> str:
        """One line: who, how well, what today cost."""
        if self.snapshot is None:
            return f"not connected: {self.trouble}"
        status = self.snapshot.status
        spent = show_nanodollars(status.spent_today_nanodollars)
        budget = show_nanodollars(status.budget_today_nanodollars)
        line = f"{status.name} is {status.health.value}; spent today {spent} of {budget}; secretary {status.secretary}"
        return f"{line}  [not connected, retrying: {self.trouble}]" if self.trouble else line

    def warnings(self) -> list[str]:
        if self.snapshot is None:
            return []
        return [f"{warning.code}: {warning.message}" for warning in self.snapshot.status.warnings]

    def detail(self, flow: api.Flow | None) -> list[str]:
        """All about one flow, in whole sentences."""
        if flow is None:
            return ["no flow yet: whatever a program here sends by an uplink shows up"]
        toll = "not known yet" if flow.toll_nanodollars is None else show_nanodollars(flow.toll_nanodollars)
        return [
            f"{flow.flow}   {spark(tuple(self.history.get(flow.flow, ())))}",
            f"pays {show_nanodollars(flow.amount_nanodollars)} a packet, of which the path keeps {toll}",
            f"path {flow.path or 'not known yet'}",
            (
                f"{flow.packets:,} packets, {flow.bytes:,} bytes; spent {show_nanodollars(flow.spent_nanodollars)}, "
                f"{show_nanodollars(flow.returned_nanodollars)} came back; {flow.marks:,} congestion marks"
            ),
            f"why: {flow.reason}",
        ]

    def account_lines(self) -> list[str]:
        """What stands below the table of accounts."""
        if self.snapshot is None:
            return []
        accounts = self.snapshot.accounts
        lines = [
            (
                f"kept as our share {show_nanodollars(accounts.share_nanodollars)}; "
                f"came back to us {show_nanodollars(accounts.refunded_nanodollars)}; "
                f"returned to others {show_nanodollars(accounts.returned_nanodollars)}; "
                f"in hand {show_nanodollars(accounts.in_hand_nanodollars)}"
            )
        ]
        for settlement in accounts.settlements[-5:]:
            who = f"we paid {settlement.link}" if settlement.debtor == "us" else f"{settlement.link} paid us"
            lines.append(f"settled: {who} {show_nanodollars(settlement.nanodollars)} ({settlement.reason})")
        for loss in accounts.losses[-5:]:
            direction = "to" if loss.direction == "out" else "from"
            amount = show_nanodollars(loss.nanodollars)
            lines.append(f"{loss.kind}: {amount} {direction} {loss.link} in interval {loss.interval}")
        return lines
