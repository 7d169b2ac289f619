"""The guard of a budget: the bill is never above it, whatever the network does with marks and reports."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from billpay.errors import LocalProtocolError
from billpay.markprices import MarkReading, PriceSchedule
from billpay.sessions import MarkPrice
from pricereactor.rates import RateDecision, Verdict
from pricereactor.spending import MOST_READINGS_KEPT, GuardSettings, Purse, SpendingGuard, Taken

BEGAN_MS = 1_000_000_000
DAY_MS = 86_400_000
PACKET_BYTES = 1_500
SETTINGS = GuardSettings(reaction_ns=200_000_000, longest_delay_ns=600_000_000, clock_slack_ms=200, burst_packets=2)
LIFETIME_MS = 200 + 600 + 200


def price(serial: int, nanodollars: int, from_ms: int = 0) -> MarkPrice:
    return MarkPrice(
        provider="provider",
        serial=serial,
        nanodollars_per_mark=nanodollars,
        valid_from_unix_ms=from_ms,
        published_unix_s=0,
    )


def guard_with(budget: int | None, *, mark: int = 100, purse: Purse | None = None) -> SpendingGuard:
    return SpendingGuard(
        PriceSchedule([price(1, mark)]),
        began_unix_ms=BEGAN_MS,
        session_budget_nanodollars=budget,
        day_purse=purse,
        settings=SETTINGS,
    )


def afford(guard: SpendingGuard, at_ms: int, *, sent: int | None = None, wanted: int | None = None) -> int | None:
    return guard.affordable_bit_s(BEGAN_MS + at_ms, packet_bytes=PACKET_BYTES, sent_packets=sent, wanted_bit_s=wanted)


def report(guard: SpendingGuard, sequence: int, at_ms: int, packets: int, marks: int) -> Taken:
    return guard.on_report(BEGAN_MS + at_ms, sequence=sequence, unix_ms=BEGAN_MS + at_ms, packets=packets, marks=marks)


class TestWithoutReports:
    @pytest.mark.row("BP-48", "DPH-04")
    def test_it_slows_down_and_stops_sending_when_no_report_comes(self) -> None:
        guard = guard_with(100_000)  # a thousand marks
        rates = [afford(guard, 100 * step) or 0 for step in range(30)]
        assert rates[0] == (500 - 2) * PACKET_BYTES * 8 * 5
        assert all(later <= earlier for earlier, later in pairwise(rates))
        assert rates[-1] == 0
        assert guard.unreported_packets <= 1_000
        assert guard.spent_nanodollars == 0

    def test_letting_go_is_no_way_around_a_budget(self) -> None:
        decided = guard_with(100_000).limit(
            RateDecision(target_bit_s=None, verdict=Verdict.LET_GO), BEGAN_MS, packet_bytes=PACKET_BYTES
        )
        assert decided.verdict is Verdict.GO
        assert decided.target_bit_s == 498 * PACKET_BYTES * 8 * 5

    def test_nothing_is_sent_while_no_price_is_known(self) -> None:
        guard = SpendingGuard(PriceSchedule(), began_unix_ms=BEGAN_MS, session_budget_nanodollars=10**9)
        decided = guard.limit(RateDecision(target_bit_s=10**6), BEGAN_MS, packet_bytes=PACKET_BYTES)
        assert (decided.target_bit_s, decided.verdict) == (0, Verdict.PAUSE)

    def test_without_a_budget_nothing_is_limited(self) -> None:
        guard = guard_with(None)
        decision = RateDecision(target_bit_s=None, verdict=Verdict.LET_GO)
        assert guard.limit(decision, BEGAN_MS, packet_bytes=PACKET_BYTES) is decision
        assert report(guard, 1, 100, 500, 400) is Taken.NEW
        assert (guard.spent_nanodollars, guard.left_nanodollars) == (40_000, None)


class TestWithReports:
    def test_what_was_counted_unmarked_is_affordable_again(self) -> None:
        guard = guard_with(100_000)
        afford(guard, 0)
        assert guard.unreported_packets == 500
        assert report(guard, 1, 100, 400, 10) is Taken.NEW
        assert guard.unreported_packets == 100
        assert (guard.spent_nanodollars, guard.left_nanodollars) == (1_000, 99_000)

    def test_lost_packets_are_given_up_when_they_can_no_longer_be_counted(self) -> None:
        guard = guard_with(100_000)
        afford(guard, 0)
        afford(guard, 100, wanted=0)
        report(guard, 1, 899, 0, 0)
        assert guard.unreported_packets == 500
        report(guard, 2, 900, 0, 0)
        assert guard.unreported_packets == 0

    def test_the_pacer_says_how_many_really_went(self) -> None:
        guard = guard_with(100_000)
        afford(guard, 0, sent=0)
        afford(guard, 100, sent=20, wanted=0)
        assert guard.unreported_packets == 20

    def test_a_wanted_rate_is_all_that_is_promised(self) -> None:
        guard = guard_with(100_000)
        assert afford(guard, 0, wanted=60_000) == 60_000
        assert guard.unreported_packets == 1 + 2

    def test_repeated_late_and_contradicting_reports(self) -> None:
        guard = guard_with(10**9)
        afford(guard, 0)
        assert report(guard, 10, 200, 90, 50) is Taken.NEW
        assert report(guard, 10, 200, 90, 50) is Taken.REPEATED
        assert report(guard, 5, 100, 40, 20) is Taken.NEW
        assert report(guard, 11, 300, 120, 49) is Taken.CONTRADICTS  # fewer marks than before
        assert report(guard, 12, 150, 120, 60) is Taken.CONTRADICTS  # later, but counted earlier
        assert report(guard, 13, 300, 50, 60) is Taken.CONTRADICTS  # more marks than packets
        assert report(guard, 14, 300, 10**9, 10**9) is Taken.CONTRADICTS  # more marks than packets that went
        assert guard.spent_nanodollars == 5_000
        for step in range(MOST_READINGS_KEPT):
            report(guard, 20 + step, 300 + step, 120, 60)
        assert report(guard, 2, 50, 10, 5) is Taken.TOO_LATE
        assert guard.spent_nanodollars == 6_000

    def test_a_used_up_budget_stops_it(self) -> None:
        guard = guard_with(1_000)
        afford(guard, 0)
        report(guard, 1, 100, 5, 5)
        afford(guard, 200)
        report(guard, 2, 300, 8, 8)
        decided = guard.limit(RateDecision(target_bit_s=10**6), BEGAN_MS + 400, packet_bytes=PACKET_BYTES)
        assert (decided.target_bit_s, decided.verdict) == (0, Verdict.STOP)
        assert decided.reason == "its budget is used up"

    @pytest.mark.row("DPH-21")
    def test_a_gap_over_a_change_of_price_is_dear_until_a_late_report_fills_it(self) -> None:
        prices = PriceSchedule([price(1, 100), price(2, 300, BEGAN_MS + 500)])
        guard = SpendingGuard(prices, began_unix_ms=BEGAN_MS, session_budget_nanodollars=10**9, settings=SETTINGS)
        afford(guard, 0)
        report(guard, 3, 800, 100, 40)
        assert guard.spent_nanodollars == 40 * 300
        report(guard, 2, 500, 60, 30)
        assert guard.spent_nanodollars == 30 * 100 + 10 * 300


class TestDay:
    @pytest.mark.row("DPH-04")
    def test_sessions_share_a_day(self) -> None:
        purse = Purse(100_000, day=7, spent_nanodollars=20_000)
        first, second = guard_with(None, purse=purse), guard_with(None, purse=purse)
        afford(first, 0)
        assert first.unreported_packets == 400
        afford(second, 0)
        assert second.unreported_packets == 200
        assert purse.claimed_nanodollars == 80_000

    def test_a_new_day_begins_without_what_was_spent_before(self) -> None:
        purse = Purse(100_000, day=7)
        done, goes_on = guard_with(None, purse=purse), guard_with(None, purse=purse)
        afford(done, 0, wanted=60_000)
        done.close(BEGAN_MS)
        afford(goes_on, 0, sent=0)
        report(goes_on, 1, 100, 400, 100)
        assert goes_on.spent_nanodollars == 10_000
        purse.begin_day(8)
        afford(goes_on, 200, sent=400, wanted=0)
        assert purse.claimed_nanodollars == 0
        assert goes_on.spent_nanodollars == 10_000
        assert goes_on.left_nanodollars == 100_000

    def test_settings_that_guard_nothing_are_refused(self) -> None:
        with pytest.raises(LocalProtocolError, match="guards nothing"):
            GuardSettings(reaction_ns=0)


@dataclass(slots=True)
class Sent:
    """A packet under way."""

    counted_ms: int | None  # None: lost
    marked: bool


class HostileNetwork(RuleBasedStateMachine):
    """Sends as much as it may, marks what it likes, and loses, repeats and delays the reports as it likes.

    Prices change too, known here for as long as the module's conditions say. The bill is what the receiver's
    provider charges: all that was counted, at the price in force where each interval of counting began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = BEGAN_MS
        self.prices = PriceSchedule([price(1, 100)])
        self.serial = 1
        self.budget = 60_000
        self.guard = SpendingGuard(
            self.prices, began_unix_ms=BEGAN_MS, session_budget_nanodollars=self.budget, settings=SETTINGS
        )
        self.under_way: list[Sent] = []
        self.let_through = self.packets = self.marks = 0
        self.readings = [MarkReading(unix_ms=BEGAN_MS, marks=0)]
        self.reports: list[tuple[int, MarkReading, int]] = []

    @rule(
        times=st.integers(1, 12),
        after_ms=st.sampled_from((200, 100, 37, 1)),
        told=st.booleans(),
        used=st.sampled_from((100, 40)),
        delay_ms=st.sampled_from((600, 250, 0)),
        marked=st.sampled_from((100, 30, 0)),
        lost=st.sampled_from((0, 30)),
        heard=st.sampled_from((1, 3, 100)),
    )
    def sends(
        self, times: int, after_ms: int, told: bool, used: int, delay_ms: int, marked: int, lost: int, heard: int
    ) -> None:
        """`heard`: of every so many reports one arrives at once."""
        for time in range(1, times + 1):
            rate = self.guard.affordable_bit_s(
                self.now_ms, packet_bytes=PACKET_BYTES, sent_packets=self.let_through if told else None
            )
            assert rate is not None
            may = 0 if rate == 0 else rate * after_ms // 1000 // (PACKET_BYTES * 8) + SETTINGS.burst_packets
            packets = may * used // 100
            self.let_through += packets
            self.under_way += [
                Sent(None if n % 100 < lost else self.now_ms + delay_ms, n % 100 < marked) for n in range(packets)
            ]
            self.now_ms += after_ms
            self.counts()
            if time % heard == 0:
                self.a_report_arrives(back=0)

    @rule(after_ms=st.integers(1, 1_000))
    def waits(self, after_ms: int) -> None:
        """The last rate has been taken back before."""
        self.guard.affordable_bit_s(self.now_ms, packet_bytes=PACKET_BYTES, wanted_bit_s=0)
        self.now_ms += after_ms
        self.counts()

    def counts(self) -> None:
        """The receiver takes a reading at each change of price, and now."""
        for at in (*self.prices.changes_between(self.readings[-1].unix_ms, self.now_ms), self.now_ms):
            arrived = [sent for sent in self.under_way if sent.counted_ms is not None and sent.counted_ms <= at]
            self.under_way = [sent for sent in self.under_way if sent.counted_ms is None or sent.counted_ms > at]
            self.packets += len(arrived)
            self.marks += sum(sent.marked for sent in arrived)
            reading = MarkReading(unix_ms=at, marks=self.marks)
            self.readings.append(reading)
            self.reports.append((len(self.readings), reading, self.packets))

    @rule(back=st.integers(0, 6))
    def a_report_arrives(self, back: int) -> None:
        """Any of the last ones, again and again, in any order; the others are lost."""
        if self.reports:
            sequence, reading, packets = self.reports[-1 - min(back, len(self.reports) - 1)]
            taken = self.guard.on_report(
                self.now_ms, sequence=sequence, unix_ms=reading.unix_ms, packets=packets, marks=reading.marks
            )
            assert taken is not Taken.CONTRADICTS

    @rule(nanodollars=st.sampled_from((0, 10, 100, 250, 1_000)), notice_ms=st.integers(LIFETIME_MS, LIFETIME_MS + 400))
    def the_price_changes(self, nanodollars: int, notice_ms: int) -> None:
        self.serial += 1
        self.prices.on_push(price(self.serial, nanodollars, self.now_ms + notice_ms))

    @invariant()
    def the_bill_is_within_the_budget(self) -> None:
        bill = self.prices.bill_nanodollars(self.readings)
        assert bill is not None
        assert bill <= self.budget


