"""The four processes of session charging for one session of the experiment, and the ledgers of those who take part.

Decides: which questions are asked, in which order. Refuses to know: how marks come about (readings are given), and what
the processes do with them. Payer c1 (the sender's), customer c3 (the receiver's), provider p2, clearing house p3: as in
figure 3-1 of M3I's scenarios; docs/spec/session-charging.md.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billpay.clearing import (
    ClearingOrder,
    ClearingSide,
    ClearingStatement,
    IntentionToPay,
    MeteredKey,
    Payee,
    SessionCharacterisation,
)
from billpay.errors import EnvironmentFault
from billpay.messages import Signed
from billpay.sessions import MarkPrice
from billpay.signing import SigningKey, sign, verify
from market.asking import (
    Answer,
    Certified,
    Characterise,
    End,
    Heard,
    Open,
    Question,
    Read,
    Said,
    Statements,
    Tell,
    Total,
    Totals,
    ask,
)
from market.authority import Authority
from market.books import PartyBook
from neighbour.identity import NodeIdentity

PARTS: Final = ("meter", "mediation", "charging", "clearing")
FOLLOWING: Final = {"meter": "mediation", "mediation": "charging"}
NAMES: Final = {"meter": "p2-meter", "mediation": "p2-mediation", "charging": "p2", "clearing": "p3"}
SESSION: Final = "5e" * 16
RUN: Final = "00" * 16
KEY: Final = MeteredKey(source="10.0.1.2", destination="10.0.3.2", protocol=17, source_port=5004, destination_port=5004)
BEGINS_MS: Final = 1_700_000_000_000
MARKUP_PPM: Final = 100_000
PATIENCE_S: Final = 20.0
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Of a cumulative counter, so long after the session's beginning."""

    at_ms: int
    packets: int
    bytes: int
    marks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """What each reads in its own books. In a split edge p2 is paid by c3, and c3 has its money back from p3."""

    bill: int
    owed_by_payer: int
    cost_of_customer: int
    due_to_provider: int
    due_to_customer: int
    kept_by_house: int
    books_balance: bool
    sent: tuple[bytes, ...]  # what c1, c3 and p2 signed


