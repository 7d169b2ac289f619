"""Tables: which columns fit, how wide they are, which rows in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from snapshots import FLOWS, sent

from tui.model import accounts, flows, inbox, kinds, networks, paths
from tui.model.columns import GAP, GUTTER, Column, Layout, Sorting, columns_for, matching

ALL: dict[str, tuple[Column[Any], ...]] = {
    "flows": flows.COLUMNS,
    "kinds": kinds.KIND_COLUMNS,
    "programs": kinds.PROGRAM_COLUMNS,
    "inbox": inbox.COLUMNS,
    "paths": paths.COLUMNS,
    "networks": networks.COLUMNS,
    "accounts": accounts.COLUMNS,
}
WIDTHS = [1, 40, 60, 79, 99, 119, 159, 250, 1000]


def width_of(columns: list[Column[Any]], widths: list[int]) -> int:
    return GUTTER + sum(widths) + GAP * (len(columns) - 1)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ALL)
def test_columns_fit_or_are_those_that_always_stand(name: str, width: int) -> None:
    columns = ALL[name]
    shown = columns_for(columns, width)
    always = [column for column in columns if column.rank == 0]
    assert [column for column in shown if column.rank == 0] == always
    assert width_of(shown, [column.width for column in shown]) <= width or shown == always
    assert [columns.index(column) for column in shown] == sorted(columns.index(column) for column in shown)


@pytest.mark.parametrize("name", ALL)
def test_at_80_columns_what_always_stands_fits(name: str) -> None:
    """A column is left to the scroll bar."""
    shown = columns_for(ALL[name], 79)
    assert width_of(shown, [column.width for column in shown]) <= 79


def test_at_80_columns_a_flow_shows_rates_price_worth_and_spend() -> None:
    titles = [column.title for column in columns_for(flows.COLUMNS, 79)]
    assert titles == ["program", "destination", "out", "in", "price", "worth", "spent"]


def test_at_160_columns_a_flow_shows_all_that_is_asked_for() -> None:
    titles = {column.title for column in columns_for(flows.COLUMNS, 159)}
    wanted = {"program", "task", "destination", "out", "in", "marks", "price", "worth", "spent", "path", "decision"}
    assert wanted <= titles


@pytest.mark.parametrize("width", WIDTHS)
def test_cells_fill_their_columns_and_the_table_fits(width: int) -> None:
    things = [
        sent("名前" * 40, "call", "fd00:77:200::2", reason="because " * 60),
        sent("x" * 500, "web", "198.51.100.255", rate=10**12),
    ]
    layout = Layout.of(flows.COLUMNS, width)
    layout.learn(things)
    for thing in things:
        cells = layout.cells(thing)
        assert [cell_len(cell) for cell in cells] == layout.widths
    if width >= 79:
        assert width_of(layout.columns, layout.widths) <= width


def test_room_to_spare_goes_to_names_first_then_to_the_decision_and_stays_there() -> None:
    long = sent("a-rather-long-program", "web", "2001:db8:4000:1::15", reason="why " * 50)
    layout = Layout.of(flows.COLUMNS, 300)
    assert layout.learn([long])
    wide = dict(zip((column.title for column in layout.columns), layout.widths, strict=True))
    assert wide["program"] == len("a-rather-long-program")
    assert wide["destination"] == len("2001:db8:4000:1::15:443")
    assert wide["decision"] > 34
    assert width_of(layout.columns, layout.widths) <= 300
    assert not layout.learn([sent("vi", "web", "192.0.2.1")])
    assert layout.widths == list(wide.values())


def test_rows_are_sorted_by_what_a_person_chose() -> None:
    sorting = Sorting()
    by_hand = list(FLOWS)
    assert sorting.sort(flows.COLUMNS, by_hand) == by_hand
    assert sorting.text() == ""
    sorting.turn()
    assert sorting.sort(flows.COLUMNS, by_hand) == by_hand[::-1]
    assert sorting.text() == "reversed"
    sorting.choose("out")
    assert [flow.program for flow in sorting.sort(flows.COLUMNS, by_hand)][:3] == ["restic", "zoom", "curl"]
    sorting.choose("out")
    assert sorting.text() == "by out, reversed"
    assert [flow.program for flow in sorting.sort(flows.COLUMNS, by_hand)][-1] == "restic"
    sorting.choose("program")
    assert next(flow.program for flow in sorting.sort(flows.COLUMNS, by_hand)) == "curl"


def test_the_sort_key_goes_through_the_columns_and_back_to_the_screens_own_order() -> None:
    sorting = Sorting()
    seen = []
    for _ in range(3):
        sorting.cycle(["one", "two"])
        seen.append(sorting.by)
    assert seen == ["one", "two", ""]


@pytest.mark.parametrize("name", ALL)
def test_every_column_can_be_sorted_by(name: str) -> None:
    for column in ALL[name]:
        assert Sorting(by=column.title).sort(ALL[name], []) == []
        assert column.order is not None or not column.is_number


def test_all_words_must_occur_whatever_their_case() -> None:
    def found(wanted: str) -> list[str]:
        return [flow.program for flow in flows.listing(FLOWS, Sorting(), wanted).things]

    assert found("PHOTOS") == ["restic"]
    assert found("web 443") == ["firefox"]
    assert found("2001:db8") == ["firefox"]
    assert found("call backup") == []
    assert len(found("  ")) == len(FLOWS)


@given(st.lists(st.text(max_size=5), max_size=5), st.text(max_size=5))
def test_what_matches_is_a_part_of_what_was_there(texts: list[str], wanted: str) -> None:
    found = matching(wanted, texts, lambda text: (text,))
    assert [text for text in texts if text in found] == found


def test_titles_say_what_is_sorted_by_and_stay_in_their_width() -> None:
    layout = Layout.of(flows.COLUMNS, 79)
    for column in layout.columns:
        titles = layout.titles(column.title, reverse=False)
        assert [cell_len(title) for title in titles] == layout.widths
        assert sum("↓" in title for title in titles) == 1
    assert any("↑" in title for title in layout.titles("out", reverse=True))


def test_a_click_is_in_the_column_above_which_it_is() -> None:
    layout = Layout.of(flows.COLUMNS, 79)
    assert [layout.column_at(x).title for x in (2, 13, 16, 40) if (layout.column_at(x) is not None)] == [  # type: ignore[union-attr]
        "program",
        "program",
        "destination",
        "out",
    ]
    assert layout.column_at(0) is None
    assert layout.column_at(500) is None
