"""What the guard is told and what it says: spends, alarms, freezes, and its settings.

Values only. An alarm names one stream: a program at one destination, or ("" for the destination) all of a program.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from secretary.transfers import Nanodollars, Text

MINUTES_PER_MONTH = 43_200
HOURS_PER_MONTH = 720


class Detector(enum.Enum):
    """`surge`: made for ten times the usual; `drift`: for a little more, for long; `hours`: for busier hours;
    `pattern`: for unusual combinations (isolation forest). `total_…`: of all programs together.
    """

    SURGE = "surge"
    DRIFT = "drift"
    HOURS = "hours"
    PATTERN = "pattern"
    TOTAL_SURGE = "total-surge"
    TOTAL_DRIFT = "total-drift"
    TOTAL_HOURS = "total-hours"


class Spend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a grant has paid so far, in all. Hearing it twice, or an older one late, changes nothing.

    `covers_s`: the time in which the last part of it was paid, if the report comes late; believed as far back as the
    report before it.
    """

    grant: Text
    program: Text
    total_nanodollars: Nanodollars
    destination: Text = ""
    network: Text = ""
    gateway: Text = ""
    foreground: bool | None = None
    covers_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 0


class Alarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stream looks stolen, and is frozen. `why`: one line for the person.

    `false_alarms_per_month`: how many this detector raises for an honest person, at most, by design.
    `paid_nanodollars`: by the stream since `since_unix_s`, when the odd stretch began.
    """

    alarm: Text
    program: Text
    destination: Text
    detector: Detector
    why: str
    statistic: float
    threshold: float
    false_alarms_per_month: float
    since_unix_s: int
    unix_s: int
    paid_nanodollars: int = 0


class Freeze(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing new is granted to the alarm's stream. `refused`: the person said that it was somebody else."""

    alarm: Alarm
    refused: bool = False


Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`false_alarms_per_month`: of all detectors together, by design. The promise is one in a user-month; the rest is
    room for people who are not normal distributions.
    `growth_per_week`: by what factor a learnt baseline may rise in a week without a word of the person.
    """

    false_alarms_per_month: Annotated[float, msgspec.Meta(gt=0)] = 0.8
    growth_per_week: Annotated[float, msgspec.Meta(ge=1)] = 1.25
    programs_max: Annotated[int, msgspec.Meta(ge=2)] = 64
    destinations_max: Annotated[int, msgspec.Meta(ge=2)] = 256  # remembered for one program
    grants_max: Annotated[int, msgspec.Meta(ge=16)] = 2048
    concentrated: Share = 0.8  # so much of a stream's money at one destination: only that one is frozen


SHARES = {
    Detector.SURGE: 0.45,
    Detector.DRIFT: 0.10,
    Detector.HOURS: 0.05,
    Detector.PATTERN: 0.10,
    Detector.TOTAL_SURGE: 0.15,
    Detector.TOTAL_DRIFT: 0.10,
    Detector.TOTAL_HOURS: 0.05,
}
"""Of the false alarms, for each detector over all its streams (Bonferroni: they may all be wrong on different days)."""
assert abs(sum(SHARES.values()) - 1) < 1e-9
