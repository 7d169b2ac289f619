"""What happens to a host, out of a seeded random source: what its programs send, what arrives, and commands between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import msgspec
from differential.events import NS_PER_S, START_NS, START_UNIX_S, Arrival, Event, Look, Order
from differential.gateway_worlds import W, X, Y, Z
from differential.host_worlds import OWN, REMOTE, HostWorld
from differential.packets import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Ends,
    damaged,
    forced_ipv4,
    forced_ipv6,
    plain_packet,
    without_padding,
)

from billpay.header import ISP_WRITTEN, Slot, base_word, insert, last_gateway_field, slot_word
from billpay.messages import ECHO_PORT, FlowSelector, Grant, GrantKind
from billpay.segments import segments_of
from dataplane.port import ACCEPT_BIT
from hostagent.payments.commands import AskFlows, Command, DropFlow, Oads, PayFlow, ReturnFlow, SetUplink, Tick

PACKETS_BETWEEN_LOOKS = 400
TEMPLATES_FOR_EACH_WAY = 4
AMOUNTS = (0, 1, 3, 20, 20, 20, 100, 999, 12_345, 0xFFFFFF)
OADS: tuple[Oads, ...] = (
    (),
    (),
    ((X, 0, 0),),
    ((X, 1, 2), (0, 0, 0)),
    ((0, 0, 0),) * 3,
    ((X, 0x7FF, 11), (Y, 0, 0), (0, 0, 0)),
    ((0, 0, 0),) * 7,
)
WRONG_OADS: tuple[Oads, ...] = (((0x10000, 0, 0),), ((X, 0x1000, 0),), ((X, 0, 16),), ((0, 0, 0),) * 8, ((-1, 0, 0),))

SPECIAL = tuple(
    Ends(source, destination, *rest)
    for (source, destination), rest in (
        ((OWN[0], REMOTE[0]), (UDP, ECHO_PORT, 5004)),  # probes arrive
        ((OWN[2], REMOTE[4]), (UDP, ECHO_PORT, 5005)),
        ((OWN[1], REMOTE[1]), (UDP, 0, 0)),  # the flow of all fragments
        ((OWN[0], REMOTE[0]), (TCP, 0, 0)),
    )
)


class HostScript:
    """An endless list of events for one world."""

    def __init__(self, world: HostWorld, seed: int) -> None:
        self._world = world
        self._draw = random.Random(seed)
        self._at_ns = START_NS
        self._uplinks = world.plan.uplinks
        self._turn = self._since = 0
        self._grants: dict[tuple[Ends, GrantKind], Grant] = {}
        self._conversations = [self._conversation() for _ in range(world.conversations)]
        self._busy = [*self._draw.sample(self._conversations, 6), *SPECIAL]
        self._conversations += SPECIAL
        self._templates = {
            ends: [plain_packet(self._draw, ends) for _ in range(TEMPLATES_FOR_EACH_WAY)]
            for each in self._conversations
            for ends in (each, each.reversed())
        }
        self._recent: list[Arrival] = []

    def events(self, packets: int) -> Iterator[Event]:
        for uplink in self._world.agreed:
            yield self._order(SetUplink(uplink=uplink, agreed=True))
        left = packets
        while left > 0:
            self._pass_time()
            if self._draw.random() < 0.15:
                yield self._order(self._command())
            for _ in range(min(left, self._draw.choice((1, 1, 2, 5, 20)))):
                yield self._packet()
                left -= 1
                if left % PACKETS_BETWEEN_LOOKS == 0:
                    self._since = self._turn  # whoever looks asks for the flows
                    self._turn += 1
                    yield Look(self._at_ns)

    # --- time and commands ------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        chance = self._draw.random()
        if chance < 0.8:
            self._at_ns += self._draw.randrange(200_000)
        elif chance < 0.97:
            self._at_ns += self._draw.randrange(8_000_000)
        elif chance < 0.995:
            self._at_ns += self._draw.randrange(2 * NS_PER_S)
        else:
            self._at_ns += self._draw.randrange(200 * NS_PER_S)

    @property
    def _unix_s(self) -> int:
        return START_UNIX_S + (self._at_ns - START_NS) // NS_PER_S

    def _order(self, command: Command) -> Order:
        unix_s = self._unix_s - (self._draw.randrange(100) if self._draw.random() < 0.01 else 0)
        return Order(self._at_ns, unix_s, msgspec.json.encode(command))

    def _command(self) -> Command:
        draw = self._draw
        chance = draw.random()
        if chance < 0.2:
            return Tick()
        if chance < 0.45:
            return self._pay()
        if chance < 0.75:
            return self._return()
        if chance < 0.8:
            return DropFlow(flow=_selector(self._some_way()))
        if chance < 0.84:
            uplink = draw.choice(("nobody", *(each.name for each in self._uplinks)))
            agreed = uplink not in self._world.refusing and draw.random() < 0.85
            return SetUplink(uplink=uplink, agreed=agreed)
        return self._ask()

    def _ask(self) -> Command:
        """As the main process does: with the turn of the last answer, or as before if that was lost."""
        if self._draw.random() < 0.8:
            self._since = self._turn
        self._turn += 1
        return AskFlows(since_turn=self._since)

    def _some_way(self) -> Ends:
        """Of a conversation, as it leaves."""
        draw = self._draw
        return draw.choice(self._busy if draw.random() < 18 / len(self._conversations) else self._conversations)

    def _pay(self) -> Command:
        draw, ends = self._draw, self._some_way()
        grant = self._grant(ends, GrantKind.SPEND)
        amount = draw.choice(AMOUNTS)
        slots = draw.choice(OADS)
        wrong = draw.random()
        if wrong < 0.02:
            slots = draw.choice(WRONG_OADS)
        elif wrong < 0.04:
            amount = draw.choice((-1, 0x1000000))
        elif wrong < 0.06:
            return PayFlow(flow=_selector(self._some_way()), grant=grant, amount_nanodollars=amount, slots=slots)
        return PayFlow(flow=_selector(ends), grant=grant, amount_nanodollars=amount, slots=slots)

    def _return(self) -> Command:
        draw, ends = self._draw, self._some_way()
        grant = self._grant(ends, GrantKind.RETURN)
        share = draw.choice((0, 0, 1, 1, 5, 100)) if draw.random() < 0.98 else -1
        flow = _selector(ends if draw.random() < 0.97 else self._some_way())
        ceiling = draw.choice((0, 7, 1_000, 10**6, 10**6, 2**40))
        return ReturnFlow(flow=flow, grant=grant, share_nanodollars=share, ceiling_nanodollars=ceiling)

    def _grant(self, ends: Ends, kind: GrantKind) -> Grant:
        """A new one for the flow, the one that it has, or a later document for it."""
        draw, now = self._draw, self._unix_s
        known = self._grants.get((ends, kind))
        chance = draw.random()
        caps: dict[str, Any] = {
            "cap_nanodollars": draw.choice((0, 500, 20_000, 10**7, 10**9, 10**9, 10**9, 10**9, 2**53)),
            "rate_nanodollars_per_s": draw.choice((0, 30_000, 10**6, 10**9, 10**9, 10**9, 2**53)),
            "burst_nanodollars": draw.choice((0, 100, 3_000, 10**6, 10**9, 10**9, 2**53)),
            "not_before_unix_s": max(0, now - draw.choice((3600, 3600, 3600, 60, 60, 0, -20))),
            "expires_unix_s": now + draw.choice((3600, 3600, 3600, 300, 300, 30, 0)),
        }
        if known is not None and chance < 0.15:
            return known
        if known is not None and chance < 0.6:
            changes = {"serial": max(0, known.serial + draw.choice((1, 1, 1, 2, 0, -1))), **caps}
            if chance < 0.2:
                changes["key"] = draw.randbytes(16).hex()
            changed = msgspec.structs.replace(known, **changes)
            if chance >= 0.2 and changed.serial > known.serial:
                self._grants[ends, kind] = changed
            return changed
        made = Grant(
            grant=f"{draw.getrandbits(128):032x}",
            serial=draw.randrange(1, 5),
            kind=kind if draw.random() < 0.97 else GrantKind.SPEND,
            flow=_selector(ends),
            key=draw.randbytes(16).hex(),
            **caps,
        )
        self._grants[ends, kind] = made
        return made

    # --- packets ----------------------------------------------------------------------------------------------------

    def _conversation(self) -> Ends:
        draw = self._draw
        source = draw.choice(OWN)
        destination = draw.choice([each for each in REMOTE if len(each) == len(source)])
        protocol = draw.choice((TCP, TCP, TCP, TCP, UDP, UDP, UDP, ICMP, ICMPV6, 50, 132))
        sport = draw.choice((40_000, 5004, ECHO_PORT, 50_000, draw.getrandbits(16)))
        return Ends(source, destination, protocol, sport, draw.choice((443, 80, ECHO_PORT, draw.getrandbits(16))))

    def _packet(self) -> Arrival:
        draw = self._draw
        if self._recent and draw.random() < 0.06:
            return draw.choice(self._recent)._replace(at_ns=self._at_ns)
        ends = self._some_way()
        leaving = draw.random() < 0.55
        way = ends if leaving else ends.reversed()
        packet = draw.choice(self._templates[way])
        uplink = draw.choice(self._uplinks)
        if draw.random() < (0.05 if leaving else 0.7):
            packet = self._with_header(packet, uplink.gateway_as)
        if draw.random() < 0.05:
            packet = damaged(draw, packet)
        packet, padding = without_padding(packet)
        interface = uplink.interface_index if draw.random() < 0.98 else 99
        mark = draw.getrandbits(32) & ~ACCEPT_BIT if draw.random() < 0.1 else 0
        segment_bytes = self._offload(packet) if self._world.offloaded and draw.random() < 0.5 else 0
        arrival = Arrival(self._at_ns, interface, mark, packet, segment_bytes, leaving, padding)
        if len(self._recent) < 24:
            self._recent.append(arrival)
        else:
            self._recent[draw.randrange(24)] = arrival
        return arrival

    def _offload(self, packet: bytes) -> int:
        segment_bytes = self._draw.choice((1, 8, 100, 536, 1448))
        return segment_bytes if segments_of(packet, segment_bytes).packets <= 500 else 0

    def _with_header(self, packet: bytes, gateway_as: int) -> bytes:
        draw = self._draw
        count = draw.choice((0, 0, 1, 2, 3, 7))
        written_count = count if draw.random() < 0.985 else draw.randrange(16)
        words = base_word(draw.choice(AMOUNTS), draw.choice((0, 1, 2, 3, 15)), written_count).to_bytes(4, "big")
        words += b"".join(slot_word(self._slot()).to_bytes(4, "big") for _ in range(count))
        chance = draw.random()
        if chance < 0.9:
            field = last_gateway_field(gateway_as)
        elif chance < 0.95:
            field = last_gateway_field(draw.choice((W, X, Y, Z, 0)))
        else:
            field = draw.randbytes(6)
        style = draw.random()
        if style < 0.9 and written_count == count:
            carried = insert(packet, words + field, mtu=65535)
            if isinstance(carried, bytes):
                return carried
        header = words + field + bytes(draw.randrange(1, 5) if style < 0.02 else 0)
        return forced_ipv4(draw, packet, header) if packet[0] >> 4 == 4 else forced_ipv6(draw, packet, header)

    def _slot(self) -> Slot:
        """A few paths, so that observations come together, and now and then another."""
        draw = self._draw
        if draw.random() < 0.05:
            return Slot(draw.getrandbits(16), draw.getrandbits(12), draw.getrandbits(4))
        return draw.choice((Slot(0, 0, 0), Slot(0, 0, 0), Slot(X, ISP_WRITTEN | 3, 1), Slot(Y, ISP_WRITTEN | 1, 1)))


def _selector(ends: Ends) -> FlowSelector:
    return FlowSelector(
        source=str(ip_address(ends.source)),
        destination=str(ip_address(ends.destination)),
        protocol=ends.protocol,
        source_port=ends.source_port if ends.protocol in (TCP, UDP, 132) else 0,
        destination_port=ends.destination_port if ends.protocol in (TCP, UDP, 132) else 0,
    )
