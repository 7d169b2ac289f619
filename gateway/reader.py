"""`python -m gateway.reader CONFIG [--engine ebpf|nfqueue]`: the gateway's data plane, started by the daemon.

A driver: builds the core from the configuration, gives it randomness, and leaves the rest to the engine's loop: to
`dataplane.reader` where packets come to this process, to `dataplane.ebpf.kernel_reader` where programs meet them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dataplane.counters import CounterFile
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.kernel_reader import serve_kernel
from dataplane.nfqueue import QueueConfig
from dataplane.payment_engines import PaymentEngine
from dataplane.port import PacketCore
from dataplane.reader import serve
from dataplane.record import QUEUE_RECORD
from gateway.configuration import Configuration, load, plan_of
from gateway.datapath import GatewayCore
from gateway.grant_store import STORE_NAME, not_closed
from gateway.kernel_datapath import KernelGateway
from gateway.kernel_queue import KernelQueues
from gateway.kernel_state import QUEUE

QUEUE_LENGTH = 4096
"""Longer than all schedulers together hold, so that a full queue means a reader in trouble."""


class Named(Protocol):
    """Counters by name."""

    def snapshot(self) -> dict[str, int]: ...

    def release(self, name: str) -> None: ...


def build(configuration: Configuration, counters: CounterFile) -> tuple[PacketCore, list[QueueConfig]]:
    plan = plan_of(configuration)
    forget_closed_grants(counters, not_closed(configuration.state_directory / STORE_NAME))
    return GatewayCore(plan, counters, random.Random().random), [QueueConfig(queue=QUEUE, length=QUEUE_LENGTH)]  # noqa: S311


def build_kernel(configuration: Configuration, counters: KernelCounters) -> KernelGateway:
    """The queues are in place before anything is attached. Raises EnvironmentFault, and all is as before."""
    plan = plan_of(configuration)
    forget_closed_grants(counters, not_closed(configuration.state_directory / STORE_NAME))
    if not any(link.rate_bit_s for link in plan.links):
        return KernelGateway(plan, counters)
    queues = KernelQueues(plan.links, configuration.state_directory / QUEUE_RECORD)
    queues.apply()
    try:
        return KernelGateway(plan, counters, queues=queues)
    except BaseException:
        queues.restore()
        raise


def forget_closed_grants(counters: Named, needed: frozenset[str]) -> None:
    """Gives back the counters of grants that have their receipt: nobody will open them again."""
    for name in counters.snapshot():
        kind, _, rest = name.partition("/")
        if kind == "grant" and rest.partition("/")[0] not in needed:
            counters.release(name)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="gateway.reader")
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--engine", type=PaymentEngine, default=PaymentEngine.NFQUEUE)
    chosen = parser.parse_args(arguments)
    path: Path = chosen.configuration
    if chosen.engine is PaymentEngine.EBPF:
        return serve_kernel(lambda counters: build_kernel(load(path), counters))
    return serve(lambda counters: build(load(path), counters))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
