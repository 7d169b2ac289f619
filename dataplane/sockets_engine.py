"""The engine for a machine that grants us nothing: it reads what the kernel tells anyone, and adds up.

Decides: which link a TCP socket's bytes are counted on, and what is left for the unattributed. Refuses to know: what
any of it is worth. Source: `dataplane.attribution.inet_diag` (struct tcp_info), rtnetlink statistics of interfaces.

A TCP socket counts its payload and its segments itself; headers are estimated from the segments: IP, TCP, and the
timestamps option if the connection has it. What an interface did beyond that (UDP, other hosts' packets, the last
bytes of sockets that closed between two looks) is the unattributed's, so that the sum over programs is the sum over
links and a meter never silently reads zero.

The interfaces are read before the sockets: what passes in between is then counted by its program now and by the
interface later, and the unattributed, which never falls, does not gain by it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.attribution.inet_diag import CARRYING_STATES, TCP, InetDiag, Socket, State, TcpInfo
from dataplane.attribution.interfaces import Interface, Interfaces
from dataplane.attribution.processes import Processes
from dataplane.attribution.socket_owners import SocketOwners
from dataplane.host_engine import Ability, EngineName, Limit, PacedFlow, Question
from dataplane.metering import UNATTRIBUTED, FlowKey, FlowMeter, LinkMeter, Program, ProgramMeter, Reading, Tally
from dataplane.shaping.matching import Matcher
from dataplane.shaping.plan import NO_SHAPING, ShapingPlan

PROGRAMS_MAX: Final = 4096
"""Programs told apart in one life of the engine; the others' traffic is the unattributed's."""

OWNER_READINGS: Final = 16
"""A socket's owner is looked up at the first two readings (a listener hands it to a worker), then every so many."""

_V4_HEADER_BYTES: Final = 20
_V6_HEADER_BYTES: Final = 40
_TCP_HEADER_BYTES: Final = 20
_TIMESTAMPS_BYTES: Final = 12
_SEGMENTS_WRAP: Final = 1 << 32
_ZERO: Final = Tally()
_NOTHING_YET: Final = TcpInfo(
    bytes_sent=0,
    bytes_acked=0,
    bytes_received=0,
    segments_out=0,
    segments_in=0,
    delivered_packets=0,
    delivered_ce_packets=0,
    rtt_us=0,
    pacing_byte_s=0,
    has_timestamps=False,
)
_NOT_PRIVILEGED: Final = "it reads what the kernel tells anyone and changes nothing; as root, eBPF or NFQUEUE can"
_LIMITS: Final = (
    Limit(
        ability=Ability.COUNT,
        cause="a TCP socket's bytes after the last look at it, headers beyond an estimate, and ECN marks are not "
        "known; traffic that only crosses this host is not told apart. What it misses is counted as unattributed",
    ),
    Limit(ability=Ability.COUNT_UDP, cause="the kernel keeps no counts of a UDP socket: unattributed"),
    Limit(ability=Ability.ATTRIBUTE_FIRST_PACKET, cause="sockets are seen once a second"),
    *(
        Limit(ability=ability, cause=f"plans are accepted but not enforced: {_NOT_PRIVILEGED}")
        for ability in (
            Ability.SHAPE_EGRESS,
            Ability.SHAPE_INGRESS,
            Ability.PACE,
            Ability.CONGESTION_CONTROL,
            Ability.PRICE_CONGESTION_CONTROL,
            Ability.ASK_FIRST,
        )
    ),
    Limit(ability=Ability.PACE_FLOW, cause=f"no packet is held or changed here: {_NOT_PRIVILEGED}"),
)
_ONE_USER: Final = Limit(
    ability=Ability.COUNT, cause="programs of other users are named by their user and unit alone: we are not root"
)


