"""The host's packet core where programs in the kernel treat the packets: commands become commands to the programs.

Decides: which flows a report is about, and what is written where. Refuses to know: how a packet is treated (dataplane/
ebpf/payer.bpf.c, which decides as `HostCore` does). What commands mean, which grant replaces which, what is answered:
`HostCore`, whose state is mirrored under the flow's lock after each command.

The programs know the time of day from here, and believe it for three seconds: of a reader that hangs nobody can say
which grants are still valid, so nothing is paid any more; and the programs of one that died are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, assert_never

from billpay.grants import MAX_BURST_NANODOLLARS, NS_PER_S
from billpay.messages import FlowSelector
from billpay.packet import FlowKey
from dataplane.ebpf import payer_layout as layout
from dataplane.ebpf.interfaces import ETHERNET_HEADER_BYTES, header_bytes, index_of, name_of
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.libbpf import AttachType, BpfObject, Link, Map, Program, RingBuffer
from dataplane.ebpf.payer_layout import CommandKind, EventKind, Listed, Outcome
from dataplane.port import Action, Counters
from hostagent.payments.commands import (
    Answer,
    Command,
    Done,
    DropFlow,
    FlowSeen,
    PayFlow,
    ProbeSeen,
    ReceiptSeen,
    Refused,
    ReturnFlow,
    SetUplink,
)
from hostagent.payments.datapath import MAX_AMOUNT, MAX_EVENTS, HostCore, UplinkState
from hostagent.payments.flowtable import (
    IDLE_NS,
    REPORTS_AT_ONCE,
    Allowance,
    FlowRecord,
    FlowTable,
    key_of,
    oads_of,
    selector_of,
)
from hostagent.payments.plan import HostPlan, UplinkPlan

PAYER_OBJECT: Final = Path(layout.__file__).parent / "payer.bpf.o"
BELIEVED_NS: Final = 3_000_000_000
WIND_NS: Final = 500_000_000
NOTED_AT_ONCE: Final = REPORTS_AT_ONCE
"""So many changes can be read while others are noted: with more, who goes first is asked of the flows themselves."""
MAX_SHARE: Final = (1 << 63) - 1
_FIRST: Final = layout.NUMBER.pack(0)
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GTXCSUM: Final = 0x16
_IFREQ_POINTER: Final = struct.Struct("@16sP16x")


class PayerPrograms:
    """The programs and their maps. `begin` before anything else."""

    def __init__(
        self, counters: Map, *, peers_max: int, flows_max: int = layout.FLOWS_MAX, injected: bool = False
    ) -> None:
        """`counters`: a `KernelCounters`' array. Raises EnvironmentFault: this kernel does not take the programs."""
        self.object = BpfObject(
            PAYER_OBJECT,
            shared={"counters": counters},
            max_entries={"peers": max(1, peers_max), "flows": flows_max},
            constants={"injected": 1} if injected else None,
        )
        self.settings = layout.Settings()
        self._written = b""
        self._settings, self._flows = self.object.map("settings"), self.object.map("flows")
        self._uplinks = self.object.map("uplinks")
        self._listed = self.object.map("listed").mapped(writable=False)
        self._noted = self.object.map("changed").mapped(writable=False)
        self._progress = self.object.map("progress").mapped(writable=False)
        self._obey, self._list, self._sweep = map(self.object.program, ("payer_obey", "payer_list", "payer_sweep"))

    def begin(self, counter_index: Callable[[str], int], peers: frozenset[bytes]) -> None:
        self.settings = layout.Settings(counters=tuple(map(counter_index, layout.COUNTERS)), peers=len(peers))
        self.write_settings()
        for address in peers:
            self.object.map("peers").update(layout.pack_peer(address), b"\1")

    def write_settings(self) -> None:
        """What `settings` says holds from the next packet on."""
        written = self.settings.pack()
        if written != self._written:
            self._settings.update(_FIRST, written)
            self._written = written

    def write_uplink(self, interface_index: int, uplink: layout.Uplink) -> None:
        self._uplinks.update(layout.NUMBER.pack(interface_index), uplink.pack())

    def forget_uplink(self, interface_index: int) -> None:
        self._uplinks.delete(layout.NUMBER.pack(interface_index))

    def obey(self, command: layout.Command) -> Outcome:
        return Outcome(self._obey.test_run(command.pack()).retval)

    def progress(self) -> layout.Progress:
        return layout.read_progress(self._progress)

    def noted(self, after: int, until: int) -> list[Listed] | None:
        """Flows by the orders that they got as they changed; None where those cannot be read, or are too many."""
        if not 0 <= until - after <= NOTED_AT_ONCE:
            return None
        found: dict[bytes, Listed] = {}
        for order in range(after + 1, until + 1):
            changed = layout.read_changed(self._noted, order)
            if changed is None:
                return None
            found[changed.key] = Listed(changed.key, order, changed.turn, concerns_money=True)
        return list(found.values())

    def changed(self, since_turn: int) -> list[Listed]:
        """Flows that changed after it, in no order. Goes through the whole table."""
        return self._ask(self._list, layout.pack_question(since_turn=since_turn))

    def forget_silent(self, since_ns: int) -> list[Listed]:
        """Forgets flows; those of them that had a grant, in no order."""
        return self._ask(self._sweep, layout.pack_question(silent_since_ns=since_ns))

    def _ask(self, program: Program, question: bytes) -> list[Listed]:
        count = program.test_run(question).retval
        return layout.read_listed(self._listed[: count * layout.LISTED_BYTES])

    def flow(self, key: bytes) -> layout.FlowState | None:
        """As no packet is in the middle of changing it."""
        raw = self._flows.lookup_locked(key)
        return None if raw is None else layout.read_flow(raw)

    def close(self) -> None:
        for memory in (self._listed, self._noted, self._progress):
            memory.close()
        self.object.close()


