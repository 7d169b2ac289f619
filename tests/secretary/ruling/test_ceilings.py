"""The least ceiling holds, whoever set it; nothing raises what was wanted; each cut says who cut and why."""

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.header import MAX_AMOUNT_NANODOLLARS
from secretary.ruling.ceilings import Allowed, Ceiling, Placed, Setter, Wanted, apply, asked_by_program, place
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Most, Rule
from secretary.transfers import Moment, Transfer

MB = 10**6
ZOOM = Transfer(user="ann", program="zoom", kind="call", network="phone", size_bytes=10 * MB)
WANTED = Wanted(packet_nanodollars=100, transfer_nanodollars=1_000_000)


def allowed(
    *organisation: Ceiling,
    person: tuple[Ceiling, ...] = (),
    transfer: Transfer = ZOOM,
    spent: int = 0,
    wanted: Wanted = WANTED,
) -> Allowed:
    return apply(place(organisation, person), wanted, transfer, lambda placed: spent)


def both(found: Allowed) -> tuple[int, int]:
    return found.packet_nanodollars, found.transfer_nanodollars


def test_without_ceilings_all_is_allowed() -> None:
    assert allowed() == Allowed(packet_nanodollars=100, transfer_nanodollars=1_000_000)
    assert allowed(Ceiling(name="none")).cuts == ()


@pytest.mark.row("MV-07")
@pytest.mark.parametrize(
    ("ceiling", "expected", "line"),
    [
        (
            Ceiling(name="it", packet_nanodollars=5),
            (5, 33_335),
            "100 n$ for a packet cut to 5 n$ by your organisation's ceiling it: 5 n$ a packet",
        ),
        (
            Ceiling(name="it", mb_nanodollars=20_000),
            (30, 200_000),
            "100 n$ for a packet cut to 30 n$ by your organisation's ceiling it: 20000 n$ a MB",
        ),
        (
            Ceiling(name="it", transfer_nanodollars=70),
            (70, 70),
            "100 n$ for a packet cut to 70 n$ by your organisation's ceiling it: 70 n$ a transfer",
        ),
        (
            Ceiling(name="it", day_nanodollars=90),
            (50, 50),
            "100 n$ for a packet cut to 50 n$ by your organisation's ceiling it: 90 n$ a day, 50 n$ are left",
        ),
        (
            Ceiling(name="it", day_nanodollars=30),
            (0, 0),
            "100 n$ for a packet cut to 0 n$ by your organisation's ceiling it: 30 n$ a day, 0 n$ are left",
        ),
    ],
)
def test_each_kind_of_ceiling_cuts_and_says_so(ceiling: Ceiling, expected: tuple[int, int], line: str) -> None:
    found = allowed(ceiling, spent=40)
    assert both(found) == expected
    assert str(found.cuts[0]) == line
    assert str(found.cuts[1]).startswith("1000000 n$ for the transfer cut to")


@pytest.mark.parametrize(
    ("ceiling", "holds"),
    [
        (Ceiling(name="it", program=("zoo*",)), True),
        (Ceiling(name="it", program=("firefox",)), False),
        (Ceiling(name="it", kind=("call", "web")), True),
        (Ceiling(name="it", kind=("backup",)), False),
        (Ceiling(name="it", user=("ann",), network=("phone",)), True),
        (Ceiling(name="it", user=("ann",), network=("office",)), False),
    ],
)
def test_a_ceiling_is_over_what_it_names(ceiling: Ceiling, holds: bool) -> None:
    assert ceiling.holds(ZOOM) is holds
    assert ceiling.holds(Transfer()), "what is not known of a transfer does not take it from under a ceiling"


