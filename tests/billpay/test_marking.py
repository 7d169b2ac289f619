"""The marking rules against tiny float models written from the formulas, and against published numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.marking import (
    NS_PER_S,
    Avq,
    Marking,
    RedSettings,
    Rem,
    RemSettings,
    VirtualLink,
    VirtualQueue,
    VirtualRed,
    base_probability,
    marking_probability,
    price_of_marks,
    probability_of_burst,
    spread_probability,
)

LINK = VirtualLink(capacity_bytes_per_s=1_250_000, buffer_bytes=100_000)
Arrival = tuple[int, int]  # now_ns, size_bytes


def poisson(
    seed: int, count: int, *, load: float, size_bytes: int = 1000, link: VirtualLink = LINK
) -> Iterator[Arrival]:
    """Packets of one size that offer `load` times the link's capacity."""
    rng = random.Random(seed)
    mean_ns = size_bytes * NS_PER_S / link.capacity_bytes_per_s / load
    now_ns = 0.0
    for _ in range(count):
        now_ns += rng.expovariate(1) * mean_ns
        yield int(now_ns), size_bytes


def mixed(seed: int, count: int, *, load: float) -> list[Arrival]:
    """Bursts, silences and sizes from 40 to 1500 bytes: what a real link sees."""
    rng = random.Random(seed)
    now_ns, arrivals = 0, []
    for _ in range(count):
        size = rng.choice((40, 576, 1000, 1500))
        gap_ns = rng.expovariate(1) * size * NS_PER_S / LINK.capacity_bytes_per_s / load
        now_ns += int(gap_ns) + (rng.randrange(50_000_000) if rng.random() < 0.01 else 0)
        arrivals.append((now_ns, size))
    return arrivals


def run(rule: Marking, arrivals: Iterator[Arrival] | list[Arrival], seed: int = 1) -> list[bool]:
    draw = random.Random(seed).random
    return [rule.on_arrival(size, now_ns, draw) for now_ns, size in arrivals]


def never() -> float:
    raise AssertionError("this rule decides without chance")


# --- virtual queue ----------------------------------------------------------------------------------------------------


def gibbens_kelly(arrivals: list[Arrival], *, rate: float, limit: float) -> list[bool]:
    """v ← max(0, v − c̃ dt) + s; overflow sets the flag and does not enter; the flag stays until v is 0."""
    level, flag, last_ns, marks = 0.0, False, arrivals[0][0], []
    for now_ns, size in arrivals:
        level = max(0.0, level - rate * (now_ns - last_ns) / NS_PER_S)
        last_ns = now_ns
        flag = flag and level > 0
        if level + size > limit:
            flag = True
        else:
            level += size
        marks.append(flag)
    return marks


@pytest.mark.parametrize("load", [0.9, 1.0, 1.3])
def test_virtual_queue_marks_what_the_formula_marks(load: float) -> None:
    arrivals = mixed(3, 20_000, load=load)
    marks = run(VirtualQueue(VirtualLink(capacity_bytes_per_s=1_250_000, buffer_bytes=20_000)), arrivals)
    assert marks == gibbens_kelly(arrivals, rate=1_250_000 * 0.95, limit=19_000)
    assert any(marks)
    assert not all(marks)


# Shares of marked packets for Poisson arrivals, theta 0.95, where 2e5 packets hold enough busy periods to tell.
@pytest.mark.parametrize(
    ("load", "buffer_packets", "share"),
    [
        (0.8, 10, 0.0878),
        (0.8, 50, 0.0),
        (0.9, 10, 0.327),
        (0.9, 20, 0.196),
        (0.95, 10, 0.492),
        (0.95, 20, 0.512),
        (1.0, 10, 0.659),
        (1.0, 20, 0.812),
        (1.0, 50, 0.963),
    ],
)
def test_virtual_queue_marks_the_known_share_of_poisson_arrivals(
    load: float, buffer_packets: int, share: float
) -> None:
    link = VirtualLink(capacity_bytes_per_s=1_250_000, buffer_bytes=buffer_packets * 1000)
    rule = VirtualQueue(link)
    marked = sum(rule.on_arrival(size, now, never) for now, size in poisson(1, 200_000, load=load, link=link))
    assert marked / 200_000 == pytest.approx(share, rel=0.1)


def test_virtual_queue_marks_until_it_is_empty_and_not_longer() -> None:
    rule = VirtualQueue(VirtualLink(capacity_bytes_per_s=1_000_000, buffer_bytes=3000, theta_ppm=1_000_000))
    assert [rule.on_arrival(1000, 0, never) for _ in range(4)] == [False, False, False, True]
    assert rule.on_arrival(1000, 2_999_999, never)  # one byte is left: still marking
    assert not rule.on_arrival(1000, 2_999_999 + 1_001_000, never)


