"""Numbers and names as short, harmless text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tui.model import texts

RATES = {
    0: "0",
    999: "999",
    1000: "1.00k",
    8_440_000: "8.44M",
    9_996_000: "10.0M",
    99_960_000: "100M",
    250_000: "250k",
    12_300_000: "12.3M",
    10**10: "10.0G",
    2 * 10**12: "2.00T",
}
MONEY = {
    None: "?",
    0: "0",
    20: "20n",
    1_500: "1.50µ",
    166_300: "166µ",
    1_200_000: "1.20m",
    10**9: "1.00",
    -14_200_000_000: "-14.2",
    123 * 10**9: "123",
    123_456 * 10**9: "123k",
}


@pytest.mark.parametrize(("bit_s", "text"), RATES.items())
def test_rates_have_three_digits_and_a_unit(bit_s: int, text: str) -> None:
    assert texts.rate_text(bit_s) == text


@pytest.mark.parametrize(("nanodollars", "text"), MONEY.items())
def test_readings_of_money_have_three_digits_and_a_unit(nanodollars: int | None, text: str) -> None:
    assert texts.money_text(nanodollars) == text


@given(st.integers(min_value=0, max_value=10**15))
def test_readings_fit_their_columns(value: int) -> None:
    assert len(texts.rate_text(value)) <= 5
    assert len(texts.money_text(min(value, 10**14))) <= 5
    assert len(texts.bytes_text(value)) <= 7


def test_bytes_are_decimal_as_tariffs_count() -> None:
    assert [texts.bytes_text(count) for count in (0, 17, 999, 1_000, 3_200_000_000)] == [
        "0 B",
        "17 B",
        "999 B",
        "1.00 kB",
        "3.20 GB",
    ]


def test_a_bill_is_exact() -> None:
    assert texts.exact_money(15_753_132_110) == "15.753132110"
    assert texts.exact_money(-1) == "-0.000000001"
    assert texts.exact_money(1_234_567 * 10**9) == "1,234,567.000000000"
    assert texts.cents_text(14_204_999_999, "USD") == "14.20 USD"
    assert texts.cents_text(14_205_000_000, "EUR") == "14.21 EUR"
    assert texts.cents_text(-14_200_000_000, "USD") == "-14.20 USD"
    assert texts.cents_text(0, "USD") == "0.00 USD"
    assert texts.cents_text(166_300, "USD") == "166 µUSD"


@pytest.mark.parametrize(
    ("typed", "nanodollars"),
    [("20", 20_000_000), ("1.5m", 1_500), (" 3 µ", 3), ("3u", 3), ("0.002", 2_000), ("0", 0), ("1e-3", 1_000)],
)
def test_what_a_person_types_is_an_amount(typed: str, nanodollars: int) -> None:
    assert texts.worth_from_text(typed) == nanodollars


@pytest.mark.parametrize("typed", ["", "m", "-1m", "0.5n", "a lot", "nan", "inf", "1e30", "1,5m", "1 2m"])
def test_what_is_no_amount_is_none(typed: str) -> None:
    assert texts.worth_from_text(typed) is None


@given(st.text(max_size=12))
def test_whatever_is_typed_is_an_amount_or_none(typed: str) -> None:
    amount = texts.worth_from_text(typed)
    assert amount is None or 0 <= amount <= texts.MOST_WORTH_NANODOLLARS


def test_times() -> None:
    assert [texts.duration_text(s) for s in (-3, 45, 720, 7_200, 12_000, 14 * 86_400 + 5)] == [
        "0 s",
        "45 s",
        "12 min",
        "2 h",
        "3 h 20 min",
        "14 d",
    ]
    assert texts.clock_text(0) == "00:00:00"
    assert texts.date_text(0) == "1970-01-01 00:00"
    assert texts.month_of(86_400 * 40) == "1970-02"


def test_fingerprints_stand_in_groups() -> None:
    assert texts.fingerprint_text("3f9ac21b77e0") == "3f9a c21b 77e0"


def test_cutting_filling_and_sparks_keep_their_width() -> None:
    assert texts.cut("a  line\nwith breaks", 8) == "a line …"
    assert texts.cut("short", 8) == "short"
    assert texts.cell("short", 8) == "short   "
    assert texts.cell("short", 8, right=True) == "   short"
    assert len(texts.spark((0, 5, 10, 10**12))) == 4
    assert texts.spark((0, 0)) == "▁▁"
    assert texts.several(1, "flow") == "1 flow"
    assert texts.several(2_000, "flow") == "2,000 flows"


@given(st.text(), st.integers(min_value=-1, max_value=40))
def test_whatever_a_neighbour_says_is_one_harmless_line_that_fits(text: str, width: int) -> None:
    shown = texts.cut(text, width)
    assert cell_len(shown) <= max(width, 0)
    assert shown.isprintable()
    assert texts.plain(text).isprintable()
    assert cell_len(texts.cell(text, max(width, 0))) == max(width, 0)
    made = texts.line("said: ", (text, texts.STRONG))
    assert made.plain.isprintable()
