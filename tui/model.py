"""What the screens show, as text: out of snapshots of the local API.

Decides columns, their order and width, words, and what is said while there is no agent.  Refuses to know the toolkit,
the connection and the clock.  In a narrow terminal the least important columns are left out; in a wide one the long
texts get what is to spare.  All text is made harmless: names and reasons come from neighbours, and a terminal obeys
control characters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rich.cells import cell_len, set_cell_size

from billpay.money import show_nanodollars
from hostagent import api

RATE_HISTORY: Final = 60  # snapshots, about a quarter of a minute
MAX_NOTICES: Final = 200
MAX_LINES: Final = 4  # of losses, and of settlements, below the accounts
QUIET_S: Final = 5  # an agent that works tells something several times a second
SPARKS: Final = "▁▂▃▄▅▆▇█"
PADDING: Final = 2  # characters between columns

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """`rank`: 0 is always shown, the highest drops out first. `width`: characters, padding not included; `most` when
    there is room and the texts need it.
    """

    title: str
    width: int
    rank: int
    text: Callable[[T], str]
    most: int = 0
    is_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownColumn:
    title: str
    width: int
    is_number: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`keys[i]` says what `rows[i]` is about, and is unique."""

    columns: tuple[ShownColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]


def rate_text(bit_s: int, gap: str = "") -> str:
    """Three digits and a unit: 8.44M, 250k, 0; `gap` stands before the unit."""
    for unit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if bit_s >= unit:
            value = bit_s / unit
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{gap}{suffix}"
    return f"{bit_s}{gap}"


def money_text(nanodollars: int | None) -> str:
    """Without the currency's letters: 20n, 1.5µ."""
    if nanodollars is None:
        return "?"
    return show_nanodollars(nanodollars, currency="").strip().replace(" ", "")


