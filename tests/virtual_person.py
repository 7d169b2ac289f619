"""What the laptop's owner says to the agent, and what must hold of it at every look: words end when they must."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from virtual_laptop import Laptop

from hostagent import api
from hostagent.said import LOOK_FOR_QUIT_EVERY_S

TERMS = {
    "ten minutes": api.Term.TEN_MINUTES,
    "one hour": api.Term.ONE_HOUR,
    "today": api.Term.TODAY,
    "until quit": api.Term.UNTIL_QUIT,
    "forever": api.Term.ALWAYS,
}
SECONDS = {api.Term.TEN_MINUTES: 600, api.Term.ONE_HOUR: 3600}
S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Spoken:
    """`until_*`: of the wall clock, and of the clock that goes on while the machine sleeps."""

    term: api.Term
    until_unix_s: int | None = None
    until_boot_ns: int | None = None
    ran_at_look: int = 0


class Person:
    """`something_ended` at the last look: a word or a trial."""

    def __init__(self, laptop: Laptop, step_s: int) -> None:
        self._laptop = laptop
        self._step_s = step_s
        self._words: dict[str, Spoken] = {}
        self._mode = api.Mode.OBSERVE  # what was confirmed
        self._trial_ends_ns: int | None = None
        self._kept = (self._mode, self._words.copy())
        self._look = 0
        self.something_ended = False
        self.ended = 0

    async def does(self, verb: str, program: str, term: str) -> None:
        steering, clock = self._laptop.agent.steering, self._laptop.clock
        match verb:
            case "say" | "forget":
                spoken = TERMS.get(term, api.Term.ALWAYS)
                kind = "call" if verb == "say" else None
                with self._laptop.disk():
                    await steering.set_worth(api.WorthChange(program=program, kind=kind, term=spoken))
                self._words.pop(program, None)
                if verb == "say":
                    self._words[program] = self._spoken(spoken)
            case "act" | "observe" | "try":
                trial_s = int(program) if verb == "try" else 0
                mode = api.Mode.OBSERVE if verb == "observe" else api.Mode.ACT
                with self._laptop.disk():
                    await steering.set_mode(api.ModeChange(mode=mode, trial_s=trial_s))
                self._mode = api.Mode.OBSERVE if trial_s else mode
                self._trial_ends_ns = clock.now_monotonic_ns + trial_s * S if trial_s else None
        self._keep()

    def _spoken(self, term: api.Term) -> Spoken:
        clock = self._laptop.clock
        if term is api.Term.TODAY:
            tomorrow = datetime.fromtimestamp(clock.now_unix_s, clock.here).date() + timedelta(days=1)
            midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=clock.here)
            seconds: int | None = int(midnight.timestamp()) - clock.now_unix_s
        else:
            seconds = SECONDS.get(term)
        if seconds is None:
            return Spoken(term, ran_at_look=self._look)
        return Spoken(term, clock.now_unix_s + seconds, clock.boot_ns + seconds * S)

    def _keep(self) -> None:
        if not self._laptop.disk_is_full:
            self._kept = (self._mode, self._words.copy())

    def agent_began(self) -> None:
        """Another life: what was on the disk holds, and no trial does."""
        self._mode, words = self._kept
        self._words = words.copy()
        self._trial_ends_ns = None

    def check(self) -> None:
        """After each look."""
        self._look += 1
        clock, said = self._laptop.clock, self._laptop.agent.steering.said
        before = self._words
        self._words = {
            program: replace(word, ran_at_look=self._look) if self._runs(program) else word
            for program, word in before.items()
            if word.until_unix_s is None
            or (word.until_unix_s > clock.now_unix_s and (word.until_boot_ns or 0) // S > clock.boot_ns // S)
        }
        held = {word.program for word in said.view()}
        for program, word in list(self._words.items()):
            if word.term is api.Term.UNTIL_QUIT and program not in held:
                assert word.ran_at_look < self._look, f"what was said of {program} ended while it runs"
                del self._words[program]
            elif word.term is api.Term.UNTIL_QUIT:
                assert self._look - word.ran_at_look <= LOOK_FOR_QUIT_EVERY_S, f"{program} has quit"
        assert held == set(self._words)
        trial_is_over = self._trial_ends_ns is not None and clock.now_monotonic_ns >= self._trial_ends_ns
        if trial_is_over:
            self._trial_ends_ns = None
        assert said.mode.mode is (api.Mode.TRIAL if self._trial_ends_ns is not None else self._mode)
        self.something_ended = trial_is_over or len(self._words) < len(before)
        self.ended += self.something_ended
        self._keep()

    def _runs(self, program: str) -> bool:
        return any(each.rpartition("/")[2] == program for each in self._laptop.running)
