"""The four parts as they meet the world: signed documents in, signed documents out, and what is to be kept of them.

Decides: whose word each part takes, and what it keeps so that it is the same part after a start. Refuses to know
sockets and files (`market.process`). Source: M3I scenarios 3.3.3.3 (each function may run on a system of its own,
DPH-15); docs/spec/session-charging.md.

A part answers a question with an `Outcome`: the answer, what is to be written down first, and what is to be said to the
next part. `replay` gives a part its own past; nothing is said again by it, as that was written down too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from billpay.clearing import ClearingSide, MeterRecord, SessionUsage
from billpay.errors import RemoteProtocolError
from billpay.messages import Signed
from billpay.sessions import MarkPrice
from billpay.signing import SigningKey, sign, verify
from dataplane.metering import Tally
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
)
from market.authority import Register
from market.charging import Charged, Charging
from market.clearinghouse import ClearingHouse, Event
from market.mediation import Mediation, Taken
from market.metering import Meter, MeteringPolicy

Kept = Tell | Certified | Open | End | Event
"""What a part's past consists of."""

PRICE: Final = "mark-price"
_AGAIN: Final = frozenset({"not-certified"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`keep` and `say` go to the disk before the answer. `flush`: what waits is to be said now."""

    answer: Answer
    keep: Kept | None = None
    say: tuple[Signed, ...] = ()
    flush: bool = True


class Part(Protocol):
    """One of the four."""

    def on_question(self, question: Question, unix_ms: int) -> Outcome:
        """Raises RemoteProtocolError."""
        ...

    def replay(self, kept: Iterable[Kept], said: Iterable[Signed]) -> None: ...


def answer(part: Part, question: Question, unix_ms: int) -> Outcome:
    """With a peer's faults as refusals. Who is not certified yet may be so later."""
    try:
        return part.on_question(question, unix_ms)
    except RemoteProtocolError as error:
        return Outcome(answer=Refused(code=error.code, message=error.message[:400], again=error.code in _AGAIN))


def _not_ours(question: Question) -> Outcome:
    return Outcome(answer=Refused(code="not-here", message=f"this part is not asked {type(question).__name__}"))


class MeterPart:
    """Counts by readings; one meter for each run of their source."""

    def __init__(self, *, name: str, key: SigningKey, register: Register, policy: MeteringPolicy) -> None:
        self._name, self._key, self._register, self._policy = name, key, register, policy
        self._meters: dict[str, Meter] = {}
        self._cuts_unix_ms: list[int] = []

    def on_question(self, question: Question, unix_ms: int) -> Outcome:  # noqa: ARG002 (readings have their own time)
        match question:
            case Read():
                return self._read(question)
            case Tell() if question.signed.kind == PRICE:
                price, _ = self._register.open(question.signed, MarkPrice)
                self._cut(price.valid_from_unix_ms)
                return Outcome(answer=Heard(), keep=question)
            case Certified():
                self._register.admit(question.certificate)
                return Outcome(answer=Heard(), keep=question)
            case Totals():
                counted = [meter.counted(question.key) for meter in self._meters.values()]
                total = sum_of(counted)
                return Outcome(answer=Total(packets=total.packets, bytes=total.bytes, marks=total.ce_packets))
            case _:
                return _not_ours(question)

    def replay(self, kept: Iterable[Kept], said: Iterable[Signed]) -> None:
        for each in kept:
            if not isinstance(each, Event):
                self.on_question(each, 0)
        for signed in said:
            record = verify(signed, self._key.public_key, MeterRecord)
            self._meter(record.run).restore(record)

    def _read(self, it: Read) -> Outcome:
        meter = self._meter(it.run)
        tally = Tally(packets=it.packets, bytes=it.bytes, ce_packets=it.ce_packets)
        taken = meter.on_reading(it.key, tally, it.unix_ms)
        records = meter.written(it.unix_ms, all_of_it=it.ends)
        flush = meter.flush_due(it.unix_ms) or it.ends
        return Outcome(answer=Heard(news=taken), say=tuple(sign(self._key, record) for record in records), flush=flush)

    def _meter(self, run: str) -> Meter:
        meter = self._meters.get(run)
        if meter is None:
            meter = self._meters[run] = Meter(name=self._name, run=run, policy=self._policy)
            for at in self._cuts_unix_ms:
                meter.cut_at(at)
        return meter

    def _cut(self, unix_ms: int) -> None:
        self._cuts_unix_ms.append(unix_ms)
        for meter in self._meters.values():
            meter.cut_at(unix_ms)


class MediationPart:
    """Takes records of certified meters under their own names; says usage."""

    def __init__(self, *, key: SigningKey, register: Register) -> None:
        self._key, self._register = key, register
        self._mediation = Mediation()
        self._sessions: set[str] = set()

    def on_question(self, question: Question, unix_ms: int) -> Outcome:  # noqa: ARG002 (records have their own times)
        match question:
            case Tell() if question.signed.kind == PRICE:
                price, _ = self._register.open(question.signed, MarkPrice)
                self._mediation.cut_at(price.valid_from_unix_ms)
                return Outcome(answer=Heard(), keep=question)
            case Tell():
                return self._record(question)
            case Open():
                it = question
                if not self._mediation.open(it.session, it.key, meter=it.meter, regularity_ms=it.regularity_ms):
                    raise RemoteProtocolError("other-session", "this key is another session's")
                self._sessions.add(it.session)
                return Outcome(answer=Heard(), keep=question)
            case End():
                usages = self._mediation.take(question.session, all_of_it=True)
                return Outcome(answer=Heard(), keep=question, say=self._signed(usages))
            case Certified():
                self._register.admit(question.certificate)
                return Outcome(answer=Heard(), keep=question)
            case Totals():
                packets, octets, marks = self._mediation.counted(question.session)
                return Outcome(answer=Total(packets=packets, bytes=octets, marks=marks))
            case _:
                return _not_ours(question)

    def replay(self, kept: Iterable[Kept], said: Iterable[Signed]) -> None:  # noqa: ARG002 (it follows from what was kept)
        for each in kept:
            if not isinstance(each, Event):
                self.on_question(each, 0)

    def _record(self, question: Tell) -> Outcome:
        record, party = self._register.open(question.signed, MeterRecord)
        if party.name != record.meter:
            raise RemoteProtocolError("wrong-signer", f"{party.name} speaks for the meter {record.meter}")
        taken = self._mediation.on_record(record)
        if taken is Taken.KNOWN:
            return Outcome(answer=Heard(news=False))
        if taken in (Taken.CONTRADICTS, Taken.TOO_EARLY):
            again = taken is Taken.TOO_EARLY
            return Outcome(answer=Refused(code="not-counted", message=taken.value, again=again))
        usages = [usage for session in sorted(self._sessions) for usage in self._mediation.take(session)]
        return Outcome(answer=Heard(), keep=question, say=self._signed(usages))

    def _signed(self, usages: Iterable[SessionUsage]) -> tuple[Signed, ...]:
        return tuple(sign(self._key, usage) for usage in usages)


class ChargingPart:
    """A provider's (or, as a mini-CAS, a receiver's): prices by the provider's key, usage by its mediation's."""

    def __init__(self, *, key: SigningKey, register: Register, mediation: str, provider: str = "") -> None:
        self._key, self._register, self._mediation = key, register, mediation
        self._provider = provider or key.fingerprint
        self._charging = Charging()

    def on_question(self, question: Question, unix_ms: int) -> Outcome:  # noqa: ARG002 (usage has its own time)
        match question:
            case Tell() if question.signed.kind == PRICE:
                price, party = self._register.open(question.signed, MarkPrice)
                if party.fingerprint != self._provider or price.provider != party.name:
                    raise RemoteProtocolError("wrong-signer", f"{party.name} says no prices here")
                news = self._charging.prices.on_push(price)
                return Outcome(answer=Heard(news=news), keep=question if news else None)
            case Tell():
                return self._usage(question)
            case Certified():
                self._register.admit(question.certificate)
                return Outcome(answer=Heard(), keep=question)
            case Characterise():
                customer = self._register.named(question.customer).fingerprint
                said = self._charging.characterise(question.session, provider=self._provider, customer=customer)
                return Outcome(answer=Said(signed=(sign(self._key, said),) if said else ()))
            case Totals():
                bill = self._charging.bill(question.session)
                if bill is None:
                    return Outcome(answer=Total())
                total = Total(
                    packets=bill.packets, bytes=bill.bytes, marks=bill.marks, nanodollars=bill.amount_nanodollars
                )
                return Outcome(answer=total)
            case _:
                return _not_ours(question)

    def replay(self, kept: Iterable[Kept], said: Iterable[Signed]) -> None:  # noqa: ARG002 (it says nothing unasked)
        for each in kept:
            if not isinstance(each, Event):
                self.on_question(each, 0)

    def _usage(self, question: Tell) -> Outcome:
        usage, party = self._register.open(question.signed, SessionUsage)
        if party.name != self._mediation:
            raise RemoteProtocolError("wrong-signer", f"{party.name} is not our mediation")
        charged = self._charging.on_usage(usage)
        if charged is Charged.CHARGED:
            return Outcome(answer=Heard(), keep=question)
        if charged is Charged.KNOWN:
            return Outcome(answer=Heard(news=False))
        again = charged in (Charged.WAITS, Charged.UNPRICED)
        return Outcome(answer=Refused(code="not-charged", message=charged.value, again=again))


class ClearingPart:
    """Everybody's: prices and orders in, statements out."""

    def __init__(self, *, key: SigningKey, register: Register, make: Callable[[str, Register], ClearingHouse]) -> None:
        self._key, self._register = key, register
        self._house = make(key.fingerprint, register)

    def on_question(self, question: Question, unix_ms: int) -> Outcome:
        match question:
            case Tell():
                event = Event(signed=question.signed, unix_ms=unix_ms, terms=self._house.terms)
                if question.signed.kind == PRICE:
                    news = self._house.on_price(question.signed)
                    return Outcome(answer=Heard(news=news), keep=event if news else None)
                cleared = self._house.on_order(question.signed)
                if not cleared.holds:
                    return Outcome(answer=Refused(code=cleared.name.lower().replace("_", "-"), message=cleared.value))
                news = cleared.name == "CLEARED"
                return Outcome(answer=Heard(news=news), keep=event if news else None)
            case Certified():
                self._register.admit(question.certificate)
                return Outcome(answer=Heard(), keep=question)
            case Statements():
                said = tuple(sign(self._key, each) for each in self._house.statements(question.session))
                return Outcome(answer=Said(signed=said))
            case Totals():
                return Outcome(answer=self._totals(question))
            case _:
                return _not_ours(question)

    def replay(self, kept: Iterable[Kept], said: Iterable[Signed]) -> None:  # noqa: ARG002 (it says nothing unasked)
        for each in kept:
            if isinstance(each, Event):
                self._house.apply(each)
            else:
                self.on_question(each, 0)

    def _totals(self, question: Totals) -> Total:
        statements = {each.side: each for each in self._house.statements(question.session)}
        if not statements:
            return Total()
        payer, customer = statements[ClearingSide.PAYER], statements[ClearingSide.CUSTOMER]
        return Total(
            marks=sum(line.marks for line in customer.lines),
            nanodollars=customer.amount_nanodollars,
            payer_nanodollars=payer.amount_nanodollars,
        )


def sum_of(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total = total.plus(tally)
    return total


def encode(kept: Kept) -> bytes:
    """As it stands in the store."""
    return msgspec.json.encode(kept)


def decode(event: bytes) -> Kept:
    """Raises msgspec.DecodeError."""
    kept: Kept = msgspec.json.decode(event, type=Kept)
    return kept
