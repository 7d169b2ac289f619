"""Who a process is: executable, user, unit, container, task.

Decides: how a control group's path is read, and when a remembered answer is too old. Refuses to know: which process a
packet belongs to. Source: proc(5) for exe, stat, status and cgroup; cgroups(7) and linux/cgroup-v2 for paths and ids;
systemd.unit(5) for unit names and their escapes; what Docker, Podman, containerd, CRI-O, LXC, nspawn and libvirt call
the control groups that they make.

A process that is gone gives None, never an exception: programs that live for a millisecond are ordinary here.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dataplane.metering import UNATTRIBUTED, Kind, Program

TASK_PREFIX: Final = "hostagent-task-"
"""What `hostagent run` calls the control groups that it makes. Without a unit's suffix on purpose: the task's unit
stays the one that it was started in."""

CACHE_ENTRIES: Final = 4096
CACHE_AGE_NS: Final = 1_000_000_000
"""A process may change its user and its control group without becoming another one; this is how long we miss it."""

INDEX_ENTRIES: Final = 16_384
"""Control groups whose names we keep, those that are gone included: about 2 MB."""

INDEX_AGE_NS: Final = 1_000_000_000
"""An unknown id makes us walk the tree, but no more often than this: 1000 control groups take some 10 ms."""

_UNIT_SUFFIXES: Final = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
_SHORT_ID: Final = 12  # digits, as `docker ps` and `podman ps` show
_KERNEL_THREAD: Final = 0x0020_0000  # PF_KTHREAD in the flags of /proc/PID/stat
_ENDED: Final = (b"Z", b"X")
_HEX_ID: Final = re.compile(
    r"^(?:(?:docker|libpod|crio|cri-containerd|nerdctl|containerd)-)?([0-9a-f]{64})(?:\.scope)?$"
    r"|^(?:docker|libpod|crio|cri-containerd|nerdctl)-([0-9a-f]{12,63})\.scope$"
    r"|:(?:cri-containerd|crio|docker|libpod):([0-9a-f]{12,64})$"
)
_ESCAPE: Final = re.compile(r"\\x([0-9a-fA-F]{2})")
_VIRTUAL_MACHINE: Final = re.compile(r"^(?:qemu|lxc|xen|ch)-[0-9]+-(.+)$")  # libvirt: driver, number, name


class Placement(NamedTuple):
    """What a control group's path says."""

    unit: str = ""
    container: str = ""
    task: str = ""


