"""The loop from a receiver's counts to a sender's rate: aggregator, report, reactor, target rate.

Decides: when a report is taken, when it arrives, at which end the reactor runs. Refuses to know: what a reactor does
with it, and links. One loop for both sub-scenarios (M3I 3.3.2): who pays has the reactor, and what crosses the network
on the way back is counts (sender pays) or a target rate (receiver pays); it takes as long either way.

A receiver may lie about its marks, reports may be lost, and a sender may ignore what it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from billpay.sessions import Payer
from hostagent.reacting.obedience import Obedience
from lab.simulator.events import Timeline
from lab.simulator.sources import Counts, Receiver
from pricereactor.rates import RateDecision, RateReactor, Verdict
from pricereactor.signals import PriceSignal, Source
from pricereactor.spending import SpendingGuard

PPM = 1_000_000
_NS_PER_MS = 1_000_000


class Actuator(Protocol):
    """What takes a rate."""

    def set_rate(self, rate_bit_s: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """`reported_ppm`: of its marks, by the receiver (a million is honest). `lost_reports`: their probability.

    let_go_bit_s: what the flow sends while nobody paces it, at its access rate. phase_ns: how much earlier the first
    report comes, since the intervals of different sessions do not begin together.
    """

    start_bit_s: int
    let_go_bit_s: int
    return_ns: int = 0
    payer: Payer = Payer.SENDER
    reported_ppm: int = PPM
    lost_reports: float = 0.0
    obeys: bool = True
    phase_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A decision, and what was heard before it. `received_bit_s`: of this interval; None where no report came."""

    now_ns: int
    target_bit_s: int | None
    verdict: Verdict
    level: int | None
    charge_nanodollars: int
    received_bit_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """The payer's budget. `sent_packets`: what its pacer has let through; None: the payer is not where that is."""

    guard: SpendingGuard
    packet_bytes: int
    sent_packets: Callable[[], int] | None = None


