"""Small experiments of the literature on the simulator, each with `run(seed)` and a result that says what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """`question` is one line for a person. `run(seed)` takes some seconds."""

    name: str
    question: str
    run: Callable[[int], msgspec.Struct]


def studies() -> tuple[Study, ...]:
    """All of them, by name."""
    from lab.studies import bursts, competition, cutoff, metro, oscillation, pooling, signals, timely

    return (
        Study(name="bursts", question="Do bursts shrink when congestion has a price?", run=bursts.run),
        Study(name="competition", question="What does greed earn, beside others and alone?", run=competition.run),
        Study(name="cutoff", question="Does a cut-off toll clear as the smart market's auction does?", run=cutoff.run),
        Study(name="metro", question="Do tolls by class settle where Paris Metro prices do?", run=metro.run),
        Study(name="oscillation", question="Do hosts that choose their paths swing?", run=oscillation.run),
        Study(name="pooling", question="How much sooner do 20 hosts find the way if they share?", run=pooling.run),
        Study(name="signals", question="Had a paying transfer best react to tolls, losses, or both?", run=signals.run),
        Study(name="timely", question="What do packets that cannot wait lose in sudden congestion?", run=timely.run),
    )
