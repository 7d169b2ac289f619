"""Whether hosts that choose their own paths swing: 50 of them on two paths whose delay answers to the load.

Decides: how far the share of the first path moves about, how soon it is 2:1 when the other path's capacity halves, and
up to which pace nothing swings, beside what the rule of docs/explanation/path-stability.md says. Refuses to know:
packets and addresses (IPv4 and IPv6 are alike here); a host's traffic is its share of a fluid.

Every host has the product's `Split`; its beliefs are the costs as they were `stale` round trips ago, with noise, or
with `chooser` what the product's statistics and chooser make of samples that old. Naive hosts go over at once to
what looks cheaper. Cost is delay: a base and a queue that depends on the utilisation alone, so that with half the
capacity half the load costs the same. Source: BP-58; Kelly and Voice, CCR 2005.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from cartographer.chooser import Chooser
from cartographer.costing import belief_of
from cartographer.split import Split, SplitTerms
from cartographer.statistics import WayStatistics
from cartographer.values import Belief, Deliberation, Quantity, Wants, Way
from lab.simulator.chance import stream

HOSTS = 50
STALE = 2.0  # round trips
_WAYS: tuple[Way, Way] = ("AS64512:1", "AS64512:2")
_MS = 1_000_000
_RTT_MS = 100
_LEAST_RTT_MS = 10
_MOST_RTT_MS = 200
_STEP_MS = 5
_DEMAND = 1.2  # of all, in capacities of one path
_NOISE = 0.05
_BASE_MS = 50.0
_QUEUE_MS = 10.0
_FULL_MS = 200.0  # a full buffer
_SETTLE = 40  # round trips before anything is judged
_HALVES = 80
_ENDS = 140
_NEAR = 0.05  # of the share that is right
_RIGHT = 2 / 3
_RUNS = 20
_PACES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_DELAYS = (1.0, 2.0, 4.0, 8.0)
_LOOKS_MS = 50  # between the looks of a host with a chooser
_SAMPLES = 10  # in each look, over both ways

_TERMS = SplitTerms()


class ShareOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The worst of some runs. Shares are of the first path, in parts of all traffic."""

    deviation: float  # standard deviation over time, while both paths are alike
    swing: float  # from the least to the most in that time
    settled_after: int | None  # round trips from the halving to the last moment off 2:1; None: it never stayed there
    least_in_the_end: float
    most_in_the_end: float


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One pace and one age of what is known. `plain`: without slowing down after reversals."""

    pace: float  # of the traffic in a round trip
    stale: float  # round trips
    plain_deviation: float
    deviation: float


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """The highest pace of the sweep with a deviation under 5 %, and the pace that the rule allows."""

    stale: float
    rule: float
    plain_measured: float
    measured: float


class OscillationStudy(msgspec.Struct, frozen=True, kw_only=True):
    runs: int
    naive: ShareOutcome
    ours: ShareOutcome
    staler: ShareOutcome  # twice as old
    unlike_round_trips: ShareOutcome  # 10 to 200 ms
    single_flows: ShareOutcome
    with_chooser: ShareOutcome
    sweep: tuple[SweepPoint, ...]
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The hosts and what they know."""

    terms: SplitTerms = _TERMS
    stale: float = STALE
    naive: bool = False
    single: bool = False  # each host has one flow
    unlike: bool = False  # round trips
    chooser: bool = False
    start: float = 0.5  # of the hosts begin on the first path
    round_trips: int = _ENDS


