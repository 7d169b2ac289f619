"""What of a guard survives a restart, in two sizes.

`GuardSnapshot` is everything, for every hour and the end; `GuardPulse` is what changes every minute, so that nobody
gains by making the secretary fall over before a chart is full. The open minute is in neither: grants say what they
spent in all, so it is heard of again.
"""

from __future__ import annotations

import msgspec

from secretary.guard.freezes import Frozen
from secretary.guard.patterns import PatternsState
from secretary.guard.series import Gauge, SeriesState
from secretary.guard.streams import StreamState


class Heard(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Of a grant: what it had spent in all, and when it said so."""

    total_nanodollars: int
    clock_s: int


class GuardPulse(msgspec.Struct, frozen=True, kw_only=True):
    """`gauges`: by program, of its minutes; "total" is not a program, so it has its own."""

    clock_s: int
    unix_s: int
    grants: dict[str, Heard]
    freezes: list[Frozen]
    gauges: dict[str, list[Gauge]]
    total_gauges: list[Gauge]
    evidence: dict[str, float]
    alarms: int


class GuardSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`streams`: by program, the one not active for longest first."""

    pulse: GuardPulse
    streams: dict[str, StreamState]
    total_minutes: SeriesState
    total_hours: SeriesState
    total_hour_paid: int
    patterns: PatternsState
    samples_per_month: float
    samples_today: int
    day: int
    hour: int
