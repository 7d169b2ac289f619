"""One person's requests, put to every judge through the replay; and all people's, put to one secretary.

Decides which judges there are, and that all that ask are bound alike. Refuses to know what becomes of the summaries.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.secretary.baselines import BASELINES, KnowsWorth
from bench.secretary.people import Request, requests_of
from secretary.hindsight import Summary
from secretary.rehearsal import Rehearsal
from secretary.replay import Decided, Decider, Event, replay
from secretary.transfers import Moment, Transfer

LEARNER: Final = "the secretary's learner"
KNOWS_ALL_BUT_NOISE: Final = "knows all but the noise"
KNOWS_ALL: Final = "knows every worth"


ALONE: Final[Mapping[str, Callable[[], Decider]]] = {
    **BASELINES,
    KNOWS_ALL_BUT_NOISE: KnowsWorth,
    KNOWS_ALL: KnowsWorth,
}
"""What knows nothing of other people."""
JUDGES: Final = (LEARNER, *ALONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    population: str
    person: int
    days: int
    seed: int
    judges: tuple[str, ...]


@dataclass(slots=True)
class Result:
    """Of one judge."""

    summary: Summary = field(default_factory=Summary)
    decisions: int = 0
    nanoseconds: int = 0

    def merge(self, other: Result) -> None:
        self.summary.merge(other.summary)
        self.decisions += other.decisions
        self.nanoseconds += other.nanoseconds

    @property
    def microseconds_a_decision(self) -> float:
        return self.nanoseconds / self.decisions / 1000 if self.decisions else 0.0


class _Timed:
    def __init__(self, decider: Decider, result: Result) -> None:
        self._decider, self._result = decider, result

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        begun_ns = time.perf_counter_ns()
        decided = self._decider.on_request(transfer, now, ask)
        self._result.nanoseconds += time.perf_counter_ns() - begun_ns
        self._result.decisions += 1
        return decided


def run(task: Task) -> dict[str, Result]:
    """By judge."""
    requests = list(requests_of(task.population, task.person, days=task.days, seed=task.seed))
    results = {}
    for name in task.judges:
        decider, result = ALONE[name](), Result()
        for _ in replay(_told(requests, decider, name), _Timed(decider, result), result.summary):
            pass
        results[name] = result
    return results


def run_together(population: str, people: int, days: int, seed: int) -> Result:
    """All people before one secretary, as `hostagent secretary replay` puts them: they share what it learns of all."""
    everyone = (requests_of(population, person, days=days, seed=seed) for person in range(people))
    requests = heapq.merge(*everyone, key=lambda request: request.event.t)
    result = Result()
    events = ((index, request.event) for index, request in enumerate(requests))
    for _ in replay(events, _Timed(Rehearsal(), result), result.summary):
        pass
    return result


def _told(requests: Sequence[Request], decider: Decider, name: str) -> Iterator[tuple[int, Event]]:
    """The marks are told what a judge never is, just before each request."""
    for index, request in enumerate(requests):
        if isinstance(decider, KnowsWorth):
            decider.worth_nanodollars = (
                request.event.truth_nanodollars if name == KNOWS_ALL else request.middle_nanodollars
            )
        yield index, request.event
