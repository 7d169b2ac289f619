"""What the screens show, without a screen."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from snapshots import flow, link, snapshot

from hostagent import api
from tui.model import (
    ACCOUNT_COLUMNS,
    FLOW_COLUMNS,
    MAX_LINES,
    PADDING,
    QUIET_S,
    Column,
    Model,
    columns_for,
    cut,
    money_text,
    plain,
    rate_text,
    spark,
)

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
}
T = TypeVar("T")

WIDTHS = [1, 40, 60, 78, 100, 118, 158, 250, 1000]


def shown_by(snapshot_: api.Snapshot) -> Model:
    model = Model()
    model.on_snapshot(snapshot_)
    return model


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bit_s", "text"), RATES.items())
def test_rates_have_three_digits_and_a_unit(bit_s: int, text: str) -> None:
    assert rate_text(bit_s) == text


@pytest.mark.parametrize(("nanodollars", "text"), [(None, "?"), (0, "0"), (20, "20n"), (1500, "1.5µ"), (10**9, "1")])
def test_money_is_short(nanodollars: int | None, text: str) -> None:
    assert money_text(nanodollars) == text


def test_cutting_and_sparks_stay_inside_their_width() -> None:
    assert cut("a  line\nwith breaks", 8) == "a line …"
    assert cut("short", 8) == "short"
    assert len(spark((0, 5, 10, 10**12))) == 4
    assert spark((0, 0)) == "▁▁"


@given(st.text(), st.integers(min_value=-1, max_value=40))
def test_whatever_a_neighbour_says_is_one_harmless_line_that_fits(text: str, width: int) -> None:
    shown = cut(text, width)
    assert cell_len(shown) <= max(width, 0)
    assert shown.isprintable()
    assert plain(text).isprintable()


def test_a_reason_cannot_command_the_terminal() -> None:
    model = shown_by(
        snapshot(
            flows=(flow("one", amount=1, reason="\x1b[2J\x1b]0;owned\x07 \u202egnorw"),),
            warnings=(api.Warning(code="no-agreement", message="\x1b[31mX\nlied", since_unix_s=0),),
        )
    )
    for line in (*model.detail("one"), *model.warnings(), *model.flow_table(200).rows[0]):
        assert line.isprintable()


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["flows", "accounts"])
def test_columns_fit_or_are_the_ones_that_are_always_there(name: str, width: int) -> None:
    if name == "flows":
        _check_columns(FLOW_COLUMNS, width)
    else:
        _check_columns(ACCOUNT_COLUMNS, width)


def _check_columns(columns: tuple[Column[T], ...], width: int) -> None:
    shown = columns_for(columns, width)
    always = [column for column in columns if column.rank == 0]
    assert [column for column in shown if column.rank == 0] == always
    fits = sum(column.width + PADDING for column in shown) <= width
    assert fits or shown == always
    assert [columns.index(column) for column in shown] == sorted(columns.index(column) for column in shown)


def test_at_80_columns_a_flow_shows_what_it_pays_and_what_that_costs() -> None:
    titles = [column.title for column in columns_for(FLOW_COLUMNS, 78)]
    assert titles == ["flow", "bit/s", "pays", "toll", "spent"]


def test_at_160_columns_nothing_is_left_out() -> None:
    assert columns_for(FLOW_COLUMNS, 158) == list(FLOW_COLUMNS)
    assert columns_for(ACCOUNT_COLUMNS, 158) == list(ACCOUNT_COLUMNS)


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_fit_their_columns_and_the_table_its_width(width: int) -> None:
    names = ("tcp [fd00:77:200::1]:40000 → [fd00:77:200::2]:5201", "名前" * 40, "x" * 500)
    reason = "because " * 60
    model = shown_by(snapshot(flows=tuple(flow(name, amount=20, rate=10**9, reason=reason) for name in names)))
    for table in (model.flow_table(width), model.account_table(width)):
        for row in table.rows:
            for text, column in zip(row, table.columns, strict=True):
                assert cell_len(text) <= column.width
        if width >= 78:
            assert sum(column.width + PADDING for column in table.columns) <= width


def test_room_to_spare_goes_to_the_flows_name_first_then_to_the_reason() -> None:
    name = "tcp [fd00:77:200::1]:40000 → [fd00:77:200::2]:5201"
    model = shown_by(snapshot(flows=(flow(name, amount=20, reason="why " * 50),)))
    assert model.flow_table(78).rows[0][0].endswith("…")
    assert model.flow_table(118).rows[0][0] == name
    wide = model.flow_table(250)
    assert wide.rows[0][0] == name
    assert sum(column.width + PADDING for column in wide.columns) == 250


# --- flows --------------------------------------------------------------------------------------------------------


def test_paying_flows_come_first_silent_ones_last() -> None:
    model = shown_by(
        snapshot(
            flows=(
                flow("silent", active=False, amount=20),
                flow("unpaid fast", rate=9_000_000),
                flow("paid slow", rate=1000, amount=20),
                flow("paid fast", rate=2000, amount=20),
            )
        )
    )
    order = ["paid fast", "paid slow", "unpaid fast", "silent"]
    assert [shown.flow for shown in model.flows] == order
    assert list(model.flow_table(80).keys) == order
    assert [row[0] for row in model.flow_table(80).rows] == order


def test_the_history_of_flows_that_are_gone_is_forgotten() -> None:
    model = Model()
    for number in range(200):
        model.on_snapshot(snapshot(flows=(flow(f"flow {number}"),)))
    assert list(model.history) == ["flow 199"]


def test_the_history_of_a_flow_is_its_rate() -> None:
    model = Model()
    for rate in (0, 500, 1000):
        model.on_snapshot(snapshot(flows=(flow("one", rate=rate),)))
    assert "rate ▁▄█ 1.00 kbit/s" in model.detail("one")


def test_details_have_the_whole_reason_and_path() -> None:
    reason = "pays 20 of at most 200 n$, " * 30 + "end"
    model = shown_by(snapshot(flows=(flow("one", amount=20, reason=reason), flow("two"))))
    detail = "\n".join(model.detail("one"))
    assert "pays 20 nUSD a packet, of which the path keeps 11 nUSD" in detail
    assert "path AS64512:1 AS64513:1" in detail
    assert f"why: {reason}" in detail
    assert "pays nothing now" in model.detail("two")
    unknown = msgspec.structs.replace(flow("three", amount=20), toll_nanodollars=None)
    assert "what the path keeps of it is not known yet" in "\n".join(
        shown_by(snapshot(flows=(unknown,))).detail("three")
    )


def test_without_flows_and_without_an_agent_the_details_say_so() -> None:
    assert Model().detail(None) == ["nothing is known yet"]
    assert "no flow yet" in shown_by(snapshot()).detail(None)[0]


# --- the connection -----------------------------------------------------------------------------------------------


def test_a_lost_agent_is_said_first_and_its_last_snapshot_stays() -> None:
    model = Model()
    assert model.header() == "connecting …"
    model.on_lost("no agent answers on /x: no such file (start it)")
    assert model.header() == "NOT CONNECTED, retrying"
    assert model.warnings() == ["! no agent answers on /x: no such file (start it)"]
    model.on_snapshot(snapshot(flows=(flow("one"),)))
    assert model.header() == "A is ok; spent today 166 µUSD of 1 USD; secretary connected"
    assert model.warnings() == []
    model.on_lost("no agent answers")
    assert model.header().startswith("NOT CONNECTED, retrying; last seen: A is ok")
    assert model.warnings() == ["! no agent answers"]
    assert len(model.flows) == 1
    model.on_snapshot(snapshot())
    assert "NOT CONNECTED" not in model.header()


def test_an_agent_that_says_nothing_is_not_shown_as_if_it_lived() -> None:
    model = shown_by(snapshot())
    model.on_quiet(QUIET_S)
    assert "NOTHING HEARD" not in model.header()
    model.on_quiet(QUIET_S + 1)
    assert model.header().startswith(f"NOTHING HEARD for {QUIET_S + 1} s; last seen: A is ok")
    model.on_snapshot(snapshot())
    assert "NOTHING HEARD" not in model.header()


# --- accounts -----------------------------------------------------------------------------------------------------


def test_an_account_shows_both_sides_books() -> None:
    unheard = msgspec.structs.replace(link("Y"), peer_received_nanodollars=None, peer_sent_nanodollars=None)
    whole = snapshot()
    accounts = msgspec.structs.replace(whole.accounts, links=(link("X"), unheard))
    table = shown_by(msgspec.structs.replace(whole, accounts=accounts)).account_table(158)
    shown = [dict(zip((column.title for column in table.columns), row, strict=True)) for row in table.rows]
    assert shown[0]["neighbour"] == "X"
    assert (shown[0]["we sent"], shown[0]["they got"]) == ("166µ", "166µ")
    assert (shown[0]["they sent"], shown[0]["we got"]) == ("59.9µ", "59.9µ")
    assert (shown[0]["we owe"], shown[0]["settled"], shown[0]["times"]) == ("6.39µ", "100µ", "5")
    assert (shown[1]["they got"], shown[1]["they sent"]) == ("?", "?")


def test_the_latest_losses_and_settlements_stand_below_and_the_rest_is_counted() -> None:
    model = shown_by(
        snapshot(
            losses=tuple(
                api.LossLine(link="X", direction="in" if n % 2 else "out", interval=n, nanodollars=19, kind="loss")
                for n in range(MAX_LINES + 3)
            ),
            settlements=(
                api.SettlementLine(link="X", number=1, debtor="us", nanodollars=20_000, reason="threshold"),
                api.SettlementLine(link="X", number=2, debtor="peer", nanodollars=30_000, reason="period"),
            ),
        )
    )
    lines = model.account_lines()
    assert lines[0].startswith("kept as our share 0 USD; came back to us 0 USD")
    assert lines[1] == "loss: 19 nUSD to X in interval 6"
    assert lines[2] == "loss: 19 nUSD from X in interval 5"
    assert lines[MAX_LINES + 1] == "3 earlier losses are not shown"
    assert lines[MAX_LINES + 2 :] == [
        "settled: X paid us 30 µUSD (period)",
        "settled: we paid X 20 µUSD (threshold)",
    ]
