"""The queues of a gateway's links where programs in the kernel decide: an HTB at the root of each link with a rate.

Decides: the tree's shape, and what the programs have to be told when more or less waits than they reckon. Refuses to
know: which packet is of which class, who is refused (dataplane/ebpf/queue.h, whose numbers are here too), how a qdisc
is put back (`dataplane.shaping.qdiscs`).
Source: tc-htb(8); net/sched/sch_htb.c for who goes first: lower levels of the tree before higher ones, in a level the
lower priority number, among equals in turns of a quantum.

The order is that of `gateway.scheduler`. The paid classes stand together under a node with 95 % of the link, the lowest
class under one with 5 %: both are served before anybody borrows, and what one of them leaves the other borrows. Under
the node of the paid ones each class has a priority, and 16 leaves in which flows take turns. All leaves borrow: their
own rates are as good as nothing.

Nothing is dropped here: the programs refuse a packet before it is counted as sent. So a leaf's limit is only there in
case nobody refuses any more.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from billpay.errors import EnvironmentFault
from billpay.tolls import CLASS_CONTROL, CLASS_UNPAID
from dataplane import kernel_tools
from dataplane.attribution.netlink import NETLINK_ROUTE, NetlinkSocket
from dataplane.desired import DesiredState
from dataplane.record import Record
from dataplane.rules import restore
from dataplane.shaping import qdiscs
from dataplane.shaping import rtnetlink as rt
from dataplane.shaping.htb import HANDLE
from dataplane.shaping.rtnetlink import TcMessage
from gateway.plan import LinkPlan, Queueing

OWNER: Final = "billpay-gw-queue"
NS_PER_S: Final = 1_000_000_000
LEAVES: Final = 16
LEAF_MINOR: Final = 0x10
"""Of class 0, leaf 0; then leaf by leaf and class by class."""

LINK_MINOR: Final = 1
OTHER_MINOR: Final = 2
"""What the gateway itself sends, and everything while no program runs."""

PAID_MINOR: Final = 3
UNPAID_MINOR: Final = 4

UNPAID_PART: Final = 20
BURST_MS: Final = 2
"""What the link may be ahead of its rate, as with `SchedulerSettings.burst_ns`."""

_TINY_BIT_S: Final = 8
_OPEN_BIT_S: Final = 100_000_000_000
_OPEN_BURST_BYTES: Final = 10_000_000
_SAVED_BYTES: Final = 4 * 1514
"""The lowest class may be behind its share by this much and catch up."""

_LUMP_MS: Final = 1
"""A packet of segments waits as one and goes as one, if it takes no longer."""

_OFFLOADED_BYTES: Final = 1 << 16
_LINK_HEADERS_BYTES: Final = 22
_ETHERNET_HEADER_BYTES: Final = 14
_NO_WAIT: Final = "8000gbit"
"""Of a TBF that only segments."""

PASSING_S_MAX: Final = 1.0
"""No neighbour waits longer for a statement."""

_DRAIN_S: Final = 0.25
_STATS_QUEUE: Final = 3
_QUEUE_COUNTS: Final = struct.Struct("=III")  # packets, bytes, drops
_LEVELS_AT: Final = struct.Struct("=8xQ8xQ")  # of struct link_queue: when the levels were right, that of all classes
_CORRECTION: Final = struct.Struct("=q")
_KEY: Final = struct.Struct("=I")
_TCMSG_BYTES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueClass:
    """One class of the tree. `limit_bytes`: of a leaf's queue; 0: a node. `longest_packet_bytes`: what is longer is
    segmented; 0: nothing is."""

    minor: int
    parent: int
    rate_bit_s: int
    ceil_bit_s: int
    burst_bytes: int
    cburst_bytes: int
    priority: int = 0
    quantum_bytes: int = _OFFLOADED_BYTES
    limit_bytes: int = 0
    longest_packet_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in a link's queue, and what the kernel dropped there since it was made."""

    bytes: int = 0
    packets: int = 0
    dropped: int = 0


