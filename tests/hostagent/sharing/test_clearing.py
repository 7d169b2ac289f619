"""The embedded gateway's price: 0 while there is room, else what is displaced would have given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.sharing.clearing import BYTES_PER_MB, Demand, InternalAccount, LinkClearing, held_back

RATE = 20_000_000


def demand(kind: str, mbit_s: float, worth: int, **more: bool) -> Demand:
    return Demand(kind=kind, bit_s=int(mbit_s * 1e6), worth_nanodollars_per_mb=worth, weight=max(1, worth), **more)


def test_where_there_is_room_nothing_costs_anything() -> None:
    clearing = LinkClearing().clear(RATE, [demand("web", 10, 50), demand("backup", 5, 1)])
    assert (clearing.nanodollars_per_mb, clearing.used_ppm) == (0, 750_000)


def test_a_call_beside_a_backup_pays_what_the_backup_would_have_given() -> None:
    clearing = LinkClearing().clear(RATE, [demand("call", 1, 200), demand("backup", 18.5, 1)])
    assert clearing.nanodollars_per_mb == 1
    assert "backup" in clearing.reason
    assert "call" not in clearing.reason


def test_two_that_both_want_more_set_the_price_by_what_they_get() -> None:
    """Shares by worth are 15 and 5 Mbit/s; one more megabyte takes three parts from one and one part from the other."""
    clearing = LinkClearing().clear(RATE, [demand("a", 15, 30), demand("b", 5, 10)])
    assert clearing.nanodollars_per_mb == (3 * 30 + 10) // 4


@pytest.mark.row("MV-43")
@given(st.integers(1, 10**6), st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 10**6)), min_size=1, max_size=6))
def test_who_takes_room_pays_what_the_others_lose_by_it(taken: int, others: list[tuple[int, int]]) -> None:
    """The external cost: those held back give way in proportion to what they get, each at its own worth."""
    total = sum(share for share, _ in others)
    demands = [
        Demand(kind=str(number), bit_s=share * 10**6, worth_nanodollars_per_mb=worth, weight=share)
        for number, (share, worth) in enumerate(others)
    ]
    price = LinkClearing().clear(total * 10**6, demands).nanodollars_per_mb
    lost = sum(taken * share * worth for share, worth in others)
    assert 0 <= lost - taken * price * total < taken * total


def test_what_the_data_plan_caps_is_nobody_who_waits_for_room() -> None:
    demands = [demand("web", 17, 50), demand("backup", 2, 1, capped=True)]
    assert [each.kind for each in held_back(RATE, demands)] == ["web"]


def test_a_price_does_not_flicker_around_the_limit() -> None:
    link = LinkClearing()
    prices = [link.clear(RATE, [demand("bulk", mbit, 5)]).nanodollars_per_mb for mbit in (17.9, 18.1, 17, 16.1, 15.9)]
    assert prices == [0, 5, 5, 5, 0]


@pytest.mark.expectation(21)
def test_an_unknown_rate_is_no_price_at_all() -> None:
    clearing = LinkClearing().clear(None, [demand("bulk", 900, 5)])
    assert (clearing.nanodollars_per_mb, clearing.used_ppm) == (0, None)


@given(
    st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 10**9)), min_size=1, max_size=8),
    st.integers(64_000, 10**8),
)
def test_the_price_lies_between_the_worths_of_those_held_back(kinds: list[tuple[int, int]], rate: int) -> None:
    demands = [
        Demand(kind=str(number), bit_s=bit_s, worth_nanodollars_per_mb=worth, weight=worth)
        for number, (bit_s, worth) in enumerate(kinds)
    ]
    price = LinkClearing().clear(rate, demands).nanodollars_per_mb
    held = [each.worth_nanodollars_per_mb for each in held_back(rate, demands)]
    assert price == 0 or min(held) <= price <= max(held)


@pytest.mark.row("MV-45")
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**9), st.integers(0, 10**7)), max_size=40))
def test_not_a_part_of_a_nanodollar_is_lost(charges: list[tuple[str, int, int]]) -> None:
    account = InternalAccount()
    for name, count, price in charges:
        account.charge({name: count}, price)
    assert account.total_parts == sum(count * price for _, count, price in charges)
    owed = sum(account.nanodollars(name) for name in "abc")
    assert 0 <= account.total_parts - owed * BYTES_PER_MB < 3 * BYTES_PER_MB
