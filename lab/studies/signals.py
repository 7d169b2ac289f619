"""What a paying transfer had best react to: the toll, its losses, or both; and whether to pay its worth or the toll.

Decides: nothing for a product; an open question of Bill-Pay (its section on future work) as a sweep. Refuses to know:
other strategies. Four transfers share a link that takes a congestion toll (the gateway's toll law and drop rule), each
with a window. Who hears the toll moves his window by the law of willingness (spend the same in each round trip); who
hears losses halves it on one. Who does not hear losses just sends again. Payment: in every packet what it is worth
(what is too much comes back), or a quarter more than the last toll that was heard.
"""

from __future__ import annotations

import random
from enum import StrEnum

import msgspec

from billpay.money import PICODOLLARS_PER_NANODOLLAR
from billpay.tolls import CongestionSettings, TollSchedule
from lab.simulator.chance import stream
from lab.simulator.events import NS_PER_S, Packet, Timeline
from lab.simulator.links import LinkSettings
from lab.simulator.sources import Receiver
from lab.simulator.tolling import TollLink
from lab.simulator.windows import WindowSource

_MS = 1_000_000
_RATE_BIT_S = 4_000_000
_DELAY_NS = 20 * _MS
_RETURN_NS = 40 * _MS
_BUFFER_BYTES = 60_000
_PACKET_BYTES = 1000
_TRANSFERS = 4
_WILLINGNESS_NANODOLLARS = 4_000  # of a packet, at most
_SPEND_NANODOLLARS_PER_ROUND = 6_000
_CAP_NANODOLLARS = 4_000
_HEADROOM = 1.25
_LEAST_NANODOLLARS = 50
_GAIN = 0.3
_SECONDS = 60
_WARM_UP_S = 12


class Reaction(StrEnum):
    TOLL = "toll only"
    LOSS = "loss only"
    BOTH = "toll and loss"


class Payment(StrEnum):
    WORTH = "its worth"
    TOLL = "just above the last toll"


class SignalOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Means after the warm-up. `sent_again_share`: of what was sent. `toll_swing`: (max − min)/mean of its seconds."""

    reaction: Reaction
    payment: Payment
    utilisation: float
    sent_again_share: float
    queue_mean_ms: float
    toll_mean_nanodollars: float
    toll_swing: float
    nanodollars_per_mb: float
    largest_share: float  # of the four, of what arrived


class SignalStudy(msgspec.Struct, frozen=True, kw_only=True):
    outcomes: tuple[SignalOutcome, ...]


def run(seed: int, *, seconds: int = _SECONDS) -> SignalStudy:
    """Who does not hear tolls cannot follow them, so it pays its worth."""
    cases = [(reaction, Payment.WORTH) for reaction in Reaction]
    cases += [(reaction, Payment.TOLL) for reaction in (Reaction.TOLL, Reaction.BOTH)]
    return SignalStudy(outcomes=tuple(_transfer(reaction, payment, seed, seconds) for reaction, payment in cases))


class TollWindow:
    """The window and the payment together, since both follow the toll."""

    def __init__(self, reaction: Reaction, payment: Payment) -> None:
        self._hears_tolls = reaction is not Reaction.LOSS
        self._hears_losses = reaction is not Reaction.TOLL
        self._starting = True
        self.window = 2.0
        self._follows = payment is Payment.TOLL
        self.amount_nanodollars = 0 if self._follows else _WILLINGNESS_NANODOLLARS

    def on_toll(self, toll_nanodollars: int) -> None:
        """Of each acknowledged packet."""
        if not self._hears_tolls:
            return
        if self._follows:
            wanted = round(_HEADROOM * toll_nanodollars) + _LEAST_NANODOLLARS
            self.amount_nanodollars = min(_WILLINGNESS_NANODOLLARS, wanted)
        if self._starting and toll_nanodollars == 0:
            return
        self._starting = False
        spend = (_SPEND_NANODOLLARS_PER_ROUND / self.window - toll_nanodollars) / _WILLINGNESS_NANODOLLARS
        self.window = max(1.0, self.window + _GAIN * spend)

    def on_acknowledged(self, *, marked: bool, new_round: bool) -> None:  # noqa: ARG002 - nothing is marked here
        if self._starting:
            self.window += 1.0
        elif not self._hears_tolls:
            self.window += 1.0 / self.window

    def on_lost(self, *, new_round: bool) -> None:
        if self._hears_losses and new_round:
            self._starting = False
            self.window = max(1.0, self.window / 2)

    def on_timeout(self) -> None:
        self._starting = False
        self.window = 1.0

    def set_price(self, nanodollars_per_mark: int) -> None:
        """No marks, no price of them."""

    def set_willingness(self, nanodollars_per_s: int) -> None:
        """Stays."""


class PayingSource(WindowSource):
    """Puts the window's amount on each packet, and tells it what was taken of those that arrived."""

    def __init__(
        self, timeline: Timeline, link: TollLink, receiver: Receiver, rule: TollWindow, *, start_ns: int
    ) -> None:
        self._window = rule
        super().__init__(
            timeline,
            (link, receiver),
            receiver,
            rule,
            return_ns=_RETURN_NS,
            packet_bytes=_PACKET_BYTES,
            start_ns=start_ns,
        )

    def _pay(self, packet: Packet) -> None:
        packet.amount_nanodollars = self._window.amount_nanodollars

    def _acknowledged(self, packet: Packet) -> None:
        self._window.on_toll(packet.toll_nanodollars)
        super()._acknowledged(packet)


