"""`python -m gateway.reader CONFIG`: the gateway's packet loop, started by the daemon.

A driver: builds the core from the configuration, gives it randomness, and leaves the rest to `dataplane.reader`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from dataplane.counters import CounterFile
from dataplane.nfqueue import QueueConfig
from dataplane.port import PacketCore
from dataplane.reader import serve
from gateway.configuration import load, plan_of
from gateway.datapath import GatewayCore
from gateway.grant_store import STORE_NAME, not_closed
from gateway.kernel_state import QUEUE

QUEUE_LENGTH = 4096
"""Longer than all schedulers together hold, so that a full queue means a reader in trouble."""


def build(counters: CounterFile) -> tuple[PacketCore, list[QueueConfig]]:
    configuration = load(Path(sys.argv[1]))
    plan = plan_of(configuration)
    forget_closed_grants(counters, not_closed(configuration.state_directory / STORE_NAME))
    return GatewayCore(plan, counters, random.Random().random), [QueueConfig(queue=QUEUE, length=QUEUE_LENGTH)]  # noqa: S311


def forget_closed_grants(counters: CounterFile, needed: frozenset[str]) -> None:
    """Gives back the counters of grants that have their receipt: nobody will open them again."""
    for name in counters.snapshot():
        kind, _, rest = name.partition("/")
        if kind == "grant" and rest.partition("/")[0] not in needed:
            counters.release(name)


if __name__ == "__main__":
    sys.exit(serve(build))
