"""What congestion costs a session now, from whatever says so.

Decides: what a signal is worth as evidence, and which of several is to be believed. Refuses to know: where it came
from (sockets, echoes, tariffs), and what follows (the reactors). Pure.

A missing signal is `None` and never a price: not 0, for then a cut wire would be the cheapest line of all, and not
infinity, for then it would stop every program. A price that is not known makes the charge not known, whatever the
marks.

Sources: M3I scenarios 3.3.2 (only the receiver knows the marks; the price comes from its provider); RFC 3168 (an
acknowledgement says "there was a mark", not how many); RFC 9768 (Accurate ECN counts them).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NS_PER_S = 1_000_000_000


class Source(StrEnum):
    """Who says it; the order is that of belief."""

    RECEIVER_MARKS = "receiver marks"  # CE counted where all marks of the path have come together: what is billed
    TOLLS = "tolls"  # taken out of our packets, by the far end's echo of what was left: what is billed too
    ACCURATE_ECN = "accurate ECN"  # the sender's own count of marks, exact (RFC 9768)
    CLASSIC_ECN = "classic ECN"  # the sender's own guess: a window with ECE in it (RFC 3168)
    LOSS = "loss"  # where marks are bleached
    DELAY = "delay"


BILLED = frozenset((Source.RECEIVER_MARKS, Source.TOLLS))
"""What a provider charges for. Everything else is an estimate, and is shown as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSignal:
    """What was seen of one session in the `interval_ns` that ended at `now_ns` (any monotonic clock).

    packets, bytes: that arrived at the far end (or were acknowledged). marks: packets among them with CE, segments
    counted one by one; for LOSS and DELAY: so many packets as if they had been marked. 0 for TOLLS.
    charge_nanodollars: what the interval cost, or would have by this source's marks; None: the price is not known.
    """

    now_ns: int
    interval_ns: int
    source: Source
    packets: int
    bytes: int
    marks: int
    charge_nanodollars: int | None

    @property
    def is_billed(self) -> bool:
        return self.source in BILLED

    @property
    def marked_share(self) -> float | None:
        """None where nothing arrived."""
        return self.marks / self.packets if self.packets else None

    @property
    def rate_bit_s(self) -> int:
        return self.bytes * 8 * NS_PER_S // self.interval_ns if self.interval_ns > 0 else 0
