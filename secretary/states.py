"""What is kept of a secretary beside its journal: what was only seen, and may be a minute old after a crash.

Decides: which parts have such a state, and that one that cannot be read is left out and begins anew: no money and no
answer is in it. Refuses to know what is in a state.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from secretary.allowance import Allowance, AllowanceState
from secretary.guard.snapshots import GuardPulse, GuardSnapshot
from secretary.learning.learner import Learner, LearnerState
from secretary.ruling.rules import Hits, HitsSnapshot
from secretary.secretary import Secretary
from secretary.sizes import Sizes, SizeState

LOG: Final = logging.getLogger("secretary")
LEARNER: Final = "learner:"
GUARD: Final = "guard:"
PULSE: Final = "pulse:"
RULES: Final = "rules"


def states_of(
    secretary: Secretary, rule_texts: Mapping[str, str], *, whole: bool = True
) -> Iterator[tuple[str, bytes]]:
    """Without `whole` only what a guard would lose by a crash: its usual is large, and changes slowly."""
    encode, judge = msgspec.json.encode, secretary.judge
    for user, guard in judge.guards.items():
        yield f"{PULSE}{user}", encode(guard.pulse())
    yield "hits", encode(judge.hits.snapshot())
    yield "sizes", encode(secretary.sizes.state())
    yield "allowance", encode(judge.allowance.state())
    yield RULES, encode(rule_texts)
    for user, learner in judge.learners.items():
        yield f"{LEARNER}{user}", encode(learner.snapshot())
    for user, guard in judge.guards.items() if whole else ():
        yield f"{GUARD}{user}", encode(guard.snapshot())


def restore(secretary: Secretary, states: Mapping[str, bytes]) -> None:
    """Before the journal is applied: what it says is later."""
    for name, state in states.items():
        try:
            _restore_one(secretary, name, state, states)
        except (msgspec.DecodeError, ValueError) as error:
            LOG.warning("the state of %s cannot be read, it begins anew: %s", name, error)


def _restore_one(secretary: Secretary, name: str, state: bytes, states: Mapping[str, bytes]) -> None:
    judge = secretary.judge
    if name == "hits":
        judge.hits = Hits(msgspec.json.decode(state, type=HitsSnapshot))
    elif name == "sizes":
        secretary.sizes = Sizes(msgspec.json.decode(state, type=tuple[SizeState, ...]))
    elif name == "allowance":
        kept = msgspec.json.decode(state, type=AllowanceState)
        judge.allowance = Allowance(judge.allowance.limit_nanodollars, kept)
    elif name.startswith(LEARNER):
        kept_learner = msgspec.json.decode(state, type=LearnerState)
        judge.learners[name.removeprefix(LEARNER)] = Learner.restore(kept_learner, eager=False, commons=judge.commons)
    elif name.startswith(GUARD):
        guard = judge.guard_of(name.removeprefix(GUARD))
        if guard is not None:
            pulse = states.get(f"{PULSE}{name.removeprefix(GUARD)}")
            guard.restore(
                msgspec.json.decode(state, type=GuardSnapshot),
                msgspec.json.decode(pulse, type=GuardPulse) if pulse is not None else None,
            )
