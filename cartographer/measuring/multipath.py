"""All the paths that packets to one destination may take: multipath discovery, hop by hop.

Decides: how many flows to ask behind each interface until no further one is likely, who balances by flow and who by
packet, and where paths part and meet again. Refuses to know: packets on the wire and sockets (a `Prober` asks).

Source: Augustin, Friedman, Teixeira, "Measuring load-balanced paths in the Internet" (IMC 2007); Veitch, Augustin,
Friedman, Teixeira, "Failure control in multipath route tracing" (INFOCOM 2009). With k next interfaces known, n(k)
flows are asked: so many that k + 1 equally likely ones would all have been seen with 95 %, for each interface (node
control): 6, 11, 16, 21, 27, 33, 38, 44, 51, 57 … More flows through an interface are found by asking at its own hop.

What this cannot see: balancing by destination, branches that carry much less than their share, and equal addresses on
different machines. Behind a balancer by packet the flow does not tell the path: links up to where its paths meet are
possible ones. `Discovery` is the deciding part, pure; `discover` drives it.
"""

from __future__ import annotations

import enum
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cartographer.measuring.packets import Answer, ProbePacket, Prober, Transport
from cartographer.measuring.tracing import End, RoundTrips, end_of, round_trips

MISS: Final = 0.05
"""How likely an interface may be overlooked, for each balancer."""

FLOWS: Final = 4096
LEAST_WAIT_NS: Final = 100_000_000
WAIT_FACTOR: Final = 10  # of the longest round trip so far; traceroute(8)'s "near" factor
BRANCH_PART: Final = 5
"""One of so many flows at a hop has to be silent for a silent branch; fewer are loss."""

_CONTROLS: Final = 4
_HUNT: Final = 16  # flows tried for each one that is wanted through an interface, before it is left alone
_SOURCE: Final = "source"

Vertex = str | None
"""An address, or None: silent ones, which cannot be told apart."""


class Balancing(enum.Enum):
    BY_FLOW = "by flow"
    BY_PACKET = "by packet"
    UNKNOWN = "unknown"  # behind one by packet nobody can tell


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipathTerms:
    """probe: what every probe looks like; TTL and flow do not count. most_probes: then it ends, incomplete."""

    probe: ProbePacket
    first_flow: int = 0
    first_ttl: int = 1
    last_ttl: int = 30
    attempts: int = 2  # for each flow at each hop, while nothing comes
    silent_hops: int = 5
    most_probes: int = 2_000
    miss: float = MISS
    wait_ns: int = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    address: str
    flows: int  # that were seen there
    round_trips: RoundTrips


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipathHop:
    ttl: int
    interfaces: tuple[Interface, ...]
    silent_flows: int  # that nobody answered here, after all attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """From an interface at `ttl` to one at the next. None: somebody silent."""

    ttl: int
    near: Vertex
    far: Vertex


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancer:
    ttl: int
    address: Vertex
    balancing: Balancing
    towards: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diamond:
    """From where paths part to where they all have met. convergence None: only behind what is known."""

    divergence: Vertex
    convergence: str | None
    ttl: int  # of the divergence
    width: int  # most interfaces at one hop between
    least_hops: int
    most_hops: int

    @property
    def is_asymmetric(self) -> bool:
        return self.least_hops != self.most_hops


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipath:
    """The source itself is no hop; as a balancer or divergence it is "source"."""

    destination: str
    transport: Transport
    hops: tuple[MultipathHop, ...]
    links: tuple[Link, ...]
    balancers: tuple[Balancer, ...]
    diamonds: tuple[Diamond, ...]
    end: End
    is_complete: bool  # the stopping rule was met everywhere
    sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """again: the same flow once more, to find out whether it stays where it was."""

    ttl: int
    flow: int
    again: bool = False


@functools.cache
def flows_needed(known: int, miss: float = MISS) -> int:
    """n(k): so many flows show all of k + 1 equally likely interfaces but with probability `miss`."""
    several = known + 1
    seen = [1.0] + [0.0] * several  # the probability of each count of different ones, after `flows` draws
    flows = 0
    while seen[several] < 1.0 - miss:
        flows += 1
        seen = [
            (seen[count] * count + (seen[count - 1] * (several - count + 1) if count else 0.0)) / several
            for count in range(several + 1)
        ]
    return flows


