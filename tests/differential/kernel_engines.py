"""The kernel's programs as engines: each packet by a test run of the real program, with clock and chance injected.

Everything around the packets is the real thing as well: the controllers that obey commands, the maps that they write,
the counters' array. Interfaces with the worlds' numbers have to be there (`differential.interfaces`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from differential.events import CLASS_LOOKED_AT, DROPPED, Arrival, Books, Order, Outcome
from differential.gateway_engines import ASK_REPORT, CoreEngine, books
from differential.harness import Chance
from differential.host_engines import HostBooks

from billpay.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES
from dataplane.ebpf.gateway_layout import NUMBER, SETTINGS
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.libbpf import Map, Program
from gateway.kernel_datapath import KernelGateway
from gateway.plan import GatewayPlan
from hostagent.payments.kernel_datapath import KernelPayer, PayerPrograms
from hostagent.payments.plan import OUTPUT_QUEUE, HostPlan

ETHERNET_IPV4 = bytes(12) + b"\x08\x00"
ETHERNET_IPV6 = bytes(12) + b"\x86\xdd"
DRAWS_AHEAD = 4
QUEUE_LEVELS = struct.Struct("=24x9Q")  # of struct link_queue (dataplane/ebpf/queue.h)
TCX_NEXT, SHOT = 0xFFFF_FFFF, 2


def outcome_of(program: Program, arrival: Arrival) -> Outcome:
    """What the program makes of the packet, behind an Ethernet header and in front of its padding."""
    payload = arrival.payload
    frame = payload + arrival.padding
    is_ipv6 = payload[:1] >= b"\x60"
    if len(frame) < (IPV6_HEADER_BYTES if is_ipv6 else IPV4_HEADER_BYTES):
        return Outcome(True, arrival.mark, payload)  # the kernel makes no test run of less; nor are there such packets
    link_layer = ETHERNET_IPV6 if is_ipv6 else ETHERNET_IPV4
    became = program.test_run(
        link_layer + frame,
        ifindex=arrival.interface,
        ingress_ifindex=arrival.interface,
        mark=arrival.mark,
        gso_size=arrival.segment_bytes,
    )
    returned = became.retval & 0xFFFF_FFFF
    if returned == SHOT:
        return DROPPED
    assert returned == TCX_NEXT, f"the program returned {became.retval}"
    end = len(became.data_out) - len(arrival.padding)
    return Outcome(True, became.mark, became.data_out[len(link_layer) : end])


class KernelGatewayEngine(CoreEngine):
    """gateway.bpf.c and gateway.kernel_datapath."""

    name = "kernel"
    core: KernelGateway

    def __init__(self, plan: GatewayPlan, chance: Chance) -> None:
        counters = KernelCounters.in_memory()
        core = KernelGateway(plan, counters, injected=True)
        super().__init__(core, counters)  # type: ignore[arg-type]
        self._kernel_counters = counters
        self._settings: Map = core.programs.map("settings")
        self._program = core.programs.program("gateway_arrive")
        self._chance = chance
        self._queues = core.programs.map("queues")
        self._queue_numbers = [NUMBER.pack(number) for number, link in enumerate(plan.links) if link.rate_bit_s]
        self._packets = 0

    def close(self) -> None:
        self.core.close()
        self._kernel_counters.close()

    def arrive(self, batch: Sequence[Arrival]) -> list[Outcome]:
        at_ns = batch[0].at_ns
        self.advance(at_ns)
        outcomes = []
        for arrival in batch:
            self._inject(at_ns)
            self._packets += 1
            looks = self._packets % CLASS_LOOKED_AT == 0
            if looks:
                self._empty_queues()
            outcome = outcome_of(self._program, arrival)
            outcomes.append(outcome._replace(service_class=self._service_class()) if looks else outcome)
        return outcomes

    def _empty_queues(self) -> None:
        for number in self._queue_numbers:
            self._queues.update(number, bytes(self._queues.value_size))

    def _service_class(self) -> int:
        """Of the packet that the queues took last: up to its class there is something now."""
        for number in self._queue_numbers:
            levels = QUEUE_LEVELS.unpack_from(self._queues.lookup(number) or b"")
            if any(levels):
                return max(place for place, level in enumerate(levels) if level)
        return -1

    def look(self, at_ns: int) -> Books:
        self.advance(at_ns)
        self.core.on_message(ASK_REPORT, at_ns, self._unix_s)
        return books(self._kernel_counters.snapshot(), self._told(), self._report(at_ns))

    def _inject(self, at_ns: int) -> None:
        """The time, and the next draws."""
        key = NUMBER.pack(0)
        entry = bytearray(self._settings.lookup(key) or b"")
        self._chance.skip(SETTINGS.number(entry, "draws_used"))
        SETTINGS.write(entry, now_ns=at_ns, draws=tuple(self._chance.peek(DRAWS_AHEAD)), draws_used=0)
        self._settings.update(key, bytes(entry))


class KernelPayerEngine(HostBooks, CoreEngine):
    """payer.bpf.c and hostagent.payments.kernel_datapath."""

    name = "kernel"
    core: KernelPayer

    def __init__(self, plan: HostPlan) -> None:
        counters = KernelCounters.in_memory()
        programs = PayerPrograms(counters.map, peers_max=len(plan.peers), injected=True)
        core = KernelPayer(plan, counters, programs=programs)
        super().__init__(core, counters, leaving_queue=OUTPUT_QUEUE)  # type: ignore[arg-type]
        self._kernel_counters = counters
        self._leave = core.programs.object.program("payer_leave")
        self._arrive = core.programs.object.program("payer_arrive")

    def close(self) -> None:
        self.core.close()
        self._kernel_counters.close()

    def arrive(self, batch: Sequence[Arrival]) -> list[Outcome]:
        self._inject(batch[0].at_ns)
        return [outcome_of(self._leave if arrival.leaving else self._arrive, arrival) for arrival in batch]

    def order(self, order: Order) -> Any:
        self._inject(order.at_ns)
        return super().order(order)

    def look(self, at_ns: int) -> Books:
        self._inject(at_ns)
        return self._books(self._kernel_counters.snapshot(), at_ns)

    def _inject(self, at_ns: int) -> None:
        self.core.programs.settings.now_ns = at_ns
        self.advance(at_ns)
        self.core.programs.write_settings()
