"""What greed earns: the signs of faked congestion, of keeping and dropping, and the tolls that rational ISPs set."""

from __future__ import annotations

import pytest

from lab.studies import competition as study


@pytest.mark.row("BP-17", "BP-19")
@pytest.mark.parametrize("seed", [1, 2])
def test_faked_congestion_loses_money_beside_another_isp(seed: int) -> None:
    """Margin times beta is 4: every false toll earns less than none, by choosers and by the logit law."""
    found = study.fake_sweep(seed, fakes=(0.0, 2.0, 5.0, 20.0), betas=(0.4,), senders=16, rounds=100)
    beside = {each.fake_nanodollars: each for each in found if each.ways == 2}
    honest = beside[0.0]
    for fake, outcome in beside.items():
        if fake:
            assert outcome.earned_nanodollars < honest.earned_nanodollars
            assert outcome.logit_nanodollars < honest.logit_nanodollars
    assert beside[20.0].share < 0.1 < 0.4 < honest.share
    assert [best.best_nanodollars for best in study.best_fakes(found) if best.ways == 2] == [0.0]


@pytest.mark.row("BP-17", "BP-21")
@pytest.mark.parametrize("seed", [1, 2])
def test_it_gains_for_a_monopolist_up_to_a_finite_toll(seed: int) -> None:
    """Willingness is uniform up to 120 n$: the whole toll that earns most is half of that, 50 above the fixed 10."""
    found = study.fake_sweep(seed, fakes=(0.0, 20.0, 50.0, 80.0, 110.0), betas=(), senders=24, rounds=100)
    earned = {each.fake_nanodollars: each.earned_nanodollars for each in found}
    assert earned[0.0] < earned[20.0] < earned[50.0] > earned[80.0] > earned[110.0]
    assert earned[50.0] == pytest.approx(30.0, rel=0.05)


def test_the_best_false_toll_is_none_where_margin_times_beta_is_two() -> None:
    assert study.logit_best(0.2, 10.0) == 0.0
    assert 0.0 < study.logit_best(0.19, 10.0) < 1.0
    for beta in (0.02, 0.1):
        best = study.logit_best(beta, 10.0)
        earned = [(10.0 + fake) * study.logit_share(beta, fake) for fake in (best * 0.95, best, best * 1.05)]
        assert earned[1] == max(earned)


@pytest.mark.row("BP-18")
@pytest.mark.parametrize("seed", [1, 2])
def test_keeping_and_dropping_earns_less_than_delivering(seed: int) -> None:
    """Senders leave after a few losses. A monopolist gains by it: nothing but competition punishes."""
    outcomes = study.drop_sweep(seed, drops=(0.0, 0.1, 0.3, 1.0), senders=16, rounds=100)
    beside = [each for each in outcomes if each.ways == 2]
    assert all(each.beside_honesty < 0.75 for each in beside[1:])
    assert all(each.share_at_end < beside[0].share_at_end / 2 and each.losses_per_sender < 15 for each in beside[1:])
    alone = [each.beside_honesty for each in outcomes if each.ways == 1]
    assert alone == sorted(alone)


@pytest.mark.row("BP-55")
def test_rational_tolls_settle_near_the_margin_that_theory_gives_and_fall_with_more_ways() -> None:
    settled = study.settle_all()
    for each in settled:
        if each.market == "all senders can pay":
            assert each.period == 1
            assert all(toll == pytest.approx(each.expected_nanodollars, abs=0.75) for toll in each.tolls_nanodollars)
    scarce = [each for each in settled if each.market == "limited willingness"]
    highest = [max(each.tolls_nanodollars) for each in sorted(scarce, key=lambda each: each.isps)]
    assert highest == sorted(highest, reverse=True)
    assert highest[0] == pytest.approx(61.5, abs=0.5)  # a monopolist's: half of the highest willingness and its cost


@pytest.mark.row("BP-55")
def test_without_preference_tolls_fall_to_cost_and_where_room_is_scarce_they_cycle() -> None:
    free, scarce = (each for each in study.settle_all() if each.market.startswith("the cheapest"))
    assert free.period == 1
    assert max(free.tolls_nanodollars) == pytest.approx(free.expected_nanodollars, abs=0.5)
    assert scarce.period > 2
    assert max(scarce.tolls_nanodollars) > 2 * min(scarce.tolls_nanodollars)


@pytest.mark.row("MV-34")
def test_where_links_cost_their_shadow_price_higher_bids_take_the_faster_ones() -> None:
    links, ordered, value = study.bids(1)
    assert ordered > 0.97
    assert value > 0.97
    assert [link.mean_bid for link in links] == sorted((link.mean_bid for link in links), reverse=True)
    assert links[0].toll_nanodollars > links[1].toll_nanodollars > links[2].toll_nanodollars
    assert all(link.users <= link.capacity + 2 for link in links)
