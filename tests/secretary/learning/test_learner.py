"""The learner as a whole: synthetic people answer, and it must learn, unlearn, ask little, and say how sure it is."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretary.learning import model
from secretary.learning.asking import AskingSettings
from secretary.learning.learner import Learner, LearnerState
from secretary.opinions import Course
from secretary.transfers import Moment, Transfer

DAY_S = 86_400
PROGRAMS = ("firefox", "zoom", "restic", "app7")


def at(day: float) -> Moment:
    return Moment(unix_s=int(day * DAY_S), boot_ns=0, boot="", zone=datetime.UTC)


def a_transfer(program: str = "firefox", price: int = 1_000_000, **more: object) -> Transfer:
    fields: dict[str, object] = {"destination": "a.example.org", "network": "home", "foreground": True}
    fields |= {"size_bytes": 1_000_000} | more
    return msgspec.convert({"user": "ann", "program": program, "price_nanodollars": price} | fields, Transfer)


def requests(seed: int, *, days: int, scale: float = 1e6, a_day: int = 12) -> list[tuple[float, Transfer, float]]:
    """When, what, and the middle of its worth as a logarithm."""
    draw = random.Random(seed)
    level = {program: draw.gauss(0, 1) for program in PROGRAMS}
    seen = []
    for day in sorted(draw.uniform(0, days) for _ in range(days * a_day)):
        program = draw.choice(PROGRAMS)
        fore, network = draw.random() < 0.5, draw.choice(("home", "lte"))
        middle = math.log(scale) + level[program] + (0.3 if fore else -0.3) + (0.2 if network == "lte" else 0)
        price = round(scale * math.exp(draw.gauss(0, 1)))
        seen.append((day, a_transfer(program, price, foreground=fore, network=network), middle))
    return seen


class Life:
    """A person's weeks with the learner: what was gained, asked, foretold."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.asked: list[float] = []
        self.gained = self.possible = 0.0
        self.foretold: list[tuple[float, bool]] = []

    def live(
        self, seen: list[tuple[float, Transfer, float]], worth: Callable[[float, Transfer, float], float], judged: float
    ) -> Life:
        for day, transfer, middle in seen:
            truth, price = math.exp(worth(day, transfer, middle)), transfer.price_nanodollars
            opinion = self.learner.opinion(transfer, at(day))
            paid = opinion.course is Course.PAY
            if opinion.course is Course.ASK:
                self.asked.append(day)
                paid = truth >= price
                self.learner.on_answer(len(self.asked), transfer, at(day), accepted=paid)
            self.learner.on_request(transfer, at(day))
            if day >= judged:
                self.gained += (truth - price) * paid
                self.possible += max(0.0, truth - price)
                self.foretold.append((opinion.accept_ppm / 1e6, truth >= price))
        return self

    def questions_a_day(self, since: float, until: float) -> float:
        return sum(since <= day < until for day in self.asked) / (until - since)


def noisy(seed: int, noise: float = 0.3) -> Callable[[float, Transfer, float], float]:
    draw = random.Random(seed)
    return lambda _day, _transfer, middle: middle + draw.gauss(0, noise)


def taught(answers: int = 6, *, eager: bool = True) -> Learner:
    learner = Learner(eager=eager)
    for number, (day, transfer, middle) in enumerate(requests(3, days=10)[: answers * 5]):
        learner.on_request(transfer, at(day))
        if number % 5 == 0:
            learner.on_answer(number, transfer, at(day), accepted=middle >= math.log(transfer.price_nanodollars))
    return learner


@pytest.fixture(scope="module")
def people() -> list[Life]:
    return [Life(Learner()).live(requests(seed, days=35), noisy(seed), judged=14) for seed in range(6)]


@pytest.mark.row("BP-37")
def test_from_the_third_week_it_gains_most_of_what_knowing_every_worth_would(people: list[Life]) -> None:
    assert sum(life.gained for life in people) >= 0.9 * sum(life.possible for life in people)