class KernelFlows(FlowTable):
    """Flows as the programs keep them. A record here stands for what commands said of its flow; counts are read."""

    def __init__(self, programs: PayerPrograms, uplinks: Sequence[str]) -> None:
        super().__init__()
        self._programs = programs
        self._uplinks = ("", *uplinks)
        self._late: dict[bytes, tuple[int, int]] = {}  # turn and place of those that an answer had no room for
        self._turn_order = -1  # no flow that changed in this turn has a smaller one; -1: not known
        self._silent_ns = 0  # no flow was silent for longer than since then

    def find_or_add(self, key: FlowKey) -> tuple[FlowRecord, list[FlowRecord]]:
        record, forgotten = super().find_or_add(key)
        for each in forgotten:
            self._programs.obey(layout.Command(kind=CommandKind.FORGET, flow=key_of(each.selector)))
        return record, forgotten

    def touch(self, key: FlowKey, record: FlowRecord, now_ns: int) -> None:
        """A command spoke of it: the programs know it from now on, if they did not yet."""
        super().touch(key, record, now_ns)
        self._programs.obey(layout.Command(kind=CommandKind.FIND, flow=key, now_ns=now_ns))

    def forget_idle(self, now_ns: int) -> list[FlowRecord]:
        """Every silent flow goes, wherever it stands; told of are those that had grants.

        To look for them takes milliseconds, so nobody does before the first one can be there.
        """
        if now_ns - IDLE_NS < self._silent_ns:
            return []
        gone = self._programs.forget_silent(now_ns - IDLE_NS)
        self._silent_ns = min(self._programs.progress().oldest_ns, now_ns)
        # One that comes again is new, and waits for no answer.
        self._late = {key: place for key, place in self._late.items() if self._programs.flow(key) is not None}
        records = (self._flows.pop(layout.read_key(listed.key), None) for listed in gone)
        return [record for record in records if record is not None]

    def end_turn(self, since_turn: int) -> list[FlowRecord]:
        after = self._turn_order if since_turn >= self.turn - 1 else -1
        self._turn_order = self._programs.progress().order  # before the new turn is told: its flows get greater ones
        self.turn += 1
        self._programs.settings.turn = self.turn
        self._programs.write_settings()
        changed = sorted(self._changed(max(0, since_turn), after), reverse=True)
        if len(changed) > REPORTS_AT_ONCE:
            changed.sort(key=lambda item: not item[1].concerns_money)
            left = changed[REPORTS_AT_ONCE:]
            for place, (_, listed) in enumerate(reversed(left), start=-len(left)):
                self._late[listed.key] = (self.turn, place)
        read = (self._read(listed.key) for _, listed in changed[:REPORTS_AT_ONCE])
        return [record for record in read if record is not None]

    def _changed(self, since_turn: int, after: int) -> list[tuple[tuple[int, int], Listed]]:
        """Flows, and by turn and place when they changed: late ones in the turn that they wait for.

        `after`: no flow that changed after `since_turn` has a smaller or equal order; -1: not known.
        """
        found = None
        if after >= 0 and not self._late:
            found = self._programs.noted(after, self._programs.progress().order)
        if found is None:
            found = self._programs.changed(0 if self._late else since_turn)
        late, self._late = self._late, {}
        changed = []
        for listed in found:
            when = listed.turn, listed.order
            if (waits := late.get(listed.key)) is not None and waits[0] >= listed.turn:
                self._late[listed.key] = when = waits
            if when[0] > since_turn:
                changed.append((when, listed))
            else:
                self._late.pop(listed.key, None)
        return changed

    def _read(self, key: bytes) -> FlowRecord | None:
        """A record with all that is counted; None of a flow that is gone."""
        state, flow = self._programs.flow(key), layout.read_key(key)
        if state is None:
            return None
        record = FlowRecord(selector_of(flow))
        told = self.get(flow)
        if told is not None:
            record.spending, record.returning = told.spending, told.returning
        record.uplink = self._uplinks[state.uplink]
        record.last_ns = state.last_ns
        record.out_packets, record.out_bytes = state.out_packets, state.out_bytes
        record.out_paid_packets = state.out_paid_packets
        record.in_packets, record.in_bytes = state.in_packets, state.in_bytes
        record.in_paid_packets, record.in_ce_packets = state.in_paid_packets, state.in_ce_packets
        record.received, record.refunded, record.returned = state.received, state.refunded, state.returned
        record.pool = state.pool
        for words, packets, received, lowest, path_length in state.observed:
            record.observed[words] = [packets, received, lowest, path_length]
        return record


