"""A task's policy inside a session description: `a=x-buy:` attributes (DPH-28).

Decides: how each field of a policy is written and read, and where the lines stand in a description. Refuses to know:
the rest of the description, which goes through unchanged, byte for byte. Nothing known is read half: whoever launches a
session with a wrong limit would pay for it. Attributes that nobody here knows are passed over; those of our own prefix
are named in `Reading.passed_over`, for a person to see a spelling mistake.

The policy is the payer's own. `without_policy` takes it out before a description leaves for the other side (DPH-07);
and of one that comes from there, which could name any limit in the payer's name.
Sources: RFC 8866 (5.13 attributes, 9 grammar; lines end in CRLF, readers accept LF); M3I scenarios 3.3.5.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import ConfigurationError
from pricereactor.policy import TaskKind, TaskPolicy, check, problems

PREFIX: Final = "a=x-buy:"
WHERE: Final = "session description"

_NUMBERS: Final = {
    "willingness": "willingness_nanodollars_per_s",
    "min-rate": "min_bit_s",
    "max-rate": "max_bit_s",
    "session-budget": "session_budget_nanodollars",
    "day-budget": "day_budget_nanodollars",
    "price-ceiling": "price_ceiling_nanodollars_per_mb",
    "rate-change": "largest_rate_change_ppm",
    "price-change": "largest_price_change_ppm",
    "buffer": "buffer_ms",
    "switches": "most_switches_per_minute",
    "size": "size_bytes",
    "deadline": "deadline_s",
    "notice": "notice_s",
}
"""Keys of one number each, and the field they are."""
_KEY_OF_FIELD: Final = {field: key for key, field in _NUMBERS.items()} | {
    "name": "task",
    "kind": "task",
    "value": "value",
    "ladder_bit_s": "ladder",
    "attended": "attended",
}
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(TaskPolicy)}

# [0-9] and not \d: other scripts have digits too. No leading zeros, so that a value has one form.
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,19}")
_POINT: Final = re.compile(r"([^/]*)/([^/]*)")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_ANY_LINE_END: Final = re.compile(r"\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # some readers know more than the RFC
# What somebody, somewhere, might still read as ours; a longer name (RFC 8866 token characters) is another attribute.
_OURS: Final = re.compile(r"\s*a\s*=\s*x-buy(?![!#-'*+.0-9A-Z^-~-])", re.IGNORECASE)
_SECTION: Final = re.compile(r"m=")
_SHOWN_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """`passed_over`: whole lines of our prefix whose key nobody knows, with their numbers from 1."""

    policy: TaskPolicy | None
    passed_over: tuple[tuple[int, str], ...] = ()


def to_sdp(policy: TaskPolicy) -> tuple[str, ...]:
    """Its lines, without their ends; what has its default is left out."""
    lines = [f"{PREFIX}task {policy.name} {policy.kind.value}"]
    lines += [
        f"{PREFIX}{key} {getattr(policy, field)}"
        for key, field in _NUMBERS.items()
        if getattr(policy, field) != _DEFAULTS[field]
    ]
    if policy.value:
        points = " ".join(f"{point.rate_bit_s}/{point.nanodollars_per_s}" for point in policy.value)
        lines.append(f"{PREFIX}value {points}")
    if policy.ladder_bit_s:
        lines.append(f"{PREFIX}ladder {' '.join(map(str, policy.ladder_bit_s))}")
    if policy.attended:
        lines.append(f"{PREFIX}attended yes")
    return tuple(lines)


def from_sdp(text: str, *, where: Path | str = WHERE) -> TaskPolicy | None:
    """The description's policy; None: it has none. Raises ConfigurationError with the line's number."""
    return read_sdp(text, where=where).policy


def read_sdp(text: str, *, where: Path | str = WHERE) -> Reading:
    """As `from_sdp`, and which of our lines it passed over."""
    reader = _Reader(where)
    in_media = False
    for number, line in enumerate(_LINE_END.split(text), start=1):
        in_media = in_media or _SECTION.match(line) is not None
        if _OURS.match(line):
            reader.take(number, line, in_media=in_media)
    return reader.end()


def with_policy(sdp_text: str, policy: TaskPolicy) -> str:
    """The description with this policy as its only one, before the first media section.

    Raises ConfigurationError if the text is no session description, or the policy none that a reactor can keep to.
    """
    check(policy)
    bare = without_policy(sdp_text)
    if not bare.startswith("v=0"):
        raise ConfigurationError(WHERE, "line 1", "does not begin with v=0", "is this a session description?")
    end = "\n" if "\n" in bare and "\r" not in bare else "\r\n"
    kept: list[str] = []
    media: list[str] = []
    for line in _lines(bare, _LINE_END):
        (media if media or _SECTION.match(line) else kept).append(line)
    if kept and _LINE_END.search(kept[-1]) is None:
        kept[-1] += end
    return "".join((*kept, *(line + end for line in to_sdp(policy)), *media))


def without_policy(sdp_text: str) -> str:
    """The description without any line that anybody could read as a policy's; all else stays as it is."""
    return "".join(line for line in _lines(sdp_text, _ANY_LINE_END) if not _OURS.match(line))


