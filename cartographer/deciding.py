"""One destination and one class of flows: its chooser, its split, and the choice that each flow gets.

Decides when it is time to deliberate (something new is known, or a round trip has passed), and what a flow writes that
falls to a way: the user-OADs for it, without those that nobody would follow.  Refuses to know how beliefs are weighed
(chooser) and how fast traffic moves (split).  The first decision takes all of the traffic: nothing is there yet that
could swing.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from billpay.header import Slot
from cartographer.choice import (
    Candidate,
    PathChoice,
    Place,
    ask_for,
    asked_text,
    beliefs_of,
    candidates,
    deviation,
    follow,
    slots_for,
    utterable,
)
from cartographer.chooser import Chooser, ChooserTerms
from cartographer.map import ONLY_WAY, Ask, Destination, WayRecord, obeys
from cartographer.policy import PathPolicy
from cartographer.split import Moved, Split, SplitTerms
from cartographer.values import Belief, Deliberation, Wants, Way

_OFTEN = 4  # deliberations in a round trip, at most
_LEAST_NS = 1_000_000
_MOST_EXPECTED = 32
_NOTHING = "nothing is known of the path yet"


class Deciding:
    """Kept as long as its destination is."""

    __slots__ = (
        "_base",
        "_choices",
        "_chooser",
        "_decided_ns",
        "_expected",
        "_is_moving",
        "_seen_shape",
        "_seen_version",
        "beliefs",
        "candidates",
        "deliberation",
        "moved",
        "split",
        "wanted",
        "wants",
    )

    def __init__(self, wants: Wants, terms: ChooserTerms | None) -> None:
        self.wants = wants
        self._chooser = Chooser(terms)
        self.split: Split | None = None
        self.candidates: dict[Way, Candidate] = {}
        self.beliefs: tuple[Belief, ...] = ()
        self.deliberation: Deliberation | None = None
        self.moved: Moved | None = None  # the last move
        self.wanted: set[Way] = set()  # what the chooser would like to have probed, and was not
        self._base: Way = ONLY_WAY
        self._decided_ns: int | None = None
        self._seen_version = (-1, -1)
        self._seen_shape = -1
        self._expected: dict[Way, Ask] = {}
        self._choices: dict[Way, PathChoice] = {}
        self._is_moving = False

    @property
    def next_move_ns(self) -> int | None:
        """When the next part of what is being moved is due; None: nothing is."""
        return self.split.due_ns if self._is_moving and self.split is not None else None

    # --- deciding ----------------------------------------------------------------------------------------------------

    def is_due(self, record: Destination, topology_version: int, round_trip_ns: int, now_ns: int) -> bool:
        if self._decided_ns is None:
            return True
        waited_ns = now_ns - self._decided_ns
        if waited_ns >= round_trip_ns or not self.candidates or self._seen_shape != record.shape:
            return True
        is_news = self._seen_version != (record.version, topology_version)
        return is_news and waited_ns >= max(_LEAST_NS, round_trip_ns // _OFTEN)

    def decide(
        self,
        record: Destination,
        place: Place,
        policy: PathPolicy,
        *,
        topology_version: int,
        round_trip_ns: int,
        probe_picodollars: int | None,
        split_terms: SplitTerms,
        draw: Callable[[], float],
    ) -> None:
        self._decided_ns = place.now_ns
        self._seen_version = (record.version, topology_version)
        self._seen_shape = record.shape
        self._choices.clear()
        base = self._base_of(record, place)
        if base is None:
            self.candidates, self.beliefs = {}, ()
            return
        self._base = base.way
        found = candidates(record, base, place, policy)
        self.candidates = {candidate.way: candidate for candidate in found}
        self._keep_expected(record)
        beliefs = beliefs_of(found, record, base, place, self.wants, probe_picodollars=probe_picodollars)
        self.beliefs = tuple(beliefs)
        if not beliefs:
            return
        deliberation = self.deliberation = self._chooser.deliberate(beliefs, now_ns=place.now_ns)
        looked_at = {deliberation.way} if deliberation.explores and self.minds_delay else set()  # packets show none
        self.wanted = (self.wanted | set(deliberation.probes) | looked_at) & self.candidates.keys()
        if self.split is None:
            first = deliberation.way if not deliberation.explores else self._chooser.current
            self.split = Split(split_terms, first if first is not None else base.way)
        was_due = place.now_ns >= self.split.due_ns
        moved = self.split.move(deliberation, beliefs, now_ns=place.now_ns, round_trip_ns=round_trip_ns, draw=draw)
        if moved is not None:
            self.moved = moved
        if was_due:
            self._is_moving = moved is not None and len(self.split.shares_ppm) > 1

    def _keep_expected(self, record: Destination) -> None:
        """What the ways that were not seen yet ask for; some still have a share when they have been seen."""
        new = {
            way: item.ask
            for way, item in self.candidates.items()
            if (known := record.ways.get(way)) is None or known.is_expected
        }
        if len(self._expected) > _MOST_EXPECTED and self.split is not None:
            shares = self.split.shares_ppm
            self._expected = {way: ask for way, ask in self._expected.items() if way in shares}
        if new:
            self._expected = {**self._expected, **new}

    def _base_of(self, record: Destination, place: Place) -> WayRecord | None:
        """The way whose neighbours are looked at: where the traffic mostly is, as far as that was seen."""
        for way in (self._chooser.current, self._base, record.way_of(())):
            real = self.resolved(way, record) if way is not None else None
            if real is not None:
                return follow(record, real, place)
        seen = [item for item in record.ways.values() if not item.is_expected]
        return max(seen, key=lambda item: item.seen_ns, default=None)

    def resolved(self, way: Way, record: Destination) -> Way | None:
        """The way as it was seen; None: nobody has seen it."""
        known = record.ways.get(way)
        if known is not None and not known.is_expected:
            return way
        ask = self._expected.get(way)
        return None if ask is None else resolved_ask(ask, record)

    @property
    def minds_delay(self) -> bool:
        return bool(self.wants.delay_nanodollars_per_ms or self.wants.jitter_nanodollars_per_ms)

    def main_way(self, record: Destination) -> Way | None:
        """That of most of the traffic."""
        if self.split is None:
            return None
        shares = self.split.shares_ppm
        way = max(shares, key=lambda way: shares[way])
        return self.resolved(way, record) or way

    # --- answering ---------------------------------------------------------------------------------------------------

    def way_for(self, flow_number: int) -> Way:
        return self.split.way_of(flow_number) if self.split is not None else self._base

    def made(self, way: Way) -> PathChoice | None:
        """The choice for a way, if it was made since the last deliberation."""
        return self._choices.get(way)

    def choice_for(
        self, way: Way, ask: Ask | None, record: Destination, place: Place, policy: PathPolicy
    ) -> PathChoice:
        """What a flow writes that is to go a way; `ask`: how to find it, where that is not known here any more."""
        choice = self._choices.get(way)
        if choice is None:
            choice = self._choices[way] = self._made(way, ask, record, place, policy)
        return choice

    def _made(self, way: Way, ask: Ask | None, record: Destination, place: Place, policy: PathPolicy) -> PathChoice:
        known = record.ways.get(way)
        if known is None or not known.slots:
            ask = self._expected.get(way, ask)
            real = resolved_ask(ask, record) if ask is not None else None
            known = record.ways.get(real) if real is not None else None
        if known is not None and known.slots:
            path = tuple(slot.as_number for slot in known.slots)
            isps = {number: place.isp(record, number) for number in path}
            ask = ask_for(known.slots, isps)
        else:
            base = record.ways.get(self._base)
            path = tuple(slot.as_number for slot in base.slots) if base is not None else record.path
            isps = {number: place.isp(record, number) for number in path if number in record.isps}
            ask = ask or ()
        slots = slots_for(path, utterable(ask, isps, place.now_ns), policy)
        wishes = {slot.as_number: slot.choice for slot in slots if slot.as_number}
        name = known.way if known is not None else way
        why = self.deliberation.rejected if self.deliberation is not None else ()
        return PathChoice(
            slots=slots,
            chosen=tuple((number, wishes.get(number) or None) for number in path),
            reason=self._reason(way, slots, path, record),
            rejected=self.rejected(name, record, why),
            way=name,
            ways_rejected=why,
        )

    def _reason(self, way: Way, slots: tuple[Slot, ...], path: tuple[int, ...], record: Destination) -> str:
        if not path:
            return _NOTHING if self.deliberation is None else self.deliberation.reason
        parts = [asked_text(slots, path, record)]
        for candidate in self.candidates.values():
            if candidate.objection and not candidate.may_be_probed and candidate.as_number is not None:
                parts.append(candidate.objection)
                break
        if self.deliberation is not None:
            target = self.deliberation.way
            parts.append(self.deliberation.reason if way == target else f"the rest moves to {target or 'the only way'}")
        return "; ".join(parts)

    def reason_for(self, way: Way, record: Destination, place: Place, policy: PathPolicy) -> str:
        """Why the traffic goes a way, in the words of its choice."""
        choice = self._choices.get(way)
        return choice.reason if choice is not None else self._made(way, None, record, place, policy).reason

    def rejected(
        self, way: Way, record: Destination, why: Iterable[tuple[Way, str]]
    ) -> tuple[tuple[int, int, str], ...]:
        """Of the alternatives at which other ways deviate from one; 0 stands for any that nobody has seen."""
        here = self._slots(way, record)
        found: dict[tuple[int, int], str] = {}
        for other, reason in why:
            place = deviation(here, self._slots(other, record)) if other != way else None
            if place is not None:
                found.setdefault(place, reason)
        return tuple((as_number, number, reason) for (as_number, number), reason in found.items())

    def _slots(self, way: Way, record: Destination) -> tuple[Slot, ...]:
        """Of a way; of one that nobody has seen: the present one's but for where it deviates."""
        known, candidate = record.ways.get(way), self.candidates.get(way)
        if known is not None and known.slots:
            return known.slots
        base = record.ways.get(self._base)
        if base is None or candidate is None:
            return ()
        return tuple(
            slot._replace(choice=candidate.number) if slot.as_number == candidate.as_number else slot
            for slot in base.slots
        )


def resolved_ask(ask: Ask, record: Destination) -> Way | None:
    """Where an ask leads, if that was seen and the ISPs did as they were asked."""
    way = record.way_of(ask)
    if way is None or not obeys(record.ways[way].slots, {wish.as_number: wish for wish in ask}):
        return None
    return way
