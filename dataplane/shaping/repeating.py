"""How a traffic-control object that the kernel told of is asked for again, and when two of them are the same.

Decides: which kinds can be asked for again at all, what of a message is only statistics, what a request says otherwise
than a dump. Refuses to know: sockets and interfaces.
Source: the dump and change functions of net/sched/sch_htb.c, sch_tbf.c, sch_netem.c, cls_u32.c, cls_bpf.c,
cls_matchall.c, act_api.c. A kind that is not listed here may leave something out of its dumps, and is refused.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final, NamedTuple

from dataplane.shaping import rtnetlink as rt
from dataplane.shaping.rtnetlink import Attributes, TcMessage

KINDS_WITH_CLASSES: Final = frozenset({"htb", "hfsc", "drr"})
"""Their classes are the user's; other qdiscs bring theirs with them."""

_QDISCS: Final = KINDS_WITH_CLASSES | {
    "pfifo", "bfifo", "pfifo_head_drop", "pfifo_fast", "noqueue", "tbf", "sfq", "prio", "mq", "codel", "fq_codel", "fq",
    "cake", "netem",
}  # fmt: skip
_NOUNS: Final = {
    rt.RTM_NEWQDISC: "qdisc",
    rt.RTM_NEWTCLASS: "class",
    rt.RTM_NEWTFILTER: "filter",
    rt.RTM_NEWCHAIN: "chain",
}

_TCA_STATS: Final = 3
_TCA_XSTATS: Final = 4
_TCA_FCNT: Final = 6
_TCA_PAD: Final = 9
_TCA_INGRESS_BLOCK: Final = 13
_TCA_EGRESS_BLOCK: Final = 14
_STATISTICS: Final = {_TCA_STATS, _TCA_XSTATS, _TCA_FCNT, rt.TCA_STATS2, _TCA_PAD}
_ASKED: Final = {
    rt.RTM_NEWQDISC: {rt.TCA_KIND, rt.TCA_OPTIONS, rt.TCA_STAB, _TCA_INGRESS_BLOCK, _TCA_EGRESS_BLOCK},
    rt.RTM_NEWTCLASS: {rt.TCA_KIND, rt.TCA_OPTIONS},
    rt.RTM_NEWTFILTER: {rt.TCA_KIND, rt.TCA_OPTIONS, rt.TCA_CHAIN},
}
_STATS_RATE_EST: Final = 2

_TCA_HTB_INIT: Final = 2
_TCA_HTB_DIRECT_QLEN: Final = 5
_HTB_VERSION: Final = 3
_HTB_RATE_TO_QUANTUM: Final = 10
_HTB_INIT: Final = struct.Struct("=IIIII")  # version, rate2quantum, default class, debug, packets that went directly

_TCA_TBF_PARMS: Final = 1
_TCA_TBF_RATE64: Final = 4
_TCA_TBF_PRATE64: Final = 5
_TCA_TBF_BURST: Final = 6
_TCA_TBF_PBURST: Final = 7
_RATE: Final = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, smallest packet, bytes per second
_TBF: Final = struct.Struct("=12s12sIII")  # rate, peak rate, limit, burst, MTU; the last two as ticks at these rates
_TICK_NS: Final = 64

_NETEM: Final = struct.Struct("=IIIIII")  # latency, limit, loss, gap, duplicate, jitter

_TCA_BPF_OPS: Final = 5
_NOT_IN_HARDWARE: Final = 8
_TCA_ACT_KIND: Final = 1
_TCA_ACT_OPTIONS: Final = 2
_TCA_ACT_COOKIE: Final = 6
_TCA_ACT_FLAGS: Final = 7
_TCA_ACT_HW_STATS: Final = 8
_ACTION_TIMES: Final = 1
_ACTION_PARAMETERS: Final = 2
_ACTION_COUNTS: Final = struct.Struct("=ii")  # references and bindings, after index, capabilities and verdict
_ACTION_COUNTS_AT: Final = 12
_ACTIONS: Final = frozenset({"mirred", "gact"})
"""Actions whose options are numbered as above."""


