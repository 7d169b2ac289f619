"""What happens to a gateway, out of a seeded random source: packets of everyone to everyone, and commands between them.

The script keeps its own idea of the grants that were opened, so that many packets are paid; whether they are is for the
engines to say, and to agree on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

import msgspec
from differential.events import NS_PER_S, START_NS, START_UNIX_S, Arrival, Event, Look, Order
from differential.gateway_worlds import GatewayWorld, W, X, Y, Z
from differential.packets import (
    ICMP,
    ICMPV6,
    OTHER_PROTOCOLS,
    TCP,
    UDP,
    Ends,
    damaged,
    forced_ipv4,
    forced_ipv6,
    plain_packet,
    without_padding,
)

from billpay.header import Slot, base_word, insert, last_gateway_field, slot_word
from billpay.mac import compute_mac, epoch_of
from billpay.messages import CONTROL_PORT, ECHO_PORT, FlowSelector, Grant, GrantKind
from billpay.packet import flow_key
from billpay.segments import segments_of
from billpay.tolls import TollSchedule
from dataplane.port import ACCEPT_BIT
from gateway.commands import (
    AskGrant,
    AskReport,
    CloseGrant,
    Command,
    ForgetGrant,
    OpenGrant,
    RouteTerms,
    SetLink,
    SetTerms,
    Tick,
    TollTerms,
)
from gateway.plan import Peer

PACKETS_BETWEEN_LOOKS = 500
FLOWS = 90
GRANTS_AT_FIRST = 20
TEMPLATES_FOR_EACH_FLOW = 4
AMOUNTS = (0, 1, 2, 5, 20, 20, 20, 50, 120, 300, 899, 900, 901, 4_000, 20_000, 49_999, 50_001)
HUGE_AMOUNTS = (10**6, 10**6 + 1, 0xFFFFFF)
EPOCHS = (*(0,) * 12, -1, 1, -2, 2)
ASKED_OF = (X, X, X, Y, Z, 0, 0, 0, 1)


class OpenedHere(NamedTuple):
    """A grant as the script believes that it is open."""

    link: str
    grant: Grant
    key: bytes


class GatewayScript:
    """An endless list of events for one world."""

    def __init__(self, world: GatewayWorld, seed: int) -> None:
        self._world = world
        self._draw = random.Random(seed)
        self._at_ns = START_NS
        self._grants: dict[str, OpenedHere] = {}
        self._keys: dict[bytes, list[bytes]] = {}
        self._all_keys: list[bytes] = []
        self._closed: list[tuple[str, str]] = []
        self._serial = 1
        self._links = world.plan.links
        self._link_of = {address: name for name, addresses in world.hosts.items() for address in addresses}
        self._index = {link.name: link.interface_index for link in self._links}
        self._flows = [self._flow() for _ in range(FLOWS)]
        self._templates = [
            (ends, plain_packet(self._draw, ends)) for ends in self._flows for _ in range(TEMPLATES_FOR_EACH_FLOW)
        ]
        self._recent: list[Arrival] = []
        self._bundle: tuple[Ends, bytes] = self._templates[0]

    def events(self, packets: int) -> Iterator[Event]:
        """The neighbours' agreements first, then so many packets with commands between them, and looks."""
        for link in self._world.agreed:
            yield self._order(SetLink(link=link, agreed=True, in_default=False))
        for _ in range(GRANTS_AT_FIRST):
            yield self._order(self._open_grant())
        left = packets
        while left > 0:
            self._pass_time()
            if self._draw.random() < 0.06:
                yield self._order(self._command())
            for _ in range(min(left, self._draw.choice((1, 1, 2, 5, 20)))):
                yield self._packet()
                left -= 1
                if left % PACKETS_BETWEEN_LOOKS == 0:
                    yield Look(self._at_ns)

    # --- time and commands ------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        chance = self._draw.random()
        if chance < 0.8:
            self._at_ns += self._draw.randrange(200_000)
        elif chance < 0.97:
            self._at_ns += self._draw.randrange(8_000_000)
        elif chance < 0.995:
            self._at_ns += self._draw.randrange(300_000_000)
        else:
            self._at_ns += self._draw.randrange(25 * NS_PER_S)

    @property
    def _unix_s(self) -> int:
        return START_UNIX_S + (self._at_ns - START_NS) // NS_PER_S

    def _order(self, command: Command) -> Order:
        unix_s = self._unix_s
        if self._draw.random() < 0.02:
            unix_s -= self._draw.randrange(100)  # a clock that is set back
        self._sort_keys()
        return Order(self._at_ns, unix_s, msgspec.json.encode(command))

    def _command(self) -> Command:
        draw = self._draw
        chance = draw.random()
        if chance < 0.35:
            return Tick()
        if chance < 0.5:
            return self._open_grant()
        if chance < 0.65:
            return self._change_grant()
        if chance < 0.75:
            link, grant = self._some_grant()
            return AskGrant(link=link, grant=grant)
        if chance < 0.85:
            return self._set_link()
        if chance < 0.95:
            return self._set_terms()
        return AskReport()

    def _set_link(self) -> Command:
        draw = self._draw
        link = draw.choice(self._links)
        if self._world.settled:
            return SetLink(link=link.name, agreed=True, in_default=False)
        may = link.peer is not Peer.LEGACY
        return SetLink(link=link.name, agreed=may and draw.random() < 0.8, in_default=draw.random() < 0.15)

    def _set_terms(self) -> Command:
        draw = self._draw
        tolls = []
        for link in draw.sample(self._links, draw.randrange(3)):
            schedule = TollSchedule(
                fixed_nanodollars_per_packet=draw.choice((0, 0, 1, 3, 700)),
                fixed_picodollars_per_byte=draw.choice((0, 0, 1, 77, 1001)),
                proportional_ppm=draw.choice((0, 0, 1, 99_999, 1_000_000)),
                cap_nanodollars=draw.choice((None, None, 0, 2, 60, 5_000)),
            )
            tolls.append(
                TollTerms(
                    link=link.name,
                    schedule=schedule,
                    congestion=link.congestion and draw.random() < 0.8,
                    target_utilisation_ppm=draw.choice((950_000, 500_000)),
                )
            )
        routes = []
        for route in draw.sample(self._world.plan.routes, min(2, len(self._world.plan.routes))):
            numbers = [item.number for item in route.alternatives]
            gone = tuple(draw.sample(numbers, draw.randrange(len(numbers))))
            default = draw.choice((0, *numbers))
            routes.append(RouteTerms(prefix=str(route.prefix), default=default, withdrawn=gone))
        honours = self._world.plan.honours_preferences and draw.random() < 0.85
        return SetTerms(honours_preferences=honours, tolls=tuple(tolls), routes=tuple(routes))

    # --- grants -----------------------------------------------------------------------------------------------------

    def _some_grant(self) -> tuple[str, str]:
        draw = self._draw
        if self._closed and draw.random() < 0.2:
            return draw.choice(self._closed)
        if self._grants and draw.random() < 0.9:
            name = draw.choice(list(self._grants))
            link = self._grants[name].link
            return (link, name) if draw.random() < 0.9 else (draw.choice(self._links).name, name)
        return draw.choice(self._links).name, f"{draw.getrandbits(128):032x}"

    def _open_grant(self) -> Command:
        draw = self._draw
        ends = draw.choice(self._flows)
        source = ends.source
        if self._link_of and (source not in self._link_of or draw.random() < 0.5):
            source = draw.choice(list(self._link_of))
        link = self._link_of.get(source) or draw.choice(self._links).name
        if draw.random() < 0.6:
            flow = FlowSelector(source=str(ip_address(source)))
        else:
            ends = draw.choice([each for each in self._flows if each.source == source] or [ends])
            flow = FlowSelector(
                source=str(ip_address(ends.source)),
                destination=str(ip_address(ends.destination)),
                protocol=ends.protocol,
                source_port=ends.source_port,
                destination_port=ends.destination_port,
            )
        keys = [each.key for each in self._grants.values()]
        key = draw.choice(keys) if keys and draw.random() < 0.1 else draw.randbytes(16)
        grant = Grant(
            grant=f"{draw.getrandbits(128):032x}",
            serial=draw.randrange(1, 5),
            kind=draw.choice((GrantKind.SPEND, GrantKind.SPEND, GrantKind.RETURN)),
            flow=flow,
            key=key.hex(),
            **self._caps(),
        )
        self._grants[grant.grant] = OpenedHere(link, grant, key)
        return OpenGrant(link=link, grant=grant, closed=draw.random() < 0.03)

    def _caps(self) -> dict[str, Any]:
        draw, now = self._draw, self._unix_s
        caps: dict[str, Any] = {
            "cap_nanodollars": draw.choice((0, 500, 20_000, 10**7, 10**9, 10**9, 10**9, 10**9, 2**53)),
            "rate_nanodollars_per_s": draw.choice((0, 30_000, 10**6, 10**9, 10**9, 10**9, 2**53)),
            "burst_nanodollars": draw.choice((0, 100, 3_000, 10**6, 10**9, 10**9, 2**53)),
            "not_before_unix_s": max(0, now - draw.choice((3600, 3600, 3600, 60, 60, 0, -20))),
            "expires_unix_s": now + draw.choice((3600, 3600, 3600, 300, 300, 30, 0)),
        }
        if draw.random() < 0.2:
            caps["implied_nanodollars"] = draw.choice((0, 1, 20, 1_000, 0xFFFFFF))
        return caps

    def _change_grant(self) -> Command:
        """Replaces, in ways that are right and wrong; shows again; closes; forgets."""
        draw = self._draw
        if not self._grants:
            return self._open_grant()
        name = draw.choice(list(self._grants))
        link, grant, key = self._grants[name]
        chance = draw.random()
        if chance < 0.12:
            del self._grants[name]
            self._closed.append((link, name))
            return CloseGrant(link=link, grant=name)
        if chance < 0.2 and self._closed:
            link, name = draw.choice(self._closed)
            return ForgetGrant(link=link, grant=name)
        if chance < 0.23:
            return ForgetGrant(link=link, grant=name)
        if chance < 0.3:
            return OpenGrant(link=draw.choice(self._links).name if draw.random() < 0.5 else link, grant=grant)
        changes: dict[str, Any] = {"serial": grant.serial + draw.choice((1, 1, 1, 2, 0, -1)), **self._caps()}
        changes["serial"] = max(0, changes["serial"])
        if chance < 0.36:
            changes["key"] = draw.randbytes(16).hex()
        elif chance < 0.4:
            changes["kind"] = GrantKind.RETURN if grant.kind is GrantKind.SPEND else GrantKind.SPEND
        elif chance < 0.44:
            changes["flow"] = FlowSelector(source=str(ip_address(draw.choice(self._flows).source)))
        changed = msgspec.structs.replace(grant, **changes)
        if chance >= 0.44 and changed.serial > grant.serial:
            self._grants[name] = OpenedHere(link, changed, key)
        return OpenGrant(link=link, grant=changed)

    # --- packets ----------------------------------------------------------------------------------------------------

    def _flow(self) -> Ends:
        draw = self._draw
        mine = [address for addresses in self._world.hosts.values() for address in addresses]
        source = draw.choice(mine) if mine and draw.random() < 0.75 else draw.choice(self._world.remote)
        others = [a for a in (*self._world.remote, *mine) if len(a) == len(source) and a != source]
        destination = draw.choice(others)
        if draw.random() < 0.03:
            destination = draw.randbytes(len(source))
        protocol = draw.choice((TCP, TCP, TCP, UDP, UDP, UDP, ICMP, ICMPV6, draw.choice(OTHER_PROTOCOLS)))
        sport = draw.choice((40_000, 5004, ECHO_PORT, CONTROL_PORT, 443, draw.getrandbits(16)))
        dport = draw.choice((443, 80, ECHO_PORT, CONTROL_PORT, 179, draw.getrandbits(16)))
        return Ends(source, destination, protocol, sport, dport)

    def _packet(self) -> Arrival:
        draw = self._draw
        chance = draw.random()
        if self._recent and chance < 0.08:
            old = draw.choice(self._recent)
            return old._replace(at_ns=self._at_ns)
        if chance > 0.5:
            self._bundle = draw.choice(self._templates)
        ends, packet = self._bundle
        interface = self._interface(ends)
        kind = draw.random()
        if kind > 0.25:
            packet = self._with_header(packet, ends, interface)
        if draw.random() < 0.07:
            packet = damaged(draw, packet)
        packet, padding = without_padding(packet)
        mark = 0
        if draw.random() < 0.15:
            mark = draw.choice((draw.getrandbits(32), 0x7, 0x0F00, 0xF000, 0x0003_0000, 0xC000_0000)) & ~ACCEPT_BIT
        segment_bytes = self._offload(packet) if self._world.offloaded and draw.random() < 0.5 else 0
        arrival = Arrival(self._at_ns, interface, mark, packet, segment_bytes, padding=padding)
        if len(self._recent) < 24:
            self._recent.append(arrival)
        else:
            self._recent[draw.randrange(24)] = arrival
        return arrival

    def _offload(self, packet: bytes) -> int:
        segment_bytes = self._draw.choice((1, 8, 100, 536, 1448))
        return segment_bytes if segments_of(packet, segment_bytes).packets <= 500 else 0

    def _interface(self, ends: Ends) -> int:
        draw = self._draw
        link = self._link_of.get(ends.source)
        if link is not None and draw.random() < 0.93:
            return self._index[link]
        if draw.random() < 0.02:
            return 99
        return draw.choice(self._links).interface_index

    def _with_header(self, packet: bytes, ends: Ends, interface: int) -> bytes:
        draw = self._draw
        count = draw.choice((0, 0, 0, 1, 1, 2, 3, 4, 7))
        amount = draw.choice(AMOUNTS) if draw.random() < 0.96 else draw.choice(HUGE_AMOUNTS)
        is_host = any(link.interface_index == interface and link.peer is Peer.HOST for link in self._links)
        path_length = draw.choice((0, 0, 0, 1)) if is_host else draw.choice((0, 1, 2, 14, 15))
        written_count = count if draw.random() < 0.985 else draw.randrange(16)
        words = base_word(amount, path_length, written_count).to_bytes(4, "big")
        words += b"".join(slot_word(self._slot()).to_bytes(4, "big") for _ in range(count))
        header = words + self._mac_field(packet, ends, words, interface, is_host=is_host)
        style = draw.random()
        if style < 0.88 and written_count == count:
            carried = insert(packet, header, mtu=65535)
            if isinstance(carried, bytes):
                return carried
        if style < 0.02:
            header += bytes(draw.randrange(1, 5))  # a size that no header has
        return forced_ipv4(draw, packet, header) if packet[0] >> 4 == 4 else forced_ipv6(draw, packet, header)

    def _slot(self) -> Slot:
        draw = self._draw
        number = draw.choice(ASKED_OF) if draw.random() < 0.95 else draw.getrandbits(16)
        if not number:
            return Slot(0, 0, 0) if draw.random() < 0.9 else Slot(0, draw.getrandbits(12), draw.getrandbits(4))
        alternatives = draw.choice((0, 0, 1, 2, 3, 6, 0x7FF, 0x800, 0x803, draw.getrandbits(12)))
        return Slot(number, alternatives, draw.choice((0, 0, 1, 2, 3, 5, 7, 11, 12, 15)))

    def _mac_field(self, packet: bytes, ends: Ends, words: bytes, interface: int, *, is_host: bool) -> bytes:
        draw = self._draw
        chance = draw.random()
        if not is_host:
            named = next((link.peer_as for link in self._links if link.interface_index == interface), 0)
            if chance < 0.85:
                return last_gateway_field(named)
            if chance < 0.9:
                return last_gateway_field(draw.choice((W, X, Y, Z, 0)))
            if chance < 0.94:
                return last_gateway_field(named)[:2] + draw.choice((b"\0\0\0\1", b"\1\0\0\0", b"\0\1\0\0"))
        if chance > 0.97:
            return draw.randbytes(6) if chance > 0.985 else bytes(6)
        flow = flow_key(packet)
        if flow is None:
            return draw.randbytes(6)
        keys = self._keys.get(ends.source)
        if not keys or chance < 0.03:
            keys = self._all_keys
        if not keys:
            return draw.randbytes(6)
        epoch = epoch_of(self._unix_s) + draw.choice(EPOCHS)
        return compute_mac(draw.choice(keys), flow, epoch, words)

    def _sort_keys(self) -> None:
        """By the source of the grants that they are of."""
        self._keys = {}
        for _, grant, key in self._grants.values():
            self._keys.setdefault(ip_address(grant.flow.source).packed, []).append(key)
        self._all_keys = [each.key for each in self._grants.values()]
