"""What people ask the secretary, and what they tell it: inbox, rules, budgets, purse, statement, why.

Decides: whose things a person may see and change (their own; a keeper everybody's), and how they are shown. Refuses to
know: how anything is judged or reckoned. Pure, like the secretary that it looks at.
"""

from __future__ import annotations

from datetime import date
from typing import Final, Protocol

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.money import show_nanodollars
from secretary.asking import Asker, Role
from secretary.inbox.questions import About, Group, Question, QuestionError
from secretary.messages import (
    Answer,
    AnswerQuestion,
    AskBudgets,
    AskInbox,
    AskRules,
    AskStatement,
    AskTrace,
    AskWhy,
    Budgets,
    DisputeGrant,
    Done,
    Inbox,
    PersonQuestion,
    QuestionView,
    RaiseBudget,
    Rules,
    RuleView,
    SetClockRight,
    StatementView,
    TellAttention,
    TopUpPurse,
    TraceView,
    UndoAnswer,
    WhyView,
)
from secretary.money.purse import PurseResult, TopUp, VoucherAdded
from secretary.money.reserving import BudgetRaised, ClockSetRight, scope_of
from secretary.money.spending import course_of
from secretary.money.statements import Book, Statement, TraceSource, dispute
from secretary.ruling.ceilings import Placed
from secretary.ruling.rules import Rule, condition_text, outcome_text
from secretary.secretary import Secretary
from secretary.transfers import Moment

HISTORY_SHOWN: Final = 50
KINDS: Final = {About.WORTH: "worth", About.ALARM: "alarm", About.TOP_UP: "budget"}


class Archive(TraceSource, Protocol):
    """The journal, for what is not in memory any more."""

    def book_of(self, first: date, last: date) -> Book:
        """A book with the lines of these days."""