class Discovery:
    """Says what to ask next, hears what came of it, and has the paths in the end."""

    def __init__(self, terms: MultipathTerms) -> None:
        self._terms = terms
        self._ttl = terms.first_ttl
        self._seen: dict[int, dict[int, Vertex]] = defaultdict(dict)  # at a TTL: which flow met whom
        self._tries: dict[tuple[int, int], int] = defaultdict(int)
        self._times: dict[tuple[int, str], list[int]] = defaultdict(list)
        self._final: dict[tuple[int, str], End] = {}
        self._also: set[Link] = set()  # that only repeated flows have shown
        self._checked: dict[tuple[int, Vertex], Balancing] = {}
        self._hunted: dict[tuple[int, Vertex], int] = defaultdict(int)
        self._control: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))  # asked again, and answered
        self._next_flow = terms.first_flow
        self._incomplete = False
        self._sent = 0
        self._longest_ns: int | None = None
        self._end: End | None = None

    @property
    def wait_ns(self) -> int:
        """Of the next round."""
        if self._longest_ns is None:
            return self._terms.wait_ns
        return min(self._terms.wait_ns, max(LEAST_WAIT_NS, WAIT_FACTOR * self._longest_ns))

    def next_questions(self) -> list[Question]:
        """Of one round; none: done."""
        while self._end is None:
            questions = self._round()
            if self._sent + len(questions) > self._terms.most_probes:
                self._incomplete = True
                self._end = End.FAR
                return []
            if questions:
                self._sent += len(questions)
                return questions
            self._advance()
        return []

    def on_answer(self, question: Question, answer: Answer | None) -> None:
        ttl, flow = question.ttl, question.flow
        if answer is not None:
            self._times[ttl, answer.address].append(answer.round_trip_ns)
            self._longest_ns = max(self._longest_ns or 0, answer.round_trip_ns)
            end = end_of(answer, self._terms.probe.destination)
            if end is not None:
                self._final.setdefault((ttl, answer.address), end)
        if question.again:
            asked, heard = self._control[ttl]
            self._control[ttl] = (asked + 1, heard + (answer is not None))
            before = self._seen[ttl].get(flow)
            near = self._at(ttl - 1).get(flow, _SOURCE)
            if answer is not None and before is not None and answer.address != before:
                self._checked[ttl - 1, near] = Balancing.BY_PACKET
                self._also.add(Link(ttl=ttl - 1, near=near, far=answer.address))
            return
        self._tries[ttl, flow] += 1
        self._seen[ttl][flow] = None if answer is None else answer.address

    # --- what to ask ---

    def _round(self) -> list[Question]:
        again = [
            Question(ttl=ttl, flow=flow)
            for ttl in (self._ttl - 1, self._ttl)
            for flow, vertex in self._seen.get(ttl, {}).items()
            if vertex is None and self._tries[ttl, flow] < self._terms.attempts
        ]
        if again:
            return again
        wanted: dict[Question, None] = {}
        for vertex in self._open_vertices():
            wanted |= dict.fromkeys(self._behind(vertex))
        wanted |= dict.fromkeys(self._orphans())
        return list(wanted) or self._checks()

    def _open_vertices(self) -> list[Vertex]:
        """At the hop before; what is behind them is looked for."""
        ttl = self._ttl - 1
        if ttl < self._terms.first_ttl:
            return [_SOURCE]
        found = list(dict.fromkeys(self._seen[ttl].values()))
        if None in found and not self._is_branch(ttl):
            found.remove(None)
        return [each for each in found if each is None or (ttl, each) not in self._final]

    def _is_branch(self, ttl: int) -> bool:
        """Whether flows that nobody answered at a hop met somebody silent, and were not lost or over a limit."""
        met = list(self._seen[ttl].values())
        answered = {address for address in met if address is not None}
        if not answered:
            return True
        if any((ttl, address) in self._final for address in answered):
            return False  # the destination answers as many as it likes
        asked, heard = self._control[ttl]
        is_limit = asked > 0 and heard * 2 <= asked
        return not is_limit and met.count(None) * BRANCH_PART >= len(met) and met.count(None) > 1

    def _behind(self, vertex: Vertex) -> list[Question]:
        """Flows through the interface at the hop after it; where too few are known, new ones at its own hop."""
        known = self._flows_through(vertex)
        asked = [flow for flow in known if flow in self._seen[self._ttl]]
        answered = [flow for flow in asked if self._seen[self._ttl][flow] is not None]
        successors = {self._seen[self._ttl][flow] for flow in answered}
        need = flows_needed(max(1, len(successors)), self._terms.miss)
        have = len(answered) if successors else len(asked)
        if have >= need or len(asked) >= 2 * need:
            self._incomplete |= have < need
            return []
        missing = need - have
        fresh = [flow for flow in known if flow not in self._seen[self._ttl]][:missing]
        questions = [Question(ttl=self._ttl, flow=flow) for flow in fresh]
        short = missing - len(fresh)
        if vertex == _SOURCE:
            return questions + [Question(ttl=self._ttl, flow=flow) for flow in self._new_flows(short)]
        place = (self._ttl - 1, vertex)
        if short and self._hunted[place] < _HUNT * need:
            flows = self._new_flows(short * max(1, len(set(self._seen[self._ttl - 1].values()))))
            self._hunted[place] += len(flows)
            questions += [Question(ttl=self._ttl - 1, flow=flow) for flow in flows]
        elif short and not fresh:
            self._incomplete = True
        return questions

    def _orphans(self) -> list[Question]:
        """An interface that only new flows have shown: whom do they meet before?"""
        ttl = self._ttl - 1
        before = self._seen[ttl - 1]
        if ttl <= self._terms.first_ttl:
            return []
        reached = {vertex for flow, vertex in self._seen[ttl].items() if before.get(flow) is not None}
        orphans = {vertex: flow for flow, vertex in self._seen[ttl].items() if vertex not in reached}
        return [Question(ttl=ttl - 1, flow=flow) for flow in orphans.values() if flow not in before]

    def _checks(self) -> list[Question]:
        """One flow through each balancer as often as would show it a second way, were that drawn for each packet."""
        questions = self._controls()
        for vertex in self._open_vertices():
            place = (self._ttl - 1, vertex)
            flows = [flow for flow in self._flows_through(vertex) if self._seen[self._ttl].get(flow) is not None]
            if place in self._checked or len({self._seen[self._ttl][flow] for flow in flows}) < 2:
                continue
            is_clear = Balancing.BY_PACKET not in self._checked.values() or self._is_single(place)
            self._checked[place] = Balancing.BY_FLOW if is_clear else Balancing.UNKNOWN
            if is_clear:
                questions += [Question(ttl=self._ttl, flow=flows[0], again=True)] * flows_needed(1, self._terms.miss)
        return questions

    def _controls(self) -> list[Question]:
        """Where flows were silent, others that were answered are asked again: is it a limit?"""
        met = self._seen[self._ttl]
        if self._control[self._ttl][0] or not self._is_branch(self._ttl) or None not in met.values():
            return []
        answered = [flow for flow, vertex in met.items() if vertex is not None][-_CONTROLS:]
        return [Question(ttl=self._ttl, flow=flow, again=True) for flow in answered]

    def _is_single(self, place: tuple[int, Vertex]) -> bool:
        """All packets come by here, so those of one flow do."""
        ttl, _ = place
        return ttl < self._terms.first_ttl or len(set(self._seen[ttl].values())) == 1

    def _advance(self) -> None:
        """On to the next hop, unless there is nothing behind."""
        if not self._open_vertices() or not self._seen[self._ttl]:
            self._end = self._last_end()
            return
        tail = 0
        while self._ttl - tail in self._seen and not any(self._seen[self._ttl - tail].values()):
            tail += 1
        met = [vertex for vertex in self._seen[self._ttl].values() if vertex is not None]
        if tail >= self._terms.silent_hops:
            self._end = End.SILENT
        elif met and all((self._ttl, vertex) in self._final for vertex in met):
            self._end = self._last_end()
        elif self._ttl >= self._terms.last_ttl:
            self._end = End.FAR
        else:
            self._ttl += 1

    def _last_end(self) -> End:
        ends = list(self._final.values())
        return End.REACHED if End.REACHED in ends or not ends else ends[-1]

    def _at(self, ttl: int) -> dict[int, Vertex]:
        return self._seen[ttl] if ttl >= self._terms.first_ttl else {}

    def _flows_through(self, vertex: Vertex) -> list[int]:
        if vertex == _SOURCE:
            return list(self._seen[self._ttl])
        return [flow for flow, met in self._seen[self._ttl - 1].items() if met == vertex]

    def _new_flows(self, count: int) -> list[int]:
        """Never one twice: after the last there are none."""
        last = min(self._next_flow + count, FLOWS)
        flows = list(range(self._next_flow, last))
        self._next_flow = last
        return flows

    # --- what was found ---

    def multipath(self) -> Multipath:
        """As known by now."""
        probe = self._terms.probe
        ttls = sorted(ttl for ttl, flows in self._seen.items() if flows and ttl <= self._ttl)
        links = self._links()
        return Multipath(
            destination=probe.destination,
            transport=probe.transport,
            hops=tuple(self._hop(ttl) for ttl in ttls),
            links=tuple(link for link in links if link.near != _SOURCE),
            balancers=self._balancers(links),
            diamonds=tuple(diamonds_of(links)),
            end=self._end or End.FAR,
            is_complete=self._end is not None and not self._incomplete,
            sent=self._sent,
        )

    def _hop(self, ttl: int) -> MultipathHop:
        met = list(self._seen[ttl].values())
        interfaces = [
            Interface(address=address, flows=met.count(address), round_trips=times)
            for (at, address), measured in self._times.items()
            if at == ttl and (times := round_trips(measured)) is not None
        ]
        return MultipathHop(ttl=ttl, interfaces=tuple(interfaces), silent_flows=met.count(None))

    def _links(self) -> list[Link]:
        """Between neighbouring hops, in order; the source's are those of the first hop."""
        found: dict[Link, None] = {}
        branches = {ttl for ttl in self._seen if self._is_branch(ttl)}
        for ttl in sorted(self._seen):
            for flow, far in self._seen[ttl].items():
                near = self._seen.get(ttl - 1, {}).get(flow, _SOURCE)
                is_known = ttl == self._terms.first_ttl or flow in self._seen.get(ttl - 1, {})
                is_behind = near is None or (ttl - 1, near) not in self._final
                is_lost = (far is None and ttl not in branches) or (near is None and ttl - 1 not in branches)
                if is_known and is_behind and not is_lost:
                    found[Link(ttl=ttl - 1, near=near, far=far)] = None
        return list(found | dict.fromkeys(self._also))

    def _balancers(self, links: Iterable[Link]) -> tuple[Balancer, ...]:
        towards: dict[tuple[int, Vertex], list[str]] = defaultdict(list)
        for link in links:
            if link.far is not None:
                towards[link.ttl, link.near].append(link.far)
        return tuple(
            Balancer(ttl=ttl, address=address, balancing=kind, towards=tuple(dict.fromkeys(towards[ttl, address])))
            for (ttl, address), kind in self._checked.items()
        )


