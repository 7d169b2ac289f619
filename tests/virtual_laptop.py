"""A laptop in memory that outlives its agent: interfaces, programs, an engine that counts, a disk that fills up.

It knows the truth: every byte that an engine counted, by program, kind and network (`Ledger`), and what of it must be
on the disk.  So a test need not believe the books.  The agent in it is the real one from the reading on: steering,
books, words, data plans and history; only `hostagent.networks` and the engine are values.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
from virtual_home import VirtualClock, VirtualHome

from dataplane.metering import FlowKey, FlowMeter, Kind, LinkMeter, Program, ProgramMeter, Reading, Tally
from dataplane.round_trips import RoundTrip
from dataplane.shaping.matching import Matcher
from dataplane.shaping.plan import ShapingPlan
from hostagent.books import BOOK_EVERY_S, KEEP_EVERY_S, Books
from hostagent.configuration import Configuration
from hostagent.history.accumulator import Surroundings
from hostagent.history.store import FLUSH_S
from hostagent.history.values import SLOT_S, Payment
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import Situation
from hostagent.rates import MeasuredRates
from hostagent.sharing.links import Rates
from hostagent.traffic import Second, name_of

OWN_ADDRESS = bytes((192, 168, 1, 2))
INDEXES = {"eth0": 2, "wlan0": 3, "tun0": 4}
PACKET_BYTES = 1400


@contextlib.contextmanager
def full_disk(*, full: bool = True) -> Iterator[None]:
    """The kernel lets nobody in this process write to a file, root or not; SIGXFSZ is ignored by Python."""
    if not full:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Looks:
    """`asyncio.sleep` for what works beside the looks: it sleeps for so many looks instead of seconds."""

    def __init__(self) -> None:
        self._now = 0
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []
        self._asleep = asyncio.Event()

    def as_asyncio(self) -> SimpleNamespace:
        """In place of the module, for the module that is to sleep so."""
        return SimpleNamespace(**{**vars(asyncio), "sleep": self.sleep})

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + round(seconds), future))
        self._asleep.set()
        await future

    async def settled(self) -> None:
        """Until whoever was woken sleeps again."""
        while not self._sleepers:
            self._asleep.clear()
            await self._asleep.wait()

    async def pass_one(self) -> None:
        self._now += 1
        due = [future for at, future in self._sleepers if at <= self._now]
        self._sleepers = [each for each in self._sleepers if each[0] > self._now]
        for future in due:
            if not future.done():
                future.set_result(None)
        if due:
            await self.settled()

    def forget(self) -> None:
        self._sleepers.clear()


# --- the engine -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Moved:
    """Cumulative."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0

    def add(self, sent: int, received: int) -> None:
        self.sent_bytes += sent
        self.received_bytes += received
        self.sent_packets += -(-sent // PACKET_BYTES)
        self.received_packets += -(-received // PACKET_BYTES)

    def take(self, other: Moved) -> None:
        self.sent_bytes += other.sent_bytes
        self.received_bytes += other.received_bytes
        self.sent_packets += other.sent_packets
        self.received_packets += other.received_packets

    @property
    def tallies(self) -> dict[str, Tally]:
        return {
            "sent": Tally(packets=self.sent_packets, bytes=self.sent_bytes),
            "received": Tally(packets=self.received_packets, bytes=self.received_bytes),
        }


@dataclass(slots=True)
class Flow:
    key: FlowKey
    number: int
    first_ns: int
    moved: Moved = field(default_factory=Moved)


class Engine:
    """Counts from zero, and only on the plan's interfaces; a flow is in the class that the plan gives it now."""

    def __init__(self, plan: ShapingPlan, clock: VirtualClock) -> None:
        self._clock = clock
        self._links: dict[str, Moved] = {}
        self._programs: dict[int, tuple[Program, Moved]] = {}
        self._ended: dict[Program, Moved] = {}
        self._flows: dict[tuple[str, str], Flow] = {}  # by executable and interface
        self._numbers: dict[str, int] = {}
        self._next = 1
        self.plan = plan
        self.apply(plan)

    def apply(self, plan: ShapingPlan) -> None:
        self.plan = plan
        self._matcher = Matcher(plan)
        self._classes: dict[tuple[int, FlowKey], int] = {}
        self._counted = frozenset(link.interface for link in plan.links)

    def counts(self, interface: str) -> bool:
        return interface in self._counted

    def move(self, executable: str, interface: str, remote: bytes, sent: int, received: int) -> str:
        """The name of the class that it went by."""
        number = self._numbers.get(executable)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[executable] = number
            self._programs[number] = (Program(kind=Kind.PROGRAM, executable=executable), Moved())
        flow = self._flows.get((executable, interface))
        if flow is None or flow.key.remote != remote:
            self._next += 1
            key = FlowKey(INDEXES[interface], 6, bytes(4), 10_000 + self._next % 50_000, remote, 443)
            flow = self._flows[executable, interface] = Flow(key, number, self._clock.now_monotonic_ns)
        for each in (flow.moved, self._programs[number][1], self._links.setdefault(interface, Moved())):
            each.add(sent, received)
        return self.plan.classes[self._class_of(flow)].name

    def end(self, executable: str) -> None:
        """The program has quit: its number is free, what it moved stays with its name, and its flows are gone."""
        number = self._numbers.pop(executable, None)
        if number is not None:
            program, moved = self._programs.pop(number)
            self._ended.setdefault(program, Moved()).take(moved)
            self._flows = {place: flow for place, flow in self._flows.items() if place[0] != executable}

    def _class_of(self, flow: Flow) -> int:
        place = (flow.number, flow.key)
        found = self._classes.get(place)
        if found is None:
            if len(self._classes) > 500:
                self._classes.clear()
            program = self._programs[flow.number][0]
            found = self._matcher.class_of(program, 6, flow.key.local_port, flow.key.remote, 443, False)
            self._classes[place] = found
        return found

    def read(self) -> Second:
        flows = [
            FlowMeter(
                key=flow.key,
                program_number=flow.number,
                process_id=flow.number,
                traffic_class=self._class_of(flow),
                first_ns=flow.first_ns,
                last_ns=self._clock.now_monotonic_ns,
                **flow.moved.tallies,
            )
            for (_, interface), flow in self._flows.items()
            if interface in self._counted
        ]
        ended = enumerate(self._ended.items(), start=100_000)
        programs = (*self._programs.items(), *ended)
        reading = Reading(
            now_ns=self._clock.now_monotonic_ns,
            programs=tuple(
                ProgramMeter(number=number, program=program, **moved.tallies) for number, (program, moved) in programs
            ),
            links=tuple(
                LinkMeter(interface=interface, interface_sent_packets=0, interface_received_packets=0, **moved.tallies)
                for interface, moved in self._links.items()
                if interface in self._counted
            ),
            flows_tracked=len(flows),
        )
        return Second(reading=reading, flows=flows)


# --- the truth --------------------------------------------------------------------------------------------------------

Place = tuple[str, str, str]
"""Program, kind, network."""


@dataclass(slots=True)
class Ledger:
    """What history must hold. `parts`: 10^-6 n$ at the prices of the time."""

    moved: dict[Place, tuple[int, int]] = field(default_factory=dict)
    parts: dict[tuple[str, str], int] = field(default_factory=dict)  # of this life, by network and direction
    priced: int = 0  # of the lives before, whole nanodollars
    spent: int = 0
    metered: dict[int, int] = field(default_factory=dict)  # bytes on the network with a plan, by its period's end

    def add(self, place: Place, sent: int, received: int) -> None:
        before = self.moved.get(place, (0, 0))
        self.moved[place] = (before[0] + sent, before[1] + received)

    def price(self, network: str, direction: str, parts: int) -> None:
        self.parts[network, direction] = self.parts.get((network, direction), 0) + parts

    def copy(self) -> Ledger:
        return Ledger(dict(self.moved), dict(self.parts), self.priced, self.spent, dict(self.metered))

    def end_life(self) -> None:
        """What is below a nanodollar dies with an agent."""
        self.priced, self.parts = self.priced_nanodollars, {}

    @property
    def priced_nanodollars(self) -> int:
        return self.priced + sum(parts // 10**6 for parts in self.parts.values())

    def by_network(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for (_, _, network), (sent, received) in self.moved.items():
            before = found.get(network, (0, 0))
            found[network] = (before[0] + sent, before[1] + received)
        return found

    @property
    def bytes(self) -> int:
        return sum(sent + received for sent, received in self.moved.values())


# --- the agent --------------------------------------------------------------------------------------------------------


class PayingBooks(Books):
    """Hears of payments, as from whatever pays."""

    payments: Sequence[Payment] = ()

    def on_second(self, second: Second, surroundings: Surroundings, payments: Sequence[Payment] = ()) -> None:
        super().on_second(second, surroundings, payments or self.payments)


class VirtualRoundTrips:
    """As sockets would say: longer while the line behind the interface is full."""

    def __init__(self, laptop: Laptop) -> None:
        self._laptop = laptop

    def read(self) -> list[RoundTrip]:
        more_us = 80_000 if self._laptop.line_is_full else self._laptop.looks_in_life % 5 * 500
        return [
            RoundTrip(
                local=OWN_ADDRESS,
                remote=bytes((203, 0, 113, number)),
                now_us=20_000 + more_us,
                receiving_us=None,
                least_us=20_000,
                sockets=1,
                delivered_packets=10,
                retransmitted_packets=0,
            )
            for number in range(3)
        ]


class Agent(VirtualHome):
    """One life of it on the laptop: with an engine of its own, that began when it did."""

    def __init__(self, laptop: Laptop) -> None:
        self._laptop = laptop
        self._work: asyncio.Task[None] | None = None
        measuring = MeasuredRates()
        setattr(measuring, "_trips", VirtualRoundTrips(laptop))  # noqa: B010 (instead of the kernel's)
        super().__init__(
            laptop.directory,
            laptop.configuration_now,
            clock=laptop.clock,
            books=PayingBooks,
            measuring=measuring,
        )
        self.running = frozenset(laptop.running)
        self.engine = Engine(self.plan, laptop.clock)
        self._stack = contextlib.AsyncExitStack()

    def look(self) -> Situation:
        return self._laptop.situation

    def remembered(self, key: str) -> KnownNetwork | None:
        return self._laptop.known.get(key)

    def measured(self, key: str, rates: Rates) -> None:
        self._laptop.known[key] = KnownNetwork(
            key=key,
            title=key,
            kind="wifi",
            first_seen_unix_s=0,
            last_seen_unix_s=0,
            egress_bit_s=rates.egress_bit_s,
            ingress_bit_s=rates.ingress_bit_s,
        )

    async def apply(self, plan: ShapingPlan) -> None:
        self._laptop.on_plan(self.plan, plan)
        self.plan = plan
        self.engine.apply(plan)

    async def start(self) -> None:
        await self._stack.enter_async_context(self.books.running())
        self._work = asyncio.get_running_loop().create_task(self.books.work())
        await self._laptop.looks.settled()

    async def end(self) -> None:
        assert self._work is not None
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        self._laptop.looks.forget()
        await self._stack.aclose()


class Move(NamedTuple):
    """Of one look."""

    place: Place
    interface: str
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class PlanUse:
    """What a data plan has used in its period."""

    bytes: int
    ends_unix_s: int


class Saved(NamedTuple):
    """At one moment."""

    ledger: Ledger
    plan: PlanUse


class Laptop:
    """What stays when an agent dies. `metered`: the key of the network with a data plan, whose period begins anew as
    `next_reset` says.
    """

    def __init__(
        self,
        root: Path,
        configuration: Configuration,
        clock: VirtualClock,
        looks: Looks,
        *,
        metered: str,
        next_reset: Callable[[int], int],
    ) -> None:
        self._root, self.clock, self.looks = root, clock, looks
        self.configuration = configuration
        self._metered, self._next_reset = metered, next_reset
        self.situation = self.next_situation = Situation()
        self.disk_is_full = False
        self.running: set[str] = set()
        self._paid: dict[str, int] = {}  # really, in this life, by program
        self._paying: dict[str, int] = {}  # since the last look
        self.lives = 0
        self.life_number = 0  # restarts too
        self.looks_in_life = 0
        self.ledger = Ledger()
        self.plan = PlanUse(0, next_reset(clock.unix_s()))
        self._taken = self._written = self._kept = Saved(self.ledger.copy(), self.plan)
        self._slot = 0
        self._moves: list[Move] = []
        self.bytes_of_look = 0
        self.known: dict[str, KnownNetwork] = {}
        self.line_is_full = False
        self.remotes: dict[str, bytes] = {}  # whom each program talks to now
        self.kinds_seen: dict[str, str] = {}  # of each executable, by its class now
        self.lost: list[tuple[int, int]] = []  # by each kill: bytes of history, and of the data plan
        self.told: list[ShapingPlan] = []  # since somebody looked

    def disk(self) -> contextlib.AbstractContextManager[None]:
        """For whatever writes now."""
        return full_disk(full=self.disk_is_full)

    @property
    def directory(self) -> Path:
        return self._root / f"life-{self.lives}"

    @property
    def configuration_now(self) -> Configuration:
        """With this life's directory."""
        agent = msgspec.structs.replace(self.configuration.agent, state_directory=str(self.directory))
        return msgspec.structs.replace(self.configuration, agent=agent)

    # --- lives ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.life_number += 1
        with self.disk():
            self.agent = Agent(self)
            await self.agent.start()
        self.looks_in_life = 0
        self._paid.clear()
        self._slot = self.clock.unix_s() // SLOT_S

    async def restart(self) -> None:
        """Somebody ends the agent, and it begins again: nothing is lost where the disk has room."""
        with self.disk():
            await self.agent.end()
        if not self.disk_is_full:
            self._taken = self._written = self._kept = Saved(self.ledger.copy(), self.plan)
        self._forget_what_was_not_written()
        await self.start()

    async def kill(self, before_next_life: Callable[[Path], None] = lambda directory: None) -> None:
        """What is on the disk at this moment is all that the next life finds."""
        old = self.directory
        self.lives += 1
        shutil.copytree(old, self.directory)
        await self.agent.end()  # into the old directory, which nobody reads again
        shutil.rmtree(old)
        self.lost.append(self.only_in_memory)
        self._forget_what_was_not_written()
        before_next_life(self.directory)
        await self.start()

    def restart_engine(self) -> None:
        """In one life of the agent: it counts from zero again."""
        self.agent.engine = Engine(self.agent.plan, self.clock)

    def _forget_what_was_not_written(self) -> None:
        self.ledger, self.plan = self._written.ledger.copy(), self._kept.plan
        self.ledger.end_life()
        self._taken = self._written = self._kept = Saved(self.ledger.copy(), self.plan)

    def history_is_gone(self) -> None:
        """Its file was broken."""
        self.ledger = Ledger()
        self._taken = self._written = Saved(Ledger(), self.plan)

    # --- what happens -----------------------------------------------------------------------------------------------

    def move(self, executable: str, interface: str, remote: bytes, sent: int, received: int) -> None:
        """Since the last look. Where the engine does not count nothing happens."""
        engine = self.agent.engine
        if not engine.counts(interface) or not (sent or received):
            return
        kind = engine.move(executable, interface, remote, sent, received)
        network = next(each.network for each in self.agent.steering.links if each.interface == interface)
        program = name_of(Program(kind=Kind.PROGRAM, executable=executable))
        self.kinds_seen[executable] = kind
        self._moves.append(Move((program, kind, network), interface, sent, received))

    def quit(self, executable: str) -> None:
        """What it moved since the last look has no flow any more."""
        self.running.discard(executable)
        self.agent.engine.end(executable)

    def pay(self, program: str, nanodollars: int) -> None:
        """In its packets, since the last look."""
        self._paying[program] = self._paying.get(program, 0) + nanodollars

    def on_plan(self, before: ShapingPlan, now: ShapingPlan) -> None:
        assert msgspec.json.encode(before) != msgspec.json.encode(now), "the engine was told what it knew"
        self.told.append(now)

    async def look(self, seconds: int) -> None:
        """So much time passed; only now the networks are others."""
        self.clock.pass_s(seconds)
        self.situation = self.next_situation
        self.next_situation = replace(self.situation, changes=())
        self.agent.running = frozenset(self.running)
        for program, amount in self._paying.items():
            self._paid[program] = self._paid.get(program, 0) + amount
        books = self.agent.books
        assert isinstance(books, PayingBooks)
        books.payments = [Payment(name, name, "call", "", "home", amount) for name, amount in self._paid.items()]
        with self.disk():
            await self.agent.steering.on_second(self.agent.engine.read())
            self._book()
            await self.looks.pass_one()
        self._save()

    def _book(self) -> None:
        """The truth of what the agent has just booked."""
        unix_s = self.clock.unix_s()
        if unix_s // SLOT_S != self._slot:
            self._slot = unix_s // SLOT_S
            self._taken = Saved(self.ledger.copy(), self.plan)
        if unix_s >= self.plan.ends_unix_s:
            self.plan = PlanUse(0, self._next_reset(unix_s))
        pricing = self.agent.steering.pricing
        for place, interface, sent, received in self._moves:
            self.ledger.add(place, sent, received)
            for direction, count in (("out", sent), ("in", received)):
                self.ledger.price(place[2], direction, count * pricing.of(interface, direction))
            if place[2] == self._metered:
                self.plan = replace(self.plan, bytes=self.plan.bytes + sent + received)
                period = self.plan.ends_unix_s
                self.ledger.metered[period] = self.ledger.metered.get(period, 0) + sent + received
        self.ledger.spent += sum(self._paying.values())
        self.bytes_of_look = sum(move.sent + move.received for move in self._moves)
        self._moves.clear()
        self._paying.clear()
        self.looks_in_life += 1
        if self.looks_in_life % BOOK_EVERY_S == 0:
            self._taken = Saved(self.ledger.copy(), self.plan)

    def _save(self) -> None:
        if self.looks_in_life % FLUSH_S == 0 and not self.agent.books.trouble:
            self._written = self._taken
        if self.looks_in_life % KEEP_EVERY_S == 0 and not self.disk_is_full:
            self._kept = self._taken

    def asked(self) -> None:
        """Somebody looked into history, and so it was written."""
        self._taken = Saved(self.ledger.copy(), self.plan)
        if not self.agent.books.trouble:
            self._written = self._taken

    @property
    def only_in_memory(self) -> tuple[int, int]:
        """Bytes that a kill would take now: of history, and of the data plan."""
        same_period = self.plan.ends_unix_s == self._kept.plan.ends_unix_s
        return (
            self.ledger.bytes - self._written.ledger.bytes,
            self.plan.bytes - (self._kept.plan.bytes if same_period else 0),
        )