class People:
    """`rule_faults`: what is wrong in the rules' files now."""

    def __init__(self, secretary: Secretary, archive: Archive) -> None:
        self._secretary = secretary
        self._archive = archive
        self.rule_faults: tuple[str, ...] = ()

    def answer(self, question: PersonQuestion, asker: Asker, now: Moment) -> Answer | None:
        """None: it is none of those that are answered here. Raises RemoteProtocolError."""
        try:
            return self._answer(question, asker, now)
        except QuestionError as error:
            raise RemoteProtocolError("no-such-question", str(error)) from error
        except ValueError as error:
            raise RemoteProtocolError("bad-question", str(error)) from error

    def _answer(self, question: PersonQuestion, asker: Asker, now: Moment) -> Answer | None:
        match question:
            case AskInbox():
                return self._inbox(question, asker, now)
            case AnswerQuestion():
                return self._answered(question, asker, now)
            case UndoAnswer():
                return self._undone(question, asker, now)
            case AskRules():
                return self._rules(asker, now)
            case AskBudgets():
                return self._budgets(asker, now)
            case TopUpPurse():
                return self._topped_up(question, asker, now)
            case RaiseBudget():
                return self._raised(question, asker, now)
            case SetClockRight():
                _keeper_only(asker, "says that the clock is right")
                self._secretary.keep(ClockSetRight(unix_s=now.unix_s))
                return Done(message="budgets are in the periods of now; what was used stays used")
            case AskStatement():
                return self._statement(question, asker)
            case AskTrace():
                return self._trace(question, asker)
            case DisputeGrant():
                return self._disputed(question, asker, now)
            case AskWhy():
                return self._why(question, asker, now)
            case TellAttention():
                self._secretary.attend(asker.user, question.attention, now)
                return Done(message="heard")
            case _:
                return None

    # --- inbox ------------------------------------------------------------------------------------------------------

    def _inbox(self, question: AskInbox, asker: Asker, now: Moment) -> Inbox:
        inbox, user = self._secretary.inbox, _whose(asker)
        found = inbox.questions(now, user=user)
        if question.answered:
            found += inbox.history(now, user=user, take=HISTORY_SHOWN)
        quiet = inbox.may_ask(Group(user=asker.user), now, self._secretary.attention_of(asker.user, now))
        return Inbox(
            questions=tuple(_view(each) for each in found),
            asked_today=inbox.asked_today(asker.user, now),
            a_day=inbox.manners.per_day,
            quiet=quiet.value if quiet is not None else "",
        )

    def _answered(self, question: AnswerQuestion, asker: Asker, now: Moment) -> Done:
        entry = self._secretary.inbox.answer(
            question.number,
            now,
            accept=question.accept,
            up_to_nanodollars=question.limit_nanodollars,
            term=question.term,
            user=_whose(asker),
        )
        said = "yes" if question.accept else "no"
        if entry is None:
            return Done(message=f"question {question.number} has that answer already: {said}")
        self._secretary.answered(question.number, entry, now)
        late = ", for what comes from now on" if entry.late else ""
        return Done(message=f"question {question.number}: {said} ({question.term.value}){late}; undo takes it back")

    def _undone(self, question: UndoAnswer, asker: Asker, now: Moment) -> Done:
        entry = self._secretary.inbox.undo(now, question.number, user=_whose(asker))
        self._secretary.keep(entry)
        return Done(message=f"the answer to question {entry.number} was never given; the question waits again")

    # --- rules ------------------------------------------------------------------------------------------------------

    def _rules(self, asker: Asker, now: Moment) -> Rules:
        judge = self._secretary.judge
        held = self._secretary.inbox.history(now, user=_whose(asker), take=HISTORY_SHOWN)
        answers = [_answer_view(each, now) for each in held if each.answer is not None and each.answer.holds(now)]
        ceilings = [
            RuleView(source="ceiling", name=str(placed), condition="", outcome=_ceiling_text(placed), hits=0)
            for placed in judge.policy.ceilings
        ]
        rules = [
            RuleView(
                source=rule.file or rule.source.value,
                name=rule.name,
                condition=condition_text(rule),
                outcome=outcome_text(rule),
                hits=judge.hits.of(rule),
            )
            for rule in (*judge.policy.book.own, *judge.policy.book.organisation)
            if _is_for(rule, asker)
        ]
        return Rules(rules=(*ceilings, *answers, *rules), faults=self.rule_faults)

    def _why(self, question: AskWhy, asker: Asker, now: Moment) -> WhyView:
        transfer = question.transfer
        if not asker.speaks_for(transfer.user):
            raise RemoteProtocolError("not-permitted", f"not yours: ask about {asker.user}'s transfers")
        judge = self._secretary.judge
        judgement = judge.judge(transfer, now, question.flow)
        lines = list(judgement.lines)
        if judgement.wants_to_ask:
            reason = judge.why_not_ask(judgement, now)
            lines.append("you would be asked" if reason is None else f"you would be asked, but {reason.value}")
        pressed = self._secretary.treasury.budgets.press(scope_of(transfer), now.unix_s)
        lines += [pressed.message] if pressed.message else []
        decision = "ask" if judgement.wants_to_ask else judgement.course.value
        return WhyView(decision=decision, limit_nanodollars=judgement.limit_nanodollars, lines=tuple(lines))

    # --- money ------------------------------------------------------------------------------------------------------

    def _budgets(self, asker: Asker, now: Moment) -> Budgets:
        def may_see(scope: str) -> bool:
            return not scope.startswith("person ") or asker.speaks_for(scope.removeprefix("person "))

        return Budgets(budgets=tuple(each for each in self._secretary.budget_lines(now) if may_see(each.scope)))

    def _topped_up(self, question: TopUpPurse, asker: Asker, now: Moment) -> Done:
        _keeper_only(asker, "pays money in")
        entry: TopUp | VoucherAdded = (
            VoucherAdded(
                transfer=question.transfer,
                voucher=question.voucher,
                nanodollars=question.nanodollars,
                unix_s=now.unix_s,
                expires_unix_s=question.expires_unix_s,
            )
            if question.voucher
            else TopUp(transfer=question.transfer, nanodollars=question.nanodollars, unix_s=now.unix_s)
        )
        result = self._secretary.treasury.purse.judge(entry)
        if not result.holds:
            raise RemoteProtocolError("not-booked", result.value)
        if result is PurseResult.APPLIED:
            self._secretary.keep(entry)
        balance = show_nanodollars(self._secretary.treasury.purse.balance_nanodollars)
        return Done(message=f"{result.value}: the purse has {balance}")

    def _raised(self, question: RaiseBudget, asker: Asker, now: Moment) -> Done:
        _keeper_only(asker, "raises a budget")
        known = {each.terms.name: each for each in self._secretary.settings.budgets}
        budget = known.get(question.budget)
        if budget is None:
            raise RemoteProtocolError("no-such-budget", f"there are {', '.join(sorted(known)) or 'no budgets'}")
        if budget.is_each != bool(question.who):
            whose = (
                f"each {budget.about.value} has one of its own: say whose" if budget.is_each else "it is nobody's own"
            )
            raise RemoteProtocolError("no-such-budget", f"{question.budget}: {whose}")
        self._secretary.keep(
            BudgetRaised(budget=question.budget, nanodollars=question.nanodollars, unix_s=now.unix_s, who=question.who)
        )
        return Done(message=f"{question.budget} has {show_nanodollars(question.nanodollars)} more for this period")

    def _statement(self, question: AskStatement, asker: Asker) -> StatementView:
        first, last = date.fromisoformat(question.first_day), date.fromisoformat(question.last_day)
        book = self._book(first, last)
        if Role.KEEPER in asker.roles:
            return StatementView(statement=book.statement(first, last, question.by))
        by = tuple(dict.fromkeys(("user", *question.by)))
        return StatementView(statement=_only_of(book.statement(first, last, by), asker.user))

    def _trace(self, question: AskTrace, asker: Asker) -> TraceView:
        book = self._secretary.treasury.book
        line = book.find(question.key)
        if line is None or (Role.KEEPER not in asker.roles and line.user != asker.user):
            raise RemoteProtocolError("no-such-line", "no line of the last months has that key: see the statement's")
        return TraceView(traced=book.trace(line, self._archive))

    def _disputed(self, question: DisputeGrant, asker: Asker, now: Moment) -> Done:
        _keeper_only(asker, "disputes a grant")
        course = course_of(self._archive.entries_of(question.grant))
        if course is None:
            raise RemoteProtocolError("no-such-grant", f"grant {question.grant[:8]}… is not in the journal")
        self._secretary.keep(dispute(course, now.zone, unix_s=now.unix_s, note=question.note))
        return Done(message=f"grant {question.grant[:8]}… is disputed; its gateway is {course.context.isp}")

    def _book(self, first: date, last: date) -> Book:
        book = self._secretary.treasury.book
        return book if book.has_lines(first) else self._archive.book_of(first, last)


