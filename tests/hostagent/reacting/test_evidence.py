"""Price signals out of cumulative readings: each source, and which of them is believed."""

from __future__ import annotations

import random

import pytest

from billpay.messages import Echo, FlowSelector
from billpay.sessions import MarkPrice
from dataplane.marks_seen import SenderView
from dataplane.metering import Tally
from hostagent.reacting.evidence import (
    BLEACHED_PACKETS,
    SILENT_NS,
    ClassicEstimate,
    Evidence,
    MarkCount,
    Moment,
    SenderSide,
    marks_by_delay,
)
from hostagent.reacting.prices import Prices, Provider
from pricereactor.signals import NS_PER_S, Source

MS = 1_000_000
T0 = 1_750_000_000_000


def view(
    delivered: int = 0, *, ce: int = 0, retransmitted: int = 0, rtt_us: int = 20_000, accurate: bool = False
) -> SenderView:
    return SenderView(
        delivered_packets=delivered,
        delivered_ce=ce,
        lost=0,
        retransmitted=retransmitted,
        rtt_us=rtt_us,
        min_rtt_us=20_000,
        accurate=accurate,
        capable=True,
    )


def prices(each: int | None = 100) -> Prices:
    return Prices([Provider(name="p2", nanodollars_per_mark=each)])


def at(ms: int) -> Moment:
    return Moment(ns=ms * MS, unix_ms=T0 + ms)


def count(ms: int, packets: int, marks: int, *, ect: int | None = None, counted_ms: int | None = None) -> MarkCount:
    return MarkCount(
        unix_ms=T0 + ms,
        counted_ms=ms if counted_ms is None else counted_ms,
        packets=packets,
        bytes=packets * 1500,
        marks=marks,
        ect_packets=packets - marks if ect is None else ect,
    )


def evidence(each: int | None = 100) -> Evidence:
    return Evidence(prices(each), begun_ns=0)


def test_what_is_new_in_a_report_is_the_signal() -> None:
    heard = evidence()
    heard.marks.on_count(count(100, 50, 2))
    heard.marks.on_count(count(200, 90, 5))
    signal = heard.signal(at(210), view=None, sent=None)
    assert signal is not None
    assert (signal.packets, signal.marks, signal.interval_ns) == (90, 5, 200 * MS)
    assert (signal.source, signal.charge_nanodollars, signal.is_billed) == (Source.RECEIVER_MARKS, 500, True)
    assert heard.signal(at(310), view=None, sent=None) is None, "nothing new is no signal, and no price of 0"


def test_lost_repeated_and_overtaken_reports_change_neither_marks_nor_bill() -> None:
    draw = random.Random(7)
    reports = [count(100 * number, 40 * number, 3 * number) for number in range(1, 200)]
    wire = [report for report in reports if draw.random() > 0.3] + [reports[-1]]
    wire += draw.sample(wire, 60)  # repeated
    wire.sort(key=lambda report: report.unix_ms + draw.randrange(0, 400))
    heard = evidence()
    for report in wire:
        heard.marks.on_count(report)
    heard.marks.on_count(reports[-1])
    assert heard.marks.marks == 3 * 199
    assert heard.bill.nanodollars == 3 * 199 * 100


def test_an_agent_that_begins_anew_counts_from_its_own_beginning() -> None:
    heard = evidence()
    heard.marks.on_count(count(10_000, 5000, 50))
    assert heard.marks.on_count(count(10_400, 30, 1, counted_ms=300))
    assert heard.marks.marks == 51


def test_counts_that_fall_or_contradict_each_other_prove_nothing() -> None:
    heard = evidence()
    assert not heard.marks.on_count(count(100, 10, 8, ect=5))
    assert heard.marks.on_count(count(100, 10, 2))
    assert not heard.marks.on_count(count(200, 5, 1))
    assert heard.marks.on_count(count(300, 9, 2))
    assert heard.marks.marks == 3


def test_where_the_price_is_not_known_the_charge_is_not_known() -> None:
    heard = evidence(None)
    heard.marks.on_count(count(100, 50, 2))
    signal = heard.signal(at(110), view=None, sent=None)
    assert signal is not None
    assert signal.charge_nanodollars is None
    assert heard.bill.uncharged_marks == 2


