"""The words of the cartographer: what is known of a way, what a flow wants of it, what is believed and decided.

Nothing is decided here.  A *way* to a destination is what its packets really met: each ISP with the alternative that it
took, as text in path order ("AS64512:2 AS64514:1"); "" is the only way there is.  Source: Bill-Pay 2.2; the weights and
the beliefs are C.9's loss function made of money.  Pure.

Money is in nanodollars or picodollars as the name says, times in nanoseconds of any one monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated

import msgspec

Way = str


class Quantity(enum.Enum):
    """What is measured of a way; the value is also the name that is stored. Units are part of it."""

    DELAY_NS = "delay_ns"  # round trip
    JITTER_NS = "jitter_ns"  # difference of two successive round trips, absolute (RFC 3393, RFC 3550)
    LOSS_PPM = "loss_ppm"
    MARKS_PPM = "marks_ppm"
    THROUGHPUT_BIT_S = "throughput_bit_s"
    FORWARD_TOLL_PICODOLLARS = "forward_toll_picodollars"  # of one packet, there
    RETURN_TOLL_PICODOLLARS = "return_toll_picodollars"  # of one packet, back


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A quantity as it is believed to be. `uncertainty`: one standard error of `value`, age included."""

    value: int
    uncertainty: int
    spread: int  # one standard deviation of single samples
    samples: float  # how many it is worth; older ones count less, a promise counts as a few
    measured_ns: int | None  # the newest sample; None: nobody measured, an ISP or a campus service says so


class Wants(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a class of flows wants of a way, as money for each packet. All that is 0 does not matter to it.

    Cost = toll × toll_ppm + delay × d + jitter × j + P(lost) × l + (missing part of the target rate) × s.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")] = "default"
    delay_nanodollars_per_ms: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 1
    jitter_nanodollars_per_ms: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 0
    loss_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=10**10)] = 0
    toll_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1_000_000
    target_bit_s: Annotated[int, msgspec.Meta(ge=0, le=400_000_000_000)] = 0
    short_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0  # at rate 0; half of it at half the target


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What a packet costs over one way for one class of flows, as believed now: what the chooser compares."""

    way: Way
    cost_picodollars: int
    uncertainty_picodollars: int  # one standard error of the cost
    spread_picodollars: int  # of single packets
    samples: float
    measured_ns: int | None  # None: nobody was there yet
    probe_picodollars: int | None = None  # what asking costs; None: it cannot be probed (a choice can still go there)
    objection: str = ""  # it may not be taken now, whatever it costs: why


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliberation:
    """What the chooser says: where the traffic should go, what to ask about, and why not the others."""

    way: Way
    probes: tuple[Way, ...] = ()
    explores: bool = False  # it goes there to find out, not since it is best
    reason: str = ""
    rejected: tuple[tuple[Way, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WayQuality:
    """All that is believed of one way to one destination (an address; a prefix where a pool says it)."""

    destination: str
    way: Way
    estimates: dict[Quantity, Estimate]
