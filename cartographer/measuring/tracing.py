"""Who is on the way: traceroute with several hops under way at a time, and statistics for each of them.

Decides: which TTL to ask next, how long an answer is worth waiting for, and when to stop. Refuses to know: packets on
the wire and sockets (a `Prober` asks), names of addresses, whether loss at one hop means anything (`losses` says).

The first hops are asked at once, all attempts; then no more than UNKNOWN probes are under way that may reach the
destination, and those that reach it beyond its hop count as its answers: the flow is the same. That matters: Linux
sends six ICMP errors to one host at once and then one a second (icmp(7), icmp_ratelimit), and what it keeps back would
look like loss. Waiting is traceroute(8)'s: a silent probe is given up after a multiple of the round trip of its own
hop, or of one behind it. One flow, so one path: Augustin et al. (IMC 2006).

`Trace` is the deciding part, pure; `trace` drives it over a prober, which it has for itself meanwhile.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Prober, Transport

UNKNOWN: Final = 6
FIRST: Final = 15
"""Of the burst that goes at once: five hops. A destination nearer than four hops gets more than it may answer; those of
its own hop come first."""

UNDER_WAY: Final = 16
SAME_HOP: Final = 3
LATER_HOP: Final = 10
ANSWERED_NS: Final = 100_000_000
"""Least patience with a hop that has answered: a router makes ICMP errors when it has time for them."""

SILENT_NS: Final = 25_000_000
"""And with one that never did, while one behind it has. It tells on local networks only: traceroute(8) gives up 10 ms
earlier there (`python -m bench.probing`), which a busy router's answer may take."""

_NS: Final = 1_000_000_000
_LOOK_S: Final = 0.01
_PORT_UNREACHABLE: Final = {4: 3, 6: 4}


