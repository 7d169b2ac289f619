"""One person's requests, put to every judge through the replay.

Decides which judges there are, and that all that ask are bound alike. Refuses to know what becomes of the summaries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.secretary.baselines import BASELINES, Allowance, KnowsWorth
from bench.secretary.people import Request, requests_of
from secretary.hindsight import Summary
from secretary.learning.learner import Learner
from secretary.opinions import Course
from secretary.replay import Decided, Decider, Event, replay
from secretary.transfers import Moment, Transfer

LEARNER: Final = "the secretary's learner"
KNOWS_ALL_BUT_NOISE: Final = "knows all but the noise"
KNOWS_ALL: Final = "knows every worth"


class Learns:
    """The secretary's learner alone: no rules, no budgets, no guard."""

    def __init__(self) -> None:
        self._learner = Learner()
        self._allowance = Allowance()
        self._number = 0

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        opinion = self._learner.opinion(transfer, now, may_ask=self._allowance.permits(now.unix_s))
        self._learner.on_request(transfer, now)
        asked = opinion.course is Course.ASK
        if asked:
            self._allowance.take()
            pay = ask()
            self._number += 1
            self._learner.on_answer(self._number, transfer, now, accepted=pay)
        else:
            pay = opinion.course is Course.PAY
        return Decided(
            pay=pay,
            limit_nanodollars=opinion.limit_nanodollars,
            asked=asked,
            accept_ppm=opinion.accept_ppm,
            why=opinion.basis,
        )


JUDGES: Final[Mapping[str, Callable[[], Decider]]] = {
    LEARNER: Learns,
    **BASELINES,
    KNOWS_ALL_BUT_NOISE: KnowsWorth,
    KNOWS_ALL: KnowsWorth,
}


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
        decider, result = JUDGES[name](), Result()
        for _ in replay(_told(requests, decider, name), _Timed(decider, result), result.summary):
            pass
        results[name] = result
    return results


def _told(requests: Sequence[Request], decider: Decider, name: str) -> Iterator[tuple[int, Event]]:
    """The marks are told what a judge never is, just before each request."""
    for index, request in enumerate(requests):
        if isinstance(decider, KnowsWorth):
            decider.worth_nanodollars = (
                request.event.truth_nanodollars if name == KNOWS_ALL else request.middle_nanodollars
            )
        yield index, request.event
