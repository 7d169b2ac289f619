"""What is known of each destination: the ways that packets went, what led to them, and which ISPs ignore wishes.

Decides what an observation proves; refuses to know what follows from it (choice, probing), what ISPs publish
(topology), who signed it and what time it is.  All sizes are bounded: an ISP can write any AS number.

A *way* is what packets really met, so whatever was measured of it stays true when the traffic moves elsewhere.  An
*ask* is what we write (user-OADs); it leads to a way as long as the last packets that carried it went there and the
ISPs did what it says.  Source: Bill-Pay 2.2.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from billpay.header import ISP_WRITTEN, MAX_ALTERNATIVE, MAX_AS_NUMBER, MAX_OADS, NO_CHOICE, Slot, alternatives_in
from cartographer.policy import PathPolicy
from cartographer.statistics import WayStatistics
from cartographer.values import Quantity, Way

MAX_ISPS = 16  # for each destination; the longest unseen goes first
MAX_ASKS = 32
ANY_OTHER = 0  # stands for a wish that names no alternative: "any but these"
ONLY_WAY: Way = ""  # of a destination whose path nobody describes: the Internet as it is

Ask = tuple[Slot, ...]
"""User-OADs by AS number; () asks nothing of anybody. Bitmaps are those of the user: undesirable alternatives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeFacts:
    """How one alternative of one ISP takes to be asked for, towards one destination."""

    number: int
    seen: bool = False  # something was seen to take it
    ignored: int = 0  # wishes in a row that the ISP did not follow
    silent_until_ns: int = 0  # not asked for before then: wishes were ignored


@dataclass(slots=True)
class IspRecord:
    """What is kept of one ISP for one destination."""

    bitmap: int
    present: int  # what packets took last
    seen_ns: int
    default: int | None = None  # what it took when nothing was asked of this ISP
    alternatives: dict[int, AlternativeFacts] = field(default_factory=dict)

    def facts(self, number: int) -> AlternativeFacts:
        return self.alternatives.get(number) or AlternativeFacts(number=number)


@dataclass(slots=True)
class WayRecord:
    """One way. `slots` are the ISP-OADs as they came; none for a way that nobody has seen, only expected."""

    way: Way
    slots: tuple[Slot, ...]
    seen_ns: int
    statistics: WayStatistics = field(default_factory=WayStatistics)
    surprised_ns: int | None = None  # when it last was not as it was believed to be

    @property
    def is_expected(self) -> bool:
        return not self.slots and self.way != ONLY_WAY


@dataclass(slots=True)
class AskRecord:
    way: Way | None = None  # None: nothing came back yet
    seen_ns: int = 0
    probed_ns: int | None = None


@dataclass(slots=True)
class Destination:
    path: tuple[int, ...] = ()  # AS numbers in the order of the slots, when last seen
    isps: dict[int, IspRecord] = field(default_factory=dict)
    ways: dict[Way, WayRecord] = field(default_factory=dict)
    asks: dict[Ask, AskRecord] = field(default_factory=dict)
    asked: Ask = ()  # what the last choice wrote, for whoever does not say what his packets carried
    asked_since_ns: int | None = None
    active_ns: int = 0
    probed_ns: int | None = None
    probes_earned_ppm: int = 4_000_000  # millionths of a probe; some are there in the beginning
    round_trip_ns: int | None = None
    version: int = 0  # grows with each fact
    shape: int = 0  # grows when there is something else to choose from: that is not for later
    answers: tuple[Answer, ...] = ()  # to the wishes of the last packets that told something

    def round_trip(self, way: Way, now_ns: int) -> int | None:
        """Of a way, if it is known, else the last one of any."""
        record = self.ways.get(way)
        moments = record.statistics.moments(Quantity.DELAY_NS, now_ns) if record is not None else None
        return round(moments[0]) if moments is not None else self.round_trip_ns

    def way_of(self, ask: Ask) -> Way | None:
        """Where packets with these user-OADs go, as far as known; None: nobody has seen it."""
        known = self.asks.get(ask)
        if known is not None and known.way is not None and known.way in self.ways:
            return known.way
        fitting = [record for record in self.ways.values() if record.slots and self._fits(record, ask)]
        return max(fitting, key=lambda record: record.seen_ns).way if fitting else None

    def _fits(self, record: WayRecord, ask: Ask) -> bool:
        """Whether ISPs that do as they are asked, and what they usually do, would make a packet go there."""
        wishes = {slot.as_number: slot for slot in ask}
        if not wishes.keys() <= {slot.as_number for slot in record.slots}:
            return False
        for slot in record.slots:
            wish = wishes.get(slot.as_number)
            if wish is not None:
                if wish.choice == NO_CHOICE or slot.choice != wish.choice:
                    return False
            elif slot.as_number in self.isps and slot.choice != self.isps[slot.as_number].default:
                return False
        return True


class Answer(NamedTuple):
    """A wish that the ISP said it could follow, and whether it did."""

    as_number: int
    number: int  # 0: any other
    followed: bool


