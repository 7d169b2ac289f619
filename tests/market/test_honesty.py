"""Detectors: nobody honest is accused, whatever the noise; who lies is found as soon as it is promised."""

from __future__ import annotations

import math
import random

import pytest

from market.honesty import Finding, ReceiverWatch, Reconciling

# --- a receiver that reports (sender pays) ----------------------------------------------------------------------------


def receiver_session(
    draw: random.Random, terms: Reconciling, *, share: float, marks: int, loss: float, honest_marks: int = 0
) -> int | None:
    """Marks that the provider had counted, beyond the honest ones, when the lie is found. Nothing is aligned in time.

    The provider counts a mark and reads its counter every 150..350 ms; what is not lost arrives up to 80 ms later; the
    receiver reports every 250 ms from a phase of its own, and a report in fifty is lost, or comes late.
    """
    watch = ReceiverWatch(terms)
    rate_ms = draw.uniform(2, 40)
    at, counted, reported = 0.0, 0, 0
    arrivals: list[tuple[float, bool]] = []
    next_report, next_reading = draw.uniform(0, 250), draw.uniform(0, 300)
    heard: list[tuple[float, float, int]] = []
    total = marks + honest_marks
    passed = 0
    while passed < total:
        at += draw.expovariate(1 / rate_ms)
        while next_report < at or next_reading < at:
            if next_reading <= next_report:
                watch_finding = watch.on_provider(int(next_reading), counted)
                next_reading += draw.uniform(150, 350)
            else:
                there = [one for one in arrivals if one[0] <= next_report]
                arrivals = [one for one in arrivals if one[0] > next_report]
                reported += sum(kept for _, kept in there)
                if draw.random() > 0.02:
                    heard.append((next_report + draw.expovariate(1 / 30), next_report, reported))
                next_report += 250
                watch_finding = Finding.HONEST
            for came in [one for one in heard if one[0] <= at]:
                heard.remove(came)
                if watch.on_report(int(came[1]), came[2]) is Finding.LYING_RECEIVER:
                    watch_finding = Finding.LYING_RECEIVER
            if watch_finding is Finding.LYING_RECEIVER:
                return max(0, passed - honest_marks)
        passed += 1
        counted += draw.random() < terms.sampled
        lies = passed > honest_marks and draw.random() >= share
        if draw.random() >= loss:
            arrivals.append((at + draw.uniform(5, 80), not lies))
    return None


def test_the_weights_are_those_of_a_fair_game_and_of_walds_test() -> None:
    """θ and c keep the expectation at 1 for an honest receiver; for a whole count they are the likelihood ratios."""
    theta, price = Reconciling().weights()
    assert math.exp(theta) == pytest.approx(0.5 / 0.05, rel=1e-6)
    assert math.exp(theta - price) == pytest.approx(0.5 / 0.95, rel=1e-6)
    for sampled in (1.0, 0.5, 0.1):
        for loss in (0.01, 0.05, 0.2):
            theta, price = Reconciling(sampled=sampled, honest_loss=loss).weights()
            each = (1 - sampled + sampled * math.exp(theta)) * (loss + (1 - loss) * math.exp(-price))
            assert each == pytest.approx(1.0, abs=1e-9)
            assert Reconciling(sampled=sampled, honest_loss=loss).growth_nats_per_mark() > 0


def exact_false_alarm(terms: Reconciling, *, loss: float, marks: int) -> float:
    """The probability that an honest receiver is ever accused within so many marks, by its distribution, mark by mark.

    Of the first start alone, which has half the weight; at each mark a look, which is the most that anybody can look.
    """
    theta, price = terms.weights()
    bound = -math.log(terms.false_alarm) + math.log(2)
    alive, accused = {0: 1.0}, 0.0
    for mark in range(1, marks + 1):
        following: dict[int, float] = {}
        for lost, probability in alive.items():
            for more, weight in ((1, loss), (0, 1 - loss)):
                if theta * mark - price * (mark - lost - more) >= bound:
                    accused += probability * weight
                else:
                    following[lost + more] = following.get(lost + more, 0.0) + probability * weight
        alive = following
    return accused


