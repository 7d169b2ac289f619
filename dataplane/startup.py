"""The order of things when a daemon starts: settle what its predecessor left, install the rules, count from there.

Decides: only that order. The kernel's count must be read before rules are installed anew, since that starts it at 0.
Source: ARCHITECTURE ("Counters survive a killed process").
"""

from __future__ import annotations

from pathlib import Path

from dataplane import rules
from dataplane.counters import CounterFile, Recovery
from dataplane.desired import DesiredState


def prepare(desired: DesiredState, *, record_path: Path, counters_path: Path) -> Recovery:
    """Call it before `ReaderSupervisor.start`. Raises EnvironmentFault, and leaves nothing behind then."""
    counters = CounterFile.open(counters_path)
    try:
        recovery = counters.recover(rules.read_kernel_accepts(desired.owner))
        rules.apply(desired, record_path)
        counters.rebase(rules.read_kernel_accepts(desired.owner) or 0)
    finally:
        counters.close()
    return recovery