# --- RED on the virtual queue -----------------------------------------------------------------------------------------


@pytest.mark.row("DPH-20")
def test_red_uses_the_defaults_of_altq() -> None:
    settings = RedSettings()
    packet = settings.packet_bytes
    assert (settings.min_bytes, settings.max_bytes) == (5 * packet, 15 * packet)
    assert settings.p_max == 0.1
    assert 1 << settings.weight_shift == 512
    for average, base, first in ((6, 0.01, 0.00503), (10, 0.05, 0.02564), (14, 0.09, 0.04712)):
        p_b = base_probability(average * packet, settings)
        assert p_b == pytest.approx(base)
        assert spread_probability(p_b, 1) == pytest.approx(first, abs=5e-6)


def test_red_spreads_marks_from_half_the_probability_to_certainty() -> None:
    assert spread_probability(0.05, 0) == pytest.approx(0.025)
    assert spread_probability(0.05, 39) == pytest.approx(1.0)
    assert spread_probability(0.05, 40) == 1.0
    assert all(spread_probability(0.05, n) < spread_probability(0.05, n + 1) for n in range(38))


def red_averages(arrivals: list[Arrival], rate: float) -> list[float]:
    """avg ← (1 − w) avg + w q with the q that an arrival finds; idle time counts as packets that found nothing."""
    weight, level, average, last_ns, averages = 1 / 512, 0.0, 0.0, arrivals[0][0], []
    for now_ns, size in arrivals:
        drained = rate * (now_ns - last_ns) / NS_PER_S
        last_ns = now_ns
        idle_packets = math.floor((drained - level) / 1000) - 1
        if idle_packets > 0:
            average *= (1 - weight) ** idle_packets
        level = max(0.0, level - drained)
        average = (1 - weight) * average + weight * level
        if level + size <= 60_000:
            level += size
        averages.append(average)
    return averages


@pytest.mark.parametrize("load", [0.8, 1.0, 1.2])
def test_red_follows_the_average_of_the_formula(load: float) -> None:
    arrivals = mixed(5, 20_000, load=load)
    rule = VirtualRed(LINK)
    averages = []
    for now_ns, size in arrivals:
        rule.on_arrival(size, now_ns, lambda: 0.999)
        averages.append(rule.average_bytes)
    expected = red_averages(arrivals, 1_250_000 * 0.95)
    # a packet of idle time may fall on either side of a rounding; the rest agrees to the byte
    assert max(abs(ours - model) for ours, model in zip(averages, expected, strict=True)) < 40
    assert max(averages) > 1000


def test_red_marks_no_one_below_the_lower_threshold_and_everyone_from_the_upper_on() -> None:
    rule = VirtualRed(LINK, RedSettings(weight_shift=0))  # the average is the queue
    marks = [rule.on_arrival(1000, 0, lambda: 0.999) for _ in range(70)]
    assert not any(marks[:5])
    assert not any(marks[5:15])  # by chance only, and chance says no
    assert all(marks[15:])


def test_red_marks_when_the_virtual_queue_is_full_whatever_the_average() -> None:
    rule = VirtualRed(LINK)
    marks = [rule.on_arrival(1000, 0, lambda: 0.999) for _ in range(64)]
    assert rule.average_bytes < 5000
    assert marks == [False] * 60 + [True] * 4


def test_red_never_leaves_a_gap_above_twice_the_mean_of_its_probability() -> None:
    """At a constant average the gaps between marks have the mean that the counts give, and none is above 2/p_b."""
    settings = RedSettings(weight_shift=0)
    rule = VirtualRed(VirtualLink(capacity_bytes_per_s=1_000_000, buffer_bytes=10**6, theta_ppm=10**6), settings)
    draw = random.Random(2).random
    for _ in range(11):
        rule.on_arrival(1000, 0, lambda: 0.999)
    marks = [rule.on_arrival(1000, n * 1_000_000, draw) for n in range(1, 20_001)]  # each finds 10 packets: p_b = 0.05
    places = [n for n, mark in enumerate(marks) if mark]
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps) <= 40
    assert sum(gaps) / len(gaps) == pytest.approx(mean_gap(0.05), rel=0.05)


def mean_gap(base: float) -> float:
    """E[gap] = Σ P(gap > n) with the probability of each count."""
    total, alive, count = 0.0, 1.0, 1
    while alive > 0:
        total += alive
        alive *= 1 - spread_probability(base, count)
        count += 1
    return total


