"""A paced flow's own HTB class and queue: its numbers, and the messages that make, change and delete them.

Decides: a class's burst, what waits in its queue at most, and when segments that a host hands over as one are sent one
by one. Refuses to know: whose flow it is, why it has this pace, and which packets are given to the class.
Source: net/sched/sch_htb.c, sch_tbf.c; linux/pkt_sched.h.

The classes lie in the tree of `trafficcontrol`, below the link's own class. The queue is a TBF that never waits: it
segments, and it changes in place. A transport that waits for its packets to leave (TCP small queues) is held back by
its class; of what comes without asking, a few milliseconds wait and the rest is dropped here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from dataplane.shaping import rtnetlink as rt
from dataplane.shaping.htb import HANDLE, LINK_MINOR, UNKNOWN_LINK_BIT_S
from dataplane.shaping.rtnetlink import TcMessage

PACED_MINOR: Final = 0x2000
PACED_SLOTS: Final = 256
PACED_MINORS: Final = frozenset(range(PACED_MINOR, PACED_MINOR + PACED_SLOTS))

BURST_NS: Final = 2_000_000
BURST_PACKETS: Final = 2
LUMP_NS: Final = 1_000_000
QUEUE_NS: Final = 20_000_000
QUEUE_PACKETS: Final = 4
HELD_QUEUE_BYTES: Final = 1 << 20
"""Of a transport that waits for its packets to leave: never reached."""

RESERVED_STEPS: Final = 16
RESERVED_MOST: Final = 0.75
"""Of a link whose rate is known: what paced flows are promised of it at most. Beyond that they borrow."""

_QUEUE_HANDLE: Final = 0x8000
_TCP: Final = 6
_LINK_HEADERS_BYTES: Final = 22  # with two VLAN tags
_OFFLOADED_BYTES: Final = 1 << 16
_PRIO: Final = 1
_NS_PER_S: Final = 1_000_000_000
_TICK_SHIFT: Final = 6  # the kernel's own unit of time for buckets: 64 ns
_ETHERNET: Final = 1  # link layer: no table of rates is wanted
_RATE_MAX: Final = 0xFFFF_FFFF
_NO_WAIT_BYTE_S: Final = 1_000_000_000_000

_RATE_SPEC: Final = struct.Struct("=BBHhHI")
_HTB_PARMS, _HTB_RATE64, _HTB_CEIL64 = 1, 6, 7
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_FIVE_NUMBERS: Final = struct.Struct("=5I")
_THREE_NUMBERS: Final = struct.Struct("=3I")
_U64: Final = struct.Struct("=Q")
_U32: Final = struct.Struct("=I")


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedClass:
    """rate: promised; ceil: the pace. longest_packet_bytes: what is longer is segmented first."""

    rate_bit_s: int
    ceil_bit_s: int
    burst_ns: int
    quantum_bytes: int
    queue_bytes: int
    longest_packet_bytes: int


class Pace(NamedTuple):
    """What is wanted of a flow."""

    bit_s: int
    protocol: int

    @property
    def is_held(self) -> bool:
        """Whether its transport waits for its packets to leave."""
        return self.protocol == _TCP


NO_PACE_BIT_S: Final = UNKNOWN_LINK_BIT_S


def reserve(paces_bit_s: int, link_bit_s: int | None) -> int:
    """What the link keeps for paced flows, in steps, so that a changed pace seldom changes the tree."""
    if not link_bit_s or not paces_bit_s:
        return 0
    step = max(1, link_bit_s // RESERVED_STEPS)
    return min(-(-paces_bit_s // step) * step, int(link_bit_s * RESERVED_MOST))


def is_reserve_wrong(reserved_bit_s: int, paces_bit_s: int, link_bit_s: int | None) -> bool:
    """Too little, or much too much: paces that go up and down shall not change the tree each time."""
    wanted = reserve(paces_bit_s, link_bit_s)
    spare = 2 * (link_bit_s or 0) // RESERVED_STEPS
    return reserved_bit_s < wanted or reserved_bit_s > (wanted + spare if wanted else 0)


def is_overbooked(paces_bit_s: int, link_bit_s: int | None) -> bool:
    """Then each is promised a part of its pace only."""
    return bool(link_bit_s and paces_bit_s > RESERVED_MOST * link_bit_s)


def plan_class(
    pace: Pace, *, mtu: int, header_bytes: int, link_bit_s: int | None = None, all_bit_s: int = 0
) -> PacedClass:
    """all_bit_s: the sum of all paces on the link. header_bytes: what a packet carries below IP at the qdisc."""
    ceil = min(pace.bit_s, link_bit_s or UNKNOWN_LINK_BIT_S)
    burst = max(mtu + _LINK_HEADERS_BYTES, _power_of_2(pace.bit_s * LUMP_NS // (8 * _NS_PER_S)))
    if pace.is_held and burst < _OFFLOADED_BYTES:
        ceil = ceil * (mtu + header_bytes) // mtu  # a segment that was cut off counts with its link header
    rate = ceil
    if link_bit_s and is_overbooked(all_bit_s, link_bit_s):
        rate = max(8, int(ceil * RESERVED_MOST * link_bit_s) // all_bit_s)
    queued = HELD_QUEUE_BYTES if pace.is_held else _power_of_2(pace.bit_s * QUEUE_NS // (8 * _NS_PER_S))
    return PacedClass(
        rate_bit_s=rate,
        ceil_bit_s=ceil,
        burst_ns=max(BURST_NS, BURST_PACKETS * mtu * 8 * _NS_PER_S // ceil),
        quantum_bytes=min(mtu + header_bytes, 60_000),
        queue_bytes=max(QUEUE_PACKETS * (mtu + header_bytes), queued),
        longest_packet_bytes=min(burst, _OFFLOADED_BYTES + _LINK_HEADERS_BYTES),
    )


def _power_of_2(number: int) -> int:
    """The least that is not less: so queues change seldom, and classes often."""
    return 1 << max(0, number - 1).bit_length()


def class_message(interface_index: int, minor: int, each: PacedClass) -> TcMessage:
    ticks = min(each.burst_ns >> _TICK_SHIFT, _RATE_MAX)
    rate, ceil = each.rate_bit_s // 8, each.ceil_bit_s // 8
    numbers = _FIVE_NUMBERS.pack(ticks, ticks, each.quantum_bytes, 0, _PRIO)
    options = [(_HTB_PARMS, _rate_spec(rate) + _rate_spec(ceil) + numbers)]
    options += [(kind, _U64.pack(it)) for kind, it in ((_HTB_RATE64, rate), (_HTB_CEIL64, ceil)) if it >= _RATE_MAX]
    return _message(rt.RTM_NEWTCLASS, interface_index, minor, LINK_MINOR, "htb", rt.pack(options))


def queue_message(interface_index: int, minor: int, each: PacedClass, *, can_segment: bool) -> TcMessage:
    if can_segment:
        numbers = _THREE_NUMBERS.pack(each.queue_bytes, 0, 0)
        parameters = _rate_spec(_NO_WAIT_BYTE_S) + _rate_spec(0) + numbers
        options = [
            (_TBF_PARMS, parameters),
            (_TBF_RATE64, _U64.pack(_NO_WAIT_BYTE_S)),
            (_TBF_BURST, _U32.pack(each.longest_packet_bytes)),
        ]
        kind, data = "tbf", rt.pack(options)
    else:
        kind, data = "bfifo", _U32.pack(each.queue_bytes)
    return TcMessage(
        type=rt.RTM_NEWQDISC,
        interface_index=interface_index,
        handle=(_QUEUE_HANDLE + minor - PACED_MINOR) << 16,
        parent=HANDLE << 16 | minor,
        info=0,
        attributes=((rt.TCA_KIND, kind.encode() + b"\0"), (rt.TCA_OPTIONS, data)),
    )


def gone_message(interface_index: int, minor: int) -> TcMessage:
    return _message(rt.RTM_DELTCLASS, interface_index, minor, LINK_MINOR, "", b"")


def _message(kind: int, interface_index: int, minor: int, parent: int, what: str, options: bytes) -> TcMessage:
    return TcMessage(
        type=kind,
        interface_index=interface_index,
        handle=HANDLE << 16 | minor,
        parent=HANDLE << 16 | parent,
        info=0,
        attributes=((rt.TCA_KIND, what.encode() + b"\0"), (rt.TCA_OPTIONS, options)) if what else (),
    )


def _rate_spec(byte_s: int) -> bytes:
    return _RATE_SPEC.pack(0, _ETHERNET, 0, 0, 0, min(byte_s, _RATE_MAX))
