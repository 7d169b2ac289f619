"""Budgets and the purse: how much is used, how fast it goes, where that leads, and what it is as a flat rate.

Decides what is said loudly: that money is out, and what follows from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.personal import Purse
from tui.model.texts import (
    FAINT,
    NOTHING,
    PICTURE,
    STRONG,
    Piece,
    bytes_text,
    cents_text,
    cut,
    duration_text,
    line,
    percent_text,
    several,
)

EMPTY: Final = "no budget: set one with `[budget]` or a network's data plan in the configuration"
USED, FORECAST, REST = "█", "▒", "░"
MOST_BAR: Final = 60
TOLD_AT: Final = (50, 80, 100)  # percent; each once in a period
TOLD, NOT_TOLD = "■", "□"
EMPTY_PURSE: Final = "! PURSE EMPTY: unless it has credit, all goes unpaid, and slower · + pays in"
NO_MONEY: Final = "! OUT OF MONEY: it goes unpaid, and slower"


def amount_text(budget: api.Budget, amount: int) -> str:
    return bytes_text(amount) if budget.unit == "bytes" else cents_text(amount, budget.currency)


def bar(budget: api.Budget, width: int) -> str:
    """What is used, then what will be at the reset at this pace, then what is left."""
    if budget.limit <= 0:
        return REST * width
    used = min(width, budget.used * width // budget.limit)
    if budget.used > 0 and used == 0:
        used = 1
    later = min(width, max(used, -(-budget.forecast * width // budget.limit)))
    return USED * used + FORECAST * (later - used) + REST * (width - later)


def purse_lines(purse: Purse, currency: str = "USD") -> list[Text]:
    """What is there, and what the secretary stopped or warns of."""
    balance, reserved = purse.balance_nanodollars, purse.reserved_nanodollars
    grants = several(purse.open_grants, "open grant")
    made = [
        line(
            ("purse  ", STRONG),
            "a keeper's to see" if balance is None else cents_text(balance, currency),
            f", {cents_text(reserved, currency)} of it in {grants}" if reserved else f", {grants}",
            f" · learned from {several(purse.answers, 'answer')}" if purse.answers else "",
        )
    ]
    if balance is not None and balance <= (reserved or 0):
        made.append(line((EMPTY_PURSE, STRONG)))
    if purse.organisation:
        made.append(line(("organisation  ", FAINT), purse.organisation))
    made += [line((f"! stopped: {stream}", STRONG)) for stream in purse.frozen]
    return made + [line(f"! {warning}") for warning in purse.warnings]


def is_out(budget: api.Budget) -> bool:
    """A limit that holds, and nothing left."""
    return budget.hard and budget.used >= budget.limit > 0


def lines(budgets: Sequence[api.Budget], now_unix_s: int, width: int) -> list[Text]:
    if not budgets:
        return [line((EMPTY, FAINT))]
    made: list[Text] = []
    for budget in budgets:
        made += [*_card(budget, now_unix_s, width), Text()]
    return made[:-1]


def _card(budget: api.Budget, now_unix_s: int, width: int) -> list[Text]:
    limit = f"{amount_text(budget, budget.limit)} a {budget.period}{', a hard limit' if budget.hard else ''}"
    used = f"{amount_text(budget, budget.used)} used, {percent_text(budget.used, budget.limit)}"
    drawn = bar(budget, max(10, min(MOST_BAR, width - len(used) - 2)))
    card = [
        line((cut(budget.name, max(10, width - len(limit) - 2)), STRONG), f"  {limit}"),
        line((drawn, PICTURE), f"  {used}"),
        line(*_pace(budget, now_unix_s)),
    ]
    if is_out(budget) and budget.unit != "bytes":
        left = duration_text(max(0, budget.resets_unix_s - now_unix_s))
        card.insert(2, line((f"{NO_MONEY}, for {left} yet", STRONG)))
    told = _told(budget)
    flat = budget.flat_nanodollars_per_month
    at_this_pace = "" if flat is None else f"at this pace {cents_text(flat, budget.currency)} a month"
    card.append(line(" · ".join(part for part in (told, at_this_pace) if part)))
    return [*card, line(budget.reason)] if budget.reason else card


def _told(budget: api.Budget) -> str:
    """Which notices a person has had in this period."""
    marks = (f"{TOLD if budget.noticed_percent >= percent else NOT_TOLD} {percent} %" for percent in TOLD_AT)
    return f"told at {'  '.join(marks)}"


def _pace(budget: api.Budget, now_unix_s: int) -> list[Piece]:
    left = duration_text(max(0, budget.resets_unix_s - now_unix_s))
    if not budget.burn_per_day:
        return [f"nothing goes at present · resets in {left}"]
    forecast = amount_text(budget, budget.forecast) if budget.forecast else NOTHING
    pace: list[Piece] = [f"{amount_text(budget, budget.burn_per_day)} a day, {forecast} at the reset in {left}"]
    if budget.used > budget.limit > 0:
        pace.append((f"  ! {amount_text(budget, budget.used - budget.limit)} over", STRONG))
    elif budget.forecast > budget.limit > 0:
        pace.append((f"  ! will go {amount_text(budget, budget.forecast - budget.limit)} over", STRONG))
    return pace
