"""Which way the traffic should go, which ways to ask about, and why not the others.

Decides: the cheapest way as far as is known, with hysteresis; when to look at another one, and whether a probe or a
choice is the cheaper look. Refuses to know: what a cost is made of (`costing`), how the traffic gets there (`split`).

A look is worth what it may save: the expected improvement over the best way now (Jones 1998), since its cost is
uncertain or it may have changed unseen, times the choices in which that is used. It costs a probe, or the excess that
is expected of a choice. Looks are bought while they are worth more than they cost, those first that are worth most for
their money; all looks together within a share of what the choices cost, and probes within a share of their number.
Deterministic: no clock and no dice.  Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cartographer.values import Belief, Deliberation, Way

PPM: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
SQRT_2PI: Final = math.sqrt(2.0 * math.pi)
SQRT_2: Final = math.sqrt(2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooserTerms:
    """How eager it is to change and to look."""

    hysteresis_ppm: int = 30_000  # of the cost: a way that is cheaper by less is not worth moving for
    probe_share_ppm: int = 20_000  # probes for each choice, at most
    probe_borrow: int = 40  # so many may be sent before they are earned, that each way is asked once
    probe_earned_besides: bool = False  # what was borrowed need not be earned: the share is of the others
    exploring_share_ppm: int = 7_000  # of what the choices cost: for looks since something may have changed unseen
    doubting_share_ppm: int = 15_000  # and for those since two ways cannot be told apart yet, or one may be broken
    borrow_choices: float = 4.0  # worth of that many choices may be spent of each before it is earned
    horizon_choices: float = 50.0  # for how long a better way is enjoyed
    change_choices: float = 1500.0  # a way changes unseen about once in so many choices, before that is learnt
    changes_assumed: float = 4.0  # how many changes that is worth
    change_gain_share: float = 0.2  # and is then cheaper than the best by that much, chances included
    check_choices: float = 30.0  # a belief so old is checked by a probe before the traffic follows it,
    check_share: float = 1.0  # unless more than this share of the cost is to be saved
    probe_scarcity: float = 2.0  # choices that the last probe must be worth; the first ones are not scarce
    looks: float = 4.0  # that one decides to make are reckoned together
    routine_probe_share: float = 0.6  # of the earned probes; the others are kept for doubts
    alarm_ppm: int = 100_000  # the way in use got dearer by that much: all that is old is in doubt
    settle_choices: int = 30  # after that the way in use is the usual one
    alike_looks: int = 2  # that many ways that got dearer by as much: no more are asked
    fresh_choices: float = 5.0  # what was looked at since is in no doubt
    unknown_excess_share: float = 1.0  # a way of which nothing is known is taken to cost that much more


class Memory:
    """What the chooser keeps of one way."""

    __slots__ = ("calm_picodollars", "cost_picodollars", "doubted", "looked_at", "measured_ns")

    def __init__(self) -> None:
        self.looked_at = -math.inf  # number of the choice before which it was last measured
        self.measured_ns: int | None = None
        self.doubted = False  # something happened since
        self.cost_picodollars = math.nan  # as it was believed at the choice before
        self.calm_picodollars = math.inf  # what it cost before that


def in_nanodollars(picodollars: float) -> str:
    """Short money for reasons."""
    return f"{picodollars / 1000:.6g} n$"


def improvement(gain: float, deviation: float) -> float:
    """E[max(X, 0)] for X normal: what is saved on average if one may go back."""
    if deviation <= 0.0:
        return max(gain, 0.0)
    score = gain / deviation
    if score < -6.0:
        return 0.0
    return deviation * math.exp(-0.5 * score * score) / SQRT_2PI + gain * 0.5 * (1.0 + math.erf(score / SQRT_2))


class Chooser:
    """For one destination and one class of flows. `current`: the way that is best as far as is known."""

    def __init__(self, terms: ChooserTerms | None = None) -> None:
        self.terms = terms or ChooserTerms()
        self.current: Way | None = None
        self.choices = 0
        self.probes = 0
        self.paid_picodollars = 0.0  # what the choices cost, as believed
        self.explored_picodollars = 0.0  # of that and besides, to find out
        self.doubted_picodollars = 0.0
        self._changes = self.terms.changes_assumed
        self._watched = self.terms.changes_assumed * self.terms.change_choices  # choices, of all ways
        self._memories: dict[Way, Memory] = {}
        self._first: Way | None = None  # to be asked before it is chosen
        self._home: Way | None = None  # the way that has been in use for a while,
        self._settled = 0.0  # what it usually costs,
        self._away = 0  # and for how many choices another one has been better
        self._risk = 0.05  # how much dearer a way is than believed, on average, when it is looked at again
        self._risks = 10.0  # how many looks that is worth
        self._before = math.inf  # what it cost before it got dearer,
        self._rise = 0.0  # by how much it did,
        self._alike = 0  # how many more of the others did as well than did not,
        self._pool: list[float] = []  # and what all ways did

    def deliberate(self, beliefs: Sequence[Belief], *, now_ns: int) -> Deliberation:
        """One choice. Raises ValueError if there is no way at all."""
        if not beliefs:
            raise ValueError("no way to choose from")
        self.choices += 1
        self._remember(beliefs)
        allowed = [belief for belief in beliefs if not belief.objection] or list(beliefs)
        best, why = self._best(allowed)
        self._watch(allowed, best)
        cost = float(best.cost_picodollars)
        probes, explored = self._looks(allowed, best)
        way = best.way
        if explored is not None:
            way, why = explored.way, self._exploring_reason(explored, best)
        self.paid_picodollars += cost
        rejected = tuple((belief.way, self._rejection(belief, best, now_ns)) for belief in beliefs if belief.way != way)
        return Deliberation(way=way, probes=probes, explores=explored is not None, reason=why, rejected=rejected)

    def _remember(self, beliefs: Sequence[Belief]) -> None:
        memories = self._memories
        if len(memories) > len(beliefs):
            present = {belief.way for belief in beliefs}
            for way in [way for way in memories if way not in present]:
                del memories[way]
        for belief in beliefs:
            memory = memories.get(belief.way)
            if memory is None:
                memory = memories[belief.way] = Memory()
            if belief.measured_ns is not None and belief.measured_ns != memory.measured_ns:
                memory.measured_ns = belief.measured_ns
                if memory.looked_at > -math.inf and not memory.doubted:
                    self._watched += self.choices - memory.looked_at
                if self.choices - memory.looked_at > 1.5 and memory.cost_picodollars > 0.0:
                    worse = belief.cost_picodollars / memory.cost_picodollars - 1.0
                    self._risk += (min(max(worse, 0.0), 10.0) - self._risk) / self._risks
                    self._risks += 1.0
                memory.looked_at = float(self.choices)
                if memory.doubted:
                    memory.doubted = False
                    self._compare(belief.cost_picodollars - memory.calm_picodollars)
            memory.cost_picodollars = belief.cost_picodollars

    def _compare(self, rise: float) -> None:
        """Other ways got dearer by as much as the one in use did: it is not the ways, it is the host's own access."""
        self._alike += 1 if 0.5 * self._rise < rise < 1.6 * self._rise else -1
        if self._alike >= self.terms.alike_looks:
            for memory in self._memories.values():
                memory.doubted = False

    def _best(self, allowed: Sequence[Belief]) -> tuple[Belief, str]:
        known = [belief for belief in allowed if belief.samples > 0.0]
        if not known:
            first = next((belief for belief in allowed if belief.way == self.current), allowed[0])
            self.current = first.way
            return first, "nothing is known of any way yet: the first one"
        best = min(known, key=lambda belief: belief.cost_picodollars)
        held = next((belief for belief in known if belief.way == self.current), None)
        if held is None or held is best:
            self.current = best.way
            return best, f"costs least: {in_nanodollars(best.cost_picodollars)} a packet"
        saved = held.cost_picodollars - best.cost_picodollars
        margin = abs(held.cost_picodollars) * self.terms.hysteresis_ppm / PPM
        if saved <= margin:
            return held, (
                f"stays: {in_nanodollars(held.cost_picodollars)} a packet, and the cheapest saves only "
                f"{in_nanodollars(saved)}, less than {in_nanodollars(margin)}"
            )
        if self._asks_first(best, saved):
            self._first = best.way
            return held, (
                f"stays for now: {best.way} may save {in_nanodollars(saved)}, but it is asked first: "
                "it was not seen for long"
            )
        self.current = best.way
        return best, (
            f"now costs least: {in_nanodollars(best.cost_picodollars)} a packet, "
            f"{in_nanodollars(saved)} less than {held.way or 'the way before'}"
        )

    def _asks_first(self, best: Belief, saved: float) -> bool:
        """Whether an old belief is to be checked by a probe before the traffic goes there."""
        terms = self.terms
        probe = best.probe_picodollars
        if probe is None or probe > best.cost_picodollars or saved > terms.check_share * best.cost_picodollars:
            return False
        unseen = self.choices - self._memories[best.way].looked_at
        return unseen > terms.check_choices and self.probes < self._probes_allowed()

    def _watch(self, beliefs: Sequence[Belief], best: Belief) -> None:
        """The way in use got worse, and that is sure: what is old of the others is in doubt as well."""
        if best.samples <= 0.0:
            return
        if best.way != self._home:
            self._away += 1
            if self._home is None or self._away > self.terms.settle_choices:
                self._home, self._settled, self._away = best.way, float(best.cost_picodollars), 0
        else:
            self._away = 0
        home = next((belief for belief in beliefs if belief.way == self._home), None)
        if home is None:
            self._home = None
            return
        cost = float(home.cost_picodollars)
        limit = self._settled * (1.0 + self.terms.alarm_ppm / PPM) + 2.0 * home.uncertainty_picodollars
        if cost <= limit:
            if best.way == self._home:
                self._settled += 0.05 * (cost - self._settled)
            if cost < self._before * 1.05 and self._before < math.inf:
                self._calm_again(beliefs)
            return
        self._alarm(beliefs, best)

    def _alarm(self, beliefs: Sequence[Belief], best: Belief) -> None:
        """What is old of any way is in doubt: it may cost what it did, or what any of them did."""
        self._changes += 1.0
        self._before = self._settled
        home = next(belief for belief in beliefs if belief.way == self._home)
        self._rise = home.cost_picodollars - self._settled
        self._alike = 0
        pool: list[float] = []
        for belief in beliefs:
            memory = self._memories[belief.way]
            calm = self._settled if belief.way == self._home else float(belief.cost_picodollars)
            if belief.samples > 0.0:
                pool.append(calm)
            memory.calm_picodollars = calm
            if belief.way != self._home and self.choices - memory.looked_at > self.terms.fresh_choices:
                memory.doubted = True
        self._pool = pool
        self._home, self._settled, self._away = best.way, float(best.cost_picodollars), 0

    def _calm_again(self, beliefs: Sequence[Belief]) -> None:
        """The way in use is as it was: those that seemed dearer meanwhile may be as well."""
        self._before = math.inf
        for belief in beliefs:
            memory = self._memories[belief.way]
            if belief.way != self._home and belief.cost_picodollars > 1.05 * memory.calm_picodollars:
                memory.doubted = True

    def _looks(self, allowed: Sequence[Belief], best: Belief) -> tuple[tuple[Way, ...], Belief | None]:
        """Which to probe, and which to choose in order to find out (None: none)."""
        terms = self.terms
        usual = float(best.cost_picodollars)
        borrow = terms.borrow_choices * usual
        purse = terms.exploring_share_ppm / PPM * self.paid_picodollars + borrow - self.explored_picodollars
        doubts = terms.doubting_share_ppm / PPM * self.paid_picodollars + borrow - self.doubted_picodollars
        earned = self.choices * terms.probe_share_ppm / PPM
        allowance = self._probes_allowed()
        most = allowance - self.probes
        scarce = terms.probe_scarcity * usual * (self.probes / allowance) ** 2 if allowance else 0.0
        routine = min(most, len(allowed) - 1 + int(earned * terms.routine_probe_share) - self.probes)
        due: list[tuple[float, float, bool, bool, Belief]] = []
        for belief in allowed:
            if belief.way == best.way:
                continue
            doubt, waiting = self._worth(belief, usual)
            worth = doubt + waiting
            price = self._excess(belief, usual)
            probe = belief.probe_picodollars
            doubtful = doubt > waiting or self._memories[belief.way].doubted
            left = most if doubtful else routine
            by_probe = probe is not None and probe < price and left > 0 and best.samples > 0.0
            if by_probe and probe is not None:
                price = float(probe)
            if worth > price + (scarce if by_probe else 0.0):
                due.append((worth, price, by_probe, doubtful, belief))
        due.sort(key=lambda item: -item[0])
        probes: list[Way] = []
        explored: Belief | None = None
        if self._first is not None:
            probes.append(self._first)
            due = [item for item in due if item[4].way != self._first]
            self._first = None
        for _, price, by_probe, doubtful, belief in due:
            unknown = belief.samples <= 0.0
            if (price > (doubts if doubtful else purse) and not unknown) or (not by_probe and explored is not None):
                continue
            if by_probe and len(probes) >= most:
                continue
            if unknown:
                pass
            elif doubtful:
                doubts -= price
                self.doubted_picodollars += price
            else:
                purse -= price
                self.explored_picodollars += price
            if by_probe:
                probes.append(belief.way)
            else:
                explored = belief
        self.probes += len(probes)
        return tuple(probes), explored

    def _probes_allowed(self) -> int:
        earned = self.choices * self.terms.probe_share_ppm // PPM
        borrowed = self.terms.probe_borrow
        return borrowed + earned if self.terms.probe_earned_besides else max(borrowed, earned)

    def _worth(self, belief: Belief, usual: float) -> tuple[float, float]:
        """Of a look: since its cost is uncertain, and since it may have changed unseen.

        The latter is what has been lost by waiting, on average: to look when that is the price of a look is the rule
        that never pays more than twice what the best one does (Karlin 1988).
        """
        terms = self.terms
        if belief.samples <= 0.0:
            return terms.horizon_choices * usual + 1.0, 0.0
        memory = self._memories[belief.way]
        unseen = min(self.choices - memory.looked_at, 1e4)
        gain = improvement(-abs(usual - belief.cost_picodollars), self._learnt(belief))
        if memory.doubted:
            gain = max(gain, self._hope(belief, memory, usual))
        waited = 0.5 * unseen * unseen * self._changes / self._watched * terms.change_gain_share * usual
        return terms.horizon_choices * gain, waited

    def _hope(self, belief: Belief, memory: Memory, usual: float) -> float:
        """What a way in doubt may save: half it costs what it did, half what any way did."""
        hope = 0.5 * max(usual - min(memory.calm_picodollars, belief.cost_picodollars), 0.0)
        if self._pool:
            hope += 0.5 * sum(max(usual - cost, 0.0) for cost in self._pool) / len(self._pool)
        return hope

    def _learnt(self, belief: Belief) -> float:
        """How far a few looks may move what is believed (the knowledge gradient, Frazier 2008)."""
        uncertain = float(belief.uncertainty_picodollars) ** 2
        single = float(belief.spread_picodollars) ** 2 / self.terms.looks
        return uncertain / math.sqrt(uncertain + single) if uncertain else 0.0

    def _excess(self, belief: Belief, usual: float) -> float:
        if belief.samples <= 0.0:
            return self.terms.unknown_excess_share * usual
        return max(belief.cost_picodollars - usual, 0.0) + min(self._risk, 0.3) * usual

    def _exploring_reason(self, belief: Belief, best: Belief) -> str:
        if belief.samples <= 0.0:
            usual = in_nanodollars(best.cost_picodollars)
            return f"to find out: nothing is known of it; {best.way or 'the usual way'} costs {usual}"
        unseen = self.choices - self._memories[belief.way].looked_at
        return (
            f"to find out: last measured {unseen:.0f} choices ago, when it cost "
            f"{in_nanodollars(belief.cost_picodollars)} against {in_nanodollars(best.cost_picodollars)}"
        )

    def _rejection(self, belief: Belief, best: Belief, now_ns: int) -> str:
        if belief.objection:
            return belief.objection
        if belief.samples <= 0.0:
            return "nothing is known of it yet"
        cost = in_nanodollars(belief.cost_picodollars)
        more = belief.cost_picodollars - best.cost_picodollars
        if belief.way == best.way:
            return f"costs least, {cost}, but another way is being looked at"
        sure = in_nanodollars(belief.uncertainty_picodollars)
        if belief.measured_ns is None:
            seen = "as others say"
        else:
            seen = f"measured {max(now_ns - belief.measured_ns, 0) / NS_PER_S:.3g} s ago"
        return f"costs {cost} ± {sure}, {in_nanodollars(more)} more; {seen}"
