"""What was found, for whom it holds, until when, and what of it outlives a restart.

Decides how long a finding has consequences: 60 s from the last time that it was found; twice as long when it is found
again after half of them; an hour at most. A clean time as long as the last penalty makes it forgotten. So an ISP that
was repaired is tried again, and one that was not is soon left again. Refuses to know how it was found.

Everything that is heard of an ISP on the way can be made up: by the others on the way, which can drop its packets and
write its number, and by the receiver, which writes the echo. So a finding holds for the destination where it was
made, and for all only when there are destinations enough that no single other one was on the ways to all of them.
The table is bounded; room is made at the destination that has most, for who is on its ways can invent numbers. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import msgspec

from cartographer.judging.terms import Finding, JudgingTerms, Kind

Age = Annotated[int, msgspec.Meta(ge=0)]


class RememberedAccusation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`others`: who else was on all the ways that the evidence is from. `left_ns`: until it lapses, 0 when it has."""

    destination: str
    as_number: int
    alternative: int | None
    kind: str
    others: tuple[int, ...]
    since_age_ns: Age
    found_age_ns: Age
    left_ns: Age
    penalty_ns: Age
    evidence: str
    numbers: dict[str, float] = {}


class Charge(NamedTuple):
    destination: str
    as_number: int
    alternative: int | None
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Accusation:
    charge: Charge
    others: frozenset[int]
    since_ns: int
    found_ns: int
    until_ns: int
    penalty_ns: int
    evidence: str
    numbers: dict[str, float]

    def forgotten_ns(self) -> int:
        return self.until_ns + self.penalty_ns


class Accusations:
    """One for each host."""

    def __init__(self, terms: JudgingTerms) -> None:
        self._terms = terms
        self._held: dict[Charge, Accusation] = {}
        self._by_as: dict[int, list[Accusation]] = {}

    def accuse(
        self,
        charge: Charge,
        *,
        others: frozenset[int],
        since_ns: int,
        now_ns: int,
        evidence: str,
        numbers: dict[str, float],
    ) -> None:
        """It was found, or found again."""
        held = self._held.get(charge)
        penalty_ns = self._terms.penalty_ns
        if held is not None and now_ns < held.forgotten_ns():
            penalty_ns = held.penalty_ns
            since_ns = min(since_ns, held.since_ns)
            if now_ns >= held.found_ns + penalty_ns // 2:
                penalty_ns = min(2 * penalty_ns, self._terms.penalty_at_most_ns)
        self._put(
            Accusation(
                charge=charge,
                others=others,
                since_ns=since_ns,
                found_ns=now_ns,
                until_ns=now_ns + penalty_ns,
                penalty_ns=penalty_ns,
                evidence=evidence,
                numbers=numbers,
            ),
            now_ns,
        )

    def against(self, as_number: int, now_ns: int) -> list[Accusation]:
        """What has consequences now."""
        return [held for held in self._by_as.get(as_number, ()) if held.until_ns > now_ns]

    def holds_for(self, as_number: int, destination: str | None, now_ns: int) -> list[Accusation]:
        """Those made at this destination, and all that nobody else can have made up. None: all."""
        live = self.against(as_number, now_ns)
        if not live or destination is None:
            return live
        return [held for held in live if held.charge.destination == destination or _is_confirmed(held.charge, live)]

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """One for each ISP, alternative and kind, the newest evidence in words."""
        found = []
        for as_number in sorted(self._by_as):
            live = self.against(as_number, now_ns)
            groups: dict[tuple[int, str], list[Accusation]] = {}
            for held in live:
                groups.setdefault((held.charge.alternative or 0, held.charge.kind.value), []).append(held)
            found += [_finding(groups[key], live) for key in sorted(groups)]
        return tuple(found)

    # --- over restarts -----------------------------------------------------------------------------------------------

    def remembered(self, now_ns: int) -> tuple[RememberedAccusation, ...]:
        return tuple(
            RememberedAccusation(
                destination=charge.destination,
                as_number=charge.as_number,
                alternative=charge.alternative,
                kind=charge.kind.value,
                others=tuple(sorted(held.others)),
                since_age_ns=max(0, now_ns - held.since_ns),
                found_age_ns=max(0, now_ns - held.found_ns),
                left_ns=max(0, held.until_ns - now_ns),
                penalty_ns=held.penalty_ns,
                evidence=held.evidence,
                numbers=held.numbers,
            )
            for charge, held in self._held.items()
            if now_ns < held.forgotten_ns()
        )

    def recall(self, items: Iterable[RememberedAccusation], now_ns: int, elapsed_ns: int) -> None:
        """What was found before; what is found already is newer and stays."""
        kinds = {kind.value: kind for kind in Kind}
        for item in items:
            if item.kind not in kinds:
                continue
            charge = Charge(item.destination, item.as_number, item.alternative, kinds[item.kind])
            if charge in self._held:
                continue
            found_ns = now_ns - elapsed_ns - item.found_age_ns
            penalty_ns = min(item.penalty_ns, self._terms.penalty_at_most_ns)
            accusation = Accusation(
                charge=charge,
                others=frozenset(item.others),
                since_ns=now_ns - elapsed_ns - item.since_age_ns,
                found_ns=found_ns,
                until_ns=found_ns + penalty_ns,
                penalty_ns=penalty_ns,
                evidence=item.evidence,
                numbers=dict(item.numbers),
            )
            if accusation.forgotten_ns() > now_ns:
                self._put(accusation, now_ns)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _put(self, accusation: Accusation, now_ns: int) -> None:
        self._held[accusation.charge] = accusation
        if len(self._held) > self._terms.accusations:
            self._held = {charge: held for charge, held in self._held.items() if held.forgotten_ns() > now_ns}
        while len(self._held) > self._terms.accusations:
            each = Counter(charge.destination for charge in self._held)
            most = max(each.values())
            crowd = (charge for charge in self._held if each[charge.destination] == most)
            del self._held[min(crowd, key=lambda charge: self._held[charge].forgotten_ns())]
        self._by_as = {}
        for held in self._held.values():
            self._by_as.setdefault(held.charge.as_number, []).append(held)


def _is_confirmed(charge: Charge, live: list[Accusation]) -> bool:
    """Whether nobody else was in a position to make up all of it: the receiver is one's own each time."""
    same = [held for held in live if held.charge.kind is charge.kind and _covers(held.charge, charge)]
    if len({held.charge.destination for held in same}) < 2:
        return False
    return not frozenset.intersection(*(held.others for held in same))


def _covers(first: Charge, second: Charge) -> bool:
    return first.alternative is None or second.alternative is None or first.alternative == second.alternative


def _finding(group: list[Accusation], live: list[Accusation]) -> Finding:
    newest = max(group, key=lambda held: held.found_ns)
    destinations = tuple(sorted({held.charge.destination for held in group}))
    return Finding(
        as_number=newest.charge.as_number,
        alternative=newest.charge.alternative,
        kind=newest.charge.kind,
        since_ns=min(held.since_ns for held in group),
        until_ns=max(held.until_ns for held in group),
        evidence=newest.evidence,
        numbers=newest.numbers,
        destinations=destinations,
        confirmed=_is_confirmed(newest.charge, live),
    )
