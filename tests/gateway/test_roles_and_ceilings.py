"""What a host may do whatever its secretary signs: mirrors, hosts that never pay, organisations' ceilings."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import msgspec
import pytest
from gateway_network import (
    A_V4,
    B_V4,
    OTHER_KEY,
    Gateway,
    X,
    Y,
    fixed,
    grant_for,
    header_of,
    named,
    paying,
    plain,
    plan_x,
    to_host,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from billpay import header as h
from billpay.messages import GrantKind
from dataplane.counters import CounterFile
from gateway.commands import OpenGrant, Refused, Tick
from gateway.payments import Unpaid
from gateway.plan import Ceiling, GatewayPlan, HostRole

SECOND = "00" * 15 + "02"
TO_A = plain(B_V4, A_V4)


def plan_with(**host: Any) -> GatewayPlan:
    plan = plan_x()
    return dataclasses.replace(plan, links=(to_host("toA", 1, toll=fixed(1), **host), *plan.links[1:]))


def gateway_with(*grants: Any, counters: CounterFile | None = None, **host: Any) -> Gateway:
    gateway = Gateway(plan_with(**host), counters=counters)
    gateway.agree()
    for grant in grants:
        gateway.open("toA", grant)
    return gateway


def emitted(gateway: Gateway) -> int:
    return gateway.link_count("toA", "received_nanodollars")


def alarms(gateway: Gateway) -> Counter[str]:
    """How many packets the log is told of, by kind."""
    gateway.plane.advance(2_000_000_000)
    gateway.ask(Tick())
    events = [msgspec.json.decode(event) for event in gateway.plane.events]
    gateway.plane.events.clear()
    told: Counter[str] = Counter()
    for event in events:
        told[event["kind"]] += event["count"]
    return told


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-41")
def test_a_mirror_emits_no_more_than_it_took_in_whatever_its_secretary_signed() -> None:
    """A hijacked server has a grant without end: its gateway takes what was delivered to it, and nothing more."""
    gateway = gateway_with(grant_for(A_V4, cap=10**9), role=HostRole.MIRROR)
    (refused,) = gateway.deliver("toA", paying(plain(), 1))
    assert emitted(gateway) == 0
    after = header_of(refused.payload)
    assert after is not None
    assert after.mac == bytes(6)  # the next gateway refuses it, too
    gateway.deliver("toY", named(TO_A, 21, by=Y))  # 1 is the toll
    assert gateway.link_count("toA", "sent_nanodollars") == 20
    for amount in (15, 6, 5, 1):
        gateway.deliver("toA", paying(plain(), amount))
    assert emitted(gateway) == 20
    assert gateway.count(Unpaid.OVER_MIRROR.value) == 3
    assert gateway.link_count("toA", "role_refused_packets") == 3
    assert gateway.link_count("toA", "role_refused_nanodollars") == 1 + 6 + 1
    assert gateway.count(f"grant/{grant_for(A_V4).grant}/spent_nanodollars") == 20
    assert alarms(gateway)[Unpaid.OVER_MIRROR.value] == 3
    gateway.assert_conserved()


@pytest.mark.row("BP-41")
def test_what_waits_for_the_mirror_was_not_taken_in_yet() -> None:
    gateway = gateway_with(grant_for(A_V4), role=HostRole.MIRROR, rate_bit_s=8_000, limit_bytes=10_000)
    gateway.deliver("toY", named(TO_A, 21, by=Y), named(TO_A, 21, by=Y))
    assert gateway.count("waiting_nanodollars") == 20
    gateway.deliver("toA", paying(plain(), 21))
    assert emitted(gateway) == 0
    gateway.deliver("toA", paying(plain(), 20))
    assert emitted(gateway) == 20


@pytest.mark.row("BP-41")
def test_a_mirror_is_held_to_it_by_the_next_core_as_well() -> None:
    gateway = gateway_with(grant_for(A_V4), role=HostRole.MIRROR)
    gateway.deliver("toY", named(TO_A, 21, by=Y))
    gateway.deliver("toA", paying(plain(), 15))
    after = gateway_with(grant_for(A_V4), role=HostRole.MIRROR, counters=gateway.counters)
    after.deliver("toA", paying(plain(), 6))
    assert emitted(after) == 15
    after.deliver("toA", paying(plain(), 5))
    assert emitted(after) == 20


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.booleans()), max_size=30))
def test_no_order_of_packets_and_restarts_makes_a_mirror_pay(steps: list[tuple[bool, int, bool]]) -> None:
    grants = (grant_for(A_V4), grant_for(A_V4, grant=SECOND, kind=GrantKind.RETURN, key=OTHER_KEY.hex()))
    gateway = gateway_with(*grants, role=HostRole.MIRROR)
    for to_mirror, amount, restarts in steps:
        if to_mirror:
            gateway.deliver("toY", named(TO_A, amount, by=Y))
        else:
            gateway.deliver("toA", paying(plain(), amount, key=OTHER_KEY))
        if restarts:
            gateway = gateway_with(*grants, role=HostRole.MIRROR, counters=gateway.counters)
        assert emitted(gateway) <= gateway.link_count("toA", "sent_nanodollars")
        gateway.assert_conserved()


@pytest.mark.row("BP-41")
def test_a_forged_packet_of_a_mirror_is_called_forged() -> None:
    gateway = gateway_with(grant_for(A_V4), role=HostRole.MIRROR)
    gateway.deliver("toA", paying(plain(), 5, key=OTHER_KEY))
    assert (gateway.count(Unpaid.BAD_MAC.value), gateway.count(Unpaid.OVER_MIRROR.value)) == (1, 0)


@pytest.mark.row("BP-41")
def test_a_host_that_never_pays_has_no_grant_and_pays_nothing() -> None:
    gateway = gateway_with(role=HostRole.NEVER)
    answer = gateway.ask(OpenGrant(link="toA", grant=grant_for(A_V4)))
    assert isinstance(answer, Refused)
    assert answer.code == "never-pays"
    gateway.deliver("toY", named(TO_A, 21, by=Y))  # what comes in is its own
    (sent,) = gateway.deliver("toA", paying(plain(), 7))
    after = header_of(sent.payload)
    assert after is not None
    assert after.mac == bytes(6)
    assert emitted(gateway) == 0
    assert gateway.link_count("toA", "role_refused_packets") == 1
    assert gateway.link_count("toA", "role_refused_nanodollars") == 7
    assert gateway.link_count("toA", "sent_nanodollars") == 20


# --- ceilings ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("MV-07")
def test_a_packet_above_the_ceiling_is_rewritten_counted_and_logged() -> None:
    gateway = gateway_with(grant_for(A_V4), ceiling=Ceiling(packet_nanodollars=10))
    amounts = []
    for offered in (9, 10, 11, 500):
        (delivered,) = gateway.deliver("toA", paying(plain(), offered))
        after = header_of(delivered.payload)
        assert after is not None
        assert after.mac == h.last_gateway_field(X)
        amounts.append(after.amount)
    assert amounts == [8, 9, 9, 9]  # less the toll
    assert emitted(gateway) == 9 + 10 + 10 + 10
    assert gateway.count(f"grant/{grant_for(A_V4).grant}/spent_nanodollars") == 39
    assert gateway.link_count("toA", "cut_packets") == 2
    assert gateway.link_count("toA", "cut_nanodollars") == 1 + 490
    assert alarms(gateway)["over_ceiling"] == 2
    gateway.assert_conserved()


@pytest.mark.row("MV-07")
def test_what_is_refused_is_not_cut() -> None:
    gateway = gateway_with(grant_for(A_V4), ceiling=Ceiling(packet_nanodollars=10))
    gateway.deliver("toA", paying(plain(), 500, key=OTHER_KEY))
    assert (gateway.link_count("toA", "cut_nanodollars"), gateway.count(Unpaid.BAD_MAC.value)) == (0, 1)


@pytest.mark.row("MV-07")
def test_a_grant_above_the_ceiling_is_open_up_to_it() -> None:
    ceiling = Ceiling(grant_nanodollars=50, grant_nanodollars_per_s=20)
    gateway = gateway_with(grant_for(A_V4, cap=1000, rate=1000, burst=1000), ceiling=ceiling)
    assert alarms(gateway)["over_ceiling_grant"] == 1
    for _ in range(3):
        gateway.deliver("toA", paying(plain(), 20))
    assert emitted(gateway) == 20  # a burst is a second of the rate
    for _ in range(9):
        gateway.plane.advance(1_000_000_000)
        gateway.deliver("toA", paying(plain(), 10))
    assert emitted(gateway) == 50
    gateway.open("toA", grant_for(A_V4, cap=2000, rate=1000, burst=1000, serial=2))  # more of the same
    gateway.open("toA", grant_for(A_V4, cap=2000, rate=1000, burst=1000, serial=2))
    gateway.plane.advance(1_000_000_000)
    gateway.deliver("toA", paying(plain(), 10))
    assert emitted(gateway) == 50


@pytest.mark.row("MV-06")
@pytest.mark.row("MV-05")
@settings(max_examples=60)
@given(organisation=st.none() | st.integers(0, 60), user=st.integers(0, 60), software=st.integers(0, 60))
def test_the_organisations_ceiling_stands_over_the_users_bid_and_that_over_the_programs(
    organisation: int | None, user: int, software: int
) -> None:
    """The program puts a bid in its packet; the organisation cuts it; the user's grant takes it, or does not."""
    gateway = gateway_with(grant_for(A_V4, cap=user), ceiling=Ceiling(packet_nanodollars=organisation))
    gateway.deliver("toA", paying(plain(), software))
    bid = software if organisation is None else min(software, organisation)
    assert emitted(gateway) == (bid if bid <= user else 0)
    assert gateway.total("retained_nanodollars") <= emitted(gateway)  # no price is above the bid


@pytest.mark.row("BP-41", "MV-07")
def test_a_mirror_under_a_ceiling_emits_what_is_left_of_the_packet() -> None:
    gateway = gateway_with(grant_for(A_V4), role=HostRole.MIRROR, ceiling=Ceiling(packet_nanodollars=10))
    gateway.deliver("toY", named(TO_A, 11, by=Y))
    gateway.deliver("toA", paying(plain(), 30))
    assert emitted(gateway) == 10
