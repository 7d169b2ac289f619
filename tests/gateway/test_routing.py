"""Routes and alternatives: what an ISP-OAD says, and what becomes of a user's wish."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from gateway_network import A_V4, B_V4, Gateway, X, Y, Z, grant_for, header_of, paying, plain, plan_x, routes
from hypothesis import given
from hypothesis import strategies as st

from billpay.header import (
    ISP_WRITTEN,
    MAX_ALTERNATIVE,
    Slot,
    alternatives_bitmap,
    alternatives_in,
    is_isp_written,
    user_oad,
)
from gateway.plan import AlternativePlan, RoutePlan
from gateway.routing import MAX_CACHED_DESTINATIONS, Route, Routes

ANYWHERE = ip_address(B_V4).packed
numbers = st.lists(st.integers(1, MAX_ALTERNATIVE), min_size=1, max_size=MAX_ALTERNATIVE, unique=True)
wishes = st.builds(Slot, st.just(X), st.integers(0, 0xFFF), st.integers(0, 15))


def route_with(*alternatives: int) -> Route:
    plans = tuple(AlternativePlan(number=number, link=f"link{number}") for number in alternatives)
    found = Routes((RoutePlan(prefix=ip_network("0.0.0.0/0"), alternatives=plans),)).find(ANYWHERE)
    assert found is not None
    return found


@pytest.mark.row("BP-22")
def test_numbers_mean_what_the_isp_configured() -> None:
    route = route_with(4, 2, 9)
    assert [item.link for item in route.alternatives] == ["link4", "link2", "link9"]
    assert route.choose(user_oad(X, choice=9)).link == "link9"
    assert route.choose(user_oad(X, choice=9)).index == 2, "the routing mark is a place, not the published number"


@pytest.mark.row("BP-23")
@given(numbers, st.none() | wishes)
def test_the_bits_are_the_configured_alternatives_and_the_choice_is_one_of_them(
    configured: list[int], wish: Slot | None
) -> None:
    route = route_with(*configured)
    chosen = route.choose(wish)
    slot = route.isp_oad(X, chosen)
    assert slot.as_number == X
    assert is_isp_written(slot)
    assert alternatives_in(slot.alternatives) == tuple(sorted(configured))
    assert slot.choice in configured
    assert slot.alternatives == ISP_WRITTEN | alternatives_bitmap(configured)


@pytest.mark.row("BP-25")
@given(numbers, st.integers(1, MAX_ALTERNATIVE), st.integers(0, 0x7FF))
def test_a_wanted_alternative_that_exists_is_taken(configured: list[int], wanted: int, undesirable: int) -> None:
    chosen = route_with(*configured).choose(Slot(X, undesirable, wanted)).number
    if wanted in configured:
        assert chosen == wanted
        return
    tolerable = [number for number in configured if not undesirable >> (number - 1) & 1]
    assert chosen == (tolerable or configured)[0]


@pytest.mark.row("BP-25")
def test_without_a_choice_the_first_that_is_not_undesirable_is_taken() -> None:
    route = route_with(1, 2, 3)
    assert route.choose(user_oad(X, undesirable=[1])).number == 2
    assert route.choose(user_oad(X, undesirable=[1, 2])).number == 3
    assert route.choose(user_oad(X, undesirable=[1, 2, 3])).number == 1
    assert route.choose(user_oad(X, undesirable=[1], choice=7)).number == 2


@pytest.mark.row("BP-27")
def test_no_wish_means_the_isps_own_order() -> None:
    route = route_with(3, 1)
    assert route.choose(None).number == 3
    assert route.choose(Slot(X, ISP_WRITTEN | 0b100, 1)).number == 3, "what an ISP wrote is not a wish"


@pytest.mark.row("BP-25")
def test_an_isp_reads_only_its_own_slot() -> None:
    gateway = open_to_a()
    for_others = paying(plain(), 20, user_oad(Y, undesirable=[1], choice=2), user_oad(Z, choice=2))
    (delivered,) = gateway.deliver("toA", for_others)
    assert gateway.egress_of(delivered) == "toY"
    own = paying(plain(), 20, user_oad(Y, choice=1), user_oad(X, choice=2))
    (delivered,) = gateway.deliver("toA", own)
    assert gateway.egress_of(delivered) == "toZ"
    after = header_of(delivered.payload)
    assert after is not None
    assert after.slots == (user_oad(Y, choice=1), Slot(X, ISP_WRITTEN | 0b11, 2))


@pytest.mark.row("BP-26")
def test_an_isp_may_ignore_what_users_ask_for_and_says_so() -> None:
    gateway = open_to_a(honours_preferences=False)
    (delivered,) = gateway.deliver("toA", paying(plain(), 20, user_oad(X, undesirable=[1], choice=2)))
    assert gateway.egress_of(delivered) == "toY"
    after = header_of(delivered.payload)
    assert after is not None
    assert after.slots == (Slot(X, ISP_WRITTEN | 0b11, 1),), "the choice made is what a cartographer learns from"


@pytest.mark.row("BP-27")
def test_a_header_without_slots_takes_the_default() -> None:
    gateway = open_to_a()
    (delivered,) = gateway.deliver("toA", paying(plain(), 20))
    assert gateway.egress_of(delivered) == "toY"
    after = header_of(delivered.payload)
    assert after is not None
    assert after.slots == ()


def open_to_a(*, honours_preferences: bool = True) -> Gateway:
    gateway = Gateway(plan_x(honours_preferences=honours_preferences))
    gateway.agree()
    gateway.open("toA", grant_for(A_V4))
    return gateway


# --- finding ---------------------------------------------------------------------------------------------------------


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    plans = routes(("10.0.0.0/8",), "wide") + routes(("10.0.2.0/24",), "narrow") + routes(("10.0.2.1/32",), "one")
    for given_order in (plans, plans[::-1]):
        table = Routes(given_order)
        assert link_of(table, "10.0.2.1") == "one"
        assert link_of(table, "10.0.2.2") == "narrow"
        assert link_of(table, "10.9.9.9") == "wide"
        assert link_of(table, "11.0.0.1") is None


def test_the_two_families_do_not_mix() -> None:
    table = Routes(routes(("0.0.0.0/0",), "v4"))
    assert link_of(table, "fd00::1") is None
    assert link_of(table, "::ffff:10.0.0.1") is None
    both = Routes(routes(("0.0.0.0/0", "::/0"), "any"))
    assert link_of(both, "fd00::1") == link_of(both, "10.0.0.1") == "any"


def test_the_cache_is_bounded() -> None:
    table = Routes(routes(("10.0.0.0/8",), "any"))
    for number in range(MAX_CACHED_DESTINATIONS + 10):
        table.find(number.to_bytes(4, "big"))
    assert len(table._cache) <= MAX_CACHED_DESTINATIONS
    assert link_of(table, "10.0.0.1") == "any"


@pytest.mark.parametrize("size", [0, 1, 3, 5, 15, 17])
def test_what_is_no_address_has_no_route(size: int) -> None:
    assert Routes(routes(("0.0.0.0/0", "::/0"), "any")).find(bytes(size)) is None


def link_of(table: Routes, address: str) -> str | None:
    route = table.find(ip_address(address).packed)
    return None if route is None else route.alternatives[0].link
