"""The words of judging: what an ISP can be found to do, what a finding says, and what an honest ISP is allowed.

Nothing is decided here.  The two probabilities of a test are its meaning: `honest`: an honest ISP gives a bad epoch
with at most this probability, whatever was before; `greedy`: the share of bad epochs for which the test is quickest.
Source: Bill-Pay 2.1 (competition makes greed a loss), 2.2; mechanisms BP-17, BP-18, BP-26.  Pure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

_MS: Final = 1_000_000
_S: Final = 1000 * _MS
ANY_ALTERNATIVE: Final = 0  # a wish that names none: "any but these"


class Kind(enum.Enum):
    """The value is also the name that is stored."""

    KEEPS_AND_DROPS = "keeps-and-drops"
    FAKES_CONGESTION = "fakes-congestion"
    LIES = "lies"
    IGNORES = "ignores"

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS: Final = {
    Kind.KEEPS_AND_DROPS: "keeps payments and drops the packets",
    Kind.FAKES_CONGESTION: "takes a congestion toll without congestion",
    Kind.LIES: "is not as its description says",
    Kind.IGNORES: "does not follow wishes that it says it can follow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an ISP was found to do. `evidence`: one plain line; `numbers`: the same for programs.

    `confirmed`: no other single ISP, and no single receiver, could have made all of it up. One that is not confirmed
    holds for its destinations only.
    """

    as_number: int
    alternative: int | None  # None: all of them
    kind: Kind
    since_ns: int  # when the evidence began
    until_ns: int  # when what follows from it lapses
    evidence: str
    numbers: dict[str, float] = field(default_factory=dict)
    destinations: tuple[str, ...] = ()
    confirmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """Of one kind's test: the probability of a bad epoch."""

    honest: float
    greedy: float

    def __post_init__(self) -> None:
        if not 0 < self.honest < self.greedy < 1:
            raise ValueError("0 < honest < greedy < 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingTerms:
    """`false_alarm`: with it at most an honest ISP is accused, at one destination, in `looks` epochs."""

    false_alarm: float = 1e-4
    looks: int = 10_000
    tests_per_isp: int = 16  # four kinds, four alternatives: each test has its part of the error
    drops: Odds = Odds(honest=0.1, greedy=0.7)
    fakes: Odds = Odds(honest=0.3, greedy=0.9)
    lies: Odds = Odds(honest=0.1, greedy=0.7)
    ignores: Odds = Odds(honest=0.2, greedy=0.9)

    epoch_ns: int = 1 * _S
    epoch_at_most_ns: int = 10 * _S  # it waits so long for two ways with enough packets …
    losses_at_most_ns: int = 60 * _S  # … and losses are added up for so long: a way may only be probed
    packets: int = 10  # fewer say nothing of loss
    samples: int = 3  # fewer say nothing of delay and toll
    honest_loss: float = 0.05  # of packets that paid enough
    unusual: float = 0.01  # the tail of the binomial law beyond which losses are too many
    rise_ppm: int = 200_000  # a toll that is higher by this part of its lowest, and by …
    rise_picodollars: int = 2_000  # … this, is raised
    queue_ns: int = 2 * _MS  # a round trip that is longer by this, and by …
    queue_ppm: int = 50_000  # … this part, shows a queue
    steady_epochs: int = 6  # a raised toll that has not moved for so long is a price
    promise_ppm: int = 100_000  # a promise is kept to within this part and …
    promise_picodollars: int = 2_000  # … this toll, or …
    promise_delay_ns: int = 2 * _MS  # … this delay
    proportional_ppm: int = 0  # promises leave proportional tolls out: so much of an amount is no lie
    renewal_ns: int = 300 * _S  # a promise that was true: so long may it take until a new one comes
    settle_ns: int = 2 * _S  # what arrives sooner after a new promise left before it
    floor_ns: int = 600 * _S  # the lowest round trip and toll are those of so long
    penalty_ns: int = 60 * _S  # the first time; then it doubles …
    penalty_at_most_ns: int = 3600 * _S  # … up to this

    access: frozenset[int] = frozenset()  # our own access ISPs: what they could make up, they do not need to
    destinations: int = 64
    ways: int = 16  # for each destination
    hops: int = 48  # for each destination
    accusations: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 1 or not 0 <= self.honest_loss < 1 or not 0 < self.unusual < 1:
            raise ValueError("probabilities are between 0 and 1")
        counts = (self.looks, self.tests_per_isp, self.packets, self.samples, self.steady_epochs)
        bounds = (self.destinations, self.ways, self.hops, self.accusations)
        times = (
            self.epoch_ns,
            self.epoch_at_most_ns - self.epoch_ns + 1,
            self.losses_at_most_ns,
            self.floor_ns,
            self.penalty_ns,
        )
        if min(*counts, *bounds, *times) < 1 or self.penalty_at_most_ns < self.penalty_ns:
            raise ValueError("counts, bounds and times are 1 at least")

    def odds(self, kind: Kind) -> Odds:
        return {
            Kind.KEEPS_AND_DROPS: self.drops,
            Kind.FAKES_CONGESTION: self.fakes,
            Kind.LIES: self.lies,
            Kind.IGNORES: self.ignores,
        }[kind]
