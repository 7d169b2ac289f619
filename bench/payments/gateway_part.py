"""A gateway's programs in the kernel, and their core. Decides nothing. Read in r."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from bench.payments import plans
from bench.payments.kernel_parts import KernelPart
from bench.payments.network import R_LEFT, R_RIGHT
from bench.payments.plans import Role
from dataplane.ebpf.gateway_layout import PRICE
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.libbpf import AttachType, Link
from gateway import commands
from gateway.kernel_datapath import KernelGateway
from gateway.kernel_queue import KernelQueues

HOLDS_NS: Final = 1_000_000_000
EFFECT_PATIENCE_NS: Final = 100_000_000
PAUSE_S: Final = 0.002
TRIES: Final = 20
AWAY_NS: Final = 200_000
"""Who does nothing for so long has lost the core: packets come every few microseconds, and so do our looks."""

PICODOLLARS: Final = 10_000
"""A price of 10 nanodollars: more than the rest of the toll, and less than a packet brings."""

DEAR_NANODOLLARS: Final = 4
"""A mean toll that only packets of the new price can have brought about."""


class GatewayPart(KernelPart):
    """A gateway on r's two links."""

    def __init__(self, role: Role, directory: Path) -> None:
        plan = plans.gateway_plan(role)
        self._counters = KernelCounters.in_memory()
        self._queues = KernelQueues(plan.links, directory / "queues") if role is Role.QUEUED else None
        if self._queues is not None:
            self._queues.apply()
        core = KernelGateway(plan, self._counters, queues=self._queues)
        self._places = [("gateway_arrive", name, AttachType.TCX_INGRESS) for name in (R_LEFT, R_RIGHT)]
        if self._queues is not None:
            self._places.append(("gateway_leave", R_RIGHT, AttachType.TCX_EGRESS))
        programs = {name: core.programs.program(name) for name, _, _ in self._places}
        super().__init__(core, programs, commands.Tick())
        self._gateway = core
        self._links: list[Link] = []
        self.obey(plans.gateway_orders(role))
        core.on_go(time.monotonic_ns())  # the interfaces are known from here on, …
        core.on_stop(time.monotonic_ns())  # … and nothing is attached: that is done here, again and again

    def _go(self) -> None:
        if self._queues is not None:
            self._queues.apply()
        for name, interface, kind in self._places:
            index = socket.if_nametoindex(interface)
            self._links.append(self.programs[name].attach(index, kind, where=interface))

    def _stop(self) -> None:
        for link in self._links:
            link.close()
        self._links = []
        if self._queues is not None:
            self._queues.restore()

    def paid_packets(self) -> int:
        return self._counters.value(self._counters.index("link/a/received_packets"))

    def price_to_effect_ns(self, trials: int) -> list[int]:
        """Nothing else is done meanwhile: a price that the core moves would be another one.

        A trial in which the sender or we lost the core is done again: it would say when they got it back. Fewer than
        wanted, if the machine is too busy; the patience itself where no packet ever paid the price.
        """
        found: list[int] = []
        for _ in range(TRIES * trials):
            took_ns = self._one_effect_ns()
            if took_ns is not None:
                found.append(took_ns)
            if len(found) == trials:
                break
            time.sleep(PAUSE_S)
        return found

    def _one_effect_ns(self) -> int | None:
        """By two counters, read in such an order that packets of the old price can never look like dear ones; the one
        more is a packet that is counted as received already, and whose toll is not. None: somebody lost the core.
        """
        value, index, clock = self._counters.value, self._counters.index, time.monotonic_ns
        packets, retained = index("link/a/received_packets"), index("link/b/retained_nanodollars")
        prices = self._gateway.programs.map("prices").mapped()
        at = self._gateway.numbers["b"] * PRICE.size
        packets_before = packets_now = value(packets)
        retained_before = value(retained)
        begun_ns = now_ns = moved_ns = clock()
        PRICE.pack_into(prices, at, PICODOLLARS, begun_ns + HOLDS_NS)
        took_ns: int | None = EFFECT_PATIENCE_NS
        while now_ns < begun_ns + EFFECT_PATIENCE_NS:
            looked_ns, packets_seen = now_ns, packets_now
            retained_now, packets_now = value(retained), value(packets)
            now_ns = clock()
            if now_ns - looked_ns > AWAY_NS or (packets_now == packets_seen and now_ns - moved_ns > AWAY_NS):
                took_ns = None
                break
            if packets_now != packets_seen:
                moved_ns = now_ns
            if retained_now - retained_before > DEAR_NANODOLLARS * (packets_now - packets_before + 1):
                took_ns = now_ns - begun_ns
                break
        PRICE.pack_into(prices, at, 0, now_ns + HOLDS_NS)
        prices.close()
        return took_ns

    def close(self) -> None:
        self._gateway.close()
