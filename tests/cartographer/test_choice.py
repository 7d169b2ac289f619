"""The pure choice on facts written by hand: what decides between two alternatives of one ISP, and what does not."""

from __future__ import annotations

import pytest

from billpay.errors import LocalProtocolError
from billpay.header import Slot, user_oad
from billpay.messages import OadAlternative
from cartographer.cartographer import Cartographer
from cartographer.choice import FREE_SLOT, choose
from cartographer.map import AlternativeFacts, IspFacts, Measured
from cartographer.policy import PathPolicy

MS = 1_000_000
S = 1000 * MS
NOW = 100 * S
X = 64512


def facts(number: int, toll: int | None = None, rtt_ms: int | None = None, *, age_s: int = 0) -> AlternativeFacts:
    at_ns = NOW - age_s * S
    return AlternativeFacts(
        number=number,
        seen=True,
        toll_nanodollars=None if toll is None else Measured(toll, at_ns),
        round_trip_ns=None if rtt_ms is None else Measured(rtt_ms * MS, at_ns),
    )


def promised(number: int, toll: int, delay_ms: int | None = None) -> AlternativeFacts:
    delay_ns = None if delay_ms is None else delay_ms * MS
    return AlternativeFacts(
        number=number, promise=OadAlternative(number=number, title="", toll_nanodollars=toll, delay_ns=delay_ns)
    )


def isp(*alternatives: AlternativeFacts, wish: Slot | None = None, default: int = 1) -> tuple[IspFacts, ...]:
    return (
        IspFacts(
            as_number=X,
            available=tuple(item.number for item in alternatives),
            present=1,
            default=default,
            wish=wish,
            alternatives={item.number: item for item in alternatives},
            any_other=AlternativeFacts(number=0),
        ),
    )


def chosen(path: tuple[IspFacts, ...], policy: PathPolicy | None = None) -> int | None:
    return choose(path, policy or PathPolicy(), now_ns=NOW).chosen[0][1]


@pytest.mark.parametrize(
    ("present", "other", "moves"),
    [(10, 9, False), (11, 9, True), (100, 90, False), (100, 89, True), (1, 0, True), (10, 10, False), (0, 0, False)],
)
def test_a_path_has_to_be_better_by_more_than_a_tenth_and_by_a_nanodollar(
    present: int, other: int, moves: bool
) -> None:
    assert chosen(isp(facts(1, present), facts(2, other))) == (2 if moves else None)


def test_fractions_of_a_nanodollar_are_noise() -> None:
    policy = PathPolicy(delay_value_nanodollars_per_ms=1)
    tenth = isp(facts(1, 0, 2), AlternativeFacts(number=2, seen=True, toll_nanodollars=Measured(0, NOW),
                                                 round_trip_ns=Measured(1_100_000, NOW)))  # fmt: skip
    assert chosen(tenth, policy) is None
    assert choose(tenth, policy, now_ns=NOW).rejected == (
        (X, 2, "saves 0.9 n$ of 2 n$, which is too little for a switch"),
    )


def test_delay_alone_decides_for_unpaid_traffic() -> None:
    path = isp(facts(1, None, 50), facts(2, None, 10))
    assert chosen(path, PathPolicy(delay_value_nanodollars_per_ms=2)) == 2
    assert chosen(path) is None, "nothing that anybody values is known"


def test_a_number_that_only_one_of_them_has_makes_them_incomparable() -> None:
    policy = PathPolicy(delay_value_nanodollars_per_ms=2)
    path = isp(facts(1, 50, 10), facts(2, 5))
    assert chosen(path, policy) is None
    assert choose(path, policy, now_ns=NOW).rejected == ((X, 2, "too little is known to compare it"),)


@pytest.mark.parametrize(("age_s", "moves"), [(15, True), (16, False)])
def test_facts_are_trusted_for_fifteen_seconds(age_s: int, moves: bool) -> None:
    assert chosen(isp(facts(1, 10), facts(2, 1, age_s=age_s))) == (2 if moves else None)
    assert chosen(isp(facts(1, 10, age_s=age_s), facts(2, 1))) == (2 if moves else None)


def test_promises_are_compared_with_promises_only() -> None:
    assert chosen(isp(promised(1, 8), promised(2, 3))) == 2
    assert chosen(isp(facts(1, 8), promised(2, 3))) is None, "the one is of the whole path, the other of one ISP"


def test_the_default_is_taken_by_asking_nothing() -> None:
    path = isp(facts(1, 2), facts(2, 9), wish=user_oad(X, choice=2))
    choice = choose(path, PathPolicy(), now_ns=NOW)
    assert choice.slots == (FREE_SLOT, FREE_SLOT)
    assert choice.left == (X, 2)
    became_default = isp(facts(1, 9), facts(2, 2), wish=user_oad(X, choice=2), default=2)
    choice = choose(became_default, PathPolicy(), now_ns=NOW)
    assert choice.slots == (FREE_SLOT, FREE_SLOT)
    assert choice.reason == f"AS {X}: 2 by default, so that nothing needs to be asked"


def test_the_best_of_several_is_taken_and_the_others_say_why_not() -> None:
    choice = choose(isp(facts(1, 20), facts(2, 10), facts(3, 5), facts(4, 21)), PathPolicy(), now_ns=NOW)
    assert choice.chosen == ((X, 3),)
    assert choice.reason == f"AS {X}: from alternative 1 to 3, saves 15 n$ of 20 n$"
    assert set(choice.rejected) == {
        (X, 1, "the traffic has just left it"),
        (X, 2, "saves 10 n$, but another one is better"),
        (X, 4, "costs 1 n$ more"),
    }


def test_a_destination_that_is_no_address_has_no_descriptions() -> None:
    cartographer = Cartographer()
    cartographer.on_oads_seen("host.example", [(X, 0x803, 1)], 5, 1, NOW)
    assert cartographer.choose("host.example", NOW).chosen == ((X, None),)


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(LocalProtocolError):
        PathPolicy(first_slots=8)
    with pytest.raises(LocalProtocolError):
        PathPolicy(dwell_ns=-1)
