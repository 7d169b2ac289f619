"""Senders that are clocked by acknowledgements, and the rules for their window.

Decides: when a packet leaves (as many are on their way as the window allows), what is lost (FIFO paths keep the order:
a number that was jumped over is lost). Refuses to know: links. Windows are in packets; their laws are the product's
(`pricereactor.elastic`).

Sources: RFC 5681 and RFC 3168 (a mark or a loss halves once in a round trip); Crowcroft and Oechslin 1998
(`MulTcpWindow`: N flows in one); Gibbens and Kelly 1999 (`PricedWindow`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from lab.simulator.events import NS_PER_S, Hop, Packet, Timeline
from lab.simulator.sources import Receiver
from pricereactor.elastic import ElasticWindow, MulTcp

_TIMEOUT_NS = NS_PER_S
_LEAST_WINDOW = 1.0


class WindowRule(Protocol):
    """`window` is in packets. `new_round`: the first news of congestion in this round trip."""

    @property
    def window(self) -> float: ...

    def on_acknowledged(self, *, marked: bool, new_round: bool) -> None: ...

    def on_lost(self, *, new_round: bool) -> None: ...

    def on_timeout(self) -> None: ...

    def set_price(self, nanodollars_per_mark: int) -> None: ...

    def set_willingness(self, nanodollars_per_s: int) -> None: ...


class MulTcpWindow:
    """N Reno flows in one; N = 1 is Reno. Slow start adds one for each acknowledgement until the first mark or loss."""

    def __init__(self, flows: float = 1.0, *, window: float = 10.0) -> None:
        self._core = MulTcp(flows=flows, window_packets=window)
        self._threshold = math.inf

    @property
    def window(self) -> float:
        return self._core.window_packets

    def on_acknowledged(self, *, marked: bool, new_round: bool) -> None:
        if marked:
            self.on_lost(new_round=new_round)
        elif self._core.window_packets < self._threshold:
            self._core.window_packets += 1.0
        else:
            self._core.on_ack()

    def on_lost(self, *, new_round: bool) -> None:
        if new_round:
            self._threshold = self._core.on_mark()

    def on_timeout(self) -> None:
        self._threshold = max(2.0, self._core.window_packets / 2)
        self._core.window_packets = _LEAST_WINDOW

    def set_price(self, nanodollars_per_mark: int) -> None:
        """No price moves it."""

    def set_willingness(self, nanodollars_per_s: int) -> None:
        """No money moves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Willing:
    """w, what a mark costs, and the round trip in which so many marks are paid."""

    nanodollars_per_s: float
    nanodollars_per_mark: int
    round_trip_ns: int

    @property
    def marks_per_round_trip(self) -> float:
        return self.nanodollars_per_s / max(1, self.nanodollars_per_mark) * self.round_trip_ns / NS_PER_S


class PricedWindow:
    """The product's window reactor. A loss counts as a mark, though nobody charges for it."""

    def __init__(self, willing: Willing, *, gain: float | None = None) -> None:
        self._willing = willing
        self._core = ElasticWindow(marks_per_round_trip=willing.marks_per_round_trip, gain=gain)

    @property
    def window(self) -> float:
        return self._core.window_packets

    def on_acknowledged(self, *, marked: bool, new_round: bool) -> None:  # noqa: ARG002 - every mark counts
        self._core.on_ack(marked=marked)

    def on_lost(self, *, new_round: bool) -> None:  # noqa: ARG002
        self._core.on_ack(marked=True)

    def on_timeout(self) -> None:
        self._core.window_packets = _LEAST_WINDOW

    def set_price(self, nanodollars_per_mark: int) -> None:
        self._willing = replace(self._willing, nanodollars_per_mark=nanodollars_per_mark)
        self._core.marks_per_round_trip = self._willing.marks_per_round_trip

    def set_willingness(self, nanodollars_per_s: int) -> None:
        self._willing = replace(self._willing, nanodollars_per_s=nanodollars_per_s)
        self._core.marks_per_round_trip = self._willing.marks_per_round_trip


class WindowSource:
    """Sends while fewer packets are on their way than the window allows; starts at `start_ns`, sends without end."""

    def __init__(
        self,
        timeline: Timeline,
        route: tuple[Hop, ...],
        receiver: Receiver,
        rule: WindowRule,
        *,
        return_ns: int,
        packet_bytes: int = 1000,
        start_ns: int = 0,
    ) -> None:
        self._line = timeline
        self._route = route
        self._rule = rule
        self._packet_bytes = packet_bytes
        self._next = 0
        self._expected = 0
        self._round_ends = 0  # news of packets below this number is of the round trip that has reacted
        self._on_their_way = 0
        self._heard_ns = start_ns
        self._stopped = False
        receiver.acknowledge = self._acknowledged
        receiver.return_ns = return_ns
        timeline.schedule(start_ns, self._fill)
        timeline.schedule(start_ns + _TIMEOUT_NS, self._watch)

    def stop(self, _: object = None) -> None:
        """Sends nothing more."""
        self._stopped = True

    def set_price(self, nanodollars_per_mark: int) -> None:
        self._rule.set_price(nanodollars_per_mark)

    def set_willingness(self, nanodollars_per_s: int) -> None:
        self._rule.set_willingness(nanodollars_per_s)

    @property
    def window(self) -> float:
        return self._rule.window

    @property
    def sent_packets(self) -> int:
        return self._next

    def _fill(self, _: object = None) -> None:
        line = self._line
        while self._on_their_way < int(self._rule.window) and not self._stopped:
            packet = Packet(self._route, self._packet_bytes, self._next, line.now_ns)
            self._pay(packet)
            self._next += 1
            self._on_their_way += 1
            self._route[0].arrive(packet)

    def _pay(self, packet: Packet) -> None:
        """Before it leaves; a source that pays puts an amount on it."""

    def _acknowledged(self, packet: Packet) -> None:
        if packet.number < self._expected:
            return  # written off by a timeout
        rule, number = self._rule, packet.number
        lost = number - self._expected
        self._expected = number + 1
        self._on_their_way -= lost + 1
        self._heard_ns = self._line.now_ns
        if lost:
            rule.on_lost(new_round=self._begins_round(number))
        rule.on_acknowledged(marked=packet.marked, new_round=packet.marked and self._begins_round(number))
        self._fill()

    def _begins_round(self, number: int) -> bool:
        if number < self._round_ends:
            return False
        self._round_ends = self._next
        return True

    def _watch(self, _: object) -> None:
        """Everything on its way is written off where nothing was heard for a second."""
        if self._on_their_way and self._line.now_ns - self._heard_ns >= _TIMEOUT_NS:
            self._expected = self._next
            self._on_their_way = 0
            self._rule.on_timeout()
            self._fill()
        self._line.schedule(self._line.now_ns + _TIMEOUT_NS, self._watch)
