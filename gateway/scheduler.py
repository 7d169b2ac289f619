"""The queue of one egress: who goes next when more wants out than the link takes.

Decides the order of service and who is dropped when the queue is full; refuses to know payments, tolls and kernels (a
class and a flow are all it sees).  Pure: `now_ns` is an argument.  What it holds has no verdict yet; what it drops or
releases the caller answers.

Order: strict priority by class, except that the lowest class gets at least `lowest_share_ppm` of what leaves while it
has something to send (it is best effort, not forbidden); within a class deficit round robin by flow (Shreedhar and
Varghese 1995). Drops: the tail of the longest flow of the lowest class that waits; control traffic is never dropped.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from billpay.tolls import CLASS_CONTROL, CLASS_UNPAID

NS_PER_S = 1_000_000_000
PPM = 1_000_000
CLASSES = CLASS_CONTROL + 1
QUANTUM_BYTES = 1514
"""Deficit round robin: one full-size frame a turn."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """`rate_bit_s` is what may leave, frames with `overhead_bytes` each; `limit_bytes` bounds what waits."""

    rate_bit_s: int
    limit_bytes: int
    limit_packets: int = 1024  # what we hold fills the kernel's queue too
    overhead_bytes: int = 14
    burst_ns: int = 2_000_000
    lowest_share_ppm: int = 50_000

    def __post_init__(self) -> None:
        assert self.rate_bit_s > 0
        assert self.limit_bytes >= 2 * QUANTUM_BYTES
        assert self.limit_packets > 0
        assert 0 <= self.lowest_share_ppm < PPM


@dataclass(slots=True, kw_only=True)
class Waiting(Generic[T]):
    """One packet in the queue; `item` is the caller's."""

    item: T
    size_bytes: int
    flow: Hashable
    service_class: int


class _Flow(Generic[T]):
    __slots__ = ("bytes", "deficit", "packets")

    def __init__(self) -> None:
        self.packets: deque[Waiting[T]] = deque()
        self.bytes = 0
        self.deficit = 0


class Scheduler(Generic[T]):
    """`offer` each packet; `release` when `next_deadline_ns` has come; both say what goes, `offer` also what is
    dropped.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._classes: list[OrderedDict[Hashable, _Flow[T]]] = [OrderedDict() for _ in range(CLASSES)]
        self._free_at_ns = 0
        self._lowest_credit_bytes = 0
        self.backlog_bytes = 0
        self.backlog_packets = 0

    # --- in --------------------------------------------------------------------------------------------------------

    def passes_at_once(self, size_bytes: int, now_ns: int) -> bool:
        """True, and the link is taken, when nothing waits and the link has room now: no `offer` is needed then."""
        if self.backlog_packets or self._free_at_ns - now_ns > self._settings.burst_ns:
            return False
        self._occupy(size_bytes, now_ns)
        return True

    def offer(self, waiting: Waiting[T]) -> list[Waiting[T]]:
        """Queues a packet and gives back what had to be dropped for it (perhaps itself)."""
        flows = self._classes[waiting.service_class]
        flow = flows.get(waiting.flow)
        if flow is None:
            flow = flows[waiting.flow] = _Flow()
        flow.packets.append(waiting)
        flow.bytes += waiting.size_bytes
        self.backlog_bytes += waiting.size_bytes
        self.backlog_packets += 1
        dropped: list[Waiting[T]] = []
        limits = self._settings
        while self.backlog_bytes > limits.limit_bytes or self.backlog_packets > limits.limit_packets:
            victim = self._drop_one(at_most_class=waiting.service_class)
            if victim is None:  # only control traffic waits: it stays, whatever the limit
                break
            dropped.append(victim)
        return dropped

    def _drop_one(self, *, at_most_class: int) -> Waiting[T] | None:
        for service_class in range(min(at_most_class, CLASS_CONTROL - 1) + 1):
            flows = self._classes[service_class]
            if flows:
                key = max(flows, key=lambda flow: flows[flow].bytes)
                return self._take(flows, key, last=True)
        return None

    # --- out -------------------------------------------------------------------------------------------------------

    def release(self, now_ns: int) -> list[Waiting[T]]:
        """What may leave now, in order."""
        released: list[Waiting[T]] = []
        while self.backlog_packets and self._free_at_ns - now_ns <= self._settings.burst_ns:
            waiting = self._next()
            self._occupy(waiting.size_bytes, now_ns)
            released.append(waiting)
        return released

    def next_deadline_ns(self) -> int | None:
        """When `release` will have something, or None when nothing waits."""
        return self._free_at_ns - self._settings.burst_ns if self.backlog_packets else None

    def drain(self) -> list[Waiting[T]]:
        """Everything, in order of service, whatever the rate: for a graceful stop."""
        drained = []
        while self.backlog_packets:
            drained.append(self._next())
        return drained

    def _occupy(self, size_bytes: int, now_ns: int) -> None:
        frame_bits = (size_bytes + self._settings.overhead_bytes) * 8
        start = self._free_at_ns if self._free_at_ns > now_ns else now_ns
        self._free_at_ns = start + frame_bits * NS_PER_S // self._settings.rate_bit_s

    def _next(self) -> Waiting[T]:
        lowest = self._classes[CLASS_UNPAID]
        if lowest and self._lowest_credit_bytes >= self._head_bytes(lowest):
            waiting = self._serve(lowest)
            self._lowest_credit_bytes -= waiting.size_bytes
            return waiting
        for service_class in range(CLASS_CONTROL, CLASS_UNPAID, -1):
            flows = self._classes[service_class]
            if flows:
                waiting = self._serve(flows)
                self._credit_lowest(waiting.size_bytes, waits=bool(lowest))
                return waiting
        return self._serve(lowest)

    def _credit_lowest(self, served_bytes: int, *, waits: bool) -> None:
        """While the lowest class waits, it earns its share of what the others send; idle, it saves nothing up."""
        share = self._settings.lowest_share_ppm
        earned = self._lowest_credit_bytes * PPM + served_bytes * share * PPM // (PPM - share)
        self._lowest_credit_bytes = min(earned // PPM, 4 * QUANTUM_BYTES) if waits else 0

    def _head_bytes(self, flows: OrderedDict[Hashable, _Flow[T]]) -> int:
        return next(iter(flows.values())).packets[0].size_bytes

    def _serve(self, flows: OrderedDict[Hashable, _Flow[T]]) -> Waiting[T]:
        while True:
            key, flow = next(iter(flows.items()))
            if flow.deficit >= flow.packets[0].size_bytes:
                flow.deficit -= flow.packets[0].size_bytes
                return self._take(flows, key, last=False)
            flow.deficit += QUANTUM_BYTES
            flows.move_to_end(key)

    def _take(self, flows: OrderedDict[Hashable, _Flow[T]], key: Hashable, *, last: bool) -> Waiting[T]:
        flow = flows[key]
        waiting = flow.packets.pop() if last else flow.packets.popleft()
        flow.bytes -= waiting.size_bytes
        self.backlog_bytes -= waiting.size_bytes
        self.backlog_packets -= 1
        if not flow.packets:
            del flows[key]
        return waiting
