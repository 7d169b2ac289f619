"""What is lost, and what merely is not answered."""

from __future__ import annotations

import random

import pytest
from scripted_path import NS_PER_S, Router, ScriptedPath, path

from cartographer.measuring.losses import (
    Interval,
    Tally,
    chance_of,
    deserves_slow_probes,
    is_limit,
    is_settled,
    leaves_more,
    path_loss,
    slower_ms,
    unanswered,
)
from cartographer.measuring.packets import ProbePacket, Transport


def tally(sent: int, answered: int, seconds: int = 100) -> Tally:
    return Tally(sent=sent, answered=answered, duration_ns=seconds * NS_PER_S)


async def probed(way: ScriptedPath, rounds: int, *, interval_ns: int = NS_PER_S) -> dict[int, Tally]:
    counts = dict.fromkeys(range(1, len(way.routers) + 1), Tally())
    for _ in range(rounds):
        for ttl in counts:
            probe = ProbePacket(destination=way.routers[-1].address, transport=Transport.ICMP, ttl=ttl)
            answer = way._one(probe)
            counts[ttl] += Tally(sent=1, answered=int(answer is not None), duration_ns=interval_ns)
        await way.pause(interval_ns)
    return counts


@pytest.mark.parametrize(
    ("sent", "answered", "least", "most"),
    [
        (10, 10, 0, 308_497),  # the exact ends, from the tables of Clopper and Pearson
        (10, 5, 187_086, 812_914),
        (10, 0, 691_503, 1_000_000),
        (100, 99, 253, 54_459),
    ],
)
def test_intervals_are_the_exact_ones(sent: int, answered: int, least: int, most: int) -> None:
    found = unanswered(tally(sent, answered))
    assert found.ppm == (sent - answered) * 1_000_000 // sent
    assert abs(found.least_ppm - least) <= 1
    assert abs(found.most_ppm - most) <= 1


def test_of_nothing_sent_nothing_is_known() -> None:
    assert unanswered(Tally()) == Interval(ppm=0, least_ppm=0, most_ppm=1_000_000)
    assert chance_of(Tally(), tally(10, 5)) == 1


def test_fisher_s_tea() -> None:
    assert abs(chance_of(tally(4, 1), tally(4, 3)) - 17 / 70) < 1e-9  # Fisher (1935): three of four cups
    assert leaves_more(tally(40, 10), tally(40, 35))
    assert not leaves_more(tally(10, 9), tally(10, 10))


@pytest.mark.expectation(21)
def test_a_hop_that_limits_its_answers_loses_nothing() -> None:
    found = path_loss({1: tally(20, 20), 2: tally(20, 4), 3: tally(20, 20), 4: tally(20, 20)}, end_ttl=4)
    assert found.hops[2].limited
    assert found.hops[2].lost is not None
    assert found.hops[2].lost.ppm == 0
    assert found.hops[2].answers_per_s == pytest.approx(0.04)
    assert not any(found.hops[ttl].limited for ttl in (1, 3, 4))
    assert found.end is not None
    assert found.end.ppm == 0
    assert found.end.most_ppm > 100_000  # twenty probes prove no less
    assert found.between is None


def test_a_silent_hop_is_a_hole_not_a_loss() -> None:
    found = path_loss({1: tally(20, 20), 2: tally(20, 0), 3: tally(20, 20)}, end_ttl=3)
    assert found.hops[2].lost is not None
    assert found.hops[2].lost.ppm == 0
    assert not found.hops[2].limited


def test_loss_that_persists_to_the_end_counts_and_has_a_place() -> None:
    hops = {1: tally(100, 100), 2: tally(100, 100), 3: tally(100, 79), 4: tally(100, 30), 5: tally(100, 80)}
    found = path_loss(hops, end_ttl=5)
    assert found.end is not None
    assert found.end.ppm == 200_000
    assert found.between == (2, 3)
    assert found.hops[4].limited
    assert found.hops[4].lost is not None
    assert found.hops[4].lost.ppm == 200_000
    assert "20 % lost" in found.words
    assert "between hop 2 and hop 3" in found.words


def test_a_hop_that_limits_cannot_say_where_loss_begins() -> None:
    hops = {1: tally(100, 100), 2: tally(100, 20), 3: tally(100, 70)}
    assert path_loss(hops, end_ttl=3).between == (1, 3)


def test_loss_on_the_first_link_begins_at_this_host() -> None:
    found = path_loss({1: tally(100, 70), 2: tally(100, 72)}, end_ttl=2)
    assert found.between == (0, 1)
    assert "between this host and hop 1" in found.words


