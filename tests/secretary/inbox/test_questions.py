"""The inbox: few questions, a default that can be seen, answers that come when it suits; a restart loses nothing."""

from __future__ import annotations

from datetime import UTC, date
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from secretary.inbox import inbox as inbox_module
from secretary.inbox.inbox import Inbox
from secretary.inbox.questions import (
    ATTENTION_S,
    NO_DESKTOP,
    OTHERS_MAX,
    About,
    Answered,
    Asked,
    Attention,
    Group,
    InboxEntry,
    Joined,
    Manners,
    Proposal,
    Question,
    QuestionError,
    Reason,
    Restamped,
    Stamp,
    State,
    group_of,
    site_of,
    still_known,
    why_asked,
)
from secretary.money.periods import local_date
from secretary.opinions import Course, Opinion
from secretary.ruling.terms import Term
from secretary.transfers import Moment, Transfer

NOON = 20_000 * 86_400 + 12 * 3600
S = 1_000_000_000
MANNERS = Manners(pause_s=0)
BERLIN = ZoneInfo("Europe/Berlin")


def transfer(program: str = "firefox", price: int = 1_000_000, user: str = "ann") -> Transfer:
    return Transfer(
        user=user,
        program=program,
        kind="web",
        destination="www.example.org",
        network="hotel",
        size_bytes=5_000_000,
        price_nanodollars=price,
    )


def proposal(program: str = "firefox", price: int = 1_000_000, *, about: About = About.WORTH) -> Proposal:
    asked = transfer(program, price)
    return Proposal(
        group=group_of(asked, about=about), transfer=asked, otherwise=Course.DECLINE, offer_nanodollars=0, why="because"
    )


class Desk:
    """An inbox, its journal and its clocks, driven as the secretary drives it."""

    def __init__(self, manners: Manners = MANNERS, *, zone: ZoneInfo | None = None) -> None:
        self.manners = manners
        self.journal: list[bytes] = []
        self.inbox = Inbox(manners)
        self.now = Moment(unix_s=NOON, boot_ns=1000 * S, boot="a", zone=zone or UTC)

    def write(self, *entries: InboxEntry) -> None:
        for entry in entries:
            self.journal.append(msgspec.json.encode(entry))
            self.inbox.apply(entry)

    def passes(self, seconds: int, *, set_by: int = 0, boot: str = "") -> None:
        """Time goes on, and the wall clock may be set; by a restart the boot's clock begins anew."""
        self.now = Moment(
            unix_s=self.now.unix_s + seconds + set_by,
            boot_ns=seconds * S if boot else self.now.boot_ns + seconds * S,
            boot=boot or self.now.boot,
            zone=self.now.zone,
        )
        self.write(*self.inbox.on_time(self.now))

    def ask(
        self, program: str = "firefox", price: int = 1_000_000, *, attention: Attention = NO_DESKTOP
    ) -> Reason | int:
        wanted = proposal(program, price)
        reason = self.inbox.may_ask(wanted.group, self.now, attention, price_nanodollars=price)
        if reason is not None:
            return reason
        return self.insist(wanted)

    def insist(self, wanted: Proposal) -> int:
        entries = self.inbox.ask(wanted, self.now)
        self.write(*entries)
        assert isinstance(entries[-1], Asked)
        return entries[-1].number

    def join(self, program: str = "firefox", price: int = 1_000_000) -> Joined | None:
        joined = self.inbox.join(proposal(program).group, price)
        if joined is not None:
            self.write(joined)
        return joined

    def answer(
        self, number: int, accept: bool = True, *, up_to: int | None = None, term: Term = Term.ONCE
    ) -> Answered | None:
        given = self.inbox.answer(number, self.now, accept=accept, up_to_nanodollars=up_to, term=term)
        if given is not None:
            self.write(given)
        return given

    def undo(self, number: int | None = None) -> int:
        undone = self.inbox.undo(self.now, number)
        self.write(undone)
        return undone.number

    def question(self, number: int) -> Question:
        return self.inbox.question(number, self.now)

    def restarted(self) -> Inbox:
        return Inbox(self.manners, [msgspec.json.decode(line, type=InboxEntry) for line in self.journal])

    @property
    def said(self) -> tuple[object, ...]:
        return _said(self.inbox, self.now)


def _said(inbox: Inbox, now: Moment) -> tuple[object, ...]:
    return inbox.questions(now), inbox.history(now, take=1000), inbox.asked_today("ann", now)


