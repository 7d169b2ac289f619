"""The gateway's packet core where programs in the kernel treat the packets: commands become entries of their maps.

Decides: when prices move, and what is written where. Refuses to know: how a packet is treated (dataplane/ebpf/
gateway.bpf.c, which decides as `GatewayCore` does). What commands mean, who may open which grant, what is told to the
operator: `GatewayCore` and `Grants`, whose state is mirrored here after each command.

Prices have a date: they are good for a second more. So the programs of a reader that hangs take no congestion toll, and
those of one that died are gone. Destinations that are never forwarded, and our own addresses, have an entry without
alternatives in the programs' routes: such packets pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from billpay.errors import EnvironmentFault
from billpay.marking import VirtualLink
from billpay.money import PICODOLLARS_PER_NANODOLLAR
from billpay.tolls import TollSchedule
from dataplane.ebpf import gateway_layout as layout
from dataplane.ebpf.gateway_layout import GATEWAY_OBJECT, LINK_COUNTERS, NUMBER, PRICE, REASONS
from dataplane.ebpf.interfaces import (
    ETHERNET_HEADER_BYTES,
    NEVER_FORWARDED,
    Changes,
    Network,
    header_bytes,
    index_of,
    name_of,
    own_addresses,
)
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.libbpf import AttachType, BpfObject, Link, Map
from dataplane.ebpf.machine import machine_faults
from dataplane.port import Action
from gateway.commands import Answer, Command, Report, SetLink, SetTerms
from gateway.datapath import OVER_CEILING, GatewayCore
from gateway.egress import PRICE_PERIOD_NS, LinkState
from gateway.kernel_grants import KernelGrants
from gateway.kernel_queue import Backlog, limit_bytes
from gateway.payments import Unpaid
from gateway.plan import GatewayPlan, LinkPlan, MarkingRule, Peer
from gateway.routing import Route, _route_of

PRICE_HOLDS_NS: Final = 1_000_000_000
LOOK_NS: Final = 1_000_000_000
"""Between two looks at what the programs have to say."""

SETTLE_NS: Final = 10_000_000
"""Interfaces and addresses change in bursts: so long after the first word of it we look, once."""

MARKINGS: Final = (MarkingRule.NONE, MarkingRule.VIRTUAL_QUEUE)
_ALARMS: Final = tuple((REASONS.index(kind), kind) for kind in (*(each.value for each in Unpaid), OVER_CEILING))
_ZERO: Final = NUMBER.pack(0)
_PASSES: Final = layout.ROUTE.pack()
_NO_BACKLOG: Final = Backlog()


class Queues(Protocol):
    """Of `gateway.kernel_queue.KernelQueues`: the trees are in place when we get it."""

    def watch(self, queues: Map, corrections: Map, numbers: Mapping[str, int]) -> None: ...

    def backlog(self, name: str) -> Backlog: ...

    def on_period(self, name: str, now_ns: int) -> Backlog: ...

    def restore(self) -> None: ...


class KernelGateway(GatewayCore):
    """A `KernelCore` (dataplane.ebpf.kernel_reader). Packets do not come to it.

    `queues`: for the links with a rate; None: nothing is known of what waits. `untouched`: destinations that pass as
    they are, asked again when an address changes. `injected`: for tests that run the programs by themselves: clock and
    chance come from the map `settings`, and no interface has to be there.
    """

    def __init__(
        self,
        plan: GatewayPlan,
        counters: KernelCounters,
        *,
        queues: Queues | None = None,
        untouched: Callable[[], Iterable[Network]] | None = None,
        injected: bool = False,
    ) -> None:
        """Raises EnvironmentFault: this kernel does not take the programs."""
        super().__init__(plan, counters, _no_draw)
        self._queues_kept = queues
        self._injected = injected
        self._untouched = untouched or (tuple if injected else own_addresses)
        self.programs = BpfObject(
            GATEWAY_OBJECT, shared={"counters": counters.map}, constants={"injected": 1} if injected else None
        )
        self.numbers = {link.name: number for number, link in enumerate(plan.links)}
        ceilings = {link.name: link.ceiling for link in plan.links}
        self.kernel_grants = KernelGrants(counters, ceilings, programs=self.programs, links=self.numbers)
        self.grants = self.kernel_grants
        self._settings, self._terms = self.programs.map("settings"), self.programs.map("terms")
        self._states = self.programs.map("states")
        self._tries = {4: self.programs.map("routes4"), 6: self.programs.map("routes6")}
        self._prices = self.programs.map("prices").mapped()
        self._reasons_written = tuple(0 if name == OVER_CEILING else counters.index(name) for name in REASONS)
        self._settings_written = b""
        self._routes_written: dict[tuple[int, bytes], bytes] = {}
        self._arrived: dict[str, int] = dict.fromkeys(self.links, 0)
        self._alarmed: dict[tuple[str, str], int] = {}
        self._attached: dict[str, _Attached] = {}
        self._changes: Changes | None = None
        self._networks: frozenset[Network] = frozenset()
        self._look_ns = 0
        self._network_changed = False
        if queues is not None:
            queues.watch(self.programs.map("queues"), self.programs.map("queue_corrections"), self.numbers)
        for link in plan.links:
            self._attached[link.name] = self._place_of(link)
            self._write_terms(link.name)
        self._look_at_network()
        self._write_settings()

    def _place_of(self, link: LinkPlan) -> _Attached:
        if self._injected:
            found = _Attached("", link.interface_index)
            self._tell_index(link.name, found)
            return found
        return _Attached(name_of(link.interface_index, link.name))

    # --- KernelCore -------------------------------------------------------------------------------------------------

    def on_go(self, now_ns: int) -> None:
        """Raises EnvironmentFault."""
        self._now_ns = now_ns
        self._changes = Changes()
        self._move_prices(now_ns)
        self._look_at_network()
        self._follow_all()

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        self._now_ns = now_ns
        if self._next_price_ns is None or now_ns >= self._next_price_ns:
            self._next_price_ns = now_ns + PRICE_PERIOD_NS
            self._move_prices(now_ns)
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_NS
            if self._network_changed:
                self._network_changed = False
                self._look_at_network()
                self._follow_all()
        return ()

    def next_deadline_ns(self) -> int | None:
        return min(self._look_ns, self._next_price_ns or 0) if self._queues else self._look_ns

    def take_events(self) -> list[bytes]:
        for name, number in self.numbers.items():
            state = self._states.lookup_locked(NUMBER.pack(number))
            assert state is not None
            for reason, kind in _ALARMS:
                count = layout.LINK_STATE.number(state, "alarms", reason)
                more = count - self._alarmed.get((name, kind), 0)
                if more:
                    self._alarm(kind, name, more)
                    self._alarmed[name, kind] = count
        return super().take_events()

    def descriptors(self) -> Sequence[int]:
        return () if self._changes is None else (self._changes.fileno(),)

    def on_readable(self, descriptor: int, now_ns: int) -> None:  # noqa: ARG002 - there is only one
        assert self._changes is not None
        self._changes.take()
        self._network_changed = True
        self._look_ns = min(self._look_ns, now_ns + SETTLE_NS)

    def on_stop(self, now_ns: int) -> None:
        """What waits in the queues leaves, before they are as they were."""
        self._now_ns = now_ns
        for attached in self._attached.values():
            attached.detach()
        if self._changes is not None:
            self._changes.close()
            self._changes = None
        if self._queues_kept is not None:
            self._queues_kept.restore()

    def close(self) -> None:
        """The programs and their maps are gone."""
        self._prices.close()
        self.programs.close()

    # --- commands ---------------------------------------------------------------------------------------------------

    def _obey(self, command: Command, now_ns: int) -> Answer:
        answer = super()._obey(command, now_ns)
        if isinstance(command, SetLink):
            self._write_terms(command.link)
        elif isinstance(command, SetTerms):
            for toll in command.tolls:
                self._write_terms(toll.link)
                self._write_price(self.links[toll.link], now_ns)
            self._write_routes()
        elif isinstance(answer, Report):
            answer = self._with_backlogs(answer)
        self._write_settings()
        return answer

    def _with_backlogs(self, report: Report) -> Report:
        if self._queues_kept is None:
            return report
        links = []
        for link in report.links:
            backlog = self._queues_kept.backlog(link.name)
            links.append(msgspec.structs.replace(link, backlog_bytes=backlog.bytes, backlog_packets=backlog.packets))
        return msgspec.structs.replace(report, links=tuple(links))

    # --- prices -----------------------------------------------------------------------------------------------------

    def _move_prices(self, now_ns: int) -> None:
        """By what the programs say arrived since the last time, and by what waits."""
        for link in self._queues:
            state = self._states.lookup_locked(NUMBER.pack(self.numbers[link.name]))
            assert state is not None
            arrived = layout.LINK_STATE.number(state, "arrived_bytes")
            backlog = _NO_BACKLOG if self._queues_kept is None else self._queues_kept.on_period(link.name, now_ns)
            if link.congestion is not None:
                link.toll.congestion_picodollars = link.congestion.on_period(
                    arrived_bytes=arrived - self._arrived[link.name], backlog_bytes=backlog.bytes
                )
            self._arrived[link.name] = arrived
            self._write_price(link, now_ns)

    def _write_price(self, link: LinkState, now_ns: int) -> None:
        price = min(link.toll.congestion_picodollars, layout.PICODOLLARS_MAX)
        PRICE.pack_into(self._prices, self.numbers[link.name] * PRICE.size, price, now_ns + PRICE_HOLDS_NS)

    # --- entries ----------------------------------------------------------------------------------------------------

    def _write_terms(self, name: str) -> None:
        link, attached = self.links[name], self._attached[name]
        entry = link_terms(link, self._counters.index, index=attached.index, header=attached.header_bytes)
        self._terms.update(NUMBER.pack(self.numbers[name]), entry)

    def _write_settings(self) -> None:
        """The fields that a test injects stay as it wrote them."""
        entry = bytearray(self._settings.lookup(_ZERO) or bytes(layout.SETTINGS.size))
        layout.SETTINGS.write(
            entry,
            epoch=self.kernel_grants.epoch & 0xFFFF_FFFF,
            as_number=self._plan.as_number,
            honours_preferences=self._plan.honours_preferences,
            reasons=self._reasons_written,
            imply=self.grants.imply,
        )
        written = bytes(entry)
        if written != self._settings_written:
            self._settings.update(_ZERO, written)
            self._settings_written = written

    def _look_at_network(self) -> None:
        """Our own addresses are no other's destination. Raises EnvironmentFault."""
        networks = frozenset(self._untouched())
        if networks != self._networks or not self._routes_written:
            self._networks = networks
            self._write_routes()

    def _write_routes(self) -> None:
        """What differs from what is there."""
        wanted: dict[tuple[int, bytes], bytes] = {}
        if not self._injected:
            wanted.update((_key_of(network), _PASSES) for network in NEVER_FORWARDED)
        for plan in reversed(self._plan.routes):  # of two with one prefix, the first counts (`Routes`)
            wanted[_key_of(plan.prefix)] = route_entry(_route_of(plan), self.numbers)
        wanted.update((_key_of(network), _PASSES) for network in self._networks)
        before, self._routes_written = self._routes_written, wanted
        for (version, key), entry in wanted.items():
            if before.get((version, key)) != entry:
                self._tries[version].update(key, entry)
        for version, key in before.keys() - wanted.keys():
            self._tries[version].delete(key)

    # --- interfaces -------------------------------------------------------------------------------------------------

    def _follow_all(self) -> None:
        """Raises EnvironmentFault."""
        for name, attached in self._attached.items():
            try:
                self._follow(name)
            except EnvironmentFault:
                if index_of(attached.name):  # else it has just gone again
                    raise

    def _follow(self, name: str) -> None:
        """Attaches the programs to the link's interface, and again when it went and came back.

        Raises EnvironmentFault: also for one with a queue that came back, whose tree has to be built anew. The next
        reader does.
        """
        attached = self._attached[name]
        index = index_of(attached.name)
        if index == attached.index:
            return
        if attached.index:
            attached.detach()
            self.programs.map("link_numbers").delete(NUMBER.pack(attached.index))
            attached.index = 0
            self._write_terms(name)  # the programs know a link again by the index in its terms
        if not index:
            return
        programs = [("gateway_arrive", AttachType.TCX_INGRESS)]
        if self.links[name].scheduler is not None and self._queues_kept is not None:
            if attached.was_here:
                raise EnvironmentFault("queue", attached.name, "the interface was away", "nothing: we start again")
            programs.append(("gateway_leave", AttachType.TCX_EGRESS))
        attached.index, attached.header_bytes, attached.was_here = index, header_bytes(attached.name), True
        self._write_terms(name)
        self._tell_index(name, attached)
        try:
            for program, kind in programs:
                attached.held.append(self.programs.program(program).attach(index, kind, where=attached.name))
        except EnvironmentFault:
            attached.detach()
            attached.index = 0
            raise

    def _tell_index(self, name: str, attached: _Attached) -> None:
        self.programs.map("link_numbers").update(NUMBER.pack(attached.index), NUMBER.pack(self.numbers[name]))


