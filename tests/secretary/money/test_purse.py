"""The purse: vouchers first, double entry, idempotent; prepaid is never below zero, postpaid never below its credit."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretary.money.purse import (
    UNCONFIRMED_MAX,
    Fee,
    Posting,
    Purse,
    PurseAccount,
    PurseEntry,
    PurseResult,
    Refund,
    TopUp,
    VoucherAdded,
    VoucherExpired,
)

NOW = 1_800_000_000


def top_up(amount: int, transfer: str = "t") -> TopUp:
    return TopUp(transfer=transfer, nanodollars=amount, unix_s=NOW)


def voucher(name: str, amount: int, expires_unix_s: int = 0) -> VoucherAdded:
    return VoucherAdded(
        transfer=f"in-{name}", voucher=name, nanodollars=amount, unix_s=NOW, expires_unix_s=expires_unix_s
    )


def fee(amount: int, transfer: str = "f") -> Fee:
    return Fee(transfer=transfer, what="uplink A", nanodollars=amount, unix_s=NOW)


def purse_of(*entries: PurseEntry, credit: int = 0) -> Purse:
    purse = Purse(credit_nanodollars=credit)
    for entry in entries:
        assert purse.apply(entry) is not None
    return purse


def names(purse: Purse) -> list[tuple[str, int]]:
    return [(name, left) for name, left, _ in purse.vouchers()]


# --- vouchers ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("MV-44")
def test_vouchers_are_spent_first_the_one_that_expires_first_before_all() -> None:
    purse = purse_of(top_up(100), voucher("any", 10), voucher("late", 20, NOW + 99), voucher("soon", 30, NOW + 9))
    assert purse.vouchers() == (("soon", 30, NOW + 9), ("late", 20, NOW + 99), ("any", 10, 0))
    purse.reserve("a", 90)
    assert purse.told("a", 35) == Posting(35, 0)
    assert names(purse) == [("late", 15), ("any", 10)]
    assert purse.told("a", 70) == Posting(25, 10)
    assert (purse.voucher_nanodollars, purse.balance_nanodollars) == (0, 90)


@pytest.mark.row("MV-44")
def test_fees_are_paid_by_vouchers_first_too() -> None:
    purse = purse_of(top_up(100), voucher("v", 10))
    assert purse.apply(fee(15)) == Posting(10, 5)


@pytest.mark.row("MV-44")
def test_a_voucher_expires_as_far_as_no_open_grant_holds_it() -> None:
    purse = purse_of(top_up(5), voucher("v", 100, NOW + 9))
    purse.reserve("a", 30)
    assert purse.on_time(NOW + 8) == ()
    assert purse.left_nanodollars(NOW + 9) == 5, "before the entry is applied, too"
    (expired,) = purse.on_time(NOW + 9)
    assert expired == VoucherExpired(voucher="v", nanodollars=70, unix_s=NOW + 9)
    assert purse.apply(expired) == Posting(70, 0)
    assert purse.on_time(NOW + 9) == ()
    assert (purse.balance_nanodollars, purse.left_nanodollars(NOW + 9)) == (35, 5)
    assert purse.close("a", 10) == Posting(10, 0)
    assert purse.left_nanodollars(NOW + 9) == 5
    (rest,) = purse.on_time(NOW + 9)
    assert rest.nanodollars == 20
    purse.apply(rest)
    assert (purse.vouchers(), purse.balance_nanodollars) == ((), 5)
    assert purse.apply(rest) is None


def test_a_voucher_that_has_expired_or_is_known_is_not_taken() -> None:
    purse = purse_of(voucher("v", 10))
    assert purse.judge(voucher("old", 10, NOW)) is PurseResult.EXPIRED
    again = msgspec.structs.replace(voucher("v", 10), transfer="other")
    assert purse.judge(again) is PurseResult.VOUCHER_KNOWN


# --- transfers --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(16)
def test_the_same_transfer_twice_is_booked_once_and_its_id_for_another_is_a_conflict() -> None:
    purse = purse_of(top_up(100))
    later = msgspec.structs.replace(top_up(100), unix_s=NOW + 60, note="again")
    assert purse.judge(later) is PurseResult.DUPLICATE
    assert purse.judge(later).holds
    assert purse.apply(later) is None
    assert purse.judge(top_up(101)) is PurseResult.CONFLICT
    assert purse.judge(Refund(transfer="t", nanodollars=100, unix_s=NOW)) is PurseResult.CONFLICT
    assert not purse.judge(top_up(101)).holds
    assert purse.balance_nanodollars == 100


def test_a_prepaid_fee_has_to_be_covered_by_what_no_grant_holds() -> None:
    purse = purse_of(top_up(100))
    purse.reserve("a", 60)
    assert purse.judge(fee(41)) is PurseResult.NOT_COVERED
    assert purse.judge(fee(40)) is PurseResult.APPLIED
    purse.close("a", 0)
    assert purse.judge(fee(41)) is PurseResult.APPLIED


def test_a_postpaid_purse_goes_down_to_its_credit() -> None:
    purse = purse_of(credit=50)
    assert purse.left_nanodollars(NOW) == 50
    purse.reserve("a", 50)
    purse.close("a", 50)
    assert (purse.balance_nanodollars, purse.left_nanodollars(NOW)) == (-50, 0)
    purse.apply(top_up(70))
    assert (purse.balance_nanodollars, purse.left_nanodollars(NOW)) == (20, 70)


def test_a_refund_comes_back_as_money() -> None:
    purse = purse_of(top_up(100))
    purse.reserve("a", 60)
    purse.close("a", 60)
    purse.apply(Refund(transfer="r", nanodollars=10, unix_s=NOW, grant="a", note="disputed"))
    assert purse.balance_nanodollars == 50


# --- grants -----------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(16)
def test_what_a_receipt_says_less_than_was_told_goes_back_to_where_it_came_from() -> None:
    purse = purse_of(top_up(100), voucher("v", 10, NOW + 9))
    purse.reserve("a", 60)
    purse.told("a", 15)
    assert purse.close("a", 4) == Posting(-6, -5)
    assert (names(purse), purse.balance_nanodollars, purse.reserved_nanodollars) == ([("v", 6)], 106, 0)


@pytest.mark.expectation(16)
def test_a_receipt_that_comes_late_gives_back_what_was_assumed() -> None:
    purse = purse_of(top_up(100), voucher("v", 10))
    purse.reserve("a", 60)
    assert purse.close("a", 60, confirmed=False) == Posting(10, 50)
    assert purse.is_unconfirmed("a")
    assert purse.close("a", 60, confirmed=False) == Posting(), "once"
    assert purse.close("a", 8) == Posting(-2, -50)
    assert not purse.is_unconfirmed("a")
    assert purse.close("a", 0) == Posting()
    assert purse.balance_nanodollars == 102


def test_what_came_back_does_not_come_back_again() -> None:
    purse = purse_of(top_up(100), voucher("v", 10))
    purse.reserve("a", 60)
    purse.told("a", 40)
    assert purse.close("a", 25, confirmed=False) == Posting(0, -15)
    assert purse.close("a", 4) == Posting(-6, -15)
    assert (names(purse), purse.balance_nanodollars) == ([("v", 6)], 106)


def test_a_late_receipt_cannot_take_more_than_was_booked() -> None:
    purse = purse_of(top_up(100))
    purse.reserve("a", 60)
    purse.close("a", 60, confirmed=False)
    assert purse.close("a", 10**9) == Posting()
    assert purse.balance_nanodollars == 40


def test_unconfirmed_grants_are_bounded() -> None:
    purse = purse_of(top_up(10**9))
    for number in range(UNCONFIRMED_MAX + 1):
        purse.reserve(f"{number}", 1)
        purse.close(f"{number}", 1, confirmed=False)
    assert not purse.is_unconfirmed("0")
    assert purse.is_unconfirmed(f"{UNCONFIRMED_MAX}")


def test_a_cap_holds_and_only_grows() -> None:
    purse = purse_of(top_up(100))
    purse.reserve("a", 60)
    purse.reserve("a", 20)
    assert (purse.reserved_nanodollars, purse.highest_cap("a", NOW)) == (60, 100)
    assert purse.told("a", 99).nanodollars == 60
    assert purse.told("b", 99) == Posting()


# --- all of it --------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["top-up", "voucher", "fee", "refund", "reserve", "told", "close", "assume", "wait"]),
        st.integers(0, 5),
        st.integers(1, 300),
    ),
    max_size=60,
)


@given(steps=STEPS, credit=st.sampled_from([0, 0, 100]))
def test_books_balance_whatever_happens(steps: list[tuple[str, int, int]], credit: int) -> None:
    purse, now, came, gone = Purse(credit_nanodollars=credit), NOW, 0, 0
    for number, (step, which, amount) in enumerate(steps):
        entry: PurseEntry | None = None
        match step:
            case "top-up":
                entry = TopUp(transfer=f"t{which}", nanodollars=amount, unix_s=now)
            case "voucher":
                expires = now + amount if which % 2 else 0
                entry = VoucherAdded(
                    transfer=f"v{number}", voucher=f"{which}", nanodollars=amount, unix_s=now, expires_unix_s=expires
                )
            case "fee":
                entry = Fee(transfer=f"f{which}", what="x", nanodollars=amount, unix_s=now)
            case "refund":
                entry = Refund(transfer=f"r{which}", nanodollars=amount, unix_s=now)
            case "reserve" if purse.is_open(f"{which}"):
                purse.reserve(f"{which}", min(amount, purse.highest_cap(f"{which}", now)))
            case "reserve":
                purse.reserve(f"{which}", min(amount, purse.left_nanodollars(now)))
            case "told":
                gone += purse.told(f"{which}", amount).nanodollars
            case "close" | "assume":
                gone += purse.close(f"{which}", amount, confirmed=step == "close").nanodollars
            case _:
                now += amount - 50
                for expired in purse.on_time(now):
                    posting = purse.apply(expired)
                    assert posting is not None
                    gone += posting.nanodollars
        if entry is not None and not isinstance(entry, VoucherExpired) and purse.judge(entry) is PurseResult.APPLIED:
            posting = purse.apply(entry)
            assert posting is not None
            gone += posting.nanodollars
            came += 0 if isinstance(entry, Fee) else entry.nanodollars
        assert sum(purse.balances.values()) == 0
        assert purse.balance_nanodollars == came - gone
        assert purse.balances[PurseAccount.VOUCHERS] == sum(left for _, left in names(purse))
        assert min([left for _, left in names(purse)], default=1) > 0
        assert 0 <= purse.reserved_nanodollars <= purse.balance_nanodollars + credit
        assert purse.balances[PurseAccount.MONEY] >= -credit
