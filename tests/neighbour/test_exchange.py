"""Two sides of a link keep the same account, whatever is lost, repeated or crashed between them."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_sides import LINK, NOVEMBER_UNIX_S, Crash, Node, TwoSides, Way, finish, identity

from billpay.errors import EnvironmentFault, LocalProtocolError, RemoteProtocolError
from billpay.ledger import Account, AccountKind
from billpay.links import Direction, LineKind, Reading
from billpay.messages import Settlement, SettlementReceipt, Signed, Statement, StatementReply
from billpay.settlement import ORDERS_MAX, Role, Standing, settlement_id
from neighbour.book import Book, Side
from neighbour.exchange import LinkExchange, Terms, book_node_counters

HUNDRED_DOLLARS = 10**11


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[TwoSides]:
    both = TwoSides(tmp_path)
    yield both
    both.close()


def ways(sides: TwoSides) -> tuple[tuple[Direction, Way, Node, Node], ...]:
    return (
        (Direction.FORWARD, sides.forward, sides.caller, sides.answerer),
        (Direction.BACKWARD, sides.backward, sides.answerer, sides.caller),
    )


def check_books(sides: TwoSides) -> None:
    """What holds at any time: nothing made, nothing paid twice, no settlement on one side only but those under way."""
    for node in (sides.caller, sides.answerer):
        balances = node.book.balances()
        assert sum(balance.posted_nanodollars for balance in balances.values()) == 0
        assert sum(balance.reserved_nanodollars for balance in balances.values()) == 0
    a, x = sides.caller.exchange.status(), sides.answerer.exchange.status()
    for debtor, creditor, us in ((a, x, sides.caller), (x, a, sides.answerer)):
        ordered = [kept.order for kept in debtor.orders if kept.order.debtor == us.identity.fingerprint]
        posted = [order for order in debtor.paid if order.debtor == us.identity.fingerprint]
        accepted = [order for order in creditor.paid if order.debtor == us.identity.fingerprint]
        assert [order.number for order in ordered] == list(range(1, len(ordered) + 1))
        assert posted == ordered[: len(posted)]
        assert accepted == ordered[: len(accepted)]
        assert len(posted) <= len(accepted)
        for order in ordered:
            if order.reason == "threshold":
                assert order.amount_nanodollars == sides.terms.threshold_nanodollars
            assert order.amount_nanodollars <= sides.terms.threshold_nanodollars


def in_order(orders: tuple[Settlement, ...]) -> list[Settlement]:
    """Orders of both sides may cross, and are then kept in another order."""
    return sorted(orders, key=lambda order: (order.debtor, order.number))


def check_settled_down(sides: TwoSides) -> None:
    """With an idle link and a few statements: both say the same, and it is the truth."""
    a, x = sides.caller.exchange.status(), sides.answerer.exchange.status()
    assert a.agrees
    assert x.agrees
    assert a.lines == x.lines
    assert in_order(a.paid) == in_order(x.paid)
    assert (a.owed_by_us, a.owed_by_peer) == (x.owed_by_peer, x.owed_by_us)
    assert (a.settled_by_us, a.settled_by_peer) == (x.settled_by_peer, x.settled_by_us)
    assert a.net_owed_nanodollars == -x.net_owed_nanodollars
    assert abs(a.net_owed_nanodollars) < sides.terms.threshold_nanodollars
    assert a.trouble == x.trouble == ""
    for direction, way, sender, receiver in ways(sides):
        named = {
            kind: sum(line.nanodollars for line in a.lines if (line.direction, line.kind) == (direction, kind))
            for kind in LineKind
        }
        assert named[LineKind.LOSS] - named[LineKind.FOUND] == way.lost == way.sent - way.received
        assert named[LineKind.EXCESS] == named[LineKind.WITHDRAWN]
        assert sender.balance(AccountKind.LINK_LOSS) == -way.lost
        assert sender.balance(AccountKind.UNCONFIRMED_SENT) == 0
        assert receiver.balance(AccountKind.UNCONFIRMED_RECEIVED) == 0
        assert receiver.balance(AccountKind.DISPUTED) == 0
        assert sender.balance(AccountKind.PAYABLE) == -receiver.balance(AccountKind.RECEIVABLE)
        settled = sum(order.amount_nanodollars for order in a.paid if order.debtor == sender.identity.fingerprint)
        assert -sender.balance(AccountKind.PAYABLE) == way.received - settled
    for node, out, back in (
        (sides.caller, sides.forward, sides.backward),
        (sides.answerer, sides.backward, sides.forward),
    ):
        own = (AccountKind.TRAFFIC, AccountKind.TOLL_INCOME, AccountKind.KEPT_ON_DROP, AccountKind.RETURN_SHARE)
        assert sum(node.balance(kind, "") for kind in own) == out.sent - back.received


def check_loss_lines_are_true(sides: TwoSides) -> None:
    """Where nothing overtakes: only loss is named; it was complete after `since_interval` and by `interval`."""
    for direction in Direction:
        named = 0
        for line in sides.caller.exchange.status().lines:
            if line.direction is direction:
                assert line.kind is LineKind.LOSS
                named += line.nanodollars
                before = sides.lost_at_answer[line.since_interval][direction] if line.since_interval else 0
                assert before < named <= sides.lost_at_closing[line.interval][direction]


@pytest.mark.row("MV-07")
def test_what_the_gateway_cuts_off_is_booked_by_its_name_and_is_no_loss(sides: TwoSides) -> None:
    """A host that carries more than its organisation allows owes the ceiling; the rest is neither lost nor disputed."""
    sides.forward.ceiling = 30
    for amount in (100, 30, 7, 100, 31):
        sides.forward.send(amount)
        sides.plan.during_request = lambda: sides.forward.send(50)  # on the wire while the counters are read
        sides.interval()
    sides.forward.send(20)
    sides.forward.lose(1)
    sides.settle_down()
    host, gateway = sides.caller.exchange.status(), sides.answerer.exchange.status()
    assert sides.forward.cut == 70 + 70 + 1 + 5 * 20
    assert sides.caller.balance(AccountKind.OVER_CEILING) == -sides.forward.cut
    assert sides.caller.balance(AccountKind.LINK_LOSS) == -20
    assert sides.caller.balance(AccountKind.UNCONFIRMED_SENT) == 0
    assert sides.answerer.balance(AccountKind.DISPUTED) == 0
    assert host.owed_by_us == gateway.owed_by_peer == sides.forward.received
    assert [(line.kind, line.nanodollars) for line in host.lines] == [(LineKind.LOSS, 20)]
    assert host.lines == gateway.lines
    assert host.agrees
    assert gateway.agrees


# --- traffic, loss and settlement -------------------------------------------------------------------------------------


@pytest.mark.row("BP-07")
def test_both_counters_are_equal_and_what_the_gateway_drops_is_owed_all_the_same(sides: TwoSides) -> None:
    for _ in range(5):
        sides.forward.send(100)
    sides.settle_down()
    owed = sides.caller.exchange.status().owed_by_us
    assert owed == sides.answerer.exchange.status().owed_by_peer == 500
    # The gateway drops every one of them after it received them: the payment stays with it, and is owed.
    for _ in range(2):
        book_node_counters(sides.answerer.book, retained_nanodollars=120, kept_nanodollars=380, share_nanodollars=0)
    sides.settle_down()
    assert sides.caller.exchange.status().owed_by_us == 500
    assert sides.answerer.balance(AccountKind.KEPT_ON_DROP, "") == -380
    assert sides.answerer.balance(AccountKind.TOLL_INCOME, "") == -120
    assert sides.answerer.balance(AccountKind.TRAFFIC, "") == 0
    check_settled_down(sides)


@pytest.mark.row("BP-35")
@pytest.mark.parametrize("direction", Direction)
def test_a_hundred_dollars_are_settled_exactly_and_one_nanodollar_less_is_not(
    tmp_path: Path, direction: Direction
) -> None:
    sides = TwoSides(tmp_path, threshold=HUNDRED_DOLLARS)
    way = sides.forward if direction is Direction.FORWARD else sides.backward
    for _ in range(100):
        way.send(10**9)
    way.deliver(99)
    way.wire.clear()
    way.sent = way.received + HUNDRED_DOLLARS // 100 - 1  # as if the last packet had carried one less
    way.received = way.sent
    sides.settle_down()
    assert sides.caller.exchange.status().settlements == 0
    way.send(1)
    sides.settle_down()
    for node in (sides.caller, sides.answerer):
        status = node.exchange.status()
        assert [order.amount_nanodollars for order in status.paid] == [HUNDRED_DOLLARS]
        assert [order.reason for order in status.paid] == ["threshold"]
        assert status.net_owed_nanodollars == 0
    check_books(sides)
    sides.close()


def test_several_thresholds_at_once_are_several_orders_and_never_more_than_a_reply_carries(sides: TwoSides) -> None:
    sides.backward.send(1000 * (ORDERS_MAX + 3) + 7)
    sides.settle_down(1)
    check_books(sides)
    assert len(sides.answerer.exchange.status().orders) == ORDERS_MAX
    sides.settle_down()
    check_settled_down(sides)
    assert sides.caller.exchange.status().settlements == ORDERS_MAX + 3
    assert sides.answerer.exchange.status().net_owed_nanodollars == 7


def test_orders_that_nobody_accepts_do_not_pile_up_and_the_rest_of_the_month_waits_for_them(sides: TwoSides) -> None:
    sides.backward.send(1000 * (ORDERS_MAX - 1))
    sides.backward.deliver()
    statement = {"sampled_unix_s": sides.now_unix_s}  # of a caller that loses every answer
    reply = sides.answerer.exchange.answer_statement(statement_of(sides, **statement), sides.now_unix_s)
    assert len(reply.settlements) == ORDERS_MAX - 1
    sides.backward.send(5007)
    sides.backward.deliver()
    sides.now_unix_s += 31 * 86_400
    reply = sides.answerer.exchange.answer_statement(statement_of(sides, **statement), sides.now_unix_s)
    assert len(reply.settlements) == len(sides.answerer.exchange.status().orders) == ORDERS_MAX
    sides.caller.exchange.adopt_interval(sides.answerer.exchange.next_interval)
    sides.settle_down()
    check_settled_down(sides)
    paid = sides.caller.exchange.status().paid
    assert [order.amount_nanodollars for order in paid] == [1000] * (ORDERS_MAX + 4) + [7]
    assert paid[-1].reason == "period"


def test_traffic_in_both_directions_is_netted(sides: TwoSides) -> None:
    for _ in range(30):
        sides.forward.send(100)
        sides.backward.send(90)
        assert sides.interval()
    sides.settle_down()
    assert sides.caller.exchange.status().settlements == 0
    assert sides.caller.exchange.status().net_owed_nanodollars == 300
    check_settled_down(sides)


def test_a_loss_in_one_interval_is_named_once_with_its_interval(sides: TwoSides) -> None:
    for interval in range(1, 8):
        sides.forward.send(40)
        if interval == 4:
            sides.forward.send(13)
            sides.forward.deliver(1)
            sides.forward.lose(1)
        assert sides.interval()
    sides.settle_down()
    for node in (sides.caller, sides.answerer):
        (line,) = node.exchange.status().lines
        assert (line.kind, line.direction) == (LineKind.LOSS, Direction.FORWARD)
        assert (line.since_interval, line.interval, line.nanodollars) == (3, 4, 13)
    check_settled_down(sides)


def test_a_packet_that_a_statement_overtook_is_not_a_loss(sides: TwoSides) -> None:
    for interval in range(1, 12):
        sides.forward.send(20)
        if interval % 3 == 0:
            sides.forward.overtake()
        assert sides.interval()
    sides.settle_down()
    assert sides.caller.exchange.status().lines == ()
    check_settled_down(sides)


def test_a_loss_hidden_by_traffic_on_the_wire_is_named_when_the_wire_is_empty(sides: TwoSides) -> None:
    def more() -> None:
        sides.forward.send(50)

    for interval in range(1, 9):
        if interval == 3:
            sides.forward.deliver()
            sides.forward.send(30)
            sides.forward.lose(1)
        sides.forward.send(50)
        sides.plan.during_request = more  # more than was lost is on the wire at each statement
        assert sides.interval()
    assert sides.caller.exchange.status().lines == ()
    sides.settle_down()
    (line,) = sides.caller.exchange.status().lines
    assert line.nanodollars == 30
    assert line.since_interval < 3 <= line.interval
    check_settled_down(sides)


def test_what_a_receiver_claims_beyond_what_was_sent_is_disputed_and_not_owed(sides: TwoSides) -> None:
    sides.forward.send(100)
    assert sides.interval()
    sides.forward.received += 25  # the gateway's count is wrong
    sides.settle_down()
    a, x = sides.caller.exchange.status(), sides.answerer.exchange.status()
    assert a.owed_by_us == x.owed_by_peer == 100
    assert a.excess_nanodollars == x.excess_nanodollars == 25
    assert [(line.kind, line.nanodollars) for line in x.lines] == [(LineKind.EXCESS, 25)]
    assert a.lines == x.lines
    assert sides.answerer.balance(AccountKind.DISPUTED) == 25
    assert sides.answerer.balance(AccountKind.UNCONFIRMED_RECEIVED) == 0


@pytest.mark.row("BP-06")
@pytest.mark.parametrize("direction", Direction)
def test_the_end_of_a_month_settles_the_rest_once(sides: TwoSides, direction: Direction) -> None:
    way = sides.forward if direction is Direction.FORWARD else sides.backward
    way.send(1234)
    sides.settle_down()
    assert [order.amount_nanodollars for order in sides.caller.exchange.status().paid] == [1000]
    december = int(datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC).timestamp())
    sides.now_unix_s = december - 20
    assert sides.interval()  # ten seconds to midnight
    assert sides.caller.exchange.status().settlements == 1
    sides.plan.repeat = True
    assert sides.interval()
    sides.restart(sides.caller)
    sides.restart(sides.answerer)
    sides.settle_down()
    for node in (sides.caller, sides.answerer):
        paid = node.exchange.status().paid
        assert [(order.amount_nanodollars, order.reason) for order in paid] == [(1000, "threshold"), (234, "period")]
        assert node.exchange.status().net_owed_nanodollars == 0
    way.send(5)
    sides.settle_down()
    assert sides.caller.exchange.status().settlements == 2  # the new month has its own end
    sides.now_unix_s = int(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC).timestamp())
    sides.settle_down()
    assert sides.caller.exchange.status().paid[-1].amount_nanodollars == 5
    check_settled_down(sides)


# --- default ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-36")
@pytest.mark.parametrize("silent", [True, False], ids=["no statements", "no settlements"])
def test_who_does_not_settle_is_in_default_and_the_exposure_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    sides = TwoSides(tmp_path, grace=3)
    each_interval = 300

    async def never(*_: object) -> SettlementReceipt:
        raise RemoteProtocolError("no-money", "not today")

    with monkeypatch.context() as patch:
        patch.setattr(sides, "post_settlement", never)
        standings = []
        for _ in range(20):
            in_default = sides.answerer.exchange.standing is Standing.IN_DEFAULT
            sides.forward.sent += each_interval
            sides.forward.received += 0 if in_default else each_interval  # payments of a defaulter count as unpaid
            if not silent:
                with contextlib.suppress(RemoteProtocolError):
                    sides.interval()
            standings.append(sides.answerer.exchange.close_interval(sides.now_unix_s))
    assert standings[:3] == [Standing.GOOD] * 3  # 300, 600, 900
    assert standings[3:6] == [Standing.DUE] * 3
    assert set(standings[6:]) == {Standing.IN_DEFAULT}
    exposure = sides.forward.received
    assert exposure <= sides.terms.threshold_nanodollars + (sides.terms.grace_intervals + 1) * each_interval
    sides.restart(sides.answerer)
    assert sides.answerer.exchange.status().standing is Standing.IN_DEFAULT
    # It pays: the standing is good at once, and what was not taken meanwhile is its loss.
    sides.settle_down()
    assert sides.answerer.exchange.standing is Standing.GOOD
    assert sides.answerer.exchange.close_interval(sides.now_unix_s) is Standing.GOOD
    a = sides.caller.exchange.status()
    assert a.settled_by_us == 2000
    assert a.loss_nanodollars == sides.forward.sent - exposure
    check_books(sides)
    sides.close()


def test_a_defaulter_is_told_in_the_answer(sides: TwoSides) -> None:
    sides.forward.received = sides.forward.sent = 1500
    for _ in range(4):
        sides.answerer.exchange.close_interval(sides.now_unix_s)
    assert sides.interval()
    assert sides.caller.exchange.status().in_default_there
    assert sides.interval()
    assert not sides.caller.exchange.status().in_default_there


# --- lost, repeated and wrong messages --------------------------------------------------------------------------------


def test_a_lost_request_and_a_lost_reply_cost_nothing(sides: TwoSides) -> None:
    for plan in ("lose_request", "lose_reply", "lose_receipt"):
        sides.forward.send(1000)
        sides.backward.send(100)
        setattr(sides.plan, plan, True)
        assert not sides.interval()
        check_books(sides)
    sides.settle_down()
    check_settled_down(sides)
    assert sides.caller.exchange.status().lines == ()


def test_the_orders_of_the_answering_side_ride_until_the_caller_shows_that_it_posted_them(sides: TwoSides) -> None:
    sides.backward.send(1000)
    assert sides.interval()
    sides.plan.lose_reply = True
    assert not sides.interval()
    (kept,) = sides.answerer.exchange.status().orders
    assert not kept.posted
    assert sides.interval()  # comes with the answer given again, and is shown by the statement that follows at once
    assert sides.caller.exchange.status().paid == (kept.order,)
    assert sides.answerer.exchange.status().paid == (kept.order,)
    check_books(sides)
    assert sides.answerer.balance(AccountKind.PAYABLE) == 0
    assert sides.answerer.balance(AccountKind.SETTLEMENT, "") == -1000
    assert sides.caller.balance(AccountKind.SETTLEMENT, "") == 1000


def statement_of(sides: TwoSides, **changes: object) -> Signed:
    """As the caller would make it, but for the changes."""
    plain = Statement(
        link=LINK,
        issuer=sides.caller.identity.fingerprint,
        peer=sides.answerer.identity.fingerprint,
        interval=sides.answerer.exchange.next_interval,
        sampled_unix_s=sides.now_unix_s,
        sent_nanodollars=sides.forward.sent,
        received_nanodollars=sides.backward.received,
        sent_packets=sides.forward.sent_packets,
        received_packets=sides.backward.received_packets,
    )
    changed: Statement = msgspec.structs.replace(plain, **changes)
    return sides.caller.identity.sign(changed)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"interval": 1, "sampled_unix_s": 5}, "statement-conflict"),
        ({"interval": 0}, "old-interval"),
        ({"sent_nanodollars": 99}, "counter-went-back"),
        ({"sent_packets": 0}, "counter-went-back"),
        ({"link": "X/toB"}, "wrong-parties"),
        ({"issuer": "0" * 64}, "wrong-parties"),
        ({"peer": "0" * 64}, "wrong-parties"),
        ({"settled_number": 1}, "unknown-settlement"),
    ],
)
def test_a_statement_that_cannot_be_is_refused_and_named(
    sides: TwoSides, changes: dict[str, object], code: str
) -> None:
    sides.forward.send(100)
    assert sides.interval()
    before = sides.answerer.book.balances()
    with pytest.raises(RemoteProtocolError) as caught:
        sides.answerer.exchange.answer_statement(statement_of(sides, **changes), sides.now_unix_s)
    assert caught.value.code == code
    assert sides.answerer.exchange.status().trouble == str(caught.value)
    assert sides.answerer.book.balances() == before
    sides.settle_down()
    check_settled_down(sides)


def test_a_statement_by_another_key_is_refused(sides: TwoSides, tmp_path: Path) -> None:
    forger = identity("E", tmp_path)
    statement = msgspec.json.decode(statement_of(sides).document, type=Statement)
    with pytest.raises(RemoteProtocolError, match="wrong-signer"):
        sides.answerer.exchange.answer_statement(forger.sign(statement), sides.now_unix_s)


def test_a_closing_that_is_not_between_the_statements_is_refused(sides: TwoSides) -> None:
    sides.forward.send(100)
    assert sides.interval()
    closing = sides.caller.book.closing(LINK, 1)
    assert closing is not None
    for sent in (99, 101):
        wrong = msgspec.structs.replace(closing, sent_nanodollars=sent)
        with pytest.raises(RemoteProtocolError, match="bad-closing"):
            sides.answerer.exchange.answer_statement(statement_of(sides, closing=wrong), sides.now_unix_s)
    sides.settle_down()
    check_settled_down(sides)


def test_counters_that_were_lost_are_refused_by_both_sides_and_nothing_is_paid(sides: TwoSides) -> None:
    sides.forward.send(700)
    sides.settle_down()
    sides.forward.sent -= 1
    with pytest.raises(RemoteProtocolError, match="own-counter-went-back: our counter of link X/toA is lower"):
        sides.interval()
    sides.forward.sent += 1
    sides.forward.received -= 1
    with pytest.raises(RemoteProtocolError, match="own-counter-went-back"):
        sides.interval()
    assert sides.answerer.exchange.status().trouble.startswith("own-counter-went-back")
    sides.forward.received += 1
    sides.settle_down()
    check_settled_down(sides)


def test_a_caller_that_lost_its_state_directory_cannot_state_less_than_before(tmp_path: Path) -> None:
    sides = TwoSides(tmp_path)
    sides.forward.send(700)
    sides.settle_down()
    sides.caller.book.close()
    for file in tmp_path.glob("A.sqlite*"):
        file.unlink()
    sides.caller.start(sides.answerer, sides.terms)
    sides.caller.exchange.adopt_interval(sides.answerer.exchange.next_interval)
    sides.forward.sent = 0
    with pytest.raises(RemoteProtocolError, match="counter-went-back: a counter of link X/toA is lower in interval 5"):
        sides.interval()
    assert "counter-went-back" in sides.answerer.exchange.status().trouble
    sides.forward.sent = 700  # with its counters it may go on, book or not
    sides.settle_down()
    assert sides.caller.exchange.status().owed_by_us == sides.answerer.exchange.status().owed_by_peer == 700
    sides.close()


def test_a_caller_restored_from_an_older_copy_gives_up_its_old_statement(sides: TwoSides) -> None:
    sides.forward.send(10)
    sides.plan.lose_request = True
    assert not sides.interval()  # statement 1 is pending
    sides.answerer.exchange.answer_statement(statement_of(sides, interval=3), sides.now_unix_s)
    sides.caller.exchange.adopt_interval(sides.answerer.exchange.next_interval)
    sides.settle_down()
    assert sides.caller.exchange.status().owed_by_us == 10
    assert sides.caller.exchange.status().last_interval == 7


def test_an_answer_for_another_interval_is_refused(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    sides.forward.send(10)
    assert sides.interval()
    old = sides.answerer.book.statement(LINK, 1, Side.OWN)
    assert old is not None

    async def answer_before(_: Signed) -> StatementReply:
        return StatementReply(statement=old.signed)

    with monkeypatch.context() as patch:
        patch.setattr(sides, "post_statement", answer_before)
        with pytest.raises(RemoteProtocolError, match="wrong-interval"):
            sides.interval()
    sides.settle_down()
    check_settled_down(sides)


def test_a_receipt_for_another_order_posts_nothing(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(_: Signed) -> SettlementReceipt:
        return SettlementReceipt(settlement="0" * 32, posted=True, already=False)

    sides.forward.send(1000)
    with monkeypatch.context() as patch:
        patch.setattr(sides, "post_settlement", other)
        with pytest.raises(RemoteProtocolError, match="wrong-receipt"):
            sides.interval()
    assert sides.caller.exchange.status().settlements == 0
    sides.settle_down()
    check_settled_down(sides)


def order_of(sides: TwoSides, **changes: object) -> Signed:
    """The caller's first order of one threshold, but for the changes; its id follows from what it says."""
    us, peer = sides.caller.identity.fingerprint, sides.answerer.identity.fingerprint
    plain = Settlement(
        settlement="0" * 32,
        link=LINK,
        debtor=us,
        creditor=peer,
        number=1,
        amount_nanodollars=1000,
        through_interval=sides.answerer.exchange.status().last_interval,
        reason="threshold",
        ordered_unix_s=sides.now_unix_s,
    )
    order: Settlement = msgspec.structs.replace(plain, **changes)
    if "settlement" not in changes:
        own_id = settlement_id(
            sides.caller.exchange.parties,
            number=order.number,
            through_interval=order.through_interval,
            amount_nanodollars=order.amount_nanodollars,
        )
        order = msgspec.structs.replace(order, settlement=own_id)
    return sides.caller.identity.sign(order)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"link": "X/toB"}, "wrong-parties"),
        ({"debtor": "0" * 64}, "wrong-parties"),
        ({"number": 2}, "out-of-order"),
        ({"number": 0}, "out-of-order"),
        ({"through_interval": 77}, "unknown-interval"),
        ({"amount_nanodollars": 999}, "wrong-amount"),
        ({"amount_nanodollars": 0, "reason": "period"}, "wrong-amount"),
        ({"amount_nanodollars": 1001, "reason": "period"}, "wrong-amount"),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_its_code(
    sides: TwoSides, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], code: str
) -> None:
    owe_a_threshold(sides, monkeypatch)
    with pytest.raises(RemoteProtocolError) as caught:
        sides.answerer.exchange.accept_settlement(order_of(sides, **changes), sides.now_unix_s)
    assert caught.value.code == code
    sides.settle_down()
    check_settled_down(sides)


