"""Rules in the order in which they are looked at: the agent's, which choose a kind, and the secretary's, which say what
may be paid; how often each fitted, and what is wrong with their files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model import personal
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import FAINT, NOTHING, STRONG, duration_text, line, several

EMPTY: Final = "no rules"
MOST_FAULTS: Final = 3
BY: Final = {"word": "your word", "answer": "your answer", "kinds": "table of kinds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`hits`: of flows or transfers; None: nobody counts."""

    place: int
    of: str  # "agent", "secretary"
    by: str
    name: str
    hits: int | None
    seconds_left: int | None
    outcome: str
    condition: str


def _hits(rule: Rule) -> str:
    return NOTHING if rule.hits is None else f"{rule.hits:,}"


def _left(rule: Rule) -> str:
    return "" if rule.seconds_left is None else duration_text(rule.seconds_left)


COLUMNS: Final[tuple[Column[Rule], ...]] = (
    number("no.", 3, 0, lambda rule: str(rule.place), lambda rule: -rule.place),
    Column("of", 9, 1, lambda rule: rule.of),
    Column("by", 14, 0, lambda rule: rule.by, most=24),
    number("hits", 6, 0, _hits, lambda rule: -1 if rule.hits is None else rule.hits),
    Column("outcome", 20, 0, lambda rule: rule.outcome, most=40),
    Column("when", 24, 0, lambda rule: rule.condition or "always", most=200),
    Column("name", 10, 3, lambda rule: rule.name or NOTHING, most=30),
    number("ends in", 10, 2, _left, lambda rule: -1 if rule.seconds_left is None else rule.seconds_left),
)


def rules_of(said: Iterable[api.Rule], told: personal.Rules | None) -> list[Rule]:
    """The kind is chosen first: what is paid rests on it."""
    agents = list(said)
    made = [
        Rule(
            place=place,
            of="agent",
            by=BY.get(rule.source, rule.source),
            name="",
            hits=rule.flows,
            seconds_left=None,
            outcome=f"it is {rule.kind}",
            condition=rule.condition,
        )
        for place, rule in enumerate(agents, 1)
    ]
    made += [
        Rule(
            place=place,
            of="secretary",
            by=BY.get(rule.source, rule.source),
            name=rule.name,
            hits=rule.hits,
            seconds_left=rule.seconds_left,
            outcome=rule.outcome,
            condition=rule.condition,
        )
        for place, rule in enumerate(told.rules if told is not None else (), len(agents) + 1)
    ]
    return made


def listing(rules: Iterable[Rule], sorting: Sorting, wanted: str) -> Listing[Rule]:
    found = matching(wanted, rules, lambda rule: (rule.by, rule.name, rule.outcome, rule.condition, rule.of))
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, found),
        key=lambda rule: f"{rule.of} {rule.by} {rule.name} {rule.condition} {rule.outcome}",
        faint=lambda rule: rule.hits == 0,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(rule: Rule) -> list[Text]:
    fitted = "" if rule.hits is None else f"fitted {several(rule.hits, 'flow' if rule.of == 'agent' else 'time')}"
    left = "" if rule.seconds_left is None else f"ends in {duration_text(rule.seconds_left)}"
    facts = " · ".join(part for part in (rule.by, fitted, left) if part)
    return [
        line((rule.name or rule.condition or "always", STRONG), f"  {rule.of}'s"),
        line(("when  ", FAINT), rule.condition or "always"),
        line(("then  ", FAINT), rule.outcome),
        line(facts),
    ]


def notes(told: personal.Rules | None, trouble: str) -> Sequence[Text]:
    """Below the table: what is wrong with rules' files, or why the secretary's rules are not there."""
    made = [line((trouble, FAINT))] if trouble else []
    faults = told.faults if told is not None else ()
    made += [line((f"! {fault}", STRONG)) for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        made.append(line(f"! {several(len(faults) - MOST_FAULTS, 'more fault')}: `hostagent secretary rules`"))
    return made
