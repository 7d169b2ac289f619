"""Sources and the loop from counts to rates, each against what arithmetic says."""

from __future__ import annotations

import random
from typing import Any

import pytest

from billpay.markprices import MarkReading, PriceSchedule
from billpay.sessions import MarkPrice, Payer
from lab.simulator.events import Packet, Timeline
from lab.simulator.feedback import FeedbackLoop, LoopSettings
from lab.simulator.links import FifoLink, LinkSettings
from lab.simulator.playback import Playback
from lab.simulator.sources import BurstSource, OnOff, PacedSource, Receiver, bursts, steps_of
from lab.simulator.windows import MulTcpWindow, WindowSource
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import PriceSignal

MS = 1_000_000
S = 1000 * MS


class Noted:
    def __init__(self, line: Timeline) -> None:
        self._line = line
        self.times_ns: list[int] = []

    def arrive(self, packet: Packet) -> None:
        self.times_ns.append(self._line.now_ns)


class Scripted:
    """Says the next of its targets, and keeps what it heard."""

    interval_ns = 100 * MS

    def __init__(self, targets: list[int | None], verdict: Verdict = Verdict.GO) -> None:
        self._targets = targets
        self._verdict = verdict
        self.heard: list[tuple[int, PriceSignal | None]] = []

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        self.heard.append((now_ns, signal))
        target = self._targets[min(len(self.heard), len(self._targets)) - 1]
        return RateDecision(target_bit_s=target, verdict=self._verdict)


def test_a_paced_source_keeps_its_gap_and_changes_at_once() -> None:
    line = Timeline()
    end = Noted(line)
    source = PacedSource(line, (end,))
    source.set_rate(8_000_000)  # a packet each ms
    line.run_until(10 * MS)
    assert end.times_ns == [number * MS for number in range(10)]
    source.set_rate(800_000)
    line.run_until(11 * MS)
    source.set_rate(8_000_000)  # the packet that was due at 10 ms has left; a tenth of the slow gap has passed
    line.run_until(20 * MS)
    assert end.times_ns[10:12] == [10 * MS, 10 * MS + 1_900_000]
    source.set_rate(0)
    line.run_until(50 * MS)
    assert len(end.times_ns) < 22


def test_a_spread_keeps_the_mean() -> None:
    line = Timeline()
    end = Noted(line)
    source = PacedSource(line, (end,), draw=random.Random(1).random, spread=0.5)
    source.set_rate(8_000_000)
    line.run_until(20 * S)
    assert len(end.times_ns) == pytest.approx(20_000, rel=0.01)
    gaps = {b - a for a, b in zip(end.times_ns, end.times_ns[1:], strict=False)}
    assert min(gaps) < 510_000
    assert max(gaps) > 1_490_000


