"""What is lost on a path, and what merely is not answered.

Decides: how much of what was sent is lost up to each hop, with an interval; who limits his answers, and to about how
many; and what a silent destination means. Refuses to know: sockets, clocks, and who has which name.

Routers forward in hardware and answer by a slow processor that is told not to answer much.  A hop whose later hops
answer has passed those packets on: what it does not answer is not lost.  So the loss up to a hop is the least share
that it, or any hop behind it, leaves unanswered; only what persists to the very end counts (this is what readers of mtr
are told to look for by themselves).  A hop that leaves significantly more unanswered than those behind it limits its
answers, or its own way back loses them: no packets of ours are lost there.

End to end counts what the destination answers, and nothing else.  It may limit its answers, too, and nobody is behind
it.  Then loss does not depend on how fast it is asked, and a limit does: a token bucket answers the same number each
second, so of slower probes a greater share.  The same question asked slowly decides (`is_limit`), and the share is of
the slow probes.

Intervals are Clopper and Pearson's of 95 % (never too narrow); differences count when Fisher's exact test calls them
chance less than once in 200.  Sources: RFC 1812 4.3.2.8 and RFC 4443 2.4 (limits of ICMP errors); RFC 2680; Clopper and
Pearson (1934).  Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Final

CONFIDENCE: Final = 0.95
CHANCE: Final = 1 / 200
PPM: Final = 1_000_000
BISECTIONS: Final = 22
"""To a millionth."""
SLOW_PROBES: Final = 20
LEAST_SUSPICIOUS: Final = 2
FUTILE: Final = 3
"""So many slow probes without an answer: this interval does not lie below a limit."""
MUCH_PPM: Final = 200_000
SLOWER: Final = 4
ONE_A_SECOND_MS: Final = 1100
"""Linux answers each host once a second with ICMP errors, beyond a burst of six."""
SLOWEST_MS: Final = 2200
SUSPICION: Final = 1 / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Probes at one ttl, at one rate. `duration_ns`: from the first to the last sending, and one interval more."""

    sent: int = 0
    answered: int = 0
    duration_ns: int = 0

    @property
    def unanswered(self) -> int:
        return self.sent - self.answered

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            sent=self.sent + other.sent,
            answered=self.answered + other.answered,
            duration_ns=self.duration_ns + other.duration_ns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A share as it was counted, and where it lies in 95 % of cases; in millionths."""

    ppm: int
    least_ppm: int
    most_ppm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HopLoss:
    """`lost` None: nobody can say, for all that speak may limit their answers, and the destination never spoke."""

    lost: Interval | None
    limited: bool
    answers_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathLoss:
    """`end` None: the destination never answered. `between`: the hops around the place where most of it begins."""

    hops: dict[int, HopLoss]
    end: Interval | None
    between: tuple[int, int] | None
    end_limited: bool
    words: str


# --- shares and their intervals ---------------------------------------------------------------------------------------


def unanswered(tally: Tally) -> Interval:
    """The share without an answer. Of nothing sent nothing is known: 0 to all."""
    return _interval(tally.unanswered, tally.sent)


@functools.lru_cache(maxsize=4096)
def _interval(count: int, total: int) -> Interval:
    if total == 0:
        return Interval(ppm=0, least_ppm=0, most_ppm=PPM)
    tail = (1 - CONFIDENCE) / 2
    least = 0.0 if count == 0 else _bisect(lambda share: 1 - _at_most(count - 1, total, share), tail, grows=True)
    most = 1.0 if count == total else _bisect(lambda share: _at_most(count, total, share), tail, grows=False)
    return Interval(ppm=count * PPM // total, least_ppm=int(least * PPM), most_ppm=min(PPM, round(most * PPM)))


def _bisect(function: Callable[[float], float], value: float, *, grows: bool) -> float:
    """Where a monotonic function of a share has that value."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if (function(middle) < value) == grows:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(count: int, total: int, share: float) -> float:
    """The chance of `count` or less of `total`."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return 1.0 if count >= total else 0.0
    if count * 2 > total:  # the fewer terms
        return 1.0 - _at_most(total - count - 1, total, 1 - share) if count < total else 1.0
    some, others = log(share), log(1 - share)
    return sum(
        exp(_log_choose(total, number) + number * some + (total - number) * others) for number in range(count + 1)
    )


def _log_choose(total: int, count: int) -> float:
    return lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)


def chance_of(more: Tally, less: Tally) -> float:
    """Fisher's exact test: how probable it is by chance that `more` leaves so much more unanswered than `less`."""
    total, missing = more.sent + less.sent, more.unanswered + less.unanswered
    if not more.sent or not less.sent:
        return 1.0
    whole = _log_choose(total, missing)
    most = min(missing, more.sent)
    return min(
        1.0,
        sum(
            exp(_log_choose(more.sent, number) + _log_choose(less.sent, missing - number) - whole)
            for number in range(more.unanswered, most + 1)
        ),
    )


def leaves_more(more: Tally, less: Tally) -> bool:
    """For certain, as far as such things are."""
    return more.unanswered * less.sent > less.unanswered * more.sent and chance_of(more, less) < CHANCE


# --- the destination --------------------------------------------------------------------------------------------------


def deserves_slow_probes(end: Tally, hops: Mapping[int, Tally]) -> bool:
    """Whether so much is missing that it would matter, or more than at hops before it.

    Hops that are missing as much are no proof of loss: where all are alike, all limit alike.
    """
    if end.answered == 0 or end.unanswered < LEAST_SUSPICIOUS:
        return False
    if end.unanswered * PPM >= end.sent * MUCH_PPM:
        return True
    before = [tally for tally in hops.values() if tally.answered]
    if not before:
        return False
    best = min(before, key=lambda tally: tally.unanswered / tally.sent)
    return best.unanswered * end.sent < end.unanswered * best.sent and chance_of(end, best) < SUSPICION


