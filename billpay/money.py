"""Money: what its units are and how an amount is shown. It knows no accounts, tolls or prices.

All amounts are integers. A nanodollar is 10^-9 dollar (the unit of the header and of the books), a picodollar
10^-12 dollar (the unit of toll arithmetic only). Only :func:`show_nanodollars` rounds, and only for a screen.
"""

from __future__ import annotations

from typing import NewType

Nanodollars = NewType("Nanodollars", int)
Picodollars = NewType("Picodollars", int)

PICODOLLARS_PER_NANODOLLAR = 1000
NANODOLLARS_PER_DOLLAR = 10**9

# One row for each step of a thousand; below a thousandth of the unit the next smaller one reads better.
_SCALES = ((10**9, ""), (10**6, "m"), (10**3, "µ"), (1, "n"))
_SIGNIFICANT_DIGITS = 3


def show_nanodollars(amount_nanodollars: int, currency: str = "USD") -> str:
    """An amount for a screen, with at most three significant digits: ``14 nUSD``, ``1.23 mUSD``, ``-100 USD``.

    Rounds half away from zero. Amounts of a thousand units and more keep their integer digits' places as zeros
    (``123000 USD``), so that nothing needs an exponent.
    """
    sign = "-" if amount_nanodollars < 0 else ""
    rounded = _round_significant(abs(amount_nanodollars))
    if rounded == 0:
        return f"0 {currency}"
    unit, prefix = next(scale for scale in _SCALES if rounded >= scale[0])
    whole, rest = divmod(rounded, unit)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0") if rest else ""
    return f"{sign}{whole}{'.' + fraction if fraction else ''} {prefix}{currency}"


def _round_significant(amount: int) -> int:
    """Keeps the first three decimal digits of a non-negative integer, rounding half up."""
    excess = len(str(amount)) - _SIGNIFICANT_DIGITS
    if excess <= 0:
        return amount
    step: int = 10**excess
    return (amount + step // 2) // step * step
