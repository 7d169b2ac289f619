"""Two neighbours with real books and a simulated link between them.

What is lost, late, repeated or crashed is the test's choice.  The link is first in, first out, in both directions: what
was sent before a statement arrives before it or is lost, unless `overtake` lets the statement pass.  The simulation
knows the truth (`Way.lost`), which the books have to find.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from billpay.ledger import Account, AccountKind
from billpay.links import Direction, Reading
from billpay.messages import SettlementReceipt, Signed, StatementReply
from billpay.settlement import Role
from billpay.signing import SigningKey
from neighbour.book import Book
from neighbour.control import Unreachable
from neighbour.exchange import LinkExchange, Terms
from neighbour.identity import NodeIdentity

LINK = "X/toA"
NOVEMBER_UNIX_S = 1_793_491_200  # 2026-11-01 00:00 UTC
T = TypeVar("T")


def identity(name: str, directory: Path) -> NodeIdentity:
    return NodeIdentity(name=name, key=SigningKey(name.encode().ljust(32, b".")), directory=directory)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs what never waits for anything: the simulated neighbour answers at once."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waited")


@dataclass(slots=True)
class Way:
    """One direction of the link: what was sent, is on the wire, arrived, and was lost, in nanodollars."""

    sent: int = 0
    sent_packets: int = 0
    received: int = 0
    received_packets: int = 0
    lost: int = 0
    ceiling: int | None = None  # the receiver takes no more than this of a packet
    cut: int = 0
    wire: deque[int] = field(default_factory=deque)
    late: deque[int] = field(default_factory=deque)

    def send(self, amount: int) -> None:
        self.sent += amount
        self.sent_packets += amount > 0
        self.wire.append(amount)

    def deliver(self, packets: int | None = None) -> None:
        """What is late arrives after what follows it."""
        for _ in range(len(self.wire) if packets is None else min(packets, len(self.wire))):
            self._arrive(self.wire.popleft())

    def deliver_late(self) -> None:
        while self.late:
            self._arrive(self.late.popleft())

    def overtake(self) -> None:
        """A statement that is sent now passes all that is on the wire."""
        self.late.extend(self.wire)
        self.wire.clear()

    def lose(self, packets: int) -> None:
        for _ in range(min(packets, len(self.wire))):
            self.lost += self.wire.popleft()

    def _arrive(self, amount: int) -> None:
        taken = amount if self.ceiling is None else min(amount, self.ceiling)
        self.received += taken
        self.cut += amount - taken
        self.received_packets += amount > 0


@dataclass(slots=True)
class Plan:
    """What befalls the next exchange of statements. `during_*`: traffic meanwhile."""

    lose_request: bool = False
    lose_reply: bool = False
    lose_receipt: bool = False
    repeat: bool = False
    during_request: Callable[[], None] = lambda: None
    during_reply: Callable[[], None] = lambda: None


class Crash(BaseException):
    """The process of one side ended here."""


class Node:
    """One side: an identity, a book on disk, counters that survive a crash."""

    def __init__(self, name: str, directory: Path, role: Role, read: Callable[[], Reading]) -> None:
        self.identity = identity(name, directory)
        self.path = directory / f"{name}.sqlite"
        self.role = role
        self.read = read
        self.book: Book
        self.exchange: LinkExchange

    def start(self, peer: Node, terms: Terms) -> None:
        self.book = Book.open(self.path)
        self.exchange = LinkExchange(
            book=self.book,
            identity=self.identity,
            peer=peer.identity.certificate,
            role=self.role,
            terms=terms,
            read=lambda: self.read(),
        )

    def crash_after(self, writes: int) -> None:
        """The process ends before one of the next calls of SQLite; what was not committed is gone."""
        run, left = self.book._run, [writes]

        def run_or_crash(sql: str, *values: object) -> Any:
            if not sql.startswith("ROLLBACK"):  # the file's own doing, when it is opened again
                left[0] -= 1
                if left[0] < 0:
                    raise Crash
            return run(sql, *values)

        setattr(self.book, "_run", run_or_crash)  # noqa: B010 (a method, for this one book)

    def balance(self, kind: AccountKind, link: str = LINK) -> int:
        return self.book.balance(Account(kind, link)).posted_nanodollars


class TwoSides:
    """`caller` (a host) and `answerer` (its gateway); a `client` for the caller that the test's plan disturbs."""

    def __init__(self, directory: Path, *, threshold: int = 1000, grace: int = 3) -> None:
        self.terms = Terms(link=LINK, threshold_nanodollars=threshold, grace_intervals=grace)
        self.forward, self.backward = Way(), Way()
        self.caller = Node("A", directory, Role.CALLER, lambda: _reading(self.forward, self.backward))
        self.answerer = Node("X", directory, Role.ANSWERER, lambda: _reading(self.backward, self.forward))
        self.plan = Plan()
        self.now_unix_s = NOVEMBER_UNIX_S
        self.lost_at_answer: dict[int, dict[Direction, int]] = {}
        self.lost_at_closing: dict[int, dict[Direction, int]] = {}
        self.caller.start(self.answerer, self.terms)
        self.answerer.start(self.caller, self.terms)

    # --- what happens -----------------------------------------------------------------------------------------------

    def restart(self, node: Node) -> None:
        node.book.close()
        node.start(self.answerer if node is self.caller else self.caller, self.terms)
        if node is self.caller:
            try:
                node.exchange.adopt_interval(self.answerer.exchange.next_interval)
            except Crash:
                self.restart(self.answerer)
                node.exchange.adopt_interval(self.answerer.exchange.next_interval)

    def interval(self) -> bool:
        """One interval of the caller; False if it did not come through."""
        self.now_unix_s += 10
        try:
            finish(self.caller.exchange.run_interval(self, self.now_unix_s))
        except Unreachable:
            return False
        except Crash:
            self.restart(self.caller)
            return False
        finally:
            self.plan = Plan()
        return True

    def settle_down(self, intervals: int = 4) -> None:
        """All arrives, nothing new is sent, statements go on."""
        for way in (self.forward, self.backward):
            way.deliver()
            way.deliver_late()
        for _ in range(intervals):
            assert self.interval()

    def close(self) -> None:
        self.caller.book.close()
        self.answerer.book.close()

    # --- the caller's client ----------------------------------------------------------------------------------------

    async def post_statement(self, statement: Signed) -> StatementReply:
        plan = self.plan
        plan.during_request()
        if plan.lose_request:
            raise Unreachable("https://x", "lost on the way there")
        self.forward.deliver()
        try:
            reply = self.answerer.exchange.answer_statement(statement, self.now_unix_s)
            if plan.repeat:
                assert self.answerer.exchange.answer_statement(statement, self.now_unix_s + 1) == reply
            interval = self._answered()
        except Crash:
            self.restart(self.answerer)
            self._answered()
            raise Unreachable("https://x", "it is gone") from None
        self.forward.deliver_late()
        plan.during_reply()
        if plan.lose_reply:
            raise Unreachable("https://x", "lost on the way back")
        self.backward.deliver()
        self.lost_at_closing[interval] = self._lost()
        return reply

    async def post_settlement(self, order: Signed) -> SettlementReceipt:
        try:
            receipt = self.answerer.exchange.accept_settlement(order, self.now_unix_s)
        except Crash:
            self.restart(self.answerer)
            raise Unreachable("https://x", "it is gone") from None
        if self.plan.lose_receipt:
            raise Unreachable("https://x", "lost on the way back")
        return receipt

    def _answered(self) -> int:
        """The last interval that was answered; remembers what was lost by then."""
        interval = self.answerer.exchange.next_interval - 1
        self.lost_at_answer.setdefault(interval, self._lost())
        return interval

    def _lost(self) -> dict[Direction, int]:
        return {Direction.FORWARD: self.forward.lost, Direction.BACKWARD: self.backward.lost}


def _reading(out: Way, back: Way) -> Reading:
    return Reading(
        sent_nanodollars=out.sent,
        received_nanodollars=back.received,
        sent_packets=out.sent_packets,
        received_packets=back.received_packets,
        cut_nanodollars=back.cut,
    )