class KernelPayer(HostCore):
    """A `KernelCore` (dataplane.ebpf.kernel_reader). Packets do not come to it.

    `programs`: for tests that run them by themselves: made with `injected`, their clock is what `programs.settings`
    says, and no interface has to be there.
    """

    def __init__(self, plan: HostPlan, counters: KernelCounters, *, programs: PayerPrograms | None = None) -> None:
        """Raises EnvironmentFault: this kernel does not take the programs, or an interface is not there."""
        self._late_release = _LateRelease(counters)
        super().__init__(plan, self._late_release)
        self.programs = programs or PayerPrograms(counters.map, peers_max=len(plan.peers))
        self.programs.begin(counters.index, plan.peers)
        self.flows = KernelFlows(self.programs, [uplink.name for uplink in plan.uplinks])
        self._follows = programs is None
        self._attached = {uplink.name: _Attached(uplink, follows=self._follows) for uplink in plan.uplinks}
        self._ring = RingBuffer(self.programs.object.map("seen"), self._on_sample)
        self._wind_ns = 0
        for name in self._attached:
            self._write_uplink(name)

    # --- the loop's side --------------------------------------------------------------------------------------------

    def on_go(self, now_ns: int) -> None:
        """Raises EnvironmentFault."""
        self.on_timer(now_ns)

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        """Says that somebody is there, and follows interfaces that went and came back. Raises EnvironmentFault."""
        self._wind(now_ns)
        if self._follows:
            for name in self._attached:
                self._follow(name)
        return ()

    def next_deadline_ns(self) -> int | None:
        return self._wind_ns

    def descriptors(self) -> Sequence[int]:
        return (self._ring.descriptor,)

    def on_readable(self, _descriptor: int, _now_ns: int) -> None:
        self._ring.consume()

    def take_events(self) -> list[bytes]:
        self._ring.consume()
        return super().take_events()

    def on_stop(self, _now_ns: int) -> None:
        """Detaches the programs. What is in their flows' pools then is nobody's: the next core says so."""
        for attached in self._attached.values():
            attached.detach()

    def close(self) -> None:
        """Detaches as well; kernel memory is given back. Nothing may be asked afterwards."""
        self.on_stop(0)
        self._ring.close()
        self.programs.close()

    def _wind(self, now_ns: int) -> None:
        settings = self.programs.settings
        settings.unix_s, settings.epoch = self._unix_s, self._epoch
        settings.now_ns, settings.until_ns = now_ns, now_ns + BELIEVED_NS
        self.programs.write_settings()
        self._wind_ns = now_ns + WIND_NS

    # --- commands ---------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        answer = super().on_message(data, now_ns, unix_s)
        self._wind(now_ns)
        self._late_release.release_now()
        return answer

    def _obey(self, command: Command, now_ns: int) -> Answer:
        answer = super()._obey(command, now_ns)
        if isinstance(command, SetUplink) and isinstance(answer, Done):
            self._write_uplink(command.uplink)
        return answer

    def _pay(self, command: PayFlow, now_ns: int) -> Answer:
        before = self._record(command.flow).spending
        answer = super()._pay(command, now_ns)
        record = self._record(command.flow)
        if not isinstance(answer, Done) or record.spending is None:
            return answer
        is_new = record.spending is not before
        told = _told(CommandKind.PAY, record.spending, now_ns, is_new=is_new, amount=record.amount, slots=record.slots)
        return self._tell(told)

    def _return(self, command: ReturnFlow, now_ns: int) -> Answer:
        before = self._record(command.flow).returning
        answer = super()._return(command, now_ns)
        record = self._record(command.flow)
        if not isinstance(answer, Done) or record.returning is None:
            return answer
        is_new = record.returning is not before
        ceiling = max(0, min(record.ceiling, MAX_AMOUNT))
        share = min(command.share_nanodollars, MAX_SHARE)
        return self._tell(
            _told(CommandKind.RETURN, record.returning, now_ns, is_new=is_new, amount=ceiling, share=share)
        )

    def _drop(self, command: DropFlow) -> Answer:
        self.programs.obey(layout.Command(kind=CommandKind.DROP, flow=key_of(command.flow)))
        return super()._drop(command)

    def _take_late_share(self, record: FlowRecord, share: int) -> None:
        """The program does, under the lock of the flow whose pool it is."""

    def _record(self, flow: FlowSelector) -> FlowRecord:
        """As commands left it, or what a new one would be."""
        with contextlib.suppress(ValueError):  # an address that is none: refused by whoever has to know it
            return self.flows.get(key_of(flow)) or FlowRecord(flow)
        return FlowRecord(flow)

    def _tell(self, told: layout.Command) -> Answer:
        if self.programs.obey(told) is Outcome.NO_ROOM:
            return Refused(code="no-room", message="the programs' table of flows is full")
        return Done()

    # --- events -----------------------------------------------------------------------------------------------------

    def _on_sample(self, raw: bytes) -> None:
        if len(self._events) >= MAX_EVENTS:
            return
        seen = layout.read_event(raw)
        flow = selector_of(seen.flow)
        match seen.kind:
            case EventKind.FLOW_SEEN:
                self._event(FlowSeen(flow=flow))
            case EventKind.RECEIPT_SEEN:
                self._event(ReceiptSeen(flow=flow))
            case EventKind.PROBE_SEEN:
                self._event(
                    ProbeSeen(
                        flow=flow,
                        payload=seen.payload,
                        remaining=seen.remaining,
                        oads=oads_of(seen.words),
                        arrived_ns=seen.arrived_ns,
                    )
                )
            case _:
                assert_never(seen.kind)

    # --- interfaces -------------------------------------------------------------------------------------------------

    def _follow(self, name: str) -> None:
        """Attaches the programs to the uplink's interface, and again when it went and came back."""
        attached = self._attached[name]
        index, sums = index_of(attached.interface), _sums(attached.interface)
        if index == attached.index and attached.held:
            if sums != attached.sums:
                attached.sums = sums
                self._write_uplink(name)
            return
        attached.detach()
        self.programs.forget_uplink(attached.index)
        attached.index = index
        if not index:
            return
        attached.header_bytes, attached.sums = header_bytes(attached.interface), sums
        self._write_uplink(name)
        for program, kind in (("payer_leave", AttachType.TCX_EGRESS), ("payer_arrive", AttachType.TCX_INGRESS)):
            attached.held.append(self.programs.object.program(program).attach(index, kind, where=attached.interface))

    def _write_uplink(self, name: str) -> None:
        uplink, attached = self.uplinks[name], self._attached[name]
        if attached.index:
            number = list(self.uplinks).index(name) + 1
            self.programs.write_uplink(attached.index, _uplink(uplink, number, attached))


