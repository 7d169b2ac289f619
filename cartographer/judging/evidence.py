"""One sequential test: whether bad epochs are more frequent than an honest ISP's can be, however often one looks.

Decides when it is enough. Refuses to know what made an epoch bad. Pure.

An honest ISP gives a bad epoch with probability q at most, whatever happened before (not: independently). A bad epoch
multiplies the evidence by p/q, a good one by (1 − p)/(1 − q); of the mean that makes 1 at most, so that the product is
a non-negative supermartingale and ever reaches 1/α with probability α at most (Ville 1939; Wald 1945 for the ratio).
An ISP that turns greedy later is found too: the evidence of each start n counts with a weight w(n), half of it
1/(n(n + 1)) and half of it 1/N for n up to N; the weights sum to less than 1.  After N epochs the test begins anew: the
error rate is per N epochs. (A test that may have been lost and begun again has the second half alone: those weights
are the same whenever it began.)  With S the sum over the starts so far, S ← (S + w(n)) × ratio: two numbers are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cartographer.judging.terms import Odds

_LEAST: Final = -700.0


@dataclass(slots=True)
class Evidence:
    """Of one ISP's alternative, one kind, one destination. `may_be_late`: it may be one that was lost."""

    may_be_late: bool = False
    epochs: int = 0
    nats: float = -math.inf  # ln S
    bad: int = 0  # since the present suspicion began
    good: int = 0
    since_ns: int = 0

    def add(self, is_bad: bool, odds: Odds, *, looks: int, now_ns: int) -> float:
        """Another epoch; gives ln S."""
        if self.epochs >= looks:
            self.forget()
        self.epochs += 1
        weight = 0.5 / looks
        if not self.may_be_late:
            weight += 0.5 / (self.epochs * (self.epochs + 1))
        start = max(self.nats, _LEAST)
        if start < math.log(weight):  # the latest start weighs most: what was before is no part of the suspicion
            self.bad, self.good, self.since_ns = 0, 0, now_ns
        total = start + math.log1p(weight * math.exp(-start)) if start > _LEAST else math.log(weight)
        ratio = odds.greedy / odds.honest if is_bad else (1 - odds.greedy) / (1 - odds.honest)
        self.bad += is_bad
        self.good += not is_bad
        self.nats = total + math.log(ratio)
        return self.nats

    def forget(self) -> None:
        self.epochs, self.nats, self.bad, self.good = 0, -math.inf, 0, 0


def tail(packets: int, lost: int, loss: float) -> float:
    """P(at least `lost` of `packets` are lost) when each is lost with probability `loss` (binomial law)."""
    if lost <= 0:
        return 1.0
    if loss <= 0:
        return 0.0
    term = math.exp(
        math.lgamma(packets + 1)
        - math.lgamma(lost + 1)
        - math.lgamma(packets - lost + 1)
        + lost * math.log(loss)
        + (packets - lost) * math.log1p(-loss)
    )
    total, odds = 0.0, loss / (1 - loss)
    for count in range(lost, packets + 1):
        total += term
        term *= (packets - count) / (count + 1) * odds
        if term < total * 1e-12:
            break
    return min(1.0, total)
