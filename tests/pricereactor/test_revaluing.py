"""Second thoughts: a running task is worth more or less, and what it has learned and what bounds it stay (DPH-27)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from possible_policies import possible_policies

from pricereactor.policies import RATE_KINDS, Revaluable, reactor_for_task
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint, revalued
from pricereactor.signals import NS_PER_S, PriceSignal, Source

MS = 1_000_000
LADDER = (300_000, 750_000, 1_200_000)


def signal(now_ns: int, interval_ns: int, rate_bit_s: int, nanodollars_per_mb: int) -> PriceSignal:
    size = rate_bit_s * interval_ns // (8 * NS_PER_S)
    packets = max(1, size // 1_250)
    return PriceSignal(
        now_ns=now_ns,
        interval_ns=interval_ns,
        source=Source.RECEIVER_MARKS,
        packets=packets,
        bytes=size,
        marks=packets // 10,
        charge_nanodollars=size * nanodollars_per_mb // 1_000_000,
    )


def test_only_what_it_would_pay_changes() -> None:
    policy = TaskPolicy(
        name="film",
        willingness_nanodollars_per_s=40_000,
        value=(
            ValuePoint(rate_bit_s=300_000, nanodollars_per_s=6),
            ValuePoint(rate_bit_s=600_000, nanodollars_per_s=9),
        ),
        session_budget_nanodollars=7,
        price_ceiling_nanodollars_per_mb=8,
    )
    more = revalued(policy, 1_500_000)
    assert more.willingness_nanodollars_per_s == 60_000
    assert [point.nanodollars_per_s for point in more.value] == [9, 13]
    assert (more.session_budget_nanodollars, more.price_ceiling_nanodollars_per_mb) == (7, 8)
    assert revalued(policy, 1_000_000) == policy
    little = revalued(TaskPolicy(name="a", willingness_nanodollars_per_s=1), 10_000)
    assert little.willingness_nanodollars_per_s == 1, "worth little is not worth nothing"
    assert revalued(TaskPolicy(name="a"), 10**8).willingness_nanodollars_per_s == 0


@pytest.mark.row("DPH-27")
def test_a_film_goes_to_what_it_is_worth_now() -> None:
    policy = TaskPolicy(name="film", kind=TaskKind.STREAMING, ladder_bit_s=LADDER, willingness_nanodollars_per_s=60_000)
    reactor = reactor_for_task(policy, now_ns=0, round_trip_ns=20 * MS)
    assert isinstance(reactor, Revaluable)
    levels, now_ns, rate = {}, 0, LADDER[0]
    for worth_ppm in (1_000_000, 20_000_000, 50_000):
        reactor.revalue(revalued(policy, worth_ppm))
        for _ in range(120):
            now_ns += reactor.interval_ns
            decision = reactor.on_interval(now_ns, signal(now_ns, reactor.interval_ns, rate, 800_000))
            rate = decision.target_bit_s or LADDER[0]
        levels[worth_ppm] = decision.level
    assert levels[20_000_000] == 2
    assert levels[50_000] == 0
    assert levels[1_000_000] is not None


@given(
    policy=possible_policies().filter(lambda policy: policy.kind in RATE_KINDS),
    words=st.lists(st.integers(10_000, 100_000_000), max_size=4),
    prices=st.lists(st.integers(0, 10**7), min_size=1, max_size=6),
)
def test_whatever_is_said_whenever_a_rate_within_its_limits_comes_out(
    policy: TaskPolicy, words: list[int], prices: list[int]
) -> None:
    reactor = reactor_for_task(policy, now_ns=0, round_trip_ns=20 * MS)
    assert isinstance(reactor, Revaluable)
    now_ns, rate = 0, policy.min_bit_s
    for worth_ppm in (*words, 1_000_000):
        for price in prices:
            now_ns += reactor.interval_ns
            decision = reactor.on_interval(now_ns, signal(now_ns, reactor.interval_ns, rate, price))
            rate = decision.target_bit_s or policy.min_bit_s
            assert policy.max_bit_s is None or rate <= policy.max_bit_s
        reactor.revalue(revalued(policy, worth_ppm))
