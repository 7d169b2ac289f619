"""Amounts on a screen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.money import NANODOLLARS_PER_DOLLAR, show_nanodollars


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0 USD"),
        (6, "6 nUSD"),
        (14, "14 nUSD"),
        (999, "999 nUSD"),
        (1000, "1 µUSD"),
        (1234, "1.23 µUSD"),
        (1235, "1.24 µUSD"),
        (1050, "1.05 µUSD"),
        (12_345, "12.3 µUSD"),
        (999_499, "999 µUSD"),
        (999_500, "1 mUSD"),
        (20_500_000, "20.5 mUSD"),
        (10**9, "1 USD"),
        (10**11, "100 USD"),
        (123_456 * 10**9, "123000 USD"),
        (-1234, "-1.23 µUSD"),
    ],
)
def test_three_significant_digits_in_the_unit_that_fits(amount: int, shown: str) -> None:
    assert show_nanodollars(amount) == shown


def test_the_currency_is_the_users() -> None:
    assert show_nanodollars(2 * NANODOLLARS_PER_DOLLAR, "EUR") == "2 EUR"


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_what_is_shown_is_within_half_a_percent(amount: int) -> None:
    number, unit = show_nanodollars(amount).split(" ")
    scale = {"USD": 10**9, "mUSD": 10**6, "µUSD": 10**3, "nUSD": 1}[unit]
    assert abs(float(number) * scale - amount) <= abs(amount) * 0.005 + 1e-6
    assert len(number.lstrip("-0").replace(".", "").rstrip("0")) <= 3
