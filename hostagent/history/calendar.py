"""Days, months and billing periods as a person in a time zone sees them, over times that are kept in UTC.

Decides where a local day begins: at its midnight, or where clocks are put forward over it, at that moment; so a day has
23, 24 or 25 hours.  A stretch of history belongs to the day or month in which its middle lies: exact where zones differ
from UTC by whole hours, and never twice or nowhere in any other.  Refuses to know what time it is.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from hostagent.history.values import HOUR_S


class Span(NamedTuple):
    """From the first second up to, and without, the last."""

    from_unix_s: int
    until_unix_s: int

    @property
    def seconds(self) -> int:
        return self.until_unix_s - self.from_unix_s


def day_of(unix_s: int, zone: ZoneInfo) -> Span:
    """The local day that this second is in."""
    return day_span(datetime.fromtimestamp(unix_s, zone).date(), zone)


def day_span(day: date, zone: ZoneInfo) -> Span:
    return Span(_midnight(day, zone), _midnight(day + timedelta(days=1), zone))


def month_span(month: str, zone: ZoneInfo, reset_day: int = 1) -> Span:
    """Of "2026-11", or of the billing period that begins in it. Raises ValueError for what is no month."""
    try:
        first = date.fromisoformat(f"{month}-01")
    except ValueError as error:
        raise ValueError(f"{month!r} is no month: write it as 2026-11") from error
    return Span(_midnight(_reset(first, reset_day), zone), _midnight(_reset(_next_month(first), reset_day), zone))


def month_of(unix_s: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(unix_s, zone).strftime("%Y-%m")


def period_of(unix_s: int, reset_day: int, zone: ZoneInfo) -> Span:
    """The billing period that this second is in. In a month that is too short for the reset day, its last day is it."""
    today = datetime.fromtimestamp(unix_s, zone).date()
    first = today.replace(day=1)
    if today < _reset(first, reset_day):
        first = (first - timedelta(days=1)).replace(day=1)
    return month_span(first.strftime("%Y-%m"), zone, reset_day)


def periods(since_unix_s: int, until_unix_s: int, reset_day: int, zone: ZoneInfo) -> list[Span]:
    """Whole billing periods: the first one holds the beginning."""
    found: list[Span] = []
    at = since_unix_s
    while at < until_unix_s:
        found.append(period_of(at, reset_day, zone))
        at = found[-1].until_unix_s
    return found


def span_of(unix_s: int, step: str, zone: ZoneInfo) -> Span:
    """The whole "hour", "day" or "month" that this second is in."""
    if step == "hour":
        hour = unix_s // HOUR_S * HOUR_S
        return Span(hour, hour + HOUR_S)
    return day_of(unix_s, zone) if step == "day" else period_of(unix_s, 1, zone)


def spans(since_unix_s: int, until_unix_s: int, step: str, zone: ZoneInfo) -> list[Span]:
    """The hours, days or months from one second to another, cut there; "all" is one."""
    if until_unix_s <= since_unix_s:
        return []
    if step == "all":
        return [Span(since_unix_s, until_unix_s)]
    edges = [since_unix_s]
    while edges[-1] < until_unix_s:
        edges.append(min(until_unix_s, span_of(edges[-1], step, zone).until_unix_s))
    return [Span(*edge) for edge in pairwise(edges)]


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def _reset(first: date, reset_day: int) -> date:
    return first.replace(day=min(reset_day, monthrange(first.year, first.month)[1]))


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)
