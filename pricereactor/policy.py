"""What a person wants of one task: the policy that a price reactor keeps to (DPH-04).

Decides: which policies are possible, and says what is wrong with others. Refuses to know: networks, and how a reactor
keeps to it. It never leaves the payer's process: it is no message, and no message has room for it (DPH-07).
Source: M3I scenarios 3.2.1 ("a policy per task", quality against cost, how unstable both may be) and 3.3.5.2.

`check` refuses what no reactor could keep to, or what would spend money that nobody named: every kind needs a limit on
its money. Money in nanodollars, rates in bits per second at the IP layer. Its forms: TOML (`[[tasks]]` of the
configuration, or a file of its own), JSON on the local API, and SDP attributes (`sdp`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import msgspec

from billpay.configuration import decode_toml
from billpay.errors import ConfigurationError

Rate = Annotated[int, msgspec.Meta(ge=8_000, le=400_000_000_000)]
Money = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
PartsPerMillion = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]


class TaskKind(StrEnum):
    """Which reactor it has."""

    ELASTIC = "elastic"  # as much as its money buys
    STREAMING = "streaming"  # one of a few encodings
    TRANSFER = "transfer"  # so many bytes by a deadline
    BULK = "bulk"  # pays only while it is too slow
    TIMELY = "timely"  # every packet counts, and counts now


class ValuePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rate is worth: a corner of the value curve, which is straight in between."""

    rate_bit_s: Rate
    nanodollars_per_s: Money


class TaskPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All limits hold together; what is not given does not limit.

    willingness_nanodollars_per_s: what an elastic task spends whatever congestion costs (Kelly's w); other kinds
    spend no more than that in the mean. value: concave, rising, the first point the least useful rate.
    price_ceiling_nanodollars_per_mb: dearer than that (10^6 bytes), it goes at its least rate.
    largest_rate_change_ppm: within ten seconds, of the rate at their beginning. largest_price_change_ppm: the same of
    what a megabyte costs; a task that accepts little goes down early and comes back late.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    kind: TaskKind = TaskKind.ELASTIC
    willingness_nanodollars_per_s: Money = 0
    value: Annotated[tuple[ValuePoint, ...], msgspec.Meta(max_length=16)] = ()
    min_bit_s: Rate = 64_000
    max_bit_s: Rate | None = None
    session_budget_nanodollars: Money | None = None
    day_budget_nanodollars: Money | None = None
    price_ceiling_nanodollars_per_mb: Money | None = None
    largest_rate_change_ppm: PartsPerMillion | None = None
    largest_price_change_ppm: PartsPerMillion | None = None
    ladder_bit_s: Annotated[tuple[Rate, ...], msgspec.Meta(max_length=32)] = ()  # STREAMING: its encodings, rising
    buffer_ms: Annotated[int, msgspec.Meta(ge=0, le=120_000)] = 8_000  # STREAMING: at the receiver
    most_switches_per_minute: Annotated[int, msgspec.Meta(ge=1, le=600)] = 12
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**50)] | None = None  # TRANSFER
    deadline_s: Annotated[int, msgspec.Meta(ge=1, le=31 * 86_400)] | None = None  # TRANSFER: from its start
    attended: bool = False  # somebody watches: asked before it stops, told of each change
    notice_s: Annotated[int, msgspec.Meta(ge=0, le=600)] = 0  # so long before a stop a person is told


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of its own: `[[tasks]]` and nothing else."""

    tasks: Annotated[tuple[TaskPolicy, ...], msgspec.Meta(max_length=256)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one field, and what to do about it; one line each."""

    field: str
    problem: str
    remedy: str


_BITS_PER_BYTE: Final = 8
_ONE_PPM: Final = 1_000_000
_STREAMING_ONLY: Final = "only a streaming task has a ladder"
_TRANSFER_ONLY: Final = "only a transfer has it"


def problems(policy: TaskPolicy) -> tuple[Problem, ...]:
    """All of them, in the order of the fields; empty: a reactor can keep to it."""
    return (*_of_money(policy), *_of_rates(policy), *_of_value(policy), *_of_kind(policy))


