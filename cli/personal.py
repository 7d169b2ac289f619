"""The way from the screens to the digital secretary: a short connection for each question, as the person who looks on.

Decides: what the secretary's answers are for the screens, and the line for each way of not getting one. Refuses to
know: what is shown of them, and who may ask what (the secretary says so, by who connects).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from billpay.errors import RemoteProtocolError
from hostagent import api
from secretary import messages
from secretary.client import PersonClient, SecretaryUnavailable
from secretary.messages import Answer, PersonQuestion
from secretary.money import statements
from secretary.money.statement_pages import show_flow, state_of
from secretary.ruling.terms import Term
from tui.model import personal
from tui.source import NotAnswered

AnswerT = TypeVar("AnswerT", bound=Answer)

UNCOUNTED = ("ceiling", "answer")  # sources of rules that have no hits


class SocketSecretary:
    """A `tui.source.PersonalSource`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def inbox(self, *, answered: bool) -> personal.Inbox:
        told = await self._ask(messages.AskInbox(answered=answered), messages.Inbox)
        return personal.Inbox(
            questions=tuple(map(_question, told.questions)),
            asked_today=told.asked_today,
            a_day=told.a_day,
            quiet=told.quiet,
        )

    async def answer(self, number: int, *, accept: bool, limit_nanodollars: int | None, term: api.Term) -> str:
        said = messages.AnswerQuestion(
            number=number, accept=accept, limit_nanodollars=limit_nanodollars, term=Term(term.value)
        )
        return (await self._ask(said, messages.Done)).message

    async def undo(self, number: int | None) -> str:
        return (await self._ask(messages.UndoAnswer(number=number), messages.Done)).message

    async def rules(self) -> personal.Rules:
        told = await self._ask(messages.AskRules(), messages.Rules)
        return personal.Rules(rules=tuple(map(_rule, told.rules)), faults=told.faults)

    async def purse(self) -> personal.Purse:
        told = await self._ask(messages.AskStatus(), messages.SecretaryStatus)
        return personal.Purse(
            balance_nanodollars=told.balance_nanodollars,
            reserved_nanodollars=told.reserved_nanodollars,
            open_grants=told.open_grants,
            answers=told.answers,
            frozen=told.frozen,
            warnings=told.warnings,
            organisation=told.organisation,
        )

    async def statement(self, first_day: str, last_day: str, by: str) -> personal.Statement:
        question = messages.AskStatement(first_day=first_day, last_day=last_day, by=(by,))
        return _statement((await self._ask(question, messages.StatementView)).statement, by)

    async def trace(self, key: str) -> personal.Trace:
        traced = (await self._ask(messages.AskTrace(key=key), messages.TraceView)).traced
        return personal.Trace(key=key, grants=tuple(map(_grant, traced.grants)))

    async def top_up(self, transfer: str, nanodollars: int) -> str:
        said = messages.TopUpPurse(transfer=transfer, nanodollars=nanodollars)
        return (await self._ask(said, messages.Done)).message

    async def _ask(self, question: PersonQuestion, expected: type[AnswerT]) -> AnswerT:
        """Raises NotAnswered."""
        try:
            async with PersonClient(self._socket) as client:
                return await client.ask(question, expected)
        except SecretaryUnavailable as error:
            raise NotAnswered(f"no secretary answers on {self._socket}: {_cause(error)}") from error
        except RemoteProtocolError as error:
            raise NotAnswered(f"the secretary says: {' '.join(error.message.split())}") from error


def _cause(error: SecretaryUnavailable) -> str:
    match error.__cause__:
        case FileNotFoundError() | NotADirectoryError():
            return "no such file"
        case ConnectionRefusedError():
            return "nobody listens there"
        case PermissionError():
            return "permission denied"
        case TimeoutError():
            return "no answer in time"
        case cause:
            return " ".join(str(cause or error).split())


def _question(told: messages.QuestionView) -> personal.Question:
    return personal.Question(
        number=told.number,
        kind=told.kind,
        state=told.state,
        user=told.user,
        title=told.title,
        transfers=told.transfers,
        price_nanodollars=told.price_nanodollars,
        price=told.price,
        asked_unix_s=told.asked_unix_s,
        lapses_unix_s=told.lapses_unix_s,
        otherwise=told.otherwise,
        why=told.why,
        answer=told.answer,
    )


def _rule(told: messages.RuleView) -> personal.Rule:
    return personal.Rule(
        source=told.source,
        name=told.name,
        condition=told.condition,
        outcome=told.outcome,
        hits=None if told.source in UNCOUNTED else told.hits,
        seconds_left=told.seconds_left,
    )


def _statement(told: statements.Statement, by: str) -> personal.Statement:
    parts = (
        ("vouchers", told.vouchers_nanodollars),
        ("expired vouchers", -told.expired_nanodollars),
        ("refunds", told.refunds_nanodollars),
    )
    return personal.Statement(
        first_day=told.first_day,
        last_day=told.last_day,
        zone=told.zone,
        currency=told.currency,
        by=by,
        opening_nanodollars=told.opening_nanodollars,
        topped_up_nanodollars=told.topped_up_nanodollars,
        topped_up_parts=tuple(part for part in parts if part[1]),
        spent_nanodollars=told.spent_nanodollars,
        of_vouchers_nanodollars=told.spent_of_vouchers_nanodollars,
        fees_nanodollars=told.fees_nanodollars,
        fee_lines=tuple((fee.what, fee.nanodollars) for fee in told.fee_lines),
        closing_nanodollars=told.closing_nanodollars,
        lines=tuple(_line(line, by) for line in told.lines),
    )


def _line(line: statements.Line, by: str) -> personal.Line:
    return personal.Line(
        key=line.key,
        what=getattr(line, by),
        user=line.user,
        grants=line.grants,
        nanodollars=line.nanodollars,
        of_vouchers_nanodollars=line.of_vouchers_nanodollars,
        state=state_of(line),
    )


def _grant(traced: statements.TracedGrant) -> personal.TracedGrant:
    course = traced.course
    return personal.TracedGrant(
        grant=course.grant,
        flow=show_flow(course.context),
        gateway=course.context.isp,
        because=course.context.why or course.context.rule,
        word=course.word.value,
        is_disputed=course.is_disputed,
        cap_nanodollars=course.cap_nanodollars,
        steps=tuple(
            personal.Step(
                from_unix_s=step.from_unix_s,
                until_unix_s=step.until_unix_s,
                nanodollars=step.nanodollars,
                what=step.what,
            )
            for step in traced.steps
        ),
    )
