"""One probing run: the trace first, then rounds to every hop, then what is to be checked; a report after each step.

Decides: the order, how long to wait, and what is still worth asking when little answers. Refuses to know: sockets (a
`Prober` sends), processes and streams (`worker`), and what the findings mean (`ecn`, `mtu`, `losses`).

Steps follow each other: two at once would use up each other's answers at hops that limit them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from billpay.errors import LocalProtocolError
from cartographer.measuring import ecn, losses, mtu
from cartographer.measuring.gathering import Gathering, Named
from cartographer.measuring.losses import Tally
from cartographer.measuring.multipath import MultipathTerms, discover
from cartographer.measuring.packets import ProbePacket, Prober, Transport
from cartographer.measuring.report import FlowLink, ProbeReport, ProbeRequest
from cartographer.measuring.testimony import Target
from cartographer.measuring.tracing import TraceTerms, trace

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
LEAST_WAIT_NS: Final = 150 * NS_PER_MS
ROUND_TRIPS: Final = 4
"""So many of the longest round trip that was seen are waited for, once there is one."""
SILENT: Final = "*"
AHEAD: Final = 4
"""Hops behind the last that answers which are asked again, as long as the destination was not reached."""
LEAST_PAUSE_MS: Final = 50
MOST_PAUSE_MS: Final = 1000

Pause = Callable[[int], Awaitable[None]]
"""Nanoseconds."""


class NameSource(Protocol):
    """Nobody waits for a name while there is something to measure."""

    def want(self, address: str) -> None: ...

    def known(self, address: str) -> Named: ...

    async def of(self, addresses: Iterable[str]) -> object:
        """Waits for those names, a short while."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a run is given. `names` None: where they are not wanted."""

    prober: Prober
    pause: Pause
    clock_ns: Callable[[], int]
    draw: Callable[[int], int]
    link_bytes: int  # the largest packet that our own interface sends
    own_address: str = ""  # by which it sends
    names: NameSource | None = None
    report_every_ns: int = 0  # and not more often, but for the last


