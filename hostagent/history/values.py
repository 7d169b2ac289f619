"""What history is made of: increments of traffic and money, by hour and by five minutes. Values and their sums.

Decides: which numbers are kept of a stretch of time, and how a whole is split into whole parts.  Refuses to know where
they are kept, and where they come from.  Bytes are at the IP layer; all times are UTC, whatever the zone of a person.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

HOUR_S: Final = 3600
SLOT_S: Final = 300
"""Volumes of links are kept for each five minutes: what the 95th percentile is made of."""

OTHERS: Final = "(others)"
"""Whatever has no row of its own, because there are too many."""
UNATTRIBUTED: Final = "(unattributed)"
FORGOTTEN: Final = "(forgotten)"
"""A name that a person had deleted; its numbers stay, since books must add up."""
DEFAULT_KIND: Final = "default"


class Counts(NamedTuple):
    """Of both directions."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    received_ce_packets: int = 0

    @property
    def bytes(self) -> int:
        return self.sent_bytes + self.received_bytes

    def plus(self, other: Counts) -> Counts:
        """Written out: it is done for every busy flow every second."""
        return Counts(
            self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3], self[4] + other[4]
        )

    def less(self, other: Counts) -> Counts:
        return Counts(
            self[0] - other[0], self[1] - other[1], self[2] - other[2], self[3] - other[3], self[4] - other[4]
        )


class RowKey(NamedTuple):
    """Whose traffic, in which hour. `destination`: the remote address, "" not known, or "(others)"."""

    from_unix_s: int
    program: str
    kind: str
    destination: str
    network: str


class Amounts(NamedTuple):
    """Counts, and money: real payments, and internal money at the embedded gateway's prices."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    received_ce_packets: int = 0
    spent_nanodollars: int = 0
    priced_nanodollars: int = 0

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class LinkKey(NamedTuple):
    """Five minutes of one network's link."""

    from_unix_s: int
    network: str


class Payment(NamedTuple):
    """What one flow has paid, cumulative since its payer knows it. `flow` is any name that only it has."""

    flow: Hashable
    program: str
    kind: str
    destination: str
    network: str
    spent_nanodollars: int


@dataclass(slots=True)
class Increments:
    """What came on top. The rows of an hour and network sum up to that network's links in that hour."""

    traffic: dict[RowKey, Amounts] = field(default_factory=dict)
    links: dict[LinkKey, Counts] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.traffic or self.links)

    def add_row(self, key: RowKey, amounts: Amounts) -> None:
        before = self.traffic.get(key)
        self.traffic[key] = amounts if before is None else before.plus(amounts)

    def add_link(self, key: LinkKey, counts: Counts) -> None:
        before = self.links.get(key)
        self.links[key] = counts if before is None else before.plus(counts)

    def add(self, other: Increments) -> None:
        for key, amounts in other.traffic.items():
            self.add_row(key, amounts)
        for link, counts in other.links.items():
            self.add_link(link, counts)


def split(whole: int, weights: Sequence[int]) -> list[int]:
    """Whole parts in proportion to the weights, which sum up to the whole: largest remainder, the first of equals.

    The whole may be below zero, weights may not. Without any weight the first part gets all.
    """
    if whole < 0:
        return [-part for part in split(-whole, weights)]
    total = sum(weights)
    if not weights or whole == 0:
        return [0] * len(weights)
    if total == 0:
        return [whole, *[0] * (len(weights) - 1)]
    parts = [whole * weight // total for weight in weights]
    missing = whole - sum(parts)
    if missing:
        by_remainder = sorted(range(len(weights)), key=lambda at: -(whole * weights[at] % total))
        for at in by_remainder[:missing]:
            parts[at] += 1
    return parts
