"""Which ways there are to choose from, what is believed of each, and what has to be written to go one of them.

Decides: the candidates of a destination (the present ask, the defaults, each deviation at one ISP, ways known of
before), what is expected of those that nobody has seen, and the user-OADs of the one that was chosen.  Refuses to know
how beliefs are weighed (chooser), how fast traffic moves (split) and how it all became known (map).

Two ways to ask.  Known alternatives are asked for by number.  Unknown ones are found by calling the known ones
undesirable: the ISP takes another and says which.  Where its default is accepted nothing is asked at all.  What an ISP
promises of an alternative counts as a difference to the one that the traffic takes, only while nobody has measured it
and only if the judge believes that ISP.  Source: Bill-Pay 2.2.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from billpay.header import MAX_OADS, NO_CHOICE, Slot, alternatives_in, user_oad
from billpay.messages import OadAlternative
from cartographer.costing import belief_of
from cartographer.map import ANY_OTHER, Ask, Destination, WayRecord, expected_way, obeys
from cartographer.policy import PathPolicy
from cartographer.statistics import WayStatistics
from cartographer.suspicion import Judging
from cartographer.values import Belief, Estimate, Quantity, Wants, Way

FREE_SLOT = Slot(0, 0, 0)  # room for an ISP-OAD: an ISP uses the slot with its number, else the first free one
PICODOLLARS = 1000  # in a nanodollar
_ASSUMED_SAMPLES = 0.5  # of what nobody measured there: it is taken to be as on the present way
_COMPARED = (Quantity.DELAY_NS, Quantity.FORWARD_TOLL_PICODOLLARS, Quantity.RETURN_TOLL_PICODOLLARS)

Promises = Mapping[int, Mapping[int, OadAlternative]]
"""AS → alternative → what its description says towards this destination."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IspFacts:
    """One ISP on a way, as choice and people see it."""

    as_number: int
    available: tuple[int, ...]
    default: int | None  # what it takes when nothing is asked of it
    known: frozenset[int]  # alternatives that can be asked for with some idea of what that means
    silent: Mapping[int, int]  # alternative → not asked for before this time: wishes were ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is said of ISPs, towards one destination at one moment."""

    destination: str
    promises: Promises
    judge: Judging
    now_ns: int
    _isps: dict[int, IspFacts] = field(default_factory=dict)

    def isp(self, record: Destination, as_number: int) -> IspFacts:
        """Each is put together once."""
        known = self._isps.get(as_number)
        if known is None:
            known = self._isps[as_number] = facts_of(record, as_number, self.promises)
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An ask and the way that it is believed to lead to. `as_number`: where it deviates from the present way."""

    ask: Ask
    way: Way
    as_number: int | None = None
    number: int = ANY_OTHER
    objection: str = ""
    may_be_probed: bool = True  # what is objected to by the judge is still looked at, for it may have mended its ways


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChoice:
    """What the packets for a destination should say, and the reasons in words."""

    slots: tuple[Slot, ...]  # user-OADs in path order, free slots for the other ISPs and one to spare
    chosen: tuple[tuple[int, int | None], ...]  # for each AS on the path the number asked for; None: the ISP's default
    reason: str
    rejected: tuple[tuple[int, int, str], ...] = ()  # AS, alternative, why not
    way: Way = ""
    ways_rejected: tuple[tuple[Way, str], ...] = ()


_alternatives_in = lru_cache(maxsize=4096)(alternatives_in)

# --- what can be asked ------------------------------------------------------------------------------------------------


def facts_of(record: Destination, as_number: int, promises: Promises) -> IspFacts:
    """Of an ISP on a way to the destination; one that only others have seen is asked nothing."""
    isp = record.isps.get(as_number)
    if isp is None:
        return IspFacts(as_number=as_number, available=(), default=None, known=frozenset(), silent={})
    described = promises.get(as_number, {})
    offered = _alternatives_in(isp.bitmap)
    if described:
        offered = tuple(number for number in offered if number not in described or described[number].available)
    facts = isp.alternatives
    known = frozenset(number for number in offered if number in described or (number in facts and facts[number].seen))
    silent = {number: facts.silent_until_ns for number, facts in isp.alternatives.items() if facts.silent_until_ns}
    return IspFacts(as_number=as_number, available=offered, default=isp.default, known=known, silent=silent)


def candidates(record: Destination, base: WayRecord, place: Place, policy: PathPolicy) -> list[Candidate]:
    """The present way first, then its neighbours, then ways known of before; each way once."""
    isps = {slot.as_number: place.isp(record, slot.as_number) for slot in base.slots}
    present = ask_for(base.slots, isps)
    found = [Candidate(ask=present, way=base.way)]
    found += _deviations(record, base, present, isps)
    found.append(Candidate(ask=(), way=record.way_of(()) or expected_way(())))
    for known in sorted(record.ways.values(), key=lambda item: -item.seen_ns):
        if known.slots and known.way != base.way:
            others = {slot.as_number: place.isp(record, slot.as_number) for slot in known.slots}
            ask = ask_for(known.slots, others)
            if record.way_of(ask) == known.way:
                found.append(Candidate(ask=ask, way=known.way))
    merged: dict[Way, Candidate] = {}
    for candidate in found:
        if candidate.way not in merged and len(merged) < policy.max_candidates:
            merged[candidate.way] = _objected(candidate, record, place, policy)
    return list(merged.values())


def _deviations(record: Destination, base: WayRecord, present: Ask, isps: Mapping[int, IspFacts]) -> list[Candidate]:
    """One ISP is asked for something else, all others for what they are asked now."""
    found = []
    for slot in base.slots:
        isp = isps[slot.as_number]
        others = tuple(wish for wish in present if wish.as_number != slot.as_number)
        for number in isp.available:
            if number == slot.choice or number not in isp.known:
                continue
            wish = wish_for(isp, number)
            ask = others if wish is None else tuple(sorted((*others, wish)))
            way = _way_obeying(record, ask, slot.as_number, number)
            found.append(Candidate(ask=ask, way=way, as_number=slot.as_number, number=number))
        if any(number not in isp.known for number in isp.available if number != slot.choice):
            ask = tuple(sorted((*others, find_other(isp, slot.choice))))
            found.append(Candidate(ask=ask, way=expected_way(ask), as_number=slot.as_number))
    return found


def _way_obeying(record: Destination, ask: Ask, as_number: int, number: int) -> Way:
    """Where an ask leads if the ISPs do as they are asked; if they did not, that is no news of that way."""
    way = record.way_of(ask)
    if way is not None:
        slots = record.ways[way].slots
        wishes = {wish.as_number: wish for wish in ask}
        if obeys(slots, wishes) and any(slot.as_number == as_number and slot.choice == number for slot in slots):
            return way
    return expected_way(ask)


def follow(record: Destination, way: Way, place: Place) -> WayRecord:
    """Where the packets go today that ask for a way: ISPs change what is behind an alternative."""
    known = record.ways[way]
    isps = {slot.as_number: place.isp(record, slot.as_number) for slot in known.slots}
    today = record.way_of(ask_for(known.slots, isps))
    return record.ways[today] if today is not None else known


def _objected(
    candidate: Candidate,
    record: Destination,
    place: Place,
    policy: PathPolicy,
) -> Candidate:
    """With the reason why it cannot be had now, if there is one."""
    why = ""
    for wish in candidate.ask:
        isp = record.isps.get(wish.as_number)
        if isp is not None and isp.facts(wish.choice).silent_until_ns > place.now_ns:
            why = f"AS {wish.as_number} ignored {policy.ignored_limit} wishes for it"
    known = record.ways.get(candidate.way)
    slots = known.slots if known is not None else ()
    for slot in slots or candidate.ask:
        described = place.promises.get(slot.as_number, {}).get(slot.choice)
        if described is not None and not described.available:
            why = why or f"AS {slot.as_number} has withdrawn alternative {slot.choice}"
    if why:
        return replace(candidate, objection=why, may_be_probed=False)
    for slot in slots or candidate.ask:
        if slot.choice != NO_CHOICE:
            why = why or place.judge.objection(slot.as_number, slot.choice, place.now_ns, place.destination)
    return replace(candidate, objection=why) if why else candidate


def ask_for(slots: Iterable[Slot], isps: Mapping[int, IspFacts]) -> Ask:
    """What has to be asked for packets to go a way that was seen."""
    wishes = (wish_for(isps[slot.as_number], slot.choice) for slot in slots if slot.as_number in isps)
    return tuple(sorted(wish for wish in wishes if wish is not None))


def utterable(ask: Ask, isps: Mapping[int, IspFacts], now_ns: int) -> Ask:
    """Without what its ISP does not have any more, or does not listen to."""
    return tuple(
        wish
        for wish in ask
        if (isp := isps.get(wish.as_number)) is None
        or ((wish.choice == NO_CHOICE or wish.choice in isp.available) and isp.silent.get(wish.choice, 0) <= now_ns)
    )


def wish_for(isp: IspFacts, number: int) -> Slot | None:
    """Asks for an alternative by its number; asks nothing for what the ISP does anyway, or has no choice about."""
    does_anyway = number == isp.default or (isp.default is None and isp.available in ((), (number,)))
    return None if does_anyway else user_oad(isp.as_number, choice=number)


def find_other(isp: IspFacts, present: int) -> Slot:
    """Asks for none of the known alternatives, so that the ISP shows one that we do not know."""
    return user_oad(isp.as_number, undesirable={*isp.known, present})


def slots_for(path: Iterable[int], ask: Ask, policy: PathPolicy) -> tuple[Slot, ...]:
    """A slot for each AS on the path, its user-OAD or free, and a spare one, which shows when a path is longer."""
    numbers = tuple(path)
    if not numbers:
        return (FREE_SLOT,) * policy.first_slots
    wishes = {wish.as_number: wish for wish in ask}
    beyond = [wish for wish in ask if wish.as_number not in numbers]
    return (*(wishes.get(number, FREE_SLOT) for number in numbers), *beyond, FREE_SLOT)[:MAX_OADS]


# --- what is believed -------------------------------------------------------------------------------------------------


def beliefs_of(
    found: Iterable[Candidate],
    record: Destination,
    base: WayRecord,
    place: Place,
    wants: Wants,
    *,
    probe_picodollars: int | None,
) -> list[Belief]:
    """One for each candidate. Empty: the class wants nothing that ways can differ in."""
    beliefs = []
    usual = _usual(record, base, place.now_ns)
    for candidate in found:
        known = record.ways.get(candidate.way)
        statistics = known.statistics if known is not None else WayStatistics()
        statistics = _expected(statistics, candidate, base, place, usual)
        belief = belief_of(
            candidate.way,
            statistics,
            wants,
            now_ns=place.now_ns,
            probe_picodollars=probe_picodollars,
            objection=candidate.objection,
        )
        if belief is not None:
            beliefs.append(belief)
    return beliefs


def _usual(record: Destination, base: WayRecord, now_ns: int) -> dict[Quantity, float]:
    """What is measured of the present way. What answers cost has to do with who sends them: any way tells."""
    usual = {}
    for quantity in _COMPARED:
        moments = base.statistics.moments(quantity, now_ns)
        if moments is None and quantity is Quantity.RETURN_TOLL_PICODOLLARS:
            every = (item.statistics.moments(quantity, now_ns) for item in record.ways.values())
            moments = max(filter(None, every), key=lambda item: item[4] or 0, default=None)
        if moments is not None:
            usual[quantity] = moments[0]
    return usual


def _expected(
    measured: WayStatistics, candidate: Candidate, base: WayRecord, place: Place, usual: Mapping[Quantity, float]
) -> WayStatistics:
    """With what a way is like of which something was not measured: as promised, else as the present one.

    Of a way of which nothing at all is known nothing is assumed: it is to be found out. What is assumed is not kept, so
    that it never mixes with what is measured later.
    """
    lacking, there = [], {}
    is_known = measured.moments(Quantity.LOSS_PPM, place.now_ns) is not None
    for quantity in _COMPARED:
        if measured.moments(quantity, place.now_ns) is not None:
            is_known = True
        elif quantity in usual:
            lacking.append(quantity)
            there[quantity] = usual[quantity]
    differences = _promised(candidate, base, place) if lacking else {}
    if not lacking or not (differences or is_known):
        return measured
    statistics = WayStatistics.recall(measured.remembered())
    for quantity in lacking:
        value = there[quantity]
        if quantity in differences:
            statistics.on_promise(quantity, max(0.0, value + differences[quantity]))
        else:
            guess = Estimate(
                value=round(value),
                uncertainty=round(value / 4),
                spread=round(value / 4),
                samples=_ASSUMED_SAMPLES,
                measured_ns=None,
            )
            statistics.on_prior(quantity, guess)
    return statistics


def _promised(candidate: Candidate, base: WayRecord, place: Place) -> dict[Quantity, float]:
    """How much less or more than the present way, by the description of the ISP where it deviates."""
    if candidate.as_number is None or candidate.number == ANY_OTHER:
        return {}
    described = place.promises.get(candidate.as_number, {})
    here = next((slot.choice for slot in base.slots if slot.as_number == candidate.as_number), ANY_OTHER)
    one, other = described.get(here), described.get(candidate.number)
    if one is None or other is None or not place.judge.believes(candidate.as_number, place.now_ns, place.destination):
        return {}
    found: dict[Quantity, float] = {}
    if one.toll_nanodollars is not None and other.toll_nanodollars is not None:
        found[Quantity.FORWARD_TOLL_PICODOLLARS] = PICODOLLARS * (other.toll_nanodollars - one.toll_nanodollars)
    if one.delay_ns is not None and other.delay_ns is not None:
        found[Quantity.DELAY_NS] = other.delay_ns - one.delay_ns
    return found


# --- words ------------------------------------------------------------------------------------------------------------


def deviation(slots: Iterable[Slot], other: Iterable[Slot]) -> tuple[int, int] | None:
    """The first ISP that takes another alternative on the other way, and which; None: none does."""
    theirs = {slot.as_number: slot.choice for slot in other}
    for slot in slots:
        number = theirs.get(slot.as_number, slot.choice)
        if number != slot.choice:
            return slot.as_number, number
    return None


def asked_text(slots: Iterable[Slot], path: Iterable[int], record: Destination) -> str:
    """ "AS 64512: 2 as asked for; AS 64513: 1 by default"."""
    wishes = {slot.as_number: slot for slot in slots if slot.as_number}
    lines = []
    for as_number in path:
        wish = wishes.get(as_number)
        isp = record.isps.get(as_number)
        if wish is None:
            default = None if isp is None else isp.present if isp.default is None else isp.default
            lines.append(f"AS {as_number}: {'its default' if default is None else f'{default} by default'}")
        elif wish.choice != NO_CHOICE:
            lines.append(f"AS {as_number}: {wish.choice} as asked for")
        else:
            others = ", ".join(map(str, alternatives_in(wish.alternatives)))
            lines.append(f"AS {as_number}: any other than {others}, as asked for")
    return "; ".join(lines)