class Run:
    """`async for report in run.steps()`; `report` has what there is at any time."""

    def __init__(self, request: ProbeRequest, address: str, means: Means) -> None:
        self._request = request
        self._means = means
        self._found = Gathering(request, address)
        self._begun_ns = means.clock_ns()
        self._last_round_ns = self._begun_ns
        self._doing = "tracing"

    def report(self, *, final: bool = False, note: str = "") -> ProbeReport:
        if note and note not in self._found.notes:
            self._found.notes.append(note)
        return self._found.report(
            packets_sent=self._means.prober.sent,
            seconds=(self._means.clock_ns() - self._begun_ns) / NS_PER_S,
            doing="" if final else self._doing,
            final=final,
        )

    async def steps(self) -> AsyncGenerator[ProbeReport, None]:
        """The last one is final. Raises EnvironmentFault where nothing can be sent."""
        note, due_ns = "", self._begun_ns
        try:
            async with contextlib.aclosing(self._work()) as working:
                async for _ in working:
                    now_ns = self._means.clock_ns()
                    if now_ns >= due_ns:
                        due_ns = now_ns + self._means.report_every_ns
                        yield self.report()
        except LocalProtocolError as error:  # beyond the bound of packets: what there is counts
            note = f"stopped: {error}"
        yield self.report(final=True, note=note)

    async def _work(self) -> AsyncGenerator[None, None]:
        await self._trace()
        yield
        async with contextlib.aclosing(self._rounds()) as rounds:
            async for _ in rounds:
                yield
        if self._asks_end_slowly():
            self._doing = "asking the destination more slowly"
            yield
            await self._ask_end_slowly()
            yield
        target = self._target()
        if target is not None and self._request.ecn:
            self._doing = "checking ECN and the DSCP"
            yield
            await self._check_ecn(target)
            yield
        if target is not None and self._request.mtu:
            self._doing = "looking for the MTU"
            yield
            await self._look_for_mtu(target)
            yield
        if self._request.multipath:
            self._doing = "looking for other ways"
            yield
            await self._look_for_ways()
            yield
        if self._means.names is not None:
            await self._means.names.of(self._found.all_addresses)
            self._look_up()

    # --- the path ---

    def _probe(self, ttl: int) -> ProbePacket:
        return ProbePacket(
            destination=self._found.address,
            transport=self._request.transport,
            ttl=ttl,
            port=self._request.port_used,
        )

    async def _trace(self) -> None:
        """The first round. Loss and limits take a second look later; what it finds is where the path ends."""
        terms = TraceTerms(
            probe=self._probe(1), last_ttl=self._request.max_hops, attempts=1, wait_ns=self._request.wait_ms * NS_PER_MS
        )
        self._last_round_ns = self._means.clock_ns()
        route = await trace(terms, self._means.prober)
        for hop in route.hops:
            for answer in hop.answers:
                self._found.on_probe(hop.ttl, answer)
        self._found.on_round(self._interval_ns)
        self._look_up()

    async def _rounds(self) -> AsyncGenerator[None, None]:
        """Each begins on time, whether the last one's answers are there or not; but not too many at once."""
        under_way: list[asyncio.Task[None]] = []
        self._doing = "measuring loss and delay"
        most = 2 + self._request.wait_ms // self._request.interval_ms
        try:
            for _ in range(self._request.rounds - 1):
                await self._means.pause(self._interval_ns)
                while under_way and (under_way[0].done() or len(under_way) > most):
                    await under_way.pop(0)
                under_way.append(asyncio.create_task(self._round()))
                yield
            while under_way:
                await under_way.pop(0)
            yield
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _round(self) -> None:
        now_ns = self._means.clock_ns()
        since_ns, self._last_round_ns = now_ns - self._last_round_ns, now_ns
        last = self._found.last_ttl
        if self._found.end_ttl is None:
            last = min(self._request.max_hops, last + AHEAD)
        probes = [self._probe(ttl) for ttl in range(1, last + 1)]
        answers = await self._means.prober.ask(probes, wait_ns=self._request.wait_ms * NS_PER_MS)
        for probe, answer in zip(probes, answers, strict=True):
            self._found.on_probe(probe.ttl, answer)
        self._found.on_round(since_ns)
        self._look_up()

    def _asks_end_slowly(self) -> bool:
        tallies, end = self._found.tallies(), self._found.end_ttl
        if not self._found.reached or end is None or not losses.slower_ms(self._request.interval_ms):
            return False
        before = {ttl: tally for ttl, tally in tallies.items() if ttl < end}
        return losses.deserves_slow_probes(tallies[end], before)

    async def _ask_end_slowly(self) -> None:
        end = self._found.end_ttl
        assert end is not None
        fast, begun_ns = self._found.tallies()[end], self._means.clock_ns()
        slow = Tally()
        for interval_ms in losses.slower_ms(self._request.interval_ms):
            stage = Tally()
            while not losses.is_settled(fast, stage):
                if self._means.clock_ns() - begun_ns > self._request.max_slow_seconds * NS_PER_S:
                    self._found.notes.append("no more time to tell loss from a low limit of answers")
                    return
                await self._means.pause(interval_ms * NS_PER_MS)
                (answer,) = await self._means.prober.ask([self._probe(end)], wait_ns=self._wait_ns)
                stage += Tally(sent=1, answered=int(answer is not None), duration_ns=interval_ms * NS_PER_MS)
            slow = stage
            self._found.slow_end = slow
            if not losses.needs_slower(slow):
                return

    # --- what is checked ---

    @property
    def _interval_ns(self) -> int:
        return self._request.interval_ms * NS_PER_MS

    @property
    def _wait_ns(self) -> int:
        """A few of the longest round trips; as long as asked for where nobody answered yet."""
        worst, most = self._found.worst_ns, self._request.wait_ms * NS_PER_MS
        return min(most, max(LEAST_WAIT_NS, ROUND_TRIPS * worst)) if worst else most

    async def _pause(self) -> None:
        wanted = max(LEAST_PAUSE_MS, min(MOST_PAUSE_MS, self._request.interval_ms))
        await self._means.pause(wanted * NS_PER_MS)

    def _target(self) -> Target | None:
        """None: nobody answers, or somebody says that there is no way."""
        last = self._found.last_ttl
        if not last or self._found.refused_by:
            return None
        return Target(
            destination=self._found.address,
            transport=self._request.transport,
            port=self._request.port_used,
            last_ttl=last,
            reaches=self._found.reached,
        )

    async def _check_ecn(self, target: Target) -> None:
        self._found.ecn = await ecn.check(
            self._means.prober,
            target,
            wait_ns=self._wait_ns,
            draw=self._means.draw,
            pause=self._pause,
            dscp=self._request.dscp,
            addresses=self._found.addresses,
        )

    async def _look_for_mtu(self, target: Target) -> None:
        if target.transport is Transport.UDP and target.reaches:
            target = await self._by_echo(target)
        self._found.mtu = await mtu.path_mtu(
            self._means.prober,
            target,
            first_bytes=self._means.link_bytes,
            wait_ns=self._wait_ns,
            pause=self._pause,
            hops=self._found.addresses,
            own_address=self._means.own_address,
        )

    async def _by_echo(self, target: Target) -> Target:
        """Errors are limited, echoes seldom: a search asks much."""
        echo = Target(
            destination=target.destination,
            transport=Transport.ICMP,
            port=0,
            last_ttl=target.last_ttl,
            reaches=True,
        )
        (answer,) = await self._means.prober.ask([echo.probe()], wait_ns=self._wait_ns)
        return echo if answer is not None else target

    async def _look_for_ways(self) -> None:
        terms = MultipathTerms(
            probe=self._probe(1), last_ttl=self._request.max_hops, wait_ns=self._request.wait_ms * NS_PER_MS
        )
        found = await discover(terms, self._means.prober)
        self._found.links = tuple(
            FlowLink(ttl=each.ttl, near=each.near or SILENT, far=each.far or SILENT) for each in found.links
        )
        if not found.is_complete:
            self._found.notes.append(f"there may be more ways: {found.sent} probes did not suffice to see all")

    def _look_up(self) -> None:
        names = self._means.names
        if names is None:
            return
        for address in self._found.all_addresses:
            names.want(address)
            self._found.names[address] = names.known(address)
