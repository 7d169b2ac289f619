"""A task: a name that a person gives to a command and to everything that it starts.

Decides: where the task's control group goes, and when an old one is removed. Refuses to know: what the command is.
Source: cgroups(7), linux/cgroup-v2 (delegation; no internal process constraint), systemd's CGROUP_DELEGATION.

The group is made below the one in which the caller is, so that its unit and its limits go on holding, else (root)
below the root of the tree. A task that starts a task has it below itself; the inner name counts.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from billpay.errors import ConfigurationError, EnvironmentFault
from dataplane.attribution.processes import TASK_PREFIX, v2_mount, v2_path

NAME: Final = re.compile(r"[a-z0-9-]{1,32}")

_OPERATION: Final = "start"
_ATTEMPTS: Final = 3  # another start may take our new group, still empty, for an old one and remove it


def launch(name: str, command: Sequence[str]) -> NoReturn:
    """Becomes the command, as a part of the task. Raises ConfigurationError (a bad name) and EnvironmentFault."""
    join(name)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would inherit that
    try:
        os.execvp(command[0], list(command))  # noqa: S606 (no shell is what we want)
    except OSError as error:
        raise EnvironmentFault("run", command[0], error.strerror, "is it installed, and on your PATH?") from error


def join(name: str, *, proc: Path = Path("/proc"), mount: Path | None = None) -> Path:
    """Moves this process into the task's control group, which it makes if need be; its path."""
    if not NAME.fullmatch(name):
        raise ConfigurationError("hostagent run", "--task", f"{name!r} is no task's name", "1 to 32 of a-z, 0-9 and -")
    mount = mount or v2_mount(proc)
    if mount is None:
        cause = "this machine mounts no control groups of version 2"
        raise EnvironmentFault(_OPERATION, f"task {name}", cause, "mount -t cgroup2 none /sys/fs/cgroup/unified")
    failures: list[OSError] = []
    for parent in _parents(mount, proc):
        remove_empty(parent)
        try:
            return _enter(parent / f"{TASK_PREFIX}{name}")
        except OSError as error:
            failures.append(error)
    raise _refused(name, failures[0])


def remove_empty(parent: Path) -> None:
    """Task groups whose last process has ended; the kernel keeps those that are in use, or not ours."""
    for path in sorted(parent.glob(f"{TASK_PREFIX}*"), reverse=True):
        remove_empty(path)  # of a task that was started by a task
        try:
            path.rmdir()
        except OSError:
            continue


def _parents(mount: Path, proc: Path) -> Iterator[Path]:
    """Where the group may go, the best place first."""
    own = v2_path((proc / "self" / "cgroup").read_bytes()).removesuffix(" (deleted)")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    yield mount.joinpath(*parts)
    if parts:
        yield mount


def _enter(group: Path) -> Path:
    for attempt in range(_ATTEMPTS):
        try:
            group.mkdir(exist_ok=True)
            # 0 is whoever writes, with all its threads.
            (group / "cgroup.procs").write_text("0")
            return group
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
        except OSError:
            _remove(group)
            raise
    raise AssertionError("unreachable")


def _remove(group: Path) -> None:
    """What we made in vain; one in use stays."""
    try:
        group.rmdir()
    except OSError:
        return


def _refused(name: str, error: OSError) -> EnvironmentFault:
    remedy = "run it as root, or as `systemd-run --user --scope hostagent run …`, where a control group is yours"
    if not isinstance(error, PermissionError):
        remedy = "are the control groups of version 2 mounted writable here?"
    return EnvironmentFault(_OPERATION, f"task {name}", f"{error.filename}: {error.strerror}", remedy)
