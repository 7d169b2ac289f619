"""Readings of once a second into increments of history: who, with whom, what kind, by which network, in which hour.

Decides how the counts of links, programs and flows, which are read one after the other, become one set of rows that
adds up.  Refuses to know engines, files and clocks.

The links are the truth, since they are what a data plan is billed by.  In each window (from one list of flows to the
next, a second as a rule) and for each count:

1. A program's bytes go to the destinations, kinds and networks of its flows, as far as they explain them.
2. What they do not explain goes to destination "", under the kind of the program's last flow. With several networks it
   is split in proportion to what their links have moved beyond step 1; with one that is all of it.
3. What no program claims is "(unattributed)". Links and programs are not read at one moment: what either is ahead of
   the other waits for one window, and for no flush and no hour's end. What a program is ahead is then not booked.

So for each hour and network the sum over the rows is the sum over its links, to the byte, whatever step 2 guessed.
Everything read belongs to the hour of its reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeVar

from dataplane.metering import FlowMeter, Program, Reading
from hostagent.history.growth import NOTHING, FlowGrowth, LinkGrowth, ProgramGrowth, Spending
from hostagent.history.values import (
    DEFAULT_KIND,
    HOUR_S,
    OTHERS,
    SLOT_S,
    UNATTRIBUTED,
    Amounts,
    Counts,
    Increments,
    LinkKey,
    Payment,
    RowKey,
    split,
)

DESTINATIONS_PER_HOUR: Final = 500
FREE_DESTINATIONS: Final = 400
"""So many get a row whatever they move; the places that are left are for those that move much at once."""
MUCH_BYTES: Final = 100_000
PROGRAMS_PER_HOUR: Final = 1000
NAME_MAX: Final = 200
BYTES_PER_MB: Final = 1_000_000
Key = TypeVar("Key")


class NetworkPrice(NamedTuple):
    """The embedded gateway's, now: internal money."""

    out_nanodollars_per_mb: int = 0
    in_nanodollars_per_mb: int = 0


class Explained(NamedTuple):
    """Where a program's bytes went, by its flows."""

    program: str
    network: str
    destination: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a reading does not say. `networks`: of interfaces; `interfaces`: by index; `kinds`: the plan's classes."""

    networks: Mapping[str, str]
    interfaces: Mapping[int, str]
    kinds: Sequence[str]
    prices: Mapping[str, NetworkPrice] = field(default_factory=dict)  # by network


