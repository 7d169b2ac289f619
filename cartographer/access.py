"""By which of several accesses to the Internet new flows should go, and why not by the others.

Decides: the cheapest usable access by the same reckoning as paths (`costing`, `chooser`), with hysteresis, a dwell time
and enough certainty; that a person's word goes first as long as its access is usable; that a dead access is left at
once; that the system's own choice is where it begins, and what holds when no access is usable. Refuses to know: who
measured, who sells, and how the kernel is told (`dataplane.access_routes`). Source: BP-19, BP-60 (competition between
access ISPs); the loss function of C.9.  Pure.

All traffic of a host moves or none: a look at another access by sending traffic there is too dear, so the chooser's
explorations are not followed. Whoever measures asks all accesses about the same destinations instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from cartographer.chooser import Chooser, ChooserTerms, in_nanodollars
from cartographer.costing import belief_of
from cartographer.statistics import WayStatistics
from cartographer.values import Belief, Estimate, Quantity, Wants

PPM: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
FULL_PACKET_BYTES: Final = 1500

_LITTLE: Final = "what another one saves is not worth a change"

SYSTEM, AGENT, PERSON = "system", "agent", "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTerms:
    """How eager it is to change."""

    hysteresis_ppm: int = 100_000  # of the cost: less is not worth a change of the ISP
    sure: float = 2.0  # standard errors that the saving must be above nothing
    dwell_ns: int = 60 * NS_PER_S  # between two changes for money; a dead access is left sooner


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFacts:
    """One access now. `price_picodollars`: of a packet of FULL_PACKET_BYTES. `unusable`: why, "" if it is usable.

    `last_resort`: why it is taken only where no other is usable, "" if it is as good as others.
    """

    interface: str
    statistics: WayStatistics
    price_picodollars: int = 0
    unusable: str = ""
    last_resort: str = ""

    def estimates(self, now_ns: int) -> Mapping[Quantity, Estimate]:
        """What is known of it."""
        found = {quantity: self.statistics.estimate(quantity, now_ns) for quantity in Quantity}
        return {quantity: estimate for quantity, estimate in found.items() if estimate is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessVerdict:
    """Of one access: what a packet costs by it (None: not known), and why it is taken, or why not."""

    interface: str
    cost_picodollars: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDecision:
    """`interface` "": nobody has anything better than what the system does by itself."""

    interface: str
    chosen_by: str = SYSTEM
    reason: str = ""
    verdicts: tuple[AccessVerdict, ...] = ()

    def of(self, interface: str) -> AccessVerdict | None:
        return next((each for each in self.verdicts if each.interface == interface), None)


@dataclass(slots=True)
class _State:
    """What is kept between two decisions."""

    system: str = ""
    takes_system: bool = False  # the system chose anew: that is tried first, as soon as it can be compared
    changed_ns: int | None = None
    went: str = ""  # by which access the last decision sent the flows


class AccessChooser:
    """For one host and one class of flows. `word`: the interface that a person wants, "" for none."""

    def __init__(self, wants: Wants, terms: AccessTerms | None = None) -> None:
        self.wants = wants
        self.word = ""
        self._terms = terms or AccessTerms()
        self._chooser = Chooser(ChooserTerms(hysteresis_ppm=self._terms.hysteresis_ppm))
        self._state = _State()

    @property
    def current(self) -> str:
        """Where the agent itself would go."""
        return self._chooser.current or ""

    def say(self, interface: str) -> None:
        """A person's word; "" takes it back."""
        self.word = interface

    def decide(self, accesses: Sequence[AccessFacts], *, system: str, now_ns: int) -> AccessDecision:
        """`system`: by which one the packets go when nobody does anything, "" if by none."""
        if not accesses:
            self._chooser.current = None
            return AccessDecision(interface="", reason="there is no access")
        wants = comparable(self.wants, accesses, now_ns)
        beliefs = [belief for each in accesses if (belief := believed(each, wants, now_ns)) is not None]
        spare = {each.interface for each in accesses if each.last_resort}
        by_agent, why = self._cheapest(beliefs, spare, system=system, now_ns=now_ns)
        word = next((each for each in accesses if each.interface == self.word), None)
        if word is not None and not word.unusable:
            chosen, by, why = word.interface, PERSON, "a person said so"
        else:
            chosen, by = by_agent, AGENT if by_agent and by_agent != system else SYSTEM
            if self.word:
                gone = word.unusable if word is not None else "it is not there"
                why = f"a person wants {self.word}, but {gone}; {why}"
        verdicts = tuple(
            _verdict(each, beliefs, chosen=chosen, why=why, wants=wants, now_ns=now_ns) for each in accesses
        )
        return AccessDecision(interface=chosen, chosen_by=by, reason=why, verdicts=verdicts)

    def _cheapest(
        self, beliefs: Sequence[Belief], spare: Collection[str], *, system: str, now_ns: int
    ) -> tuple[str, str]:
        """The agent's own choice, and why."""
        usable = [belief for belief in beliefs if not belief.objection]
        usable = [belief for belief in usable if belief.way not in spare] or usable
        if not usable:
            self._chooser.current = None
            return "", "no access is usable" if beliefs else f"{self.wants.name} wants nothing that accesses differ in"
        self._begin_with(system, beliefs)
        held = self._chooser.current
        stays = next((belief for belief in usable if belief.way == held and belief.samples > 0.0), None)
        if all(belief.samples <= 0.0 for belief in usable):
            return self._unmeasured(usable, system, now_ns)
        if len(usable) == 1:
            chosen, why = usable[0].way, "the only usable access"
        else:
            deliberation = self._chooser.deliberate(usable, now_ns=now_ns)
            chosen = self._chooser.current or usable[0].way
            why = deliberation.reason if not deliberation.explores else _LITTLE
        if stays is not None and chosen != held:
            why_not = self._why_not(stays, next(each for each in usable if each.way == chosen), now_ns)
            if why_not:
                self._chooser.current = held
                return stays.way, why_not
        self._go(chosen, now_ns)
        return chosen, why

    def _begin_with(self, system: str, beliefs: Sequence[Belief]) -> None:
        """What the system prefers is where a comparison begins, and so it wins where nothing is to be saved."""
        state = self._state
        if system != state.system:
            state.system, state.takes_system = system, bool(system)
        if self._chooser.current is None and system:
            self._chooser.current = system
        known = any(belief.way == system and belief.samples > 0.0 and not belief.objection for belief in beliefs)
        if state.takes_system and known:
            state.takes_system = False
            if self._chooser.current != system:
                self._chooser.current, state.changed_ns = system, None

    def _unmeasured(self, usable: Sequence[Belief], system: str, now_ns: int) -> tuple[str, str]:
        ways = [belief.way for belief in usable]
        chosen = next((way for way in (self._chooser.current, system, ways[0]) if way in ways), ways[0])
        self._go(chosen, now_ns)
        return chosen, "nothing is known of any access yet" if len(ways) > 1 else "the only one that is usable"

    def _why_not(self, stays: Belief, better: Belief, now_ns: int) -> str:
        saved = stays.cost_picodollars - better.cost_picodollars
        doubt = self._terms.sure * math.hypot(stays.uncertainty_picodollars, better.uncertainty_picodollars)
        if saved <= doubt:
            return f"stays: {better.way} saves {in_nanodollars(saved)} ± {in_nanodollars(doubt)}, which is not sure yet"
        changed_ns = self._state.changed_ns
        if changed_ns is not None and now_ns - changed_ns < self._terms.dwell_ns:
            left_s = (self._terms.dwell_ns - (now_ns - changed_ns)) // NS_PER_S + 1
            return f"stays for {left_s} s more: the last change was a short time ago"
        return ""

    def _go(self, chosen: str, now_ns: int) -> None:
        if self._state.went and self._state.went != chosen:
            self._state.changed_ns = now_ns
        self._state.went = chosen
        self._chooser.current = chosen


