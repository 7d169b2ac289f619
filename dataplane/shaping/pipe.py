"""One direction of one link: who goes next, and when, among classes and flows. `Pipe` is what the core uses.

Decides: the order of service, the time of each departure, and what is dropped when too much waits. Refuses to know:
packets, programs, kernels (a size, a class and a flow are all that it sees). Pure: `now_ns` is an argument.

- Caps and rates are token buckets, kept as the time at which the bucket is full (the generic cell rate algorithm, ITU-T
  I.371). A bucket's depth is one packet and `SLACK_NS_MIN`, or 10 ms of its rate, whichever is more.
- The class of control traffic goes first; then classes that have not had their guaranteed minimum; the rest share by
  weight: start-time fair queueing (Goyal, Vin and Cheng 1996). With no rate for the link there is nothing to share:
  classes then do not see each other, and minimum, weight and precedence mean nothing.
- Within a class deficit round robin by flow (Shreedhar and Varghese 1995); flows at their own cap stand aside.
- A flow may have a pace of its own beside its class's caps: then it waits by itself, and what is beyond its own room
  is dropped from its tail.
- A class queues at most `QUEUE_NS` of what limits it (never less than `QUEUE_BYTES_MIN`): beyond that the tail of its
  longest flow is dropped. A pipe queues a number of packets: beyond it the longest flow of the class with most bytes
  loses its tail; control traffic last.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from enum import IntEnum
from typing import Final, Generic, NamedTuple, TypeVar

from dataplane.shaping.plan import CONTROL, TrafficClass

NS_PER_S: Final = 1_000_000_000
_BIT_NS: Final = 8 * NS_PER_S
FULL_PACKET_BYTES: Final = 1500
DEPTH_NS: Final = 10_000_000
SLACK_NS_MIN: Final = 2_000_000
"""A timer that is late by less loses no departure."""

QUEUE_NS: Final = 100_000_000
QUEUE_BYTES_MIN: Final = 32_000
QUEUE_BYTES_MAX: Final = 64_000_000
MINIMUM_LAG_NS: Final = 100_000_000
MINIMUM_LAG_NS_MAX: Final = 1_000_000_000
"""What the link could not give of the minimums is made good later: so much where all classes lack it, and so much where
one does."""

QUANTUM_BYTES: Final = 1514
_WEIGHT_SCALE: Final = 1000

T = TypeVar("T")


class Bucket:
    """A rate. `full_ns`: when it is full again; a packet may go once that is no further off than `slack_ns`."""

    __slots__ = ("full_ns", "rate_bit_s", "slack_ns")

    def __init__(self, rate_bit_s: int) -> None:
        self.rate_bit_s = rate_bit_s
        self.slack_ns = slack_of(rate_bit_s)
        self.full_ns = 0

    def charge(self, size_bytes: int, now_ns: int) -> None:
        start = self.full_ns if self.full_ns > now_ns else now_ns
        self.full_ns = start + size_bytes * _BIT_NS // self.rate_bit_s


def slack_of(rate_bit_s: int) -> int:
    return max(SLACK_NS_MIN, DEPTH_NS - FULL_PACKET_BYTES * _BIT_NS // rate_bit_s)


class Place(IntEnum):
    """Where a flow's queue stands."""

    NOWHERE = 0
    RING = 1  # takes turns
    ASIDE = 2  # waits for its own cap


class Queued(NamedTuple, Generic[T]):
    """What leaves a pipe, or is dropped from it."""

    flow_queue: FlowQueue[T]
    size_bytes: int
    item: T


