"""A grant at the gateway: sum, rate and time are bounds that nothing gets around."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.grants import NS_PER_S, GrantGate, Refusal, ReplacementRefusal
from billpay.messages import FlowSelector, Grant, GrantKind

FLOW = FlowSelector(source="10.0.0.1", destination="10.0.9.1", protocol=6, source_port=40_000, destination_port=443)


def grant(**changes: Any) -> Grant:
    terms: dict[str, Any] = {
        "grant": "0" * 32,
        "serial": 1,
        "kind": GrantKind.SPEND,
        "flow": FLOW,
        "cap_nanodollars": 10_000,
        "rate_nanodollars_per_s": 1000,
        "burst_nanodollars": 500,
        "not_before_unix_s": 1_000_000,
        "expires_unix_s": 1_003_600,
        "key": "0f" * 16,
    }
    return Grant(**(terms | changes))


class Spender:
    """Counts what was admitted, as the gateway's counters do."""

    def __init__(self, terms: Grant) -> None:
        self.gate = GrantGate(terms, now_ns=0)
        self.spent_nanodollars = 0

    def pay(self, amount: int, *, now_ns: int) -> Refusal | None:
        refusal = self.gate.admit(amount, spent_nanodollars=self.spent_nanodollars, now_ns=now_ns)
        self.spent_nanodollars += 0 if refusal else amount
        return refusal


# --- the sum ----------------------------------------------------------------------------------------------------------


def test_the_last_nanodollar_of_the_cap_can_be_spent_and_no_more() -> None:
    spender = Spender(grant(cap_nanodollars=10, burst_nanodollars=100))
    assert spender.pay(7, now_ns=0) is None
    assert spender.pay(4, now_ns=0) is Refusal.OVER_SUM
    assert spender.pay(3, now_ns=0) is None
    assert spender.pay(1, now_ns=0) is Refusal.OVER_SUM
    assert spender.pay(0, now_ns=0) is None


@given(
    cap=st.integers(0, 5000),
    rate=st.integers(0, 2000),
    burst=st.integers(0, 2000),
    payments=st.lists(st.tuples(st.integers(-(10**9), 3 * 10**9), st.integers(0, 3000)), max_size=80),
)
def test_never_more_than_the_cap_nor_than_burst_plus_rate_times_time(
    cap: int, rate: int, burst: int, payments: list[tuple[int, int]]
) -> None:
    spender = Spender(grant(cap_nanodollars=cap, rate_nanodollars_per_s=rate, burst_nanodollars=burst))
    now_ns = latest_ns = 0
    for gap_ns, amount in payments:
        now_ns = max(0, now_ns + gap_ns)  # a clock that goes back fills nothing twice
        latest_ns = max(latest_ns, now_ns)
        spender.pay(amount, now_ns=now_ns)
        assert spender.spent_nanodollars <= cap
        assert spender.spent_nanodollars * NS_PER_S <= burst * NS_PER_S + rate * latest_ns


@given(st.lists(st.tuples(st.integers(0, 3 * 10**9), st.integers(0, 3000)), max_size=60))
def test_the_bound_holds_from_every_moment_on(payments: list[tuple[int, int]]) -> None:
    """Not only from the start: between any two admitted payments no more than burst + rate × time."""
    spender, now_ns, admitted = Spender(grant(cap_nanodollars=2**60)), 0, []
    for gap_ns, amount in payments:
        now_ns += gap_ns
        if spender.pay(amount, now_ns=now_ns) is None:
            admitted.append((now_ns, amount))
    for first, (from_ns, _) in enumerate(admitted):
        total = 0
        for to_ns, amount in admitted[first:]:
            total += amount
            assert total * NS_PER_S <= 500 * NS_PER_S + 1000 * (to_ns - from_ns)


# --- the rate ---------------------------------------------------------------------------------------------------------


def test_the_rate_refills_the_burst_to_the_nanosecond() -> None:
    spender = Spender(grant())
    assert spender.pay(500, now_ns=0) is None
    assert spender.pay(1, now_ns=999_999) is Refusal.OVER_RATE
    assert spender.pay(1, now_ns=1_000_000) is None
    assert spender.pay(501, now_ns=10**12) is Refusal.OVER_RATE  # more than the burst never passes at once
    assert spender.pay(500, now_ns=10**12) is None


def test_a_refused_payment_costs_nothing() -> None:
    spender = Spender(grant())
    assert spender.pay(501, now_ns=0) is Refusal.OVER_RATE
    assert spender.pay(20_000, now_ns=0) is Refusal.OVER_SUM
    assert spender.pay(500, now_ns=0) is None


def test_the_sum_is_named_before_the_rate() -> None:
    assert Spender(grant(cap_nanodollars=10, burst_nanodollars=5)).pay(11, now_ns=0) is Refusal.OVER_SUM
    assert list(Refusal) == [Refusal.NOT_YET_VALID, Refusal.EXPIRED, Refusal.OVER_SUM, Refusal.OVER_RATE]