@dataclass(slots=True)
class _Attached:
    """Where a link's programs are. `index` 0: nowhere."""

    name: str
    index: int = 0
    header_bytes: int = ETHERNET_HEADER_BYTES
    was_here: bool = False
    held: list[Link] = field(default_factory=list)

    def detach(self) -> None:
        """When it returns no program of ours runs for a packet of that interface."""
        for link in self.held:
            link.close()
        self.held.clear()


def engine_faults(plan: GatewayPlan) -> tuple[str, ...]:
    """Why the programs cannot serve this gateway on this machine, each in a line; none: they can."""
    faults = [f"link {link.name} has a tunnel" for link in plan.links if link.tunnel is not None]
    faults += [f"link {link.name} marks by {link.marking.value}" for link in plan.links if link.marking not in MARKINGS]
    if len(plan.links) > layout.LINKS_MAX:
        faults.append(f"there are more than {layout.LINKS_MAX} links")
    if len(plan.routes) > layout.ROUTES_MAX // 2:
        faults.append(f"there are more than {layout.ROUTES_MAX // 2} routes")
    return (*faults, *machine_faults(GATEWAY_OBJECT))


def _no_draw() -> float:
    raise AssertionError("chance is the programs'")


# --- entries of the maps --------------------------------------------------------------------------------------------


