"""A published cap on tolls can be checked by whoever pays them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.messages import Tariff, Timescale, TollTerms
from billpay.tolls import EgressToll, TollSchedule
from cartographer.caps import cap_of, exceeds_cap, path_cap


def tariff(*caps: int | None) -> Tariff:
    terms = tuple(TollTerms(link=f"link{number}", cap_nanodollars=cap) for number, cap in enumerate(caps))
    return Tariff(
        issuer="ab" * 32, serial=4, timescale=Timescale.LONG_TERM, valid_from_unix_s=0, kind="tolls", tolls=terms
    )  # fmt: skip


@pytest.mark.row("BP-20")
def test_a_toll_above_the_published_cap_is_said_with_its_numbers() -> None:
    assert exceeds_cap(tariff(20), 20) == ""
    words = exceeds_cap(tariff(20), 26)
    assert words.startswith("took 26 n$ of a packet, 6 n$ above the cap of 20 n$ that its tariff 4 publishes")
    assert exceeds_cap(tariff(None), 10**9) == "", "without a cap nothing is above it"


def test_by_which_link_it_went_is_known_or_the_highest_cap_counts() -> None:
    assert cap_of(tariff(20, 50)) == 50
    assert cap_of(tariff(20, None)) is None
    assert cap_of(tariff(20, None), "link0") == 20
    assert " on link0," in exceeds_cap(tariff(20, 50), 21, link="link0")
    assert exceeds_cap(tariff(20, 50), 21) == ""
    assert cap_of(tariff()) is None


def test_a_paths_cap_is_that_of_all_its_gateways() -> None:
    assert path_cap([tariff(20), tariff(5)]) == 25
    assert path_cap([tariff(20), tariff(None)]) is None


@pytest.mark.row("BP-20")
@given(
    st.integers(0, 100), st.integers(0, 2**30), st.lists(st.integers(0, 2**20), min_size=1, max_size=50),
    st.integers(40, 9000),
)  # fmt: skip
def test_what_an_honest_gateway_takes_is_never_above_its_cap(
    cap: int, congestion: int, amounts: list[int], size: int
) -> None:
    toll = EgressToll(TollSchedule(fixed_picodollars_per_byte=7, proportional_ppm=123_456, cap_nanodollars=cap))
    toll.congestion_picodollars = congestion
    for amount in amounts:
        taken = toll.retain(toll.picodollars(size, amount), amount)
        assert exceeds_cap(tariff(cap), taken) == ""
