"""Settlement: when a balance becomes a real payment, who orders it, who accepts it, and what befalls who does not pay.

Decides: which settlements a debtor orders (at the threshold, at the end of a period), whether a creditor accepts
one, which transfers an interval makes, and when a neighbour is in default and when no longer.
Refuses to know: how orders travel and where accounts are kept (`neighbour.exchange`, `neighbour.book`).
Source: Bill-Pay, section 2.3: settle "at the end of each month or whenever the difference between the two counters
reaches a certain value (say $100)"; a debtor that fails to pay gets "no preferential service".

The debtor orders: it knows first that it owes.  An order at the threshold is for exactly the threshold, so that
both sides can check it without talk; a balance of several thresholds is several orders.  At the end of a month
(UTC) the rest is ordered.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
from dataclasses import dataclass, replace
from typing import Final

from billpay.ledger import Account, AccountKind, Phase, Transfer, shift
from billpay.links import Agreed, DifferenceLine, Direction, LineKind, Reading
from billpay.messages import Settlement
from billpay.money import NANODOLLARS_PER_DOLLAR

DEFAULT_THRESHOLD_NANODOLLARS: Final = 100 * NANODOLLARS_PER_DOLLAR
DEFAULT_GRACE_INTERVALS: Final = 3
ORDERS_MAX: Final = 64
"""Orders under way at one time on a link: a reply carries as many."""


class Role(enum.Enum):
    """Which side of the exchange of statements we are on a link."""

    CALLER = "caller"
    ANSWERER = "answerer"

    @property
    def outgoing(self) -> Direction:
        return Direction.FORWARD if self is Role.CALLER else Direction.BACKWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPosition:
    """Where a link stands from our side, cumulative nanodollars. Orders under way count as settled."""

    owed_by_us: int = 0
    owed_by_peer: int = 0
    settled_by_us: int = 0
    settled_by_peer: int = 0

    @property
    def net_owed_nanodollars(self) -> int:
        """Above zero: we owe; below: the peer owes us."""
        return self.owed_by_us - self.settled_by_us - self.owed_by_peer + self.settled_by_peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """A link and its two ends, seen from one of them. `us` and `peer` are fingerprints."""

    link: str
    us: str
    peer: str


# --- the debtor -------------------------------------------------------------------------------------------------------


def orders_due(
    net_owed_nanodollars: int, *, threshold_nanodollars: int, period_ended: bool
) -> tuple[tuple[int, str], ...]:
    """Amounts and reasons of what a debtor orders now: whole thresholds, and the rest at the end of a period."""
    if net_owed_nanodollars <= 0:
        return ()
    whole, rest = divmod(net_owed_nanodollars, threshold_nanodollars)
    due = [(threshold_nanodollars, "threshold")] * min(whole, ORDERS_MAX)
    if period_ended and rest and whole < ORDERS_MAX:
        due.append((rest, "period"))
    return tuple(due)


def plan_settlements(
    parties: Parties,
    position: LinkPosition,
    *,
    threshold_nanodollars: int,
    period_ended: bool,
    next_number: int,
    through_interval: int,
    now_unix_s: int,
) -> tuple[Settlement, ...]:
    """The orders that we, the debtor, give now. The same circumstances give the same orders with the same ids."""
    due = orders_due(
        position.net_owed_nanodollars, threshold_nanodollars=threshold_nanodollars, period_ended=period_ended
    )
    return tuple(
        Settlement(
            settlement=settlement_id(
                parties, number=number, through_interval=through_interval, amount_nanodollars=amount
            ),
            link=parties.link,
            debtor=parties.us,
            creditor=parties.peer,
            number=number,
            amount_nanodollars=amount,
            through_interval=through_interval,
            reason=reason,
            ordered_unix_s=now_unix_s,
        )
        for number, (amount, reason) in enumerate(due, next_number)
    )


def settlement_id(parties: Parties, *, number: int, through_interval: int, amount_nanodollars: int) -> str:
    """128 bits that follow from what is ordered, so that an order is the same one after a crash."""
    text = f"{parties.link}\n{parties.us}\n{parties.peer}\n{number}\n{through_interval}\n{amount_nanodollars}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def period_of(unix_s: int) -> int:
    """The number of the month (UTC) that a time lies in."""
    day = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    return day.year * 12 + day.month - 1


# --- the creditor -----------------------------------------------------------------------------------------------------


class Acceptance(enum.Enum):
    """What a creditor says to an order: the first that holds, in this order. The values are the protocol's codes."""

    WRONG_PARTIES = "wrong-parties"
    CONFLICT = "settlement-conflict"  # the id or the number was used for another order
    ALREADY = "already-posted"  # success: nothing is paid twice
    OUT_OF_ORDER = "out-of-order"
    UNKNOWN_INTERVAL = "unknown-interval"
    WRONG_AMOUNT = "wrong-amount"
    MORE_THAN_OWED = "more-than-owed"
    ACCEPTED = "accepted"

    @property
    def holds(self) -> bool:
        return self in (Acceptance.ACCEPTED, Acceptance.ALREADY)


