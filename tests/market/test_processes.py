"""Four real processes: readings across a change of price, three killed on the way; all agree to the nanodollar."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from billpay.clearing import (
    ClearingOrder,
    ClearingSide,
    ClearingStatement,
    IntentionToPay,
    MeteredKey,
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
    Refused,
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

ROOT = Path(__file__).parents[2]
SESSION = "5e" * 16
RUN = "00" * 16
KEY = MeteredKey(source="10.0.1.2", destination="10.0.3.2", protocol=17, source_port=5004, destination_port=5004)
BEGINS_MS = 1_700_000_000_000
CHANGES_MS = BEGINS_MS + 3_500  # not at a regular checkpoint
C1, C3 = SigningKey(b"\x11" * 32), SigningKey(b"\x33" * 32)


class Market:
    """meter → mediation → charging, and the clearing house; each a process that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority("authority", SigningKey(b"\x01" * 32))
        self.keys: dict[str, NodeIdentity] = {}
        self.running: dict[str, asyncio.subprocess.Process] = {}
        parts = ("meter", "mediation", "charging", "clearing")
        for part in parts:
            self.keys[part] = NodeIdentity.load_or_create(directory / part, name=self.name(part))
            (directory / f"{part}.pem").write_text(self.authority.certify(self.name(part), self.keys[part].public_key))
        certificates = [str(directory / f"{part}.pem") for part in parts]
        following = {"meter": "mediation", "mediation": "charging"}
        for part in parts:
            lines = [
                f'name = "{self.name(part)}"',
                f'role = "{part}"',
                f'state_directory = "{directory / part}"',
                f'socket = "{self.socket(part)}"',
                f'authority = "{self.authority.public_key.hex()}"',
                f"certificates = {certificates}",
                f'next = "{self.socket(following[part])}"' if part in following else "",
                'mediation = "p2-mediation"' if part == "charging" else "",
                "metering = { checkpoint_ms = 1000, flush_ms = 2000 }" if part == "meter" else "",
                "house = { markup_ppm = 100000 }" if part == "clearing" else "",
            ]
            (directory / f"{part}.toml").write_text("\n".join(lines))

    @staticmethod
    def name(part: str) -> str:
        return {"charging": "p2", "clearing": "p3"}.get(part, f"p2-{part}")

    def socket(self, part: str) -> Path:
        return self.directory / f"{part}.sock"

    async def start(self, *parts: str) -> None:
        for part in parts:
            self.running[part] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "market.process", str(self.directory / f"{part}.toml"), cwd=ROOT,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        for part in parts:
            await self.until(part, lambda answer: True)

    async def kill(self, *parts: str) -> None:
        """With no chance to put anything in order."""
        for part in parts:
            process = self.running.pop(part)
            process.send_signal(signal.SIGKILL)
            await process.wait()

    async def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            await process.wait()

    async def ask(self, part: str, question: Question) -> Answer:
        return await ask(self.socket(part), question)

    async def until(self, part: str, holds: object, key: MeteredKey = KEY) -> Total:
        """Asked again and again; a process that never comes so far fails the test by its own time."""
        for _ in range(600):
            try:
                total = await self.ask(part, Totals(session=SESSION, key=key))
            except EnvironmentFault:
                total = None
            if isinstance(total, Total) and holds(total):  # type: ignore[operator]
                return total
            await asyncio.sleep(0.02)
        raise AssertionError(f"{part} never came so far")

    async def tell_all(self, *documents: Question) -> None:
        for document in documents:
            for part in ("meter", "mediation", "charging", "clearing"):
                assert isinstance(await self.ask(part, document), Heard)

    def price(self, serial: int, nanodollars: int, valid_from_unix_ms: int) -> Tell:
        push = MarkPrice(
            provider="p2",
            serial=serial,
            nanodollars_per_mark=nanodollars,
            valid_from_unix_ms=valid_from_unix_ms,
            published_unix_s=(BEGINS_MS - 10_000) // 1000,
        )
        return Tell(signed=self.keys["charging"].sign(push))


def reading(at_ms: int, *, key: MeteredKey, ends: bool = False) -> Read:
    """The source's counters: 100 packets and 7 marks in each 100 ms, whoever reads them."""
    steps = (at_ms - BEGINS_MS) // 100
    return Read(
        run=RUN, key=key, unix_ms=at_ms, packets=100 * steps, bytes=120_000 * steps, ce_packets=7 * steps, ends=ends
    )


def intention(clearing_house: str, until_unix_ms: int) -> Signed:
    promise = IntentionToPay(
        session=SESSION,
        sequence=1,
        payer=C1.fingerprint,
        customer=C3.fingerprint,
        clearing_house=clearing_house,
        valid_until_unix_ms=until_unix_ms,
    )
    return sign(C1, promise)


async def present(market: Market, promise: Signed) -> tuple[Signed, Answer]:
    """c3 fetches its characterisation and presents it with the payer's intention."""
    said = await market.ask("charging", Characterise(session=SESSION, customer="c3"))
    assert isinstance(said, Said)
    (characterisation,) = said.signed
    order = ClearingOrder(
        session=SESSION,
        customer=C3.fingerprint,
        clearing_house=market.keys["clearing"].fingerprint,
        characterisation=characterisation,
        intention=promise,
    )
    signed = sign(C3, order)
    return signed, await market.ask("clearing", Tell(signed=signed))


