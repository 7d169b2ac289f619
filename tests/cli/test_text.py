"""How lines and tables look: short numbers, room for what counts, nothing that a terminal obeys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cli.show.text import Grid, bit_rate, columns, facts, harmless, lines_of, money, per_gb, rate, size, span


def test_numbers_have_three_digits_at_most() -> None:
    assert [rate(each) for each in (0, 1, 999, 1000, 999_499, 999_600, 12_700_000, 10**12)] == [
        *("", "1", "999", "1.00k", "999k", "1.00M", "12.7M", "1000G")
    ]
    assert [size(each) for each in (0, 999, 1000, 999_999, 1_200_000_000, 5 * 10**12)] == [
        *("0 B", "999 B", "1.00 kB", "1.00 MB", "1.20 GB", "5.00 TB")
    ]
    assert [span(each) for each in (0, 59, 60, 65, 3600, 3661, 90_000)] == [
        *("0 s", "59 s", "1 min", "1 min 5 s", "1 h", "1 h 1 min", "1 d 1 h")
    ]
    assert [bit_rate(each) for each in (None, 0, 999, 20_000_000)] == ["?", "0 bit/s", "999 bit/s", "20.0 Mbit/s"]
    assert (money(None), money(1_234_567), per_gb(2_000_000), per_gb(None)) == ("?", "1.23 mUSD", "2 USD/GB", "")


@given(st.text(max_size=60))
def test_a_terminal_obeys_nothing_of_a_strangers_text(text: str) -> None:
    shown = harmless(text)
    assert all(character.isprintable() for character in shown)
    assert lines_of(facts([(text, text)]), 80) == lines_of(facts([(shown, shown)]), 80)


def test_markup_and_brackets_are_text() -> None:
    grid = Grid("flow")
    grid.add("tcp [2001:db8::1]:443 [bold]:smile: http://x.example 1.5")
    assert lines_of(grid, 80)[1] == "tcp [2001:db8::1]:443 [bold]:smile: http://x.example 1.5"


@given(
    rows=st.lists(st.tuples(*[st.text(st.characters(categories=["L", "N"]), max_size=50)] * 4), min_size=1, max_size=5),
    width=st.integers(60, 140),
)
def test_no_line_is_wider_than_the_terminal_and_numbers_are_whole(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    grid = Grid("name", "|why", "where", ">how many")
    for name, why, where, _ in rows:
        grid.add(name, why, where, "1234567")
    lines = lines_of(grid, width)
    assert all(cell_len(line) <= width for line in lines)
    assert sum(line.count("1234567") for line in lines) >= len(rows)


def test_long_texts_give_way_first_and_empty_columns_are_left_out() -> None:
    grid = Grid("flow", "task", "kind", ">rate", "|why")
    grid.add("tcp [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:443", "", "backup", "12.7M", "takes what the others leave")
    assert lines_of(grid, 70) == [
        "flow                        kind     rate  why",
        "tcp [2001:db8:aaaa:bbbb:c…  backup  12.7M  takes what the others leave",
    ]


def test_numbers_that_do_not_fit_are_whole_all_the_same() -> None:
    grid = Grid("name", *(f">{letter * 9}" for letter in "abcdefgh"))
    grid.add("x" * 30, *(["123456789"] * 8))
    assert lines_of(grid, 40)[1].count("123456789") == 8


def test_into_a_pipe_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    grid = Grid("flow", "|why")
    grid.add("x" * 300, "y " * 300)
    assert columns() > 10_000
    assert len(lines_of(grid)) == 2
