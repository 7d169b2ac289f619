"""One flow as the agent sees it: rates, the toll, when a grant has to grow, and what the packet core is to know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_network import UNIX_S, grant_for, plain
from hypothesis import given
from hypothesis import strategies as st
from one_host import echo_of, flow_of, report_of

from billpay.messages import Echo, Grant, GrantKind
from hostagent.payments.commands import FlowReport
from hostagent.payments.flows import BACKDATED_S, IDLE_NS, RATE_WINDOW_NS, FarEnd, Flow, Meter, is_nearly_over
from pricereactor.reactor import Decision, Observation, reactor_for

MS = 1_000_000
S = 1000 * MS
PACKET = plain()
FLOW = flow_of(PACKET)


def report(**counts: Any) -> FlowReport:
    return report_of(FLOW, **counts)


def echo(**counts: Any) -> Echo:
    return echo_of(FLOW, **counts)


def spend_grant(**changes: Any) -> Grant:
    return grant_for(PACKET, **{"cap": 1000, **changes})


# --- Meter -----------------------------------------------------------------------------------------------------------


def test_a_rate_needs_two_readings_at_two_times() -> None:
    meter = Meter()
    assert (meter.per_s(), meter.last_ns()) == (None, None)
    meter.add(5 * S, 100)
    meter.add(5 * S, 200)
    assert (meter.per_s(), meter.last_ns()) == (None, 5 * S)
    meter.add(5 * S + 500 * MS, 200)
    assert meter.per_s() == 200


def test_a_rate_is_that_of_the_last_second() -> None:
    meter = Meter()
    for tick in range(50):  # 1000 a second, then 5000
        meter.add(tick * 200 * MS, tick * 200 if tick < 25 else 5000 + (tick - 25) * 1000)
    assert meter.per_s() == 5000


def test_after_a_pause_a_rate_is_over_the_pause() -> None:
    meter = Meter()
    meter.add(0, 0)
    meter.add(S, 1000)
    meter.add(11 * S, 2000)
    assert meter.per_s() == 100


@given(st.lists(st.tuples(st.integers(0, 3 * S), st.integers(-500, 500)), min_size=1, max_size=60))
def test_a_rate_is_never_negative_and_the_window_is_bounded(changes: list[tuple[int, int]]) -> None:
    """A count that falls is that of somebody who has begun anew."""
    meter, now_ns, count = Meter(), 0, 500
    for later_ns, more in changes:
        now_ns, count = now_ns + later_ns, max(0, count + more)
        meter.add(now_ns, count)
        rate = meter.per_s()
        assert rate is None or rate >= 0
        points = meter._points
        assert len(points) <= 2 or points[-1][0] - points[1][0] < RATE_WINDOW_NS


# --- FarEnd ----------------------------------------------------------------------------------------------------------


def test_the_toll_is_the_amount_less_what_arrived_of_it() -> None:
    far_end = FarEnd()
    for packets, received in ((10, 90), (20, 180), (30, 290)):
        far_end.on_echo(
            echo(paid_packets=packets, received_nanodollars=received), amount_nanodollars=20, now_ns=packets * S
        )
    assert far_end.toll_nanodollars == 9  # of the last ten: 11 were left


def test_the_toll_is_rounded_to_the_next_nanodollar() -> None:
    far_end = FarEnd()
    far_end.on_echo(echo(paid_packets=1, received_nanodollars=9), amount_nanodollars=20, now_ns=0)
    far_end.on_echo(echo(paid_packets=4, received_nanodollars=36 + 1), amount_nanodollars=20, now_ns=S)
    assert far_end.toll_nanodollars == 11
    far_end.on_echo(echo(paid_packets=7, received_nanodollars=37 + 29), amount_nanodollars=20, now_ns=2 * S)
    assert far_end.toll_nanodollars == 10


def test_a_slow_flow_learns_its_toll_too() -> None:
    """One packet for each echo: two of them are waited for."""
    far_end = FarEnd()
    for packets in range(1, 6):
        far_end.on_echo(
            echo(paid_packets=packets, received_nanodollars=9 * packets), amount_nanodollars=20, now_ns=packets * S
        )
    assert far_end.toll_nanodollars == 11


def test_packets_with_another_amount_are_not_mixed_in() -> None:
    far_end = FarEnd()
    far_end.on_echo(echo(paid_packets=10, received_nanodollars=90), amount_nanodollars=20, now_ns=0)
    far_end.on_echo(echo(paid_packets=20, received_nanodollars=180), amount_nanodollars=20, now_ns=S)
    far_end.on_echo(echo(paid_packets=30, received_nanodollars=500), amount_nanodollars=40, now_ns=2 * S)
    assert far_end.toll_nanodollars == 11
    far_end.on_echo(echo(paid_packets=40, received_nanodollars=780), amount_nanodollars=40, now_ns=3 * S)
    assert far_end.toll_nanodollars == 12


def test_a_far_end_that_begins_anew_is_read_anew() -> None:
    far_end = FarEnd()
    for packets in (100, 200):
        far_end.on_echo(
            echo(paid_packets=packets, received_nanodollars=9 * packets, bytes=1000 * packets),
            amount_nanodollars=20,
            now_ns=packets * S,
        )
    far_end.on_echo(echo(paid_packets=1, received_nanodollars=15, bytes=1000), amount_nanodollars=20, now_ns=201 * S)
    assert (far_end.toll_nanodollars, far_end.goodput_bit_s()) == (11, None)
    far_end.on_echo(echo(paid_packets=3, received_nanodollars=45, bytes=3000), amount_nanodollars=20, now_ns=202 * S)
    assert (far_end.toll_nanodollars, far_end.goodput_bit_s()) == (5, 16_000)


def test_more_than_was_sent_is_no_negative_toll() -> None:
    far_end = FarEnd()
    far_end.on_echo(echo(paid_packets=1), amount_nanodollars=20, now_ns=0)
    far_end.on_echo(echo(paid_packets=3, received_nanodollars=900), amount_nanodollars=20, now_ns=S)
    assert far_end.toll_nanodollars == 0


# --- rates and decisions ---------------------------------------------------------------------------------------------


def test_an_old_rate_is_none() -> None:
    flow = Flow(report())
    flow.on_report(report(out_bytes=0), 10 * S)
    flow.on_report(report(out_bytes=1000), 11 * S)
    assert flow.rate_bit_s(11 * S) == flow.rate_bit_s(13 * S) == 8000
    assert flow.rate_bit_s(13 * S + 1) == 0
    assert Flow(report()).rate_bit_s(0) == 0


def test_a_flow_is_active_for_a_while_after_its_last_packet() -> None:
    flow = Flow(report(last_ns=5 * S))
    assert flow.is_active(5 * S + IDLE_NS - 1)
    assert not flow.is_active(5 * S + IDLE_NS)


class Listener:
    """A reactor that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[Observation] = []

    def on_observation(self, observation: Observation) -> Decision:
        self.heard.append(observation)
        return Decision(amount_nanodollars=7 + len(self.heard), try_other_path=False, reason="so")


