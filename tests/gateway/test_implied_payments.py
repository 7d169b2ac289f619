"""Implied payments: where no header survives, the grant says what a packet pays, and both ends count the same."""

from __future__ import annotations

import random

import pytest
from clerk import Clerk, flow
from gateway_network import A_V4, A_V6, B_V4, B_V6, UNIX_S, Gateway, fixed, grant_for, plain, plan_x, to_host
from one_host import Host, plan_host

from gateway.commands import CloseGrant, GrantAnswer, SetLink
from gateway.plan import Ceiling, HostRole
from secretary.messages import AskGrant, Granted

BOTH = pytest.mark.parametrize("addresses", [(A_V4, B_V4), (A_V6, B_V6)], ids=["ipv4", "ipv6"])
SPENT = f"grant/{'00' * 15}01/spent_nanodollars"


@BOTH
def test_a_packet_without_a_header_pays_what_its_grant_says(addresses: tuple[str, str]) -> None:
    gateway, packet = Gateway(plan_x()), plain(*addresses)
    gateway.agree()
    gateway.open("toA", grant_for(packet, cap=250, implied_nanodollars=20))
    assert [each.payload for each in gateway.deliver("toA", packet, packet)] == [packet, packet]
    assert (gateway.link_count("toA", "received_nanodollars"), gateway.count(SPENT)) == (40, 40)
    assert gateway.link_count("toY", "retained_nanodollars") == 2, "the toll"
    assert gateway.link_count("toY", "kept_nanodollars") == 38, "no header could take the rest further"
    assert gateway.link_count("toY", "sent_nanodollars") == 0
    gateway.deliver("toA", *[packet] * 20)
    assert gateway.count(SPENT) == 240, "no more than the cap"
    assert gateway.count("unpaid_over_cap") == 10
    gateway.assert_conserved()


def test_others_pay_nothing() -> None:
    gateway, packet = Gateway(plan_x()), plain()
    gateway.deliver("toA", packet, plain(sport=1))  # remembered as ways that pay nothing
    gateway.open("toA", grant_for(packet, implied_nanodollars=20))
    gateway.deliver("toA", plain(sport=1), plain(A_V6, B_V6))
    assert gateway.link_count("toA", "received_nanodollars") == 0
    gateway.deliver("toA", packet)
    assert gateway.link_count("toA", "received_nanodollars") == 20
    answer = gateway.ask(CloseGrant(link="toA", grant="00" * 15 + "01"))
    assert isinstance(answer, GrantAnswer)
    gateway.deliver("toA", packet)
    assert gateway.link_count("toA", "received_nanodollars") == 20


@pytest.mark.parametrize(
    ("link", "counter"),
    [({"role": HostRole.NEVER}, "unpaid_never_pays"), ({"role": HostRole.MIRROR}, "unpaid_over_mirror"), ({}, "")],
)
def test_what_its_host_may_not_is_not_taken(link: dict[str, HostRole], counter: str) -> None:
    plan = plan_x()
    links = (to_host("toA", 1, toll=fixed(1), **link), *plan.links[1:])
    gateway, packet = Gateway(type(plan)(as_number=plan.as_number, links=links, routes=plan.routes)), plain()
    if link.get("role") is not HostRole.NEVER:
        gateway.open("toA", grant_for(packet, implied_nanodollars=20))
        if not link:
            gateway.ask(SetLink(link="toA", agreed=False, in_default=True))
        gateway.deliver("toA", packet)
        assert gateway.count(counter or "unpaid_in_default") == 1
    assert gateway.link_count("toA", "received_nanodollars") == 0


def test_the_organisations_ceiling_holds() -> None:
    plan = plan_x()
    links = (to_host("toA", 1, ceiling=Ceiling(packet_nanodollars=5)), *plan.links[1:])
    gateway, packet = Gateway(type(plan)(as_number=plan.as_number, links=links, routes=plan.routes)), plain()
    gateway.open("toA", grant_for(packet, implied_nanodollars=20))
    gateway.deliver("toA", packet)
    assert gateway.link_count("toA", "received_nanodollars") == 5


def test_host_and_gateway_count_the_same() -> None:
    chance, packet = random.Random(6), plain()
    host, gateway = Host(plan_host(header=False, implied=True)), Gateway(plan_x())
    terms = {"cap": 900, "rate": 1000, "burst": 100, "implied_nanodollars": 7}
    gateway.open("toA", grant_for(packet, **terms))
    host.pay(packet, 7, **terms)
    for _ in range(300):
        (left,) = host.leave(packet)
        assert left == packet
        gateway.deliver("toA", left)
        wait_ns = chance.randrange(20_000_000)
        host.plane.now_ns += wait_ns
        gateway.plane.now_ns += wait_ns
    assert host.sent() == gateway.link_count("toA", "received_nanodollars") == 896


def test_the_secretary_says_it_where_it_is_asked_to() -> None:
    clerk = Clerk()
    with_header = clerk.ask(flow())
    assert with_header.implies_nanodollars == 0
    answer = clerk.secretary.ask_grant(AskGrant(flow=flow(40_001), implied=True), clerk.now)
    assert isinstance(answer, Granted)
    assert answer.amount_nanodollars > 0
    said = clerk.open_grants[-1]
    assert said.implies_nanodollars == answer.amount_nanodollars
    assert said.not_before_unix_s > UNIX_S - 10**9
