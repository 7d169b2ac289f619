"""The whole core: who decides about a flow, what people's words change, what money bounds, what a theft stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from clerk import ANN, BOB, CALLS, DAY_S, KEEPER, NOON, WEB, Clerk, budget, denied, flow, granted

from billpay.errors import RemoteProtocolError
from secretary.central.policy import CentralSettings
from secretary.guard.values import Alarm, Detector
from secretary.inbox.questions import Answered, Asked, Attention, Joined, Lapsed, Undone
from secretary.issuing import Ended, Opened
from secretary.judging import Policy
from secretary.messages import (
    AnswerQuestion,
    AskBudget,
    AskInbox,
    AskRules,
    AskStatement,
    AskTrace,
    AskWhy,
    DisputeGrant,
    Done,
    Granted,
    Inbox,
    RaiseBudget,
    Rules,
    StatementView,
    TellAttention,
    TopUpPurse,
    TraceView,
    UndoAnswer,
    Unpaid,
    WhyView,
)
from secretary.money.periods import Cycle
from secretary.money.reserving import Dimension
from secretary.ruling.ceilings import Ceiling, place
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Most, Pay, Rule
from secretary.ruling.terms import Term
from secretary.secretary import Alarmed, Thawed
from secretary.transfers import Transfer

DOLLAR = 10**9
MB = 10**6
FIREFOX = Transfer(
    user="ann",
    program="firefox",
    kind="web",
    destination="www.example.org",
    network="Home",
    foreground=True,
    size_bytes=MB,
)
FAIR, DEAR, ABSURD = 10_000, 1_000_000, 500_000_000
ASK = Rule(name="ask", programs=("firefox",), pay=Pay.ASK)
NEVER = Rule(name="never", programs=("firefox",), pay=Pay.NEVER, grant_nanodollars=100_000_000)


def by(user: str = "ann", **changes: Any) -> Transfer:
    return msgspec.structs.replace(FIREFOX, user=user, **changes)


def clerk_with(*rules: Rule, learns: bool = True, day: int = 100 * DOLLAR, **changes: Any) -> Clerk:
    own = rules
    policy = Policy(book=Rulebook(own=own), learns=learns)
    return Clerk(day=day, **({"policy": policy} | changes))


def asking_clerk(**changes: Any) -> Clerk:
    """Firefox is asked about, whatever is learned."""
    return clerk_with(ASK, **changes)


# --- who decides ------------------------------------------------------------------------------------------------------


def test_a_rule_goes_before_what_was_learned() -> None:
    clerk = clerk_with(WEB)
    answer = clerk.try_ask(flow(), FIREFOX, price=FAIR)
    assert isinstance(answer, Granted)
    assert (answer.rule, answer.strategy, answer.amount_nanodollars) == ("web", "fixed", 20)
    assert "your rule web" in answer.why


def test_what_no_rule_names_is_judged_by_what_was_learned() -> None:
    clerk = clerk_with(WEB)
    answer = clerk.try_ask(flow(destination_port=80), FIREFOX, price=FAIR)
    assert isinstance(answer, Granted)
    assert (answer.rule, answer.strategy, answer.amount_nanodollars) == ("learned", "bulk", 0)
    assert answer.willingness_nanodollars > 0
    assert "what people pay for web" in answer.why
    assert denied(clerk.try_ask(flow(2, destination_port=80), FIREFOX, price=ABSURD)) == "declined"


def test_a_flow_of_nobody_knows_whom_is_paid_by_rules_only() -> None:
    """Whoever does not know the program knows nothing that could have been learned of."""
    clerk = clerk_with(WEB)
    assert denied(clerk.try_ask(flow(destination_port=80), price=FAIR)) == "no-rule"
    assert clerk.ask(flow(2), price=FAIR).cap_nanodollars == 100


def test_without_learning_only_rules_pay() -> None:
    clerk = clerk_with(WEB, learns=False)
    assert denied(clerk.try_ask(flow(destination_port=80), FIREFOX, price=FAIR)) == "no-rule"


def test_never_is_never_whatever_else_the_rule_says() -> None:
    clerk = clerk_with(NEVER)
    answer = clerk.try_ask(flow(), FIREFOX, price=1)
    assert denied(answer) == "declined"
    assert clerk.money_entries == []


def test_a_rule_up_to_a_price_pays_below_it_and_not_above() -> None:
    most = Rule(
        name="most",
        programs=("firefox",),
        most=Most(mb_nanodollars=2_000),
        amount_nanodollars=3,
        willingness_nanodollars=3,
        grant_nanodollars=1_000,
        rate_nanodollars_per_s=1_000,
        burst_nanodollars=1_000,
    )
    clerk = clerk_with(most)
    assert clerk.ask(flow(1), FIREFOX, price=2_000).cap_nanodollars == 1_000
    assert denied(clerk.try_ask(flow(2), FIREFOX, price=2_001)) == "declined"


def test_a_rule_that_leaves_it_to_the_learner_is_over_what_was_learned() -> None:
    learn = Rule(name="rest", programs=("firefox",), pay=Pay.LEARN, most=Most(transfer_nanodollars=50_000))
    clerk = clerk_with(learn)
    grant = clerk.ask(flow(1), FIREFOX, price=FAIR)
    assert grant.cap_nanodollars == 50_000
    assert denied(clerk.try_ask(flow(2), FIREFOX, price=50_001)) == "declined"


def test_another_rule_holds_for_an_open_grant_at_its_next_document() -> None:
    clerk = Clerk()
    grant = clerk.ask(flow())
    dear = replace(WEB, name="dear", grant_nanodollars=500)
    clerk.secretary.reread(replace(clerk.settings.policy, book=Rulebook(own=(dear,))), clerk.now)
    raised = clerk.extend(grant, 100)
    assert raised.cap_nanodollars == 600
    clerk.secretary.reread(replace(clerk.settings.policy, book=Rulebook(own=(CALLS,))), clerk.now)
    assert denied(clerk.try_extend(grant.grant, 600)) == "no-rule"
    assert denied(clerk.try_ask(flow())) == "no-rule"


def test_hits_count_transfers_and_not_questions() -> None:
    clerk = Clerk()
    for _ in range(5):
        clerk.ask(flow(1))
    clerk.ask(flow(2))
    assert clerk.secretary.judge.hits.of(WEB) == 2


# --- what a whole flow is worth ---------------------------------------------------------------------------------------


@pytest.mark.row("BP-38")
def test_no_extension_goes_beyond_what_the_whole_flow_is_worth() -> None:
    clerk = clerk_with(learned=replace(Clerk().settings.learned, grant_nanodollars=1_000_000))
    grant = clerk.ask(flow(), FIREFOX, price=FAIR)
    limit = clerk.entries(Opened)[0].terms.limit_nanodollars
    assert grant.cap_nanodollars == 1_000_000 < limit
    while True:
        clerk.wait(1)
        answer = clerk.try_extend(grant.grant, grant.cap_nanodollars)
        if isinstance(answer, Unpaid):
            break
        assert granted(answer).cap_nanodollars > grant.cap_nanodollars
        grant = granted(answer)
    assert answer.code == "limit"
    assert grant.cap_nanodollars <= limit
    clerk.wait(400)  # a later end, and not more
    assert clerk.extend(grant, grant.cap_nanodollars).cap_nanodollars == grant.cap_nanodollars


def test_a_rules_bound_for_a_transfer_holds_over_all_extensions() -> None:
    bound = replace(WEB, most=Most(transfer_nanodollars=250))
    clerk = Clerk(bound)
    grant = clerk.ask(flow())
    caps = [grant.cap_nanodollars]
    for _ in range(3):
        answer = clerk.try_extend(grant.grant, caps[-1])
        caps.append(granted(answer).cap_nanodollars if isinstance(answer, Granted) else caps[-1])
    assert caps == [100, 200, 250, 250]


def test_a_size_that_was_seen_is_expected_again() -> None:
    clerk = clerk_with()
    small = by(size_bytes=0)
    before = clerk.secretary.sized(small, 1_000, "10.0.2.1").price_nanodollars
    for port in range(1, 9):
        clerk.close(clerk.ask(flow(port), small, price=1_000).grant, 5, size_bytes=20_000)
    after = clerk.secretary.sized(small, 1_000, "10.0.2.1")
    assert before == 1_000
    assert after.size_bytes < 100_000
    assert after.price_nanodollars == after.size_bytes // 1_000


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(7)
def test_a_question_is_asked_once_for_a_flow_and_waits_for_nobody() -> None:
    clerk = asking_clerk()
    first = clerk.try_ask(flow(), FIREFOX, price=DEAR)
    assert isinstance(first, Unpaid)
    assert (first.code, first.question) == ("declined", 1)
    for _ in range(5):
        clerk.wait(30)
        assert denied(clerk.try_ask(flow(), FIREFOX, price=DEAR)) == "declined"
    assert len(clerk.entries(Asked)) == 1
    assert clerk.entries(Joined) == []
    another = clerk.try_ask(flow(2), by(destination="cdn.example.org"), price=2 * DEAR)
    assert isinstance(another, Unpaid)
    assert another.question == 1
    inbox = clerk.says(AskInbox(), ANN)
    assert isinstance(inbox, Inbox)
    (question,) = inbox.questions
    assert (question.transfers, question.price_nanodollars, question.otherwise) == (2, 2 * DEAR, "do not pay")
    assert question.why


def test_a_question_that_nobody_answers_lapses_and_can_be_answered_later() -> None:
    clerk = asking_clerk()
    clerk.try_ask(flow(), FIREFOX, price=DEAR)
    clerk.wait(clerk.settings.manners.answer_s)
    assert len(clerk.entries(Lapsed)) == 1
    said = clerk.says(AnswerQuestion(number=1, accept=True, term=Term.ALWAYS), ANN)
    assert isinstance(said, Done)
    assert "for what comes from now on" in said.message
    assert clerk.ask(flow(2), FIREFOX, price=DEAR)


@pytest.mark.expectation(8)
def test_yes_once_pays_the_flow_that_asked_and_no_other() -> None:
    clerk = asking_clerk()
    clerk.try_ask(flow(1), FIREFOX, price=DEAR)
    before = clerk.secretary.budget(AskBudget(), clerk.now).answers
    clerk.says(AnswerQuestion(number=1, accept=True), ANN)
    assert clerk.secretary.budget(AskBudget(), clerk.now).answers == before + 1
    answer = clerk.try_ask(flow(1), FIREFOX, price=DEAR)
    assert isinstance(answer, Granted)
    assert answer.rule == "answer"
    assert granted(answer).cap_nanodollars <= DEAR
    assert denied(clerk.try_ask(flow(2), FIREFOX, price=DEAR)) == "declined"
    assert denied(clerk.try_ask(flow(1), FIREFOX, price=DEAR + 1)) != "pay"


def test_a_yes_for_a_time_pays_up_to_its_price_until_then() -> None:
    clerk = asking_clerk()
    clerk.try_ask(flow(1), FIREFOX, price=DEAR)
    clerk.says(AnswerQuestion(number=1, accept=True, limit_nanodollars=DEAR, term=Term.TEN_MINUTES), ANN)
    assert clerk.ask(flow(2), FIREFOX, price=DEAR).cap_nanodollars <= DEAR
    assert denied(clerk.try_ask(flow(3), FIREFOX, price=DEAR + 1)) == "declined"
    clerk.wait(599)
    assert clerk.ask(flow(4), FIREFOX, price=DEAR)
    clerk.wait(1)
    assert denied(clerk.try_ask(flow(5), FIREFOX, price=DEAR)) == "declined"


def test_a_no_takes_an_open_grant_from_its_flow() -> None:
    """Not at the gateway, whose document holds until its end; but nothing more of it."""
    waiting = Rule(name="ask", programs=("firefox",), pay=Pay.ASK, most=Most(transfer_nanodollars=DEAR))
    clerk = clerk_with(waiting)
    grant = clerk.ask(flow(), FIREFOX, price=FAIR)  # paid while the question waits
    assert clerk.questions == [1]
    clerk.says(AnswerQuestion(number=1, accept=False, term=Term.ALWAYS), ANN)
    assert denied(clerk.try_extend(grant.grant, 1)) == "declined"
    assert denied(clerk.try_ask(flow(), FIREFOX, price=FAIR)) == "declined"


def test_an_answer_of_one_person_says_nothing_for_another() -> None:
    clerk = asking_clerk()
    clerk.try_ask(flow(1), by("ann"), price=DEAR)
    clerk.says(AnswerQuestion(number=1, accept=True, term=Term.ALWAYS), ANN)
    assert clerk.ask(flow(2), by("ann"), price=DEAR)
    assert denied(clerk.try_ask(flow(3), by("bob"), price=DEAR)) == "declined"


def test_undo_makes_an_answer_never_given() -> None:
    clerk = asking_clerk()
    clerk.try_ask(flow(1), FIREFOX, price=DEAR)
    clerk.says(AnswerQuestion(number=1, accept=True, term=Term.ALWAYS), ANN)
    assert clerk.ask(flow(2), FIREFOX, price=DEAR)
    clerk.says(UndoAnswer(), ANN)
    assert denied(clerk.try_ask(flow(3), FIREFOX, price=DEAR)) == "declined"
    assert [question.number for question in clerk.says(AskInbox(), ANN).questions] == [1]  # type: ignore[union-attr]


def test_undo_unlearns() -> None:
    """Estimates are again what they were, to the last digit; also after a restart."""
    clerk, never_asked = clerk_with(), clerk_with()
    for each in (clerk, never_asked):
        for port in range(1, 6):
            each.try_ask(flow(port), FIREFOX, price=DEAR * port)
    never_asked.learn()
    before = never_asked.secretary.judge.judge(by(price_nanodollars=DEAR), never_asked.now)
    number = clerk.questions[0] if clerk.questions else 0
    assert number, "the learner asks about something"
    clerk.says(AnswerQuestion(number=number, accept=False), ANN)
    clerk.learn()
    changed = clerk.secretary.judge.judge(by(price_nanodollars=DEAR), clerk.now)
    assert changed.opinion != before.opinion
    clerk.says(UndoAnswer(number=number), ANN)
    clerk.learn()
    again = clerk.secretary.judge.judge(by(price_nanodollars=DEAR), clerk.now)
    assert again.opinion == before.opinion
    assert [type(entry) for entry in clerk.journal if isinstance(entry, Answered | Undone)] == [Answered, Undone]


@pytest.mark.parametrize(
    "attention", [Attention(full_screen=True), Attention(presenting=True), Attention(do_not_disturb=True)]
)
def test_nobody_is_asked_while_it_would_be_in_the_way(attention: Attention) -> None:
    clerk = asking_clerk()
    clerk.says(TellAttention(attention=attention), ANN)
    answer = clerk.try_ask(flow(1), FIREFOX, price=DEAR)
    assert isinstance(answer, Unpaid)
    assert (answer.question, clerk.questions) == (0, [])
    assert clerk.try_ask(flow(2), by("bob"), price=DEAR).question == 1  # type: ignore[union-attr]


def test_no_more_is_asked_in_a_day_than_the_maximum() -> None:
    every = Rule(name="ask", kinds=("web",), pay=Pay.ASK)
    clerk = clerk_with(every)
    for port in range(1, 20):
        clerk.try_ask(flow(port), by(program=f"program{port}"), price=DEAR)
    assert len(clerk.questions) == clerk.settings.manners.per_day
    clerk.wait(DAY_S)
    clerk.try_ask(flow(99), by(program="late"), price=DEAR)
    assert len(clerk.questions) == clerk.settings.manners.per_day + 1


def test_why_says_the_rule_and_promises_nothing() -> None:
    clerk = asking_clerk()
    journal = list(clerk.journal)
    why = clerk.says(AskWhy(transfer=by(price_nanodollars=DEAR)), ANN)
    assert isinstance(why, WhyView)
    assert (why.decision, why.limit_nanodollars) == ("ask", 0)
    assert "your rule ask" in why.lines[0]
    assert "you would be asked" in why.lines
    assert clerk.journal == journal
    with pytest.raises(RemoteProtocolError, match="not-permitted"):
        clerk.says(AskWhy(transfer=by("bob")), ANN)


# --- the guard --------------------------------------------------------------------------------------------------------


ALARM = Alarm(
    alarm="a1",
    program="firefox",
    destination="evil.example",
    detector=Detector.SURGE,
    why="firefox paid 1000 times what is usual to evil.example",
    statistic=9.0,
    threshold=5.0,
    false_alarms_per_month=0.1,
    since_unix_s=NOON,
    unix_s=NOON,
    paid_nanodollars=10**6,
)


def alarmed_clerk(monkeypatch: pytest.MonkeyPatch) -> Clerk:
    """What looks stolen was just spent: firefox, at one destination."""
    clerk = clerk_with(guards=True)
    guard = clerk.secretary.judge.guard_of("ann")
    assert guard is not None
    grant = clerk.ask(flow(1), by(destination="evil.example"), price=FAIR)
    with monkeypatch.context() as patch:
        patch.setattr(type(guard), "on_spend", lambda *_: [ALARM])
        clerk.try_extend(grant.grant, 1_000)
    return clerk


@pytest.mark.row("BP-43")
@pytest.mark.expectation(24)
def test_an_alarm_freezes_that_stream_and_no_other_and_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    clerk = alarmed_clerk(monkeypatch)
    assert len(clerk.entries(Alarmed)) == 1
    evil = by(destination="evil.example")
    frozen = clerk.try_ask(flow(1), evil, price=FAIR)  # not even the grant that is open is shown again
    assert isinstance(frozen, Unpaid)
    assert frozen.code == "frozen"
    assert ALARM.why in frozen.message
    (grant,) = clerk.open_grants
    assert denied(clerk.try_extend(grant.grant, 2_000)) == "frozen"
    assert clerk.ask(flow(2), by(destination="www.example.org"), price=FAIR)
    assert clerk.ask(flow(3), by("bob", destination="evil.example"), price=FAIR)
    assert clerk.ask(flow(4), by(program="thunderbird", destination="evil.example"), price=FAIR)
    inbox = clerk.says(AskInbox(), ANN)
    assert isinstance(inbox, Inbox)
    alarms = [question for question in inbox.questions if question.kind == "alarm"]
    assert [(question.title, question.otherwise) for question in alarms] == [
        (f"Was this you? {ALARM.why}", "it stays frozen")
    ]
    bobs = clerk.says(AskInbox(), BOB)
    assert isinstance(bobs, Inbox)
    assert all(question.kind != "alarm" for question in bobs.questions)


@pytest.mark.parametrize("is_mine", [True, False])
def test_the_persons_word_thaws_or_keeps_it_frozen_over_a_restart(
    monkeypatch: pytest.MonkeyPatch, is_mine: bool
) -> None:
    clerk = alarmed_clerk(monkeypatch)
    evil = by(destination="evil.example")
    clerk.start_again()
    assert denied(clerk.try_ask(flow(9), evil, price=FAIR)) == "frozen"
    number = clerk.entries(Asked)[-1].number
    clerk.says(AnswerQuestion(number=number, accept=is_mine), ANN)
    assert [entry.is_mine for entry in clerk.entries(Thawed)] == [is_mine]
    for _ in range(2):
        answer = clerk.try_ask(flow(10), evil, price=FAIR)
        assert isinstance(answer, Granted) is is_mine
        clerk.start_again()


def test_an_alarm_asks_at_any_hour_and_not_within_the_daily_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    manners = replace_struct(Clerk().settings.manners, per_day=0, quiet_from=1, quiet_until=0)
    clerk = clerk_with(guards=True, manners=manners)
    guard = clerk.secretary.judge.guard_of("ann")
    assert guard is not None
    grant = clerk.ask(flow(1), by(destination="evil.example"), price=FAIR)
    monkeypatch.setattr(type(guard), "on_spend", lambda *_: [ALARM])
    clerk.try_extend(grant.grant, 1_000)
    assert len(clerk.questions) == 1


def replace_struct(struct: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(struct, **changes)


# --- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(15)
def test_a_soft_budget_refuses_nothing_and_slows_at_once() -> None:
    clerk = Clerk(
        replace(WEB, rate_nanodollars_per_s=50), budgets=(budget("day", 1_000), budget("soft", 100, hard=False))
    )
    first = clerk.ask(flow(1))
    assert first.rate_nanodollars_per_s == 50
    clerk.close(first.grant, 100)
    second = clerk.try_ask(flow(2))
    assert isinstance(second, Granted)
    assert (granted(second).rate_nanodollars_per_s, second.amount_nanodollars) == (25, 10)
    why = clerk.says(AskWhy(transfer=Transfer()), KEEPER)
    assert isinstance(why, WhyView)
    assert "budget soft" in why.lines[-1]
    clerk.says(RaiseBudget(budget="soft", nanodollars=100), KEEPER)
    assert clerk.ask(flow(3)).rate_nanodollars_per_s == 50


@pytest.mark.row("BP-44")
def test_budgets_of_a_program_and_of_a_person_bound_them_alone() -> None:
    budgets = (
        budget("day", 10_000),
        budget("firefox", 150, about=Dimension.PROGRAM, who="firefox"),
        budget("each", 250, Cycle.MONTH, about=Dimension.PERSON),
    )
    clerk = Clerk(WEB, budgets=budgets)
    assert [clerk.ask(flow(port), by()).cap_nanodollars for port in (1, 2)] == [100, 50]
    assert "budget firefox" in clerk.try_ask(flow(3), by()).message  # type: ignore[union-attr]
    other = by(program="thunderbird")
    assert clerk.ask(flow(4), other).cap_nanodollars == 100
    assert denied(clerk.try_ask(flow(5), other)) == "budget"  # ann has 250 in a month
    assert clerk.ask(flow(6), by("bob", program="thunderbird")).cap_nanodollars == 100
    assert clerk.line("firefox").reserved_nanodollars == 150


def test_notices_come_once_and_are_told_to_nobody_again_after_a_restart() -> None:
    clerk = Clerk(day=100)
    clerk.close(clerk.ask(flow()).grant, 85)
    assert len(clerk.secretary.announcements) == 1
    assert "80" in clerk.secretary.announcements[0]
    clerk.start_again()
    clerk.tick()
    assert clerk.secretary.announcements == []
    assert clerk.line("day").noticed_percent == 80


def test_a_prepaid_purse_spends_what_was_paid_in_and_no_more() -> None:
    clerk = Clerk(credit_nanodollars=0)
    answer = clerk.try_ask(flow(1))
    assert isinstance(answer, Unpaid)
    assert (answer.code, "top it up" in answer.message) == ("purse", True)
    for _ in range(2):  # the same transfer is the same money
        clerk.says(TopUpPurse(transfer="t1", nanodollars=150), KEEPER)
    assert [clerk.ask(flow(port)).cap_nanodollars for port in (1, 2)] == [100, 50]
    assert denied(clerk.try_ask(flow(3))) == "purse"
    (first, _) = clerk.open_grants
    clerk.close(first.grant, 30)
    assert clerk.ask(flow(3)).cap_nanodollars == 70
    assert clerk.secretary.treasury.purse.balance_nanodollars == 120


def test_vouchers_are_spent_first_and_expire() -> None:
    clerk = Clerk(credit_nanodollars=0)
    clerk.says(TopUpPurse(transfer="v1", nanodollars=60, voucher="xmas", expires_unix_s=clerk.unix_s + 3_600), KEEPER)
    clerk.says(TopUpPurse(transfer="t1", nanodollars=40), KEEPER)
    clerk.close(clerk.ask(flow()).grant, 20)
    statement = clerk.says(AskStatement(first_day="2024-10-04", last_day="2024-10-04"), KEEPER).statement  # type: ignore[union-attr]
    assert (statement.spent_nanodollars, statement.spent_of_vouchers_nanodollars) == (20, 20)
    clerk.wait(3_600)
    assert clerk.secretary.treasury.purse.balance_nanodollars == 40


@pytest.mark.parametrize(
    ("ceiling", "what"),
    [
        (Ceiling(name="packets", packet_nanodollars=7), "cut"),
        (Ceiling(name="dear", transfer_nanodollars=60), "cut"),
        (Ceiling(name="nothing", packet_nanodollars=0), "no"),
        (Ceiling(name="day", day_nanodollars=130), "day"),
    ],
)
def test_a_persons_ceiling_is_over_rules(ceiling: Ceiling, what: str) -> None:
    policy = Policy(book=Rulebook(own=(WEB,)), ceilings=place((), (ceiling,)), own_ceilings=(ceiling,), learns=False)
    clerk = Clerk(policy=policy)
    answer = clerk.try_ask(flow(1))
    if what == "no":
        assert denied(answer) == "ceiling"
        return
    grant = granted(answer)
    assert isinstance(answer, Granted)
    if what == "cut":
        assert (answer.amount_nanodollars, grant.cap_nanodollars) in [(7, 100), (20, 60)]
        assert f"your ceiling {ceiling.name}" in answer.why
    else:
        assert grant.cap_nanodollars == 100
        assert clerk.ask(flow(1)) == grant  # its own cap takes nothing from it
        assert clerk.ask(flow(2)).cap_nanodollars == 30
        assert denied(clerk.try_ask(flow(3))) == "ceiling"
        clerk.start_again()
        assert denied(clerk.try_ask(flow(3))) == "ceiling"
        clerk.wait(1_000)  # they end, whole
        clerk.wait(DAY_S)
        assert clerk.ask(flow(4)).cap_nanodollars == 100


def test_the_day_of_a_ceiling_counts_what_ended_by_what_was_spent() -> None:
    ceiling = Ceiling(name="day", day_nanodollars=130)
    policy = Policy(book=Rulebook(own=(WEB,)), ceilings=place((), (ceiling,)), own_ceilings=(ceiling,), learns=False)
    clerk = Clerk(policy=policy)
    clerk.close(clerk.ask(flow(1)).grant, 10)
    assert clerk.ask(flow(2)).cap_nanodollars == 100
    assert clerk.ask(flow(3)).cap_nanodollars == 20


@pytest.mark.expectation(16)
def test_what_nobody_was_asked_about_has_an_allowance_of_its_own() -> None:
    """Once so much of it was unwanted, the learner pays only what it is sure of."""
    clerk = clerk_with(unjustified_nanodollars=100)
    grant = clerk.ask(flow(1), FIREFOX, price=DEAR)
    number = clerk.questions[0]
    for _ in range(3):  # what is refused more is not spent again
        clerk.try_extend(grant.grant, 60_000)
    clerk.close(grant.grant, 90_000)
    clerk.says(AnswerQuestion(number=number, accept=False), ANN)
    assert clerk.secretary.judge.allowance.unjustified_nanodollars == 90_000
    other = by(program="thunderbird", kind="mail", destination="mail.example.net")
    assert denied(clerk.try_ask(flow(2), other, price=300_000)) in ("allowance", "declined")
    assert clerk.secretary.judge.allowance.is_used_up(clerk.now)
    clerk.wait(DAY_S)
    assert not clerk.secretary.judge.allowance.is_used_up(clerk.now)


def test_a_receipt_that_comes_late_counts_nothing_against_the_allowance_again() -> None:
    """What expired without a word was taken for spent, all of it."""
    clerk = clerk_with(unjustified_nanodollars=100 * DOLLAR)
    grant = clerk.ask(flow(1), FIREFOX, price=DEAR)
    number = clerk.questions[0]
    clerk.wait(1000)
    assert clerk.secretary.issuer.opened(grant.grant) is None
    assert clerk.close(grant.grant, 90_000) == 90_000
    clerk.says(AnswerQuestion(number=number, accept=False), ANN)
    assert clerk.secretary.judge.allowance.unjustified_nanodollars == grant.cap_nanodollars


# --- an organisation --------------------------------------------------------------------------------------------------


def test_without_its_policy_an_organisation_says_nothing() -> None:
    clerk = Clerk(central=CentralSettings(host="a", public_key=bytes(32)))
    assert clerk.ask(flow()).cap_nanodollars == 100
    assert clerk.secretary.central is not None


# --- statements -------------------------------------------------------------------------------------------------------

DAY = "2024-10-04"


def spending_clerk() -> tuple[Clerk, dict[str, int]]:
    """Gives what receipts say for each person."""
    clerk = Clerk(WEB, day=10**6)
    clerk.says(TopUpPurse(transfer="t1", nanodollars=5_000), KEEPER)
    spent: dict[str, int] = {}
    for port, (user, program, amount) in enumerate(
        [("ann", "firefox", 61), ("bob", "firefox", 37), ("ann", "zoom", 100), ("ann", "firefox", 3), ("", "", 99)], 1
    ):
        clerk.close(clerk.ask(flow(port), by(user, program=program)).grant, amount, told=amount + 2)
        spent[user] = spent.get(user, 0) + amount
    return clerk, spent


@pytest.mark.expectation(16)
def test_a_statement_is_the_receipts_to_the_nanodollar() -> None:
    clerk, spent = spending_clerk()
    for _ in range(2):
        view = clerk.says(AskStatement(first_day=DAY, last_day=DAY, by=("user", "program")), KEEPER)
        assert isinstance(view, StatementView)
        statement = view.statement
        assert statement.adds_up
        assert (
            statement.spent_nanodollars == sum(spent.values()) == sum(e.spent_nanodollars for e in clerk.entries(Ended))
        )
        assert (statement.opening_nanodollars, statement.top_ups_nanodollars) == (0, 5_000)
        assert statement.closing_nanodollars == 5_000 - sum(spent.values())
        lines = {(line.user, line.program): line.nanodollars for line in statement.lines}
        assert lines == {("ann", "firefox"): 64, ("ann", "zoom"): 100, ("bob", "firefox"): 37, ("", ""): 99}
        clerk.start_again()


def test_a_persons_statement_has_that_persons_lines_only_and_adds_up() -> None:
    clerk, spent = spending_clerk()
    for asker, user in ((ANN, "ann"), (BOB, "bob")):
        view = clerk.says(AskStatement(first_day=DAY, last_day=DAY, by=("program",)), asker)
        assert isinstance(view, StatementView)
        assert view.statement.adds_up
        assert {line.user for line in view.statement.lines} == {user}
        assert view.statement.spent_nanodollars == spent[user]
        assert view.statement.top_ups_nanodollars == 0


def test_a_line_is_traced_to_its_grants_and_disputed() -> None:
    clerk, _ = spending_clerk()
    statement = clerk.says(AskStatement(first_day=DAY, last_day=DAY, by=("user", "program")), ANN).statement  # type: ignore[union-attr]
    line = next(line for line in statement.lines if line.program == "firefox")
    view = clerk.says(AskTrace(key=line.key), ANN)
    assert isinstance(view, TraceView)
    assert view.traced.adds_up
    courses = [grant.course for grant in view.traced.grants]
    assert [course.spent_nanodollars for course in courses] == [61, 3]
    assert all(
        course.context.flow is not None and course.context.gateway == clerk.gateway.fingerprint for course in courses
    )
    with pytest.raises(RemoteProtocolError, match="no-such-line"):
        clerk.says(AskTrace(key=line.key), BOB)
    with pytest.raises(RemoteProtocolError, match="not-permitted"):
        clerk.says(DisputeGrant(grant=courses[0].grant), ANN)
    clerk.says(DisputeGrant(grant=courses[0].grant, note="not mine"), KEEPER)
    for _ in range(2):
        statement = clerk.says(AskStatement(first_day=DAY, last_day=DAY, by=("user", "program")), KEEPER).statement  # type: ignore[union-attr]
        disputed = {line.program: line.disputed for line in statement.lines if line.user == "ann"}
        assert disputed == {"firefox": True, "zoom": False}
        clerk.start_again()


def test_the_rules_that_a_person_sees_are_in_the_order_in_which_they_are_looked_at() -> None:
    hers = replace(NEVER, name="hers", users=("ann",))
    his = replace(NEVER, name="his", users=("bob",))
    ceiling = Ceiling(name="cap", packet_nanodollars=100)
    policy = Policy(
        book=Rulebook(own=(hers, his, ASK)), ceilings=place((), (ceiling,)), own_ceilings=(ceiling,), learns=False
    )
    clerk = Clerk(policy=policy)
    clerk.try_ask(flow(), by("eve"), price=DEAR)
    clerk.says(AnswerQuestion(number=1, accept=True, term=Term.TODAY), KEEPER)
    seen = clerk.says(AskRules(), ANN)
    assert isinstance(seen, Rules)
    assert [rule.name for rule in seen.rules] == ["your ceiling cap", "hers", "ask"]
    everybodys = clerk.says(AskRules(), KEEPER)
    assert isinstance(everybodys, Rules)
    assert [rule.name for rule in everybodys.rules] == ["your ceiling cap", "question 1", "hers", "his", "ask"]
    assert everybodys.rules[1].seconds_left == DAY_S // 2
    assert everybodys.rules[-1].hits == 1
