"""What the guard keeps of one program: the open minute, its series, and whom it paid lately and ever.

Decides how a report of a grant becomes minutes: what it says was paid, spread over the minutes that it covers. A late
report is no sudden payment, and no burst can hide behind the late report of another grant.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

import msgspec

from secretary.guard.patterns import Window
from secretary.guard.runlength import DRIFT, SLOW, SURGE
from secretary.guard.series import Series, SeriesState
from secretary.guard.values import Detector

SAMPLES_MIN = 120  # minutes
HOURS_MIN = 60
LATE_MAX = 10
SLACK = 0.1
TOTAL_SLACK = 0.25  # what is usual in all rests on the baselines of the programs, which change
RECENT_MINUTES = 240
RECENT_DESTINATIONS = 32
NEW_MINUTES = 24 * 60
ELSEWHERE = ""  # a destination not known, or one too many


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """For a restart; the open minute is heard of again, as grants say what they spent in all."""

    minutes: SeriesState
    hours: SeriesState
    known: dict[str, int]
    hours_of_day: list[float]
    recent: list[tuple[int, dict[str, int]]]
    hour_paid: int
    in_background: float


class OpenMinute:
    """What was paid since the last minute ended."""

    __slots__ = ("background", "by_destination", "foreground", "fresh", "largest", "late", "new")

    def __init__(self) -> None:
        self.fresh = 0
        self.late = [0] * LATE_MAX  # [0]: the minute before this one, …
        self.by_destination: dict[str, int] = {}
        self.new: set[str] = set()
        self.largest = self.foreground = self.background = 0

    def add(self, nanodollars: int, minutes: int) -> int:
        """Spread over so many minutes; what falls into this one."""
        each, rest = divmod(nanodollars, minutes)
        self.fresh += each + rest
        for i in range(minutes - 1):
            self.late[i] += each
        return each + rest

    def pay(self, destination: str, nanodollars: int, foreground: bool | None) -> None:
        if destination not in self.by_destination and len(self.by_destination) >= RECENT_DESTINATIONS:
            destination = ELSEWHERE
        self.by_destination[destination] = self.by_destination.get(destination, 0) + nanodollars
        self.largest = max(self.largest, nanodollars)
        if foreground:
            self.foreground += nanodollars
        elif foreground is not None:
            self.background += nanodollars

    @property
    def is_foreground(self) -> bool | None:
        if not self.foreground and not self.background:
            return None
        return self.foreground >= self.background


def new_series(surge: Detector, drift: Detector, hours: Detector, growth: float, slack: float) -> tuple[Series, Series]:
    """Only a program's surge is watched from the second day; the others need to have seen a week."""
    minutes = ((surge, SURGE), (drift, DRIFT))
    late = frozenset(Detector) - {Detector.SURGE}
    return (
        Series(minutes, late=late, samples_min=SAMPLES_MIN, growth_per_week=growth, slack_min=slack),
        Series(((hours, SLOW),), late=late, samples_min=HOURS_MIN, growth_per_week=growth, slack_min=slack),
    )


class Stream:
    """One program's."""

    def __init__(self, *, growth_per_week: float, destinations_max: int) -> None:
        self.minutes, self.hours = new_series(Detector.SURGE, Detector.DRIFT, Detector.HOURS, growth_per_week, SLACK)
        self._destinations_max = destinations_max
        self.open: OpenMinute | None = None
        self.window: Window | None = None
        self.recent: deque[tuple[int, dict[str, int]]] = deque(maxlen=RECENT_MINUTES)
        self.known: OrderedDict[str, int] = OrderedDict()  # destination → the minute of its first payment
        self.hours_of_day = [0.0] * 24
        self.hour_paid = 0
        self.in_background = 0.5  # how much of its windows' money, lately

    def meet(self, destination: str, minute: int) -> bool:
        """Is it new, that is, paid for the first time within a day? Remembers it; the one not paid for longest is
        forgotten.
        """
        if destination in self.known:
            self.known.move_to_end(destination)
            return minute - self.known[destination] < NEW_MINUTES
        self.known[destination] = minute
        if len(self.known) > self._destinations_max:
            self.known.popitem(last=False)
        return True

    def paid_since(self, minute: int) -> tuple[dict[str, int], int]:
        """By destination, and in how many minutes; the open minute is among them."""
        found: dict[str, int] = {}
        minutes = 0
        parts: Iterable[dict[str, int]] = (paid for at, paid in self.recent if at >= minute)
        if self.open is not None:
            parts = (*parts, self.open.by_destination)
        for paid in parts:
            minutes += 1
            for destination, nanodollars in paid.items():
                found[destination] = found.get(destination, 0) + nanodollars
        return found, minutes

    def snapshot(self) -> StreamState:
        return StreamState(
            minutes=self.minutes.snapshot(),
            hours=self.hours.snapshot(),
            known=dict(self.known),
            hours_of_day=list(self.hours_of_day),
            recent=list(self.recent),
            hour_paid=self.hour_paid,
            in_background=self.in_background,
        )

    def restore(self, state: StreamState) -> None:
        self.minutes.restore(state.minutes)
        self.hours.restore(state.hours)
        self.known = OrderedDict(state.known)
        self.hours_of_day = list(state.hours_of_day)
        self.recent = deque(state.recent, maxlen=RECENT_MINUTES)
        self.hour_paid = state.hour_paid
        self.in_background = state.in_background
