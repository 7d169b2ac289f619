"""Who is behind an interface, for traffic that only crosses this host.

Decides: what to call it. Refuses to know: which traffic that is. Source: veth(4), ip-link(8), namespaces(7);
drivers/net/tun.c, which names its interface in /proc/PID/fdinfo.

A veth's other end is in some network namespace. Of the processes that live there the one that started first is the
container's own, and its control group names container and unit; without a container it is called as `ip netns` calls
the namespace. A tap belongs to the process that has it open: a virtual machine's. Everything else (a bridge with many
ports, a tunnel, a LAN) is called by the interface's name alone.
Reads only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dataplane.attribution.interfaces import Interface, Interfaces
from dataplane.attribution.processes import Processes
from dataplane.metering import Kind, Program

AGE_NS: Final = 5_000_000_000
"""How long an answer holds: an interface is often there a moment before its container's first process is."""

_NAMED_NAMESPACES: Final = Path("/run/netns")
_TUN_DEVICE: Final = "/dev/net/tun"


class Forwarding:
    """Answers for the network namespace of the thread that makes it."""

    def __init__(
        self,
        processes: Processes,
        interfaces: Interfaces | None = None,
        *,
        named_namespaces: Path = _NAMED_NAMESPACES,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._processes = processes
        self._interfaces = interfaces or Interfaces()
        self._named = named_namespaces
        self._now_ns = now_ns
        self._read_ns: int | None = None
        self._by_name: dict[str, Interface] = {}
        self._by_index: dict[int, Interface] = {}
        self._programs: dict[int, Program] = {}

    def close(self) -> None:
        self._interfaces.close()

    def behind(self, interface: str | int) -> Program:
        """By name, or by index. An interface that is gone is called by what we know of it."""
        self._refresh()
        found = self._find(interface)
        if found is None:
            return Program(kind=Kind.FORWARDED, interface=interface if isinstance(interface, str) else "")
        known = self._programs.get(found.interface_index)
        if known is None:
            known = self._programs[found.interface_index] = self._resolve(found)
        return known

    def bridge_ports(self, name: str) -> tuple[str, ...]:
        """The interfaces that are ports of a bridge; none when there is no such bridge."""
        self._refresh()
        bridge = self._by_name.get(name)
        if bridge is None:
            return ()
        return tuple(
            sorted(each.name for each in self._by_name.values() if each.master_index == bridge.interface_index)
        )

    def _refresh(self) -> None:
        now_ns = self._now_ns()
        if self._read_ns is None or now_ns - self._read_ns >= AGE_NS:
            self._read_ns = now_ns
            self._by_name = self._interfaces.read()
            self._by_index = {each.interface_index: each for each in self._by_name.values()}
            self._programs.clear()

    def _find(self, interface: str | int) -> Interface | None:
        if isinstance(interface, str):
            return self._by_name.get(interface)
        return self._by_index.get(interface)

    def _resolve(self, interface: Interface) -> Program:
        inside: Program | None = None
        container = ""
        if interface.kind == "veth" and interface.peer_namespace is not None:
            inside, container = self._behind_veth(interface.peer_namespace)
        elif interface.kind == "tun" and interface.is_ethernet:
            inside = self._behind_tap(interface.name)
        return Program(
            kind=Kind.FORWARDED,
            interface=interface.name,
            container=inside.container or container if inside else container,
            unit=inside.unit if inside else "",
            task=inside.task if inside else "",
        )

    # -- veth --------------------------------------------------------------------------------------------------------

    def _behind_veth(self, number: int) -> tuple[Program | None, str]:
        """The first process in the namespace that has our `number`, and that namespace's name."""
        lives: dict[int, list[int]] = {}
        for process_id in self._process_ids():
            inode = _inode(f"{self._processes.proc}/{process_id}/ns/net")
            if inode:
                lives.setdefault(inode, []).append(process_id)
        for members in lives.values():
            file = f"{self._processes.proc}/{members[0]}/ns/net"
            if self._interfaces.namespace_number(file) == number:
                programs = [program for program in map(self._processes.program, self._by_age(members)) if program]
                programs.sort(key=lambda program: not program.container)  # stable: still by age
                return programs[0] if programs else None, self._name_of_namespace(_inode(file))
        return None, self._name_of_number(number)

    def _by_age(self, process_ids: list[int]) -> list[int]:
        aged = [(life.start_ticks, each) for each in process_ids if (life := self._processes.life(each))]
        return [each for _, each in sorted(aged)]

    def _name_of_namespace(self, inode: int) -> str:
        """As `ip netns` calls it."""
        return next((path.name for path in self._named_files() if inode and _inode(str(path)) == inode), "")

    def _name_of_number(self, number: int) -> str:
        """Of one in which no process lives."""
        files = self._named_files()
        return next((each.name for each in files if self._interfaces.namespace_number(str(each)) == number), "")

    def _named_files(self) -> list[Path]:
        try:
            return sorted(self._named.iterdir())
        except OSError:
            return []

    # -- tap ---------------------------------------------------------------------------------------------------------

    def _behind_tap(self, name: str) -> Program | None:
        wanted = f"iff:\t{name}\n"
        for process_id in self._process_ids():
            if any(wanted in text for text in self._tuns_of(process_id)):
                return self._processes.program(process_id)
        return None

    def _tuns_of(self, process_id: int) -> Iterator[str]:
        """What the kernel says of each tun device that the process has open."""
        process = f"{self._processes.proc}/{process_id}"
        try:
            for descriptor in os.listdir(f"{process}/fd"):
                if os.readlink(f"{process}/fd/{descriptor}") == _TUN_DEVICE:
                    yield Path(f"{process}/fdinfo/{descriptor}").read_text()
        except OSError:
            return  # gone meanwhile

    def _process_ids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._processes.proc) if name.isdigit()]


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
