"""The main process's side of a shaping core: names its flows, keeps its questions, adds up its counts.

Decides: program numbers, and in which order owners are looked up. Refuses to know: how an owner is found, and who
started the reader (this engine, or an agent whose reader also pays). Source: ARCHITECTURE (data plane).

Counts are read from the counter file, so they are there also while there is no reader, and go on when there is one
again. What a killed reader had not yet counted is lost: the packets of flows that had no name yet, and its flow table.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from billpay.errors import BillpayError, EnvironmentFault
from dataplane.counters import CounterFile
from dataplane.host_engine import PACED_MAX, PacedFlow, Question
from dataplane.metering import (
    UNATTRIBUTED,
    FlowKey,
    FlowMeter,
    LinkMeter,
    Program,
    ProgramMeter,
    Reading,
    Tally,
)
from dataplane.shaping.flowtable import COUNTS
from dataplane.shaping.messages import (
    FLOWS_IN_PAGE,
    Answer,
    Asked,
    AskFlows,
    AskMeters,
    Attribute,
    Attribution,
    FlowsPage,
    Meters,
    NewFlow,
    Refused,
    SetPaced,
    SetPlan,
    Settled,
    Tagged,
    Tick,
    decode_event,
    decode_reply,
    encode,
)
from dataplane.shaping.plan import NO_SHAPING, ShapingPlan
from dataplane.supervisor import ReaderUnavailable

OwnerOf = Callable[[FlowKey], Awaitable[Program | None]]

PROGRAMS_MAX: Final = 500
EXECUTABLES_MAX: Final = 100
"""Each takes eight counters of the file (8192). Beyond the first bound programs are told apart by their executable
alone, beyond both not at all."""

WAITING_MAX: Final = 1024
"""Flows whose owner is to be looked up; what comes beyond stays unattributed until the core asks again."""


class ShapingClient:
    """`on_event` and `snapshot` go to the supervisor, `request` comes from it; `start` before, `stop` after it."""

    def __init__(self, owner_of: OwnerOf, *, counters_path: Path, request: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._owner_of = owner_of
        self._counters_path = counters_path
        self._request = request
        self._plan = NO_SHAPING
        self._paced = SetPaced(flows=())
        self._numbers: dict[Program, int] = {UNATTRIBUTED: 0}
        self._programs: dict[int, Program] = {0: UNATTRIBUTED}
        self._questions: dict[int, Question] = {}
        self._waiting: deque[FlowKey] = deque()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._baseline: dict[str, int] = {}
        self._interfaces: dict[str, _InterfaceCount] = {}
        self._tracked = 0

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self, plan: ShapingPlan) -> None:
        """Counts from here; the counter file is there. Raises EnvironmentFault."""
        self._plan = plan
        self._baseline = self._snapshot()
        self._watch_interfaces()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._look_up(), name="owner look-up")]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what ended one was raised by `on_second`

    # -- the supervisor's callbacks ----------------------------------------------------------------------------------

    def snapshot(self) -> list[bytes]:
        """What a fresh core needs. What the one before knew of flows and questions is gone."""
        self._questions.clear()
        self._waiting.clear()
        return [encode(SetPlan(plan=self._plan)), encode(self._paced)]

    def on_event(self, data: bytes) -> None:
        event = decode_event(data)
        if isinstance(event, Asked):
            self._questions[event.question.number] = event.question
        elif isinstance(event, Settled):
            self._questions.pop(event.number, None)
        elif isinstance(event, NewFlow) and len(self._waiting) < WAITING_MAX:
            self._waiting.append(event.key)
            self._arrived.set()

    # -- calls -------------------------------------------------------------------------------------------------------

    async def apply(self, plan: ShapingPlan) -> None:
        """A reader that is not there just now starts with it."""
        self._plan = plan
        self._watch_interfaces()
        with contextlib.suppress(ReaderUnavailable):
            await self._ask(SetPlan(plan=plan))

    async def on_second(self) -> None:
        """Raises what ended a look-up: a fault of `owner_of` that is none of ours."""
        for task in self._tasks:
            if task.done():
                task.result()
        self._watch_interfaces()
        with contextlib.suppress(ReaderUnavailable):
            await self._ask(Tick())

    def questions(self) -> list[Question]:
        return list(self._questions.values())

    async def answer(self, number: int, *, allow: bool) -> None:
        if self._questions.pop(number, None) is not None:
            with contextlib.suppress(ReaderUnavailable):
                await self._ask(Answer(number=number, allow=allow))

    async def flows(self) -> list[FlowMeter]:
        """None while there is no reader: its table is its own."""
        found: list[FlowMeter] = []
        following = 0
        while True:
            try:
                page = await self._ask(AskFlows(first=following))
            except ReaderUnavailable:
                return found
            assert isinstance(page, FlowsPage)
            found += page.flows
            self._tracked = page.tracked
            following = page.following
            if not following:
                return found

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        """None of any while there is no reader."""
        found: list[FlowMeter | None] = []
        for first in range(0, len(keys), FLOWS_IN_PAGE):
            try:
                told = await self._ask(AskMeters(keys=tuple(keys[first : first + FLOWS_IN_PAGE])))
            except ReaderUnavailable:
                return [None] * len(keys)
            assert isinstance(told, Meters)
            found += told.flows
        return found

    async def pace(self, flows: Sequence[PacedFlow], *, is_accurate: Callable[[FlowKey], bool]) -> None:
        """A reader that is not there just now starts with them. Raises EnvironmentFault when there are too many.

        is_accurate: whether a TCP flow's ends agreed on Accurate ECN; it is asked when a flow is new.
        """
        wanted = {each.key: each for each in flows}
        if len(wanted) > PACED_MAX:
            raise EnvironmentFault("pace", f"{len(wanted)} flows", f"at most {PACED_MAX} can be paced", "end some")
        known, accurate = {each.key for each in self._paced.flows}, set(self._paced.accurate)
        self._paced = SetPaced(
            flows=tuple(wanted.values()),
            accurate=tuple(key for key in wanted if key in accurate or (key not in known and is_accurate(key))),
        )
        with contextlib.suppress(ReaderUnavailable):
            await self._ask(self._paced)

    async def read(self) -> Reading:
        """Raises EnvironmentFault when the counter file cannot be read."""
        self._watch_interfaces()
        values = self._snapshot()
        numbers = [number for number in self._programs if number == 0 or self._sum(values, f"program/{number}")]
        return Reading(
            now_ns=time.monotonic_ns(),
            programs=tuple(self._program_meter(values, number) for number in numbers),
            links=tuple(self._link_meter(values, name) for name in self._interfaces),
            flows_tracked=self._tracked,
            packets_beyond_table=self._since(values, "shaping.packets_beyond_table"),
        )

    # -- names -------------------------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        """One after the other: look-ups share a socket and caches."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            key = self._waiting.popleft()
            try:
                program = await self._owner_of(key)
            except BillpayError:
                program = None
            program = program or UNATTRIBUTED
            attribution = Attribution(key=key, number=self._number_of(program), program=program)
            with contextlib.suppress(ReaderUnavailable):
                await self._ask(Attribute(flows=(attribution,)))

    def _number_of(self, program: Program) -> int:
        """Its number; when there are too many, that of its executable alone, or 0."""
        whole = Program(kind=program.kind, executable=program.executable, interface=program.interface)
        for candidate, limit in ((program, PROGRAMS_MAX), (whole, PROGRAMS_MAX + EXECUTABLES_MAX)):
            number = self._numbers.get(candidate)
            if number is not None:
                return number
            if len(self._numbers) < limit:
                number = self._numbers[candidate] = len(self._numbers)
                self._programs[number] = candidate
                return number
        return 0

    async def _ask(self, command: Tagged) -> object:
        reply = decode_reply(await self._request(encode(command)))
        if isinstance(reply, Refused):
            raise EnvironmentFault("shape", type(command).__name__, reply.message, "correct the plan")
        return reply

    # -- counts ------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> dict[str, int]:
        view = CounterFile.attach(self._counters_path)
        try:
            return view.snapshot()
        finally:
            view.close()

    def _since(self, values: dict[str, int], name: str) -> int:
        return values.get(name, 0) - self._baseline.get(name, 0)

    def _counts(self, values: dict[str, int], owner: str) -> list[int]:
        return [self._since(values, f"shaping/{owner}/{count}") for count in COUNTS]

    def _sum(self, values: dict[str, int], owner: str) -> int:
        return sum(self._counts(values, owner))

    def _program_meter(self, values: dict[str, int], number: int) -> ProgramMeter:
        counts = self._counts(values, f"program/{number}")
        return ProgramMeter(
            number=number,
            program=self._programs[number],
            sent=Tally(*counts[:4]),
            received=Tally(*counts[4:]),
        )

    def _link_meter(self, values: dict[str, int], name: str) -> LinkMeter:
        counts = self._counts(values, f"link/{name}")
        interface = self._interfaces[name]
        return LinkMeter(
            interface=name,
            sent=Tally(*counts[:4]),
            received=Tally(*counts[4:]),
            interface_sent_packets=interface.sent,
            interface_received_packets=interface.received,
        )

    def _watch_interfaces(self) -> None:
        """An interface that comes back begins at 0; what it had counted before stays."""
        found = read_interface_packets()
        for link in self._plan.links:
            if link.interface not in self._interfaces:
                self._interfaces[link.interface] = _InterfaceCount(*found.get(link.interface, (0, 0)))
        for name, count in self._interfaces.items():
            if name in found:
                count.take(*found[name])


class _InterfaceCount:
    """An interface's own packet counts since we began."""

    def __init__(self, sent: int, received: int) -> None:
        self.sent = self.received = 0
        self._last = (sent, received)

    def take(self, sent: int, received: int) -> None:
        before_sent, before_received = self._last
        self.sent += sent - before_sent if sent >= before_sent else sent
        self.received += received - before_received if received >= before_received else received
        self._last = (sent, received)


def read_interface_packets(path: Path = Path("/proc/thread-self/net/dev")) -> dict[str, tuple[int, int]]:
    """Packets sent and received, by interface, in the calling thread's network namespace. Raises EnvironmentFault."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise EnvironmentFault("read", str(path), error.strerror, "mount /proc") from error
    found = {}
    for line in lines[2:]:
        name, _, rest = line.rpartition(":")
        fields = rest.split()
        if len(fields) >= 10:
            found[name.strip()] = (int(fields[9]), int(fields[1]))
    return found
