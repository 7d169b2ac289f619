"""Statistics of one way: levels follow shifts and not spikes, what is old is less sure, losses say what they can."""

from __future__ import annotations

import random

import msgspec
import pytest

from cartographer.statistics import StoredWay, WayStatistics
from cartographer.values import Estimate, Quantity

MS = 1_000_000
S = 1_000_000_000


def measured(values: list[float], *, step_ns: int = S) -> WayStatistics:
    way = WayStatistics()
    for step, value in enumerate(values):
        way.on_sample(Quantity.DELAY_NS, value * MS, step * step_ns)
    return way


def noisy(level: float, count: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [level * draw.uniform(0.95, 1.05) for _ in range(count)]


def delay_ms(way: WayStatistics, now_ns: int) -> float:
    found = way.estimate(Quantity.DELAY_NS, now_ns)
    assert found is not None
    return found.value / MS


def test_nothing_is_known_of_a_new_way() -> None:
    way = WayStatistics()
    assert all(way.estimate(quantity, 0) is None for quantity in Quantity)


def test_the_mean_is_found_with_an_honest_error() -> None:
    found = measured(noisy(80.0, 300)).estimate(Quantity.DELAY_NS, 300 * S)
    assert found is not None
    assert abs(found.value / MS - 80.0) < 1.0
    assert 0 < found.uncertainty < 2 * MS
    assert 1 * MS < found.spread < 5 * MS
    assert found.measured_ns == 299 * S


def test_more_samples_make_it_surer_and_age_less_sure() -> None:
    few, many = measured(noisy(80.0, 5)), measured(noisy(80.0, 60))
    now = 60 * S
    errors = []
    for way, then in ((few, 5 * S), (many, now), (many, now + 86_400 * S)):
        found = way.estimate(Quantity.DELAY_NS, then)
        assert found is not None
        errors.append(found.uncertainty)
    assert errors[0] > errors[1]
    assert errors[2] > 3 * errors[1]


@pytest.mark.row("BP-31")
@pytest.mark.parametrize("factor", [0.5, 1.5, 3.0, 20.0])
def test_a_new_level_is_followed_within_a_few_samples(factor: float) -> None:
    way = measured(noisy(80.0, 200) + noisy(80.0 * factor, 6, seed=2))
    assert abs(delay_ms(way, 206 * S) - 80.0 * factor) < 0.15 * 80.0 * factor


def test_a_single_spike_is_not_followed() -> None:
    way = measured([*noisy(80.0, 200), 800.0, *noisy(80.0, 2, seed=2)])
    assert delay_ms(way, 203 * S) < 100.0


def test_when_a_rise_is_over_the_level_before_is_believed_at_once() -> None:
    way = measured([*noisy(80.0, 200), *noisy(400.0, 8, seed=2), *noisy(80.0, 2, seed=3)])
    assert delay_ms(way, 210 * S) < 90.0


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.5, 3.0])
def test_one_sample_replaces_what_is_old_where_nobody_watched(factor: float) -> None:
    way = measured(noisy(80.0, 3))
    way.on_sample(Quantity.DELAY_NS, 80.0 * factor * MS, 600 * S)
    assert abs(delay_ms(way, 600 * S) - 80.0 * factor) < 0.1 * 80.0 * factor


def test_one_sample_far_below_is_believed_at_once() -> None:
    assert delay_ms(measured([*noisy(80.0, 200), 30.0]), 200 * S) < 40.0


def test_a_rise_that_nobody_watches_may_be_over() -> None:
    way = measured([*noisy(80.0, 200), *noisy(400.0, 8, seed=2)])
    soon, late = way.estimate(Quantity.DELAY_NS, 208 * S), way.estimate(Quantity.DELAY_NS, 300 * S)
    assert soon is not None
    assert late is not None
    assert late.value < 0.75 * soon.value
    assert late.uncertainty > 2 * soon.uncertainty


def test_spikes_that_come_often_are_counted_in_the_mean() -> None:
    draw = random.Random(3)
    values = [400.0 if draw.random() < 0.1 else 80.0 * draw.uniform(0.95, 1.05) for _ in range(600)]
    assert 95.0 < delay_ms(measured(values), 600 * S) < 145.0


@pytest.mark.parametrize("step_ns", [50 * MS, S, 600 * S])
def test_the_pace_of_the_samples_does_not_matter_much(step_ns: int) -> None:
    way = measured(noisy(80.0, 200), step_ns=step_ns)
    found = way.estimate(Quantity.DELAY_NS, 200 * step_ns)
    assert found is not None
    assert abs(found.value / MS - 80.0) < 4.0
    assert found.uncertainty < 3 * MS


