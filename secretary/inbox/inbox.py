"""The inbox: questions to people, asked rarely, answered when it suits, never waited for.

Decides: whether a person may be asked now, which transfers one question stands for, when its default is final, what an
answer and an undo do. Refuses to know: what anything is worth, who shows the questions, clocks and files. Pure, and
driven by a journal: whatever changes is an entry, entries applied in order are the state.

First contact only: a group whose question is in the inbox, or whose answer holds for the price, is not asked again.
A question that nobody answered stays; answered late it teaches, and holds for what comes, not for what was spent.

Bounded: people, questions and their history have a maximum; the oldest goes first, answers for good go last.

Source: Bill-Pay 2.3, 2.4; what users of prompting firewalls complain about.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import msgspec

from secretary.inbox.questions import (
    OTHERS_MAX,
    About,
    Answered,
    Asked,
    Attention,
    Group,
    InboxEntry,
    Joined,
    Lapsed,
    Manners,
    Proposal,
    Question,
    QuestionError,
    Quit,
    Reason,
    Restamped,
    Stamp,
    State,
    Undone,
    placed_s,
)
from secretary.money.periods import date_start_unix_s, local_date
from secretary.ruling.terms import Term, deadline_of
from secretary.transfers import Moment

KEPT_MAX: Final = 4096
WAITING_MAX: Final = 100
"""Questions of one person that nobody answered; the oldest is forgotten."""
OPEN_IN_ALL_MAX: Final = 256
PEOPLE_MAX: Final = 1024
GROUP_KEPT_MAX: Final = 8
"""Answers of one group that are looked at; those for good go last."""
CLOCK_SET_S: Final = 60
"""A wall clock that differs by more was set: written down, as it must be known after a restart."""
_ASKS_KEPT: Final = 64  # more than a day's maximum can be
_WIDER: Final = 5
"""Beyond OTHERS_MAX a transfer is written down only if it widens the prices by a fifth."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Case:
    number: int
    proposal: Proposal
    answer_s: int
    at: Stamp
    low_nanodollars: int
    high_nanodollars: int
    state: State = State.OPEN
    others: int = 0
    answer: Answered | None = None
    has_quit: bool = False

    @property
    def group(self) -> Group:
        return self.proposal.group

    @property
    def is_in_inbox(self) -> bool:
        return self.state in (State.OPEN, State.WAITING)

    def holds(self, price_nanodollars: int, now: Moment) -> bool:
        answer = self.answer
        return answer is not None and not self.has_quit and answer.covers(price_nanodollars) and answer.holds(now)

    def ends_s(self, now: Moment) -> int:
        return placed_s(self.at, now) + self.answer_s


@dataclass(slots=True)
class _Person:
    """`asks`: of questions and of alarms, whatever became of them."""

    asks: dict[bool, deque[Stamp]] = field(
        default_factory=lambda: {False: deque(maxlen=_ASKS_KEPT), True: deque(maxlen=_ASKS_KEPT)}
    )
    cases: OrderedDict[int, _Case] = field(default_factory=OrderedDict)


