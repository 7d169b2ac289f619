"""Grants on their way from the secretary to the gateway: asked for when they are due, and not more often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from gateway_network import UNIX_S, grant_for, plain
from one_host import RETURN_ID, SPEND_ID, flow_of, report_of

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector, Grant, GrantKind, GrantUsage, Signed
from billpay.signing import SigningKey, sign
from hostagent.payments.commands import FlowReport
from hostagent.payments.flowbook import FlowBook, reverse
from hostagent.payments.flows import IDLE_NS, Flow
from hostagent.payments.granting import MAX_AT_ONCE, PATIENCE_NS, RETRY_NS, Granting, is_own_control
from hostagent.payments.uplinks import Uplinks
from secretary.client import SecretaryClient, SecretaryUnavailable
from secretary.messages import Budget, Granted, Unpaid

S = 10**9
PACKET = plain()
FLOW = flow_of(PACKET)
KEY = SigningKey(b"k" * 32)


def report(flow: FlowSelector = FLOW, **counts: Any) -> FlowReport:
    return report_of(flow, **{"out_packets": 1, **counts})


@dataclass(slots=True)
class Secretary:
    """Answers what it is told to; grants by default 1000 more than was spent."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    trouble: Exception | None = None
    denial: Unpaid | None = None
    cap: int = 1000
    _serial: int = 0

    def _answer(self, *question: Any, strategy: str = "fixed", **document: Any) -> Granted | Unpaid:
        self.asked.append(question)
        if self.trouble is not None:
            raise self.trouble
        if self.denial is not None:
            return self.denial
        self._serial += 1
        signed = sign(KEY, grant_for(PACKET, serial=self._serial, cap=self.cap, **document))
        return Granted(
            signed=signed,
            rule="calls",
            strategy=strategy,
            amount_nanodollars=20,
            willingness_nanodollars=20,
            target_bit_s=0,
            share_nanodollars=1,
        )

    async def ask_grant(self, flow: FlowSelector, *, gateway: str) -> Granted | Unpaid:
        return self._answer("ask", flow, gateway, grant=SPEND_ID)

    async def extend(self, grant: str, spent: int) -> Granted | Unpaid:
        return self._answer("extend", grant, spent, grant=grant)

    async def ask_return(self, flow: FlowSelector, received: int, packets: int, *, gateway: str) -> Granted | Unpaid:
        question = "return", received, packets, gateway
        return self._answer(*question, grant=RETURN_ID, kind=GrantKind.RETURN, strategy="return")

    async def close_grant(self, grant: str, spent: int) -> None:
        self._answer("close", grant, spent, grant=grant)

    async def budget(self) -> Budget:
        self.asked.append(("budget",))
        if self.trouble is not None:
            raise self.trouble
        return Budget(day_nanodollars=5, spent_today_nanodollars=0, reserved_nanodollars=0)


@dataclass(slots=True)
class Gateway:
    """What the gateway behind an uplink has open."""

    opened: list[Grant] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    spent: int = 0
    trouble: Exception | None = None

    async def open_grant(self, name: str, signed: Signed) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.opened.append(msgspec.json.decode(signed.document, type=Grant))

    async def close_grant(self, name: str) -> GrantUsage:
        self.closed.append(name)
        usage = msgspec.json.decode(b'{"grant":"","serial":1,"state":"closed","spent_nanodollars":0,"packets":0,'
                                    b'"refused_packets":0}', type=GrantUsage)  # fmt: skip
        return msgspec.structs.replace(usage, spent_nanodollars=self.spent)


class Desk:
    """A granting with one flow, two gateways and a secretary."""

    def __init__(self) -> None:
        self.secretary, self.gateways = Secretary(), {"X": Gateway(), "Z": Gateway()}
        uplinks = {
            name: SimpleNamespace(
                name=name,
                agreed=True,
                caller=SimpleNamespace(client=gateway),
                certificate=SimpleNamespace(fingerprint=name.lower()),
            )
            for name, gateway in self.gateways.items()
        }
        self.uplinks = uplinks
        self.granting = Granting(
            secretary=cast("SecretaryClient", self.secretary),
            secretary_key=KEY.public_key,
            uplinks=cast("Uplinks", SimpleNamespace(by_name=uplinks)),
        )
        self.book = FlowBook(delay_value_nanodollars_per_ms=1)
        self.now_ns = 100 * S
        self.report()

    @property
    def flow(self) -> Flow:
        return self.book.flows[FLOW]

    def report(self, *others: FlowReport, **counts: Any) -> None:
        self.book.on_reports([report(**({"last_ns": self.now_ns} | counts)), *others], self.now_ns)

    def turn(self, *, after_ns: int = 0) -> list[tuple[Any, ...]]:
        """One turn of the agent; gives what the secretary was asked in it."""
        self.now_ns += after_ns
        before = len(self.secretary.asked)
        for work in self.granting.due(self.book, now_ns=self.now_ns, unix_s=UNIX_S):
            asyncio.run(cast("Any", work))
        self.book.decide(self.now_ns)
        return self.secretary.asked[before:]


# --- spending --------------------------------------------------------------------------------------------------------


