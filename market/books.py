"""A party's own ledger: what it owes, and what it is owed, by the signed documents that it was given.

Decides: which accounts a bill and a clearing statement move. Refuses to know signatures (the caller opened them) and
payments. Source: M3I scenarios 3.3.2.2; `billpay.ledger` (double entry). All documents are cumulative: the difference
to the one before is moved, and one that is older moves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from billpay.clearing import ClearingSide, ClearingStatement, SessionCharacterisation
from billpay.ledger import Account, AccountKind, Ledger, expect, shift
from billpay.sessions import SessionId
from market.charging import charge_nanodollars

TRAFFIC: Final = Account(AccountKind.TRAFFIC)
INCOME: Final = Account(AccountKind.TOLL_INCOME)


def _receivable(party: str) -> Account:
    return Account(AccountKind.RECEIVABLE, party)


def _payable(party: str) -> Account:
    return Account(AccountKind.PAYABLE, party)


@dataclass(slots=True)
class PartyBook:
    """Of a payer, a customer or a provider; `fingerprint` is its own."""

    fingerprint: str
    ledger: Ledger = field(default_factory=Ledger)
    _known: dict[tuple[str, SessionId], tuple[int, int]] = field(default_factory=dict)

    def on_bill(self, it: SessionCharacterisation) -> None:
        """Of ours as the provider, or for us as its customer."""
        amount = sum(map(charge_nanodollars, it.lines))
        if it.provider == self.fingerprint:
            self._move("bill", it.session, it.sequence, amount, _receivable(it.customer), INCOME)
        else:
            self._move("bill", it.session, it.sequence, amount, TRAFFIC, _payable(it.provider))

    def on_statement(self, it: ClearingStatement, *, counterparty: str = "") -> None:
        """`counterparty`: whose debt, or to whom, is taken over; for a customer in a split edge none."""
        house = it.clearing_house
        if it.side is ClearingSide.PAYER:
            debit, credit = TRAFFIC, _payable(house)
        elif it.side is ClearingSide.PROVIDER:
            debit, credit = _receivable(house), _receivable(counterparty)
        else:
            debit, credit = _payable(counterparty) if counterparty else _receivable(house), TRAFFIC
        self._move("cleared", it.session, it.sequence, it.amount_nanodollars, debit, credit)

    def owed_by(self, party: str) -> int:
        return self.ledger.balance(_receivable(party)).posted_nanodollars

    def owed_to(self, party: str) -> int:
        return -self.ledger.balance(_payable(party)).posted_nanodollars

    @property
    def cost_nanodollars(self) -> int:
        """What traffic has cost us in all."""
        return self.ledger.balance(TRAFFIC).posted_nanodollars

    def _move(self, what: str, session: SessionId, sequence: int, total: int, debit: Account, credit: Account) -> None:
        known_sequence, known_total = self._known.get((what, session), (0, 0))
        if sequence <= known_sequence:
            return
        name = f"{what}:{session}:{sequence}"
        for transfer in shift(name, debit=debit, credit=credit, delta_nanodollars=total - known_total):
            expect(transfer, self.ledger.apply(transfer))
        self._known[what, session] = (sequence, total)