def _link(line: Timeline, chance: random.Random) -> TollLink:
    congestion = CongestionSettings.for_cap(
        capacity_bit_s=_RATE_BIT_S,
        cap_picodollars=_CAP_NANODOLLARS * PICODOLLARS_PER_NANODOLLAR,
        period_ns=100 * _MS,
        target_utilisation_ppm=950_000,
    )
    real = LinkSettings(rate_bit_s=_RATE_BIT_S, delay_ns=_DELAY_NS, buffer_bytes=_BUFFER_BYTES)
    return TollLink(line, real, TollSchedule(), congestion, chance.random)


def _transfer(reaction: Reaction, payment: Payment, seed: int, seconds: int) -> SignalOutcome:
    line = Timeline()
    link = _link(line, stream(seed, "drops"))
    starts = stream(seed, "starts")
    ends = [Receiver(line) for _ in range(_TRANSFERS)]
    for end in ends:
        PayingSource(line, link, end, TollWindow(reaction, payment), start_ns=starts.randrange(NS_PER_S))
    line.run_until(_WARM_UP_S * NS_PER_S)
    link.forget_waits()
    before = [end.packets for end in ends]
    lost, kept, busy_ns = sum(end.lost_packets for end in ends), link.kept_nanodollars, link.busy_ns
    tolls = []
    for second in range(_WARM_UP_S, seconds):
        line.run_until((second + 1) * NS_PER_S)
        tolls.append(link.egress.congestion_picodollars / PICODOLLARS_PER_NANODOLLAR)
    got = [end.packets - packets for end, packets in zip(ends, before, strict=True)]
    lost = sum(end.lost_packets for end in ends) - lost
    mean = sum(tolls) / len(tolls)
    return SignalOutcome(
        reaction=reaction,
        payment=payment,
        utilisation=(link.busy_ns - busy_ns) / ((seconds - _WARM_UP_S) * NS_PER_S),
        sent_again_share=lost / (lost + sum(got)),
        queue_mean_ms=link.waits.mean_ns / _MS,
        toll_mean_nanodollars=mean,
        toll_swing=(max(tolls) - min(tolls)) / mean if mean else 0.0,
        nanodollars_per_mb=(link.kept_nanodollars - kept) * 1e6 / (sum(got) * _PACKET_BYTES),
        largest_share=max(got) / sum(got),
    )
