"""The flows that pass here: a bounded table, the longest idle forgotten first, and what each has sent and received.

Decides: who is forgotten, and when a flow's counts are added to its program's and its link's. Refuses to know: what is
done with a packet. Pure.

A flow's counts wait with it until it is known whose it is, or until nobody waits for that any more; so a program's
count never shrinks, and the sum over programs is always the sum over links.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from itertools import islice
from typing import Final, NamedTuple

from billpay.errors import LocalProtocolError
from billpay.packet import TCP, UDP, transport_of
from billpay.packet import FlowKey as Ends
from dataplane.metering import FlowKey, FlowMeter, Program, Tally
from dataplane.port import Counters, Packet, Verdict
from dataplane.shaping.pipe import FlowQueue, Pipe
from dataplane.shaping.plan import DEFAULT

FLOWS_MAX: Final = 100_000
IDLE_NS: Final = 300_000_000_000
ASKED_FOR_NS: Final = 90_000_000_000
"""Somebody counts on a flow's counts for so long after he asked for them."""

FORGOTTEN_AT_ONCE: Final = 2000
SPARED_AT_MOST: Final = 256

PACED_TCP_BYTES: Final = 1 << 18
PACED_PACKETS: Final = 4
PACED_NS: Final = 20_000_000

NOT_YET: Final = -1
"""Program number of a flow that may still be attributed before it is counted."""

COUNTS: Final = ("sent_packets", "sent_bytes", "sent_ce", "sent_ect",
                 "received_packets", "received_bytes", "received_ce", "received_ect")  # fmt: skip

Item = Packet | Verdict
"""What waits: a packet that leaves, or the verdict already made for one that arrived."""


class Interface(NamedTuple):
    """What the machine says of an interface index."""

    name: str
    mtu: int


class State(IntEnum):
    """Whether a flow's packets go to their class."""

    OPEN = 0
    NAMELESS = 1  # wait until it is known whose they are
    ASKED = 2  # wait for an answer
    DENIED = 3


class Permission(IntEnum):
    NONE = 0
    ALLOWED = 1
    DENIED = 2


class Held(NamedTuple):
    """A packet of a flow that is not open yet."""

    leaving: bool
    size_bytes: int
    item: Item


class Link:
    """One interface index while it lasts. The pipes belong to the interface's name, and outlive it."""

    __slots__ = ("arriving", "incoming", "indexes", "leaving", "mtu", "name", "outgoing", "stray")

    def __init__(self, index: int, interface: Interface, indexes: tuple[int, ...]) -> None:
        self.name = interface.name
        self.mtu = interface.mtu
        self.indexes = indexes
        self.leaving: dict[Ends, Flow] = {}  # by the ends as a packet has them
        self.arriving: dict[Ends, Flow] = {}
        self.outgoing: Pipe[Item]
        self.incoming: Pipe[Item]
        self.stray = Flow(self, Ends(b"", b"", 0, 0, 0), index, inbound=False, now_ns=0)
        """Counts what is no whole IP header, and what the full table has no room for."""
        self.stray.number = 0