def test_a_reactor_hears_of_goodput_toll_and_round_trip() -> None:
    reactor = Listener()
    flow = Flow(report(), reactor=reactor, round_trip_ns=5, amount_nanodollars=20)
    for tick in (1, 2):
        flow.on_report(report(out_bytes=1000 * tick), tick * S)
        told = echo(bytes=900 * tick, paid_packets=10 * tick, received_nanodollars=90 * tick)
        flow.far_end.on_echo(told, amount_nanodollars=20, now_ns=tick * S)
    decision = flow.decide(2 * S)
    assert decision is not None
    assert flow.amount_nanodollars == decision.amount_nanodollars == 8
    assert reactor.heard == [Observation(now_ns=2 * S, goodput_bit_s=7200, toll_nanodollars=11, round_trip_ns=5)]


def test_a_program_that_sends_nothing_lacks_no_goodput() -> None:
    reactor = Listener()
    flow = Flow(report(), reactor=reactor)
    for tick in (1, 2):
        flow.far_end.on_echo(echo(bytes=900), amount_nanodollars=0, now_ns=tick * S)
    assert flow.far_end.goodput_bit_s() == 0
    flow.decide(2 * S)
    assert reactor.heard[0].goodput_bit_s is None


def test_without_a_reactor_nothing_is_decided() -> None:
    flow = Flow(report(), amount_nanodollars=3)
    assert flow.decide(0) is None
    assert flow.amount_nanodollars == 3