class FeedbackLoop:
    """One session. Begins at `start_ns` with the start rate, ends by `stop`, by the reactor's verdict, or when a
    receiver that pays finds that its sender does not obey (`disobeyed_ns`). `before` is called before each decision.
    """

    def __init__(
        self,
        timeline: Timeline,
        source: Actuator,
        receiver: Receiver,
        reactor: RateReactor,
        settings: LoopSettings,
        *,
        draw: Callable[[], float] | None = None,
        start_ns: int = 0,
        before: Callable[[], None] | None = None,
        guarded: Guarded | None = None,
    ) -> None:
        assert draw is not None or not settings.lost_reports, "lost reports need chance"
        self._line = timeline
        self._source = source
        self._receiver = receiver
        self._reactor = reactor
        self._settings = settings
        self._draw = draw
        self._told = (0, Counts())  # what the reactor's side knows of the receiver's counts
        self._ended = False
        self._before = before
        self._guarded = guarded
        self._reports = 0
        self._obedience = Obedience() if settings.payer is Payer.RECEIVER else None
        self.disobeyed_ns: int | None = None
        self.ended_ns: int | None = None
        self.reported_charge_nanodollars = 0
        self.history: list[Heard] = []
        timeline.schedule(start_ns, self._start)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def last_target_bit_s(self) -> int | None:
        return self.history[-1].target_bit_s if self.history else None

    def replace_reactor(self, reactor: RateReactor) -> None:
        """Of the same interval: from the next report on."""
        self._reactor = reactor

    def stop(self, _: object = None) -> None:
        if not self._ended:
            self.ended_ns = self._line.now_ns
        self._ended = True
        self._source.set_rate(0)

    def _start(self, _: object) -> None:
        self._told = (self._line.now_ns, self._receiver.counts())
        first = self._limited(RateDecision(target_bit_s=self._settings.start_bit_s))
        self._source.set_rate((first.target_bit_s or 0) if self._settings.obeys else self._settings.let_go_bit_s)
        first_ns = max(1, self._reactor.interval_ns - self._settings.phase_ns)
        self._line.schedule(self._line.now_ns + first_ns, self._report)

    def _report(self, _: object) -> None:
        """At the receiver, exactly once in the reactor's interval."""
        if self._ended:
            return
        line, settings = self._line, self._settings
        reading: tuple[int, Counts] | None = (line.now_ns, self._receiver.counts())
        if self._draw is not None and self._draw() < settings.lost_reports:
            reading = None
        line.schedule(line.now_ns + self._reactor.interval_ns, self._report)
        if self._obedience is not None:
            if self._is_disobeyed(self._obedience, reading):
                self.disobeyed_ns = line.now_ns
                self.stop()
                return
            decision = self._decide(reading)
            self._obedience.on_target(decision.target_bit_s)
            line.schedule(line.now_ns + settings.return_ns, self._obey, decision)
        else:
            line.schedule(line.now_ns + settings.return_ns, self._hear, reading)

    def _is_disobeyed(self, obedience: Obedience, reading: tuple[int, Counts] | None) -> bool:
        """At a receiver that pays: the session of a sender that does not keep to what it is asked is cut."""
        if reading is None:
            return False
        told_ns, told = self._told
        obedience.on_interval(arrived_bytes=reading[1].bytes - told.bytes, interval_ns=reading[0] - told_ns)
        return obedience.has_left

    def _hear(self, reading: tuple[int, Counts] | None) -> None:
        """At a sender that pays."""
        if not self._ended:
            self._obey(self._decide(reading))

    def _decide(self, reading: tuple[int, Counts] | None) -> RateDecision:
        if self._before is not None:
            self._before()
        signal = None if reading is None else self._signal(*reading)
        decision = self._limited(self._reactor.on_interval(self._line.now_ns, signal), reading)
        self.history.append(
            Heard(
                now_ns=self._line.now_ns,
                target_bit_s=decision.target_bit_s,
                verdict=decision.verdict,
                level=decision.level,
                charge_nanodollars=self.reported_charge_nanodollars,
                received_bit_s=None if signal is None else signal.rate_bit_s,
            )
        )
        return decision

    def _limited(self, decision: RateDecision, reading: tuple[int, Counts] | None = None) -> RateDecision:
        """Within the budget, where there is one."""
        guarded = self._guarded
        if guarded is None:
            return decision
        now_unix_ms = self._line.now_ns // _NS_PER_MS
        self._reports += 1
        if reading is not None:
            marks = reading[1].marks * self._settings.reported_ppm // PPM
            counted_ms = reading[0] // _NS_PER_MS
            guarded.guard.on_report(
                now_unix_ms, sequence=self._reports, unix_ms=counted_ms, packets=reading[1].packets, marks=marks
            )
        sent = None if guarded.sent_packets is None else guarded.sent_packets()
        return guarded.guard.limit(decision, now_unix_ms, packet_bytes=guarded.packet_bytes, sent_packets=sent)

    def _signal(self, counted_ns: int, counts: Counts) -> PriceSignal:
        """What is new since the last report that came; so a lost one delays marks, and never loses them."""
        told_ns, told = self._told
        self._told = (counted_ns, counts)
        honest = self._settings.reported_ppm
        marks = counts.marks * honest // PPM - told.marks * honest // PPM
        charge = counts.charge_nanodollars * honest // PPM - told.charge_nanodollars * honest // PPM
        self.reported_charge_nanodollars += charge
        return PriceSignal(
            now_ns=self._line.now_ns,
            interval_ns=counted_ns - told_ns,
            source=Source.RECEIVER_MARKS,
            packets=counts.packets - told.packets,
            bytes=counts.bytes - told.bytes,
            marks=marks,
            charge_nanodollars=charge,
        )

    def _obey(self, decision: RateDecision) -> None:
        if self._ended:
            return
        if decision.verdict is Verdict.STOP:
            self.stop()
        elif self._settings.obeys:
            target = decision.target_bit_s
            self._source.set_rate(self._settings.let_go_bit_s if target is None else target)
