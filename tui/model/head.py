"""The lines around a screen: how the agent is, which screens there are, what is wrong.

Decides what is said first: that there is no agent, then that the display is frozen, then whether the agent acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from billpay.money import show_nanodollars
from hostagent import api
from tui.model.state import State
from tui.model.texts import LOUD, STRONG, Piece, duration_text, line, money_text, plain, price_text

SEPARATOR: Final = " · "
MOST_COUNTED: Final = 9  # questions in the line of tabs: there is one cell for them


@dataclass(frozen=True, slots=True)
class Tab:
    name: str  # its first letter is its key
    long_name: str


TABS: Final = (
    Tab("flows", "flows"),
    Tab("kinds", "kinds and programs"),
    Tab("inbox", "inbox"),
    Tab("budgets", "budgets"),
    Tab("paths", "paths"),
    Tab("month", "month's statement"),
    Tab("nets", "networks and gateways"),
    Tab("accounts", "accounts"),
    Tab("health", "health"),
)


def header(state: State, title: str) -> Text:
    """One line: whose, whether it acts, where, what it costs. That there is no connection comes first."""
    pieces: list[Piece] = [(f" {title} ", STRONG)]
    if not state.connected:
        pieces.append((" NOT CONNECTED, trying again " if state.trouble else " connecting … ", LOUD))
    elif state.is_old:
        pieces.append((f" NOTHING HEARD for {duration_text(state.quiet_s)} ", LOUD))
    if state.frozen:
        pieces.append((f" FROZEN for {duration_text(state.behind_s)}: space goes on ", LOUD))
    if state.shown is None:
        return line(*pieces)
    if state.is_old:
        pieces.append(" last seen:")
    pieces += [" ", *_mode(state.shown.status), SEPARATOR, SEPARATOR.join(_facts(state.shown, state.active_network()))]
    return line(*pieces)


def _mode(status: api.Status) -> list[Piece]:
    if status.mode is api.Mode.OBSERVE:
        return [("OBSERVING", STRONG)]
    if status.mode is api.Mode.TRIAL:
        left = "" if status.trial_seconds_left is None else f" {status.trial_seconds_left} s left"
        return [(f" TRIAL{left}: c keeps it ", LOUD)]
    return [("ACTING", STRONG)]


def _facts(snapshot: api.Snapshot, network: api.Network | None) -> list[str]:
    status = snapshot.status
    where = network.title if network is not None else status.network
    price = dearest(snapshot, network)
    facts = [where or "no network", "no price" if price is None else f"{price_text(price)}/GB now"]
    today = money_text(status.spent_today_nanodollars)
    budget = show_nanodollars(status.budget_today_nanodollars)
    facts.append(f"today {today} of {budget}" if status.budget_today_nanodollars else f"today {today}")
    return [*facts, status.health.value if status.health is api.Health.OK else f"! {status.health.value}"]


def dearest(snapshot: api.Snapshot, network: api.Network | None) -> int | None:
    """What a megabyte costs now on the network that is used: the dearest direction's price; None: no price at all."""
    prices = [
        price.nanodollars_per_mb
        for price in snapshot.prices
        if network is None or not network.interface or price.interface == network.interface
    ]
    return max(prices, default=None)


def tab_texts(width: int, questions: int) -> list[str]:
    """As they stand in the line of tabs, with long names when there is room."""
    short = [f"{place} {tab.name}" for place, tab in enumerate(TABS, 1)]
    long = [f"{place} {tab.long_name}" for place, tab in enumerate(TABS, 1)]
    texts = long if sum(cell_len(text) + 1 for text in long) + len("!9") < width else short
    waiting = f"!{questions if questions <= MOST_COUNTED else '+'}" if questions else ""
    return [f"{text}{waiting}" if tab.name == "inbox" else text for text, tab in zip(texts, TABS, strict=True)]


def warnings(state: State) -> list[str]:
    lines = [state.trouble] if state.trouble else []
    if state.shown is not None:
        lines += [f"{warning.code}: {warning.message}" for warning in state.shown.status.warnings]
    return [f"! {plain(text)}" for text in lines]
