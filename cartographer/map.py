"""What is known of the paths to each destination: alternatives, what they cost, how quick they are, who ignores wishes.

Decides what an observation or a description proves; refuses to know what follows from it (choice, probing), who
signed it (the daemon verifies first) and what time it is.  All sizes are bounded: an ISP can write any AS number.

A measurement is one of a whole path.  It is credited to an ISP's alternative only when all other ISPs were asked what
the traffic asks them; so two alternatives of one ISP are compared with all else equal.  When the traffic moves at one
ISP, what was measured of the others' alternatives is forgotten.  Source: Bill-Pay 2.2.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from billpay.header import ISP_WRITTEN, MAX_ALTERNATIVE, MAX_AS_NUMBER, MAX_OADS, NO_CHOICE, Slot, alternatives_in
from billpay.messages import OadAlternative, OadDescription
from cartographer.policy import PathPolicy

MAX_ISPS = 16  # for each destination; the longest unseen goes first
ANY_OTHER = 0  # stands for a wish that names no alternative: "any but these"
_S = 1_000_000_000


class Measured(NamedTuple):
    """A number and when it was true."""

    value: int
    at_ns: int


class Times(NamedTuple):
    """Of one destination: the last switch, the last probe, the last probe of the path as it is."""

    switched_ns: int | None = None
    probed_ns: int | None = None
    path_asked_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeFacts:
    """One alternative of one ISP towards one destination. Toll and round trip are those of the whole path with it."""

    number: int
    toll_nanodollars: Measured | None = None
    round_trip_ns: Measured | None = None
    promise: OadAlternative | None = None  # by the ISP's description: its own part of toll and delay
    seen: bool = False  # something was seen to take it
    asked_ns: int | None = None  # the last probe for it
    ignored: int = 0  # wishes in a row that the ISP did not follow
    silent_until_ns: int = 0  # not asked for before then: wishes were ignored
    avoid_until_ns: int = 0  # not taken before then: a transfer left it as too slow

    @property
    def known(self) -> bool:
        """Whether it can be asked for by its number with some idea of what that means."""
        return self.seen or self.promise is not None

    def measured_ns(self) -> int | None:
        """When the newest of its numbers was true."""
        times = [fact.at_ns for fact in (self.toll_nanodollars, self.round_trip_ns) if fact is not None]
        return max(times, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IspFacts:
    """One ISP on the way to one destination, as choice and probing see it."""

    as_number: int
    available: tuple[int, ...]
    present: int  # what the traffic takes, or did when last seen
    default: int | None  # what it took when nothing was asked of this ISP
    wish: Slot | None  # what the traffic asks for now
    alternatives: dict[int, AlternativeFacts]  # of the available ones
    any_other: AlternativeFacts  # how wishes without a number went

    @property
    def current(self) -> int:
        """What we count on: the alternative asked for, else the ISP's default, else what was taken last."""
        if self.wish is None:
            return self.present if self.default is None else self.default
        return self.present if self.wish.choice == NO_CHOICE else self.wish.choice


@dataclass(slots=True)
class _Isp:
    """What is kept of one ISP for one destination."""

    bitmap: int
    present: int
    seen_ns: int
    default: int | None = None
    alternatives: dict[int, AlternativeFacts] = field(default_factory=dict)

    def facts(self, number: int) -> AlternativeFacts:
        return self.alternatives.get(number) or AlternativeFacts(number=number)


@dataclass(slots=True)
class _Destination:
    path: tuple[int, ...] = ()  # AS numbers in the order of the slots, when last seen
    isps: dict[int, _Isp] = field(default_factory=dict)
    wishes: dict[int, Slot] = field(default_factory=dict)
    wishes_since_ns: int | None = None  # the last switch
    active_ns: int = 0
    probed_ns: int | None = None
    path_asked_ns: int | None = None  # the last probe that asked for nothing else than the traffic does


class _Description(NamedTuple):
    prefix: IPv4Network | IPv6Network
    message: OadDescription
    expires_ns: int


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


