"""Budgets: a limit on bytes or money in a day, a week or a month, how fast it goes, and where that leads.

Decides what is told (50, 80 and 100 %, once each), and how hard it presses: not at all, slower, or the floor.  Refuses
to know: what was bought, and who is slowed.  Pure: the caller counts, keeps the memory, and gives the time.

A period only moves on: a clock that is set back renews nothing.  What was counted since the last step belongs to the
period of now, so that nothing is lost and nothing counts twice, also when the machine slept over midnight.

Pace: used since the period began (or since counting began), by the time that took.  Burn: the same with an exponential
memory of an eighth of the period, corrected for its start (Kingma and Ba 2015, section 3).  Forecast: what is used, and
the mean of both for the rest; in a period's first tenth the even use of the limit stands in for what is not known yet.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

import msgspec

from billpay.money import show_nanodollars
from secretary.money.periods import Cycle, Period, Schedule

THRESHOLDS_PERCENT: Final = (50, 80, 100)
DAY_S: Final = 86_400
MONTH_S: Final = 2_629_746
"""The mean month of the Gregorian calendar."""
MEMORY_DIVISOR: Final = 8
"""Burn remembers an eighth of the period."""
LEARNING_DIVISOR: Final = 10
"""In the first tenth of a period the limit itself is a part of the forecast."""
SHORTEST_DIVISOR: Final = 100
"""A pace is over at least a hundredth of the period: the first second says nothing about a month."""


class Unit(enum.Enum):
    """The values are those of `unit` in the local API's budgets."""

    BYTES = "bytes"
    NANODOLLARS = "nanodollars"


class Pressure(enum.Enum):
    """How hard a budget presses on whoever uses it up."""

    NONE = "none"
    SLOWED = "slowed"  # a soft limit is reached: slower, as long as it takes
    FLOOR = "floor"  # a hard limit is reached: the least rate; never the top-up, DNS, control or a shell


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetTerms:
    """What a person set. `limit`: in `unit`, for each period."""

    name: str
    unit: Unit
    cycle: Cycle
    limit: int
    hard: bool = False
    reset_day: int = 1
    currency: str = "USD"

    def __post_init__(self) -> None:
        assert self.limit >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """Something to be told once; the caller gives it a number and a time."""

    code: str
    message: str


class BudgetMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a budget knows; the caller stores it, so that a restart neither forgets nor repeats."""

    start_unix_s: int
    end_unix_s: int
    since_unix_s: int  # when counting began in this period
    last_unix_s: int
    used: int = 0
    topped_up: int = 0
    limit: int = 0  # for which `told_percent` holds
    told_percent: int = 0
    pending: int = 0  # used within `last_unix_s`, not in the burn yet
    burn_per_s: float = 0.0
    burn_weight: float = 0.0

    @property
    def period(self) -> Period:
        return Period(start_unix_s=self.start_unix_s, end_unix_s=self.end_unix_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """What a person is shown of a budget: what is used, how fast it goes, and where that leads."""

    name: str
    unit: Unit
    cycle: Cycle
    limit: int
    used: int
    resets_unix_s: int
    hard: bool
    burn_per_day: int
    forecast: int  # used at the reset, at this pace
    noticed_percent: int  # 0, 50, 80 or 100: the highest that was told
    flat_nanodollars_per_month: int | None  # what a month costs at this pace
    currency: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStep:
    """After a step: what to keep, what to show, what to tell, and what to do."""

    memory: BudgetMemory
    view: BudgetView
    pressure: Pressure
    announcements: tuple[Announcement, ...] = ()


def spend(
    terms: BudgetTerms,
    memory: BudgetMemory | None,
    amount: int = 0,
    *,
    unix_s: int,
    zone: tzinfo,
    top_up: int = 0,
) -> BudgetStep:
    """`amount` was used since the last step, `top_up` raises this period's limit. Call it without both to look."""
    kept, percent = count(terms, memory, amount, unix_s=unix_s, zone=zone, top_up=top_up)
    telling = (announce(terms, kept, percent, unix_s),) if percent else ()
    view = look(terms, kept, unix_s)
    return BudgetStep(memory=kept, view=view, pressure=pressure_of(terms, kept), announcements=telling)