class Flow:
    """What the core knows of one flow."""

    __slots__ = (
        "answers_marks", "ask_ns", "asked_ns", "counted", "first_ns", "held", "hides_marks", "in_queue",
        "inbound", "index", "last_ns", "leaving_ends", "link", "number", "out_queue", "pace_bit_s",
        "permission", "program", "question", "quiet_ns", "received_bytes", "received_ce", "received_ect",
        "received_packets", "sent_bytes", "sent_ce", "sent_ect", "sent_packets", "state", "touched",
        "traffic_class",
    )  # fmt: skip

    def __init__(self, link: Link, leaving_ends: Ends, index: int, *, inbound: bool, now_ns: int) -> None:
        self.link = link
        self.leaving_ends = leaving_ends
        self.index = index
        self.inbound = inbound
        self.number = NOT_YET
        self.program: Program | None = None
        self.traffic_class = DEFAULT
        self.state = State.OPEN
        self.permission = Permission.NONE
        self.question = 0
        self.touched = False  # it had packets in the call that runs
        self.out_queue: FlowQueue[Item] | None = None  # None: nothing limits it
        self.in_queue: FlowQueue[Item] | None = None
        self.held: list[Held] = []
        self.pace_bit_s = 0  # of its own; 0: none
        self.answers_marks = False
        self.hides_marks = False
        self.asked_ns = -ASKED_FOR_NS  # when somebody last wanted its meter
        self.first_ns = now_ns
        self.last_ns = 0
        self.quiet_ns = now_ns  # denied: when the last packet was dropped
        self.ask_ns = 0  # when its class or its owner is to be looked at again
        self.sent_packets = self.sent_bytes = self.sent_ce = self.sent_ect = 0
        self.received_packets = self.received_bytes = self.received_ce = self.received_ect = 0
        self.counted = (0, 0, 0, 0, 0, 0, 0, 0)

    @property
    def key(self) -> FlowKey:
        ends = self.leaving_ends
        return FlowKey(
            self.index, ends.protocol, ends.source, ends.source_port, ends.destination, ends.destination_port
        )

    @property
    def room_bytes(self) -> int:
        """What may wait of it under a pace of its own. TCP waits for its packets to leave anyway."""
        if not self.pace_bit_s:
            return 0
        if self.leaving_ends.protocol == TCP:
            return PACED_TCP_BYTES
        return max(PACED_PACKETS * self.link.mtu, self.pace_bit_s * PACED_NS // 8_000_000_000)

    @property
    def is_waiting(self) -> bool:
        """Whether some of its packets have no verdict yet."""
        return bool(
            self.held
            or self.question
            or (self.out_queue and self.out_queue.packets)
            or (self.in_queue and self.in_queue.packets)
        )

    def counts(self) -> tuple[int, int, int, int, int, int, int, int]:
        """In the order of `COUNTS`."""
        return (
            self.sent_packets, self.sent_bytes, self.sent_ce, self.sent_ect,
            self.received_packets, self.received_bytes, self.received_ce, self.received_ect,
        )  # fmt: skip

    def meter(self) -> FlowMeter:
        counts = self.counts()
        return FlowMeter(
            key=self.key,
            program_number=max(self.number, 0),
            process_id=0,
            traffic_class=self.traffic_class,
            sent=Tally(*counts[:4]),
            received=Tally(*counts[4:]),
            first_ns=self.first_ns,
            last_ns=self.last_ns,
        )


class FlowTable:
    """All flows, the most recently used last; counts of programs and links."""

    def __init__(self, counters: Counters, flows_max: int = FLOWS_MAX) -> None:
        self._counters = counters
        self._flows_max = flows_max
        self._flows: OrderedDict[Flow, None] = OrderedDict()
        self._programs = {0: _program_indexes(counters, 0)}
        self.evicted = counters.index("shaping.flows_evicted")
        self.beyond = counters.index("shaping.packets_beyond_table")

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._flows)

    def link_indexes(self, name: str) -> tuple[int, ...]:
        return tuple(self._counters.index(f"shaping/link/{name}/{count}") for count in COUNTS)

    def find(self, links: dict[int, Link | None], key: FlowKey) -> Flow | None:
        """interface_index 0: on whichever link it was seen last."""
        return max(self.find_all(links, key), key=lambda flow: flow.last_ns, default=None)

    def find_all(self, links: dict[int, Link | None], key: FlowKey) -> list[Flow]:
        """One at most, but for interface_index 0."""
        ends = Ends(key.local, key.remote, key.protocol, key.local_port, key.remote_port)
        candidates = (links.get(key.interface_index),) if key.interface_index else tuple(links.values())
        return [flow for link in candidates if link and (flow := link.leaving.get(ends)) is not None]

    def meter(self, links: dict[int, Link | None], key: FlowKey, now_ns: int) -> FlowMeter | None:
        """Who is asked for is not forgotten for being idle."""
        flow = self.find(links, key)
        if flow is None:
            return None
        flow.asked_ns = now_ns
        return flow.meter()

    def add(self, link: Link, ends: Ends, index: int, *, inbound: bool, now_ns: int) -> Flow | None:
        """A new flow; None when the table is full of flows that wait."""
        while len(self._flows) >= self._flows_max:
            if not self._evict():
                return None
        flow = Flow(link, ends, index, inbound=inbound, now_ns=now_ns)
        link.leaving[ends] = flow
        link.arriving[ends.reversed()] = flow
        self._flows[flow] = None
        return flow

    def touch(self, flows: list[Flow]) -> None:
        """After a batch: those that had packets in it are the latest, and what can be counted is."""
        move = self._flows.move_to_end
        for flow in flows:
            flow.touched = False
            if flow in self._flows:
                move(flow)
            if flow.number >= 0:
                self.count(flow)

    def count(self, flow: Flow) -> None:
        """What is new since the last time goes to its program and its link."""
        counts = flow.counts()
        before = flow.counted
        if counts == before:
            return
        flow.counted = counts
        program = self._programs.get(flow.number) or self._new_program(flow.number)
        link = flow.link.indexes
        add = self._counters.add
        for at in range(8):
            delta = counts[at] - before[at]
            if delta:
                add(program[at], delta)
                add(link[at], delta)

    def settle(self, flow: Flow, number: int) -> None:
        """From now on it is counted as that program's; what was counted for another stays there."""
        if flow.number >= 0:
            self.count(flow)
        flow.number = number
        self.count(flow)

    def forget(self, flow: Flow) -> None:
        if flow.number < 0:
            flow.number = 0
        self.count(flow)
        self._flows.pop(flow, None)
        flow.link.leaving.pop(flow.leaving_ends, None)
        flow.link.arriving.pop(flow.leaving_ends.reversed(), None)

    def forget_idle(self, now_ns: int) -> None:
        """Those that were silent for `IDLE_NS` stand first; many at once take several calls."""
        for flow in list(islice(self._flows, FORGOTTEN_AT_ONCE)):
            if now_ns - flow.last_ns < IDLE_NS:
                return
            if not flow.is_waiting and now_ns - flow.asked_ns >= ASKED_FOR_NS:
                self.forget(flow)

    def _evict(self) -> bool:
        for flow in islice(self._flows, SPARED_AT_MOST):
            if not flow.is_waiting:
                self.forget(flow)
                self._counters.add(self.evicted, 1)
                return True
        return False

    def _new_program(self, number: int) -> tuple[int, ...]:
        try:
            found = _program_indexes(self._counters, number)
        except LocalProtocolError:  # no counter is free: counted, if not by name
            found = self._programs[0]
        self._programs[number] = found
        return found


