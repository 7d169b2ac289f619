"""What a person said and what holds of it: the mode, and words about programs; kept over restarts in one small file.

Decides: that a file that cannot be read is put aside, never overwritten, and said; that what cannot be written holds
until the agent ends, and is written when there is room again. Refuses to know: what follows from a word
(`hostagent.sharing.policy`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from hostagent import api
from hostagent.desk import Refused
from hostagent.keeping import put_aside, write_whole
from hostagent.mode import ModeKeeper
from hostagent.notices import Notices
from hostagent.sharing.words import Word, Words
from secretary.clock import Clock

FILE_NAME: Final = "said.json"
LOOK_FOR_QUIT_EVERY_S: Final = 5


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`mode` None: nobody said."""

    version: int = 1
    mode: api.Mode | None = None
    words: tuple[Word, ...] = ()


class Said:
    """`mode_at_first`: what holds as long as nobody said anything. Raises EnvironmentFault when it cannot be read."""

    def __init__(
        self,
        directory: Path,
        *,
        mode_at_first: api.Mode,
        clock: Clock,
        notices: Notices,
        running_programs: Callable[[], frozenset[str]],
    ) -> None:
        self._path = directory / FILE_NAME
        self._clock = clock
        self._notices = notices
        self._running_programs = running_programs
        self._seconds = 0
        self._is_kept = True
        kept = self._read()
        self.words = Words(kept.words)
        self.mode = ModeKeeper(kept.mode or mode_at_first)

    # --- what is said -----------------------------------------------------------------------------------------------

    def set_mode(self, change: api.ModeChange) -> None:
        """Raises LocalProtocolError."""
        self.mode.change(change, self._clock.monotonic_ns())
        self._keep()

    def set_worth(self, change: api.WorthChange, kinds: Sequence[str]) -> None:
        """Raises Refused for a kind that is none of `kinds`, and for a word that would be over at once."""
        if change.term is api.Term.ONCE:
            raise Refused("no-such-term", "a worth holds for longer than one flow: 10m, 1h, today, until-quit, always")
        if change.kind is not None and change.kind not in kinds:
            raise Refused("unknown-kind", f"there is no kind {change.kind!r}: there are {', '.join(kinds)}")
        self.words.say(
            change.program,
            change.term,
            self._clock.moment(),
            kind=change.kind,
            nanodollars_per_mb=change.nanodollars_per_mb,
        )
        self._keep()

    def answer(self, program: str, answer: api.Answer) -> None:
        """The same answer to the program's next questions, for as long as was said."""
        self.words.say(program, answer.term, self._clock.moment(), allow=answer.allow)
        self._keep()

    def standing_answers(self, questions: Sequence[api.Question]) -> list[tuple[int, bool]]:
        """To those of `questions` that were answered before: number, and whether it goes on."""
        found = []
        for question in questions:
            word = self.words.of(question.program)
            if word is not None and word.allow is not None:
                found.append((question.number, word.allow))
        return found

    # --- what ends --------------------------------------------------------------------------------------------------

    async def on_second(self) -> None:
        """Words and trials whose time is over end, and a person hears of it."""
        self._seconds += 1
        over = [f"what you said of {word.program} is over" for word in self.words.expire(self._clock.moment())]
        if self.words.waits_for_end_of() and self._seconds % LOOK_FOR_QUIT_EVERY_S == 0:
            running = await asyncio.to_thread(self._running_programs)
            over += [f"{word.program} has quit: what you said of it is over" for word in self.words.quit(running)]
        if self.mode.rolled_back(self._clock.monotonic_ns()):
            over.append("nobody confirmed: it only counts again, and nothing is changed")
        for message in over:
            self._notices.say(self._clock.unix_s(), "over", message)
        if over or (not self._is_kept and self._seconds % LOOK_FOR_QUIT_EVERY_S == 0):
            self._keep()

    def view(self) -> tuple[api.Worth, ...]:
        now = self._clock.moment()
        return tuple(
            api.Worth(
                program=word.program,
                kind=word.kind,
                nanodollars_per_mb=word.nanodollars_per_mb,
                term=word.term,
                seconds_left=None if (left := word.seconds_left(now)) is None else max(0, left),
            )
            for word in self.words.all()
        )

    # --- the file ---------------------------------------------------------------------------------------------------

    def _read(self) -> _Kept:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return _Kept()
        except OSError as error:
            raise EnvironmentFault("read", str(self._path), error.strerror, "check who owns it") from error
        except msgspec.DecodeError as error:
            self._notices.say(self._clock.unix_s(), "said", f"{put_aside(self._path, error)}; say it again")
            return _Kept()

    def _keep(self) -> None:
        kept = _Kept(mode=self.mode.kept, words=self.words.all())
        try:
            write_whole(self._path, msgspec.json.encode(kept))
        except EnvironmentFault as fault:
            if self._is_kept:  # it is tried again and again, and said once
                message = f"what you said holds until the agent ends, or there is room: {fault}"
                self._notices.say(self._clock.unix_s(), "said", message)
            self._is_kept = False
        else:
            self._is_kept = True
