"""Part 3, simulated: how well each marking rule uses the link, and what waiting and losses that takes.

Decides: rules are compared at one utilisation: each is run at several virtual capacities, and its queue is read off, in
between, at the utilisation of RED (ALTQ's, as the protocol has it). Refuses to know: how rules mark.
Theory: an adaptive virtual queue of 0.98 loses nothing and waits little (Kunniyur and Srikant 2001; algorithms C.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from lab.dph.effort import Effort
from lab.dph.parts.shares import USUAL_RTT_MS, USUAL_USERS
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import AVQ, CAPACITY_BIT_S, RED, RED_16, RULES, STEP, VQ, Rule, bottleneck, one_to_three
from lab.simulator.packets import run_packets

NEAR_ZERO: Final = 0.001
CROSS_SHARE: Final = 0.3
"""Of the link: Poisson traffic that answers to nothing, in the second half of the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    rule: Rule
    theta: float
    seed: int
    seconds: float
    warm_up_s: float
    cross: bool = False


class Point(Value, frozen=True, kw_only=True):
    """theta: virtual capacity over the real one; of AVQ the wanted utilisation; REM has none (0). Queues are waits in
    the real queue."""

    marking: str
    theta: float
    cross: bool
    utilisation: Mean
    queue_mean_ms: Mean
    queue_p99_ms: Mean
    lost_share: Mean
    marked_share: Mean


class Compared(Value, frozen=True, kw_only=True):
    """At RED's utilisation with a virtual capacity of `theta`; None: the rule did not come to that utilisation."""

    rule: str
    red: str
    red_theta: float
    utilisation: float
    red_queue_ms: float
    queue_ms: float | None


class Markings(PartResult, frozen=True, kw_only=True):
    points: tuple[Point, ...]
    compared: tuple[Compared, ...]


_Seen = tuple[float, float, float, float, float]


def run(effort: Effort) -> Markings:
    thetas = effort.pick(full=(0.5, 0.7, 0.8, 0.9, 0.98), quick=(0.7, 0.9, 0.98), tiny=(0.95,))
    rules = effort.pick(full=RULES, quick=RULES, tiny=(RED, AVQ))
    wanted = [
        Run(rule=rule, theta=theta, seed=0, seconds=effort.seconds, warm_up_s=effort.warm_up_s, cross=cross)
        for cross in ((False,) if effort.is_tiny else (False, True))
        for rule in rules
        for theta in (thetas if rule.has_theta else (0.0,))
    ]
    points = _points(effort, wanted)
    compared = tuple(
        _compare(rule, point, points)
        for point in points
        if point.marking in (RED.name, RED_16.name) and not point.cross
        for rule in (VQ.name, AVQ.name, STEP.name)
    )
    return Markings(
        title="Marking rules: use, waiting and losses",
        expectations=_judged(points, compared, effort),
        points=tuple(points),
        compared=compared,
    )


def _points(effort: Effort, wanted: list[Run]) -> list[Point]:
    runs = [replace(it, seed=seed) for it in wanted for seed in range(1, effort.seeds + 1)]
    seen = effort.each(measure, runs)
    return [_point(it, seen[number * effort.seeds : (number + 1) * effort.seeds]) for number, it in enumerate(wanted)]


def _point(it: Run, seen: list[_Seen]) -> Point:
    utilisation, queue, p99, lost, marked = (mean_of(values) for values in zip(*seen, strict=True))
    return Point(
        marking=it.rule.name,
        theta=it.theta,
        cross=it.cross,
        utilisation=utilisation,
        queue_mean_ms=queue,
        queue_p99_ms=p99,
        lost_share=lost,
        marked_share=marked,
    )


def measure(it: Run) -> _Seen:
    """One run."""
    flows = one_to_three(USUAL_USERS, rtt_ms=USUAL_RTT_MS)
    if it.cross:
        cross = {"kind": "unresponsive", "rate_bit_s": CROSS_SHARE * CAPACITY_BIT_S, "pattern": "poisson"}
        flows.append({"name": "cross", "reactor": cross})
    results = run_packets(
        bottleneck(
            flows,
            rule=it.rule,
            seed=it.seed,
            seconds=it.seconds,
            warm_up_s=it.warm_up_s,
            theta=it.theta or None,
        )
    )
    link = results.links[0]
    return link.utilisation, link.queue_mean_ms, link.queue_p99_ms, link.lost_share, link.marked_share


def queue_at(points: list[Point], utilisation: float) -> float | None:
    """In between two points, in a line."""
    ordered = sorted((point.utilisation.mean, point.queue_mean_ms.mean) for point in points)
    for (low, queue), (high, next_queue) in pairwise(ordered):
        if low <= utilisation <= high and high > low:
            return queue + (next_queue - queue) * (utilisation - low) / (high - low)
    return None


def _compare(rule: str, red: Point, points: list[Point]) -> Compared:
    of_rule = [point for point in points if point.marking == rule and not point.cross]
    return Compared(
        rule=rule,
        red=red.marking,
        red_theta=red.theta,
        utilisation=red.utilisation.mean,
        red_queue_ms=red.queue_mean_ms.mean,
        queue_ms=queue_at(of_rule, red.utilisation.mean),
    )


def _judged(points: list[Point], compared: tuple[Compared, ...], effort: Effort) -> tuple[Expectation, ...]:
    found = []
    for rule in (AVQ, VQ):
        pairs = [
            each for each in compared if each.rule == rule.name and each.red == RED.name and each.queue_ms is not None
        ]
        shorter = sum(1 for each in pairs if each.queue_ms is not None and each.queue_ms < each.red_queue_ms)
        found.append(
            expect(
                f"{rule.name} waits less than RED at equal utilisation",
                expected="a shorter mean queue than ALTQ's RED at each utilisation that both reach",
                measured=", ".join(
                    f"{each.utilisation:.0%}: {each.queue_ms:.1f} ms against {each.red_queue_ms:.1f}"
                    for each in pairs
                    if each.queue_ms is not None
                )
                or "no utilisation in common",
                holds=None if effort.is_tiny or not pairs else shorter == len(pairs),
            )
        )
    avq = [p for p in points if p.marking == AVQ.name and p.theta == max(q.theta for q in points)]
    lost = max(point.lost_share.mean for point in avq)
    found.append(
        expect(
            f"AVQ of {avq[0].theta:g} loses nearly nothing",
            expected=f"below {NEAR_ZERO:.1%} of packets, with and without cross traffic",
            measured=f"at most {lost:.3%}",
            holds=None if effort.is_tiny else lost < NEAR_ZERO,
        )
    )
    return tuple(found)