def judge_settlement(
    order: Settlement,
    parties: Parties,
    *,
    known: Settlement | None,
    next_number: int,
    position: LinkPosition | None,
    threshold_nanodollars: int,
) -> Acceptance:
    """Whether we, the creditor, accept an order.

    `known`: the order that we hold under the same id or number; `position`: ours at the end of
    `order.through_interval` with all settlements until now, None if we hold no statements of that interval.
    """
    if (order.link, order.debtor, order.creditor) != (parties.link, parties.peer, parties.us):
        return Acceptance.WRONG_PARTIES
    if known is not None:
        return Acceptance.ALREADY if known == order else Acceptance.CONFLICT
    if order.number != next_number:
        return Acceptance.OUT_OF_ORDER
    if position is None:
        return Acceptance.UNKNOWN_INTERVAL
    amount = order.amount_nanodollars
    if (
        amount <= 0
        or (order.reason == "threshold" and amount != threshold_nanodollars)
        or amount > threshold_nanodollars
    ):
        return Acceptance.WRONG_AMOUNT
    if amount > -position.net_owed_nanodollars:
        return Acceptance.MORE_THAN_OWED
    return Acceptance.ACCEPTED


# --- default ----------------------------------------------------------------------------------------------------------


class Standing(enum.Enum):
    GOOD = "good"
    DUE = "due"  # owes a threshold or more; the grace runs
    IN_DEFAULT = "in-default"  # its payments are treated as unpaid until it settles


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingState:
    standing: Standing = Standing.GOOD
    due_intervals: int = 0


def judge_standing(
    state: StandingState, *, claim_nanodollars: int, threshold_nanodollars: int, grace_intervals: int
) -> StandingState:
    """The neighbour's standing after one more interval of our own clock.

    `claim_nanodollars` is what it owes us by *our own* counters: a neighbour that stops sending statements gains
    nothing. Below the threshold it is in good standing.  From the first interval at whose end it owes the threshold
    it has `grace_intervals` to settle.  So the exposure is at most the threshold and what can be sent in
    `grace_intervals` + 1.
    """
    if claim_nanodollars < threshold_nanodollars:
        return StandingState()
    if state.standing is Standing.IN_DEFAULT:
        return state
    due = state.due_intervals + 1
    if due > grace_intervals:
        return StandingState(standing=Standing.IN_DEFAULT, due_intervals=due)
    return StandingState(standing=Standing.DUE, due_intervals=due)


def claim_nanodollars(own: Reading, position: LinkPosition) -> int:
    """What the neighbour owes us by our own counters, less what we agreed to owe, settlements included."""
    return replace(position, owed_by_peer=own.received_nanodollars).net_owed_nanodollars * -1


# --- the transfers of a link ------------------------------------------------------------------------------------------


NOTHING_COUNTED: Final = Reading()
NOTHING_AGREED: Final = Agreed()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTotals:
    """One interval as we book it: our own reading, what was agreed, and what the neighbour had cut off by then."""

    own: Reading = NOTHING_COUNTED
    agreed: Agreed = NOTHING_AGREED
    cut_by_peer_nanodollars: int = 0


