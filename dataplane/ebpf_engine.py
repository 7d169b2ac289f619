"""The engine in the kernel: programs at the sockets and interfaces count, name and classify; HTB and pacing shape.

Decides: the order in which the parts come and go, and when an idle flow leaves the table. Refuses to know: what a class
is worth. The packet path is dataplane/ebpf/host.bpf.c; this process only writes plans into maps and reads counters out
of them, so whatever stops it stops no packet. Everything hangs on descriptors of this process: when it ends, the
programs are gone, nothing is classified any more, and HTB lets unclassified packets go by.
Source: ARCHITECTURE (data plane); host.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane import rules
from dataplane.attribution.forwarding import Forwarding
from dataplane.attribution.interfaces import Interfaces
from dataplane.attribution.processes import Processes, v2_mount
from dataplane.desired import DesiredState, Sysctl
from dataplane.ebpf import layout
from dataplane.ebpf.congestion import NAME as PRICE_CONGESTION_CONTROL
from dataplane.ebpf.congestion import WEIGHTS, PriceControl
from dataplane.ebpf.layout import Settings
from dataplane.ebpf.libbpf import AttachType, BpfObject, Link, RingBuffer
from dataplane.ebpf.paced import PacedFlows
from dataplane.ebpf.programs import ProgramBook
from dataplane.ebpf.sockets import HOST_OBJECT, namespace_cookie, put_sockets_back
from dataplane.host_engine import Ability, EngineName, Limit, PacedFlow, Question
from dataplane.marks_seen import MarksSeen, open_where_told
from dataplane.metering import FlowKey, FlowMeter, LinkMeter, Reading, Tally
from dataplane.shaping.plan import NO_SHAPING, ShapingPlan
from dataplane.shaping.trafficcontrol import LinkShape, TrafficControl

LOOK_AT_FILES_EVERY_S: Final = 5
"""Sockets that were handed from one process to another are found so often; a look takes about a millisecond."""

CLASS_IDLE_NS: Final = 3 * 10**9
"""Whoever has been silent for so long has no part by weight, until it is seen again: what is not promised to anyone is
shared by whoever borrows, and borrowers do not keep to weights as exactly."""

TAG_MAX: Final = 0xFFFF
"""A bridge's port is noted in 16 bits of the packet; one with a greater index is named by its bridge."""

SWEEP_EVERY_S: Final = 10
FLOW_IDLE_NS: Final = 120 * 10**9
ASKED_FOR_NS: Final = 90 * 10**9
"""Somebody counts on a flow's counts for so long after he asked for them."""

CROWDED_IDLE_NS: Final = 10 * 10**9
"""When the table is three quarters full."""

_NOTHING: Final = Tally()
_MAPS: Final = (
    "programs",
    "meters",
    "numbers",
    "free_numbers",
    "last_passes",
    "flows",
    "links",
    "link_shapes",
    "rules",
    "classes",
    "plan",
    "last_seen",
    "paced_flows",
)

_ASK_FOR_ECN: Final = DesiredState(owner="host-ecn", sysctls=(Sysctl(name="net.ipv4.tcp_ecn", value="1"),))

_CGROUP_HOOKS: Final = (
    ("on_create", AttachType.CGROUP_INET_SOCK_CREATE),
    ("on_connect4", AttachType.CGROUP_INET4_CONNECT),
    ("on_connect6", AttachType.CGROUP_INET6_CONNECT),
    ("on_socket", AttachType.CGROUP_SOCK_OPS),
)


PACED_WITHOUT_US_NS = 3_000_000_000
"""As long as the watchdog of the packet reader waits (`dataplane.watchdog`): then the transports answer marks again."""


@dataclass(slots=True)
class _Attached:
    """An interface with our programs on it, by the index that it had then, and its own counts at that time."""

    index: int
    links: list[Link]
    interface_before: tuple[int, int]


@dataclass(slots=True)
class _LinkTotal:
    """What an interface had counted, and we on it, before it went away."""

    sent: Tally = _NOTHING
    received: Tally = _NOTHING
    interface_sent: int = 0
    interface_received: int = 0