def test_a_way_that_was_not_seen_for_long_learns_faster() -> None:
    fresh, stale = measured(noisy(80.0, 200)), measured(noisy(80.0, 200))
    for way, now in ((fresh, 200 * S), (stale, 5000 * S)):
        way.on_sample(Quantity.DELAY_NS, 88 * MS, now)
    assert delay_ms(stale, 5000 * S) > delay_ms(fresh, 200 * S) + 1.0


def test_jitter_is_the_difference_of_successive_round_trips() -> None:
    found = measured([80.0, 90.0] * 50).estimate(Quantity.JITTER_NS, 100 * S)
    assert found is not None
    assert abs(found.value - 10 * MS) < MS


def test_one_loss_says_much_on_a_clean_way_and_little_on_a_lossy_one() -> None:
    clean, lossy = WayStatistics(), WayStatistics()
    for step in range(300):
        clean.on_packets(sent=1, lost=0, marked=0, now_ns=step * S)
        lossy.on_packets(sent=1, lost=int(step % 5 == 0), marked=0, now_ns=step * S)
    jumps = []
    for way in (clean, lossy):
        before = way.estimate(Quantity.LOSS_PPM, 300 * S)
        way.on_packets(sent=1, lost=1, marked=0, now_ns=300 * S)
        after = way.estimate(Quantity.LOSS_PPM, 300 * S)
        assert before is not None
        assert after is not None
        jumps.append(after.value - before.value)
    assert jumps[0] > 150_000
    assert jumps[1] < 30_000


def test_a_dead_way_is_dead_after_two_losses_and_alive_after_answers() -> None:
    way = WayStatistics()
    found = []
    for step in range(300):
        way.on_packets(sent=1, lost=int(step in (200, 201)), marked=0, now_ns=step * S)
        estimate = way.estimate(Quantity.LOSS_PPM, step * S)
        assert estimate is not None
        found.append(estimate.value)
    assert found[199] == 0
    assert found[201] > 900_000
    assert found[-1] < 30_000


def test_a_batch_of_packets_gives_its_rate() -> None:
    way = WayStatistics()
    for step in range(20):
        way.on_packets(sent=1000, lost=50, marked=95, now_ns=step * S)
    loss, marks = way.estimate(Quantity.LOSS_PPM, 20 * S), way.estimate(Quantity.MARKS_PPM, 20 * S)
    assert loss is not None
    assert marks is not None
    assert abs(loss.value - 50_000) < 5_000
    assert abs(marks.value - 100_000) < 10_000


def test_a_promise_is_worth_five_samples_and_yields_to_measurement() -> None:
    way = WayStatistics()
    way.on_promise(Quantity.DELAY_NS, 40 * MS)
    found = way.estimate(Quantity.DELAY_NS, 0)
    assert found is not None
    assert (found.value, found.samples, found.measured_ns) == (40 * MS, 5.0, None)
    for step, value in enumerate(noisy(80.0, 30)):
        way.on_sample(Quantity.DELAY_NS, value * MS, step * S)
    assert delay_ms(way, 30 * S) > 70.0
    way.on_promise(Quantity.DELAY_NS, 10 * MS)
    assert delay_ms(way, 30 * S) > 70.0


def test_what_a_pool_says_is_a_prior() -> None:
    way = WayStatistics()
    prior = Estimate(value=90 * MS, uncertainty=2 * MS, spread=6 * MS, samples=9.0, measured_ns=None)
    way.on_prior(Quantity.DELAY_NS, prior)
    found = way.estimate(Quantity.DELAY_NS, 0)
    assert found is not None
    assert (found.value, found.samples) == (prior.value, prior.samples)
    assert abs(found.uncertainty - prior.uncertainty) < 10


def test_a_new_toll_is_believed_soon() -> None:
    way = WayStatistics()
    for step in range(102):
        way.on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, 1000 if step < 100 else 2000, step * S)
    found = way.estimate(Quantity.FORWARD_TOLL_PICODOLLARS, 102 * S)
    assert found is not None
    assert found.value == 2000


def test_what_is_remembered_is_recalled() -> None:
    way = measured(noisy(80.0, 50))
    way.on_packets(sent=100, lost=3, marked=2, now_ns=50 * S)
    stored = msgspec.json.decode(msgspec.json.encode(way.remembered()), type=StoredWay)
    again = WayStatistics.recall(stored)
    for quantity in Quantity:
        before, after = way.estimate(quantity, 50 * S), again.estimate(quantity, 50 * S)
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert abs(before.value - after.value) <= max(1, before.value // 100)
    assert len(msgspec.json.encode(way.remembered())) < 1000
