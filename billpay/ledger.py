"""Double entry: every amount leaves one account and enters another, once.

Decides: whether a transfer is applied, and if not, why; what the balances are.
Refuses to know: where transfers are stored (`neighbour.book`), what a link or a statement is.
Source: ARCHITECTURE ("Accounts are double entry, append only, idempotent by transfer id: reserve → post or void").

A transfer is never changed or removed.  One kind moves money at once (POST); a RESERVE sets it aside, and later a
POST_RESERVED moves all or a part of it (the rest is released), or a VOID_RESERVED releases it.  The same transfer
given twice is applied once. The sum of all balances is zero, always.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from billpay.errors import LocalProtocolError

AMOUNT_MAX: Final = 2**62


class AccountKind(enum.Enum):
    """What an account stands for. "debit" or "credit": the side on which it usually has its balance."""

    TRAFFIC = "traffic"  # credit what packets brought, debit what they took along: zero in a gateway at rest
    RECEIVABLE = "receivable"  # debit: the neighbour owes us, agreed by both
    PAYABLE = "payable"  # credit: we owe the neighbour, agreed by both
    UNCONFIRMED_SENT = "unconfirmed-sent"  # credit: we sent it, the neighbour has not counted it: on the wire, or lost
    UNCONFIRMED_RECEIVED = "unconfirmed-received"  # debit: we received it, the neighbour has not counted it as sent
    LINK_LOSS = "link-loss"  # credit: sent, named as lost on the link, not owed
    OVER_CEILING = "over-ceiling"  # credit: sent above our organisation's ceiling and cut off there, not owed
    DISPUTED = "disputed"  # debit: received by our count, beyond what the neighbour says that it sent
    TOLL_INCOME = "toll-income"  # credit
    KEPT_ON_DROP = "kept-on-drop"  # credit: payments of packets that were dropped inside
    RETURN_SHARE = "return-share"  # credit: what a receiving host keeps of what arrives
    SETTLEMENT = "settlement"  # cash: debit what neighbours paid us, credit what we paid them


class Account(NamedTuple):
    """`link` is empty for the accounts of the node itself."""

    kind: AccountKind
    link: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.link}" if self.link else self.kind.value

    @classmethod
    def parse(cls, text: str) -> Account:
        kind, _, link = text.partition(":")
        return cls(AccountKind(kind), link)


class Phase(enum.Enum):
    POST = "post"
    RESERVE = "reserve"
    POST_RESERVED = "post-reserved"
    VOID_RESERVED = "void-reserved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """`amount_nanodollars` moves from `credit` to `debit`. `reserved`: id of the RESERVE that is posted or voided."""

    transfer: str
    debit: Account
    credit: Account
    amount_nanodollars: int
    phase: Phase = Phase.POST
    reserved: str = ""


class TransferResult(enum.Enum):
    """Why a transfer was applied or not: the first that holds, in this order."""

    CONFLICT = "the same id was used for something else"
    DUPLICATE = "applied before"  # success: nothing happens twice
    AMOUNT_OUT_OF_RANGE = "amount below 1 or above 2^62"
    SAME_ACCOUNT = "debit and credit are the same account"
    UNKNOWN_RESERVE = "nothing is reserved under that id"
    RESERVE_POSTED = "the reserve was posted before"
    RESERVE_VOIDED = "the reserve was voided before"
    OTHER_ACCOUNTS = "the reserve is between other accounts"
    OVER_RESERVE = "more than was reserved"
    APPLIED = "applied"

    @property
    def holds(self) -> bool:
        """The transfer is in the ledger, now or from before."""
        return self in (TransferResult.APPLIED, TransferResult.DUPLICATE)


class Movement(NamedTuple):
    """What a transfer adds to the balances of an account, debits less credits."""

    account: Account
    posted_nanodollars: int
    reserved_nanodollars: int


class Balance(NamedTuple):
    """Debits less credits. `reserved_nanodollars` comes on top when all that is reserved is posted."""

    posted_nanodollars: int = 0
    reserved_nanodollars: int = 0


def judge(
    transfer: Transfer, *, same_id: Transfer | None, reserve: Transfer | None, closed_by: Transfer | None
) -> TransferResult:
    """What becomes of a transfer, given what the ledger holds: one of the same id, the RESERVE that `reserved` names,
    and the transfer that posted or voided that reserve."""
    if same_id is not None:
        return TransferResult.DUPLICATE if same_id == transfer else TransferResult.CONFLICT
    closes = transfer.phase in (Phase.POST_RESERVED, Phase.VOID_RESERVED)
    if not 0 < transfer.amount_nanodollars <= AMOUNT_MAX:
        return TransferResult.AMOUNT_OUT_OF_RANGE
    if transfer.debit == transfer.credit:
        return TransferResult.SAME_ACCOUNT
    if not closes:
        return TransferResult.APPLIED
    if reserve is None or reserve.phase is not Phase.RESERVE:
        return TransferResult.UNKNOWN_RESERVE
    if closed_by is not None:
        posted = closed_by.phase is Phase.POST_RESERVED
        return TransferResult.RESERVE_POSTED if posted else TransferResult.RESERVE_VOIDED
    if (transfer.debit, transfer.credit) != (reserve.debit, reserve.credit):
        return TransferResult.OTHER_ACCOUNTS
    if transfer.amount_nanodollars > reserve.amount_nanodollars:
        return TransferResult.OVER_RESERVE
    return TransferResult.APPLIED


def movements(transfer: Transfer, reserve: Transfer | None) -> tuple[Movement, Movement]:
    """The two entries of a transfer that `judge` applied."""
    amount = transfer.amount_nanodollars
    released = reserve.amount_nanodollars if reserve is not None else 0
    posted, reserved = {
        Phase.POST: (amount, 0),
        Phase.RESERVE: (0, amount),
        Phase.POST_RESERVED: (amount, -released),
        Phase.VOID_RESERVED: (0, -released),
    }[transfer.phase]
    return Movement(transfer.debit, posted, reserved), Movement(transfer.credit, -posted, -reserved)


@dataclass(slots=True)
class Ledger:
    """The ledger in memory: the same decisions as `neighbour.book` makes in SQLite."""

    _transfers: dict[str, Transfer] = field(default_factory=dict)
    _closed_by: dict[str, Transfer] = field(default_factory=dict)
    _balances: dict[Account, Balance] = field(default_factory=dict)

    def apply(self, transfer: Transfer) -> TransferResult:
        reserve = self._transfers.get(transfer.reserved) if transfer.reserved else None
        result = judge(
            transfer,
            same_id=self._transfers.get(transfer.transfer),
            reserve=reserve,
            closed_by=self._closed_by.get(transfer.reserved),
        )
        if result is TransferResult.APPLIED:
            self._transfers[transfer.transfer] = transfer
            if transfer.reserved:
                self._closed_by[transfer.reserved] = transfer
            for account, posted, reserved in movements(transfer, reserve):
                old = self.balance(account)
                self._balances[account] = Balance(old.posted_nanodollars + posted, old.reserved_nanodollars + reserved)
        return result

    def balance(self, account: Account) -> Balance:
        return self._balances.get(account, Balance())

    @property
    def balances(self) -> Mapping[Account, Balance]:
        return self._balances

    @property
    def transfers(self) -> Iterable[Transfer]:
        return self._transfers.values()


def expect(transfer: Transfer, result: TransferResult) -> None:
    """For transfers of our own making: a refusal is our bug."""
    if not result.holds:
        raise LocalProtocolError(f"transfer {transfer.transfer}: {result.value}")


def shift(transfer: str, *, debit: Account, credit: Account, delta_nanodollars: int) -> tuple[Transfer, ...]:
    """A change of either sign as transfers (none for zero): a negative one goes the other way."""
    if delta_nanodollars == 0:
        return ()
    if delta_nanodollars < 0:
        debit, credit = credit, debit
    return (Transfer(transfer=transfer, debit=debit, credit=credit, amount_nanodollars=abs(delta_nanodollars)),)
