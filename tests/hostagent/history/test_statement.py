"""Statements add up to the nanodollar, whatever was spent; and what they look like."""

from __future__ import annotations

import csv
import io
from datetime import date
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.messages import Timescale
from billpay.tariffs import FlatFee
from hostagent import api
from hostagent.history.calendar import Span, day_span, month_span
from hostagent.history.statement import (
    LINES_MAX,
    VOUCHER,
    Contract,
    Credit,
    MonthOfMoney,
    as_csv,
    as_json,
    as_markdown,
    cover,
    in_currency,
    make_statement,
    show,
)

ZONE = ZoneInfo("Europe/Berlin")
JUNE = month_span("2026-06", ZONE)
amounts = st.integers(0, 10**15)


def row(program: str, network: str, spent: int = 0, tariff: int = 0, size: int = 0, priced: int = 0) -> api.HistoryRow:
    return api.HistoryRow(
        from_unix_s=JUNE.from_unix_s, seconds=JUNE.seconds, program=program, network=network, sent_bytes=size,
        spent_nanodollars=spent, tariff_nanodollars=tariff, priced_nanodollars=priced,
    )  # fmt: skip


def flat(network: str, fee: int, *, prepaid: bool = False, currency: str = "USD") -> Contract:
    tariff = FlatFee(
        issuer="",
        serial=0,
        timescale=Timescale.LONG_TERM,
        valid_from_unix_s=0,
        monthly_fee_nanodollars=fee,
        currency=currency,
    )
    return Contract(network=network, title=f"ISP of {network}", tariff=tariff, prepaid=prepaid)


rows = st.lists(
    st.builds(
        row, st.sampled_from(["curl", "ssh", "backup"]), st.sampled_from(["home", "cafe"]), amounts, amounts, amounts
    ),
    max_size=12,
)
contracts = st.tuples(
    st.builds(flat, st.just("home"), amounts, prepaid=st.booleans()), st.builds(flat, st.just("cafe"), amounts)
)
months = st.builds(MonthOfMoney, rows=rows, contracts=contracts)
credits_ = st.lists(
    st.builds(
        Credit,
        id=st.uuids().map(str),
        unix_s=st.integers(JUNE.from_unix_s - 10**7, JUNE.until_unix_s + 10**6),
        nanodollars=st.integers(1, 10**15),
        kind=st.sampled_from(["voucher", "top-up"]),
    ),
    max_size=6,
)


@pytest.mark.expectation(17)
@given(months, st.lists(months, max_size=3), amounts, credits_, st.sampled_from(["program", "network"]))
def test_opening_and_top_ups_less_spent_and_fees_is_closing(
    this: MonthOfMoney, earlier: list[MonthOfMoney], before: int, booked: list[Credit], by: str
) -> None:
    found = make_statement(
        "2026-06",
        JUNE,
        this,
        earlier,
        paid_before_nanodollars=before,
        credits=booked,
        until_unix_s=JUNE.until_unix_s,
        by=by,
    )
    assert (
        found.opening_nanodollars + found.topped_up_nanodollars - found.spent_nanodollars - found.fees_nanodollars
        == found.closing_nanodollars
    )
    assert sum(line.nanodollars for line in found.lines) == found.spent_nanodollars
    assert sum(line.bytes for line in found.lines) == found.bytes
    assert sum(line.nanodollars for line in found.fee_lines) == found.fees_nanodollars
    came_in = sum(credit.nanodollars for credit in booked if credit.unix_s < JUNE.until_unix_s)
    paid = sum(each.spent_nanodollars for each in this.rows)
    prepaid = sum(month.prepaid_nanodollars() for month in [this, *earlier])
    assert found.closing_nanodollars == came_in - before - paid - prepaid
    assert found.flat_nanodollars_per_month == found.spent_nanodollars + found.fees_nanodollars


@pytest.mark.row("MV-44")
@given(credits_, amounts)
def test_vouchers_are_used_before_money(booked: list[Credit], charged: int) -> None:
    paid = cover(booked, charged)
    vouchers = sum(credit.nanodollars for credit in booked if credit.kind == VOUCHER)
    assert sum(paid) == charged
    assert min(paid) >= 0
    assert paid.top_up_nanodollars == 0 or paid.voucher_nanodollars == vouchers
    assert paid.owed_nanodollars == max(0, charged - sum(credit.nanodollars for credit in booked))


