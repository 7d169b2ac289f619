"""The ledger: applied once, refused in a fixed order of reasons, and always in balance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from billpay.ledger import (
    AMOUNT_MAX,
    Account,
    AccountKind,
    Balance,
    Ledger,
    Phase,
    Transfer,
    TransferResult,
    expect,
    judge,
    shift,
)

OWED = Account(AccountKind.PAYABLE, "X/toA")
CASH = Account(AccountKind.SETTLEMENT)
TRAFFIC = Account(AccountKind.TRAFFIC)


def post(transfer: str = "a", amount: int = 10) -> Transfer:
    return Transfer(transfer=transfer, debit=OWED, credit=CASH, amount_nanodollars=amount)


def reserve(transfer: str = "r", amount: int = 10) -> Transfer:
    return replace(post(transfer, amount), phase=Phase.RESERVE)


def close(phase: Phase, transfer: str = "c", amount: int = 10) -> Transfer:
    return replace(post(transfer, amount), phase=phase, reserved="r")


def test_a_transfer_leaves_one_account_and_enters_another() -> None:
    ledger = Ledger()
    assert ledger.apply(post()) is TransferResult.APPLIED
    assert ledger.balance(OWED) == Balance(10, 0)
    assert ledger.balance(CASH) == Balance(-10, 0)
    assert ledger.balance(TRAFFIC) == Balance()


def test_the_same_transfer_again_is_success_without_effect_and_another_under_its_id_is_a_conflict() -> None:
    ledger = Ledger()
    ledger.apply(post())
    assert ledger.apply(post()) is TransferResult.DUPLICATE
    assert TransferResult.DUPLICATE.holds
    assert ledger.apply(post(amount=11)) is TransferResult.CONFLICT
    assert not TransferResult.CONFLICT.holds
    assert ledger.balance(OWED) == Balance(10, 0)


@pytest.mark.expectation(16)
def test_a_reserve_is_set_aside_and_then_posted_or_voided() -> None:
    ledger = Ledger()
    ledger.apply(reserve())
    assert ledger.balance(OWED) == Balance(0, 10)
    assert ledger.apply(close(Phase.POST_RESERVED, amount=7)) is TransferResult.APPLIED
    assert ledger.balance(OWED) == Balance(7, 0)  # the rest is released
    assert ledger.apply(close(Phase.VOID_RESERVED, "d")) is TransferResult.RESERVE_POSTED
    other = Ledger()
    other.apply(reserve())
    assert other.apply(close(Phase.VOID_RESERVED)) is TransferResult.APPLIED
    assert other.balance(OWED) == Balance(0, 0)
    assert other.apply(close(Phase.POST_RESERVED, "d")) is TransferResult.RESERVE_VOIDED


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [
        (post(amount=0), TransferResult.AMOUNT_OUT_OF_RANGE),
        (post(amount=-1), TransferResult.AMOUNT_OUT_OF_RANGE),
        (post(amount=AMOUNT_MAX + 1), TransferResult.AMOUNT_OUT_OF_RANGE),
        (post(amount=AMOUNT_MAX), TransferResult.APPLIED),
        (replace(post(), credit=OWED), TransferResult.SAME_ACCOUNT),
        (replace(close(Phase.POST_RESERVED), reserved="x"), TransferResult.UNKNOWN_RESERVE),
        (replace(close(Phase.POST_RESERVED), reserved="p"), TransferResult.UNKNOWN_RESERVE),
        (replace(close(Phase.POST_RESERVED), credit=TRAFFIC), TransferResult.OTHER_ACCOUNTS),
        (close(Phase.POST_RESERVED, amount=11), TransferResult.OVER_RESERVE),
        (close(Phase.VOID_RESERVED, amount=11), TransferResult.OVER_RESERVE),
        (replace(close(Phase.POST_RESERVED, amount=0), credit=OWED), TransferResult.AMOUNT_OUT_OF_RANGE),
    ],
)
def test_the_first_reason_that_holds_is_given(transfer: Transfer, expected: TransferResult) -> None:
    ledger = Ledger()
    ledger.apply(reserve())
    ledger.apply(post("p"))
    before = dict(ledger.balances)
    assert ledger.apply(transfer) is expected
    assert (dict(ledger.balances) == before) is (expected is not TransferResult.APPLIED)


def test_judge_needs_no_ledger() -> None:
    assert judge(post(), same_id=None, reserve=None, closed_by=None) is TransferResult.APPLIED


def test_a_refusal_of_our_own_transfer_is_our_bug() -> None:
    expect(post(), TransferResult.DUPLICATE)
    with pytest.raises(LocalProtocolError, match="transfer a: more than was reserved"):
        expect(post(), TransferResult.OVER_RESERVE)


def test_a_shift_of_either_sign_and_of_zero() -> None:
    assert shift("s", debit=OWED, credit=CASH, delta_nanodollars=0) == ()
    (up,) = shift("s", debit=OWED, credit=CASH, delta_nanodollars=5)
    (down,) = shift("s", debit=OWED, credit=CASH, delta_nanodollars=-5)
    assert (up.debit, up.credit, up.amount_nanodollars) == (OWED, CASH, 5)
    assert (down.debit, down.credit, down.amount_nanodollars) == (CASH, OWED, 5)


@pytest.mark.parametrize(
    "account", [OWED, CASH, Account(AccountKind.RECEIVABLE, "a:b/c"), Account(AccountKind.TRAFFIC)]
)
def test_an_account_is_its_text(account: Account) -> None:
    assert Account.parse(str(account)) == account


IDS = st.sampled_from(["a", "b", "c", "d"])
TRANSFERS = st.builds(
    Transfer,
    transfer=IDS,
    debit=st.sampled_from([OWED, CASH]),
    credit=st.sampled_from([CASH, TRAFFIC]),
    amount_nanodollars=st.integers(-1, 9),
    phase=st.sampled_from(Phase),
    reserved=IDS,
).map(lambda each: replace(each, reserved="") if each.phase in (Phase.POST, Phase.RESERVE) else each)


@given(transfers=st.lists(TRANSFERS, max_size=30))
@pytest.mark.expectation(16)
def test_whatever_is_given_nothing_is_made_and_nothing_happens_twice(transfers: list[Transfer]) -> None:
    ledger = Ledger()
    for each in transfers:
        ledger.apply(each)
        balances = ledger.balances.values()
        assert sum(balance.posted_nanodollars for balance in balances) == 0
        assert sum(balance.reserved_nanodollars for balance in balances) == 0
    applied = list(ledger.transfers)
    assert len({each.transfer for each in applied}) == len(applied)
    closing = [each.reserved for each in applied if each.reserved]
    assert len(set(closing)) == len(closing)
    again, before = [ledger.apply(each) for each in applied], dict(ledger.balances)
    assert set(again) <= {TransferResult.DUPLICATE}
    assert dict(ledger.balances) == before