@pytest.mark.expectation(8)
def test_questions_are_few_and_become_fewer(people: list[Life]) -> None:
    weeks = [sum(life.questions_a_day(7 * n, 7 * n + 7) for life in people) / len(people) for n in range(5)]
    assert weeks[0] <= 2.2
    assert all(rate <= 0.7 for rate in weeks[2:])
    assert max(weeks[3:]) < weeks[1] < weeks[0]


def test_what_it_foretells_happens_about_as_often(people: list[Life]) -> None:
    foretold = [pair for life in people for pair in life.foretold]
    for low in (0.0, 0.25, 0.5, 0.75):
        part = [pair for pair in foretold if low <= pair[0] < low + 0.25 + (low == 0.75)]
        assert sum(p for p, _ in part) / len(part) == pytest.approx(sum(yes for _, yes in part) / len(part), abs=0.12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10**14), min_size=2, max_size=8), st.sampled_from(PROGRAMS), st.booleans())
def test_a_higher_price_is_never_more_welcome(prices: list[int], program: str, is_taught: bool) -> None:
    learner = TAUGHT if is_taught else UNTAUGHT
    chances = [learner.accept_probability(a_transfer(program), at(9), price) for price in sorted(prices)]
    assert chances == sorted(chances, reverse=True)
    for price in prices:
        opinion = learner.opinion(a_transfer(program, price), at(9), may_ask=False)
        assert opinion.course is (Course.PAY if price <= opinion.limit_nanodollars else Course.DECLINE)
        assert opinion.low_nanodollars <= opinion.high_nanodollars


TAUGHT, UNTAUGHT = taught(), Learner()


def test_an_answer_undone_is_as_if_never_given() -> None:
    learner, other = taught(), taught()
    later = a_transfer("restic", 77_000_000)
    learner.on_answer(1000, later, at(8), accepted=True)
    assert learner.opinion(later, at(8)) != other.opinion(later, at(8))
    for day, transfer, _ in requests(4, days=12)[-30:]:
        learner.on_request(transfer, at(day))
        other.on_request(transfer, at(day))
    learner.forget(1000)
    learner.forget(1000)
    assert [learner.opinion(one, at(12)) for _, one, _ in requests(5, days=2)] == [
        other.opinion(one, at(12)) for _, one, _ in requests(5, days=2)
    ]
    assert learner.snapshot() == other.snapshot()


def test_a_restart_changes_nothing() -> None:
    learner = taught()
    stored = msgspec.json.encode(learner.snapshot())
    again = Learner.restore(msgspec.json.decode(stored, type=LearnerState))
    for day, transfer, _ in requests(6, days=8):
        assert again.opinion(transfer, at(10 + day)) == learner.opinion(transfer, at(10 + day))
        learner.on_request(transfer, at(10 + day))
        again.on_request(transfer, at(10 + day))
    assert again.snapshot() == learner.snapshot()


def test_work_done_elsewhere_gives_the_same_opinions() -> None:
    eager, patient = taught(), taught(eager=False)
    work = patient.due_work()
    assert work is not None
    patient.take(work())
    assert patient.due_work() is None
    assert patient.opinion(a_transfer(), at(10)) == eager.opinion(a_transfer(), at(10))


def test_a_late_result_does_not_replace_a_later_one() -> None:
    learner = taught(eager=False)
    early = learner.due_work()
    learner.on_answer(500, a_transfer(price=10**9), at(7), accepted=True)
    late = learner.due_work()
    assert early is not None
    assert late is not None
    learner.take(late())
    opinion = learner.opinion(a_transfer(), at(8))
    learner.take(early())
    assert learner.opinion(a_transfer(), at(8)) == opinion