class _Attached:
    """Where an uplink's programs are. `index` 0: nowhere. `sums`: the device computes checksums."""

    __slots__ = ("header_bytes", "held", "index", "interface", "sums")

    def __init__(self, plan: UplinkPlan, *, follows: bool) -> None:
        """Raises EnvironmentFault when there is no such interface."""
        self.interface = name_of(plan.interface_index, plan.name) if follows else ""
        self.index = plan.interface_index
        self.header_bytes = ETHERNET_HEADER_BYTES
        self.sums = True
        self.held: list[Link] = []

    def detach(self) -> None:
        """When it returns no program of ours runs for a packet of that interface."""
        for link in self.held:
            link.close()
        self.held.clear()


class _LateRelease:
    """`dataplane.port.Counters` whose counters are given up only when the programs know it: until then they add."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._names: list[str] = []
        self.index, self.add, self.value = counters.index, counters.add, counters.value

    def release(self, name: str) -> None:
        self._names.append(name)

    def release_now(self) -> None:
        for name in self._names:
            self._counters.release(name)
        self._names.clear()


def engine_faults(plan: HostPlan) -> tuple[str, ...]:
    """Why the programs cannot serve this host's plan, each in a line; none: they can. The machine is another matter."""
    faults = []
    if len(plan.uplinks) > layout.UPLINKS_MAX:
        faults.append(f"there are more than {layout.UPLINKS_MAX} uplinks")
    if len(plan.peers) > layout.PEERS_MAX:
        faults.append(f"there are more than {layout.PEERS_MAX} addresses of peers")
    if not PAYER_OBJECT.exists():
        faults.append("the eBPF programs are not built")
    return tuple(faults)


