"""The streaming reactor on a virtual clock: the staircase of its closed form, and what holds a switch back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import ConfigurationError, LocalProtocolError
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal, Source
from pricereactor.streaming import LadderSettings, StreamingLadder, best_rungs, ladder_values, thresholds

MS = 1_000_000
LADDER = (300_000, 750_000, 1_200_000, 1_850_000, 2_850_000, 4_300_000)
WILLING = 1_000_000_000
H = 0.15


def policy(**changes: object) -> TaskPolicy:
    fields = {
        "name": "film",
        "kind": TaskKind.STREAMING,
        "willingness_nanodollars_per_s": WILLING,
        "ladder_bit_s": LADDER,
    }
    return TaskPolicy(**(fields | changes))  # type: ignore[arg-type]


class Stream:
    """A stream whose every bit costs what it is told; one call is one second, reported twice in it."""

    def __init__(self, task: TaskPolicy, *, interval_ms: int = 500, **more: object) -> None:
        self.interval_ns = interval_ms * MS
        self.now_ns = 0
        self.reactor = StreamingLadder(task, now_ns=0, interval_ns=self.interval_ns, **more)  # type: ignore[arg-type]
        self.rate = LADDER[0]
        self.decision = RateDecision(target_bit_s=LADDER[0], level=0)
        self.switches_ns: list[int] = []

    def interval(self, price: float | None, *, known: bool = True) -> RateDecision:
        self.now_ns += self.interval_ns
        signal = None
        if price is not None:
            size = self.rate * self.interval_ns // NS_PER_S // 8
            signal = PriceSignal(
                now_ns=self.now_ns,
                interval_ns=self.interval_ns,
                source=Source.RECEIVER_MARKS,
                packets=size // 1500,
                bytes=size,
                marks=0,
                charge_nanodollars=round(price * size * 8) if known else None,
            )
        before = self.decision
        self.decision = self.reactor.on_interval(self.now_ns, signal)
        self.rate = self.decision.target_bit_s or 0
        if self.decision.level != before.level:
            self.switches_ns.append(self.now_ns)
        return self.decision

    def holds(self, price: float | None, seconds: float, *, known: bool = True) -> int | None:
        for _ in range(round(seconds * NS_PER_S / self.interval_ns)):
            self.interval(price, known=known)
        return self.decision.level


def closed_form() -> list[float]:
    """C.4, written out once more: v log(1 + r/r_1) where the highest rung is worth the willingness."""
    v = WILLING / math.log(1 + LADDER[-1] / LADDER[0])
    worth = [v * math.log(1 + rate / LADDER[0]) for rate in LADDER]
    return [(worth[k + 1] - worth[k]) / (LADDER[k + 1] - LADDER[k]) for k in range(len(LADDER) - 1)]


def test_thresholds_are_those_of_the_closed_form_and_fall() -> None:
    values = ladder_values(policy())
    assert values[-1][1] == pytest.approx(WILLING)
    assert list(thresholds(values)) == pytest.approx(closed_form())
    assert sorted(closed_form(), reverse=True) == closed_form()
    assert best_rungs(values) == values


@pytest.mark.row("DPH-23")
def test_slow_sweep_of_the_price_gives_the_exact_staircase_up_and_down() -> None:
    """Each price held until its average has forgotten the one before; the level is compared with the closed form."""
    steps = closed_form()
    low, high = steps[-1] / 2, steps[0] * 2
    prices = [low * (high / low) ** (n / 60) for n in range(61)]
    stream = Stream(policy(willingness_nanodollars_per_s=0, value=points()))
    expected = len(LADDER) - 1
    stream.holds(low, 30)
    for price in prices + prices[::-1]:
        up = sum(price < step * (1 - H) for step in steps)
        down = sum(price < step * (1 + H) for step in steps)
        expected = min(max(expected, up), down)
        # 60 s make the price exact; a step that the hysteresis decides is never within a thousandth of a threshold
        assert all(abs(price / (step * side) - 1) > 1e-3 for step in steps for side in (1 - H, 1 + H))
        assert stream.holds(price, 45) == expected, price
    assert expected == len(LADDER) - 1
    assert len(stream.switches_ns) == 1 + 2 * (len(LADDER) - 1), "up at once, then each rung once down and once up"


def points() -> tuple[ValuePoint, ...]:
    """The default curve's corners on the ladder, in whole nanodollars."""
    return tuple(ValuePoint(rate_bit_s=rate, nanodollars_per_s=round(worth)) for rate, worth in ladder_values(policy()))


