"""Budgets: how much is used, how fast it goes, where that leads, and what it is as a flat rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from hostagent import api
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
)

EMPTY: Final = "no budget: set one with `[budget]` or a network's data plan in the configuration"
USED, FORECAST, REST = "█", "▒", "░"
MOST_BAR: Final = 60


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
    told = f"told at {budget.noticed_percent} %" if budget.noticed_percent else ""
    flat = budget.flat_nanodollars_per_month
    at_this_pace = "" if flat is None else f"at this pace {cents_text(flat, budget.currency)} a month"
    rest = " · ".join(part for part in (at_this_pace, told, budget.reason) if part)
    return [*card, line(rest)] if rest else card


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