class FlowQueue(Generic[T]):
    """What waits of one flow in one direction. It lives as long as its flow, since it knows how busy that was."""

    __slots__ = (
        "backlog_bytes", "class_queue", "deficit", "full_ns", "limit_bytes", "owner", "packets", "place", "rate_bit_s",
        "slack_ns",
    )  # fmt: skip

    def __init__(self, owner: Hashable, class_queue: ClassQueue[T]) -> None:
        self.owner = owner
        self.enter(class_queue)
        self.packets: deque[tuple[int, T]] = deque()
        self.backlog_bytes = 0
        self.deficit = 0
        self.full_ns = 0
        self.place = Place.NOWHERE

    def enter(self, class_queue: ClassQueue[T], pace_bit_s: int = 0, limit_bytes: int = 0) -> None:
        """Belongs to that class, with a pace and a room of its own; 0: without."""
        self.class_queue = class_queue
        rates = [rate for rate in (pace_bit_s, class_queue.flow_rate_bit_s) if rate]
        self.rate_bit_s = min(rates, default=0)
        self.slack_ns = slack_of(self.rate_bit_s) if rates else 0
        self.limit_bytes = limit_bytes


class ClassQueue(Generic[T]):
    """A class in one pipe: its flows, its caps, what it is owed. The pipe drives it."""

    __slots__ = (
        "_aside", "_limit_bytes", "_longest", "_ring", "_sequence", "backlog_bytes",
        "backlog_packets", "cap", "flow_rate_bit_s", "index", "minimum_bit_s", "minimum_ns", "pipe", "start", "weight",
    )  # fmt: skip

    def __init__(self, pipe: Pipe[T], index: int, traffic_class: TrafficClass) -> None:
        self.pipe = pipe
        self.index = index
        self.cap = Bucket(traffic_class.cap_bit_s) if traffic_class.cap_bit_s else None
        self.flow_rate_bit_s = traffic_class.flow_cap_bit_s or 0
        self.minimum_bit_s = traffic_class.minimum_bit_s
        self.minimum_ns = 0  # until then it has had its minimum
        self.weight = traffic_class.weight
        self.start = 0  # virtual time of its next packet
        self._ring: deque[FlowQueue[T]] = deque()
        self._aside: list[tuple[int, int, FlowQueue[T]]] = []
        self._sequence = 0
        self._longest: FlowQueue[T] | None = None
        self.backlog_bytes = self.backlog_packets = 0
        rates = [rate for rate in (traffic_class.cap_bit_s, pipe.rate and pipe.rate.rate_bit_s) if rate]
        allowed = min(rates) * QUEUE_NS // _BIT_NS if rates else QUEUE_BYTES_MAX
        self._limit_bytes = min(max(allowed, QUEUE_BYTES_MIN), QUEUE_BYTES_MAX)

    # -- in ----------------------------------------------------------------------------------------------------------

    def passes_at_once(self, flow_queue: FlowQueue[T], size_bytes: int, now_ns: int) -> bool:
        """True, and everything is charged, when nothing that could go before it waits and every limit has room."""
        pipe = self.pipe
        rate, cap = pipe.rate, self.cap
        if self.backlog_packets or (rate and (pipe.backlog_packets or rate.full_ns - rate.slack_ns > now_ns)):
            return False
        if cap and cap.full_ns - cap.slack_ns > now_ns:
            return False
        if flow_queue.rate_bit_s and flow_queue.full_ns - flow_queue.slack_ns > now_ns:
            return False
        if rate:
            rate.charge(size_bytes, now_ns)
        self._charge(flow_queue, size_bytes, now_ns)
        return True

    def add(self, flow_queue: FlowQueue[T], size_bytes: int, item: T, now_ns: int) -> list[Queued[T]]:
        """What had to be dropped for it, perhaps itself."""
        if not self.backlog_packets:
            self.pipe.activate(self, now_ns)
        flow_queue.packets.append((size_bytes, item))
        flow_queue.backlog_bytes += size_bytes
        self._grow(size_bytes, 1)
        if flow_queue.place is Place.NOWHERE:
            flow_queue.place = Place.RING
            flow_queue.deficit = 0
            self._ring.append(flow_queue)
        if self._longest is None or flow_queue.backlog_bytes > self._longest.backlog_bytes:
            self._longest = flow_queue
        dropped = []
        while (
            flow_queue.limit_bytes and flow_queue.backlog_bytes > flow_queue.limit_bytes and len(flow_queue.packets) > 1
        ):
            dropped.append(self._drop_from(flow_queue))
        while self.backlog_bytes > self._limit_bytes and self.backlog_packets > 1:
            dropped.append(self.drop_tail(flow_queue))
        return dropped

    def drop_tail(self, otherwise: FlowQueue[T] | None = None) -> Queued[T]:
        """The last packet of the longest flow. It is known since it grew last; when it has gone, `otherwise` pays."""
        victim = self._longest
        if victim is None or not victim.packets:
            victim = otherwise or next(each for each in self._flows() if each.packets)
        return self._drop_from(victim)

    def change_pace(self, flow_queue: FlowQueue[T], pace_bit_s: int, limit_bytes: int, now_ns: int) -> None:
        """Holds from now on, also for what waits; what is owed is the same number of bytes. 0: no pace."""
        before = flow_queue.rate_bit_s
        flow_queue.enter(self, pace_bit_s, limit_bytes)
        rate = flow_queue.rate_bit_s
        if rate == before:
            return
        owed_ns = max(0, flow_queue.full_ns - now_ns)
        flow_queue.full_ns = now_ns + owed_ns * before // rate if rate and before else now_ns
        if flow_queue.place is Place.ASIDE:
            self._put_aside(flow_queue)
        self.pipe.deadline_ns = min(self.pipe.deadline_ns, now_ns)

    def _drop_from(self, victim: FlowQueue[T]) -> Queued[T]:
        size_bytes, item = victim.packets.pop()
        victim.backlog_bytes -= size_bytes
        self._grow(-size_bytes, -1)
        return Queued(victim, size_bytes, item)

    def detach(self, flow_queue: FlowQueue[T]) -> list[tuple[int, T]]:
        """The flow goes elsewhere, with what waits of it."""
        packets = list(flow_queue.packets)
        self._grow(-flow_queue.backlog_bytes, -len(packets))
        flow_queue.packets.clear()
        flow_queue.backlog_bytes = 0
        if flow_queue.place is Place.RING:
            self._ring.remove(flow_queue)
        flow_queue.place = Place.NOWHERE
        if self._longest is flow_queue:
            self._longest = None
        return packets

    # -- out ---------------------------------------------------------------------------------------------------------

    def ready_ns(self, now_ns: int) -> int:
        """When its next packet may go as far as its own limits are concerned. Something must be waiting."""
        own_ns = self.cap.full_ns - self.cap.slack_ns if self.cap else 0
        self._settle(now_ns)
        if self._ring:
            return own_ns
        return max(own_ns, self._aside[0][0])

    def take(self, now_ns: int) -> Queued[T]:
        """The next packet, charged; only when `ready_ns` has come."""
        while True:
            self._settle(now_ns)
            flow_queue = self._ring[0]
            size_bytes, item = flow_queue.packets[0]
            if flow_queue.deficit >= size_bytes or len(self._ring) == 1:
                break
            flow_queue.deficit += QUANTUM_BYTES
            self._ring.rotate(-1)
        flow_queue.packets.popleft()
        flow_queue.backlog_bytes -= size_bytes
        flow_queue.deficit = max(flow_queue.deficit - size_bytes, 0)
        self._grow(-size_bytes, -1)
        self._charge(flow_queue, size_bytes, now_ns)
        return Queued(flow_queue, size_bytes, item)

    def _settle(self, now_ns: int) -> None:
        """Brings back the flows whose cap has room again, and a flow that may send to the head of the ring."""
        aside, ring = self._aside, self._ring
        while aside and aside[0][0] <= now_ns:
            flow_queue = heapq.heappop(aside)[2]
            if flow_queue.place is Place.ASIDE and flow_queue.class_queue is self:
                flow_queue.place = Place.RING
                ring.append(flow_queue)
        while ring:
            flow_queue = ring[0]
            if not flow_queue.packets:
                ring.popleft()
                flow_queue.place = Place.NOWHERE
            elif flow_queue.rate_bit_s and flow_queue.full_ns - flow_queue.slack_ns > now_ns:
                ring.popleft()
                flow_queue.place = Place.ASIDE
                self._put_aside(flow_queue)
            else:
                return
        while aside and not (
            aside[0][2].packets and aside[0][2].class_queue is self and aside[0][2].place is Place.ASIDE
        ):
            gone = heapq.heappop(aside)[2]
            if gone.class_queue is self and gone.place is Place.ASIDE:
                gone.place = Place.NOWHERE

    def _put_aside(self, flow_queue: FlowQueue[T]) -> None:
        self._sequence += 1
        heapq.heappush(self._aside, (flow_queue.full_ns - flow_queue.slack_ns, self._sequence, flow_queue))

    def _charge(self, flow_queue: FlowQueue[T], size_bytes: int, now_ns: int) -> None:
        if self.cap:
            self.cap.charge(size_bytes, now_ns)
        if flow_queue.rate_bit_s:
            start = flow_queue.full_ns if flow_queue.full_ns > now_ns else now_ns
            flow_queue.full_ns = start + size_bytes * _BIT_NS // flow_queue.rate_bit_s

    def _grow(self, size_bytes: int, packets: int) -> None:
        self.backlog_bytes += size_bytes
        self.backlog_packets += packets
        self.pipe.backlog_packets += packets

    def _flows(self) -> list[FlowQueue[T]]:
        return [
            *self._ring,
            *dict.fromkeys(flow_queue for _, _, flow_queue in self._aside if flow_queue.class_queue is self),
        ]


