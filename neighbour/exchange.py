"""The account with one neighbour: statements each interval, settlements, standing; alike for hosts and gateways.

Decides: what is read, signed, written and answered, in which order, so that both books say the same whatever is
lost between them.  Refuses to know: packets (`read` gives the counters), the clock, connections
(`neighbour.control`), and what follows from two readings (`billpay.links`) or a balance (`billpay.settlement`).
Source: Bill-Pay, section 2.3; docs/architecture.md ("The way of a payment").

One interval, as the caller and the answering side see it:

    caller                                         answering side
    1  reads (opening), keeps and posts its
       statement: with the closing of the one
       before, and the peer's orders that it posted
                                                   2  keeps both statements, the round, what the closing shows of
                                                      the round before, and its own orders: one transaction
    3  reads (closing), keeps the answer, the
       round and what it shows: one transaction
    4  accepts the orders that came with the answer
    5  as the debtor orders, and posts its orders

A statement that was not answered is posted again before the next one, byte for byte, and gets the answer that it
got before: so both sides go through the same rounds.  An order is given again until the creditor's statement or
receipt shows it posted. Nothing is kept in memory that the book does not have: a crash between any two lines costs
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from billpay.errors import EnvironmentFault, LocalProtocolError, RemoteProtocolError
from billpay.ledger import Account, AccountKind, expect, shift
from billpay.links import Agreed, DifferenceLine, Reading, Round, agreed, check_successor, compare, reading_of
from billpay.messages import Closing, Settlement, SettlementReceipt, Signed, Statement, StatementReply
from billpay.settlement import (
    DEFAULT_GRACE_INTERVALS,
    DEFAULT_THRESHOLD_NANODOLLARS,
    ORDERS_MAX,
    Acceptance,
    LinkPosition,
    Parties,
    Role,
    RoundTotals,
    Standing,
    StandingState,
    claim_nanodollars,
    interval_transfers,
    judge_settlement,
    judge_standing,
    line_transfers,
    period_of,
    plan_settlements,
    post_order,
    receive_order,
    reserve_order,
)
from billpay.signing import verify
from neighbour.book import Book, KeptOrder, KeptStatement, Side
from neighbour.identity import NodeIdentity, PeerCertificate

FIRST_INTERVAL: Final = 1
_NOT_BOOKED: Final = {"counter-went-back", "old-interval", "statement-conflict", "bad-closing", "unknown-settlement"}
"""Refusals that the same statement would meet again, and after which the neighbour has no round that we lack."""


class StatementClient(Protocol):
    """What a caller needs of `neighbour.control.ControlClient`."""

    async def post_statement(self, statement: Signed) -> StatementReply: ...

    async def post_settlement(self, order: Signed) -> SettlementReceipt: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What both sides of a link hold each other to. `link` is its name on both sides."""

    link: str
    threshold_nanodollars: int = DEFAULT_THRESHOLD_NANODOLLARS
    grace_intervals: int = DEFAULT_GRACE_INTERVALS


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """Where the account stands. Sums are cumulative nanodollars, `owed_*` agreed by both, `settled_*` really paid."""

    link: str
    last_interval: int  # the last of which both statements are here; 0: none
    own: Reading  # our counters now
    peer: Reading | None  # the neighbour's last statement
    owed_by_us: int
    owed_by_peer: int
    settled_by_us: int
    settled_by_peer: int
    settlements: int
    named_sent_nanodollars: int  # what we sent and the neighbour never received; below zero: what it claims beyond
    named_received_nanodollars: int  # what it sent and we never received; below zero: what we claim beyond
    lines: tuple[DifferenceLine, ...]
    orders: tuple[KeptOrder, ...]
    standing: Standing  # the neighbour's, with us
    in_default_there: bool  # ours with the neighbour, by its last answer; False after a restart until it says so again
    agrees: bool  # whatever both count now was compared, and what differs is named
    trouble: str  # why the last statement or order was refused, "": it was not

    @property
    def paid(self) -> tuple[Settlement, ...]:
        return tuple(kept.order for kept in self.orders if kept.posted)

    @property
    def net_owed_nanodollars(self) -> int:
        """Above zero: we owe; below: the neighbour owes us."""
        return self.owed_by_us - self.settled_by_us - self.owed_by_peer + self.settled_by_peer

    @property
    def loss_nanodollars(self) -> int:
        return max(self.named_sent_nanodollars, 0) + max(self.named_received_nanodollars, 0)

    @property
    def excess_nanodollars(self) -> int:
        return max(-self.named_sent_nanodollars, 0) + max(-self.named_received_nanodollars, 0)