# --- the time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unix_s", "refusal"),
    [
        (0, Refusal.NOT_YET_VALID),
        (999_999, Refusal.NOT_YET_VALID),
        (1_000_000, None),
        (1_003_599, None),
        (1_003_600, Refusal.EXPIRED),
        (2_000_000, Refusal.EXPIRED),
    ],
)
def test_a_grant_holds_from_its_first_second_until_before_its_last(unix_s: int, refusal: Refusal | None) -> None:
    assert GrantGate(grant(), now_ns=0).validity(unix_s) is refusal


def test_a_clock_that_is_set_back_revives_nothing() -> None:
    gate = GrantGate(grant(), now_ns=0)
    assert gate.validity(1_003_600) is Refusal.EXPIRED
    assert gate.validity(1_000_000) is Refusal.EXPIRED
    assert gate.validity(0) is Refusal.EXPIRED


@given(st.lists(st.integers(0, 2_100_000), max_size=30))
def test_validity_only_ever_goes_forward(clock: list[int]) -> None:
    order = [Refusal.NOT_YET_VALID, None, Refusal.EXPIRED]
    gate = GrantGate(grant(), now_ns=0)
    stages = [order.index(gate.validity(unix_s)) for unix_s in clock]
    assert stages == sorted(stages)


def test_an_extended_grant_is_valid_again() -> None:
    gate = GrantGate(grant(), now_ns=0)
    assert gate.validity(1_003_600) is Refusal.EXPIRED
    assert gate.replace(grant(serial=2, expires_unix_s=1_007_200), now_ns=0) is None
    assert gate.validity(1_003_600) is None


# --- replacement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"serial": 1}, ReplacementRefusal.OLD_SERIAL),
        ({"serial": 0, "key": "11" * 16}, ReplacementRefusal.OLD_SERIAL),
        ({"serial": 2, "flow": msgspec.structs.replace(FLOW, destination="")}, ReplacementRefusal.OTHER_FLOW),
        ({"serial": 2, "kind": GrantKind.RETURN}, ReplacementRefusal.OTHER_KIND),
        ({"serial": 2, "key": "11" * 16}, ReplacementRefusal.OTHER_KEY),
        ({"serial": 2}, None),
        ({"serial": 900, "cap_nanodollars": 5, "rate_nanodollars_per_s": 0, "burst_nanodollars": 0}, None),
    ],
)
def test_only_a_newer_version_for_the_same_flow_kind_and_key_replaces(
    changes: dict[str, Any], refusal: ReplacementRefusal | None
) -> None:
    gate, old, new = GrantGate(grant(), now_ns=0), grant(), grant(**changes)
    assert gate.replace(new, now_ns=0) is refusal
    assert gate.grant == (old if refusal else new)


def test_what_was_spent_counts_against_the_new_cap() -> None:
    spender = Spender(grant(cap_nanodollars=100))
    assert spender.pay(100, now_ns=0) is None
    assert spender.gate.replace(grant(serial=2, cap_nanodollars=150), now_ns=0) is None
    assert spender.pay(51, now_ns=0) is Refusal.OVER_SUM
    assert spender.pay(50, now_ns=0) is None


def test_a_replacement_gives_no_fresh_burst() -> None:
    spender = Spender(grant())
    assert spender.pay(500, now_ns=0) is None
    assert spender.gate.replace(grant(serial=2), now_ns=0) is None
    assert spender.pay(1, now_ns=0) is Refusal.OVER_RATE


def test_a_smaller_burst_holds_at_once() -> None:
    spender = Spender(grant())
    assert spender.gate.replace(grant(serial=2, burst_nanodollars=10), now_ns=0) is None
    assert spender.pay(11, now_ns=0) is Refusal.OVER_RATE
    assert spender.pay(10, now_ns=0) is None


def test_a_higher_rate_counts_from_the_replacement_on() -> None:
    spender = Spender(grant())
    assert spender.pay(500, now_ns=0) is None
    faster = grant(serial=2, rate_nanodollars_per_s=1_000_000, burst_nanodollars=5000)
    assert spender.gate.replace(faster, now_ns=100_000_000) is None  # 100 nanodollars at the old rate
    assert spender.pay(101, now_ns=100_000_000) is Refusal.OVER_RATE
    assert spender.pay(101, now_ns=100_001_000) is None


def test_a_refused_replacement_changes_nothing() -> None:
    spender = Spender(grant())
    other_key = grant(serial=2, key="11" * 16, cap_nanodollars=2**60, burst_nanodollars=2**60)
    assert spender.gate.replace(other_key, now_ns=0) is ReplacementRefusal.OTHER_KEY
    assert spender.pay(501, now_ns=0) is Refusal.OVER_RATE
    assert spender.pay(10_001, now_ns=0) is Refusal.OVER_SUM


def test_a_key_never_shows_in_a_log() -> None:
    assert "0f0f" not in repr(grant())
