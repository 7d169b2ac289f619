"""Puts everything back that a dead agent or gateway had changed in the kernel.

Decides: where the records are. Refuses to know: what is in them.
"""

from __future__ import annotations

from pathlib import Path

from dataplane.ebpf.kernel_counters import fold_pinned
from dataplane.ebpf.sockets import put_orphans_back
from dataplane.engines import ECN_RECORD, SHAPING_RECORD, TRAFFIC_CONTROL_RECORD
from dataplane.payment_plane import COUNTERS_NAME
from dataplane.record import ACCESS_RECORD, QUEUE_RECORD, RECORD_NAME
from dataplane.rules import restore
from dataplane.service import locked


def clean_up(state_directory: Path) -> list[str]:
    """One line for each record that was undone.

    Raises EnvironmentFault, also when the agent of that directory is alive: it would lose what it works with.
    """
    names = (TRAFFIC_CONTROL_RECORD, ECN_RECORD, SHAPING_RECORD, ACCESS_RECORD, QUEUE_RECORD, RECORD_NAME)
    counters = state_directory / COUNTERS_NAME
    records = [path for name in names if (path := state_directory / name).exists()]
    if not records and not counters.exists():
        return []
    with locked(state_directory):
        if (state_directory / TRAFFIC_CONTROL_RECORD) in records:
            put_orphans_back()
        restored = [f"restored what {path} says was there before" for path in records if restore(path)]
        if fold_pinned(counters):
            restored.append(f"took the counters of {counters} back from the kernel")
        return restored
