"""The bulk strategy's states, its payment trace against a toll, and the conditions under which it settles."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from pricereactor import reactor
from pricereactor.bulk import BulkPayment, BulkPolicy
from pricereactor.payments import Decision, Observation

MS = 1_000_000
TARGET = 5_000_000


class Flow:
    """A path that serves whoever carries its toll: a step is one round trip of 200 ms."""

    def __init__(self, policy: BulkPolicy) -> None:
        self.payment = BulkPayment(policy)
        self.now_ns = 0
        self.amount = 0

    def step(self, toll: int, *, round_trip_ms: int | None = 200) -> Decision:
        self.now_ns += 200 * MS
        served = self.amount >= toll
        decision = self.payment.on_observation(
            Observation(
                now_ns=self.now_ns,
                goodput_bit_s=TARGET if served else TARGET // 10,
                toll_nanodollars=toll if served else None,
                round_trip_ns=None if round_trip_ms is None else round_trip_ms * MS,
            )
        )
        self.amount = decision.amount_nanodollars
        return decision

    def trace(self, toll: int, steps: int) -> list[int]:
        return [self.step(toll).amount_nanodollars for _ in range(steps)]


def flow(willingness: int = 1000) -> Flow:
    return Flow(BulkPolicy(willingness_nanodollars=willingness, target_bit_s=TARGET))


@pytest.mark.row("BP-45")
def test_payment_trace_of_a_toll_that_comes_and_goes() -> None:
    transfer = flow()
    assert set(transfer.trace(0, 20)) == {0}
    rising = transfer.trace(30, 40)
    assert rising[:15] == [0] * 15
    assert rising[15:30] == [1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30, 30, 30, 30]
    assert set(rising[30:]) == {30}
    falling = transfer.trace(10, 5000)
    steps = [amount for before, amount in pairwise(falling) if amount != before]
    assert steps == [24, 19], "lowered by a fifth each 30 s until the toll is no longer below half"


@pytest.mark.row("BP-48")
@given(
    tolls=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 100)), max_size=8),
    willingness=st.integers(0, 200),
)
def test_price_varies_within_the_willingness_and_never_beyond_it(
    tolls: list[tuple[int, int]], willingness: int
) -> None:
    transfer = flow(willingness)
    for toll, steps in tolls:
        assert max(transfer.trace(toll, steps)) <= willingness


@pytest.mark.row("BP-45")
def test_step_is_never_shorter_than_the_last_round_trip_that_is_known() -> None:
    def raises(round_trip_ms: int | None) -> int:
        transfer = flow()
        transfer.step(10**6, round_trip_ms=round_trip_ms)
        for _ in range(60):
            transfer.step(10**6, round_trip_ms=None)
        return transfer.payment.on_observation(
            Observation(now_ns=0, goodput_bit_s=None, toll_nanodollars=None, round_trip_ns=None)
        ).amount_nanodollars

    assert raises(200) > raises(600) > raises(3000)
    assert raises(None) == raises(1000), "none known: a second, as RFC 6298 has it"


@given(toll=st.integers(1, 500), raise_ppm=st.integers(1_000_001, 2_000_000), data=st.data())
def test_within_its_conditions_a_toll_that_stands_still_ends_in_a_payment_that_stands_still(
    toll: int, raise_ppm: int, data: st.DataObject
) -> None:
    low_ppm = data.draw(st.integers(0, 10**12 // raise_ppm))
    lower_ppm = data.draw(st.integers(low_ppm, 999_999))
    assume(raise_ppm > 1_050_000)  # slower ones settle too, later than is tried here
    policy = BulkPolicy(
        willingness_nanodollars=1000,
        target_bit_s=TARGET,
        raise_ppm=raise_ppm,
        low_toll_ppm=low_ppm,
        lower_ppm=lower_ppm,
    )
    transfer = Flow(policy)
    transfer.trace(toll, 300)
    trace = transfer.trace(toll, 400)
    assert len(set(trace)) == 1
    assert toll <= trace[0] <= -(-(toll - 1) * raise_ppm // 10**6) + 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"raise_ppm": 2_000_001}, "overshoots"),
        ({"raise_ppm": 1_600_000, "low_toll_ppm": 700_000}, "at once be lowered"),
        ({"low_toll_ppm": 500_000, "lower_ppm": 400_000}, "no longer cover its toll"),
        ({"raise_ppm": 1_000_000}, "is no bulk policy"),
    ],
)
def test_gains_beyond_its_conditions_are_refused(changes: dict[str, int], why: str) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        BulkPolicy(willingness_nanodollars=1, target_bit_s=1, **changes)


def test_names_are_still_those_of_the_reactor() -> None:
    assert reactor.BulkPayment is BulkPayment
    assert reactor.Observation is Observation
