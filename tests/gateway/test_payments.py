"""Grants at the first gateway: what is paid, what is refused and why, and what is remembered."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from gateway_network import (
    A_V4,
    A_V6,
    B_V4,
    B_V6,
    OTHER_KEY,
    UNIX_S,
    Gateway,
    X,
    Y,
    grant_for,
    header_of,
    parsed,
    paying,
    plain,
    plan_x,
    segment,
    to_host,
)
from hypothesis import given
from hypothesis import strategies as st

from billpay import header as h
from billpay.header import Slot, update, user_oad
from billpay.messages import GrantKind, GrantState, GrantUsage
from billpay.packet import flow_key
from gateway.commands import AskGrant, CloseGrant, ForgetGrant, GrantAnswer, OpenGrant, Refused, SetLink, Tick
from gateway.payments import GRANT_COUNTERS, MAX_GRANTS_PER_FLOW, Unpaid

GRANT = "00" * 15 + "01"
SECOND = "00" * 15 + "02"


def gateway_with(*grants: Any) -> Gateway:
    gateway = Gateway(plan_x())
    gateway.agree()
    for grant in grants:
        gateway.open("toA", grant)
    return gateway


def usage(gateway: Gateway, grant: str = GRANT, link: str = "toA") -> GrantUsage:
    answer = gateway.ask(AskGrant(link=link, grant=grant))
    assert isinstance(answer, GrantAnswer), answer
    return answer.usage


def refused(gateway: Gateway, command: Any) -> str:
    answer = gateway.ask(command)
    assert isinstance(answer, Refused), answer
    return answer.code


def assert_paid(gateway: Gateway, packet: bytes, amount: int, *, link: str = "toA") -> None:
    before = gateway.link_count(link, "received_nanodollars")
    (delivered,) = gateway.deliver(link, packet)
    assert gateway.link_count(link, "received_nanodollars") == before + amount
    after = header_of(delivered.payload)
    assert after is not None
    assert after.mac == h.last_gateway_field(X)


def assert_unpaid(gateway: Gateway, packet: bytes, reason: Unpaid, *, link: str = "toA") -> None:
    """It goes on in full, is counted and told, earns nothing, and the next hop will not be paid either."""
    before = gateway.sums()
    counted = gateway.count(reason.value)
    gateway.plane.events.clear()
    gateway.plane.advance(2_000_000_000)
    (delivered,) = gateway.deliver(link, packet)
    assert gateway.count(reason.value) == counted + 1
    assert gateway.sums() == before
    (event,) = map(msgspec.json.decode, gateway.plane.events)
    assert event == {"type": "Alarm", "kind": reason.value, "link": link, "count": 1}
    after = header_of(delivered.payload)
    assert after is not None
    assert after.mac == bytes(6)
    parsed(delivered.payload)


# --- paid ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("addresses", [(A_V4, B_V4), (A_V6, B_V6)])
@pytest.mark.parametrize("build", [plain, segment])
def test_a_grant_and_its_mac_pay(addresses: tuple[str, str], build: Any) -> None:
    packet = build(*addresses)
    gateway = gateway_with(grant_for(packet))
    assert_paid(gateway, paying(packet, 20, Slot(0, 0, 0)), 20)
    assert_paid(gateway, paying(packet, 20, Slot(0, 0, 0)), 20)
    assert usage(gateway) == GrantUsage(
        grant=GRANT, serial=1, state=GrantState.OPEN, spent_nanodollars=40, packets=2, refused_packets=0
    )


def test_a_grant_for_an_address_pays_for_all_its_flows() -> None:
    gateway = gateway_with(grant_for(A_V4))
    assert_paid(gateway, paying(plain(sport=1), 20), 20)
    assert_paid(gateway, paying(segment(sport=2), 7), 7)
    assert_unpaid(gateway, paying(plain("10.0.1.2"), 20), Unpaid.NO_GRANT)


@pytest.mark.parametrize("minutes", [-1, 0, 1])
def test_neighbouring_epochs_are_accepted(minutes: int) -> None:
    gateway = gateway_with(grant_for(A_V4))
    assert_paid(gateway, paying(plain(), 20, unix_s=UNIX_S + 60 * minutes), 20)


def test_a_flow_may_have_a_grant_to_spend_and_one_to_return() -> None:
    """One 5-tuple: the host pays for its own data with one key and gives back what it received with the other."""
    packet = plain()
    returning = grant_for(packet, grant=SECOND, kind=GrantKind.RETURN, key=OTHER_KEY.hex())
    gateway = gateway_with(grant_for(packet), returning)
    for _ in range(2):
        assert_paid(gateway, paying(packet, 20), 20)
        assert_paid(gateway, paying(packet, 8, key=OTHER_KEY), 8)
    assert usage(gateway).spent_nanodollars == 40
    assert usage(gateway, SECOND).spent_nanodollars == 16
    gateway.ask(CloseGrant(link="toA", grant=SECOND))
    assert_paid(gateway, paying(packet, 20), 20)
    assert_unpaid(gateway, paying(packet, 8, key=OTHER_KEY), Unpaid.BAD_MAC)


def test_a_flow_that_its_own_grant_does_not_pay_may_be_paid_by_the_addresss() -> None:
    packet = plain()
    gateway = gateway_with(grant_for(packet), grant_for(A_V4, grant=SECOND, key=OTHER_KEY.hex()))
    assert_paid(gateway, paying(packet, 20, key=OTHER_KEY), 20)
    assert usage(gateway, SECOND).packets == 1


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-44")
def test_without_a_grant_nothing_is_paid() -> None:
    assert_unpaid(gateway_with(), paying(plain(), 20), Unpaid.NO_GRANT)


@pytest.mark.row("BP-44")
def test_a_wrong_key_pays_nothing() -> None:
    gateway = gateway_with(grant_for(A_V4))
    assert_unpaid(gateway, paying(plain(), 20, key=OTHER_KEY), Unpaid.BAD_MAC)
    assert usage(gateway).refused_packets == 1


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("amount", [0, 1, 19, 21, 16_000])
def test_an_altered_amount_is_never_paid(amount: int) -> None:
    packet = paying(plain(), 20)
    located = h.locate(packet)
    assert isinstance(located, h.Located)
    gateway = gateway_with(grant_for(A_V4))
    gateway.deliver("toA", packet)
    assert_unpaid(gateway, update(packet, located, amount=amount, path_length=0), Unpaid.BAD_MAC)


@pytest.mark.row("BP-44")
def test_an_altered_destination_is_never_paid() -> None:
    sent = plain()
    gateway = gateway_with(grant_for(A_V4))
    gateway.deliver("toA", paying(sent, 20))
    assert_unpaid(gateway, paying(plain(destination="10.0.2.66"), 20, flow=flow_key(sent)), Unpaid.BAD_MAC)
    assert_unpaid(gateway, paying(plain(dport=53), 20, flow=flow_key(sent)), Unpaid.BAD_MAC)


@pytest.mark.row("BP-44")
def test_an_altered_wish_is_never_paid() -> None:
    packet = paying(plain(), 20, user_oad(X, choice=1))
    located = h.locate(packet)
    assert isinstance(located, h.Located)
    other = update(packet, located, amount=20, path_length=0, slot_index=0, slot=user_oad(X, choice=2))
    assert_unpaid(gateway_with(grant_for(A_V4)), other, Unpaid.BAD_MAC)


@pytest.mark.row("BP-44")
def test_a_replay_in_a_later_epoch_is_not_paid() -> None:
    gateway = gateway_with(grant_for(A_V4))
    packet = paying(plain(), 20)
    assert_paid(gateway, packet, 20)
    gateway.plane.unix_s += 60
    gateway.ask(Tick())
    assert_paid(gateway, packet, 20)
    gateway.plane.unix_s += 60
    gateway.ask(Tick())
    assert_unpaid(gateway, packet, Unpaid.BAD_MAC)


@pytest.mark.row("BP-44")
def test_a_replay_within_an_epoch_is_bounded_by_the_cap_and_shown_by_the_counters() -> None:
    gateway = gateway_with(grant_for(A_V4, cap=100))
    packet = paying(plain(), 20)
    for _ in range(5):
        assert_paid(gateway, packet, 20)
    for _ in range(3):
        assert_unpaid(gateway, packet, Unpaid.OVER_CAP)
    assert usage(gateway) == GrantUsage(
        grant=GRANT, serial=1, state=GrantState.EXHAUSTED, spent_nanodollars=100, packets=5, refused_packets=3
    )


def test_over_the_rate_is_unpaid_until_the_bucket_has_filled() -> None:
    gateway = gateway_with(grant_for(A_V4, rate=10, burst=45))
    packet = paying(plain(), 20)
    assert_paid(gateway, packet, 20)
    assert_paid(gateway, packet, 20)
    gateway.deliver("toA", packet)
    assert gateway.count(Unpaid.OVER_CAP.value) == 1
    gateway.plane.advance(1_499_999_999)
    gateway.deliver("toA", packet)
    assert gateway.count(Unpaid.OVER_CAP.value) == 2
    gateway.plane.advance(1)
    assert_paid(gateway, packet, 20)


def test_before_and_after_its_time_a_grant_pays_nothing() -> None:
    early = gateway_with(grant_for(A_V4, not_before_unix_s=UNIX_S + 10))
    assert_unpaid(early, paying(plain(), 20), Unpaid.GRANT_NOT_VALID)
    early.plane.unix_s += 10
    early.ask(Tick())
    assert_paid(early, paying(plain(), 20), 20)
    late = gateway_with(grant_for(A_V4))
    late.plane.unix_s = UNIX_S + 600
    late.ask(Tick())
    assert_unpaid(late, paying(plain(), 20, unix_s=UNIX_S + 600), Unpaid.GRANT_NOT_VALID)
    assert usage(late).state is GrantState.EXPIRED
    late.plane.unix_s += 10_000
    late.ask(Tick())
    assert usage(late).state is GrantState.EXPIRED  # until its receipt is written


@pytest.mark.row("BP-44")
@pytest.mark.row("BP-36")
def test_a_host_in_default_pays_nothing_until_it_has_settled() -> None:
    gateway = gateway_with(grant_for(A_V4))
    gateway.ask(SetLink(link="toA", agreed=True, in_default=True))
    assert_unpaid(gateway, paying(plain(), 20), Unpaid.IN_DEFAULT)
    assert usage(gateway).spent_nanodollars == 0
    gateway.ask(SetLink(link="toA", agreed=True, in_default=False))
    assert_paid(gateway, paying(plain(), 20), 20)


@pytest.mark.row("BP-44")
def test_another_hosts_grant_pays_nothing_on_my_link() -> None:
    """A second host at the same gateway knows the key or replays the packet: the grant is bound to its link."""
    plan = plan_x()
    neighbour = to_host("toC", 9)
    gateway = Gateway(dataclasses.replace(plan, links=(*plan.links, neighbour)))
    gateway.agree()
    gateway.open("toA", grant_for(A_V4))
    packet = paying(plain(), 20)
    assert_unpaid(gateway, packet, Unpaid.NO_GRANT, link="toC")
    assert_unpaid(gateway, packet, Unpaid.NOT_BY_NEIGHBOUR, link="toY")
    assert usage(gateway).spent_nanodollars == 0


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("name", [X, Y, 0])
def test_a_host_cannot_pass_as_a_gateway(name: int) -> None:
    """The MAC field of a gateway, its AS number and zeros, is no MAC."""
    packet = plain()
    forged = h.insert(packet, h.encode(h.Header(20, 1, (), h.last_gateway_field(name))), mtu=1500)
    assert isinstance(forged, bytes)
    assert_unpaid(gateway_with(grant_for(A_V4)), forged, Unpaid.BAD_MAC)


@given(st.binary(min_size=6, max_size=6))
def test_no_guess_pays(guess: bytes) -> None:
    packet = paying(plain(), 20)
    located = h.locate(packet)
    assert isinstance(located, h.Located)
    guessed = update(packet, located, amount=20, path_length=0, mac_field=guess)
    gateway = gateway_with(grant_for(A_V4))
    gateway.deliver("toA", guessed)
    assert gateway.link_count("toA", "received_nanodollars") == (20 if guessed == packet else 0)


# --- opening and closing ---------------------------------------------------------------------------------------------


def test_a_newer_serial_replaces_and_keeps_what_was_spent() -> None:
    gateway = gateway_with(grant_for(A_V4, cap=20))
    assert_paid(gateway, paying(plain(), 20), 20)
    assert_unpaid(gateway, paying(plain(), 20), Unpaid.OVER_CAP)
    gateway.open("toA", grant_for(A_V4, cap=40, serial=2))
    assert_paid(gateway, paying(plain(), 20), 20)
    assert_unpaid(gateway, paying(plain(), 20), Unpaid.OVER_CAP)
    assert usage(gateway).serial == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cap": 7}, "old-serial"),
        ({"serial": 2, "kind": GrantKind.RETURN}, "other-kind"),
        ({"serial": 2, "key": OTHER_KEY.hex()}, "other-key"),
    ],
)
def test_what_does_not_replace_a_grant(change: dict[str, Any], code: str) -> None:
    gateway = gateway_with(grant_for(A_V4))
    assert refused(gateway, OpenGrant(link="toA", grant=grant_for(A_V4, **change))) == code
    other_flow = OpenGrant(link="toA", grant=grant_for(plain(), serial=2))
    assert refused(gateway, other_flow) == "other-flow"
    assert_paid(gateway, paying(plain(), 20), 20)


def test_the_same_document_twice_is_no_fault() -> None:
    gateway = gateway_with(grant_for(A_V4), grant_for(A_V4))
    assert_paid(gateway, paying(plain(), 20), 20)


def test_a_grant_belongs_to_the_link_that_opened_it() -> None:
    gateway = gateway_with(grant_for(A_V4))
    assert refused(gateway, OpenGrant(link="toY", grant=grant_for(A_V4, serial=2))) == "foreign-grant"
    assert refused(gateway, AskGrant(link="toY", grant=GRANT)) == "unknown-grant"
    assert refused(gateway, CloseGrant(link="toY", grant=GRANT)) == "unknown-grant"
    assert_paid(gateway, paying(plain(), 20), 20)


def test_closing_tells_what_was_spent_and_ends_it() -> None:
    gateway = gateway_with(grant_for(A_V4))
    assert_paid(gateway, paying(plain(), 20), 20)
    answer = gateway.ask(CloseGrant(link="toA", grant=GRANT))
    assert isinstance(answer, GrantAnswer)
    assert (answer.usage.state, answer.usage.spent_nanodollars) == (GrantState.CLOSED, 20)
    assert_unpaid(gateway, paying(plain(), 20), Unpaid.NO_GRANT)
    assert gateway.ask(CloseGrant(link="toA", grant=GRANT)) == answer


@pytest.mark.row("BP-44")
def test_a_closed_grant_is_never_opened_again() -> None:
    """A hijacked host has the signed document: after the receipt it is worth nothing, however it is presented."""
    gateway = gateway_with(grant_for(A_V4, cap=30))
    assert_paid(gateway, paying(plain(), 20), 20)
    gateway.ask(CloseGrant(link="toA", grant=GRANT))
    for again in (grant_for(A_V4, cap=30), grant_for(A_V4, cap=90, serial=2)):
        assert refused(gateway, OpenGrant(link="toA", grant=again)) == "grant-closed"
    assert usage(gateway) == GrantUsage(
        grant=GRANT, serial=1, state=GrantState.CLOSED, spent_nanodollars=20, packets=1, refused_packets=0
    )
    assert_unpaid(gateway, paying(plain(), 10), Unpaid.NO_GRANT)


@pytest.mark.row("BP-44")
def test_one_that_was_about_to_be_closed_pays_nothing_in_the_next_core() -> None:
    gateway = gateway_with(grant_for(A_V4, cap=30))
    assert_paid(gateway, paying(plain(), 20), 20)
    after = Gateway(plan_x(), counters=gateway.counters)
    after.agree()
    after.ask(OpenGrant(link="toA", grant=grant_for(A_V4, cap=30), closed=True))
    assert_unpaid(after, paying(plain(), 10), Unpaid.NO_GRANT)
    assert usage(after).spent_nanodollars == 20
    assert refused(after, OpenGrant(link="toA", grant=grant_for(A_V4, cap=30))) == "grant-closed"


def test_an_open_grant_is_not_forgotten() -> None:
    gateway = gateway_with(grant_for(A_V4, cap=30))
    assert_paid(gateway, paying(plain(), 20), 20)
    gateway.ask(ForgetGrant(link="toA", grant=GRANT))
    assert_unpaid(gateway, paying(plain(), 20), Unpaid.OVER_CAP)


def test_a_forgotten_grant_gives_its_counters_back() -> None:
    gateway = gateway_with(grant_for(A_V4))
    names = [f"grant/{GRANT}/{name}" for name in GRANT_COUNTERS]
    assert set(names) <= set(gateway.counters.snapshot())
    gateway.ask(CloseGrant(link="toA", grant=GRANT))
    gateway.ask(ForgetGrant(link="toY", grant=GRANT))
    assert set(names) <= set(gateway.counters.snapshot())
    gateway.ask(ForgetGrant(link="toA", grant=GRANT))
    assert not set(names) & set(gateway.counters.snapshot())


def test_one_flow_has_no_more_than_a_few_grants() -> None:
    grants = [grant_for(A_V4, grant=f"{number:032x}") for number in range(MAX_GRANTS_PER_FLOW + 1)]
    gateway = gateway_with(*grants[:-1])
    assert refused(gateway, OpenGrant(link="toA", grant=grants[-1])) == "too-many-grants"
    gateway.ask(CloseGrant(link="toA", grant=grants[0].grant))
    gateway.open("toA", grants[-1])


def test_a_place_is_free_when_the_grant_is_closed_and_has_its_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.payments.MAX_GRANTS", 3)
    grants = [grant_for(plain(sport=number), grant=f"{number:032x}") for number in range(5)]
    gateway = gateway_with(*grants[:3])
    assert refused(gateway, OpenGrant(link="toA", grant=grants[3])) == "too-many-grants"
    gateway.ask(CloseGrant(link="toA", grant=grants[1].grant))
    assert refused(gateway, OpenGrant(link="toA", grant=grants[3])) == "too-many-grants"
    gateway.ask(ForgetGrant(link="toA", grant=grants[1].grant))
    gateway.open("toA", grants[3])
    assert refused(gateway, OpenGrant(link="toA", grant=grants[4])) == "too-many-grants"
    assert_paid(gateway, paying(plain(sport=3), 20), 20)


def test_what_was_spent_survives_a_new_core() -> None:
    gateway = gateway_with(grant_for(A_V4, cap=30))
    assert_paid(gateway, paying(plain(), 20), 20)
    after = Gateway(plan_x(), counters=gateway.counters)
    after.agree()
    after.open("toA", grant_for(A_V4, cap=30))
    assert usage(after).spent_nanodollars == 20
    assert_unpaid(after, paying(plain(), 20), Unpaid.OVER_CAP)