class Market:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[subprocess.Popen[bytes]] = []
        self.authority = Authority("authority", SigningKey(secrets.token_bytes(32)))
        self.keys = {part: NodeIdentity.load_or_create(directory / part, name=NAMES[part]) for part in PARTS}
        self.people = {name: SigningKey(secrets.token_bytes(32)) for name in ("c1", "c3")}
        for part in PARTS:
            certificate = self.authority.certify(NAMES[part], self.keys[part].public_key)
            (directory / f"{part}.pem").write_text(certificate)
        for part in PARTS:
            self._configure(part)

    def _configure(self, part: str) -> None:
        directory = self._directory
        lines = [
            f'name = "{NAMES[part]}"',
            f'role = "{part}"',
            f'state_directory = "{directory / part}"',
            f'socket = "{self._socket(part)}"',
            f'authority = "{self.authority.public_key.hex()}"',
            f"certificates = {[str(directory / f'{each}.pem') for each in PARTS]}",
        ]
        if part in FOLLOWING:
            lines.append(f'next = "{self._socket(FOLLOWING[part])}"')
        if part == "charging":
            lines.append(f'mediation = "{NAMES["mediation"]}"')
        if part == "meter":
            lines.append("metering = { checkpoint_ms = 1000, flush_ms = 2000 }")
        if part == "clearing":
            lines.append(f"house = {{ markup_ppm = {MARKUP_PPM} }}")
        (directory / f"{part}.toml").write_text("\n".join(lines))

    def _socket(self, part: str) -> Path:
        return self._directory / f"{part}.sock"

    async def start(self) -> None:
        for part in PARTS:
            command = [sys.executable, "-m", "market.process", str(self._directory / f"{part}.toml")]
            self._running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))  # noqa: ASYNC220 (at once)
        for part in PARTS:
            await self.until(part, lambda _total: True)

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()

    async def ask(self, part: str, question: Question) -> Answer:
        return await ask(self._socket(part), question)

    async def heard(self, part: str, question: Question) -> None:
        """Raises EnvironmentFault where it is refused."""
        answer = await self.ask(part, question)
        if not isinstance(answer, Heard):
            raise EnvironmentFault("clear a session at", NAMES[part], f"it said {answer}", "look at its configuration")

    async def said(self, part: str, question: Question) -> tuple[Signed, ...]:
        answer = await self.ask(part, question)
        assert isinstance(answer, Said), answer
        return answer.signed

    async def until(self, part: str, holds: Callable[[Total], bool]) -> Total:
        """Raises EnvironmentFault when it never comes so far."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                total = await self.ask(part, Totals(session=SESSION, key=KEY))
            except EnvironmentFault:
                total = Heard(news=False)  # it has not begun to listen
            if isinstance(total, Total) and holds(total):
                return total
            await asyncio.sleep(POLL_S)
        raise EnvironmentFault("wait for", NAMES[part], f"not so far after {PATIENCE_S:g} s", "run it again")


def clear_session(readings: Sequence[Reading], *, prices: Sequence[tuple[int, int]], payee: Payee) -> Cleared:
    """The whole session through all four processes. `prices`: (from when, in ms of the session; nanodollars)."""
    with tempfile.TemporaryDirectory(prefix="hostagent-dph-") as directory:
        return asyncio.run(_clear(Market(Path(directory)), readings, prices, payee))


async def _clear(
    market: Market, readings: Sequence[Reading], prices: Sequence[tuple[int, int]], payee: Payee
) -> Cleared:
    try:
        await market.start()
        for name, key in market.people.items():
            certificate = market.authority.certify(name, key.public_key)
            for part in PARTS:
                await market.heard(part, Certified(certificate=certificate))
        sent = [await publish(market, serial, *price) for serial, price in enumerate(prices, start=1)]
        await market.heard("mediation", Open(session=SESSION, key=KEY, meter=NAMES["meter"], regularity_ms=500))
        for number, it in enumerate(readings):
            await market.heard("meter", _read(it, ends=number == len(readings) - 1))
        await market.until("mediation", lambda total: total.marks == readings[-1].marks and total.unsent == 0)
        await market.heard("mediation", End(session=SESSION))
        await market.until("charging", lambda total: total.marks == readings[-1].marks)
        order = await order_of(market, payee, readings[-1].at_ms)
        sent.append(order)
        await market.heard("clearing", Tell(signed=order))
        return await books_of(market, order, payee, sent)
    finally:
        market.stop()


async def publish(market: Market, serial: int, at_ms: int, nanodollars: int) -> Signed:
    push = MarkPrice(
        provider="p2",
        serial=serial,
        nanodollars_per_mark=nanodollars,
        valid_from_unix_ms=BEGINS_MS + at_ms,
        published_unix_s=BEGINS_MS // 1000 - 10,
    )
    signed = market.keys["charging"].sign(push)
    for part in PARTS:
        await market.heard(part, Tell(signed=signed))
    return signed


def _read(it: Reading, *, ends: bool) -> Read:
    return Read(
        run=RUN,
        key=KEY,
        unix_ms=BEGINS_MS + it.at_ms,
        packets=it.packets,
        bytes=it.bytes,
        ce_packets=it.marks,
        ends=ends,
    )


async def order_of(market: Market, payee: Payee, ends_ms: int) -> Signed:
    """c3 fetches its characterisation, and presents it with c1's intention to pay."""
    (characterisation,) = await market.said("charging", Characterise(session=SESSION, customer="c3"))
    c1, c3, house = market.people["c1"], market.people["c3"], market.keys["clearing"].fingerprint
    intention = IntentionToPay(
        session=SESSION,
        sequence=1,
        payer=c1.fingerprint,
        customer=c3.fingerprint,
        clearing_house=house,
        payee=payee,
        valid_until_unix_ms=BEGINS_MS + ends_ms + 60_000,
    )
    order = ClearingOrder(
        session=SESSION,
        customer=c3.fingerprint,
        clearing_house=house,
        characterisation=characterisation,
        intention=sign(c1, intention),
    )
    return sign(c3, order)


async def books_of(market: Market, signed: Signed, payee: Payee, sent: list[Signed]) -> Cleared:
    """Payer, provider and customer each post what they were given; the house says what it is owed and owes."""
    house, provider = market.keys["clearing"], market.keys["charging"]
    order = verify(signed, market.people["c3"].public_key, ClearingOrder)
    bill = verify(order.characterisation, provider.public_key, SessionCharacterisation)
    c1, c3 = (PartyBook(market.people[name].fingerprint) for name in ("c1", "c3"))
    p2 = PartyBook(provider.fingerprint)
    for book in (c3, p2):
        book.on_bill(bill)
    billed = p2.owed_by(c3.fingerprint)
    statements = [
        verify(each, house.public_key, ClearingStatement)
        for each in await market.said("clearing", Statements(session=SESSION))
    ]
    split = payee is Payee.CUSTOMER
    for it in statements:
        match it.side:
            case ClearingSide.PAYER:
                c1.on_statement(it)
            case ClearingSide.PROVIDER:
                p2.on_statement(it, counterparty=c3.fingerprint)
            case ClearingSide.CUSTOMER:
                c3.on_statement(it, counterparty="" if split else provider.fingerprint)
    total = await market.until("clearing", lambda _total: True)
    return Cleared(
        bill=billed,
        owed_by_payer=c1.owed_to(house.fingerprint),
        cost_of_customer=c3.cost_nanodollars,
        due_to_provider=p2.owed_by(c3.fingerprint if split else house.fingerprint),
        due_to_customer=c3.owed_by(house.fingerprint),
        kept_by_house=total.payer_nanodollars - total.nanodollars,
        books_balance=all(
            sum(balance.posted_nanodollars for balance in book.ledger.balances.values()) == 0 for book in (c1, c3, p2)
        ),
        sent=tuple(each.document + each.signature for each in (*sent, order.characterisation, order.intention)),
    )
