"""What people of one secretary have in common: learnt from others, unlearnt with their answers, no harm alone."""

from __future__ import annotations

import datetime
import math
import random

import msgspec
import pytest

from secretary.learning.commons import Commons, Shared
from secretary.learning.learner import Learner, LearnerState
from secretary.learning.model import log_prior
from secretary.transfers import Moment, Transfer

DAY_S = 86_400
PROGRAMS = ("app1", "app2", "app3", "app4")


def at(day: float) -> Moment:
    return Moment(unix_s=int(day * DAY_S), boot_ns=0, boot="", zone=datetime.UTC)


def a_transfer(program: str = "app1", price: int = 1_000_000, *, foreground: bool = True) -> Transfer:
    return Transfer(
        user="ann",
        program=program,
        destination="a.example.org",
        network="home",
        foreground=foreground,
        size_bytes=1_000_000,
        price_nanodollars=price,
    )


def live(learner: Learner, seed: int, *, answers: int = 16, level: float = 0.0) -> Learner:
    """A person to whom everything is worth e^level million, and app4 four times as much; all the same but for noise."""
    draw = random.Random(seed)
    for number in range(answers * 3):
        program, day = draw.choice(PROGRAMS), number / 4
        transfer = a_transfer(program, round(1e6 * math.exp(draw.gauss(0, 1))), foreground=draw.random() < 0.5)
        learner.on_request(transfer, at(day))
        if number % 3 == 0:
            worth = 1e6 * math.exp(level + draw.gauss(0, 0.3)) * (4 if program == "app4" else 1)
            learner.on_answer(number, transfer, at(day), accepted=worth >= transfer.price_nanodollars)
    return learner


def newcomer(commons: Commons) -> Learner:
    learner = Learner(commons=commons)
    for number, program in enumerate(PROGRAMS):
        learner.on_request(a_transfer(program), at(20 + number / 8))
    return learner


@pytest.fixture(scope="module")
def village() -> Commons:
    commons = Commons()
    for seed in range(6):
        live(Learner(commons=commons), seed, level=1.0)
    return commons


def test_who_is_alone_starts_from_what_is_shipped() -> None:
    commons = Commons()
    alone, other = live(Learner(commons=commons), 1), live(Learner(), 1)
    assert commons.shared(1, log_prior()) == Shared()
    assert alone.snapshot() == other.snapshot()
    assert alone.opinion(a_transfer(), at(20)) == other.opinion(a_transfer(), at(20))


def test_a_newcomer_starts_where_the_others_are(village: Commons) -> None:
    taught, untaught = newcomer(village), newcomer(Commons())
    price = 2_000_000
    assert untaught.accept_probability(a_transfer(), at(21), price) < 0.4
    assert taught.accept_probability(a_transfer(), at(21), price) > 0.5


def test_what_others_say_of_a_name_counts(village: Commons) -> None:
    taught, untaught = newcomer(village), newcomer(Commons())
    ratios = [
        one.opinion(a_transfer("app4"), at(21)).limit_nanodollars
        / one.opinion(a_transfer("app1"), at(21)).limit_nanodollars
        for one in (taught, untaught)
    ]
    assert ratios[0] > 1.2 * ratios[1]


def test_own_answers_come_before_those_of_others() -> None:
    commons = Commons()
    for seed in range(3):
        live(Learner(commons=commons), seed, level=1.0)
    poor = live(Learner(commons=commons), 77, answers=24, level=-1.5)
    assert poor.accept_probability(a_transfer(), at(20), 2_000_000) < 0.2


def test_an_answer_undone_is_out_of_what_is_shared() -> None:
    commons, other = Commons(), Commons()
    for one in (commons, other):
        live(Learner(commons=one), 1)
    learners = [live(Learner(commons=one), 2, answers=8) for one in (commons, other)]
    learners[0].on_answer(1000, a_transfer(price=10**9), at(11), accepted=True)
    assert newcomer(commons).snapshot().shared != newcomer(other).snapshot().shared
    learners[0].forget(1000)
    assert newcomer(commons).snapshot().shared == newcomer(other).snapshot().shared


def test_who_undoes_every_answer_teaches_nothing() -> None:
    commons = Commons()
    learner = Learner(commons=commons)
    learner.on_request(a_transfer(), at(0))
    learner.on_answer(1, a_transfer(), at(0), accepted=True)
    assert commons.shared(2, log_prior()).people == 1
    learner.forget(1)
    assert commons.shared(2, log_prior()) == Shared()


def test_nobody_hears_their_own_answers_twice(village: Commons) -> None:
    assert village.shared(1, log_prior()).people == 5
    assert village.shared(99, log_prior()).people == 6


def test_a_restart_changes_nothing() -> None:
    commons = Commons()
    learners = [live(Learner(commons=commons), seed) for seed in (1, 2, 3)]
    again = Commons()
    states = [msgspec.json.decode(msgspec.json.encode(one.snapshot()), type=LearnerState) for one in learners]
    restored = [Learner.restore(state, commons=again) for state in states]
    for one, other in zip(learners, restored, strict=True):
        assert other.opinion(a_transfer(), at(20)) == one.opinion(a_transfer(), at(20))
    assert newcomer(again).snapshot() == newcomer(commons).snapshot()


def test_an_answer_of_one_computes_nothing_for_another() -> None:
    commons = Commons()
    quiet, busy = live(Learner(commons=commons), 1), Learner(commons=commons)
    before = quiet.opinion(a_transfer(), at(20))
    live(busy, 2)
    assert quiet.due_work() is None
    assert quiet.opinion(a_transfer(), at(20)) == before