def test_red_forgets_its_average_while_idle() -> None:
    rule = VirtualRed(LINK)
    for _ in range(3000):
        rule.on_arrival(1000, 0, lambda: 0.999)
    before = rule.average_bytes
    rule.on_arrival(1000, 10 * NS_PER_S, lambda: 0.999)
    assert before > 15_000
    assert rule.average_bytes == 0


# --- AVQ --------------------------------------------------------------------------------------------------------------


def adaptive_virtual_queue(arrivals: list[Arrival]) -> list[bool]:
    """C̃ ← [C̃ + α (γ C dt − s)] between 0 and C, from 0.8 C; v ← max(0, v − C̃ dt) + s; overflow marks."""
    capacity, limit = 1_250_000.0, 100_000.0
    virtual, level, last_ns, marks = 0.8 * capacity, 0.0, arrivals[0][0], []
    for now_ns, size in arrivals:
        dt = (now_ns - last_ns) / NS_PER_S
        last_ns = now_ns
        level = max(0.0, level - int(virtual) * dt)
        virtual = min(capacity, max(0.0, virtual + 0.15 * (0.98 * capacity * dt - size)))
        full = level + size > limit
        level += 0 if full else size
        marks.append(full)
    return marks


@pytest.mark.parametrize("load", [0.7, 0.9, 1.0, 1.1])
def test_avq_marks_what_the_formula_marks(load: float) -> None:
    arrivals = mixed(7, 20_000, load=load)
    assert run(Avq(LINK), arrivals) == adaptive_virtual_queue(arrivals)


