"""Paris Metro prices by tolls: an ISP with two equal halves of a link, and a toll for each.

Decides: which half everybody travels on when nobody would rather change. Refuses to know: packets' ways; only tolls
(`billpay.tolls`) and how crowded each half is. The toll alone makes the class: it is what `class_of` reads from what
was kept.

Source: Odlyzko 1999; Gibbens, Mason and Steinberg 2000: users theta, uniform in [0, 1], get V − theta K − p in a half
with the load K = Q/C at the price p. In equilibrium t1 (K2 − K1) = p1 − p2 and V − tm K1 = p1, or tm = 1.
"""

from __future__ import annotations

import random

import msgspec

from billpay.tolls import EgressToll, TollSchedule, class_of
from lab.simulator.chance import stream

_VALUE_UNIT_NANODOLLARS = 100  # a price of 1 in the paper, for a packet
_USERS = 4000
_ROUNDS = 400
_DEARER, _CHEAPER, _AWAY = 0, 1, 2


class MetroCase(msgspec.Struct, frozen=True, kw_only=True):
    """Prices in the paper's unit; both halves have half of the capacity that all users together would fill."""

    value: float
    prices: tuple[float, float]


class MetroOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """`border`: the theta from which on people travel dear. `last`: the largest theta that travels at all."""

    case: MetroCase
    border: float
    last: float
    loads: tuple[float, float]  # of the dearer half, of the cheaper half
    classes: tuple[int, int]
    kept_nanodollars: int
    owed_nanodollars: int  # travellers times their tolls
    changed_in_last_round: int


class MetroStudy(msgspec.Struct, frozen=True, kw_only=True):
    outcomes: tuple[MetroOutcome, ...]


CASES = (MetroCase(value=1.0, prices=(0.2, 0.1)), MetroCase(value=3.0, prices=(0.3, 0.1)))


def run(seed: int) -> MetroStudy:
    """Everybody in turn, in an order by chance, takes what is best for him, until nobody changes."""
    return MetroStudy(outcomes=tuple(_settle(case, stream(seed, "order")) for case in CASES))


def _settle(case: MetroCase, chance: random.Random) -> MetroOutcome:
    tolls = tuple(EgressToll(TollSchedule(fixed_nanodollars_per_packet=_nanodollars(price))) for price in case.prices)
    thetas = [(number + 0.5) / _USERS for number in range(_USERS)]
    choices = [_AWAY] * _USERS
    riders = [0, 0, _USERS]
    order, changed = list(range(_USERS)), 0
    for _ in range(_ROUNDS):
        chance.shuffle(order)
        changed = 0
        for user in order:
            riders[choices[user]] -= 1
            best = _best(case, thetas[user], riders)
            changed += best != choices[user]
            choices[user] = best
            riders[best] += 1
        if not changed:
            break
    kept = [
        tolls[choice].retain(tolls[choice].picodollars(1000, _VALUE_UNIT_NANODOLLARS), _VALUE_UNIT_NANODOLLARS)
        for choice in choices
        if choice != _AWAY
    ]
    return MetroOutcome(
        case=case,
        border=min((t for t, c in zip(thetas, choices, strict=True) if c == _DEARER), default=1.0) - 0.5 / _USERS,
        last=max((t for t, c in zip(thetas, choices, strict=True) if c != _AWAY), default=0.0) + 0.5 / _USERS,
        loads=(_load(riders[_DEARER]), _load(riders[_CHEAPER])),
        classes=(class_of(_nanodollars(case.prices[_DEARER])), class_of(_nanodollars(case.prices[_CHEAPER]))),
        kept_nanodollars=sum(kept),
        owed_nanodollars=sum(_nanodollars(case.prices[half]) * riders[half] for half in (_DEARER, _CHEAPER)),
        changed_in_last_round=changed,
    )


def _best(case: MetroCase, theta: float, riders: list[int]) -> int:
    """Each half as it is with this user in it; a tie goes to the cheaper way."""
    gains = [case.value - theta * _load(riders[half] + 1) - case.prices[half] for half in (_DEARER, _CHEAPER)]
    if max(gains) <= 0:
        return _AWAY
    return _DEARER if gains[_DEARER] > gains[_CHEAPER] else _CHEAPER


def _load(riders: int) -> float:
    return riders / _USERS / 0.5


def _nanodollars(price: float) -> int:
    return round(price * _VALUE_UNIT_NANODOLLARS)