def drive(seed: int, *, steps: int) -> HostileNetwork:
    """The same network, driven by a die that is loaded towards spending everything."""
    die = random.Random(seed)
    network = HostileNetwork()
    for _ in range(steps):
        match die.randrange(6):
            case 0:
                network.waits(after_ms=die.randint(1, 1_000))
            case 1:
                network.the_price_changes(
                    nanodollars=die.choice((10, 100, 250, 1_000)), notice_ms=die.choice((LIFETIME_MS, 1_400))
                )
            case 2:
                network.a_report_arrives(back=die.randint(0, 9))
            case _:
                network.sends(
                    times=die.randint(1, 12),
                    after_ms=die.choice((200, 100, 37)),
                    told=die.random() < 0.7,
                    used=die.choice((100, 100, 40)),
                    delay_ms=die.choice((600, 250, 0)),
                    marked=die.choice((100, 100, 30, 0)),
                    lost=die.choice((0, 30)),
                    heard=die.choice((1, 3, 100)),
                )
        network.the_bill_is_within_the_budget()
    return network


@pytest.mark.row("BP-48", "DPH-21")
def test_who_spends_all_that_is_allowed_comes_near_the_budget_and_never_above() -> None:
    networks = [drive(seed, steps=25) for seed in range(60)]
    bills = [network.prices.bill_nanodollars(network.readings) or 0 for network in networks]
    assert max(bills) > 0.98 * networks[0].budget


def run_machine(*, max_examples: int, steps: int) -> None:
    settings = hypothesis.settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=max_examples < 100,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(HostileNetwork, settings=settings)


@pytest.mark.row("BP-48")
def test_the_bill_is_never_above_the_budget() -> None:
    run_machine(max_examples=60, steps=12)


@pytest.mark.deep
def test_the_bill_is_never_above_the_budget_for_long() -> None:
    run_machine(max_examples=3_000, steps=20)


@pytest.mark.row("BP-48")
def test_all_reports_heard_the_guard_and_the_provider_agree_to_the_nanodollar() -> None:
    network = HostileNetwork()
    for step in range(80):
        network.sends(times=1, after_ms=37, told=True, used=50, delay_ms=90, marked=10, lost=0, heard=1)
        if step == 15:
            network.the_price_changes(nanodollars=250, notice_ms=LIFETIME_MS)
    for back in range(6):
        network.a_report_arrives(back=back)
    assert network.marks > 50
    assert len({network.prices.price_at(reading.unix_ms) for reading in network.readings}) == 2
    assert network.guard.spent_nanodollars == network.prices.bill_nanodollars(network.readings)