class Inbox:
    """The state that the journal's entries make. Whatever returns an entry changes nothing until it is applied."""

    def __init__(self, manners: Manners, kept: Iterable[InboxEntry] = ()) -> None:
        self.manners = manners
        self._next = 1
        self._cases: OrderedDict[int, _Case] = OrderedDict()
        self._open: dict[int, _Case] = {}
        self._answered: OrderedDict[int, _Case] = OrderedDict()  # in the order of the answers
        self._groups: dict[Group, list[_Case]] = {}
        self._people: dict[str, _Person] = {}
        self._last_ask: Stamp | None = None  # later than all others, by whichever clock
        for entry in kept:
            self.apply(entry)

    # --- the journal ------------------------------------------------------------------------------------------------

    def apply(self, entry: InboxEntry) -> None:
        """A question that was forgotten meanwhile is passed over."""
        match entry:
            case Asked():
                self._add(entry)
            case Restamped(at=at):
                self._restamp(at)
            case Joined() | Lapsed() | Answered() | Undone() | Quit():
                case = self._cases.get(entry.number)
                if case is not None:
                    self._change(case, entry)

    def _change(self, case: _Case, entry: Joined | Lapsed | Answered | Undone | Quit) -> None:
        match entry:
            case Joined(price_nanodollars=price):
                case.others = min(case.others + 1, OTHERS_MAX)
                case.low_nanodollars = _lower(case.low_nanodollars, price)
                case.high_nanodollars = max(case.high_nanodollars, price)
            case Lapsed():
                self._close(case, State.WAITING)
            case Answered():
                self._close(case, State.ANSWERED)
                case.answer, case.has_quit = entry, False
                self._answered[case.number] = case
            case Undone():
                case.answer = None
                self._answered.pop(case.number, None)
                other = self._in_inbox(case.group)
                case.state = State.WAITING if other is None else State.UNDONE
                alike = self._groups.setdefault(case.group, [])
                if case not in alike:
                    alike.insert(0, case)
            case Quit():
                case.has_quit = True

    def _close(self, case: _Case, state: State) -> None:
        case.state = state
        self._open.pop(case.number, None)

    def _add(self, entry: Asked) -> None:
        price = entry.proposal.transfer.price_nanodollars
        case = _Case(
            number=entry.number,
            proposal=entry.proposal,
            answer_s=entry.answer_s,
            at=entry.at,
            low_nanodollars=price,
            high_nanodollars=price,
        )
        self._next = max(self._next, entry.number + 1)
        self._last_ask = entry.at
        before = self._in_inbox(case.group)
        person = self._people.setdefault(case.group.user, _Person())
        person.asks[case.group.about is About.ALARM].append(entry.at)
        person.cases[case.number] = case
        self._cases[case.number] = self._open[case.number] = case
        self._groups.setdefault(case.group, []).append(case)
        if before is not None:
            self._forget(before)  # nobody answered it for so long that it is asked again
        self._make_room(person, case.group)

    def _make_room(self, person: _Person, group: Group) -> None:
        alike = self._groups[group]
        if len(alike) > GROUP_KEPT_MAX:
            settled = (case for case in alike if not case.is_in_inbox)
            alike.remove(next(chain(filter(_may_go, alike), settled)))
        waiting = [case for case in person.cases.values() if case.state is State.WAITING]
        for case in waiting[: max(0, len(waiting) - WAITING_MAX)]:
            self._forget(case)
        while len(self._cases) > KEPT_MAX:
            cases = self._cases.values()
            unanswered = (case for case in cases if case.state is State.WAITING)
            self._forget(next(chain(filter(_may_go, cases), unanswered, cases)))
        while len(self._people) > PEOPLE_MAX:
            gone = next((user for user, each in self._people.items() if not each.cases), None)
            if gone is None:
                return
            del self._people[gone]

    def _forget(self, case: _Case) -> None:
        del self._cases[case.number]
        self._open.pop(case.number, None)
        self._answered.pop(case.number, None)
        alike = self._groups.get(case.group, [])
        if case in alike:
            alike.remove(case)
        if not alike:
            self._groups.pop(case.group, None)
        del self._people[case.group.user].cases[case.number]

    def _restamp(self, at: Stamp) -> None:
        if self._last_ask is not None:
            self._last_ask = _aligned(self._last_ask, at)
        for case in self._cases.values():
            case.at = _aligned(case.at, at)
        for person in self._people.values():
            for asks in person.asks.values():
                stamps = [_aligned(stamp, at) for stamp in asks]
                asks.clear()
                asks.extend(stamps)

    # --- asking -----------------------------------------------------------------------------------------------------

    def may_ask(self, group: Group, now: Moment, attention: Attention, *, price_nanodollars: int = 0) -> Reason | None:
        """None: yes. OPEN: the transfer can `join`. An alarm comes at any hour; only when it pops up is
        `may_show`'s matter.
        """
        case = self._in_inbox(group)
        if case is not None and not self._is_stale(case, now):
            return Reason.OPEN
        if self.holding(group, now, price_nanodollars=price_nanodollars) is not None:
            return Reason.ANSWERED
        is_alarm = group.about is About.ALARM
        maximum = self.manners.alarms_per_day if is_alarm else self.manners.per_day
        if self.asked_today(group.user, now, alarms=is_alarm) >= maximum:
            return Reason.DAILY_MAXIMUM
        if len(self._open) >= OPEN_IN_ALL_MAX:
            return Reason.FULL
        if is_alarm:
            return None
        return self._unseemly(group.user, now) or attention.reason

    def may_show(self, question: Question, now: Moment, attention: Attention) -> Reason | None:
        """Whether it may pop up by itself now; lists show it always."""
        if question.about is not About.ALARM and self.manners.is_quiet(now):
            return Reason.QUIET_HOURS
        return attention.reason

    def asked_today(self, user: str, now: Moment, *, alarms: bool = False) -> int:
        """On the local day of now, by the clock as it is set now."""
        person = self._people.get(user)
        if person is None:
            return 0
        midnight_s = date_start_unix_s(local_date(now.unix_s, now.zone), now.zone)
        return sum(1 for stamp in person.asks[alarms] if placed_s(stamp, now) >= midnight_s)

    def _unseemly(self, user: str, now: Moment) -> Reason | None:
        if self.manners.is_quiet(now):
            return Reason.QUIET_HOURS
        person = self._people.get(user)
        if person is not None and person.asks[False]:
            last_s = max(placed_s(stamp, now) for stamp in person.asks[False])
            if now.unix_s - last_s < self.manners.pause_s:
                return Reason.PAUSE
        return None

    def ask(self, proposal: Proposal, now: Moment) -> tuple[Lapsed | Asked, ...]:
        """The entries of a new question, the question last. The person's oldest gives way where too many are open.

        Call it where `may_ask` gave None.
        """
        own = [case for case in self._open.values() if case.group.user == proposal.group.user]
        displaced = own[: max(0, len(own) + 1 - self.manners.open_max)]
        asked = Asked(
            number=self._next,
            proposal=proposal,
            answer_s=self.manners.answer_s_of(proposal.group.about),
            at=Stamp.of(now),
        )
        return (*(Lapsed(number=case.number, displaced=True) for case in displaced), asked)

    def join(self, group: Group, price_nanodollars: int) -> Joined | None:
        """A transfer waits for the answer to a question in the inbox. None: nothing to write down."""
        case = self._in_inbox(group)
        if case is None:
            return None
        if case.others >= OTHERS_MAX:
            low, high = case.low_nanodollars, case.high_nanodollars
            is_within = low - low // _WIDER <= price_nanodollars <= high + high // _WIDER
            if is_within or price_nanodollars == 0:
                return None
        return Joined(number=case.number, price_nanodollars=price_nanodollars)

    def on_time(self, now: Moment) -> tuple[Restamped | Lapsed, ...]:
        """What time brought: defaults become final; what was before a clock was set keeps its distance to now."""
        ahead: tuple[Restamped, ...] = ()
        last = self._last_ask
        if last is not None and abs(placed_s(last, now) - last.unix_s) > CLOCK_SET_S:
            ahead = (Restamped(at=Stamp.of(now)),)
        over = (case for case in self._open.values() if case.ends_s(now) <= now.unix_s)
        return (*ahead, *(Lapsed(number=case.number) for case in over))

    def _in_inbox(self, group: Group) -> _Case | None:
        return next((case for case in reversed(self._groups.get(group, ())) if case.is_in_inbox), None)

    def _is_stale(self, case: _Case, now: Moment) -> bool:
        return case.state is State.WAITING and now.unix_s - placed_s(case.at, now) >= self.manners.again_s

    # --- answers ----------------------------------------------------------------------------------------------------

    def answer(
        self,
        number: int,
        now: Moment,
        *,
        accept: bool,
        up_to_nanodollars: int | None = None,
        term: Term = Term.ONCE,
        user: str | None = None,
    ) -> Answered | None:
        """None: this was the answer already. `user`: whose questions may be answered, None anybody's.

        Raises QuestionError.
        """
        case = self._find(number, user)
        if up_to_nanodollars is not None and (not accept or up_to_nanodollars < 0):
            raise QuestionError("a price goes with a yes, and is not below 0")
        if term is Term.UNTIL_QUIT and not case.group.program:
            raise QuestionError("until-quit needs a program that can quit")
        question = self._seen(case, now)
        bound = _bound(question, accept, up_to_nanodollars)
        before = case.answer
        if before is not None:
            if (before.accept, before.term) == (accept, term) and up_to_nanodollars in (None, before.bound_nanodollars):
                return None
            said = "yes" if before.accept else "no"
            raise QuestionError(
                f"question {number} was answered already ({said}, {before.term.value}): undo that first"
            )
        return Answered(
            number=number,
            accept=accept,
            bound_nanodollars=bound,
            term=term,
            end=deadline_of(term, now),
            late=case.state is not State.OPEN,
            at=Stamp.of(now),
        )

    def undo(self, now: Moment, number: int | None = None, *, user: str | None = None) -> Undone:
        """Of this answer, or of the last one. The question waits in the inbox again. Raises QuestionError."""
        if number is None:
            number = next((each for each, case in reversed(self._answered.items()) if _is_of(case, user)), None)
            if number is None:
                raise QuestionError("there is no answer to undo")
        case = self._find(number, user)
        if case.answer is None:
            given = [each for each, other in reversed(self._answered.items()) if _is_of(other, user)]
            raise QuestionError(f"question {number} has no answer; answered are {_list(given)}")
        return Undone(number=number, at=Stamp.of(now))

    def quit(self, running: Collection[str]) -> tuple[Quit, ...]:
        """Ends the answers that held until their program quit; `running`: file names or paths of executables."""
        names = {path.rpartition("/")[2] for path in running} | set(running)
        return tuple(
            Quit(number=case.number)
            for case in self._answered.values()
            if case.answer is not None
            and case.answer.term is Term.UNTIL_QUIT
            and not case.has_quit
            and case.group.program not in names
        )

    def until_quit(self) -> frozenset[str]:
        """Programs whose answers hold until nothing of them runs."""
        held = ((case.answer, case) for case in self._answered.values())
        return frozenset(
            case.group.program
            for answer, case in held
            if answer is not None and answer.term is Term.UNTIL_QUIT and not case.has_quit
        )

    def holding(self, group: Group, now: Moment, *, price_nanodollars: int = 0) -> Answered | None:
        """The latest answer of the group that holds now, and speaks of this price."""
        held = [case.answer for case in self._groups.get(group, ()) if case.holds(price_nanodollars, now)]
        found = [answer for answer in held if answer is not None]
        return max(found, key=lambda answer: (placed_s(answer.at, now), answer.number), default=None)

    def _find(self, number: int, user: str | None) -> _Case:
        case = self._cases.get(number)
        if case is None or not _is_of(case, user):
            there = [each.number for each in self._cases.values() if each.is_in_inbox and _is_of(each, user)]
            raise QuestionError(f"there is no question {number}; in the inbox are {_list(there[::-1])}")
        return case

    # --- looking ----------------------------------------------------------------------------------------------------

    def question(self, number: int, now: Moment, *, user: str | None = None) -> Question:
        """Raises QuestionError."""
        return self._seen(self._find(number, user), now)

    def questions(self, now: Moment, *, user: str | None = None) -> list[Question]:
        """What can be answered: those whose time runs, then those that wait, the latest first."""
        found = [case for case in self._of(user) if case.is_in_inbox]
        found.sort(key=lambda case: (case.state is State.WAITING, -case.number))
        return [self._seen(case, now) for case in found]

    def popups(self, now: Moment, attention: Attention, *, user: str) -> list[Question]:
        """What a desktop may show this person now, the oldest first."""
        own = (self._seen(case, now) for case in self._of(user) if case.state is State.OPEN)
        return [question for question in own if self.may_show(question, now, attention) is None]

    def history(self, now: Moment, *, user: str | None = None, skip: int = 0, take: int = 20) -> list[Question]:
        """Answered questions, the latest answer first."""
        own = [case for case in reversed(self._answered.values()) if _is_of(case, user)]
        return [self._seen(case, now) for case in own[skip : skip + take]]

    def _of(self, user: str | None) -> Iterable[_Case]:
        if user is None:
            return self._cases.values()
        person = self._people.get(user)
        return person.cases.values() if person is not None else ()

    def _seen(self, case: _Case, now: Moment) -> Question:
        return Question(
            number=case.number,
            state=case.state,
            proposal=case.proposal,
            others=case.others,
            low_nanodollars=case.low_nanodollars,
            high_nanodollars=case.high_nanodollars,
            asked_unix_s=placed_s(case.at, now),
            takes_effect_unix_s=case.ends_s(now),
            answer=case.answer,
        )