def _told(
    kind: CommandKind,
    allowance: Allowance,
    now_ns: int,
    *,
    is_new: bool,
    amount: int,
    share: int = 0,
    slots: bytes = b"",
) -> layout.Command:
    grant = allowance.grant
    return layout.Command(
        kind=kind,
        flow=key_of(grant.flow),
        now_ns=now_ns,
        is_new=is_new,
        key=allowance.key,
        cap_nanodollars=grant.cap_nanodollars,
        rate_nanodollars_per_s=grant.rate_nanodollars_per_s,
        burst=min(grant.burst_nanodollars, MAX_BURST_NANODOLLARS) * NS_PER_S,
        not_before_unix_s=grant.not_before_unix_s,
        expires_unix_s=grant.expires_unix_s,
        share=share,
        spent=allowance.spent,
        amount=amount,
        slots=slots,
    )


def _uplink(uplink: UplinkState, number: int, attached: _Attached) -> layout.Uplink:
    plan = uplink.plan
    return layout.Uplink(
        number=number,
        header_bytes=attached.header_bytes,
        grows_udp=attached.sums,
        gateway_as=plan.gateway_as,
        mtu=plan.mtu,
        agreed=uplink.agreed,
        implied=plan.implied,
        clamp_v4=uplink.clamp_v4,
        clamp_v6=uplink.clamp_v6,
        received=uplink.received,
        received_packets=uplink.received_packets,
        sent=uplink.sent,
        sent_packets=uplink.sent_packets,
    )


def _sums(interface: str) -> bool:
    """Whether the device computes checksums of what it sends: to a packet that its sender has cut out for a device
    without (UDP_SEGMENT), the kernel does not take it that it grew.
    """
    asked = array("I", (_ETHTOOL_GTXCSUM, 0))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, _IFREQ_POINTER.pack(interface.encode(), asked.buffer_info()[0]))
        return bool(asked[1])
    return False
