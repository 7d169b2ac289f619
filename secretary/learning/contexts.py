"""What the learner sees of a transfer: names, hour and size in steps; and those of many transfers as arrays.

Decides which transfers are alike to the learner. Refuses to know: values, answers, prices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secretary.kinds import Kind
from secretary.transfers import Moment, Transfer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SIZE_STEPS_PER_E: Final = 4
"""Sizes count in steps of a quarter of a natural logarithm: coarse enough that contexts repeat."""
HOURS: Final = 24
PROGRAMS_REMEMBERED: Final = 4096
DEFAULT_KIND: Final = "default"
DOMAIN_LABELS: Final = 2
_WORDS: Final = {
    "control": "control dns ntp dhcp shell terminal",
    "call": "call calls voip meeting meetings conference conferencing phone talk videocall",
    "game": "game games gaming",
    "web": "web browser browsing mail email news chat messenger messaging",
    "stream": "stream streaming video music movie movies film films tv radio podcast audio youtube netflix",
    "sync": "sync cloud photos drive",
    "update": "update updates updater upgrade upgrades packages apt",
    "backup": "backup backups torrent torrents archive",
}
"""A program that the table does not name may be called by what it does; the first word that says something counts."""
_KIND_OF_WORD: Final = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_SEPARATORS: Final = str.maketrans("-_./ 0123456789", " " * 15)


class Context(NamedTuple):
    """`size_step` None: the size is not known. A tuple, since it is a key on the path of every decision."""

    kind: str
    program: str
    destination: str
    network: str
    foreground: bool | None
    hour: int
    size_step: int | None

    @property
    def log_bytes(self) -> float | None:
        return None if self.size_step is None else self.size_step / SIZE_STEPS_PER_E


class Seer:
    """Makes contexts of transfers: finds a program's kind where the transfer does not name one."""

    __slots__ = ("_kind_of_program", "_kinds", "_shipped")

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._shipped = {program: kind.name for kind in kinds.values() for program in kind.programs}
        self._kind_of_program = dict(self._shipped)

    def see(self, transfer: Transfer, now: Moment) -> Context:
        kind = transfer.kind
        if kind not in self._kinds:
            kind = self._kind_of_program.get(transfer.program, "") or self._guess(transfer.program)
        size = transfer.size_bytes
        return Context(
            kind,
            transfer.program,
            transfer.destination.lower().rstrip("."),
            transfer.network,
            transfer.foreground,
            now.local.hour,
            round(SIZE_STEPS_PER_E * math.log(size)) if size > 0 else None,
        )

    def _guess(self, program: str) -> str:
        if len(self._kind_of_program) >= PROGRAMS_REMEMBERED:
            self._kind_of_program = dict(self._shipped)
        words = program.lower().translate(_SEPARATORS).split()
        found = next((_KIND_OF_WORD[word] for word in words if word in _KIND_OF_WORD), DEFAULT_KIND)
        kind = self._kind_of_program[program] = found if found in self._kinds else DEFAULT_KIND
        return kind


def domain_of(destination: str) -> str:
    """The last two labels of a name, half of an address: what many destinations have in common."""
    if ":" in destination:
        return ":".join(destination.split(":")[:3])
    labels = destination.split(".")
    if len(labels) == 4 and labels[-1].isdigit():
        return ".".join(labels[:DOMAIN_LABELS])
    return ".".join(labels[-DOMAIN_LABELS:])


def _names(context: Context) -> tuple[object, ...]:
    """What two contexts have in common or have not, in the order of `NAMED`."""
    program = context.program
    return (
        context.kind,
        program,
        domain_of(context.destination),
        context.destination,
        context.network,
        context.foreground,
        (program, context.network),
        (program, context.foreground),
        (program, context.destination),
    )


NAMED: Final = (
    "kind",
    "program",
    "domain",
    "destination",
    "network",
    "foreground",
    "program on network",
    "program in foreground",
    "program to destination",
)
PROGRAM: Final = NAMED.index("program")
POOLED: Final = NAMED[: NAMED.index("foreground") + 1]
"""Names that mean the same to other people."""


def pooled_names(context: Context) -> tuple[tuple[int, str], ...]:
    """What is known of this by what others say: each of `POOLED` by number, and the name; unknown ones left out."""
    named = enumerate(_names(context)[: len(POOLED)])
    return tuple((number, str(name)) for number, name in named if name is not None and name != "")


class Codebook:
    """Numbers for names, made once for a set of contexts; a name outside the set is -1, like nothing in it."""

    __slots__ = ("_numbers",)

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._numbers: tuple[dict[object, int], ...] = tuple({} for _ in NAMED)
        for context in contexts:
            for numbers, name in zip(self._numbers, _names(context), strict=True):
                numbers.setdefault(name, len(numbers))

    def codes(self, contexts: Sequence[Context]) -> Integers:
        rows = [
            [numbers.get(name, -1) for numbers, name in zip(self._numbers, _names(context), strict=True)]
            for context in contexts
        ]
        return np.array(rows, dtype=np.int64).reshape(len(contexts), len(NAMED))
