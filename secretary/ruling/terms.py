"""For how long a person's answer holds, and the standing answers: what was said once, and answers the next question.

Decides: when a term ends, which standing answer a transfer falls under (the most specific; of two alike the latest),
and that an answer speaks of a maximum price. Refuses to know: who is asked and when, files and clocks (`Moment` is an
argument). Pure.

What has an end has two deadlines, one on the wall clock and one on the clock that counts while the machine sleeps
(CLOCK_BOOTTIME). The first that passes ends it: a wall clock set back renews nothing, and a night in the bag is no
extension. After a reboot only the wall clock's is left; while it stands before the moment at which the answer was
given, the answer rests, since nobody can say how much of its time is over.

Source: Bill-Pay 2.4 (the user's answers teach the digital secretary); clock_gettime(2).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from secretary.ruling.rules import Most
from secretary.transfers import Moment, Text, Transfer

NS_PER_S: Final = 1_000_000_000
STANDING_MAX: Final = 10_000
"""The oldest gives way."""


class Term(enum.Enum):
    """For how long a person's word holds; its clock goes on while the machine sleeps."""

    ONCE = "once"  # this flow only
    UNTIL_QUIT = "until-quit"  # until no process of the program is left
    TEN_MINUTES = "10m"
    ONE_HOUR = "1h"
    TODAY = "today"  # until the next local midnight
    ALWAYS = "always"