def link_terms(link: LinkState, counter_index: Callable[[str], int], *, index: int, header: int) -> bytes:
    """struct link_terms."""
    plan, toll = link.plan, link.plan.toll
    has_queue = link.scheduler is not None
    limit = limit_bytes(plan)
    virtual = VirtualLink(
        capacity_bytes_per_s=plan.rate_bit_s // 8,
        buffer_bytes=plan.virtual_limit_bytes or limit,
        theta_ppm=plan.virtual_ppm,
    )
    marking = plan.marking if has_queue else MarkingRule.NONE
    assert marking in MARKINGS
    return layout.LINK_TERMS.pack(
        interface_index=index,
        header_bytes=header,
        peer=layout.PEERS.index(plan.peer.value),
        agreed=link.agreed,
        in_default=link.in_default,
        role=layout.ROLES.index(plan.role.value),
        marking=layout.MARKINGS.index(marking.value),
        queueing=layout.QUEUEINGS.index(plan.queueing.value) if has_queue else 0,
        names_itself=plan.peer is Peer.GATEWAY and plan.peer_as != 0,
        has_congestion=link.congestion is not None,
        peer_as=plan.peer_as,
        max_amount=plan.max_amount_nanodollars,
        packet_ceiling=link.packet_ceiling,
        overhead_bytes=plan.overhead_bytes,
        proportional_ppm=toll.proportional_ppm,
        fixed_picodollars=min(toll.fixed_nanodollars_per_packet * PICODOLLARS_PER_NANODOLLAR, layout.PICODOLLARS_MAX),
        per_byte_picodollars=min(toll.fixed_picodollars_per_byte, layout.PICODOLLARS_PER_BYTE_MAX),
        cap_picodollars=_cap_of(toll),
        virtual_bytes_per_s=min(virtual.virtual_bytes_per_s, layout.BYTES_PER_S_MAX),
        virtual_limit_bytes=virtual.virtual_buffer_bytes,
        rate_bytes_per_s=min(plan.rate_bit_s // 8, layout.BYTES_PER_S_MAX),
        limit_bytes=limit if has_queue else 0,
        counters=tuple(counter_index(f"link/{plan.name}/{name}") for name in LINK_COUNTERS),
    )


def _cap_of(toll: TollSchedule) -> int:
    cap = toll.cap_nanodollars
    return layout.NO_CAP if cap is None else min(cap * PICODOLLARS_PER_NANODOLLAR, layout.CAP_MAX)


def route_entry(route: Route, numbers: Mapping[str, int]) -> bytes:
    """struct route."""
    alternatives = b"".join(
        layout.ALTERNATIVE.pack(each.number, each.index, numbers[each.link]) for each in route.alternatives
    )
    return layout.ROUTE.pack(bitmap=route.bitmap, count=len(route.alternatives), alternatives=alternatives)


def _key_of(network: Network) -> tuple[int, bytes]:
    return network.version, layout.route_key(network.prefixlen, network.network_address.packed)
