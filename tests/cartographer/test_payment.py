"""The payment that costs least."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartographer.payment import MAX_TOLLS, Dropping, Offer, best_offer, best_payment

TOLLS = st.lists(st.integers(min_value=0, max_value=3000), min_size=1, max_size=30)


def drop(tolls: list[int], amount: int, dropping: Dropping) -> Fraction:
    if dropping is Dropping.CUT_OFF:
        return Fraction(sum(toll > amount for toll in tolls), len(tolls))
    return sum((Fraction(toll - amount, toll) for toll in tolls if toll > amount), Fraction(0)) / len(tolls)


@given(TOLLS, st.integers(0, 3000), st.integers(0, 3000), st.sampled_from(Dropping))
def test_where_the_rest_is_lost_no_other_amount_is_cheaper(
    tolls: list[int], value: int, ceiling: int, dropping: Dropping
) -> None:
    payment = best_payment(
        tolls, value_nanodollars=value, ceiling_nanodollars=ceiling, returned=False, dropping=dropping
    )
    most = min(value, ceiling)
    least = min(amount + value * drop(tolls, amount, dropping) for amount in range(0, most + 1, max(1, most // 40)))
    least = min([least, *(toll + value * drop(tolls, toll, dropping) for toll in tolls if toll <= most)])
    assert 0 <= payment.amount_nanodollars <= most
    found = payment.amount_nanodollars + value * drop(tolls, payment.amount_nanodollars, dropping)
    assert found <= least + Fraction(value, 10**6) + Fraction(1, 10**9)
    assert payment.drop_ppm == pytest.approx(1e6 * drop(tolls, payment.amount_nanodollars, dropping), abs=1.01)
    assert payment.cost_picodollars == pytest.approx(float(1000 * found), abs=value / 1000 + 2)


@given(TOLLS, st.integers(0, 3000), st.integers(0, 3000))
def test_where_the_rest_comes_back_the_full_worth_is_paid(tolls: list[int], value: int, ceiling: int) -> None:
    payment = best_payment(tolls, value_nanodollars=value, ceiling_nanodollars=ceiling, returned=True)
    assert payment.amount_nanodollars == min(value, ceiling)
    paid = sum(min(toll, payment.amount_nanodollars) for toll in tolls) / len(tolls)
    lost = value * drop(tolls, payment.amount_nanodollars, Dropping.PROPORTIONAL)
    assert payment.cost_picodollars == pytest.approx(float(1000 * (paid + lost)), abs=value / 1000 + 2)


def test_second_price_with_a_cut_off_less_is_never_cheaper() -> None:
    """Vickrey: against tolls that do not hang on the bid, another bid than the worth saves nothing."""
    tolls = [10, 40, 80, 90, 300]
    full = best_payment(tolls, value_nanodollars=100, ceiling_nanodollars=100, returned=True, dropping=Dropping.CUT_OFF)
    for amount in range(100):
        taken = sum(toll for toll in tolls if toll <= amount) / len(tolls)
        assert taken + 100 * float(drop(tolls, amount, Dropping.CUT_OFF)) >= (10 + 40 + 80 + 90 + 100) / 5
    assert full.cost_picodollars == 1000 * (10 + 40 + 80 + 90 + 100 + 100) // 5


def test_the_first_order_condition() -> None:
    """Tolls uniform from 1 to 1000: v·E[1{toll > x}/toll] = 1 is ln(1000/x) = 1000/v, so x = 1000·e^(-1000/v)."""
    payment = best_payment(list(range(1, 1001))[::4], value_nanodollars=2000, ceiling_nanodollars=10**6, returned=False)
    assert payment.amount_nanodollars == pytest.approx(1000 * 2.718281828**-0.5, rel=0.02)


@pytest.mark.parametrize(
    ("tolls", "value", "ceiling", "returned", "amount", "reason"),
    [
        ([10, 20], 100, 1000, True, 100, "its full worth: what is not taken comes back"),
        ([10, 20], 100, 50, True, 50, "all that may be spent (50 n$); the packet is worth 100 n$"),
        (
            [60],
            100,
            50,
            True,
            50,
            "all that may be spent (50 n$); the packet is worth 100 n$; every toll seen is higher",
        ),
        ([10, 20], 100, 1000, False, 20, "another nanodollar would cost more than it saves"),
        ([500], 100, 1000, False, 0, "no toll is worth it"),
        ([0, 0], 100, 1000, False, 0, "no toll is worth it"),
        ([], 100, 1000, False, 0, "no toll has been seen yet, and what is not taken would be lost"),
        ([], 100, 1000, True, 100, "its full worth: what is not taken comes back"),
    ],
)
def test_the_reason_is_said(
    tolls: list[int], value: int, ceiling: int, returned: bool, amount: int, reason: str
) -> None:
    payment = best_payment(tolls, value_nanodollars=value, ceiling_nanodollars=ceiling, returned=returned)
    assert (payment.amount_nanodollars, payment.reason) == (amount, reason)


def test_path_and_payment_are_chosen_together() -> None:
    steady = Offer(way="AS1", tolls_nanodollars=[50] * 10, other_picodollars=10_000)
    doubtful = Offer(way="AS2", tolls_nanodollars=[10] * 5 + [200] * 5, other_picodollars=5_000)
    offer, payment = best_offer([steady, doubtful], value_nanodollars=400, ceiling_nanodollars=400, returned=False)
    assert (offer, payment.amount_nanodollars) == (steady, 50)
    offer, payment = best_offer([steady, doubtful], value_nanodollars=40, ceiling_nanodollars=40, returned=False)
    assert (offer, payment.amount_nanodollars) == (doubtful, 10)
    with pytest.raises(ValueError, match="no way"):
        best_offer([], value_nanodollars=1, ceiling_nanodollars=1, returned=True)


def test_only_the_newest_tolls_count() -> None:
    tolls = [900] * 1000 + [10] * MAX_TOLLS
    assert (
        best_payment(tolls, value_nanodollars=1000, ceiling_nanodollars=1000, returned=False).amount_nanodollars == 10
    )
    with pytest.raises(ValueError, match="negative"):
        best_payment([-1], value_nanodollars=1, ceiling_nanodollars=1, returned=True)