def count(
    terms: BudgetTerms, memory: BudgetMemory | None, amount: int, *, unix_s: int, zone: tzinfo, top_up: int = 0
) -> tuple[BudgetMemory, int]:
    """A step without the view: what to keep, and the threshold that is to be told now, 0 for none."""
    assert amount >= 0
    assert top_up >= 0
    counted = _counted(moved(terms, memory, unix_s=unix_s, zone=zone), amount, unix_s)
    topped_up = counted.topped_up + top_up
    limit = terms.limit + topped_up
    told = still_told(counted.used, limit, told_percent=counted.told_percent, told_limit=counted.limit)
    reached = reached_percent(counted.used, limit)
    kept = msgspec.structs.replace(counted, topped_up=topped_up, limit=limit, told_percent=max(told, reached))
    return kept, reached if reached > told else 0


def moved(terms: BudgetTerms, memory: BudgetMemory | None, *, unix_s: int, zone: tzinfo) -> BudgetMemory:
    """The memory for the period of now: a new one begins with nothing used, and without a top-up."""
    if memory is not None and unix_s < memory.end_unix_s:
        return memory
    schedule = Schedule(cycle=terms.cycle, zone=zone, reset_day=terms.reset_day)
    return _moved(memory, schedule, unix_s) if memory is not None else _begun(schedule.at(unix_s), unix_s)


def reached_percent(used: int, limit: int) -> int:
    """The highest threshold that is reached, 0 for none."""
    return max((each for each in THRESHOLDS_PERCENT if used > 0 and used * 100 >= limit * each), default=0)


def still_told(used: int, limit: int, *, told_percent: int, told_limit: int) -> int:
    """What counts as told. When there is more than before, what is told next is about the new limit."""
    return min(told_percent, reached_percent(used, limit)) if limit > told_limit else told_percent


def next_period(current: Period, schedule: Schedule, unix_s: int) -> Period:
    """The period to count in, which only moves on: it never begins before the last one's end, also when somebody
    travels or chooses another reset day, and none is shorter than half a period.

    A machine without a battery begins in 1970 until it has asked for the time: that renews nothing either.  (So a clock
    that was years ahead has begun a period that ends there.)
    """
    if unix_s < current.end_unix_s:
        return current
    found = schedule.at(unix_s)
    if found.start_unix_s >= current.end_unix_s:
        return found
    is_long_enough = 2 * (found.end_unix_s - current.end_unix_s) >= found.seconds
    end_unix_s = found.end_unix_s if is_long_enough else schedule.after(found).end_unix_s
    return Period(start_unix_s=current.end_unix_s, end_unix_s=end_unix_s)


def show_amount(amount: int, unit: Unit, currency: str) -> str:
    """For a screen: "1.25 GB", "14.2 USD"."""
    return show_bytes(amount) if unit is Unit.BYTES else show_nanodollars(amount, currency)