class ArrayMap(Protocol):
    """Of `dataplane.ebpf.libbpf.Map`, what is needed here."""

    def lookup(self, key: bytes) -> bytes | None: ...

    def update(self, key: bytes, value: bytes) -> None: ...


def limit_bytes(plan: LinkPlan) -> int:
    """What may wait: 100 ms of the link if nothing is said."""
    return plan.limit_bytes or max(30_000, plan.rate_bit_s // 8 // 10)


def passing_s(plan: LinkPlan) -> float:
    """How long what was counted as sent may be on its way through the queue: a whole queue of paid packets, beside the
    unpaid ones, and a bit more; 0 without a queue. Statements wait for it (`neighbour.exchange`)."""
    if not plan.rate_bit_s:
        return 0.0
    return min(PASSING_S_MAX, limit_bytes(plan) * 8 / plan.rate_bit_s * UNPAID_PART / (UNPAID_PART - 1) * 1.25)


# --- the tree -------------------------------------------------------------------------------------------------------


def leaf_minor(service_class: int, leaf: int) -> int:
    """As queue_leave puts it into a packet's priority."""
    return LEAF_MINOR + service_class * LEAVES + leaf


def tree(plan: LinkPlan, *, mtu_bytes: int = 1500) -> list[QueueClass]:
    """The classes of a link, each after its parent."""
    rate = plan.rate_bit_s - plan.rate_bit_s % 8
    if plan.queueing is Queueing.FIFO:
        return [
            _node(LINK_MINOR, 0, rate),
            _leaf(OTHER_MINOR, LINK_MINOR, 0, plan, mtu_bytes),
            _leaf(leaf_minor(CLASS_UNPAID, 0), LINK_MINOR, 1, plan, mtu_bytes),
        ]
    unpaid = rate // UNPAID_PART
    classes = [
        _node(LINK_MINOR, 0, rate),
        _node(PAID_MINOR, LINK_MINOR, rate - unpaid, ceil_bit_s=rate),
        _node(UNPAID_MINOR, LINK_MINOR, unpaid, ceil_bit_s=rate, burst_bytes=_SAVED_BYTES),
        _leaf(OTHER_MINOR, PAID_MINOR, 0, plan, mtu_bytes),
        _leaf(leaf_minor(CLASS_CONTROL, 0), PAID_MINOR, 0, plan, mtu_bytes),
    ]
    for service_class in range(CLASS_CONTROL - 1, CLASS_UNPAID - 1, -1):
        parent = UNPAID_MINOR if service_class == CLASS_UNPAID else PAID_MINOR
        priority = min(CLASS_CONTROL - service_class, 7)
        classes += [_leaf(leaf_minor(service_class, leaf), parent, priority, plan, mtu_bytes) for leaf in range(LEAVES)]
    return classes


def _node(minor: int, parent: int, rate: int, *, ceil_bit_s: int = 0, burst_bytes: int = 0) -> QueueClass:
    ceil = ceil_bit_s or rate
    burst, cburst = (max(1, each * BURST_MS // 8000) for each in (rate, ceil))
    return QueueClass(
        minor=minor,
        parent=parent,
        rate_bit_s=max(rate, _TINY_BIT_S),
        ceil_bit_s=ceil,
        burst_bytes=burst_bytes or burst,
        cburst_bytes=cburst,
    )


def _leaf(minor: int, parent: int, priority: int, plan: LinkPlan, mtu_bytes: int) -> QueueClass:
    lump = plan.rate_bit_s * _LUMP_MS // 8000
    longest = max(lump, mtu_bytes + _LINK_HEADERS_BYTES) if lump < _OFFLOADED_BYTES else 0
    return QueueClass(
        minor=minor,
        parent=parent,
        rate_bit_s=_TINY_BIT_S,
        ceil_bit_s=_OPEN_BIT_S,
        burst_bytes=1,
        cburst_bytes=_OPEN_BURST_BYTES,
        priority=priority,
        quantum_bytes=longest + plan.overhead_bytes if longest else _OFFLOADED_BYTES,
        limit_bytes=2 * limit_bytes(plan) + 2 * _OFFLOADED_BYTES,
        longest_packet_bytes=longest,
    )


def tree_lines(name: str, plan: LinkPlan, device: qdiscs.Device, *, can_segment: bool) -> Iterator[str]:
    """For `tc -batch`, from the root down."""
    header = _ETHERNET_HEADER_BYTES if device.link_type in ("ether", "loopback") else 0
    overhead = plan.overhead_bytes - header
    # The kernel counts a frame with its header. A class can only count more; a table of sizes without sizes, less.
    less, more = f" stab overhead {overhead}" if overhead < 0 else "", f" overhead {overhead}" if overhead > 0 else ""
    yield f"qdisc replace dev {name} root handle {HANDLE:x}:{less} htb default {OTHER_MINOR:x}"
    for each in tree(plan, mtu_bytes=device.mtu):
        yield class_line(name, each) + more
        if each.limit_bytes:
            yield queue_line(name, each, can_segment=can_segment)


def class_line(name: str, each: QueueClass) -> str:
    parent = f"{each.parent:x}" if each.parent else ""
    return (
        f"class replace dev {name} parent {HANDLE:x}:{parent} classid {HANDLE:x}:{each.minor:x} htb"
        f" rate {each.rate_bit_s}bit ceil {each.ceil_bit_s}bit burst {each.burst_bytes} cburst {each.cburst_bytes}"
        f" prio {each.priority} quantum {each.quantum_bytes}"
    )


def queue_line(name: str, each: QueueClass, *, can_segment: bool = True) -> str:
    kind = f"bfifo limit {each.limit_bytes}"
    if each.longest_packet_bytes and can_segment:
        kind = f"tbf rate {_NO_WAIT} burst {each.longest_packet_bytes} limit {each.limit_bytes}"
    return f"qdisc replace dev {name} parent {HANDLE:x}:{each.minor:x} {kind}"


# --- what waits -----------------------------------------------------------------------------------------------------


def level_bytes(queue: bytes, *, rate_bit_s: int, now_ns: int) -> int:
    """What waits by the programs' reckoning; `queue` is a struct link_queue."""
    since_ns, level = _LEVELS_AT.unpack_from(queue)
    left: int = level - max(0, now_ns - since_ns) * (rate_bit_s // 8) // NS_PER_S
    return max(0, left)


def correction_bytes(plan: LinkPlan, *, waiting_bytes: int, level_bytes: int) -> int:
    """What the levels have to be raised by: half of what they are wrong, so that one look at a wrong moment is no
    harm; nothing for what is only a burst."""
    wrong = waiting_bytes - level_bytes
    if abs(wrong) <= max(6000, plan.rate_bit_s // 8 * 4 * BURST_MS // 1000):
        return 0
    most = limit_bytes(plan) // 4
    return max(-most, min(wrong // 2, most))


class KernelQueues:
    """For the network namespace that it is used in. In this order: `apply`, the programs are loaded, `watch`, they are
    attached, `on_period` each period, they are detached, `restore`.

    `links`: those without a rate are left out.
    """

    def __init__(self, links: Sequence[LinkPlan], record_path: Path) -> None:
        self._links = {link.name: link for link in links if link.rate_bit_s}
        self._record_path = record_path
        self._queues: ArrayMap | None = None
        self._corrections: ArrayMap | None = None
        self._numbers: dict[str, int] = {}
        self._corrected: dict[str, int] = {}
        self._kernel: NetlinkSocket | None = None

    def apply(self) -> None:
        """Puts the trees in place. Raises EnvironmentFault, and all is as before, also if a predecessor was killed."""
        restore(self._record_path)
        record = Record(path=self._record_path, desired=DesiredState(owner=OWNER))
        try:
            for link in self._links.values():
                self._put(link, record)
        except EnvironmentFault:
            restore(self._record_path)
            raise

    def _put(self, link: LinkPlan, record: Record) -> None:
        name = _interface_of(link)
        device = qdiscs.read_device(name)
        qdiscs.save_root(device, record)
        try:
            _run_batch(name, tree_lines(name, link, device, can_segment=True))
        except EnvironmentFault:  # a kernel without TBF: packets of segments go as they are
            _run_batch(name, tree_lines(name, link, device, can_segment=False))

    def watch(self, queues: ArrayMap, corrections: ArrayMap, numbers: Mapping[str, int]) -> None:
        """The maps of those names; `numbers`: what the programs know the links by."""
        self._queues, self._corrections, self._numbers = queues, corrections, dict(numbers)
        for name in self._links:
            found = corrections.lookup(_KEY.pack(self._numbers[name]))
            self._corrected[name] = _CORRECTION.unpack(found)[0] if found else 0

    def backlog(self, name: str) -> Backlog:
        """Of a link; nothing where it has no queue, or has gone."""
        link = self._links.get(name)
        if link is None:
            return Backlog()
        self._kernel = self._kernel or NetlinkSocket(NETLINK_ROUTE)
        question = TcMessage(
            type=rt.RTM_GETQDISC,
            interface_index=link.interface_index,
            handle=0,
            parent=rt.TC_H_ROOT,
            info=0,
            attributes=(),
        )
        answer = self._kernel.ask(rt.RTM_GETQDISC, question.pack_body(), echo=True)
        if answer is None:
            return Backlog()
        attributes = rt.unpack(answer.buffer[answer.start + _TCMSG_BYTES : answer.end])
        counts = rt.find(rt.unpack(rt.find(attributes, rt.TCA_STATS2) or b""), _STATS_QUEUE)
        if counts is None:
            return Backlog()
        packets, size, dropped = _QUEUE_COUNTS.unpack_from(counts)
        return Backlog(bytes=size, packets=packets, dropped=dropped)

    def on_period(self, name: str, now_ns: int) -> Backlog:
        """What waits, for the congestion toll; and the programs are told if they reckon with something else."""
        backlog, link = self.backlog(name), self._links.get(name)
        if link is None or self._queues is None or self._corrections is None:
            return backlog
        key = _KEY.pack(self._numbers[name])
        queue = self._queues.lookup(key)
        if queue is not None:
            level = level_bytes(queue, rate_bit_s=link.rate_bit_s, now_ns=now_ns)
            by = correction_bytes(link, waiting_bytes=backlog.bytes, level_bytes=level)
            if by:
                self._corrected[name] += by
                self._corrections.update(key, _CORRECTION.pack(self._corrected[name]))
        return backlog

    def restore(self) -> None:
        """What waits leaves at once, then all is as before `apply`. Idempotent. Raises EnvironmentFault."""
        self._drain()
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        restore(self._record_path)

    def _drain(self) -> None:
        """Opens the links, as `Scheduler.drain` does: what waits was counted as sent. Gives up where it does not go."""
        waiting = [link for link in self._links.values() if self._is_ours(link)]
        for link in waiting:
            name = _interface_of(link)
            nodes = [each for each in tree(link) if not each.limit_bytes]
            try:
                _run_batch(name, (class_line(name, _open(each)) for each in nodes))
            except EnvironmentFault:
                continue
        until_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < until_s and any(self.backlog(link.name).packets for link in waiting):
            time.sleep(0.002)

    def _is_ours(self, link: LinkPlan) -> bool:
        try:
            return qdiscs.has_ours(link.interface_index)
        except EnvironmentFault:
            return False


def _open(each: QueueClass) -> QueueClass:
    return QueueClass(
        minor=each.minor,
        parent=each.parent,
        rate_bit_s=_OPEN_BIT_S,
        ceil_bit_s=_OPEN_BIT_S,
        burst_bytes=_OPEN_BURST_BYTES,
        cburst_bytes=_OPEN_BURST_BYTES,
        priority=each.priority,
        quantum_bytes=each.quantum_bytes,
    )


def _interface_of(link: LinkPlan) -> str:
    try:
        return socket.if_indextoname(link.interface_index)
    except OSError as error:
        raise EnvironmentFault("queue", link.name, "its interface is gone") from error


def _run_batch(name: str, lines: Iterator[str]) -> None:
    text = "\n".join([*lines, ""])
    kernel_tools.run(["tc", "-batch", "-"], operation="queue", target=name, text=text)