def test_bursts_are_sent_one_after_the_other_and_nothing_is_lost_before_the_network() -> None:
    line = Timeline()
    end = Receiver(line)
    demand = bursts(
        OnOff(peak_bit_s=8_000_000, mean_on_ns=200 * MS, mean_off_ns=300 * MS), random.Random(2).random, 20 * S
    )
    wanted = BurstSource(line, PacedSource(line, (end,)), demand, pace_bit_s=2_000_000)
    line.schedule(15 * S, wanted.set_rate, 16_000_000)
    line.run_until(60 * S)
    packets = sum(-(-size // 1000) for _, size in demand)
    assert end.packets == packets
    assert len(wanted.done_ns) == len(demand)
    assert wanted.is_idle


def test_a_reno_fills_its_link_and_answers_marks_once_in_a_round_trip() -> None:
    line = Timeline()
    link = FifoLink(line, LinkSettings(rate_bit_s=8_000_000, delay_ns=20 * MS, buffer_bytes=40_000), None, lambda: 0.0)
    end = Receiver(line)
    source = WindowSource(line, (link, end), end, MulTcpWindow(), return_ns=20 * MS)
    line.run_until(60 * S)
    assert link.busy_ns / 60e9 > 0.9
    assert link.dropped_packets == end.lost_packets > 3
    assert end.packets + end.lost_packets <= source.sent_packets
    window = MulTcpWindow(window=100.0)
    for _ in range(10):
        window.on_acknowledged(marked=True, new_round=False)
    window.on_acknowledged(marked=True, new_round=True)
    assert window.window == 50.0
    four = MulTcpWindow(4.0, window=100.0)
    four.on_lost(new_round=True)
    assert four.window == pytest.approx(87.5)


def test_playback_stalls_for_as_long_as_there_is_nothing() -> None:
    line = Timeline()
    playback = Playback(line, begin_ns=2 * S, resume_ns=S)

    def media(seconds: int) -> Packet:
        packet = Packet((), 1000, 0, 0)
        packet.media_ns = seconds * S
        return packet

    playback.arrive(media(3))  # plays until 3 s
    line.run_until(5 * S)
    assert playback.buffer_ns() == 0
    playback.arrive(media(1))  # stalled for 2 s
    line.run_until(5 * S + 500 * MS)
    assert playback.buffer_ns() == 500 * MS
    assert (playback.stalls, playback.stalled_ns) == (1, 2 * S)


class Loop:
    """A source that marks half of its packets, its receiver, a scripted reactor."""

    def __init__(self, reactor: Scripted, settings: LoopSettings, *, chance: random.Random | None = None) -> None:
        self.line = Timeline()
        self.end = Receiver(self.line, nanodollars_per_mark=10)
        mark = random.Random(7)

        class Half:
            def on_arrival(self, size_bytes: int, now_ns: int, draw: object, segments: int = 1) -> bool:
                return mark.random() < 0.5

        link = FifoLink(
            self.line, LinkSettings(rate_bit_s=10**9, delay_ns=10 * MS, buffer_bytes=10**9), Half(), mark.random
        )
        self.source = PacedSource(self.line, (link, self.end))
        draw = None if chance is None else chance.random
        self.loop = FeedbackLoop(self.line, self.source, self.end, reactor, settings, draw=draw)


def settings(**changed: Any) -> LoopSettings:
    values: dict[str, Any] = {"start_bit_s": 800_000, "let_go_bit_s": 9_000_000, "return_ns": 30 * MS, **changed}
    return LoopSettings(**values)


@pytest.mark.row("DPH-08")
@pytest.mark.row("DPH-05")
@pytest.mark.row("DPH-06")
def test_feedback_comes_once_in_the_reactors_interval_and_the_payer_decides() -> None:
    """Who pays decides at his own end: the same counts, the same rates at the same times."""
    rates: dict[Payer, list[tuple[int, int]]] = {}
    for payer, first_ns in ((Payer.SENDER, 130 * MS), (Payer.RECEIVER, 100 * MS)):
        reactor = Scripted([8_000_000 + 1000 * k for k in range(10)])
        loop = Loop(reactor, settings(payer=payer))
        seen = rates.setdefault(payer, [])
        for at_ns in range(0, 1000 * MS, 5 * MS):
            loop.line.run_until(at_ns)
            seen.append((at_ns, loop.source.rate_bit_s))
        assert [now_ns for now_ns, _ in reactor.heard] == [first_ns + k * 100 * MS for k in range(len(reactor.heard))]
    assert rates[Payer.SENDER] == rates[Payer.RECEIVER]


@pytest.mark.row("DPH-19")
def test_only_marks_are_counted_and_a_lost_report_only_delays_them() -> None:
    for lost in (0.0, 0.4):
        reactor = Scripted([8_000_000])
        loop = Loop(reactor, settings(lost_reports=lost), chance=random.Random(3))
        loop.line.run_until(20 * S + 131 * MS)
        signals = [signal for _, signal in reactor.heard if signal is not None]
        assert (len(signals) < len(reactor.heard)) == (lost > 0)
        assert sum(signal.marks for signal in signals) * 10 == loop.loop.reported_charge_nanodollars
        assert loop.end.charge_nanodollars == 10 * loop.end.marks
        assert loop.loop.reported_charge_nanodollars == pytest.approx(loop.end.charge_nanodollars, rel=0.03)


@pytest.mark.parametrize(("reported_ppm", "share"), [(0, 0.0), (500_000, 0.5)])
def test_a_receiver_that_lies_lowers_its_payers_bill(reported_ppm: int, share: float) -> None:
    loop = Loop(Scripted([8_000_000]), settings(reported_ppm=reported_ppm))
    loop.line.run_until(10 * S + 31 * MS)
    assert loop.loop.reported_charge_nanodollars == pytest.approx(share * loop.end.charge_nanodollars, rel=0.03)
    assert loop.end.charge_nanodollars > 0


@pytest.mark.row("DPH-05")
def test_a_sender_that_ignores_its_target_is_cut_within_two_intervals() -> None:
    loop = Loop(Scripted([800_000]), settings(payer=Payer.RECEIVER, obeys=False))
    loop.line.run_until(5 * S)
    assert loop.loop.disobeyed_ns is not None
    first_judged_ns = 400 * MS  # four targets have to be told before
    assert loop.loop.disobeyed_ns <= first_judged_ns + 100 * MS
    assert loop.source.rate_bit_s == 0
    honest = Loop(Scripted([800_000, 8_000_000, 400_000] * 20), settings(payer=Payer.RECEIVER))
    honest.line.run_until(8 * S)
    assert honest.loop.disobeyed_ns is None


def test_without_a_target_the_flow_is_its_transports_and_a_stop_is_for_good() -> None:
    loop = Loop(Scripted([None], Verdict.LET_GO), settings())
    loop.line.run_until(S)
    assert loop.source.rate_bit_s == 9_000_000
    loop = Loop(Scripted([0], Verdict.STOP), settings())
    loop.line.run_until(S)
    assert loop.source.rate_bit_s == 0
    assert loop.loop.ended_ns == 130 * MS


@pytest.mark.row("DPH-02")
def test_a_bill_is_marks_times_the_price_of_their_time() -> None:
    """The receiver's charge is the bill of the product's schedule, across a change within an interval."""
    schedule = PriceSchedule(
        MarkPrice(provider="p2", serial=serial, nanodollars_per_mark=price, valid_from_unix_ms=at, published_unix_s=0)
        for serial, price, at in ((1, 10, 0), (2, 25, 3_333))
    )
    loop = Loop(Scripted([8_000_000]), settings())
    readings = []
    for at_ms in sorted({*range(0, 6_001, 100), 3_333}):
        loop.line.run_until(at_ms * MS)
        loop.end.nanodollars_per_mark = schedule.price_at(at_ms) or 0
        readings.append(MarkReading(unix_ms=at_ms, marks=loop.end.marks))
    assert loop.end.charge_nanodollars == schedule.bill_nanodollars(readings)


@pytest.mark.row("DPH-13")
def test_cross_traffic_is_one_aggregate_in_steps() -> None:
    assert steps_of((0.0, 0.5, 0.9, 0.2), capacity_bit_s=4_000_000, step_ns=60 * S) == [
        (0, 0), (60 * S, 2_000_000), (120 * S, 3_600_000), (180 * S, 800_000),
    ]  # fmt: skip


def test_no_change_of_rates_gives_a_packet_more_than_the_rate() -> None:
    """Not even off and on again, which is how a budget's guard holds a flow."""
    line = Timeline()
    end = Noted(line)
    source = PacedSource(line, (end,))
    for at_ms in range(0, 1000, 2):
        line.run_until(at_ms * MS)
        source.set_rate(0 if at_ms % 4 else 80_000)  # a packet in 100 ms
    assert len(end.times_ns) <= 11
