"""One judgement of a transfer: what holds, up to which price, whether a person is asked, and why in one line.

Decides: the order in which the judges are heard (guard, answers, rules, learner, ceilings), when a question is asked,
and what an answer does. Refuses to know: grants, budgets and purses (what a judgement may spend is theirs to cut),
sockets, files, clocks. Pure, and driven by a journal: the inbox's entries make the state of what people said.

Source: Bill-Pay 2.3 (rules first, then learning; the secretary becomes unobtrusive) and 2.4 (impersonation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import FlowSelector
from secretary.allowance import Allowance
from secretary.guard.watching import Guard
from secretary.inbox.inbox import Inbox
from secretary.inbox.questions import (
    LINE_MAX,
    NO_DESKTOP,
    About,
    Answered,
    Attention,
    InboxEntry,
    Proposal,
    QuestionError,
    Reason,
    Undone,
    group_of,
    why_asked,
)
from secretary.learning.commons import Commons
from secretary.learning.learner import Learner
from secretary.opinions import Course, Opinion
from secretary.ruling.ceilings import Ceiling, Placed, Wanted, apply
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Hits, Pay, Rule, Source
from secretary.transfers import Moment, Transfer

SURE_PPM: Final = 900_000
"""When the day's allowance for unjustified payments is used up, the learner pays only if it is as sure as that."""
NO_LIMIT: Final = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`course` is what holds now: a question that is asked waits for nobody. `lines`: why, for a person.

    `limit_nanodollars`: of the whole transfer. `packet_nanodollars`: of each packet. `code`: "pay", or why not.
    """

    transfer: Transfer
    course: Course
    limit_nanodollars: int
    packet_nanodollars: int
    code: str
    lines: tuple[str, ...]
    source: Source | None = None
    rule: Rule | None = None
    opinion: Opinion | None = None

    @property
    def why(self) -> str:
        return "; ".join(self.lines)

    @property
    def decided_by(self) -> str:
        """The rule's name, or who said it."""
        if self.rule is not None:
            return self.rule.name
        return self.source.value if self.source is not None else self.code

    @property
    def pays(self) -> bool:
        return self.course is Course.PAY

    @property
    def is_refusal(self) -> bool:
        """Somebody says no, or nobody says yes any more: a grant that is open is not shown again. That its price rose,
        or that its own cap fills a day's ceiling, takes nothing back.
        """
        is_said = self.source not in (Source.LEARNED, Source.KINDS)
        return self.code in ("frozen", "no-rule") or (self.code == "declined" and is_said)

    @property
    def wants_to_ask(self) -> bool:
        return self.opinion is not None and self.opinion.course is Course.ASK

    @property
    def is_unasked(self) -> bool:
        """Paid on the secretary's own word."""
        return self.pays and self.source in (Source.LEARNED, Source.KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the files and the organisation say; replaced as a whole when they are read again."""

    book: Rulebook = field(default_factory=Rulebook)
    ceilings: Sequence[Placed] = ()
    own_ceilings: Sequence[Ceiling] = ()  # of `ceilings`, the person's
    learns: bool = True


class Judge:
    """`unjustified_nanodollars`: what may be paid in a day and turn out not to be wanted; None: no bound.

    `spent_today`: under a ceiling with a day's bound.
    """

    def __init__(
        self,
        policy: Policy,
        inbox: Inbox,
        *,
        make_learner: Callable[[], Learner],
        make_guard: Callable[[], Guard] | None,
        unjustified_nanodollars: int | None = None,
        spent_today: Callable[[Placed], int] = lambda _: 0,
        attention_of: Callable[[str, Moment], Attention] = lambda _user, _now: NO_DESKTOP,
    ) -> None:
        self.policy = policy
        self.inbox = inbox
        self.hits = Hits()
        self.allowance = Allowance(unjustified_nanodollars)
        self.learners: dict[str, Learner] = {}
        self.commons = Commons()  # what the learners share
        self.guards: dict[str, Guard] = {}
        self._make_learner = make_learner
        self._make_guard = make_guard
        self._spent_today = spent_today
        self._attention_of = attention_of

    def learner_of(self, user: str) -> Learner:
        found = self.learners.get(user)
        if found is None:
            found = self.learners[user] = self._make_learner()
        return found

    def guard_of(self, user: str) -> Guard | None:
        if self._make_guard is None:
            return None
        found = self.guards.get(user)
        if found is None:
            found = self.guards[user] = self._make_guard()
        return found

    # --- judging ----------------------------------------------------------------------------------------------------

    def judge(
        self, transfer: Transfer, now: Moment, flow: FlowSelector | None = None, *, once: Answered | None = None
    ) -> Judgement:
        """Changes nothing: the same question again gets the same answer. `once`: said of this very flow."""
        guard = self.guards.get(transfer.user)
        frozen = guard.check(transfer.program, transfer.destination) if guard is not None else None
        if frozen is not None:
            return _declined(transfer, "frozen", f"frozen until you say that it is yours: {frozen.alarm.why}")
        held = self.inbox.holding(group_of(transfer), now, price_nanodollars=transfer.price_nanodollars)
        if held is None and once is not None and once.covers(transfer.price_nanodollars):
            held = once
        if held is not None:
            opinion, source, rule = _of_answer(held), Source.ANSWER, None
        else:
            learned = self._learned(now) if self.policy.learns and transfer.program else None
            opinion, source, rule = self.policy.book.opinion(transfer, now, flow, learned=learned)
            if source in (Source.LEARNED, Source.KINDS) and learned is None and rule is None:
                return _declined(transfer, "no-rule", "no rule names this flow")
        return self._bounded(transfer, opinion, source, rule, now)

    def _learned(self, now: Moment) -> Callable[[Transfer], Opinion | None]:
        return lambda transfer: self.learner_of(transfer.user).opinion(transfer, now)

    def _bounded(
        self, transfer: Transfer, opinion: Opinion, source: Source, rule: Rule | None, now: Moment
    ) -> Judgement:
        """Under the ceilings, and within the allowance for what nobody was asked about."""
        course = opinion.otherwise if opinion.course is Course.ASK else opinion.course
        limit, packet = opinion.limit_nanodollars, MAX_AMOUNT_NANODOLLARS
        if rule is not None and words_grant(rule):
            limit = NO_LIMIT if rule.most.transfer_nanodollars is None else rule.most.transfer_nanodollars
            packet = max(rule.amount_nanodollars, rule.willingness_nanodollars)
            course = course if rule.most.is_said else Course.PAY  # so much a packet, whatever a transfer costs
        code = "pay" if course is Course.PAY else "declined"
        lines = [opinion.basis]
        if self.policy.ceilings and course is Course.PAY:
            wanted = Wanted(packet_nanodollars=packet, transfer_nanodollars=limit)
            allowed = apply(self.policy.ceilings, wanted, transfer, self._spent_today)
            limit, packet = allowed.transfer_nanodollars, allowed.packet_nanodollars
            lines += [str(cut) for cut in allowed.cuts]
            if not packet or limit < max(1, transfer.price_nanodollars):
                course, code = Course.DECLINE, "ceiling"
        is_guess = source in (Source.LEARNED, Source.KINDS)
        if course is Course.PAY and is_guess and opinion.accept_ppm < SURE_PPM and self.allowance.is_used_up(now):
            course, code = Course.DECLINE, "allowance"
            lines.append("today's allowance for payments that you were not asked about is used up")
        return Judgement(
            transfer=transfer,
            course=course,
            limit_nanodollars=limit if course is Course.PAY else 0,
            packet_nanodollars=packet,
            code=code,
            lines=tuple(lines),
            source=source,
            rule=rule,
            opinion=opinion,
        )

    def count(self, judgement: Judgement, now: Moment) -> None:
        """Once for each transfer: how often such decisions come, and which rules decide."""
        if judgement.rule is not None:
            self.hits.count(judgement.rule, now.unix_s)
        transfer = judgement.transfer
        if self.policy.learns and transfer.program and transfer.price_nanodollars:
            self.learner_of(transfer.user).on_request(transfer, now)

    # --- asking -----------------------------------------------------------------------------------------------------

    def why_not_ask(self, judgement: Judgement, now: Moment) -> Reason | None:
        transfer = judgement.transfer
        attention = self._attention_of(transfer.user, now)
        return self.inbox.may_ask(group_of(transfer), now, attention, price_nanodollars=transfer.price_nanodollars)

    def ask(self, judgement: Judgement, now: Moment) -> tuple[InboxEntry, ...]:
        """The entries of the question that a judgement wants to be asked, or of joining one; none: it is not the time
        for it.
        """
        opinion, transfer = judgement.opinion, judgement.transfer
        if opinion is None or opinion.course is not Course.ASK:
            return ()
        reason = self.why_not_ask(judgement, now)
        if reason is Reason.OPEN:
            joined = self.inbox.join(group_of(transfer), transfer.price_nanodollars)
            return (joined,) if joined is not None else ()
        if reason is not None:
            return ()
        proposal = Proposal(
            group=group_of(transfer),
            transfer=transfer,
            otherwise=judgement.course,
            limit_nanodollars=min(judgement.limit_nanodollars, NO_LIMIT),
            offer_nanodollars=transfer.price_nanodollars,
            why=why_asked(opinion) if opinion.worth_of_asking_nanodollars else judgement.why[:LINE_MAX],
        )
        return self.inbox.ask(proposal, now)

    # --- what people say --------------------------------------------------------------------------------------------

    def apply(self, entry: InboxEntry, now: Moment) -> None:
        """`now`: with the zone and the boot of today; the entry's own time counts."""
        if isinstance(entry, Answered):
            self._learn(entry, now)
        elif isinstance(entry, Undone):
            for learner in self.learners.values():
                learner.forget(entry.number)
        self.inbox.apply(entry)

    def _learn(self, entry: Answered, now: Moment) -> None:
        try:
            proposal = self.inbox.question(entry.number, now).proposal
        except QuestionError:  # forgotten meanwhile
            return
        if proposal.group.about is not About.WORTH:
            return
        said = msgspec.structs.replace(proposal.transfer, price_nanodollars=entry.bound_nanodollars)
        then = replace(now, unix_s=entry.at.unix_s)
        if proposal.transfer.program:
            self.learner_of(proposal.group.user).on_answer(entry.number, said, then, accepted=entry.accept)
        if not entry.accept:
            self.allowance.declined(proposal.group, entry.bound_nanodollars, then)

    def paid(self, transfer: Transfer, nanodollars: int, now: Moment) -> None:
        """On the secretary's own word: so much more."""
        self.allowance.paid(group_of(transfer), transfer.price_nanodollars, nanodollars, now)


def words_grant(rule: Rule) -> bool:
    """Whether it says how a grant is made out: so much a packet, at such a rate."""
    pays = rule.amount_nanodollars or rule.willingness_nanodollars
    return bool(rule.pay is Pay.UP_TO and rule.grant_nanodollars and pays)


def _of_answer(held: Answered) -> Opinion:
    course = Course.PAY if held.accept else Course.DECLINE
    said = "yes" if held.accept else "no"
    return Opinion(
        course=course,
        otherwise=course,
        limit_nanodollars=held.bound_nanodollars if held.accept else 0,
        accept_ppm=1_000_000 if held.accept else 0,
        low_nanodollars=0,
        high_nanodollars=held.bound_nanodollars,
        answers=1,
        basis=f"your answer to question {held.number}: {said} ({held.term.value})",
    )


def _declined(transfer: Transfer, code: str, line: str) -> Judgement:
    return Judgement(
        transfer=transfer,
        course=Course.DECLINE,
        limit_nanodollars=0,
        packet_nanodollars=0,
        code=code,
        lines=(line,),
    )