@pytest.mark.row("DPH-07")
def test_false_alarms_are_below_one_in_ten_thousand_by_exact_reckoning() -> None:
    """At the most that may be lost, and looked at after every mark of a thousand."""
    assert 1e-6 < exact_false_alarm(Reconciling(), loss=0.05, marks=1_000) <= 0.5e-4
    assert exact_false_alarm(Reconciling(), loss=0.01, marks=1_000) < 1e-8


@pytest.mark.row("DPH-07")
def test_a_receiver_that_reports_half_its_marks_is_found_within_a_hundred() -> None:
    draw = random.Random(4)
    found = [receiver_session(draw, Reconciling(), share=0.5, marks=3_000, loss=0.02) for _ in range(100)]
    assert all(at is not None for at in found)
    # what the evidence needs, apart from how seldom the meters are read: reckoned in the next test
    growth = Reconciling().growth_nats_per_mark()
    assert (math.log(1e4) + math.log(2)) / growth < 12


def marks_needed(draw: random.Random, terms: Reconciling, *, share: float, before: int = 0) -> int:
    """Marks of a lie until it is found when both meters are read after each five marks, and the same report covers."""
    watch = ReceiverWatch(terms)
    counted = reported = 0
    for mark in range(1, 100_000):
        counted += draw.random() < terms.sampled
        lost, hidden = draw.random() < 0.02, mark > before and draw.random() >= share
        reported += not lost and not hidden
        if mark % 5 == 0:
            at = mark * 1_000
            findings = (watch.on_provider(at, counted), watch.on_report(at + terms.slack_ms, reported))
            if Finding.LYING_RECEIVER in findings:
                return mark - before
    raise AssertionError("never found")


@pytest.mark.row("DPH-07")
@pytest.mark.parametrize("before", [0, 60, 1_000], ids=lambda before: f"honest for {before}")
def test_a_lie_is_found_within_a_hundred_marks_whenever_it_begins(before: int) -> None:
    draw = random.Random(5)
    needed = [marks_needed(draw, Reconciling(), share=0.5, before=before) for _ in range(200)]
    assert max(needed) <= 100


@pytest.mark.parametrize("sampled", [0.5, 0.125])
def test_a_sample_of_the_marks_finds_it_too_and_says_how_much_later(sampled: float) -> None:
    """The evidence of a sample grows more slowly: the marks needed are some ln(2/α)/growth."""
    terms = Reconciling(sampled=sampled)
    expected = math.log(2 / terms.false_alarm) / terms.growth_nats_per_mark()
    draw = random.Random(6)
    needed = sorted(marks_needed(draw, terms, share=0.5) for _ in range(60))
    assert needed[30] <= 1.5 * expected + 5


def test_honest_receivers_are_not_accused_whatever_is_lost_late_and_read_at_other_times() -> None:
    draw = random.Random(7)
    for sampled in (1.0, 0.25):
        terms = Reconciling(sampled=sampled)
        accused = [receiver_session(draw, terms, share=1.0, marks=300, loss=0.03) for _ in range(150)]
        assert accused == [None] * 150


@pytest.mark.deep
def test_at_most_one_false_alarm_in_ten_thousand_honest_sessions() -> None:
    """At the very loss that is allowed, for 400 marks each."""
    draw = random.Random(8)
    alarms = sum(
        receiver_session(draw, Reconciling(), share=1.0, marks=400, loss=0.05) is not None for _ in range(10_000)
    )
    assert alarms <= 1


@pytest.mark.deep
def test_every_lie_of_ten_thousand_is_found_within_a_hundred_marks() -> None:
    draw = random.Random(9)
    for before, runs in ((0, 10_000), (40, 10_000), (1_000, 1_000)):
        needed = [marks_needed(draw, Reconciling(), share=0.5, before=before) for _ in range(runs)]
        assert max(needed) <= 100


@pytest.mark.parametrize(
    "wrong",
    [{"sampled": 0.0}, {"honest_loss": 0.0}, {"honest_loss": 0.6}, {"false_alarm": 0.0}, {"slack_ms": -1}],
)
def test_terms_that_cannot_be_tested_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="false_alarm"):
        Reconciling(**wrong)  # type: ignore[arg-type]
