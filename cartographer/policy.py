"""What the user values in a path, and how much patience the cartographer has: one frozen value, all with reasons.

Source: Bill-Pay 2.2 leaves all of it to the cartographer; the numbers are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from billpay.errors import LocalProtocolError
from billpay.header import MAX_OADS

_MS = 1_000_000
_S = 1000 * _MS


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPolicy:
    """The cost of a path is its toll plus `delay_value_nanodollars_per_ms` for each millisecond of round trip."""

    delay_value_nanodollars_per_ms: int = 0  # a large transfer minds money, not delay
    better_by_ppm: int = 100_000  # a path has to be cheaper by more than this part …
    better_by_nanodollars: int = 1  # … and by so much: less is noise
    dwell_ns: int = 3 * _S  # a switch has to show its effect before the next one
    max_age_ns: int = 15 * _S  # three lost probes: older facts are not trusted
    probe_gap_ns: int = 500 * _MS  # at most one probe in that time for each destination
    probe_every_ns: int = 5 * _S  # each alternative
    active_ns: int = 10 * _S  # a destination without traffic for so long is not probed any more
    ignored_limit: int = 5  # so many wishes ignored in a row …
    ignored_silence_ns: int = 60 * _S  # … and it is not asked again for so long
    settle_ns: int = 1 * _S  # what arrives sooner after a new wish may have left before it
    avoid_ns: int = 30 * _S  # an alternative that a transfer left as too slow is not taken again for so long
    first_slots: int = 4  # room for ISP-OADs on a path that nobody has seen: typical AS paths are 3 and 4 long
    max_destinations: int = 256
    max_descriptions: int = 512

    def __post_init__(self) -> None:
        bounds = 0 <= self.first_slots <= MAX_OADS and min(self.max_destinations, self.max_descriptions) >= 1
        values = min(self.delay_value_nanodollars_per_ms, self.better_by_ppm, self.better_by_nanodollars) >= 0
        times = (self.dwell_ns, self.max_age_ns, self.probe_gap_ns, self.probe_every_ns, self.active_ns)
        more_times = (self.ignored_silence_ns, self.settle_ns, self.avoid_ns)
        if not (bounds and values and min(*times, *more_times) >= 0 and self.ignored_limit >= 1):
            raise LocalProtocolError(f"{self} is no path policy")
