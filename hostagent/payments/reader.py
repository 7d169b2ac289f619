"""`python -m hostagent.payments.reader CONFIG [--engine ebpf|nfqueue]`: the agent's data plane, started by the daemon.

A driver: builds the core from the configuration and leaves the rest to the engine's loop: to `dataplane.reader` where
packets come to this process, to `dataplane.ebpf.kernel_reader` where programs meet them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataplane.counters import CounterFile
from dataplane.ebpf.kernel_counters import KernelCounters
from dataplane.ebpf.kernel_reader import serve_kernel
from dataplane.nfqueue import QueueConfig
from dataplane.payment_engines import PaymentEngine
from dataplane.port import PacketCore
from dataplane.reader import serve
from hostagent.configuration import Configuration, load, plan_of
from hostagent.payments.datapath import HostCore
from hostagent.payments.kernel_datapath import KernelPayer
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE

QUEUE_LENGTH = 1024


def build(configuration: Configuration, counters: CounterFile) -> tuple[PacketCore, list[QueueConfig]]:
    queues = [QueueConfig(queue=queue, length=QUEUE_LENGTH) for queue in (OUTPUT_QUEUE, INPUT_QUEUE)]
    return HostCore(plan_of(configuration), counters), queues


def build_kernel(configuration: Configuration, counters: KernelCounters) -> KernelPayer:
    """Raises EnvironmentFault."""
    return KernelPayer(plan_of(configuration), counters)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="hostagent.payments.reader")
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--engine", type=PaymentEngine, default=PaymentEngine.NFQUEUE)
    chosen = parser.parse_args(arguments)
    path: Path = chosen.configuration
    if chosen.engine is PaymentEngine.EBPF:
        return serve_kernel(lambda counters: build_kernel(load(path), counters))
    return serve(lambda counters: build(load(path), counters))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
