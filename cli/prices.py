"""Amounts of money as people write them: 0.03, 0.03 USD, 30 mUSD, $2; as nanodollars.

Decides: which ways of writing are understood. Refuses to know: what is paid, and other currencies than the one that the
secretary reckons in, since we convert nothing. Pure.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from billpay.money import NANODOLLARS_PER_DOLLAR
from cli.arguments import Understood
from cli.words import NotUnderstood

CURRENCY: Final = "USD"
AMOUNT_MAX: Final = 10**15  # nanodollars: a million

_AMOUNT: Final = re.compile(
    r"^(?P<sign>[+-])?(?P<dollar>\$)?\s*(?P<number>[0-9]{1,9}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})\s*"
    r"(?:(?P<prefix>m|µ|u|n)?(?P<currency>[A-Za-z]{3}))?$"
)
_PREFIXES: Final = {None: Decimal(1), "m": Decimal("1e-3"), "µ": Decimal("1e-6"), "u": Decimal("1e-6")} | {
    "n": Decimal("1e-9")
}


def parse_amount(text: str) -> int:
    """In nanodollars, 0 or more."""
    match = _AMOUNT.match(text.strip())
    if match is None:
        raise NotUnderstood(f"{text!r} is no amount: write 0.03, 0.03 {CURRENCY}, 30 m{CURRENCY} or $2")
    if match["sign"] == "-":
        raise NotUnderstood(f"{text!r}: an amount is 0 or more")
    currency = (match["currency"] or CURRENCY).upper()
    if currency != CURRENCY:
        raise NotUnderstood(f"{text!r}: the secretary reckons in {CURRENCY}, and converts nothing")
    nanodollars = Decimal(match["number"]) * _PREFIXES[match["prefix"]] * NANODOLLARS_PER_DOLLAR
    if nanodollars != nanodollars.to_integral_value():
        raise NotUnderstood(f"{text!r} is finer than a nanodollar (0.000000001 {CURRENCY})")
    if nanodollars > AMOUNT_MAX:
        raise NotUnderstood(f"{text!r} is more than a million")
    return int(nanodollars)


def _above_nothing(text: str) -> int:
    nanodollars = parse_amount(text)
    if nanodollars == 0:
        raise NotUnderstood(f"{text!r}: an amount that is not 0 is needed here")
    return nanodollars


AMOUNT: Final = Understood("amount", parse_amount)
PAID: Final = Understood("amount", _above_nothing)