def test_a_price_that_comes_after_all_is_charged() -> None:
    own = Prices([Provider(name="p2")])
    heard = Evidence(own, begun_ns=0)
    heard.marks.on_count(count(100, 50, 2))
    heard.marks.on_count(count(200, 90, 5))
    push = MarkPrice(
        provider="p2", serial=1, nanodollars_per_mark=70, valid_from_unix_ms=T0, published_unix_s=T0 // 1000 - 5
    )
    assert own.on_push(push)
    assert heard.on_price() == 350
    assert heard.bill.nanodollars == 350
    assert heard.on_price() == 0


def test_however_long_a_price_is_missing_no_mark_is_forgotten() -> None:
    own = Prices([Provider(name="p2")])
    heard = Evidence(own, begun_ns=0)
    for turn in range(1, 2_001):
        heard.marks.on_count(count(100 * turn, 50 * turn, 2 * turn))
    assert heard.bill.uncharged_marks == 4_000
    push = MarkPrice(
        provider="p2", serial=1, nanodollars_per_mark=70, valid_from_unix_ms=T0, published_unix_s=T0 // 1000 - 5
    )
    own.on_push(push)
    heard.on_price()
    assert heard.bill.nanodollars == 70 * 4_000
    assert heard.bill.uncharged_marks == 0


def test_bleached_marks_are_told_from_a_path_without_congestion() -> None:
    heard, sent = evidence(), Tally(packets=1000, bytes=1_500_000, ect_packets=1000)
    for turn in range(1, 6):
        heard.marks.on_count(count(100 * turn, 40 * turn, 0, ect=0))
        signal = heard.signal(at(100 * turn), view=view(40 * turn, retransmitted=turn), sent=sent)
    assert BLEACHED_PACKETS < 5 * 40
    assert signal is not None
    assert (signal.source, signal.marks, signal.is_billed) == (Source.LOSS, 1, False)
    assert heard.bill.nanodollars == 0, "nobody can charge for marks that do not arrive"


def test_bleached_without_a_transport_that_tells_is_what_does_not_arrive() -> None:
    heard, lost = evidence(), 0
    for turn in range(1, 41):
        heard.marks.on_count(count(100 * turn, 90 * turn, 0, ect=0))  # ten of a hundred are missing
        sent = Tally(packets=100 * turn + 20, bytes=150_000 * turn, ect_packets=100 * turn)
        signal = heard.signal(at(100 * turn), view=None, sent=sent)
        lost += signal.marks if signal is not None and signal.source is Source.LOSS else 0
    assert 300 <= lost <= 400


@pytest.mark.expectation(19)
def test_a_way_that_was_checked_to_spoil_marks_is_told_by_loss_from_the_first_packet() -> None:
    """Nothing leaves as ECT there, so that no receiver counts a mark: that is not a way without congestion."""
    survives = True
    heard = Evidence(prices(100), begun_ns=0, marks_survive=lambda: survives)
    for turn in range(1, 6):
        survives = turn < 4
        heard.marks.on_count(count(100 * turn, 40 * turn, 0, ect=0))
        sent = Tally(packets=100 * turn, bytes=150_000 * turn)
        signal = heard.signal(at(100 * turn), view=view(40 * turn, retransmitted=turn), sent=sent)
        assert signal is not None
        assert signal.source is (Source.RECEIVER_MARKS if survives else Source.LOSS)
    assert heard.bill.nanodollars == 0


def test_the_far_end_goes_first_and_its_silence_is_not_filled_by_estimates() -> None:
    heard, sent = evidence(), Tally(packets=100, bytes=150_000, ect_packets=100)
    heard.signal(at(0), view=view(), sent=Tally())
    heard.marks.on_count(count(100, 50, 2))
    signal = heard.signal(at(100), view=view(50), sent=sent)
    assert signal is not None
    assert signal.source is Source.RECEIVER_MARKS
    for turn in range(2, 100):
        own = view(50 * turn, ce=turn)
        assert heard.signal(at(100 * turn), view=own, sent=sent) is None


def test_a_far_end_without_an_agent_is_waited_for_and_then_estimated() -> None:
    heard = evidence()
    signals = []
    for turn in range(1, 40):
        sent = Tally(packets=100 * turn, bytes=150_000 * turn, ect_packets=100 * turn)
        own = view(100 * turn, ce=2 * turn, accurate=True)
        signals.append(heard.signal(at(100 * turn), view=own, sent=sent))
    first = next(number for number, signal in enumerate(signals, start=1) if signal is not None)
    assert first * 100 * MS == SILENT_NS
    signal = signals[-1]
    assert signal is not None
    assert (signal.source, signal.marks, signal.bytes) == (Source.ACCURATE_ECN, 2, 150_000)
    assert not signal.is_billed
    assert not heard.is_billed
    assert heard.spent_nanodollars == 200 * (40 - first)


