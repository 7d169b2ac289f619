"""What the screens show, without a screen."""

from __future__ import annotations

import pytest
from snapshots import flow, snapshot

from hostagent import api
from tui.model import ACCOUNT_COLUMNS, FLOW_COLUMNS, Model, columns_for, cut, money_text, rate_text, spark

RATES = {0: "0", 999: "999", 1000: "1.00k", 8_440_000: "8.44M", 250_000: "250k", 12_300_000: "12.3M"}


@pytest.mark.parametrize(("bit_s", "text"), RATES.items())
def test_rates_have_three_digits_and_a_unit(bit_s: int, text: str) -> None:
    assert rate_text(bit_s) == text


@pytest.mark.parametrize(("nanodollars", "text"), [(None, "?"), (0, "0"), (20, "20n"), (1500, "1.5µ"), (10**9, "1")])
def test_money_is_short(nanodollars: int | None, text: str) -> None:
    assert money_text(nanodollars) == text


@pytest.mark.parametrize("width", [1, 40, 60, 80, 100, 120, 160, 250])
def test_columns_fit_or_are_the_ones_that_are_always_there(width: int) -> None:
    for columns in (FLOW_COLUMNS, ACCOUNT_COLUMNS):
        shown = columns_for(columns, width)
        always = [column for column in columns if column.rank == 0]
        assert [column for column in shown if column.rank == 0] == always
        fits = sum(column.width + 2 for column in shown) <= width
        assert fits or shown == always
        assert [columns.index(column) for column in shown] == sorted(columns.index(column) for column in shown)


def test_at_80_columns_a_flow_shows_what_it_pays_and_what_that_costs() -> None:
    titles = [column.title for column in columns_for(FLOW_COLUMNS, 78)]
    assert titles[:3] == ["flow", "bit/s", "pays"]
    assert "toll" in titles


def test_paying_flows_come_first_silent_ones_last() -> None:
    model = Model()
    model.on_snapshot(
        snapshot(
            flows=(
                flow("silent", active=False, amount=20),
                flow("unpaid fast", rate=9_000_000),
                flow("paid slow", rate=1000, amount=20),
                flow("paid fast", rate=2000, amount=20),
            )
        )
    )
    assert [shown.flow for shown in model.flows()] == ["paid fast", "paid slow", "unpaid fast", "silent"]


def test_a_lost_agent_is_said_and_its_last_snapshot_stays() -> None:
    model = Model()
    assert "not connected" in model.header()
    model.on_snapshot(snapshot(flows=(flow("one"),)))
    assert "not connected" not in model.header()
    model.on_lost("no agent answers")
    assert "no agent answers" in model.header()
    assert len(model.flows()) == 1


def test_the_history_of_flows_that_are_gone_is_forgotten() -> None:
    model = Model()
    for number in range(200):
        model.on_snapshot(snapshot(flows=(flow(f"flow {number}"),)))
    assert list(model.history) == ["flow 199"]


def test_details_losses_and_settlements_are_whole_sentences() -> None:
    model = Model()
    model.on_snapshot(
        snapshot(
            flows=(flow("one", amount=20),),
            losses=(api.LossLine(link="X", direction="out", interval=7, nanodollars=19, kind="loss"),),
            settlements=(api.SettlementLine(link="X", number=1, debtor="us", nanodollars=20_000, reason="threshold"),),
        )
    )
    detail = "\n".join(model.detail(model.flows()[0]))
    assert "pays 20 nUSD a packet" in detail
    assert "why: because" in detail
    lines = "\n".join(model.account_lines())
    assert "loss: 19 nUSD to X in interval 7" in lines
    assert "we paid X 20 µUSD (threshold)" in lines
    assert "no flow yet" in model.detail(None)[0]


def test_cutting_and_sparks_stay_inside_their_width() -> None:
    assert cut("a  line\nwith breaks", 8) == "a line …"
    assert cut("short", 8) == "short"
    assert len(spark((0, 5, 10, 10**12))) == 4
    assert spark((0, 0)) == "▁▁"
