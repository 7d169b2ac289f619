"""Whether bursts shrink when congestion has a price: users with the same demand, once priced and once not.

Decides: how far the load of a link exceeds its mean, and what that costs the users in time. Refuses to know: other
demands than bursts of exponential size. Priced users have the product's elastic reactor and wait for a slow burst;
the others send at their access rate whatever happens. Demand is drawn once for both.

Source: MacKie-Mason and Varian 1995: "we conjecture" that priced traffic is a lot less bursty.
"""

from __future__ import annotations

import msgspec

from billpay.marking import VirtualLink, VirtualQueue
from lab.simulator.chance import stream
from lab.simulator.events import NS_PER_S, Timeline
from lab.simulator.feedback import FeedbackLoop, LoopSettings
from lab.simulator.links import FifoLink, LinkSettings
from lab.simulator.sources import BurstSource, OnOff, PacedSource, Receiver, bursts
from pricereactor.elastic import ElasticPlan, ElasticRate

_MS = 1_000_000
_RATE_BIT_S = 10_000_000
_BUFFER_BYTES = 50_000
_USERS = 12
_ACCESS_BIT_S = 4_000_000
_PATTERN = OnOff(peak_bit_s=_ACCESS_BIT_S, mean_on_ns=1500 * _MS, mean_off_ns=9000 * _MS)
_NANODOLLARS_PER_MARK = 1_000
_WILLINGNESS_NANODOLLARS_PER_S = 40_000
_LEAST_BIT_S = 200_000
_RTT_NS = 40 * _MS
_WINDOW_NS = 500 * _MS
_SECONDS = 200
_WARM_UP_S = 20


class BurstOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of the load offered to the link, in means over half a second."""

    mean_bit_s: float
    peak_to_mean: float
    p99_to_mean: float
    deviation_to_mean: float
    lost_share: float
    queue_p99_ms: float
    burst_mean_s: float  # from when it was wanted until it was sent
    nanodollars_per_mb: float


class BurstStudy(msgspec.Struct, frozen=True, kw_only=True):
    wanted_bit_s: float
    priced: BurstOutcome
    unpriced: BurstOutcome


def run(seed: int, *, seconds: int = _SECONDS) -> BurstStudy:
    # Nobody wants anything in the last tenth, so that what waits can still be sent.
    ends_ns = seconds * NS_PER_S * 9 // 10
    demand = [bursts(_PATTERN, stream(seed, "demand", user).random, ends_ns) for user in range(_USERS)]
    wanted = sum(size for user in demand for _, size in user) * 8 * NS_PER_S / ends_ns
    return BurstStudy(
        wanted_bit_s=wanted,
        priced=_carry(seed, demand, seconds, priced=True),
        unpriced=_carry(seed, demand, seconds, priced=False),
    )


def _carry(seed: int, demand: list[list[tuple[int, int]]], seconds: int, *, priced: bool) -> BurstOutcome:
    line = Timeline()
    rule = VirtualQueue(VirtualLink(capacity_bytes_per_s=_RATE_BIT_S // 8, buffer_bytes=_BUFFER_BYTES))
    real = LinkSettings(rate_bit_s=_RATE_BIT_S, delay_ns=_RTT_NS // 2, buffer_bytes=_BUFFER_BYTES)
    link = FifoLink(line, real, rule, stream(seed, "marks").random)
    ends, users = [], []
    for number, wanted in enumerate(demand):
        end = Receiver(line, nanodollars_per_mark=_NANODOLLARS_PER_MARK)
        source = PacedSource(line, (link, end), draw=stream(seed, "gaps", number).random, spread=0.5)
        user = BurstSource(line, source, wanted, pace_bit_s=_ACCESS_BIT_S)
        if priced:
            _price(line, user, end, phase=stream(seed, "phase", number).random())
        ends.append(end)
        users.append(user)
    loads = []
    before = 0
    for window in range(seconds * NS_PER_S // _WINDOW_NS):
        line.run_until((window + 1) * _WINDOW_NS)
        if window * _WINDOW_NS >= _WARM_UP_S * NS_PER_S and line.now_ns <= seconds * NS_PER_S * 9 // 10:
            loads.append((link.arrived_bytes - before) * 8 * NS_PER_S / _WINDOW_NS)
        before = link.arrived_bytes
    return _outcome(loads, link, ends, users)


def _price(line: Timeline, user: BurstSource, end: Receiver, *, phase: float) -> None:
    plan = ElasticPlan(
        willingness_nanodollars_per_s=_WILLINGNESS_NANODOLLARS_PER_S,
        min_bit_s=_LEAST_BIT_S,
        max_bit_s=_ACCESS_BIT_S,
        longest_round_trip_ns=_RTT_NS,
    )
    settings = LoopSettings(
        start_bit_s=_LEAST_BIT_S,
        let_go_bit_s=_ACCESS_BIT_S,
        return_ns=_RTT_NS // 2,
        phase_ns=int(phase * plan.interval_ns),
    )
    FeedbackLoop(line, user, end, ElasticRate(plan), settings)


def _outcome(loads: list[float], link: FifoLink, ends: list[Receiver], users: list[BurstSource]) -> BurstOutcome:
    mean = sum(loads) / len(loads)
    deviation = (sum((load - mean) ** 2 for load in loads) / len(loads)) ** 0.5
    took = [done_ns for user in users for done_ns in user.done_ns]
    charged = sum(end.charge_nanodollars for end in ends)
    return BurstOutcome(
        mean_bit_s=mean,
        peak_to_mean=max(loads) / mean,
        p99_to_mean=sorted(loads)[len(loads) * 99 // 100] / mean,
        deviation_to_mean=deviation / mean,
        lost_share=link.dropped_packets / link.arrived_packets,
        queue_p99_ms=link.waits.quantile_ns(0.99) / _MS,
        burst_mean_s=sum(took) / len(took) / NS_PER_S,
        nanodollars_per_mb=charged * 1e6 / sum(end.bytes for end in ends),
    )
