"""The gateway's packet core: for each packet, is it paid, where does it go, what does it cost, when does it leave.

Decides verdicts; refuses to know kernels, clocks and control connections (commands arrive as messages). The way of a
packet is the order of the methods below.  Sources: Bill-Pay 2.1-2.4; docs/spec/wire.md; docs/adr/0002 (one pass),
0004 (toll without congestion). Pure: time and random draws are arguments.

Counting: *received* when a packet with a valid payment arrives, *sent* with the verdict that lets it go, *retained*
what the toll took, *kept* the payment of a packet that we dropped, or that could not be passed on.  So at all times,
in nanodollars, received = sent + retained + kept + what waits in our queues; the carry is a part of what was retained
next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec

from billpay.header import (
    Located,
    Malformed,
    Slot,
    base_and_slots,
    find_slot,
    last_gateway_field,
    locate,
    mac_field,
    read_base_word,
    read_slot,
    strip,
    update,
)
from billpay.packet import flow_key
from billpay.tolls import CLASS_CONTROL, CLASS_UNPAID, class_of, must_drop
from dataplane.port import Action, Counters, Packet, Verdict, with_oad_mark
from gateway.commands import (
    Alarm,
    Answer,
    AskGrant,
    AskReport,
    CloseGrant,
    Command,
    Done,
    GrantAnswer,
    LinkReport,
    OpenGrant,
    Refused,
    Report,
    SetLink,
    Tick,
)
from gateway.control_traffic import is_control
from gateway.egress import PRICE_PERIOD_NS, Held, LinkState
from gateway.marking import is_ect, with_ce
from gateway.payments import Grants, Unpaid
from gateway.plan import GatewayPlan, Peer
from gateway.routing import Alternative, Route, Routes
from gateway.scheduler import Waiting

NO_ONE = b"\0" * 6
"""The MAC field of an unpaid packet: no gateway has AS number 0, so the next one refuses the payment too."""


class GatewayCore:
    """A `PacketCore` (dataplane.port)."""

    def __init__(self, plan: GatewayPlan, counters: Counters, draw: Callable[[], float]) -> None:
        self._plan = plan
        self._counters = counters
        self._draw = draw
        self._own_field = last_gateway_field(plan.as_number)
        self.links = {link.name: LinkState(link, counters) for link in plan.links}
        self._by_interface = {link.plan.interface_index: link for link in self.links.values()}
        self._expected_field = {link.name: last_gateway_field(link.plan.peer_as) for link in self.links.values()}
        self._queues = [link for link in self.links.values() if link.scheduler is not None]
        self._routes = Routes(plan.routes)
        self.grants = Grants(counters)
        reasons: tuple[Malformed | Unpaid, ...] = (*Malformed, *Unpaid)
        self._reasons = {reason: counters.index(reason.value) for reason in reasons}
        self._next_price_ns: int | None = None
        self._draining = False
        self._alarms: dict[tuple[str, str], int] = {}
        self._decoder = msgspec.json.Decoder(Command)
        self._keep_what_was_held()

    def _keep_what_was_held(self) -> None:
        """What waited in our queues when a predecessor was killed went on unpaid: its payments stay here, counted."""
        value = self._counters.value
        held = 0
        for link in self.links.values():
            held += value(link.received) - value(link.sent) - value(link.retained) - value(link.kept)
        index = self._counters.index("held_kept_nanodollars")
        missing = held - value(index)
        if missing:
            self._counters.add(index, missing)

    # --- packets ----------------------------------------------------------------------------------------------------

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        actions: list[Action] = []
        for packet in batch:
            self._on_packet(packet, now_ns, actions)
        return actions

    def _on_packet(self, packet: Packet, now_ns: int, actions: list[Action]) -> None:
        """Who sent it, where to, is there a header."""
        ingress = self._by_interface.get(packet.interface_index)
        payload = packet.payload
        destination = payload[16:20] if payload[0] >> 4 == 4 else payload[24:40]
        route = self._routes.find(destination) if ingress is not None else None
        if ingress is None or route is None or expires_here(payload):
            actions.append(Verdict(packet.packet_id, packet.queue, True, packet.mark))
            return
        located = locate(payload, max_amount=ingress.plan.max_amount_nanodollars)
        if located is None:
            self._pass_unpaid(packet, route.alternatives[0], payload, now_ns, actions)
        elif isinstance(located, Malformed):
            self._counters.add(self._reasons[located], 1)
            self._pass_unpaid(packet, route.alternatives[0], payload, now_ns, actions)
        else:
            self._on_header(packet, located, ingress, route, now_ns, actions)

    def _on_header(
        self, packet: Packet, located: Located, ingress: LinkState, route: Route, now_ns: int, actions: list[Action]
    ) -> None:
        """What the user asks of us, and whether it is paid."""
        payload = packet.payload
        base = read_base_word(payload, located)
        amount, path_length = base >> 8, base >> 4 & 15
        slot_index = find_slot(payload, located, self._plan.as_number)
        alternative = route.choose(self._wish(payload, located, slot_index))
        reason = self._why_unpaid(payload, located, ingress, amount, now_ns)
        if reason is not None:
            self._counters.add(self._reasons[reason], 1)
            self._alarms[reason.value, ingress.name] = self._alarms.get((reason.value, ingress.name), 0) + 1
            blanked = update(payload, located, amount=amount, path_length=path_length, mac_field=NO_ONE)
            self._pass_unpaid(packet, alternative, blanked, now_ns, actions, located=located)
            return
        if amount:
            self._counters.add(ingress.received, amount)
            self._counters.add(ingress.received_packets, 1)
        egress = self.links[alternative.link]
        kept = self._charge(egress, len(payload), amount)
        if kept is None:
            actions.append(Verdict(packet.packet_id, packet.queue, False))
            return
        left = amount - kept
        if egress.agreed:
            payload = update(
                payload,
                located,
                amount=left,
                path_length=path_length + 1,
                slot_index=slot_index,
                slot=None if slot_index is None else route.isp_oad(self._plan.as_number, alternative),
                mac_field=self._own_field,
            )
        else:  # nobody behind us could take it: what is left stays here, and the packet goes on as an ordinary one
            payload = strip(payload, located)
            self._counters.add(egress.kept, left)
            left = 0
        service_class = class_of(kept) if amount else CLASS_UNPAID
        self._leave(packet, alternative, egress, payload, left, service_class, now_ns, actions)

    def _wish(self, payload: bytes, located: Located, slot_index: int | None) -> Slot | None:
        """Our user-OAD, if there is one and we honour it."""
        if slot_index is None or not self._plan.honours_preferences:
            return None
        slot = read_slot(payload, located, slot_index)
        return slot if slot.as_number == self._plan.as_number else None

    def _why_unpaid(
        self, payload: bytes, located: Located, ingress: LinkState, amount: int, now_ns: int
    ) -> Unpaid | None:
        if ingress.in_default:
            return Unpaid.IN_DEFAULT
        field = mac_field(payload, located)
        if ingress.plan.peer is not Peer.HOST:
            return None if field == self._expected_field[ingress.name] else Unpaid.NOT_BY_NEIGHBOUR
        flow = flow_key(payload)
        if flow is None:
            return Unpaid.NO_GRANT
        return self.grants.take(ingress.name, flow, base_and_slots(payload, located), field, amount, now_ns)

    def _charge(self, egress: LinkState, size_bytes: int, amount: int) -> int | None:
        """Takes the toll: nanodollars that we retain, or None for a packet that the drop rule takes."""
        if not amount:
            return 0
        meter, counters = egress.toll, self._counters
        toll = meter.picodollars(size_bytes, amount)
        if meter.congestion_picodollars:
            cut = meter.uncapped_picodollars(size_bytes, amount) - toll
            if cut:
                counters.add(egress.cap_cut, cut)
            if must_drop(toll, amount, self._draw):
                egress.arrived_bytes += size_bytes + egress.plan.overhead_bytes
                counters.add(egress.kept, amount)
                counters.add(egress.kept_packets, 1)
                counters.add(egress.dropped, 1)
                return None
        carry = meter.carry_picodollars
        kept = meter.retain(toll, amount)
        if meter.carry_picodollars != carry:
            counters.add(egress.carry, meter.carry_picodollars - carry)
        counters.add(egress.retained, kept)
        return kept

    def _pass_unpaid(
        self,
        packet: Packet,
        alternative: Alternative,
        payload: bytes,
        now_ns: int,
        actions: list[Action],
        *,
        located: Located | None = None,
    ) -> None:
        """Best effort in the lowest class; control traffic first of all."""
        egress = self.links[alternative.link]
        self._counters.add(egress.unpaid_packets, 1)
        if located is not None and not egress.agreed:
            payload = strip(payload, located)
        service_class = CLASS_CONTROL if is_control(payload) else CLASS_UNPAID
        self._leave(packet, alternative, egress, payload, 0, service_class, now_ns, actions)

    def _leave(
        self,
        packet: Packet,
        alternative: Alternative,
        egress: LinkState,
        payload: bytes,
        left: int,
        service_class: int,
        now_ns: int,
        actions: list[Action],
    ) -> None:
        """Marks, then the link at once or its queue."""
        size = len(payload)
        egress.arrived_bytes += size + egress.plan.overhead_bytes
        marking = egress.marking
        if marking is not None and marking.on_arrival(size, now_ns, self._draw) and is_ect(payload):
            payload = with_ce(payload)
            self._counters.add(egress.marked, 1)
        mark = with_oad_mark(packet.mark, alternative.index) if alternative.index else packet.mark
        verdict = Verdict(packet.packet_id, packet.queue, True, mark, None if payload is packet.payload else payload)
        scheduler = egress.scheduler
        if scheduler is None or self._draining or scheduler.passes_at_once(size, now_ns):
            self._count_sent(egress, left)
            actions.append(verdict)
            return
        waiting = Waiting(item=(verdict, left), size_bytes=size, flow=flow_key(payload), service_class=service_class)
        for dropped in scheduler.offer(waiting):
            self._drop(egress, dropped, actions)

    def _count_sent(self, egress: LinkState, left: int) -> None:
        if left:
            self._counters.add(egress.sent, left)
            self._counters.add(egress.sent_packets, 1)

    def _drop(self, egress: LinkState, dropped: Waiting[Held], actions: list[Action]) -> None:
        """A full queue: what the packet carried stays with us, who dropped it."""
        verdict, left = dropped.item
        self._counters.add(egress.dropped, 1)
        if left:
            self._counters.add(egress.kept, left)
            self._counters.add(egress.kept_packets, 1)
        actions.append(Verdict(verdict.packet_id, verdict.queue, False))

    # --- time -------------------------------------------------------------------------------------------------------

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        actions: list[Action] = []
        for egress in self._queues:
            assert egress.scheduler is not None
            for waiting in egress.scheduler.release(now_ns):
                self._count_sent(egress, waiting.item[1])
                actions.append(waiting.item[0])
        if self._next_price_ns is None or now_ns >= self._next_price_ns:
            self._next_price_ns = now_ns + PRICE_PERIOD_NS
            for link in self._queues:
                link.on_price_period()
        return actions

    def next_deadline_ns(self) -> int | None:
        if not self._queues:
            return None
        deadline = self._next_price_ns or 0
        for egress in self._queues:
            assert egress.scheduler is not None
            due = egress.scheduler.next_deadline_ns()
            if due is not None and due < deadline:
                deadline = due
        return deadline

    def on_drain(self, _now_ns: int) -> Sequence[Action]:
        """A graceful stop: what waits leaves now, and nothing waits any more."""
        self._draining = True
        actions: list[Action] = []
        for egress in self._queues:
            assert egress.scheduler is not None
            for waiting in egress.scheduler.drain():
                self._count_sent(egress, waiting.item[1])
                actions.append(waiting.item[0])
        return actions

    # --- commands ---------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        self.grants.on_second(unix_s)
        return msgspec.json.encode(self._obey(self._decoder.decode(data), now_ns))

    def _obey(self, command: Command, now_ns: int) -> Answer:
        match command:
            case Tick():
                return Done()
            case OpenGrant():
                code = self.grants.open(command.grant, command.link, now_ns=now_ns)
                if code is not None:
                    return Refused(code=code, message=f"grant {command.grant.grant[:8]}… was not opened: {code}")
                return self._usage(command.grant.grant, command.link)
            case CloseGrant():
                usage = self.grants.close(command.grant, command.link)
                return _unknown(command.grant) if usage is None else GrantAnswer(usage=usage)
            case AskGrant():
                return self._usage(command.grant, command.link)
            case SetLink():
                link = self.links[command.link]
                link.agreed, link.in_default = command.agreed, command.in_default
                return Done()
            case AskReport():
                return Report(links=tuple(map(_report, self.links.values())), open_grants=len(self.grants))
        assert_never(command)

    def _usage(self, grant: str, link: str) -> Answer:
        usage = self.grants.usage(grant, link)
        return _unknown(grant) if usage is None else GrantAnswer(usage=usage)

    def take_events(self) -> list[bytes]:
        events = [
            msgspec.json.encode(Alarm(kind=kind, link=link, count=count))
            for (kind, link), count in self._alarms.items()
        ]
        self._alarms.clear()
        return events


def expires_here(payload: bytes) -> bool:
    """TTL or hop limit at its end: the kernel answers it with an ICMP error, and nothing is paid."""
    return payload[8 if payload[0] >> 4 == 4 else 7] <= 1


def _unknown(grant: str) -> Refused:
    return Refused(code="unknown-grant", message=f"no grant {grant[:8]}… is open here")


def _report(link: LinkState) -> LinkReport:
    scheduler = link.scheduler
    return LinkReport(
        name=link.name,
        agreed=link.agreed,
        in_default=link.in_default,
        congestion_picodollars=link.toll.congestion_picodollars,
        backlog_bytes=0 if scheduler is None else scheduler.backlog_bytes,
        backlog_packets=0 if scheduler is None else scheduler.backlog_packets,
    )
