"""A shaping plan as one HTB tree per link and direction: numbers only.

Decides: each class's guaranteed rate, ceiling, burst, priority, quantum and queue, and what a packet counts.
Refuses to know: how a tree gets into the kernel, and who chooses a packet's class (skb->priority = its classid).
Source: tc-htb(8), tc-stab(8); net/sched/sch_htb.c for what wins: a class below its rate before one that borrows,
among equals the lower priority number, among those the quantum.

A class that limits each flow is an inner node with FLOW_LEAVES leaves, one for each flow slot.
Where the link's rate is known, what the minimums leave is shared out: a fiftieth is the control class's first call (it
goes first in it, and what it does not use is borrowed by the others), the rest is divided by weight. Where it is not
known there is nothing to share out: beyond its minimum, every class borrows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from dataplane.shaping.plan import CONTROL, ShapedLink, ShapingPlan, TrafficClass

HANDLE: Final = 0x7414
LINK_MINOR: Final = 1
"""The class above all others, with the link's rate."""

LEAF_MINOR: Final = 0x10
FLOW_LEAF_MINOR: Final = 0x1000
FLOW_LEAVES: Final = 16

UNKNOWN_LINK_BIT_S: Final = 100_000_000_000
TINY_BIT_S: Final = 800
"""HTB wants a rate for every class; 64 of these fit into the slowest link that a plan can name."""

CONTROL_PART: Final = 50
"""Control traffic is little. What it is promised and does not use is borrowed, and borrowers are told apart by their
quantums only, which a TCP with two packets in its queue does not use up: the less is borrowed, the better weights hold.
"""

CONTROL_LEAST_BIT_S: Final = 64_000
"""But half of the slowest link at most."""

FLOOR_PART: Final = 100
"""Every class has this part of a known link at least. HTB lets a class that owes nothing send its packet whatever that
costs, and keeps the debt when the class is changed: at a tiny rate one packet is a debt of many seconds, for which a
class that has become worth more would get nothing by it. So a packet of 1 ms of the link is 0.1 s of debt.
"""

IDLE_PART: Final = 8
"""Of the link, what all idle classes without a sufficient minimum keep together, by weight: who begins to send after a
silence would otherwise wait for what is borrowed, up to a second, until its class is seen to be active."""

ETHERNET_HEADER_BYTES: Final = 14
_LINK_HEADERS_BYTES: Final = 22  # with two VLAN tags
_BURST_US: Final = 4000  # longer than a timer is ever late, and 0.4 % of a second
_QUEUE_MS: Final = 100
_QUEUE_MIN_PACKETS: Final = 64
_QUEUE_MAX_BYTES: Final = 4_000_000
_LUMP_MS: Final = 1
"""A packet of segments goes as one, and the modem's queue gets it as one: a call behind it waits so long. It also makes
turns uneven: a TCP keeps two packets in its queue, and a quantum of four cannot be used up with two."""

_OFFLOADED_BYTES: Final = 1 << 16
_QUANTUM_MAX_BYTES: Final = 60_000
_QUANTUM_US: Final = 2000
_ACTIVE_FLOWS: Final = 4  # how many of a class's flows send at a time, for want of a better guess
_TCP_HEADERS_BYTES: Final = 52  # IPv4 and TCP with timestamps
_SIZE_MAX: Final = 0xFFFF


class Direction(StrEnum):
    EGRESS = "egress"
    INGRESS = "ingress"