class EbpfEngine:
    """`HostEngine` in eBPF. `flows_max` bounds the flow table (about 300 bytes an entry)."""

    name = EngineName.EBPF

    def __init__(
        self,
        *,
        control: TrafficControl,
        ecn_record_path: Path,
        now_ns: Callable[[], int],
        flows_max: int = layout.FLOWS_MAX,
    ) -> None:
        self._control = control
        self._ecn_record_path = ecn_record_path
        self._now_ns = now_ns
        self._flows_max = flows_max
        self._plan = NO_SHAPING
        self._object: BpfObject | None = None
        self._price: PriceControl | None = None
        self._price_refused: EnvironmentFault | None = None
        self._ring: RingBuffer | None = None
        self._group_links: list[Link] = []
        self._attached: dict[str, _Attached] = {}
        self._ports: dict[int, Link] = {}  # of bridges, by their index
        self._shapes: dict[str, LinkShape] = {}
        self._settings = Settings()
        self._inodes: dict[str, int | None] = {}
        self._seconds = 0
        self._tracked = 0
        self._in_table: set[int] = set()
        self._idle: frozenset[int] = frozenset()
        self._gone: dict[str, _LinkTotal] = {}
        self._marks_seen: MarksSeen | None = None
        self._asked_ns: dict[bytes, int] = {}  # flows by their keys in the table: when somebody last wanted its meter
        self._trees_for_paces: frozenset[str] = frozenset()
        self.limits: tuple[Limit, ...] = ()

    # -- start and stop ----------------------------------------------------------------------------------------------

    async def start(self, plan: ShapingPlan) -> None:
        """Raises EnvironmentFault, and leaves nothing behind then."""
        try:
            self._load()
            self._attach_to_sockets()
            self._look_at_files()
            await self.apply(plan)
        except BaseException:
            await self.close()
            raise

    def _load(self) -> None:
        self._object = loaded = BpfObject(HOST_OBJECT, max_entries={"flows": self._flows_max})
        self._maps = {name: loaded.map(name) for name in _MAPS}
        self._marks_seen = open_where_told()
        self._paced = PacedFlows(self._maps["paced_flows"], self._is_accurate)
        self._settings.namespace = namespace_cookie()
        self._write_settings()
        processes = Processes()
        self._interfaces = Interfaces()
        self._forwarding = Forwarding(processes, self._interfaces)
        self._book = ProgramBook(
            programs=self._maps["programs"],
            meters=self._maps["meters"],
            numbers=self._maps["numbers"],
            free_numbers=self._maps["free_numbers"],
            last_passes=self._maps["last_passes"],
            processes=processes,
            forwarder=self._forwarding.behind,
        )
        self._load_price(loaded)
        self._ring = RingBuffer(loaded.map("seen"), self._on_seen)
        asyncio.get_running_loop().add_reader(self._ring.descriptor, self._ring.consume)

    def _load_price(self, loaded: BpfObject) -> None:
        """Registered only when a class wants it; loaded now, while we may: CAP_PERFMON is given up after the start."""
        try:
            self._price = PriceControl(weights=loaded.map(WEIGHTS), registered=False)
        except EnvironmentFault as fault:
            self._price_refused = fault

    def _attach_to_sockets(self) -> None:
        """At the root of all control groups; the programs look at sockets of our own network namespace only."""
        assert self._object is not None
        mount = v2_mount()
        if mount is None:
            remedy = "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"
            raise EnvironmentFault("name the programs behind", "sockets", "no control groups of version 2", remedy)
        descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, kind in _CGROUP_HOOKS:
                program = self._object.program(name)
                self._group_links.append(program.attach(descriptor, kind, where=str(mount)))
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Whatever of it fails, the rest is put back all the same."""
        loaded, self._object = self._object, None
        if loaded is None:
            return
        with contextlib.ExitStack() as last_first:
            last_first.callback(loaded.close)
            last_first.callback(self._forwarding.close)
            if self._marks_seen is not None:
                last_first.callback(self._marks_seen.close)
            if self._price is not None:
                last_first.callback(self._price.close)
                self._price = None
            last_first.callback(rules.restore, self._ecn_record_path)
            last_first.callback(self._control.restore)
            for link in (*self._group_links, *self._ports.values()):
                last_first.callback(link.close)
            for name in list(self._attached):
                last_first.callback(self._detach, name)
            last_first.callback(put_sockets_back, loaded)
            if self._ring is not None:
                last_first.callback(self._ring.close)
                asyncio.get_running_loop().remove_reader(self._ring.descriptor)
                self._ring = None
        self._group_links.clear()
        self._ports.clear()

    # -- the plan ----------------------------------------------------------------------------------------------------

    async def apply(self, plan: ShapingPlan) -> None:
        """Classes are there before packets are sent to them, and go after nobody is sent to them any more."""
        self._plan = plan
        self._idle = self._idle_classes()
        self._put_trees()
        limits = [
            Limit(ability=Ability.SHAPE_EGRESS, cause=shape.refused) for shape in self._shapes.values() if shape.refused
        ]
        limits += self._congestion_control_limits(plan)
        limits.append(Limit(ability=Ability.ASK_FIRST, cause="packets do not leave the kernel; use the nfqueue engine"))
        for number, traffic_class in enumerate(plan.classes):
            self._maps["classes"].update(layout.NUMBER.pack(number), layout.write_class(number, traffic_class))
        self._write_rules()
        for name in set(self._attached) - {link.interface for link in plan.links}:
            self._detach(name)
        self._reattach()
        self._tag_bridge_ports()
        self._put_paces()
        self._control.drop_unused()
        self._object_or_fail().run_iterator("look_at_sockets")
        self.limits = tuple(limits)

    def _congestion_control_limits(self, plan: ShapingPlan) -> list[Limit]:
        """Registers our own congestion control when a class wants it, and asks for ECN then: it lives on marks."""
        wanted = any(each.congestion_control == PRICE_CONGESTION_CONTROL for each in plan.classes)
        if not wanted:
            rules.restore(self._ecn_record_path)
            return []
        if self._price is None:
            return [Limit(ability=Ability.PRICE_CONGESTION_CONTROL, cause=str(self._price_refused))]
        try:
            rules.apply(_ASK_FOR_ECN, self._ecn_record_path)
            self._price.register()
        except EnvironmentFault as fault:
            return [Limit(ability=Ability.PRICE_CONGESTION_CONTROL, cause=str(fault))]
        return []

    def _write_rules(self) -> None:
        """Into the bank that is not in use; the settings' new generation then turns every flow to it."""
        self._inodes = {
            each.match.program: _inode_of(each.match.program)
            for each in self._plan.rules
            if each.match.program and each.match.program.startswith("/")
        }
        entries = layout.write_rules(self._plan, inode_of=_inode_of)
        bank = 1 - self._settings.bank
        for number, entry in enumerate(entries):
            self._maps["rules"].update(layout.NUMBER.pack(bank * layout.RULES_MAX + number), entry)
        self._settings.bank, self._settings.rules = bank, len(entries)
        self._settings.generation += 1
        self._write_settings()

    def _write_settings(self) -> None:
        self._maps["plan"].update(layout.NUMBER.pack(0), self._settings.pack())

    # -- paced flows -------------------------------------------------------------------------------------------------

    async def pace(self, flows: Sequence[PacedFlow]) -> None:
        """A link's first paced flow puts our tree there, which takes some 50 ms; a change of pace is one message."""
        self._object_or_fail()
        changed = self._paced.changes(flows)
        if changed is not None and (not changed or self._repace(changed)):
            self._paced.take_changes(flows, changed)
            self._hold_paces()
            return
        self._paced.take(flows, self._link_indexes(), self._now_ns())
        try:
            if not self._paced_interfaces() <= self._trees_for_paces:
                self._put_trees()
                self._reattach()
            for name in self._paced_interfaces():
                if (shape := self._shapes.get(name)) is not None and shape.refused:
                    raise EnvironmentFault("pace flows on", name, shape.refused)
            self._put_paces()
        except EnvironmentFault:
            self._paced.undo()
            raise

    def _is_accurate(self, key: FlowKey) -> bool:
        return self._marks_seen is not None and self._marks_seen.is_accurate(key)

    def _repace(self, changed: Sequence[PacedFlow]) -> bool:
        links = self._link_indexes()
        try:
            return self._control.repace(self._paced.classes_of(changed, links))
        except EnvironmentFault:
            with contextlib.suppress(EnvironmentFault):
                self._control.pace(self._paced.classes(links))
            raise

    def _put_trees(self) -> None:
        self._trees_for_paces = self._paced_interfaces()
        self._shapes = self._control.apply(self._plan, idle=self._idle, paced=self._trees_for_paces)

    def _put_paces(self) -> None:
        """Classes first, then the packets that are sent to them."""
        links = self._link_indexes()
        self._control.pace(self._paced.classes(links))
        if self._paced.tell(links):
            self._settings.pacing += 1
        self._hold_paces()

    def _hold_paces(self) -> None:
        """Each second anew: what an agent paced that hangs, or was stopped, the kernel lets go."""
        now_ns = self._now_ns()
        if now_ns >= self._settings.paced_until_ns:  # we were away: at once, not with the next second
            self._settings.pacing += 1
        self._settings.paced_until_ns = now_ns + PACED_WITHOUT_US_NS
        self._write_settings()

    def _paced_interfaces(self) -> frozenset[str]:
        return frozenset(self._paced.classes(self._link_indexes()))

    def _link_indexes(self) -> dict[str, int]:
        return {name: attached.index for name, attached in self._attached.items()}

    # -- interfaces --------------------------------------------------------------------------------------------------

    def _reattach(self) -> None:
        """Every interface of the plan that is there, with the index that it has now."""
        for link in self._plan.links:
            index = self._index_of(link.interface)
            attached = self._attached.get(link.interface)
            if attached is not None and attached.index != index:
                self._detach(link.interface)
                attached = None
            if index is None:
                continue
            shape = self._shapes.get(link.interface)
            if attached is None:
                self._attach(link.interface, index)
            self._write_shape(link.interface, shape)

    def _attach(self, name: str, index: int) -> None:
        loaded = self._object_or_fail()
        before = self._interface_packets(name)
        key = layout.NUMBER.pack(index)
        self._maps["links"].update(key, bytes(layout.LINK.size))
        links = [
            loaded.program("on_leave").attach(index, AttachType.TCX_EGRESS, where=name),
            loaded.program("on_arrive").attach(index, AttachType.TCX_INGRESS, where=name),
        ]
        self._attached[name] = _Attached(index, links, before)

    def _write_shape(self, name: str, shape: LinkShape | None) -> None:
        """Whether packets are given to HTB, by the field alone: the counters beside it go on."""
        egress = int(shape is not None and shape.egress)
        ifb = shape.ingress_ifb_index if shape is not None else 0
        key = layout.NUMBER.pack(self._attached[name].index)
        found = self._interfaces.read().get(name)
        bare = int(found is not None and not found.is_ethernet and not found.is_loopback)
        self._maps["link_shapes"].update(key, layout.LINK_SHAPE.pack(egress, ifb, bare))

    def _detach(self, name: str) -> None:
        attached = self._attached[name]
        self._gone[name] = self._link_total(name)
        del self._attached[name]
        for link in attached.links:
            link.close()
        key = layout.NUMBER.pack(attached.index)
        self._maps["link_shapes"].delete(key)
        self._maps["links"].delete(key)

    def _link_total(self, name: str) -> _LinkTotal:
        """With the interface's own counts as they are; those of one that has just gone are taken from ours."""
        attached, before = self._attached.get(name), self._gone.get(name, _LinkTotal())
        raw = self._maps["links"].lookup(layout.NUMBER.pack(attached.index)) if attached is not None else None
        if attached is None or raw is None:
            return before
        entry = layout.read_link(raw)
        if self._index_of(name) == attached.index:
            packets = self._interface_packets(name)
            own = (packets[0] - attached.interface_before[0], packets[1] - attached.interface_before[1])
        else:
            own = (entry.sent_skbs, entry.received_skbs)
        return _LinkTotal(
            before.sent.plus(entry.sent),
            before.received.plus(entry.received),
            before.interface_sent + own[0],
            before.interface_received + own[1],
        )

    # -- once a second -----------------------------------------------------------------------------------------------

    async def on_second(self) -> None:
        self._seconds += 1
        self._object_or_fail()
        if self._ring is not None:
            self._ring.consume()
        if any(_inode_of(path) != inode for path, inode in self._inodes.items()):
            self._write_rules()  # a program was installed, replaced or removed
        self._tag_bridge_ports()
        idle = self._idle_classes()
        self._paced.tidy(self._now_ns())
        is_due = idle != self._idle or self._paced_interfaces() != self._trees_for_paces
        is_due = is_due or self._control.needs_change(self._plan) or self._has_moved()
        if is_due or self._seconds % SWEEP_EVERY_S == 0:  # or its MTU has changed
            self._idle = idle
            self._put_trees()
            self._reattach()
            self._put_paces()
            self._control.drop_unused()
        elif not self._paced.is_idle:
            self._put_paces()
        if self._seconds % LOOK_AT_FILES_EVERY_S == 0:
            self._look_at_files()
        if self._seconds % SWEEP_EVERY_S == 0:
            self._sweep()
            self._book.recycle(current_pass=self._settings.current_pass, in_table=self._in_table)

    def _idle_classes(self) -> frozenset[int]:
        """Those that nothing was seen of lately; none of a plan that shares no link."""
        if not any(link.egress_bit_s or link.ingress_bit_s for link in self._plan.links):
            return frozenset()
        now_ns, idle = self._now_ns(), []
        for number in range(len(self._plan.classes)):
            seen_ns = int.from_bytes(self._maps["last_seen"].lookup(layout.NUMBER.pack(number)) or b"", sys.byteorder)
            if now_ns - seen_ns > CLASS_IDLE_NS:
                idle.append(number)
        return frozenset(idle)

    def _has_moved(self) -> bool:
        """Whether an interface of the plan went, came, or came back as another one."""
        for link in self._plan.links:
            attached = self._attached.get(link.interface)
            if self._index_of(link.interface) != (attached.index if attached is not None else None):
                return True
        return False

    def _look_at_files(self) -> None:
        loaded = self._object_or_fail()
        self._settings.current_pass += 1
        for self._settings.adopting in (0, 1):
            self._write_settings()
            loaded.run_iterator("look_at_files")

    def _sweep(self) -> None:
        """Idle flows leave the table; what they had counted is in their program's meter since it was counted."""
        flows = self._maps["flows"]
        crowded = 4 * self._tracked > 3 * self._flows_max
        oldest_ns = self._now_ns() - (CROWDED_IDLE_NS if crowded else FLOW_IDLE_NS)
        self._tracked, self._in_table = 0, set()
        wanted_ns = self._now_ns() - ASKED_FOR_NS
        self._asked_ns = {key: asked_ns for key, asked_ns in self._asked_ns.items() if asked_ns > wanted_ns}
        idle = []
        for key, entry in flows.items():
            if layout.last_ns_of(entry) < oldest_ns and not self._is_needed(key):
                idle.append(key)
            else:
                self._tracked += 1
                self._in_table.add(layout.program_number_of(entry))
        for key in idle:
            flows.delete(key)

    def _is_needed(self, key: bytes) -> bool:
        return key in self._asked_ns or self._paced.is_told(key)

    def _on_seen(self, sample: bytes) -> None:
        self._book.on_seen(*layout.PROGRAM_SEEN.unpack(sample))

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self) -> Reading:
        links = []
        for link in self._plan.links:
            total = self._link_total(link.interface)
            links.append(
                LinkMeter(
                    interface=link.interface,
                    sent=total.sent,
                    received=total.received,
                    interface_sent_packets=total.interface_sent,
                    interface_received_packets=total.interface_received,
                )
            )
        return Reading(
            now_ns=self._now_ns(),
            programs=tuple(self._book.read()),
            links=tuple(links),
            flows_tracked=self._tracked,
            packets_beyond_table=sum(layout.read_link(raw).beyond_table for _, raw in self._maps["links"].items()),
        )

    async def flows(self) -> list[FlowMeter]:
        found = [layout.read_flow(key, entry) for key, entry in self._maps["flows"].items()]
        self._tracked = len(found)
        return found

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        indexes = self._link_indexes().values()
        return [self._meter(key, (key.interface_index,) if key.interface_index else indexes) for key in keys]

    def _meter(self, key: FlowKey, indexes: Iterable[int]) -> FlowMeter | None:
        """On the interface where it was seen last."""
        found = []
        for index in indexes:
            raw = layout.write_flow_key(key._replace(interface_index=index))
            if (entry := self._maps["flows"].lookup(raw)) is not None:
                found.append(layout.read_flow(raw, entry))
                self._asked_ns[raw] = self._now_ns()
        return max(found, key=lambda each: each.last_ns, default=None)

    async def questions(self) -> list[Question]:
        return []

    async def answer(self, number: int, *, allow: bool) -> None:
        """Nobody was asked."""

    def _tag_bridge_ports(self) -> None:
        """Behind a bridge a packet has come in by "the bridge": its port is noted before, and names who sent it."""
        interfaces = self._interfaces.read().values()
        bridges = {each.interface_index for each in interfaces if each.kind == "bridge"}
        ports = {each.interface_index: each.name for each in interfaces if each.master_index in bridges}
        for index in set(self._ports) - set(ports):
            self._ports.pop(index).close()
        for index in set(ports) - set(self._ports):
            if index <= TAG_MAX:
                program = self._object_or_fail().program("on_bridge_port")
                self._ports[index] = program.attach(index, AttachType.TCX_INGRESS, where=ports[index])

    def _index_of(self, name: str) -> int | None:
        found = self._interfaces.read().get(name)
        return found.interface_index if found is not None else None

    def _interface_packets(self, name: str) -> tuple[int, int]:
        """Sent and received, as the interface counts; 0 when it is gone."""
        found = self._interfaces.read().get(name)
        return (found.sent_packets, found.received_packets) if found is not None else (0, 0)

    def _object_or_fail(self) -> BpfObject:
        assert self._object is not None, "the engine is not started"
        return self._object


def _inode_of(path: str | None) -> int | None:
    try:
        return os.stat(path).st_ino if path else None
    except OSError:
        return None
