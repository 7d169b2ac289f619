"""Whether a part of the kernel is there, could be loaded, or is absent, by reading files alone.

Decides: whether trying a feature would load a module. Refuses to know: what the feature is for.
Source: modules.builtin and modules.dep as depmod(8) writes them; sysfs(5) for /sys/module; sysctl/kernel for
modules_disabled.

Trying a feature whose module lies on the disk would load it, which is a lasting change, and some modules (ifb, dummy)
even make interfaces of their own then. So such a feature is not tried: its module on the disk is the answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Module(Enum):
    READY = "ready"  # loaded or built in: trying it changes nothing
    ON_DISK = "on disk"  # its first use loads it
    LOCKED = "locked"  # on the disk, but this kernel takes no more modules until it is started anew
    ABSENT = "absent"  # this kernel's lists do not name it
    UNKNOWN = "unknown"  # this kernel has no lists here (a kernel in one piece, a container): trying loads nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """What /sys/module and /lib/modules say; names with underscores."""

    loaded: frozenset[str]
    builtin: frozenset[str]
    on_disk: frozenset[str]
    disabled: bool = False

    def state(self, name: str) -> Module:
        if name in self.loaded or name in self.builtin:
            return Module.READY
        if name in self.on_disk:
            return Module.LOCKED if self.disabled else Module.ON_DISK
        return Module.ABSENT if self.builtin else Module.UNKNOWN

    def among(self, names: Iterable[str], state: Module) -> list[str]:
        return [name for name in names if self.state(name) is state]


def read_modules(root: Path = Path("/")) -> Modules:
    """Bounded: a directory and two files of a few hundred kilobytes."""
    directory = root / "lib" / "modules" / os.uname().release
    try:
        loaded = frozenset(each.name for each in (root / "sys" / "module").iterdir())
    except OSError:
        loaded = frozenset()
    try:
        disabled = (root / "proc/sys/kernel/modules_disabled").read_text(encoding="ascii").strip() == "1"
    except OSError:
        disabled = False
    return Modules(
        loaded=loaded,
        builtin=_names(directory / "modules.builtin"),
        on_disk=_names(directory / "modules.dep"),
        disabled=disabled,
    )


def _names(path: Path) -> frozenset[str]:
    """`kernel/net/sched/sch_htb.ko.xz: …` names sch_htb."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    paths = (line.partition(":")[0] for line in lines)
    return frozenset(path.rpartition("/")[2].partition(".")[0].replace("-", "_") for path in paths)
