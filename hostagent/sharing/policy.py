"""The shaping plan out of everything that has a say: kinds and worths, rules, a person's words, links, the data plan.

Decides: each class's weight (its worth among the worths), minimum and cap, and which rule goes before which: a person's
words, then the configuration's rules, then the shipped table of kinds. Refuses to know: engines, clocks, files. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from dataplane.shaping.plan import CLASSES_MAX, RULES_MAX, Match, Rule, ShapedLink, ShapingPlan, TrafficClass
from hostagent.api import KindState
from hostagent.sharing.words import Word
from secretary.kinds import Kind, weights_of

MINIMUM_PPM_MAX: Final = 600_000
"""Of a link, all minimums together: the rest is shared by worth alone."""

WORD_CLASS: Final = "word:"
"""Begins the name of a class that a person's word about a program's worth makes; the program follows."""


class Source(StrEnum):
    """Whose rule it is."""

    WORD = "word"
    CONFIGURATION = "configuration"
    KINDS = "kinds"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTerms:
    """A kind of traffic with all that is known of it before anybody uses a link."""

    name: str
    title: str
    worth_nanodollars_per_mb: int
    minimum_ppm: int = 0
    minimum_bit_s: int = 0
    can_wait: bool = False
    plan_share_ppm: int = 0
    cap_bit_s: int | None = None
    flow_cap_bit_s: int | None = None
    congestion_control: str | None = None
    ask_first: bool = False

    @classmethod
    def of(cls, kind: Kind) -> KindTerms:
        return cls(
            name=kind.name,
            title=kind.title,
            worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb,
            minimum_ppm=kind.minimum_ppm,
            minimum_bit_s=kind.minimum_bit_s,
            can_wait=kind.can_wait,
            plan_share_ppm=kind.plan_share_ppm,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRule:
    """A rule by its kind's name, before classes have numbers."""

    match: Match
    kind: str
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the data plan lets a kind have. `cap_bit_s` None: as much as its worth gets it."""

    state: KindState = KindState.RUNS
    cap_bit_s: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`kinds[i]` is the class `plan.classes[i]`, `sources[i]` says whose rule `plan.rules[i]` is."""

    plan: ShapingPlan
    kinds: tuple[KindTerms, ...]
    sources: tuple[Source, ...]
    verdicts: Mapping[str, Verdict]


RUNS: Final = Verdict()


def compose(
    kinds: Sequence[KindTerms],
    rules: Sequence[NamedRule],
    words: Sequence[Word],
    links: Sequence[ShapedLink],
    verdicts: Mapping[str, Verdict],
) -> Policy:
    """`kinds`: "control" and "default" first. Rules and words about kinds that are not there are left out."""
    word_kinds = _word_kinds(kinds, words)
    every = (*kinds, *word_kinds)
    numbers = {kind.name: number for number, kind in enumerate(every)}
    ordered = [rule for rule in (*_word_rules(words, numbers), *rules) if rule.kind in numbers][:RULES_MAX]
    weights = weights_of([kind.worth_nanodollars_per_mb for kind in every])
    narrowest = _narrowest(links)
    fit = _fit(every)
    return Policy(
        plan=ShapingPlan(
            classes=tuple(
                _class_of(kind, weight, verdicts.get(kind.name, RUNS), narrowest, fit)
                for kind, weight in zip(every, weights, strict=True)
            ),
            rules=tuple(Rule(match=rule.match, traffic_class=numbers[rule.kind]) for rule in ordered),
            links=tuple(links),
        ),
        kinds=every,
        sources=tuple(rule.source for rule in ordered),
        verdicts=dict(verdicts),
    )


def counting_only(plan: ShapingPlan) -> ShapingPlan:
    """The same classes and rules, and nothing that changes what happens to a packet."""
    return ShapingPlan(
        classes=tuple(TrafficClass(name=each.name, weight=each.weight) for each in plan.classes),
        rules=plan.rules,
        links=tuple(ShapedLink(interface=link.interface) for link in plan.links),
    )


