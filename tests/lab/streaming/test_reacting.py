from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import ConfigurationError
from lab.streaming.reacting import Bill, asked_bit_s, default_policy, fitted, ladder_for
from lab.streaming.reception import Counts
from pricereactor.policy import TaskKind, TaskPolicy, problems
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import Source

S = 1_000_000_000
LADDER = (60_000, 150_000, 300_000)


def test_an_interval_costs_its_marks() -> None:
    bill = Bill(1_000)
    bill.begin(0)
    signal = bill.signal(S, Counts(packets=10, bytes=13_000, ce=3, ect=7))
    assert signal is not None
    assert (signal.packets, signal.bytes, signal.marks, signal.charge_nanodollars) == (10, 13_000, 3, 3_000)
    assert (signal.interval_ns, signal.source) == (S, Source.RECEIVER_MARKS)


def test_silence_is_no_price_and_the_next_report_has_it_all() -> None:
    bill = Bill(1_000)
    bill.begin(0)
    assert bill.signal(S, Counts()) is None
    signal = bill.signal(2 * S, Counts(packets=4, bytes=4_000, ce=4))
    assert signal is not None
    assert (signal.interval_ns, signal.charge_nanodollars) == (2 * S, 4_000)
    assert bill.signal(3 * S, Counts(packets=4, bytes=4_000, ce=4)) is None, "a report that came twice is nothing new"
    assert bill.spent_nanodollars == 4_000


@given(intervals=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 10**6)), max_size=20))
def test_the_bill_is_marks_times_price_exactly_across_changes_of_price(intervals: list[tuple[int, int, int]]) -> None:
    bill = Bill(0)
    bill.begin(0)
    packets = marks = owed = 0
    for number, (more, marked, price) in enumerate(intervals, start=1):
        bill.nanodollars_per_mark = price
        packets, marks, owed = packets + more, marks + marked, owed + marked * price
        bill.signal(number * S, Counts(packets=packets, bytes=packets, ce=marks))
    assert bill.spent_nanodollars == owed


def test_the_default_policy_is_one() -> None:
    policy = default_policy(LADDER, worth_nanodollars_per_s=1_000)
    assert not problems(policy)
    assert policy.value[-1].nanodollars_per_s == 1_000
    reactor = ladder_for(policy, now_ns=0, duration_ms=24_000)
    assert reactor.on_interval(S, None).level == 0


def test_a_policy_takes_the_encodings_of_the_video() -> None:
    policy = TaskPolicy(
        name="film", kind=TaskKind.STREAMING, willingness_nanodollars_per_s=5, ladder_bit_s=(1_000_000,)
    )
    assert fitted(policy, LADDER).ladder_bit_s == LADDER
    with pytest.raises(ConfigurationError):
        fitted(TaskPolicy(name="film", kind=TaskKind.ELASTIC, willingness_nanodollars_per_s=5), LADDER)


@pytest.mark.parametrize(
    ("decision", "asked"),
    [
        (RateDecision(target_bit_s=150_000), 150_000),
        (RateDecision(target_bit_s=None, verdict=Verdict.LET_GO), 60_000),
        (RateDecision(target_bit_s=60_000, verdict=Verdict.PAUSE), 60_000),
        (RateDecision(target_bit_s=60_000, verdict=Verdict.STOP), 0),
    ],
)
def test_what_the_sender_is_told(decision: RateDecision, asked: int) -> None:
    assert asked_bit_s(decision, LADDER) == asked
