"""The reactor for each kind of task, as a library: nothing of the agent, driven by plain calls."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from possible_policies import possible_policies

from billpay.errors import ConfigurationError, LocalProtocolError
from billpay.header import MAX_AMOUNT_NANODOLLARS
from pricereactor.bulk import BulkPayment
from pricereactor.elastic import ElasticRate
from pricereactor.payments import Observation
from pricereactor.policies import (
    PAYMENT_KINDS,
    RATE_KINDS,
    budget_left,
    interval_ns_for,
    payment_reactor_for_task,
    reactor_for_task,
    timely_for_task,
)
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint
from pricereactor.rates import RateReactor, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal, Source
from pricereactor.streaming import StreamingLadder
from pricereactor.timely import Path, TimelyPayment
from pricereactor.transfer import TransferByDeadline

MS = 1_000_000


def elastic(**changes: object) -> TaskPolicy:
    return TaskPolicy(name="task", **({"willingness_nanodollars_per_s": 1_000_000} | changes))  # type: ignore[arg-type]


def made(policy: TaskPolicy, **more: object) -> RateReactor:
    return reactor_for_task(policy, now_ns=0, round_trip_ns=20 * MS, **more)  # type: ignore[arg-type]


class Line:
    """Carries what is sent, and charges so much for each bit."""

    def __init__(self, reactor: RateReactor) -> None:
        self.reactor = reactor
        self.now_ns = 0
        self.spent = 0
        self.decision = reactor.on_interval(0, None)

    def second(self, nanodollars_per_bit: float) -> None:
        end_ns = self.now_ns + NS_PER_S
        while self.now_ns < end_ns:
            self.now_ns += self.reactor.interval_ns
            size = round((self.decision.target_bit_s or 0) * self.reactor.interval_ns / NS_PER_S / 8)
            charge = round(size * 8 * nanodollars_per_bit)
            self.spent += charge
            signal = PriceSignal(
                now_ns=self.now_ns,
                interval_ns=self.reactor.interval_ns,
                source=Source.RECEIVER_MARKS,
                packets=size // 1500,
                bytes=size,
                marks=0,
                charge_nanodollars=charge,
            )
            self.decision = self.reactor.on_interval(self.now_ns, signal)


@pytest.mark.row("DPH-04")
@given(possible_policies())
def test_every_possible_policy_has_exactly_one_reactor_which_begins_within_its_rates(policy: TaskPolicy) -> None:
    if policy.kind in RATE_KINDS:
        reactor = made(policy)
        assert reactor.interval_ns >= 20 * MS
        first = reactor.on_interval(0, None)
        assert first.verdict in (Verdict.GO, Verdict.PAUSE, Verdict.STOP)
        if first.verdict is Verdict.GO:
            assert first.target_bit_s is not None
            assert policy.min_bit_s <= first.target_bit_s <= (policy.max_bit_s or 10**18)
        with pytest.raises(LocalProtocolError, match="has a rate"):
            payment_reactor_for_task(policy)
    else:
        assert policy.kind in PAYMENT_KINDS
        payment = payment_reactor_for_task(policy)
        observation = Observation(now_ns=0, goodput_bit_s=None, toll_nanodollars=None, round_trip_ns=None)
        assert 0 <= payment.on_observation(observation).amount_nanodollars <= MAX_AMOUNT_NANODOLLARS
        with pytest.raises(LocalProtocolError, match="no rate"):
            made(policy)


def test_each_kind_has_its_own() -> None:
    streaming = elastic(kind=TaskKind.STREAMING, ladder_bit_s=(300_000, 900_000))
    transfer = elastic(kind=TaskKind.TRANSFER, size_bytes=10**6, deadline_s=60)
    assert isinstance(made(elastic()), ElasticRate)
    assert isinstance(made(streaming), StreamingLadder)
    assert isinstance(made(transfer, access_bit_s=10**7), TransferByDeadline)
    assert isinstance(payment_reactor_for_task(elastic(kind=TaskKind.BULK)), BulkPayment)
    assert isinstance(payment_reactor_for_task(elastic(kind=TaskKind.TIMELY)), TimelyPayment)
    assert interval_ns_for(streaming, round_trip_ns=10 * MS) == 500 * MS
    assert interval_ns_for(elastic(), round_trip_ns=900 * MS) == 900 * MS
    with pytest.raises(ConfigurationError):
        made(TaskPolicy(name="a"))


@pytest.mark.row("DPH-04")
def test_budget_is_the_session_s_or_what_is_left_of_the_day() -> None:
    assert budget_left(elastic()) is None
    both = elastic(session_budget_nanodollars=10, day_budget_nanodollars=100)
    assert [budget_left(both, spent_today_nanodollars=spent) for spent in (0, 95, 200)] == [10, 5, 0]
    kinds: list[dict[str, object]] = [
        {},
        {"kind": TaskKind.STREAMING, "ladder_bit_s": (300_000, 900_000)},
        {"kind": TaskKind.TRANSFER, "size_bytes": 10**9, "deadline_s": 600},
    ]
    for fields in kinds:
        policy = elastic(session_budget_nanodollars=10**7, day_budget_nanodollars=10**7, **fields)
        line = Line(made(policy, spent_today_nanodollars=4 * 10**6))
        for second in range(120):
            line.second(0.5 if second % 20 < 10 else 2.0)
        assert line.decision.verdict is Verdict.STOP, fields
        assert line.decision.target_bit_s == 0
        assert 10**6 < line.spent <= 6 * 10**6


@pytest.mark.row("DPH-04")
def test_elastic_task_spends_its_willingness_and_never_wants_what_is_worth_nothing() -> None:
    line = Line(made(elastic(), nanodollars_per_mark=12_000))
    for _ in range(30):
        line.second(0.5)
    assert line.decision.target_bit_s == pytest.approx(2_000_000, rel=0.1)
    curve = (
        ValuePoint(rate_bit_s=100_000, nanodollars_per_s=200_000),
        ValuePoint(rate_bit_s=500_000, nanodollars_per_s=400_000),
    )
    line = Line(made(elastic(value=curve)))
    for _ in range(30):
        line.second(0.5)
    assert line.decision.target_bit_s == pytest.approx(500_000, rel=0.1), "more is worth no more"
    for _ in range(30):
        line.second(3.0)
    assert (line.decision.verdict, line.decision.target_bit_s) == (Verdict.PAUSE, 64_000), "no rate is worth its price"


def test_willingness_for_a_packet_is_that_for_a_second_at_the_largest_rate() -> None:
    bulk = elastic(kind=TaskKind.BULK, min_bit_s=1_200_000, willingness_nanodollars_per_s=50_000)
    slow = Observation(now_ns=0, goodput_bit_s=1, toll_nanodollars=None, round_trip_ns=MS)
    payment = payment_reactor_for_task(bulk)
    assert payment.on_observation(slow).reason.startswith("pays nothing of at most 500 n$: 1 bit/s is below")
    assert "of 1.2 Mbit/s" in payment.on_observation(slow).reason
    faster = elastic(
        kind=TaskKind.BULK, min_bit_s=1_200_000, max_bit_s=12_000_000, willingness_nanodollars_per_s=50_000
    )
    assert "of at most 50 n$" in payment_reactor_for_task(faster).on_observation(slow).reason
    ceiling = elastic(kind=TaskKind.BULK, price_ceiling_nanodollars_per_mb=20_000)
    assert "of at most 30 n$" in payment_reactor_for_task(ceiling).on_observation(slow).reason


@pytest.mark.row("BP-47")
def test_probes_of_a_timely_task_have_a_budget_of_their_own_out_of_the_session_s() -> None:
    call = elastic(kind=TaskKind.TIMELY, min_bit_s=120_000, willingness_nanodollars_per_s=1000)
    paths = [Path(name="a", networks=frozenset("a"))]

    def probes(policy: TaskPolicy) -> int:
        timely = timely_for_task(policy)
        for second in range(100_000 // 10):
            timely.plan(second * 10 * NS_PER_S, paths)
        return timely.probes_nanodollars

    assert probes(call) == 60_000
    assert (
        probes(
            elastic(
                kind=TaskKind.TIMELY,
                min_bit_s=120_000,
                willingness_nanodollars_per_s=1000,
                session_budget_nanodollars=50_000,
            )
        )
        == 5_000
    )


@pytest.mark.row("DPH-32")
def test_reactor_inside_a_program_brings_nothing_of_the_agent_with_it() -> None:
    """What a player would do: import, make, ask. In a process of its own, to see what was imported."""
    program = """
