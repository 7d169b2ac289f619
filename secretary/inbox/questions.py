"""What the inbox's questions are made of: kinds of questions, groups, answers, reasons for not asking, journal entries.

Decides: which transfers are one question, when a moment counts as today, what a person reads. Refuses to know: what a
transfer is worth (`secretary.opinions`), and which questions there are (`secretary.inbox.inbox`).

Source: Bill-Pay 2.3 and 2.4 (the secretary becomes unobtrusive); the Personal Router study ("users are reluctant to
interact"); Horvitz 1999 (ask where an answer is worth more than the interruption).
"""

from __future__ import annotations

import enum
import ipaddress
from typing import Annotated, Final

import msgspec

from billpay.errors import BillpayError
from billpay.money import show_nanodollars
from secretary.opinions import Course, Opinion
from secretary.ruling.terms import Deadline, Term
from secretary.transfers import Moment, Nanodollars, Text, Transfer

OTHERS_MAX: Final = 99
"""So many transfers that join a question are counted; then it says "and more than 99 others"."""
LINE_MAX: Final = 512
DAY_MINUTES: Final = 24 * 60

Line = Annotated[str, msgspec.Meta(max_length=LINE_MAX)]
Number = Annotated[int, msgspec.Meta(ge=1)]
Minute = Annotated[int, msgspec.Meta(ge=0, le=DAY_MINUTES - 1)]


class About(enum.Enum):
    WORTH = "worth"  # may this transfer cost so much?
    ALARM = "alarm"  # was this you?
    TOP_UP = "top-up"  # may a budget have more?


class Reason(enum.Enum):
    """Why nobody is asked now; what holds without a question is done."""

    OPEN = "this is asked already: see the inbox"
    ANSWERED = "this was answered, and the answer holds"
    DAILY_MAXIMUM = "today's questions are used up"
    PAUSE = "the last question was asked a moment ago"
    QUIET_HOURS = "it is a quiet hour"
    FULL_SCREEN = "a program fills the screen"
    PRESENTING = "a presentation, a film or a meeting is on"
    DO_NOT_DISTURB = "the desktop is set to do not disturb"
    AWAY = "nobody is at the desk"
    FULL = "the inbox is full"


class QuestionError(BillpayError):
    """An answer or an undo that cannot be: one line that says what can."""


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When something was, by both clocks: the wall's may be set, the boot's goes on, but not over a restart."""

    unix_s: int
    boot_ns: int
    boot: str

    @classmethod
    def of(cls, now: Moment) -> Stamp:
        return cls(unix_s=now.unix_s, boot_ns=now.boot_ns, boot=now.boot)


def placed_s(stamp: Stamp, now: Moment) -> int:
    """The second in which it was, by the clock as it is set now: a clock set back or forward renews nothing."""
    if stamp.boot == now.boot:
        return now.unix_s - max(0, now.boot_ns - stamp.boot_ns) // 1_000_000_000
    return min(stamp.unix_s, now.unix_s)


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whatever is the same question. Of an alarm or a budget, `program` and the classes may be empty."""

    about: About = About.WORTH
    user: Text = ""
    program: Text = ""
    kind: Text = ""
    destination_class: Text = ""
    network_class: Text = ""


def group_of(
    transfer: Transfer, *, about: About = About.WORTH, destination_class: str = "", network_class: str = ""
) -> Group:
    """The classes are the caller's, who knows better; without them the site's name and the network itself."""
    return Group(
        about=about,
        user=transfer.user,
        program=transfer.program,
        kind=transfer.kind,
        destination_class=destination_class or site_of(transfer.destination),
        network_class=network_class or transfer.network,
    )


def site_of(destination: str) -> str:
    """ "cdn7.example.org" is example.org, "www.example.co.uk" is example.co.uk; addresses are all alike."""
    name = destination.rstrip(".").lower()
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        labels = name.split(".")
        is_second_level = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
        return ".".join(labels[-3 if is_second_level else -2 :])
    return "an address"


# --- manners ----------------------------------------------------------------------------------------------------------


