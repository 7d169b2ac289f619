"""Which way: the cheapest, with hysteresis; looks that are worth their price, within bounds; reasons with numbers."""

from __future__ import annotations

import pytest

from cartographer.chooser import Chooser, ChooserTerms
from cartographer.costing import belief_of
from cartographer.statistics import WayStatistics
from cartographer.values import Belief, Quantity, Wants

MS = 1_000_000
S = 1_000_000_000
PICO = 1_000_000  # a thousandth of a millisecond's price in these tests


def belief(way: str, cost: int, *, now: int = 1, error: int = 0, samples: float = 50.0, objection: str = "") -> Belief:
    return Belief(
        way=way,
        cost_picodollars=cost,
        uncertainty_picodollars=error,
        spread_picodollars=error,
        samples=samples,
        measured_ns=now if samples else None,
        probe_picodollars=5 * PICO,
        objection=objection,
    )


def unknown(way: str) -> Belief:
    return belief(way, 0, samples=0.0)


def test_it_takes_the_cheapest_and_says_why_not_the_others() -> None:
    found = Chooser().deliberate([belief("a", 100 * PICO), belief("b", 150 * PICO)], now_ns=1)
    assert found.way == "a"
    assert "100000 n$" in found.reason
    assert found.rejected[0][0] == "b"
    assert "50000 n$ more" in found.rejected[0][1]


def test_it_stays_for_a_small_difference_and_goes_for_a_large_one() -> None:
    chooser = Chooser()
    chooser.deliberate([belief("a", 100 * PICO), belief("b", 110 * PICO)], now_ns=1)
    stays = chooser.deliberate([belief("a", 100 * PICO, now=2), belief("b", 99 * PICO, now=2)], now_ns=2)
    assert stays.way == "a"
    assert "stays" in stays.reason
    goes = chooser.deliberate([belief("a", 100 * PICO, now=3), belief("b", 70 * PICO, now=3)], now_ns=3)
    assert goes.way == "b"
    assert chooser.current == "b"


def test_what_is_objected_to_is_not_taken_unless_nothing_else_is_there() -> None:
    chooser = Chooser()
    bad = belief("a", 10 * PICO, objection="it drops paid packets")
    found = chooser.deliberate([bad, belief("b", 100 * PICO)], now_ns=1)
    assert found.way == "b"
    assert dict(found.rejected)["a"] == "it drops paid packets"
    assert chooser.deliberate([bad], now_ns=2).way == "a"


def test_no_way_at_all_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no way"):
        Chooser().deliberate([], now_ns=1)


def test_unknown_ways_are_asked_as_soon_as_one_is_known() -> None:
    chooser = Chooser()
    ways = ["a", "b", "c", "d"]
    first = chooser.deliberate([unknown(way) for way in ways], now_ns=0)
    assert first.probes == ()
    second = chooser.deliberate([belief("a", 100 * PICO), *(unknown(way) for way in ways[1:])], now_ns=1)
    assert set(second.probes) == {"b", "c", "d"}


def test_a_dear_probe_is_not_bought_where_choosing_is_cheaper() -> None:
    chooser = Chooser()
    chooser.deliberate([unknown("a"), unknown("b")], now_ns=0)
    found = chooser.deliberate([belief("a", 1 * PICO), unknown("b")], now_ns=1)
    assert (found.way, found.probes, found.explores) == ("b", (), True)
    assert "to find out" in found.reason


def test_probes_stay_within_their_share_of_the_choices() -> None:
    chooser = Chooser(ChooserTerms(probe_borrow=10))
    for step in range(1, 3001):
        now = step * S
        beliefs = [belief("a", 100 * PICO, now=now), *(belief(way, 150 * PICO, error=60 * PICO) for way in "bcdefgh")]
        chooser.deliberate(beliefs, now_ns=now)
        assert chooser.probes <= max(10, step * 0.02)


def test_exploring_by_choosing_stays_within_its_share_of_the_cost() -> None:
    chooser = Chooser()
    explored = 0
    seen = 0
    for step in range(1, 3001):
        now = step * S
        found = chooser.deliberate([belief("a", 100 * PICO, now=now), belief("b", 130 * PICO, now=seen)], now_ns=now)
        if found.way == "b" or "b" in found.probes:
            explored += found.way == "b"
            seen = now
    assert explored * 30 <= 0.03 * 3000 * 100
    assert seen > 2000 * S