def _whose(asker: Asker) -> str | None:
    """None: everybody's."""
    return None if Role.KEEPER in asker.roles else asker.user


def _keeper_only(asker: Asker, what: str) -> None:
    if Role.KEEPER not in asker.roles:
        raise RemoteProtocolError("not-permitted", f"only a keeper {what}; see [access] keepers")


def _is_for(rule: Rule, asker: Asker) -> bool:
    return not rule.users or any(asker.speaks_for(user) for user in rule.users)


def _view(question: Question) -> QuestionView:
    answer = question.answer
    said = "" if answer is None else f"{'yes' if answer.accept else 'no'}, {answer.term.value}"
    joined = f" ({question.group_line})" if question.group_line else ""
    return QuestionView(
        number=question.number,
        kind=KINDS[question.about],
        state=question.state.value,
        user=question.user,
        title=f"{question.title}{joined}",
        transfers=question.others + 1,
        price_nanodollars=question.offer_nanodollars,
        price=question.price,
        asked_unix_s=question.asked_unix_s,
        lapses_unix_s=question.takes_effect_unix_s,
        otherwise=question.default,
        why=question.proposal.why,
        answer=said,
    )


def _answer_view(question: Question, now: Moment) -> RuleView:
    answer = question.answer
    assert answer is not None
    bound = show_nanodollars(answer.bound_nanodollars)
    group = question.proposal.group
    return RuleView(
        source="answer",
        name=f"question {question.number}",
        condition=", ".join(part for part in (group.program, group.kind, group.destination_class) if part),
        outcome=f"up to {bound}" if answer.accept else f"not for {bound} or more",
        hits=0,
        seconds_left=answer.end.seconds_left(now),
    )


def _ceiling_text(placed: Placed) -> str:
    ceiling = placed.ceiling
    bounds = (
        (ceiling.packet_nanodollars, "a packet"),
        (ceiling.mb_nanodollars, "a MB"),
        (ceiling.transfer_nanodollars, "a transfer"),
        (ceiling.day_nanodollars, "a day"),
    )
    said = (f"{show_nanodollars(bound)} {what}" for bound, what in bounds if bound is not None)
    return ", ".join(said) or "no bound"


def _only_of(statement: Statement, user: str) -> Statement:
    """What one person spent: an account of its own, which the host's purse has paid."""
    lines = tuple(line for line in statement.lines if line.user == user)
    spent = sum(line.nanodollars for line in lines)
    of_vouchers = sum(line.of_vouchers_nanodollars for line in lines)
    return msgspec.structs.replace(
        statement,
        opening_nanodollars=0,
        top_ups_nanodollars=0,
        vouchers_nanodollars=0,
        refunds_nanodollars=0,
        expired_nanodollars=0,
        topped_up_nanodollars=0,
        spent_nanodollars=spent,
        spent_of_vouchers_nanodollars=of_vouchers,
        fees_nanodollars=0,
        fees_of_vouchers_nanodollars=0,
        closing_nanodollars=-spent,
        closing_vouchers_nanodollars=0,
        lines=lines,
        fee_lines=(),
    )
