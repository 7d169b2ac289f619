"""`python -m dataplane.watchdog HEARTBEAT_FILE`: kills a reader or a main process that no longer beats. Standard
library only.

Decides: when a silence is long enough to kill for. `--queue-bypass` covers a dead reader, not a hung one, and a queue
at low packet rates never fills: so a reader that hangs must die, and packets go on unpaid. Refuses to know: what the
processes do, and how they are started again. Source: ARCHITECTURE (data-plane pitfalls): a reader silent for 300 ms;
a runnable one is perhaps only starved, so 700 ms.

A starved machine starves the watchdog as well. So it counts only silence that it witnessed: after a wake-up that came
late it adds no more than two of its own periods.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dataplane.hardening import FOR_MAIN_ONLY, drop_capabilities
from dataplane.heartbeat import Beat, HeartbeatFile, Role, die_with_parent, process_state

PERIOD_NS: Final = 50_000_000
READER_SILENCE_NS: Final = 300_000_000
RUNNABLE_READER_SILENCE_NS: Final = 700_000_000
MAIN_SILENCE_NS: Final = 3_000_000_000

_NICENESS: Final = -10


@dataclass(slots=True, kw_only=True)
class Patient:
    """How long one process has been silent, as far as somebody was awake to witness it."""

    limit_ns: int
    runnable_limit_ns: int
    _last: Beat = field(default=Beat(0, 0, 0))
    _silent_ns: int = 0

    def witness(self, beat: Beat, *, elapsed_ns: int, state: str) -> bool:
        """One look, `elapsed_ns` after the look before. True: it has hung, kill it."""
        if beat.pid == 0 or beat != self._last:
            self._last = beat
            self._silent_ns = 0
            return False
        self._silent_ns += min(elapsed_ns, 2 * PERIOD_NS)
        limit_ns = self.runnable_limit_ns if state in ("R", "D") else self.limit_ns
        return self._silent_ns > limit_ns


def main(arguments: list[str]) -> int:
    path, parent_pid = Path(arguments[0]), int(arguments[1])
    die_with_parent(parent_pid)
    drop_capabilities(FOR_MAIN_ONLY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for main; we go when it goes
    _take_precedence()
    page = HeartbeatFile(path)
    patients = (
        (
            Role.READER,
            Patient(limit_ns=READER_SILENCE_NS, runnable_limit_ns=RUNNABLE_READER_SILENCE_NS),
        ),
        (Role.MAIN, Patient(limit_ns=MAIN_SILENCE_NS, runnable_limit_ns=MAIN_SILENCE_NS)),
    )
    before_ns = time.monotonic_ns()
    page.enrol(Role.WATCHDOG, before_ns)
    while True:
        time.sleep(PERIOD_NS / 1e9)
        now_ns = time.monotonic_ns()
        page.beat(Role.WATCHDOG, now_ns)
        for role, patient in patients:
            beat = page.read(role)
            state, start_ticks = process_state(beat.pid) if beat.pid else ("", 0)
            if patient.witness(beat, elapsed_ns=now_ns - before_ns, state=state) and start_ticks == beat.start_ticks:
                _kill(beat, role, state)
        before_ns = now_ns


def _kill(beat: Beat, role: Role, state: str) -> None:
    """SIGKILL to that very process: the descriptor pins it, then the start time tells it from one with its old
    number."""
    try:
        descriptor = os.pidfd_open(beat.pid)
    except ProcessLookupError:
        return
    try:
        current, start_ticks = process_state(beat.pid)
        if start_ticks == beat.start_ticks and current not in ("Z", "X", ""):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            sys.stderr.write(f"watchdog: killed {role.name.lower()} {beat.pid}: silent too long, state {state}\n")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _take_precedence() -> None:
    """A busy machine should not keep the watchdog from its 20 looks a second; without the privilege it goes without."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    except PermissionError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