def comparable(wants: Wants, accesses: Sequence[AccessFacts], now_ns: int) -> Wants:
    """Without the rate where it is not known of all: an access would look cheap since nobody knows how slow it is."""
    known = all(each.statistics.moments(Quantity.THROUGHPUT_BIT_S, now_ns) is not None for each in accesses)
    if known or not wants.short_nanodollars:
        return wants
    return msgspec.structs.replace(wants, target_bit_s=0, short_nanodollars=0)


def believed(access: AccessFacts, wants: Wants, now_ns: int) -> Belief | None:
    """None: the class wants nothing. An access of which something is not measured that it minds is not known at all."""
    belief = belief_of(access.interface, access.statistics, wants, now_ns=now_ns, objection=access.unusable)
    if belief is None:
        return None
    if any(access.statistics.moments(quantity, now_ns) is None for quantity in _needed(wants)):
        return replace(belief, samples=0.0)
    price = access.price_picodollars * wants.toll_ppm // PPM
    # A price is said, not measured: it is worth a sample, and is as old as this moment.
    return replace(
        belief,
        cost_picodollars=belief.cost_picodollars + price,
        samples=max(belief.samples, 1.0),
        measured_ns=belief.measured_ns if belief.measured_ns is not None else now_ns,
    )


def _needed(wants: Wants) -> tuple[Quantity, ...]:
    weights = {
        Quantity.DELAY_NS: wants.delay_nanodollars_per_ms,
        Quantity.LOSS_PPM: wants.loss_nanodollars,
    }
    return tuple(quantity for quantity, weight in weights.items() if weight)