class Pipe(Generic[T]):
    """`path` once a flow; `ClassQueue.passes_at_once` or `offer` each packet; `release` when `deadline_ns` has come."""

    __slots__ = ("_active", "_classes", "_limit_packets", "_queues", "_virtual", "backlog_packets", "deadline_ns",
                 "rate")  # fmt: skip

    def __init__(self, classes: tuple[TrafficClass, ...], rate_bit_s: int | None, *, limit_packets: int) -> None:
        self.rate = Bucket(rate_bit_s) if rate_bit_s else None
        self._classes = classes
        self._queues: dict[int, ClassQueue[T]] = {}
        self._active: list[ClassQueue[T]] = []
        self._virtual = 0
        self._limit_packets = limit_packets
        self.backlog_packets = 0
        self.deadline_ns = 0

    def path(self, index: int, *, paced: bool = False) -> ClassQueue[T] | None:
        """The queue of a class; None when nothing limits it here, nor the flow that asks (`paced`)."""
        traffic_class = self._classes[index]
        if not (paced or self.rate or traffic_class.cap_bit_s or traffic_class.flow_cap_bit_s):
            return None
        found = self._queues.get(index)
        if found is not None:
            return found
        made = self._queues[index] = ClassQueue(self, index, traffic_class)
        return made

    def inherit(self, old: Pipe[T]) -> None:
        """Takes over how busy the link and the classes of the same name were, so that no plan change gives a burst."""
        if self.rate and old.rate:
            self.rate.full_ns = old.rate.full_ns
        names = {each.name: index for index, each in enumerate(self._classes)}
        for index, queue in old._queues.items():
            mine = self.path(names[name]) if (name := old._classes[index].name) in names else None
            if mine is not None and mine.cap and queue.cap:
                mine.cap.full_ns = queue.cap.full_ns

    def activate(self, queue: ClassQueue[T], now_ns: int) -> None:
        """A class has something to send again: it saved nothing up meanwhile."""
        if queue not in self._active:
            self._active.append(queue)
            queue.start = max(queue.start, self._virtual)
            queue.minimum_ns = max(queue.minimum_ns, now_ns)

    def offer(self, flow_queue: FlowQueue[T], size_bytes: int, item: T, now_ns: int) -> list[Queued[T]]:
        """Queues a packet and gives back what had to be dropped for it. Call `release` afterwards."""
        if self.deadline_ns > now_ns or not self.backlog_packets:
            self.deadline_ns = now_ns
        dropped = flow_queue.class_queue.add(flow_queue, size_bytes, item, now_ns)
        while self.backlog_packets > self._limit_packets:
            waiting = [queue for queue in self._active if queue.backlog_packets]
            dropped.append(max(waiting, key=_burden).drop_tail())
        return dropped

    def release(self, now_ns: int) -> list[Queued[T]]:
        """What may leave now, in order; sets `deadline_ns` when something stays."""
        released: list[Queued[T]] = []
        rate = self.rate
        while self.backlog_packets:
            if rate and rate.full_ns - rate.slack_ns > now_ns:
                self.deadline_ns = rate.full_ns - rate.slack_ns
                break
            queue, owed = self._choose(now_ns)
            if queue is None:
                break
            queued = queue.take(now_ns)
            if rate:
                rate.charge(queued.size_bytes, now_ns)
                self._account(queue, queued.size_bytes, now_ns, owed=owed)
            released.append(queued)
        return released

    def drain(self) -> list[Queued[T]]:
        """Everything, each flow's in its order, whatever the limits."""
        drained: list[Queued[T]] = []
        for queue in self._queues.values():
            for flow_queue in queue._flows():
                drained += (Queued(flow_queue, *packet) for packet in queue.detach(flow_queue))
        return drained

    def _choose(self, now_ns: int) -> tuple[ClassQueue[T] | None, bool]:
        """Who sends, and whether it does so on its minimum; if nobody can, when somebody will."""
        best: ClassQueue[T] | None = None
        best_key = (0, 0)
        soonest_ns = 0
        for queue in [each for each in self._active if not each.backlog_packets]:
            self._active.remove(queue)
        for queue in self._active:
            ready_ns = queue.ready_ns(now_ns)
            if ready_ns > now_ns:
                soonest_ns = min(soonest_ns, ready_ns) if soonest_ns else ready_ns
                continue
            if queue.index == CONTROL:
                return queue, False
            if queue.minimum_bit_s and queue.minimum_ns <= now_ns:
                key = (0, queue.minimum_ns)
            else:
                key = (1, max(queue.start, self._virtual))
            if best is None or key < best_key:
                best, best_key = queue, key
        if best is None:
            self.deadline_ns = soonest_ns
        return best, best_key[0] == 0

    def _account(self, queue: ClassQueue[T], size_bytes: int, now_ns: int, *, owed: bool) -> None:
        if queue.index == CONTROL:
            return
        if owed:
            begin = max(queue.minimum_ns, now_ns - MINIMUM_LAG_NS_MAX)
            queue.minimum_ns = begin + size_bytes * _BIT_NS // queue.minimum_bit_s
            self._forgive(now_ns)
            return
        begin = max(queue.start, self._virtual)
        self._virtual = begin
        queue.start = begin + size_bytes * _WEIGHT_SCALE // queue.weight

    def _forgive(self, now_ns: int) -> None:
        """Where the minimums are more than the link, all are shortened alike, so that they keep their proportion."""
        promised = [queue for queue in self._active if queue.minimum_bit_s]
        behind_ns = now_ns - MINIMUM_LAG_NS - max(queue.minimum_ns for queue in promised)
        if behind_ns > 0:
            for queue in promised:
                queue.minimum_ns += behind_ns


def _burden(queue: ClassQueue[T]) -> tuple[bool, int]:
    """Who loses a packet first: the class with most bytes, control traffic last."""
    return queue.index != CONTROL, queue.backlog_bytes
