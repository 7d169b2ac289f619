"""The queue of one egress: who goes next when more wants out than the link takes.

Decides the order of service and who is dropped when the queue is full; refuses to know payments, tolls and kernels (a
class and a flow are all it sees).  Pure: `now_ns` is an argument.  What it holds has no verdict yet; what it drops or
releases the caller answers.

Order: strict priority by class, except that the lowest class gets at least `lowest_share_ppm` of what leaves while it
has something to send (it is best effort, not forbidden); within a class deficit round robin by flow (Shreedhar and
Varghese 1995). Drops: the tail of the longest flow of the lowest class that waits; control traffic is never dropped.
Each packet costs a constant time, however many flows there are.
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
SAVED_BYTES = 4 * QUANTUM_BYTES
"""The lowest class may be behind its share by this much and catch up."""
LEVEL_SHIFT = 11
"""Flows whose lengths differ by less than 2048 bytes may count as equally long."""

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


class _Class(Generic[T]):
    """The flows of one class in order of service, and by length: the longest one is found without a search."""

    __slots__ = ("_levels", "_top", "flows")

    def __init__(self) -> None:
        self.flows: OrderedDict[Hashable, _Flow[T]] = OrderedDict()
        self._levels: dict[int, dict[Hashable, None]] = {}
        self._top = 0

    def add(self, waiting: Waiting[T]) -> None:
        flow = self.flows.get(waiting.flow)
        if flow is None:
            flow = self.flows[waiting.flow] = _Flow()
        flow.packets.append(waiting)
        self._move(waiting.flow, flow, waiting.size_bytes)

    def take(self, key: Hashable, *, last: bool) -> Waiting[T]:
        flow = self.flows[key]
        waiting = flow.packets.pop() if last else flow.packets.popleft()
        self._move(key, flow, -waiting.size_bytes)
        if not flow.packets:
            del self.flows[key]
        return waiting

    def longest(self) -> Hashable:
        return next(reversed(self._levels[self._top]))

    def head_bytes(self) -> int:
        return next(iter(self.flows.values())).packets[0].size_bytes

    def _move(self, key: Hashable, flow: _Flow[T], grown_bytes: int) -> None:
        """To the level of the flow's new length; -1 is that of an empty one."""
        before = flow.bytes >> LEVEL_SHIFT if flow.bytes else -1
        flow.bytes += grown_bytes
        after = flow.bytes >> LEVEL_SHIFT if flow.bytes else -1
        if after == before:
            return
        levels = self._levels
        if before >= 0:
            level = levels[before]
            del level[key]
            if not level:
                del levels[before]
        if after >= 0:
            levels.setdefault(after, {})[key] = None
            if after > self._top:
                self._top = after
        while self._top and self._top not in levels:
            self._top -= 1


class Scheduler(Generic[T]):
    """`offer` each packet; `release` when `next_deadline_ns` has come; both say what goes, `offer` also what is
    dropped.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._classes: list[_Class[T]] = [_Class() for _ in range(CLASSES)]
        self._free_at_ns = 0
        self._lowest_credit = 0  # in bytes times (a million less the share), so that no fraction is lost
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
        self._classes[waiting.service_class].add(waiting)
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
            queue = self._classes[service_class]
            if queue.flows:
                return self._take(queue, queue.longest(), last=True)
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
        weight = PPM - self._settings.lowest_share_ppm
        if lowest.flows and self._lowest_credit >= lowest.head_bytes() * weight:
            waiting = self._serve(lowest)
            self._lowest_credit -= waiting.size_bytes * weight
            return waiting
        for service_class in range(CLASS_CONTROL, CLASS_UNPAID, -1):
            queue = self._classes[service_class]
            if queue.flows:
                waiting = self._serve(queue)
                self._credit_lowest(waiting.size_bytes, weight)
                return waiting
        return self._serve(lowest)

    def _credit_lowest(self, served_bytes: int, weight: int) -> None:
        """While the lowest class waits, it earns its share of what the others send; idle, it saves nothing up."""
        lowest = self._classes[CLASS_UNPAID]
        if not lowest.flows:
            self._lowest_credit = 0
            return
        earned = self._lowest_credit + served_bytes * self._settings.lowest_share_ppm
        self._lowest_credit = min(earned, max(SAVED_BYTES, lowest.head_bytes()) * weight)

    def _serve(self, queue: _Class[T]) -> Waiting[T]:
        flows = queue.flows
        while True:
            key, flow = next(iter(flows.items()))
            if flow.deficit >= flow.packets[0].size_bytes:
                flow.deficit -= flow.packets[0].size_bytes
                return self._take(queue, key, last=False)
            flow.deficit += QUANTUM_BYTES
            flows.move_to_end(key)

    def _take(self, queue: _Class[T], key: Hashable, *, last: bool) -> Waiting[T]:
        waiting = queue.take(key, last=last)
        self.backlog_bytes -= waiting.size_bytes
        self.backlog_packets -= 1
        return waiting