def test_a_transport_from_which_marks_are_hidden_does_not_say_that_there_are_none() -> None:
    side = SenderSide(prices())
    side.take(at(0), view(), Tally(), hides_marks=True)
    sent = Tally(packets=100, bytes=150_000, ect_packets=100)
    signal = side.take(at(100), view(100, rtt_us=60_000), sent, hides_marks=True)
    assert signal is not None
    assert (signal.source, signal.marks) == (Source.DELAY, 4)


def test_an_idle_sender_has_learnt_nothing() -> None:
    side = SenderSide(prices())
    assert side.take(at(0), view(5), Tally()) is None
    assert side.take(at(100), view(5), Tally()) is None


def test_delay_has_no_price_up_to_the_good_delay_and_a_bounded_one_beyond() -> None:
    assert marks_by_delay(1000, rtt_us=24_000, min_rtt_us=20_000) == 0
    assert marks_by_delay(1000, rtt_us=75_000, min_rtt_us=20_000) == 50
    assert marks_by_delay(1000, rtt_us=9_000_000, min_rtt_us=20_000) == 100


def classic_run(share: float, *, intervals: int = 200, round_trips: int = 5, window: int = 40) -> tuple[int, int, int]:
    """True marks, segments acknowledged under ECE, and the estimate, as RFC 3168's two ends make them."""
    draw, estimate = random.Random(3), ClassicEstimate()
    marks = all_under = estimated = 0
    under_until = 0  # ECE stays set until CWR has arrived, a round trip after the mark
    for interval in range(intervals):
        under = 0
        for packet in range(interval * round_trips * window, (interval + 1) * round_trips * window):
            if draw.random() < share:
                marks += 1
                under_until = packet + window if packet >= under_until else under_until
            under += packet < under_until
        all_under += under
        estimated += estimate.marks(delivered=round_trips * window, under_ece=under, round_trips=float(round_trips))
    return marks, all_under, estimated


@pytest.mark.parametrize("share", [0.002, 0.005, 0.01, 0.02, 0.05])
def test_the_classic_estimate_is_near_the_marks_where_segments_under_ece_are_not(share: float) -> None:
    marks, under, estimated = classic_run(share)
    assert 0.7 * marks <= estimated <= 1.4 * marks
    assert under > 12 * marks or share > 0.02


def test_some_sixty_marks_do_not_read_as_1300() -> None:
    marks, under, estimated = classic_run(0.002, intervals=380, round_trips=4, window=22)
    assert marks == 63
    assert under > 1_200
    assert 45 <= estimated <= 85


def test_the_classic_estimate_lies_between_round_trips_and_segments() -> None:
    for under in range(101):
        estimated = ClassicEstimate().marks(delivered=100, under_ece=under, round_trips=5.0)
        assert under * 5 // 100 <= estimated <= under


def echo(sequence: int, *, packets: int, received: int) -> Echo:
    flow = FlowSelector(source="10.0.0.1", destination="10.0.0.2", protocol=6, source_port=4000, destination_port=5201)
    return Echo(
        session="a" * 32,
        sequence=sequence,
        flow=flow,
        packets=packets,
        bytes=packets * 1500,
        paid_packets=packets,
        ce_packets=0,
        received_nanodollars=received,
        returned_nanodollars=0,
    )


def test_tolls_are_what_was_paid_less_what_was_left() -> None:
    heard = evidence(None)
    heard.tolls.on_echo(echo(1, packets=10, received=170), amount_nanodollars=20, now_ns=0)
    heard.tolls.on_echo(echo(2, packets=30, received=510), amount_nanodollars=20, now_ns=NS_PER_S)
    signal = heard.signal(at(1000), view=None, sent=None)
    assert signal is not None
    assert (signal.source, signal.charge_nanodollars, signal.packets, signal.marks) == (Source.TOLLS, 60, 20, 0)
    heard.tolls.on_echo(echo(3, packets=40, received=600), amount_nanodollars=30, now_ns=2 * NS_PER_S)
    signal = heard.signal(at(2000), view=None, sent=None)
    assert signal is not None
    assert signal.charge_nanodollars is None, "over a change of the amount nobody can say"
    assert heard.spent_nanodollars == 60