@pytest.mark.row("MV-06")
def test_three_bid_and_the_least_holds() -> None:
    """The organisation limits, the person decides, the software may ask for less; no order of the three matters."""
    organisation = Ceiling(name="org", packet_nanodollars=50)
    person = Ceiling(name="mine", packet_nanodollars=40)
    assert allowed(organisation, person=(person,)).packet_nanodollars == 40
    program = asked_by_program(Most(packet_nanodollars=30))
    for ceilings in ([*place([organisation], [person]), program], [program, *place([organisation], [person])]):
        found = apply(ceilings, WANTED, ZOOM, lambda placed: 0)
        assert found.packet_nanodollars == 30
        assert str(found.cuts[0]).endswith("by the program's ceiling bid: 30 n$ a packet")
    greedy = asked_by_program(Most(packet_nanodollars=MAX_AMOUNT_NANODOLLARS))
    assert apply([greedy], WANTED, ZOOM, lambda placed: 0) == allowed()


def test_of_two_that_cut_alike_the_organisations_is_named() -> None:
    found = allowed(Ceiling(name="org", packet_nanodollars=5), person=(Ceiling(name="mine", packet_nanodollars=5),))
    assert {cut.placed.setter for cut in found.cuts} == {Setter.ORGANISATION}


def test_only_ceilings_with_a_days_bound_are_asked_what_was_spent() -> None:
    asked: list[Placed] = []

    def spent(placed: Placed) -> int:
        asked.append(placed)
        return 0

    ceilings = place([Ceiling(name="a", packet_nanodollars=5)], [Ceiling(name="b", day_nanodollars=5)])
    apply(ceilings, WANTED, ZOOM, spent)
    assert [placed.ceiling.name for placed in asked] == ["b"]


BOUNDS = st.none() | st.integers(0, 10**6)
CEILINGS = st.builds(
    Ceiling,
    name=st.sampled_from(["a", "b", "c"]),
    program=st.sampled_from([(), ("zoom",), ("git",)]),
    packet_nanodollars=BOUNDS,
    transfer_nanodollars=BOUNDS,
    mb_nanodollars=BOUNDS,
    day_nanodollars=BOUNDS,
)
PLACED = st.builds(Placed, st.sampled_from(Setter), CEILINGS)


@given(
    st.lists(PLACED, max_size=6),
    PLACED,
    st.integers(0, 10**6),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 10**6),
)
@pytest.mark.row("MV-06", "MV-07")
def test_nothing_raises_and_one_more_ceiling_only_lowers(
    ceilings: list[Placed], more: Placed, packet: int, whole: int, size: int, spent: int
) -> None:
    wanted = Wanted(packet_nanodollars=packet, transfer_nanodollars=whole)
    transfer = Transfer(program="zoom", size_bytes=size)
    found = apply(ceilings, wanted, transfer, lambda placed: spent)
    assert 0 <= found.packet_nanodollars <= packet
    assert 0 <= found.transfer_nanodollars <= whole
    assert bool(found.cuts) == (both(found) != (packet, whole))
    assert both(apply(ceilings[::-1], wanted, transfer, lambda placed: spent)) == both(found)
    lower = apply([*ceilings, more], wanted, transfer, lambda placed: spent)
    assert lower.packet_nanodollars <= found.packet_nanodollars
    assert lower.transfer_nanodollars <= found.transfer_nanodollars


@pytest.mark.row("MV-08")
def test_an_organisation_of_little_money_gets_through_when_the_price_is_low(now: Moment) -> None:
    """Its members would pay more; its ceiling lets their transfers through by night, and not at noon."""
    book = Rulebook(own=(Rule(name="all", most=Most(mb_nanodollars=1000)),))
    poor = place([Ceiling(name="budget", mb_nanodollars=100)], [])
    passes = []
    for hour in range(24):
        price = 400 if 7 <= hour < 23 else 40  # n$ for a MB
        transfer = Transfer(program="git", size_bytes=MB, price_nanodollars=price)
        opinion, _, _ = book.opinion(transfer, now)
        wanted = Wanted(packet_nanodollars=0, transfer_nanodollars=opinion.limit_nanodollars)
        limit = apply(poor, wanted, transfer, lambda placed: 0).transfer_nanodollars
        assert opinion.limit_nanodollars == 1000
        if price <= limit:
            passes.append(hour)
    assert passes == [0, 1, 2, 3, 4, 5, 6, 23]


@pytest.fixture
def now() -> Moment:
    return Moment(unix_s=1_795_000_000, boot_ns=0, boot="b", zone=UTC)