def read_isp_oads(oads: Iterable[tuple[int, int, int]]) -> tuple[Slot, ...]:
    """The slots that make sense as ISP-OADs, in order; an AS that shows up twice says nothing."""
    slots = [Slot(*oad) for oad in oads]
    if len(slots) > MAX_OADS:
        return ()
    numbers = [slot.as_number for slot in slots]
    return tuple(slot for slot in slots if _is_isp_oad(slot) and numbers.count(slot.as_number) == 1)


def _is_isp_oad(slot: Slot) -> bool:
    if not (1 <= slot.as_number <= MAX_AS_NUMBER and ISP_WRITTEN <= slot.alternatives <= 0xFFF):
        return False
    return 1 <= slot.choice <= MAX_ALTERNATIVE and bool(slot.alternatives >> (slot.choice - 1) & 1)


def way_text(slots: Iterable[tuple[int, int, int]]) -> Way:
    """ "AS64512:1 AS64513:1": the choice of each ISP that wrote its slot."""
    return " ".join(f"AS{as_number}:{choice}" for as_number, bitmap, choice in slots if bitmap & ISP_WRITTEN)


def ask_in(slots: Iterable[Slot]) -> Ask:
    """The user-OADs among the slots of a packet that leaves."""
    return tuple(sorted(slot for slot in slots if slot.as_number and not slot.alternatives & ISP_WRITTEN))


def expected_way(ask: Ask) -> Way:
    """The name of a way that nobody has seen: what will be asked to find it."""
    if not ask:
        return "asking nothing"
    return "asking " + " ".join(_wish_text(wish) for wish in ask)


def _wish_text(wish: Slot) -> str:
    if wish.choice != NO_CHOICE:
        return f"AS{wish.as_number}:{wish.choice}"
    return f"AS{wish.as_number}:not-{'-'.join(map(str, alternatives_in(wish.alternatives)))}"


class PathMap:
    """The memory of the cartographer of one network."""

    def __init__(self, policy: PathPolicy) -> None:
        self._policy = policy
        self._destinations: dict[str, Destination] = {}  # the least recently used first

    # --- what it is told ---------------------------------------------------------------------------------------------

    def touch(self, destination: str, now_ns: int) -> Destination:
        """The destination is in use."""
        record = self.open(destination)
        record.active_ns = now_ns
        return record

    def on_traffic(
        self, destination: str, slots: tuple[Slot, ...], now_ns: int, *, asked: Ask | None, settled: bool
    ) -> WayRecord:
        """What packets of the traffic met on their way, and what they had asked for, if that is known.

        Not `settled`: the packets may have left with an earlier ask.
        """
        record = self.touch(destination, now_ns)
        record.path = tuple(slot.as_number for slot in slots)
        if asked is None:
            asked = record.asked
            since_ns = record.asked_since_ns
            settled = settled and (since_ns is None or now_ns - since_ns >= self._policy.settle_ns)
        return self._saw(record, slots, now_ns, asked=asked, settled=settled)

    def on_probe_reply(self, destination: str, slots: tuple[Slot, ...], now_ns: int, *, asked: Ask) -> WayRecord | None:
        """What a probe met that had asked so. Replies from where nothing was asked are ignored."""
        record = self._destinations.get(destination)
        if record is None:
            return None
        if not record.path:
            record.path = tuple(slot.as_number for slot in slots)
        return self._saw(record, slots, now_ns, asked=asked, settled=True)

    def note_probe(self, destination: str, ask: Ask, now_ns: int) -> None:
        record = self.open(destination)
        record.probed_ns = now_ns
        self._ask(record, ask).probed_ns = now_ns

    def expect(self, record: Destination, way: Way, now_ns: int) -> WayRecord:
        """A way that nobody has seen yet."""
        known = record.ways.get(way)
        if known is None:
            known = record.ways[way] = WayRecord(way, (), now_ns)
            self._bound_ways(record, way)
        return known

    # --- what it knows -----------------------------------------------------------------------------------------------

    def destinations(self) -> dict[str, Destination]:
        """The least recently used first; not to be changed."""
        return self._destinations

    def get(self, destination: str) -> Destination | None:
        return self._destinations.get(destination)

    def open(self, destination: str) -> Destination:
        record = self._destinations.pop(destination, None) or Destination()
        while len(self._destinations) >= self._policy.max_destinations:
            del self._destinations[next(iter(self._destinations))]
        self._destinations[destination] = record
        return record

    def forget(self, destination: str) -> None:
        self._destinations.pop(destination, None)

    def is_active(self, destination: str, now_ns: int) -> bool:
        record = self._destinations.get(destination)
        return record is not None and now_ns - record.active_ns <= self._policy.active_ns

    # --- how it learns -----------------------------------------------------------------------------------------------

    def _saw(
        self, record: Destination, slots: tuple[Slot, ...], now_ns: int, *, asked: Ask, settled: bool
    ) -> WayRecord:
        record.version += 1
        self._see_isps(record, slots, now_ns)
        way = way_text(slots)
        known = record.ways.pop(way, None)
        if known is None:
            known = WayRecord(way, slots, now_ns)
            record.shape += 1
        known.slots, known.seen_ns = slots, now_ns
        record.ways[way] = known
        self._bound_ways(record, way)
        wishes = {slot.as_number: slot for slot in asked}
        record.answers = self._learn_answers(record, wishes, slots, now_ns) if settled else ()
        if settled or (wishes and follows_all(slots, wishes)):
            answered = self._ask(record, asked)
            answered.way, answered.seen_ns = way, now_ns
            record.ways.pop(expected_way(asked), None)
        return known

    def _see_isps(self, record: Destination, slots: tuple[Slot, ...], now_ns: int) -> None:
        """Who is there and what each offers."""
        for slot in slots:
            isp = record.isps.get(slot.as_number)
            if isp is None:
                isp = record.isps[slot.as_number] = IspRecord(slot.alternatives, slot.choice, now_ns)
            isp.seen_ns, isp.present = now_ns, slot.choice
            if isp.bitmap != slot.alternatives:
                isp.bitmap = slot.alternatives
                record.shape += 1
                _forget_withdrawn(record, slot.as_number, isp)
            facts = isp.facts(slot.choice)
            if not facts.seen:
                isp.alternatives[slot.choice] = replace(facts, seen=True)
        in_use = {*record.path, *(slot.as_number for slot in slots)}  # at most 14
        while len(record.isps) > MAX_ISPS:
            _, oldest = min((isp.seen_ns, number) for number, isp in record.isps.items() if number not in in_use)
            del record.isps[oldest]
            _forget_ways(record, lambda slots: any(slot.as_number == oldest for slot in slots))  # noqa: B023

    def _learn_answers(
        self, record: Destination, wishes: dict[int, Slot], slots: tuple[Slot, ...], now_ns: int
    ) -> tuple[Answer, ...]:
        """What each ISP does when nothing is asked of it; and counts wishes that it could have followed and did not."""
        answers = []
        for slot in slots:
            wish = wishes.get(slot.as_number)
            isp = record.isps[slot.as_number]
            if wish is None:
                isp.default = slot.choice
                continue
            facts = isp.facts(wish.choice)  # NO_CHOICE is ANY_OTHER
            if _follows(slot, wish):
                answers.append(Answer(slot.as_number, wish.choice, followed=True))
                if facts.ignored:
                    isp.alternatives[facts.number] = replace(facts, ignored=0)
            elif _could_follow(slot, wish):
                answers.append(Answer(slot.as_number, wish.choice, followed=False))
                ignored = facts.ignored + 1
                silent_ns = facts.silent_until_ns
                if ignored >= self._policy.ignored_limit:
                    ignored, silent_ns = 0, now_ns + self._policy.ignored_silence_ns
                    record.shape += 1
                isp.alternatives[facts.number] = replace(facts, ignored=ignored, silent_until_ns=silent_ns)
        return tuple(answers)

    def _ask(self, record: Destination, ask: Ask) -> AskRecord:
        known = record.asks.pop(ask, None) or AskRecord()
        record.asks[ask] = known
        while len(record.asks) > MAX_ASKS:
            del record.asks[next(iter(record.asks))]
        return known

    def _bound_ways(self, record: Destination, kept: Way) -> None:
        while len(record.ways) > self._policy.max_ways:
            oldest = min((item.seen_ns, way) for way, item in record.ways.items() if way != kept)[1]
            del record.ways[oldest]


