"""What a person said about programs, and for how long it holds: a worth, a kind, or an answer to "may it begin?".

Decides: when a word ends. Refuses to know: what follows from it, files and clocks (`Moment` is an argument). Pure.

A word with an end has two deadlines, one on the wall clock and one on the clock that counts while the machine sleeps
(CLOCK_BOOTTIME). The first that passes ends it: a wall clock set back renews nothing, and a night in the bag is no
extension. After a reboot only the wall clock's is left.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Annotated, Final

import msgspec

from hostagent.api import Term

NS_PER_S: Final = 1_000_000_000
WORDS_MAX: Final = 48
"""Each is a rule and up to one class of the plan; the oldest gives way."""

_SECONDS: Final = {Term.TEN_MINUTES: 600, Term.ONE_HOUR: 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Now, by all clocks that matter. `boot`: names this boot, so that `boot_ns` of another one says nothing."""

    unix_s: int
    boot_ns: int
    boot: str
    zone: tzinfo


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """About one program (file name or absolute path). What was not said is None."""

    program: str
    term: Term
    kind: str | None = None
    nanodollars_per_mb: Annotated[int, msgspec.Meta(ge=0, le=10**15)] | None = None
    allow: bool | None = None
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


class Words:
    """All that holds, the latest said last; at most one for a program."""

    def __init__(self, words: tuple[Word, ...] = ()) -> None:
        self._words = {word.program: word for word in words}

    def all(self) -> tuple[Word, ...]:
        """For keeping, and for the plan; call `expire` before."""
        return tuple(self._words.values())

    def of(self, program: str) -> Word | None:
        """The word about an executable (absolute path); one about its path goes before one about its name."""
        return self._words.get(program) or self._words.get(program.rpartition("/")[2])

    def say(
        self,
        program: str,
        term: Term,
        now: Moment,
        *,
        kind: str | None = None,
        nanodollars_per_mb: int | None = None,
        allow: bool | None = None,
    ) -> None:
        """Takes the place of what was said of that program before; says nothing: forgets it."""
        self._words.pop(program, None)
        if term is Term.ONCE or (kind is None and nanodollars_per_mb is None and allow is None):
            return
        seconds = _seconds_of(term, now)
        self._words[program] = Word(
            program=program,
            term=term,
            kind=kind,
            nanodollars_per_mb=nanodollars_per_mb,
            allow=allow,
            until_unix_s=None if seconds is None else now.unix_s + seconds,
            until_boot_ns=None if seconds is None else now.boot_ns + seconds * NS_PER_S,
            boot=now.boot if seconds is not None else "",
        )
        while len(self._words) > WORDS_MAX:
            del self._words[next(iter(self._words))]

    def expire(self, now: Moment) -> list[Word]:
        """Those that ended since the last call."""
        over = [word for word in self._words.values() if (left := word.seconds_left(now)) is not None and left <= 0]
        for word in over:
            del self._words[word.program]
        return over

    def waits_for_end_of(self) -> tuple[str, ...]:
        """Programs whose word holds until they quit."""
        return tuple(word.program for word in self._words.values() if word.term is Term.UNTIL_QUIT)

    def quit(self, running: Collection[str]) -> list[Word]:
        """Ends the words about programs of which nothing runs; `running`: absolute paths of executables."""
        names = {path.rpartition("/")[2] for path in running} | set(running)
        over = [self._words[program] for program in self.waits_for_end_of() if program not in names]
        for word in over:
            del self._words[word.program]
        return over


def _seconds_of(term: Term, now: Moment) -> int | None:
    if term is Term.TODAY:
        here = datetime.fromtimestamp(now.unix_s, now.zone)
        midnight = datetime(here.year, here.month, here.day, tzinfo=now.zone) + timedelta(days=1)
        return max(1, int(midnight.timestamp()) - now.unix_s)
    return _SECONDS.get(term)