def check(policy: TaskPolicy, *, where: Path | str = "task policy", key: str = "") -> None:
    """Raises ConfigurationError for the first problem: `where: key.field: what is wrong (what to do)`."""
    for problem in problems(policy):
        raise ConfigurationError(where, f"{key or policy.name}.{problem.field}", problem.problem, problem.remedy)


def check_all(policies: Iterable[TaskPolicy], *, where: Path | str) -> None:
    """As `check`, for the `[[tasks]]` of one file: no two of one name either."""
    seen: set[str] = set()
    for number, policy in enumerate(policies):
        key = f"tasks[{number}]"
        if policy.name in seen:
            raise ConfigurationError(where, f"{key}.name", f"{policy.name!r} is used twice", "name each task once")
        seen.add(policy.name)
        check(policy, where=where, key=key)


def read_policies(text: str, where: Path | str) -> tuple[TaskPolicy, ...]:
    """The `[[tasks]]` of a TOML text. Raises ConfigurationError: one line with `where`, the key and what to do."""
    tasks = decode_toml(text, PolicyFile, file=where).tasks
    check_all(tasks, where=where)
    return tasks


def to_toml(policies: Iterable[TaskPolicy]) -> str:
    """What `read_policies` reads back; what has its default is left out."""
    return "\n".join("\n".join(("[[tasks]]", *_toml_lines(policy), "")) for policy in policies)


def worth_nanodollars_per_s(curve: tuple[ValuePoint, ...], rate_bit_s: float) -> float:
    """Straight between the corners, nothing below the first, no more beyond the last."""
    if not curve or rate_bit_s < curve[0].rate_bit_s:
        return 0.0
    for low, high in pairwise(curve):
        if rate_bit_s < high.rate_bit_s:
            part = (rate_bit_s - low.rate_bit_s) / (high.rate_bit_s - low.rate_bit_s)
            return low.nanodollars_per_s + part * (high.nanodollars_per_s - low.nanodollars_per_s)
    return float(curve[-1].nanodollars_per_s)


