"""The clearing house: pays the provider at the provider's price, bills the payer at its own, and keeps the difference.

Decides: whether an order is cleared, what it moves, and what each party is told. Refuses to know how marks were
counted, what a session is worth to anybody, and how debts are paid in the end (`neighbour` settles).
Source: M3I scenarios 3.3.2.2 (clearing in the sender-pays sub-scenario; DPH-09, DPH-10); M3G-06 (split edge: each edge
pays its own provider, and the clearing house moves money from end to end).

Everything is cumulative: a session is cleared up to a characterisation, and the next one of the same session moves the
difference. The state follows from the events alone (`Event`), in their order: a driver writes each down before its
outcome is told, and after a start applies them again.

What a party cannot do. A customer cannot have a bill paid twice, raised, or paid by somebody who did not say so. A
provider cannot charge another price than it published, nor the same traffic under two sessions. A payer is bound by its
intention up to its end, and by nothing after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from billpay.clearing import (
    ClearingOrder,
    ClearingSide,
    ClearingStatement,
    IntentionToPay,
    MeteredKey,
    Payee,
    PricedMarks,
    SessionCharacterisation,
)
from billpay.errors import LocalProtocolError, RemoteProtocolError
from billpay.ledger import Account, AccountKind, Ledger, expect, shift
from billpay.messages import Message, Signed
from billpay.sessions import MarkPrice, SessionId, UnixMilliseconds
from market.authority import Register
from market.charging import Prices, charge_nanodollars

PPM: Final = 1_000_000


class Clearing(Enum):
    """What became of an order: the first that holds, in this order."""

    FORGED = "a signature does not hold, or nobody vouches for its key"
    NOT_FOR_US = "it names another clearing house"
    OTHER_PARTIES = "order, characterisation and intention do not name the same session and customer"
    UNCOVERED = "the payer's intention ends before what was used"
    IMPOSSIBLE = "more marks than packets, a price named twice, or a time that runs backwards"
    UNPUBLISHED_PRICE = "the provider did not publish that price for that time"
    DUPLICATE = "cleared before"  # success: nothing is paid twice
    CONTRADICTS = "another document of the same number was cleared"
    FALLS = "less than what was cleared before, or between other parties"
    COUNTED_TWICE = "the same traffic is in another session"
    OVER_CREDIT = "the payer's credit is used up"
    CLEARED = "cleared"

    @property
    def holds(self) -> bool:
        """What the order says is cleared, now or from before."""
        return self in (Clearing.CLEARED, Clearing.DUPLICATE)


class HouseTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The clearing house's own prices. A fixed price for each mark can be below the provider's: the house's risk."""

    fixed_nanodollars_per_mark: int | None = None
    markup_ppm: int = 0

    def __post_init__(self) -> None:
        fixed = self.fixed_nanodollars_per_mark
        if not (fixed is None or 0 <= fixed <= 10**12) or not 0 <= self.markup_ppm <= 10 * PPM:
            raise ValueError("a price is from 0 to 10^12 nanodollars, a markup from 0 to 10^7 ppm")

    def price(self, provider_nanodollars: int) -> int:
        """What the payer pays for a mark; what is below a nanodollar is not charged."""
        if self.fixed_nanodollars_per_mark is not None:
            return self.fixed_nanodollars_per_mark
        return min(10**12, provider_nanodollars * (PPM + self.markup_ppm) // PPM)


class Event(Message, frozen=True, kw_only=True, tag=True):
    """What changed the state: a price or an order, when it came, and the terms that held then."""

    signed: Signed
    unix_ms: UnixMilliseconds
    terms: HouseTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """An order whose signatures hold."""

    characterisation: SessionCharacterisation
    document: bytes
    intention: IntentionToPay


@dataclass(slots=True)
class _Session:
    """Cleared so far, at the terms of its first order."""

    terms: HouseTerms
    cleared: _Order
    payee_nanodollars: int = 0
    payer_nanodollars: int = 0


@dataclass(slots=True)
class ClearingHouse:
    """One for all. `credit_nanodollars`: what each payer may owe; who is not named has no limit of its own."""

    fingerprint: str
    register: Register
    terms: HouseTerms
    credit_nanodollars: Mapping[str, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    _prices: dict[str, Prices] = field(default_factory=dict)
    _sessions: dict[SessionId, _Session] = field(default_factory=dict)
    _of_key: dict[tuple[str, MeteredKey], set[SessionId]] = field(default_factory=dict)  # by provider and key

    def on_price(self, signed: Signed) -> bool:
        """A provider's price, under its own signature. Whether it is news. Raises RemoteProtocolError."""
        push, party = self.register.open(signed, MarkPrice)
        if push.provider != party.name:
            raise RemoteProtocolError("wrong-signer", f"a price of {push.provider} is signed by {party.name}")
        return self._prices.setdefault(party.fingerprint, Prices()).on_push(push)

    def on_order(self, signed: Signed) -> Clearing:
        """Clears what is new in it."""
        return self._on_order(signed, self.terms)

    def apply(self, event: Event) -> None:
        """After a start: what happened before, in its order."""
        if event.signed.kind == "mark-price":
            self.on_price(event.signed)
        elif not (outcome := self._on_order(event.signed, event.terms)).holds:
            raise LocalProtocolError(f"an order that was cleared is refused now: {outcome.value}")

    def statements(self, session: SessionId) -> tuple[ClearingStatement, ...]:
        """What the three parties are told: each its own."""
        known = self._sessions.get(session)
        if known is None:
            return ()
        characterisation, intention = known.cleared.characterisation, known.cleared.intention
        theirs, ours = characterisation.lines, _house_lines(known.terms, characterisation)
        parties = [
            (ClearingSide.PAYER, intention.payer, ours, known.payer_nanodollars),
            (ClearingSide.CUSTOMER, intention.customer, theirs, known.payee_nanodollars),
        ]
        if intention.payee is Payee.PROVIDER:
            parties.append((ClearingSide.PROVIDER, characterisation.provider, theirs, known.payee_nanodollars))
        return tuple(
            ClearingStatement(
                clearing_house=self.fingerprint,
                party=party,
                side=side,
                session=session,
                sequence=characterisation.sequence,
                to_unix_ms=characterisation.to_unix_ms,
                lines=lines,
                amount_nanodollars=amount,
            )
            for side, party, lines, amount in parties
        )

    @property
    def income_nanodollars(self) -> int:
        """Its margin over all sessions; below 0 where fixed prices did not cover what providers charged."""
        return -self.ledger.balance(INCOME).posted_nanodollars

    def owed_by(self, payer: str) -> int:
        return self.ledger.balance(Account(AccountKind.RECEIVABLE, payer)).posted_nanodollars

    def owed_to(self, payee: str) -> int:
        return -self.ledger.balance(Account(AccountKind.PAYABLE, payee)).posted_nanodollars

    # --- one order ----------------------------------------------------------------------------------------------------

    def _on_order(self, signed: Signed, terms: HouseTerms) -> Clearing:
        try:
            order = self._open(signed)
        except RemoteProtocolError as error:
            return Clearing.NOT_FOR_US if error.code == NOT_FOR_US else Clearing.FORGED
        if order is None:
            return Clearing.OTHER_PARTIES
        known = self._sessions.get(order.characterisation.session)
        terms = known.terms if known else terms
        checks: tuple[Callable[[], Clearing | None], ...] = (
            lambda: self._refusal_of_content(order),
            lambda: _refusal_of_sequence(order, known.cleared) if known else None,
            lambda: self._refusal_of_overlap(order),
            lambda: self._refusal_of_credit(order, known, terms),
        )
        for check in checks:
            if (refusal := check()) is not None:
                return refusal
        self._move(order, known or _Session(terms=terms, cleared=order))
        return Clearing.CLEARED

    def _open(self, signed: Signed) -> _Order | None:
        """None: its parts do not belong together."""
        order, presenter = self.register.open(signed, ClearingOrder)
        characterisation, provider = self.register.open(order.characterisation, SessionCharacterisation)
        intention, payer = self.register.open(order.intention, IntentionToPay)
        if {order.clearing_house, intention.clearing_house} != {self.fingerprint}:
            raise RemoteProtocolError(NOT_FOR_US, "another clearing house is named")
        sessions = {order.session, characterisation.session, intention.session}
        customers = {presenter.fingerprint, order.customer, characterisation.customer, intention.customer}
        signers_named = (provider.fingerprint, payer.fingerprint) == (characterisation.provider, intention.payer)
        if len(sessions) > 1 or len(customers) > 1 or not signers_named:
            return None
        return _Order(characterisation=characterisation, document=order.characterisation.document, intention=intention)

    def _refusal_of_content(self, order: _Order) -> Clearing | None:
        it = order.characterisation
        if it.to_unix_ms > order.intention.valid_until_unix_ms:
            return Clearing.UNCOVERED
        marks, serials = sum(line.marks for line in it.lines), {line.serial for line in it.lines}
        if marks > it.packets or len(serials) < len(it.lines) or it.to_unix_ms < it.from_unix_ms:
            return Clearing.IMPOSSIBLE
        prices = self._prices.get(it.provider, Prices())
        for line in it.lines:
            push = prices.held_between(line.serial, it.from_unix_ms, it.to_unix_ms)
            if push is None or push.nanodollars_per_mark != line.nanodollars_per_mark:
                return Clearing.UNPUBLISHED_PRICE
        return None

    def _refusal_of_overlap(self, order: _Order) -> Clearing | None:
        """The same provider counted the same key at the same time already."""
        it = order.characterisation
        for session in self._of_key.get((it.provider, it.key), ()):
            other = self._sessions[session].cleared.characterisation
            if (
                session != it.session
                and it.from_unix_ms < _end_unix_ms(other)
                and other.from_unix_ms < _end_unix_ms(it)
            ):
                return Clearing.COUNTED_TWICE
        return None

    def _refusal_of_credit(self, order: _Order, known: _Session | None, terms: HouseTerms) -> Clearing | None:
        payer = order.intention.payer
        credit = self.credit_nanodollars.get(payer)
        total = sum(map(charge_nanodollars, _house_lines(terms, order.characterisation)))
        more = total - (known.payer_nanodollars if known else 0)
        return Clearing.OVER_CREDIT if credit is not None and self.owed_by(payer) + more > credit else None

    def _move(self, order: _Order, session: _Session) -> None:
        it, intention = order.characterisation, order.intention
        payee_total = sum(map(charge_nanodollars, it.lines))
        payer_total = sum(map(charge_nanodollars, _house_lines(session.terms, it)))
        payee_more = payee_total - session.payee_nanodollars
        margin_more = payer_total - session.payer_nanodollars - payee_more
        payee = it.provider if intention.payee is Payee.PROVIDER else intention.customer
        receivable, payable = Account(AccountKind.RECEIVABLE, intention.payer), Account(AccountKind.PAYABLE, payee)
        name = f"{it.session}:{it.sequence}"
        transfers = (
            *shift(f"{name}:paid", debit=receivable, credit=payable, delta_nanodollars=payee_more),
            *shift(f"{name}:margin", debit=receivable, credit=INCOME, delta_nanodollars=margin_more),
        )
        for transfer in transfers:
            expect(transfer, self.ledger.apply(transfer))
        session.cleared, session.payee_nanodollars, session.payer_nanodollars = order, payee_total, payer_total
        self._sessions[it.session] = session
        self._of_key.setdefault((it.provider, it.key), set()).add(it.session)


NOT_FOR_US: Final = "not-for-us"
INCOME: Final = Account(AccountKind.TOLL_INCOME)


def _end_unix_ms(it: SessionCharacterisation) -> int:
    """What was counted within one millisecond was counted in it."""
    return max(it.to_unix_ms, it.from_unix_ms + 1)


def _refusal_of_sequence(order: _Order, cleared: _Order) -> Clearing | None:
    """Against what was cleared of the same session."""
    new, old = order.characterisation, cleared.characterisation
    if new.sequence == old.sequence:
        return Clearing.DUPLICATE if order.document == cleared.document else Clearing.CONTRADICTS
    if new.sequence < old.sequence:
        return Clearing.DUPLICATE if _is_within(new, old) else Clearing.CONTRADICTS
    parties = (order.intention.payer, order.intention.payee, new.provider, new.customer, new.key, new.from_unix_ms)
    before = (cleared.intention.payer, cleared.intention.payee, old.provider, old.customer, old.key, old.from_unix_ms)
    return None if parties == before and _is_within(old, new) else Clearing.FALLS


def _is_within(old: SessionCharacterisation, new: SessionCharacterisation) -> bool:
    """No count falls from the old one to the new one."""
    marks = {line.serial: line.marks for line in new.lines}
    grows = new.packets >= old.packets and new.bytes >= old.bytes and new.to_unix_ms >= old.to_unix_ms
    return grows and all(marks.get(line.serial, -1) >= line.marks for line in old.lines)


def _house_lines(terms: HouseTerms, it: SessionCharacterisation) -> tuple[PricedMarks, ...]:
    """The same marks at the clearing house's prices."""
    return tuple(
        PricedMarks(serial=line.serial, nanodollars_per_mark=terms.price(line.nanodollars_per_mark), marks=line.marks)
        for line in it.lines
    )
