"""The entries of the payment programs' maps, as payer.h lays them out.

Decides: how an uplink, a command and a question are written for the kernel, and how a flow and an event are read.
Refuses to know: descriptors, and when anything is said. Source: dataplane/ebpf/payer.h.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from billpay.packet import FlowKey

FLOWS_MAX: Final = 131_072
UPLINKS_MAX: Final = 64
PEERS_MAX: Final = 65_536
LISTED_MAX: Final = 16_384
CHANGED_MAX: Final = 256
OBSERVED_MAX: Final = 8
SLOTS_MAX: Final = 7

COUNTERS: Final = (
    "malformed_truncated",
    "malformed_length",
    "malformed_overrun",
    "malformed_oad_count",
    "malformed_duplicate",
    "malformed_amount_over_ceiling",
    "malformed_on_fragment",
    "malformed_shared",
    "cannot_carry_not_ip",
    "cannot_carry_fragment",
    "cannot_carry_ah",
    "cannot_carry_hop_by_hop_present",
    "cannot_carry_already_present",
    "cannot_carry_options_full",
    "cannot_carry_too_big",
    "share_nanodollars",
    "refunded_nanodollars",
    "returned_nanodollars",
    "unreturned_nanodollars",
    "unpaid_not_by_gateway",
    "unpaid_grant_not_valid",
    "unpaid_over_grant",
    "unpaid_over_rate",
    "unpaid_reader_silent",
    "flows_full_packets",
    "passed_vlan",
    "passed_unreadable",
    "passed_unchanged",
)
"""Names of `enum payer_counter`, in its order."""

LISTED_BYTES: Final = 56
NUMBER: Final = struct.Struct("=I")
_KEY: Final = struct.Struct("=16s16s2s2sBB2x")
_PEER: Final = struct.Struct("=16sI")
_SETTINGS: Final = struct.Struct(f"=QQQIII{len(COUNTERS)}I4x")
_UPLINK: Final = struct.Struct("=IHBxIIBBBBIIII")
_COMMAND: Final = struct.Struct("=40sIIQ16sQQQQQQIII28s")
_QUESTION: Final = struct.Struct("=QI4x")
_LISTED: Final = struct.Struct("=40sQII")
_CHANGED: Final = struct.Struct("=40sQI4x")
_PROGRESS: Final = struct.Struct("=QQ")
_FLOW_HEAD: Final = struct.Struct("=IIQIBBBBIIQQQQ")
_ALLOWANCE: Final = struct.Struct("=QQQQQQQIBB6sIII")
_SLOTS: Final = struct.Struct("=28sI")
_FLOW_TAIL: Final = struct.Struct("=16s16s11QII")
_OBSERVED: Final = struct.Struct("=I28sQQQ")
_EVENT: Final = struct.Struct("=I4x40s")
_PROBE: Final = struct.Struct("=QII28sI")

SETTINGS_BYTES: Final = _SETTINGS.size
FLOW_BYTES: Final = (
    _FLOW_HEAD.size + 2 * _ALLOWANCE.size + _SLOTS.size + _FLOW_TAIL.size + OBSERVED_MAX * _OBSERVED.size
)
ETHERNET: Final = bytes(14)
"""In front of what `payer_obey` and `payer_list` read: they are given packets."""


class CommandKind(IntEnum):
    FIND, PAY, RETURN, DROP, FORGET = range(5)


class Outcome(IntEnum):
    OBEYED, NO_ROOM, NOT_THERE = range(3)


class EventKind(IntEnum):
    FLOW_SEEN, RECEIPT_SEEN, PROBE_SEEN = range(3)


@dataclass(slots=True)
class Settings:
    """`struct settings`: what the reader tells all packets."""

    counters: tuple[int, ...] = (0,) * len(COUNTERS)
    peers: int = 0
    now_ns: int = 0
    until_ns: int = 0
    unix_s: int = 0
    epoch: int = 0
    turn: int = 1

    def pack(self) -> bytes:
        return _SETTINGS.pack(
            self.now_ns,
            self.until_ns,
            max(0, self.unix_s),
            self.epoch & 0xFFFF_FFFF,
            self.turn,
            self.peers,
            *self.counters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """`struct uplink`; what it received and sent are numbers of counters."""

    number: int
    header_bytes: int
    grows_udp: bool
    gateway_as: int
    mtu: int
    agreed: bool
    implied: bool
    clamp_v4: int
    clamp_v6: int
    received: int
    received_packets: int
    sent: int
    sent_packets: int

    def pack(self) -> bytes:
        return _UPLINK.pack(
            self.number,
            self.header_bytes,
            self.grows_udp,
            self.gateway_as,
            self.mtu,
            self.agreed,
            self.implied,
            self.clamp_v4,
            self.clamp_v6,
            self.received,
            self.received_packets,
            self.sent,
            self.sent_packets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`struct command`."""

    kind: CommandKind
    flow: FlowKey
    now_ns: int = 0
    is_new: bool = False
    key: bytes = bytes(16)
    cap_nanodollars: int = 0
    rate_nanodollars_per_s: int = 0
    burst: int = 0
    not_before_unix_s: int = 0
    expires_unix_s: int = 0
    share: int = 0
    spent: int = 0
    amount: int = 0
    slots: bytes = b""

    def pack(self) -> bytes:
        """As the program is given it."""
        return ETHERNET + _COMMAND.pack(
            pack_key(self.flow),
            self.kind,
            self.is_new,
            self.now_ns,
            self.key,
            self.cap_nanodollars,
            self.rate_nanodollars_per_s,
            self.burst,
            self.not_before_unix_s,
            self.expires_unix_s,
            self.share,
            self.spent,
            self.amount,
            len(self.slots) // 4,
            self.slots,
        )