def _forget_withdrawn(record: Destination, as_number: int, isp: IspRecord) -> None:
    """What an ISP does not offer any more, and the ways by it."""
    offered = alternatives_in(isp.bitmap)
    isp.alternatives = {
        number: facts for number, facts in isp.alternatives.items() if number == ANY_OTHER or number in offered
    }
    if isp.default is not None and isp.default not in offered:
        isp.default = None
    _forget_ways(
        record, lambda slots: any(slot.as_number == as_number and slot.choice not in offered for slot in slots)
    )


def _forget_ways(record: Destination, is_gone: Callable[[tuple[Slot, ...]], bool]) -> None:
    for way in [way for way, item in record.ways.items() if is_gone(item.slots)]:
        del record.ways[way]


def follows_all(slots: Iterable[Slot], wishes: dict[int, Slot]) -> bool:
    """Whether every ISP that was asked did as it was asked."""
    met = {slot.as_number: slot for slot in slots}
    return all(number in met and _follows(met[number], wish) for number, wish in wishes.items())


def obeys(slots: Iterable[Slot], wishes: dict[int, Slot]) -> bool:
    """Whether no ISP that was met did anything else than it was asked."""
    return all(slot.as_number not in wishes or _follows(slot, wishes[slot.as_number]) for slot in slots)


def _follows(slot: Slot, wish: Slot) -> bool:
    if wish.choice != NO_CHOICE:
        return slot.choice == wish.choice
    return not wish.alternatives >> (slot.choice - 1) & 1


def _could_follow(slot: Slot, wish: Slot) -> bool:
    """Whether the ISP says that it has what was asked for."""
    if wish.choice != NO_CHOICE:
        return bool(slot.alternatives >> (wish.choice - 1) & 1)
    return bool(slot.alternatives & (ISP_WRITTEN - 1) & ~wish.alternatives)
