"""The laptop's account with its gateway: payments, statements and settlements, and whatever befalls them in a week.

`tests/two_sides.py` on somebody else's clock, with a disk of the host's that fills up, and its checks at the end.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from two_sides import Node, TwoSides
from virtual_laptop import full_disk

from billpay.errors import EnvironmentFault
from billpay.ledger import AccountKind
from billpay.links import LineKind

THRESHOLD_NANODOLLARS = 1_000_000
MISHAPS = ("lose_request", "lose_reply", "lose_receipt", "repeat")
MISHAP_PERCENT = 4
CRASH_PERCENT = 1


class GatewayAccount:
    """`happened` counts what befell it."""

    def __init__(self, directory: Path, random_: random.Random) -> None:
        directory.mkdir()
        self.sides = TwoSides(directory, threshold=THRESHOLD_NANODOLLARS)
        self._random = random_
        self.happened: Counter[str] = Counter()

    def pay(self, amount: int) -> None:
        """The host to the gateway, for one packet; some get lost or are late, and some are paid back to the host."""
        self.sides.forward.send(amount)
        if self._random.random() < 0.1:
            self.sides.forward.lose(1)
        if self._random.random() < 0.1:
            self.sides.forward.overtake()
        if self._random.random() < 0.3:
            self.sides.backward.send(amount // 3)

    def leave(self) -> None:
        """The host has left the network: what is on the wire gets lost."""
        for way in (self.sides.forward, self.sides.backward):
            way.overtake()
            way.wire, way.late = way.late, way.wire
            way.lose(len(way.wire))

    def interval(self, unix_s: int, *, online: bool, host_disk_is_full: bool) -> None:
        """The host's clock is what both write on their statements; the gateway closes its interval by its own."""
        sides, draw = self.sides, self._random.randrange(100)
        sides.now_unix_s = unix_s - 10
        if not online:
            sides.plan.lose_request = True
        elif draw < MISHAP_PERCENT:
            mishap = self._random.choice(MISHAPS)
            setattr(sides.plan, mishap, True)
            self.happened[mishap] += 1
        elif draw < MISHAP_PERCENT + CRASH_PERCENT:
            node = self._random.choice((sides.caller, sides.answerer))
            node.crash_after(self._random.randrange(30))
            self.happened[f"crash of {node.identity.name}"] += 1
        if host_disk_is_full:
            _fill_disk_of(sides.caller)
        try:
            self.happened["interval" if sides.interval() else "no answer"] += 1
        except EnvironmentFault:
            self.happened["full disk"] += 1
        for node in (sides.caller, sides.answerer):
            vars(node.book).pop("_run", None)  # neither crashes any more, nor is its disk full
        sides.answerer.exchange.close_interval(unix_s)
        sides.lost_at_answer.clear()
        sides.lost_at_closing.clear()

    def check(self) -> None:
        """At any time: nothing is made, and nothing is settled twice."""
        for node in (self.sides.caller, self.sides.answerer):
            balances = node.book.balances().values()
            assert sum(balance.posted_nanodollars for balance in balances) == 0
            assert sum(balance.reserved_nanodollars for balance in balances) == 0
            orders = [kept.order for kept in node.exchange.status().orders]
            assert len({order.settlement for order in orders}) == len(orders)
            assert len({(order.debtor, order.number) for order in orders}) == len(orders)

    def settle(self, unix_s: int) -> None:
        """After some quiet intervals every nanodollar is settled, owed, or in a named loss, in both books alike."""
        sides = self.sides
        sides.now_unix_s = unix_s
        sides.settle_down(6)
        self.check()
        host, gateway = sides.caller.exchange.status(), sides.answerer.exchange.status()
        assert (host.agrees, gateway.agrees, host.trouble, gateway.trouble) == (True, True, "", "")
        assert host.lines == gateway.lines
        assert (host.owed_by_us, host.owed_by_peer) == (gateway.owed_by_peer, gateway.owed_by_us)
        assert (host.settled_by_us, host.settled_by_peer) == (gateway.settled_by_peer, gateway.settled_by_us)
        assert {order.settlement for order in host.paid} == {order.settlement for order in gateway.paid}
        for way, debtor, creditor, status in (
            (sides.forward, sides.caller, sides.answerer, host),
            (sides.backward, sides.answerer, sides.caller, gateway),
        ):
            owed, settled, named = status.owed_by_us, status.settled_by_us, status.named_sent_nanodollars
            assert not way.wire
            assert owed == way.received == way.sent - way.lost
            assert named == way.lost
            payable, receivable = debtor.balance(AccountKind.PAYABLE), creditor.balance(AccountKind.RECEIVABLE)
            assert -payable == receivable == owed - settled
            assert way.sent == settled - payable + named
            assert debtor.balance(AccountKind.UNCONFIRMED_SENT) == 0
            assert creditor.balance(AccountKind.UNCONFIRMED_RECEIVED) == creditor.balance(AccountKind.DISPUTED) == 0
        assert abs(host.net_owed_nanodollars) < THRESHOLD_NANODOLLARS
        assert all(
            line.kind in (LineKind.LOSS, LineKind.FOUND, LineKind.EXCESS, LineKind.WITHDRAWN) for line in host.lines
        )


def _fill_disk_of(node: Node) -> None:
    run = node.book._run

    def run_on_a_full_disk(sql: str, *values: object) -> Any:
        with full_disk():
            return run(sql, *values)

    setattr(node.book, "_run", run_on_a_full_disk)  # noqa: B010 (a method, for this one book)
