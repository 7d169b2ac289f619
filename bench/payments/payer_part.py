"""A paying host's programs in the kernel, and their core. Decides nothing. Read in a."""

from __future__ import annotations

import time
from typing import Final

from bench.payments import plans
from bench.payments.kernel_parts import KernelPart
from dataplane.ebpf.kernel_counters import KernelCounters
from hostagent.payments import commands
from hostagent.payments.kernel_datapath import KernelPayer

PROGRAMS: Final = ("payer_leave", "payer_arrive")


class PayerPart(KernelPart):
    """A host on a's link."""

    def __init__(self, family: int, flows: int) -> None:
        self._counters = KernelCounters.in_memory()
        core = KernelPayer(plans.host_plan(), self._counters)
        object_ = core.programs.object
        super().__init__(core, {name: object_.program(name) for name in PROGRAMS}, commands.Tick())
        self._payer = core
        self.obey(plans.host_orders(family, flows))

    def _go(self) -> None:
        self._payer.on_go(time.monotonic_ns())

    def _stop(self) -> None:
        self._payer.on_stop(time.monotonic_ns())

    def paid_packets(self) -> int:
        return self._counters.value(self._counters.index(f"link/{plans.UPLINK}/sent_packets"))

    def price_to_effect_ns(self, _trials: int) -> list[int]:
        return []

    def close(self) -> None:
        self._payer.close()
