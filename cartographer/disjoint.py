"""Which two ways to send a packet and its duplicate over, and which ways to probe before they are needed.

Decides: the pairs of ways with no AS in common beyond the first gateway, ranked by what a packet costs that takes both.
Refuses to know when a duplicate is sent (the price reactors) and what else two ways may have in common.

If the ways lose packets independently of each other, both copies are lost with p1·p2: 5 % and 5 % make 0.25 %. That is
what Bill-Pay 3.1 hopes for and it is not sure: different ASes may share a duct, an exchange point or the burst of
traffic that fills both. What is known to be shared is named; joint loss is counted from what was measured end to end,
so the loss of a shared first gateway is in both numbers and makes p1·p2 too small. Source: BP-46, C.9. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from billpay.money import PICODOLLARS_PER_NANODOLLAR
from cartographer.values import Way

MAX_WAYS = 32  # so there are 496 pairs at most; the ways with the least loss are taken
_PPM = 1_000_000
_HOP = re.compile(r"AS(\d{1,10})(?::\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way that may be used. `toll_picodollars`: of one packet; `loss_ppm`: better take the doubtful end of it."""

    way: Way
    loss_ppm: int
    toll_picodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`first` is the cheaper one for a single packet. Costs count a packet's value where all copies are lost."""

    first: Candidate
    second: Candidate
    shared: tuple[int, ...]  # the first gateway's AS, where both have it
    joint_loss_ppm: int  # if the ways lose independently of each other
    cost_picodollars: int
    saved_picodollars: int  # against a single packet over `first`; negative: the duplicate is not worth its toll
    reason: str


def ases_of(way: Way) -> tuple[int, ...]:
    """The ASes of a way in path order. ValueError: this is not how a way is written."""
    hops = way.split()
    found = tuple(_HOP.fullmatch(hop) for hop in hops)
    if not all(found):
        raise ValueError(f"not a way: {way!r}")
    return tuple(int(hop.group(1)) for hop in found if hop is not None)


def shared_ases(first: Way, second: Way) -> tuple[int, ...]:
    """The ASes that both ways go through, in the order of the first one."""
    others = set(ases_of(second))
    return tuple(dict.fromkeys(number for number in ases_of(first) if number in others))


def are_disjoint(first: Way, second: Way) -> bool:
    """Whether no AS is shared beyond the first gateway. A way of which no AS is known is not known to be disjoint."""
    one, two = ases_of(first), ases_of(second)
    if not one or not two:
        return False
    # An AS that is the first gateway of one way only is shared like any other.
    same_start = one[0] == two[0]
    return not set(one[same_start:]) & set(two[same_start:])


def joint_loss_ppm(first_ppm: int, second_ppm: int) -> int:
    """p1·p2, rounded up."""
    return -(-first_ppm * second_ppm // _PPM)


def disjoint_pairs(candidates: Sequence[Candidate], *, value_nanodollars: int) -> tuple[Pair, ...]:
    """The best pair first. `value_nanodollars`: what is lost with a packet; 0: then the least joint loss is best."""
    usable = sorted(candidates, key=lambda each: each.loss_ppm)[:MAX_WAYS]
    pairs = [
        _pair(one, two, value_nanodollars) for one, two in combinations(usable, 2) if are_disjoint(one.way, two.way)
    ]
    if value_nanodollars:
        return tuple(sorted(pairs, key=lambda pair: (pair.cost_picodollars, pair.joint_loss_ppm)))
    return tuple(sorted(pairs, key=lambda pair: (pair.joint_loss_ppm, pair.cost_picodollars)))


def probed_in_advance(pairs: Sequence[Pair], *, most: int) -> tuple[Way, ...]:
    """The ways to keep warm for time-sensitive packets: those of the best pairs, each once."""
    ways = dict.fromkeys(each.way for pair in pairs for each in (pair.first, pair.second))
    return tuple(ways)[:most]


def _pair(one: Candidate, two: Candidate, value_nanodollars: int) -> Pair:
    first, second = sorted((one, two), key=lambda each: _cost_alone(each, value_nanodollars))
    joint_ppm = joint_loss_ppm(first.loss_ppm, second.loss_ppm)
    lost = _worth(joint_ppm, value_nanodollars)
    cost = first.toll_picodollars + second.toll_picodollars + lost
    shared = shared_ases(first.way, second.way)
    return Pair(
        first=first,
        second=second,
        shared=shared,
        joint_loss_ppm=joint_ppm,
        cost_picodollars=cost,
        saved_picodollars=_cost_alone(first, value_nanodollars) - cost,
        reason=_reason(shared, first.loss_ppm, second.loss_ppm, joint_ppm),
    )


def _cost_alone(candidate: Candidate, value_nanodollars: int) -> int:
    return candidate.toll_picodollars + _worth(candidate.loss_ppm, value_nanodollars)


def _worth(loss_ppm: int, value_nanodollars: int) -> int:
    return value_nanodollars * PICODOLLARS_PER_NANODOLLAR * loss_ppm // _PPM


def _reason(shared: tuple[int, ...], first_ppm: int, second_ppm: int, joint_ppm: int) -> str:
    both = f"shared: AS {shared[0]}, the first gateway" if shared else "no AS is shared"
    numbers = f"{first_ppm / 10_000:g} % and {second_ppm / 10_000:g} % lost make {joint_ppm / 10_000:g} %"
    return f"{both}; {numbers} if the losses are independent, more if they come together"
