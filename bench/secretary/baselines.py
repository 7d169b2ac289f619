"""Simpler judges, beside which the learner has to be better. All are deciders of the replay.

Decides what each would do with a transfer, by rules, by asking, or by the user's answers so far; all that ask are
bound alike: three questions a day, and as many in all as the learner asks by then. Refuses to know what a transfer is
worth, but for the marks: who knows every worth, and who knows every worth but for the noise of the moment.
"""
# ruff: noqa: ARG002 (judges that need less than they are told)

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from secretary.kinds import shipped_kinds
from secretary.learning.asking import AskingSettings
from secretary.replay import Decided
from secretary.transfers import Moment, Transfer

DAY_S: Final = 86_400
QUESTIONS_AT_ONCE: Final = 3
QUESTIONS_IN_A_DAY_MAX: Final = 3
PPM: Final = 1_000_000
_KINDS: Final = shipped_kinds()
_SPREAD: Final = 1.2  # of the logarithm of a worth about what the table says


def questions_by(age_days: float) -> float:
    """So many may be asked in all, by the learner's rates."""
    whole = int(age_days)
    return QUESTIONS_AT_ONCE + _by_day(whole) + (age_days - whole) * AskingSettings().rate(age_days)


@cache
def _by_day(days: int) -> float:
    return sum(AskingSettings().rate(day + 0.5) for day in range(days))


@dataclass(slots=True)
class Allowance:
    """Of one person's questions."""

    first_s: int | None = None
    asked: int = 0
    day: int = -1
    asked_today: int = 0

    def permits(self, unix_s: int) -> bool:
        first_s = self.first_s = unix_s if self.first_s is None else self.first_s
        if unix_s // DAY_S != self.day:
            self.day, self.asked_today = unix_s // DAY_S, 0
        may = questions_by((unix_s - first_s) / DAY_S)
        return self.asked_today < QUESTIONS_IN_A_DAY_MAX and self.asked + 1 <= may

    def take(self) -> None:
        self.asked += 1
        self.asked_today += 1


def worth_by_table(transfer: Transfer) -> float:
    """Nanodollars, by the shipped table of kinds."""
    kind = _KINDS[transfer.kind or "default"]
    return kind.worth_nanodollars_per_mb * transfer.size_bytes / 1e6


def by_table_ppm(transfer: Transfer) -> int:
    return _ppm(_normal(math.log(max(worth_by_table(transfer), 1.0) / max(transfer.price_nanodollars, 1)) / _SPREAD))


class RulesOnly:
    """Pays what the shipped table says."""

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        return _decided(transfer, by_table_ppm(transfer), why="by the table")


class AskAlways:
    """The person decides everything, and is interrupted for everything."""

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        pay = ask()
        limit = transfer.price_nanodollars if pay else 0
        return Decided(pay=pay, limit_nanodollars=limit, asked=True, accept_ppm=by_table_ppm(transfer), why="asked")


class Learning(ABC):
    """One person's: an estimate from the answers so far, and a question where it is unsure."""

    def __init__(self) -> None:
        self._allowance = Allowance()

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        accept_ppm, is_unsure = self.estimate(transfer, now)
        if is_unsure and self._allowance.permits(now.unix_s):
            self._allowance.take()
            pay = ask()
            self.learn(transfer, now, accepted=pay)
            limit = transfer.price_nanodollars if pay else 0
            return Decided(pay=pay, limit_nanodollars=limit, asked=True, accept_ppm=accept_ppm, why="asked")
        return _decided(transfer, accept_ppm, why="estimated")

    @abstractmethod
    def estimate(self, transfer: Transfer, now: Moment) -> tuple[int, bool]:
        """How probable it is that the user accepts; and whether a question would be of use."""

    @abstractmethod
    def learn(self, transfer: Transfer, now: Moment, *, accepted: bool) -> None: ...


class AskThenRules(Learning):
    """Asks as often as it may, whatever comes first in the day; for the rest the table."""

    def estimate(self, transfer: Transfer, now: Moment) -> tuple[int, bool]:
        return by_table_ppm(transfer), True

    def learn(self, transfer: Transfer, now: Moment, *, accepted: bool) -> None:
        pass


@dataclass(slots=True)
class _Mean:
    """Of what a context's answers say about its worth beside the table's, in logarithms."""

    answers: int = 0
    total: float = 0.0


class RunningMean(Learning):
    """A mean for each program and network; an answer says that the worth lies a step above the price, or below it."""

    _STEP: Final = 0.7
    _ENOUGH: Final = 5

    def __init__(self) -> None:
        super().__init__()
        self._means: dict[tuple[str, str], _Mean] = {}

    def estimate(self, transfer: Transfer, now: Moment) -> tuple[int, bool]:
        mean = self._means.get((transfer.program, transfer.network))
        if mean is None:
            return by_table_ppm(transfer), True
        # The table counts as one answer, or a single answer would swing everything.
        offset = mean.total / (mean.answers + 1)
        above = math.log(max(worth_by_table(transfer), 1.0)) + offset - math.log(max(transfer.price_nanodollars, 1))
        accept_ppm = _ppm(_normal(above / (_SPREAD / math.sqrt(1 + mean.answers / 4))))
        return accept_ppm, mean.answers < self._ENOUGH and 200_000 < accept_ppm < 800_000

    def learn(self, transfer: Transfer, now: Moment, *, accepted: bool) -> None:
        mean = self._means.setdefault((transfer.program, transfer.network), _Mean())
        beside = math.log(max(transfer.price_nanodollars, 1) / max(worth_by_table(transfer), 1.0))
        mean.answers += 1
        mean.total += beside + (self._STEP if accepted else -self._STEP)


