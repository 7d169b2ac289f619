"""Pairs of ways for duplicates."""

from __future__ import annotations

import random

import pytest

from cartographer.disjoint import (
    MAX_WAYS,
    Candidate,
    are_disjoint,
    ases_of,
    disjoint_pairs,
    joint_loss_ppm,
    probed_in_advance,
    shared_ases,
)


def way(text: str, loss_ppm: int = 50_000, toll: int = 1000) -> Candidate:
    return Candidate(way=text, loss_ppm=loss_ppm, toll_picodollars=toll)


@pytest.mark.row("BP-46")
def test_five_percent_twice_is_a_quarter_of_a_percent() -> None:
    (pair,) = disjoint_pairs([way("AS1:1 AS2:1"), way("AS1:2 AS3:1")], value_nanodollars=1000)
    assert pair.joint_loss_ppm == 2_500
    assert pair.shared == (1,)
    assert pair.reason == (
        "shared: AS 1, the first gateway; 5 % and 5 % lost make 0.25 % if the losses are independent, "
        "more if they come together"
    )
    chance = random.Random(1)
    lost = sum(chance.random() < 0.05 and chance.random() < 0.05 for _ in range(200_000)) / 200_000
    assert lost == pytest.approx(pair.joint_loss_ppm / 1e6, rel=0.15)


@pytest.mark.parametrize(
    ("first", "second", "disjoint", "shared"),
    [
        ("AS1:1 AS2", "AS1:2 AS3", True, (1,)),
        ("AS1 AS2", "AS4 AS3", True, ()),
        ("AS1 AS2 AS5", "AS4 AS5", False, (5,)),
        ("AS1:1 AS2:1", "AS1:1 AS2:2", False, (1, 2)),  # another alternative of an ISP is the same ISP
        ("AS1 AS2", "AS2 AS1", False, (1, 2)),
        ("AS1:1 AS2 AS1:2", "AS1:1 AS3 AS1:2", False, (1,)),  # the first gateway's ISP comes again
        ("", "AS1", False, ()),
    ],
)
def test_what_is_shared_is_named(first: str, second: str, disjoint: bool, shared: tuple[int, ...]) -> None:
    assert are_disjoint(first, second) is disjoint
    assert shared_ases(first, second) == shared


def test_pairs_are_ranked_by_what_a_packet_costs_that_takes_both() -> None:
    candidates = [
        way("AS1 AS2", 10_000, 5_000),
        way("AS1 AS3", 50_000, 1_000),
        way("AS1 AS4", 60_000, 1_000),
        way("AS1 AS4 AS3", 0, 0),
    ]
    dear = disjoint_pairs(candidates, value_nanodollars=1_000_000)
    assert [(pair.first.way, pair.second.way) for pair in dear[:2]] == [
        ("AS1 AS4 AS3", "AS1 AS2"),
        ("AS1 AS2", "AS1 AS3"),
    ]
    cheap = disjoint_pairs(candidates[:3], value_nanodollars=10)
    assert {cheap[0].first.way, cheap[0].second.way} == {"AS1 AS3", "AS1 AS4"}
    assert cheap[0].saved_picodollars < 0  # a packet that is worth little needs no duplicate
    assert dear[1].saved_picodollars > 0
    assert disjoint_pairs(candidates, value_nanodollars=0)[0].joint_loss_ppm == 0
    assert probed_in_advance(dear, most=3) == ("AS1 AS4 AS3", "AS1 AS2", "AS1 AS3")


def test_joint_loss_is_rounded_up_and_ways_are_bounded() -> None:
    assert joint_loss_ppm(1, 1) == 1
    assert joint_loss_ppm(0, 10**6) == 0
    many = [way(f"AS1 AS{number}", number) for number in range(2, 200)]
    pairs = disjoint_pairs(many, value_nanodollars=1)
    assert len(pairs) == MAX_WAYS * (MAX_WAYS - 1) // 2


def test_a_text_that_is_no_way_is_refused() -> None:
    assert ases_of("AS64512:2 AS64514:1") == (64512, 64514)
    with pytest.raises(ValueError, match="not a way"):
        ases_of("AS1 via X")
