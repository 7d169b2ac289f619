"""A link of the packet mode: a plain FIFO with a buffer and a rate, marks by one of the product's rules, then a delay.

Decides: which packets are lost (the buffer is full), which are marked (`billpay.marking` says so for each arrival, as
it does in the gateway: also for those that are lost then), when they arrive next. Refuses to know: flows, prices,
reactors. A FIFO of constant rate needs no event of its own: when a packet leaves is known when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from billpay.marking import Marking
from lab.simulator.events import NS_PER_S, Packet, Timeline

_BUCKET_NS_SHIFT = 16  # waits are counted in steps of 65.5 µs


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """The real link. `buffer_bytes` includes the packet that is being sent."""

    rate_bit_s: int
    delay_ns: int
    buffer_bytes: int


class Waits:
    """How long packets waited: mean and quantiles to a bucket."""

    __slots__ = ("_buckets", "count", "largest_ns", "sum_ns")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.sum_ns = 0
        self.largest_ns = 0

    def add(self, wait_ns: int) -> None:
        self.count += 1
        self.sum_ns += wait_ns
        if wait_ns > self.largest_ns:
            self.largest_ns = wait_ns
        bucket = wait_ns >> _BUCKET_NS_SHIFT
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    @property
    def mean_ns(self) -> int:
        return self.sum_ns // self.count if self.count else 0

    def quantile_ns(self, share: float) -> int:
        """The upper end of the bucket in which that share of the packets is reached; 0 where nobody waited."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min((bucket + 1) << _BUCKET_NS_SHIFT, self.largest_ns)
        return 0


class FifoLink:
    """Counters run from the beginning; `waits` from the last `forget_waits` on. `busy_ns`: it takes to send it all."""

    __slots__ = (
        "_delay_ns",
        "_draw",
        "_free_ns",
        "_limit_ns",
        "_line",
        "_ns_per_byte_scaled",
        "arrived_bytes",
        "arrived_packets",
        "busy_ns",
        "dropped_packets",
        "marked_packets",
        "marking",
        "sent_bytes",
        "waits",
    )

    def __init__(
        self, timeline: Timeline, settings: LinkSettings, marking: Marking | None, draw: Callable[[], float]
    ) -> None:
        self._line = timeline
        self._delay_ns = settings.delay_ns
        self._ns_per_byte_scaled = 8 * NS_PER_S * 256 // settings.rate_bit_s  # 1/256 ns: exact enough for 400 Gbit/s
        self._limit_ns = settings.buffer_bytes * self._ns_per_byte_scaled >> 8
        self._free_ns = 0
        self._draw = draw
        self.marking = marking
        self.arrived_packets = self.arrived_bytes = self.marked_packets = self.dropped_packets = 0
        self.sent_bytes = self.busy_ns = 0
        self.waits = Waits()

    def forget_waits(self) -> None:
        """At the end of a warm-up."""
        self.waits = Waits()

    def arrive(self, packet: Packet) -> None:
        line, size = self._line, packet.size_bytes
        now_ns = line.now_ns
        self.arrived_packets += 1
        self.arrived_bytes += size
        marking = self.marking
        if marking is not None and marking.on_arrival(size, now_ns, self._draw):
            packet.marked = True
            self.marked_packets += 1
        begins_ns = self._free_ns
        if begins_ns < now_ns:
            begins_ns = now_ns
        leaves_ns = begins_ns + (size * self._ns_per_byte_scaled >> 8)
        if leaves_ns - now_ns > self._limit_ns:
            self.dropped_packets += 1
            return
        self._free_ns = leaves_ns
        self.sent_bytes += size
        self.busy_ns += leaves_ns - begins_ns
        self.waits.add(begins_ns - now_ns)
        packet.hop = hop = packet.hop + 1
        line.schedule(leaves_ns + self._delay_ns, packet.route[hop].arrive, packet)

    def set_rate(self, rate_bit_s: int) -> None:
        """For what arrives from now on; what waits leaves as it was going to."""
        buffer_bytes = (self._limit_ns << 8) // self._ns_per_byte_scaled
        self._ns_per_byte_scaled = 8 * NS_PER_S * 256 // max(1, rate_bit_s)
        self._limit_ns = buffer_bytes * self._ns_per_byte_scaled >> 8

    def backlog_bytes(self) -> int:
        """What waits now, with what is left of the packet that is being sent."""
        return (max(0, self._free_ns - self._line.now_ns) << 8) // self._ns_per_byte_scaled