class NearestNeighbour(Learning):
    """As the answer to what was most alike, in context and price; the table where nothing is alike."""

    _NEAR: Final = 1.5

    def __init__(self) -> None:
        super().__init__()
        self._answers: list[tuple[Transfer, float, bool]] = []

    def estimate(self, transfer: Transfer, now: Moment) -> tuple[int, bool]:
        hour = now.unix_s % DAY_S / 3600
        best, answer = math.inf, False
        for other, other_hour, accepted in self._answers:
            far = _distance(transfer, hour, other, other_hour)
            if far <= best:
                best, answer = far, accepted
        if best > self._NEAR:
            return by_table_ppm(transfer), True
        return _ppm(0.8 if answer else 0.2), best > self._NEAR / 3

    def learn(self, transfer: Transfer, now: Moment, *, accepted: bool) -> None:
        self._answers.append((transfer, now.unix_s % DAY_S / 3600, accepted))


def _distance(one: Transfer, hour: float, other: Transfer, other_hour: float) -> float:
    apart = abs(hour - other_hour)
    size = math.log(max(one.size_bytes, 1) / max(other.size_bytes, 1))
    price = math.log(max(one.price_nanodollars, 1) / max(other.price_nanodollars, 1))
    return (
        2.0 * (one.program != other.program)
        + 0.4 * (one.destination != other.destination)
        + 0.3 * (one.network != other.network)
        + 0.5 * (one.foreground != other.foreground)
        + min(apart, 24 - apart) / 12
        + math.hypot(size, price - size)
    )


@dataclass(slots=True)
class _Sample:
    features: dict[str, float]
    accepted: bool


class Logistic(Learning):
    """Logistic regression on log price, log size, hour, foreground, and a weight for each name; ridge, Newton's steps.

    The table's decision until there are a few answers of both sorts.
    """

    _RIDGE: Final = 0.5
    _FEW: Final = 6
    _ROUNDS: Final = 12

    def __init__(self) -> None:
        super().__init__()
        self._samples: list[_Sample] = []
        self._weights: dict[str, float] = {}

    def estimate(self, transfer: Transfer, now: Moment) -> tuple[int, bool]:
        if not self._weights:
            return by_table_ppm(transfer), True
        score = sum(self._weights.get(name, 0.0) * value for name, value in self._features(transfer, now).items())
        accept = _logistic(score)
        return _ppm(accept), 0.25 < accept < 0.75

    def learn(self, transfer: Transfer, now: Moment, *, accepted: bool) -> None:
        self._samples.append(_Sample(self._features(transfer, now), accepted))
        if len(self._samples) >= self._FEW and len({sample.accepted for sample in self._samples}) == 2:
            self._fit()

    def _features(self, transfer: Transfer, now: Moment) -> dict[str, float]:
        angle = now.unix_s % DAY_S / DAY_S * 2 * math.pi
        return {
            "one": 1.0,
            "price": math.log(max(transfer.price_nanodollars, 1)) - 17.0,
            "size": math.log(max(transfer.size_bytes, 1)) - 17.0,
            "foreground": 1.0 if transfer.foreground else 0.0,
            "sine": math.sin(angle),
            "cosine": math.cos(angle),
            f"program {transfer.program}": 1.0,
            f"network {transfer.network}": 1.0,
            f"destination {transfer.destination}": 1.0,
        }

    def _fit(self) -> None:
        """Coordinate by coordinate, each by Newton's step: features are many, and nearly all of them 0."""
        weights = dict.fromkeys((name for sample in self._samples for name in sample.features), 0.0) | self._weights
        having: dict[str, list[tuple[int, float]]] = {name: [] for name in weights}
        for place, sample in enumerate(self._samples):
            for name, value in sample.features.items():
                having[name].append((place, value))
        scores = [sum(weights[name] * value for name, value in sample.features.items()) for sample in self._samples]
        for _ in range(self._ROUNDS):
            for name, places in having.items():
                slope, bend = -self._RIDGE * weights[name], self._RIDGE
                for place, value in places:
                    likely = _logistic(scores[place])
                    slope += (self._samples[place].accepted - likely) * value
                    bend += likely * (1 - likely) * value * value
                step = max(-1.0, min(1.0, slope / bend))
                weights[name] += step
                for place, value in places:
                    scores[place] += step * value
        self._weights = weights


class KnowsWorth:
    """A mark, not a judge: pays where `worth` ≥ price. The bench sets `worth` before each request."""

    def __init__(self) -> None:
        self.worth_nanodollars: float = 0

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        pay = self.worth_nanodollars >= transfer.price_nanodollars
        limit = round(self.worth_nanodollars)
        return Decided(pay=pay, limit_nanodollars=limit, asked=False, accept_ppm=None, why="knows")


ASK_ALWAYS: Final = "ask always"
BASELINES: Final[Mapping[str, Callable[[], RulesOnly | AskAlways | Learning]]] = {
    "rules only": RulesOnly,
    ASK_ALWAYS: AskAlways,
    "ask, then rules": AskThenRules,
    "nearest neighbour": NearestNeighbour,
    "running mean": RunningMean,
    "plain logistic": Logistic,
}


def _decided(transfer: Transfer, accept_ppm: int, *, why: str) -> Decided:
    pay = accept_ppm >= PPM // 2
    limit = transfer.price_nanodollars if pay else 0
    return Decided(pay=pay, limit_nanodollars=limit, asked=False, accept_ppm=accept_ppm, why=why)


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, score))))


def _ppm(share: float) -> int:
    return round(share * PPM)
