"""The cartographer's part of the agent: it remembers, learns from sockets, has ways checked, and answers people.

Decides: the order of things. When the host comes to another network, what was known there is recalled; what is known is
written every few minutes and at the end. What traffic that is paid for shows comes from `hostagent.payments`, what a
campus service knows from `hostagent.paths.campus`. Refuses to know how anything is judged (`cartographer`).

Whatever fails here costs knowledge, never traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from billpay.errors import EnvironmentFault
from cartographer.campus.own import OwnSamples
from cartographer.cartographer import Cartographer
from cartographer.judging import Judge, JudgingTerms
from cartographer.measuring.report import ProbeReport, ProbeRequest
from cartographer.policy import PathPolicy, shipped_wants
from cartographer.statistics import WayStatistics
from cartographer.values import Wants, Way
from dataplane.service import report_fault
from hostagent import api
from hostagent.configuration import Configuration
from hostagent.desk import QualityQuery, Refused
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import Situation
from hostagent.paths.access import AccessChoice
from hostagent.paths.campus import Campus
from hostagent.paths.checking import Checks
from hostagent.paths.memory import FILE_NAME, PathMemory
from hostagent.paths.prober import Probers
from hostagent.paths.quality import NS_PER_S, SLOT_S, QualitySlots
from hostagent.paths.sockets import SocketLearning
from hostagent.paths.view import Now, map_of, paths_of, ways_of
from neighbour.identity import NodeIdentity
from secretary.clock import Clock

LOG = logging.getLogger("hostagent")
SECOND_S: Final = 1.0
KEEP_EVERY_S: Final = 300
SOCKETS_EVERY_S: Final = 2
NOWHERE: Final = "uplinks"
"""The map's name where nobody looks which network the host is on: an agent that only pays."""


