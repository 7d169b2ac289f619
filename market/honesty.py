"""Who does not keep to what it says: a receiver that reports too few marks.

Decides: when the evidence is enough to cut a session. Refuses to know: packets, money and how a session is cut. Pure.
A sender that sends more than it was asked to is its receiver's to find: `hostagent.reacting.obedience`.
Source: M3I scenarios 3.3.2.2 (the marking rate "is only known directly by" the receiver, which "is always able to lie";
DPH-07); Wald 1945 (sequential tests); Ville 1939 (a non-negative supermartingale that begins at 1 ever reaches 1/α with
probability at most α).

The provider's meter counts M marks (or a sample of them: each with probability s), the
receiver reports R. Between the two an honest packet is lost with probability at most l, so for each mark, sampled or
not, reported or not,

    E[exp(θ·sampled − c·reported)] ≤ (1 − s + s·e^θ)·(l + (1 − l)·e^(−c)) = 1

where the last equation is how c follows from θ. So exp(θ·K − c·R) is a supermartingale, and it ever reaches 1/α with
probability at most α, however often one looks: α = 10^-4 for a session. θ is chosen so that the logarithm grows fastest
when a share of `reported_share` is reported; for s = 1 that is Wald's test of 1 − l against that share. A receiver that
begins to lie later is found too: starts at each `block` marks have weights 1/((b+1)(b+2)), which sum to 1.

The two meters are not read at the same time. So the sample is taken up to a time t, the reports up to t + `slack` at
the earliest: a report then has all the marks that the sample has, and perhaps more, which only helps the receiver. For
later starts it is the other way round: reports from t − `slack` back.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

STARTS_MAX: Final = 64


class Finding(Enum):
    HONEST = "nothing that an honest one could not have done"
    LYING_RECEIVER = "it reports fewer marks than its provider counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """`sampled`: of all marks that pass the provider's meter. `honest_loss`: the most that is lost after it."""

    sampled: float = 1.0
    honest_loss: float = 0.05
    reported_share: float = 0.5
    false_alarm: float = 1e-4
    slack_ms: int = 100
    block_marks: int = 25

    def __post_init__(self) -> None:
        honest = 0 < self.sampled <= 1 and 0 < self.honest_loss < 1 - self.reported_share
        if not honest or not 0 <= self.reported_share < 1 or not 0 < self.false_alarm < 1 or self.slack_ms < 0:
            raise ValueError("0 < sampled <= 1, 0 < honest_loss < 1 - reported_share, 0 < false_alarm < 1")

    def weights(self) -> tuple[float, float]:
        """θ and c: what a sampled mark adds, and what a reported one takes away, in nats."""
        low, high = 0.0, -math.log(self.honest_loss)
        if self.sampled < 1:
            high = math.log1p((1 / self.honest_loss - 1) / self.sampled)
        for _ in range(200):  # the growth is concave in θ
            left, right = low + (high - low) / 3, high - (high - low) / 3
            if self._growth(left) < self._growth(right):
                low = left
            else:
                high = right
        return low, self._price(low)

    def growth_nats_per_mark(self) -> float:
        """How fast the evidence grows against one who reports `reported_share`: ln(1/α) by it is the marks needed."""
        return self._growth(self.weights()[0])

    def _growth(self, theta: float) -> float:
        return theta * self.sampled - self._price(theta) * self.reported_share

    def _price(self, theta: float) -> float:
        reach = 1 / (1 - self.sampled + self.sampled * math.exp(theta))
        left = (reach - self.honest_loss) / (1 - self.honest_loss)
        return -math.log(left) if left > 0 else math.inf


@dataclass(slots=True)
class _Count:
    """A cumulative count as it was heard: times and values, both rising."""

    times_ms: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)

    def add(self, at_ms: int, value: int) -> bool:
        """One that is late, or lower, says nothing new."""
        if self.times_ms and (at_ms <= self.times_ms[-1] or value < self.values[-1]):
            return False
        self.times_ms.append(at_ms)
        self.values.append(value)
        return True

    def first_from(self, at_ms: int) -> int | None:
        """The value of the first reading at this time or later."""
        index = bisect_left(self.times_ms, at_ms)
        return self.values[index] if index < len(self.values) else None

    def last_until(self, at_ms: int) -> int:
        """The value of the last reading until then; 0 before the first."""
        index = bisect_right(self.times_ms, at_ms)
        return self.values[index - 1] if index else 0

    def forget_before(self, at_ms: int) -> None:
        index = max(0, bisect_right(self.times_ms, at_ms) - 1)
        del self.times_ms[:index], self.values[:index]


class ReceiverWatch:
    """Sender pays: the receiver's reports against its provider's count. One for each session; both clocks are one."""

    def __init__(self, terms: Reconciling) -> None:
        self._terms = terms
        self._theta, self._price = terms.weights()
        self._sampled = _Count()
        self._reported = _Count()
        self._starts: list[tuple[float, int, int]] = [(math.log(0.5), 0, 0)]  # ln weight, sampled, reported by then
        self._begun = 1
        self._judged_ms = -1
        self.evidence_nats = -math.inf

    def on_report(self, at_ms: int, marks: int) -> Finding:
        """The receiver's cumulative count, as it stood at `at_ms`."""
        self._reported.add(at_ms, marks)
        return self._judge()

    def on_provider(self, at_ms: int, marks: int) -> Finding:
        """The provider's (sampled) cumulative count, as it stood at `at_ms`."""
        self._sampled.add(at_ms, marks)
        return self._judge()

    @property
    def bound_nats(self) -> float:
        return -math.log(self._terms.false_alarm)

    def _judge(self) -> Finding:
        """Of every provider's reading that a later report covers, and that was not judged before."""
        for at, sampled in zip(list(self._sampled.times_ms), list(self._sampled.values), strict=True):
            if at <= self._judged_ms:
                continue
            reported = self._reported.first_from(at + self._terms.slack_ms)
            if reported is None:
                break
            self._judged_ms = at
            self.evidence_nats = self._weigh(sampled, reported)
            if self.evidence_nats >= self.bound_nats:
                return Finding.LYING_RECEIVER
            self._begin(at, sampled)
        self._sampled.forget_before(self._judged_ms)
        self._reported.forget_before(self._judged_ms - self._terms.slack_ms)
        return Finding.HONEST

    def _weigh(self, sampled: int, reported: int) -> float:
        """ln of the weighted sum over all starts."""
        each = [
            weight + self._theta * (sampled - from_sampled) - self._price * max(0, reported - from_reported)
            for weight, from_sampled, from_reported in self._starts
        ]
        most = max(each)
        return most + math.log(math.fsum(math.exp(one - most) for one in each))

    def _begin(self, at_ms: int, sampled: int) -> None:
        """Another start, once a block of marks has passed since the last one."""
        if sampled - self._starts[-1][1] < self._terms.block_marks * self._terms.sampled:
            return
        before = self._reported.last_until(at_ms - self._terms.slack_ms)
        self._starts.append((-math.log((self._begun + 1) * (self._begun + 2)), sampled, before))
        self._begun += 1
        del self._starts[:-STARTS_MAX]  # a smaller sum is below the bound all the more
