"""Grants on their way from the secretary to the gateway: asked for when they are due, and not more often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from gateway_network import UNIX_S, grant_for, plain
from one_host import RETURN_ID, SPEND_ID, flow_of, report_of

from billpay.errors import RemoteProtocolError
from billpay.grants import verify_receipt
from billpay.messages import (
    AlternativePrice,
    FlowSelector,
    Grant,
    GrantKind,
    GrantReceipt,
    GrantState,
    GrantTerms,
    GrantUsage,
    KeySuccession,
    PriceQuote,
    SecretaryKey,
    Signed,
    SignedUsage,
)
from billpay.signing import SigningKey, sign
from hostagent.payments.commands import FlowReport
from hostagent.payments.flowbook import FlowBook, reverse
from hostagent.payments.flows import IDLE_NS, Flow
from hostagent.payments.granting import (
    MAX_AT_ONCE,
    NAMED_WITHIN_NS,
    PATIENCE_NS,
    RETRY_NS,
    SCOUTS,
    Granting,
    is_own_control,
)
from hostagent.payments.uplinks import Uplinks
from neighbour.identity import certificate_pem
from secretary.client import SecretaryClient, SecretaryUnavailable
from secretary.messages import Budget, Granted, Unpaid
from secretary.transfers import Transfer

S = 10**9
PACKET = plain()
FLOW = flow_of(PACKET)
KEY, NEXT_KEY, LAST_KEY = (SigningKey(bytes([letter]) * 32) for letter in b"knl")
NOBODYS = Transfer()
FIREFOX = Transfer(user="ann", program="firefox", kind="web", destination=FLOW.destination)


def report(flow: FlowSelector = FLOW, **counts: Any) -> FlowReport:
    return report_of(flow, **{"out_packets": 1, **counts})


def succession(old: SigningKey, new: SigningKey, serial: int) -> Signed:
    document = KeySuccession(
        old=old.fingerprint, new_certificate=certificate_pem(new, "a"), serial=serial, signed_unix_s=UNIX_S
    )
    return sign(old, document)


SUCCESSIONS = (succession(KEY, NEXT_KEY, 1), succession(NEXT_KEY, LAST_KEY, 2))


@dataclass(slots=True)
class Secretary:
    """Answers what it is told to; grants by default 1000 more than was spent."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    contexts: list[tuple[Transfer, int]] = field(default_factory=list)  # of what was asked: transfer and price
    closed: list[tuple[int, Signed | None, bytes]] = field(default_factory=list)  # size, receipt, its signer's key
    probes_of: list[str] = field(default_factory=list)
    trouble: Exception | None = None
    denial: Unpaid | None = None
    cap: int = 1000
    answers: int = 0
    until_quit: tuple[str, ...] = ()
    key: SigningKey = KEY
    successions_: tuple[Signed, ...] = ()
    _serial: int = 0

    def _answer(self, *question: Any, strategy: str = "fixed", **document: Any) -> Granted | Unpaid:
        self.asked.append(question)
        if self.trouble is not None:
            raise self.trouble
        if self.denial is not None:
            return self.denial
        self._serial += 1
        signed = sign(self.key, grant_for(PACKET, serial=self._serial, cap=self.cap, **document))
        return Granted(
            signed=signed,
            rule="calls",
            strategy=strategy,
            amount_nanodollars=20,
            willingness_nanodollars=20,
            target_bit_s=0,
            share_nanodollars=1,
        )

    async def ask_grant(
        self,
        flow: FlowSelector,
        *,
        gateway: str,
        transfer: Transfer,
        price_nanodollars_per_mb: int,
        probes_of: str,
        implied: bool,
    ) -> Granted | Unpaid:
        assert not implied, "these uplinks take headers"
        self.contexts.append((transfer, price_nanodollars_per_mb))
        self.probes_of.append(probes_of)
        return self._answer("ask", flow, gateway, grant=SPEND_ID)

    async def extend(self, grant: str, spent: int) -> Granted | Unpaid:
        return self._answer("extend", grant, spent, grant=grant)

    async def ask_return(self, flow: FlowSelector, received: int, packets: int, *, gateway: str) -> Granted | Unpaid:
        question = "return", received, packets, gateway
        return self._answer(*question, grant=RETURN_ID, kind=GrantKind.RETURN, strategy="return")

    async def close_grant(
        self, grant: str, spent: int, *, size_bytes: int = 0, receipt: Signed | None = None, gateway_key: bytes = b""
    ) -> int:
        self.closed.append((size_bytes, receipt, gateway_key))
        self._answer("close", grant, spent, grant=grant)
        return spent

    async def successions(self) -> tuple[Signed, ...]:
        self.asked.append(("successions",))
        return self.successions_

    async def budget(self) -> Budget:
        self.asked.append(("budget",))
        if self.trouble is not None:
            raise self.trouble
        return Budget(
            day_nanodollars=5,
            spent_today_nanodollars=0,
            reserved_nanodollars=0,
            answers=self.answers,
            until_quit=self.until_quit,
        )

    async def tell_quit(self, programs: Sequence[str]) -> None:
        self.asked.append(("quit", tuple(programs)))


