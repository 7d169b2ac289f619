"""The digital secretary of a host: every decision about money, as one state that journal entries make.

Decides: what an agent's questions are answered, by the judge (what is it worth?), the budgets and the purse (is there
money?) and the issuer (the grant). What people ask is `secretary.people`'s. Refuses to know: sockets, files, clocks and
randomness. Pure: `keep(entry)` journals an entry and gives it back to `apply`, before anybody hears of it; whoever
applies the same entries in their order has the same secretary.

Source: Bill-Pay 2.3 and 2.4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.grants import verify_receipt
from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import FlowSelector, Grant, GrantKind, Signed
from secretary.central.policy import Central, CentralSettings, PolicyTaken, ReportsClosed, ReportTaken
from secretary.guard.values import Alarm, Spend
from secretary.guard.watching import Guard
from secretary.inbox.inbox import Inbox
from secretary.inbox.questions import (
    NO_DESKTOP,
    About,
    Answered,
    Asked,
    Attention,
    Group,
    Joined,
    Lapsed,
    Manners,
    Proposal,
    QuestionError,
    Quit,
    Restamped,
    Stamp,
    Undone,
    still_known,
)
from secretary.issuing import Decided, Denial, Ended, Issuer, Opened, ReturnPolicy, Terms, probes_of, terms_of
from secretary.judging import NO_LIMIT, Judge, Judgement, Policy, words_grant
from secretary.learning.learner import Learner
from secretary.messages import (
    AskBudget,
    AskGrant,
    AskReturn,
    Budget,
    BudgetLine,
    Closed,
    CloseGrant,
    ExtendGrant,
    Granted,
    TellQuit,
    Unpaid,
)
from secretary.money.budgets import Announcement
from secretary.money.daily import Today
from secretary.money.purse import Fee, Refund, TopUp, VoucherAdded, VoucherExpired
from secretary.money.reserving import BudgetRaised, Budgets, ClockSetRight, GrantBudget, PeriodsMoved
from secretary.money.spending import Disputed, Word
from secretary.money.treasury import Treasury
from secretary.opinions import Course
from secretary.ruling.ceilings import place
from secretary.ruling.rules import BYTES_OF_A_MB, check_exact
from secretary.ruling.terms import Term
from secretary.sizes import Sizes
from secretary.transfers import Moment, Transfer

PACKET_BYTES: Final = 1_400
FLOWS_SEEN_MAX: Final = 8192
LINE_RATE_S: Final = 2
"""A grant's rate cap is so many times what its flow needs at the target rate."""