@pytest.mark.row("DPH-02", "DPH-09", "DPH-10", "DPH-15", "DPH-21", "DPH-25")
async def test_four_processes_agree_to_the_nanodollar_though_three_are_killed(tmp_path: Path) -> None:
    key = KEY
    market = Market(tmp_path)
    try:
        await market.start("meter", "mediation", "charging", "clearing")
        people = [Certified(certificate=market.authority.certify(n, k.public_key)) for n, k in (("c1", C1), ("c3", C3))]
        await market.tell_all(*people, market.price(1, 1_000, BEGINS_MS - 5_000), market.price(2, 3_001, CHANGES_MS))
        opening = Open(session=SESSION, key=key, meter="p2-meter", regularity_ms=500)
        assert isinstance(await market.ask("mediation", opening), Heard)
        times = [BEGINS_MS + 1_000 * step for step in range(1, 9)]
        for at in sorted([BEGINS_MS, *times[:4], CHANGES_MS]):
            assert isinstance(await market.ask("meter", reading(at, key=key)), Heard)
        promise = intention(market.keys["clearing"].fingerprint, BEGINS_MS + 60_000)
        await market.until("charging", lambda total: total.marks >= 7 * 30, key)
        first, answer = await present(market, promise)
        assert isinstance(answer, Heard)

        await market.kill("mediation", "clearing")  # the meter goes on, and keeps what nobody hears
        for at in times[4:6]:
            await market.ask("meter", reading(at, key=key))
        await market.kill("meter")
        await market.start("meter", "mediation", "clearing")
        for at in times[6:]:
            await market.ask("meter", reading(at, key=key, ends=at == times[-1]))

        marks = 7 * 80
        await market.until("mediation", lambda total: total.marks == marks and total.unsent == 0, key)
        await market.ask("mediation", End(session=SESSION))
        bill = await market.until("charging", lambda total: total.marks == marks, key)
        meter = await market.until("meter", lambda total: total.unsent == 0, key)
        assert (meter.marks, meter.packets, bill.packets) == (marks, 8_000, 8_000)
        assert bill.nanodollars == 7 * 35 * 1_000 + 7 * 45 * 3_001  # to the mark on both sides of the change

        again = await market.ask("clearing", Tell(signed=first))
        assert again == Heard(news=False)  # settled before the house was killed, and not settled anew
        last, answer = await present(market, promise)
        assert answer == Heard(news=True)
        assert await market.ask("clearing", Tell(signed=last)) == Heard(news=False)
        await check_the_ledgers(market, last, bill.nanodollars, 7 * 35 * 1_100 + 7 * 45 * 3_301)
    finally:
        await market.stop()


async def check_the_ledgers(market: Market, last: Signed, bill: int, owed: int) -> None:
    """Payer, provider, clearing house: what each reads in its own documents."""
    house, provider = market.keys["clearing"], market.keys["charging"]
    said = await market.ask("clearing", Statements(session=SESSION))
    assert isinstance(said, Said)
    statements = {it.side: it for it in (verify(each, house.public_key, ClearingStatement) for each in said.signed)}
    order = verify(last, C3.public_key, ClearingOrder)
    characterisation = verify(order.characterisation, provider.public_key, SessionCharacterisation)
    c1, c3, p2 = PartyBook(C1.fingerprint), PartyBook(C3.fingerprint), PartyBook(provider.fingerprint)
    for book in (c3, p2):
        book.on_bill(characterisation)
    assert (c3.owed_to(p2.fingerprint), p2.owed_by(c3.fingerprint)) == (bill, bill)
    c1.on_statement(statements[ClearingSide.PAYER])
    p2.on_statement(statements[ClearingSide.PROVIDER], counterparty=c3.fingerprint)
    c3.on_statement(statements[ClearingSide.CUSTOMER], counterparty=p2.fingerprint)
    assert (c3.owed_to(p2.fingerprint), c3.cost_nanodollars, p2.owed_by(c3.fingerprint)) == (0, 0, 0)
    assert (c1.owed_to(house.fingerprint), p2.owed_by(house.fingerprint)) == (owed, bill)
    total = await market.until("clearing", lambda total: True)
    assert (total.payer_nanodollars, total.nanodollars, total.payer_nanodollars - total.nanodollars) == (
        owed,
        bill,
        7 * 35 * 100 + 7 * 45 * 300,
    )
    for book in (c1, c3, p2):
        assert sum(balance.posted_nanodollars for balance in book.ledger.balances.values()) == 0


async def test_a_part_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    file = tmp_path / "meter.toml"
    file.write_text('name = "m"\nrole = "clerk"\n')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "market.process", str(file), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().count("\n") == 1
    assert "role" in said.decode()


async def test_who_is_not_certified_is_refused(tmp_path: Path) -> None:
    market = Market(tmp_path)
    try:
        await market.start("clearing")
        stranger = Tell(signed=intention(market.keys["clearing"].fingerprint, BEGINS_MS))
        answer = await market.ask("clearing", stranger)
        assert isinstance(answer, Refused)
        assert (answer.code, answer.again) == ("forged", False)
        forged = Certified(certificate=Authority("authority", SigningKey(b"\x02" * 32)).certify("c1", C1.public_key))
        answer = await market.ask("clearing", forged)
        assert isinstance(answer, Refused)
        assert answer.code == "not-certified"
    finally:
        await market.stop()
