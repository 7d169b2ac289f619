"""Which engine of payments runs here: eBPF programs in the kernel, or a reader process between packet queues.

Decides: what a configuration's word means on this machine, and what is kept of the reasons. Refuses to know: how it was
found out that the programs cannot run here. Pure. Both engines decide alike; the one in the kernel is faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from billpay.errors import EnvironmentFault

WantedPaymentEngine = Literal["auto", "ebpf", "nfqueue"]
"""What a configuration may say: the best one that works, or this one and no other."""


class PaymentEngine(StrEnum):
    EBPF = "ebpf"
    NFQUEUE = "nfqueue"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentChoice:
    """`faults`: why it is not the better one, each in a line; none where it is the best, or was named."""

    engine: PaymentEngine
    is_named: bool = False
    faults: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """One line for people."""
        if self.is_named:
            return f"{self.engine}: the configuration names it"
        if not self.faults:
            return f"{self.engine}: the best there is"
        return f"{self.engine}; not {PaymentEngine.EBPF}: {'; '.join(self.faults)}"


def choose(wanted: WantedPaymentEngine, faults: Iterable[str]) -> PaymentChoice:
    """`faults`: what keeps the eBPF programs from working here. Raises EnvironmentFault where they are named."""
    if wanted == "nfqueue":
        return PaymentChoice(engine=PaymentEngine.NFQUEUE, is_named=True)
    kept = tuple(faults)
    if not kept:
        return PaymentChoice(engine=PaymentEngine.EBPF, is_named=wanted != "auto")
    if wanted == "auto":
        return PaymentChoice(engine=PaymentEngine.NFQUEUE, faults=kept)
    remedy = 'mend that, or write engine = "auto"'
    raise EnvironmentFault("use engine of payments", wanted, "; ".join(kept), remedy)


def instead(choice: PaymentChoice, fault: EnvironmentFault) -> PaymentChoice:
    """After a reader of that engine could not start. Raises its fault where no other engine is left."""
    if choice.engine is PaymentEngine.NFQUEUE or choice.is_named:
        raise fault
    return PaymentChoice(engine=PaymentEngine.NFQUEUE, faults=(str(fault),))
