"""Receiver pays: whether the sender keeps to the rate that it was asked for.

Decides: when more has arrived than an honest sender can have caused, and how often a target is told. Refuses to know:
what the rate was asked for. Pure.

**The law.** A target needs half a round trip to the sender, its packets half a one back, and an interval has a round
trip at least; a queue on the path may be as long as an interval. So an interval is judged by the greatest of the
targets that can have ruled any part of it, the last three. What arrives above that (and 2 %, and 200 bytes for what is
not paced) is added up, what arrives below it is taken off, never below 0. What a queue of one interval can hold back
and let go, r T, and eight packets that come at once, an honest sender's sum may reach. Beyond that the sender has left.

**Nobody honest is accused** while the round trip, and the path's queue, are within an interval each, bursts within
12,000 bytes, and every target is heard: then it is impossible. A message that is lost says nothing of its sender, so a
fall is told three times (`on_target` says how often): of 10 % that are lost, 0.1 % of the falls are. One lost fall
is within the sum, unless a queue of an interval empties just then. Measured: one of 40,000 sessions of 200 intervals
with 10 % lost (`tests/hostagent/reacting/test_obedience.py`); were falls told once, 40 of 10,000. Where nothing is
heard for some time, since the way to the sender is cut, the sender lets go and is found: from here that looks the same.

**Who leaves is found** at f times the greatest of the three targets, within the first n intervals for which
n ((f - 1.02) r T - 200) > r T + 12,000, in bytes. With T = 100 ms two intervals do from f = 1.54 at 100 Mbit/s, 1.57 at
10 Mbit/s, 2.02 at 1 Mbit/s. At 1.5 times it takes three from 2.3 Mbit/s up; below, eight packets are long. No law can
do it in two: where a queue of one interval empties, packets of three intervals arrive in two, and nobody left. Who goes
on with what it had while its target falls to half is found two intervals after it should have followed, from 1.1 Mbit/s
(that fell to) up. Not found: who stays within 2 %. Nothing is judged before four targets were told.

Source: M3I scenarios 3.3.2.1 ("the receiver sees whether the sender obeys"); mechanism DPH-05. The sum is a token
bucket (Cruz 1991, "A calculus for network delay": a flow of rate r that is delayed by at most D has a burst of r D
more).
"""

from __future__ import annotations

from collections import deque
from typing import Final

NS_PER_S: Final = 1_000_000_000
PPM: Final = 1_000_000
RULING: Final = 3
JUDGED_FROM: Final = RULING + 1
"""Targets: before the first its transport sent as it liked, and one may be lost."""
TOLERANCE_PPM: Final = 20_000
"""Headers that one side counts and a clock that is fast."""
FREE_BYTES: Final = 200
"""In each interval: acknowledgements and probes go whatever the pace is."""
BURST_BYTES: Final = 12_000
"""Eight packets of Ethernet's size: what a pacer lets go at once, and what a radio link hands over at once."""
FALL_TOLD: Final = 3
FALL_PPM: Final = 950_000
"""Of the greater of the two before: below it a target is told three times, and until there are two."""


class Obedience:
    """Ask `has_left` after each interval."""

    def __init__(self) -> None:
        self._targets: list[int | None] = []  # the latest was told at the beginning of this interval
        self._lengths_ns: deque[int] = deque(maxlen=RULING)
        self._told = 0
        self._above_bytes = 0
        self._has_left = False

    def on_target(self, target_bit_s: int | None) -> int:
        """What was told at the end of an interval, for the next; how many times it is best told.

        None: no rate; then nothing can be disobeyed.
        """
        ruling = self._targets[-(RULING - 1) :]
        self._targets.append(target_bit_s)
        if target_bit_s is None:
            self._told = 0
            return 1
        self._told += 1
        known = [rate for rate in ruling if rate is not None]
        falls = len(known) < RULING - 1 or target_bit_s * PPM < max(known) * FALL_PPM
        return FALL_TOLD if falls else 1

    def on_interval(self, *, arrived_bytes: int, interval_ns: int) -> bool:
        """Whether this interval was above what was asked. Nothing is judged before four targets were told.

        One that was not read is told with the next; then all the targets since the last one count.
        """
        targets = [rate for rate in self._targets if rate is not None]
        is_free = self._told < JUDGED_FROM or len(targets) < len(self._targets)
        del self._targets[: 1 - RULING]
        self._lengths_ns.append(interval_ns)
        if is_free:
            self._above_bytes, self._has_left = 0, False
            return False
        rate = max(targets)
        allowed = _bytes_in(rate, interval_ns)
        allowed += allowed * TOLERANCE_PPM // PPM + FREE_BYTES
        most = _bytes_in(rate, max(self._lengths_ns)) + BURST_BYTES
        above = max(0, self._above_bytes + arrived_bytes - allowed)
        self._has_left = above > most
        self._above_bytes = min(above, most)  # a target that fell is no guilt
        return arrived_bytes > allowed

    @property
    def has_left(self) -> bool:
        return self._has_left


def _bytes_in(rate_bit_s: int, time_ns: int) -> int:
    return rate_bit_s * time_ns // (8 * NS_PER_S)
