"""The programs that the kernel has numbered: who they are, and which numbers are free again.

Decides: what a number means to a person, and when nobody can use it any more. Refuses to know: packets.
Source: dataplane/ebpf/host.h (struct identity, struct program).

A number serves one identity (executable, control group, user). When no process has a socket of it, nothing was counted
and no flow was seen for a while, it is given to somebody else; what it had counted stays with the program's name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dataplane.attribution.processes import Processes
from dataplane.ebpf import layout
from dataplane.ebpf.layout import IdentityKind, ProgramEntry
from dataplane.ebpf.libbpf import Map
from dataplane.metering import UNATTRIBUTED, Kind, Program, ProgramMeter, Tally

IDLE_PASSES: Final = 60
"""Looks at all open files without a socket of the program: five minutes and more."""

ENDED_MAX: Final = 1024
"""Programs whose number was given back and whose counts are kept by name; the oldest fall together into one."""

ENDED: Final = Program(kind=Kind.PROGRAM, executable="(ended)")
_NEVER_COUNTED: Final = bytes(layout.METER.size)


@dataclass(slots=True)
class _Named:
    entry: ProgramEntry
    program: Program
    is_final: bool  # read from the process itself
    counted: tuple[Tally, Tally] = (Tally(), Tally())
    counted_pass: int = 0


class ProgramBook:
    """`forwarder` names whoever is behind an interface, by its index."""

    def __init__(
        self,
        *,
        programs: Map,
        meters: Map,
        numbers: Map,
        free_numbers: Map,
        last_passes: Map,
        processes: Processes,
        forwarder: Callable[[int], Program],
    ) -> None:
        self._programs, self._meters, self._numbers = programs, meters, numbers
        self._free_numbers, self._last_passes = free_numbers, last_passes
        self._processes = processes
        self._forwarder = forwarder
        self._named: dict[int, _Named] = {}
        self._ended: OrderedDict[Program, tuple[Tally, Tally]] = OrderedDict()
        for number in range(1, layout.PROGRAMS_MAX):
            free_numbers.push(layout.NUMBER.pack(number))

    def on_seen(self, number: int, process: int) -> None:
        """The kernel has just numbered a program: its process is most likely still there."""
        self._name(number, process)

    def program(self, number: int) -> Program:
        if number == 0:
            return UNATTRIBUTED
        named = self._named.get(number) or self._name(number, 0)
        return named.program if named is not None else UNATTRIBUTED

    def _name(self, number: int, process: int) -> _Named | None:
        raw = self._programs.lookup(layout.NUMBER.pack(number))
        entry = layout.read_program(raw) if raw is not None else None
        if entry is None or entry.kind is IdentityKind.UNATTRIBUTED:
            return None
        if entry.kind is IdentityKind.FORWARDED:
            named = _Named(entry, self._forwarder(entry.device), is_final=True)
        else:
            found = self._processes.program(process or entry.process)
            # The id may be another process's by now, or the same one's that runs another program: the name tells.
            is_it = found is not None and found.executable.rpartition("/")[2][:31] == entry.file_name
            program = found if is_it and found is not None else self._ended_program(entry)
            named = _Named(entry, program, is_final=is_it)
        self._named[number] = named
        return named

    def _ended_program(self, entry: ProgramEntry) -> Program:
        return self._processes.ended_program(name=entry.file_name, user_id=entry.user, control_group_id=entry.group)

    def read(self) -> Iterator[ProgramMeter]:
        """Every program that has a number or had one, with what was counted for it."""
        for number, raw in enumerate(value for _, value in self._meters.items()):
            if raw == _NEVER_COUNTED and number and number not in self._named:
                continue  # nearly all of them, once a second
            sent, received = layout.read_meter(raw)
            yield ProgramMeter(number=number, program=self.program(number), sent=sent, received=received)
        for place, (program, (sent, received)) in enumerate(self._ended.items()):
            yield ProgramMeter(number=layout.PROGRAMS_MAX + place, program=program, sent=sent, received=received)

    def recycle(self, *, current_pass: int, in_table: set[int]) -> None:
        """Gives back the numbers that nobody uses. `in_table`: those of flows that are still there."""
        for number, named in list(self._named.items()):
            raw = self._meters.lookup(layout.NUMBER.pack(number))
            last = self._last_passes.lookup(layout.NUMBER.pack(number))
            assert raw is not None
            assert last is not None
            counted = layout.read_meter(raw)
            if counted != named.counted or number in in_table:
                named.counted, named.counted_pass = counted, current_pass
                continue
            used = max(layout.NUMBER.unpack(last)[0], named.counted_pass)
            if named.entry.kind is IdentityKind.PROGRAM and current_pass - used > IDLE_PASSES:
                self._give_back(number, named)

    def _give_back(self, number: int, named: _Named) -> None:
        key = layout.NUMBER.pack(number)
        self._numbers.delete(named.entry.identity)  # from here on nobody new gets the number
        raw = self._meters.lookup(key)
        assert raw is not None
        self._keep(named.program, layout.read_meter(raw))
        self._meters.update(key, bytes(layout.METER.size))
        del self._named[number]
        self._free_numbers.push(key)

    def _keep(self, program: Program, counted: tuple[Tally, Tally]) -> None:
        if not any(counted[0]) and not any(counted[1]):
            return
        before = self._ended.pop(program, (Tally(), Tally()))
        self._ended[program] = (before[0].plus(counted[0]), before[1].plus(counted[1]))
        if len(self._ended) > ENDED_MAX:
            oldest = next(each for each in self._ended if each != ENDED)
            self._keep(ENDED, self._ended.pop(oldest))