def run(seed: int, *, runs: int = _RUNS, paces: Sequence[float] = _PACES) -> OscillationStudy:
    def worst(field: Field, most: int = runs) -> ShareOutcome:
        return _worst([judge(shares(seed * 1000 + number, field)) for number in range(most)])

    sweep = tuple(_swept(seed, pace, stale) for stale in _DELAYS for pace in paces)
    return OscillationStudy(
        runs=runs,
        naive=worst(Field(naive=True)),
        ours=worst(Field()),
        staler=worst(Field(stale=2 * STALE)),
        unlike_round_trips=worst(Field(unlike=True), max(1, runs // 4)),
        single_flows=worst(Field(single=True)),
        with_chooser=worst(Field(chooser=True), max(1, runs // 4)),
        sweep=sweep,
        thresholds=tuple(_threshold(sweep, stale) for stale in _DELAYS),
    )


def delay_ms(utilisation: float) -> float:
    """The cost of a path."""
    queue = _QUEUE_MS * utilisation / (1 - utilisation) if utilisation < 1 else _FULL_MS
    return _BASE_MS + min(queue, _FULL_MS)


def steepness(utilisation: float) -> float:
    """By how much the gain of one path over the other changes with the share: d ln(c1/c2) / ds at even costs."""
    slope_ms = _QUEUE_MS / (1 - utilisation) ** 2
    return 2 * slope_ms * _DEMAND / delay_ms(utilisation)


def pace_allowed(stale: float, terms: SplitTerms = _TERMS) -> float:
    """The rule: pace / full gain × steepness × age < π / 2."""
    full_gain = terms.full_gain_ppm / 1e6
    return min(1.0, math.pi / 2 * full_gain / (steepness(_DEMAND / 2) * stale))


@dataclass(slots=True, kw_only=True)
class _Host:
    """`share`: of its traffic that takes the first path."""

    round_trip_ms: float
    split: Split
    flow: int
    chance: random.Random
    next_ms: float
    share: float
    chooser: Chooser = field(default_factory=Chooser)
    statistics: tuple[WayStatistics, WayStatistics] = field(default_factory=lambda: (WayStatistics(), WayStatistics()))
    probes: tuple[Way, ...] = _WAYS  # it begins by asking about both

    def act(self, at: Field, now_ms: int, costs_ms: tuple[float, float]) -> None:
        """Looks at the costs as they were, and moves if it is time."""
        if at.naive:
            seen = [cost * (1 + _NOISE * self.chance.gauss(0, 1)) for cost in costs_ms]
            self.next_ms, self.share = now_ms + self.round_trip_ms, float(seen[0] < seen[1])
            return
        decided, beliefs = self._measured(now_ms, costs_ms) if at.chooser else self._told(now_ms, costs_ms)
        self.split.move(
            decided,
            beliefs,
            now_ns=now_ms * _MS,
            round_trip_ns=int(self.round_trip_ms * _MS),
            draw=self.chance.random,
        )
        self.next_ms = now_ms + _LOOKS_MS if at.chooser else self.split.due_ns / _MS
        self.share = self._share_of_first(single=at.single)

    def _share_of_first(self, *, single: bool) -> float:
        if single:
            return float(self.split.way_of(self.flow) == _WAYS[0])
        return self.split.shares_ppm.get(_WAYS[0], 0) / 1e6

    def _told(self, now_ms: int, costs_ms: tuple[float, float]) -> tuple[Deliberation, list[Belief]]:
        """Beliefs by hand: the costs themselves, with noise."""
        beliefs = []
        for way, cost_ms in zip(_WAYS, costs_ms, strict=True):
            cost = round(cost_ms * (1 + _NOISE * self.chance.gauss(0, 1)) * 1e6)
            error = round(cost * _NOISE)
            beliefs.append(
                Belief(
                    way=way,
                    cost_picodollars=cost,
                    uncertainty_picodollars=error,
                    spread_picodollars=error,
                    samples=10,
                    measured_ns=now_ms * _MS,
                )
            )
        return Deliberation(way=min(beliefs, key=lambda each: each.cost_picodollars).way), beliefs

    def _measured(self, now_ms: int, costs_ms: tuple[float, float]) -> tuple[Deliberation, list[Belief]]:
        """What the statistics make of samples of the ways that it uses, and of probes where the chooser wants some."""
        wants, now_ns, beliefs = Wants(), now_ms * _MS, []
        shares = self.split.shares_ppm
        for way, statistics, cost_ms in zip(_WAYS, self.statistics, costs_ms, strict=True):
            samples = max(shares.get(way, 0) * _SAMPLES / 1e6, float(way in self.probes))
            for _ in range(int(samples + self.chance.random())):
                sample_ms = cost_ms * (1 + _NOISE * self.chance.gauss(0, 1))
                statistics.on_sample(Quantity.DELAY_NS, sample_ms * _MS, now_ns)
            belief = belief_of(way, statistics, wants, now_ns=now_ns, probe_picodollars=1000)
            assert belief is not None  # the wants want delay
            beliefs.append(belief)
        decided = self.chooser.deliberate(beliefs, now_ns=now_ns)
        self.probes = decided.probes
        return decided, beliefs


def shares(seed: int, at: Field) -> list[float]:
    """The share of the first path, every 5 ms; the second one's capacity halves after 80 round trips."""
    hosts = [_host(seed, number, at) for number in range(HOSTS)]
    round_trip_ms = _MOST_RTT_MS if at.unlike else _RTT_MS
    past: list[tuple[float, float]] = []
    found: list[float] = []
    for step in range(at.round_trips * round_trip_ms // _STEP_MS):
        now_ms = step * _STEP_MS
        share = sum(host.share for host in hosts) / HOSTS
        capacity = 1.0 if now_ms < _HALVES * round_trip_ms else 0.5
        past.append((delay_ms(share * _DEMAND), delay_ms((1 - share) * _DEMAND / capacity)))
        found.append(share)
        for host in hosts:
            if now_ms >= host.next_ms:
                lag = int(at.stale * host.round_trip_ms / _STEP_MS)
                host.act(at, now_ms, past[max(0, step - lag)])
    return found


def judge(found: Sequence[float]) -> ShareOutcome:
    """Of shares over `_ENDS` round trips."""
    each = len(found) // _ENDS
    steady, after = found[_SETTLE * each : _HALVES * each], found[_HALVES * each :]
    off = [step for step, share in enumerate(after) if abs(share - _RIGHT) > _NEAR * _RIGHT]
    last = off[-1] if off else 0
    end = after[30 * each :]
    return ShareOutcome(
        deviation=_deviation(steady),
        swing=max(steady) - min(steady),
        settled_after=None if last + each >= len(after) else -(-last // each),
        least_in_the_end=min(end),
        most_in_the_end=max(end),
    )


def _host(seed: int, number: int, at: Field) -> _Host:
    chance = stream(seed, "host", number)
    ratio = _MOST_RTT_MS / _LEAST_RTT_MS
    round_trip_ms = _LEAST_RTT_MS * ratio ** (number / (HOSTS - 1)) if at.unlike else float(_RTT_MS)
    first = number * 0.6180339887 % 1 < at.start  # spread over all round trips
    return _Host(
        round_trip_ms=round_trip_ms,
        split=Split(at.terms, _WAYS[0 if first else 1]),
        flow=chance.getrandbits(64),
        chance=chance,
        next_ms=chance.random() * round_trip_ms,
        share=float(first),
    )


def _swept(seed: int, pace: float, stale: float) -> SweepPoint:
    def deviation(slowest_part: int) -> float:
        terms = SplitTerms(pace_ppm=round(pace * 1e6), slowest_part=slowest_part)
        found = shares(seed, Field(terms=terms, stale=stale, start=0.7, round_trips=_HALVES))
        return _deviation(found[len(found) // 2 :])

    return SweepPoint(pace=pace, stale=stale, plain_deviation=deviation(1), deviation=deviation(_TERMS.slowest_part))


def _threshold(sweep: Sequence[SweepPoint], stale: float) -> Threshold:
    points = [point for point in sweep if point.stale == stale]
    return Threshold(
        stale=stale,
        rule=pace_allowed(stale),
        plain_measured=_highest([point.pace for point in points], [point.plain_deviation for point in points]),
        measured=_highest([point.pace for point in points], [point.deviation for point in points]),
    )


def _highest(paces: Sequence[float], deviations: Sequence[float]) -> float:
    """The last pace before the first one that swings; 0: the first one does."""
    calm = 0.0
    for pace, deviation in sorted(zip(paces, deviations, strict=True)):
        if deviation >= _NEAR:
            break
        calm = pace
    return calm


def _worst(outcomes: Sequence[ShareOutcome]) -> ShareOutcome:
    settled = [outcome.settled_after for outcome in outcomes]
    known = [after for after in settled if after is not None]
    return ShareOutcome(
        deviation=max(outcome.deviation for outcome in outcomes),
        swing=max(outcome.swing for outcome in outcomes),
        settled_after=max(known) if len(known) == len(settled) else None,
        least_in_the_end=min(outcome.least_in_the_end for outcome in outcomes),
        most_in_the_end=max(outcome.most_in_the_end for outcome in outcomes),
    )


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
