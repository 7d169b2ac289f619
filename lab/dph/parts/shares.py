"""Part 1, simulated: rates against willingness to pay, by marking rule, number of users and round trip.

Decides: "proportional" is that a user of three times the willingness has three times the rate within 10 %, where the
mean over the seeds is meant. Refuses to know: how reactors and rules work.
Theory: x_i = w_i/(π m), so shares are as w_i whatever the round trip (Kelly, Maulloo, Tan 1998; algorithms C.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.dph.effort import Effort
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import RULES, Rule, bottleneck, one_to_three
from lab.simulator.packets import run_packets
from lab.simulator.results import Results

WANTED: Final = 3.0
WITHIN: Final = 0.10
USUAL_RTT_MS: Final = 40.0
USUAL_USERS: Final = 8
FAR_RTT_MS: Final = 120.0
NEAR_RTT_MS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One seed of one point. `ratio` of two groups of users, in turn."""

    rule: Rule
    users: int
    rtt_ms: tuple[float, ...]
    seed: int
    seconds: float
    warm_up_s: float
    ratio: float = WANTED


class Point(Value, frozen=True, kw_only=True):
    """ratio: mean rate of those of willingness 3 to that of those of 1. worst: |rate/willingness − its mean|/mean of
    the worst user. Of the mixed round trips all have one willingness, and the ratio is that of far to near."""

    marking: str
    users: int
    rtt_ms: tuple[float, ...]
    ratio: Mean
    worst: Mean
    utilisation: Mean
    marked_share: Mean


class Shares(PartResult, frozen=True, kw_only=True):
    by_users: tuple[Point, ...]
    by_rtt: tuple[Point, ...]
    mixed: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    ratio: float
    worst: float
    utilisation: float
    marked_share: float


def run(effort: Effort) -> Shares:
    users = effort.pick(full=(2, 4, 8, 16, 32), quick=(2, 8, 32), tiny=(2,))
    trips = effort.pick(full=(10.0, 80.0, 120.0), quick=(10.0, 120.0), tiny=())
    by_users = [(rule, count, (USUAL_RTT_MS,), WANTED) for count in users for rule in RULES]
    by_rtt = [(rule, USUAL_USERS, (trip,), WANTED) for trip in trips for rule in RULES]
    both = (NEAR_RTT_MS, FAR_RTT_MS)
    mixed = [(rule, USUAL_USERS, both, 1.0) for rule in (() if effort.is_tiny else RULES)]
    points = _points(effort, [*by_users, *by_rtt, *mixed])
    first, second = len(by_users), len(by_users) + len(by_rtt)
    found = Shares(
        title="Shares follow the willingness to pay",
        expectations=(),
        by_users=tuple(points[:first]),
        by_rtt=tuple(points[first:second]),
        mixed=tuple(points[second:]),
    )
    return Shares(
        title=found.title,
        expectations=_judged(found, effort),
        by_users=found.by_users,
        by_rtt=found.by_rtt,
        mixed=found.mixed,
    )


Sweep = tuple[Rule, int, tuple[float, ...], float]


def _points(effort: Effort, sweep: list[Sweep]) -> list[Point]:
    runs = [
        Run(
            rule=rule,
            users=users,
            rtt_ms=trips,
            seed=seed,
            seconds=effort.seconds,
            warm_up_s=effort.warm_up_s,
            ratio=ratio,
        )
        for rule, users, trips, ratio in sweep
        for seed in range(1, effort.seeds + 1)
    ]
    seen = effort.each(measure, runs)
    return [
        _point(point, seen[number * effort.seeds : (number + 1) * effort.seeds]) for number, point in enumerate(sweep)
    ]


def _point(point: Sweep, seen: list[_Seen]) -> Point:
    rule, users, trips, _ = point
    return Point(
        marking=rule.name,
        users=users,
        rtt_ms=trips,
        ratio=mean_of(each.ratio for each in seen),
        worst=mean_of(each.worst for each in seen),
        utilisation=mean_of(each.utilisation for each in seen),
        marked_share=mean_of(each.marked_share for each in seen),
    )


def measure(it: Run) -> _Seen:
    """One run."""
    flows = one_to_three(it.users, rtt_ms=it.rtt_ms, ratio=it.ratio)
    if len(it.rtt_ms) > 1:  # equal willingness: round trips are what differs between the two groups
        flows = [{**flow, "rtt_ms": it.rtt_ms[number % 2]} for number, flow in enumerate(flows)]
    results = run_packets(bottleneck(flows, rule=it.rule, seed=it.seed, seconds=it.seconds, warm_up_s=it.warm_up_s))
    link = results.links[0]
    ratio, worst = proportions(results)
    return _Seen(ratio=ratio, worst=worst, utilisation=link.utilisation, marked_share=link.marked_share)


def proportions(results: Results) -> tuple[float, float]:
    """The second group's mean rate over that of the first, and the worst user's distance from its share."""
    rates = [flow.rate_bit_s for flow in results.flows]
    per_willing = [flow.rate_bit_s / flow.willingness_nanodollars_per_s for flow in results.flows]
    mean = sum(per_willing) / len(per_willing)
    first, second = rates[::2], rates[1::2]
    ratio = (sum(second) / len(second)) / max(1.0, sum(first) / len(first))
    return ratio, max(abs(each - mean) for each in per_willing) / max(1e-9, mean)


def is_proportional(point: Point, wanted: float = WANTED) -> bool:
    return abs(point.ratio.mean / wanted - 1) <= WITHIN


def _judged(found: Shares, effort: Effort) -> tuple[Expectation, ...]:
    asked = [*found.by_users, *found.by_rtt]
    rules = [name for name in (rule.name for rule in RULES) if any(point.marking == name for point in asked)]
    holding = [name for name in rules if all(is_proportional(point) for point in asked if point.marking == name)]
    failing = [
        f"{point.marking} {point.users} users {point.rtt_ms[0]:g} ms: 1:{point.ratio.show(digits=2)}"
        for point in asked
        if not is_proportional(point)
    ]
    shares = expect(
        "shares are as the willingness to pay, with three marking rules at least",
        expected=f"1:3 within {WITHIN:.0%} for every number of users and every round trip",
        measured=f"with {', '.join(holding) or 'none'}" + (f"; not with {'; '.join(failing)}" if failing else ""),
        holds=None if effort.is_tiny else len(holding) >= 3,
    )
    if not found.mixed:
        return (shares,)
    fair = [point for point in found.mixed if is_proportional(point, 1.0)]
    trips = expect(
        "round trips do not matter, with three marking rules at least",
        expected=f"equal willingness at {NEAR_RTT_MS:g} and {FAR_RTT_MS:g} ms: equal rates within {WITHIN:.0%}",
        measured=", ".join(f"{point.marking} 1:{point.ratio.show(digits=2)}" for point in found.mixed),
        holds=len(fair) >= 3,
    )
    return shares, trips
