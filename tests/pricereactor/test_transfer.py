"""The transfer reactor over synthetic prices on a virtual clock: its deadline, its cost, and when it gives up."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal, Source
from pricereactor.transfer import HOUR_NS, DayTable, Forecast, RunningMean, TransferByDeadline, TransferSettings

MB = 1_000_000
ACCESS = 10_000_000
INTERVAL_NS = 200_000_000
Price = Callable[[float], float]


def policy(**changes: object) -> TaskPolicy:
    fields = {
        "name": "backup",
        "kind": TaskKind.TRANSFER,
        "session_budget_nanodollars": 2**60,
        "size_bytes": 20 * MB,
        "deadline_s": 120,
    }
    return TaskPolicy(**(fields | changes))  # type: ignore[arg-type]


def run(
    price: Price,
    task: TaskPolicy | None = None,
    *,
    access_bit_s: int = ACCESS,
    forecast: Forecast | None = None,
    delivers: float = 1.0,
    lost: Callable[[int], bool] = lambda _: False,
) -> tuple[TransferByDeadline, float, list[RateDecision]]:
    """Until it stops; when that was, and what it said. Charges and bytes of lost reports come with the next one."""
    reactor = TransferByDeadline(
        task or policy(), now_ns=0, interval_ns=INTERVAL_NS, access_bit_s=access_bit_s, forecast=forecast
    )
    said = [reactor.on_interval(0, None)]
    now_ns = charge = size = 0
    while said[-1].verdict is not Verdict.STOP and len(said) < 5000:
        now_ns += INTERVAL_NS
        rate = access_bit_s if said[-1].target_bit_s is None else said[-1].target_bit_s
        size += round(min(rate, access_bit_s * delivers) * INTERVAL_NS / NS_PER_S / 8)
        charge = round(price(now_ns / NS_PER_S) * size * 8)
        signal = None
        if not lost(len(said)):
            signal = PriceSignal(
                now_ns=now_ns,
                interval_ns=INTERVAL_NS,
                source=Source.RECEIVER_MARKS,
                packets=1 + size // 1500,
                bytes=size,
                marks=0,
                charge_nanodollars=charge,
            )
            size = charge = 0
        said.append(reactor.on_interval(now_ns, signal))
    return reactor, now_ns / NS_PER_S, said


def even_cost(price: Price, task: TaskPolicy) -> float:
    """What the same bytes cost at a constant rate that ends exactly at the deadline."""
    assert task.size_bytes is not None
    assert task.deadline_s is not None
    steps = task.deadline_s * NS_PER_S // INTERVAL_NS
    bits = task.size_bytes * 8 / 0.96
    return sum(price((n + 1) * INTERVAL_NS / NS_PER_S) * bits / steps for n in range(steps))


def swinging(t: float) -> float:
    return 1000 * (1.0 + 0.8 * math.sin(2 * math.pi * t / 30))


def squares(t: float) -> float:
    return 1000 * (3.0 if t % 40 < 20 else 0.5)


def noise(seed: int) -> Price:
    """A walk in the logarithm, a new step each five seconds."""
    source = random.Random(seed)
    levels = [0.0]
    for _ in range(400):
        levels.append(0.8 * levels[-1] + source.gauss(0, 0.6))
    return lambda t: 1000 * math.exp(levels[int(t / 5)])


@pytest.mark.row("DPH-24")
@pytest.mark.parametrize("price", [swinging, squares, noise(1), noise(2), noise(3)])
def test_deadline_is_met_for_less_than_a_constant_rate_would_pay(price: Price) -> None:
    reactor, ended_s, said = run(price)
    assert said[-1].reason == "all has arrived"
    assert ended_s <= 120
    assert reactor.spent_nanodollars < 0.97 * even_cost(price, policy())


def test_constant_price_is_the_constant_rate() -> None:
    even = 20 * MB * 8 / 0.96 / 120
    reactor, ended_s, said = run(lambda _: 1000.0)
    rates = [decision.target_bit_s for decision in said[1:-10]]
    assert all(rate == pytest.approx(even, rel=0.02) for rate in rates)
    assert 117 <= ended_s <= 120
    assert reactor.spent_nanodollars == pytest.approx(even_cost(lambda _: 1000.0, policy()), rel=0.01)


def test_rate_is_the_formula_of_the_source() -> None:
    table = DayTable([8_000_000] * 24, midnight_ns=0)  # 1 n$ for a bit
    reactor = TransferByDeadline(policy(), now_ns=0, interval_ns=INTERVAL_NS, forecast=table)

    def heard(price: float) -> int | None:
        signal = PriceSignal(
            now_ns=1,
            interval_ns=INTERVAL_NS,
            source=Source.TOLLS,
            packets=1,
            bytes=1,
            marks=0,
            charge_nanodollars=round(8 * price),
        )
        fresh = TransferByDeadline(policy(), now_ns=0, interval_ns=INTERVAL_NS, forecast=table)
        return fresh.on_interval(1, signal).target_bit_s

    even = 20 * MB * 8 / 0.96 / (120 - 3 * 0.2)
    assert reactor.on_interval(0, None).target_bit_s == round(even), "no price: even"
    assert heard(2.0) == pytest.approx(even / 2, rel=1e-4)
    assert heard(0.5) == pytest.approx(even * 2, rel=1e-4)
    assert heard(1000.0) == pytest.approx(even / 4, rel=1e-4), "no further"
    assert heard(0.0) == pytest.approx(even * 4, rel=1e-4), "free, and yet not everything at once"


@given(
    seed=st.integers(0, 10**6),
    load=st.floats(0.1, 0.85),
    delivers=st.floats(0.95, 1.0),
    wrong=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_feasible_deadline_is_never_missed_however_wrong_the_forecast(
    seed: int, load: float, delivers: float, wrong: float
) -> None:
    size = round(ACCESS / 8 * 30 * load * 0.96)
    table = DayTable([round(8e9 * wrong)] * 24, midnight_ns=0)
    _, ended_s, said = run(noise(seed), policy(size_bytes=size, deadline_s=30), forecast=table, delivers=delivers)
    assert said[-1].reason == "all has arrived"
    assert ended_s <= 30


def test_lost_reports_delay_nothing_and_hide_no_charge() -> None:
    reactor, ended_s, said = run(swinging, lost=lambda n: n % 3 != 0)
    assert said[-1].reason == "all has arrived"
    assert ended_s <= 120
    assert reactor.spent_nanodollars < even_cost(swinging, policy())


def test_silence_lets_go_and_no_report_is_no_price() -> None:
    _, ended_s, said = run(swinging, lost=lambda n: 100 < n < 200)
    verdicts = [decision.verdict for decision in said]
    assert verdicts[101:151] == [Verdict.GO] * 50
    assert verdicts[152:200] == [Verdict.LET_GO] * 48
    assert said[160].target_bit_s is None
    assert said[-1].reason == "all has arrived"
    assert ended_s <= 120


def test_never_pays_more_per_second_than_its_willingness() -> None:
    willing = 3_000_000_000  # the even rate costs 1.4e9 n$ a second in the mean
    task = policy(willingness_nanodollars_per_s=willing)
    table = DayTable([14_000_000_000] * 24, midnight_ns=0)
    reactor, ended_s, said = run(squares, task, forecast=table)
    assert ended_s <= 120
    for second, decision in enumerate(said):
        if second * INTERVAL_NS / NS_PER_S % 20 > 15 and decision.target_bit_s:
            now_s = second * INTERVAL_NS / NS_PER_S
            assert decision.target_bit_s * squares(now_s) <= 1.1 * willing
    assert reactor.spent_nanodollars <= willing * ended_s


@pytest.mark.row("DPH-24")
def test_it_gives_up_when_what_is_left_costs_more_than_it_is_worth_but_not_for_one_spike() -> None:
    value = (ValuePoint(rate_bit_s=8_000, nanodollars_per_s=3_000_000_000),)

    def spike(t: float) -> float:
        return 50_000.0 if 20 < t < 24 else 1000.0

    def for_good(t: float) -> float:
        return 50_000.0 if t > 20 else 1000.0

    table = DayTable([8_000_000_000] * 24, midnight_ns=0)
    assert run(spike, policy(value=value), forecast=table)[2][-1].reason == "all has arrived"
    reactor, ended_s, said = run(for_good, policy(value=value))
    assert 30 <= ended_s < 60
    assert said[-1].target_bit_s == 0
    assert "would cost" in said[-1].reason
    assert reactor.spent_nanodollars < 120 * 3_000_000_000
    said = run(for_good, policy(value=value, attended=True))[2]
    paused = [decision for decision in said if decision.verdict is Verdict.PAUSE]
    assert paused[0].reason.endswith("go on, or give it up?")
    assert paused[0].target_bit_s == policy().min_bit_s


def test_deadline_that_has_passed_ends_it_and_budget_that_is_used_up_too() -> None:
    _, ended_s, said = run(lambda _: 0.0, policy(), access_bit_s=500_000)
    assert (ended_s, said[-1].reason) == (120, "its deadline has passed")
    budget = 100_000_000_000
    reactor, _, said = run(swinging, policy(session_budget_nanodollars=budget))
    assert said[-1].verdict is Verdict.STOP
    assert reactor.spent_nanodollars <= budget


@given(seed=st.integers(0, 10**6), budget=st.integers(0, 4 * 10**11), skips=st.integers(1, 6))
def test_budget_is_kept_whatever_the_price_does_and_whichever_reports_are_lost(
    seed: int, budget: int, skips: int
) -> None:
    """A price may rise within an interval by no more than its walk does: that much is kept in hand."""
    task = policy(session_budget_nanodollars=budget, size_bytes=5 * MB, deadline_s=30)
    reactor, _, _ = run(noise(seed), task, lost=lambda n: n % skips != 0)
    assert reactor.spent_nanodollars <= budget * 1.02 + 2_000_000_000


def test_day_table_is_the_mean_of_its_hours() -> None:
    table = DayTable([8_000_000 * (hour + 1) for hour in range(24)], midnight_ns=-HOUR_NS)
    assert table.mean(0, HOUR_NS) == 2.0
    assert table.mean(HOUR_NS // 2, 3 * HOUR_NS // 2) == 2.5
    assert table.mean(0, 24 * HOUR_NS) == 12.5
    assert table.mean(5, 5) is None
    with pytest.raises(LocalProtocolError):
        DayTable([1] * 23, midnight_ns=0)
    assert RunningMean().mean(0, 1) is None


def test_elasticity_that_would_swing_with_its_own_price_is_refused() -> None:
    for interval_ns in (20_000_000, INTERVAL_NS, 10 * NS_PER_S):
        TransferSettings(eta=1.0).require_stable(interval_ns)
        with pytest.raises(LocalProtocolError, match="its bound is"):
            TransferSettings(eta=50.0).require_stable(interval_ns)
    with pytest.raises(LocalProtocolError, match="no transfer"):
        TransferByDeadline(TaskPolicy(name="a", willingness_nanodollars_per_s=1), now_ns=0, interval_ns=INTERVAL_NS)


@pytest.mark.parametrize(("part", "settles"), [(0.9, True), (1.1, False)])
def test_bound_on_the_elasticity_is_where_the_linear_loop_begins_to_swing(part: float, settles: bool) -> None:
    """s(t+1) = (1-g) s(t) - g e B s(t-1), e = part of the bound: what `largest_elasticity` claims."""
    g = 1 - 2 ** (-1 / 14)
    loop = part / 1.0
    s, before = 1.0, 1.0
    peaks = []
    for _ in range(3000):
        s, before = (1 - g) * s - loop * before, s
        peaks.append(abs(s))
    assert (max(peaks[-50:]) < max(peaks[:50])) is settles
