"""What was measured of the ways to one destination in one epoch, and what can be said of each of them.

Decides whether a way was bad, fine, or neither, for each kind of greed. Refuses to know which ISP it was (judge). Pure.

Losses count only of packets that paid twice what the way's tolls are known to be: an ISP may drop who pays less than
the toll (BP-08).  A toll is raised when it is above the lowest of the last ten minutes; it is raised *quietly* when
the round trip is at its floor, nothing was marked, and unpaid packets passed without loss: those wait in the lowest
queue and see what there is to see.  A raised toll that does not move is a price, not congestion, unless its ISP says
otherwise.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from billpay.header import MAX_ALTERNATIVE, MAX_AS_NUMBER, MAX_OADS
from cartographer.judging.evidence import tail
from cartographer.judging.terms import JudgingTerms
from cartographer.values import Way

_PPM: Final = 1_000_000
_PICODOLLARS: Final = 1000
_KEPT: Final = 64  # samples of an epoch
_REPORTS: Final = 256
_TIMES: Final = 3


class Hop(NamedTuple):
    as_number: int
    alternative: int

    def __str__(self) -> str:
        return f"AS{self.as_number}:{self.alternative}"


def hops_of(way: Way) -> tuple[Hop, ...]:
    """() for what is no way: whoever is on it can write anything."""
    found = []
    for word in way.split():
        left, colon, right = word.removeprefix("AS").partition(":")
        if not (word.startswith("AS") and colon and left.isdecimal() and right.isdecimal() and len(word) <= 12):
            return ()
        hop = Hop(int(left), int(right))
        if not (1 <= hop.as_number <= MAX_AS_NUMBER and 1 <= hop.alternative <= MAX_ALTERNATIVE):
            return ()
        found.append(hop)
    numbers = {hop.as_number for hop in found}
    return tuple(found) if len(numbers) == len(found) <= MAX_OADS else ()


@dataclass(slots=True)
class Lowest:
    """The lowest of the last one to two windows."""

    window_ns: int
    begun_ns: int = 0
    now: int | None = None
    before: int | None = None

    def add(self, value: int, now_ns: int) -> None:
        if self.now is None or now_ns - self.begun_ns >= self.window_ns:
            self.before, self.now, self.begun_ns = self.now, value, now_ns
        self.now = min(self.now, value)

    @property
    def value(self) -> int | None:
        if self.now is None or self.before is None:
            return self.now
        return min(self.now, self.before)


@dataclass(slots=True)
class Tally:
    """Of one way in one epoch."""

    unpaid_sent: int = 0
    unpaid_arrived: int = 0
    marked: int = 0
    round_trips_ns: list[int] = field(default_factory=list)
    unpaid_trips_ns: list[int] = field(default_factory=list)  # of those, where it is known that nothing was paid
    tolls_picodollars: list[int] = field(default_factory=list)
    allowed_picodollars: int = 0  # the largest proportional part that no promise mentions


@dataclass(slots=True)
class Report:
    """What became of paid packets that were told of at about one time."""

    at_ns: int
    sent: int
    lost: int


@dataclass(slots=True, kw_only=True)
class WayRecord:
    """What is kept of one way to one destination."""

    way: Way
    hops: tuple[Hop, ...]
    terms: JudgingTerms
    seen_ns: int = 0
    tally: Tally = field(default_factory=Tally)
    reports: list[Report] = field(default_factory=list)  # since losses were last looked at
    sent: int = 0  # of all reports
    lost: int = 0
    delay_floor: Lowest = field(init=False)
    toll_floor: Lowest = field(init=False)
    tolls: deque[int] = field(init=False)  # the mean of each of the last epochs
    highest_toll: int | None = None  # of the last epochs and this one

    def __post_init__(self) -> None:
        self.delay_floor = Lowest(self.terms.floor_ns)
        self.toll_floor = Lowest(self.terms.floor_ns)
        self.tolls = deque(maxlen=self.terms.steady_epochs + 1)

    # --- facts -------------------------------------------------------------------------------------------------------

    def measured(
        self, round_trip_ns: int | None, toll_picodollars: int | None, amount_nanodollars: int | None, now_ns: int
    ) -> None:
        if round_trip_ns is not None and round_trip_ns >= 0:
            self.delay_floor.add(round_trip_ns, now_ns)
            if len(self.tally.round_trips_ns) < _KEPT:
                self.tally.round_trips_ns.append(round_trip_ns)
                if amount_nanodollars == 0:
                    self.tally.unpaid_trips_ns.append(round_trip_ns)
        if toll_picodollars is not None and toll_picodollars >= 0:
            self.highest_toll = max(self.highest_toll or 0, toll_picodollars)
            if len(self.tally.tolls_picodollars) < _KEPT:
                self.tally.tolls_picodollars.append(toll_picodollars)
            allowed = (amount_nanodollars or 0) * _PICODOLLARS * self.terms.proportional_ppm // _PPM
            self.tally.allowed_picodollars = max(self.tally.allowed_picodollars, allowed * len(self.hops))

    def covers(self, amount_nanodollars: int | None, promised_picodollars: int | None) -> bool:
        """Whether a packet paid enough that nobody had a reason to drop it."""
        if amount_nanodollars is None:
            return True
        known = [toll for toll in (self.highest_toll, promised_picodollars) if toll is not None]
        return bool(known) and amount_nanodollars * _PICODOLLARS >= 2 * max(known)

    def paid(self, sent: int, lost: int, now_ns: int) -> None:
        """Packets that paid enough. What is told within a twentieth of an epoch is one report."""
        reports = self.reports
        self.sent += sent
        self.lost += lost
        if reports and (now_ns - reports[-1].at_ns < self.terms.epoch_ns // 20 or len(reports) >= _REPORTS):
            reports[-1].sent += sent
            reports[-1].lost += lost
        else:
            reports.append(Report(now_ns, sent, lost))

    # --- verdicts ----------------------------------------------------------------------------------------------------

    def tells_of_losses(self) -> bool:
        """Enough packets, at more than one time."""
        return len(self.reports) >= _TIMES and self.sent >= self.terms.packets

    def loses(self) -> bool | None:
        """Too many of its paid packets; None: too few to say, or in between."""
        sent, lost, terms = self.sent, self.lost, self.terms
        if sent < terms.packets:
            return None
        if lost <= terms.honest_loss * sent:
            return False
        return True if tail(sent, lost, terms.honest_loss) <= terms.unusual else None

    def is_fine_beside(self, other: WayRecord) -> bool:
        """Whether this way lost little *between* the first and the last loss of another one.

        Else a bad time of an ISP on both, from which the traffic fled to this way, would look like the other's fault.
        """
        at = [report.at_ns for report in other.reports if report.lost]
        between = [report for report in self.reports if at and at[0] <= report.at_ns <= at[-1]]
        sent = sum(report.sent for report in between)
        lost = sum(report.lost for report in between)
        return sent >= self.terms.packets and lost <= self.terms.honest_loss * sent

    def mean_toll(self) -> int | None:
        """None: too few samples."""
        tolls = self.tally.tolls_picodollars
        return sum(tolls) // len(tolls) if len(tolls) >= self.terms.samples else None

    def toll_noise(self) -> int:
        """Three standard errors of the mean toll."""
        tolls = self.tally.tolls_picodollars
        mean = sum(tolls) / len(tolls)
        return math.ceil(3 * math.sqrt(sum((toll - mean) ** 2 for toll in tolls)) / len(tolls))

    def is_raised(self) -> bool | None:
        mean, floor = self.mean_toll(), self.toll_floor.value
        if mean is None:
            return None
        return floor is not None and mean - floor - self.toll_noise() >= self._rise(floor)

    def is_moving(self) -> bool:
        """Whether the toll did anything in the last epochs but stay where it is."""
        floor = self.toll_floor.value or 0
        known = [*self.tolls, *self.tally.tolls_picodollars]
        return max(known, default=0) - min(known, default=0) >= self._rise(floor)

    def shows_queue(self) -> bool | None:
        """Any sign of congestion. None: nobody looked, for it takes unpaid packets and round trips to see one."""
        tally, terms = self.tally, self.terms
        if tally.marked or tally.unpaid_arrived < tally.unpaid_sent:
            return True
        floor = self.delay_floor.value
        if tally.unpaid_sent < terms.samples or len(tally.round_trips_ns) < terms.samples or floor is None:
            return None
        return self.usual_delay_ns() > floor + max(terms.queue_ns, floor * terms.queue_ppm // _PPM)

    def usual_delay_ns(self) -> int:
        """The median of unpaid packets, for paid ones pass the queue by; the upper quartile where they are mixed."""
        tally = self.tally
        if len(tally.unpaid_trips_ns) >= self.terms.samples:
            return sorted(tally.unpaid_trips_ns)[len(tally.unpaid_trips_ns) // 2]
        return sorted(tally.round_trips_ns)[3 * len(tally.round_trips_ns) // 4]

    def least_delay_ns(self) -> int | None:
        trips = self.tally.round_trips_ns
        return min(trips) if len(trips) >= self.terms.samples else None

    def forget_losses(self) -> None:
        self.reports.clear()
        self.sent = self.lost = 0

    def end_epoch(self, now_ns: int) -> None:
        mean = self.mean_toll()
        if mean is not None:
            self.tolls.append(mean)
            self.toll_floor.add(mean, now_ns)
            self.highest_toll = max(self.tolls)
        self.tally = Tally()

    def _rise(self, floor: int) -> int:
        return max(self.terms.rise_picodollars, floor * self.terms.rise_ppm // _PPM)
