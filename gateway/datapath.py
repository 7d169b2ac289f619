"""The gateway's packet core: for each packet, is it paid, where does it go, what does it cost, when does it leave.

Decides verdicts; refuses to know kernels, clocks and control connections (commands arrive as messages). The way of a
packet is the order of the methods below.  Sources: Bill-Pay 2.1-2.4; docs/spec/wire.md; docs/adr/0002 (one pass),
0004 (toll without congestion). Pure: time and random draws are arguments.

Counting: *received* when a packet with a valid payment arrives, *sent* with the verdict that lets it go, *retained*
what the toll took, *kept* the payment of a packet that we dropped, or that could not be passed on, *waiting* what is in
our queues.  So at all times, in nanodollars, received = sent + retained + kept + waiting; the carry is a part of what
was retained next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import assert_never

import msgspec

from billpay.header import (
    CannotCarry,
    Located,
    Malformed,
    Slot,
    base_and_slots,
    find_slot,
    insert,
    last_gateway_field,
    locate,
    mac_field,
    read_base_word,
    read_slot,
    slot_word,
    strip,
    update,
)
from billpay.packet import HOP_BY_HOP, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, decrement_ttl, flow_key
from billpay.segments import Segments, segments_of
from billpay.tolls import CLASS_CONTROL, CLASS_UNPAID, class_of, must_drop
from dataplane.port import Action, Counters, Inject, Packet, Verdict, with_oad_mark
from gateway.commands import (
    Alarm,
    Answer,
    AskGrant,
    AskReport,
    CloseGrant,
    Command,
    Done,
    ForgetGrant,
    GrantAnswer,
    LinkReport,
    OpenGrant,
    Refused,
    Report,
    RouteTerms,
    SetLink,
    SetTerms,
    Tick,
)
from gateway.control_traffic import is_control
from gateway.egress import HELD_PACKETS_MAX, PRICE_PERIOD_NS, Held, LinkState
from gateway.marking import is_ect, with_ce
from gateway.payments import Grants, Unpaid
from gateway.plan import GatewayPlan, HostRole, Peer, Queueing, RoutePlan
from gateway.routing import Alternative, Route, Routes
from gateway.scheduler import Waiting
from gateway.tunnelling import Nothing

IPV4_WITHOUT_OPTIONS = b"\x45"
MAX_PLAIN_WAYS = 65_536
new_tuple = tuple.__new__  # a NamedTuple's own constructor costs twice as much
NO_ONE = b"\0" * 6
"""The MAC field of an unpaid packet: no gateway has AS number 0, so the next one refuses the payment too."""
MAX_PACKET_BYTES = 65535
ALARM_PERIOD_NS = 1_000_000_000
TUNNEL_SILENT = "tunnel_silent"
OVER_CEILING = "over_ceiling"
OVER_CEILING_GRANT = "over_ceiling_grant"


class GatewayCore:
    """A `PacketCore` (dataplane.port)."""

    def __init__(self, plan: GatewayPlan, counters: Counters, draw: Callable[[], float]) -> None:
        self._plan = plan
        self._counters = counters
        self._draw = draw
        self._own_field = last_gateway_field(plan.as_number)
        limit_packets = HELD_PACKETS_MAX // max(1, sum(bool(link.rate_bit_s) for link in plan.links))
        self.links = {link.name: LinkState(link, counters, limit_packets=limit_packets) for link in plan.links}
        self._by_interface = {link.plan.interface_index: link for link in self.links.values()}
        self._queues = [link for link in self.links.values() if link.scheduler is not None]
        self._tunnels = [link for link in self.links.values() if link.tunnel is not None]
        self._routes = Routes(plan.routes)
        self.grants = Grants(counters, {link.name: link.ceiling for link in plan.links})
        self._oad_words: dict[tuple[int, int], int] = {}
        self._plain_ways: dict[tuple[int, bytes], tuple[LinkState | None, int]] = {}
        reasons: tuple[Malformed | Unpaid | CannotCarry, ...] = (*Malformed, *Unpaid, *CannotCarry)
        self._reasons = {reason: counters.index(reason.value) for reason in reasons}
        self._waiting = counters.index("waiting_nanodollars")
        self._next_price_ns: int | None = None
        self._now_ns = 0
        self._draining = False
        self._alarms: dict[tuple[str, str], int] = {}
        self._alarmed_ns: dict[tuple[str, str], int] = {}
        self._decoder = msgspec.json.Decoder(Command)
        self._keep_what_was_held()

    def _keep_what_was_held(self) -> None:
        """What waited in our queues when a predecessor was killed was lost with it: its payments stay here, counted."""
        held = self._counters.value(self._waiting)
        if held:
            self._counters.add(self._counters.index("held_kept_nanodollars"), held)
            self._counters.add(self._waiting, -held)

    # --- packets ----------------------------------------------------------------------------------------------------

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        self._now_ns = now_ns
        actions: list[Action] = []
        for packet in batch:
            if not self._passes_plainly(packet, actions):
                self._on_packet(packet, now_ns, actions)
        return actions

    def _passes_plainly(self, packet: Packet, actions: list[Action]) -> bool:
        """The short way of most packets: one that cannot carry a header, to a link without queue, marks and tunnel.

        Does what the long way would do with it (False: it has to take that one); without a queue nobody asks what
        arrived.
        """
        packet_id, queue, interface, mark, payload, _, segment_bytes = packet
        if payload[:1] == IPV4_WITHOUT_OPTIONS and len(payload) >= IPV4_HEADER_BYTES:
            destination, lifetime = payload[16:20], payload[8]
        elif len(payload) >= IPV6_HEADER_BYTES and payload[0] >> 4 == 6 and payload[6] != HOP_BY_HOP:
            destination, lifetime = payload[24:40], payload[7]
        else:
            return False
        try:
            egress, index = self._plain_ways[interface, destination]
        except KeyError:
            egress, index = self._find_plain_way(interface, destination)
        if egress is None or lifetime <= 1:
            return False
        self._counters.add(egress.unpaid_packets, segments_of(payload, segment_bytes).packets if segment_bytes else 1)
        mark = with_oad_mark(mark, index) if index else mark
        actions.append(new_tuple(Verdict, (packet_id, queue, True, mark, None)))
        return True

    def _find_plain_way(self, interface: int, destination: bytes) -> tuple[LinkState | None, int]:
        """Remembered for each ingress and destination; None where the long way has something to do."""
        ingress, route = self._by_interface.get(interface), self._routes.find(destination)
        way: tuple[LinkState | None, int] = (None, 0)
        if ingress is not None and self._is_plain(ingress) and route is not None:
            alternative = route.alternatives[0]
            egress = self.links[alternative.link]
            if egress.scheduler is None and egress.marking is None and egress.tunnel is None:
                way = (egress, alternative.index)
        if len(self._plain_ways) >= MAX_PLAIN_WAYS:
            self._plain_ways.clear()
        self._plain_ways[interface, destination] = way
        return way

    def _is_plain(self, ingress: LinkState) -> bool:
        """Whether what comes by it without a header pays nothing for sure."""
        return ingress.tunnel is None and not (self.grants.imply and ingress.plan.peer is Peer.HOST)

    def _on_packet(self, packet: Packet, now_ns: int, actions: list[Action]) -> None:
        """Who sent it, and by which way: a neighbour behind a tunnel sends headers through the tunnel only."""
        ingress = self._by_interface.get(packet.interface_index)
        payload = packet.payload
        if ingress is None or not has_whole_ip_header(payload):
            actions.append(Verdict(packet.packet_id, packet.queue, True, packet.mark))
        elif ingress.tunnel is None:
            self._on_payload(packet, payload, ingress, ingress.expected_field, now_ns, actions)
        else:
            self._on_tunnel_interface(packet, ingress, now_ns, actions)

    def _on_tunnel_interface(self, packet: Packet, ingress: LinkState, now_ns: int, actions: list[Action]) -> None:
        """Takes the inner packet out, with its header in a carrier again, so that all else is as on any other link."""
        tunnel = ingress.tunnel
        assert tunnel is not None
        carried = tunnel.open(packet.payload, max_amount=ingress.plan.max_amount_nanodollars, now_ns=now_ns)
        if carried is Nothing.NOT_OURS:
            self._on_payload(packet, packet.payload, ingress, None, now_ns, actions)
        elif isinstance(carried, Malformed | Nothing):
            if isinstance(carried, Malformed):
                self._counters.add(self._reasons[carried], 1)
            actions.append(Verdict(packet.packet_id, packet.queue, False))
        else:
            payload = carried.inner
            if carried.fault is not None:
                self._counters.add(self._reasons[carried.fault], 1)
            if carried.header:
                with_header = insert(payload, carried.header, mtu=MAX_PACKET_BYTES)
                if isinstance(with_header, CannotCarry):
                    self._counters.add(self._reasons[with_header], 1)
                else:
                    payload = with_header
            self._on_payload(packet, payload, ingress, ingress.expected_field, now_ns, actions)

    def _on_payload(
        self,
        packet: Packet,
        payload: bytes,
        ingress: LinkState,
        expected_field: bytes | None,
        now_ns: int,
        actions: list[Action],
    ) -> None:
        """Where to, and is there a header. `expected_field`: what the neighbour's name looks like in it."""
        route = self._routes.find(payload[16:20] if payload[0] >> 4 == 4 else payload[24:40])
        if route is None or expires_here(payload):
            verdict, inject = on_its_way(packet, payload, packet.mark)
            actions.append(verdict)
            if inject is not None:
                actions.append(inject)
            return
        located = locate(payload, max_amount=ingress.plan.max_amount_nanodollars)
        if located is None:
            if self.grants.imply and ingress.plan.peer is Peer.HOST:
                self._on_bare(packet, payload, ingress, route.alternatives[0], now_ns, actions)
            else:
                self._pass_unpaid(packet, route.alternatives[0], payload, now_ns, actions)
        elif isinstance(located, Malformed):
            self._counters.add(self._reasons[located], segments_of(payload, packet.segment_bytes).packets)
            self._pass_unpaid(packet, route.alternatives[0], payload, now_ns, actions)
        else:
            self._on_header(packet, payload, located, ingress, expected_field, route, now_ns, actions)

    def _on_bare(
        self,
        packet: Packet,
        payload: bytes,
        ingress: LinkState,
        alternative: Alternative,
        now_ns: int,
        actions: list[Action],
    ) -> None:
        """An implied payment, if the flow has a grant that says so: there is no header in which the rest of it could go
        on, so all of it stays here.
        """
        flow = flow_key(payload)
        grant = None if flow is None else self.grants.implying(ingress.name, flow)
        if grant is None:
            self._pass_unpaid(packet, alternative, payload, now_ns, actions)
            return
        amount, segments = grant.gate.grant.implies_nanodollars, segments_of(payload, packet.segment_bytes)
        reason = self._why_never(ingress) or self.grants.take_from(
            grant, amount, now_ns, room_nanodollars=self._room(ingress), packets=segments.packets
        )
        if reason is not None:
            self._count_refused(ingress, reason, amount, segments.packets)
            self._pass_unpaid(packet, alternative, payload, now_ns, actions)
            return
        self._counters.add(ingress.received, amount * segments.packets)
        self._counters.add(ingress.received_packets, segments.packets)
        egress = self.links[alternative.link]
        control = egress.scheduler is not None and is_control(payload)
        kept = self._charge(egress, segments, amount, may_drop=not control)
        if kept is None:
            actions.append(Verdict(packet.packet_id, packet.queue, False))
            return
        self._counters.add(egress.kept, (amount - kept) * segments.packets)
        service_class = CLASS_CONTROL if control else class_of(kept)
        self._leave(packet, alternative, egress, payload, None, 0, service_class, now_ns, actions)

    def _on_header(
        self,
        packet: Packet,
        payload: bytes,
        located: Located,
        ingress: LinkState,
        expected_field: bytes | None,
        route: Route,
        now_ns: int,
        actions: list[Action],
    ) -> None:
        """What the user asks of us, and whether it is paid."""
        base = read_base_word(payload, located)
        offered, path_length = base >> 8, base >> 4 & 15
        amount = min(offered, ingress.packet_ceiling)
        segments = segments_of(payload, packet.segment_bytes)
        slot_index = find_slot(payload, located, self._plan.as_number)
        alternative = route.choose(self._wish(payload, located, slot_index))
        reason = self._why_unpaid(payload, located, ingress, expected_field, amount, segments.packets, now_ns)
        if reason is not None:
            self._count_refused(ingress, reason, offered, segments.packets)
            blanked = update(payload, located, amount=offered, path_length=path_length, mac_field=NO_ONE)
            self._pass_unpaid(packet, alternative, blanked, now_ns, actions, located=located)
            return
        if amount < offered:
            self._counters.add(ingress.cut, (offered - amount) * segments.packets)
            self._counters.add(ingress.cut_packets, segments.packets)
            self._alarm(OVER_CEILING, ingress.name, segments.packets)
        if amount:
            self._counters.add(ingress.received, amount * segments.packets)
            self._counters.add(ingress.received_packets, segments.packets)
        egress = self.links[alternative.link]
        control = egress.scheduler is not None and is_control(payload)
        kept = self._charge(egress, segments, amount, may_drop=not control)
        if kept is None:
            actions.append(Verdict(packet.packet_id, packet.queue, False))
            return
        left = amount - kept
        goes_on: Located | None = None
        if self._carries(egress, payload, located, now_ns):
            goes_on = located
            payload = update(
                payload,
                located,
                amount=left,
                path_length=path_length + 1,
                slot_index=slot_index,
                slot=None if slot_index is None else self._isp_oad_word(route, alternative),
                mac_field=self._own_field,
            )
        else:  # nobody behind us could take it: what is left stays here, and the packet goes on as an ordinary one
            payload = strip(payload, located)
            self._counters.add(egress.kept, left * segments.packets)
            left = 0
        service_class = CLASS_CONTROL if control else class_of(kept) if amount else CLASS_UNPAID
        self._leave(packet, alternative, egress, payload, goes_on, left, service_class, now_ns, actions)

    def _count_refused(self, ingress: LinkState, reason: Unpaid, offered: int, segments: int) -> None:
        self._counters.add(self._reasons[reason], segments)
        if reason is Unpaid.NEVER_PAYS or reason is Unpaid.OVER_MIRROR:
            self._counters.add(ingress.role_refused, offered * segments)
            self._counters.add(ingress.role_refused_packets, segments)
        self._alarm(reason.value, ingress.name, segments)

    def _isp_oad_word(self, route: Route, alternative: Alternative) -> int:
        """Made once for each bitmap and choice."""
        key = (route.bitmap, alternative.number)
        word = self._oad_words.get(key)
        if word is None:
            word = self._oad_words[key] = slot_word(route.isp_oad(self._plan.as_number, alternative))
        return word

    def _carries(self, egress: LinkState, payload: bytes, located: Located, now_ns: int) -> bool:
        """Whether the header can go on by this link."""
        if not egress.takes_headers(now_ns):
            return False
        if egress.tunnel is None or egress.tunnel.fits(payload, located):
            return True
        self._counters.add(self._reasons[CannotCarry.TOO_BIG], 1)
        return False

    def _wish(self, payload: bytes, located: Located, slot_index: int | None) -> Slot | None:
        """Our user-OAD, if there is one and we honour it."""
        if slot_index is None or not self._plan.honours_preferences:
            return None
        at = located[0] + 4 + (slot_index << 2)
        return read_slot(payload, located, slot_index) if payload[at : at + 2] == self._own_field[:2] else None

    def _why_unpaid(
        self,
        payload: bytes,
        located: Located,
        ingress: LinkState,
        expected_field: bytes | None,
        amount: int,
        segments: int,
        now_ns: int,
    ) -> Unpaid | None:
        field = mac_field(payload, located)
        if ingress.plan.peer is not Peer.HOST and not ingress.in_default:
            return None if field == expected_field else Unpaid.NOT_BY_NEIGHBOUR
        reason = self._why_never(ingress)
        if reason is not None:
            return reason
        flow = flow_key(payload)
        if flow is None:
            return Unpaid.NO_GRANT
        words, room = base_and_slots(payload, located), self._room(ingress)
        return self.grants.take(
            ingress.name, flow, words, field, amount, now_ns, room_nanodollars=room, packets=segments
        )

    def _why_never(self, ingress: LinkState) -> Unpaid | None:
        """What its grants say does not matter."""
        if ingress.in_default:
            return Unpaid.IN_DEFAULT
        return Unpaid.NEVER_PAYS if ingress.plan.role is HostRole.NEVER else None

    def _room(self, ingress: LinkState) -> int | None:
        """What a mirror may emit: by what we delivered to it and took from it since we know it."""
        if ingress.plan.role is not HostRole.MIRROR:
            return None
        return self._counters.value(ingress.sent) - self._counters.value(ingress.received)

    def _charge(self, egress: LinkState, segments: Segments, amount: int, *, may_drop: bool) -> int | None:
        """Takes the toll: nanodollars that we retain of each segment, or None for a packet that the drop rule takes."""
        if not amount:
            return 0
        meter, counters = egress.toll, self._counters
        count, size_bytes, _ = segments
        toll = meter.picodollars(size_bytes, amount, count)
        if meter.congestion_picodollars:
            cut = meter.uncapped_picodollars(size_bytes, amount, count) - toll
            if cut:
                counters.add(egress.cap_cut, cut)
            if may_drop and must_drop(toll, amount * count, self._draw):
                egress.arrived_bytes += size_bytes + count * egress.plan.overhead_bytes
                counters.add(egress.kept, amount * count)
                counters.add(egress.kept_packets, count)
                counters.add(egress.dropped, count)
                return None
        carry = meter.carry_picodollars
        kept = meter.retain(toll, amount, count)
        if meter.carry_picodollars != carry:
            counters.add(egress.carry, meter.carry_picodollars - carry)
        counters.add(egress.retained, kept * count)
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
        self._counters.add(egress.unpaid_packets, segments_of(payload, packet.segment_bytes).packets)
        if located is not None and not self._carries(egress, payload, located, now_ns):
            payload = strip(payload, located)
            located = None
        waits = egress.scheduler is not None
        service_class = CLASS_CONTROL if waits and is_control(payload) else CLASS_UNPAID
        self._leave(packet, alternative, egress, payload, located, 0, service_class, now_ns, actions)

    def _leave(
        self,
        packet: Packet,
        alternative: Alternative,
        egress: LinkState,
        payload: bytes,
        located: Located | None,
        left: int,
        service_class: int,
        now_ns: int,
        actions: list[Action],
    ) -> None:
        """Marks, then the link at once or its queue. `located`: the header with which it goes on."""
        tunnel = egress.tunnel
        count, size, _ = segments_of(payload, packet.segment_bytes)
        if tunnel is not None:
            payload = tunnel.with_room(payload)
            if located is not None:
                size = tunnel.size_in_tunnel(payload, located)
        egress.arrived_bytes += size + count * egress.plan.overhead_bytes
        marking = egress.marking
        if marking is not None and marking.on_arrival(size, now_ns, self._draw, count) and is_ect(payload):
            payload = with_ce(payload)
            self._counters.add(egress.marked, count)
        mark = with_oad_mark(packet.mark, alternative.index) if alternative.index else packet.mark
        inject: Inject | None
        if tunnel is not None and located is not None:  # in place of the packet: see tunnelling.py
            verdict = Verdict(packet.packet_id, packet.queue, False)
            inject = Inject(tunnel.wrap(payload, located))
        else:
            verdict, inject = on_its_way(packet, payload, mark)
        scheduler = egress.scheduler
        if scheduler is None or self._draining or scheduler.passes_at_once(size, now_ns):
            self._send(egress, verdict, inject, left, count, actions)
            return
        if left:
            self._counters.add(self._waiting, left * count)
        held = Held(verdict, inject, left, count)
        if egress.plan.queueing is Queueing.FIFO:
            waiting = Waiting(item=held, size_bytes=size, flow=None, service_class=CLASS_UNPAID)
        else:
            waiting = Waiting(item=held, size_bytes=size, flow=flow_key(payload), service_class=service_class)
        for dropped in scheduler.offer(waiting):
            self._drop(egress, dropped.item, actions)

    def _send(
        self,
        egress: LinkState,
        verdict: Verdict,
        inject: Inject | None,
        left: int,
        packets: int,
        actions: list[Action],
    ) -> None:
        if left:
            self._counters.add(egress.sent, left * packets)
            self._counters.add(egress.sent_packets, packets)
        actions.append(verdict)
        if inject is not None:
            actions.append(inject)

    def _release(self, egress: LinkState, held: Held, actions: list[Action]) -> None:
        verdict, inject, left, packets = held
        if left:
            self._counters.add(self._waiting, -left * packets)
        self._send(egress, verdict, inject, left, packets, actions)

    def _drop(self, egress: LinkState, held: Held, actions: list[Action]) -> None:
        """A full queue: what the packet carried stays with us, who dropped it."""
        verdict, _, left, packets = held
        self._counters.add(egress.dropped, packets)
        if left:
            self._counters.add(self._waiting, -left * packets)
            self._counters.add(egress.kept, left * packets)
            self._counters.add(egress.kept_packets, packets)
        actions.append(Verdict(verdict.packet_id, verdict.queue, False))

    # --- time -------------------------------------------------------------------------------------------------------

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        self._now_ns = now_ns
        actions: list[Action] = []
        for egress in self._queues:
            assert egress.scheduler is not None
            for waiting in egress.scheduler.release(now_ns):
                self._release(egress, waiting.item, actions)
        if self._next_price_ns is None or now_ns >= self._next_price_ns:
            self._next_price_ns = now_ns + PRICE_PERIOD_NS
            for link in self._queues:
                link.on_price_period()
        for link in self._tunnels:
            assert link.tunnel is not None
            keepalive = link.tunnel.keepalive_due(now_ns)
            if keepalive is not None:
                actions.append(Inject(keepalive))
                if link.tunnel.fell_silent(now_ns):
                    self._alarm(TUNNEL_SILENT, link.name)
        return actions

    def next_deadline_ns(self) -> int | None:
        due: list[int] = []
        for link in self._tunnels:
            assert link.tunnel is not None
            due.append(link.tunnel.next_deadline_ns())
        for egress in self._queues:
            assert egress.scheduler is not None
            release_ns = egress.scheduler.next_deadline_ns()
            if release_ns is not None:
                due.append(release_ns)
        if self._queues:
            due.append(self._next_price_ns or 0)
        return min(due, default=None)

    def on_drain(self, now_ns: int) -> Sequence[Action]:
        """A graceful stop: what waits leaves now, and nothing waits any more."""
        self._now_ns = now_ns
        self._draining = True
        actions: list[Action] = []
        for egress in self._queues:
            assert egress.scheduler is not None
            for waiting in egress.scheduler.drain():
                self._release(egress, waiting.item, actions)
        return actions

    # --- commands ---------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        self._now_ns = now_ns
        self.grants.on_second(unix_s)
        return msgspec.json.encode(self._obey(self._decoder.decode(data), now_ns))

    def _obey(self, command: Command, now_ns: int) -> Answer:
        match command:
            case Tick():
                return Done()
            case OpenGrant():
                return self._open(command, now_ns)
            case CloseGrant():
                usage = self.grants.close(command.grant, command.link)
                return _unknown(command.grant) if usage is None else GrantAnswer(usage=usage)
            case ForgetGrant():
                self.grants.forget(command.grant, command.link)
                return Done()
            case AskGrant():
                return self._usage(command.grant, command.link)
            case SetLink():
                link = self.links[command.link]
                link.agreed, link.in_default = command.agreed, command.in_default
                return Done()
            case SetTerms():
                self._set_terms(command)
                return Done()
            case AskReport():
                links = tuple(_report(link, now_ns) for link in self.links.values())
                return Report(links=links, open_grants=len(self.grants))
        assert_never(command)

    def _set_terms(self, terms: SetTerms) -> None:
        """From the next packet on; what waits has paid, and leaves as it was decided."""
        for toll in terms.tolls:
            self.links[toll.link].set_toll(
                toll.schedule, congestion=toll.congestion, target_utilisation_ppm=toll.target_utilisation_ppm
            )
        changed = {ip_network(route.prefix): route for route in terms.routes}
        routes = tuple(_under(route, changed.get(route.prefix)) for route in self._plan.routes)
        honours = terms.honours_preferences
        self._plan = dataclasses.replace(self._plan, routes=routes, honours_preferences=honours)
        self._routes = Routes(routes)
        self._plain_ways.clear()

    def _open(self, command: OpenGrant, now_ns: int) -> Answer:
        grant, ingress = command.grant, self.links[command.link]
        if command.closed:
            self.grants.remember_closed(grant, command.link, now_ns=now_ns)
            return Done()
        never = ingress.plan.role is HostRole.NEVER
        code = "never-pays" if never else self.grants.open(grant, command.link, now_ns=now_ns)
        if code is not None:
            return Refused(code=code, message=f"grant {grant.grant[:8]}… was not opened: {code}")
        if ingress.plan.ceiling.under(grant) != grant:
            self._alarm(OVER_CEILING_GRANT, command.link)
        self._plain_ways.clear()  # packets without a header may pay from now on
        return self._usage(grant.grant, command.link)

    def _usage(self, grant: str, link: str) -> Answer:
        usage = self.grants.usage(grant, link)
        return _unknown(grant) if usage is None else GrantAnswer(usage=usage)

    # --- events -----------------------------------------------------------------------------------------------------

    def _alarm(self, kind: str, link: str, packets: int = 1) -> None:
        key = kind, link
        self._alarms[key] = self._alarms.get(key, 0) + packets

    def take_events(self) -> list[bytes]:
        """Each kind of alarm of a link once a second, with how many packets there were."""
        if not self._alarms:
            return []
        since_ns = self._now_ns - ALARM_PERIOD_NS
        due = [key for key in self._alarms if self._alarmed_ns.get(key, since_ns) <= since_ns]
        for key in due:
            self._alarmed_ns[key] = self._now_ns
        return [
            msgspec.json.encode(Alarm(kind=kind, link=link, count=self._alarms.pop((kind, link)))) for kind, link in due
        ]


