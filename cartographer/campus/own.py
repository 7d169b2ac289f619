"""What this host itself has measured, by prefix: the only thing that it may report.

Decides: which samples count as the host's own. A host's beliefs are no good for that: they begin with what the campus
service or an ISP said, and a service that hears its own words again would believe them more each time.
Refuses to know: what is believed and chosen. Bounded: the longest unmeasured way goes first.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cartographer.campus.privacy import prefix_of
from cartographer.campus.reporting import Reporter
from cartographer.statistics import WayStatistics
from cartographer.values import Estimate, Quantity, Way, WayQuality

WAYS_MAX: Final = 4_000


class OwnSamples:
    """Give `of(destination, way)` each sample that the host's own statistics get, and never a prior or a promise."""

    def __init__(self, ways_max: int = WAYS_MAX) -> None:
        self._ways: dict[tuple[str, Way], WayStatistics] = {}
        self._prefixes: dict[str, str | None] = {}  # by destination
        self._ways_max = ways_max

    def of(self, destination: str, way: Way) -> WayStatistics | None:
        """None: a destination that is never spoken of."""
        if destination not in self._prefixes:
            if len(self._prefixes) >= 4 * self._ways_max:
                self._prefixes.clear()
            self._prefixes[destination] = prefix_of(destination)
        prefix = self._prefixes[destination]
        if prefix is None:
            return None
        statistics = self._ways.pop((prefix, way), None) or WayStatistics()
        self._ways[prefix, way] = statistics
        if len(self._ways) > self._ways_max:
            del self._ways[next(iter(self._ways))]
        return statistics

    def forget(self) -> None:
        """On another network, or because a person says so."""
        self._ways.clear()
        self._prefixes.clear()

    def estimate(self, destination: str, way: Way, quantity: Quantity, now_ns: int) -> Estimate | None:
        """Of the prefix; None: nothing was measured there."""
        statistics = self._ways.get((self._prefixes.get(destination) or "", way))
        estimate = statistics.estimate(quantity, now_ns) if statistics is not None else None
        return estimate if estimate is not None and estimate.measured_ns is not None else None

    def quality(self, now_ns: int) -> Iterator[WayQuality]:
        """`destination` is a prefix."""
        for (prefix, way), statistics in self._ways.items():
            found = {quantity: statistics.estimate(quantity, now_ns) for quantity in Quantity}
            estimates = {quantity: one for quantity, one in found.items() if one is not None}
            if estimates:
                yield WayQuality(destination=prefix, way=way, estimates=estimates)


def primed(reporter: Reporter, own: OwnSamples, destination: str, way: Way, now_ns: int) -> WayStatistics | None:
    """Statistics to put in the place of the way's, after the service has answered; None: those that are there are best.

    What the host measured itself is in them, and what it measures from now on adds to them.
    """
    found: dict[Quantity, Estimate] = {}
    is_better = False
    for quantity in Quantity:
        ours = own.estimate(destination, way, quantity, now_ns)
        theirs = reporter.better(destination, way, quantity, ours, now_ns)
        is_better |= theirs is not None
        if (one := theirs or ours) is not None:
            found[quantity] = one
    if not is_better:
        return None
    fresh = WayStatistics()
    for quantity, estimate in found.items():
        fresh.on_prior(quantity, estimate)
    return fresh
