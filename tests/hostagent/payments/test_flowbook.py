"""All flows of a host: what is kept of reports and echoes, for how long, and what the next turn tells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_network import A_V4, A_V6, B_V4, B_V6, X, Y, grant_for, plain
from hypothesis import given
from hypothesis import strategies as st
from one_host import echo_of, flow_of, report_of

from billpay.header import ISP_WRITTEN
from billpay.messages import Echo, FlowSelector, GrantKind, OadAlternative, OadDescription, OadObservation
from cartographer.values import Quantity
from hostagent.payments import flowbook
from hostagent.payments.commands import FlowReport, Oads, Observed
from hostagent.payments.flowbook import CUMULATIVE, FORGET_NS, FlowBook, flow_number, flow_text, path_text, reverse
from hostagent.payments.flows import IDLE_NS, Flow
from pricereactor.reactor import Decision, Observation, reactor_for

S = 10**9
PACKET = plain()
FLOW = flow_of(PACKET)
BACK = reverse(FLOW)
BY_1: Oads = ((X, ISP_WRITTEN | 3, 1), (Y, ISP_WRITTEN | 1, 1))
BY_2: Oads = ((X, ISP_WRITTEN | 3, 2), (Y, ISP_WRITTEN | 1, 1))


def report(flow: FlowSelector = FLOW, **counts: Any) -> FlowReport:
    return report_of(flow, **counts)


def echo(*observed: tuple[Oads, int], **counts: Any) -> Echo:
    observations = tuple(
        OadObservation(oads=oads, packets=packets, received_nanodollars=9 * packets, lowest_amount=9, path_length=2)
        for oads, packets in observed
    )
    return echo_of(FLOW, observations=observations, **counts)


def book() -> FlowBook:
    return FlowBook(delay_value_nanodollars_per_ms=1)


def numbered(number: int) -> FlowSelector:
    return msgspec.structs.replace(FLOW, source_port=number)


# --- reports ---------------------------------------------------------------------------------------------------------


def test_what_leaves_and_what_arrives_are_kept_apart() -> None:
    kept = book()
    kept.on_reports([report(out_packets=1), report(BACK, in_packets=2)], 0)
    assert set(kept.flows) == {FLOW}
    assert set(kept.arriving) == {BACK}
    assert kept.opposite(kept.flows[FLOW]) is kept.arriving[BACK]


def test_a_reply_flow_is_known_by_what_it_has_to_return() -> None:
    kept = book()
    kept.on_reports([report(pool_nanodollars=8), report(numbered(1), in_packets=1)], 0)
    assert set(kept.flows) == {FLOW}
    assert kept.opposite(kept.flows[FLOW]) is None


def test_a_later_report_replaces_the_earlier_one() -> None:
    kept = book()
    for tick in (1, 2):
        kept.on_reports([report(out_packets=tick, out_bytes=1000 * tick, last_ns=tick * S)], tick * S)
    flow = kept.flows[FLOW]
    assert (flow.report.out_packets, flow.rate_bit_s(2 * S)) == (2, 8000)


def seen(oads: Oads, packets: int, lowest: int) -> Observed:
    return Observed(oads=oads, packets=packets, received_nanodollars=9 * packets, lowest_amount=lowest, path_length=2)


def test_a_restarted_packet_core_goes_on_counting_where_the_killed_one_was() -> None:
    kept = book()
    counts: dict[str, Any] = dict.fromkeys(CUMULATIVE, 100)
    kept.on_reports([report(**counts, observed=(seen(BY_1, 70, 9), seen(BY_2, 30, 7)))], 0)
    fewer: dict[str, Any] = dict.fromkeys(CUMULATIVE, 4)
    again = report(**fewer, spent_nanodollars=60, pool_nanodollars=5, observed=(seen(BY_2, 4, 8),))
    kept.on_reports([again], S)
    more: dict[str, Any] = dict.fromkeys(CUMULATIVE, 6)
    kept.on_reports([report(**more, spent_nanodollars=80, pool_nanodollars=5)], 2 * S)
    total = kept.flows[FLOW].report
    assert {getattr(total, name) for name in CUMULATIVE} == {106}
    assert (total.spent_nanodollars, total.pool_nanodollars) == (80, 5)
    kept.on_reports([report(**fewer, observed=(seen(BY_2, 4, 8),))], 3 * S)
    total = kept.arriving[FLOW]
    assert {getattr(total, name) for name in CUMULATIVE} == {110}
    assert total.observed == (seen(BY_2, 34, 7), seen(BY_1, 70, 9))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_counts_never_fall(story: list[tuple[bool, int, int]]) -> None:
    """Whenever a packet core is restarted: what a later one counts is added."""
    kept, out, arrived = book(), 0, 0
    total_out = total_arrived = 0
    for restarted, more_out, more_arrived in story:
        out, arrived = (more_out, more_arrived) if restarted else (out + more_out, arrived + more_arrived)
        kept.on_reports([report(out_packets=out, in_packets=arrived)], 0)
        if FLOW in kept.flows:
            now = kept.flows[FLOW].report
            assert now.out_packets >= total_out
            assert now.in_packets >= total_arrived
            total_out, total_arrived = now.out_packets, now.in_packets


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_silent_flows_are_forgotten() -> None:
    kept = book()
    kept.on_reports([report(out_packets=1, last_ns=5), report(BACK, in_packets=1, last_ns=5)], 5)
    kept.on_reports([report(numbered(9), in_packets=1, last_ns=5)], 5)
    kept.forget_old(5 + FORGET_NS)
    assert (len(kept.flows), len(kept.arriving)) == (1, 2)
    kept.flows[FLOW].busy = True
    kept.forget_old(6 + FORGET_NS)
    assert set(kept.flows) == {FLOW}  # a call for it is under way
    assert set(kept.arriving) == {BACK}  # its receipts are what may go back with a flow that is there
    kept.flows[FLOW].busy = False
    kept.forget_old(6 + FORGET_NS)
    assert (kept.flows, kept.arriving, kept._raw, kept._before) == ({}, {}, {}, {})


def test_the_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowbook, "MAX_FLOWS", 10)
    kept = book()
    for number in range(100):
        kept.on_reports([report(numbered(number), out_packets=1, in_packets=1)], 0)
    assert len(kept.flows) == len(kept.arriving) == 10
    assert len(kept._raw) == 20
    kept.on_reports([report(numbered(3), out_packets=2, in_packets=7)], 0)
    assert kept.arriving[numbered(3)].in_packets == 7


def test_a_full_book_lets_go_of_silent_flows_without_a_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowbook, "MAX_FLOWS", 4)
    kept = book()
    kept.on_reports([report(numbered(number), out_packets=1, last_ns=0) for number in range(3)], 0)
    kept.on_reports([report(numbered(3), out_packets=1, last_ns=IDLE_NS)], IDLE_NS)
    kept.flows[numbered(0)].on_grant(grant_for(PACKET), "X")
    kept.flows[numbered(1)].on_return_grant(grant_for(PACKET, kind=GrantKind.RETURN), "X")
    kept.on_reports([report(numbered(4), out_packets=1, last_ns=IDLE_NS)], IDLE_NS)
    assert set(kept.flows) == {numbered(number) for number in (0, 1, 3, 4)}
    kept.on_reports([report(numbered(5), out_packets=1, last_ns=IDLE_NS)], IDLE_NS)
    assert numbered(5) not in kept.flows


# --- echoes ----------------------------------------------------------------------------------------------------------


def paying_book() -> tuple[FlowBook, Flow]:
    kept = book()
    kept.on_reports([report(out_packets=1)], 0)
    flow = kept.flows[FLOW]
    flow.amount_nanodollars = 20
    return kept, flow


def test_an_echo_of_an_unknown_flow_changes_nothing() -> None:
    assert book().on_echo(echo(), 0) is None


@pytest.mark.row("BP-24")
def test_an_echo_tells_path_toll_and_goodput() -> None:
    kept, flow = paying_book()
    for tick in (1, 2):
        told = echo((BY_1, 10 * tick), paid_packets=10 * tick, received_nanodollars=90 * tick, bytes=1000 * tick)
        assert kept.on_echo(told, tick * S) is flow
    assert flow.path == f"AS{X}:1 AS{Y}:1"
    assert (flow.far_end.toll_nanodollars, flow.far_end.goodput_bit_s()) == (11, 8000)


def test_the_path_is_that_of_the_newest_packets() -> None:
    kept, flow = paying_book()
    kept.on_echo(echo((BY_1, 1000)), S)
    kept.on_echo(echo((BY_1, 1001), (BY_2, 5)), 2 * S)
    assert flow.path == f"AS{X}:2 AS{Y}:1"
    kept.on_echo(echo((BY_1, 1001), (BY_2, 5)), 3 * S)
    assert flow.path == f"AS{X}:2 AS{Y}:1"


def test_a_probes_echo_tells_no_path_of_a_flow() -> None:
    kept, flow = paying_book()
    flow.is_probe = True
    assert kept.on_echo(echo((BY_1, 10)), S) is flow
    assert flow.path == ""


# --- what cannot wait ------------------------------------------------------------------------------------------------

TIMELY = {"amount_nanodollars": 0, "willingness_nanodollars": 200, "target_bit_s": 0, "probes_nanodollars": 1000}
PROBE = numbered(50_000)


def timely_book() -> tuple[FlowBook, Flow]:
    kept, flow = paying_book()
    flow.react_by(reactor_for("timely", **TIMELY))
    return kept, flow


def echoes(kept: FlowBook, oads: Oads, left: int, *, times: int, amount: int, after: int = 0) -> None:
    """So many, each of ten packets more, of whose amount so much is left."""
    flow = kept.flows[FLOW]
    for tick in range(after + 1, after + times + 1):
        flow.amount_nanodollars = amount
        kept.on_echo(echo((oads, 10 * tick), paid_packets=10 * tick, received_nanodollars=10 * tick * left), tick * S)


@pytest.mark.row("BP-46", "BP-48")
def test_a_timely_flow_pays_all_it_is_worth_and_then_what_is_usual_on_its_path() -> None:
    kept, flow = timely_book()
    kept.decide(0)
    assert flow.amount_nanodollars == 200
    echoes(kept, BY_1, 150, times=12, amount=200)
    kept.decide(S)
    assert flow.amount_nanodollars == 55, "the toll and a tenth"
    assert "100 % " not in flow.reason
    for _ in range(10):
        kept.on_probe(FLOW.destination, path_text(BY_2), 20)
    echoes(kept, BY_2, 35, times=1, amount=55, after=12)
    kept.decide(2 * S)
    assert flow.amount_nanodollars == 22, "known by probes before a packet went there"
    kept.on_probe(FLOW.destination, path_text(BY_2), None)
    kept.decide(3 * S)
    assert flow.amount_nanodollars == 200, "one was lost there"


@pytest.mark.row("BP-46")
def test_the_next_timely_flow_knows_what_the_last_one_learned_for_some_time() -> None:
    for pause_ns, amount in ((60 * S, 55), (flowbook.KNOWN_NS, 200)):
        kept, _ = timely_book()
        echoes(kept, BY_1, 150, times=12, amount=200)
        kept.decide(S)
        kept.on_reports([report(numbered(9), out_packets=1, last_ns=S + pause_ns)], S + pause_ns)
        later = kept.flows[numbered(9)]
        later.react_by(reactor_for("timely", **TIMELY))
        kept.decide(S + pause_ns)
        assert later.amount_nanodollars == amount


@pytest.mark.row("BP-47")
def test_the_budget_for_probes_is_one_for_the_whole_flow() -> None:
    _, flow = timely_book()
    assert flow.timely is not None
    assert [flow.timely.take_probe() for _ in range(4)] == [200] * 4
    flow.on_closed(None)
    assert flow.timely is None
    flow.react_by(reactor_for("timely", **TIMELY))
    assert [flow.timely.take_probe() for _ in range(2)] == [200, None]


def test_probes_are_asked_for_with_the_grant_of_the_flow_that_pays_for_them() -> None:
    kept, _ = timely_book()
    kept.pay_probes_by(PROBE, "a" * 32)
    kept.on_reports([report(PROBE, out_packets=1)], 0)
    flow = kept.flows[PROBE]
    assert (flow.probes_of, flow.judged) == ("a" * 32, False)
    flow.judged = True
    kept.pay_probes_by(PROBE, "a" * 32)
    assert flow.judged
    kept.pay_probes_by(PROBE, "b" * 32)
    assert (flow.probes_of, flow.judged) == ("b" * 32, False)
    flow.judged = True
    kept.pay_probes_by(PROBE, "")
    assert (flow.probes_of, flow.judged) == ("", True)


# --- decisions -------------------------------------------------------------------------------------------------------


class Restless:
    """A reactor that always wants another path."""

    def on_observation(self, observation: Observation) -> Decision:
        return Decision(amount_nanodollars=7, try_other_path=True, reason="too slow")


def test_only_flows_with_news_are_told() -> None:
    kept, flow = paying_book()
    assert kept.decide(0) == []
    flow.reactor = reactor_for("fixed", amount_nanodollars=20, willingness_nanodollars=20, target_bit_s=0)
    assert kept.decide(0) == []  # without a grant there is nothing to tell
    flow.on_grant(grant_for(PACKET), "X")
    assert kept.decide(0) == [flow]
    flow.told = flow.wanted()
    assert kept.decide(S) == []
    assert flow.amount_nanodollars == 20


def test_a_silent_flow_is_not_decided_about_and_a_probes_flow_never() -> None:
    kept, flow = paying_book()
    flow.reactor = Restless()
    kept.decide(IDLE_NS)
    assert flow.amount_nanodollars == 20
    flow.is_probe = True
    flow.on_grant(grant_for(PACKET), "X")
    assert kept.decide(0) == []
    assert flow.amount_nanodollars == 20


def test_another_path_is_asked_for_by_user_oads() -> None:
    kept, flow = paying_book()
    description = OadDescription(
        issuer="0" * 64,
        as_number=X,
        serial=1,
        prefix="10.0.2.0/24",
        alternatives=tuple(OadAlternative(number=number, title=f"by {number}") for number in (1, 2)),
        published_unix_s=0,
        expires_unix_s=2**33,
    )
    kept.cartographer.on_description(description, now_unix_s=1, now_ns=0)
    flow.reactor = Restless()
    flow.on_grant(grant_for(PACKET), "X")
    kept.on_echo(echo((BY_1, 10)), S)
    kept.decide(S)
    asked = {slot[0]: slot for slot in flow.slots}
    assert X in asked
    assert asked[X] != (X, 0, 1)
    assert "too slow" in flow.reason


# --- what the cartographer hears -------------------------------------------------------------------------------------


def told_story(
    kept: FlowBook, *, seconds: int, arrived_percent: int, oads: Oads = BY_1, strategy: str = "fixed"
) -> Flow:
    """A flow of 100 packets a second of which so many arrive, one in ten of them marked."""
    for tick in range(1, 4 * seconds + 1):
        now_ns = tick * S // 4
        kept.on_reports([report(out_packets=25 * tick, out_bytes=25_000 * tick, last_ns=now_ns)], now_ns)
        flow = kept.flows[FLOW]
        if flow.reactor is None:
            flow.react_by(reactor_for("fixed", amount_nanodollars=20, willingness_nanodollars=20, target_bit_s=0))
            flow.strategy = strategy
        kept.decide(now_ns)
        packets = 25 * tick * arrived_percent // 100
        kept.on_echo(
            echo(
                (oads, packets),
                packets=packets,
                bytes=1000 * packets,
                paid_packets=packets,
                ce_packets=packets // 10,
                received_nanodollars=9 * packets,
                returned_nanodollars=8 * packets,
            ),
            now_ns + 1,
        )
    return flow


@pytest.mark.row("BP-24", "BP-31")
def test_echoes_tell_loss_marks_toll_and_goodput_of_the_way() -> None:
    for arrived_percent, loss_ppm in ((100, 0), (90, 100_000)):
        kept = book()
        told_story(kept, seconds=30, arrived_percent=arrived_percent, strategy="bulk")
        (quality,) = kept.cartographer.quality(30 * S)
        assert (quality.destination, quality.way) == (FLOW.destination, path_text(BY_1))
        assert quality.estimates[Quantity.LOSS_PPM].value == pytest.approx(loss_ppm, rel=0.3, abs=2000)
        assert quality.estimates[Quantity.MARKS_PPM].value == pytest.approx(100_000, rel=0.3)
        assert quality.estimates[Quantity.FORWARD_TOLL_PICODOLLARS].value == 11_000
        bit_s = 8 * 100_000 * arrived_percent // 100
        assert quality.estimates[Quantity.THROUGHPUT_BIT_S].value == pytest.approx(bit_s, rel=0.1)


def test_what_an_app_sends_that_is_no_transfer_says_nothing_of_throughput() -> None:
    kept = book()
    told_story(kept, seconds=5, arrived_percent=100)
    (quality,) = kept.cartographer.quality(5 * S)
    assert Quantity.THROUGHPUT_BIT_S not in quality.estimates


@pytest.mark.row("BP-24")
def test_return_tolls_are_told_apart_from_those_there() -> None:
    kept = book()
    for tick in range(1, 41):
        back = report(BACK, in_packets=25 * tick, in_paid_packets=25 * tick, refunded_nanodollars=6 * 25 * tick)
        kept.on_reports([back], tick * S // 4)
        kept.on_reports([report(out_packets=25 * tick, last_ns=tick * S // 4)], tick * S // 4)
        kept.flows[FLOW].amount_nanodollars = 20
        counts = {"paid_packets": 25 * tick, "received_nanodollars": 9 * 25 * tick, "packets": 25 * tick}
        kept.on_echo(echo((BY_1, 25 * tick), returned_nanodollars=8 * 25 * tick, **counts), tick * S // 4)
    (quality,) = kept.cartographer.quality(10 * S)
    assert quality.estimates[Quantity.RETURN_TOLL_PICODOLLARS].value == 2_000
    assert quality.estimates[Quantity.FORWARD_TOLL_PICODOLLARS].value == 11_000


def test_flows_have_stable_numbers_and_the_class_of_their_strategy() -> None:
    assert flow_number(FLOW) == flow_number(msgspec.structs.replace(FLOW)) < 2**64
    assert len({flow_number(numbered(number)) for number in range(1000)}) == 1000
    for strategy, wants in (("timely", "timely"), ("bulk", "bulk"), ("fixed", "default"), ("elastic", "default")):
        kept = book()
        told_story(kept, seconds=1, arrived_percent=100, strategy=strategy)
        assert {fact.wants for fact in kept.cartographer.ways(S)} == {wants}


def test_traces_go_with_their_flows() -> None:
    kept = book()
    kept.on_reports([report(out_packets=1, last_ns=5)], 5)
    assert set(kept._traces) == {FLOW}
    kept.forget_old(6 + FORGET_NS)
    assert kept._traces == {}


@pytest.mark.row("BP-47")
def test_a_silent_far_end_has_its_way_probed_at_once() -> None:
    kept = book()
    told_story(kept, seconds=4, arrived_percent=100)
    destination = FLOW.destination
    while kept.cartographer.probes_due(destination, 4 * S):
        pass
    for tick in range(17, 40):
        now_ns = tick * S // 4
        kept.on_reports([report(out_packets=25 * tick, last_ns=now_ns)], now_ns)
        kept.decide(now_ns)
        if kept.cartographer.probes_due(destination, now_ns):
            break
    assert tick * S // 4 < 4 * S + 3 * S, "long before the next one would be due"


# --- texts -----------------------------------------------------------------------------------------------------------


def test_flows_and_paths_are_written_as_people_write_them() -> None:
    assert flow_text(FLOW) == f"udp {A_V4}:5004 → {B_V4}:5004"
    assert flow_text(flow_of(plain(A_V6, B_V6))) == f"udp [{A_V6}]:5004 → [{B_V6}]:5004"
    assert flow_text(msgspec.structs.replace(FLOW, protocol=6)).startswith("tcp ")
    assert flow_text(msgspec.structs.replace(FLOW, protocol=50)).startswith("50 ")
    assert path_text(((X, 0, 1), (Y, ISP_WRITTEN, 2))) == f"AS{Y}:2"
    assert reverse(reverse(FLOW)) == FLOW
