"""The shares of ways: how fast they move, which flows go along, and who gets nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartographer.split import MAX_WAYS, Moved, Split, SplitTerms
from cartographer.values import Belief, Deliberation

RTT_NS = 100_000_000
CELL_PPM = 1000


def belief(way: str, cost: int, *, tried: bool = True, objection: str = "", uncertainty: int = 0) -> Belief:
    return Belief(
        way=way,
        cost_picodollars=cost,
        uncertainty_picodollars=uncertainty,
        spread_picodollars=0,
        samples=10,
        measured_ns=1 if tried else None,
        objection=objection,
    )


class Host:
    """Calls `move` eight times in each round trip."""

    def __init__(self, way: str = "A", terms: SplitTerms | None = None, seed: int = 1) -> None:
        self.split = Split(terms or SplitTerms(), way)
        self.draw = random.Random(seed).random
        self.now_ns = 10**12
        self.moved: list[tuple[int, Moved]] = []

    def live(self, round_trips: float, to: str, beliefs: Sequence[Belief], *, explores: bool = False) -> None:
        for _ in range(int(round_trips * 8)):
            self.now_ns += RTT_NS // 8
            moved = self.split.move(
                Deliberation(way=to, explores=explores),
                beliefs,
                now_ns=self.now_ns,
                round_trip_ns=RTT_NS,
                draw=self.draw,
            )
            if moved is not None:
                self.moved.append((self.now_ns, moved))


@pytest.mark.row("BP-58")
@pytest.mark.parametrize("seed", range(10))
def test_a_way_that_got_twice_as_dear_is_left_at_a_tenth_in_a_round_trip(seed: int) -> None:
    host = Host(seed=seed)
    host.live(3, "A", [belief("A", 100), belief("B", 100)])
    host.live(5, "B", [belief("A", 200), belief("B", 100)])
    assert 350_000 <= host.split.shares_ppm["B"] <= 650_000
    host.live(5.25, "B", [belief("A", 200), belief("B", 100)])
    assert host.split.shares_ppm == {"B": 1_000_000}


def test_a_small_gain_moves_nothing_and_a_started_move_goes_on_until_it_is_even() -> None:
    host = Host()
    host.live(20, "B", [belief("A", 100), belief("B", 86)])
    assert host.split.shares_ppm == {"A": 1_000_000}
    host.live(4, "B", [belief("A", 100), belief("B", 80)])
    started = host.split.shares_ppm["B"]
    host.live(4, "B", [belief("A", 100), belief("B", 90)])
    going_on = host.split.shares_ppm["B"]
    host.live(20, "B", [belief("A", 100), belief("B", 99)])
    assert 0 < started < going_on == host.split.shares_ppm["B"]


def test_near_balance_the_steps_are_in_proportion() -> None:
    def after(cost: int) -> int:
        host = Host()
        host.live(5, "B", [belief("A", 1000), belief("B", cost)])
        return host.split.shares_ppm["B"]

    assert after(840) == pytest.approx(after(500) * 0.16 / 0.3, rel=0.1)


def test_what_is_not_clear_starts_nothing() -> None:
    host = Host()
    host.live(10, "B", [belief("A", 100, uncertainty=20), belief("B", 80, uncertainty=20)])
    assert host.split.shares_ppm == {"A": 1_000_000}


@pytest.mark.parametrize("gone", [belief("A", 10, objection="dead: no answer"), None])
def test_a_way_with_an_objection_or_that_is_gone_is_emptied_within_four_round_trips(gone: Belief | None) -> None:
    host = Host()
    host.live(2, "A", [belief("A", 100), belief("B", 100)])
    host.live(4.5, "B", [belief("B", 100), *([gone] if gone else [])])
    assert host.split.shares_ppm == {"B": 1_000_000}
    reason = "away: dead: no answer" if gone else "away: it is not there any more"
    assert {moved.reason for _, moved in host.moved} == {reason}
    assert len(host.moved) >= 3  # not at once either


def test_with_nowhere_to_go_it_stays() -> None:
    host = Host()
    host.live(10, "A", [belief("A", 10, objection="dead"), belief("B", 10, objection="dead")])
    host.live(10, "A", [])
    assert host.split.shares_ppm == {"A": 1_000_000}


def test_an_unexplored_way_gets_a_little_until_it_is_known() -> None:
    host = Host()
    host.live(30, "B", [belief("A", 100), belief("B", 10, tried=False)])
    assert host.split.shares_ppm == {"A": 950_000, "B": 50_000}
    host.live(30, "C", [belief("A", 100), belief("B", 100), belief("C", 100)], explores=True)
    assert host.split.shares_ppm["C"] == 50_000
    host.live(30, "B", [belief("A", 100), belief("B", 10), belief("C", 100)])
    assert host.split.shares_ppm == {"B": 1_000_000}


def test_the_first_way_may_be_unexplored_and_takes_all_when_the_others_fail() -> None:
    host = Host()
    host.live(10, "B", [belief("A", 100, objection="dead"), belief("B", 10, tried=False)])
    assert host.split.shares_ppm == {"B": 1_000_000}


@pytest.mark.row("BP-58")
def test_whoever_has_to_go_back_at_once_is_slower_and_becomes_quick_again() -> None:
    host = Host()
    cheap_a, cheap_b = [belief("A", 100), belief("B", 200)], [belief("A", 200), belief("B", 100)]
    host.live(3, "B", cheap_b)
    host.live(3, "A", cheap_a)
    slower = host.split.pace_ppm
    assert slower < 50_000
    host.live(150, "A", cheap_a)
    assert host.split.pace_ppm == 100_000
    host.live(3, "B", cheap_b)  # long after: that was not our own doing
    assert host.split.pace_ppm == 100_000


def test_a_flow_leaves_at_a_random_time_within_ten_round_trips() -> None:
    """Hosts with one flow each: how many have left after n round trips is what a host with many flows has moved."""
    left = []
    for seed in range(60):
        host, flow = Host(seed=seed), random.Random(seed).getrandbits(64)
        host.live(2, "A", [belief("A", 100), belief("B", 100)])
        for eighth in range(82):
            host.live(0.125, "B", [belief("A", 200), belief("B", 100)])
            if host.split.way_of(flow) == "B":
                left.append(eighth / 8)
                break
    assert len(left) == 60
    for quarter in range(4):
        assert 6 <= sum(quarter * 2.5 <= after < (quarter + 1) * 2.5 + (quarter == 3) for after in left) <= 26


def test_many_ways_are_bounded() -> None:
    host = Host()
    for number in range(3 * MAX_WAYS):
        tried = [belief(name, 100) for name in host.split.shares_ppm]
        host.live(2, f"W{number}", [*tried, belief(f"W{number}", 50)])
        assert len(host.split.shares_ppm) <= MAX_WAYS


Step = tuple[list[int], int, set[int], set[int], float]  # costs, target, ill ways, untried ones, wait
COSTS = st.lists(st.integers(min_value=1, max_value=10**6), min_size=4, max_size=4)
STEP = st.tuples(
    COSTS,
    st.integers(0, 3),
    st.sets(st.integers(0, 3), max_size=2),
    st.sets(st.integers(0, 3), max_size=1),
    st.floats(0.01, 4),
)
NAMES = ("A", "AS64512:1", "AS64512:2 AS64513:1", "D")
FLOWS = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(200)]


def _steps(split: Split, steps: Sequence[Step], draw: Callable[[], float], *, ok: bool) -> None:
    now_ns = 0
    before_ns: int | None = None
    for costs, target, ill, untried, wait in steps:
        now_ns += int(wait * RTT_NS)
        bad = set() if ok else ill
        beliefs = [
            belief(name, cost, objection="dead" if at in bad else "", tried=at not in untried)
            for at, (name, cost) in enumerate(zip(NAMES, costs, strict=True))
        ]
        before, ways = split.shares_ppm, [split.way_of(flow) for flow in FLOWS]
        moved = split.move(Deliberation(way=NAMES[target]), beliefs, now_ns=now_ns, round_trip_ns=RTT_NS, draw=draw)
        after = split.shares_ppm
        assert sum(after.values()) == 1_000_000
        assert min(after.values()) > 0
        changed = sum(max(0, before.get(name, 0) - after.get(name, 0)) for name in NAMES)
        assert changed == (moved.ppm if moved else 0)
        if moved:
            assert after[moved.to] == before.get(moved.to, 0) + moved.ppm
        # Only as many flows leave as there is share that moves, and they go nowhere else.
        gone = [(old, split.way_of(flow)) for old, flow in zip(ways, FLOWS, strict=True) if old != split.way_of(flow)]
        assert all(moved is not None and new == moved.to for _, new in gone)
        assert abs(len(gone) / len(FLOWS) - changed / 1e6) < 0.15
        if ok and changed:
            assert changed <= 150_000
            if before_ns is not None:  # after each move no more than the time since allows
                assert changed <= 100_000 * (now_ns - before_ns) / RTT_NS + CELL_PPM
            before_ns = now_ns


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12), st.integers(0, 2**32))
def test_shares_are_whole_bounded_and_only_as_many_flows_move(steps: list[Step], seed: int) -> None:
    _steps(Split(SplitTerms(), "A"), steps, random.Random(seed).random, ok=True)
    _steps(Split(SplitTerms(), "A"), steps, random.Random(seed).random, ok=False)


def test_flow_numbers_in_sequence_are_spread_as_random_ones_are() -> None:
    host = Host()
    host.live(5, "B", [belief("A", 200), belief("B", 100)])
    share = host.split.shares_ppm["B"] / 1e6
    found = sum(host.split.way_of(number) == "B" for number in range(4000)) / 4000
    assert found == pytest.approx(share, abs=0.03)
