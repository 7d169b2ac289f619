"""`python -m hostagent.payments.reader CONFIG`: the agent's packet loop, started by the daemon.

A driver: builds the core from the configuration and leaves the rest to `dataplane.reader`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dataplane.counters import CounterFile
from dataplane.nfqueue import QueueConfig
from dataplane.port import PacketCore
from dataplane.reader import serve
from hostagent.configuration import load, plan_of
from hostagent.payments.datapath import HostCore
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE

QUEUE_LENGTH = 1024


def build(counters: CounterFile) -> tuple[PacketCore, list[QueueConfig]]:
    plan = plan_of(load(Path(sys.argv[1])))
    queues = [QueueConfig(queue=queue, length=QUEUE_LENGTH) for queue in (OUTPUT_QUEUE, INPUT_QUEUE)]
    return HostCore(plan, counters), queues


if __name__ == "__main__":
    sys.exit(serve(build))
