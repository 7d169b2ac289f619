"""How much cumulative counters grew between two readings, so that no byte is counted twice.

Decides what became more since the last reading.  Refuses to know hours, networks and names.  Three things look alike
and are told apart here: a counter that began anew (its engine or its interface did: what it shows now is new), a count
that only moved from one program to another (a program got its name, or ended and joined the others that did: nothing is
new), and a flow that we meet late (its past is somebody's already).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final

from dataplane.metering import FlowKey, FlowMeter, LinkMeter, Program, ProgramMeter, Tally
from hostagent.history.values import Counts

NOTHING: Final = Counts()


def counts_of(sent: Tally, received: Tally) -> Counts:
    return Counts(sent.bytes, received.bytes, sent.packets, received.packets, received.ce_packets)


def since(now: Counts, before: Counts) -> Counts:
    """A counter of which any part fell has begun anew."""
    grown = now.less(before)
    return now if min(grown) < 0 else grown


class LinkGrowth:
    """By interface. One that is gone and comes back goes on from what it had."""

    def __init__(self) -> None:
        self._before: dict[str, Counts] = {}

    def restart(self) -> None:
        self._before.clear()

    def grown(self, links: Iterable[LinkMeter]) -> dict[str, Counts]:
        found = {}
        for link in links:
            now = counts_of(link.sent, link.received)
            found[link.interface] = since(now, self._before.get(link.interface, NOTHING))
            self._before[link.interface] = now
        return found


class ProgramGrowth:
    """By program, whatever numbers an engine gives it."""

    def __init__(self) -> None:
        self._before: dict[Program, Counts] = {}
        self._names: dict[int, Program] = {}

    def restart(self) -> None:
        self._before.clear()
        self._names.clear()

    def grown(self, meters: Sequence[ProgramMeter]) -> dict[Program, Counts]:
        """Never below zero; the sum is by how much the sum of all grew."""
        now: dict[Program, Counts] = {}
        for meter in meters:
            counts = counts_of(meter.sent, meter.received)
            now[meter.program] = now[meter.program].plus(counts) if meter.program in now else counts
        if any(new < old for new, old in zip(_sum(now.values()), _sum(self._before.values()), strict=True)):
            self.restart()
        names = {meter.number: meter.program for meter in meters}
        changed = {program: now.get(program, NOTHING).less(before) for program, before in self._before.items()}
        changed |= {program: counts for program, counts in now.items() if program not in changed}
        if any(min(counts) < 0 for counts in changed.values()):
            heirs = {self._names[number]: names[number] for number in self._names.keys() & names.keys()
                     if self._names[number] != names[number]}  # fmt: skip
            changed = _without_moves(changed, heirs)
        self._before, self._names = now, names
        return {program: counts for program, counts in changed.items() if any(counts)}


def _sum(all_counts: Iterable[Counts]) -> Counts:
    total = NOTHING
    for counts in all_counts:
        total = total.plus(counts)
    return total


def _without_moves(changed: Mapping[Program, Counts], heirs: Mapping[Program, Program]) -> dict[Program, Counts]:
    """What one program lost another one got: it is taken from whoever has its number now, then from who grew most."""
    columns: list[dict[Program, int]] = []
    for at in range(len(Counts._fields)):
        column = {program: counts[at] for program, counts in changed.items()}
        for loser in [program for program, change in column.items() if change < 0]:
            lost, column[loser] = -column[loser], 0
            heir = heirs.get(loser)
            for gainer in sorted(column, key=lambda program: (program != heir, -column[program])):
                taken = min(lost, max(0, column[gainer]))
                column[gainer] -= taken
                lost -= taken
                if not lost:
                    break
        columns.append(column)
    return {program: Counts(*(column[program] for column in columns)) for program in changed}


class FlowGrowth:
    """By flow. Remembers the flows of the last list only."""

    def __init__(self) -> None:
        self._before: dict[FlowKey, FlowMeter] = {}
        self._read_ns: int | None = None

    def restart(self) -> None:
        self._before.clear()
        self._read_ns = None

    def grown(self, flows: Sequence[FlowMeter], now_ns: int) -> list[tuple[FlowMeter, Counts]]:
        """Only those that moved something. `now_ns`: of the reading that the list came with."""
        before, read_ns = self._before, self._read_ns
        found = []
        for flow in flows:
            known = before.get(flow.key)
            if known is not None and known.sent == flow.sent and known.received == flow.received:
                continue
            now = counts_of(flow.sent, flow.received)
            if known is not None and known.first_ns == flow.first_ns:
                found.append((flow, since(now, counts_of(known.sent, known.received))))
            elif read_ns is None or flow.first_ns >= read_ns:
                found.append((flow, now))
        self._before, self._read_ns = {flow.key: flow for flow in flows}, now_ns
        return found


class Spending:
    """Real payments by flow. A flow that was not named for a while is forgotten, and its count begins anew."""

    FORGOTTEN_AFTER: Final = 600
    """Calls: ten minutes, where payers forget a silent flow after five."""

    def __init__(self) -> None:
        self._before: dict[Hashable, tuple[int, int]] = {}
        self._calls = 0

    def grown(self, flow: Hashable, spent_nanodollars: int) -> int:
        before, _ = self._before.get(flow, (0, 0))
        self._before[flow] = (spent_nanodollars, self._calls)
        return spent_nanodollars if spent_nanodollars < before else spent_nanodollars - before

    def end_of_call(self) -> None:
        self._calls += 1
        if self._calls % self.FORGOTTEN_AFTER == 0:
            oldest = self._calls - self.FORGOTTEN_AFTER
            self._before = {flow: seen for flow, seen in self._before.items() if seen[1] >= oldest}