def diamonds_of(links: Sequence[Link]) -> list[Diamond]:
    """The outermost ones, in path order. One address at two hops is one place: so unequal branches are seen to meet."""
    behind: dict[tuple[int, Vertex], list[tuple[int, Vertex]]] = defaultdict(list)
    for link in links:
        behind[link.ttl, link.near].append((link.ttl + 1, link.far))
    found: list[Diamond] = []
    inside: set[tuple[int, Vertex]] = set()
    for place in sorted(behind, key=lambda each: each[0]):
        if place in inside or len({address for _, address in behind[place]}) < 2:
            continue
        met = _meeting(place, behind)
        between, lengths, width = _between(place, met, behind)
        inside |= between
        found.append(
            Diamond(
                divergence=place[1],
                convergence=met,
                ttl=place[0],
                width=width,
                least_hops=min(lengths),
                most_hops=max(lengths),
            )
        )
    return found


def _meeting(start: tuple[int, Vertex], behind: dict[tuple[int, Vertex], list[tuple[int, Vertex]]]) -> str | None:
    """The first address that is on every way from here."""
    common: dict[tuple[int, Vertex], dict[Vertex, int]] = {}

    def on_every_way(place: tuple[int, Vertex]) -> dict[Vertex, int]:
        """Addresses that cannot be missed from here, with the farthest TTL at which they come."""
        if place not in common:
            ways = [on_every_way(each) | {each[1]: each[0]} for each in behind.get(place, ())]
            shared = set.intersection(*(set(way) for way in ways)) if ways else set()
            common[place] = {address: max(way[address] for way in ways) for address in shared}
        return common[place]

    met = {address: ttl for address, ttl in on_every_way(start).items() if address is not None}
    return min(met, key=lambda address: met[address], default=None)