def _verdict(
    access: AccessFacts, beliefs: Sequence[Belief], *, chosen: str, why: str, wants: Wants, now_ns: int
) -> AccessVerdict:
    belief = next((each for each in beliefs if each.way == access.interface), None)
    best = next((each for each in beliefs if each.way == chosen), None)
    known = belief is not None and belief.samples > 0.0
    cost = belief.cost_picodollars if belief is not None and known else None
    if access.interface == chosen:
        reason = why
    elif access.unusable:
        reason = access.unusable
    elif access.last_resort:
        reason = access.last_resort
    elif belief is None or cost is None:
        reason = "nothing is known of it yet"
    elif best is None or best.samples <= 0.0:
        reason = f"costs {in_nanodollars(cost)}"
    else:
        reason = _compared(belief, best)
    parts = made_of(access, wants, now_ns) if cost is not None else ""
    return AccessVerdict(
        interface=access.interface,
        cost_picodollars=cost,
        reason=f"{reason} ({parts})" if parts else reason,
    )


def _compared(belief: Belief, best: Belief) -> str:
    more = belief.cost_picodollars - best.cost_picodollars
    if more == 0:
        return f"costs as much as {best.way}"
    return f"costs {in_nanodollars(abs(more))} {'more' if more > 0 else 'less'} than {best.way}"


def made_of(access: AccessFacts, wants: Wants, now_ns: int) -> str:
    """What a packet's cost consists of, in words: only what the class minds."""
    estimates = access.estimates(now_ns)
    delay, loss = estimates.get(Quantity.DELAY_NS), estimates.get(Quantity.LOSS_PPM)
    parts = []
    if wants.delay_nanodollars_per_ms and delay is not None:
        parts.append(f"{delay.value / NS_PER_MS:.3g} ms")
    if wants.loss_nanodollars and loss is not None:
        parts.append(f"{loss.value * 100 / PPM:.2g} % lost")
    if wants.toll_ppm:
        parts.append(f"price {in_nanodollars(access.price_picodollars)}")
    return ", ".join(parts)


def price_of_packet(nanodollars_per_mb: int) -> int:
    """Picodollars of a full-size packet at a price for a megabyte (10^6 bytes)."""
    return nanodollars_per_mb * FULL_PACKET_BYTES // 1000