def slower_ms(interval_ms: int) -> list[int]:
    """At which intervals it is asked again, one after the other, while much is missing."""
    wanted = {each for each in (SLOWER * interval_ms,) if each < ONE_A_SECOND_MS} | {ONE_A_SECOND_MS, SLOWEST_MS}
    return sorted(each for each in wanted if each >= 2 * interval_ms)


def is_limit(fast: Tally, slow: Tally) -> bool:
    """Asked more slowly it answers a greater share."""
    return leaves_more(fast, slow)


def is_settled(fast: Tally, slow: Tally) -> bool:
    """Whether more probes at this interval would change nothing."""
    is_clean = slow.unanswered == 0 and is_limit(fast, slow)
    return is_clean or slow.sent >= SLOW_PROBES or slow.unanswered >= FUTILE


def needs_slower(slow: Tally) -> bool:
    """Still much is missing: loss, or a limit that is lower yet."""
    return slow.unanswered >= LEAST_SUSPICIOUS


# --- the path ---------------------------------------------------------------------------------------------------------


def path_loss(hops: Mapping[int, Tally], *, end_ttl: int | None, slow_end: Tally | None = None) -> PathLoss:
    """`end_ttl`: of the destination, if it ever answered. `slow_end`: what it answered to slower probes, if asked."""
    end_limited = False
    known = {ttl: tally for ttl, tally in sorted(hops.items()) if end_ttl is None or ttl <= end_ttl}
    rate_of_end: float | None = None
    if end_ttl is not None and slow_end is not None and slow_end.sent and is_limit(known[end_ttl], slow_end):
        end_limited, rate_of_end = True, _per_second(known[end_ttl])
        known[end_ttl] = slow_end
    losses = {ttl: _hop_loss(ttl, known, is_reached=end_ttl is not None) for ttl in known}
    if end_limited and end_ttl is not None:
        losses[end_ttl] = HopLoss(lost=losses[end_ttl].lost, limited=True, answers_per_s=rate_of_end)
    end = losses[end_ttl].lost if end_ttl is not None else None
    between = _begins_between(known, losses, end_ttl) if end is not None else None
    words = _words(end, between, end_limited=end_limited, rate=rate_of_end)
    return PathLoss(hops=losses, end=end, between=between, end_limited=end_limited, words=words)


def _hop_loss(ttl: int, hops: Mapping[int, Tally], *, is_reached: bool) -> HopLoss:
    """Each hop from here on bounds the loss from above. Without the destination nobody bounds it from below."""
    mine = hops[ttl]
    behind = [tally for other, tally in hops.items() if other > ttl and tally.answered]
    speaking = [tally for tally in (mine, *behind) if tally.answered]
    if not speaking:
        return HopLoss(lost=None, limited=False, answers_per_s=None)
    intervals = [unanswered(tally) for tally in speaking]
    lost: Interval | None = Interval(
        ppm=min(each.ppm for each in intervals),
        least_ppm=min(each.least_ppm for each in intervals),
        most_ppm=min(each.most_ppm for each in intervals),
    )
    if lost is not None and lost.ppm and not is_reached:
        lost = None
    limited = bool(mine.answered) and leaves_more(mine, sum(behind, Tally()))  # loss only grows from hop to hop
    return HopLoss(lost=lost, limited=limited, answers_per_s=_per_second(mine) if limited else None)


def _per_second(tally: Tally) -> float | None:
    return tally.answered * 1e9 / tally.duration_ns if tally.duration_ns > 0 else None


def _begins_between(
    hops: Mapping[int, Tally], losses: Mapping[int, HopLoss], end_ttl: int | None
) -> tuple[int, int] | None:
    """Around the greatest step that is no chance. A hop that limits its answers cannot say where loss begins."""
    good = [ttl for ttl, loss in losses.items() if hops[ttl].answered and (not loss.limited or ttl == end_ttl)]
    steps: list[tuple[int, int, int]] = []
    before, before_tally = 0, Tally(sent=max((t.sent for t in hops.values()), default=0))
    before_tally = Tally(sent=before_tally.sent, answered=before_tally.sent)
    for ttl in good:
        lost = losses[ttl].lost
        assert lost is not None
        here = min((hops[other] for other in good if other >= ttl), key=lambda t: t.unanswered / max(1, t.sent))
        if leaves_more(here, before_tally):
            step = here.unanswered * PPM // here.sent - before_tally.unanswered * PPM // before_tally.sent
            steps.append((step, before, ttl))
        before, before_tally = ttl, here
    if not steps:
        return None
    _, first, second = max(steps)
    return first, second


def _words(end: Interval | None, between: tuple[int, int] | None, *, end_limited: bool, rate: float | None) -> str:
    if end is None:
        return "the destination never answered: what is lost nobody can say"
    where = ""
    if between is not None:
        after = f"hop {between[0]}" if between[0] else "this host"
        where = f", most of it between {after} and hop {between[1]}"
    lost = f"{_percent(end.ppm)} lost (95 %: {_percent(end.least_ppm)} to {_percent(end.most_ppm)}){where}"
    if not end_limited:
        return lost
    about = f" to about {rate:.2g} a second" if rate else ""
    return f"{lost}; the destination limits its answers{about}, which is no loss"


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.3g} %"