def revalued(policy: TaskPolicy, worth_ppm: int) -> TaskPolicy:
    """The same task, worth so many millionths of what it was: what it would pay changes, and no limit of it."""

    def times(nanodollars: int) -> int:
        return min(2**62, max(1, nanodollars * worth_ppm // _ONE_PPM)) if nanodollars else 0

    points = tuple(
        ValuePoint(rate_bit_s=point.rate_bit_s, nanodollars_per_s=times(point.nanodollars_per_s))
        for point in policy.value
    )
    willing = times(policy.willingness_nanodollars_per_s)
    return msgspec.structs.replace(policy, willingness_nanodollars_per_s=willing, value=points)


def usable_ladder(policy: TaskPolicy) -> tuple[int, ...]:
    """The encodings within the least and the largest rate."""
    most = policy.max_bit_s
    return tuple(rate for rate in policy.ladder_bit_s if rate >= policy.min_bit_s and (most is None or rate <= most))


def _of_money(policy: TaskPolicy) -> Iterator[Problem]:
    willing, curve = policy.willingness_nanodollars_per_s, policy.value
    if policy.kind in (TaskKind.ELASTIC, TaskKind.BULK, TaskKind.TIMELY) and not willing:
        yield Problem(
            field="willingness_nanodollars_per_s",
            problem=f"is 0: {_article(policy.kind)} {policy.kind} task would never pay",
            remedy="say what a second of it may cost at most",
        )
    if policy.kind is TaskKind.STREAMING and not willing and not curve:
        yield Problem(
            field="willingness_nanodollars_per_s",
            problem="is 0, and there is no value: nothing says what it is worth",
            remedy="say what a second of it may cost, or give value points",
        )
    if policy.kind is TaskKind.TRANSFER and not willing and policy.session_budget_nanodollars is None:
        yield Problem(
            field="session_budget_nanodollars",
            problem="missing, and no willingness either: the deadline would be kept at any cost",
            remedy="say what the transfer may cost in all, or a second of it",
        )
    session, day = policy.session_budget_nanodollars, policy.day_budget_nanodollars
    if session is not None and day is not None and session > day:
        yield Problem(
            field="session_budget_nanodollars",
            problem=f"{session} is above the day's {day}",
            remedy="lower it, or raise day_budget_nanodollars",
        )


def _article(kind: TaskKind) -> str:
    return "an" if kind is TaskKind.ELASTIC else "a"


def _of_rates(policy: TaskPolicy) -> Iterator[Problem]:
    if policy.max_bit_s is not None and policy.min_bit_s > policy.max_bit_s:
        yield Problem(
            field="min_bit_s",
            problem=f"{policy.min_bit_s} is above max_bit_s {policy.max_bit_s}",
            remedy="lower it, or raise max_bit_s",
        )


def _of_value(policy: TaskPolicy) -> Iterator[Problem]:
    curve = policy.value
    slope: tuple[int, int] | None = None  # as money and rate, compared without division
    for number, (low, high) in enumerate(pairwise(curve), start=1):
        money, rate = high.nanodollars_per_s - low.nanodollars_per_s, high.rate_bit_s - low.rate_bit_s
        field = f"value[{number}]"
        if rate <= 0:
            remedy = "order the points by their rate, one for each"
            yield Problem(field=f"{field}.rate_bit_s", problem=f"{high.rate_bit_s} does not rise", remedy=remedy)
            return
        if money < 0:
            yield Problem(
                field=f"{field}.nanodollars_per_s",
                problem=f"{high.nanodollars_per_s} falls: more would be worth less",
                remedy="end the curve where more is worth no more",
            )
            return
        if slope is not None and money * slope[1] > slope[0] * rate:
            yield Problem(
                field=f"{field}.nanodollars_per_s",
                problem="is worth more for each bit than the part before it: the curve is not concave",
                remedy="lower it, or begin the curve at the least useful rate",
            )
            return
        slope = (money, rate)


def _of_kind(policy: TaskPolicy) -> Iterator[Problem]:
    yield from _of_ladder(policy)
    yield from _of_transfer(policy)


def _of_ladder(policy: TaskPolicy) -> Iterator[Problem]:
    ladder = policy.ladder_bit_s
    if policy.kind is not TaskKind.STREAMING:
        if ladder:
            yield Problem(field="ladder_bit_s", problem=_STREAMING_ONLY, remedy='remove it, or say kind = "streaming"')
        return
    if not ladder:
        yield Problem(
            field="ladder_bit_s", problem="missing: a streaming task needs its encodings", remedy="list their rates"
        )
        return
    if any(high <= low for low, high in pairwise(ladder)):
        yield Problem(field="ladder_bit_s", problem="does not rise", remedy="order it from the least, each rate once")
    elif not usable_ladder(policy):
        yield Problem(
            field="ladder_bit_s",
            problem="no encoding is within min_bit_s and max_bit_s",
            remedy="widen them, or correct the ladder",
        )


def _of_transfer(policy: TaskPolicy) -> Iterator[Problem]:
    size, deadline, most = policy.size_bytes, policy.deadline_s, policy.max_bit_s
    for field, given in (("size_bytes", size), ("deadline_s", deadline)):
        if policy.kind is TaskKind.TRANSFER and given is None:
            yield Problem(field=field, problem="missing: a transfer is so many bytes by a deadline", remedy="add it")
        elif policy.kind is not TaskKind.TRANSFER and given is not None:
            yield Problem(field=field, problem=_TRANSFER_ONLY, remedy='remove it, or say kind = "transfer"')
    if policy.kind is TaskKind.TRANSFER and size and deadline and most and size * _BITS_PER_BYTE > most * deadline:
        yield Problem(
            field="deadline_s",
            problem=f"{size} bytes take {-(-size * _BITS_PER_BYTE // most)} s at max_bit_s {most}",
            remedy="give it more time, or raise max_bit_s",
        )


def _toml_lines(policy: TaskPolicy) -> Iterator[str]:
    for field in msgspec.structs.fields(TaskPolicy):
        value = getattr(policy, field.name)
        if value != field.default:
            yield f"{field.name} = {_toml(value)}"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return f'"{value}"'  # a name or a kind: neither has a quote
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case ValuePoint():
            return f"{{ rate_bit_s = {value.rate_bit_s}, nanodollars_per_s = {value.nanodollars_per_s} }}"
    raise TypeError(f"no TOML for {value!r}")
