"""The order of things when a daemon starts: settle what its predecessor left, install the rules, count from there.

Decides: only that order. The kernel's count must be read before rules are installed anew, since that starts it at 0.
Source: ARCHITECTURE ("Counters survive a killed process").
"""

from __future__ import annotations

from pathlib import Path

from dataplane import kernel_tools, rules
from dataplane.counters import CounterFile, Recovery
from dataplane.desired import DesiredState


def prepare(desired: DesiredState, *, record_path: Path, counters_path: Path) -> Recovery:
    """Call it before `ReaderSupervisor.start`. Raises EnvironmentFault, and leaves nothing behind then."""
    counters = CounterFile.open(counters_path)
    try:
        recovery = counters.recover(_kernel_accepts(desired.owner))
        rules.apply(desired, record_path)
        counters.rebase(_kernel_accepts(desired.owner) or 0)
    finally:
        counters.close()
    return recovery


def _kernel_accepts(owner: str) -> int | None:
    """Without iptables there are no rules that count, and who queues no packets needs none."""
    return rules.read_kernel_accepts(owner) if kernel_tools.is_installed("iptables-save") else None