# --- may it be asked --------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-37")
@pytest.mark.expectation(8)
def test_no_more_than_the_daily_maximum_and_more_on_the_next_day() -> None:
    desk = Desk()
    assert [desk.ask(f"p{each}") for each in range(4)] == [1, 2, 3, Reason.DAILY_MAXIMUM]
    desk.passes(20 * 3600)
    assert desk.ask("p4") == 4


def test_each_person_has_a_maximum_of_their_own() -> None:
    desk = Desk()
    assert [desk.ask(f"p{each}") for each in range(3)] == [1, 2, 3]
    other = group_of(transfer(user="bob"))
    assert desk.inbox.may_ask(other, desk.now, NO_DESKTOP) is None


def test_the_maximum_is_of_the_local_day() -> None:
    desk = Desk(Manners(pause_s=0, quiet_from=0, quiet_until=0), zone=BERLIN)
    desk.passes(9 * 3600)  # 23:00 in Berlin, 21:00 UTC
    assert [desk.ask(f"p{each}") for each in range(4)][-1] is Reason.DAILY_MAXIMUM
    desk.passes(3600)
    assert desk.ask("p4") == 4


@pytest.mark.parametrize(
    ("hour", "reason"),
    [(21, None), (22, Reason.QUIET_HOURS), (0, Reason.QUIET_HOURS), (6, Reason.QUIET_HOURS), (7, None)],
)
def test_quiet_hours_go_over_midnight(hour: int, reason: Reason | None) -> None:
    desk = Desk()
    desk.passes((hour - 12) % 24 * 3600)
    assert desk.inbox.may_ask(proposal().group, desk.now, NO_DESKTOP) is reason


def test_quiet_hours_within_a_day() -> None:
    desk = Desk(Manners(pause_s=0, quiet_from=12 * 60, quiet_until=13 * 60))
    assert desk.ask() is Reason.QUIET_HOURS
    desk.passes(3600)
    assert desk.ask() == 1


@pytest.mark.expectation(8)
@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (Attention(full_screen=True), Reason.FULL_SCREEN),
        (Attention(presenting=True), Reason.PRESENTING),
        (Attention(do_not_disturb=True), Reason.DO_NOT_DISTURB),
        (Attention(away=True), Reason.AWAY),
    ],
)
def test_nobody_is_asked_in_full_screen_or_when_away(attention: Attention, reason: Reason) -> None:
    desk = Desk()
    assert desk.ask(attention=attention) is reason
    assert desk.ask(attention=Attention(full_screen=False)) == 1


def test_what_a_desktop_said_holds_for_a_while_only() -> None:
    desk = Desk()
    heard, film = Stamp.of(desk.now), Attention(full_screen=True)
    desk.passes(ATTENTION_S)
    assert still_known(film, heard, desk.now) is film
    desk.passes(1)
    assert still_known(film, heard, desk.now) is NO_DESKTOP
    assert still_known(None, None, desk.now) is NO_DESKTOP


def test_a_pause_between_two_questions() -> None:
    desk = Desk(Manners(pause_s=600))
    assert (desk.ask("a"), desk.ask("b")) == (1, Reason.PAUSE)
    desk.passes(600)
    assert desk.ask("b") == 2


def test_a_maximum_of_zero_asks_nobody() -> None:
    assert Desk(Manners(per_day=0)).ask() is Reason.DAILY_MAXIMUM


# --- first contact, groups --------------------------------------------------------------------------------------------


@pytest.mark.expectation(8)
def test_first_contact_only() -> None:
    desk = Desk()
    assert (desk.ask(), desk.ask()) == (1, Reason.OPEN)
    desk.answer(1, term=Term.ALWAYS)
    assert desk.ask() is Reason.ANSWERED
    desk.passes(400 * 86_400)
    assert desk.ask() is Reason.ANSWERED


def test_a_yes_says_nothing_of_a_higher_price_and_a_no_nothing_of_a_lower() -> None:
    desk = Desk()
    desk.ask("a", 1000)
    desk.answer(1, up_to=1500, term=Term.ALWAYS)
    assert (desk.ask("a", 1500), desk.ask("a", 1501)) == (Reason.ANSWERED, 2)
    desk.answer(2, accept=False, term=Term.ALWAYS)
    assert (desk.ask("a", 9999), desk.ask("a", 1200), desk.ask("a", 1501)) == (Reason.ANSWERED,) * 3