class Accumulator:
    """`name_of`: a program's one word for a person. Call `on_second` once a second and `take` before each flush."""

    def __init__(self, name_of: Callable[[Program], str]) -> None:
        self._name_of = name_of
        self._life = 0
        self._links = LinkGrowth()
        self._programs = ProgramGrowth()
        self._flows = FlowGrowth()
        self._spending = Spending()
        self._window = _Window()
        self._last_kinds: dict[str, str] = {}
        self._hour = _Hour(0)
        self._carried: dict[tuple[str, int], int] = {}  # 10^-6 n$ by network and direction
        self._prices: Mapping[str, NetworkPrice] = {}
        self._taken = Increments()

    def on_second(
        self,
        unix_s: int,
        reading: Reading,
        flows: Sequence[FlowMeter] | None,
        surroundings: Surroundings,
        *,
        payments: Iterable[Payment] = (),
        life: int = 0,
    ) -> None:
        """`flows` is None where they were not read. `life`: another number means an engine that counts from zero.

        The list of flows belongs to `reading`, and was read after it.
        """
        if life != self._life:
            self._close(final=True)
            self._life = life
            for each in (self._links, self._programs, self._flows):
                each.restart()
        hour = unix_s // HOUR_S * HOUR_S
        if hour != self._hour.unix_s:
            self._close(final=True)
            self._hour = _Hour(hour)
            self._last_kinds = dict(list(self._last_kinds.items())[-PROGRAMS_PER_HOUR:])
        self._prices = surroundings.prices
        slot = unix_s // SLOT_S * SLOT_S
        for interface, counts in self._links.grown(reading.links).items():
            if any(counts):
                network = surroundings.networks.get(interface, "")
                self._window.add_link(network, counts)
                self._taken.add_link(LinkKey(slot, network), counts)
        for program, counts in self._programs.grown(reading.programs).items():
            self._window.add_program(self._hour.program(self._name_of(program)), counts)
        for payment in payments:
            self._pay(payment)
        self._spending.end_of_call()
        if flows is not None and (flows or not reading.flows_tracked):
            self._explain(reading, flows, surroundings)
            self._close(final=False)

    def take(self) -> Increments:
        """All that has come since the last call. Best after a second whose flows were read."""
        self._close(final=True)
        taken, self._taken = self._taken, Increments()
        return taken

    # --- one window -------------------------------------------------------------------------------------------------

    def _explain(self, reading: Reading, flows: Sequence[FlowMeter], surroundings: Surroundings) -> None:
        programs = {meter.number: meter.program for meter in reading.programs}
        names: dict[int, str] = {}
        for flow, counts in self._flows.grown(flows, reading.now_ns):
            number = flow.program_number
            if number not in names:
                program = programs.get(number)
                names[number] = self._hour.program(self._name_of(program)) if program is not None else UNATTRIBUTED
            network = surroundings.networks.get(surroundings.interfaces.get(flow.key.interface_index, ""), "")
            known = flow.traffic_class < len(surroundings.kinds)
            kind = surroundings.kinds[flow.traffic_class] if known else DEFAULT_KIND
            destination = self._hour.destination(flow.key.remote, counts.bytes)
            self._last_kinds[names[number]] = kind
            self._window.explain(Explained(names[number], network, destination, kind), counts)

    def _close(self, *, final: bool) -> None:
        for explained, counts in self._window.close(self._last_kinds, final=final).items():
            self._book(explained, counts)

    def _book(self, explained: Explained, counts: Counts) -> None:
        key = self._key(explained.program, explained.kind, explained.destination, explained.network)
        price = self._prices.get(explained.network)
        priced = 0
        if price is not None:
            priced += self._priced(explained.network, 0, counts.sent_bytes * price.out_nanodollars_per_mb)
            priced += self._priced(explained.network, 1, counts.received_bytes * price.in_nanodollars_per_mb)
        self._taken.add_row(key, Amounts(*counts, 0, priced))

    def _priced(self, network: str, direction: int, micro: int) -> int:
        """Whole nanodollars; what is below stays for the next bytes of that network and direction."""
        nanodollars, rest = divmod(self._carried.get((network, direction), 0) + micro, BYTES_PER_MB)
        self._carried[network, direction] = rest
        return nanodollars

    def _pay(self, payment: Payment) -> None:
        grown = self._spending.grown(payment.flow, payment.spent_nanodollars)
        if grown:
            program = self._hour.program(payment.program)
            destination = self._hour.name_destination(payment.destination, 0)
            key = self._key(program, payment.kind, destination, payment.network)
            self._taken.add_row(key, Amounts(spent_nanodollars=grown))

    def _key(self, program: str, kind: str, destination: str, network: str) -> RowKey:
        return RowKey(self._hour.unix_s, program, kind, destination, network)


class _Hour:
    """Which programs and destinations have rows of their own in this hour: a bounded number."""

    def __init__(self, unix_s: int) -> None:
        self.unix_s = unix_s
        self._programs: set[str] = {OTHERS, UNATTRIBUTED}
        self._destinations: set[str] = {"", OTHERS}
        self._addresses: dict[bytes, str] = {}

    def program(self, name: str) -> str:
        name = name[:NAME_MAX]
        if name not in self._programs:
            if len(self._programs) >= PROGRAMS_PER_HOUR:
                return OTHERS
            self._programs.add(name)
        return name

    def destination(self, address: bytes, size_bytes: int) -> str:
        known = self._addresses.get(address)
        if known is None:
            known = self.name_destination(str(ip_address(address)), size_bytes)
            if known != OTHERS:
                self._addresses[address] = known
        return known

    def name_destination(self, name: str, size_bytes: int) -> str:
        name = name[:NAME_MAX]
        if name not in self._destinations:
            places = DESTINATIONS_PER_HOUR if size_bytes >= MUCH_BYTES else FREE_DESTINATIONS
            if len(self._destinations) - 2 >= places:
                return OTHERS
            self._destinations.add(name)
        return name