def test_a_new_program_starts_from_its_kind() -> None:
    learner = Learner()
    for number, name in enumerate(("firefox", "chromium", "restic", "borg") * 4):
        transfer = a_transfer(name, 1_000_000)
        learner.on_request(transfer, at(number / 8))
        learner.on_answer(number, transfer, at(number / 8), accepted=name in ("firefox", "chromium"))
    like_web = learner.accept_probability(a_transfer("brave"), at(3), 1_000_000)
    like_backup = learner.accept_probability(a_transfer("kopia"), at(3), 1_000_000)
    unknown = learner.accept_probability(a_transfer("qqq"), at(3), 1_000_000)
    assert like_backup < unknown < like_web
    assert learner.accept_probability(a_transfer("my-backup-2"), at(3), 1_000_000) == pytest.approx(like_backup)
    assert learner.accept_probability(a_transfer("qqq", kind="web"), at(3), 1_000_000) > unknown


def test_before_anything_was_seen_the_table_speaks() -> None:
    opinion = Learner().opinion(a_transfer("firefox", 4_000_000), at(0), may_ask=False)
    assert opinion.low_nanodollars < 5_000_000 < opinion.high_nanodollars
    assert opinion.basis.startswith("what people pay for web")


@pytest.mark.parametrize("scale", [1e4, 1e10])
def test_the_unit_of_money_does_not_matter(scale: float) -> None:
    lives = [Life(Learner()).live(requests(s, days=28, scale=scale), noisy(s), judged=14) for s in (0, 1)]
    assert sum(life.gained for life in lives) >= 0.85 * sum(life.possible for life in lives)


def test_after_a_step_it_finds_the_new_worths() -> None:
    def stepped(day: float, _transfer: Transfer, middle: float) -> float:
        return middle + (0 if day < 20 else 1.5)

    life = Life(Learner()).live(requests(2, days=42), stepped, judged=35)
    assert life.questions_a_day(20, 35) > 0
    assert life.gained >= 0.9 * life.possible


def test_who_answers_at_random_is_asked_less() -> None:
    coin = random.Random(0)
    steady = Life(Learner()).live(requests(0, days=42), noisy(0), judged=0)
    erratic = Life(Learner()).live(requests(0, days=42), lambda *_: 14 + 6 * coin.choice((-1, 1)), judged=0)
    assert erratic.questions_a_day(28, 42) < steady.questions_a_day(28, 42)


def test_no_question_where_none_is_allowed_or_nothing_is_to_pay() -> None:
    learner = Learner(settings=AskingSettings(interruption_nanodollars=0))
    assert learner.opinion(a_transfer(price=0, size_bytes=0), at(0)).course is Course.PAY
    assert learner.opinion(a_transfer(price=10**9), at(0), may_ask=False).course is not Course.ASK


def test_saying_why() -> None:
    opinion = taught().opinion(a_transfer("firefox"), at(9))
    assert opinion.answers >= 1
    assert "about firefox, and what people pay for web: " in opinion.basis
    assert opinion.basis.endswith(" % sure")


def test_a_clock_set_back_or_far_ahead_ends_nothing() -> None:
    learner = taught()
    learner.on_answer(900, a_transfer(), at(4000), accepted=True)
    for day, transfer, _ in requests(1, days=3):
        learner.opinion(transfer, at(5 + day))
        learner.on_request(transfer, at(5 + day))
    courses = {learner.opinion(transfer, at(5 + day)).course for day, transfer, _ in requests(1, days=9) if day > 5}
    assert Course.ASK in courses


@pytest.mark.parametrize("is_surprise", [True, False])
def test_a_surprise_makes_a_known_program_doubtful(is_surprise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def width(surprise: float) -> float:
        monkeypatch.setattr(model, "SURPRISE", surprise)
        learner = Learner()
        for number in range(10):
            transfer = a_transfer(price=500_000 if number % 2 else 700_000)
            learner.on_request(transfer, at(number))
            learner.on_answer(number, transfer, at(number), accepted=True)
        learner.on_answer(10, a_transfer(price=200_000), at(10), accepted=not is_surprise)
        opinion = learner.opinion(a_transfer(), at(12))
        return math.log(opinion.high_nanodollars / opinion.low_nanodollars)

    assert (width(0.1) > 1.05 * width(0.0)) == is_surprise
