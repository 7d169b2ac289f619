"""One host's packet core in memory: uplinks X and Z, a virtual clock, and counters that survive its restart."""

from __future__ import annotations

from typing import Any

import msgspec
from gateway_network import A_V4, A_V6, B_V4, B_V6, OTHER_KEY, UNIX_S, X, Z, grant_for, header_of, plain

from billpay.header import Slot
from billpay.messages import Echo, FlowSelector, GrantKind
from billpay.packet import flow_key
from dataplane.counters import CounterFile
from dataplane.fake import FakeDataPlane
from hostagent.payments.commands import (
    Answer,
    AskFlows,
    Command,
    Done,
    DropFlow,
    Event,
    FlowReport,
    FlowReports,
    PayFlow,
    ReturnFlow,
    SetUplink,
    Tick,
)
from hostagent.payments.datapath import HostCore
from hostagent.payments.flowtable import selector_of
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE, HostPlan, UplinkPlan

INTERFACES = {"X": 3, "Z": 4}
SPEND_ID, RETURN_ID = "5" * 32, "e" * 32
BOTH = [(A_V4, B_V4), (A_V6, B_V6)]


def plan_host(
    *, header: bool = True, implied: bool = False, slots: int = 3, peers: frozenset[bytes] = frozenset()
) -> HostPlan:
    """Behind X, and behind Z by a second uplink."""
    uplinks = tuple(
        UplinkPlan(
            name=name,
            interface_index=INTERFACES[name],
            gateway_as=number,
            header=header,
            implied=implied,
            slots=slots,
        )
        for name, number in (("X", X), ("Z", Z))
    )
    return HostPlan(uplinks=uplinks, peers=peers)


def flow_of(packet: bytes) -> FlowSelector:
    key = flow_key(packet)
    assert key is not None
    return selector_of(key)


class Host:
    """A packet core under the fake data plane; by default both gateways have agreed to headers."""

    def __init__(
        self, plan: HostPlan | None = None, *, counters: CounterFile | None = None, agreed: bool = True
    ) -> None:
        self.plan = plan or plan_host()
        self.counters = counters or CounterFile.in_memory(capacity=512)
        self.core = HostCore(self.plan, self.counters)
        self.plane = FakeDataPlane(self.core, self.counters, unix_s=UNIX_S)
        self.ask(Tick())
        for uplink in self.plan.uplinks:
            self.obey(SetUplink(uplink=uplink.name, agreed=agreed))

    def restarted(self) -> Host:
        """A new core after this one was killed: flows are forgotten, counters are not."""
        return Host(self.plan, counters=self.counters)

    # --- commands ---------------------------------------------------------------------------------------------------

    def ask(self, command: Command) -> Answer:
        reply = self.plane.command(msgspec.json.encode(command))
        assert reply is not None
        answer: Answer = msgspec.json.decode(reply, type=Answer)
        return answer

    def obey(self, command: Command) -> None:
        assert self.ask(command) == Done()

    def pay(self, packet: bytes, amount: int, *slots: Slot, **grant: Any) -> None:
        """The packet's flow pays from now on."""
        document = grant_for(packet, **{"grant": SPEND_ID, **grant})
        oads = tuple((slot.as_number, slot.alternatives, slot.choice) for slot in slots)
        self.obey(PayFlow(flow=flow_of(packet), grant=document, amount_nanodollars=amount, slots=oads))

    def give_back(self, packet: bytes, *, share: int = 1, ceiling: int = 1_000_000, **grant: Any) -> None:
        """What arrives with the opposite of the packet's flow, goes back with it."""
        given: dict[str, Any] = {"grant": RETURN_ID, "kind": GrantKind.RETURN, "key": OTHER_KEY.hex()} | grant
        document = grant_for(packet, **given)
        command = ReturnFlow(flow=flow_of(packet), grant=document, share_nanodollars=share, ceiling_nanodollars=ceiling)
        self.obey(command)

    def drop(self, packet: bytes) -> None:
        self.obey(DropFlow(flow=flow_of(packet)))

    def reports(self, since_turn: int = 0) -> FlowReports:
        answer = self.ask(AskFlows(since_turn=since_turn))
        assert isinstance(answer, FlowReports)
        return answer

    def report(self, packet: bytes) -> FlowReport:
        flow = flow_of(packet)
        return next(report for report in self.reports().flows if report.flow == flow)

    def events(self) -> list[Event]:
        """Those since the last call."""
        events, self.plane.events = self.plane.events, []
        return [msgspec.json.decode(event, type=Event) for event in events]

    # --- packets ----------------------------------------------------------------------------------------------------

    def leave(self, *packets: bytes, via: str = "X") -> list[bytes]:
        """What is on the wire when programs here send these."""
        return self._deliver(packets, OUTPUT_QUEUE, via)

    def arrive(self, *packets: bytes, via: str = "X") -> list[bytes]:
        """What programs here get when these are on the wire."""
        return self._deliver(packets, INPUT_QUEUE, via)

    def _deliver(self, packets: tuple[bytes, ...], queue: int, via: str) -> list[bytes]:
        before = len(self.plane.out)
        self.plane.deliver(*packets, queue=queue, interface_index=INTERFACES[via])
        return [delivered.payload for delivered in self.plane.out[before:]]

    def amounts(self, packet: bytes, times: int = 1) -> list[int]:
        """What is in the headers when the packet leaves so often; 0 without one."""
        headers = map(header_of, self.leave(*[packet] * times))
        return [header.amount if header is not None else 0 for header in headers]

    # --- books ------------------------------------------------------------------------------------------------------

    def count(self, name: str) -> int:
        return self.counters.committed(name)

    def sent(self, uplink: str = "X") -> int:
        return self.count(f"link/{uplink}/sent_nanodollars")

    def received(self, uplink: str = "X") -> int:
        return self.count(f"link/{uplink}/received_nanodollars")

    def books(self) -> dict[str, int]:
        """Where the money is that arrived."""
        names = ("share", "refunded", "returned", "unreturned")
        return {name: self.count(f"{name}_nanodollars") for name in names}

    def in_hand(self) -> int:
        """By what the core says of each flow."""
        return sum(report.pool_nanodollars for report in self.reports().flows)

    def assert_conserved(self) -> None:
        received = sum(self.received(uplink.name) for uplink in self.plan.uplinks)
        assert received == sum(self.books().values()) + self.in_hand(), (received, self.books(), self.in_hand())


def report_of(flow: FlowSelector, **counts: Any) -> FlowReport:
    """What a core says of a flow that leaves by X; counts are 0 unless given."""
    values: dict[str, Any] = dict.fromkeys(FlowReport.__struct_fields__, 0)
    values |= {"flow": flow, "uplink": "X", "observed": ()}
    return FlowReport(**(values | counts))


def echo_of(flow: FlowSelector, **counts: Any) -> Echo:
    """What the far end says of a flow; counts are 0 unless given."""
    names = ("packets", "bytes", "paid_packets", "ce_packets", "received_nanodollars", "returned_nanodollars")
    values: dict[str, Any] = dict.fromkeys(names, 0)
    values |= {"session": "0" * 32, "sequence": 1, "flow": flow}
    return Echo(**(values | counts))


def turned(packet_addresses: tuple[str, str], **more: Any) -> bytes:
    """A UDP packet of the opposite flow."""
    source, destination = packet_addresses
    return plain(destination, source, **more)