@pytest.mark.expectation(8)
def test_one_question_stands_for_all_of_its_group() -> None:
    desk = Desk()
    desk.ask(price=1_000_000)
    for price in (300_000, 2_000_000, 0):
        desk.join(price=price)
    question = desk.question(1)
    assert (question.others, question.group_line, question.price) == (3, "and 3 others", "300 µUSD to 2 mUSD")
    assert question.offer_nanodollars == 2_000_000
    assert desk.join("another") is None


def test_a_thousand_transfers_are_no_thousand_entries() -> None:
    desk = Desk()
    desk.ask()
    for number in range(1000):
        desk.join(price=1_000_000 + number)
    assert len(desk.journal) == 1 + OTHERS_MAX
    assert desk.question(1).group_line == "and more than 99 others"
    desk.join(price=50_000_000)
    assert desk.question(1).high_nanodollars == 50_000_000


def test_what_a_group_is() -> None:
    cdn = msgspec.structs.replace(transfer(), destination="cdn7.example.org", size_bytes=1, price_nanodollars=7)
    assert group_of(cdn) == group_of(transfer())
    assert group_of(transfer(), network_class="metered") != group_of(transfer())
    assert group_of(transfer(), about=About.ALARM) != group_of(transfer())
    names = ["a.b.example.co.uk", "example.org.", "10.0.0.1", "fe80::1%eth0", "localhost", ""]
    assert [site_of(name) for name in names] == [
        "example.co.uk", "example.org", "an address", "an address", "localhost", "",
    ]  # fmt: skip


def test_the_oldest_gives_way_to_its_default() -> None:
    desk = Desk(Manners(pause_s=0, per_day=10, open_max=2))
    assert [desk.ask(f"p{each}") for each in range(3)] == [1, 2, 3]
    assert [desk.question(number).state for number in (1, 2, 3)] == [State.WAITING, State.OPEN, State.OPEN]


# --- time-out, late answers -------------------------------------------------------------------------------------------


@pytest.mark.row("BP-37")
@pytest.mark.expectation(7)
def test_a_question_times_out_to_the_default_that_it_showed_and_can_be_answered_later() -> None:
    desk = Desk()
    wanted = msgspec.structs.replace(proposal(), otherwise=Course.PAY, limit_nanodollars=200_000)
    number = desk.insist(wanted)
    asked = desk.question(number)
    assert (asked.default, asked.takes_effect_unix_s) == ("pay up to 200 µUSD", NOON + 300)
    desk.passes(299)
    assert desk.question(number).state is State.OPEN
    desk.passes(1)
    assert desk.question(number).state is State.WAITING
    assert [each.number for each in desk.inbox.questions(desk.now)] == [number]
    desk.passes(5 * 86_400)
    late = desk.answer(number, term=Term.ALWAYS)
    assert late is not None
    assert late.late
    assert desk.ask() is Reason.ANSWERED


@pytest.mark.expectation(7)
def test_what_waits_is_not_asked_again_for_a_month() -> None:
    desk = Desk()
    desk.ask()
    desk.passes(29 * 86_400)
    assert desk.ask() is Reason.OPEN
    desk.passes(86_400)
    assert desk.ask() == 2
    assert [each.number for each in desk.inbox.questions(desk.now)] == [2]


def test_suspend_counts_and_a_clock_set_back_does_not() -> None:
    desk = Desk()
    desk.ask()
    desk.passes(200, set_by=-86_400)
    assert desk.question(1).takes_effect_unix_s == desk.now.unix_s + 100
    desk.passes(100)
    assert desk.question(1).state is State.WAITING


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answering_twice_is_once() -> None:
    desk = Desk()
    desk.ask()
    assert desk.answer(1) is not None
    assert desk.answer(1) is None
    assert len(desk.journal) == 2
    with pytest.raises(QuestionError, match=r"answered already \(yes, once\): undo that first"):
        desk.answer(1, accept=False)


def test_a_number_that_is_not_there() -> None:
    desk = Desk()
    with pytest.raises(QuestionError, match="there is no question 7; in the inbox are none"):
        desk.answer(7)
    desk.ask("a")
    desk.ask("b")
    with pytest.raises(QuestionError, match="there is no question 7; in the inbox are 2, 1"):
        desk.answer(7)


def test_nobody_answers_for_another_person() -> None:
    desk = Desk()
    desk.ask()
    with pytest.raises(QuestionError, match="no question 1; in the inbox are none"):
        desk.inbox.answer(1, desk.now, accept=True, user="bob")
    desk.answer(1)
    with pytest.raises(QuestionError):
        desk.inbox.undo(desk.now, user="bob")


