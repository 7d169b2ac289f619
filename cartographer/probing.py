"""What the next probe to a destination should ask for, and whether it may be bought.

Decides which ask is most worth a probe; refuses to know how a probe is built, sent and answered.  Each alternative is
asked about once in `every_ns`, what nobody has seen first; that is the floor, on which repaired ways are found
again.  What the chooser wants besides is bought with at most `probe_ppm` of the traffic's packets, a few of them in
advance, since a decision may wait for it.  So
is a way that was not as believed: it is asked again at once, then after half as long again, and so on up to the floor,
for what changed may change back.  All probes together stay within a purse that refills by the hour.  An ISP that
ignores wishes is left in peace.  Source: C.9; Bill-Pay 3.1 (probes carry payments, too).  Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from cartographer.choice import Candidate
from cartographer.map import Ask, Destination
from cartographer.policy import PathPolicy
from cartographer.values import Way

_HOUR_NS = 3_600_000_000_000
_PPM = 1_000_000
_NEW, _WANTED, _FLOOR = range(3)


@dataclass(slots=True)
class ProbePurse:
    """What probes may cost: a bucket of one hour's budget. What they did cost is known when they are answered."""

    nanodollars_per_hour: int
    left_nanodollars: int = field(init=False)
    spent_nanodollars: int = 0  # since the start
    probes: int = 0
    lost: int = 0
    _refilled_ns: int | None = None

    def __post_init__(self) -> None:
        self.left_nanodollars = self.nanodollars_per_hour

    def may_spend(self, now_ns: int) -> bool:
        if self._refilled_ns is None:
            self._refilled_ns = now_ns
        more = (now_ns - self._refilled_ns) * self.nanodollars_per_hour // _HOUR_NS
        if more > 0:
            self.left_nanodollars = min(self.nanodollars_per_hour, self.left_nanodollars + more)
            self._refilled_ns += more * _HOUR_NS // self.nanodollars_per_hour
        return self.left_nanodollars > 0

    def spend(self, nanodollars: int) -> None:
        self.spent_nanodollars += nanodollars
        self.left_nanodollars -= nanodollars


def earn(record: Destination, packets: int, policy: PathPolicy) -> None:
    """Traffic pays for probes: a part of its packets, and never more than a few in advance."""
    most = policy.probe_burst * _PPM
    record.probes_earned_ppm = min(most, record.probes_earned_ppm + packets * policy.probe_ppm)


def is_to_be_watched(record: Destination, ask: Ask, policy: PathPolicy, now_ns: int) -> bool:
    """Whether the present way's delay is due again: nothing but probes shows it. Half of what is earned is for this."""
    if record.probes_earned_ppm <= policy.probe_burst * _PPM // 2:
        return False
    asked = record.asks.get(ask)
    return asked is None or asked.probed_ns is None or now_ns - asked.probed_ns >= policy.watch_every_ns


def is_to_be_asked_again(record: Destination, candidate: Candidate, every_ns: int, now_ns: int) -> bool:
    """Whether a way that surprised us is due: after half as long again as from the surprise to the last probe."""
    known, asked = record.ways.get(candidate.way), record.asks.get(candidate.ask)
    if known is None or known.surprised_ns is None or now_ns - known.surprised_ns >= 2 * every_ns:
        return False
    probed_ns = asked.probed_ns if asked is not None and asked.probed_ns is not None else known.surprised_ns
    return 2 * (now_ns - probed_ns) >= probed_ns - known.surprised_ns


def next_probe(
    found: Iterable[Candidate],
    record: Destination,
    wanted: Collection[Way],
    policy: PathPolicy,
    *,
    every_ns: int,
    now_ns: int,
) -> Ask | None:
    """What is to be probed now, if anything: what nobody has seen, what a decision waits for, the longest unasked."""
    since_ns = now_ns - record.probed_ns if record.probed_ns is not None else policy.probe_gap_ns
    gap_ns = min(policy.probe_gap_ns, max(policy.least_gap_ns, record.round_trip_ns or policy.round_trip_ns))
    if since_ns < gap_ns:
        return None
    earned = record.probes_earned_ppm >= _PPM
    due: list[tuple[int, int, int, Ask]] = []
    for order, candidate in enumerate(found):
        if not candidate.may_be_probed:
            continue
        asked = record.asks.get(candidate.ask)
        probed_ns = asked.probed_ns if asked is not None else None
        last_ns = -1 if probed_ns is None else probed_ns
        known = record.ways.get(candidate.way)
        is_new = probed_ns is None and (known is None or known.is_expected)
        on_floor = probed_ns is None or now_ns - probed_ns >= every_ns
        if on_floor and since_ns >= policy.probe_gap_ns:
            due.append((_NEW if is_new else _FLOOR, last_ns, order, candidate.ask))
        elif earned and candidate.way in wanted:
            due.append((_WANTED, last_ns, order, candidate.ask))
    if not due:
        return None
    rank, _, _, ask = min(due)
    if rank == _WANTED:
        record.probes_earned_ppm -= _PPM
    return ask
