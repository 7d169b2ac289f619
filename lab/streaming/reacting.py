"""The price reactor inside a player or a server: from counts to a price signal, from there to the rate to ask for.

Decides: what new marks cost, what a default policy is worth, what is asked for when the reactor lets go. Refuses to
know: sockets, and how a level is chosen (`pricereactor.streaming`, which is used as a library: "plug-in player").
Pure. Source: M3I scenarios 3.3.4 (a tariff charges a fixed price for each mark), 3.5.1 (ECN measurements and reactor
inside the player).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from lab.streaming.reception import Counts
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint, check
from pricereactor.rates import RateDecision, Verdict
from pricereactor.signals import PriceSignal, Source
from pricereactor.streaming import StreamingLadder

DEFAULT_WORTH_NANODOLLARS_PER_S: Final = 50_000
"""18 cents for an hour of the best encoding."""

INTERVAL_NS: Final = 500_000_000
"""Of the reactor: some tens of packets at the lowest encodings, and a quarter of the half-life of a price."""


class Bill:
    """New marks times the price that holds when they are counted. The sum is exact over any change of price."""

    def __init__(self, nanodollars_per_mark: int) -> None:
        self.nanodollars_per_mark = nanodollars_per_mark
        self.spent_nanodollars = 0
        self._last = Counts()
        self._last_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        self._last_ns = now_ns

    def signal(self, now_ns: int, counts: Counts) -> PriceSignal | None:
        """None: nothing new was counted, which proves nothing. A count that runs backwards is an old one."""
        packets = counts.packets - self._last.packets
        if self._last_ns is None or packets <= 0 or now_ns <= self._last_ns:
            return None
        marks = max(0, counts.ce - self._last.ce)
        charge = marks * self.nanodollars_per_mark
        signal = PriceSignal(
            now_ns=now_ns,
            interval_ns=now_ns - self._last_ns,
            source=Source.RECEIVER_MARKS,
            packets=packets,
            bytes=max(0, counts.bytes - self._last.bytes),
            marks=marks,
            charge_nanodollars=charge,
        )
        self.spent_nanodollars += charge
        self._last, self._last_ns = counts, now_ns
        return signal


def default_policy(
    ladder_bit_s: Sequence[int],
    *,
    worth_nanodollars_per_s: int = DEFAULT_WORTH_NANODOLLARS_PER_S,
    buffer_ms: int = 8_000,
) -> TaskPolicy:
    """U(r) = v log(1 + r / r0), with v so that the best encoding is worth what is given, and r0 the lowest."""
    lowest, best = ladder_bit_s[0], ladder_bit_s[-1]
    unit = worth_nanodollars_per_s / math.log(1 + best / lowest)
    return TaskPolicy(
        name="video",
        kind=TaskKind.STREAMING,
        value=tuple(
            ValuePoint(rate_bit_s=rate, nanodollars_per_s=round(unit * math.log(1 + rate / lowest)))
            for rate in ladder_bit_s
        ),
        min_bit_s=lowest,
        ladder_bit_s=tuple(ladder_bit_s),
        buffer_ms=buffer_ms,
    )


def fitted(policy: TaskPolicy, ladder_bit_s: Sequence[int]) -> TaskPolicy:
    """The policy with the encodings that this video has. Raises ConfigurationError where none of them will do."""
    changed = msgspec.structs.replace(policy, ladder_bit_s=tuple(ladder_bit_s))
    check(changed, where="policy of the session")
    return changed


def asked_bit_s(decision: RateDecision, ladder_bit_s: Sequence[int]) -> int:
    """What the sender is told. One that let go has no transport to let go to: UDP answers nothing by itself, so the
    lowest encoding is all that it may have."""
    if decision.verdict is Verdict.STOP:
        return 0
    return ladder_bit_s[0] if decision.target_bit_s is None else decision.target_bit_s


def ladder_for(policy: TaskPolicy, *, now_ns: int, duration_ms: int) -> StreamingLadder:
    """Whoever plays from a buffer lasts as long as the video and the buffer's filling."""
    session_ns = (duration_ms + policy.buffer_ms) * 1_000_000
    return StreamingLadder(policy, now_ns=now_ns, interval_ns=INTERVAL_NS, session_ns=session_ns)