def _under(route: RoutePlan, terms: RouteTerms | None) -> RoutePlan:
    if terms is None:
        return route
    alternatives = tuple(
        dataclasses.replace(item, available=item.number not in terms.withdrawn) for item in route.alternatives
    )
    return dataclasses.replace(route, alternatives=alternatives, default=terms.default)


def has_whole_ip_header(payload: bytes) -> bool:
    size = len(payload)
    return size >= IPV4_HEADER_BYTES and (payload[0] >> 4 == 4 or (payload[0] >> 4 == 6 and size >= IPV6_HEADER_BYTES))


def on_its_way(packet: Packet, payload: bytes, mark: int) -> tuple[Verdict, Inject | None]:
    """Lets a packet go on as `payload`. A verdict cannot change the IP version: then another packet goes instead, which
    the kernel does not forward but sends, so that its TTL is counted here.
    """
    packet_id, queue, before = packet.packet_id, packet.queue, packet.payload
    if payload is before:
        return Verdict(packet_id, queue, True, mark), None
    if payload[0] >> 4 == before[0] >> 4:
        return Verdict(packet_id, queue, True, mark, payload), None
    after = decrement_ttl(payload)
    return Verdict(packet_id, queue, False), None if after is None else Inject(after, mark)


def expires_here(payload: bytes) -> bool:
    """TTL or hop limit at its end: the kernel answers it with an ICMP error, and nothing is paid."""
    return payload[8 if payload[0] >> 4 == 4 else 7] <= 1


def _unknown(grant: str) -> Refused:
    return Refused(code="unknown-grant", message=f"no grant {grant[:8]}… is known here")


def _report(link: LinkState, now_ns: int) -> LinkReport:
    scheduler = link.scheduler
    return LinkReport(
        name=link.name,
        agreed=link.agreed,
        in_default=link.in_default,
        congestion_picodollars=link.toll.congestion_picodollars,
        backlog_bytes=0 if scheduler is None else scheduler.backlog_bytes,
        backlog_packets=0 if scheduler is None else scheduler.backlog_packets,
        tunnel_alive=link.tunnel is None or link.tunnel.is_alive(now_ns),
    )