def show_bytes(amount: int) -> str:
    """At most two digits behind the point, rounded down: what is not used yet is not shown as used."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if amount >= size:
            whole, hundredths = divmod(amount * 100 // size, 100)
            return f"{whole}.{hundredths:02}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{amount} B"


def per_month(amount: int, period_s: int) -> int:
    """What is used in a period, for a mean month; a month is a month, whatever its length."""
    return amount if period_s > 27 * DAY_S else amount * MONTH_S // period_s


# --- periods and counts -----------------------------------------------------------------------------------------------


def _begun(period: Period, unix_s: int) -> BudgetMemory:
    return BudgetMemory(
        start_unix_s=period.start_unix_s,
        end_unix_s=period.end_unix_s,
        since_unix_s=max(period.start_unix_s, unix_s),
        last_unix_s=unix_s,
    )


def _moved(memory: BudgetMemory, schedule: Schedule, unix_s: int) -> BudgetMemory:
    period = next_period(memory.period, schedule, unix_s)
    if period == memory.period:
        return memory
    return msgspec.structs.replace(
        memory,
        start_unix_s=period.start_unix_s,
        end_unix_s=period.end_unix_s,
        since_unix_s=period.start_unix_s,
        used=0,
        topped_up=0,
        told_percent=0,
    )


def _counted(memory: BudgetMemory, amount: int, unix_s: int) -> BudgetMemory:
    """Within one second amounts are only added up; a clock that goes back begins the burn's clock anew."""
    passed_s = unix_s - memory.last_unix_s
    pending = memory.pending + amount
    if passed_s <= 0:
        return msgspec.structs.replace(memory, used=memory.used + amount, pending=pending, last_unix_s=unix_s)
    kept = math.exp(-passed_s * MEMORY_DIVISOR / memory.period.seconds)
    return msgspec.structs.replace(
        memory,
        used=memory.used + amount,
        pending=0,
        last_unix_s=unix_s,
        burn_per_s=memory.burn_per_s * kept + pending / passed_s * (1 - kept),
        burn_weight=memory.burn_weight * kept + (1 - kept),
    )


# --- what it leads to -------------------------------------------------------------------------------------------------


def pressure_of(terms: BudgetTerms, memory: BudgetMemory) -> Pressure:
    if memory.used < memory.limit:
        return Pressure.NONE
    return Pressure.FLOOR if terms.hard else Pressure.SLOWED


def _burn_per_s(memory: BudgetMemory) -> float:
    least = 1 - math.exp(-MEMORY_DIVISOR / SHORTEST_DIVISOR)
    return memory.burn_per_s / max(memory.burn_weight, least)


def _forecast(memory: BudgetMemory, unix_s: int) -> int:
    period = memory.period
    seen_s = max(0, min(unix_s, memory.end_unix_s) - memory.since_unix_s)
    pace_per_s = memory.used / max(seen_s, period.seconds / SHORTEST_DIVISOR)
    unknown = max(0.0, 1 - seen_s * LEARNING_DIVISOR / period.seconds)
    rate_per_s = unknown * memory.limit / period.seconds + (1 - unknown) * (pace_per_s + _burn_per_s(memory)) / 2
    return memory.used + int(rate_per_s * period.left_s(unix_s))


def look(terms: BudgetTerms, memory: BudgetMemory, unix_s: int) -> BudgetView:
    """What `spend` shows, of a memory that is of the period of now."""
    forecast = _forecast(memory, unix_s)
    money = terms.unit is Unit.NANODOLLARS
    return BudgetView(
        name=terms.name,
        unit=terms.unit,
        cycle=terms.cycle,
        limit=memory.limit,
        used=memory.used,
        resets_unix_s=memory.end_unix_s,
        hard=terms.hard,
        burn_per_day=int(_burn_per_s(memory) * DAY_S),
        forecast=forecast,
        noticed_percent=memory.told_percent,
        flat_nanodollars_per_month=per_month(forecast, memory.period.seconds) if money else None,
        currency=terms.currency,
        reason=_reason(terms, memory, forecast),
    )


def _reason(terms: BudgetTerms, memory: BudgetMemory, forecast: int) -> str:
    if memory.used >= memory.limit:
        return "used up: the least rate until it resets" if terms.hard else "used up: slower until it resets"
    if forecast > memory.limit:
        return f"at this pace {show_amount(forecast, terms.unit, terms.currency)} by the reset: more than there is"
    return f"at this pace {show_amount(forecast, terms.unit, terms.currency)} by the reset"


def announce(terms: BudgetTerms, memory: BudgetMemory, percent: int, unix_s: int) -> Announcement:
    """One line: what is used, and where that leads."""
    limit = show_amount(memory.limit, terms.unit, terms.currency)
    text = f"{terms.name}: {percent} % of {limit} for this {terms.cycle.value} are used"
    return Announcement(
        code=f"budget-{percent}", message=f"{text}; {_reason(terms, memory, _forecast(memory, unix_s))}"
    )
