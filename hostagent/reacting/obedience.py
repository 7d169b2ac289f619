"""Receiver pays: whether the sender keeps to the rate that it was asked for.

Decides: after two intervals in a row above it, that it does not. Refuses to know: what the rate was asked for. Pure.

A target needs half a round trip to the sender, and its packets half a one back; an interval has a round trip at least.
So an interval is judged by the greatest of the targets that can have ruled any part of it: the one that was told at its
beginning, the one before, which packets that were under way then still kept to, and the one before that, since a queue
on the path may be as long as an interval and a message may be lost. A sender that goes on with what it had while its
target falls is found two intervals after it should have followed.

What was queued on the path arrives when it likes: `SLACK_PPM` of the rate and `SLACK_BYTES` in each interval are free.

Source: M3I scenarios 3.3.2.1 ("the receiver sees whether the sender obeys"); mechanism DPH-05.
"""

from __future__ import annotations

from collections import deque

NS_PER_S = 1_000_000_000
PATIENCE = 2
RULING = 3
SLACK_PPM = 100_000
SLACK_BYTES = 3_000
"""Two packets of Ethernet's size, since packets are not cut to intervals."""


class Obedience:
    """Ask `has_left` after each interval."""

    def __init__(self) -> None:
        self._targets: deque[int | None] = deque(maxlen=RULING)  # the latest was told at the beginning of this interval
        self._above = 0

    def on_target(self, target_bit_s: int | None) -> None:
        """What was told at the end of an interval, for the next. None: no rate; then nothing can be disobeyed."""
        self._targets.append(target_bit_s)

    def on_interval(self, *, arrived_bytes: int, interval_ns: int) -> bool:
        """Whether this interval was above what was asked. Nothing is judged before two targets were told."""
        allowed = self._allowed_bytes(interval_ns)
        is_above = allowed is not None and arrived_bytes > allowed
        self._above = self._above + 1 if is_above else 0
        return is_above

    def _allowed_bytes(self, interval_ns: int) -> int | None:
        rates = [rate for rate in self._targets if rate is not None]
        if len(rates) < 2 or len(rates) < len(self._targets):
            return None
        allowed = max(rates) * interval_ns // (8 * NS_PER_S)
        return allowed + allowed * SLACK_PPM // 1_000_000 + SLACK_BYTES

    @property
    def has_left(self) -> bool:
        return self._above >= PATIENCE