import sys
from pricereactor.policies import reactor_for_task
from pricereactor.sdp import from_sdp
from pricereactor.signals import PriceSignal, Source
lines = "a=x-buy:task film streaming", "a=x-buy:willingness 1000000", "a=x-buy:ladder 300000 900000"
policy = from_sdp("\\r\\n".join(lines))
reactor = reactor_for_task(policy, now_ns=0, round_trip_ns=20_000_000)
for step in range(1, 30):
    now_ns = step * reactor.interval_ns
    signal = PriceSignal(now_ns=now_ns, interval_ns=reactor.interval_ns, source=Source.RECEIVER_MARKS,
        packets=10, bytes=15_000, marks=1, charge_nanodollars=100)
    decision = reactor.on_interval(now_ns, signal)
print(decision.target_bit_s)
imported = {name.partition(".")[0] for name in sys.modules}
agent = {"hostagent", "gateway", "secretary", "dataplane", "neighbour", "lab", "asyncio", "numpy", "aiohttp"}
print(sorted(imported & agent))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "900000\n[]\n"


@given(possible_policies(), st.integers(1, 65_535))
def test_no_packet_of_a_payment_task_carries_more_than_its_willingness_for_a_second_allows(
    policy: TaskPolicy, packet_bytes: int
) -> None:
    if policy.kind is not TaskKind.TIMELY:
        return
    timely = timely_for_task(policy, packet_bytes=packet_bytes)
    amount = timely.plan(0, [Path(name="a", networks=frozenset())]).amount_nanodollars
    rate = policy.max_bit_s or policy.min_bit_s
    assert amount * rate <= policy.willingness_nanodollars_per_s * packet_bytes * 8