class Manners(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and when people may be asked. `quiet_from` and `quiet_until`: local minutes of the day, equal: never
    quiet.
    """

    per_day: Annotated[int, msgspec.Meta(ge=0, le=50)] = 3
    alarms_per_day: Annotated[int, msgspec.Meta(ge=0, le=50)] = 5
    quiet_from: Minute = 22 * 60
    quiet_until: Minute = 7 * 60
    pause_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 600
    answer_s: Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400)] = 300
    alarm_answer_s: Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400)] = 3600
    open_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    again_s: Annotated[int, msgspec.Meta(ge=0)] = 30 * 86_400  # what nobody answered may be asked again after that

    def is_quiet(self, now: Moment) -> bool:
        minute = now.local.hour * 60 + now.local.minute
        if self.quiet_from <= self.quiet_until:
            return self.quiet_from <= minute < self.quiet_until
        return minute >= self.quiet_from or minute < self.quiet_until

    def answer_s_of(self, about: About) -> int:
        return self.alarm_answer_s if about is About.ALARM else self.answer_s


class Attention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person's desktop says of the person; None: not known, and nothing follows from that."""

    full_screen: bool | None = None
    presenting: bool | None = None  # something asked the screen to stay on: a film, a presentation, a meeting
    do_not_disturb: bool | None = None
    away: bool | None = None  # locked, or no key was pressed for long
    foreground_process: Annotated[int, msgspec.Meta(ge=1)] | None = None
    foreground_program: Text = ""  # file name of its executable
    unknown: Line = ""  # what cannot be known here, and why

    @property
    def reason(self) -> Reason | None:
        """Why nothing may pop up now."""
        if self.full_screen:
            return Reason.FULL_SCREEN
        if self.presenting:
            return Reason.PRESENTING
        if self.do_not_disturb:
            return Reason.DO_NOT_DISTURB
        return Reason.AWAY if self.away else None


NO_DESKTOP: Final = Attention(unknown="no desktop session reports")
ATTENTION_S: Final = 90
"""A report holds for so long: a desktop that went away must not keep the inbox shut."""


def still_known(attention: Attention | None, heard: Stamp | None, now: Moment) -> Attention:
    """The last report, as long as it is fresh."""
    if attention is None or heard is None or now.unix_s - placed_s(heard, now) > ATTENTION_S:
        return NO_DESKTOP
    return attention


# --- the journal ------------------------------------------------------------------------------------------------------


class Proposal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question before it is asked. `offer_nanodollars`: what a plain yes allows; 0: the transfer's price.

    `otherwise` and `limit_nanodollars`: what holds while it waits. `text`: of an alarm or a budget, one line.
    """

    group: Group
    transfer: Transfer
    otherwise: Course
    limit_nanodollars: Nanodollars = 0
    offer_nanodollars: Nanodollars = 0
    why: Line = ""
    text: Line = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    number: Number
    proposal: Proposal
    answer_s: int
    at: Stamp


class Joined(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """One more transfer waits for the same answer."""

    number: Number
    price_nanodollars: Nanodollars


class Lapsed(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What was said to hold without an answer holds; the question waits on in the inbox."""

    number: Number
    displaced: bool = False  # by a newer one, before its time


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """`bound_nanodollars`: a yes holds up to it, a no from it on. `late`: what it was asked for had lapsed."""

    number: Number
    accept: bool
    bound_nanodollars: Nanodollars
    term: Term
    end: Deadline
    late: bool
    at: Stamp

    def holds(self, now: Moment) -> bool:
        """For other transfers than those that asked; until-quit holds until a Quit."""
        if self.term is Term.ONCE or self.end.is_over(now):
            return False
        return self.end.until_unix_s is None or self.at.boot == now.boot or now.unix_s >= self.at.unix_s

    def covers(self, price_nanodollars: int) -> bool:
        """A yes says nothing of a higher price, and a no nothing of a lower one. 0: the price is not known yet."""
        if price_nanodollars == 0:
            return True
        bound = self.bound_nanodollars
        return price_nanodollars <= bound if self.accept else price_nanodollars >= bound


class Undone(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The answer was never given; whoever learned from it forgets it by this number."""

    number: Number
    at: Stamp


class Quit(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The program ended for which this answer held."""

    number: Number


class Restamped(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The wall clock was set: of this boot everything keeps its distance to now, and nothing is later than now."""

    at: Stamp


InboxEntry = Asked | Joined | Lapsed | Answered | Undone | Quit | Restamped


# --- what people see --------------------------------------------------------------------------------------------------


class State(enum.Enum):
    OPEN = "open"  # asked, and its time runs
    WAITING = "waiting"  # its default holds; it can still be answered
    ANSWERED = "answered"
    UNDONE = "undone"  # and something newer asks the same


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As it stands now. `takes_effect_unix_s`: when `otherwise` is final; in the past: it is."""

    number: Number
    state: State
    proposal: Proposal
    others: int
    low_nanodollars: Nanodollars
    high_nanodollars: Nanodollars
    asked_unix_s: int
    takes_effect_unix_s: int
    answer: Answered | None = None

    @property
    def about(self) -> About:
        return self.proposal.group.about

    @property
    def user(self) -> str:
        return self.proposal.group.user

    @property
    def offer_nanodollars(self) -> int:
        """What a yes allows if it names no price."""
        return max(self.proposal.offer_nanodollars, self.high_nanodollars)

    @property
    def title(self) -> str:
        if self.proposal.text:
            return self.proposal.text
        transfer = self.proposal.transfer
        who = transfer.program or "some program"
        if self.about is About.ALARM:
            return f"Was this you? {who} pays {transfer.destination or 'somebody'}"
        what = f" ({transfer.kind})" if transfer.kind else ""
        return f"May {who}{what} pay for {transfer.destination or 'its traffic'}?"

    @property
    def price(self) -> str:
        if self.high_nanodollars == 0:
            return "price not known yet"
        if self.low_nanodollars == self.high_nanodollars:
            return show_nanodollars(self.high_nanodollars)
        return f"{show_nanodollars(self.low_nanodollars)} to {show_nanodollars(self.high_nanodollars)}"

    @property
    def group_line(self) -> str:
        """ "" for a single transfer."""
        if self.others == 0:
            return ""
        if self.others >= OTHERS_MAX:
            return f"and more than {OTHERS_MAX} others"
        return f"and {self.others} other{'s' if self.others > 1 else ''}"

    @property
    def default(self) -> str:
        if self.about is About.ALARM:
            return "it stays frozen" if self.proposal.otherwise is Course.DECLINE else "it goes on"
        if self.proposal.otherwise is Course.PAY:
            return f"pay up to {show_nanodollars(self.proposal.limit_nanodollars)}"
        return "do not pay"


def why_asked(opinion: Opinion) -> str:
    """One line: what the answer is worth against the interruption, and how sure the secretary is by itself."""
    worth = show_nanodollars(max(0, opinion.worth_of_asking_nanodollars))
    low, high = show_nanodollars(opinion.low_nanodollars), show_nanodollars(opinion.high_nanodollars)
    percent = (opinion.accept_ppm + 5_000) // 10_000
    line = (
        f"your answer is worth {worth} over the coming month beyond what interrupting you costs; "
        f"a yes is {percent} % likely, the worth {low} to {high}, by {opinion.basis}"
    )
    return line[:LINE_MAX]
