"""What the journal says of a grant's money: reserved, told, settled, disputed; and what each of it amounts to.

Values, and one small fold; refuses to know budgets, purses and statements, which all read these. An amount that is told
is what was spent of the grant in all; a step is what it adds to the step before.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from billpay.messages import FlowSelector, Sum, UnixSeconds
from secretary.money.reserving import GrantScope, Purpose, scope_of
from secretary.transfers import Text, Transfer

GrantId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")]


class Word(enum.Enum):
    """Whose word an amount rests on."""

    CONFIRMED = "confirmed by the gateway"
    TOLD = "as told"
    ASSUMED = "assumed whole (no word)"


class GrantContext(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a grant was for, where it was opened, and what decided."""

    transfer: Transfer
    gateway: Text = ""  # fingerprint
    gateway_name: Text = ""
    flow: FlowSelector | None = None
    purpose: Purpose = Purpose.USUAL
    rule: Text = ""
    why: Text = ""  # one line

    @property
    def scope(self) -> GrantScope:
        return scope_of(self.transfer, self.purpose)

    @property
    def isp(self) -> str:
        """Its name, and enough of its fingerprint that two of one name are two."""
        return f"{self.gateway_name} ({self.gateway[:8]})" if self.gateway_name else self.gateway[:16]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base: the type's name travels with it."""


class Reserved(_Entry, frozen=True, kw_only=True):
    """A grant was opened, or its cap was raised; the context is that of its first entry."""

    grant: GrantId
    cap_nanodollars: Sum
    context: GrantContext
    unix_s: UnixSeconds


class SpendTold(_Entry, frozen=True, kw_only=True):
    """So much of an open grant was spent in all, says its host."""

    grant: GrantId
    spent_nanodollars: Sum
    unix_s: UnixSeconds


class Settled(_Entry, frozen=True, kw_only=True):
    """A grant ended. `counted_nanodollars`: what the host counted itself, if it said so.

    A second one, CONFIRMED, corrects what was assumed when no receipt had come.
    """

    grant: GrantId
    spent_nanodollars: Sum
    unix_s: UnixSeconds
    word: Word
    counted_nanodollars: Sum | None = None


class Disputed(_Entry, frozen=True, kw_only=True):
    """A person disputes what a grant cost on these days."""

    grant: GrantId
    context: GrantContext
    days: tuple[Day, ...]
    unix_s: UnixSeconds
    note: Text = ""


SpendingEntry = Reserved | SpendTold | Settled | Disputed


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was spent from one entry to the next; below zero where a receipt says less than was told."""

    from_unix_s: int
    until_unix_s: int
    nanodollars: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantCourse:
    """A grant from its first entry to its last. `word`: on which all of it rests now."""

    grant: str
    context: GrantContext
    cap_nanodollars: int
    spent_nanodollars: int
    word: Word
    is_disputed: bool
    steps: tuple[Step, ...]


def is_doubtful(entry: Settled, cap_nanodollars: int) -> bool:
    """A gateway says that more was spent than the host counted, or than the grant allowed."""
    beyond = entry.word is Word.CONFIRMED and entry.spent_nanodollars > cap_nanodollars
    counted = entry.counted_nanodollars
    return beyond or (entry.word is Word.CONFIRMED and counted is not None and entry.spent_nanodollars > counted)


def course_of(entries: Iterable[SpendingEntry]) -> GrantCourse | None:
    """All entries of one grant in order; None: it was never opened."""
    context: GrantContext | None = None
    cap = spent = since = 0
    word, ended, disputed = Word.TOLD, False, False
    steps: list[Step] = []
    grant = ""

    def step(total: int, unix_s: int, what: str) -> None:
        nonlocal spent, since
        steps.append(Step(from_unix_s=since, until_unix_s=unix_s, nanodollars=total - spent, what=what))
        spent, since = total, unix_s

    for entry in entries:
        match entry:
            case Reserved():
                if context is None:
                    grant, context, since = entry.grant, entry.context, entry.unix_s
                cap = max(cap, entry.cap_nanodollars)
                step(spent, entry.unix_s, f"granted up to {cap} n$: {entry.context.why or entry.context.rule}")
            case SpendTold() if context is not None and not ended:
                step(max(spent, min(entry.spent_nanodollars, cap)), entry.unix_s, Word.TOLD.value)
            case Settled() if context is not None and (not ended or word is not Word.CONFIRMED is entry.word):
                most = spent if ended else cap
                disputed = disputed or is_doubtful(entry, cap)
                ended, word = True, entry.word
                step(min(entry.spent_nanodollars, most), entry.unix_s, word.value)
            case Disputed():
                disputed = True
                steps.append(
                    Step(from_unix_s=since, until_unix_s=entry.unix_s, nanodollars=0, what=f"disputed: {entry.note}")
                )
    if context is None:
        return None
    return GrantCourse(
        grant=grant,
        context=context,
        cap_nanodollars=cap,
        spent_nanodollars=spent,
        word=word,
        is_disputed=disputed,
        steps=tuple(steps),
    )
