"""How long a decision takes about a context that is known, after 100,000 of them; beside a look at the same message.

Decides nothing. One process, one thread, in memory: what the socket adds is not counted.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

import msgspec

from bench.hostplane.hosts import progress
from bench.secretary.people import requests_of
from bench.secretary.populations import STANDARD
from secretary.kinds import shipped_kinds
from secretary.learning.learner import Learner
from secretary.replay import BOOT, Event, kind_of, transfer_of
from secretary.transfers import Moment, Transfer

PAST: Final = 100_000
ROUNDS: Final = 20_000
ANSWERS: Final = 60
DAYS: Final = 60
KNOWN: Final = 50
Asked = tuple[Transfer, Moment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Microseconds. `baseline`: the transfer written as JSON and read again."""

    past: int
    p50_us: float
    p99_us: float
    noting_p50_us: float
    noting_p99_us: float
    baseline_p50_us: float
    baseline_p99_us: float

    def text(self) -> str:
        times = self.p50_us / self.baseline_p50_us, self.p99_us / self.baseline_p99_us
        return (
            f"Known context after {self.past:,} requests: opinion p50 {self.p50_us:.1f} µs, p99 {self.p99_us:.1f} µs, "
            f"{times[0]:.1f} and {times[1]:.1f} times writing the transfer as JSON and reading it again "
            f"({self.baseline_p50_us:.1f} and {self.baseline_p99_us:.1f} µs); "
            f"noting the request p50 {self.noting_p50_us:.1f} µs, p99 {self.noting_p99_us:.1f} µs"
        )

    def missed(self, goal_p99_us: float) -> str:
        together = self.p99_us + self.noting_p99_us
        return f"decision: p99 {together:.0f} µs (goal ≤ {goal_p99_us:.0f})" if together > goal_p99_us else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "past": self.past,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "noting_p50_us": self.noting_p50_us,
            "noting_p99_us": self.noting_p99_us,
            "baseline_p50_us": self.baseline_p50_us,
            "baseline_p99_us": self.baseline_p99_us,
        }


def measure(past: int = PAST, rounds: int = ROUNDS) -> Latency:
    learner = Learner(eager=False)
    known = _past(learner, past)
    # What comes again: the last days' requests, each judged once before, so that its context is known.
    for transfer, now in known:
        learner.opinion(transfer, now)
    opinions, notings, baseline = [], [], []
    decode = msgspec.json.Decoder(Transfer).decode
    encode = msgspec.json.Encoder().encode
    gc.disable()  # of the bench's own garbage
    try:
        for number in range(rounds):
            transfer, now = known[number % len(known)]
            opinions.append(_ns(lambda: learner.opinion(transfer, now)))  # noqa: B023
            notings.append(_ns(lambda: learner.on_request(transfer, now)))  # noqa: B023
            baseline.append(_ns(lambda: decode(encode(transfer))))  # noqa: B023
    finally:
        gc.enable()
    return Latency(
        past=past,
        p50_us=_percentile_us(opinions, 0.5),
        p99_us=_percentile_us(opinions, 0.99),
        noting_p50_us=_percentile_us(notings, 0.5),
        noting_p99_us=_percentile_us(notings, 0.99),
        baseline_p50_us=_percentile_us(baseline, 0.5),
        baseline_p99_us=_percentile_us(baseline, 0.99),
    )


def _past(learner: Learner, count: int) -> deque[Asked]:
    """One person's requests over and over, as if in days that follow each other; some of them answered."""
    kinds = shipped_kinds()
    events: list[Event] = [request.event for request in requests_of(STANDARD, 0, days=DAYS, seed=1)]
    asked: deque[Asked] = deque(maxlen=KNOWN)
    progress(f"latency: {count:,} past requests")
    for number in range(count):
        again, place = divmod(number, len(events))
        event = events[place]
        unix_s = int(event.t) + again * DAYS * 86_400
        now = Moment(unix_s=unix_s, boot_ns=unix_s * 10**9, boot=BOOT, zone=UTC)
        transfer = transfer_of(event, kind_of(event.app, kinds))
        learner.on_request(transfer, now)
        if number % (count // ANSWERS or 1) == 0:
            accepted = event.truth_nanodollars >= event.price_nanodollars
            learner.on_answer(number, transfer, now, accepted=accepted)
        asked.append((transfer, now))
    work = learner.due_work()
    if work is not None:
        learner.take(work())
    return asked


def _ns(call: Callable[[], object]) -> int:
    begun_ns = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begun_ns


def _percentile_us(samples: Sequence[int], share: float) -> float:
    return round(sorted(samples)[int(share * (len(samples) - 1))] / 1000, 2)