def test_when_the_way_in_use_gets_dearer_the_others_are_asked_at_once() -> None:
    chooser = Chooser()
    for step in range(1, 20):
        beliefs = [belief("a", 100 * PICO, now=step), *(belief(way, 200 * PICO, now=1) for way in "bcd")]
        assert chooser.deliberate(beliefs, now_ns=step).way == "a"
    beliefs = [belief("a", 160 * PICO, now=20), *(belief(way, 200 * PICO, now=1) for way in "bcd")]
    found = chooser.deliberate(beliefs, now_ns=20)
    assert set(found.probes) == {"b", "c", "d"}


def test_when_others_got_dearer_by_as_much_it_is_the_own_access_and_no_more_are_asked() -> None:
    chooser = Chooser(ChooserTerms(probe_borrow=4))
    for step in range(1, 20):
        beliefs = [belief("a", 100 * PICO, now=step), *(belief(way, 130 * PICO, now=1) for way in "bcdef")]
        chooser.deliberate(beliefs, now_ns=step)
    found = chooser.deliberate([belief("a", 180 * PICO, now=20), *beliefs[1:]], now_ns=20)
    asked = set(found.probes)
    assert 2 <= len(asked) <= 4
    risen = [belief(way, 210 * PICO, now=20) if way in asked else belief(way, 190 * PICO, now=1) for way in "bcdef"]
    assert chooser.deliberate([belief("a", 180 * PICO, now=21), *risen], now_ns=21).probes == ()


def test_an_old_belief_is_asked_before_the_traffic_follows_it() -> None:
    chooser = Chooser()
    for step in range(1, 100):
        chooser.deliberate([belief("a", 100 * PICO, now=step), belief("b", 101 * PICO, now=1)], now_ns=step)
    beliefs = [belief("a", 110 * PICO, now=100), belief("b", 100 * PICO, now=1)]
    found = chooser.deliberate(beliefs, now_ns=100)
    assert (found.way, found.probes) == ("a", ("b",))
    again = chooser.deliberate([belief("a", 110 * PICO, now=101), belief("b", 100 * PICO, now=100)], now_ns=101)
    assert again.way == "b"


def test_it_is_deterministic() -> None:
    def run() -> list[object]:
        chooser = Chooser()
        return [
            chooser.deliberate(
                [
                    belief(way, (100 + (step * number) % 37) * PICO, now=step, error=9 * PICO)
                    for number, way in enumerate("abcd")
                ],
                now_ns=step,
            )
            for step in range(1, 200)
        ]

    assert run() == run()


def known(delay_ms: float, *, toll: int = 0, lost: bool = False) -> WayStatistics:
    way = WayStatistics()
    for step in range(50):
        way.on_sample(Quantity.DELAY_NS, delay_ms * MS, step * S)
        way.on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, toll, step * S)
        way.on_packets(sent=1, lost=int(lost and step % 10 == 0), marked=0, now_ns=step * S)
    return way


def test_a_cost_is_delay_and_toll_and_loss_in_money() -> None:
    wants = Wants(delay_nanodollars_per_ms=1000, loss_nanodollars=2_000_000)
    found = belief_of("a", known(80.0, toll=7_000), wants, now_ns=50 * S, probe_picodollars=3)
    assert found is not None
    assert abs(found.cost_picodollars - 80_007_000) < 80_000
    assert found.probe_picodollars is not None
    assert abs(found.probe_picodollars - 7_003) <= 10
    lossy = belief_of("b", known(80.0, lost=True), wants, now_ns=50 * S)
    assert lossy is not None
    assert 200_000_000 < lossy.cost_picodollars < 400_000_000
    assert lossy.uncertainty_picodollars > found.uncertainty_picodollars


def test_what_a_class_does_not_want_costs_nothing() -> None:
    cheap = belief_of("a", known(80.0, toll=7_000), Wants(delay_nanodollars_per_ms=0), now_ns=50 * S)
    assert cheap is not None
    assert abs(cheap.cost_picodollars - 7_000) <= 20
    assert belief_of("a", known(1.0), Wants(delay_nanodollars_per_ms=0, toll_ppm=0), now_ns=50 * S) is None


def test_a_missing_rate_costs_its_share() -> None:
    way = WayStatistics()
    for step in range(20):
        way.on_sample(Quantity.THROUGHPUT_BIT_S, 5_000_000, step * S)
    wants = Wants(delay_nanodollars_per_ms=0, toll_ppm=0, target_bit_s=10_000_000, short_nanodollars=100)
    found = belief_of("a", way, wants, now_ns=20 * S)
    assert found is not None
    assert abs(found.cost_picodollars - 50_000) < 500


def test_nothing_known_is_worth_no_samples() -> None:
    found = belief_of("a", WayStatistics(), Wants(), now_ns=0)
    assert found is not None
    assert (found.samples, found.measured_ns) == (0.0, None)
