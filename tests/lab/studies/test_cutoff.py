"""A single ISP with a cut-off toll, against the smart market's clearing."""

from __future__ import annotations

import pytest

from billpay.tolls import EgressToll, TollSchedule
from lab.studies import cutoff


@pytest.mark.row("BP-53")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_cut_off_toll_clears_as_the_auction_does(seed: int) -> None:
    study = cutoff.run(seed)
    assert all(window == study.auction for window in study.posted)
    assert set(study.posted_kept_nanodollars) == {study.auction.price_nanodollars * study.capacity}
    assert study.law_mean_toll_nanodollars == pytest.approx(study.auction.price_nanodollars, rel=0.01)
    assert study.law_mean_admitted == pytest.approx(study.capacity, abs=1)
    assert study.law_value_share == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("bids", "capacity", "admitted", "price"),
    [
        ((50, 40, 40, 30, 20, 10, 5), 5, (0, 1, 2, 3, 4), 10),
        ((7, 9, 9, 9), 2, (1, 2), 9),  # ties by arrival, at the tied bid
        ((3, 1), 5, (0, 1), 0),  # room for all: free
    ],
)
def test_the_auction_is_the_papers(bids: tuple[int, ...], capacity: int, admitted: tuple[int, ...], price: int) -> None:
    auction = cutoff.clear(bids, capacity)
    assert (auction.admitted, auction.price_nanodollars) == (admitted, price)
    toll = EgressToll(TollSchedule(fixed_nanodollars_per_packet=price))
    assert cutoff.admit(bids, toll, capacity) == (admitted, price * len(admitted))
