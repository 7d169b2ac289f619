"""The congestion policer: the bound of a token bucket, and the Kelly user that it enforces."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.policer import NS_PER_S, CongestionAudit, CongestionPolicer, PolicerSettings

FILL = 12_500  # 1 % of 10 Mbit/s
SETTINGS = PolicerSettings(fill_bytes_per_s=FILL, depth_bytes=10 * FILL)


def test_the_defaults_are_a_hundredth_of_the_access_rate_and_ten_seconds_of_it() -> None:
    assert PolicerSettings.for_access(10_000_000) == SETTINGS
    assert PolicerSettings.for_fill(FILL) == SETTINGS


def test_the_bucket_starts_full_empties_and_fills_at_its_rate() -> None:
    policer = CongestionPolicer(PolicerSettings(fill_bytes_per_s=1000, depth_bytes=3000), now_ns=0)
    assert [policer.admit(1500, now_ns=0) for _ in range(3)] == [True, True, False]
    assert not policer.admit(1500, now_ns=1_499_999_999)
    assert policer.admit(1500, now_ns=1_500_000_000)
    assert policer.level_bytes(1_500_000_000) == 0
    assert policer.level_bytes(10**12) == 3000  # never above its depth


def test_a_packet_that_met_no_congestion_costs_nothing_even_with_an_empty_bucket() -> None:
    policer = CongestionPolicer(PolicerSettings(fill_bytes_per_s=0, depth_bytes=0), now_ns=0)
    assert policer.admit(0, now_ns=0)
    assert not policer.admit(1, now_ns=10**15)


@pytest.mark.row("BP-04")
@pytest.mark.parametrize(("rate", "marked_share"), [(1_250_000, 0.05), (5_000_000, 0.02), (1_250_000, 0.5)])
def test_in_the_long_run_the_congestion_that_passes_is_the_fill_rate(rate: int, marked_share: float) -> None:
    """x·m = w: whoever sends more congestion than w, by rate or by marks, gets w through."""
    rng, policer, passed = random.Random(1), CongestionPolicer(SETTINGS, now_ns=0), 0
    packet, seconds = 15_000, 200
    for n in range(rate * seconds // packet):
        now_ns = n * packet * NS_PER_S // rate
        if rng.random() < marked_share and policer.admit(packet, now_ns=now_ns):
            passed += packet
    assert passed <= SETTINGS.depth_bytes + FILL * seconds
    assert (passed - SETTINGS.depth_bytes) / seconds == pytest.approx(FILL, rel=0.01)


@pytest.mark.row("BP-04")
def test_whoever_stays_below_the_fill_rate_never_meets_the_policer() -> None:
    rng, policer = random.Random(1), CongestionPolicer(SETTINGS, now_ns=0)
    for n in range(100_000):  # 10 Mbit/s with 0.7 % of marks
        assert rng.random() >= 0.007 or policer.admit(1500, now_ns=n * 1500 * NS_PER_S // 1_250_000)


@given(
    fill=st.integers(0, 10**6),
    depth=st.integers(0, 10**7),
    packets=st.lists(st.tuples(st.integers(-(10**8), 10**9), st.integers(0, 65_535)), max_size=60),
)
def test_never_more_than_depth_plus_rate_times_time(fill: int, depth: int, packets: list[tuple[int, int]]) -> None:
    policer = CongestionPolicer(PolicerSettings(fill_bytes_per_s=fill, depth_bytes=depth), now_ns=0)
    now_ns = latest_ns = passed = 0
    for gap, size in packets:
        now_ns = max(0, now_ns + gap)  # a clock may go back; it fills nothing twice
        latest_ns = max(latest_ns, now_ns)
        passed += size if policer.admit(size, now_ns=now_ns) else 0
        assert passed * NS_PER_S <= depth * NS_PER_S + fill * latest_ns
        assert 0 <= policer.level_bytes(now_ns) <= depth


@given(st.integers(1, 10**6), st.integers(1, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_after_the_wait_it_passes_and_a_nanosecond_earlier_it_does_not(
    fill: int, depth: int, first: int, then: int
) -> None:
    def used() -> CongestionPolicer:
        policer = CongestionPolicer(PolicerSettings(fill_bytes_per_s=fill, depth_bytes=depth), now_ns=0)
        policer.admit(first, now_ns=0)
        return policer

    wait = used().wait_ns(then, now_ns=0)
    if wait is None:
        assert then > depth
        return
    assert used().admit(then, now_ns=wait)
    assert wait == 0 or not used().admit(then, now_ns=wait - 1)


def test_without_fill_there_is_nothing_to_wait_for() -> None:
    policer = CongestionPolicer(PolicerSettings(fill_bytes_per_s=0, depth_bytes=1500), now_ns=0)
    assert policer.wait_ns(1500, now_ns=0) == 0
    assert policer.admit(1500, now_ns=0)
    assert policer.wait_ns(1500, now_ns=0) is None


def test_the_audit_finds_who_understates_and_lets_a_round_trip_pass() -> None:
    audit = CongestionAudit(allowance_bytes=3000)
    for _ in range(2):
        audit.on_packet(1500, declared=False, marked=True)
    assert audit.undeclared_bytes == 0  # not declared yet, but within what a round trip excuses
    audit.on_packet(1500, declared=False, marked=True)
    assert audit.undeclared_bytes == 1500
    audit.on_packet(1500, declared=True, marked=False)
    assert audit.undeclared_bytes == 0
    audit.on_packet(1500, declared=True, marked=True)
    assert (audit.declared_bytes, audit.marked_bytes, audit.undeclared_bytes) == (3000, 6000, 0)