@dataclass(slots=True)
class Gateway:
    """What the gateway behind an uplink has open. `knows`: the secretary's key that it takes grants of."""

    opened: list[Grant] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    spent: int = 0
    max_amount: int = 1_000_000
    trouble: Exception | None = None
    has_forgotten: bool = False
    knows: SigningKey = KEY
    pushed: list[Signed] = field(default_factory=list)
    prices: tuple[AlternativePrice, ...] | None = ()
    priced: list[tuple[str, int]] = field(default_factory=list)
    key: SigningKey = field(default_factory=lambda: SigningKey(b"x" * 32))

    async def open_grant(self, name: str, signed: Signed) -> GrantTerms:
        if self.trouble is not None:
            raise self.trouble
        if signed.signer != self.knows.fingerprint:
            raise RemoteProtocolError("wrong-signer", "another key than the one that is configured")
        grant = msgspec.json.decode(signed.document, type=Grant)
        self.opened.append(grant)
        return GrantTerms(
            usage=self.usage(name, GrantState.OPEN),
            max_amount=self.max_amount,
            cap_nanodollars=grant.cap_nanodollars,
            rate_nanodollars_per_s=grant.rate_nanodollars_per_s,
            burst_nanodollars=grant.burst_nanodollars,
        )

    def usage(self, name: str, state: GrantState) -> GrantUsage:
        return GrantUsage(grant=name, serial=1, state=state, spent_nanodollars=self.spent, packets=0, refused_packets=0)

    async def close_grant(self, name: str) -> SignedUsage:
        if self.has_forgotten:
            raise RemoteProtocolError("unknown-grant", "no such grant of yours is known here")
        self.closed.append(name)
        usage = self.usage(name, GrantState.CLOSED)
        receipt = GrantReceipt(
            grant=name,
            serial=1,
            final=True,
            spent_nanodollars=self.spent,
            packets=0,
            refused_packets=0,
            unix_s=UNIX_S,
        )
        return SignedUsage(usage=usage, receipt=sign(self.key, receipt), public_key=self.key.public_key)

    async def secretary_key(self) -> SecretaryKey:
        return SecretaryKey(fingerprint=self.knows.fingerprint, serial=0)

    async def succeed_secretary_key(self, signed: Signed) -> SecretaryKey:
        self.pushed.append(signed)
        self.knows = {SUCCESSIONS[0]: NEXT_KEY, SUCCESSIONS[1]: LAST_KEY}[signed]
        return await self.secretary_key()

    async def price(self, destination: str, size_bytes: int) -> PriceQuote:
        self.priced.append((destination, size_bytes))
        if self.prices is None:
            raise RemoteProtocolError("no-route", "nothing leads there")
        return PriceQuote(destination=destination, size_bytes=size_bytes, prices=self.prices)


