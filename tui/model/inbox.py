"""Questions that wait for a person, the engine's and the secretary's in one list, and what a person should know once.

Decides their order: what runs out first stands first, then those whose default holds already, then the answered ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from billpay.money import show_nanodollars
from hostagent import api
from tui.model import personal
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import (
    FAINT,
    NOTHING,
    STRONG,
    clock_text,
    date_text,
    day_text,
    duration_text,
    line,
    several,
)

NOTHING_TO_ANSWER: Final = "nothing to answer"
NO_NOTICES: Final = "no notices"
NEVER: Final = 2**53  # runs out after everything else

AnyQuestion = api.Question | personal.Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row. `left_s`: until its default holds; None: it does, or it is answered."""

    question: AnyQuestion
    key: str
    left_s: int | None
    text: str
    price: str
    otherwise: str
    transfers: int
    why: str

    @property
    def is_answered(self) -> bool:
        return isinstance(self.question, personal.Question) and self.question.is_answered


COLUMNS: Final[tuple[Column[Entry], ...]] = (
    number(
        "left",
        6,
        0,
        lambda entry: NOTHING if entry.left_s is None else duration_text(entry.left_s),
        lambda entry: -NEVER if entry.left_s is None else -entry.left_s,
    ),
    Column("question", 48, 0, lambda entry: entry.text, most=110),
    Column("price", 18, 0, lambda entry: entry.price, most=30),
    Column("otherwise", 12, 1, lambda entry: entry.otherwise, most=30),
    number("wait", 4, 2, lambda entry: str(entry.transfers), lambda entry: entry.transfers),
    Column("why", 20, 3, lambda entry: entry.why, most=300),
)


def entries(questions: Iterable[api.Question], asked: Iterable[personal.Question], now_unix_s: int) -> list[Entry]:
    """The most urgent first."""
    made = [_of_engine(question) for question in questions]
    made += [_of_secretary(question, now_unix_s) for question in asked]
    made.sort(
        key=lambda entry: (
            entry.is_answered,
            NEVER if entry.left_s is None else entry.left_s,
            -entry.question.number if entry.left_s is None else entry.question.number,
        )
    )
    return made


def _of_engine(question: api.Question) -> Entry:
    who = question.program or "some program"
    kind = f" ({question.traffic_class})" if question.traffic_class else ""
    return Entry(
        question=question,
        key=f"packet {question.number}",
        left_s=question.seconds_left,
        text=f"{who}{kind} wants to send {question.flow}",
        price=NOTHING,
        otherwise="it goes on",
        transfers=1,
        why="its first packet waits",
    )


def _of_secretary(question: personal.Question, now_unix_s: int) -> Entry:
    is_open = question.state == "open"
    return Entry(
        question=question,
        key=f"secretary {question.number}",
        left_s=max(0, question.lapses_unix_s - now_unix_s) if is_open else None,
        text=question.title,
        price=question.price if question.kind == "worth" else NOTHING,
        otherwise=question.answer if question.is_answered else question.otherwise,
        transfers=question.transfers,
        why=question.why,
    )


def _texts(entry: Entry) -> Iterable[str]:
    user = entry.question.user if isinstance(entry.question, personal.Question) else ""
    return entry.text, entry.price, entry.why, user


def listing(shown: Iterable[Entry], sorting: Sorting, wanted: str) -> Listing[Entry]:
    found = matching(wanted, shown, _texts)
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, found),
        key=lambda entry: entry.key,
        faint=lambda entry: entry.is_answered,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(entry: Entry, now_unix_s: int) -> list[Text]:
    question = entry.question
    if isinstance(question, api.Question):
        return [
            line((entry.text, STRONG)),
            line(f"its first packet waits; it goes on in {duration_text(question.seconds_left)} unless you say no"),
        ]
    facts = [f"a yes allows up to {show_nanodollars(question.price_nanodollars)}" if question.price_nanodollars else ""]
    facts += [question.price if question.kind == "worth" else question.kind]
    facts += [f"{several(question.transfers, 'transfer')} wait{'s' if question.transfers == 1 else ''}"]
    facts += [f"of {question.user}" if question.user else ""]
    return [
        line((question.title, STRONG)),
        line(" · ".join(fact for fact in facts if fact)),
        _what_holds(question, now_unix_s),
        line(("why  ", FAINT), question.why or NOTHING),
    ]


def _what_holds(question: personal.Question, now_unix_s: int) -> Text:
    at = _moment(question.lapses_unix_s, now_unix_s)
    if question.is_answered:
        return line(("answered  ", FAINT), f"{question.answer}; u takes it back")
    if question.state == "open":
        left = duration_text(max(0, question.lapses_unix_s - now_unix_s))
        return line(("otherwise  ", FAINT), f"{question.otherwise}, from {at} on, in {left}")
    return line(("holds now  ", FAINT), f"{question.otherwise}, since {at}; it can be answered all the same")


def _moment(unix_s: int, now_unix_s: int) -> str:
    """The time of day where it is today."""
    return clock_text(unix_s) if day_text(unix_s) == day_text(now_unix_s) else date_text(unix_s)


def counted(inbox: personal.Inbox) -> str:
    """How often the secretary has asked today, and why it would not just now."""
    said = f"asked today {inbox.asked_today} of at most {inbox.a_day}"
    return f"{said} · none now: {inbox.quiet}" if inbox.quiet else said


def waiting(snapshot: api.Snapshot | None) -> int:
    """Questions that wait for a person, wherever they were asked."""
    return len(snapshot.questions) + snapshot.status.secretary_questions if snapshot is not None else 0


def notice_lines(notices: Sequence[api.Notice]) -> list[Text]:
    """The latest first."""
    if not notices:
        return [line((NO_NOTICES, FAINT))]
    return [
        line((f"{clock_text(notice.unix_s)}  ", FAINT), f"{notice.code}: {notice.message}")
        for notice in reversed(notices)
    ]