def test_a_fixed_payment_is_what_the_rule_says() -> None:
    reactor = reactor_for("fixed", amount_nanodollars=20, willingness_nanodollars=20, target_bit_s=0)
    flow = Flow(report(), reactor=reactor)
    flow.decide(0)
    assert flow.amount_nanodollars == 20


# --- what the packet core has to know --------------------------------------------------------------------------------


def test_news_are_told_once() -> None:
    flow = Flow(report())
    assert not flow.is_news()
    flow.on_grant(spend_grant(), "X")
    flow.amount_nanodollars, flow.slots = 20, ((64512, 1, 2),)
    assert flow.wanted() == (20, ((64512, 1, 2),), 1)
    assert flow.is_news()
    flow.told = flow.wanted()
    assert not flow.is_news()
    flow.on_grant(spend_grant(serial=2), "X")
    assert flow.is_news()
    flow.told = flow.wanted()
    flow.on_return_grant(spend_grant(kind=GrantKind.RETURN, serial=4), "X")
    assert flow.is_news()
    flow.return_told = 4
    assert not flow.is_news()


def test_an_end_is_news_too() -> None:
    """Or the packet core would go on paying under a grant that is closed."""
    flow = Flow(report())
    flow.on_grant(spend_grant(), "X")
    flow.told = flow.wanted()
    flow.on_closed(None)
    assert flow.wanted() is None
    assert flow.is_news()


# --- when a grant has to grow ----------------------------------------------------------------------------------------


def granted(cap: int, *, amount: int = 20) -> Flow:
    flow = Flow(report(), amount_nanodollars=amount)
    flow.on_grant(spend_grant(cap=cap), "X")
    return flow


def spend(flow: Flow, spent: int) -> None:
    flow.on_report(msgspec.structs.replace(flow.report, spent_nanodollars=spent), 0)


def test_a_grant_is_extended_when_half_of_it_is_spent() -> None:
    flow = granted(1000)
    spend(flow, 500)
    assert not flow.needs_extension(UNIX_S)
    spend(flow, 520)
    assert flow.needs_extension(UNIX_S)
    flow.busy = True
    assert not flow.needs_extension(UNIX_S)


def test_an_extended_grant_is_left_alone_until_half_of_what_it_added_is_spent() -> None:
    """However much was spent before: each extension is an entry in the secretary's journal."""
    flow = granted(1000)
    asked = 0
    for spent in range(20, 20_000, 20):
        spend(flow, spent)
        if flow.needs_extension(UNIX_S):
            asked += 1
            assert flow.grant is not None
            flow.on_grant(spend_grant(cap=spent + 1000, serial=asked + 1), "X")
    assert 35 <= asked <= 40


def test_a_grant_that_the_budget_left_as_it_is_is_asked_for_when_it_is_used_up() -> None:
    flow = granted(1000)
    spend(flow, 960)
    flow.on_grant(spend_grant(cap=1000, serial=2), "X")
    assert not flow.needs_extension(UNIX_S)
    spend(flow, 1000)
    assert flow.needs_extension(UNIX_S)
    flow.on_grant(spend_grant(cap=1000, serial=3), "X")
    assert flow.needs_extension(UNIX_S)


def test_a_grant_is_extended_in_the_last_quarter_of_its_time() -> None:
    grant = spend_grant(not_before_unix_s=UNIX_S - BACKDATED_S, expires_unix_s=UNIX_S + 400)
    assert [is_nearly_over(grant, UNIX_S + age) for age in (0, 300, 301, 500)] == [False, False, True, True]
    flow = Flow(report())
    flow.on_grant(grant, "X")
    assert not flow.needs_extension(UNIX_S + 300)
    assert flow.needs_extension(UNIX_S + 301)
    assert not Flow(report()).needs_extension(UNIX_S)


def test_a_short_grant_is_not_nearly_over_from_its_beginning() -> None:
    """Its document is valid from two minutes before it was signed."""
    grant = spend_grant(not_before_unix_s=UNIX_S - BACKDATED_S, expires_unix_s=UNIX_S + 10)
    assert [is_nearly_over(grant, UNIX_S + age) for age in (0, 8, 9)] == [False, False, True]