class Desk:
    """A granting with one flow, two gateways and a secretary."""

    def __init__(self, transfer: Transfer | None = NOBODYS, *, running: frozenset[str] = frozenset()) -> None:
        self.transfer = transfer
        self.secretary, self.gateways = Secretary(), {"X": Gateway(), "Z": Gateway()}
        uplinks = {
            name: SimpleNamespace(
                name=name,
                agreed=True,
                caller=SimpleNamespace(client=gateway),
                certificate=SimpleNamespace(fingerprint=name.lower()),
                section=SimpleNamespace(implied=False),
            )
            for name, gateway in self.gateways.items()
        }
        self.uplinks = uplinks
        self.granting = Granting(
            secretary=cast("SecretaryClient", self.secretary),
            secretary_key=KEY.public_key,
            uplinks=cast("Uplinks", SimpleNamespace(by_name=uplinks)),
            context_of=lambda _: self.transfer,
            running_programs=lambda: running,
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


def test_a_probe_is_asked_for_with_the_grant_that_pays_for_it() -> None:
    desk = Desk()
    selector = msgspec.structs.replace(FLOW, destination_port=7416)
    desk.book.pay_probes_by(selector, "a" * 32)
    desk.report(report(selector, out_packets=1, last_ns=desk.now_ns))
    desk.turn()
    assert desk.secretary.probes_of == ["", "a" * 32]


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
    desk.gateways["X"].has_forgotten = True
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 520), ("close", SPEND_ID, 1000)]
    assert [receipt for _, receipt, _ in desk.secretary.closed] == [None]
    assert desk.flow.grant is None
    desk.gateways["X"].trouble = None
    assert desk.turn(after_ns=RETRY_NS) == [("ask", FLOW, "x")]


@pytest.mark.parametrize("code", ["grant-closed", "grant-expired"])
def test_a_grant_that_its_gateway_has_closed_is_settled_by_its_receipt_and_another_is_asked_for(code: str) -> None:
    desk = Desk()
    desk.turn()
    desk.report(spent_nanodollars=520)
    gateway = desk.gateways["X"]
    gateway.trouble, gateway.spent = RemoteProtocolError(code, "it stays closed"), 540
    assert desk.turn(after_ns=S)[0] == ("extend", SPEND_ID, 520)
    assert receipts_given(desk) == [540]
    assert (desk.flow.grant, desk.flow.judged) == (None, False)
    gateway.trouble = None
    assert desk.turn(after_ns=RETRY_NS) == [("ask", FLOW, "x")]


def receipts_given(desk: Desk) -> list[int]:
    """What the secretary was shown as spent, under the gateway's signature."""
    found = []
    for _, receipt, key in desk.secretary.closed:
        assert receipt is not None
        found.append(verify_receipt(receipt, key, SigningKey(b"x" * 32).fingerprint).spent_nanodollars)
    return found


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
    desk.report(spent_nanodollars=900)
    desk.secretary.denial = Unpaid(code="budget", message="today's budget is used up")
    asked = []
    for _ in range(100):
        asked += desk.turn(after_ns=S // 5)
        desk.report(spent_nanodollars=900)
    assert asked == [("extend", SPEND_ID, 900)] * 2
    desk.secretary.denial = None
    assert len(desk.turn(after_ns=PATIENCE_NS)) == 1  # a later end, but no more to spend
    assert desk.turn(after_ns=PATIENCE_NS - 1) == []


@pytest.mark.parametrize("code", ["budget", "purse"])
def test_a_grant_that_is_used_up_and_gets_no_more_is_closed_by_its_receipt(code: str) -> None:
    desk = Desk()
    desk.turn()
    desk.report(spent_nanodollars=1000)
    desk.gateways["X"].spent = 1000
    desk.secretary.denial = Unpaid(code=code, message="no money is left")
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 1000), ("close", SPEND_ID, 1000)]
    assert receipts_given(desk) == [1000]
    assert (desk.flow.grant, desk.flow.judged, desk.flow.reason) == (None, True, "no money is left")
    assert desk.turn(after_ns=PATIENCE_NS) == []


