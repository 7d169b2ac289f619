"""The engine NFQUEUE: counts, attributes and shapes packet by packet in a reader process. It works where eBPF does not.

Decides: which rules lead packets to the reader, when the reader is started anew, and what is forwarded traffic. Refuses
to know: whose a socket is (`owner_of` says it), and what the core does with a packet. Source: ARCHITECTURE (data plane,
safety); docs of the port in `dataplane.host_engine`.

A killed or hung reader lets packets pass, uncounted and unshaped, until its successor is there a moment later; the
counts go on from where they were. Rules match interfaces by name: one that comes back is shaped again by itself.

What crosses this host is seen when it arrives only; nothing that leaves is counted or shaped unless it was sent here.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane import rules, startup
from dataplane.desired import Chain, DesiredState, Family, QueueRule
from dataplane.host_engine import Ability, EngineName, Limit, PacedFlow, Question
from dataplane.links import read_link
from dataplane.marks_seen import MarksSeen, open_where_told
from dataplane.metering import FlowKey, FlowMeter, Kind, Program, Reading
from dataplane.shaping.client import OwnerOf, ShapingClient
from dataplane.shaping.matching import Matcher
from dataplane.shaping.plan import ShapingPlan
from dataplane.shaping.reader import DENY_UNANSWERED
from dataplane.shaping.shaper import IN_QUEUE, OUT_QUEUE
from dataplane.supervisor import Health, ReaderSupervisor, ReaderUnavailable

OWNER: Final = "host-shape"
FAMILIES: Final[tuple[Family, Family]] = (4, 6)
RECORD_NAME: Final = "shaping-rules.json"
COUNTERS_NAME: Final = "shaping-counters"

_NOT_BY_SOCKET: Final = "this engine sees packets, and no program's socket options"
LIMITS: Final = (
    Limit(ability=Ability.PACE, cause=_NOT_BY_SOCKET),
    Limit(ability=Ability.CONGESTION_CONTROL, cause=_NOT_BY_SOCKET),
    Limit(ability=Ability.PRICE_CONGESTION_CONTROL, cause=_NOT_BY_SOCKET),
)


class NfqueueEngine:
    """A `HostEngine`. `health` and `why`: whether the reader works just now.

    owner_of: whose a flow is; it may raise BillpayError. allow_unanswered: what becomes of a flow whose question times
    out. The state directory is there, and is nobody else's.
    """

    def __init__(
        self,
        state_directory: Path,
        owner_of: OwnerOf,
        *,
        allow_unanswered: bool = True,
        close_owners: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = EngineName.NFQUEUE
        self.limits: tuple[Limit, ...] = LIMITS
        self.health = Health.STOPPED
        self.why = ""
        self._record_path = state_directory / RECORD_NAME
        self._counters_path = state_directory / COUNTERS_NAME
        self._owner_of = owner_of
        self._close_owners = close_owners
        self._argv = [sys.executable, "-m", "dataplane.shaping.reader"]
        if not allow_unanswered:
            self._argv.append(DENY_UNANSWERED)
        self._client = ShapingClient(self._find_owner, counters_path=self._counters_path, request=self._ask_reader)
        self._supervisor: ReaderSupervisor | None = None
        self._watching: asyncio.Task[None] | None = None
        self._plan: ShapingPlan | None = None
        self._marks_seen: MarksSeen | None = None

    @property
    def reader_pid(self) -> int | None:
        """The running reader's process id."""
        return self._supervisor.reader_pid if self._supervisor is not None else None

    async def start(self, plan: ShapingPlan) -> None:
        """Raises EnvironmentFault, and leaves nothing in the kernel then."""
        _check(plan)
        await self._install(plan)
        try:
            self._client.start(plan)
            await self._start_reader()
            self._marks_seen = open_where_told()
        except BaseException:
            await self.close()
            raise
        self._plan = plan

    async def apply(self, plan: ShapingPlan) -> None:
        """Other interfaces mean other rules: then the reader is started anew, and its flow table begins anew."""
        _check(plan)
        if self._plan is None:
            raise EnvironmentFault("shape", "traffic", "the engine is not running", "start it first")
        if desired_state(plan) == desired_state(self._plan):
            await self._client.apply(plan)
            self._plan = plan
            return
        for link in plan.links:
            await asyncio.to_thread(read_link, link.interface)
        await self._stop_reader()
        await self._install(plan)
        await self._client.apply(plan)
        await self._start_reader()
        self._plan = plan

    async def on_second(self) -> None:
        """Raises what ended one of our tasks."""
        if self._watching is not None and self._watching.done():
            self._watching.result()
        await self._client.on_second()

    async def read(self) -> Reading:
        return await self._client.read()

    async def flows(self) -> list[FlowMeter]:
        return await self._client.flows()

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        return await self._client.meters(keys)

    async def pace(self, flows: Sequence[PacedFlow]) -> None:
        if self._plan is None:
            raise EnvironmentFault("pace", "flows", "the engine is not running", "start it first")
        await self._client.pace(flows, is_accurate=self._is_accurate)

    def _is_accurate(self, key: FlowKey) -> bool:
        return self._marks_seen is not None and self._marks_seen.is_accurate(key)

    async def questions(self) -> list[Question]:
        return self._client.questions()

    async def answer(self, number: int, *, allow: bool) -> None:
        await self._client.answer(number, allow=allow)

    async def close(self) -> None:
        self._plan = None
        if self._marks_seen is not None:
            self._marks_seen.close()
            self._marks_seen = None
        try:
            await self._client.stop()
            await self._stop_reader()
        finally:
            self._close_owners()
            await asyncio.to_thread(rules.restore, self._record_path)

    # -- the reader --------------------------------------------------------------------------------------------------

    async def _install(self, plan: ShapingPlan) -> None:
        await asyncio.to_thread(
            startup.prepare,
            desired_state(plan),
            record_path=self._record_path,
            counters_path=self._counters_path,
        )

    async def _start_reader(self) -> None:
        self._supervisor = ReaderSupervisor(
            self._argv,
            counters_path=self._counters_path,
            owner=OWNER,
            on_event=self._client.on_event,
            snapshot=self._client.snapshot,
            on_health=self._on_health,
        )
        await self._supervisor.start()
        self._watching = asyncio.get_running_loop().create_task(self._supervisor.watch(), name="shaping supervisor")

    async def _stop_reader(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        if supervisor is not None:
            await supervisor.stop()

    async def _ask_reader(self, message: bytes) -> bytes:
        supervisor = self._supervisor
        if supervisor is None:
            raise ReaderUnavailable("the packet reader is not running")
        return await supervisor.request(message)

    def _on_health(self, health: Health, why: str) -> None:
        self.health, self.why = health, why

    # -- owners ------------------------------------------------------------------------------------------------------

    async def _find_owner(self, key: FlowKey) -> Program | None:
        program = await self._owner_of(key)
        if program is None and not is_own_address(key):
            return Program(kind=Kind.FORWARDED, interface=_name_of(key.interface_index))
        return program


def desired_state(plan: ShapingPlan) -> DesiredState:
    """What leaves and what arrives by each link, in two queues."""
    queues = tuple(
        QueueRule(family=family, chain=chain, interface=link.interface, queue=queue)
        for link in plan.links
        for family in FAMILIES
        for chain, queue in ((Chain.OUTPUT, OUT_QUEUE), (Chain.PREROUTING, IN_QUEUE))
    )
    return DesiredState(owner=OWNER, queues=queues)


def is_own_address(key: FlowKey) -> bool:
    """Whether the flow's near end is here: a socket can be bound to our own and to broadcast addresses only."""
    family = socket.AF_INET if len(key.local) == 4 else socket.AF_INET6
    text = socket.inet_ntop(family, key.local)
    address = (text, 0) if family == socket.AF_INET else (text, 0, 0, key.interface_index)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def _name_of(interface_index: int) -> str:
    try:
        return socket.if_indextoname(interface_index)
    except OSError:
        return ""


def _check(plan: ShapingPlan) -> None:
    try:
        Matcher(plan)
    except ValueError as error:
        raise EnvironmentFault("shape by", "plan", error, "correct its rules") from error