def rules_of_kinds(kinds: Sequence[Kind]) -> list[NamedRule]:
    """The shipped table's rules, in its order: units before programs, since a unit says what a program is run for."""
    by_unit = [(kind, Match(unit=unit)) for kind in kinds for unit in kind.units]
    by_program = [(kind, Match(program=program)) for kind in kinds for program in kind.programs]
    return [NamedRule(match=match, kind=kind.name, source=Source.KINDS) for kind, match in (*by_unit, *by_program)]


def condition_text(match: Match) -> str:
    """A rule's condition for a person: `program rsync, to 203.0.113.0/24`."""
    ports = None if match.ports is None else "-".join(str(port) for port in sorted(set(match.ports)))
    parts = [
        ("program", match.program),
        ("unit", match.unit),
        ("task", match.task),
        ("user", match.user_id),
        ("protocol", None if match.protocol is None else match.protocol.value),
        ("to", match.remote),
        ("port", ports),
    ]
    return ", ".join(f"{what} {value}" for what, value in parts if value is not None) or "anything"


def _word_kinds(kinds: Sequence[KindTerms], words: Sequence[Word]) -> tuple[KindTerms, ...]:
    """A kind of its own for each program whose worth a person named: it does not wait for a data plan any more."""
    room = CLASSES_MAX - len(kinds)
    named = [word for word in words if word.nanodollars_per_mb is not None]
    return tuple(
        KindTerms(
            name=WORD_CLASS + word.program,
            title=f"{word.program}, as you said",
            worth_nanodollars_per_mb=word.nanodollars_per_mb or 0,
        )
        for word in named[-room:]
    )


def _word_rules(words: Sequence[Word], numbers: Mapping[str, int]) -> list[NamedRule]:
    """The latest word first."""
    rules = []
    for word in reversed(words):
        kind = WORD_CLASS + word.program if word.nanodollars_per_mb is not None else word.kind
        if kind is not None and kind in numbers:
            rules.append(NamedRule(match=Match(program=word.program), kind=kind, source=Source.WORD))
    return rules


def _class_of(
    kind: KindTerms, weight: int, verdict: Verdict, narrowest_bit_s: int | None, fit: tuple[int, int]
) -> TrafficClass:
    """`narrowest_bit_s`: the least rate among links that have one, so that no link promises more than it has."""
    minimum = kind.minimum_bit_s
    if narrowest_bit_s is not None:
        part = kind.minimum_ppm * fit[0] // fit[1]
        minimum = max(min(minimum, narrowest_bit_s // 10), narrowest_bit_s * part // 1_000_000)
    caps = [cap for cap in (kind.cap_bit_s, verdict.cap_bit_s) if cap is not None]
    return TrafficClass(
        name=kind.name,
        cap_bit_s=min(caps, default=None),
        flow_cap_bit_s=kind.flow_cap_bit_s,
        minimum_bit_s=0 if verdict.state is not KindState.RUNS else minimum,
        weight=weight,
        congestion_control=kind.congestion_control,
        ask_first=kind.ask_first,
    )


def _narrowest(links: Sequence[ShapedLink]) -> int | None:
    rates = [rate for link in links for rate in (link.egress_bit_s, link.ingress_bit_s) if rate is not None]
    return min(rates, default=None)


def _fit(kinds: Sequence[KindTerms]) -> tuple[int, int]:
    """By which fraction minimums shrink so that they leave something to share."""
    asked = sum(kind.minimum_ppm for kind in kinds)
    return (MINIMUM_PPM_MAX, asked) if asked > MINIMUM_PPM_MAX else (1, 1)


def changed(before: ShapingPlan | None, after: ShapingPlan) -> bool:
    """Whether an engine has to be told."""
    return before is None or msgspec.json.encode(before) != msgspec.json.encode(after)