def test_an_answer_that_makes_no_sense() -> None:
    desk = Desk()
    desk.ask(price=0)
    for given in ({"accept": False, "up_to_nanodollars": 1}, {"accept": True, "up_to_nanodollars": -1}):
        with pytest.raises(QuestionError, match="a price goes with a yes"):
            desk.inbox.answer(1, desk.now, **given)  # type: ignore[arg-type]
    with pytest.raises(QuestionError, match="say up to which one"):
        desk.answer(1)
    unnamed = desk.insist(proposal(""))
    with pytest.raises(QuestionError, match="a program that can quit"):
        desk.answer(unnamed, term=Term.UNTIL_QUIT)


@pytest.mark.expectation(9)
@pytest.mark.parametrize(
    ("term", "seconds"), [(Term.ONCE, 0), (Term.TEN_MINUTES, 600), (Term.ONE_HOUR, 3600), (Term.TODAY, 12 * 3600)]
)
def test_an_answer_holds_for_its_term_also_through_suspend_and_a_clock_set_back(term: Term, seconds: int) -> None:
    for set_by in (0, -86_400):
        desk = Desk()
        desk.ask()
        desk.answer(1, term=term)
        if seconds:
            desk.passes(seconds - 1, set_by=set_by)  # CLOCK_BOOTTIME counts what was slept
            assert desk.inbox.holding(proposal().group, desk.now) is not None
        desk.passes(1)
        assert desk.inbox.holding(proposal().group, desk.now) is None


@pytest.mark.expectation(9)
def test_until_it_quits() -> None:
    desk = Desk()
    desk.ask()
    desk.answer(1, term=Term.UNTIL_QUIT)
    assert desk.inbox.quit(["/usr/bin/firefox"]) == ()
    assert desk.ask() is Reason.ANSWERED
    desk.write(*desk.inbox.quit(["/usr/bin/bash"]))
    assert desk.ask() == 2
    assert desk.inbox.quit([]) == ()


def test_undo_of_the_last_and_of_any() -> None:
    desk = Desk()
    for program in "abc":
        desk.ask(program)
    for number in (2, 3, 1):
        desk.answer(number, term=Term.ALWAYS)
    assert (desk.undo(), desk.undo(2), desk.undo()) == (1, 2, 3)
    assert [each.state for each in desk.inbox.questions(desk.now)] == [State.WAITING] * 3
    with pytest.raises(QuestionError, match="no answer to undo"):
        desk.undo()
    desk.answer(2)
    with pytest.raises(QuestionError, match="question 1 has no answer; answered are 2"):
        desk.undo(1)
    assert desk.answer(1, accept=False) is not None


def test_an_undone_answer_does_not_come_beside_a_newer_question_of_its_group() -> None:
    desk = Desk()
    desk.ask()
    desk.answer(1)
    assert desk.ask() == 2
    desk.undo(1)
    assert [each.number for each in desk.inbox.questions(desk.now)] == [2]
    assert desk.question(1).state is State.UNDONE


def test_of_many_answers_in_one_group_those_for_good_are_remembered() -> None:
    desk = Desk(Manners(pause_s=0, per_day=50))
    desk.ask(price=100)
    desk.answer(1, term=Term.ALWAYS)
    for number in range(2, 20):
        assert desk.ask(price=1000) == number
        desk.answer(number)
    desk.undo(5)
    assert [each.number for each in desk.inbox.questions(desk.now)] == [5]
    for _ in range(20):  # it waits: nothing else is asked
        assert desk.ask(price=1000) is Reason.OPEN
    assert desk.ask(price=100) is Reason.OPEN
    held = desk.inbox.holding(proposal().group, desk.now, price_nanodollars=100)
    assert held is not None
    assert held.number == 1
    assert len(desk.inbox.history(desk.now, take=50)) == 18


def test_the_latest_answer_holds() -> None:
    desk = Desk(Manners(pause_s=0, per_day=50))
    desk.ask(price=100)
    desk.answer(1, term=Term.TODAY, up_to=500)
    desk.ask(price=900)
    desk.answer(2, accept=False, term=Term.TODAY)
    desk.passes(60)
    desk.undo(1)
    desk.answer(2, accept=False, term=Term.TODAY)
    held = desk.inbox.holding(proposal().group, desk.now, price_nanodollars=1000)
    assert held is not None
    assert (held.number, held.accept) == (2, False)


