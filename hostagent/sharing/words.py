"""What a person said about programs, and for how long it holds: a worth, a kind, or an answer to "may it begin?".

Decides: which word holds of a program. Refuses to know: when a term ends (`secretary.ruling.terms`), what follows from
a word, files and clocks (`Moment` is an argument). Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final

import msgspec

from hostagent.api import Term
from secretary.ruling import terms
from secretary.ruling.terms import Deadline
from secretary.transfers import Moment

WORDS_MAX: Final = 48
"""Each is a rule and up to one class of the plan; the oldest gives way."""


class Word(Deadline, frozen=True, kw_only=True):
    """About one program (file name or absolute path). What was not said is None."""

    program: str
    term: Term
    kind: str | None = None
    nanodollars_per_mb: Annotated[int, msgspec.Meta(ge=0, le=10**15)] | None = None
    allow: bool | None = None


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
        end = terms.deadline_of(terms.Term(term.value), now)
        self._words[program] = Word(
            program=program,
            term=term,
            kind=kind,
            nanodollars_per_mb=nanodollars_per_mb,
            allow=allow,
            until_unix_s=end.until_unix_s,
            until_boot_ns=end.until_boot_ns,
            boot=end.boot,
        )
        while len(self._words) > WORDS_MAX:
            del self._words[next(iter(self._words))]

    def expire(self, now: Moment) -> list[Word]:
        """Those that ended since the last call."""
        over = [word for word in self._words.values() if word.is_over(now)]
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