@dataclass(slots=True, kw_only=True)
class _Direction:
    """One direction of a link: what the interface did, what programs claim of it, and what nobody claims."""

    seen_packets: int = 0
    seen_bytes: int = 0
    packets: int = 0
    bytes: int = 0
    claimed: Tally = _ZERO
    rest: Tally = _ZERO

    def advance(self, packets: int, size_bytes: int) -> None:
        """The interface's counters now; smaller ones are those of a new interface of that name."""
        if packets < self.seen_packets or size_bytes < self.seen_bytes:
            self.seen_packets = self.seen_bytes = 0
        self.packets += packets - self.seen_packets
        self.bytes += size_bytes - self.seen_bytes
        self.seen_packets, self.seen_bytes = packets, size_bytes

    def settle(self) -> None:
        """Never falls: claims may run ahead of the interface, which counts an offloaded packet as one."""
        self.rest = Tally(
            max(self.rest.packets, self.packets - self.claimed.packets),
            max(self.rest.bytes, self.bytes - self.claimed.bytes),
        )


@dataclass(slots=True, kw_only=True)
class _Link:
    interface_index: int = 0
    sent: _Direction = field(default_factory=_Direction)
    received: _Direction = field(default_factory=_Direction)
    is_counted: bool = False

    def begin_at(self, interface: Interface, *, is_new: bool) -> None:
        """From what the interface has counted so far; of a new one that is ours to count too."""
        self.sent.seen_packets = 0 if is_new else interface.sent_packets
        self.sent.seen_bytes = 0 if is_new else interface.sent_bytes
        self.received.seen_packets = 0 if is_new else interface.received_packets
        self.received.seen_bytes = 0 if is_new else interface.received_bytes


@dataclass(slots=True, kw_only=True)
class _Flow:
    """A socket since the engine knows it."""

    key: FlowKey
    info: TcpInfo
    first_ns: int
    last_ns: int
    number: int = 0
    process_id: int = 0
    readings: int = 0
    sent: Tally = _ZERO
    received: Tally = _ZERO