def placement(path: str) -> Placement:
    """Reads a control group's path, "/system.slice/ssh.service".

    Of nested containers the outermost counts, which is the one that this machine's own tools list; of nested tasks
    the innermost.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    tasks = [part for part in parts if part.startswith(TASK_PREFIX) and len(part) > len(TASK_PREFIX)]
    others = [part for part in parts if part not in tasks]
    units = [part for part in others if part.endswith(_UNIT_SUFFIXES)]
    unit = units[-1] if units else others[-1] if others else ""
    task = tasks[-1].removeprefix(TASK_PREFIX) if tasks else ""
    return Placement(unit, _container(others), task)


def _container(parts: list[str]) -> str:
    for before, part in zip(["", *parts], parts, strict=False):
        found = _HEX_ID.search(part)
        if found:
            return next(group for group in found.groups() if group)[:_SHORT_ID]
        if part.startswith("lxc.payload."):
            return part.removeprefix("lxc.payload.")
        if before in ("lxc", "lxc.payload"):
            return part
        if part.startswith("systemd-nspawn@") and part.endswith(".service"):
            return _unescape(part.removeprefix("systemd-nspawn@").removesuffix(".service"))
        if part.startswith("machine-") and part.endswith(".scope"):
            name = _unescape(part.removeprefix("machine-").removesuffix(".scope"))
            machine = _VIRTUAL_MACHINE.match(name)
            return machine[1] if machine else name
    return ""


def _unescape(name: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), name)


def v2_mount(proc: Path = Path("/proc")) -> Path | None:
    """Where this machine mounts the control groups of version 2: /sys/fs/cgroup, or a directory in it."""
    text = _read(f"{proc}/mounts") or b""
    for line in text.decode(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if len(fields) > 3 and fields[2] == "cgroup2":
            return Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
    return None


def v2_path(cgroup_file: bytes) -> str:
    """The path in the version-2 line of a /proc/PID/cgroup, "" without one."""
    return _line(cgroup_file, b"0::")


class Life(NamedTuple):
    """The part of /proc/PID/stat that tells one process from another, and what has become of it."""

    name: str
    start_ticks: int  # since boot
    ended: bool
    is_kernel_thread: bool


class _Known(NamedTuple):
    life: Life
    link: str
    read_ns: int
    program: Program


class Processes:
    """Resolves process ids, and ids of control groups. `proc` and `mount` are other trees in tests."""

    def __init__(
        self,
        *,
        proc: Path = Path("/proc"),
        mount: Path | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.proc = str(proc)
        self.mount = mount or v2_mount(proc)
        self._now_ns = now_ns
        self._known: OrderedDict[tuple[int, int], _Known] = OrderedDict()
        self._groups: OrderedDict[int, str] = OrderedDict()
        self._walked_ns: int | None = None

    # -- processes ---------------------------------------------------------------------------------------------------

    def program(self, process_id: int) -> Program | None:
        """Who it is; None: gone, or not ours to see. The kernel's own threads are the unattributed."""
        life = self.life(process_id)
        if life is None:
            return None
        if life.is_kernel_thread:
            return UNATTRIBUTED
        key = (process_id, life.start_ticks)
        known = self._known.get(key)
        if life.ended and known:
            return known.program
        link = self._executable(process_id)
        now_ns = self._now_ns()
        # An exec keeps id and start time: name and link show it.
        if known and (known.life, known.link) == (life, link) and now_ns - known.read_ns < CACHE_AGE_NS:
            return known.program
        program = self._read_program(process_id, link or life.name)
        if program is not None:
            self._known[key] = _Known(life, link, now_ns, program)
            self._known.move_to_end(key)
            if len(self._known) > CACHE_ENTRIES:
                self._known.popitem(last=False)
        return program

    def life(self, process_id: int) -> Life | None:
        """None when it is gone."""
        text = _read(f"{self.proc}/{process_id}/stat")
        if not text:
            return None
        # The name is in parentheses and may contain anything, parentheses and newlines too.
        name, _, rest = text.partition(b"(")[2].rpartition(b")")
        fields = rest.split()
        if len(fields) < 20:
            return None
        is_kernel_thread = bool(int(fields[6]) & _KERNEL_THREAD)
        return Life(name.decode(errors="replace"), int(fields[19]), fields[0] in _ENDED, is_kernel_thread)

    def ended_program(self, *, name: str, user_id: int | None, control_group_id: int) -> Program:
        """Who a process was that is gone, from what the kernel noted while it lived."""
        path = self.control_group_path(control_group_id) if control_group_id else None
        place = placement(path or "")
        return Program(
            kind=Kind.PROGRAM,
            executable=name,
            unit=place.unit,
            container=place.container,
            task=place.task,
            user_id=user_id,
        )

    def _executable(self, process_id: int) -> str:
        """The path; "" when it has none any more, or is another user's."""
        try:
            link = os.readlink(f"{self.proc}/{process_id}/exe")
        except OSError:
            return ""
        # A path which is no valid text must not end in an encoding error at some later boundary.
        return link.removesuffix(" (deleted)").encode(errors="surrogateescape").decode(errors="replace")

    def _read_program(self, process_id: int, executable: str) -> Program | None:
        status = _read(f"{self.proc}/{process_id}/status")
        groups = _read(f"{self.proc}/{process_id}/cgroup")
        if status is None or groups is None:
            return None
        # Hybrid machines keep their units in the tree of version 1 that is called "systemd"; a task is in version 2.
        paths = (v2_path(groups), _systemd_path(groups))
        places = [placement(path) for path in paths if path]
        users = _line(status, b"Uid:").split()
        return Program(
            kind=Kind.PROGRAM,
            executable=executable,
            unit=next((place.unit for place in places if place.unit), ""),
            container=next((place.container for place in places if place.container), ""),
            task=next((place.task for place in places if place.task), ""),
            user_id=int(users[0]) if users else None,  # the real one: whose program it is, not whose rights it has
        )

    # -- control groups ----------------------------------------------------------------------------------------------

    def control_group_path(self, control_group_id: int) -> str | None:
        """The path below the mount of a version-2 control group, "/" for the root; also of one that went lately."""
        path = self._groups.get(control_group_id)
        if path is not None or self.mount is None:
            return path
        now_ns = self._now_ns()
        if self._walked_ns is not None and now_ns - self._walked_ns < INDEX_AGE_NS:
            return None
        self._walked_ns = now_ns
        for number, found in _walk(str(self.mount)):
            self._groups[number] = found
            self._groups.move_to_end(number)
            if len(self._groups) > INDEX_ENTRIES:
                self._groups.popitem(last=False)
        return self._groups.get(control_group_id)

    def members(self, control_group_id: int) -> list[int]:
        """The processes in a version-2 control group; none for the root, where everything may be."""
        path = self.control_group_path(control_group_id) if control_group_id else None
        if path is None or path == "/":
            return []
        return [int(word) for word in (_read(f"{self.mount}{path}/cgroup.procs") or b"").split()]


def _walk(mount: str) -> Iterator[tuple[int, str]]:
    """Inode and path of the control groups, the outer ones first; no more than the index keeps."""
    try:
        yield os.stat(mount).st_ino, "/"
    except OSError:
        return
    waiting, count = [""], 1
    for path in waiting:
        try:
            with os.scandir(mount + path) as entries:
                inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # removed meanwhile
        for entry in inner:
            if count == INDEX_ENTRIES:
                return
            count += 1
            found = f"{path}/{entry.name}"
            waiting.append(found)
            yield entry.inode(), found


def _systemd_path(text: bytes) -> str:
    for line in text.splitlines():
        _, _, rest = line.partition(b":")
        if rest.startswith(b"name=systemd:"):
            return rest.removeprefix(b"name=systemd:").decode(errors="replace")
    return ""


def _line(text: bytes, start: bytes) -> str:
    """What follows `start` on the first line that begins with it."""
    for line in text.splitlines():
        if line.startswith(start):
            return line.removeprefix(start).decode(errors="replace")
    return ""


def _read(path: str) -> bytes | None:
    """None when the process is gone, or hidden from us (the mount option hidepid)."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return None


def running_executables(proc: str = "/proc") -> frozenset[str]:
    """Absolute paths of whatever runs and may be seen by us. Takes some milliseconds."""
    found = set()
    for entry in os.scandir(proc):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"{proc}/{entry.name}/exe"))
    return frozenset(found)