@pytest.mark.expectation(21)
def test_a_destination_that_never_answers_leaves_loss_unknown_not_total() -> None:
    found = path_loss({1: tally(20, 20), 2: tally(20, 18), 3: tally(20, 0)}, end_ttl=None)
    assert found.end is None
    assert found.hops[3].lost is None
    assert found.hops[2].lost is None  # it may limit its answers
    assert found.hops[1].lost is not None
    assert found.hops[1].lost.ppm == 0
    assert "nobody can say" in found.words


@pytest.mark.expectation(21)
def test_a_destination_that_limits_is_told_by_slower_probes() -> None:
    hops = {1: tally(50, 50, 5), 2: tally(50, 50, 5), 3: tally(50, 12, 5)}
    assert deserves_slow_probes(hops[3], {1: hops[1], 2: hops[2]})
    slow = tally(12, 12, 12)
    assert is_limit(hops[3], slow)
    found = path_loss(hops, end_ttl=3, slow_end=slow)
    assert found.end_limited
    assert found.end is not None
    assert found.end.ppm == 0
    assert found.hops[3].limited
    assert "limits its answers to about 2.4 a second" in found.words
    assert "which is no loss" in found.words


def test_loss_on_the_last_link_stays_loss_when_asked_slowly() -> None:
    hops = {1: tally(50, 50, 5), 2: tally(50, 25, 5)}
    slow = tally(20, 10, 20)
    assert is_settled(hops[2], slow)
    found = path_loss(hops, end_ttl=2, slow_end=slow)
    assert not found.end_limited
    assert found.end is not None
    assert found.end.ppm == 500_000


def test_slow_probes_are_sent_only_on_suspicion() -> None:
    full = {1: tally(50, 50)}
    assert not deserves_slow_probes(tally(50, 50), full)
    assert not deserves_slow_probes(tally(50, 49), full)  # one of fifty
    assert not deserves_slow_probes(tally(50, 0), full)  # it never answered: slower would not help
    assert deserves_slow_probes(tally(50, 25), {1: tally(50, 25)})  # where all are alike, all may limit alike
    assert not deserves_slow_probes(tally(50, 45), {1: tally(50, 45)})
    assert deserves_slow_probes(tally(50, 25), {1: tally(50, 50)})
    assert deserves_slow_probes(tally(10, 5), {})


@pytest.mark.expectation(21)
async def test_over_scripted_paths_no_loss_is_invented_and_none_is_missed() -> None:
    inside = 0
    for seed in range(40):
        way = path(5, seed=seed)
        way.routers[1].answers_per_s = 0.3
        way.routers[2].silent = True
        truth = 0.1 * (seed % 3)
        way.routers[4].loss = truth
        found = path_loss(await probed(way, 100), end_ttl=6)
        assert found.end is not None
        inside += found.end.least_ppm <= truth * 1_000_000 <= found.end.most_ppm
        assert found.hops[2].limited
        for ttl in (1, 2, 3, 4):
            lost = found.hops[ttl].lost
            assert lost is not None
            assert lost.ppm == 0
    assert inside >= 35


def test_it_is_asked_at_slower_and_slower_intervals_down_to_what_linux_allows() -> None:
    assert slower_ms(10) == [40, 1100, 2200]
    assert slower_ms(200) == [800, 1100, 2200]
    assert slower_ms(1000) == [2200]
    assert slower_ms(2000) == []
    assert not is_settled(tally(50, 25), tally(4, 2))
    assert is_settled(tally(50, 25), tally(4, 1))  # futile


async def test_a_bucket_answers_a_smaller_share_of_faster_probes_and_loss_does_not_care() -> None:
    def destination(**options: float) -> ScriptedPath:
        end = Router(address="192.0.2.2", **options)  # type: ignore[arg-type]
        return ScriptedPath(routers=[Router(address="192.0.2.1"), end], seed=3)

    limited = destination(answers_per_s=2.0)
    fast = (await probed(limited, 50, interval_ns=NS_PER_S // 10))[2]
    slow = (await probed(limited, 20, interval_ns=NS_PER_S // 2))[2]
    assert is_limit(fast, slow)
    lossy = destination(loss=0.6)
    assert not is_limit((await probed(lossy, 50))[2], (await probed(lossy, 20, interval_ns=4 * NS_PER_S))[2])


def test_random_tallies_never_give_more_loss_than_the_last_hop_or_less_than_nothing() -> None:
    draw = random.Random(5)
    for _ in range(300):
        hops = {ttl: tally(20, draw.randint(0, 20)) for ttl in range(1, 6)}
        found = path_loss(hops, end_ttl=5 if hops[5].answered else None)
        for ttl, hop in found.hops.items():
            if hop.lost is not None and hops[ttl].answered:
                assert 0 <= hop.lost.least_ppm <= hop.lost.ppm <= hop.lost.most_ppm <= 1_000_000
                assert hop.lost.ppm <= unanswered(hops[ttl]).ppm