class _Window:
    """What links, programs and flows have moved that is not booked, and the booking: steps 1 to 3."""

    def __init__(self) -> None:
        self._links: dict[str, Counts] = {}
        self._programs: dict[str, Counts] = {}
        self._explained: dict[Explained, Counts] = {}
        # What came in this window; the rest has waited for one already.
        self._new_links: dict[str, Counts] = {}
        self._new_programs: dict[str, Counts] = {}
        self._new_explained: dict[Explained, Counts] = {}

    def add_link(self, network: str, counts: Counts) -> None:
        _add(self._links, network, counts)
        _add(self._new_links, network, counts)

    def add_program(self, program: str, counts: Counts) -> None:
        _add(self._programs, program, counts)
        _add(self._new_programs, program, counts)

    def explain(self, explained: Explained, counts: Counts) -> None:
        _add(self._explained, explained, counts)
        _add(self._new_explained, explained, counts)

    def close(self, last_kinds: Mapping[str, str], *, final: bool) -> dict[Explained, Counts]:
        """`final`: what links are ahead does not wait; it may come right after a window's end."""
        ages = not final or bool(self._new_links or self._new_programs or self._new_explained)
        if not self._links:
            self._end(ages=ages)
            return {}
        columns: list[dict[Explained, int]] = []
        for at in range(len(Counts._fields)):
            links = {network: counts[at] for network, counts in self._links.items()}
            programs = {program: counts[at] for program, counts in self._programs.items() if counts[at]}
            explained = {key: counts[at] for key, counts in self._explained.items() if counts[at]}
            new_links = {network: counts[at] for network, counts in self._new_links.items()}
            columns.append(_book_column(links, programs, explained, last_kinds, {} if final else new_links))
        keys = dict.fromkeys(key for column in columns for key in column)
        booked = {key: Counts(*(column.get(key, 0) for column in columns)) for key in keys}
        for key, counts in booked.items():
            _take(self._links, key.network, counts)
            _take(self._programs, key.program, counts)
            _take(self._explained, key, counts)
        self._links = {network: counts for network, counts in self._links.items() if any(counts)}
        self._end(ages=ages)
        return booked

    def _end(self, *, ages: bool) -> None:
        """What is left waits once, if it is of this window."""
        if ages:
            self._programs = _younger(self._programs, self._new_programs)
            self._explained = _younger(self._explained, self._new_explained)
            self._new_links, self._new_programs, self._new_explained = {}, {}, {}


def _book_column(
    links: dict[str, int],
    programs: dict[str, int],
    explained: dict[Explained, int],
    last_kinds: Mapping[str, str],
    may_wait: Mapping[str, int],
) -> dict[Explained, int]:
    """One of the five counts. `may_wait`: how much of a network's may be left for the next window."""
    booked: dict[Explained, int] = {}
    rooms, left = dict(links), dict(programs)
    for key, value in _fitting(_fitting(explained, programs, 0), links, 1).items():
        if not value:  # its program is not among those that moved: others have what it lost when names changed
            continue
        booked[key] = value
        rooms[key.network] -= value
        left[key.program] -= value
    owners = sorted(program for program, value in left.items() if value > 0)
    shares = split(min(sum(rooms.values()), sum(left[each] for each in owners)), [left[each] for each in owners])
    networks = sorted(rooms)
    for program, share in zip(owners, shares, strict=True):
        kind = last_kinds.get(program, DEFAULT_KIND)
        for network, part in zip(networks, split(share, [rooms[each] for each in networks]), strict=True):
            _add_int(booked, Explained(program, network, "", kind), part)
            rooms[network] -= part
    for network, room in rooms.items():
        _add_int(booked, Explained(UNATTRIBUTED, network, "", DEFAULT_KIND), max(0, room - may_wait.get(network, 0)))
    return booked


def _fitting(values: dict[Explained, int], bounds: Mapping[str, int], field_at: int) -> dict[Explained, int]:
    """Cut down in proportion where those of one program (field 0) or network (field 1) are more than there is."""
    groups: dict[str, list[Explained]] = {}
    for key in values:
        groups.setdefault(key[field_at], []).append(key)
    fitting: dict[Explained, int] = {}
    for name, keys in groups.items():
        weights = [values[key] for key in keys]
        total, bound = sum(weights), bounds.get(name, 0)
        fitting.update(zip(keys, weights if total <= bound else split(bound, weights), strict=True))
    return fitting


def _add_int(column: dict[Explained, int], key: Explained, value: int) -> None:
    if value:
        column[key] = column.get(key, 0) + value


def _add(into: dict[Key, Counts], key: Key, counts: Counts) -> None:
    into[key] = into[key].plus(counts) if key in into else counts


def _take(out_of: dict[Key, Counts], key: Key, counts: Counts) -> None:
    if key in out_of:
        out_of[key] = Counts(*(max(0, part) for part in out_of[key].less(counts)))


def _younger(left: dict[Key, Counts], new: dict[Key, Counts]) -> dict[Key, Counts]:
    """What is left over, but no more than what came in this window."""
    kept = {key: Counts(*map(min, counts, new.get(key, NOTHING))) for key, counts in left.items()}
    return {key: counts for key, counts in kept.items() if any(counts)}