class _Reader:
    """Collects fields line by line, and remembers which line each key came from."""

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._fields: dict[str, object] = {}
        self._line_of: dict[str, int] = {}
        self._passed_over: list[tuple[int, str]] = []

    def take(self, number: int, line: str, *, in_media: bool) -> None:
        if not line.startswith(PREFIX):
            raise self._bad(number, "", f"{_shown(line)} is no x-buy attribute", f"write {PREFIX}KEY VALUE")
        key, *values = line.removeprefix(PREFIX).split(" ")
        if key not in _KEY_OF_FIELD.values():
            self._passed_over.append((number, line))
            return
        if in_media:
            raise self._bad(number, key, "is in a media section", "a policy is for the whole session: before any m=")
        if key in self._line_of:
            raise self._bad(number, key, f"was given in line {self._line_of[key]} already", "say it once")
        self._line_of[key] = number
        self._fields.update(self._fields_of(number, key, values))

    def _fields_of(self, number: int, key: str, values: list[str]) -> Iterator[tuple[str, object]]:
        if not values:
            raise self._bad(number, key, "has no value", f"write {PREFIX}{key} VALUE")
        if key == "value":
            yield "value", tuple(self._point(number, value) for value in values)
        elif key == "ladder":
            yield "ladder_bit_s", tuple(self._number(number, key, value) for value in values)
        elif key == "task":
            if len(values) != 2 or values[1] not in frozenset(TaskKind):
                kinds = ", ".join(TaskKind)
                raise self._bad(number, key, f"{_shown(' '.join(values))} is no name and kind", f"kinds: {kinds}")
            yield from zip(("name", "kind"), values, strict=True)
        elif key == "attended":
            if values not in (["yes"], ["no"]):
                raise self._bad(number, key, f"is {_shown(' '.join(values))}", "say yes or no")
            yield "attended", values == ["yes"]
        else:
            yield _NUMBERS[key], self._number(number, key, " ".join(values))

    def _point(self, number: int, value: str) -> dict[str, int]:
        match = _POINT.fullmatch(value)
        if match is None:
            raise self._bad(number, "value", f"{_shown(value)} is no point", "write RATE/NANODOLLARS for each")
        rate, money = (self._number(number, "value", part) for part in match.groups())
        return {"rate_bit_s": rate, "nanodollars_per_s": money}

    def _number(self, number: int, key: str, value: str) -> int:
        if _NUMBER.fullmatch(value) is None:
            raise self._bad(number, key, f"{_shown(value)} is no whole number", "write digits, with one space between")
        return int(value)

    def end(self) -> Reading:
        """The policy out of all fields: bounds by its types, then what only shows when all are there."""
        passed_over = tuple(self._passed_over)
        if not self._fields:
            return Reading(policy=None, passed_over=passed_over)
        if "task" not in self._line_of:
            number = min(self._line_of.values())
            raise self._bad(number, "", "belongs to no task", f"add {PREFIX}task NAME KIND")
        try:
            policy = msgspec.convert(self._fields, type=TaskPolicy, strict=True)
        except msgspec.ValidationError as error:
            problem, _, at = str(error).partition(" - at `")
            raise self._at_field(at.removeprefix("$.").rstrip("`"), problem, "correct the value") from error
        for problem_found in problems(policy):
            raise self._at_field(problem_found.field, problem_found.problem, problem_found.remedy)
        return Reading(policy=policy, passed_over=passed_over)

    def _at_field(self, field: str, problem: str, remedy: str) -> ConfigurationError:
        """Of a key that nobody gave: the task's own line."""
        key = _KEY_OF_FIELD[re.split(r"[.\[]", field, maxsplit=1)[0]]
        return self._bad(self._line_of.get(key, self._line_of["task"]), key, problem, remedy)

    def _bad(self, number: int, key: str, problem: str, remedy: str) -> ConfigurationError:
        place = f"line {number}, x-buy:{key}" if key else f"line {number}"
        return ConfigurationError(self._where, place, problem, remedy)


def _lines(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """Each with its own end."""
    begin = 0
    for end in ends.finditer(text):
        yield text[begin : end.end()]
        begin = end.end()
    if begin < len(text):
        yield text[begin:]


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…"
