"""Verbs about the past: periods, rows, files that add up."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from scripted_agent import FakeAgent

from cli.exit_codes import ExitCode
from hostagent.desk import HistoryQuery

Run = Callable[..., Result]
DAY_S = 86_400


@pytest.mark.expectation(13)
def test_history_is_asked_for_as_it_was_said(run: Run, agent: FakeAgent) -> None:
    done = run(
        *("history", "--since", "2026-11-01", "--until", "2026-11-02T12:00", "--by", "program,network"),
        *("--step", "hour", "--rows", "7"),
    )
    assert done.exit_code == 0
    assert agent.desk.asked == [
        HistoryQuery(
            since_unix_s=1_793_491_200,
            until_unix_s=1_793_620_800,
            step="hour",
            by=("program", "network"),
            limit=7,
        )
    ]
    assert "2026-11-10 12:00" in done.stdout


def test_without_words_it_is_the_last_thirty_days_by_program(run: Run, agent: FakeAgent) -> None:
    run("history")
    run("replay")
    query, (since, until) = agent.desk.asked
    assert isinstance(query, HistoryQuery)
    assert (query.until_unix_s - query.since_unix_s, query.by, query.step) == (30 * DAY_S, ("program",), "all")
    assert until - since == 30 * DAY_S


def test_a_csv_has_a_heading_and_no_cell_is_a_formula(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    done = run("history", "--csv", str(path))
    assert (done.exit_code, done.stdout) == (0, "")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert [row["program"] for row in rows] == ["firefox", "'=cmd|' /C calc'!A0"]
    assert rows[0]["received_bytes"] == "31000000000"


@pytest.mark.expectation(17)
def test_a_statements_lines_add_up_to_its_end(run: Run, agent: FakeAgent) -> None:
    done = run("statement", "2026-11", "--csv", "-")
    assert agent.desk.asked == ["2026-11"]
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert rows[-1]["entry"] == "closing"
    assert sum(int(row["nanodollars"]) for row in rows[:-1]) == int(rows[-1]["nanodollars"])


def test_the_cheapest_tariff_comes_first(run: Run) -> None:
    assert [line.split("  ")[0] for line in run("replay").stdout.splitlines()[1:]] == ["flat", "per byte"]


def test_a_file_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    done = run("history", "--csv", str(tmp_path / "no" / "such" / "folder.csv"))
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        *("history --since soon", "history --since 2026-11-02 --until 2026-11-01", "history --by user"),
        *("history --step week", "history --rows 0", "statement november", "replay --since 2d --until 3d"),
    ],
)
def test_what_is_not_understood_is_a_usage_error(run: Run, agent: FakeAgent, words: str) -> None:
    done = run(*words.split())
    assert (done.exit_code, agent.desk.asked) == (ExitCode.USAGE, [])
