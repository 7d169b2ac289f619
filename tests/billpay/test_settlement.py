"""Settlement: exact thresholds, orders that are the same ones after a crash, acceptance once, default in time."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.ledger import Account, AccountKind, Ledger
from billpay.links import Agreed, DifferenceLine, Direction, LineKind, Reading
from billpay.messages import Settlement
from billpay.settlement import (
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
    orders_due,
    period_of,
    plan_settlements,
    post_order,
    receive_order,
    reserve_order,
    void_order,
)

THRESHOLD = 1000
US = Parties(link="X/toA", us="a" * 64, peer="b" * 64)
THEM = Parties(link="X/toA", us="b" * 64, peer="a" * 64)


# --- the debtor -------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-35")
def test_the_threshold_is_a_hundred_dollars_to_the_nanodollar() -> None:
    assert DEFAULT_THRESHOLD_NANODOLLARS == 10**11
    due = [
        orders_due(net, threshold_nanodollars=10**11, period_ended=False) for net in (10**11 - 1, 10**11, 10**11 + 1)
    ]
    assert due == [(), ((10**11, "threshold"),), ((10**11, "threshold"),)]


@pytest.mark.row("BP-06")
@given(net=st.integers(-5000, 80_000), period_ended=st.booleans())
def test_what_is_due_is_whole_thresholds_and_the_rest_at_the_end_of_a_period(net: int, period_ended: bool) -> None:
    due = orders_due(net, threshold_nanodollars=THRESHOLD, period_ended=period_ended)
    total = sum(amount for amount, _ in due)
    assert len(due) <= ORDERS_MAX
    assert 0 <= total <= max(net, 0)
    assert all(amount == THRESHOLD for amount, reason in due if reason == "threshold")
    assert all(0 < amount < THRESHOLD and period_ended for amount, reason in due if reason == "period")
    if len(due) < ORDERS_MAX:
        assert max(net, 0) - total < (1 if period_ended else THRESHOLD)


def plan(net: int, *, number: int = 1, interval: int = 7, now: int = 50, ended: bool = False) -> tuple[Settlement, ...]:
    return plan_settlements(
        US,
        LinkPosition(owed_by_us=net),
        threshold_nanodollars=THRESHOLD,
        period_ended=ended,
        next_number=number,
        through_interval=interval,
        now_unix_s=now,
    )


def test_orders_are_numbered_and_are_the_same_ones_in_the_same_circumstances() -> None:
    first, second, rest = plan(2300, number=5, ended=True)
    assert [order.number for order in (first, second, rest)] == [5, 6, 7]
    assert [order.reason for order in (first, second, rest)] == ["threshold", "threshold", "period"]
    assert plan(2300, number=5, ended=True) == (first, second, rest)
    assert len({order.settlement for order in (first, second, rest, *plan(1000, interval=8, number=5))}) == 4
    assert (first.debtor, first.creditor, first.link) == (US.us, US.peer, US.link)


def test_who_is_owed_orders_nothing() -> None:
    position = LinkPosition(owed_by_us=500, owed_by_peer=3000)
    assert position.net_owed_nanodollars == -2500
    assert plan(0, ended=True) == ()


@pytest.mark.row("BP-06")
@pytest.mark.parametrize(
    ("before", "after", "ended"),
    [
        ((2026, 11, 30, 23, 59, 59), (2026, 12, 1, 0, 0, 0), True),
        ((2026, 12, 31, 23, 59, 59), (2027, 1, 1, 0, 0, 0), True),
        ((2024, 2, 29, 23, 59, 59), (2024, 3, 1, 0, 0, 0), True),
        ((2026, 11, 1, 0, 0, 0), (2026, 11, 30, 23, 59, 59), False),
    ],
)
def test_a_period_is_a_month_in_utc(before: tuple[int, ...], after: tuple[int, ...], ended: bool) -> None:
    def number(parts: tuple[int, ...]) -> int:
        year, month, day, hour, minute, second = parts
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
        return period_of(int(moment.timestamp()))

    assert number(after) - number(before) == int(ended)


# --- the creditor -----------------------------------------------------------------------------------------------------


def accept(order: Settlement, **changes: Any) -> Acceptance:
    facts: dict[str, Any] = {
        "known": None,
        "next_number": 1,
        "position": LinkPosition(owed_by_peer=1500),
        "threshold_nanodollars": THRESHOLD,
    }
    return judge_settlement(order, THEM, **{**facts, **changes})


def test_an_order_is_accepted_when_it_is_owed_and_exact() -> None:
    (order,) = plan(1500)
    assert accept(order) is Acceptance.ACCEPTED
    assert accept(order, known=order) is Acceptance.ALREADY
    assert Acceptance.ALREADY.holds
    (rest,) = plan(400, ended=True)
    assert accept(rest) is Acceptance.ACCEPTED


@pytest.mark.parametrize(
    ("order_changes", "facts", "expected"),
    [
        ({"link": "Y/toA"}, {}, Acceptance.WRONG_PARTIES),
        ({"debtor": "c" * 64}, {}, Acceptance.WRONG_PARTIES),
        ({"creditor": "c" * 64}, {}, Acceptance.WRONG_PARTIES),
        ({"ordered_unix_s": 51}, {"known": plan(1500)[0]}, Acceptance.CONFLICT),
        ({"number": 2}, {}, Acceptance.OUT_OF_ORDER),
        ({}, {"next_number": 2}, Acceptance.OUT_OF_ORDER),
        ({}, {"position": None}, Acceptance.UNKNOWN_INTERVAL),
        ({"amount_nanodollars": 999}, {}, Acceptance.WRONG_AMOUNT),
        ({"amount_nanodollars": 1001}, {}, Acceptance.WRONG_AMOUNT),
        ({"amount_nanodollars": 1001, "reason": "period"}, {}, Acceptance.WRONG_AMOUNT),
        ({"amount_nanodollars": 0, "reason": "period"}, {}, Acceptance.WRONG_AMOUNT),
        ({}, {"position": LinkPosition(owed_by_peer=999)}, Acceptance.MORE_THAN_OWED),
        ({}, {"position": LinkPosition(owed_by_peer=2500, settled_by_peer=2000)}, Acceptance.MORE_THAN_OWED),
        ({}, {"position": LinkPosition(owed_by_us=600, owed_by_peer=1500)}, Acceptance.MORE_THAN_OWED),
    ],
)
def test_the_first_reason_to_refuse_is_given(
    order_changes: dict[str, Any], facts: dict[str, Any], expected: Acceptance
) -> None:
    order: Settlement = msgspec.structs.replace(plan(1500)[0], **order_changes)
    assert accept(order, **facts) is expected
    assert not expected.holds


# --- default ----------------------------------------------------------------------------------------------------------


def standing(state: StandingState, claim: int) -> StandingState:
    return judge_standing(state, claim_nanodollars=claim, threshold_nanodollars=THRESHOLD, grace_intervals=2)


@pytest.mark.row("BP-36")
def test_grace_runs_from_the_threshold_and_ends_in_default_until_it_is_paid() -> None:
    state, seen = StandingState(), []
    for claim in (999, 1000, 1100, 1200, 1200, 999, 1000):
        state = standing(state, claim)
        seen.append(state.standing)
    good, due, default = Standing.GOOD, Standing.DUE, Standing.IN_DEFAULT
    assert seen == [good, due, due, default, default, good, due]


@pytest.mark.row("BP-36")
@given(
    each_interval=st.lists(st.integers(0, 700), min_size=1, max_size=30),
    threshold=st.integers(1, 3000),
    grace=st.integers(1, 5),
)
def test_the_exposure_is_at_most_the_threshold_and_the_traffic_of_the_grace(
    each_interval: list[int], threshold: int, grace: int
) -> None:
    state, exposure = StandingState(), 0
    for amount in each_interval:
        exposure += amount if state.standing is not Standing.IN_DEFAULT else 0
        state = judge_standing(
            state, claim_nanodollars=exposure, threshold_nanodollars=threshold, grace_intervals=grace
        )
    assert exposure < threshold + (grace + 1) * max(max(each_interval), 1)


def test_the_claim_is_by_our_own_counters_less_what_we_owe() -> None:
    position = LinkPosition(owed_by_us=300, owed_by_peer=100, settled_by_us=50, settled_by_peer=400)
    assert claim_nanodollars(Reading(received_nanodollars=2000), position) == 2000 - 400 - (300 - 50)


# --- the transfers of a link ------------------------------------------------------------------------------------------


def book(role: Role, own: Reading, totals: Agreed, cut: int = 0) -> Ledger:
    ledger = Ledger()
    after = RoundTotals(own=own, agreed=totals, cut_by_peer_nanodollars=cut)
    for transfer in interval_transfers("L", 1, role, before=RoundTotals(), after=after):
        assert ledger.apply(transfer).holds
    return ledger


def test_an_interval_splits_our_counters_into_agreed_and_unconfirmed() -> None:
    own = Reading(sent_nanodollars=100, received_nanodollars=40)
    ledger = book(Role.CALLER, own, Agreed(forward_nanodollars=90, backward_nanodollars=35))
    amounts = {account.kind: balance.posted_nanodollars for account, balance in ledger.balances.items()}
    assert amounts == {
        AccountKind.TRAFFIC: 60,
        AccountKind.PAYABLE: -90,
        AccountKind.UNCONFIRMED_SENT: -10,
        AccountKind.RECEIVABLE: 35,
        AccountKind.UNCONFIRMED_RECEIVED: 5,
    }


@pytest.mark.row("MV-07")
@pytest.mark.parametrize(("cut", "booked"), [(7, 7), (10, 10), (10**6, 10)])
def test_what_the_neighbour_cut_off_has_its_own_account_and_is_never_more_than_was_sent(cut: int, booked: int) -> None:
    ledger = book(Role.CALLER, Reading(sent_nanodollars=100), Agreed(forward_nanodollars=90), cut)
    assert ledger.balance(Account(AccountKind.OVER_CEILING, "L")).posted_nanodollars == -booked
    assert ledger.balance(Account(AccountKind.UNCONFIRMED_SENT, "L")).posted_nanodollars == -(10 - booked)
    assert ledger.balance(Account(AccountKind.PAYABLE, "L")).posted_nanodollars == -90


def test_what_one_side_owes_the_other_is_owed() -> None:
    totals = Agreed(forward_nanodollars=90, backward_nanodollars=35)
    caller = book(Role.CALLER, Reading(sent_nanodollars=100, received_nanodollars=40), totals)
    answerer = book(Role.ANSWERER, Reading(sent_nanodollars=44, received_nanodollars=90), totals)
    for debtor, creditor in ((caller, answerer), (answerer, caller)):
        payable = debtor.balance(Account(AccountKind.PAYABLE, "L")).posted_nanodollars
        assert payable == -creditor.balance(Account(AccountKind.RECEIVABLE, "L")).posted_nanodollars


@pytest.mark.parametrize(
    ("direction", "kind", "debit", "credit"),
    [
        (Direction.FORWARD, LineKind.LOSS, AccountKind.UNCONFIRMED_SENT, AccountKind.LINK_LOSS),
        (Direction.FORWARD, LineKind.FOUND, AccountKind.LINK_LOSS, AccountKind.UNCONFIRMED_SENT),
        (Direction.BACKWARD, LineKind.EXCESS, AccountKind.DISPUTED, AccountKind.UNCONFIRMED_RECEIVED),
        (Direction.BACKWARD, LineKind.WITHDRAWN, AccountKind.UNCONFIRMED_RECEIVED, AccountKind.DISPUTED),
        (Direction.BACKWARD, LineKind.LOSS, None, None),  # the neighbour's
        (Direction.FORWARD, LineKind.EXCESS, None, None),
    ],
)
def test_a_line_moves_our_money_only_if_it_was_ours(
    direction: Direction, kind: LineKind, debit: AccountKind | None, credit: AccountKind | None
) -> None:
    line = DifferenceLine(direction=direction, kind=kind, since_interval=1, interval=2, nanodollars=9)
    moved = line_transfers("L", Role.CALLER, line)
    assert [(each.debit.kind, each.credit.kind) for each in moved] == ([(debit, credit)] if debit else [])
    assert [each.amount_nanodollars for each in moved] == ([9] if debit else [])


def test_an_order_is_set_aside_and_paid_or_taken_back_and_received_once() -> None:
    (order,) = plan(1000)
    payable, cash = Account(AccountKind.PAYABLE, US.link), Account(AccountKind.SETTLEMENT)
    for close, paid in ((post_order, 1000), (void_order, 0)):
        ledger = Ledger()
        assert ledger.apply(reserve_order(order)).holds
        assert ledger.balance(payable) == (0, 1000)
        for _ in range(2):
            assert ledger.apply(close(order)).holds
        assert ledger.balance(payable) == (paid, 0)
        assert ledger.balance(cash) == (-paid, 0)
    creditor = Ledger()
    for _ in range(2):
        assert creditor.apply(receive_order(order)).holds
    assert creditor.balance(cash).posted_nanodollars == 1000
    assert creditor.balance(Account(AccountKind.RECEIVABLE, US.link)).posted_nanodollars == -1000