def _bound(question: Question, accept: bool, up_to_nanodollars: int | None) -> int:
    if up_to_nanodollars is not None:
        return up_to_nanodollars
    if not accept:
        return question.low_nanodollars
    if question.offer_nanodollars == 0 and question.about is not About.ALARM:
        raise QuestionError(f"the price of question {question.number} is not known: say up to which one")
    return question.offer_nanodollars


def _lower(low_nanodollars: int, price_nanodollars: int) -> int:
    """0 is not known."""
    known = [each for each in (low_nanodollars, price_nanodollars) if each]
    return min(known, default=0)


def _aligned(stamp: Stamp, at: Stamp) -> Stamp:
    """By the clock as it was set at `at`; nothing is later than that."""
    if stamp.boot != at.boot:
        return at if stamp.unix_s > at.unix_s else stamp
    elapsed_s = max(0, at.boot_ns - stamp.boot_ns) // 1_000_000_000
    return msgspec.structs.replace(stamp, unix_s=at.unix_s - elapsed_s)


def _may_go(case: _Case) -> bool:
    """A question that can be answered may not, and an answer for good goes last."""
    return case.state is State.UNDONE or (case.answer is not None and case.answer.term is not Term.ALWAYS)


def _is_of(case: _Case, user: str | None) -> bool:
    return user is None or case.group.user == user


def _list(numbers: list[int]) -> str:
    """The first of them are enough for a message."""
    if not numbers:
        return "none"
    shown = ", ".join(str(number) for number in numbers[:10])
    return f"{shown} and {len(numbers) - 10} more" if len(numbers) > 10 else shown
