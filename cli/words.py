"""What people write on the command line, as values: worths, spans of time, moments, months.

Decides: which ways of writing are understood; everything else raises `NotUnderstood` with what would be. Refuses to
know: the clock (`now` is an argument) and click. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

NANO_PER_MB_OF: Final = {"GB": 10**6, "MB": 10**9, "TB": 10**3}
"""Nanodollars for a megabyte, of one currency unit for so much."""

WORTH_MAX: Final = 10**15
SPAN_MAX_S: Final = 366 * 86_400

_WORTH: Final = re.compile(
    r"^(?P<sign>[+-])?(?P<dollar>\$)?\s*(?P<number>[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})\s*"
    r"(?P<prefix>m|µ|u|n)?(?P<currency>[A-Za-z]{3}|\$|€)?\s*(?:(?:/|per|a)\s*(?P<size>[GMTgmt][Bb]))?$",
)
_PREFIXES: Final = {
    None: Decimal(1),
    "m": Decimal("1e-3"),
    "µ": Decimal("1e-6"),
    "u": Decimal("1e-6"),
    "n": Decimal("1e-9"),
}
_SIGNS: Final = {"$": "USD", "€": "EUR"}
_SPAN: Final = re.compile(r"^([0-9]{1,9})\s*(s|min|m|h|d|w)?$")
_SECONDS: Final = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_KIND: Final = re.compile(r"^[A-Za-z0-9._:/-]{1,64}$")
_MONTH: Final = re.compile(r"^([0-9]{4})-([0-9]{2})$")


class NotUnderstood(ValueError):  # noqa: N818 - what a person wrote, not a fault
    """One line: what is wrong, and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorthWord:
    """`currency` "" where none was written. All three None or "": what was said before is forgotten."""

    kind: str | None = None
    nanodollars_per_mb: int | None = None
    currency: str = ""


def parse_worth(text: str) -> WorthWord:
    """`2 USD/GB`, `0.5`, `$3 per GB`, `500 mUSD/GB`, a kind's name, or `reset`."""
    text = text.strip()
    if text.lower() == "reset":
        return WorthWord()
    if text[:1].isdigit() or text[:1] in "+-.$":
        return _value(text)
    if not _KIND.match(text):
        raise NotUnderstood(f"{text!r} is no worth: write money for a gigabyte (2 USD/GB), a kind, or reset")
    return WorthWord(kind=text)


def _value(text: str) -> WorthWord:
    match = _WORTH.match(text)
    if match is None:
        raise NotUnderstood(f"{text!r} is no amount: write money for a gigabyte, like 2 USD/GB or 0.5")
    if match["sign"] == "-":
        raise NotUnderstood(f"{text!r}: a worth is 0 or more")
    if match["dollar"] and match["currency"]:
        raise NotUnderstood(f"{text!r} names two currencies")
    if match["prefix"] and not match["currency"]:
        raise NotUnderstood(f"{text!r}: write the currency too, like {text.strip()}USD/GB")
    amount = Decimal(match["number"]) * _PREFIXES[match["prefix"]]
    nanodollars = amount * NANO_PER_MB_OF[(match["size"] or "GB").upper()]
    if nanodollars != nanodollars.to_integral_value():
        raise NotUnderstood(f"{text!r} is finer than a nanodollar for a megabyte (0.000001 USD/GB)")
    if nanodollars > WORTH_MAX:
        raise NotUnderstood(f"{text!r} is more than a million for a megabyte")
    currency = (match["currency"] or match["dollar"] or "").upper()
    return WorthWord(nanodollars_per_mb=int(nanodollars), currency=_SIGNS.get(currency, currency))


def parse_span_s(text: str) -> int:
    """`30s`, `30`, `10m`, `1h`, `2d`, `1w`, in seconds; at most a year."""
    match = _SPAN.match(text.strip())
    seconds = int(match[1]) * _SECONDS[match[2]] if match else -1
    if not 0 <= seconds <= SPAN_MAX_S:
        raise NotUnderstood(f"{text!r} is no span of time: write 30s, 10m, 1h or 2d (a year at most)")
    return seconds


def parse_moment(text: str, now: datetime) -> datetime:
    """`now`, `today`, `yesterday`, `2h` (ago), `2026-11-03`, `2026-11-03T14:00`; in the zone of `now`."""
    text = text.strip()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text in named:
        return named[text]
    if _SPAN.match(text) and not text.isdigit():
        return now - timedelta(seconds=parse_span_s(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        ways = "2026-11-03, 2026-11-03T14:00, today, yesterday, or 7d (ago)"
        raise NotUnderstood(f"{text!r} is no moment: write {ways}") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=now.tzinfo)


def parse_month(text: str, now: datetime) -> str:
    """`2026-11`, or `this` and `last`."""
    text = text.strip()
    if text == "this":
        return now.strftime("%Y-%m")
    if text == "last":
        return (now.replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
    match = _MONTH.match(text)
    if match is None or not 1 <= int(match[2]) <= 12:
        raise NotUnderstood(f"{text!r} is no month: write 2026-11, this or last")
    return text


def parse_names(text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """`program,network`: any of the allowed, each once."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in names if name not in allowed]
    if wrong or len(set(names)) != len(names):
        raise NotUnderstood(f"{text!r}: write any of {', '.join(allowed)}, each once, with commas between")
    return names
