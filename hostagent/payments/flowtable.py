"""What the packet core remembers of each flow. Pure, bounded: idle flows are forgotten, the oldest first when it is
full.

One record stands for one direction of a conversation, as this host sends it or receives it.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address
from itertools import islice

from billpay.grants import GrantGate
from billpay.messages import FlowSelector, Grant
from billpay.packet import FlowKey
from hostagent.payments.commands import FlowReport, Oads, Observed

MAX_FLOWS = 12_288
IDLE_NS = 120_000_000_000
MAX_OBSERVED = 8
REPORTS_AT_ONCE = 150
"""An answer of so many, each with its observations, fits into one message."""

FEW, RECENT = 8, 64
"""Between so many packets of a flow say how many leave for each that brings a payment."""

GATHERED = 64
"""What gathered goes back by this part of it in each packet, besides its share of what arrived last."""

SPARED_AT_MOST = 256
"""So many flows with money at the front are passed over before one of them is forgotten for a new flow."""


class Allowance:
    """A grant that the flow's packets may spend from; `spent` is the index of its crash-proof counter."""

    __slots__ = ("gate", "key", "open", "spent")

    def __init__(self, grant: Grant, spent: int, *, now_ns: int) -> None:
        self.gate = GrantGate(grant, now_ns=now_ns)
        self.key = bytes.fromhex(grant.key)
        self.spent = spent
        self.open = True

    @property
    def grant(self) -> Grant:
        return self.gate.grant

    def is_valid(self, unix_s: int) -> bool:
        grant = self.gate.grant
        return grant.not_before_unix_s <= unix_s < grant.expires_unix_s


