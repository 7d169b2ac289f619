"""Readings of a run on real packets, put onto the ticks of the simulator, so that both modes' numbers are reckoned
alike.

Decides: between two readings every count rises evenly; a mark costs what its price was when the reading before it was
made. Refuses to know: how they are read. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.bridge.layout import Layout, Place
from lab.simulator.measuring import TICKS_PER_S, FlowReadings, LinkReadings


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowCount:
    """What has arrived at its receiver: IP packets."""

    bytes: int = 0
    packets: int = 0
    marks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCount:
    """What has left by it, and what its gateway says."""

    sent_bytes: int
    sent_packets: int
    marked_packets: int
    dropped_packets: int
    backlog_bytes: int
    price_nanodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """By port and by link's name. `at_s`: since traffic may begin."""

    at_s: float
    flows: dict[int, FlowCount]
    links: dict[str, LinkCount]


@dataclass(slots=True, kw_only=True)
class Prices:
    """What a gateway has said of its marks: since when each price holds, in the order in which it was said."""

    first_nanodollars: int
    _from_unix_ms: list[int] = field(default_factory=list)
    _nanodollars: list[int] = field(default_factory=list)

    def hear(self, valid_from_unix_ms: int, nanodollars: int) -> None:
        if not self._from_unix_ms or valid_from_unix_ms > self._from_unix_ms[-1]:
            self._from_unix_ms.append(valid_from_unix_ms)
            self._nanodollars.append(nanodollars)

    @property
    def newest(self) -> int:
        return self._nanodollars[-1] if self._nanodollars else self.first_nanodollars

    def at(self, unix_ms: int) -> int:
        number = bisect_right(self._from_unix_ms, unix_ms)
        return self._nanodollars[number - 1] if number else self.first_nanodollars


class Ticks:
    """The samples, ten times a second."""

    def __init__(self, layout: Layout, samples: Sequence[Sample], *, seconds: float) -> None:
        self.count = round(seconds * TICKS_PER_S)
        self._layout = layout
        self._samples = samples
        self._times = [sample.at_s for sample in samples]

    def flows(self) -> list[FlowReadings]:
        return [self._flow(place) for place in self._layout.places]

    def links(self) -> list[LinkReadings]:
        return [self._link(number) for number in range(len(self._layout.hops))]

    def charges(self, place: Place) -> list[int]:
        """What its marks had cost at each reading."""
        counts, last_link = self._counts(place), place.flow.path[-1]
        charges = [0]
        for before, one, other in zip(self._samples, counts, counts[1:], strict=False):
            price = before.links[last_link].price_nanodollars
            charges.append(charges[-1] + (other.marks - one.marks) * price)
        return charges

    def _counts(self, place: Place) -> list[FlowCount]:
        return [sample.flows.get(place.port, FlowCount()) for sample in self._samples]

    def _flow(self, place: Place) -> FlowReadings:
        counts = self._counts(place)
        return FlowReadings(
            flow=place.flow,
            received_bytes=self._even([count.bytes for count in counts]),
            packets=self._even([count.packets for count in counts]),
            marks=self._even([count.marks for count in counts]),
            charge_nanodollars=self._even(self.charges(place)),
        )

    def _link(self, number: int) -> LinkReadings:
        hop = self._layout.hops[number]
        packet_bytes = self._layout.experiment.packet_bytes
        counts = [sample.links[hop.link.name] for sample in self._samples]

        def of(what: Callable[[LinkCount], int]) -> list[int]:
            return self._even([what(count) for count in counts])

        sent_bytes = of(lambda count: count.sent_bytes)
        at = [max(0, bisect_right(self._times, tick / TICKS_PER_S) - 1) for tick in range(self.count + 1)]
        return LinkReadings(
            link=hop.link,
            sent_bytes=sent_bytes,
            sent_ns=[sent * 8_000_000_000 // hop.rate_bit_s for sent in sent_bytes],
            arrived_packets=of(lambda count: count.sent_packets + count.dropped_packets),
            marked_packets=of(lambda count: count.marked_packets),
            dropped_packets=of(lambda count: count.dropped_packets),
            backlog_packets=[counts[number].backlog_bytes / packet_bytes for number in at],
            price_nanodollars=[counts[number].price_nanodollars for number in at],
        )

    def _even(self, counts: Sequence[int]) -> list[int]:
        """A count that only rises, at each tick, less what it was at the beginning."""
        found = []
        for tick in range(self.count + 1):
            at_s = tick / TICKS_PER_S
            after = bisect_right(self._times, at_s)
            if after == 0:
                found.append(0)
            elif after == len(counts):
                found.append(counts[-1] - counts[0])
            else:
                since_s, until_s = self._times[after - 1], self._times[after]
                part = (at_s - since_s) / (until_s - since_s)
                found.append(round(counts[after - 1] + part * (counts[after] - counts[after - 1])) - counts[0])
        return found