def _program_indexes(counters: Counters, number: int) -> tuple[int, ...]:
    return tuple(counters.index(f"shaping/program/{number}/{count}") for count in COUNTS)


def wire_size(payload: bytes, mtu: int) -> tuple[int, int]:
    """Packets and bytes of a segment-offloaded packet once it is cut: each segment has its own headers.

    How it will be cut is not known here; full segments are assumed, which is what senders make.
    """
    size = len(payload)
    if size <= mtu:
        return 1, size
    transport = transport_of(payload)
    if transport is None or transport.fragment or transport.protocol not in (TCP, UDP):
        return 1, size
    headers = transport.offset + 8
    if transport.protocol == TCP:
        headers = transport.offset + (payload[transport.offset + 12] >> 4 << 2 if size > transport.offset + 12 else 20)
    room = mtu - headers
    if room <= 0:
        return 1, size
    segments = -(-(size - headers) // room)
    return segments, size + (segments - 1) * headers


def is_opened_by_remote(payload: bytes, ends: Ends, *, leaving: bool) -> bool:
    """Whether the other end began the flow whose first packet, as we saw it, this is. `ends`: as it leaves.

    A SYN says it, with or without ACK. Of a flow in the middle the lower port is taken for the service's.
    """
    if ends.protocol != TCP:
        return not leaving
    transport = transport_of(payload)
    flags = payload[transport.offset + 13] if transport and len(payload) > transport.offset + 13 else 0
    if flags & 0x02:
        return leaving == bool(flags & 0x10)
    return ends.source_port < ends.destination_port
