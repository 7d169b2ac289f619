"""Probes of a timely flow's ways: paid by its rule, no more than that gives for them, and seen on the statement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clerk import GATEWAY, KEEPER, OTHER_GATEWAY, Clerk, denied, flow, granted

from billpay.messages import ECHO_PORT, FlowSelector
from secretary.issuing import Opened
from secretary.messages import AskGrant, AskStatement, Granted, StatementView, Unpaid
from secretary.ruling.rules import Rule
from secretary.transfers import Transfer

CALL = Rule(
    name="call",
    programs=("jami",),
    strategy="timely",
    willingness_nanodollars=40,
    probes_nanodollars=200,
    grant_nanodollars=500,
    rate_nanodollars_per_s=500,
    burst_nanodollars=500,
    lifetime_s=600,
)
JAMI = Transfer(user="ann", program="jami", destination="10.0.2.1")
SPOKEN = flow(5004, protocol=17, destination_port=5004)
PROBES = flow(50_000, protocol=17, destination_port=ECHO_PORT)
DAY = "2024-10-04"


def ask_probes(
    clerk: Clerk, of: str, selector: FlowSelector = PROBES, gateway: str = GATEWAY.fingerprint
) -> Granted | Unpaid:
    clerk.tick()
    return clerk.secretary.ask_grant(AskGrant(flow=selector, gateway=gateway, probes_of=of), clerk.now)


@pytest.mark.row("BP-47")
def test_a_timely_rule_says_what_its_probes_may_cost() -> None:
    clerk = Clerk(CALL)
    call = clerk.try_ask(SPOKEN, JAMI)
    assert isinstance(call, Granted)
    assert (call.strategy, call.willingness_nanodollars, call.probes_nanodollars) == ("timely", 40, 200)
    probes = ask_probes(clerk, granted(call).grant)
    assert isinstance(probes, Granted)
    assert (probes.rule, probes.strategy, probes.amount_nanodollars, probes.why) == (
        "call",
        "fixed",
        40,
        "probes for call",
    )
    assert granted(probes).cap_nanodollars == 200
    assert ask_probes(clerk, granted(call).grant) == probes


@pytest.mark.row("BP-47", "BP-48")
def test_probes_get_no_more_than_their_rule_gives_and_have_a_line_of_their_own() -> None:
    clerk = Clerk(CALL)
    call = granted(clerk.try_ask(SPOKEN, JAMI))
    probes = granted(ask_probes(clerk, call.grant))
    assert denied(clerk.try_extend(probes.grant, 180)) == "limit"
    clerk.close(probes.grant, 160, size_bytes=5_000)
    clerk.close(call.grant, 300)
    view = clerk.says(AskStatement(first_day=DAY, last_day=DAY, by=("program", "destination")), KEEPER)
    assert isinstance(view, StatementView)
    lines = {(line.program, line.destination): line.nanodollars for line in view.statement.lines}
    assert lines == {("jami", "10.0.2.1 (probes)"): 160, ("jami", "10.0.2.1"): 300}
    assert view.statement.adds_up


def test_probes_that_are_none_of_that_flow_are_unpaid() -> None:
    clerk = Clerk(CALL, replace(CALL, name="dry", programs=("mute",), probes_nanodollars=0))
    call = granted(clerk.try_ask(SPOKEN, JAMI)).grant
    dry = granted(clerk.try_ask(flow(2, protocol=17), Transfer(program="mute"))).grant
    assert denied(ask_probes(clerk, "0" * 32)) == "unknown-grant"
    assert denied(ask_probes(clerk, dry)) == "no-rule"
    for other in (
        flow(50_000, protocol=17),
        flow(50_000, destination_port=ECHO_PORT),
        flow(50_000, protocol=17, destination_port=ECHO_PORT, destination="10.0.2.9"),
        flow(50_000, protocol=17, destination_port=ECHO_PORT, source="10.0.1.9"),
    ):
        assert denied(ask_probes(clerk, call, other)) == "other-flow"
    assert denied(ask_probes(clerk, call, gateway=OTHER_GATEWAY.fingerprint)) == "other-flow"


def test_when_the_flow_is_over_its_probes_get_no_more() -> None:
    clerk = Clerk(CALL)
    call = granted(clerk.try_ask(SPOKEN, JAMI))
    probes = granted(ask_probes(clerk, call.grant))
    clerk.close(call.grant, 0)
    assert denied(clerk.try_extend(probes.grant, 10)) == "unknown-grant"


def test_probes_survive_a_restart_and_a_later_end() -> None:
    clerk = Clerk(CALL)
    call = granted(clerk.try_ask(SPOKEN, JAMI))
    probes = granted(ask_probes(clerk, call.grant))
    clerk.start_again()
    clerk.wait(500)
    longer = granted(ask_probes(clerk, call.grant))
    assert (longer.grant, longer.serial, longer.cap_nanodollars) == (probes.grant, 2, 200)
    assert longer.expires_unix_s > probes.expires_unix_s
    assert {entry.rule for entry in clerk.entries(Opened)} == {"call"}