def test_many_lines_are_cut_and_still_sum_up() -> None:
    many = MonthOfMoney(rows=[row(f"p{number}", "home", number, size=1) for number in range(1000)])
    found = make_statement("2026-06", JUNE, many, until_unix_s=JUNE.until_unix_s)
    assert len(found.lines) == LINES_MAX
    assert found.lines[-1].what == "(others)"
    assert sum(line.nanodollars for line in found.lines) == found.spent_nanodollars == 499_500


def test_a_month_that_goes_on_says_what_it_will_cost_at_this_pace() -> None:
    tenth = Span(JUNE.from_unix_s, day_span(date(2026, 6, 4), ZONE).from_unix_s)
    this = MonthOfMoney(rows=[row("curl", "home", 1_420_000_000)], contracts=(flat("home", 5),))
    found = make_statement("2026-06", JUNE, this, until_unix_s=tenth.until_unix_s)
    assert found.flat_nanodollars_per_month == 14_200_000_000 + 5
    assert make_statement("2026-06", JUNE, this, until_unix_s=JUNE.from_unix_s).flat_nanodollars_per_month is None


def test_another_currency_has_its_own_statement() -> None:
    both = (flat("home", 7, currency="EUR"), flat("cafe", 9))
    this = MonthOfMoney(rows=[row("curl", "home", 100)], contracts=in_currency(both, "EUR"))
    booked = [Credit(id="a", unix_s=JUNE.from_unix_s, nanodollars=1)]
    found = make_statement("2026-06", JUNE, this, credits=booked, until_unix_s=JUNE.until_unix_s, currency="EUR")
    assert (found.spent_nanodollars, found.fees_nanodollars, found.closing_nanodollars) == (0, 7, 0)


def test_a_credit_is_money_that_came_in() -> None:
    with pytest.raises(ValueError, match="above zero"):
        Credit(id="x", unix_s=0, nanodollars=0)
    with pytest.raises(ValueError, match="by program or by network"):
        make_statement("2026-06", JUNE, MonthOfMoney(rows=()), until_unix_s=0, by="colour")


@pytest.fixture
def statement() -> api.Statement:
    this = MonthOfMoney(
        rows=[row("curl", "home", 1_500_000_001, size=10**9), row("=evil|x", "home", tariff=5, priced=3)],
        contracts=(flat("home", 30_000_000_000),),
    )
    booked = [Credit(id="a", unix_s=JUNE.from_unix_s, nanodollars=2 * 10**9, kind=VOUCHER)]
    return make_statement("2026-06", JUNE, this, credits=booked, until_unix_s=JUNE.until_unix_s)


@pytest.mark.expectation(17)
def test_a_statement_as_csv_adds_up_for_whoever_reads_it(statement: api.Statement) -> None:
    table = list(csv.DictReader(io.StringIO(as_csv(statement))))
    by_row = {name: [int(each["nanodollars"]) for each in table if each["row"] == name] for name in
              ("opening", "topped up", "spent", "line", "fees", "fee", "closing")}  # fmt: skip
    assert sum(by_row["line"]) == by_row["spent"][0] == -1_500_000_006
    assert sum(by_row["fee"]) == by_row["fees"][0]
    total = sum(by_row[name][0] for name in ("opening", "topped up", "spent", "fees"))
    assert total == by_row["closing"][0] == statement.closing_nanodollars
    assert "'=evil|x" in {each["what"] for each in table}


def test_a_statement_as_json_and_as_text(statement: api.Statement) -> None:
    assert msgspec.json.decode(as_json(statement), type=api.Statement) == statement
    text = as_markdown(statement)
    assert "| **closing** |  | 0.499999999 USD |" in text
    assert "| &nbsp;&nbsp;curl | 1000000000 | -1.500000001 USD |" in text
    assert "=evil\\|x" in text
    assert "nobody's bill: 0.000000003 USD" in text


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.000000000 EUR"), (-150, "-0.000000150 EUR"), (10**9, "1.000000000 EUR")]
)
def test_amounts_of_a_document_have_all_digits(amount: int, text: str) -> None:
    assert show(amount, "EUR") == text