def test_the_history_has_pages() -> None:
    desk = Desk(Manners(pause_s=0, per_day=50))
    for number in range(1, 31):
        desk.ask(f"p{number}")
        desk.answer(number)
    pages = [desk.inbox.history(desk.now, skip=skip, take=12) for skip in (0, 12, 24, 36)]
    assert [[each.number for each in page] for page in pages] == [
        list(range(30, 18, -1)), list(range(18, 6, -1)), list(range(6, 0, -1)), [],
    ]  # fmt: skip


# --- kinds of questions -----------------------------------------------------------------------------------------------


def test_an_alarm_comes_at_any_hour_but_does_not_pop_up_in_full_screen() -> None:
    desk = Desk()
    for each in range(3):
        desk.ask(f"p{each}")
    desk.passes(12 * 3600)
    alarm = proposal(about=About.ALARM)
    film = Attention(full_screen=True)
    assert desk.inbox.may_ask(alarm.group, desk.now, film) is None
    number = desk.insist(alarm)
    question = desk.question(number)
    assert question.title == "Was this you? firefox pays www.example.org"
    assert question.default == "it stays frozen"
    assert desk.inbox.may_show(question, desk.now, film) is Reason.FULL_SCREEN
    assert desk.inbox.may_show(question, desk.now, NO_DESKTOP) is None
    assert desk.inbox.may_show(desk.question(1), desk.now, NO_DESKTOP) is Reason.QUIET_HOURS
    assert [each.number for each in desk.inbox.popups(desk.now, NO_DESKTOP, user="ann")] == [number]
    assert desk.inbox.popups(desk.now, NO_DESKTOP, user="bob") == []
    assert desk.answer(number) is not None  # it was; no price is needed


def test_alarms_have_a_maximum_too() -> None:
    desk = Desk(Manners(alarms_per_day=2))
    for each in range(2):
        desk.insist(proposal(f"p{each}", about=About.ALARM))
    assert desk.inbox.may_ask(proposal(about=About.ALARM).group, desk.now, NO_DESKTOP) is Reason.DAILY_MAXIMUM


def test_a_budget_may_have_more() -> None:
    desk = Desk()
    group = Group(about=About.TOP_UP, user="ann", kind="month")
    number = desk.insist(
        Proposal(
            group=group,
            transfer=Transfer(user="ann"),
            otherwise=Course.DECLINE,
            offer_nanodollars=5_000_000_000,
            text="This month's budget is out on the 20th at this pace. 5 USD more?",
        )
    )
    assert desk.question(number).title.startswith("This month's budget")
    given = desk.answer(number)
    assert given is not None
    assert given.bound_nanodollars == 5_000_000_000


@pytest.mark.expectation(8)
def test_why_am_i_asked() -> None:
    opinion = Opinion(
        course=Course.ASK,
        otherwise=Course.DECLINE,
        limit_nanodollars=0,
        accept_ppm=434_999,
        low_nanodollars=1_000_000,
        high_nanodollars=9_000_000,
        answers=2,
        basis="your 2 answers about firefox",
        worth_of_asking_nanodollars=310_000_000,
    )
    assert why_asked(opinion) == (
        "your answer is worth 310 mUSD over the coming month beyond what interrupting you costs; "
        "a yes is 43 % likely, the worth 1 mUSD to 9 mUSD, by your 2 answers about firefox"
    )
    desk = Desk()
    number = desk.insist(msgspec.structs.replace(proposal(), why=why_asked(opinion)))
    assert desk.restarted().question(number, desk.now).proposal.why == why_asked(opinion)


# --- clocks, restarts, bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("set_by", [-86_400, -3 * 3600, 86_400, 400 * 86_400])
def test_a_clock_that_is_set_renews_no_question(set_by: int) -> None:
    desk = Desk()
    for each in range(3):
        desk.ask(f"p{each}")
    desk.passes(60, set_by=set_by)
    assert desk.ask("more") is Reason.DAILY_MAXIMUM
    desk.passes(60, boot="b")
    assert desk.ask("more") is Reason.DAILY_MAXIMUM


def test_a_restart_with_a_clock_set_back_renews_nothing_and_shuts_nothing_for_ever() -> None:
    desk = Desk()
    for each in range(3):
        desk.ask(f"p{each}")
    desk.passes(60, set_by=-900 * 86_400, boot="b")
    assert isinstance(msgspec.json.decode(desk.journal[-1], type=InboxEntry), Restamped)
    assert desk.ask("more") is Reason.DAILY_MAXIMUM
    desk.passes(60, set_by=900 * 86_400)  # the time server came
    assert desk.ask("more") is Reason.DAILY_MAXIMUM
    desk.passes(86_400)
    assert desk.ask("more") == 4
    assert _said(desk.restarted(), desk.now) == desk.said