class SocketsEngine:
    """A `HostEngine`. A look costs about 10 ms for 1000 sockets, more when new ones must be named."""

    name: EngineName = EngineName.SOCKETS

    def __init__(self, *, processes: Processes | None = None, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.limits: tuple[Limit, ...] = _LIMITS if os.geteuid() == 0 else (*_LIMITS, _ONE_USER)
        self._processes = processes or Processes()
        self._now_ns = now_ns
        self._wanted: frozenset[str] = frozenset()
        self._matcher = Matcher(NO_SHAPING)
        self._listening: set[int] = set()  # ports
        self._diag: InetDiag | None = None
        self._interfaces: Interfaces | None = None
        self._owners: SocketOwners | None = None
        self._links: dict[str, _Link] = {}
        self._indexes: set[int] = set()  # of all interfaces at the last look
        self._flows: dict[int, _Flow] = {}
        self._programs: list[Program] = [UNATTRIBUTED]  # by number
        self._numbers: dict[Program, int] = {UNATTRIBUTED: 0}
        self._sent: list[Tally] = [_ZERO]  # by program number
        self._received: list[Tally] = [_ZERO]

    # -- the port ----------------------------------------------------------------------------------------------------

    async def start(self, plan: ShapingPlan) -> None:
        """Counts from now on, in the network namespace of the calling thread. Raises EnvironmentFault."""
        self._interfaces = Interfaces()
        self._diag = InetDiag()
        self._owners = SocketOwners(self._processes, self._diag)
        self._follow(plan)
        self._look(is_first=True)

    async def apply(self, plan: ShapingPlan) -> None:
        """Links that are new in the plan count from now on; those that left it keep what they had."""
        self._look()
        self._follow(plan)
        if self._interfaces is not None:
            self._advance_links(self._interfaces.read(), is_first=True)

    async def on_second(self) -> None:
        self._look()

    async def read(self) -> Reading:
        """Looks anew."""
        self._look()
        rest_sent = rest_received = _ZERO
        for link in self._links.values():
            rest_sent = rest_sent.plus(link.sent.rest)
            rest_received = rest_received.plus(link.received.rest)
        # Number 0 has claims as well: of sockets that no program has.
        sent = [self._sent[0].plus(rest_sent), *self._sent[1:]]
        received = [self._received[0].plus(rest_received), *self._received[1:]]
        return Reading(
            now_ns=self._now_ns(),
            programs=tuple(
                ProgramMeter(number=number, program=program, sent=sent[number], received=received[number])
                for number, program in enumerate(self._programs)
            ),
            links=tuple(
                LinkMeter(
                    interface=name,
                    sent=link.sent.claimed.plus(link.sent.rest),
                    received=link.received.claimed.plus(link.received.rest),
                    interface_sent_packets=link.sent.packets,
                    interface_received_packets=link.received.packets,
                )
                for name, link in self._links.items()
            ),
            flows_tracked=len(self._flows),
        )

    async def flows(self) -> list[FlowMeter]:
        """TCP sockets that were there at the last look."""
        return [self._meter(flow) for flow in self._flows.values()]

    def _meter(self, flow: _Flow) -> FlowMeter:
        return FlowMeter(
            key=flow.key,
            program_number=flow.number,
            process_id=flow.process_id,
            traffic_class=self._class_of(flow),
            sent=flow.sent,
            received=flow.received,
            first_ns=flow.first_ns,
            last_ns=flow.last_ns,
        )

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        """As of the last look; marks are not known, so they are 0 here: `limits` says it."""
        found = {flow.key: flow for flow in self._flows.values()}
        found |= {key._replace(interface_index=0): flow for key, flow in found.items()}
        return [self._meter(flow) if (flow := found.get(key)) is not None else None for key in keys]

    async def pace(self, flows: Sequence[PacedFlow]) -> None:
        """Only none."""
        if flows:
            raise EnvironmentFault(
                "pace", "a flow", "this engine holds and changes no packet", "run the agent as root: ebpf or nfqueue"
            )

    async def questions(self) -> list[Question]:
        """None: nothing can be held."""
        return []

    async def answer(self, number: int, *, allow: bool) -> None:
        """Nothing was asked."""

    async def close(self) -> None:
        for opened in (self._interfaces, self._diag):
            if opened is not None:
                opened.close()
        self._interfaces = self._diag = self._owners = None

    def _follow(self, plan: ShapingPlan) -> None:
        self._wanted = frozenset(link.interface for link in plan.links)
        self._matcher = Matcher(plan)

    def _class_of(self, flow: _Flow) -> int:
        """The class it would be shaped in. Who listens on its port did not begin it."""
        key = flow.key
        inbound = key.local_port in self._listening
        program = self._programs[flow.number]
        return self._matcher.class_of(program, TCP, key.local_port, key.remote, key.remote_port, inbound)

    # -- a look ------------------------------------------------------------------------------------------------------

    def _look(self, *, is_first: bool = False) -> None:
        """is_first: what interfaces and sockets did before is not ours to count."""
        if self._interfaces is None or self._diag is None or self._owners is None:
            return
        now_ns = self._now_ns()
        interfaces = self._interfaces.read()
        self._advance_links(interfaces, is_first=is_first)
        addresses = self._interfaces.addresses()
        loopback = next((each.interface_index for each in interfaces.values() if each.is_loopback), 0)
        dump = self._diag.tcp(CARRYING_STATES | {State.LISTEN})
        self._listening = {each.local_port for each in dump if each.state == State.LISTEN}
        sockets = {each.cookie: each for each in dump if each.tcp is not None and each.state != State.LISTEN}
        self._flows = {
            cookie: self._flows.get(cookie)
            or _new_flow(each, _interface_of(each, addresses, loopback), now_ns, is_first)
            for cookie, each in sockets.items()
        }
        self._name(sockets, self._owners)
        by_index = {link.interface_index: link for link in self._links.values() if link.is_counted}
        for cookie, flow in self._flows.items():
            self._count(flow, sockets[cookie], by_index.get(flow.key.interface_index), now_ns)
        for link in self._links.values():
            link.sent.settle()
            link.received.settle()

    def _advance_links(self, interfaces: dict[str, Interface], *, is_first: bool) -> None:
        for name, link in self._links.items():
            link.is_counted = link.is_counted and name in interfaces and self._is_link(interfaces[name])
        for name, interface in interfaces.items():
            if not self._is_link(interface):
                continue
            link = self._links.setdefault(name, _Link())
            if link.interface_index != interface.interface_index:
                # Another interface of this name began at zero, unless it was there before under another name.
                is_new = not is_first and interface.interface_index not in self._indexes
                link.interface_index = interface.interface_index
                link.begin_at(interface, is_new=is_new)
            elif not link.is_counted:
                link.begin_at(interface, is_new=False)  # it was left out of the plan for a while
            link.is_counted = True
            link.sent.advance(interface.sent_packets, interface.sent_bytes)
            link.received.advance(interface.received_packets, interface.received_bytes)
        self._indexes = {each.interface_index for each in interfaces.values()}

    def _is_link(self, interface: Interface) -> bool:
        """Named by the plan. A plan without links means all, but for loopback and the ports of a bridge or bond."""
        if self._wanted:
            return interface.name in self._wanted
        return not interface.is_loopback and not interface.master_index

    def _name(self, sockets: dict[int, Socket], owners: SocketOwners) -> None:
        """Who has the sockets that are new, or that were not asked about for a while."""
        due: list[tuple[_Flow, Socket]] = []
        for cookie, flow in self._flows.items():
            if flow.readings < 2 or flow.readings % OWNER_READINGS == 0:
                due.append((flow, sockets[cookie]))
            flow.readings += 1
        owners.learn(each for _, each in due)
        for flow, each in due:
            owner = owners.owner_of_socket(each, is_learnt=True)
            # Who had it before it was closed, or the process ended, goes on being named.
            if owner and (owner.process_id or not flow.process_id):
                flow.number, flow.process_id = self._number(owner.program), owner.process_id

    def _number(self, program: Program) -> int:
        number = self._numbers.get(program)
        if number is None:
            number = len(self._numbers)
            if number >= PROGRAMS_MAX:
                return 0
            self._numbers[program] = number
            self._programs.append(program)
            self._sent.append(_ZERO)
            self._received.append(_ZERO)
        return number

    def _count(self, flow: _Flow, each: Socket, link: _Link | None, now_ns: int) -> None:
        assert each.tcp is not None
        sent, received = _advance(flow.info, each.tcp, len(each.local))
        flow.info = each.tcp
        if sent == _ZERO and received == _ZERO:
            return
        flow.last_ns = now_ns
        if link is None:
            return  # over loopback, or over a link that the plan does not name
        flow.sent = flow.sent.plus(sent)
        flow.received = flow.received.plus(received)
        self._sent[flow.number] = self._sent[flow.number].plus(sent)
        self._received[flow.number] = self._received[flow.number].plus(received)
        link.sent.claimed = link.sent.claimed.plus(sent)
        link.received.claimed = link.received.claimed.plus(received)


def _interface_of(each: Socket, addresses: dict[bytes, int], loopback: int) -> int:
    """The one that has its address; 0 when none has. What this host sends to itself takes loopback."""
    if each.remote in addresses:
        return loopback
    return each.bound_interface_index or addresses.get(each.local, 0)


def _new_flow(each: Socket, interface_index: int, now_ns: int, is_first: bool) -> _Flow:
    assert each.tcp is not None
    key = FlowKey(interface_index, TCP, each.local, each.local_port, each.remote, each.remote_port)
    return _Flow(key=key, info=each.tcp if is_first else _NOTHING_YET, first_ns=now_ns, last_ns=now_ns)


def _advance(before: TcpInfo, after: TcpInfo, address_bytes: int) -> tuple[Tally, Tally]:
    """Sent and received meanwhile, at the IP layer. The kernel counts segments in 32 bits."""
    header_bytes = (_V4_HEADER_BYTES if address_bytes == 4 else _V6_HEADER_BYTES) + _TCP_HEADER_BYTES
    header_bytes += _TIMESTAMPS_BYTES * after.has_timestamps
    out = (after.segments_out - before.segments_out) % _SEGMENTS_WRAP
    into = (after.segments_in - before.segments_in) % _SEGMENTS_WRAP
    sent_bytes = max(after.bytes_sent - before.bytes_sent, 0) + out * header_bytes
    received_bytes = max(after.bytes_received - before.bytes_received, 0) + into * header_bytes
    return Tally(out, sent_bytes), Tally(into, received_bytes)
