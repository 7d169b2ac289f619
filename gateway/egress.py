"""One direction of one link as the packet core sees it: counters, toll, queue and marks.

Decides nothing by itself beyond wiring the pure parts of `billpay` and the scheduler to one link. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from billpay.header import MAX_AMOUNT_NANODOLLARS, last_gateway_field
from billpay.marking import Marking
from billpay.tolls import CongestionSettings, CongestionToll, EgressToll, TollSchedule
from dataplane.port import Counters, Inject, Verdict
from gateway.marking import marking_of
from gateway.plan import LinkPlan, Peer
from gateway.scheduler import Scheduler, SchedulerSettings
from gateway.tunnelling import TunnelEnd

PRICE_PERIOD_NS = 100_000_000
"""The toll moves ten times a second: slower than a round trip, faster than a person."""

HELD_PACKETS_MAX = 3072
"""In all queues together: less than the kernel's queue, which lets packets pass uncounted when it is full."""


class Held(NamedTuple):
    """What waits in a queue: what to do when its turn comes, and the nanodollars that each of its `packets` (on the
    wire) will carry away.
    """

    verdict: Verdict
    inject: Inject | None
    nanodollars: int
    packets: int


class LinkState:
    """A link at run time. Counter indexes are resolved once; names are the books' contract."""

    def __init__(self, plan: LinkPlan, counters: Counters, *, limit_packets: int) -> None:
        self.plan = plan
        self.name = plan.name
        self.agreed = False
        self.in_default = False
        names_itself = plan.peer is Peer.GATEWAY and plan.peer_as != 0
        self.expected_field = last_gateway_field(plan.peer_as) if names_itself else None
        self.tunnel = None if plan.tunnel is None else TunnelEnd(*plan.tunnel, mtu_bytes=plan.tunnel_mtu_bytes)
        name = plan.name
        index = counters.index
        self.received = index(f"link/{name}/received_nanodollars")
        self.received_packets = index(f"link/{name}/received_packets")
        self.sent = index(f"link/{name}/sent_nanodollars")
        self.sent_packets = index(f"link/{name}/sent_packets")
        self.retained = index(f"link/{name}/retained_nanodollars")
        self.kept = index(f"link/{name}/kept_nanodollars")
        self.kept_packets = index(f"link/{name}/kept_packets")
        self.carry = index(f"link/{name}/carry_picodollars")
        self.cap_cut = index(f"link/{name}/cap_cut_picodollars")
        self.marked = index(f"link/{name}/marked_packets")
        self.dropped = index(f"link/{name}/dropped_packets")
        self.unpaid_packets = index(f"link/{name}/unpaid_packets")
        self.cut = index(f"link/{name}/cut_nanodollars")
        self.cut_packets = index(f"link/{name}/cut_packets")
        self.role_refused = index(f"link/{name}/role_refused_nanodollars")
        self.role_refused_packets = index(f"link/{name}/role_refused_packets")
        ceiling = plan.ceiling.packet_nanodollars
        self.packet_ceiling = MAX_AMOUNT_NANODOLLARS if ceiling is None else ceiling
        self.toll = EgressToll(plan.toll, carry_picodollars=counters.value(self.carry))
        self.congestion: CongestionToll | None = None
        self.scheduler: Scheduler[Held] | None = None
        self.marking: Marking | None = None
        self.arrived_bytes = 0
        if plan.rate_bit_s:
            self._give_queue(plan, limit_packets)

    def takes_headers(self, now_ns: int) -> bool:
        """Whether the neighbour processes what we send it: by agreement, and a tunnel to it must be alive."""
        return self.agreed and (self.tunnel is None or self.tunnel.is_alive(now_ns))

    def _give_queue(self, plan: LinkPlan, limit_packets: int) -> None:
        limit = plan.limit_bytes or max(30_000, plan.rate_bit_s // 8 // 10)  # 100 ms of the link
        self.marking = marking_of(plan, limit)
        self.scheduler = Scheduler(
            SchedulerSettings(
                rate_bit_s=plan.rate_bit_s,
                limit_bytes=limit,
                limit_packets=limit_packets,
                overhead_bytes=plan.overhead_bytes,
            )
        )
        self.congestion = _congestion_toll(plan, 0)

    def set_toll(self, schedule: TollSchedule, *, congestion: bool, target_utilisation_ppm: int) -> None:
        """For packets from now on. What was already carried over stays owed; a congestion toll goes on from where it
        is."""
        self.plan = replace(
            self.plan, toll=schedule, congestion=congestion, target_utilisation_ppm=target_utilisation_ppm
        )
        before = self.toll
        self.toll = EgressToll(schedule, carry_picodollars=before.carry_picodollars)
        self.congestion = None if self.scheduler is None else _congestion_toll(self.plan, before.congestion_picodollars)
        self.toll.congestion_picodollars = 0 if self.congestion is None else self.congestion.picodollars

    def on_price_period(self) -> None:
        """Moves the congestion toll by what arrived since the last period."""
        if self.congestion is not None and self.scheduler is not None:
            self.toll.congestion_picodollars = self.congestion.on_period(
                arrived_bytes=self.arrived_bytes, backlog_bytes=self.scheduler.backlog_bytes
            )
        self.arrived_bytes = 0


def _congestion_toll(plan: LinkPlan, picodollars: int) -> CongestionToll | None:
    if not plan.congestion:
        return None
    cap = plan.toll.cap_nanodollars
    ceiling = plan.max_amount_nanodollars if cap is None else cap
    settings = CongestionSettings.for_cap(
        capacity_bit_s=plan.rate_bit_s,
        cap_picodollars=ceiling * 1000,
        period_ns=PRICE_PERIOD_NS,
        target_utilisation_ppm=plan.target_utilisation_ppm,
    )
    return CongestionToll(settings, picodollars=min(picodollars, settings.cap_picodollars))