def test_argmax_of_the_net_benefit_is_what_it_settles_on_from_below_and_above() -> None:
    """Without hysteresis: the brute-force argmax, for a value curve with a rung that is never best."""
    ladder = (300_000, 750_000, 1_200_000, 4_300_000)
    task = policy(
        ladder_bit_s=ladder,
        willingness_nanodollars_per_s=0,
        value=(
            ValuePoint(rate_bit_s=740_000, nanodollars_per_s=1_000),
            ValuePoint(rate_bit_s=4_300_000, nanodollars_per_s=9_000),
        ),
    )
    values = dict(ladder_values(task))
    settings = LadderSettings(hysteresis=0.0)
    for price in (0.0001, 0.001, 0.0021, 0.00219, 0.0023, 0.003, 0.1):
        stream = Stream(task, settings=settings)
        best = max(ladder, key=lambda rate, c=price: values[rate] - c * rate)  # type: ignore[misc]
        assert stream.holds(price, 40) == ladder.index(best), price


def test_begins_on_the_lowest_rung_and_stays_there_until_a_price_is_known() -> None:
    stream = Stream(policy())
    assert stream.holds(0.0, 9, known=False) == 0
    assert stream.decision.reason == "what it costs is not known yet"
    assert stream.decision.target_bit_s == LADDER[0]


def test_missing_signal_holds_the_level_and_lets_go_after_a_long_silence() -> None:
    stream = Stream(policy())
    assert stream.holds(0.0, 10) == 5
    assert stream.holds(None, 5) == 5
    assert stream.holds(0.0, 5, known=False) == 5, "a report without a price is no price of 0, and no news either"
    assert stream.decision.verdict is Verdict.GO
    stream.holds(None, 1)
    assert (stream.decision.verdict, stream.decision.target_bit_s) == (Verdict.LET_GO, None)
    stream.rate = LADDER[0]
    assert stream.interval(0.0).level == 0, "and begins anew"
    stream.rate = LADDER[0]
    assert stream.holds(0.0, 6) == 5