_SECONDS: Final = {Term.TEN_MINUTES: 600, Term.ONE_HOUR: 3600}


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """When something ends, by both clocks; all None: it has no end of its own. Base of what a person said."""

    until_unix_s: int | None = None
    until_boot_ns: int | None = None
    boot: str = ""

    def seconds_left(self, now: Moment) -> int | None:
        """None: it has no end of its own; 0 or less: it is over."""
        if self.until_unix_s is None:
            return None
        left = self.until_unix_s - now.unix_s
        if self.until_boot_ns is not None and self.boot == now.boot:
            left = min(left, (self.until_boot_ns - now.boot_ns) // NS_PER_S)
        return left

    def is_over(self, now: Moment) -> bool:
        left = self.seconds_left(now)
        return left is not None and left <= 0


def deadline_of(term: Term, now: Moment) -> Deadline:
    """Of what is said now. ONCE, UNTIL_QUIT and ALWAYS have no end on a clock."""
    seconds = _seconds_of(term, now)
    if seconds is None:
        return Deadline()
    return Deadline(until_unix_s=now.unix_s + seconds, until_boot_ns=now.boot_ns + seconds * NS_PER_S, boot=now.boot)


def _seconds_of(term: Term, now: Moment) -> int | None:
    if term is Term.TODAY:
        here = now.local
        midnight = datetime(here.year, here.month, here.day, tzinfo=now.zone) + timedelta(days=1)
        return max(1, int(midnight.timestamp()) - now.unix_s)
    return _SECONDS.get(term)


class Scope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose and which transfers an answer is about. "": of any; each named part has to be the transfer's own."""

    user: Text = ""
    program: Text = ""
    kind: Text = ""
    destination: Text = ""
    network: Text = ""

    @property
    def specificity(self) -> int:
        """How many parts are named."""
        return sum(1 for part in msgspec.structs.astuple(self) if part)

    def holds(self, transfer: Transfer) -> bool:
        """A part that the host does not know of the transfer is none that was named."""
        return (
            (not self.program or self.program == transfer.program)
            and (not self.user or self.user == transfer.user)
            and (not self.destination or self.destination == transfer.destination)
            and (not self.network or self.network == transfer.network)
            and (not self.kind or self.kind == transfer.kind)
        )

    def __str__(self) -> str:
        named = zip(("user", "program", "kind", "to", "on"), msgspec.structs.astuple(self), strict=True)
        return ", ".join(f"{what} {part}" for what, part in named if part) or "anything"


class Standing(Deadline, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer that holds for more than one transfer. `most` None: declined; else accepted up to that price."""

    number: int  # of the answer, drawn by who asks: larger is later
    scope: Scope
    term: Term
    most: Most | None = None
    said_unix_s: int

    def rests(self, now: Moment) -> bool:
        """After a reboot the wall clock is before the answer: how much of its time is over cannot be said."""
        return self.until_unix_s is not None and self.boot != now.boot and now.unix_s < self.said_unix_s


def standing_answer(number: int, scope: Scope, term: Term, now: Moment, *, most: Most | None) -> Standing | None:
    """What was said just now; None for ONCE, which answers its own question and no other."""
    if term is Term.ONCE:
        return None
    if term is Term.UNTIL_QUIT and not scope.program:
        raise ValueError("until-quit needs a program that can quit")
    end = deadline_of(term, now)
    return Standing(
        number=number,
        scope=scope,
        term=term,
        most=most,
        said_unix_s=now.unix_s,
        until_unix_s=end.until_unix_s,
        until_boot_ns=end.until_boot_ns,
        boot=end.boot,
    )


class StandingAnswers:
    """All that hold, at most one for a scope; the state that `say` and `withdraw` make. `all()` is what to keep."""

    def __init__(self, kept: Iterable[Standing] = ()) -> None:
        self._by_scope: dict[Scope, Standing] = {}
        for standing in kept:
            self.say(standing)

    def all(self) -> tuple[Standing, ...]:
        return tuple(self._by_scope.values())

    def say(self, standing: Standing) -> None:
        """Takes the place of what was said of that scope before."""
        self._by_scope.pop(standing.scope, None)
        self._by_scope[standing.scope] = standing
        while len(self._by_scope) > STANDING_MAX:
            del self._by_scope[next(iter(self._by_scope))]

    def withdraw(self, number: int) -> Standing | None:
        """The answer is undone; None: it does not stand any more."""
        for scope, standing in self._by_scope.items():
            if standing.number == number:
                return self._by_scope.pop(scope)
        return None

    def of(self, transfer: Transfer, now: Moment) -> Standing | None:
        """The most specific that holds; of two alike the latest. One that is over holds no more, expired or not."""
        best = None
        for scope in _scopes_of(transfer):
            standing = self._by_scope.get(scope)
            if standing is None or standing.is_over(now) or standing.rests(now):
                continue
            if best is None or _rank(standing) > _rank(best):
                best = standing
        return best

    def expire(self, now: Moment) -> tuple[Standing, ...]:
        """Those whose time is over since the last call; they are gone."""
        return self._drop(standing for standing in self._by_scope.values() if standing.is_over(now))

    def waits_for_end_of(self) -> frozenset[str]:
        """Programs whose answer holds until they quit."""
        held = self._by_scope.values()
        return frozenset(standing.scope.program for standing in held if standing.term is Term.UNTIL_QUIT)

    def quit(self, running: Collection[str]) -> tuple[Standing, ...]:
        """Ends the answers about programs of which nothing runs; `running`: file names or paths of executables."""
        names = {path.rpartition("/")[2] for path in running} | set(running)
        return self._drop(
            standing
            for standing in self._by_scope.values()
            if standing.term is Term.UNTIL_QUIT and standing.scope.program not in names
        )

    def _drop(self, over: Iterable[Standing]) -> tuple[Standing, ...]:
        gone = tuple(over)
        for standing in gone:
            del self._by_scope[standing.scope]
        return gone


def _rank(standing: Standing) -> tuple[int, int]:
    return standing.scope.specificity, standing.number


def _scopes_of(transfer: Transfer) -> list[Scope]:
    """Every scope that holds for it, so that finding an answer takes the same time with 1 and with 10,000."""
    scopes = [Scope()]
    for part in Scope.__struct_fields__:
        value = getattr(transfer, part)
        if value:
            scopes += [msgspec.structs.replace(scope, **{part: value}) for scope in scopes]
    return scopes