def _between(
    start: tuple[int, Vertex], met: str | None, behind: dict[tuple[int, Vertex], list[tuple[int, Vertex]]]
) -> tuple[set[tuple[int, Vertex]], set[int], int]:
    """Places behind `start` and before `met`, how many hops it is to there, and the most places at one hop."""
    inside: set[tuple[int, Vertex]] = set()
    lengths: set[int] = set()
    edge = list(behind[start])
    while edge:
        place = edge.pop()
        if place[1] == met and met is not None:
            lengths.add(place[0] - start[0])
        elif place not in inside:
            inside.add(place)
            if not behind.get(place):
                lengths.add(place[0] - start[0])
            edge += behind.get(place, ())
    ttls = [ttl for ttl, _ in inside]
    return inside | {start}, lengths, max((ttls.count(ttl) for ttl in ttls), default=0)


async def discover(
    terms: MultipathTerms, prober: Prober, *, on_change: Callable[[Multipath], None] | None = None
) -> Multipath:
    """All paths to the destination of `terms`. on_change: told after each round."""
    core = Discovery(terms)
    while questions := core.next_questions():
        packets = [replace(terms.probe, ttl=question.ttl, flow=question.flow) for question in questions]
        answers = await prober.ask(packets, wait_ns=core.wait_ns)
        for question, answer in zip(questions, answers, strict=True):
            core.on_answer(question, answer)
        if on_change is not None:
            on_change(core.multipath())
    return core.multipath()
