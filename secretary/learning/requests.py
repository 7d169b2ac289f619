"""What a person's requests say without any answer: how often they come, at what prices, of what sizes.

Decides the levels from which beliefs start, and the sample that stands for the coming month. Refuses to know: answers,
and what any transfer is worth. A request costs microseconds, however many there were; what is kept grows with the
number of programs only, and that is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from secretary.learning.contexts import Context
from secretary.learning.model import DAY_S, MEGABYTE, Levels

MEMORY_REQUESTS: Final = 2000
"""Means follow the last so many requests."""
MEMORY_DAYS: Final = 10.0
SHRINKAGE: Final = 2.0
"""So many requests at the usual price are added to each program's."""
SHORTEST_DAYS: Final = 1.0
"""A rate is over at least a day."""
RECENT: Final = 8
RECENT_A_DAY: Final = 4.0
PROGRAMS_MAX: Final = 400
SAMPLE_MAX: Final = 72
LEAST_WORTH: Final = 1e-3


class Recent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request as a sample of the coming ones."""

    context: Context
    price_nanodollars: int


class ProgramState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of one program. `rated`: requests, the older the less they count, as of `last_unix_s`."""

    first_unix_s: int
    last_unix_s: int
    count: int = 0
    rated: float = 0.0
    priced: int = 0
    log_price: float = 0.0
    skipped: int = 0
    recent: list[Recent] = msgspec.field(default_factory=list)

    def per_day(self, unix_s: int) -> float:
        age = max(SHORTEST_DAYS, (unix_s - self.first_unix_s) / DAY_S)
        faded = self.rated * math.exp(-max(0, unix_s - self.last_unix_s) / DAY_S / MEMORY_DAYS)
        return faded / (MEMORY_DAYS * -math.expm1(-age / MEMORY_DAYS))


class RequestsState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All that is kept of requests."""

    born_unix_s: int = 0
    count: int = 0
    priced: int = 0
    log_price: float = 0.0
    log_worth: float = 0.0
    log_bytes: float = 0.0
    programs: dict[str, ProgramState] = msgspec.field(default_factory=dict)


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that stands for `per_day` coming ones."""

    context: Context
    price_nanodollars: int
    per_day: float


class Ground(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What requests say at a moment; beliefs rest on it and on the answers, and on nothing else."""

    unix_s: int = 0
    born_unix_s: int = 0
    count: int = 0
    levels: Levels = Levels()
    expected: tuple[Expected, ...] = ()
    per_day: dict[str, float] = {}

    def rate_of(self, program: str) -> float:
        """A day's requests; of a program not seen before, those of the middle program."""
        rate = self.per_day.get(program)
        if rate is not None:
            return rate
        rates = sorted(self.per_day.values())
        return rates[len(rates) // 2] if rates else 1.0


class Requests:
    """Counts requests."""

    __slots__ = ("_worths", "state")

    def __init__(self, worths: Mapping[str, float], state: RequestsState | None = None) -> None:
        self._worths = worths
        self.state = RequestsState() if state is None else state

    def note(self, context: Context, price_nanodollars: int, unix_s: int) -> None:
        state = self.state
        if state.count == 0:
            state.born_unix_s = unix_s
        state.count += 1
        program = state.programs.get(context.program)
        if program is None:
            program = self._newcomer(context.program, unix_s)
        elapsed = max(0, unix_s - program.last_unix_s) / DAY_S
        program.rated = program.rated * math.exp(-elapsed / MEMORY_DAYS) + 1.0
        program.last_unix_s = max(program.last_unix_s, unix_s)
        program.count += 1
        if price_nanodollars > 0 and context.size_step is not None:
            self._price(program, context, math.log(price_nanodollars))
            self._sample(program, context, price_nanodollars, unix_s)

    def _newcomer(self, name: str, unix_s: int) -> ProgramState:
        programs = self.state.programs
        if len(programs) >= PROGRAMS_MAX:
            del programs[min(programs, key=lambda other: (programs[other].last_unix_s, other))]
        programs[name] = ProgramState(first_unix_s=unix_s, last_unix_s=unix_s)
        return programs[name]

    def _price(self, program: ProgramState, context: Context, log_price: float) -> None:
        state = self.state
        state.priced += 1
        share = 1.0 / min(state.priced, MEMORY_REQUESTS)
        state.log_price += share * (log_price - state.log_price)
        state.log_worth += share * (self._worths[context.kind] - state.log_worth)
        state.log_bytes += share * ((context.log_bytes or 0.0) - state.log_bytes)
        program.priced += 1
        program.log_price += (log_price - program.log_price) / min(program.priced, MEMORY_REQUESTS)

    def _sample(self, program: ProgramState, context: Context, price_nanodollars: int, unix_s: int) -> None:
        stride = max(1, round(program.per_day(unix_s) / RECENT_A_DAY)) if len(program.recent) >= RECENT else 1
        program.skipped += 1
        if program.skipped < stride:
            return
        program.skipped = 0
        if len(program.recent) >= RECENT:
            del program.recent[0]
        program.recent.append(Recent(context=context, price_nanodollars=price_nanodollars))

    def ground(self, unix_s: int) -> Ground:
        return Ground(
            unix_s=unix_s,
            born_unix_s=self.state.born_unix_s,
            count=self.state.count,
            levels=self._levels(),
            expected=tuple(self._expected(unix_s)),
            per_day={name: program.per_day(unix_s) for name, program in self.state.programs.items()},
        )

    def _levels(self) -> Levels:
        state = self.state
        contrasts = {
            name: (program.log_price - state.log_price) * program.priced / (program.priced + SHRINKAGE)
            for name, program in state.programs.items()
            if program.priced > 0
        }
        if state.priced == 0:
            return Levels()
        return Levels(
            priced=state.priced,
            log_price=state.log_price,
            log_table=state.log_worth + state.log_bytes - math.log(MEGABYTE),
            log_worth=state.log_worth,
            log_bytes=state.log_bytes,
            program_log_price=contrasts,
        )

    def _expected(self, unix_s: int) -> list[Expected]:
        """The sample: some recent requests of each program, the frequent ones' first."""
        rates = {name: program.per_day(unix_s) for name, program in self.state.programs.items() if program.recent}
        names = sorted(rates, key=lambda name: (-rates[name], name))[:SAMPLE_MAX]
        each = max(1, min(RECENT, SAMPLE_MAX // max(1, len(names))))
        expected = []
        for name in names:
            chosen = self.state.programs[name].recent[-each:]
            expected += [
                Expected(
                    context=one.context, price_nanodollars=one.price_nanodollars, per_day=rates[name] / len(chosen)
                )
                for one in chosen
            ]
        return expected
