"""Whether a program is in the foreground of its terminal.

Decides: a process is in the foreground while its terminal reads for its process group. Refuses to know: windows (which
one is in front only the desktop's session knows), and what follows from it.
Source: proc(5), fields 5 to 8 of /proc/PID/stat (process group, session, terminal, its foreground group); POSIX job
control; pty(7).

A shell that waits for a program has a terminal, and is in the background; a daemon has none, and nothing is known of
it. A terminal that nobody looks at (a detached tmux, a hidden tab) has a foreground group, too: true means that the
person put the program there, not that somebody watches it.
"""

from __future__ import annotations

from typing import Final

_GROUP, _TERMINAL, _FRONT = 2, 4, 5  # after the name and its parentheses: state is 0
_NO_GROUP: Final = 0
"""A terminal without one: its session leader is gone, or it was never given to anybody."""


def is_foreground(process_id: int, *, proc: str = "/proc") -> bool | None:
    """None: it has no terminal, is gone, or is not ours to see. One small file is read."""
    try:
        with open(f"{proc}/{process_id}/stat", "rb", buffering=0) as file:
            text = file.read(1024)
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()  # the name may contain anything, parentheses too
    if len(fields) <= _FRONT:
        return None
    terminal, front = int(fields[_TERMINAL]), int(fields[_FRONT])
    if terminal == 0 or front <= _NO_GROUP:
        return None
    return int(fields[_GROUP]) == front