class Alarmed(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The guard froze a stream of this person."""

    user: str
    alarm: Alarm


class Thawed(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The person said whether the alarm's stream was theirs."""

    user: str
    alarm: str
    is_mine: bool


Entry = (
    Opened
    | Ended
    | PeriodsMoved
    | BudgetRaised
    | ClockSetRight
    | TopUp
    | VoucherAdded
    | VoucherExpired
    | Fee
    | Refund
    | Disputed
    | Alarmed
    | Thawed
    | Asked
    | Joined
    | Lapsed
    | Answered
    | Undone
    | Quit
    | Restamped
    | PolicyTaken
    | ReportsClosed
    | ReportTaken
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedGrants:
    """How grants are made out that no rule words."""

    target_bit_s: int = 10_000_000
    grant_nanodollars: int = 20_000_000
    lifetime_s: int = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration says."""

    policy: Policy = field(default_factory=Policy)
    manners: Manners = field(default_factory=Manners)
    budgets: tuple[GrantBudget, ...] = ()
    return_budgets: tuple[GrantBudget, ...] = ()
    returns: ReturnPolicy = field(default_factory=ReturnPolicy)
    credit_nanodollars: int = NO_LIMIT
    learned: LearnedGrants = field(default_factory=LearnedGrants)
    unjustified_nanodollars: int | None = None
    guards: bool = True
    central: CentralSettings | None = None


class Secretary:
    """`draw(n)` gives n random bytes, `sign` the signature of a grant. `begun`: the zone and boot of this life."""

    def __init__(
        self,
        settings: Settings,
        *,
        begun: Moment,
        draw: Callable[[int], bytes],
        sign: Callable[[Grant], Signed],
        keep: Callable[[Entry], None],
        only: tuple[date, date] | None = None,
    ) -> None:
        """`only`: the statement's lines of these days and no others."""
        self.settings = settings
        self._sign = sign
        self._keep = keep
        self._now = begun
        self.treasury = Treasury(
            settings.budgets, begun.zone, credit_nanodollars=settings.credit_nanodollars, only=only
        )
        self.issuer = Issuer(
            treasury=self.treasury,
            return_budgets=Budgets(settings.return_budgets, begun.zone),
            returns=settings.returns,
            draw=draw,
        )
        self.inbox = Inbox(settings.manners)
        self.today = Today()
        self.sizes = Sizes()
        self.central = Central(settings.central, began_unix_s=begun.unix_s) if settings.central is not None else None
        self.judge = Judge(
            settings.policy,
            self.inbox,
            make_learner=lambda: Learner(eager=False, commons=self.judge.commons),
            make_guard=Guard if settings.guards else None,
            unjustified_nanodollars=settings.unjustified_nanodollars,
            spent_today=self.today.of,
            attention_of=self.attention_of,
        )
        self.announcements: list[str] = []
        self.answers = 0  # given or undone
        self._attention: dict[str, tuple[Attention, Stamp]] = {}
        self._seen: OrderedDict[FlowSelector, int] = OrderedDict()  # the question that each waits for, 0 for none

    # --- the journal ------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        match entry:
            case Opened() | Ended():
                self._apply_grant(entry)
            case PeriodsMoved():
                self.issuer.move(entry)
            case (
                BudgetRaised()
                | ClockSetRight()
                | TopUp()
                | VoucherAdded()
                | VoucherExpired()
                | Fee()
                | Refund()
                | Disputed()
            ):
                self._announce(self.treasury.apply(entry))
            case Alarmed():
                if (guard := self.judge.guard_of(entry.user)) is not None:
                    guard.adopt(entry.alarm)
            case Thawed():
                if (guard := self.judge.guard_of(entry.user)) is not None:
                    guard.thaw(entry.alarm, is_mine=entry.is_mine)
            case PolicyTaken() | ReportsClosed() | ReportTaken():
                if self.central is not None:
                    self.central.apply(entry)
            case _:
                self.answers += isinstance(entry, Answered | Undone)
                self.judge.apply(entry, self._now)

    def _apply_grant(self, entry: Opened | Ended) -> None:
        opened = self.issuer.opened(entry.grant) if isinstance(entry, Ended) else None
        self._announce(self.issuer.apply(entry))
        match entry:
            case Opened(grant=grant) if grant.kind is GrantKind.SPEND:
                self.today.counts(grant.grant, entry.transfer, grant.cap_nanodollars)
            case Ended() if opened is not None and opened.grant.kind is GrantKind.SPEND:
                self.today.counts(entry.grant, opened.transfer, entry.spent_nanodollars, ended=True)
                self._report(opened.transfer, entry.spent_nanodollars)

    def _announce(self, announcements: Sequence[Announcement]) -> None:
        """For whoever tells people; what a journal is read again for is told to nobody."""
        self.announcements += [each.message for each in announcements]

    def _report(self, transfer: Transfer, nanodollars: int) -> None:
        if self.central is not None and nanodollars:
            self.central.spend(
                user=transfer.user, program=transfer.program, network=transfer.network, nanodollars=nanodollars
            )

    # --- time -------------------------------------------------------------------------------------------------------

    def on_time(self, now: Moment) -> None:
        """Before anything else at a moment: what time brought is kept first."""
        self._now = now
        self.today.on(now)
        self._set_policy(now)
        for entry in self.issuer.on_time(now.unix_s):
            expired = self.issuer.opened(entry.grant) if isinstance(entry, Ended) else None
            self._keep(entry)
            if expired is not None:  # nobody said what it spent: all of it, for all that is known
                self._spent(expired, expired.grant.cap_nanodollars, now)
        for over in self.inbox.on_time(now):
            self._keep(over)

    def _set_policy(self, now: Moment) -> None:
        """The files', with the organisation's policy over them for as long as it holds."""
        central, policy = self.central, self.settings.policy
        if central is not None:
            ceilings = place(central.ceilings(now.unix_s), policy.own_ceilings)
            book = replace(policy.book, organisation=central.rules(now.unix_s))
            policy = replace(policy, book=book, ceilings=ceilings)
        self.judge.policy = policy

    def reread(self, policy: Policy, now: Moment) -> None:
        """The files say something else from now on."""
        self.settings = replace(self.settings, policy=policy)
        self._set_policy(now)

    def forget_counts_of_other_rules(self) -> None:
        """Of rules that are gone; not while a file is wrong."""
        book = self.judge.policy.book
        self.judge.hits.forget_all_but((*book.own, *book.organisation))

    def on_minute(self, now: Moment) -> None:
        for user, guard in list(self.judge.guards.items()):
            self._alarm(user, guard.on_minute(now), now)

    def attention_of(self, user: str, now: Moment) -> Attention:
        attention, heard = self._attention.get(user, (None, None))
        return still_known(attention, heard, now)

    def attend(self, user: str, attention: Attention, now: Moment) -> None:
        self._attention[user] = (attention, Stamp.of(now))

    # --- what an agent asks -----------------------------------------------------------------------------------------

    def ask_grant(self, question: AskGrant, now: Moment) -> Granted | Unpaid:
        """Raises RemoteProtocolError."""
        flow = question.flow
        check_exact(flow)
        if question.probes_of:
            return self._ask_probes(question, now)
        transfer = self.sized(question.transfer, question.price_nanodollars_per_mb, flow.destination)
        known = self.issuer.known(flow, question.gateway)
        judgement = self.judge.judge(transfer, now, flow, once=self._said_once(flow, now))
        if known is not None and known.terms is not None and not judgement.is_refusal:
            rule = judgement.decided_by if judgement.pays else known.rule
            if self.issuer.still_good(known, rule, now.unix_s):
                return self._granted(Decided(known.grant, known.terms, None))
        asked = 0
        if self._is_new(flow):
            self.judge.count(judgement, now)
            asked = self._seen[flow] = self._ask(judgement, now)
        terms = self.terms_for(judgement)
        if terms is None:
            return Unpaid(code=judgement.code, message=judgement.why, question=asked)
        decided = self.issuer.issue(
            flow, terms, now.unix_s, gateway=question.gateway, transfer=transfer, implied=question.implied
        )
        return self._granted(decided)

    def _ask_probes(self, question: AskGrant, now: Moment) -> Granted | Unpaid:
        """On the word that the flow itself got: nobody is asked twice, and nothing is learned from it."""
        found = probes_of(question.flow, self.issuer.opened(question.probes_of), question.gateway)
        if isinstance(found, Denial):
            return self._granted(found)
        terms, transfer = found
        known = self.issuer.known(question.flow, question.gateway)
        if known is not None and known.terms is not None and self.issuer.still_good(known, terms.rule, now.unix_s):
            return self._granted(Decided(known.grant, known.terms, None))
        decided = self.issuer.issue(
            question.flow, terms, now.unix_s, gateway=question.gateway, transfer=transfer, implied=question.implied
        )
        return self._granted(decided)

    def extend(self, question: ExtendGrant, now: Moment) -> Granted | Unpaid:
        """By what is judged today: a rule may be another one than when the grant was opened."""
        opened = self.issuer.opened(question.grant)
        if opened is None or opened.terms is None:
            return Unpaid(code="unknown-grant", message="no such grant is open")
        flow = opened.grant.flow
        terms: Terms | None
        if opened.terms.probes_of:
            found = probes_of(flow, self.issuer.opened(opened.terms.probes_of), opened.grant.gateway)
            if isinstance(found, Denial):
                return self._granted(found)
            terms, _ = found
        else:
            judgement = self.judge.judge(opened.transfer, now, flow, once=self._said_once(flow, now))
            terms = self.terms_for(judgement)
            if terms is None:
                return Unpaid(code=judgement.code, message=judgement.why)
        decided = self.issuer.extend(
            question.grant, terms, spent_nanodollars=question.spent_nanodollars, unix_s=now.unix_s
        )
        answer = self._granted(decided)
        self._spent(opened, question.spent_nanodollars, now, is_kept=isinstance(answer, Granted))
        return answer

    def close(self, question: CloseGrant, now: Moment) -> Closed:
        """Without its gateway's receipt it is only given up, and counts whole. Raises RemoteProtocolError."""
        opened = self.issuer.opened(question.grant)
        is_late = opened is None and question.receipt is not None
        if is_late:
            opened = self.issuer.assumed(question.grant)
        if opened is None:  # asked again, after a lost answer
            return Closed()
        cap = opened.grant.cap_nanodollars
        if question.receipt is not None:
            receipt = verify_receipt(question.receipt, question.gateway_key, opened.grant.gateway)
            if receipt.grant != question.grant:
                raise RemoteProtocolError("other-grant", "the receipt is of another grant")
            ended = Ended(
                grant=question.grant,
                spent_nanodollars=min(receipt.spent_nanodollars, cap),
                unix_s=now.unix_s,
                word=Word.CONFIRMED,
                counted_nanodollars=question.spent_nanodollars,
            )
        elif question.spent_nanodollars < cap:
            raise RemoteProtocolError(
                "no-receipt", "without its gateway's receipt a grant counts whole: it ends at its expiry"
            )
        else:
            ended = Ended(grant=question.grant, spent_nanodollars=cap, unix_s=now.unix_s)
        self._keep(ended)
        if not is_late:  # it was taken for spent already, all of it
            self._spent(opened, ended.spent_nanodollars, now)
        if question.size_bytes and opened.terms is not None and not opened.terms.probes_of:
            self.sizes.ended(opened.transfer, question.size_bytes)
        return Closed(spent_nanodollars=ended.spent_nanodollars)

    def ask_return(self, question: AskReturn, now: Moment) -> Granted | Unpaid:
        """Raises RemoteProtocolError."""
        decided = self.issuer.ask_return(
            question.flow,
            received_nanodollars=question.received_nanodollars,
            received_packets=question.received_packets,
            unix_s=now.unix_s,
            gateway=question.gateway,
        )
        return self._granted(decided)

    def on_quit(self, question: TellQuit) -> None:
        for entry in self.inbox.quit(self.inbox.until_quit() - set(question.programs)):
            self._keep(entry)

    def budget(self, _question: AskBudget, now: Moment) -> Budget:
        """The first line is the day's budget."""
        lines = self.budget_lines(now)
        return Budget(
            day_nanodollars=lines[0].limit_nanodollars if lines else 0,
            spent_today_nanodollars=lines[0].spent_nanodollars if lines else 0,
            reserved_nanodollars=lines[0].reserved_nanodollars if lines else 0,
            questions=len(self.inbox.questions(now)),
            answers=self.answers,
            until_quit=tuple(sorted(self.inbox.until_quit())),
            lines=lines,
        )

    def budget_lines(self, now: Moment) -> tuple[BudgetLine, ...]:
        return tuple(
            BudgetLine(
                name=each.view.name,
                scope=each.scope,
                period=each.view.cycle.value,
                hard=each.view.hard,
                limit_nanodollars=each.view.limit,
                spent_nanodollars=each.view.used,
                reserved_nanodollars=each.reserved_nanodollars,
                resets_unix_s=each.view.resets_unix_s,
                burn_nanodollars_per_day=each.view.burn_per_day,
                forecast_nanodollars=each.view.forecast,
                noticed_percent=each.view.noticed_percent,
                reason=each.view.reason,
            )
            for each in self.treasury.budgets.standings(now.unix_s)
        )

    # --- how a judgement becomes a grant ----------------------------------------------------------------------------

    def sized(self, transfer: Transfer, price_nanodollars_per_mb: int, destination: str) -> Transfer:
        """With the size that such transfers have, and the price that follows."""
        size = self.sizes.expected_bytes(transfer)
        return msgspec.structs.replace(
            transfer,
            destination=transfer.destination or destination,
            size_bytes=size,
            price_nanodollars=transfer.price_nanodollars or price_nanodollars_per_mb * size // BYTES_OF_A_MB,
        )

    def terms_for(self, judgement: Judgement) -> Terms | None:
        """None: nothing is to be paid."""
        if not judgement.pays:
            return None
        rule, packet = judgement.rule, judgement.packet_nanodollars
        if rule is not None and words_grant(rule):
            terms = terms_of(rule, judgement.why)
            return msgspec.structs.replace(
                terms,
                amount_nanodollars=min(terms.amount_nanodollars, packet),
                willingness_nanodollars=min(terms.willingness_nanodollars, packet),
                limit_nanodollars=judgement.limit_nanodollars if judgement.limit_nanodollars < NO_LIMIT else None,
            )
        return self._learned_terms(judgement)

    def _learned_terms(self, judgement: Judgement) -> Terms | None:
        """As little as reaches the target rate, up to what the transfer is worth, spread over its packets."""
        learned, limit = self.settings.learned, judgement.limit_nanodollars
        packets = max(1, -(-judgement.transfer.size_bytes // PACKET_BYTES))
        willingness = min(judgement.packet_nanodollars, MAX_AMOUNT_NANODOLLARS, -(-limit // packets))
        if not willingness:
            return None
        rate = willingness * max(1, learned.target_bit_s // (8 * PACKET_BYTES)) * LINE_RATE_S
        return Terms(
            rule=judgement.decided_by,
            strategy="bulk",
            willingness_nanodollars=willingness,
            target_bit_s=learned.target_bit_s,
            grant_nanodollars=min(limit, learned.grant_nanodollars),
            rate_nanodollars_per_s=rate,
            burst_nanodollars=rate,
            lifetime_s=learned.lifetime_s,
            limit_nanodollars=limit,
            unasked=judgement.is_unasked,
            why=judgement.why[:256],
        )

    def _granted(self, decided: Decided | Denial) -> Granted | Unpaid:
        if isinstance(decided, Denial):
            return Unpaid(code=decided.code, message=decided.message)
        if decided.entry is not None:
            self._keep(decided.entry)
        terms, returns = decided.terms, self.settings.returns
        return Granted(
            signed=self._sign(decided.grant),
            rule=terms.rule if terms is not None else "returns",
            strategy=terms.strategy if terms is not None else "return",
            amount_nanodollars=terms.amount_nanodollars if terms is not None else returns.ceiling_nanodollars,
            willingness_nanodollars=terms.willingness_nanodollars if terms is not None else 0,
            target_bit_s=terms.target_bit_s if terms is not None else 0,
            share_nanodollars=0 if terms is not None else returns.share_nanodollars,
            probes_nanodollars=terms.probes_nanodollars if terms is not None else 0,
            why=terms.why if terms is not None else "",
        )

    def _is_new(self, flow: FlowSelector) -> bool:
        """The same flow asks again and again; it is one transfer."""
        is_new = flow not in self._seen
        self._seen.setdefault(flow, 0)
        self._seen.move_to_end(flow)
        if len(self._seen) > FLOWS_SEEN_MAX:
            self._seen.popitem(last=False)
        return is_new

    def _said_once(self, flow: FlowSelector, now: Moment) -> Answered | None:
        """What a person said of this flow and of no other."""
        try:
            answer = self.inbox.question(self._seen.get(flow, 0), now).answer
        except QuestionError:  # nobody was asked, or it is forgotten
            return None
        return answer if answer is not None and answer.term is Term.ONCE else None

    def _ask(self, judgement: Judgement, now: Moment) -> int:
        """The number of the question, 0 for none."""
        number = 0
        for entry in self.judge.ask(judgement, now):
            self._keep(entry)
            number = entry.number if isinstance(entry, Asked | Joined) else number
        return number

    # --- the guard --------------------------------------------------------------------------------------------------

    def _spent(self, opened: Opened, spent_nanodollars: int, now: Moment, *, is_kept: bool = True) -> None:
        """`is_kept`: the grant's state says so too, so that the same spending does not come again."""
        transfer, terms = opened.transfer, opened.terms
        before = opened.spent_nanodollars
        if is_kept and terms is not None and terms.unasked and spent_nanodollars > before:
            self.judge.paid(transfer, spent_nanodollars - before, now)
        guard = self.judge.guard_of(transfer.user)
        if guard is None or terms is None or terms.probes_of:  # the agent's own, which no program does
            return
        spend = Spend(
            grant=opened.grant.grant,
            program=transfer.program,
            destination=transfer.destination,
            network=transfer.network,
            gateway=opened.grant.gateway,
            foreground=transfer.foreground,
            total_nanodollars=min(spent_nanodollars, opened.grant.cap_nanodollars),
        )
        self._alarm(transfer.user, guard.on_spend(spend, now), now)

    def _alarm(self, user: str, alarms: list[Alarm], now: Moment) -> None:
        for alarm in alarms:
            self._keep(Alarmed(user=user, alarm=alarm))
            group = Group(about=About.ALARM, user=user, program=alarm.program, destination_class=alarm.destination)
            if self.inbox.may_ask(group, now, NO_DESKTOP) is None:
                proposal = Proposal(
                    group=group,
                    transfer=Transfer(user=user, program=alarm.program, destination=alarm.destination),
                    otherwise=Course.DECLINE,
                    why=alarm.why[:512],
                    text=f"Was this you? {alarm.why}"[:512],
                )
                for entry in self.inbox.ask(proposal, now):
                    self._keep(entry)

    # --- what people say --------------------------------------------------------------------------------------------

    def answered(self, number: int, entry: Answered, now: Moment) -> None:
        """Keeps an answer, and what follows from it at once."""
        question = self.inbox.question(number, now)
        self._keep(entry)
        group = question.proposal.group
        if group.about is not About.ALARM:
            return
        guard = self.judge.guard_of(group.user)
        for freeze in guard.freezes if guard is not None else []:
            alarm = freeze.alarm
            if (alarm.program, alarm.destination) == (group.program, group.destination_class):
                self._keep(Thawed(user=group.user, alarm=alarm.alarm, is_mine=entry.accept))

    def keep(self, entry: Entry) -> None:
        self._keep(entry)


def grant_of(entry: Entry) -> tuple[str, int] | None:
    """The grant that an entry is about, and when; None: it is about none."""
    match entry:
        case Opened(grant=grant):
            return grant.grant, entry.unix_s
        case Ended() | Disputed():
            return entry.grant, entry.unix_s
    return None
