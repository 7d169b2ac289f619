"""A Bill-Pay link of the packet mode: a FIFO that takes tolls, and drops who pays less than a congestion toll asks.

Decides: nothing that the gateway does not decide with the same code (`billpay.tolls`): toll, drop rule, how the
congestion part moves. Refuses to know: who pays, and why so much. Differs from the gateway in that all who are let in
wait in one queue.
"""

from __future__ import annotations

from collections.abc import Callable

from billpay.tolls import CongestionSettings, CongestionToll, EgressToll, TollSchedule, must_drop
from lab.simulator.events import Packet, Timeline
from lab.simulator.links import FifoLink, LinkSettings


class TollLink(FifoLink):
    """`refused_packets` paid too little; `dropped_packets` found the buffer full. The toll moves once in a period."""

    __slots__ = ("_chance", "_congestion", "_period_bytes", "_period_ns", "egress", "kept_nanodollars",
                 "refused_packets")  # fmt: skip

    def __init__(
        self,
        timeline: Timeline,
        settings: LinkSettings,
        schedule: TollSchedule,
        congestion: CongestionSettings,
        draw: Callable[[], float],
    ) -> None:
        super().__init__(timeline, settings, None, draw)
        self.egress = EgressToll(schedule)
        self._congestion = CongestionToll(congestion)
        self._period_ns = congestion.period_ns
        self._period_bytes = 0
        self._chance = draw
        self.refused_packets = self.kept_nanodollars = 0
        timeline.schedule(timeline.now_ns + self._period_ns, self._move)

    def arrive(self, packet: Packet) -> None:
        egress, size, amount = self.egress, packet.size_bytes, packet.amount_nanodollars
        self._period_bytes += size
        toll = egress.picodollars(size, amount)
        if egress.congestion_picodollars and must_drop(toll, amount, self._chance):
            self.refused_packets += 1
            return
        kept = egress.retain(toll, amount)
        packet.amount_nanodollars = amount - kept
        packet.toll_nanodollars += kept
        self.kept_nanodollars += kept
        super().arrive(packet)

    def _move(self, _: object) -> None:
        line = self._line
        self.egress.congestion_picodollars = self._congestion.on_period(
            arrived_bytes=self._period_bytes, backlog_bytes=self.backlog_bytes()
        )
        self._period_bytes = 0
        line.schedule(line.now_ns + self._period_ns, self._move)
