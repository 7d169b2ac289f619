"""How much patience the cartographer has, what it may spend, and what the shipped classes of flows want of a path.

One frozen value, all with reasons.  How it chooses between beliefs is `chooser.ChooserTerms`, how fast traffic moves
is `split.SplitTerms`.  Source: Bill-Pay 2.2 and 3.1 leave all of it to the cartographer; C.9's probing rate; the other
numbers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from billpay.errors import LocalProtocolError
from billpay.header import MAX_OADS
from cartographer.values import Wants

_MS = 1_000_000
_S = 1000 * _MS
_PPM = 1_000_000


LOST_NANODOLLARS = 10
"""A lost packet has to be paid for again, even by who minds nothing else: a dead way must not look cheap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPolicy:
    """`delay_value_nanodollars_per_ms`: what the class "default" pays for each millisecond of round trip less."""

    delay_value_nanodollars_per_ms: int = 0  # a large transfer minds money, not delay
    # Probes: at least one of each alternative in `probe_every_ns`, more of what is worth it, but never too many.
    probe_gap_ns: int = 500 * _MS  # at most one probe in that time for each destination
    probe_every_ns: int = 10 * _S  # each alternative, while something is paid for
    own_probe_every_ns: int = 5 * _S  # for flows that cannot wait and have a budget of their own
    watch_every_ns: int = 1 * _S  # the present way, as far as its traffic has earned it
    least_gap_ns: int = 20 * _MS  # or a round trip, where a decision waits for it
    probe_ppm: int = 10_000  # of the traffic's packets, beyond that floor …
    probe_burst: int = 8  # … of which so many may be saved up
    probe_nanodollars_per_hour: int = 1_000_000  # all destinations together: a tenth of a cent
    active_ns: int = 10 * _S  # a destination without traffic for so long is not probed any more
    # Wishes that are ignored.
    ignored_limit: int = 5  # so many in a row …
    ignored_silence_ns: int = 60 * _S  # … and it is not asked again for so long
    settle_ns: int = 1 * _S  # what arrives sooner after a new wish may have left before it
    # Transfers that leave a way as too slow.
    avoid_ns: int = 30 * _S  # it is not taken again for so long
    dwell_ns: int = 3 * _S  # a way has to show what it is worth before it is left as too slow
    # Sizes.
    first_slots: int = 4  # room for ISP-OADs on a path that nobody has seen: typical AS paths are 3 and 4 long
    round_trip_ns: int = 100 * _MS  # while nobody has measured it
    max_candidates: int = 16
    max_ways: int = 24  # of one destination; the longest unseen goes first
    max_destinations: int = 10_000
    max_descriptions: int = 512
    max_links: int = 4096

    def __post_init__(self) -> None:
        sizes = (self.max_destinations, self.max_descriptions, self.max_links, self.max_candidates, self.max_ways)
        bounds = 0 <= self.first_slots <= MAX_OADS and min(sizes) >= 1 and self.round_trip_ns >= 1
        money = min(self.delay_value_nanodollars_per_ms, self.probe_nanodollars_per_hour) >= 0
        times = (
            self.dwell_ns,
            self.probe_gap_ns,
            self.least_gap_ns,
            self.probe_every_ns,
            self.own_probe_every_ns,
            self.active_ns,
        )
        more_times = (self.ignored_silence_ns, self.settle_ns, self.avoid_ns)
        counts = 0 <= self.probe_ppm <= _PPM and self.probe_burst >= 0 and self.ignored_limit >= 1
        if not (bounds and money and counts and min(*times, *more_times) >= 0):
            raise LocalProtocolError(f"{self} is no path policy")


def shipped_wants(delay_value_nanodollars_per_ms: int) -> Mapping[str, Wants]:
    """The classes of flows that every host knows, by the name of a strategy; all others are "default".

    `timely`: a call.  A millisecond is worth ten times the ordinary, variation half of that, and a lost packet as much
    as 200 ms, which is when a call's jitter buffer gives it up.  `bulk`: an unattended transfer.  Delay matters a
    twentieth of the ordinary, a lost packet the little that it costs to send it again, and a way that carries next to
    nothing of 20 Mbit/s costs as much as 20 n$ more a packet.
    """
    ordinary = delay_value_nanodollars_per_ms
    again = max(LOST_NANODOLLARS, 200 * ordinary)
    return {
        "default": Wants(name="default", delay_nanodollars_per_ms=ordinary, loss_nanodollars=again),
        "timely": Wants(
            name="timely",
            delay_nanodollars_per_ms=10 * max(1, ordinary),
            jitter_nanodollars_per_ms=5 * max(1, ordinary),
            loss_nanodollars=2000 * max(1, ordinary),
        ),
        "bulk": Wants(
            name="bulk",
            delay_nanodollars_per_ms=ordinary // 20,
            loss_nanodollars=max(LOST_NANODOLLARS, 10 * ordinary),
            target_bit_s=20_000_000,
            short_nanodollars=20,
        ),
    }