class _Filter(NamedTuple):
    """Numbers of a kind's options."""

    actions: int
    flags: int
    counters: int


_FILTERS: Final = {
    "u32": _Filter(actions=7, flags=11, counters=9),
    "bpf": _Filter(actions=1, flags=9, counters=0),
    "matchall": _Filter(actions=2, flags=3, counters=4),
    "fw": _Filter(actions=4, flags=0, counters=0),
}


def reason_against(message: TcMessage) -> str:
    """Why it cannot be asked for again; empty when it can."""
    what = f"{_NOUNS[message.type]} {message.kind} {rt.show_handle(message.handle)}"
    if message.type == rt.RTM_NEWQDISC:
        if message.kind not in _QDISCS:
            return f"{what} is of a kind that we do not know"
        if message.kind == "netem" and message.options and _NETEM.unpack_from(message.options)[5]:
            return f"{what} has a jitter whose distribution the kernel does not tell"
    if message.type == rt.RTM_NEWTFILTER:
        return _reason_against_filter(message, what)
    statistics = rt.unpack(rt.find(message.attributes, rt.TCA_STATS2) or b"")
    if rt.find(statistics, _STATS_RATE_EST) is not None:
        return f"{what} has a rate estimator, which the kernel does not tell"
    return ""


def _reason_against_filter(message: TcMessage, what: str) -> str:
    known = _FILTERS.get(message.kind)
    if known is None:
        return f"{what} is of a kind that we do not know"
    options = rt.unpack(message.options or b"")
    if message.kind == "bpf" and message.handle and rt.find(options, _TCA_BPF_OPS) is None:
        return f"{what} runs an eBPF program, which is gone when the filter is"
    for _, action in rt.unpack(rt.find(options, known.actions) or b""):
        kind = (rt.find(rt.unpack(action), _TCA_ACT_KIND) or b"").rstrip(b"\0").decode("ascii", "replace")
        if kind not in _ACTIONS:
            return f"{what} has an action {kind}, which we do not know"
    return ""


def new_htb(direct_packets: int) -> bytes:
    """The options of an HTB qdisc that lets pass what is of no class."""
    init = _HTB_INIT.pack(_HTB_VERSION, _HTB_RATE_TO_QUANTUM, 0, 0, 0)
    return rt.pack([(_TCA_HTB_INIT, init), (_TCA_HTB_DIRECT_QLEN, struct.pack("=I", direct_packets))])


# -- asking again ----------------------------------------------------------------------------------------------------


def prepare(message: TcMessage, interface_index: int) -> TcMessage:
    """The request that makes such an object on that interface."""
    asked = _ASKED[message.type]
    attributes = tuple(
        (kind, _ask_options(message, data) if kind == rt.TCA_OPTIONS else data)
        for kind, data in message.attributes
        if kind in asked
    )
    info = message.info if message.type == rt.RTM_NEWTFILTER else 0
    return replace(message, interface_index=interface_index, info=info, attributes=attributes)


def _ask_options(message: TcMessage, data: bytes) -> bytes:
    if message.type == rt.RTM_NEWTFILTER:
        return rt.pack(_ask_filter(_FILTERS[message.kind], rt.unpack(data)))
    if message.type == rt.RTM_NEWQDISC and message.kind == "htb":
        return rt.pack((kind, _ask_htb(each) if kind == _TCA_HTB_INIT else each) for kind, each in rt.unpack(data))
    if message.type == rt.RTM_NEWQDISC and message.kind == "tbf":
        return rt.pack(_ask_tbf(rt.unpack(data)))
    return data


def _ask_htb(data: bytes) -> bytes:
    """A dump tells the version with its minor number, a request must not."""
    version, *rest = _HTB_INIT.unpack(data)
    return _HTB_INIT.pack(version >> 16, *rest)