class Paths:
    """`situation`: where the host is, None where nobody looks. `followed`: addresses whose flows follow marks. `acts`:
    an agent that only observes sends no packet of its own accord.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        clock: Clock,
        situation: Callable[[], Situation | None],
        followed: Callable[[], Iterable[str]],
        say: Callable[[str, str], object],
        acts: Callable[[], bool] = lambda: False,
        access: AccessChoice | None = None,
    ) -> None:
        section = configuration.paths
        self._section = section
        self._directory = configuration.state_directory
        self._clock = clock
        self._situation = situation
        self._followed = followed
        self._say = say
        self._acts = acts
        self._access = access
        self.wants = wants_of(configuration)
        own = self._own = OwnSamples() if configuration.campus is not None else None
        self._judge = Judge(JudgingTerms(access=frozenset(each.gateway_as for each in configuration.uplinks)))
        self.cartographer = Cartographer(
            PathPolicy(
                delay_value_nanodollars_per_ms=section.delay_value_nanodollars_per_ms,
                probe_nanodollars_per_hour=section.probe_nanodollars_per_hour,
            ),
            wants=self.wants,
            judge=self._judge,
            draw=random.random,
            own=own.of if own is not None else nothing_else,
        )
        self._campus: Campus | None = None
        if configuration.campus is not None and own is not None:
            self._campus = Campus(
                configuration.campus,
                identity=NodeIdentity.load_or_create(configuration.state_directory, name=configuration.agent.name),
                own=own,
                cartographer=self.cartographer,
                judge=self._judge,
                clock=clock,
                say=say,
            )
        self.checks = Checks()
        self._probers = Probers(on_report=self._on_report)
        self._sockets = SocketLearning() if section.learn_from_sockets else None
        self._memory: PathMemory | None = None
        self._slots = QualitySlots(clock.unix_s())
        self._network = ""
        self._kept_ns: int | None = None
        self._seconds = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._file_turn = asyncio.Lock()  # what is being written must not undo what is forgotten meanwhile

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self._section.remember:
            self._memory = self._open_memory()
        if self._sockets is not None:
            self._sockets.open()
        self.look()
        try:
            async with self._access.running() if self._access is not None else contextlib.nullcontext():
                yield
        finally:
            await self._probers.stop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)  # no prober outlives us
            if self._sockets is not None:
                self._sockets.close()
            self._keep()
            if self._memory is not None:
                self._memory.close()

    def _open_memory(self) -> PathMemory | None:
        path = self._directory / FILE_NAME
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            memory = PathMemory(path)
        except (OSError, sqlite3.Error) as error:
            self._say("paths", f"{path} cannot be used ({error}): what is learned of paths ends with this run")
            return None
        if memory.trouble:
            self._say("paths", memory.trouble)
        return memory

    async def work(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._seconds_pass())
            if self._campus is not None:
                group.create_task(self._campus.work())

    async def _seconds_pass(self) -> None:
        while True:
            await asyncio.sleep(SECOND_S)
            self._seconds += 1
            self.look()
            self._look_at_sockets()
            await self._write_quality()
            if self._seconds % KEEP_EVERY_S == 0:
                await self._keep_meanwhile()
            if self._section.check and self._acts():
                self._check_one()

    # --- networks ---------------------------------------------------------------------------------------------------

    @property
    def network(self) -> str:
        """The key of the network whose map this is."""
        return self._network

    def look(self) -> None:
        """The map of the network that the host is on now. Offline the last one stays: it may come back."""
        situation = self._situation()
        if situation is None:
            key = NOWHERE
        elif situation.primary is None or not situation.primary.is_settled:
            return
        else:
            key = situation.primary.key
        if key == self._network:
            return
        if self._network:
            self._keep()
            self.cartographer.forget()
            self.checks.forget(self._clock.monotonic_ns())
            if self._own is not None:  # a campus is told of this network alone
                self._own.forget()
        self._network, self._kept_ns = key, None
        self._recall()
        if self._campus is not None:
            self._campus.on_network()

    def _recall(self) -> None:
        if self._memory is None:
            return
        try:
            now_ns = self._clock.monotonic_ns()
            for known, elapsed_ns, accusations in self._memory.recall(self._network, self._clock.unix_s()):
                self.cartographer.recall(known, now_ns, elapsed_ns=elapsed_ns)
                self._judge.recall(accusations, now_ns, elapsed_ns)
        except sqlite3.Error as error:
            self._lose_memory(error)

    def _keep(self) -> None:
        if self._memory is None or not self._network:
            return
        try:
            now_ns = self._clock.monotonic_ns()
            known, accusations = self.cartographer.remember(now_ns), self._judge.remembered(now_ns)
            self._memory.keep(self._network, known, self._clock.unix_s(), accusations)
        except sqlite3.Error as error:
            self._lose_memory(error)

    async def _keep_meanwhile(self) -> None:
        """As `_keep`; packets need not wait for the disk."""
        async with self._file_turn:
            memory = self._memory
            if memory is None or not self._network:
                return
            now_ns = self._clock.monotonic_ns()
            known = self.cartographer.remember(now_ns, since_ns=self._kept_ns)
            accusations, names = self._judge.remembered(now_ns), self.cartographer.names
            self._kept_ns = now_ns
            keep = functools.partial(memory.keep, names=names)
            try:
                await asyncio.to_thread(keep, self._network, known, self._clock.unix_s(), accusations)
            except sqlite3.Error as error:
                self._lose_memory(error)

    async def _write_quality(self) -> None:
        async with self._file_turn:
            now_ns, unix_s, memory = self._clock.monotonic_ns(), self._clock.unix_s(), self._memory
            if memory is None or not self._slots.ends(unix_s):
                return
            lately = self.cartographer.quality(now_ns, since_ns=now_ns - 2 * SLOT_S * NS_PER_S)
            rows = self._slots.rows(lately, now_ns=now_ns, unix_s=unix_s)
            try:
                await asyncio.to_thread(memory.add_quality, self._network, rows)
            except sqlite3.Error as error:
                self._lose_memory(error)

    def _lose_memory(self, error: sqlite3.Error) -> None:
        """Said once: a full disk stays full."""
        self._say("paths", f"{self._directory / FILE_NAME} cannot be written ({error}): paths are not remembered")
        if self._memory is not None:
            with contextlib.suppress(sqlite3.Error):
                self._memory.close()
            self._memory = None

    # --- what is learned --------------------------------------------------------------------------------------------

    def _look_at_sockets(self) -> None:
        """Every two seconds; the access is judged every second all the same."""
        now_ns, situation = self._clock.monotonic_ns(), self._situation()
        saw = self._sockets.read() if self._sockets is not None and self._seconds % SOCKETS_EVERY_S == 0 else []
        if self._access is not None and situation is not None:
            self._access.on_second(situation, now_ns, saw)
        for seen in saw:
            if situation is not None and situation.primary is not None and _is_of_another(seen.local, situation):
                continue  # this is the map of the network that new flows leave by
            self.cartographer.on_round_trip(seen.remote, seen.round_trip_ns, now_ns)
            if seen.delivered_packets:
                self.cartographer.on_loss(
                    seen.remote, sent=seen.delivered_packets + seen.lost_packets, lost=seen.lost_packets, now_ns=now_ns
                )

    def _check_one(self) -> None:
        destination = self.checks.next(self._followed(), self._clock.monotonic_ns())
        if destination is not None:
            task = asyncio.get_running_loop().create_task(self._check(destination))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(report_fault)

    async def _check(self, destination: str) -> None:
        """Few packets: it is about marks and sizes alone."""
        request = ProbeRequest(
            destination=destination, rounds=1, names=False, mtu=True, max_packets=400, max_seconds=60
        )
        try:
            await self._probers.run(request)
        except EnvironmentFault as fault:
            self.checks.on_failed(destination, str(fault), self._clock.monotonic_ns())
        finally:
            self.checks.on_ended()

    def _on_report(self, _request: ProbeRequest, report: ProbeReport) -> None:
        if report.final:
            self.checks.on_report(report.address, report, self._clock.monotonic_ns())

    def marks_survive(self, destination: str) -> bool:
        return self.checks.survive(destination)

    # --- what people ask --------------------------------------------------------------------------------------------

    def view(self) -> api.Paths:
        now = self._now()
        return paths_of(
            self.cartographer,
            self._judge.findings(now.ns),
            now=now,
            checks=self.checks.view(now.ns),
            accesses=self._access.view() if self._access is not None else (),
            campus=self._campus.view() if self._campus is not None else "",
        )

    def ways(self, destination: str, limit: int) -> tuple[api.Way, ...]:
        return ways_of(self.cartographer, destination, limit, now=self._now())

    def map(self, destination: str) -> api.NetworkMap:
        now, situation = self._now(), self._situation()
        title = situation.primary.title if situation is not None and situation.primary is not None else self._network
        return map_of(self.cartographer, self._judge.findings(now.ns), title, destination, now=now)

    def _now(self) -> Now:
        return Now(ns=self._clock.monotonic_ns(), unix_s=self._clock.unix_s())

    async def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]:
        memory = self._memory
        if memory is None:
            return ()
        try:
            return await asyncio.to_thread(memory.quality, query)
        except sqlite3.Error as error:
            raise EnvironmentFault("read", str(memory.path), str(error)) from error

    def probe(self, request: ProbeRequest) -> api.Probing:
        """Raises Refused."""
        return self._probers.start(request)

    async def probing(self, number: int, after: int, wait_s: int) -> api.Probing:
        """Raises Refused."""
        return await self._probers.wait(number, after, wait_s)

    def set_access(self, change: api.AccessChange) -> None:
        """Raises Refused."""
        if self._access is None:
            raise Refused("not-counting", "this agent only pays: it does not look where packets go")
        self._access.change(change)

    async def forget(self, what: api.Forget, known: Sequence[KnownNetwork] = ()) -> None:
        """What a person does not want to be kept: a destination's ways, a network's map, or all of it. `known`: a
        network may be called by its title. Raises EnvironmentFault where the file cannot be written.
        """
        if what.program is not None:
            return
        called = {each.key for each in known if what.network in (each.key, each.title, each.name)}
        networks: set[str | None] = {*called} or {what.network}
        async with self._file_turn:
            if what.destination is not None:
                self.cartographer.forget(what.destination)
                self.checks.forget_destination(what.destination)
            elif what.network is None or self._network in networks:
                self.cartographer.forget()
                self.checks.forget(self._clock.monotonic_ns())
            if self._own is not None and (what.network is None or self._network in networks):
                self._own.forget()  # it knows prefixes, of which one destination's part cannot be told
            for network in networks:
                await asyncio.to_thread(self._forget_in_file, what.destination, network)

    def _forget_in_file(self, destination: str | None, network: str | None) -> None:
        """Also in the file of an earlier run, where nothing is remembered any more."""
        path = self._directory / FILE_NAME
        try:
            if self._memory is not None:
                self._memory.forget(destination=destination, network=network)
            elif path.exists():
                with contextlib.closing(PathMemory(path)) as memory:
                    memory.forget(destination=destination, network=network)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault("forget what is in", str(path), str(error)) from error


def _is_of_another(local: str, situation: Situation) -> bool:
    """Whether that address is of an access other than the first, so its packets go elsewhere."""
    return any(local in each.addresses for each in situation.networks if not each.is_primary)


def nothing_else(_destination: str, _way: Way) -> WayStatistics | None:
    """Without a campus service own samples are kept in one place."""
    return None


def wants_of(configuration: Configuration) -> dict[str, Wants]:
    """The shipped ones, and those of the configuration instead."""
    shipped = dict(shipped_wants(configuration.paths.delay_value_nanodollars_per_ms))
    return shipped | {each.name: each for each in configuration.paths.wants}