def plain(text: str) -> str:
    """One line without anything that a terminal obeys (escape sequences, changes of direction)."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def cut(text: str, width: int) -> str:
    """At most `width` cells, with an ellipsis where something is missing."""
    flat = plain(text)
    if cell_len(flat) <= width:
        return flat
    return set_cell_size(flat, width - 1) + "…" if width > 0 else ""


def spark(values: Sequence[int]) -> str:
    most = max(values, default=0)
    if not most:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[min(len(SPARKS) - 1, value * len(SPARKS) // (most + 1))] for value in values)


def _goodput(flow: api.Flow) -> str:
    return "?" if flow.goodput_bit_s is None else rate_text(flow.goodput_bit_s)


def _numbers(title: str, width: int, rank: int, text: Callable[[T], str]) -> Column[T]:
    return Column(title, width, rank, text, is_number=True)


FLOW_COLUMNS: tuple[Column[api.Flow], ...] = (
    Column("flow", 44, 0, lambda flow: flow.flow, most=90),
    _numbers("bit/s", 6, 0, lambda flow: rate_text(flow.rate_bit_s)),
    _numbers("arrives", 7, 5, _goodput),
    _numbers("pays", 6, 0, lambda flow: money_text(flow.amount_nanodollars)),
    _numbers("toll", 6, 1, lambda flow: money_text(flow.toll_nanodollars)),
    _numbers("spent", 6, 2, lambda flow: money_text(flow.spent_nanodollars)),
    _numbers("back", 6, 4, lambda flow: money_text(flow.returned_nanodollars)),
    Column("rule", 10, 3, lambda flow: flow.rule or "unpaid", most=24),
    Column("path", 16, 6, lambda flow: flow.path or "?", most=60),
    Column("why", 24, 7, lambda flow: flow.reason, most=400),
)

ACCOUNT_COLUMNS: tuple[Column[api.LinkAccount], ...] = (
    Column("neighbour", 10, 0, lambda link: link.neighbour, most=40),
    Column("state", 12, 0, lambda link: link.state, most=80),
    _numbers("we sent", 9, 0, lambda link: money_text(link.sent_nanodollars)),
    _numbers("they got", 9, 1, lambda link: money_text(link.peer_received_nanodollars)),
    _numbers("they sent", 9, 3, lambda link: money_text(link.peer_sent_nanodollars)),
    _numbers("we got", 9, 0, lambda link: money_text(link.received_nanodollars)),
    _numbers("lost", 7, 4, lambda link: money_text(link.lost_nanodollars)),
    _numbers("we owe", 9, 0, lambda link: money_text(link.owed_nanodollars)),
    _numbers("settled", 9, 2, lambda link: money_text(link.settled_nanodollars)),
    _numbers("times", 5, 5, lambda link: str(link.settlements)),
    Column("interface", 12, 6, lambda link: link.interface, most=15),
)


def columns_for(columns: Sequence[Column[T]], width: int) -> list[Column[T]]:
    """Those that fit, in their order: the least important are left out first."""
    shown = list(columns)
    while sum(column.width + PADDING for column in shown) > width:
        worst = max(shown, key=lambda column: column.rank)
        if worst.rank == 0:
            break
        shown.remove(worst)
    return shown


def table_of(columns: Sequence[Column[T]], things: Sequence[T], key: Callable[[T], str], width: int) -> Table:
    """Rows of texts that fit their columns; what is to spare goes to those that need it, the more important first."""
    shown = columns_for(columns, width)
    texts = [[plain(column.text(thing)) for column in shown] for thing in things]
    widths = [column.width for column in shown]
    spare = width - sum(widths) - PADDING * len(shown)
    for place in sorted(range(len(shown)), key=lambda place: shown[place].rank):
        needed = max((cell_len(row[place]) for row in texts), default=0)
        more = max(0, min(spare, needed - widths[place], shown[place].most - widths[place]))
        widths[place] += more
        spare -= more
    return Table(
        columns=tuple(
            ShownColumn(title=column.title, width=wide, is_number=column.is_number)
            for column, wide in zip(shown, widths, strict=True)
        ),
        rows=tuple(tuple(cut(text, wide) for text, wide in zip(row, widths, strict=True)) for row in texts),
        keys=tuple(key(thing) for thing in things),
    )


def _flow_order(flow: api.Flow) -> tuple[bool, bool, int, str]:
    """Paying ones first, then by rate; the silent ones last."""
    pays = flow.amount_nanodollars > 0 or flow.strategy == "return"
    return not flow.active, not pays, -flow.rate_bit_s, flow.flow


@dataclass(slots=True)
class Model:
    """The latest snapshot, and what is to be said when there is none."""

    snapshot: api.Snapshot | None = None
    trouble: str = ""  # why there is no connection
    connected: bool = False
    quiet_s: int = 0  # since the latest snapshot
    history: dict[str, deque[int]] = field(default_factory=dict)
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))
    _sorted: tuple[api.Flow, ...] = ()

    # --- what happened ----------------------------------------------------------------------------------------------

    def on_snapshot(self, snapshot: api.Snapshot) -> None:
        self.snapshot = snapshot
        self.connected, self.trouble, self.quiet_s = True, "", 0
        self._sorted = tuple(sorted(snapshot.flows, key=_flow_order))
        for flow in snapshot.flows:
            self.history.setdefault(flow.flow, deque(maxlen=RATE_HISTORY)).append(flow.rate_bit_s)
        shown = {flow.flow for flow in snapshot.flows}
        for name in [name for name in self.history if name not in shown]:
            del self.history[name]

    def on_lost(self, why: str) -> None:
        """The agent went away: the last snapshot stays on the screen, marked as old."""
        self.connected, self.trouble = False, why

    def on_quiet(self, seconds: int) -> None:
        """Nothing has been heard for so long, though nobody hung up."""
        self.quiet_s = seconds

    # --- what is shown ----------------------------------------------------------------------------------------------

    @property
    def flows(self) -> tuple[api.Flow, ...]:
        return self._sorted

    def flow_table(self, width: int) -> Table:
        return table_of(FLOW_COLUMNS, self.flows, lambda flow: flow.flow, width)

    def account_table(self, width: int) -> Table:
        links = self.snapshot.accounts.links if self.snapshot is not None else ()
        return table_of(ACCOUNT_COLUMNS, links, lambda link: f"{link.neighbour} {link.interface}", width)

    def header(self) -> str:
        """One line: who, how well, what today cost.  That there is no connection comes first."""
        if self.snapshot is None:
            return "NOT CONNECTED, retrying" if self.trouble else "connecting …"
        status = self.snapshot.status
        spent = show_nanodollars(status.spent_today_nanodollars)
        budget = show_nanodollars(status.budget_today_nanodollars)
        line = f"{status.name} is {status.health.value}; spent today {spent} of {budget}; secretary {status.secretary}"
        if not self.connected:
            return f"NOT CONNECTED, retrying; last seen: {line}"
        return f"NOTHING HEARD for {self.quiet_s} s; last seen: {line}" if self.quiet_s > QUIET_S else line

    def warnings(self) -> list[str]:
        lines = [self.trouble] if self.trouble else []
        if self.snapshot is not None:
            lines += [f"{warning.code}: {warning.message}" for warning in self.snapshot.status.warnings]
        return [f"! {plain(line)}" for line in lines]

    def detail(self, key: str | None) -> list[str]:
        """All about one flow, in whole sentences."""
        if self.snapshot is None:
            return ["nothing is known yet"]
        flow = next((flow for flow in self.flows if flow.flow == key), None)
        if flow is None:
            return ["no flow yet: whatever a program here sends by an uplink shows up"]
        rate = rate_text(flow.rate_bit_s, gap=" ")
        lines = [
            f"{flow.flow}{'' if flow.active else '   (silent)'}",
            _payment_text(flow),
            f"path {flow.path or 'not known yet'}",
            (
                f"{flow.packets:,} packets, {flow.bytes:,} bytes; spent {show_nanodollars(flow.spent_nanodollars)}, "
                f"{show_nanodollars(flow.returned_nanodollars)} came back; {flow.marks:,} congestion marks"
            ),
            f"rate {spark(tuple(self.history[flow.flow]))} {rate}bit/s",
            f"why: {flow.reason}",
        ]
        return [plain(line) for line in lines]

    def account_lines(self) -> list[str]:
        """What stands below the table of accounts: the host's sums, then the latest losses and settlements."""
        if self.snapshot is None:
            return ["nothing is known yet"]
        accounts = self.snapshot.accounts
        sums = (
            ("kept as our share", accounts.share_nanodollars, True),
            ("came back to us", accounts.refunded_nanodollars, True),
            ("returned to others", accounts.returned_nanodollars, True),
            ("in hand for others", accounts.in_hand_nanodollars, False),
            ("could not be returned", accounts.kept_nanodollars, False),
        )
        lines = ["; ".join(f"{what} {show_nanodollars(sum_)}" for what, sum_, always in sums if sum_ or always)]
        lines += _latest([_loss_text(loss) for loss in accounts.losses], "losses")
        lines += _latest([_settlement_text(settlement) for settlement in accounts.settlements], "settlements")
        return [plain(line) for line in lines]


def _payment_text(flow: api.Flow) -> str:
    if not flow.amount_nanodollars:
        return "pays nothing now"
    pays = f"pays {show_nanodollars(flow.amount_nanodollars)} a packet"
    if flow.toll_nanodollars is None:
        return f"{pays}; what the path keeps of it is not known yet"
    return f"{pays}, of which the path keeps {show_nanodollars(flow.toll_nanodollars)}"


def _loss_text(loss: api.LossLine) -> str:
    direction = "to" if loss.direction == "out" else "from"
    return f"{loss.kind}: {show_nanodollars(loss.nanodollars)} {direction} {loss.link} in interval {loss.interval}"


def _settlement_text(settlement: api.SettlementLine) -> str:
    who = f"we paid {settlement.link}" if settlement.debtor == "us" else f"{settlement.link} paid us"
    return f"settled: {who} {show_nanodollars(settlement.nanodollars)} ({settlement.reason})"


def _latest(lines: list[str], what: str) -> list[str]:
    """The latest first; how many more there are."""
    shown = lines[::-1][:MAX_LINES]
    more = len(lines) - len(shown)
    return [*shown, f"{more} earlier {what} are not shown"] if more else shown
