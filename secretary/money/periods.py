"""Periods of plans and budgets: days, weeks and months in local time, with a reset day.

Decides which stretch of time an instant belongs to.  Refuses to know: what is counted in it, and what the time is now
(an argument).  A period begins at the first instant of a local date, so a day may have 23 or 25 hours, and the end of
one period is the beginning of the next.  Where midnight does not exist or comes twice, the date's first instant counts.

Source: PEP 495 for what a local time in a gap or a fold means.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

PPM: Final = 1_000_000
RESET_DAY_MAX: Final = 28
"""A day that every month has."""
WEEKDAYS: Final = 7
_ONE_DAY: Final = timedelta(days=1)


class Cycle(enum.Enum):
    """The values are those of `period` in the local API's budgets."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Period:
    """From `start_unix_s`, which is in it, to `end_unix_s`, which is not."""

    start_unix_s: int
    end_unix_s: int

    @property
    def seconds(self) -> int:
        return self.end_unix_s - self.start_unix_s

    def elapsed_s(self, unix_s: int) -> int:
        """0 before it, all of it afterwards."""
        return min(max(0, unix_s - self.start_unix_s), self.seconds)

    def elapsed_ppm(self, unix_s: int) -> int:
        return self.elapsed_s(unix_s) * PPM // self.seconds

    def left_s(self, unix_s: int) -> int:
        return self.seconds - self.elapsed_s(unix_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When periods begin. `reset_day`: of the month, or of the week (1 = Monday); a day needs none."""

    cycle: Cycle
    zone: tzinfo
    reset_day: int = 1

    def __post_init__(self) -> None:
        last = {Cycle.DAY: RESET_DAY_MAX, Cycle.WEEK: WEEKDAYS, Cycle.MONTH: RESET_DAY_MAX}[self.cycle]
        assert 1 <= self.reset_day <= last

    def at(self, unix_s: int) -> Period:
        """The period of an instant."""
        first = self._first_date(local_date(unix_s, self.zone))
        return Period(
            start_unix_s=date_start_unix_s(first, self.zone),
            end_unix_s=date_start_unix_s(self._next_date(first), self.zone),
        )

    def after(self, period: Period) -> Period:
        """The next one."""
        return self.at(period.end_unix_s)

    def _first_date(self, day: date) -> date:
        if self.cycle is Cycle.DAY:
            return day
        if self.cycle is Cycle.WEEK:
            return day - timedelta(days=(day.isoweekday() - self.reset_day) % WEEKDAYS)
        if day.day >= self.reset_day:
            return day.replace(day=self.reset_day)
        return (day.replace(day=1) - _ONE_DAY).replace(day=self.reset_day)

    def _next_date(self, first: date) -> date:
        if self.cycle is Cycle.DAY:
            return _next_real_date(first, self.zone)
        if self.cycle is Cycle.WEEK:
            return first + timedelta(days=WEEKDAYS)
        return (first.replace(day=1) + timedelta(days=31)).replace(day=self.reset_day)


def day_at(unix_s: int, zone: tzinfo) -> Period:
    """The local day of an instant."""
    return Schedule(cycle=Cycle.DAY, zone=zone).at(unix_s)


@lru_cache(maxsize=1024)
def date_start_unix_s(day: date, zone: tzinfo) -> int:
    """The first instant of a local date, as a whole second."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def local_date(unix_s: int, zone: tzinfo) -> date:
    """The latest date that has begun. Where a clock goes back over midnight, the new date stays."""
    day = datetime.fromtimestamp(unix_s, zone).date()
    if date_start_unix_s(day + _ONE_DAY, zone) <= unix_s:
        return day + _ONE_DAY
    return day if date_start_unix_s(day, zone) <= unix_s else day - _ONE_DAY


def dates_between(first: date, after: date) -> list[date]:
    """From `first` up to the day before `after`."""
    return [first + timedelta(days=number) for number in range((after - first).days)]


def _next_real_date(day: date, zone: tzinfo) -> date:
    """The next date with an instant of its own: islands have left one out when they changed sides."""
    following = day + _ONE_DAY
    while date_start_unix_s(following, zone) <= date_start_unix_s(day, zone):
        following += _ONE_DAY
    return following