async def test_flows_without_money_send_a_few_ahead_and_all_follow_when_there_is_some() -> None:
    desk = Desk()
    many = [report(msgspec.structs.replace(FLOW, source_port=port), last_ns=desk.now_ns) for port in range(1, 12)]
    desk.book.flows.clear()
    desk.book.on_reports(many, desk.now_ns)
    desk.secretary.denial = Unpaid(code="budget", message="today's budget is used up")

    async def turn() -> int:
        desk.now_ns += S
        desk.book.on_reports([msgspec.structs.replace(each, last_ns=desk.now_ns) for each in many], desk.now_ns)
        works = desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S)
        for work in works:
            await work
        await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
        return len(works)

    assert [await turn() for _ in range(4)] == [len(many), SCOUTS, SCOUTS, SCOUTS]
    desk.secretary.denial = None
    assert [await turn() for _ in range(3)] == [SCOUTS, len(many) - SCOUTS, 0]


@pytest.mark.parametrize("code", ["budget", "purse", "limit"])
def test_a_grant_that_gets_no_more_stays_until_it_is_used_up(code: str) -> None:
    desk = Desk()
    desk.turn()
    desk.report(spent_nanodollars=900)
    desk.secretary.denial = Unpaid(code=code, message="no more now")
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 900)]
    assert desk.flow.grant is not None
    assert desk.gateways["X"].closed == []
    assert desk.turn(after_ns=PATIENCE_NS - 1) == []


@pytest.mark.parametrize("code", ["unknown-grant", "no-rule", "declined", "frozen", "ceiling", "allowance"])
def test_a_grant_that_the_secretary_does_not_stand_by_is_given_up(code: str) -> None:
    """It was asleep, or lost its journal, or its rules, or somebody said no: the flow is judged anew."""
    desk = Desk()
    desk.turn()
    desk.flow.told = desk.flow.wanted()
    desk.report(spent_nanodollars=900)
    desk.secretary.denial = Unpaid(code=code, message="no such grant is open")
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 900), ("close", SPEND_ID, 900)]
    assert desk.flow.grant is None
    assert desk.flow.reason == "no such grant is open"
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
    assert ("close", SPEND_ID, 60) in desk.secretary.asked  # what we counted
    assert receipts_given(desk) == [80]  # what the gateway counted, and that is booked
    assert desk.secretary.closed[0][0] == desk.flow.report.out_bytes + desk.flow.report.in_bytes
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


# --- context and price -----------------------------------------------------------------------------------------------


def test_the_price_is_asked_for_only_where_it_is_known_whose_flow_it_is() -> None:
    desk = Desk()
    desk.turn()
    assert desk.secretary.contexts == [(Transfer(), 0)]
    assert desk.gateways["X"].priced == []


def test_a_flow_of_a_known_program_is_asked_about_with_the_cheapest_price() -> None:
    desk = Desk(FIREFOX)
    desk.gateways["X"].prices = tuple(
        AlternativePrice(alternative=number, link="toY", toll_picodollars=toll, congestion_picodollars=0)
        for number, toll in ((1, 2_800), (2, 1_400))
    )
    desk.turn()
    assert desk.gateways["X"].priced == [(FLOW.destination, 1_400)]
    assert desk.secretary.contexts == [(FIREFOX, 1_000)]


@pytest.mark.parametrize("prices", [(), None])
def test_a_gateway_that_tells_no_price_stops_nothing(prices: tuple[AlternativePrice, ...] | None) -> None:
    desk = Desk(FIREFOX)
    desk.gateways["X"].prices = prices
    desk.turn()
    assert desk.secretary.contexts == [(FIREFOX, 0)]
    assert desk.flow.grant is not None