def test_an_order_is_accepted_once_and_another_one_under_its_id_or_number_never(
    sides: TwoSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    owe_a_threshold(sides, monkeypatch)
    (kept,) = sides.caller.exchange.status().orders
    accept = sides.answerer.exchange.accept_settlement
    assert not accept(kept.signed, sides.now_unix_s).already
    assert accept(kept.signed, sides.now_unix_s).already
    for changes in ({"ordered_unix_s": 5}, {"number": 2, "settlement": kept.order.settlement}):
        with pytest.raises(RemoteProtocolError, match="settlement-conflict"):
            accept(order_of(sides, **changes), sides.now_unix_s)
    with pytest.raises(RemoteProtocolError, match="more-than-owed"):
        accept(order_of(sides, number=2), sides.now_unix_s)
    assert sides.answerer.exchange.status().settled_by_peer == 1000
    sides.settle_down()
    check_settled_down(sides)


def test_an_order_that_the_caller_refuses_does_not_stop_the_statements(tmp_path: Path) -> None:
    sides = TwoSides(tmp_path)
    sides.caller.book.close()
    sides.caller.start(sides.answerer, Terms(link=LINK, threshold_nanodollars=700))
    sides.backward.send(1000)
    assert sides.interval()  # the packet comes with the answer, so that it is owed an interval later
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="wrong-amount"):
            sides.interval()
    assert sides.caller.exchange.status().last_interval == 4
    assert sides.caller.exchange.status().trouble.startswith("wrong-amount")
    check_books(sides)
    sides.close()


