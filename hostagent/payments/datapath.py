"""The host's packet core: pays for packets that leave, counts those that arrive, returns what is left.

Decides verdicts, never holds or drops a packet: whatever goes wrong, traffic goes on unpaid. Refuses to know why a
flow pays (the agent's main process says how much) and kernels. Sources: Bill-Pay 1.1 (Figure 1), 2.1, 2.2;
docs/spec/wire.md. Pure: time is an argument.

Counting, crash-proof, for each uplink: *sent* with the verdict of a packet that carries a payment, *received* with that
of a packet that brought one. What was received is, to the nanodollar,

    received = share (ours, for each paid packet) + refunded (ours coming back) + returned (sent on) + pools in hand

and a pool whose flow was forgotten, or whose reader was killed, becomes `unreturned`: kept, and counted as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from billpay.errors import LocalProtocolError
from billpay.grants import Refusal
from billpay.header import (
    MAX_OADS,
    CannotCarry,
    Malformed,
    Slot,
    base_and_slots,
    base_word,
    carrier_bytes_ipv4,
    carrier_bytes_ipv6,
    insert,
    last_gateway_field,
    locate,
    mac_field,
    read_base_word,
    slot_word,
)
from billpay.mac import compute_mac_with_prefix, epoch_of, flow_prefix
from billpay.messages import ECHO_PORT, Grant, GrantKind
from billpay.packet import FlowKey, clamp_mss, flow_key, transport_of
from billpay.segments import Segments, segments_of
from billpay.tunnel import traffic_class
from dataplane.port import Action, Counters, Packet, Verdict
from hostagent.payments.commands import (
    Answer,
    AskFlows,
    Command,
    Done,
    DropFlow,
    Event,
    FlowReport,
    FlowReports,
    FlowSeen,
    PayFlow,
    ProbeSeen,
    ReceiptSeen,
    Refused,
    ReturnFlow,
    SetUplink,
    Tick,
)
from hostagent.payments.flowtable import Allowance, FlowRecord, FlowTable, key_of, oads_of, report_of
from hostagent.payments.plan import OUTPUT_QUEUE, HostPlan, UplinkPlan

TCP, UDP = 6, 17
SYN, RST = 2, 4
CE = 3
MAX_AMOUNT = 0xFF_FFFF
MAX_PACKET_BYTES = 0xFFFF
MAX_EVENTS = 1024
PROBE_BYTES = 512
NOTHING = (b"", 0, False)
REFUSALS = {
    Refusal.NOT_YET_VALID: "unpaid_grant_not_valid",
    Refusal.EXPIRED: "unpaid_grant_not_valid",
    Refusal.OVER_SUM: "unpaid_over_grant",
    Refusal.OVER_RATE: "unpaid_over_rate",
}
"""Counters of packets that went unpaid because their grant did not allow the payment."""


class UplinkState:
    """One uplink at run time."""

    __slots__ = ("agreed", "clamp_v4", "clamp_v6", "expected_field", "plan", "received", "received_packets", "sent",
                 "sent_packets")  # fmt: skip

    def __init__(self, plan: UplinkPlan, counters: Counters) -> None:
        self.plan = plan
        self.agreed = False
        self.expected_field = last_gateway_field(plan.gateway_as)
        self.clamp_v4 = carrier_bytes_ipv4(plan.slots) if plan.header else 0
        self.clamp_v6 = carrier_bytes_ipv6(plan.slots) if plan.header else 0
        self.received = counters.index(f"link/{plan.name}/received_nanodollars")
        self.received_packets = counters.index(f"link/{plan.name}/received_packets")
        self.sent = counters.index(f"link/{plan.name}/sent_nanodollars")
        self.sent_packets = counters.index(f"link/{plan.name}/sent_packets")


class HostCore:
    """A `PacketCore` (dataplane.port)."""

    def __init__(self, plan: HostPlan, counters: Counters) -> None:
        self._plan = plan
        self._counters = counters
        self.uplinks = {uplink.name: UplinkState(uplink, counters) for uplink in plan.uplinks}
        self._by_interface = {uplink.plan.interface_index: uplink for uplink in self.uplinks.values()}
        self.flows = FlowTable()
        self._share = counters.index("share_nanodollars")
        self._refunded = counters.index("refunded_nanodollars")
        self._returned = counters.index("returned_nanodollars")
        self._unreturned = counters.index("unreturned_nanodollars")
        reasons: tuple[Malformed | CannotCarry, ...] = (*Malformed, *CannotCarry)
        self._reasons = {reason: counters.index(reason.value) for reason in reasons}
        self._not_by_gateway = counters.index("unpaid_not_by_gateway")
        self._refusals = {refusal: counters.index(name) for refusal, name in REFUSALS.items()}
        self._epoch = 0
        self._unix_s = 0
        self._events: list[Event] = []
        self._decoder = msgspec.json.Decoder(Command)
        self._keep_lost_pools()

    def _keep_lost_pools(self) -> None:
        """Pools died with the reader that held them: nobody can say any more which flow they belong to."""
        value = self._counters.value
        received = sum(value(uplink.received) for uplink in self.uplinks.values())
        accounted = sum(map(value, (self._share, self._refunded, self._returned, self._unreturned)))
        if received != accounted:
            self._counters.add(self._unreturned, received - accounted)

    # --- packets ----------------------------------------------------------------------------------------------------

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        actions: list[Action] = []
        for packet in batch:
            uplink = self._by_interface.get(packet.interface_index)
            key = flow_key(packet.payload) if uplink is not None else None
            if uplink is None or key is None:
                payload = None
            elif packet.queue == OUTPUT_QUEUE:
                payload = self._on_leaving(packet.payload, key, uplink, packet.segment_bytes, now_ns)
            else:
                payload = self._on_arriving(packet.payload, key, uplink, packet.segment_bytes, now_ns)
            actions.append(Verdict(packet.packet_id, packet.queue, True, packet.mark, payload))
        return actions

    # --- leaving ----------------------------------------------------------------------------------------------------

    def _on_leaving(
        self, payload: bytes, key: FlowKey, uplink: UplinkState, segment_bytes: int, now_ns: int
    ) -> bytes | None:
        """The packet as it should leave, None for unchanged."""
        if key.protocol not in (TCP, UDP):
            return None
        record = self.flows.get(key)
        if record is None:
            record = self._new_record(key)
            self._event(FlowSeen(flow=record.selector))
        self.flows.touch(key, record, now_ns)
        record.uplink = uplink.plan.name
        segments = segments_of(payload, segment_bytes)
        record.out_packets += segments.packets
        record.out_bytes += segments.wire_bytes
        if uplink.plan.implied:
            self._pay_by_implication(record, uplink, segments.packets, now_ns)
            return None
        changed = self._clamped(payload, key, uplink)
        if not uplink.agreed:
            return changed
        header, amount, returns = self._header_for(record, key, payload, segments.packets, now_ns)
        if not header:
            return changed
        paid = _carrying(changed or payload, header, segments, segment_bytes, uplink.plan.mtu)
        if isinstance(paid, CannotCarry):
            self._counters.add(self._reasons[paid], segments.packets)
            return changed
        self._count_sent(record, uplink, amount, segments.packets, returns=returns)
        return paid

    def _pay_by_implication(self, record: FlowRecord, uplink: UplinkState, packets: int, now_ns: int) -> None:
        """No header survives on this uplink: the gateway takes what the grant says by itself, and we count it."""
        spending = record.spending
        if not uplink.agreed or not record.amount or spending is None or not spending.open:
            return
        refusal = self._refusal(spending, record.amount * packets, now_ns)
        if refusal is not None:
            self._counters.add(self._refusals[refusal], packets)
            return
        self._count_sent(record, uplink, record.amount, packets, returns=False)

    def _header_for(
        self, record: FlowRecord, key: FlowKey, payload: bytes, packets: int, now_ns: int
    ) -> tuple[bytes, int, bool]:
        """What is due back goes first; else the flow's own payment. The header, the amount in each of the packets,
        whether it is a return.
        """
        returning = record.returning
        if record.unit:
            record.leave(packets)
        if record.pool and returning is not None and returning.open and returning.is_valid(self._unix_s):
            spent = self._counters.value(returning.spent)
            due = record.part(is_stream=key.protocol == TCP) if has_content(payload, key) else record.pool
            room = returning.grant.cap_nanodollars - spent
            amount = min(due, record.pool // packets, record.ceiling, room // packets, MAX_AMOUNT)
            if amount > 0 and returning.gate.admit(amount * packets, spent_nanodollars=spent, now_ns=now_ns) is None:
                return self._encode(record, key, amount, b"", returning.key), amount, True
        amount, spending = record.amount, record.spending
        if not amount or spending is None or not spending.open:
            return NOTHING
        if key.protocol == TCP and tcp_flags(payload) & RST:
            return NOTHING  # the end: nothing follows on which what is left of it could come back
        refusal = self._refusal(spending, amount * packets, now_ns)
        if refusal is not None:
            self._counters.add(self._refusals[refusal], packets)
            return NOTHING
        if record.cached_epoch != self._epoch:  # equal headers are normal: made once an epoch
            record.cached_header = self._encode(record, key, amount, record.slots, spending.key)
            record.cached_epoch = self._epoch
        return record.cached_header, amount, False

    def _refusal(self, spending: Allowance, amount: int, now_ns: int) -> Refusal | None:
        """What the gateway would not take is not sent: it would be missing on the books."""
        if not spending.is_valid(self._unix_s):
            return Refusal.EXPIRED
        spent = self._counters.value(spending.spent)
        return spending.gate.admit(amount, spent_nanodollars=spent, now_ns=now_ns)

    def _encode(self, record: FlowRecord, key: FlowKey, amount: int, slots: bytes, grant_key: bytes) -> bytes:
        if record.prefix_epoch != self._epoch:
            record.prefix, record.prefix_epoch = flow_prefix(key, self._epoch), self._epoch
        words = base_word(amount, 0, len(slots) >> 2).to_bytes(4) + slots
        return words + compute_mac_with_prefix(grant_key, record.prefix, words)

    def _count_sent(self, record: FlowRecord, uplink: UplinkState, each: int, packets: int, *, returns: bool) -> None:
        add, amount = self._counters.add, each * packets
        add(uplink.sent, amount)
        add(uplink.sent_packets, packets)
        record.out_paid_packets += packets
        allowance = record.returning if returns else record.spending
        assert allowance is not None, "a header is made under a grant only"
        add(allowance.spent, amount)
        if returns:
            add(self._returned, amount)
            record.returned += amount
            record.pool -= amount

    def _clamped(self, payload: bytes, key: FlowKey, uplink: UplinkState) -> bytes | None:
        """A SYN with its MSS lowered by what a header takes, so that paid segments fit."""
        if key.protocol != TCP or not uplink.plan.header or not tcp_flags(payload) & SYN:
            return None
        return clamp_mss(payload, uplink.clamp_v4 if payload[0] >> 4 == 4 else uplink.clamp_v6)

    # --- arriving ---------------------------------------------------------------------------------------------------

    def _on_arriving(
        self, payload: bytes, key: FlowKey, uplink: UplinkState, segment_bytes: int, now_ns: int
    ) -> bytes | None:
        """The packet as it goes on to the programs here, None for unchanged: a header stays in (docs/adr/0008)."""
        located, segments = locate(payload), segments_of(payload, segment_bytes)
        if isinstance(located, Malformed):
            self._counters.add(self._reasons[located], segments.packets)
            return None
        if located is None:
            if key.source in self._plan.peers:
                self._count_arrival(payload, key, segments, now_ns)
            return self._clamped(payload, key, uplink)
        base = read_base_word(payload, located)
        amount, words = base >> 8, base_and_slots(payload, located)[4:]
        if not uplink.agreed or mac_field(payload, located) != uplink.expected_field:
            self._counters.add(self._not_by_gateway, segments.packets)  # the gateway let it pass: it owes us nothing
            amount = 0
        if not amount and key.source not in self._plan.peers and self.flows.get(key) is None:
            return self._clamped(payload, key, uplink)  # whoever pays nothing takes no room in the table
        record = self._count_arrival(payload, key, segments, now_ns)
        record.in_bytes -= located.length * segments.packets
        if amount:
            self._take(record, key, uplink, amount, segments.packets, words, base >> 4 & 15, now_ns)
            if key.protocol == UDP and key.destination_port == ECHO_PORT != key.source_port:
                self._see_probe(record, payload, amount, words, now_ns)
        return self._clamped(payload, key, uplink)

    def _count_arrival(self, payload: bytes, key: FlowKey, segments: Segments, now_ns: int) -> FlowRecord:
        record = self.flows.get(key) or self._new_record(key)
        self.flows.touch(key, record, now_ns)
        record.in_packets += segments.packets
        record.in_bytes += segments.wire_bytes
        if traffic_class(payload) & CE == CE:
            record.in_ce_packets += segments.packets
        return record

    def _take(
        self,
        record: FlowRecord,
        key: FlowKey,
        uplink: UplinkState,
        each: int,
        packets: int,
        words: bytes,
        path_length: int,
        now_ns: int,
    ) -> None:
        """A payment that came with each of the packets: ours coming back, or to be returned less the share."""
        add, amount = self._counters.add, each * packets
        add(uplink.received, amount)
        add(uplink.received_packets, packets)
        is_first = not record.in_paid_packets
        record.in_paid_packets += packets
        record.received += amount
        record.observe(words, each, packets, path_length)
        back_key = key.reversed()
        back = self.flows.get(back_key) or self._new_record(back_key)
        self.flows.touch(back_key, back, now_ns)
        if back.pays:
            add(self._refunded, amount)
            back.refunded += amount
            return
        if is_first:
            self._event(ReceiptSeen(flow=record.selector))
        share = min(back.share, each)
        add(self._share, share * packets)
        back.put_in(each - share, packets)

    def _see_probe(self, record: FlowRecord, packet: bytes, amount: int, words: bytes, now_ns: int) -> None:
        transport = transport_of(packet)
        if transport is not None:
            at = transport.offset + 8
            payload = packet[at : at + PROBE_BYTES]
            self._event(
                ProbeSeen(
                    flow=record.selector, payload=payload, remaining=amount, oads=oads_of(words), arrived_ns=now_ns
                )
            )

    # --- flows ------------------------------------------------------------------------------------------------------

    def _new_record(self, key: FlowKey) -> FlowRecord:
        record, forgotten = self.flows.find_or_add(key)
        self._forget(forgotten)
        return record

    def _forget(self, forgotten: Sequence[FlowRecord]) -> None:
        for record in forgotten:
            if record.pool:
                self._counters.add(self._unreturned, record.pool)
            for allowance in (record.spending, record.returning):
                if allowance is not None:
                    self._counters.release(_spent_name(allowance.grant))

    def _event(self, event: Event) -> None:
        if len(self._events) < MAX_EVENTS:  # beyond that the next poll of the flows shows them
            self._events.append(event)

    # --- time -------------------------------------------------------------------------------------------------------

    def on_timer(self, _now_ns: int) -> Sequence[Action]:
        return ()

    def next_deadline_ns(self) -> int | None:
        return None

    def on_drain(self, _now_ns: int) -> Sequence[Action]:
        return ()

    # --- commands ---------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        self._unix_s = unix_s
        self._epoch = epoch_of(unix_s)
        try:
            answer = self._obey(self._decoder.decode(data), now_ns)
        except (msgspec.DecodeError, ValueError) as error:  # ValueError: an address that is none
            answer = Refused(code="malformed", message=str(error)[:200])
        return msgspec.json.encode(answer)

    def _obey(self, command: Command, now_ns: int) -> Answer:
        match command:
            case Tick():
                self._forget(self.flows.forget_idle(now_ns))
                return Done()
            case SetUplink():
                uplink = self.uplinks.get(command.uplink)
                if uplink is None:
                    return Refused(code="unknown-uplink", message=f"there is no uplink {command.uplink!r}")
                uplink.agreed = command.agreed
                return Done()
            case PayFlow():
                return self._pay(command, now_ns)
            case ReturnFlow():
                return self._return(command, now_ns)
            case DropFlow():
                return self._drop(command)
            case AskFlows():
                return self._reports(command.since_turn)
        assert_never(command)

    def _pay(self, command: PayFlow, now_ns: int) -> Answer:
        slots = command.slots
        if command.grant.kind is not GrantKind.SPEND:
            return Refused(code="wrong-kind", message="a return grant pays for nothing")
        if not 0 <= command.amount_nanodollars <= MAX_AMOUNT or len(slots) > MAX_OADS or not all(map(_fits, slots)):
            return Refused(code="malformed", message="the payment does not fit a header")
        record = self._commanded(key_of(command.flow), now_ns)
        allowed = self._allowed(record.spending, command, now_ns)
        if isinstance(allowed, Refused):
            return allowed
        record.spending = allowed
        record.pays = True
        record.amount = command.amount_nanodollars
        record.slots = b"".join(slot_word(Slot(*slot)).to_bytes(4) for slot in slots)
        record.cached_epoch = -1
        return Done()

    def _return(self, command: ReturnFlow, now_ns: int) -> Answer:
        if command.grant.kind is not GrantKind.RETURN:
            return Refused(code="wrong-kind", message="payments go back under a return grant only")
        if command.share_nanodollars < 0:
            return Refused(code="malformed", message="a share below 0")
        record = self._commanded(key_of(command.flow), now_ns)
        allowed = self._allowed(record.returning, command, now_ns)
        if isinstance(allowed, Refused):
            return allowed
        record.returning = allowed
        self._take_late_share(record, command.share_nanodollars)
        record.ceiling = command.ceiling_nanodollars
        return Done()

    def _allowed(self, old: Allowance | None, command: PayFlow | ReturnFlow, now_ns: int) -> Allowance | Refused:
        """The grant of a command: a new one, or a later document for the one that the flow has."""
        grant = command.grant
        if grant.flow != command.flow:
            return Refused(code="other-flow", message="the grant is another flow's")
        if old is not None and old.grant.grant == grant.grant:
            refusal = None if old.grant == grant else old.gate.replace(grant, now_ns=now_ns)
            if refusal is not None:
                return Refused(code=refusal.value, message="the grant does not replace the one that is there")
            old.open = True
            return old
        try:
            spent = self._counters.index(_spent_name(grant))
        except LocalProtocolError as error:  # no counter is free
            return Refused(code="no-room", message=str(error))
        if old is not None:
            self._counters.release(_spent_name(old.grant))
        return Allowance(grant, spent, now_ns=now_ns)

    def _take_late_share(self, record: FlowRecord, share: int) -> None:
        """The share of what came before we knew it."""
        if record.share or not share:
            record.share = share
            return
        record.share = share
        opposite = self.flows.get(key_of(record.selector).reversed())
        due = min(share * opposite.in_paid_packets, record.pool) if opposite is not None else 0
        self._counters.add(self._share, due)
        record.pool -= due

    def _drop(self, command: DropFlow) -> Answer:
        record = self.flows.get(key_of(command.flow))
        if record is not None:
            record.amount = 0
            for allowance in (record.spending, record.returning):
                if allowance is not None:
                    allowance.open = False
        return Done()

    def _commanded(self, key: FlowKey, now_ns: int) -> FlowRecord:
        record = self.flows.get(key)
        if record is None:
            record = self._new_record(key)
            self.flows.touch(key, record, now_ns)
        return record

    def _reports(self, since_turn: int) -> FlowReports:
        turn = self.flows.turn
        return FlowReports(turn=turn, flows=tuple(map(self._report, self.flows.end_turn(since_turn))))

    def _report(self, record: FlowRecord) -> FlowReport:
        spent = 0 if record.spending is None else self._counters.value(record.spending.spent)
        return report_of(record, spent=spent, returned=record.returned)

    def take_events(self) -> list[bytes]:
        events = [msgspec.json.encode(event) for event in self._events]
        self._events.clear()
        return events


def tcp_flags(payload: bytes) -> int:
    """Of a TCP segment, 0 of a fragment without them; behind options or extension headers they are looked for the slow
    way.
    """
    first = payload[0]
    if first == 0x45:
        return payload[33] if len(payload) >= 34 else 0
    if first >> 4 == 6 and payload[6] == TCP:
        return payload[53] if len(payload) >= 54 else 0
    transport = transport_of(payload)
    if transport is None or transport.protocol != TCP or transport.fragment:
        return 0
    return payload[transport.offset + 13] if len(payload) > transport.offset + 13 else 0


def _carrying(packet: bytes, header: bytes, segments: Segments, segment_bytes: int, mtu: int) -> bytes | CannotCarry:
    """With the header in it, of which each segment gets a copy."""
    if segments.packets == 1:
        return insert(packet, header, mtu=mtu)
    paid = insert(packet, header, mtu=MAX_PACKET_BYTES)
    if isinstance(paid, CannotCarry):
        return paid
    segment_size = segments.header_bytes + segment_bytes + len(paid) - len(packet)
    return CannotCarry.TOO_BIG if segment_size > mtu else paid


def has_content(payload: bytes, key: FlowKey) -> bool:
    """Not a mere acknowledgement, after which perhaps nothing follows that could take anything back."""
    if key.protocol != TCP:
        return True
    transport = transport_of(payload)
    if transport is None or transport.fragment or len(payload) <= transport.offset + 12:
        return True
    return len(payload) > transport.offset + (payload[transport.offset + 12] >> 4) * 4


def _fits(slot: tuple[int, int, int]) -> bool:
    as_number, alternatives, choice = slot
    return 0 <= as_number <= 0xFFFF and 0 <= alternatives <= 0xFFF and 0 <= choice <= 0xF


def _spent_name(grant: Grant) -> str:
    return f"grant/{grant.grant}/spent_nanodollars"