def test_it_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "KEPT_MAX", 20)
    monkeypatch.setattr(inbox_module, "WAITING_MAX", 5)
    desk = Desk(Manners(pause_s=0, per_day=50))
    desk.answer(desk.insist(proposal("kept")), term=Term.ALWAYS)
    for each in range(60):
        number = desk.insist(proposal(f"p{each}"))
        if each % 2:
            desk.answer(number)
        desk.passes(3600)
    assert len(desk.inbox.history(desk.now, take=1000)) <= 20
    assert len(desk.inbox.questions(desk.now)) <= 5 + 1
    assert desk.inbox.holding(proposal("kept").group, desk.now) is not None
    assert _said(desk.restarted(), desk.now) == desk.said


def test_entries_about_what_was_forgotten_are_passed_over() -> None:
    desk = Desk()
    desk.write(Joined(number=9, price_nanodollars=1))
    assert desk.inbox.questions(desk.now) == []


class InboxMachine(RuleBasedStateMachine):
    """Anything in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(Manners(pause_s=0, quiet_from=0, quiet_until=0, open_max=3, again_s=2 * 86_400))
        self.real_s = 0
        self.asked_real_s: list[int] = []
        self.boots = 0
        self.is_certain = True  # a clock set after a restart: nobody knows when things were before it

    programs = st.sampled_from("abcdefgh")
    prices = st.sampled_from([0, 10, 100, 1000])

    @rule(program=programs, price=prices)
    def ask(self, program: str, price: int) -> None:
        number = self.desk.ask(program, price)
        if isinstance(number, int):
            today = [each for each in self.asked_real_s if self._clock(each) >= self._clock(self.real_s)]
            assert len(today) < 3 or not self.is_certain
            self.asked_real_s.append(self.real_s)
        elif number is Reason.OPEN:
            self.desk.join(program, price)

    @rule(at=st.integers(0, 20), accept=st.booleans(), term=st.sampled_from(Term), price=st.sampled_from([None, 50]))
    def answer(self, at: int, accept: bool, term: Term, price: int | None) -> None:
        there = self.desk.inbox.questions(self.desk.now)
        if there:
            number = there[at % len(there)].number
            up_to = (price or 50) if accept else None
            self.desk.answer(number, accept, up_to=up_to, term=term)
            assert self.desk.answer(number, accept, up_to=up_to, term=term) is None

    @rule(at=st.integers(0, 20))
    def undo(self, at: int) -> None:
        given = self.desk.inbox.history(self.desk.now)
        if given:
            self.desk.undo(given[at % len(given)].number if at else None)

    @rule(seconds=st.sampled_from([1, 299, 4000, 40_000]), set_by=st.sampled_from([0, 0, 0, -86_400, 86_400, -(10**8)]))
    def time(self, seconds: int, set_by: int) -> None:
        self.real_s += seconds
        self.is_certain = self.is_certain and not (set_by and self.boots)
        self.desk.passes(seconds, set_by=set_by)

    @rule(seconds=st.sampled_from([30, 4000]), set_by=st.sampled_from([0, 0, -86_400]))
    def reboot(self, seconds: int, set_by: int) -> None:
        self.boots += 1
        self.real_s += seconds
        self.desk.passes(seconds, set_by=set_by, boot=f"boot {self.boots}")

    @rule()
    def quit(self) -> None:
        self.desk.write(*self.desk.inbox.quit(["a", "b"]))

    def _clock(self, real_s: int) -> date:
        """Which day it was then, by the clock as it is set now; only time that passed counts."""
        return local_date(self.desk.now.unix_s - (self.real_s - real_s), UTC)

    @invariant()
    def never_two_of_one_group_in_the_inbox(self) -> None:
        there = self.desk.inbox.questions(self.desk.now)
        assert len({each.proposal.group for each in there}) == len(there)
        assert sum(1 for each in there if each.state is State.OPEN) <= 3

    @invariant()
    def a_restart_changes_nothing(self) -> None:
        assert _said(self.desk.restarted(), self.desk.now) == self.desk.said


InboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestInboxMachine = InboxMachine.TestCase
