"""Prices of marks: pushes in any order, the price in force at a time, and bills that split exactly at a change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from billpay.markprices import MOST_PRICES_KEPT, MarkReading, PriceSchedule
from billpay.sessions import MarkPrice

T0 = 1_000_000


def push(serial: int, price: int, from_ms: int, *, published_s: int = 0) -> MarkPrice:
    return MarkPrice(
        provider="provider",
        serial=serial,
        nanodollars_per_mark=price,
        valid_from_unix_ms=from_ms,
        published_unix_s=published_s,
    )


def reading(at_ms: int, marks: int) -> MarkReading:
    return MarkReading(unix_ms=T0 + at_ms, marks=marks)


class TestPushes:
    def test_before_the_first_price_there_is_none(self) -> None:
        schedule = PriceSchedule([push(1, 5, T0)])
        assert schedule.price_at(T0 - 1) is None
        assert schedule.price_at(T0) == 5
        assert PriceSchedule().newest is None
        assert PriceSchedule().highest_known is None

    def test_a_price_holds_until_a_later_serial_does(self) -> None:
        schedule = PriceSchedule([push(1, 5, T0), push(3, 7, T0 + 100), push(2, 9, T0 + 200)])
        assert [schedule.price_at(T0 + at) for at in (0, 99, 100, 199, 200, 10**9)] == [5, 5, 7, 7, 7, 7]
        newest = schedule.newest
        assert newest is not None
        assert newest.serial == 3

    def test_a_serial_is_worth_what_it_said_first(self) -> None:
        schedule = PriceSchedule()
        assert schedule.on_push(push(1, 5, T0))
        assert not schedule.on_push(push(1, 5, T0))
        assert not schedule.on_push(push(1, 50, T0))
        assert schedule.price_at(T0) == 5

    def test_a_price_from_before_its_publication_is_none(self) -> None:
        schedule = PriceSchedule()
        assert not schedule.on_push(push(1, 5, 9_999, published_s=10))
        assert schedule.on_push(push(2, 5, 10_000, published_s=10))

    def test_of_very_many_the_oldest_serials_go(self) -> None:
        schedule = PriceSchedule(push(serial, serial, T0 + serial) for serial in range(2, MOST_PRICES_KEPT // 64 + 2))
        many = PriceSchedule()
        many._by_serial = {serial: push(serial, 1, T0) for serial in range(10, MOST_PRICES_KEPT + 10)}
        assert not many.on_push(push(9, 1, T0))
        assert many.on_push(push(10**9, 8, T0 + 5))
        assert many.price_at(T0 + 5) == 8
        assert schedule.highest_known == MOST_PRICES_KEPT // 64 + 1

    @given(
        pushes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 20)), max_size=9),
        data=st.data(),
    )
    def test_the_order_of_arrival_makes_no_difference(
        self, pushes: list[tuple[int, int, int]], data: st.DataObject
    ) -> None:
        by_serial = {serial: push(serial, price, T0 + at) for serial, price, at in pushes}
        order = data.draw(st.permutations(list(by_serial.values())))
        one, other = PriceSchedule(by_serial.values()), PriceSchedule(order)
        for at in range(T0 - 1, T0 + 22):
            holding = [serial for serial, said in by_serial.items() if said.valid_from_unix_ms <= at]
            expected = by_serial[max(holding)].nanodollars_per_mark if holding else None
            assert one.price_at(at) == other.price_at(at) == expected
        changes = [at for at in range(T0 - 1, T0 + 22) if one.price_at(at) != one.price_at(at - 1)]
        assert list(one.changes_between(T0 - 2, T0 + 22)) == changes


class TestBills:
    @pytest.mark.row("DPH-02")
    def test_marks_times_price(self) -> None:
        schedule = PriceSchedule([push(1, 250, T0)])
        assert schedule.bill_nanodollars([reading(0, 0), reading(100, 7), reading(200, 12)]) == 12 * 250

    @pytest.mark.row("DPH-02", "DPH-21")
    def test_a_change_in_mid_session_splits_the_bill_at_the_reading_taken_there(self) -> None:
        schedule = PriceSchedule([push(1, 100, T0), push(2, 300, T0 + 150)])
        readings = [reading(0, 0), reading(100, 7), reading(150, 9), reading(200, 12)]
        assert schedule.changes_between(T0, T0 + 200) == (T0 + 150,)
        assert schedule.bill_nanodollars(readings) == 9 * 100 + 3 * 300
        assert schedule.most_nanodollars(readings) == 9 * 100 + 3 * 300

    def test_without_that_reading_the_interval_costs_what_it_did_when_it_began(self) -> None:
        schedule = PriceSchedule([push(1, 100, T0), push(2, 300, T0 + 150)])
        readings = [reading(0, 0), reading(100, 7), reading(200, 12)]
        assert schedule.bill_nanodollars(readings) == 12 * 100
        assert schedule.most_nanodollars(readings) == 7 * 100 + 5 * 300

    def test_marks_without_a_price_have_no_bill(self) -> None:
        schedule = PriceSchedule([push(1, 100, T0 + 100)])
        assert schedule.bill_nanodollars([reading(0, 0), reading(100, 1)]) is None
        assert schedule.bill_nanodollars([reading(0, 0), reading(100, 0), reading(200, 4)]) == 400
        assert schedule.highest_between(T0, T0 + 200) is None

    def test_readings_that_run_backwards_are_our_own_fault(self) -> None:
        schedule = PriceSchedule([push(1, 100, T0)])
        with pytest.raises(LocalProtocolError, match="run backwards"):
            schedule.bill_nanodollars([reading(100, 5), reading(0, 6)])

    @given(
        changes=st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 500)), max_size=5),
        steps=st.lists(st.tuples(st.integers(1, 90), st.integers(0, 9)), min_size=2, max_size=12),
        data=st.data(),
    )
    def test_who_lost_readings_never_reckons_with_less(
        self, changes: list[tuple[int, int]], steps: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        schedule = PriceSchedule([push(1, 10, T0)])
        for serial, (at, price) in enumerate(changes, start=2):
            schedule.on_push(push(serial, price, T0 + at))
        readings, at, marks = [reading(0, 0)], 0, 0
        for after, more in steps:
            at, marks = at + after, marks + more
            readings.append(reading(at, marks))
        heard = [one for one in readings[1:-1] if data.draw(st.booleans())]
        bill = schedule.bill_nanodollars(readings)
        most = schedule.most_nanodollars([readings[0], *heard, readings[-1]])
        assert bill is not None
        assert most is not None
        assert most >= bill
