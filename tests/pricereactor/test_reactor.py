"""The price reactors on a virtual clock: the bulk rule step by step, and what must hold whatever is observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from billpay.header import MAX_AMOUNT_NANODOLLARS
from pricereactor.reactor import (
    BulkPayment,
    BulkPolicy,
    Decision,
    FixedPayment,
    Observation,
    Reactor,
    Strategy,
    reactor_for,
)

MS = 1_000_000
S = 1000 * MS
TARGET = 5_000_000
FAST, SLOW = 6_000_000, 1_000_000


class Transfer:
    """A flow with a clock: each call is one observation."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.now_ns = 0

    def sees(
        self, goodput_bit_s: int | None, *, toll: int | None = None, after_ms: int = 200, rtt_ms: int = 50
    ) -> Decision:
        self.now_ns += after_ms * MS
        return self.reactor.on_observation(
            Observation(
                now_ns=self.now_ns,
                goodput_bit_s=goodput_bit_s,
                toll_nanodollars=toll,
                round_trip_ns=rtt_ms * MS,
            )
        )

    def amounts(self, goodput_bit_s: int | None, *, times: int, toll: int | None = None) -> list[int]:
        return [self.sees(goodput_bit_s, toll=toll).amount_nanodollars for _ in range(times)]


def bulk(willingness: int = 100) -> Transfer:
    return Transfer(BulkPayment(BulkPolicy(willingness_nanodollars=willingness, target_bit_s=TARGET)))


@pytest.mark.row("BP-45")
def test_bulk_pays_nothing_until_it_was_too_slow_for_three_seconds() -> None:
    transfer = bulk()
    assert transfer.amounts(FAST, times=10) == [0] * 10
    assert transfer.amounts(SLOW, times=15) == [0] * 15  # slow from 2.2 s on, so at 5.0 s for 2.8 s
    decision = transfer.sees(SLOW)
    assert decision.amount_nanodollars == 1
    assert decision.reason == (
        "pays 1 of at most 100 n$: 1.0 Mbit/s is below the target of 5.0 Mbit/s for 3.0 s: step 1"
    )


def test_a_single_good_second_starts_the_patience_again() -> None:
    transfer = bulk()
    transfer.amounts(SLOW, times=14)
    transfer.sees(FAST)
    assert transfer.amounts(SLOW, times=15) == [0] * 15
    assert transfer.sees(SLOW).amount_nanodollars == 1


@pytest.mark.row("BP-45")
def test_payment_rises_gradually_and_stops_at_the_willingness_to_pay() -> None:
    transfer = bulk(willingness=20)
    assert transfer.amounts(SLOW, times=30)[15:] == [1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 20, 20, 20, 20, 20]
    assert "worth no more" in transfer.sees(SLOW).reason


@pytest.mark.row("BP-45")
def test_every_second_step_tries_another_path() -> None:
    transfer = bulk(willingness=5)
    asked = [transfer.sees(SLOW).try_other_path for _ in range(25)]
    assert asked == [False] * 15 + [False, True, False, True, False] + [False] * 5  # no step beyond the limit


def test_a_step_is_a_round_trip_but_never_shorter_than_200_ms() -> None:
    short, long = bulk(), bulk()
    for _ in range(30):
        short.sees(SLOW, after_ms=100, rtt_ms=20)
        long.sees(SLOW, after_ms=100, rtt_ms=500)
    assert [short.sees(SLOW, after_ms=100, rtt_ms=20).amount_nanodollars for _ in range(6)] == [1, 1, 2, 2, 3, 3]
    assert [long.sees(SLOW, after_ms=100, rtt_ms=500).amount_nanodollars for _ in range(6)] == [1, 1, 1, 1, 1, 2]


@pytest.mark.row("BP-45")
def test_payment_stays_when_the_target_is_met_and_falls_when_tolls_stay_low() -> None:
    transfer = bulk()
    paid = transfer.amounts(SLOW, times=22)[-1]
    assert paid == 9
    assert transfer.amounts(FAST, times=150, toll=4) == [9] * 150  # 4 < 4.5, since 0 s to 29.8 s
    assert transfer.sees(FAST, toll=4).amount_nanodollars == 7
    assert transfer.amounts(FAST, times=200, toll=4) == [7] * 200  # 4 is not below 3.5: the payment has settled


def test_one_high_toll_proves_that_they_did_not_stay_low() -> None:
    transfer = bulk()
    transfer.amounts(SLOW, times=22)
    transfer.amounts(FAST, times=149, toll=4)
    transfer.sees(FAST, toll=5)
    assert transfer.amounts(FAST, times=150, toll=4) == [9] * 150


def test_free_path_ends_at_no_payment() -> None:
    transfer = bulk()
    transfer.amounts(SLOW, times=30)
    assert transfer.amounts(FAST, times=20 * 160, toll=0)[-1] == 0