class LinkExchange:
    """One link's account. `read` gives our counters now; call it all from the one thread of the book.

    `passing_s`: how long what is counted as sent may still be on its way here, in a queue of the kernel. The caller
    waits so long between its opening and the call, and whoever serves an answer before it is sent: so what the other
    side counts then, and what it counts thereafter, contains what the reading has.
    """

    def __init__(
        self,
        *,
        book: Book,
        identity: NodeIdentity,
        peer: PeerCertificate,
        role: Role,
        terms: Terms,
        read: Callable[[], Reading],
        passing_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.role = role
        self.passing_s = passing_s
        self.terms = terms
        self.parties = Parties(link=terms.link, us=identity.fingerprint, peer=peer.fingerprint)
        self._book = book
        self._identity = identity
        self._peer = peer
        self._read = read
        self._adopted = FIRST_INTERVAL
        self._given_up = 0  # the interval of a statement of ours that is not posted again
        self._in_default_there = False
        book.open_link(self.parties, role)

    @property
    def next_interval(self) -> int:
        """The number of the next statement."""
        side = Side.OWN if self.role is Role.CALLER else Side.PEER
        last = self._book.last_statement(self.terms.link, side)
        return max(self._adopted, last.statement.interval + 1 if last else FIRST_INTERVAL)

    def adopt_interval(self, interval: int) -> None:
        """A caller goes on where the answering side says. What it knows beyond our books was lost on our side."""
        pending = self._pending()
        if pending is not None and interval > pending.statement.interval + 1:
            self._given_up = pending.statement.interval
        self._adopted = max(self._adopted, interval)

    # --- the caller -------------------------------------------------------------------------------------------------

    async def run_interval(self, client: StatementClient, now_unix_s: int) -> None:
        """One interval with everything that is due. Raises Unreachable and RemoteProtocolError; call it again later."""
        if self.role is not Role.CALLER:
            raise LocalProtocolError(f"link {self.terms.link}: the other side makes the calls")
        with self._naming_trouble():
            pending = self._pending()
            if pending is not None:
                await self._exchange_statements(client, pending)
            refused = await self._exchange_statements(client, self._begin(now_unix_s))
            with self._book.transaction():
                self._order(now_unix_s)
            await self._post_orders(client)
            if refused is not None:
                raise refused

    def _pending(self) -> KeptStatement | None:
        """Our statement that has no answer yet."""
        last = self._book.last_statement(self.terms.link, Side.OWN)
        if last is None or last.statement.interval <= self._given_up:
            return None
        answer = self._book.statement(self.terms.link, last.statement.interval, Side.PEER)
        return last if answer is None else None

    def _begin(self, now_unix_s: int) -> KeptStatement:
        closing = self._book.closing(self.terms.link, self._book.last_round(self.terms.link))
        own = self._state(self.next_interval, now_unix_s, closing)
        with self._book.transaction():
            self._book.put_statement(Side.OWN, own.signed, own.statement)
        return own

    async def let_pass(self) -> None:
        """Waits until what the last reading counted as sent has left."""
        wait_s = self.passing_s()
        if wait_s:
            await asyncio.sleep(wait_s)

    async def _exchange_statements(self, client: StatementClient, own: KeptStatement) -> RemoteProtocolError | None:
        """Posts a statement and books what comes back. Gives the reason why an order that came with it was refused."""
        await self.let_pass()
        try:
            reply = await client.post_statement(own.signed)
        except RemoteProtocolError as error:
            if error.code in _NOT_BOOKED:
                self._given_up = own.statement.interval
            raise
        closing = self._closing(own.statement)
        peer = self._verified(reply.statement)
        if peer.statement.interval != own.statement.interval:
            raise RemoteProtocolError(
                "wrong-interval", f"the answer to interval {own.statement.interval} is for {peer.statement.interval}"
            )
        self._check_successor(peer.statement)
        with self._book.transaction():
            self._book.put_statement(Side.PEER, peer.signed, peer.statement)
            self._book_round(own.statement, peer.statement)
            self._book_closing(closing)
            self._book_posted(peer.statement.settled_number)
        self._in_default_there = reply.in_default
        for order in reply.settlements:
            try:
                self._accept(order)
            except RemoteProtocolError as error:
                return error
        return None

    def _closing(self, opening: Statement) -> Closing:
        reading = self._read()
        if reading.went_back_since(reading_of(opening)):
            raise self._own_counter_went_back(opening.interval)
        return Closing(
            interval=opening.interval,
            sent_nanodollars=reading.sent_nanodollars,
            received_nanodollars=reading.received_nanodollars,
            sent_packets=reading.sent_packets,
            received_packets=reading.received_packets,
            cut_nanodollars=reading.cut_nanodollars,
        )

    async def _post_orders(self, client: StatementClient) -> None:
        for kept in self._book.unposted_orders(self.terms.link):
            receipt = await client.post_settlement(kept.signed)
            if receipt.settlement != kept.order.settlement or not receipt.posted:
                raise RemoteProtocolError("wrong-receipt", f"it is not for settlement {kept.order.settlement}")
            with self._book.transaction():
                self._book_posted(kept.order.number)

    # --- the answering side -----------------------------------------------------------------------------------------

    def answer_statement(self, signed: Signed, now_unix_s: int) -> StatementReply:
        """Books an interval that the neighbour began. The same statement again changes nothing and has the same answer.

        Raises RemoteProtocolError: the codes of `verify` and `check_successor`, `wrong-parties`, `statement-conflict`,
        `bad-closing`, `unknown-settlement`, and `own-counter-went-back` when it is our state that was lost.
        """
        if self.role is not Role.ANSWERER:
            raise RemoteProtocolError("wrong-role", f"link {self.terms.link}: we are the side that makes the calls")
        with self._naming_trouble():
            peer = self._verified(signed)
            known = self._book.statement(self.terms.link, peer.statement.interval, Side.PEER)
            if known is None:
                return self._reply(self._answer(peer, now_unix_s))
            own = self._book.statement(self.terms.link, peer.statement.interval, Side.OWN)
            if own is None or known.signed.document != peer.signed.document:
                raise RemoteProtocolError(
                    "statement-conflict", f"there is another statement of interval {peer.statement.interval}"
                )
            return self._reply(own)

    def _answer(self, peer: KeptStatement, now_unix_s: int) -> KeptStatement:
        self._check_successor(peer.statement)
        closing = self._checked_closing(peer.statement)
        own = self._state(peer.statement.interval, now_unix_s, None)
        with self._book.transaction():
            self._book.put_statement(Side.PEER, peer.signed, peer.statement)
            self._book.put_statement(Side.OWN, own.signed, own.statement)
            self._book_posted(peer.statement.settled_number)
            if closing is not None:
                self._book_closing(closing)
            self._book_round(own.statement, peer.statement)
            self._order(now_unix_s)
        return own

    def _checked_closing(self, statement: Statement) -> Closing | None:
        """The closing that our last round lacks; None if the caller does not have it (it lost its state)."""
        closing, last = statement.closing, self._book.last_round(self.terms.link)
        if closing is None or closing.interval != last or last == 0:
            return None
        opening = self._book.statement(self.terms.link, last, Side.PEER)
        assert opening is not None, "a round has both statements"
        reading = reading_of(closing)
        if reading.went_back_since(reading_of(opening.statement)) or reading_of(statement).went_back_since(reading):
            raise RemoteProtocolError("bad-closing", f"the closing of interval {last} is not between the statements")
        return closing

    def _reply(self, own: KeptStatement) -> StatementReply:
        orders = self._book.unposted_orders(self.terms.link)
        standing = self._book.link_state(self.terms.link).standing.standing
        return StatementReply(
            statement=own.signed,
            settlements=tuple(kept.signed for kept in orders[:ORDERS_MAX]),
            in_default=standing is Standing.IN_DEFAULT,
        )

    # --- statements -------------------------------------------------------------------------------------------------

    def _state(self, interval: int, now_unix_s: int, closing: Closing | None) -> KeptStatement:
        """Our statement, as of now."""
        reading = self._read()
        statement = Statement(
            link=self.parties.link,
            issuer=self.parties.us,
            peer=self.parties.peer,
            interval=interval,
            sampled_unix_s=now_unix_s,
            sent_nanodollars=reading.sent_nanodollars,
            received_nanodollars=reading.received_nanodollars,
            sent_packets=reading.sent_packets,
            received_packets=reading.received_packets,
            cut_nanodollars=reading.cut_nanodollars,
            closing=closing,
            settled_number=self._book.last_number(self.terms.link, Side.PEER),
        )
        last = self._book.last_statement(self.terms.link, Side.OWN)
        try:
            check_successor(statement, last.statement if last else None)
        except RemoteProtocolError as error:
            raise self._own_counter_went_back(last.statement.interval if last else 0) from error
        return KeptStatement(signed=self._identity.sign(statement), statement=statement)

    def _own_counter_went_back(self, interval: int) -> RemoteProtocolError:
        return RemoteProtocolError(
            "own-counter-went-back",
            f"our counter of link {self.terms.link} is lower than in our statement of interval {interval}: its state"
            " was lost, and nothing is stated or paid on this link until it is restored",
        )

    def _verified(self, signed: Signed) -> KeptStatement:
        statement = verify(signed, self._peer.public_key, Statement)
        if (statement.link, statement.issuer, statement.peer) != (
            self.parties.link,
            self.parties.peer,
            self.parties.us,
        ):
            raise RemoteProtocolError("wrong-parties", f"the statement is not about link {self.terms.link} with us")
        if statement.interval < FIRST_INTERVAL:
            raise RemoteProtocolError("old-interval", f"interval {statement.interval} is before the first one")
        return KeptStatement(signed=signed, statement=statement)

    def _check_successor(self, statement: Statement) -> None:
        last = self._book.last_statement(self.terms.link, Side.PEER)
        check_successor(statement, last.statement if last else None)
        ordered = self._book.last_number(self.terms.link, Side.OWN)
        if statement.settled_number > ordered:
            raise RemoteProtocolError(
                "unknown-settlement", f"settlement {statement.settled_number} is posted there, we ordered {ordered}"
            )

    # --- what is booked, inside a transaction -----------------------------------------------------------------------

    def _book_round(self, own: Statement, peer: Statement) -> None:
        opening, answer = (own, peer) if self.role is Role.CALLER else (peer, own)
        totals = agreed(reading_of(opening), reading_of(answer))
        after = RoundTotals(own=reading_of(own), agreed=totals, cut_by_peer_nanodollars=peer.cut_nanodollars)
        transfers = interval_transfers(self.terms.link, own.interval, self.role, before=self._before(), after=after)
        for transfer in transfers:
            expect(transfer, self._book.apply(transfer))
        self._book.put_round(self.terms.link, own.interval, totals)

    def _before(self) -> RoundTotals:
        """The last round."""
        interval = self._book.last_round(self.terms.link)
        totals = self._book.round(self.terms.link, interval)
        own = self._book.statement(self.terms.link, interval, Side.OWN)
        peer = self._book.statement(self.terms.link, interval, Side.PEER)
        if own is None or peer is None or totals is None:
            return RoundTotals()
        cut = peer.statement.cut_nanodollars
        return RoundTotals(own=reading_of(own.statement), agreed=totals, cut_by_peer_nanodollars=cut)

    def _book_closing(self, closing: Closing) -> None:
        """The last reading of a round: now it can be compared."""
        own = self._book.statement(self.terms.link, closing.interval, Side.OWN)
        peer = self._book.statement(self.terms.link, closing.interval, Side.PEER)
        assert own is not None, "a round has both statements"
        assert peer is not None, "a round has both statements"
        opening, answer = (own, peer) if self.role is Role.CALLER else (peer, own)
        current = Round(
            interval=closing.interval,
            opening=reading_of(opening.statement),
            answer=reading_of(answer.statement),
            closing=reading_of(closing),
        )
        state, lines = compare(self._book.link_state(self.terms.link).comparison, current)
        self._book.put_closing(self.terms.link, closing)
        self._book.put_comparison(self.terms.link, state)
        for line in lines:
            self._book.put_line(self.terms.link, line)
            for transfer in line_transfers(self.terms.link, self.role, line):
                expect(transfer, self._book.apply(transfer))

    def _book_posted(self, number: int) -> None:
        """The creditor has posted our orders up to this number."""
        for kept in self._book.unposted_orders(self.terms.link):
            if kept.order.number <= number:
                self._book.put_posted(kept.order)
                transfer = post_order(kept.order)
                expect(transfer, self._book.apply(transfer))

    def _order(self, now_unix_s: int) -> None:
        """What we order as the debtor, if we are."""
        link, period = self.terms.link, period_of(now_unix_s)
        settled_period = self._book.link_state(link).settled_period or period
        interval = self._book.last_round(link)
        position = self._position(interval)
        assert position is not None, "there is a round"
        orders = plan_settlements(
            self.parties,
            position,
            threshold_nanodollars=self.terms.threshold_nanodollars,
            period_ended=period > settled_period,
            next_number=self._book.last_number(link, Side.OWN) + 1,
            through_interval=interval,
            now_unix_s=now_unix_s,
        )
        for order in orders[: max(ORDERS_MAX - len(self._book.unposted_orders(link)), 0)]:
            self._book.put_order(Side.OWN, self._identity.sign(order), order)
            transfer = reserve_order(order)
            expect(transfer, self._book.apply(transfer))
        left = self._position(interval)
        if period <= settled_period or left is None or left.net_owed_nanodollars <= 0:
            self._book.put_settled_period(link, max(period, settled_period))

    def _position(self, interval: int) -> LinkPosition | None:
        """At the end of an interval, with all settlements until now; None if there is no such round."""
        totals = self._book.round(self.terms.link, interval)
        if totals is None:
            return None
        owed_by_us, owed_by_peer = self._by_us_and_peer(totals)
        settled = self._book.settled(self.terms.link)
        return LinkPosition(
            owed_by_us=owed_by_us,
            owed_by_peer=owed_by_peer,
            settled_by_us=settled.ordered_by_us,
            settled_by_peer=settled.posted_by_peer,
        )

    def _by_us_and_peer(self, totals: Agreed) -> tuple[int, int]:
        forward, backward = totals.forward_nanodollars, totals.backward_nanodollars
        return (forward, backward) if self.role is Role.CALLER else (backward, forward)

    # --- the creditor -----------------------------------------------------------------------------------------------

    def accept_settlement(self, signed: Signed, now_unix_s: int) -> SettlementReceipt:  # noqa: ARG002 (the caller's clock)
        """Books a payment of the neighbour, once. Raises RemoteProtocolError with the `Acceptance` as its code."""
        with self._naming_trouble():
            return self._accept(signed)

    def _accept(self, signed: Signed) -> SettlementReceipt:
        order = verify(signed, self._peer.public_key, Settlement)
        link = self.terms.link
        known = self._book.order_by_id(order.settlement) or self._book.order(link, Side.PEER, order.number)
        result = judge_settlement(
            order,
            self.parties,
            known=known.order if known else None,
            next_number=self._book.last_number(link, Side.PEER) + 1,
            position=self._position_for(order),
            threshold_nanodollars=self.terms.threshold_nanodollars,
        )
        if not result.holds:
            raise RemoteProtocolError(
                result.value, f"settlement {order.number} of link {order.link} over {order.amount_nanodollars} n$"
            )
        if result is Acceptance.ACCEPTED:
            with self._book.transaction():
                self._book.put_order(Side.PEER, signed, order)
                transfer = receive_order(order)
                expect(transfer, self._book.apply(transfer))
                if self._claim() < self.terms.threshold_nanodollars:  # it has paid: no need to wait for the interval
                    self._book.put_standing(link, StandingState())
        return SettlementReceipt(settlement=order.settlement, posted=True, already=result is Acceptance.ALREADY)

    def _position_for(self, order: Settlement) -> LinkPosition | None:
        """Ours at the interval of the order; of a later one if we lost that, since what is owed never shrinks."""
        last = self._book.last_round(self.terms.link)
        exact = self._position(order.through_interval)
        return exact if exact is not None or last < order.through_interval else self._position(last)

    def close_interval(self, now_unix_s: int) -> Standing:  # noqa: ARG002 (the caller's clock)
        """Once each interval by our own clock, whether the neighbour speaks or not: its standing with us."""
        before = self._book.link_state(self.terms.link).standing
        after = judge_standing(
            before,
            claim_nanodollars=self._claim(),
            threshold_nanodollars=self.terms.threshold_nanodollars,
            grace_intervals=self.terms.grace_intervals,
        )
        if after != before:
            with self._book.transaction():
                self._book.put_standing(self.terms.link, after)
        return after.standing

    def _claim(self) -> int:
        position = self._position(self._book.last_round(self.terms.link)) or LinkPosition()
        return claim_nanodollars(self._read(), position)

    # --- what people see --------------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """The neighbour's; cheaper than the whole `status`."""
        return self._book.link_state(self.terms.link).standing.standing

    def status(self) -> LinkStatus:
        link, own = self.terms.link, self._read()
        state, settled = self._book.link_state(link), self._book.settled(link)
        last = self._book.last_round(link)
        owed_by_us, owed_by_peer = self._by_us_and_peer(self._book.round(link, last) or Agreed())
        peer = self._book.last_statement(link, Side.PEER)
        forward, backward = state.comparison.forward, state.comparison.backward
        sent, received = (forward, backward) if self.role is Role.CALLER else (backward, forward)
        interval = state.comparison.interval
        certain = forward.clear_interval == backward.clear_interval == interval
        return LinkStatus(
            link=link,
            last_interval=last,
            own=own,
            peer=reading_of(peer.statement) if peer else None,
            owed_by_us=owed_by_us,
            owed_by_peer=owed_by_peer,
            settled_by_us=settled.posted_by_us,
            settled_by_peer=settled.posted_by_peer,
            settlements=settled.count,
            named_sent_nanodollars=sent.named_nanodollars,
            named_received_nanodollars=received.named_nanodollars,
            lines=self._book.lines(link),
            orders=self._book.orders(link),
            standing=state.standing.standing,
            in_default_there=self._in_default_there,
            agrees=certain and own == self._compared(interval),
            trouble=state.trouble,
        )

    def _compared(self, interval: int) -> Reading:
        """Our counters, as the last comparison knew them."""
        closing = self._book.closing(self.terms.link, interval) if self.role is Role.CALLER else None
        own = self._book.statement(self.terms.link, interval, Side.OWN)
        if closing is not None:
            return reading_of(closing)
        return reading_of(own.statement) if own else Reading()

    @contextlib.contextmanager
    def _naming_trouble(self) -> Iterator[None]:
        """A refusal stays on the account until something succeeds."""
        try:
            yield
        except RemoteProtocolError as error:
            self._put_trouble(str(error))
            raise
        self._put_trouble("")

    def _put_trouble(self, trouble: str) -> None:
        if self._book.link_state(self.terms.link).trouble != trouble:
            with self._book.transaction():
                self._book.put_trouble(self.terms.link, trouble)


def book_node_counters(book: Book, *, retained_nanodollars: int, kept_nanodollars: int, share_nanodollars: int) -> None:
    """Books what the node itself earned, from cumulative counters: tolls, payments of packets dropped inside, and a
    receiving host's share. Given twice it is booked once. Raises EnvironmentFault for a counter that went back.
    """
    counters = (
        (AccountKind.TOLL_INCOME, retained_nanodollars),
        (AccountKind.KEPT_ON_DROP, kept_nanodollars),
        (AccountKind.RETURN_SHARE, share_nanodollars),
    )
    with book.transaction():
        for kind, total in counters:
            booked = -book.balance(Account(kind)).posted_nanodollars
            if total < booked:
                raise EnvironmentFault(
                    "book counter", kind.value, f"it went back from {booked} to {total}", "restore the counter file"
                )
            transfers = shift(
                f"node/{kind.value}/{total}",
                debit=Account(AccountKind.TRAFFIC),
                credit=Account(kind),
                delta_nanodollars=total - booked,
            )
            for transfer in transfers:
                expect(transfer, book.apply(transfer))