def owe_a_threshold(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller has ordered and could not post."""

    async def lost(_: Signed) -> SettlementReceipt:
        raise RemoteProtocolError("http-503", "later")

    sides.forward.send(1000)
    with monkeypatch.context() as patch:
        patch.setattr(sides, "post_settlement", lost)
        with pytest.raises(RemoteProtocolError, match="http-503"):
            sides.interval()


# --- who calls, and whose book ----------------------------------------------------------------------------------------


def test_each_side_has_its_role(sides: TwoSides) -> None:
    with pytest.raises(LocalProtocolError):
        finish(sides.answerer.exchange.run_interval(sides, NOVEMBER_UNIX_S))
    with pytest.raises(RemoteProtocolError, match="wrong-role"):
        sides.caller.exchange.answer_statement(statement_of(sides), NOVEMBER_UNIX_S)


def test_the_account_of_a_link_is_with_one_neighbour(sides: TwoSides, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="give the link a new name"):
        LinkExchange(
            book=sides.caller.book,
            identity=sides.caller.identity,
            peer=identity("E", tmp_path).certificate,
            role=Role.CALLER,
            terms=sides.terms,
            read=Reading,
        )


def test_an_untouched_link_agrees_and_the_first_packet_is_not_yet_compared(sides: TwoSides) -> None:
    assert sides.caller.exchange.status().agrees
    sides.forward.send(1)
    assert not sides.caller.exchange.status().agrees
    sides.settle_down()
    assert sides.caller.exchange.status().agrees


def test_a_nodes_own_counter_that_went_back_is_a_fault(tmp_path: Path) -> None:
    with Book.open(tmp_path / "book") as book:
        book_node_counters(book, retained_nanodollars=5, kept_nanodollars=0, share_nanodollars=2)
        with pytest.raises(EnvironmentFault, match="toll-income: it went back from 5 to 4"):
            book_node_counters(book, retained_nanodollars=4, kept_nanodollars=1, share_nanodollars=2)
        book_node_counters(book, retained_nanodollars=6, kept_nanodollars=1, share_nanodollars=2)
        assert book.balance(Account(AccountKind.TRAFFIC)).posted_nanodollars == 9


# --- whatever happens -------------------------------------------------------------------------------------------------

AMOUNTS = st.integers(min_value=0, max_value=400)
WAYS = st.sampled_from(["forward", "backward"])
TRAFFIC = st.lists(st.tuples(WAYS, AMOUNTS), max_size=3)
CRASHES = st.none() | st.tuples(st.sampled_from(["caller", "answerer"]), st.integers(min_value=0, max_value=60))
STEPS = st.one_of(
    st.tuples(st.just("send"), WAYS, AMOUNTS),
    st.tuples(st.just("deliver"), WAYS, st.integers(min_value=1, max_value=4)),
    st.tuples(st.just("lose"), WAYS, st.integers(min_value=1, max_value=2)),
    st.tuples(
        st.just("interval"),
        st.sampled_from(["", "", "", "lose_request", "lose_reply", "lose_receipt", "repeat"]),
        TRAFFIC,
        TRAFFIC,
        CRASHES,
    ),
    st.tuples(st.just("restart"), st.sampled_from(["caller", "answerer"])),
    st.tuples(st.just("month")),
)


def send(sides: TwoSides, traffic: list[tuple[str, int]]) -> None:
    for way, amount in traffic:
        getattr(sides, way).send(amount)


def take(sides: TwoSides, step: tuple[object, ...]) -> None:
    match step:
        case ("send" | "deliver" | "lose" as what, str(way), int(number)):
            getattr(getattr(sides, way), what)(number)
        case ("overtake", str(way)):
            getattr(sides, way).overtake()
        case ("restart", str(name)):
            sides.restart(getattr(sides, name))
        case ("month",):
            sides.now_unix_s += 31 * 86_400
        case ("interval", str(trouble), list(before), list(after), crash):
            sides.plan.during_request = lambda: send(sides, before)
            sides.plan.during_reply = lambda: send(sides, after)
            if trouble:
                setattr(sides.plan, trouble, True)
            if isinstance(crash, tuple):
                getattr(sides, crash[0]).crash_after(crash[1])
            sides.interval()
            if isinstance(crash, tuple):
                sides.restart(getattr(sides, crash[0]))
        case _:
            raise AssertionError(step)


@pytest.mark.row("BP-07", "BP-35")
@given(steps=st.lists(STEPS, max_size=25))
def test_whatever_is_lost_repeated_or_crashed_both_books_say_the_same_and_the_truth(
    steps: list[tuple[object, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sides = TwoSides(Path(directory))
        for step in steps:
            try:
                take(sides, step)
            except Crash:
                raise AssertionError(f"a crash got through at {step}") from None
            check_books(sides)
        sides.settle_down()
        check_books(sides)
        check_settled_down(sides)
        check_loss_lines_are_true(sides)
        sides.close()


@given(steps=st.lists(st.one_of(STEPS, st.tuples(st.just("overtake"), WAYS)), max_size=25))
def test_statements_that_overtake_packets_change_nothing_in_the_end(steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sides = TwoSides(Path(directory))
        for step in steps:
            take(sides, step)
            check_books(sides)
        sides.settle_down()
        check_settled_down(sides)
        sides.close()