@pytest.mark.parametrize("size_bytes", [100, 1500])
def test_avq_settles_the_link_at_gamma_whatever_the_packet_size(size_bytes: int) -> None:
    """A source that slows with each mark and speeds up between them: utilisation comes to γ = 0.98."""
    rule = Avq(LINK)
    rate, now, sent, from_s = 0.9 * 1_250_000, 0.0, 0, 60.0
    while now < 160.0:
        now += 15_000 / rate
        for _ in range(15_000 // size_bytes):
            marked = rule.on_arrival(size_bytes, int(now * NS_PER_S), never)
            rate = rate - 0.1 * size_bytes if marked else rate + 0.004 * size_bytes
        sent += 15_000 if now >= from_s else 0
    assert sent / (now - from_s) / 1_250_000 == pytest.approx(0.98, abs=0.005)


def test_avq_loses_no_fraction_of_a_byte_between_close_arrivals() -> None:
    """Arrivals at exactly γC, 40 bytes each: the virtual capacity stays where it is."""
    rule = Avq(VirtualLink(capacity_bytes_per_s=1_000_000, buffer_bytes=10**6))
    start = rule.virtual_bytes_per_s
    for n in range(1, 49_001):  # 40 bytes at 980 000 bytes/s: 40 816.33 ns
        rule.on_arrival(40, n * 2_000_000 // 49, never)
    assert abs(rule.virtual_bytes_per_s - start) <= 7  # the first arrival, 0.15 × 40, and rounding


def test_avq_marks_more_the_longer_the_load_stays_above_gamma() -> None:
    arrivals = list(poisson(4, 40_000, load=1.05))
    marks = run(Avq(LINK), arrivals)
    assert sum(marks[:10_000]) < sum(marks[-10_000:])


# --- REM --------------------------------------------------------------------------------------------------------------


class NaiveRem:
    """The price law ticked every 2 ms, empty or not, in floats."""

    def __init__(self, link: VirtualLink) -> None:
        self.link = link
        self.price = self.level = self.arrived = 0.0
        self.now_ns: int | None = None
        self.tick_ns = 0

    def advance(self, to_ns: int) -> None:
        assert self.now_ns is not None
        self.level = max(0.0, self.level - self.link.capacity_bytes_per_s * (to_ns - self.now_ns) / NS_PER_S)
        self.now_ns = to_ns

    def on_arrival(self, size: int, now_ns: int) -> float:
        if self.now_ns is None:
            self.now_ns, self.tick_ns = now_ns, now_ns + 2_000_000
        while self.tick_ns <= now_ns:
            self.advance(self.tick_ns)
            pressure = self.arrived / 1000 + 0.1 * (self.level / 1000 - 20) - self.link.capacity_bytes_per_s * 2e-6
            self.price = max(0.0, self.price + 0.001 * pressure)
            self.arrived = 0.0
            self.tick_ns += 2_000_000
        self.advance(now_ns)
        self.level = min(self.level + size, self.link.buffer_bytes)
        self.arrived += size
        return self.price


@pytest.mark.parametrize("load", [0.9, 1.0, 1.2])
def test_rem_has_the_price_of_the_formula(load: float) -> None:
    model, rule = NaiveRem(LINK), Rem(LINK)
    highest = 0.0
    for now_ns, size in mixed(9, 10_000, load=load):
        rule.on_arrival(size, now_ns, lambda: 0.999_999)
        assert rule.price == pytest.approx(model.on_arrival(size, now_ns), abs=1e-3)
        highest = max(highest, rule.price)
    assert highest > 0 or load < 1


def test_rem_price_falls_while_nobody_sends() -> None:
    rule = Rem(LINK)
    for now_ns, size in poisson(1, 20_000, load=1.3):
        rule.on_arrival(size, now_ns, lambda: 0.999_999)
    loaded = rule.price
    rule.on_arrival(1000, now_ns + 2 * NS_PER_S, lambda: 0.999_999)
    # each silent period: 0.001 (0.1 × −20 − 2.5 packets of capacity) off, less the time in which the queue drained
    assert 0.001 * 4.5 * 940 <= loaded - rule.price <= 0.001 * 4.5 * 1001
    rule.on_arrival(1000, now_ns + 1000 * NS_PER_S, lambda: 0.999_999)
    assert rule.price == 0


def test_rem_marks_with_the_probability_of_its_price() -> None:
    rule = Rem(LINK, RemSettings(period_ns=10**15))  # the price stands still
    rule.price = 105.4
    marks = run(rule, [(n, 0) for n in range(20_000)])
    assert sum(marks) / 20_000 == pytest.approx(0.1, abs=0.007)  # three standard deviations


@pytest.mark.parametrize(("marked", "price"), [(0.01, 10.06), (0.1, 105.4), (0.5, 693.5)])
def test_rem_receiver_recovers_the_sum_of_prices(marked: float, price: float) -> None:
    assert price_of_marks(marked, 1.001) == pytest.approx(price, rel=5e-4)
    assert marking_probability(price_of_marks(marked, 1.001), 1.001) == pytest.approx(marked)


def test_rem_prices_add_along_a_path() -> None:
    first, second = price_of_marks(0.1, 1.001), price_of_marks(0.2, 1.001)
    assert marking_probability(first + second, 1.001) == pytest.approx(0.28)  # 1 − (1 − 0.1)(1 − 0.2)


def test_rem_price_of_a_path_that_marks_everything_is_infinite() -> None:
    assert price_of_marks(1.0, 1.001) == math.inf
    assert price_of_marks(0.0, 1.001) == 0
    assert marking_probability(0.0, 1.001) == 0


# --- all of them ------------------------------------------------------------------------------------------------------

RULES: list[Callable[[VirtualLink], Marking]] = [VirtualQueue, VirtualRed, Avq, Rem]


@pytest.mark.parametrize("make", RULES)
def test_a_lightly_used_link_is_never_marked(make: Callable[[VirtualLink], Marking]) -> None:
    assert not any(run(make(LINK), poisson(1, 5000, load=0.3)))


@pytest.mark.parametrize("make", RULES)
def test_twice_the_capacity_is_marked_more_and_more(make: Callable[[VirtualLink], Marking]) -> None:
    marks = run(make(LINK), poisson(1, 20_000, load=2.0))
    assert sum(marks[-5000:]) > 100  # REM's price has reached 42 after these 8 s: 4 % of the packets
    assert sum(marks[-5000:]) > sum(marks[:5000])


@pytest.mark.parametrize("make", RULES)
@given(
    gaps=st.lists(st.integers(min_value=-(10**9), max_value=10**10), max_size=30),
    size=st.integers(min_value=0, max_value=65_535),
)
def test_time_that_goes_back_or_leaps_is_survived(
    make: Callable[[VirtualLink], Marking], gaps: list[int], size: int
) -> None:
    rule, now_ns = make(LINK), 10**12
    for gap in gaps:
        now_ns += gap
        assert rule.on_arrival(size, now_ns, lambda: 0.5, segments=44) in (True, False)


@given(st.floats(min_value=0, max_value=1), st.integers(min_value=1, max_value=64))
def test_a_burst_is_marked_like_at_least_one_of_its_segments(probability: float, segments: int) -> None:
    burst = probability_of_burst(probability, segments)
    assert burst == pytest.approx(1 - math.prod([1 - probability] * segments))
    assert probability - 1e-12 <= burst <= 1


def test_time_that_goes_back_drains_nothing_twice() -> None:
    """An arrival with an older time does not make the queue drain the same stretch again."""
    rule = VirtualQueue(VirtualLink(capacity_bytes_per_s=1_000_000, buffer_bytes=3000, theta_ppm=1_000_000))
    times_ns = [0, 1_000_000, 0, 1_000_000, 0, 1_000_000]
    assert [rule.on_arrival(1000, now_ns, never) for now_ns in times_ns] == [False, False, False, False, True, True]