class Listed(NamedTuple):
    """`struct listed`."""

    key: bytes
    order: int
    turn: int
    concerns_money: bool


class Sighting(NamedTuple):
    """`struct observed`, of one that is not free."""

    words: bytes
    packets: int
    received: int
    lowest_amount: int
    path_length: int


class Progress(NamedTuple):
    """`struct progress`."""

    order: int
    oldest_ns: int


class Changed(NamedTuple):
    """`struct changed`."""

    key: bytes
    order: int
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowState:
    """What is read of `struct flow`. `observed`: the latest last."""

    last_ns: int
    uplink: int
    out_packets: int
    out_bytes: int
    out_paid_packets: int
    in_packets: int
    in_bytes: int
    in_paid_packets: int
    in_ce_packets: int
    received: int
    refunded: int
    returned: int
    pool: int
    observed: tuple[Sighting, ...] = field(default=())


class Seen(NamedTuple):
    """`struct event`, with what a probe has besides."""

    kind: EventKind
    flow: FlowKey
    arrived_ns: int = 0
    remaining: int = 0
    words: bytes = b""
    payload: bytes = b""


def pack_key(key: FlowKey) -> bytes:
    source, destination, protocol, source_port, destination_port = key
    family = 4 if len(source) == 4 else 6
    return _KEY.pack(source, destination, source_port.to_bytes(2), destination_port.to_bytes(2), protocol, family)


def read_key(raw: bytes) -> FlowKey:
    source, destination, source_port, destination_port, protocol, family = _KEY.unpack(raw)
    size = 4 if family == 4 else 16
    ports = int.from_bytes(source_port), int.from_bytes(destination_port)
    return FlowKey(source[:size], destination[:size], protocol, *ports)


def pack_peer(address: bytes) -> bytes:
    """`address`: 4 or 16 bytes."""
    return _PEER.pack(address, 4 if len(address) == 4 else 6)


def pack_question(*, since_turn: int = 0, silent_since_ns: int = 0) -> bytes:
    """For `payer_list` or `payer_sweep`, as they are given it."""
    return ETHERNET + _QUESTION.pack(silent_since_ns & (1 << 64) - 1, since_turn)


def read_listed(memory: bytes) -> list[Listed]:
    """Entries one after the other."""
    return [Listed(key, order, turn, bool(money)) for key, order, turn, money in _LISTED.iter_unpack(memory)]


def read_progress(memory: mmap.mmap) -> Progress:
    return Progress(*_PROGRESS.unpack_from(memory))


def read_changed(memory: mmap.mmap, order: int) -> Changed | None:
    """What was noted at this order; None: it is not written yet, or no more."""
    at = order % CHANGED_MAX * _CHANGED.size
    if _CHANGED.unpack_from(memory, at)[1] != order:
        return None
    found = Changed(*_CHANGED.unpack_from(memory, at))  # whole, if its order is the same still
    return found if found.order == order else None


def read_flow(raw: bytes) -> FlowState:
    _, _, last_ns, _, _, _, uplink, _, _, _, out_packets, out_bytes, out_paid, pool = _FLOW_HEAD.unpack_from(raw)
    at = _FLOW_HEAD.size + 2 * _ALLOWANCE.size + _SLOTS.size
    counts = _FLOW_TAIL.unpack_from(raw, at)[5:]
    in_packets, in_bytes, in_paid, in_ce, received, refunded, returned, _, _, _ = counts
    at += _FLOW_TAIL.size
    return FlowState(
        last_ns=last_ns,
        uplink=uplink,
        out_packets=out_packets,
        out_bytes=out_bytes,
        out_paid_packets=out_paid,
        in_packets=in_packets,
        in_bytes=in_bytes,
        in_paid_packets=in_paid,
        in_ce_packets=in_ce,
        received=received,
        refunded=refunded,
        returned=returned,
        pool=pool,
        observed=_read_observed(raw[at:]) if in_paid else (),
    )


def _read_observed(raw: bytes) -> tuple[Sighting, ...]:
    by_time = sorted((each for each in _OBSERVED.iter_unpack(raw) if each[4]), key=lambda each: each[4])
    return tuple(
        Sighting(words[: 4 * (base & 15)], packets, received, base >> 8, base >> 4 & 15)
        for base, words, packets, received, _ in by_time
    )


def read_event(raw: bytes) -> Seen:
    number, key = _EVENT.unpack_from(raw)
    kind, flow = EventKind(number), read_key(key)
    if kind is not EventKind.PROBE_SEEN:
        return Seen(kind, flow)
    arrived_ns, remaining, slots, words, length = _PROBE.unpack_from(raw, _EVENT.size)
    at = _EVENT.size + _PROBE.size
    return Seen(kind, flow, arrived_ns, remaining, words[: 4 * slots], raw[at : at + length])
