"""The smart market by tolls: one ISP, a toll that cuts off, and what an auction would have done.

Decides: what a posted cut-off and the gateway's own toll law admit and take, beside the auction's clearing of the same
bids. Refuses to know: packets' ways. Everybody sends a packet in each window and pays what it is worth to him; the
ISP keeps its toll and the rest comes back, so that nobody gains by paying less (a toll does not hang on one's bid).

Source: MacKie-Mason and Varian 1995: admit the K highest bids, everybody pays bid K + 1. Posted for the next window:
the (K + 1)-th highest payment seen in the last one. `law`: `billpay.tolls.CongestionToll` and its drop rule, where who
would pay less than the toll of the last window stays away.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from billpay.money import PICODOLLARS_PER_NANODOLLAR
from billpay.tolls import CongestionSettings, CongestionToll, EgressToll, TollSchedule, must_drop
from lab.simulator.chance import stream

_USERS = 200
_CAPACITY = 60  # packets in a window
_WINDOWS = 20
_LAW_WINDOWS = 1500
_PACKET_BYTES = 1000
_CAP_NANODOLLARS = 20_000


class Clearing(msgspec.Struct, frozen=True, kw_only=True):
    """Who is admitted (by number), what each of them pays, and what all of it is worth to them."""

    admitted: tuple[int, ...]
    price_nanodollars: int
    value_nanodollars: int


class CutoffStudy(msgspec.Struct, frozen=True, kw_only=True):
    """`posted`: the window by window result of the posted cut-off, from the second one on."""

    users: int
    capacity: int
    auction: Clearing
    posted: tuple[Clearing, ...]
    posted_kept_nanodollars: tuple[int, ...]
    law_mean_toll_nanodollars: float
    law_mean_admitted: float
    law_value_share: float  # of the auction's


def run(seed: int) -> CutoffStudy:
    chance = stream(seed, "bids")
    bids = chance.sample(range(100, 5000), _USERS)
    auction = clear(bids, _CAPACITY)
    posted, kept = _post(bids)
    toll, admitted, value = _law(bids, chance)
    return CutoffStudy(
        users=_USERS,
        capacity=_CAPACITY,
        auction=auction,
        posted=posted,
        posted_kept_nanodollars=kept,
        law_mean_toll_nanodollars=toll,
        law_mean_admitted=admitted,
        law_value_share=value / auction.value_nanodollars,
    )


def clear(bids: Sequence[int], capacity: int) -> Clearing:
    """The auction: the highest bids, ties by arrival; the first one that is refused sets the price, 0 if none is."""
    ranked = sorted(range(len(bids)), key=lambda user: -bids[user])
    admitted = tuple(sorted(ranked[:capacity]))
    return Clearing(
        admitted=admitted,
        price_nanodollars=bids[ranked[capacity]] if len(bids) > capacity else 0,
        value_nanodollars=sum(bids[user] for user in admitted),
    )


def admit(bids: Sequence[int], toll: EgressToll, capacity: int) -> tuple[tuple[int, ...], int]:
    """In the order of arrival: who pays more than the toll, and who pays just the toll while there is room.

    Gives those who are admitted, and what was kept of them.
    """
    cut_off = [toll.picodollars(_PACKET_BYTES, bid) for bid in bids]
    above = sum(bid * PICODOLLARS_PER_NANODOLLAR > cut for bid, cut in zip(bids, cut_off, strict=True))
    room, kept, admitted = capacity - above, 0, []
    for user, (bid, cut) in enumerate(zip(bids, cut_off, strict=True)):
        spare = bid * PICODOLLARS_PER_NANODOLLAR - cut
        if spare < 0 or (spare == 0 and room <= 0):
            continue
        room -= spare == 0
        kept += toll.retain(cut, bid)
        admitted.append(user)
    return tuple(admitted), kept


def _post(bids: Sequence[int]) -> tuple[tuple[Clearing, ...], tuple[int, ...]]:
    cut_off = clear(bids, _CAPACITY).price_nanodollars  # what the first window has shown
    found, all_kept = [], []
    for _ in range(1, _WINDOWS):
        toll = EgressToll(TollSchedule(fixed_nanodollars_per_packet=cut_off))
        admitted, kept = admit(bids, toll, _CAPACITY)
        value = sum(bids[user] for user in admitted)
        found.append(Clearing(admitted=admitted, price_nanodollars=cut_off, value_nanodollars=value))
        all_kept.append(kept)
        cut_off = clear(bids, _CAPACITY).price_nanodollars
    return tuple(found), tuple(all_kept)


def _law(bids: Sequence[int], chance: random.Random) -> tuple[float, float, float]:
    """Mean toll, mean number admitted and mean value over the second half of the windows, for the gateway's toll law.

    It aims at half a packet more than the capacity: so the toll stays where the first one that is too many comes
    and goes, at his bid.
    """
    cap = _CAP_NANODOLLARS * PICODOLLARS_PER_NANODOLLAR
    period_ns = 100_000_000
    law = CongestionToll(
        CongestionSettings(
            capacity_bytes_per_s=(2 * _CAPACITY + 1) * _PACKET_BYTES * 1_000_000_000 // period_ns // 2,
            period_ns=period_ns,
            cap_picodollars=cap,
            unit_picodollars=cap // 100,
            backlog_reference_bytes=_CAPACITY * _PACKET_BYTES,
            target_utilisation_ppm=1_000_000,
        )
    )
    tolls, admitted, values, known = 0.0, 0, 0, 0
    for window in range(_LAW_WINDOWS):
        toll = law.picodollars
        sent = [bid for bid in bids if bid * PICODOLLARS_PER_NANODOLLAR >= known]
        through = [bid for bid in sent if not must_drop(toll, bid, chance.random)]
        known = toll
        law.on_period(arrived_bytes=len(sent) * _PACKET_BYTES, backlog_bytes=0)
        if window >= _LAW_WINDOWS // 2:
            tolls += toll / PICODOLLARS_PER_NANODOLLAR
            admitted += len(through)
            values += sum(through)
    measured = _LAW_WINDOWS - _LAW_WINDOWS // 2
    return tolls / measured, admitted / measured, values / measured