class FlowRecord:
    """Counts, and how the flow pays (`amount`, `slots`, `spending`) or returns (`pool`, `share`, `ceiling`,
    `returning`).
    """

    __slots__ = (
        "amount",
        "arrivals",
        "cached_epoch",
        "cached_header",
        "ceiling",
        "in_bytes",
        "in_ce_packets",
        "in_packets",
        "in_paid_packets",
        "last_ns",
        "leavings",
        "observed",
        "out_bytes",
        "out_packets",
        "out_paid_packets",
        "pays",
        "pool",
        "prefix",
        "prefix_epoch",
        "received",
        "refunded",
        "returned",
        "returning",
        "selector",
        "share",
        "slots",
        "spending",
        "turn",
        "unit",
        "uplink",
    )

    def __init__(self, selector: FlowSelector) -> None:
        self.selector = selector
        self.turn = 0
        self.uplink = ""
        self.last_ns = 0
        self.out_packets = self.out_bytes = self.out_paid_packets = 0
        self.in_packets = self.in_bytes = self.in_paid_packets = self.in_ce_packets = 0
        self.received = self.refunded = self.returned = 0
        self.observed: OrderedDict[bytes, list[int]] = OrderedDict()
        self.pays = False  # we are its payer: what comes back on the opposite flow is ours
        self.amount = 0
        self.slots = b""
        self.spending: Allowance | None = None
        self.pool = 0
        self.unit = 0  # what the last payment brought that is to go back
        self.arrivals = 0  # paid packets of late, and …
        self.leavings = 0  # … packets of ours for them
        self.share = 0
        self.ceiling = 0
        self.returning: Allowance | None = None
        self.cached_header = b""
        self.cached_epoch = -1
        self.prefix = b""
        self.prefix_epoch = -1

    @property
    def concerns_money(self) -> bool:
        return self.spending is not None or self.returning is not None or bool(self.received or self.pool)

    def put_in(self, due: int, packets: int) -> None:
        """A payment arrived with each of the packets, and so much of it is to go back."""
        self.pool += due * packets
        self.unit = due
        self.arrivals += packets

    def leave(self, packets: int) -> None:
        """Packets leave that might take some of it back."""
        self.leavings += packets
        while self.leavings >= RECENT:
            self.leavings >>= 1
            self.arrivals >>= 1

    def part(self, *, is_stream: bool) -> int:
        """What one packet takes back: all that is in hand where replies answer requests one by one.

        In a stream, those that leave share alike what arrives for them: a download's content is many packets for each
        paid acknowledgement, and packets of one flow that pay unlike overtake each other where the network is full.
        What has gathered besides goes by and by.
        """
        more_leave = self.leavings >= FEW and self.leavings * 4 > self.arrivals * 5
        if not (is_stream or more_leave):
            return self.pool
        part = -(-self.unit * self.arrivals // self.leavings) if more_leave else self.unit
        gathered = max(0, self.pool - self.unit)
        return min(self.pool, part - (-gathered // GATHERED))

    def observe(self, words: bytes, amount: int, packets: int, path_length: int) -> None:
        """Counts paid arrivals by the ISP-OADs in them; the latest stand last."""
        known = self.observed.get(words)
        if known is None:
            if len(self.observed) >= MAX_OBSERVED:
                self.observed.popitem(last=False)
            self.observed[words] = [packets, amount * packets, amount, path_length]
            return
        self.observed.move_to_end(words)
        known[0] += packets
        known[1] += amount * packets
        if amount < known[2]:
            known[2] = amount
        known[3] = path_length


class FlowTable:
    """All flows by key; the most recently used last."""

    def __init__(self) -> None:
        self._flows: OrderedDict[FlowKey, FlowRecord] = OrderedDict()
        self.turn = 1

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, key: FlowKey) -> FlowRecord | None:
        return self._flows.get(key)

    def find_or_add(self, key: FlowKey) -> tuple[FlowRecord, list[FlowRecord]]:
        """The record, and those that had to be forgotten for it."""
        found = self._flows.get(key)
        if found is not None:
            return found, []
        forgotten = []
        while len(self._flows) >= MAX_FLOWS:
            forgotten.append(self._flows.pop(self._least_needed()))
        record = self._flows[key] = FlowRecord(selector_of(key))
        return record, forgotten

    def _least_needed(self) -> FlowKey:
        """The oldest without money, so that many new flows do not push out those that pay."""
        for key, record in islice(self._flows.items(), SPARED_AT_MOST):
            if not record.concerns_money:
                return key
        return next(iter(self._flows))

    def touch(self, key: FlowKey, record: FlowRecord, now_ns: int) -> None:
        record.last_ns = now_ns
        if record.turn != self.turn:
            record.turn = self.turn
            self._flows.move_to_end(key)

    def forget_idle(self, now_ns: int) -> list[FlowRecord]:
        """Those that were silent for `IDLE_NS`: they are at the front."""
        forgotten = []
        while self._flows:
            key, record = next(iter(self._flows.items()))
            if now_ns - record.last_ns < IDLE_NS:
                break
            del self._flows[key]
            forgotten.append(record)
        return forgotten

    def end_turn(self, since_turn: int) -> list[FlowRecord]:
        """What changed after `since_turn`, at most `REPORTS_AT_ONCE`: those with money first, then the latest.

        The rest counts as changed in the turn that begins now, so that its report is only late.
        """
        self.turn += 1
        changed: list[tuple[FlowKey, FlowRecord]] = []
        for key, record in reversed(self._flows.items()):
            if record.turn <= since_turn:
                break
            changed.append((key, record))
        if len(changed) > REPORTS_AT_ONCE:
            changed.sort(key=lambda item: not item[1].concerns_money)
            for key, record in reversed(changed[REPORTS_AT_ONCE:]):
                record.turn = self.turn
                self._flows.move_to_end(key)
        return [record for _, record in changed[:REPORTS_AT_ONCE]]


def selector_of(key: FlowKey) -> FlowSelector:
    return FlowSelector(
        source=str(ip_address(key.source)),
        destination=str(ip_address(key.destination)),
        protocol=key.protocol,
        source_port=key.source_port,
        destination_port=key.destination_port,
    )


def key_of(selector: FlowSelector) -> FlowKey:
    """Raises ValueError for an address that is none."""
    return FlowKey(
        ip_address(selector.source).packed,
        ip_address(selector.destination).packed,
        selector.protocol,
        selector.source_port,
        selector.destination_port,
    )


def oads_of(words: bytes) -> Oads:
    """Slots as numbers; free ones are left out."""
    slots = []
    for at in range(0, len(words), 4):
        word = int.from_bytes(words[at : at + 4])
        if word:
            slots.append((word >> 16, word >> 4 & 0xFFF, word & 0xF))
    return tuple(slots)


def _observed_of(record: FlowRecord) -> tuple[Observed, ...]:
    """By ISP-OADs, the latest first: headers that differ in free slots only took the same path."""
    by_oads: dict[Oads, list[int]] = {}
    for words, (packets, received, lowest, path_length) in reversed(record.observed.items()):
        counts = by_oads.setdefault(oads_of(words), [0, 0, lowest, path_length])
        counts[0] += packets
        counts[1] += received
        counts[2] = min(counts[2], lowest)
    return tuple(
        Observed(oads=oads, packets=packets, received_nanodollars=received, lowest_amount=lowest, path_length=length)
        for oads, (packets, received, lowest, length) in by_oads.items()
    )


def report_of(record: FlowRecord, *, spent: int, returned: int) -> FlowReport:
    return FlowReport(
        flow=record.selector,
        uplink=record.uplink,
        out_packets=record.out_packets,
        out_bytes=record.out_bytes,
        out_paid_packets=record.out_paid_packets,
        spent_nanodollars=spent,
        sent_returned_nanodollars=returned,
        in_packets=record.in_packets,
        in_bytes=record.in_bytes,
        in_paid_packets=record.in_paid_packets,
        in_ce_packets=record.in_ce_packets,
        received_nanodollars=record.received,
        refunded_nanodollars=record.refunded,
        pool_nanodollars=record.pool,
        observed=_observed_of(record),
        last_ns=record.last_ns,
    )
