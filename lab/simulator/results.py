"""What came out of an experiment: numbers for each flow and link, the same for fluid and packet mode.

Decides: which numbers there are and their units. Refuses to know: how they came about (`fluid`, `packets`).
Rates in bit/s at the IP layer, times in s and ms, money in nanodollars.
"""

from __future__ import annotations

import msgspec


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base."""


class FlowResult(Result, frozen=True, kw_only=True):
    """Means over the measured part of the time that it ran. What cannot be said is None.

    price: of its path, in units of weight for a Mbit/s: Kelly's q, so that an elastic flow has rate = weight/price.
    amplitude: (max − min)/mean of its rate in the last quarter of the run (of means over 100 ms in packet mode).
    amplitude_of_expected: the same over `expected_bit_s`, as theory states it.
    settled_s: from when on its rate stayed within 5 % of the mean of its last quarter; None: never.
    expected_bit_s: what theory says for the state at the end, where it says something.
    """

    name: str
    rate_bit_s: float
    share: float  # of what all flows got
    expected_bit_s: float | None = None
    weight: float
    willingness_nanodollars_per_s: float
    price: float | None = None
    marked_share: float | None = None
    marks_per_s: float
    cost_nanodollars_per_s: float
    cost_nanodollars: int  # from its start to its end, with the part that is not measured
    cost_nanodollars_per_mb: float | None = None  # 10^6 bytes
    bytes_sent: int
    lost_share: float | None = None
    amplitude: float | None = None
    amplitude_of_expected: float | None = None
    settled_s: float | None = None
    gain_of_bound: float | None = None
    rtt_ms: float | None = None  # with the queues' delay
    switches: int | None = None  # streaming
    finished_s: float | None = None  # transfer


class LinkResult(Result, frozen=True, kw_only=True):
    """price: marked share times the price per mark, in units of weight for a Mbit/s (Kelly's p)."""

    name: str
    rate_bit_s: float  # what it carried
    utilisation: float
    expected_utilisation: float | None = None
    marked_share: float
    price: float
    expected_price: float | None = None
    price_nanodollars_per_mark: float  # at the end
    marks_per_s: float
    revenue_nanodollars_per_s: float
    queue_mean_packets: float
    queue_p99_packets: float
    queue_mean_ms: float
    queue_p99_ms: float
    lost_share: float
    amplitude: float | None = None  # of its load, as a flow's


class PhaseFlow(Result, frozen=True, kw_only=True):
    name: str
    rate_bit_s: float
    marks_per_s: float
    cost_nanodollars_per_s: float


class PhaseLink(Result, frozen=True, kw_only=True):
    name: str
    utilisation: float
    marked_share: float
    price_nanodollars_per_mark: float
    revenue_nanodollars_per_s: float


class Phase(Result, frozen=True, kw_only=True):
    """Between two events; means over its second half, when it has settled."""

    from_s: float
    to_s: float
    flows: tuple[PhaseFlow, ...]
    links: tuple[PhaseLink, ...]


class Series(Result, frozen=True, kw_only=True):
    """At most 600 points; rates by flow and link, marked shares by link, each a mean over its interval."""

    at_s: tuple[float, ...]
    flow_rates_bit_s: dict[str, tuple[float, ...]]
    link_rates_bit_s: dict[str, tuple[float, ...]]
    link_marked_shares: dict[str, tuple[float, ...]]
    link_queues_packets: dict[str, tuple[float, ...]]
    link_prices_nanodollars_per_mark: dict[str, tuple[float, ...]]


class Results(Result, frozen=True, kw_only=True):
    """Everything. `step_ms`: of fluid mode. `notes`: what a reader has to know to believe it."""

    name: str
    title: str
    mode: str
    seed: int
    seconds: float
    measured_from_s: float
    step_ms: float | None = None
    largest_amplitude: float | None = None
    flows: tuple[FlowResult, ...]
    links: tuple[LinkResult, ...]
    phases: tuple[Phase, ...] = ()
    series: Series | None = None
    notes: tuple[str, ...] = ()
