"""Flows that follow the price of congestion: how fast, how dear, what was spent of what it may cost, and why.

Decides the columns and the words of one session's details, and that an estimate stands behind a "~": nobody bills it.
What nobody has said is a question mark, and never a price of 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from billpay.money import show_nanodollars
from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import (
    FAINT,
    NOTHING,
    STRONG,
    UNKNOWN,
    duration_text,
    line,
    money_text,
    percent_text,
    price_text,
    rate_text,
)

EMPTY: Final = "no session: no flow follows the price of congestion (hostagent session open, or [[sessions]])"
ESTIMATED: Final = "~"
AS_THE_POLICY_SAYS: Final = 1_000_000
STEP: Final = 1.5
MOST_STEPS: Final = 11  # 86 times as much, or as little
_UNPRICED: Final = -1  # sorts below 0
_PPM_PER_PERCENT: Final = 10_000
_COUNTED: Final = {
    "receiver marks": "by the marks that the receiver counts",
    "tolls": "by what the path keeps of the payments",
}


def program_of(session: api.Session) -> str:
    return session.program.rpartition("/")[2]


def far_end(session: api.Session) -> str:
    """With its port."""
    return session.flow.rpartition(" → ")[2]


def price_of(session: api.Session) -> str:
    if not session.pays:
        return NOTHING
    told = session.price_nanodollars_per_mb
    return UNKNOWN if told is None else f"{'' if session.billed else ESTIMATED}{price_text(told)}"


def spent_of(session: api.Session) -> str:
    if not session.pays:
        return NOTHING
    guessed = bool(session.spent_nanodollars) and not session.billed
    return f"{ESTIMATED if guessed else ''}{money_text(session.spent_nanodollars)}"


def marks_of(session: api.Session) -> str:
    return UNKNOWN if session.marked_ppm is None else f"{session.marked_ppm / _PPM_PER_PERCENT:.1f} %"


def target_of(session: api.Session) -> str:
    return NOTHING if session.target_bit_s is None else rate_text(session.target_bit_s)


def _budget(session: api.Session) -> str:
    limit = session.session_budget_nanodollars
    return NOTHING if limit is None else money_text(limit)


def worth_of(session: api.Session) -> str:
    return worth_text(session.worth_ppm) if session.pays else NOTHING


def _or_none(value: int | None) -> int:
    return _UNPRICED if value is None else value


COLUMNS: Final[tuple[Column[api.Session], ...]] = (
    Column("program", 10, 0, lambda session: program_of(session) or NOTHING, most=24),
    Column("task", 10, 0, lambda session: session.task or NOTHING, most=24),
    Column("destination", 21, 5, far_end, most=47),
    Column("verdict", 7, 0, lambda session: session.verdict),
    number("worth", 5, 1, worth_of, lambda session: session.worth_ppm),
    number("rate", 5, 0, lambda session: rate_text(session.rate_bit_s), lambda session: session.rate_bit_s),
    number("target", 6, 0, target_of, lambda session: _or_none(session.target_bit_s)),
    number("price", 7, 0, price_of, lambda session: _or_none(session.price_nanodollars_per_mb)),
    number("marks", 7, 0, marks_of, lambda session: _or_none(session.marked_ppm)),
    number("spent", 7, 0, spent_of, lambda session: session.spent_nanodollars),
    number("of", 6, 2, _budget, lambda session: _or_none(session.session_budget_nanodollars)),
    Column("price is", 10, 3, lambda session: price_source(session), most=24),
    Column("why", 24, 4, lambda session: session.reason, most=400),
)


def price_source(session: api.Session) -> str:
    if not session.pays:
        return "the far end's"
    if not session.source:
        return UNKNOWN
    return "billed" if session.billed else f"estimate: {session.source}"


def _texts(session: api.Session) -> Iterable[str]:
    return session.program, session.task, session.kind, session.verdict, session.flow


def listing(sessions: Sequence[api.Session], sorting: Sorting, wanted: str) -> Listing[api.Session]:
    """The latest first; those that nobody paces matter less."""
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, matching(wanted, sessions, _texts)),
        key=lambda session: session.session,
        faint=lambda session: session.target_bit_s is None,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(session: api.Session, now_unix_s: int) -> list[Text]:
    kind = f", {session.kind}" if session.kind else ""
    since = f", for {duration_text(now_unix_s - session.since_unix_s)}" if session.since_unix_s else ""
    lines = [
        line((session.flow, STRONG), f"  {_role(session)}"),
        line(f"{program_of(session) or 'some program'}, task {session.task or NOTHING}{kind}{since}"),
        line((f"{session.verdict}  ", STRONG), session.reason),
        line(("rate   ", FAINT), _rate_words(session)),
        line(("price  ", FAINT), _price_words(session)),
    ]
    if not session.pays:
        return lines
    lines.append(line(("spent  ", FAINT), _spent_words(session)))
    if session.worth_ppm != AS_THE_POLICY_SAYS:
        said = f"{worth_text(session.worth_ppm)} of what its policy says, by a person's word; its limits stay"
        lines.append(line(("worth  ", FAINT), said))
    return lines


def _role(session: api.Session) -> str:
    if not session.sends:
        return "arrives, paid here"
    return "leaves, paid here" if session.pays else "leaves, paid by who receives it"


def _rate_words(session: api.Session) -> str:
    now = f"{rate_text(session.rate_bit_s, gap=' ')}bit/s"
    if session.target_bit_s is None:
        return f"{now}; no target: its own transport answers congestion"
    level = "" if session.level is None else f", level {session.level}"
    keeps = "the program keeps to it" if session.adapts else "its packets are paced"
    return f"{now} of {rate_text(session.target_bit_s, gap=' ')}bit/s{level}: {keeps}"


def _price_words(session: api.Session) -> str:
    if not session.pays:
        return "the far end's to know"
    if not session.source:
        return "nothing was heard yet"
    told = session.price_nanodollars_per_mb
    price = "not known" if told is None else f"{price_text(told)} a GB ({told:,} n$ a MB)"
    each = session.nanodollars_per_mark
    marks = f"{marks_of(session)} marked, a mark costs {UNKNOWN if each is None else show_nanodollars(each)}"
    return f"{price}, {_source_words(session)}; {marks}"


def _source_words(session: api.Session) -> str:
    if session.billed:
        return f"billed {_COUNTED.get(session.source, f'by {session.source}')}"
    return f"an estimate out of {session.source}: nobody bills it"


def _spent_words(session: api.Session) -> str:
    here = _part(session.spent_nanodollars, session.session_budget_nanodollars, "in this session")
    today = _part(session.spent_today_nanodollars, session.day_budget_nanodollars, "by its task today")
    return f"{'' if session.billed or not session.spent_nanodollars else 'estimated: '}{here}; {today}"


def _part(spent: int, limit: int | None, where: str) -> str:
    if limit is None:
        return f"{money_text(spent)} {where}, no limit"
    return f"{money_text(spent)} of {money_text(limit)} {where} ({percent_text(spent, limit)})"


def turned(worth_ppm: int, steps: int) -> int:
    """Half as much again for each step, or that much less; always one of the same amounts, however often."""
    at = round(math.log(max(worth_ppm, 1) / AS_THE_POLICY_SAYS, STEP)) + steps
    return round(AS_THE_POLICY_SAYS * STEP ** max(-MOST_STEPS, min(MOST_STEPS, at)))


def worth_text(worth_ppm: int) -> str:
    """Against the policy: ×1.5, ×0.67."""
    return f"×{worth_ppm / AS_THE_POLICY_SAYS:.3g}"


def end_lines(session: api.Session) -> list[Text]:
    return [
        line((session.flow, STRONG)),
        line(f"{program_of(session) or 'some program'}, task {session.task or NOTHING}"),
        line("It goes on without a pace, and its own transport answers congestion."),
        line(("What [[sessions]] of the configuration names gets a new session while it goes on.", FAINT)),
    ]
