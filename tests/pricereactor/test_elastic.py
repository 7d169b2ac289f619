"""The elastic reactor: its law on a smooth price, its limits, and shares through a FIFO with virtual-queue marks."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from billpay.marking import VirtualLink, VirtualQueue
from pricereactor.elastic import ElasticPlan, ElasticRate, ElasticWindow, MulTcp, plan_of, rate_if_all_marked
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import PriceSignal, Source
from pricereactor.stability import GainBeyondBound, largest_window_gain

MS = 1_000_000
S = 1_000 * MS
STEP_NS = 100 * MS
PACKET_BYTES = 1_500
PACKET_BITS = PACKET_BYTES * 8
PRICE = 1_000  # nanodollars per mark
BUFFER_PACKETS = 20


def signal_of(now_ns: int, rate_bit_s: float, charge: float | None, *, interval_ns: int = STEP_NS) -> PriceSignal:
    size = round(rate_bit_s * interval_ns / 8 / S)
    return PriceSignal(
        now_ns=now_ns,
        interval_ns=interval_ns,
        source=Source.TOLLS,
        packets=size // PACKET_BYTES + 1,
        bytes=size,
        marks=0,
        charge_nanodollars=None if charge is None else round(charge),
    )


class Priced:
    """A reactor whose bits cost what `nanodollars_per_mb` says, whatever it sends."""

    def __init__(self, plan: ElasticPlan) -> None:
        self.reactor = ElasticRate(plan)
        self.now_ns = 0
        self.decision = self.reactor.on_interval(0, None)
        self.nanodollars_per_mb = 0.0
        self.bill = 0
        self.rates: list[int] = []

    def run(self, seconds: float) -> RateDecision:
        for _ in range(round(seconds * S / STEP_NS)):
            self.now_ns += STEP_NS
            rate = self.decision.target_bit_s or 0
            charge = round(self.nanodollars_per_mb * rate * STEP_NS / 8_000_000 / S)
            self.bill += charge
            self.decision = self.reactor.on_interval(self.now_ns, signal_of(self.now_ns, rate, charge))
            self.rates.append(self.decision.target_bit_s or 0)
        return self.decision


def plan_with(w: int = 1_000_000, **limits: object) -> ElasticPlan:
    return replace(ElasticPlan(willingness_nanodollars_per_s=w, start_bit_s=1_000_000), **limits)  # type: ignore[arg-type]


class TestLaw:
    def test_at_rest_it_spends_what_it_is_willing_to(self) -> None:
        task = Priced(plan_with())
        task.nanodollars_per_mb = 4_000_000.0
        task.run(30)
        assert task.decision.target_bit_s == pytest.approx(2_000_000, rel=0.02)
        task.nanodollars_per_mb = 8_000_000.0
        task.run(30)
        assert task.decision.target_bit_s == pytest.approx(1_000_000, rel=0.02)

    def test_while_nothing_costs_it_grows_by_at_most_a_quarter_in_each_interval(self) -> None:
        task = Priced(plan_with(max_bit_s=50_000_000))
        task.run(3)
        steps = [later / earlier for earlier, later in zip(task.rates, task.rates[1:], strict=False)]
        assert max(steps) <= 1.25
        assert task.decision.target_bit_s == 50_000_000

    def test_it_never_goes_far_beyond_what_arrives(self) -> None:
        reactor = ElasticRate(plan_with())
        for step in range(1, 60):
            decision = reactor.on_interval(step * STEP_NS, signal_of(step * STEP_NS, 2_000_000, 0))
        assert decision.target_bit_s == pytest.approx(4_000_000, rel=0.01)

    @pytest.mark.row("DPH-36")
    def test_who_wants_one_rate_pays_to_ignore_congestion(self) -> None:
        task = Priced(plan_with(1, min_bit_s=3_000_000, max_bit_s=3_000_000, start_bit_s=None))
        bills = []
        for dear in (0.0, 1_000_000.0, 5_000_000.0):
            task.nanodollars_per_mb = dear
            before = task.bill
            assert task.run(5).verdict is Verdict.GO
            bills.append(task.bill - before)
        assert set(task.rates) == {3_000_000}
        assert bills == [0, 1_875_000, 9_375_000]

    def test_a_wanted_rate_costs_more_up_to_what_it_is_worth(self) -> None:
        task = Priced(plan_with(100_000, wanted_bit_s=2_000_000, most_nanodollars_per_s=1_000_000))
        for per_mb, rate in ((2_000_000.0, 2_000_000), (4_000_000.0, 2_000_000), (8_000_000.0, 1_000_000)):
            task.nanodollars_per_mb = per_mb
            task.run(40)
            assert task.decision.target_bit_s == pytest.approx(rate, rel=0.1)

    def test_who_is_willing_to_pay_nothing_goes_at_its_least_rate(self) -> None:
        task = Priced(plan_with(0))
        task.nanodollars_per_mb = 1.0e6
        assert task.run(10).target_bit_s == 64_000


class TestSignals:
    def test_a_missing_signal_and_an_unknown_charge_leave_the_rate(self) -> None:
        task = Priced(plan_with())
        task.nanodollars_per_mb = 4_000_000.0
        held = task.run(20).target_bit_s
        now = task.now_ns
        assert task.reactor.on_interval(now + STEP_NS, None).target_bit_s == held
        unknown = task.reactor.on_interval(now + 2 * STEP_NS, signal_of(now, 2_000_000, None))
        assert (unknown.target_bit_s, unknown.verdict) == (held, Verdict.GO)
        nothing_came = task.reactor.on_interval(now + 3 * STEP_NS, signal_of(now, 0, 0))
        assert nothing_came.target_bit_s == held

    @pytest.mark.parametrize("charge", ["none", "unknown"])
    def test_after_its_silence_it_lets_go_and_takes_up_from_what_the_transport_reached(self, charge: str) -> None:
        task = Priced(plan_with())
        task.nanodollars_per_mb = 4_000_000.0
        task.run(10)
        for step in range(1, 20):
            now = task.now_ns + step * STEP_NS
            silent = task.reactor.on_interval(now, None if charge == "none" else signal_of(now, 2e6, None))
            assert silent.verdict is Verdict.GO
        now = task.now_ns + 2 * S
        gone = task.reactor.on_interval(now, None)
        assert (gone.target_bit_s, gone.verdict) == (None, Verdict.LET_GO)
        back = task.reactor.on_interval(now + STEP_NS, signal_of(now, 1_600_000, 0))
        assert back.verdict is Verdict.GO
        assert back.target_bit_s == pytest.approx(1_600_000 * 1.25, rel=0.05)

    def test_a_flow_that_never_hears_anything_is_let_go(self) -> None:
        reactor = ElasticRate(plan_with())
        assert reactor.on_interval(5 * S, None).target_bit_s == 1_000_000
        assert reactor.on_interval(7 * S, None).verdict is Verdict.LET_GO


class TestLimits:
    @pytest.mark.row("DPH-04")
    def test_above_the_price_ceiling_it_goes_at_its_least_rate_and_comes_back(self) -> None:
        task = Priced(plan_with(price_ceiling_nanodollars_per_mb=5_000_000))
        task.nanodollars_per_mb = 4_000_000.0
        assert task.run(10).verdict is Verdict.GO
        task.nanodollars_per_mb = 9_000_000.0
        dear = task.run(10)
        assert (dear.verdict, dear.target_bit_s) == (Verdict.PAUSE, 64_000)
        assert "more than 5000000 n$" in dear.reason
        task.nanodollars_per_mb = 4_000_000.0
        assert task.run(30).target_bit_s == pytest.approx(2_000_000, rel=0.05)

    @pytest.mark.row("DPH-04")
    def test_within_ten_seconds_it_moves_no_further_than_is_accepted(self) -> None:
        task = Priced(plan_with(largest_rate_change_ppm=100_000))
        for per_mb in (4_000_000.0, 16_000_000.0, 1_000_000.0):
            task.nanodollars_per_mb = per_mb
            task.run(30)
        for at in range(len(task.rates)):
            before = task.rates[max(0, at - 100) : at + 1]
            assert task.rates[at] <= min(before) * 1.1 + 1
            assert task.rates[at] >= max(before) * 0.9 - 1

    def test_the_rate_that_it_begins_with_counts_too_also_where_nothing_arrives_at_first(self) -> None:
        reactor = ElasticRate(plan_with(largest_rate_change_ppm=100_000, start_bit_s=1_000_000))
        rates = [
            reactor.on_interval(step * STEP_NS, signal_of(step * STEP_NS, rate, 0)).target_bit_s
            for step, rate in enumerate((0, 0, 900_000, 5_000_000, 5_000_000))
        ]
        assert rates[0] == 1_000_000
        assert max(rate for rate in rates if rate is not None) <= 1_100_000

    @pytest.mark.row("DPH-04")
    def test_a_restless_price_sends_it_down_until_the_price_is_calm(self) -> None:
        task = Priced(plan_with(largest_price_change_ppm=300_000))
        task.nanodollars_per_mb = 4_000_000.0
        assert task.run(20).verdict is Verdict.GO
        task.nanodollars_per_mb = 6_000_000.0
        assert task.run(5).verdict is Verdict.PAUSE
        assert task.run(30).target_bit_s == pytest.approx(8_000_000 / 6, rel=0.05)

    @given(
        charges=st.lists(st.one_of(st.none(), st.integers(-1, 10**7)), max_size=60),
        rate=st.integers(0, 10**8),
        limit=st.sampled_from([None, 50_000, 2_000_000]),
    )
    def test_least_and_largest_rate_hold_whatever_comes(
        self, charges: list[int | None], rate: int, limit: int | None
    ) -> None:
        plan = plan_with(min_bit_s=200_000, max_bit_s=5_000_000, largest_rate_change_ppm=limit)
        reactor = ElasticRate(plan)
        for step, charge in enumerate(charges):
            now = step * STEP_NS
            decision = reactor.on_interval(now, None if charge == -1 else signal_of(now, rate, charge))
            assert decision.target_bit_s is None or 200_000 <= decision.target_bit_s <= 5_000_000

    def test_a_policy_becomes_a_plan(self) -> None:
        policy = TaskPolicy(
            name="backup", willingness_nanodollars_per_s=50_000, min_bit_s=100_000, largest_rate_change_ppm=5
        )
        plan = plan_of(policy, interval_ns=STEP_NS, nanodollars_per_mark=PRICE)
        assert plan.start_bit_s == rate_if_all_marked(50_000, PRICE, PACKET_BYTES) == 600_000
        assert (plan.min_bit_s, plan.largest_rate_change_ppm) == (100_000, 5)

    @pytest.mark.parametrize(
        "limits",
        [{"min_bit_s": 0}, {"max_bit_s": 1_000}, {"interval_ns": 0}, {"silence_ns": 1}, {"most_nanodollars_per_s": 1}],
    )
    def test_impossible_plans_are_refused(self, limits: dict[str, int]) -> None:
        with pytest.raises(LocalProtocolError, match="is no elastic plan"):
            plan_with(**limits)


class TestGain:
    def test_a_gain_beyond_its_bound_is_refused(self) -> None:
        bound = plan_with().largest_gain
        with pytest.raises(GainBeyondBound, match=r"the gain of an elastic reactor is .* report more often"):
            plan_with(gain=bound * 1.01)
        assert plan_with(gain=bound * 0.99).used_gain < bound

    @pytest.mark.parametrize("round_trip_ms", [10, 100, 500, 2_000])
    def test_the_default_is_at_most_a_quarter_of_the_bound(self, round_trip_ms: int) -> None:
        plan = plan_with(longest_round_trip_ns=round_trip_ms * MS)
        assert plan.used_gain <= plan.largest_gain / 4

    def test_the_window_form_refuses_too(self) -> None:
        bound = largest_window_gain(0.3, 10)
        with pytest.raises(GainBeyondBound):
            ElasticWindow(marks_per_round_trip=1.0, gain=bound)
        ElasticWindow(marks_per_round_trip=1.0, gain=bound * 0.9)


class TestWindows:
    def test_at_rest_the_window_form_gets_what_its_marks_cost(self) -> None:
        draw = random.Random(1)
        windows = {}
        for wanted in (1.0, 3.0):
            flow = ElasticWindow(marks_per_round_trip=wanted, window_packets=10.0)
            seen = [flow.on_ack(marked=draw.random() < 0.1) for _ in range(20_000)]
            windows[wanted] = sum(seen[5_000:]) / 15_000
        assert windows[1.0] == pytest.approx(10, rel=0.1)
        assert windows[3.0] == pytest.approx(30, rel=0.1)

    def test_mul_tcp_is_so_many_of_tcp(self) -> None:
        flow = MulTcp(flows=4, window_packets=8.0)
        assert flow.on_ack() == 8.5
        assert flow.on_mark() == pytest.approx(8.5 * 7 / 8)
        with pytest.raises(LocalProtocolError):
            MulTcp(flows=0)


@dataclass(slots=True)
class Flow:
    """A paced sender with its reactor, and what its receiver has counted."""

    reactor: ElasticRate
    round_trip_ns: int
    start_ns: int
    stop_ns: int
    rate_bit_s: int = 0
    packets: int = 0
    marks: int = 0
    reported: tuple[int, int] = (0, 0)
    arrivals_ns: list[int] = field(default_factory=list)


class Bottleneck:
    """Paced flows with a little jitter, one FIFO of 10 Mbit/s, virtual-queue marks, reports that take their time."""

    def __init__(self, flows: list[Flow], *, seed: int, price_of_mark_at: dict[int, int] | None = None) -> None:
        self.flows = flows
        self.die = random.Random(seed)
        self.link_bit_s = 10_000_000
        self.packet_ns = PACKET_BITS * S // self.link_bit_s
        virtual = VirtualLink(
            capacity_bytes_per_s=self.link_bit_s // 8, buffer_bytes=BUFFER_PACKETS * PACKET_BYTES, theta_ppm=960_000
        )
        self.virtual_queue = VirtualQueue(virtual)
        self.prices = price_of_mark_at or {0: PRICE}
        self.free_ns = 0
        self.waits: list[tuple[int, float]] = []
        self.marked_ns: list[int] = []
        self.events: list[tuple[int, int, str, int, tuple[int, int] | bool]] = []
        self.number = count()
        for at, flow in enumerate(flows):
            flow.rate_bit_s = flow.reactor.on_interval(flow.start_ns, None).target_bit_s or 0
            self.at(flow.start_ns, "send", at)
            self.at(flow.start_ns + flow.round_trip_ns // 2 + STEP_NS, "report", at)

    def at(self, when_ns: int, what: str, flow: int, value: tuple[int, int] | bool = False) -> None:
        heapq.heappush(self.events, (when_ns, next(self.number), what, flow, value))

    def run(self, until_ns: int) -> None:
        while self.events and self.events[0][0] < until_ns:
            now, _, what, at, value = heapq.heappop(self.events)
            flow = self.flows[at]
            half_ns = flow.round_trip_ns // 2
            if what == "send" and now < flow.stop_ns:
                self.carry(now, at, half_ns)
                gap = PACKET_BITS * S / flow.rate_bit_s * (0.7 + 0.6 * self.die.random())
                self.at(now + int(gap), "send", at)
            elif what == "arrive":
                flow.packets += 1
                flow.marks += bool(value)
            elif what == "report" and now < flow.stop_ns:
                self.at(now + half_ns, "heard", at, (flow.packets, flow.marks))
                self.at(now + STEP_NS, "report", at)
            elif what == "heard" and isinstance(value, tuple):
                self.hear(now, flow, value)

    def carry(self, now: int, at: int, half_ns: int) -> None:
        marked = self.virtual_queue.on_arrival(PACKET_BYTES, now, self.die.random)
        wait = max(0, self.free_ns - now)
        self.waits.append((now, wait / self.packet_ns))
        if wait < BUFFER_PACKETS * self.packet_ns:
            self.free_ns = now + wait + self.packet_ns
            self.flows[at].arrivals_ns.append(now)
            if marked:
                self.marked_ns.append(now)
            self.at(self.free_ns + half_ns, "arrive", at, marked)

    def hear(self, now: int, flow: Flow, counted: tuple[int, int]) -> None:
        packets, marks = counted[0] - flow.reported[0], counted[1] - flow.reported[1]
        flow.reported = counted
        price = next(price for since, price in reversed(self.prices.items()) if since <= now)
        heard = PriceSignal(
            now_ns=now,
            interval_ns=STEP_NS,
            source=Source.RECEIVER_MARKS,
            packets=packets,
            bytes=packets * PACKET_BYTES,
            marks=marks,
            charge_nanodollars=marks * price,
        )
        flow.rate_bit_s = flow.reactor.on_interval(now, heard).target_bit_s or 1

    def rates(self, start_s: float, end_s: float) -> list[float]:
        span = (start_s * S, end_s * S)
        return [
            sum(span[0] <= at < span[1] for at in flow.arrivals_ns) * PACKET_BITS / (end_s - start_s)
            for flow in self.flows
        ]

    def utilisation(self, start_s: float, end_s: float) -> float:
        return sum(self.rates(start_s, end_s)) / self.link_bit_s

    def mean_queue(self, start_s: float, end_s: float) -> float:
        waits = [wait for at, wait in self.waits if start_s * S <= at < end_s * S]
        return sum(waits) / len(waits)

    def marks(self, start_s: float, end_s: float) -> float:
        """Each second."""
        return sum(start_s * S <= at < end_s * S for at in self.marked_ns) / (end_s - start_s)


def flows_of(
    weights: list[int], *, marked_share: float, seed: int, join_s: dict[int, float] | None = None
) -> list[Flow]:
    """So willing that at rest this share is marked; they begin within 0.3 s, round trips of 10 and 80 ms in turn."""
    die = random.Random(seed)
    unit = marked_share * PRICE * 0.93 * 10_000_000 / PACKET_BITS / sum(weights)
    flows = []
    for at, weight in enumerate(weights):
        w = round(weight * unit)
        start = (join_s or {}).get(at, die.random() * 0.3)
        plan = ElasticPlan(willingness_nanodollars_per_s=w, start_bit_s=rate_if_all_marked(w, PRICE, PACKET_BYTES))
        flows.append(
            Flow(
                reactor=ElasticRate(plan),
                round_trip_ns=(10 * MS, 80 * MS, 80 * MS, 10 * MS)[at % 4],
                start_ns=round(start * S),
                stop_ns=1_000 * S,
            )
        )
    return flows


def worst_pair(rates: list[float], weights: list[int]) -> float:
    shares = [rate / weight for rate, weight in zip(rates, weights, strict=True)]
    return max(shares) / min(shares) - 1


class TestThroughAFifo:
    @pytest.mark.parametrize("weights", [[1, 3], [1, 3, 1, 3]])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_one_to_three_from_a_cold_start_within_three_seconds(self, weights: list[int], seed: int) -> None:
        link = Bottleneck(flows_of(weights, marked_share=0.3, seed=seed), seed=seed)
        link.run(9 * S)
        assert worst_pair(link.rates(3, 8), weights) < 0.1
        assert link.utilisation(3, 8) >= 0.9
        assert link.mean_queue(3, 8) < 6

    def test_who_joins_later_gets_its_share(self) -> None:
        weights = [1, 3, 1, 3]
        link = Bottleneck(flows_of(weights, marked_share=0.3, seed=3, join_s={1: 6.0}), seed=3)
        link.run(14 * S)
        assert worst_pair(link.rates(9, 14), weights) < 0.2
        assert worst_pair(link.rates(11, 14), weights) < 0.1
        assert link.utilisation(9, 14) >= 0.9

    def test_twice_the_price_halves_the_marks_and_leaves_revenue(self) -> None:
        link = Bottleneck(
            flows_of([1, 3], marked_share=0.4, seed=4), seed=4, price_of_mark_at={0: PRICE, 12 * S: 2 * PRICE}
        )
        link.run(26 * S)
        before, after = link.marks(4, 12), link.marks(15, 26)
        assert after / before == pytest.approx(0.5, rel=0.12)
        assert worst_pair(link.rates(15, 26), [1, 3]) < 0.1

    @pytest.mark.deep
    @pytest.mark.parametrize("marked_share", [0.2, 0.4])
    @pytest.mark.parametrize("weights", [[1, 3], [1, 3] * 2, [1, 3] * 4])
    def test_over_many_seeds(self, weights: list[int], marked_share: float) -> None:
        for seed in range(40):
            link = Bottleneck(flows_of(weights, marked_share=marked_share, seed=seed), seed=seed)
            link.run(16 * S)
            assert worst_pair(link.rates(10, 16), weights) < 0.1
            assert link.utilisation(10, 16) >= 0.9
            assert link.mean_queue(10, 16) < 8