class PathMap:
    """The memory of the cartographer; one for each host."""

    def __init__(self, policy: PathPolicy) -> None:
        self._policy = policy
        self._destinations: dict[str, _Destination] = {}  # the least recently used first
        self._descriptions: dict[tuple[int, str], _Description] = {}

    # --- what it is told ---------------------------------------------------------------------------------------------

    def on_description(self, description: OadDescription, *, now_unix_s: int, now_ns: int) -> bool:
        """Keeps a verified description; False for an old, expired or unreadable one, or another issuer's.

        Whoever described an AS first stays its describer until that expires: a second one is a mistake or an attack.
        """
        self._drop_expired(now_ns)
        try:
            prefix = ip_network(description.prefix)
        except ValueError:
            return False
        left_s = description.expires_unix_s - now_unix_s
        if left_s <= 0:
            return False
        key = (description.as_number, str(prefix))
        held = self._descriptions.get(key)
        if held is not None:
            older = description.serial <= held.message.serial
            if older or description.issuer != held.message.issuer:
                return False
        elif len(self._descriptions) >= self._policy.max_descriptions:
            return False
        self._descriptions[key] = _Description(prefix, description, now_ns + left_s * _S)
        return True

    def touch(self, destination: str, now_ns: int) -> None:
        """The destination is in use."""
        self._open(destination).active_ns = now_ns

    def on_traffic(
        self, destination: str, oads: Iterable[tuple[int, int, int]], toll_nanodollars: int | None, now_ns: int
    ) -> None:
        """What packets of the traffic met on their way."""
        slots = read_isp_oads(oads)
        if not slots or (toll_nanodollars is not None and toll_nanodollars < 0):
            return
        record = self._open(destination)
        record.active_ns = now_ns
        self._see_path(record, slots, now_ns)
        settled = record.wishes_since_ns is None or now_ns - record.wishes_since_ns >= self._policy.settle_ns
        if settled:  # else the packets may have left with earlier wishes
            self._learn_answers(record, record.wishes, slots, now_ns)
        self._credit(record, slots, frozenset(), toll_nanodollars, None, now_ns)

    def on_probe_reply(
        self,
        destination: str,
        asked: Sequence[Slot],
        oads: Iterable[tuple[int, int, int]],
        *,
        toll_nanodollars: int | None,
        round_trip_ns: int | None,
        now_ns: int,
    ) -> None:
        """What a probe met that left with the slots `asked`. Replies from where nothing was asked are ignored."""
        slots = read_isp_oads(oads)
        record = self._destinations.get(destination)
        nonsense = any(value is not None and value < 0 for value in (toll_nanodollars, round_trip_ns))
        if record is None or not slots or nonsense:
            return
        wishes = {slot.as_number: slot for slot in asked if slot.as_number and not slot.alternatives & ISP_WRITTEN}
        both = wishes.keys() | record.wishes.keys()
        asked_other = frozenset(number for number in both if wishes.get(number) != record.wishes.get(number))
        if asked_other:
            self._see_isps(record, slots, now_ns)
        else:
            self._see_path(record, slots, now_ns)
        self._learn_answers(record, wishes, slots, now_ns)
        self._credit(record, slots, asked_other, toll_nanodollars, round_trip_ns, now_ns)

    def note_probe(self, destination: str, as_number: int | None, number: int, now_ns: int) -> None:
        """A probe left: for an alternative of an ISP, or (`as_number` None) for the path as it is."""
        record = self._open(destination)
        record.probed_ns = now_ns
        if as_number is None:
            record.path_asked_ns = now_ns
        elif as_number in record.isps:
            isp = record.isps[as_number]
            isp.alternatives[number] = replace(isp.facts(number), asked_ns=now_ns)

    def set_wishes(self, destination: str, wishes: dict[int, Slot], now_ns: int) -> None:
        """What the traffic asks for from now on."""
        record = self._open(destination)
        if wishes != record.wishes:
            record.wishes = dict(wishes)
            record.wishes_since_ns = now_ns

    def avoid(self, destination: str, as_number: int, number: int, until_ns: int) -> None:
        """An alternative is not to be taken for a while."""
        record = self._destinations.get(destination)
        if record is not None and as_number in record.isps:
            isp = record.isps[as_number]
            isp.alternatives[number] = replace(isp.facts(number), avoid_until_ns=until_ns)

    # --- what it knows -----------------------------------------------------------------------------------------------

    def destinations(self) -> tuple[str, ...]:
        return tuple(self._destinations)

    def is_active(self, destination: str, now_ns: int) -> bool:
        record = self._destinations.get(destination)
        return record is not None and now_ns - record.active_ns <= self._policy.active_ns

    def times(self, destination: str) -> Times:
        """When things last happened; all None for a destination that is not known."""
        record = self._destinations.get(destination)
        if record is None:
            return Times()
        return Times(record.wishes_since_ns, record.probed_ns, record.path_asked_ns)

    def path(self, destination: str, now_ns: int) -> tuple[IspFacts, ...]:
        """The ISPs on the way, in the order of their slots; empty if nothing was seen yet."""
        record = self._destinations.get(destination)
        if record is None:
            return ()
        return tuple(self._isp_facts(destination, record, number, now_ns) for number in record.path)

    # --- how it learns -----------------------------------------------------------------------------------------------

    def _open(self, destination: str) -> _Destination:
        record = self._destinations.pop(destination, None) or _Destination()
        while len(self._destinations) >= self._policy.max_destinations:
            del self._destinations[next(iter(self._destinations))]
        self._destinations[destination] = record
        return record

    def _see_isps(self, record: _Destination, slots: tuple[Slot, ...], now_ns: int) -> None:
        """Who is there and what each offers."""
        for slot in slots:
            isp = record.isps.get(slot.as_number)
            if isp is None:
                isp = record.isps[slot.as_number] = _Isp(slot.alternatives, slot.choice, now_ns)
            isp.bitmap, isp.seen_ns = slot.alternatives, now_ns
            isp.alternatives = {
                number: facts
                for number, facts in isp.alternatives.items()
                if number == ANY_OTHER or isp.bitmap >> (number - 1) & 1
            }
        in_use = {*record.path, *(slot.as_number for slot in slots)}  # at most 14
        while len(record.isps) > MAX_ISPS:
            _, oldest = min((isp.seen_ns, number) for number, isp in record.isps.items() if number not in in_use)
            del record.isps[oldest]

    def _see_path(self, record: _Destination, slots: tuple[Slot, ...], now_ns: int) -> None:
        """Where the traffic goes now."""
        record.path = tuple(slot.as_number for slot in slots)
        self._see_isps(record, slots, now_ns)
        moved = [slot.as_number for slot in slots if record.isps[slot.as_number].present != slot.choice]
        for slot in slots:
            record.isps[slot.as_number].present = slot.choice
        for number, isp in record.isps.items():
            if moved and number != moved[0]:  # the first one moved the traffic; what follows behind it follows from it
                _forget_measurements(isp)

    def _learn_answers(
        self, record: _Destination, wishes: dict[int, Slot], slots: tuple[Slot, ...], now_ns: int
    ) -> None:
        """What each ISP does when nothing is asked of it; and counts wishes that it could have followed and did not."""
        for slot in slots:
            wish = wishes.get(slot.as_number)
            isp = record.isps[slot.as_number]
            if wish is None:
                isp.default = slot.choice
                continue
            facts = isp.facts(wish.choice)  # NO_CHOICE is ANY_OTHER
            if _follows(slot, wish):
                isp.alternatives[facts.number] = replace(facts, ignored=0)
            elif _could_follow(slot, wish):
                ignored = facts.ignored + 1
                silent = facts.silent_until_ns
                if ignored >= self._policy.ignored_limit:
                    ignored, silent = 0, now_ns + self._policy.ignored_silence_ns
                isp.alternatives[facts.number] = replace(facts, ignored=ignored, silent_until_ns=silent)

    def _credit(
        self,
        record: _Destination,
        slots: tuple[Slot, ...],
        asked_other: frozenset[int],
        toll_nanodollars: int | None,
        round_trip_ns: int | None,
        now_ns: int,
    ) -> None:
        """Enters the path's numbers for each ISP's alternative that was measured with all else as usual.

        `asked_other`: the ISPs of which something else was asked than the traffic does.
        """
        for slot in slots:
            isp = record.isps[slot.as_number]
            facts = isp.facts(slot.choice)
            if not facts.seen:
                facts = replace(facts, seen=True)
                any_other = isp.facts(ANY_OTHER)
                isp.alternatives[ANY_OTHER] = replace(any_other, asked_ns=None)  # something was learned: ask on
            if asked_other <= {slot.as_number}:
                if toll_nanodollars is not None:
                    facts = replace(facts, toll_nanodollars=Measured(toll_nanodollars, now_ns))
                if round_trip_ns is not None:
                    facts = replace(facts, round_trip_ns=self._smooth(facts.round_trip_ns, round_trip_ns, now_ns))
            isp.alternatives[slot.choice] = facts

    def _smooth(self, before: Measured | None, sample: int, now_ns: int) -> Measured:
        """A quarter of the new sample: there are few of them, and old ones are worth nothing."""
        if before is None or now_ns - before.at_ns > self._policy.max_age_ns:
            return Measured(sample, now_ns)
        return Measured((3 * before.value + sample) // 4, now_ns)

    # --- how it answers ----------------------------------------------------------------------------------------------

    def _drop_expired(self, now_ns: int) -> None:
        expired = [key for key, held in self._descriptions.items() if held.expires_ns <= now_ns]
        for key in expired:
            del self._descriptions[key]

    def _promises(self, destination: str, as_number: int, now_ns: int) -> dict[int, OadAlternative]:
        """What the ISP's description with the longest matching prefix says."""
        try:
            address = ip_address(destination)
        except ValueError:
            return {}
        self._drop_expired(now_ns)
        matching = [
            held
            for (describer, _), held in self._descriptions.items()
            if describer == as_number and address.version == held.prefix.version and address in held.prefix
        ]
        if not matching:
            return {}
        best = max(matching, key=lambda held: held.prefix.prefixlen)
        return {item.number: item for item in best.message.alternatives}

    def _isp_facts(self, destination: str, record: _Destination, as_number: int, now_ns: int) -> IspFacts:
        isp = record.isps[as_number]
        promises = self._promises(destination, as_number, now_ns)
        available = tuple(
            number for number in alternatives_in(isp.bitmap) if number not in promises or promises[number].available
        )
        return IspFacts(
            as_number=as_number,
            available=available,
            present=isp.present,
            default=isp.default,
            wish=record.wishes.get(as_number),
            alternatives={number: replace(isp.facts(number), promise=promises.get(number)) for number in available},
            any_other=isp.facts(ANY_OTHER),
        )


def _forget_measurements(isp: _Isp) -> None:
    """What was measured while the traffic went another way."""
    isp.alternatives = {
        number: replace(facts, toll_nanodollars=None, round_trip_ns=None, asked_ns=None)
        for number, facts in isp.alternatives.items()
    }


def _follows(slot: Slot, wish: Slot) -> bool:
    if wish.choice != NO_CHOICE:
        return slot.choice == wish.choice
    return not wish.alternatives >> (slot.choice - 1) & 1


def _could_follow(slot: Slot, wish: Slot) -> bool:
    """Whether the ISP says that it has what was asked for."""
    if wish.choice != NO_CHOICE:
        return bool(slot.alternatives >> (wish.choice - 1) & 1)
    return bool(slot.alternatives & (ISP_WRITTEN - 1) & ~wish.alternatives)