def test_a_flow_is_judged_and_its_grant_opened() -> None:
    desk = Desk()
    assert desk.turn() == [("ask", FLOW, "x")]
    (grant,) = desk.gateways["X"].opened
    flow = desk.flow
    assert (flow.grant, flow.opened_at, flow.rule, flow.strategy) == (grant, "X", "calls", "fixed")
    assert (flow.amount_nanodollars, flow.is_news()) == (20, True)
    assert desk.granting.secretary_state == "connected"
    assert desk.turn(after_ns=S) == []


def test_a_flow_without_a_rule_is_asked_about_again_now_and_then() -> None:
    desk = Desk()
    desk.secretary.denial = Unpaid(code="no-rule", message="no rule names this flow")
    asked = []
    for _ in range(100):
        asked += desk.turn(after_ns=S)
        desk.report()
    assert len(asked) == 4
    assert (desk.flow.strategy, desk.flow.reason) == ("unpaid", "no rule names this flow")


def test_without_an_agreement_nothing_is_asked() -> None:
    desk = Desk()
    desk.uplinks["X"].agreed = False
    assert desk.turn() == []
    assert "no agreement" in desk.flow.reason


def test_control_traffic_is_never_paid_for() -> None:
    for protocol, source, destination, own in (
        (6, 40000, 7414, True),
        (6, 7415, 40000, True),
        (6, 40000, 443, False),
        (17, 7416, 7416, True),
        (17, 40000, 7416, False),
    ):
        selector = msgspec.structs.replace(FLOW, protocol=protocol, source_port=source, destination_port=destination)
        assert is_own_control(Flow(report(selector))) is own
    desk = Desk()
    control = msgspec.structs.replace(FLOW, protocol=6, destination_port=7414)
    desk.book.flows = {control: Flow(report(control, last_ns=desk.now_ns))}
    assert desk.turn() == []


@pytest.mark.parametrize("trouble", [SecretaryUnavailable("gone"), RemoteProtocolError("bad-address", "no")])
def test_a_secretary_in_trouble_is_asked_again_after_a_while(trouble: Exception) -> None:
    desk = Desk()
    desk.secretary.trouble = trouble
    assert len(desk.turn()) == 1
    assert desk.turn(after_ns=RETRY_NS - 1) == []
    assert desk.flow.reason == str(trouble)
    desk.secretary.trouble = None
    assert len(desk.turn(after_ns=1)) == 1
    assert desk.flow.grant is not None


def test_a_document_that_the_secretary_did_not_sign_is_not_used() -> None:
    desk = Desk()
    desk.granting._secretary_key = SigningKey(b"o" * 32).public_key
    desk.turn()
    assert desk.gateways["X"].opened == []
    assert desk.flow.grant is None


def test_a_gateway_that_refuses_is_asked_again_with_the_same_grant() -> None:
    desk = Desk()
    desk.gateways["X"].trouble = RemoteProtocolError("too-many-grants", "no room")
    desk.turn()
    assert (desk.flow.grant, desk.flow.judged) == (None, False)
    desk.gateways["X"].trouble = None
    desk.turn(after_ns=RETRY_NS)
    assert desk.flow.opened_at == "X"


def test_a_grant_that_its_gateway_has_forgotten_counts_as_spent_and_another_is_asked_for() -> None:
    """Nobody knows any more what was spent of it."""
    desk = Desk()
    desk.turn()
    desk.report(spent_nanodollars=520)
    desk.gateways["X"].trouble = RemoteProtocolError("unknown-grant", "no first document")
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 520), ("close", SPEND_ID, 1000)]
    assert desk.flow.grant is None
    desk.gateways["X"].trouble = None
    assert desk.turn(after_ns=RETRY_NS) == [("ask", FLOW, "x")]


def test_a_grant_is_extended_with_what_was_spent_of_it() -> None:
    desk = Desk()
    desk.turn()
    desk.report(spent_nanodollars=520)
    desk.secretary.cap = 1520
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 520)]
    assert desk.flow.grant is not None
    assert desk.flow.grant.cap_nanodollars == 1520
    assert [desk.turn(after_ns=S) for _ in range(5)] == [[]] * 5