def interval_transfers(
    link: str, interval: int, role: Role, *, before: RoundTotals, after: RoundTotals
) -> tuple[Transfer, ...]:
    """What one interval adds to our accounts: our own counters, split into what is agreed, what the neighbour cut off
    above our organisation's ceiling, and what is unconfirmed.
    """
    own_before, agreed_before = before.own, before.agreed
    own_after, agreed_after = after.own, after.agreed
    forward = agreed_after.forward_nanodollars - agreed_before.forward_nanodollars
    backward = agreed_after.backward_nanodollars - agreed_before.backward_nanodollars
    owed_by_us, owed_by_peer = (forward, backward) if role is Role.CALLER else (backward, forward)
    sent = own_after.sent_nanodollars - own_before.sent_nanodollars
    received = own_after.received_nanodollars - own_before.received_nanodollars
    cut = _cut_of_ours(role, after) - _cut_of_ours(role, before)
    traffic = Account(AccountKind.TRAFFIC)
    accounts = (
        ("payable", traffic, Account(AccountKind.PAYABLE, link), owed_by_us),
        ("over-ceiling", traffic, Account(AccountKind.OVER_CEILING, link), cut),
        ("unconfirmed-sent", traffic, Account(AccountKind.UNCONFIRMED_SENT, link), sent - owed_by_us - cut),
        ("receivable", Account(AccountKind.RECEIVABLE, link), traffic, owed_by_peer),
        ("unconfirmed-received", Account(AccountKind.UNCONFIRMED_RECEIVED, link), traffic, received - owed_by_peer),
    )
    return tuple(
        transfer
        for name, debit, credit, delta in accounts
        for transfer in shift(f"{link}/{interval}/{name}", debit=debit, credit=credit, delta_nanodollars=delta)
    )


def _cut_of_ours(role: Role, totals: RoundTotals) -> int:
    """Of what we had sent by our reading. The neighbour read later: what it cut meanwhile is booked afterwards."""
    owed = totals.agreed.forward_nanodollars if role is Role.CALLER else totals.agreed.backward_nanodollars
    return min(totals.cut_by_peer_nanodollars, totals.own.sent_nanodollars - owed)


def line_transfers(link: str, role: Role, line: DifferenceLine) -> tuple[Transfer, ...]:
    """What a named difference moves in our accounts; nothing if the money was never ours (the neighbour's loss)."""
    grows = line.kind in (LineKind.LOSS, LineKind.EXCESS)
    delta = line.nanodollars if grows else -line.nanodollars
    loss = line.kind in (LineKind.LOSS, LineKind.FOUND)
    transfer = f"{link}/{line.interval}/{line.direction.value}-{line.kind.value}"
    if loss and line.direction is role.outgoing:
        debit, credit = Account(AccountKind.UNCONFIRMED_SENT, link), Account(AccountKind.LINK_LOSS, link)
    elif not loss and line.direction is not role.outgoing:
        debit, credit = Account(AccountKind.DISPUTED, link), Account(AccountKind.UNCONFIRMED_RECEIVED, link)
    else:
        return ()
    return shift(transfer, debit=debit, credit=credit, delta_nanodollars=delta)


def reserve_order(order: Settlement) -> Transfer:
    """The debtor sets the money aside when it orders."""
    return _settles(order, AccountKind.PAYABLE, Phase.RESERVE)


def post_order(order: Settlement) -> Transfer:
    """… and pays when the creditor has said that it accepted."""
    return replace(_settles(order, AccountKind.PAYABLE, Phase.POST_RESERVED), transfer=f"{order.settlement}/post")


def void_order(order: Settlement) -> Transfer:
    """… or takes the order back."""
    return replace(_settles(order, AccountKind.PAYABLE, Phase.VOID_RESERVED), transfer=f"{order.settlement}/void")


def receive_order(order: Settlement) -> Transfer:
    """The creditor books what it accepted."""
    return Transfer(
        transfer=f"{order.settlement}/received",
        debit=Account(AccountKind.SETTLEMENT),
        credit=Account(AccountKind.RECEIVABLE, order.link),
        amount_nanodollars=order.amount_nanodollars,
    )


def _settles(order: Settlement, kind: AccountKind, phase: Phase) -> Transfer:
    return Transfer(
        transfer=f"{order.settlement}/reserve",
        debit=Account(kind, order.link),
        credit=Account(AccountKind.SETTLEMENT),
        amount_nanodollars=order.amount_nanodollars,
        phase=phase,
        reserved="" if phase is Phase.RESERVE else f"{order.settlement}/reserve",
    )