def test_a_flow_whose_program_is_not_known_yet_is_waited_for_and_not_for_ever() -> None:
    """Else what is judged as nobody's slips by the rules and budgets of its program."""
    desk = Desk(None)
    assert desk.turn() == []
    assert "not known yet" in desk.flow.reason
    assert desk.turn(after_ns=NAMED_WITHIN_NS - 1) == []
    desk.transfer = FIREFOX
    assert len(desk.turn(after_ns=0)) == 1
    assert desk.secretary.contexts == [(FIREFOX, 0)]
    desk = Desk(None)
    assert [len(desk.turn(after_ns=NAMED_WITHIN_NS * number)) for number in (0, 1)] == [0, 1]
    ((transfer, price),) = desk.secretary.contexts
    assert (transfer.program, transfer.destination, price) == ("", FLOW.destination, 0)


async def test_the_secretary_is_told_which_programs_have_quit() -> None:
    desk = Desk(running=frozenset({"/usr/bin/zoom"}))
    desk.secretary.until_quit = ("firefox", "zoom")
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
    assert ("quit", ("firefox",)) in desk.secretary.asked
    assert all(question[1] == ("firefox",) for question in desk.secretary.asked if question[0] == "quit")


# --- a new key of the secretary --------------------------------------------------------------------------------------


def test_a_new_key_of_the_secretary_is_followed_and_told_to_the_gateway() -> None:
    """Two rotations while nobody looked: the chain from the key that we were given leads to the one of now."""
    desk = Desk()
    desk.secretary.key, desk.secretary.successions_ = LAST_KEY, SUCCESSIONS
    desk.turn()
    assert desk.gateways["X"].pushed == list(SUCCESSIONS)
    assert len(desk.gateways["X"].opened) == 1
    assert desk.flow.opened_at == "X"
    desk.report(spent_nanodollars=520)
    desk.secretary.cap = 1520
    assert desk.turn(after_ns=S) == [("extend", SPEND_ID, 520)]  # known by now, to both


def test_a_gateway_that_knows_the_first_of_two_keys_gets_what_it_lacks() -> None:
    desk = Desk()
    desk.gateways["X"].knows = NEXT_KEY
    desk.secretary.key, desk.secretary.successions_ = LAST_KEY, SUCCESSIONS
    desk.turn()
    assert desk.gateways["X"].pushed == [SUCCESSIONS[1]]
    assert desk.flow.opened_at == "X"


@pytest.mark.parametrize("chain", [(), (SUCCESSIONS[1],), (succession(NEXT_KEY, LAST_KEY, 1),)])
def test_a_key_that_does_not_follow_from_ours_is_not_followed(chain: tuple[Signed, ...]) -> None:
    desk = Desk()
    desk.secretary.key, desk.secretary.successions_ = LAST_KEY, chain
    desk.turn()
    assert (desk.gateways["X"].opened, desk.flow.grant) == ([], None)


def test_a_succession_that_our_key_did_not_sign_is_refused() -> None:
    desk = Desk()
    forged = msgspec.structs.replace(succession(LAST_KEY, LAST_KEY, 1), signer=KEY.fingerprint)
    desk.secretary.key, desk.secretary.successions_ = LAST_KEY, (forged,)
    desk.turn()
    assert (desk.gateways["X"].opened, desk.flow.grant) == ([], None)


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_what_was_declined_is_asked_for_again_as_soon_as_a_person_has_answered() -> None:
    desk = Desk()
    desk.secretary.denial = Unpaid(code="declined", message="you are asked", question=1)
    for due in desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S):
        await due
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
    desk.now_ns += S
    assert desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S) == []
    desk.secretary.denial, desk.secretary.answers = None, 1
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
    for due in desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S):
        await due
    assert [question[0] for question in desk.secretary.asked] == ["ask", "budget", "budget", "ask"]
    assert desk.flow.grant is not None


async def test_an_answer_takes_no_grant_from_a_flow_that_has_one() -> None:
    desk = Desk()
    for due in desk.granting.due(desk.book, now_ns=desk.now_ns, unix_s=UNIX_S):
        await due
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
    desk.secretary.answers = 1
    await desk.granting.close_idle(desk.book, now_ns=desk.now_ns)
    assert desk.flow.judged
    assert desk.flow.grant is not None
