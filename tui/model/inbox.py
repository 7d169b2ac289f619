"""Questions that wait for a person, and what a person should know once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import FAINT, NOTHING, clock_text, duration_text, line

NOTHING_TO_ANSWER: Final = "nothing to answer"
NO_NOTICES: Final = "no notices"

COLUMNS: Final[tuple[Column[api.Question], ...]] = (
    number("left", 6, 0, lambda question: duration_text(question.seconds_left), lambda q: -q.seconds_left),
    Column("program", 14, 0, lambda question: question.program or NOTHING, most=30),
    Column("kind", 12, 1, lambda question: question.traffic_class or NOTHING, most=18),
    Column("wants to send", 36, 0, lambda question: question.flow, most=100),
)


def listing(questions: Iterable[api.Question], sorting: Sorting, wanted: str) -> Listing[api.Question]:
    """The most urgent first."""
    found = matching(wanted, questions, lambda question: (question.program, question.flow, question.traffic_class))
    found.sort(key=lambda question: (question.seconds_left, question.number))
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, found),
        key=lambda question: str(question.number),
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def notice_lines(notices: Sequence[api.Notice]) -> list[Text]:
    """The latest first."""
    if not notices:
        return [line((NO_NOTICES, FAINT))]
    return [
        line((f"{clock_text(notice.unix_s)}  ", FAINT), f"{notice.code}: {notice.message}")
        for notice in reversed(notices)
    ]
