"""One judgement: who is heard first, what cuts it, when a person is asked; and judging changes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.guard.values import Alarm, Detector
from secretary.guard.watching import Guard
from secretary.inbox.inbox import Inbox
from secretary.inbox.questions import (
    About,
    Answered,
    Asked,
    Attention,
    Group,
    Joined,
    Manners,
    Proposal,
    Reason,
    group_of,
)
from secretary.judging import NO_LIMIT, SURE_PPM, Judge, Judgement, Policy
from secretary.learning.learner import Learner
from secretary.opinions import Course, Opinion
from secretary.ruling.ceilings import Ceiling, Placed, place
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Most, Pay, Rule, Source
from secretary.ruling.terms import Term
from secretary.transfers import Moment, Transfer

NOON = 20_000 * 86_400 + 43_200
T = Transfer(
    user="ann", program="firefox", kind="web", destination="www.example.org", size_bytes=10**6, price_nanodollars=100
)
NEVER, ASK = Rule(name="never", pay=Pay.NEVER), Rule(name="ask", pay=Pay.ASK)
PACKETS = Rule(name="packets", amount_nanodollars=20, willingness_nanodollars=20, grant_nanodollars=100)
UP_TO = Rule(name="up-to", most=Most(mb_nanodollars=100))
OPINION = Opinion(
    course=Course.PAY,
    otherwise=Course.PAY,
    limit_nanodollars=1_000,
    accept_ppm=800_000,
    low_nanodollars=500,
    high_nanodollars=2_000,
    answers=3,
    basis="your 3 answers",
)


def now(after_s: int = 0) -> Moment:
    return Moment(unix_s=NOON + after_s, boot_ns=(NOON + after_s) * 10**9, boot="b", zone=UTC)


class Fixed(Learner):
    """Says what it is told to."""

    def __init__(self, opinion: Opinion | None) -> None:
        self.told = opinion
        self.requests = 0
        self.answers: dict[int, tuple[int, bool]] = {}

    def opinion(self, transfer: Transfer, now: Moment, *, may_ask: bool = True) -> Opinion:
        assert self.told is not None
        return self.told

    def on_request(self, transfer: Transfer, now: Moment) -> None:
        self.requests += 1

    def on_answer(self, number: int, transfer: Transfer, now: Moment, *, accepted: bool) -> None:
        self.answers[number] = transfer.price_nanodollars, accepted

    def forget(self, number: int) -> None:
        self.answers.pop(number, None)


def judge_with(
    *rules: Rule, opinion: Opinion | None = OPINION, organisation: tuple[Rule, ...] = (), **changes: Any
) -> Judge:
    policy = Policy(
        book=Rulebook(own=rules, organisation=organisation),
        ceilings=changes.pop("ceilings", ()),
        learns=changes.pop("learns", True),
    )
    given: dict[str, Any] = {"make_learner": lambda: Fixed(opinion), "make_guard": Guard} | changes
    return Judge(policy, Inbox(Manners(quiet_from=0, quiet_until=0, pause_s=0)), **given)


def answer(judge: Judge, *, accept: bool, term: Term = Term.ALWAYS, transfer: Transfer = T) -> int:
    """A question that was asked, and its answer."""
    asking = replace(OPINION, course=Course.ASK, otherwise=Course.DECLINE)
    judgement = Judgement(
        transfer=transfer,
        course=Course.DECLINE,
        limit_nanodollars=0,
        packet_nanodollars=0,
        code="declined",
        lines=("",),
        opinion=asking,
    )
    for entry in judge.ask(judgement, now()):
        judge.apply(entry, now())
    number = max(question.number for question in judge.inbox.questions(now()))
    said = judge.inbox.answer(number, now(), accept=accept, term=term)
    assert said is not None
    judge.apply(said, now())
    return number


# --- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "organisation", "source", "course"),
    [
        ((), (), Source.LEARNED, Course.PAY),
        ((), (NEVER,), Source.ORGANISATION, Course.DECLINE),
        ((UP_TO,), (NEVER,), Source.PERSON, Course.PAY),
        ((NEVER, UP_TO), (), Source.PERSON, Course.DECLINE),
        ((PACKETS,), (NEVER,), Source.PERSON, Course.PAY),
    ],
)
def test_the_order_in_which_the_judges_are_heard(
    rules: tuple[Rule, ...], organisation: tuple[Rule, ...], source: Source, course: Course
) -> None:
    organisation = tuple(replace(rule, source=Source.ORGANISATION) for rule in organisation)
    judgement = judge_with(*rules, organisation=organisation).judge(T, now())
    assert (judgement.source, judgement.course) == (source, course)
    assert judgement.why
    assert len(judgement.why.splitlines()) == 1


def test_an_answer_goes_before_rules_and_a_freeze_before_all() -> None:
    judge = judge_with(NEVER)
    answer(judge, accept=True)
    said = judge.judge(T, now())
    assert (said.source, said.course, said.limit_nanodollars, said.rule) == (Source.ANSWER, Course.PAY, 1_00, None)
    guard = judge.guard_of("ann")
    assert guard is not None
    guard.adopt(alarm_for(T))
    frozen = judge.judge(T, now())
    assert (frozen.code, frozen.pays, frozen.is_refusal) == ("frozen", False, True)


def alarm_for(transfer: Transfer) -> Alarm:
    return Alarm(
        alarm="a",
        program=transfer.program,
        destination=transfer.destination,
        detector=Detector.SURGE,
        why="much more than usual",
        statistic=2.0,
        threshold=1.0,
        false_alarms_per_month=0.1,
        since_unix_s=NOON,
        unix_s=NOON,
    )


def test_a_program_that_nobody_knows_is_not_learned_of() -> None:
    judge = judge_with()
    judgement = judge.judge(msgspec.structs.replace(T, program=""), now())
    assert (judgement.code, judgement.is_refusal) == ("no-rule", True)
    assert judge.learners == {}


def test_judging_changes_nothing() -> None:
    judge = judge_with(ASK)
    first = judge.judge(T, now())
    assert all(judge.judge(T, now()) == first for _ in range(5))
    assert judge.hits.of(ASK) == 0
    assert judge.inbox.questions(now()) == []


# --- what a rule's outcome is for a grant -----------------------------------------------------------------------------


@pytest.mark.parametrize("price", [0, 1, 10**12])
def test_a_rule_of_packets_pays_them_whatever_the_transfer_costs(price: int) -> None:
    judgement = judge_with(PACKETS).judge(msgspec.structs.replace(T, price_nanodollars=price), now())
    assert (judgement.pays, judgement.packet_nanodollars, judgement.limit_nanodollars) == (True, 20, NO_LIMIT)


@pytest.mark.parametrize("pay", [Pay.NEVER, Pay.ASK])
def test_no_other_outcome_pays_for_that_it_could_word_a_grant(pay: Pay) -> None:
    rule = replace(PACKETS, pay=pay)
    judgement = judge_with(rule).judge(T, now())
    assert not judgement.pays
    assert judgement.wants_to_ask is (pay is Pay.ASK)


@given(price=st.integers(0, 300), most=st.integers(0, 300))
def test_a_maximum_price_is_an_inequality(price: int, most: int) -> None:
    rule = Rule(name="most", most=Most(transfer_nanodollars=most))
    judgement = judge_with(rule).judge(msgspec.structs.replace(T, price_nanodollars=price), now())
    assert judgement.pays is (price <= most and (most > 0 or price == 0))
    assert judgement.limit_nanodollars <= most


# --- ceilings ---------------------------------------------------------------------------------------------------------


@given(
    packet=st.none() | st.integers(0, 40),
    transfer=st.none() | st.integers(0, 300),
    day=st.none() | st.integers(0, 300),
    spent=st.integers(0, 300),
    price=st.integers(0, 300),
    rule=st.sampled_from([PACKETS, UP_TO, replace(PACKETS, most=Most(transfer_nanodollars=150))]),
)
def test_nothing_is_over_a_ceiling(
    packet: int | None, transfer: int | None, day: int | None, spent: int, price: int, rule: Rule
) -> None:
    ceiling = Ceiling(name="c", packet_nanodollars=packet, transfer_nanodollars=transfer, day_nanodollars=day)
    without = judge_with(rule)
    judge = judge_with(rule, ceilings=place((ceiling,), ()), spent_today=lambda _: spent)
    asked = msgspec.structs.replace(T, price_nanodollars=price)
    free, cut = without.judge(asked, now()), judge.judge(asked, now())
    assert not cut.pays or free.pays
    assert cut.limit_nanodollars <= free.limit_nanodollars
    if cut.pays:
        assert packet is None or cut.packet_nanodollars <= packet
        assert transfer is None or cut.limit_nanodollars <= transfer
        assert day is None or cut.limit_nanodollars <= max(0, day - spent)
        assert cut.limit_nanodollars >= price


def test_a_days_ceiling_asks_for_what_was_spent_under_it() -> None:
    seen: list[Placed] = []

    def spent(placed: Placed) -> int:
        seen.append(placed)
        return 40

    ceilings = place((Ceiling(name="ours", day_nanodollars=100),), (Ceiling(name="own", day_nanodollars=90),))
    judge = judge_with(PACKETS, ceilings=ceilings, spent_today=spent)
    assert judge.judge(msgspec.structs.replace(T, price_nanodollars=50), now()).limit_nanodollars == 50
    assert judge.judge(msgspec.structs.replace(T, price_nanodollars=51), now()).code == "ceiling"
    assert {placed.ceiling.name for placed in seen} == {"ours", "own"}


# --- the allowance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accept_ppm", "pays"), [(SURE_PPM - 1, False), (SURE_PPM, True)])
def test_when_the_allowance_is_used_up_only_what_is_sure_is_paid_unasked(accept_ppm: int, pays: bool) -> None:
    judge = judge_with(opinion=replace(OPINION, accept_ppm=accept_ppm), unjustified_nanodollars=50)
    assert judge.judge(T, now()).is_unasked
    judge.paid(T, 60, now())
    assert judge.judge(T, now()).pays, "nobody said yet that it was unwanted"
    answer(judge, accept=False, term=Term.ONCE)
    judgement = judge.judge(T, now())
    assert judgement.pays is pays
    assert pays or judgement.code == "allowance"
    assert judge.judge(T, now(86_400)).pays


def test_the_allowance_does_not_touch_what_rules_and_answers_pay() -> None:
    judge = judge_with(PACKETS, unjustified_nanodollars=0)
    assert judge.judge(T, now()).pays
    judge = judge_with(unjustified_nanodollars=0)
    answer(judge, accept=True)
    assert judge.judge(T, now()).pays


# --- questions --------------------------------------------------------------------------------------------------------


def asking(otherwise: Course = Course.DECLINE) -> Opinion:
    return replace(OPINION, course=Course.ASK, otherwise=otherwise, worth_of_asking_nanodollars=5)


@pytest.mark.parametrize("otherwise", [Course.PAY, Course.DECLINE])
def test_what_holds_while_a_question_waits_is_decided_at_once(otherwise: Course) -> None:
    judgement = judge_with(opinion=asking(otherwise)).judge(T, now())
    assert judgement.wants_to_ask
    assert judgement.course is otherwise


def test_the_same_question_is_joined_and_not_asked_again() -> None:
    judge = judge_with(opinion=asking())
    kinds = []
    for price in (100, 200, 300):
        judgement = judge.judge(msgspec.structs.replace(T, price_nanodollars=price), now())
        for entry in judge.ask(judgement, now()):
            kinds.append(type(entry))
            judge.apply(entry, now())
    assert kinds == [Asked, Joined, Joined]
    (question,) = judge.inbox.questions(now())
    assert (question.low_nanodollars, question.high_nanodollars) == (100, 300)


def test_who_does_not_want_to_ask_asks_nothing() -> None:
    judge = judge_with()
    assert judge.ask(judge.judge(T, now()), now()) == ()


def test_a_full_screen_is_a_reason_not_to_ask() -> None:
    judge = judge_with(opinion=asking(), attention_of=lambda _user, _now: Attention(full_screen=True))
    judgement = judge.judge(T, now())
    assert judge.why_not_ask(judgement, now()) is Reason.FULL_SCREEN
    assert judge.ask(judgement, now()) == ()


def test_an_answer_teaches_its_price_and_undo_takes_it_back() -> None:
    judge = judge_with()
    yes = answer(judge, accept=True, term=Term.ONCE)
    learner = judge.learner_of("ann")
    assert isinstance(learner, Fixed)
    assert learner.answers == {yes: (100, True)}
    judge.apply(judge.inbox.undo(now(), yes), now())
    assert learner.answers == {}


def test_an_answer_about_an_alarm_teaches_nothing() -> None:
    judge = judge_with()
    group = Group(about=About.ALARM, user="ann", program="firefox")
    for entry in judge.inbox.ask(Proposal(group=group, transfer=T, otherwise=Course.DECLINE), now()):
        judge.apply(entry, now())
    said = judge.inbox.answer(1, now(), accept=False)
    assert isinstance(said, Answered)
    judge.apply(said, now())
    assert judge.learners == {}


def test_once_is_for_the_flow_that_it_was_said_of() -> None:
    judge = judge_with(NEVER)
    number = answer(judge, accept=True, term=Term.ONCE)
    once = judge.inbox.question(number, now()).answer
    assert not judge.judge(T, now()).pays
    assert judge.judge(T, now(), once=once).pays
    dearer = msgspec.structs.replace(T, price_nanodollars=101)
    assert not judge.judge(dearer, now(), once=once).pays


def test_a_transfer_without_a_price_or_a_program_teaches_nothing_by_being_asked_for() -> None:
    judge = judge_with()
    for transfer in (msgspec.structs.replace(T, price_nanodollars=0), msgspec.structs.replace(T, program="")):
        judge.count(judge.judge(transfer, now()), now())
    assert all(isinstance(each, Fixed) and each.requests == 0 for each in judge.learners.values())
    judge.count(judge.judge(T, now()), now())
    assert group_of(T).user == "ann"
    assert [each.requests for each in judge.learners.values() if isinstance(each, Fixed)] == [1]