def test_a_grant_that_is_used_up_and_gets_no_more_is_best_effort_until_it_gets_more() -> None:
    flow = granted(1000)
    flow.amount_nanodollars = 20
    spend(flow, 990)
    assert not flow.is_used_up
    flow.on_refused("budget", "budget day: nothing left")
    assert (flow.is_used_up, flow.is_out_of_money) == (True, True)
    assert flow.reason == "budget day: nothing left"
    flow.amount_nanodollars = 0
    spend(flow, 1000)
    assert (flow.is_used_up, flow.needs_extension(UNIX_S)) == (True, True)
    flow.on_grant(spend_grant(cap=2000, serial=2), "X")
    assert (flow.is_used_up, flow.is_out_of_money) == (False, False)


def test_what_the_packet_core_knows_is_dropped_even_before_it_heard_of_the_latest_document() -> None:
    flow = granted(1000)
    flow.told = flow.wanted()
    flow.on_grant(spend_grant(cap=2000, serial=2), "X")
    assert flow.is_news()
    flow.on_closed(None)
    assert flow.is_to_be_dropped()


def test_what_an_earlier_grant_spent_is_not_this_ones() -> None:
    flow = granted(1000)
    spend(flow, 900)
    flow.on_closed(None)
    flow.on_grant(spend_grant(cap=1000, grant="2" * 32), "X")
    flow.amount_nanodollars = 20
    spend(flow, 900)  # the packet core has not heard of it yet
    assert flow.spent_nanodollars == 0
    assert not flow.needs_extension(UNIX_S)
    spend(flow, 40)
    assert flow.spent_nanodollars == 40


def test_a_flow_that_is_met_again_with_its_old_grant_has_spent_what_it_had() -> None:
    flow = Flow(report(spent_nanodollars=300))
    assert flow.spent_nanodollars == 300


# --- returning -------------------------------------------------------------------------------------------------------


def returning(cap: int, **counts: Any) -> Flow:
    flow = Flow(report(**counts))
    flow.on_return_grant(spend_grant(kind=GrantKind.RETURN, cap=cap), "X")
    return flow


def test_receipts_need_a_grant_to_go_back() -> None:
    flow = Flow(report())
    assert flow.needs_return(9, UNIX_S)
    assert not flow.needs_return(0, UNIX_S)
    flow.busy = True
    assert not flow.needs_return(9, UNIX_S)
    assert not Flow(report(uplink="")).needs_return(9, UNIX_S)


def test_a_return_grant_grows_when_half_of_it_went_back() -> None:
    flow = returning(1000)
    flow.on_report(report(sent_returned_nanodollars=500), 0)
    assert not flow.needs_return(9, UNIX_S)
    flow.on_report(report(sent_returned_nanodollars=501), 0)
    assert flow.needs_return(9, UNIX_S)


def test_a_return_grant_grows_when_more_is_in_hand_than_it_allows() -> None:
    flow = returning(1000)
    flow.on_report(report(pool_nanodollars=1001), 0)
    assert flow.needs_return(9, UNIX_S)


def test_a_return_grant_is_renewed_before_its_end() -> None:
    assert returning(1000).needs_return(9, UNIX_S + 500)


@pytest.mark.parametrize("pool", [0, 80])
def test_the_next_return_grant_begins_with_what_is_in_hand(pool: int) -> None:
    arrived = report(received_nanodollars=9000, in_paid_packets=1000)
    flow = returning(10_000)
    assert flow.receipts_of(arrived) == (9000, 1000)
    flow.on_report(report(sent_returned_nanodollars=8000 - pool, pool_nanodollars=pool), 0)
    assert flow.returned_nanodollars == 8000 - pool
    flow.on_closed(arrived)
    assert flow.receipts_of(arrived) == (pool, 0)
    assert flow.returned_nanodollars == 0
    later = report(received_nanodollars=9900, in_paid_packets=1100)
    assert flow.receipts_of(later) == (900 + pool, 100)
    assert flow.receipts_of(None) == (0, 0)
