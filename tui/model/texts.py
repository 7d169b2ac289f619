"""Numbers, times and names as short text.

Decides units, digits and what is harmless on a terminal: names and reasons come from strangers, and a terminal obeys
control characters.  Refuses to know what a text is about.  Money is exact where it is a bill (`exact_money`), and has
three digits where it is a reading (`money_text`); only screens round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from billpay.money import show_nanodollars

UNKNOWN: Final = "?"  # nobody told us yet
NOTHING: Final = "–"  # there is none
SPARKS: Final = "▁▂▃▄▅▆▇█"
PREFIXES: Final = {"": 10**9, "m": 10**6, "u": 10**3, "µ": 10**3, "μ": 10**3, "n": 1}
MOST_WORTH_NANODOLLARS: Final = 10**15  # of a megabyte, or of a transfer
MB_PER_GB: Final = 1000
_DECIMAL_STEPS: Final = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_MONEY_STEPS: Final = ((10**12, "k"), (10**9, ""), (10**6, "m"), (10**3, "µ"))
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400

# Styles: attributes, and one of the 16 colours where it carries no meaning.
PICTURE: Final = "cyan"
STRONG: Final = "bold"
FAINT: Final = "dim"
LOUD: Final = "reverse bold"

Piece = str | tuple[str, str]  # a text, or a text and its style


def rate_text(bit_s: int, gap: str = "") -> str:
    """Three digits and a unit: 8.44M, 250k, 0; `gap` stands before the unit."""
    return _three_digits(bit_s, _DECIMAL_STEPS, gap)


def bytes_text(count: int) -> str:
    """3.20 GB, 250 kB, 17 B: decimal units, as tariffs count."""
    return f"{_three_digits(count, _DECIMAL_STEPS, ' ')}B"


def money_text(nanodollars: int | None) -> str:
    """A reading without the currency's letters, three digits and a unit: 20n, 1.50µ, 14.2."""
    if nanodollars is None:
        return UNKNOWN
    return f"{'-' if nanodollars < 0 else ''}{_three_digits(abs(nanodollars), _MONEY_STEPS, '', 'n')}"


def price_text(nanodollars_per_mb: int | None) -> str:
    """Of a gigabyte, as people and tariffs say it: 20.0, 5.00, 100m."""
    return NOTHING if nanodollars_per_mb is None else money_text(nanodollars_per_mb * MB_PER_GB)


def exact_money(nanodollars: int) -> str:
    """All nine digits: 15.753132110."""
    whole, rest = divmod(abs(nanodollars), 10**9)
    return f"{'-' if nanodollars < 0 else ''}{whole:,}.{rest:09d}"


def cents_text(nanodollars: int, currency: str) -> str:
    """14.20 USD: what people say; below a cent, what a reading says."""
    if 0 < abs(nanodollars) < 10**7:
        return show_nanodollars(nanodollars, currency)
    cents = (abs(nanodollars) + 5 * 10**6) // 10**7
    return f"{'-' if nanodollars < 0 else ''}{cents // 100:,}.{cents % 100:02d} {plain(currency)}"


def worth_from_text(text: str) -> int | None:
    """Nanodollars for a megabyte, out of what a person says of a gigabyte: 20, 1.5, 200m; None when it is no amount."""
    return amount_from_text(text, parts=MB_PER_GB)


def amount_from_text(text: str, *, parts: int = 1) -> int | None:
    """Nanodollars out of 20, 1.5, 200m, or one of so many parts of it; None when it is no amount."""
    stripped = text.strip()
    prefix = stripped[-1:] if stripped[-1:] in PREFIXES else ""
    try:
        amount = Decimal(stripped.removesuffix(prefix).strip()) * PREFIXES[prefix] / parts
    except (InvalidOperation, ValueError):
        return None
    if not amount.is_finite() or not 0 <= amount <= MOST_WORTH_NANODOLLARS or amount != int(amount):
        return None
    return int(amount)


def duration_text(seconds: int) -> str:
    """Two units at most: 45 s, 12 min, 3 h 20 min, 14 d."""
    if seconds < _MINUTE_S:
        return f"{max(seconds, 0)} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S} min"
    if seconds < _DAY_S:
        minutes = seconds % _HOUR_S // _MINUTE_S
        return f"{seconds // _HOUR_S} h" + (f" {minutes} min" if minutes else "")
    return f"{seconds // _DAY_S} d"


def clock_text(unix_s: int) -> str:
    """Of the day, in local time."""
    return time.strftime("%H:%M:%S", time.localtime(unix_s))


def date_text(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def day_text(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(unix_s))


def month_of(unix_s: int) -> str:
    """2026-11, in local time."""
    return time.strftime("%Y-%m", time.localtime(unix_s))


def percent_text(part: int, whole: int) -> str:
    return f"{part * 100 // whole} %" if whole > 0 else NOTHING


def fingerprint_text(fingerprint: str) -> str:
    """In groups of four, as a person compares them."""
    flat = plain(fingerprint)
    return " ".join(flat[at : at + 4] for at in range(0, len(flat), 4))


def plain(text: str) -> str:
    """One line without anything that a terminal obeys (escape sequences, changes of direction)."""
    return _harmless(" ".join(text.split()))


def _harmless(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def cut(text: str, width: int) -> str:
    """At most `width` cells, with an ellipsis where something is missing."""
    flat = plain(text)
    if cell_len(flat) <= width:
        return flat
    return set_cell_size(flat, width - 1) + "…" if width > 0 else ""


def cell(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` cells."""
    short = cut(text, width)
    fill = " " * (width - cell_len(short))
    return fill + short if right else short + fill


def several(count: int, what: str) -> str:
    """1 flow, 2,000 flows."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def spark(values: Sequence[int]) -> str:
    most = max(values, default=0)
    if not most:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[min(len(SPARKS) - 1, value * len(SPARKS) // (most + 1))] for value in values)


def line(*pieces: Piece) -> Text:
    """One line of harmless text. Blanks stay as they are: they are our layout."""
    made = Text()
    for piece in pieces:
        text, style = (piece, "") if isinstance(piece, str) else piece
        made.append(_harmless(text), style)
    return made


def joined(lines: Sequence[Text]) -> Text:
    return Text("\n").join(lines)


def _three_digits(value: int, steps: Sequence[tuple[int, str]], gap: str, smallest: str = "") -> str:
    for unit, suffix in steps:
        if value >= unit:
            scaled = value / unit
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{gap}{suffix}"
    return f"{value}{gap}{smallest if value else ''}"