def test_two_switches_are_a_dwell_apart_whatever_the_price_does() -> None:
    stream = Stream(policy(most_switches_per_minute=600))
    for second in range(300):
        stream.holds(0.0 if second // 7 % 2 else 1e-1 * closed_form()[0] * 40, 1)
    gaps = [later - before for before, later in zip(stream.switches_ns, stream.switches_ns[1:], strict=False)]
    assert len(gaps) > 10
    assert min(gaps) >= 5 * NS_PER_S


def test_no_more_switches_in_a_minute_than_the_task_accepts() -> None:
    task = policy(willingness_nanodollars_per_s=0, value=points(), most_switches_per_minute=3)
    stream = Stream(task)
    for second in range(600):
        stream.holds(0.0 if second // 10 % 2 else closed_form()[0] * 2, 1)
    switches = stream.switches_ns
    assert len(switches) > 15
    assert all(later - before >= 60 * NS_PER_S for before, later in zip(switches, switches[3:], strict=False))


def test_switch_down_is_postponed_while_the_buffer_outlasts_the_expected_spike() -> None:
    task = policy(willingness_nanodollars_per_s=0, value=points())
    cheap, dear = 0.0, closed_form()[0] * 3

    def after_a_spike(buffer_s: float | None, *, spikes: int) -> int | None:
        stream = Stream(task)
        for _ in range(spikes):
            stream.holds(cheap, 30)
            stream.holds(dear, 2)
        stream.holds(cheap, 90)
        assert stream.decision.level == 5
        stream.reactor.on_buffer(None if buffer_s is None else round(buffer_s * NS_PER_S))
        return stream.holds(dear, 2)

    assert after_a_spike(20.0, spikes=0) == 3, "nothing is known of spikes"
    assert after_a_spike(20.0, spikes=3) == 5
    assert after_a_spike(3.9, spikes=3) == 3, "too little to wait with"
    assert after_a_spike(None, spikes=3) == 3
    stream = Stream(task)
    for _ in range(3):
        stream.holds(cheap, 30)
        stream.holds(dear, 2)
    stream.holds(cheap, 90)
    stream.reactor.on_buffer(20 * NS_PER_S)
    assert stream.holds(dear, 25) == 0, "a spike that lasts longer than the buffer is none"


def test_budget_guard_lowers_the_level_for_the_time_that_is_left() -> None:
    price = 0.1
    stream = Stream(policy(session_budget_nanodollars=round(price * 1_400_000 * 600)), session_ns=600 * NS_PER_S)
    assert stream.holds(price, 20) == 2, "1.2 Mbit/s for ten minutes is what it can pay, with a little to spare"
    stream.holds(price, 570)
    assert stream.decision.verdict is Verdict.GO
    assert stream.reactor.spent_nanodollars <= price * 1_400_000 * 600


def test_budget_that_is_used_up_stops_the_stream_for_good_and_somebody_who_watches_is_asked_first() -> None:
    verdicts: list[Verdict] = []
    stream = Stream(policy(session_budget_nanodollars=6_000_000, attended=True, notice_s=10), session_ns=60 * NS_PER_S)
    for _ in range(200):
        verdicts.append(stream.interval(1.0).verdict)
        if verdicts[-1] is Verdict.STOP:
            break
    assert verdicts == [Verdict.GO] * verdicts.count(Verdict.GO) + [Verdict.PAUSE] * verdicts.count(Verdict.PAUSE) + [
        Verdict.STOP
    ]
    assert 18 <= verdicts.count(Verdict.PAUSE) <= 21, "asked ten seconds before"
    assert stream.reactor.spent_nanodollars <= 6_000_000
    stream.rate = LADDER[0]
    assert stream.interval(0.0).verdict is Verdict.STOP
    assert stream.decision.target_bit_s == 0


def test_dearer_than_the_ceiling_it_goes_at_its_least_rate_and_comes_back_when_it_is_clearly_cheaper() -> None:
    stream = Stream(policy(price_ceiling_nanodollars_per_mb=80_000_000), interval_ms=500)
    assert stream.holds(9.0, 20) == 5
    assert stream.holds(11.0, 60) == 0
    assert stream.decision.reason == "88000000 n$ for a megabyte: dearer than the ceiling of 80000000 n$"
    assert stream.holds(9.0, 30) == 0
    assert stream.holds(6.5, 30) == 5


def test_task_that_accepts_little_change_of_rate_goes_rung_by_rung() -> None:
    stream = Stream(policy(largest_rate_change_ppm=100_000))
    levels = [stream.interval(0.0).level for _ in range(120)]
    assert set(levels) == {0, 1, 2, 3, 4, 5}
    gaps = [later - before for before, later in zip(stream.switches_ns, stream.switches_ns[1:], strict=False)]
    assert min(gaps) >= 9.5 * NS_PER_S


def test_task_that_accepts_little_change_of_price_goes_down_early_and_comes_back_late() -> None:
    step = closed_form()[4]
    calm = policy(willingness_nanodollars_per_s=0, value=points())
    nervous = policy(willingness_nanodollars_per_s=0, value=points(), largest_price_change_ppm=200_000)
    for task, early in ((calm, 5), (nervous, 4)):
        stream = Stream(task)
        assert stream.holds(step * 0.7, 60) == 5
        assert stream.holds(step * 1.1, 9) == early
    stream = Stream(nervous)
    stream.holds(step * 1.2, 60)
    assert stream.holds(step * 0.7, 9) == 4, "the price has just fallen by half: later"
    assert stream.holds(step * 0.7, 20) == 5


def test_settings_that_switch_again_before_a_switch_was_heard_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="before a switch was heard"):
        StreamingLadder(policy(), now_ns=0, interval_ns=NS_PER_S, settings=LadderSettings(dwell_ns=5_900 * MS))
    with pytest.raises(LocalProtocolError, match="no way to move"):
        StreamingLadder(policy(), now_ns=0, interval_ns=500 * MS, settings=LadderSettings(hysteresis=1.0))
    with pytest.raises(LocalProtocolError, match="no ladder"):
        StreamingLadder(policy(kind=TaskKind.ELASTIC, ladder_bit_s=()), now_ns=0, interval_ns=500 * MS)
    with pytest.raises(ConfigurationError, match="does not rise"):
        StreamingLadder(policy(ladder_bit_s=(2_000_000, 1_000_000)), now_ns=0, interval_ns=500 * MS)


@given(
    prices=st.lists(st.none() | st.floats(0, 1e-2), max_size=80),
    budget=st.none() | st.integers(0, 10**6),
    ceiling=st.none() | st.integers(0, 10**5),
)
def test_whatever_it_hears_it_says_a_rung_of_its_ladder_and_one_line(
    prices: list[float | None], budget: int | None, ceiling: int | None
) -> None:
    stream = Stream(policy(session_budget_nanodollars=budget, price_ceiling_nanodollars_per_mb=ceiling, attended=True))
    for price in prices:
        decision = stream.interval(price)
        assert decision.level is not None
        if decision.verdict in (Verdict.GO, Verdict.PAUSE):
            assert decision.target_bit_s == LADDER[decision.level]
        assert "\n" not in decision.reason
        stream.rate = stream.rate or LADDER[0]