class End(enum.Enum):
    REACHED = "reached"
    UNREACHABLE = "unreachable"  # somebody on the way says so
    TOO_BIG = "too big"  # no further with packets of this size
    SILENT = "silent"  # too many hops in a row say nothing
    FAR = "far"  # the last TTL was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTerms:
    """probe: what every probe looks like; its TTL does not count."""

    probe: ProbePacket
    first_ttl: int = 1
    last_ttl: int = 30
    attempts: int = 3
    silent_hops: int = 5  # in a row: nothing further is looked for
    wait_ns: int = _NS

    def __post_init__(self) -> None:
        assert 1 <= self.first_ttl <= self.last_ttl <= 255
        assert self.attempts >= 1
        assert self.silent_hops >= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrips:
    least_ns: int
    mean_ns: int
    median_ns: int
    most_ns: int
    deviation_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """answers: in the order of the probes, None where nothing came."""

    ttl: int
    answers: tuple[Answer | None, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Who answered, in order of appearance; several where packets of one flow go several ways."""
        return tuple(dict.fromkeys(answer.address for answer in self.answers if answer is not None))

    @property
    def sent(self) -> int:
        return len(self.answers)

    @property
    def answered(self) -> int:
        return sum(answer is not None for answer in self.answers)

    @property
    def is_silent(self) -> bool:
        return self.answered == 0

    @property
    def round_trips(self) -> RoundTrips | None:
        return round_trips([answer.round_trip_ns for answer in self.answers if answer is not None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """hops: from the first TTL to the last one that says anything of the way; silent ones are there as silent."""

    destination: str
    transport: Transport
    flow: int
    hops: tuple[Hop, ...]
    end: End
    sent: int

    @property
    def is_reached(self) -> bool:
        return self.end is End.REACHED


def round_trips(times_ns: Sequence[int]) -> RoundTrips | None:
    """None of none."""
    if not times_ns:
        return None
    ordered, count = sorted(times_ns), len(times_ns)
    mean = sum(ordered) // count
    variance = sum((each - mean) ** 2 for each in ordered) // max(1, count - 1)
    return RoundTrips(
        least_ns=ordered[0],
        mean_ns=mean,
        median_ns=(ordered[(count - 1) // 2] + ordered[count // 2]) // 2,
        most_ns=ordered[-1],
        deviation_ns=math.isqrt(variance),
        last_ns=times_ns[-1],
    )


def end_of(answer: Answer, destination: str) -> End | None:
    """What an answer says of the way's end; None: it goes on."""
    if answer.kind is AnswerKind.REPLY:
        return End.REACHED
    if answer.kind is AnswerKind.TOO_BIG:
        return End.TOO_BIG
    if answer.kind is not AnswerKind.UNREACHABLE:
        return None
    is_port = answer.code == _PORT_UNREACHABLE[6 if ":" in destination else 4]  # perhaps from another of its addresses
    return End.REACHED if is_port or answer.address == destination else End.UNREACHABLE


class Trace:
    """Says which TTLs to ask, hears what came of it, and has the route in the end."""

    def __init__(self, terms: TraceTerms) -> None:
        self._terms = terms
        self._asked: dict[int, int] = {}
        self._heard: dict[int, list[Answer | None]] = {}
        self._sent = 0
        self._ends: dict[int, End] = {}

    def next_ttls(self) -> list[int]:
        """To be asked now, each once for every time that it is in the list. Nothing, and nothing under way: done."""
        wanted = self._wanted() if self._asked else self._first()
        for ttl in wanted:
            self._asked[ttl] = self._asked.get(ttl, 0) + 1
        self._sent += len(wanted)
        return wanted

    def on_answer(self, ttl: int, answer: Answer | None) -> None:
        self._heard.setdefault(ttl, []).append(answer)
        end = None if answer is None else end_of(answer, self._terms.probe.destination)
        if end is not None:
            self._ends.setdefault(ttl, end)

    @property
    def is_done(self) -> bool:
        """Nothing under way is of any use, and nothing more to be asked."""
        last = self._last()
        if last is not None and len(self._answers(last)) < self._terms.attempts:
            return False
        for ttl in range(self._terms.first_ttl, self._horizon() + 1):
            heard = len(self._heard.get(ttl, ()))
            if heard < self._asked.get(ttl, 0) or (ttl != last and heard < self._terms.attempts):
                return False
        return True

    def patience_ns(self, ttl: int) -> int:
        """How long the answer to a probe is waited for, from its sending, as of now."""
        last = self._last()
        ttl = ttl if last is None else min(ttl, last)
        here = [answer.round_trip_ns for answer in self._heard.get(ttl, ()) if answer is not None]
        if here:
            wait_ns = max(ANSWERED_NS, SAME_HOP * max(here))
        else:
            later = [self._most_ns(other) for other in self._heard if other > ttl]
            known = [each for each in later if each is not None]
            if not known:
                return self._terms.wait_ns
            wait_ns = max(SILENT_NS, LATER_HOP * min(known))
        return min(self._terms.wait_ns, wait_ns)

    def route(self) -> Route:
        """As known by now."""
        last = self._last()
        end = self._ends[last] if last is not None else End.FAR
        if last is None:
            if self._silent_tail() >= self._terms.silent_hops:
                end = End.SILENT
            last = max(self._heard, default=self._terms.first_ttl - 1)
        hops = tuple(Hop(ttl=ttl, answers=tuple(self._answers(ttl))) for ttl in range(self._terms.first_ttl, last + 1))
        probe = self._terms.probe
        return Route(
            destination=probe.destination,
            transport=probe.transport,
            flow=probe.flow,
            hops=hops,
            end=end,
            sent=self._sent,
        )

    def _first(self) -> list[int]:
        hops = min(max(1, FIRST // self._terms.attempts), self._terms.last_ttl - self._terms.first_ttl + 1)
        ttls = range(self._terms.first_ttl, self._terms.first_ttl + min(hops, self._terms.silent_hops))
        return [ttl for ttl in ttls for _ in range(self._terms.attempts)][:FIRST]

    def _wanted(self) -> list[int]:
        wanted: list[int] = []
        last, farthest, limit = self._last(), self._farthest(), self._horizon()
        open_probes = {ttl: asked - len(self._heard.get(ttl, ())) for ttl, asked in self._asked.items()}
        unknown = sum(count for ttl, count in open_probes.items() if ttl > farthest)
        room = UNDER_WAY - sum(open_probes.values())
        for attempt in range(self._terms.attempts):
            for ttl in range(self._terms.first_ttl, limit + 1):
                asked = self._asked.get(ttl, 0) + wanted.count(ttl)
                beyond = self._beyond(open_probes) if ttl == last else 0
                if asked > attempt or asked + beyond >= self._terms.attempts or len(wanted) >= room:
                    continue
                if ttl > farthest:
                    if unknown >= UNKNOWN or (attempt and not self._heard.get(ttl)):
                        continue
                    unknown += 1
                wanted.append(ttl)
        return wanted

    def _beyond(self, open_probes: Mapping[int, int]) -> int:
        """Probes that count for the last hop, or may: the flow's, with a TTL that is more than enough."""
        last = self._last()
        assert last is not None
        open_now = sum(count for ttl, count in open_probes.items() if ttl > last)
        return open_now + len(self._answers(last)) - len(self._heard.get(last, ()))

    def _answers(self, ttl: int) -> list[Answer | None]:
        """Of a hop; of the last one also those to probes that went farther, as far as attempts are missing."""
        own = list(self._heard.get(ttl, ()))
        if ttl != self._last():
            return own
        farther = [each for other in sorted(self._heard) if other > ttl for each in self._heard[other]]
        missing = max(0, self._terms.attempts - max(len(own), self._asked.get(ttl, 0)))
        return own + [each for each in farther if each is not None][:missing]

    def _last(self) -> int | None:
        return min(self._ends, default=None)

    def _farthest(self) -> int:
        """The last TTL that was answered."""
        answered = [ttl for ttl, heard in self._heard.items() if any(each is not None for each in heard)]
        return max(answered, default=self._terms.first_ttl - 1)

    def _silent_tail(self) -> int:
        """Hops in a row, behind the farthest answer, of which a probe was given up already."""
        count = 0
        while self._heard.get(self._farthest() + count + 1):
            count += 1
        return count

    def _horizon(self) -> int:
        last = self._last()
        if last is not None:
            return last
        silent = self._silent_tail()
        reach = self._farthest() + min(silent + UNKNOWN, self._terms.silent_hops)
        return min(reach, self._terms.last_ttl)

    def _most_ns(self, ttl: int) -> int | None:
        times = [answer.round_trip_ns for answer in self._heard[ttl] if answer is not None]
        return max(times, default=None)


@dataclass(slots=True, kw_only=True)
class _Probe:
    ttl: int
    number: int  # of all that the prober sends
    sent_s: float | None = None


class _UnderWay:
    """The probes that are asked now. Waiting counts from when they left, which pacing decides: in their order."""

    def __init__(self, core: Trace, terms: TraceTerms, prober: Prober) -> None:
        self._core, self._terms, self._prober = core, terms, prober
        self._number = prober.sent
        self._tasks: dict[asyncio.Task[list[Answer | None]], _Probe] = {}

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, ttl: int) -> None:
        self._number += 1
        asking = self._ask(replace(self._terms.probe, ttl=ttl))
        self._tasks[asyncio.create_task(asking)] = _Probe(ttl=ttl, number=self._number)

    async def _ask(self, packet: ProbePacket) -> list[Answer | None]:
        return await self._prober.ask([packet], wait_ns=self._terms.wait_ns)

    async def outcomes(self) -> list[tuple[int, Answer | None]]:
        """When there are some, or it is time to look again."""
        done, _ = await asyncio.wait(self._tasks, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED)
        found = [(self._tasks.pop(task).ttl, task.result()[0]) for task in done]
        now_s = asyncio.get_running_loop().time()
        for task, probe in list(self._tasks.items()):
            if probe.sent_s is not None and now_s - probe.sent_s >= self._core.patience_ns(probe.ttl) / _NS:
                task.cancel()
                del self._tasks[task]
                found.append((probe.ttl, None))
        return found

    def _pause_s(self) -> float:
        """Notes which have left by now, too."""
        now_s, pause_s = asyncio.get_running_loop().time(), self._terms.wait_ns / _NS
        for probe in self._tasks.values():
            if probe.sent_s is None:
                if probe.number > self._prober.sent:
                    pause_s = min(pause_s, _LOOK_S)
                    continue
                probe.sent_s = now_s
            left_s = probe.sent_s + self._core.patience_ns(probe.ttl) / _NS - now_s
            pause_s = min(pause_s, max(0.0, left_s))
        return pause_s

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def trace(terms: TraceTerms, prober: Prober, *, on_change: Callable[[Route], None] | None = None) -> Route:
    """The route to the destination of `terms`. on_change: told whenever a probe was answered or given up."""
    core = Trace(terms)
    under_way = _UnderWay(core, terms, prober)
    try:
        while True:
            for ttl in core.next_ttls():
                under_way.start(ttl)
            if core.is_done or not under_way:
                return core.route()
            for ttl, answer in await under_way.outcomes():
                core.on_answer(ttl, answer)
            if on_change is not None:
                on_change(core.route())
    finally:
        await under_way.end()