def _ask_tbf(options: Attributes) -> Attributes:
    """The dump tells the time that a burst takes, cut to ticks; asked for so, it might be a byte too small."""
    rate, peak, _, burst, mtu = _TBF.unpack(rt.find(options, _TCA_TBF_PARMS) or bytes(_TBF.size))
    asked = list(options)
    for kind, spec, wide, ticks in (
        (_TCA_TBF_BURST, rate, _TCA_TBF_RATE64, burst),
        (_TCA_TBF_PBURST, peak, _TCA_TBF_PRATE64, mtu),
    ):
        _, _, overhead, _, _, bytes_s = _RATE.unpack(spec)
        told = rt.find(options, wide)
        bytes_s = int.from_bytes(told, "little") if told else bytes_s
        if bytes_s:
            most = ((ticks + 1) * _TICK_NS - 1) * bytes_s // 10**9 - overhead
            asked.append((kind, struct.pack("=I", max(1, min(most, 0xFFFF_FFFF)))))
    return asked


def _ask_filter(known: _Filter, options: Attributes) -> Attributes:
    asked: Attributes = []
    for kind, data in options:
        if kind == known.actions:
            asked.append((kind, rt.pack((place, _ask_action(action)) for place, action in rt.unpack(data))))
        elif known.flags and kind == known.flags:
            asked.append((kind, struct.pack("=I", struct.unpack("=I", data)[0] & ~_NOT_IN_HARDWARE)))
        elif not known.counters or kind != known.counters:
            asked.append((kind, data))
    return asked


def _ask_action(data: bytes) -> bytes:
    kept = (_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_ACT_COOKIE, _TCA_ACT_FLAGS, _TCA_ACT_HW_STATS)
    return rt.pack(
        (kind, _action_options(each) if kind == _TCA_ACT_OPTIONS else each)
        for kind, each in rt.unpack(data)
        if kind in kept
    )


def _action_options(data: bytes) -> bytes:
    """Without when it was used and by how many."""
    kept: Attributes = []
    for kind, each in rt.unpack(data):
        if kind == _ACTION_PARAMETERS:
            end = _ACTION_COUNTS_AT + _ACTION_COUNTS.size
            kept.append((kind, each[:_ACTION_COUNTS_AT] + bytes(_ACTION_COUNTS.size) + each[end:]))
        elif kind != _ACTION_TIMES:
            kept.append((kind, each))
    return rt.pack(kept)


# -- comparing -------------------------------------------------------------------------------------------------------


def normalise(message: TcMessage) -> tuple[str, str, str, str, int, frozenset[tuple[int, bytes]]]:
    """Noun, kind, handle, parent, the rest; equal for objects that differ in interface and statistics only."""
    info = 0 if message.type == rt.RTM_NEWQDISC else message.info  # there it counts references
    attributes = frozenset(
        (kind, _plain_options(message, data) if kind == rt.TCA_OPTIONS else data)
        for kind, data in message.attributes
        if kind not in _STATISTICS
    )
    handle, parent = rt.show_handle(message.handle), rt.show_handle(message.parent)
    return _NOUNS[message.type], message.kind, handle, parent, info, attributes


def _plain_options(message: TcMessage, data: bytes) -> bytes:
    if message.type == rt.RTM_NEWTFILTER and message.kind in _FILTERS:
        known = _FILTERS[message.kind]
        return rt.pack(
            (kind, _plain_actions(each) if kind == known.actions else each)
            for kind, each in rt.unpack(data)
            if not known.counters or kind != known.counters
        )
    if message.type == rt.RTM_NEWQDISC and message.kind == "htb":
        return rt.pack(
            (kind, each[:-4] + bytes(4) if kind == _TCA_HTB_INIT else each) for kind, each in rt.unpack(data)
        )
    return data


def _plain_actions(data: bytes) -> bytes:
    return rt.pack((place, _ask_action(action)) for place, action in rt.unpack(data))
