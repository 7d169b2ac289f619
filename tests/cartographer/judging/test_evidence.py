"""The sequential test: its error rate by importance sampling, its power, and the binomial tail."""

from __future__ import annotations

import math
import random

import pytest

from cartographer.judging.evidence import Evidence, tail
from cartographer.judging.terms import JudgingTerms, Odds

TERMS = JudgingTerms()
BOUND = math.log(TERMS.tests_per_isp / TERMS.false_alarm)


def false_alarm(odds: Odds, *, bound: float, looks: int, runs: int, seed: int) -> tuple[float, float]:
    """The probability that an honest ISP at the border (bad with exactly q) is ever accused in `looks` epochs.

    Drawn from the mixture that the evidence is the likelihood ratio of, each accusation counts one over that ratio:
    E_honest[1{accused}] = E_mixture[1{accused} / ratio].  Gives mean and standard error.
    """
    chance = random.Random(seed)
    weights = [0.5 / (n * (n + 1)) + 0.5 / looks for n in range(1, looks + 1)]
    values = []
    for _ in range(runs):
        start = chance.choices(range(1, looks + 1), weights)[0] if chance.random() < sum(weights) else looks + 1
        evidence, spent, value = Evidence(), 0.0, 0.0
        for number in range(1, looks + 1):
            spent += weights[number - 1]
            is_bad = chance.random() < (odds.greedy if number >= start else odds.honest)
            nats = evidence.add(is_bad, odds, looks=looks, now_ns=number)
            if nats >= bound:
                value = 1 / (math.exp(nats) + max(0.0, 1 - spent))
                break
        values.append(value)
    mean = sum(values) / runs
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values)) / runs


@pytest.mark.parametrize("odds", [TERMS.drops, TERMS.fakes, TERMS.ignores])
def test_an_honest_isp_is_accused_by_one_test_in_160000_at_most_short(odds: Odds) -> None:
    """300 looks: the long form has all 10,000."""
    mean, error = false_alarm(odds, bound=BOUND, looks=300, runs=150, seed=1)
    assert 0 < mean + 3 * error < TERMS.false_alarm / TERMS.tests_per_isp


@pytest.mark.deep
@pytest.mark.parametrize("odds", [TERMS.drops, TERMS.fakes, TERMS.ignores])
def test_an_honest_isp_is_accused_by_one_test_in_160000_at_most(odds: Odds) -> None:
    mean, error = false_alarm(odds, bound=BOUND, looks=10_000, runs=2000, seed=1)
    assert 0 < mean + 3 * error < TERMS.false_alarm / TERMS.tests_per_isp


def test_with_a_bound_that_can_be_counted_honest_ones_are_accused_as_seldom_as_stated() -> None:
    """Plain counting, at one in ten: the law is the same at every bound."""
    chance, odds, accused = random.Random(2), TERMS.drops, 0
    for _ in range(400):
        evidence = Evidence()
        accused += any(
            evidence.add(chance.random() < odds.honest, odds, looks=500, now_ns=n) >= math.log(10) for n in range(500)
        )
    assert accused <= 400 * 0.1


@pytest.mark.parametrize(
    ("odds", "at_once", "late"), [(TERMS.drops, 7, 11), (TERMS.fakes, 13, 20), (TERMS.ignores, 9, 15)]
)
def test_who_is_always_bad_is_found_soon_and_a_late_turn_takes_a_little_longer(
    odds: Odds, at_once: int, late: int
) -> None:
    for honest, most in ((0, at_once), (5000, late)):
        evidence, needed = Evidence(), 0
        for number in range(honest):
            evidence.add(False, odds, looks=TERMS.looks, now_ns=number)
        while evidence.nats < BOUND:
            needed += 1
            evidence.add(True, odds, looks=TERMS.looks, now_ns=honest + needed)
        assert needed == most
        assert evidence.since_ns >= honest
        assert evidence.bad == needed


def test_it_never_overflows_and_begins_anew() -> None:
    evidence = Evidence()
    for number in range(25_000):
        evidence.add(False, TERMS.ignores, looks=10_000, now_ns=number)
    assert evidence.epochs == 5000
    assert math.isfinite(evidence.nats)


@pytest.mark.parametrize(("packets", "lost", "loss"), [(10, 3, 0.05), (100, 12, 0.05), (400, 40, 0.1), (8, 8, 0.5)])
def test_the_tail_is_the_binomial_laws(packets: int, lost: int, loss: float) -> None:
    exact = sum(math.comb(packets, k) * loss**k * (1 - loss) ** (packets - k) for k in range(lost, packets + 1))
    assert tail(packets, lost, loss) == pytest.approx(exact, rel=1e-9)
    assert tail(packets, 0, loss) == 1.0


def test_odds_that_prove_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="honest < greedy"):
        Odds(honest=0.5, greedy=0.5)