def test_after_lowering_the_full_patience_passes_before_anything_is_added() -> None:
    transfer = bulk(willingness=10)
    transfer.amounts(SLOW, times=40)
    amounts = transfer.amounts(SLOW, times=151, toll=1)
    assert amounts[-2:] == [10, 8]
    assert transfer.amounts(SLOW, times=16, toll=1) == [8] * 15 + [10]


@pytest.mark.row("BP-14")
def test_sender_reacts_to_the_toll_alone_as_it_rises_and_falls() -> None:
    """A congested path that serves whoever pays its toll: the payment follows the toll up, and later down."""
    transfer = bulk(willingness=50)

    def served(toll: int, steps: int) -> int:
        amount = 0
        for _ in range(steps):
            enough = transfer.sees(None, after_ms=0).amount_nanodollars >= toll
            amount = transfer.sees(FAST if enough else SLOW, toll=min(toll, amount)).amount_nanodollars
        return amount

    assert served(0, 50) == 0
    assert served(10, 50) == 12
    assert served(20, 50) == 24
    assert served(90, 60) == 50, "dearer than it is worth: pays its limit and no more"
    assert served(2, 5000) == 4


def test_unknown_goodput_changes_nothing() -> None:
    transfer = bulk()
    assert transfer.amounts(None, times=100) == [0] * 100
    transfer.amounts(SLOW, times=20)
    assert set(transfer.amounts(None, times=100)) == {5}


def test_without_willingness_nothing_is_paid() -> None:
    transfer = bulk(willingness=0)
    assert set(transfer.amounts(SLOW, times=50)) == {0}


def test_fixed_pays_the_same_and_is_bounded_by_the_willingness() -> None:
    transfer = Transfer(reactor_for("fixed", amount_nanodollars=20, willingness_nanodollars=15, target_bit_s=0))
    assert transfer.amounts(SLOW, times=20, toll=3) == [15] * 20
    assert transfer.sees(SLOW).reason == "the rule fixes 15 n$ for each packet"


@pytest.mark.parametrize("strategy", list(Strategy))
def test_every_strategy_has_a_reactor(strategy: Strategy) -> None:
    arguments = {"amount_nanodollars": 0, "willingness_nanodollars": 9, "target_bit_s": TARGET}
    at_first = 9 if strategy is Strategy.TIMELY else 0  # what cannot wait pays all until it knows what is enough
    for name in (strategy, strategy.value):
        assert Transfer(reactor_for(name, **arguments)).sees(SLOW).amount_nanodollars == at_first


def test_unknown_strategy_and_impossible_amounts_are_refused() -> None:
    with pytest.raises(ValueError, match="generous"):
        reactor_for("generous", amount_nanodollars=0, willingness_nanodollars=0, target_bit_s=0)
    with pytest.raises(LocalProtocolError):
        FixedPayment(-1)
    with pytest.raises(LocalProtocolError):
        BulkPolicy(willingness_nanodollars=MAX_AMOUNT_NANODOLLARS + 1, target_bit_s=0)
    with pytest.raises(LocalProtocolError):
        BulkPolicy(willingness_nanodollars=1, target_bit_s=0, raise_ppm=1_000_000)


amounts = st.integers(0, MAX_AMOUNT_NANODOLLARS)
observations = st.lists(
    st.tuples(
        st.integers(0, 10 * S),
        st.none() | st.integers(0, 2 * TARGET),
        st.none() | amounts,
        st.none() | st.integers(0, 10 * S),
    ),
    max_size=60,
)


@pytest.mark.row("BP-45")
@given(willingness=amounts, seen=observations)
def test_never_above_the_willingness_and_never_negative(
    willingness: int, seen: list[tuple[int, int | None, int | None, int | None]]
) -> None:
    reactor = BulkPayment(BulkPolicy(willingness_nanodollars=willingness, target_bit_s=TARGET))
    now_ns = before = 0
    for gap_ns, goodput, toll, round_trip in seen:
        now_ns += gap_ns
        decision = reactor.on_observation(
            Observation(now_ns=now_ns, goodput_bit_s=goodput, toll_nanodollars=toll, round_trip_ns=round_trip)
        )
        assert 0 <= decision.amount_nanodollars <= willingness
        assert decision.amount_nanodollars <= max(1, -(-before * 5 // 4))
        assert "\n" not in decision.reason
        before = decision.amount_nanodollars


@given(
    seen=st.lists(
        st.tuples(st.integers(0, 10 * S), st.integers(TARGET, 10**12), st.none() | amounts, st.none() | amounts),
        max_size=60,
    )
)
def test_nothing_is_ever_paid_while_the_target_is_met(seen: list[tuple[int, int, int | None, int | None]]) -> None:
    reactor = BulkPayment(BulkPolicy(willingness_nanodollars=1000, target_bit_s=TARGET))
    now_ns = 0
    for gap_ns, goodput, toll, round_trip in seen:
        now_ns += gap_ns
        decision = reactor.on_observation(
            Observation(now_ns=now_ns, goodput_bit_s=goodput, toll_nanodollars=toll, round_trip_ns=round_trip)
        )
        assert decision.amount_nanodollars == 0
        assert not decision.try_other_path