def test_a_used_up_budget_is_asked_about_every_ten_seconds() -> None:
    desk = Desk()
    desk.turn()
    desk.report(spent_nanodollars=1000)
    desk.secretary.denial = Unpaid(code="budget", message="today's budget is used up")
    asked = []
    for _ in range(100):
        asked += desk.turn(after_ns=S // 5)
        desk.report(spent_nanodollars=1000)
    assert len(asked) == 2
    assert desk.turn(after_ns=PATIENCE_NS) == [("extend", SPEND_ID, 1000)]
    desk.secretary.denial = None
    assert len(desk.turn(after_ns=PATIENCE_NS)) == 1  # a later end, but no more to spend
    assert desk.turn(after_ns=PATIENCE_NS - 1) == []


@pytest.mark.parametrize("code", ["unknown-grant", "no-rule"])
def test_a_grant_that_the_secretary_does_not_stand_by_is_given_up(code: str) -> None:
    """It was asleep, or lost its journal, or its rules: the flow is judged anew."""
    desk = Desk()
    desk.turn()
    desk.flow.told = desk.flow.wanted()
    desk.report(spent_nanodollars=900)
    desk.secretary.denial = Unpaid(code=code, message="no such grant is open")
    assert len(desk.turn(after_ns=S)) == 1
    assert desk.flow.grant is None
    assert desk.flow.is_news()
    desk.secretary.denial = None
    assert desk.turn(after_ns=RETRY_NS) == [("ask", FLOW, "x")]
    assert desk.flow.opened_at == "X"


def test_a_flow_that_leaves_by_another_uplink_is_judged_anew_for_it() -> None:
    desk = Desk()
    desk.turn()
    desk.report(uplink="Z", spent_nanodollars=40)
    assert desk.turn(after_ns=S) == [("close", SPEND_ID, 40)]
    assert desk.gateways["X"].closed == [SPEND_ID]
    assert desk.turn(after_ns=S) == [("ask", FLOW, "z")]
    assert desk.flow.opened_at == "Z"
    assert len(desk.gateways["Z"].opened) == 1


def test_a_bounded_number_of_calls_is_under_way() -> None:
    desk = Desk()
    many = [report(msgspec.structs.replace(FLOW, source_port=port), last_ns=desk.now_ns) for port in range(1, 60)]
    desk.book.on_reports(many, desk.now_ns)
    works = desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S)
    assert len(works) == MAX_AT_ONCE
    for work in works:
        asyncio.run(cast("Any", work))
    assert len(desk.turn()) == MAX_AT_ONCE


# --- returning -------------------------------------------------------------------------------------------------------


def receipts(received: int, packets: int) -> FlowReport:
    return report(
        reverse(FLOW),
        out_packets=0,
        in_packets=packets,
        in_paid_packets=packets,
        received_nanodollars=received,
        last_ns=100 * S,
    )


def returning_desk() -> Desk:
    desk = Desk()
    desk.secretary.denial = Unpaid(code="no-rule", message="no rule names this flow")
    desk.turn()
    desk.secretary.denial = None
    desk.report(receipts(90, 10), pool_nanodollars=90)
    return desk


def test_receipts_get_a_grant_to_go_back() -> None:
    desk = returning_desk()
    assert desk.turn(after_ns=S) == [("return", 90, 10, "x")]
    flow = desk.flow
    assert (flow.return_share, flow.return_ceiling, flow.return_opened_at) == (1, 20, "X")
    assert (flow.strategy, flow.is_news()) == ("return", True)
    assert desk.turn(after_ns=S) == []
    desk.report(receipts(900, 100), sent_returned_nanodollars=600)
    desk.secretary.cap = 1800
    assert desk.turn(after_ns=S) == [("return", 900, 100, "x")]
    assert [desk.turn(after_ns=S) for _ in range(3)] == [[]] * 3


def test_a_used_up_return_budget_is_not_asked_about_all_the_time() -> None:
    desk = returning_desk()
    desk.secretary.denial = Unpaid(code="budget", message="what may go back today has gone back")
    asked = []
    for _ in range(100):
        asked += desk.turn(after_ns=S // 5)
        desk.report(pool_nanodollars=90)
    assert len(asked) == 2


def test_returns_follow_their_flow_to_another_uplink() -> None:
    desk = returning_desk()
    desk.turn(after_ns=S)
    desk.report(uplink="Z", pool_nanodollars=20, sent_returned_nanodollars=60)
    assert desk.turn(after_ns=S) == [("close", RETURN_ID, 60)]
    desk.secretary.denial = Unpaid(code="no-rule", message="no rule names this flow")
    assert desk.turn(after_ns=S) == [("ask", FLOW, "z")]
    desk.secretary.denial = None
    assert desk.turn(after_ns=S) == [("return", 20, 0, "z")]  # what is in hand; the rest was the first grant's
    assert desk.flow.return_opened_at == "Z"


# --- closing ---------------------------------------------------------------------------------------------------------


async def test_a_silent_flows_grants_are_closed_with_what_the_gateway_says() -> None:
    desk = Desk()
    work = desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S)
    for due in work:
        await due
    desk.flow.told = (20, (), 1)
    desk.report(spent_nanodollars=60)
    desk.gateways["X"].spent = 80
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns + IDLE_NS - 1)
    assert desk.flow.grant is not None
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns + IDLE_NS)
    assert ("close", SPEND_ID, 80) in desk.secretary.asked
    flow = desk.flow
    assert (flow.grant, flow.judged, flow.amount_nanodollars, flow.strategy) == (None, False, 0, "unpaid")
    assert flow.is_news()


@pytest.mark.parametrize("trouble", [SecretaryUnavailable("gone"), RemoteProtocolError("wrong-answer", "?")])
async def test_a_secretary_in_trouble_stops_nobody(trouble: Exception) -> None:
    desk = Desk()
    desk.flow.on_grant(grant_for(PACKET), "X")
    desk.secretary.trouble = trouble
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns + IDLE_NS)
    assert desk.granting.secretary_state == str(trouble)
    assert desk.flow.grant is None
    await desk.granting.close_all(desk.book.flows.values())
