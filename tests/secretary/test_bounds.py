"""What a host can spend whatever its data plane does: the secretary's documents at a gateway's real packet core."""

from __future__ import annotations

import contextlib
import random
from functools import cache

import msgspec
import pytest
from clerk import DAY_S, GATEWAY, SECRETARY, WEB, Clerk, flow, granted, receipt_for
from gateway_network import UNIX_S, Gateway, paying, plan_x, segment
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector, Grant, Signed
from billpay.signing import SigningKey, sign, verify
from gateway.commands import CloseGrant, GrantAnswer, OpenGrant, Tick
from secretary.messages import Granted, Unpaid
from secretary.ruling.rules import Rule

HOST = SigningKey(b"h" * 32)
DAY = 2000
MIDNIGHT = (UNIX_S // DAY_S + 1) * DAY_S
RULE = Rule(
    name="web",
    amount_nanodollars=20,
    grant_nanodollars=300,
    rate_nanodollars_per_s=10**9,
    burst_nanodollars=10**9,
    lifetime_s=600,
)
LINK = "toA"


@cache
def packet_of(port: int) -> bytes:
    return segment(sport=port)


class Household:
    """A secretary, the agent that carries its documents, and the gateway on one clock. The keys are everybody's."""

    def __init__(self, rule: Rule = RULE) -> None:
        self.clerk = Clerk(rule, day=DAY, returns_day=0)
        self.clerk.unix_s = MIDNIGHT
        self.gateway = Gateway(plan_x())
        self.gateway.agree()
        self.wait(0)
        self.documents: list[Signed] = []
        self.grants: list[Grant] = []
        self.sent: list[bytes] = []

    def wait(self, seconds: int) -> None:
        self.clerk.unix_s += seconds
        self.clerk.tick()
        self.gateway.plane.unix_s = self.clerk.unix_s
        self.gateway.plane.advance(seconds * 10**9)
        self.gateway.ask(Tick())

    def written(self, answer: Granted | Unpaid) -> Signed | None:
        if isinstance(answer, Unpaid):
            return None
        self.documents.append(answer.signed)
        self.grants.append(granted(answer))
        return answer.signed

    def present(self, signed: Signed | None) -> None:
        """As the gateway's control API does. Raises RemoteProtocolError for what the secretary did not sign."""
        if signed is not None:
            self.gateway.ask(OpenGrant(link=LINK, grant=verify(signed, SECRETARY.public_key, Grant)))

    def close_honestly(self, grant: str) -> None:
        """First at the gateway, then at the secretary with the gateway's receipt."""
        receipt = self.receipt(grant)
        if receipt is not None:
            self.clerk.present(grant, receipt)

    def receipt(self, grant: str) -> Signed | None:
        """For what the gateway has counted; None: it knows nothing of it."""
        answer = self.gateway.ask(CloseGrant(link=LINK, grant=grant))
        return (
            receipt_for(grant, answer.usage.spent_nanodollars, key=GATEWAY) if isinstance(answer, GrantAnswer) else None
        )

    def pay(self, port: int, amount: int, *, key: bytes) -> None:
        packet = paying(packet_of(port), amount, key=key, unix_s=self.clerk.unix_s)
        self.sent.append(packet)
        self.gateway.deliver(LINK, packet)

    def key_of(self, number: int) -> bytes:
        """Of any grant there ever was; else one that is none."""
        return bytes.fromhex(self.grants[number % len(self.grants)].key) if self.grants else bytes(16)

    def right_key(self, port: int, number: int) -> bytes:
        """Of the flow's last grant, and of any other one time in four."""
        keys = [grant.key for grant in self.grants if grant.flow == our_flow(port)]
        return bytes.fromhex(keys[-1]) if keys and number % 4 else self.key_of(number)

    @property
    def paid(self) -> int:
        return self.gateway.link_count(LINK, "received_nanodollars")


def our_flow(port: int) -> FlowSelector:
    """That of `segment(sport=port)`."""
    return flow(port)


@pytest.mark.row("BP-44")
def test_a_data_plane_that_goes_wild_spends_what_was_authorised_and_no_more() -> None:
    home = Household()
    home.present(home.written(home.clerk.try_ask(our_flow(1))))
    for _ in range(50):
        home.pay(1, 7, key=home.key_of(0))
    assert home.paid == 300 // 7 * 7
    home.pay(1, 6, key=home.key_of(0))
    home.pay(1, 1, key=home.key_of(0))
    home.pay(1, 0xFF_FFFF, key=home.key_of(0))
    home.gateway.deliver(LINK, *home.sent)
    assert home.paid == 300
    home.pay(2, 1, key=home.key_of(0))  # another flow with this one's key
    assert home.paid == 300


@pytest.mark.row("BP-44")
def test_a_data_plane_that_goes_wild_is_no_faster_than_authorised() -> None:
    home = Household(WEB)
    home.present(home.written(home.clerk.try_ask(our_flow(1))))
    for _ in range(10):
        home.pay(1, 20, key=home.key_of(0))
    assert home.paid == WEB.burst_nanodollars == 40
    home.wait(1)
    for _ in range(10):
        home.pay(1, 20, key=home.key_of(0))
    assert home.paid == 80


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("change", [{"cap_nanodollars": 10**9}, {"expires_unix_s": 2**33}, {"serial": 9}, {}])
def test_only_the_secretary_can_write_a_grant(change: dict[str, int]) -> None:
    home = Household()
    signed = home.written(home.clerk.try_ask(our_flow(1)))
    assert signed is not None
    altered = msgspec.structs.replace(home.grants[0], **change)
    forged = sign(HOST, altered)
    for document, code in (
        (forged, "wrong-signer"),
        (msgspec.structs.replace(forged, signer=SECRETARY.fingerprint), "bad-signature"),
        (msgspec.structs.replace(forged, signature=signed.signature, signer=SECRETARY.fingerprint), "bad-signature"),
    ):
        if change or document.signature != signed.signature:
            with pytest.raises(RemoteProtocolError, match=code):
                home.present(document)
    home.pay(1, 1, key=home.key_of(0))
    assert home.paid == 0


PORTS = (1, 2, 3)
STEPS = 150
SEEDS = st.integers(0, 2**32)


def drain(home: Household) -> None:
    """The data plane takes all that it can get."""
    for grant in home.grants:
        for bit in range(11, -1, -1):
            home.pay(grant.flow.source_port, 2**bit, key=bytes.fromhex(grant.key))


@pytest.mark.row("BP-44")
@given(seed=SEEDS)
def test_no_data_plane_spends_more_than_a_days_budget_in_a_day(seed: int) -> None:
    """The packet core has all keys, pays as it likes and lies; the agent is honest. The secretary gets killed."""
    home, dice = Household(), random.Random(seed)
    for _ in range(STEPS):
        port, number = dice.choice(PORTS), dice.randrange(200)
        known = dice.choice(home.grants).grant if home.grants else ""
        match dice.choice(["ask", "extend", "close", "pay", "pay", "pay", "pay", "replay", "wait", "kill"]):
            case "ask":
                home.present(home.written(home.clerk.try_ask(our_flow(port))))
            case "extend":
                home.present(home.written(home.clerk.try_extend(known, number * 4)))
            case "close":
                home.close_honestly(known)
            case "pay":
                home.pay(port, number, key=home.right_key(port, number))
            case "replay":
                home.gateway.deliver(LINK, *home.sent[-port:])
            case "wait":
                home.wait(number)
            case _:
                home.clerk.start_again()
                home.clerk.tick()
        assert home.paid <= sum(home.clerk.sums) <= DAY
    drain(home)
    assert home.clerk.unix_s < MIDNIGHT + DAY_S
    assert 0 < home.paid <= DAY


@pytest.mark.row("BP-44", "MV-17")
@given(seed=SEEDS)
def test_nor_does_a_hijacked_agent(seed: int) -> None:
    """It shows any document at any time, again too, closes here and not there, and lies about what it spent."""
    home, dice = Household(), random.Random(seed)
    receipts: list[Signed] = []
    home.present(home.written(home.clerk.try_ask(our_flow(1))))
    home.pay(1, 5, key=home.key_of(0))
    for _ in range(STEPS):
        port, number = dice.choice(PORTS), dice.randrange(200)
        known = dice.choice(home.grants).grant if home.grants else ""
        deeds = ["ask", "extend", "close", "lie", "replay receipt", "present", "present", "pay", "pay", "pay", "replay"]
        match dice.choice([*deeds, "kill"]):
            case "ask":
                home.written(home.clerk.try_ask(our_flow(port)))
            case "extend":
                home.written(home.clerk.try_extend(known, dice.choice([0, number * 4, 10**12])))
            case "close" if known:  # at the gateway, for ever; perhaps here too
                receipt = home.receipt(known)
                receipts += [receipt] if receipt is not None else []
            case "lie" if known:
                forged = dice.choice([None, receipt_for(known, 0, key=HOST)])
                with contextlib.suppress(RemoteProtocolError):
                    home.clerk.present(known, forged, told=dice.choice([0, number, 10**12]))
            case "replay receipt" if receipts:
                with contextlib.suppress(RemoteProtocolError):
                    home.clerk.present(known, dice.choice(receipts), told=number)
            case "present" if home.documents:
                home.present(dice.choice(home.documents))
            case "pay":
                home.pay(port, number, key=home.right_key(port, number))
            case "replay":
                home.gateway.deliver(LINK, *home.sent[-port:])
            case _:
                home.clerk.start_again()
        assert home.paid <= sum(home.clerk.sums) <= DAY
    for document in home.documents:
        home.present(document)
    drain(home)
    assert 0 < home.paid <= DAY
