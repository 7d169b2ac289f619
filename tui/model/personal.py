"""What the digital secretary tells a person, as the screens show it: questions, rules, the purse, a statement, a trace.

Values only. They are the screens' own, so that these know nothing of the secretary; whoever reaches it fills them in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COLUMNS: Final = ("program", "destination", "gateway", "network", "day", "user")
"""What a statement can be grouped by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`state`: "open", "waiting" (its default holds), "answered", "undone". `otherwise`: what holds unless answered."""

    number: int
    kind: str  # "worth", "alarm", "budget"
    state: str
    user: str
    title: str
    transfers: int  # that wait for it
    price_nanodollars: int  # what a plain yes allows
    price: str
    asked_unix_s: int
    lapses_unix_s: int
    otherwise: str
    why: str
    answer: str = ""

    @property
    def is_answered(self) -> bool:
        return self.state == "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """`quiet`: why nothing would be asked just now."""

    questions: tuple[Question, ...]
    asked_today: int = 0
    a_day: int = 0
    quiet: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    source: str  # "ceiling", "answer", a file's name, "organisation"
    name: str
    condition: str
    outcome: str
    hits: int | None  # None: it is not counted
    seconds_left: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """In the order in which they are looked at."""

    rules: tuple[Rule, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What is there, and what of it is promised; None: a keeper's to see. `frozen`: stopped streams, a line each."""

    balance_nanodollars: int | None
    reserved_nanodollars: int | None
    open_grants: int
    answers: int = 0  # that it has learned from
    frozen: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    organisation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`state`: "confirmed", or what of "as told", "assumed", "disputed" holds."""

    key: str
    what: str
    user: str
    grants: int
    nanodollars: int
    of_vouchers_nanodollars: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """opening + topped up - spent - fees = closing, and the lines sum up to spent. Parts are names with amounts."""

    first_day: str
    last_day: str
    zone: str
    currency: str
    by: str
    opening_nanodollars: int
    topped_up_nanodollars: int
    topped_up_parts: tuple[tuple[str, int], ...]
    spent_nanodollars: int
    of_vouchers_nanodollars: int
    fees_nanodollars: int
    fee_lines: tuple[tuple[str, int], ...]
    closing_nanodollars: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An interval of a grant, and what was paid in it."""

    from_unix_s: int
    until_unix_s: int
    nanodollars: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedGrant:
    grant: str
    flow: str
    gateway: str
    because: str
    word: str  # whose word its sum rests on
    is_disputed: bool
    cap_nanodollars: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What is behind a line of a statement."""

    key: str
    grants: tuple[TracedGrant, ...]