@dataclass(frozen=True, slots=True, kw_only=True)
class HtbClass:
    """`parent` is a minor number, 0 for the qdisc itself. queue_bytes: the limit of a leaf's queue, None for a node.

    longest_packet_bytes: a longer one, made by segmentation offload, is segmented before it is sent; 0: none is.
    """

    minor: int
    parent: int
    rate_bit_s: int
    ceil_bit_s: int
    burst_bytes: int
    cburst_bytes: int
    prio: int
    quantum_bytes: int
    queue_bytes: int | None = None
    longest_packet_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HtbTree:
    """`classes`: each after its parent. What no class is chosen for goes out directly, unshaped."""

    classes: tuple[HtbClass, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTable:
    """What a packet counts, by its length: `sizes[length >> cell_log] << size_log`, as tc-stab(8) has it."""

    cell_log: int
    size_log: int
    sizes: tuple[int, ...]


def leaf_minor(index: int) -> int:
    """Of the class with that index in the plan; a node if the class limits each flow."""
    return LEAF_MINOR + index


def flow_leaf_minor(index: int, n: int) -> int:
    return FLOW_LEAF_MINOR + index * FLOW_LEAVES + n


def parent_minor(minor: int) -> int:
    """Of the class above a flow's leaf; of any other, the link's."""
    if minor < FLOW_LEAF_MINOR:
        return LINK_MINOR
    return leaf_minor((minor - FLOW_LEAF_MINOR) // FLOW_LEAVES)


def needs_tree(plan: ShapingPlan, link: ShapedLink, direction: Direction) -> bool:
    """Whether the plan limits or guarantees anything there; if not, the interface is left as it is."""
    rate = link.egress_bit_s if direction is Direction.EGRESS else link.ingress_bit_s
    if rate or any(each.cap_bit_s or each.flow_cap_bit_s for each in plan.classes):
        return True
    # Without a rate of ours the link itself holds packets back, but only what leaves.
    return direction is Direction.EGRESS and any(each.minimum_bit_s for each in plan.classes)


def build_tree(
    plan: ShapingPlan,
    link: ShapedLink,
    direction: Direction,
    *,
    mtu: int = 1500,
    idle: frozenset[int] = frozenset(),
    reserved_bit_s: int = 0,
) -> HtbTree:
    """idle: classes that nothing was seen of lately; they have their minimums, and no part by their weights.

    reserved: kept of a known link for flows with classes of their own (`pacing`).
    """
    known = link.egress_bit_s if direction is Direction.EGRESS else link.ingress_bit_s
    link_bit_s = _whole_bytes(known or UNKNOWN_LINK_BIT_S)
    shared_bit_s = link_bit_s - _whole_bytes(reserved_bit_s if known is not None else 0)
    rates = share(plan.classes, shared_bit_s, is_known=known is not None, idle=idle)
    quantums = _quantums(plan.classes, link_bit_s, mtu)
    classes = [_node(LINK_MINOR, 0, link_bit_s, link_bit_s, 0, _QUANTUM_MAX_BYTES)]
    for index, (each, rate, quantum) in enumerate(zip(plan.classes, rates, quantums, strict=True)):
        ceil = _whole_bytes(min(each.cap_bit_s or link_bit_s, link_bit_s))
        prio = 0 if index == CONTROL else 1
        if each.flow_cap_bit_s is None:
            classes.append(_leaf(_node(leaf_minor(index), LINK_MINOR, rate, ceil, prio, quantum), mtu))
            continue
        classes.append(_node(leaf_minor(index), LINK_MINOR, rate, ceil, prio, quantum))
        flow_ceil = _whole_bytes(min(each.flow_cap_bit_s, ceil))
        flow_rate = min(_whole_bytes(rate // FLOW_LEAVES), flow_ceil)
        flow_quantum = max(quantum // _ACTIVE_FLOWS, _quantum_min(mtu))
        for n in range(FLOW_LEAVES):
            node = _node(flow_leaf_minor(index, n), leaf_minor(index), flow_rate, flow_ceil, prio, flow_quantum)
            classes.append(_leaf(node, mtu))
    return HtbTree(classes=tuple(classes))


def share(
    classes: Sequence[TrafficClass], link_bit_s: int, *, is_known: bool, idle: frozenset[int] = frozenset()
) -> list[int]:
    """The guaranteed rates, together at most the link's rate; none above its class's cap."""
    ceils = [_whole_bytes(min(each.cap_bit_s or link_bit_s, link_bit_s)) for each in classes]
    room = link_bit_s - TINY_BIT_S * len(classes)
    wanted = [max(0, min(each.minimum_bit_s, ceil) - TINY_BIT_S) for each, ceil in zip(classes, ceils, strict=True)]
    if is_known:
        _keep_for_idle(wanted, [each.weight for each in classes], ceils, idle - {CONTROL}, room // IDLE_PART)
    promised = sum(wanted)
    if promised > room:
        wanted = [each * room // promised for each in wanted]
    rates = [TINY_BIT_S + each for each in wanted]
    if is_known:
        rest = link_bit_s - sum(rates)
        first = min(max(rest // CONTROL_PART, min(CONTROL_LEAST_BIT_S, rest // 2)), ceils[CONTROL] - rates[CONTROL])
        rates[CONTROL] += first
        others = [index for index in range(len(classes)) if index != CONTROL]
        others = [index for index in others if index not in idle] or others
        floor = link_bit_s // FLOOR_PART
        parts = _divide(
            rest - first,
            [classes[index].weight for index in others],
            [ceils[index] - rates[index] for index in others],
            [min(floor, ceils[index]) - rates[index] for index in others],
        )
        for index, part in zip(others, parts, strict=True):
            rates[index] += part
        for index in idle - set(others) - {CONTROL}:  # they send nothing, so this is nobody's until they wake up
            rates[index] = max(rates[index], min(floor, ceils[index]))
    return [_whole_bytes(each) for each in rates]


def _keep_for_idle(
    wanted: list[int], weights: Sequence[int], ceils: Sequence[int], idle: frozenset[int], amount: int
) -> None:
    """Raises what idle classes are promised to their parts by weight of `amount`, where it is less."""
    total = sum(weights[index] for index in range(len(weights)) if index != CONTROL)
    for index in idle:
        part = amount * weights[index] // total
        wanted[index] = max(wanted[index], min(part, ceils[index] - TINY_BIT_S))


def _divide(amount: int, weights: Sequence[int], limits: Sequence[int], floors: Sequence[int]) -> list[int]:
    """In proportion to the weights; what one cannot take because of its limit, the others share.

    `floors`: what one gets at least, as long as there is enough for all of them; those above it give it.
    """
    parts = _by_weight(amount, weights, limits)
    raised: dict[int, int] = {}
    while True:
        low = [index for index, part in enumerate(parts) if index not in raised and part < floors[index]]
        raised |= {index: floors[index] for index in low}
        left = amount - sum(raised.values())
        if not low or left < 0:
            return parts
        rest = [index for index in range(len(weights)) if index not in raised]
        shared = _by_weight(left, [weights[index] for index in rest], [limits[index] for index in rest])
        parts = [raised.get(index, 0) for index in range(len(weights))]
        for index, part in zip(rest, shared, strict=True):
            parts[index] = part


def _by_weight(amount: int, weights: Sequence[int], limits: Sequence[int]) -> list[int]:
    parts = [0] * len(weights)
    open_ = set(range(len(weights)))
    while open_ and amount > 0:
        total = sum(weights[each] for each in open_)
        full = {each for each in open_ if limits[each] * total <= amount * weights[each]}
        if not full:
            for each in open_:
                parts[each] = amount * weights[each] // total
            break
        for each in full:
            parts[each] = limits[each]
            amount -= limits[each]
        open_ -= full
    return parts


def _quantums(classes: Sequence[TrafficClass], link_bit_s: int, mtu: int) -> list[int]:
    """In proportion to the weights, as small as the smallest packet turn allows: a turn is a wait for the others."""
    weights = [each.weight for index, each in enumerate(classes) if index != CONTROL]
    least = _quantum_min(mtu)
    most = max(least * max(weights) // min(weights), link_bit_s * _QUANTUM_US // 8_000_000)
    most = min(most, _QUANTUM_MAX_BYTES)
    return [
        most if index == CONTROL else max(least, most * each.weight // max(weights))
        for index, each in enumerate(classes)
    ]


def _quantum_min(mtu: int) -> int:
    return min(mtu + ETHERNET_HEADER_BYTES, _QUANTUM_MAX_BYTES)


def _node(minor: int, parent: int, rate: int, ceil: int, prio: int, quantum: int) -> HtbClass:
    return HtbClass(
        minor=minor,
        parent=parent,
        rate_bit_s=rate,
        ceil_bit_s=ceil,
        burst_bytes=_burst(rate),
        cburst_bytes=_burst(ceil),
        prio=prio,
        quantum_bytes=quantum,
    )


def _leaf(node: HtbClass, mtu: int) -> HtbClass:
    """In bytes, since a packet may be one of 1500 or of 64000."""
    queue = node.ceil_bit_s * _QUEUE_MS // 8000
    lump = node.ceil_bit_s * _LUMP_MS // 8000
    return replace(
        node,
        queue_bytes=max(_QUEUE_MIN_PACKETS * mtu, min(queue, _QUEUE_MAX_BYTES)),
        longest_packet_bytes=max(lump, mtu + _LINK_HEADERS_BYTES) if lump < _OFFLOADED_BYTES else 0,
    )


def _burst(rate_bit_s: int) -> int:
    """No packet is too big for it: HTB sends one as long as it owes nothing, and lets the class owe the rest."""
    return max(1, rate_bit_s * _BURST_US // 8_000_000)


def _whole_bytes(rate_bit_s: int) -> int:
    return rate_bit_s - rate_bit_s % 8


# -- what a packet counts --------------------------------------------------------------------------------------------


def build_size_table(mtu: int, header_bytes: int) -> SizeTable:
    """Bytes at the IP layer, `header_bytes` being what a packet carries below it at the qdisc.

    A packet longer than the MTU is one that becomes segments later; they count with their headers. Their number and
    headers are estimated, as for full segments of TCP over IPv4. In steps of two bytes: a table of every length would
    be too long for one attribute.
    """
    payload = max(1, mtu - _TCP_HEADERS_BYTES)
    sizes = []
    for length in range(0, 64_000, 2):
        ip = length - header_bytes
        segments = -(-(ip - _TCP_HEADERS_BYTES) // payload) if ip > mtu else 1
        sizes.append(max(1, min((ip + (segments - 1) * _TCP_HEADERS_BYTES) // 2, _SIZE_MAX)))
    return SizeTable(cell_log=1, size_log=1, sizes=tuple(sizes))
