"""The replay: what a file must say, who sees which rows, what it costs; and how near to the best it gets."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.paths.matrices import Case, made, outage, priced, unseen
from bench.paths.rivals import RIVALS
from billpay.errors import ConfigurationError
from cartographer.replay import Account, Matrix, Player, Prices, Traveller, read_matrix, replay
from cli.cartographer import cartographer

STEPS = 2000


def rows_of(matrix: Matrix) -> bytes:
    lines = []
    for step, moment in enumerate(matrix.times):
        for path in matrix.paths:
            rtt_ms, toll = matrix.row(step, path)
            lines.append(json.dumps({"t": moment, "path": path, "rtt_ms": rtt_ms, "toll_nanodollars": toll}))
    return "\n".join(lines).encode()


def played(case: Case, player: Player | None = None) -> tuple[Account, list[Any]]:
    account = Account()
    player = player or Traveller(case.matrix.paths, case.prices, len(case.matrix))
    lines = list(replay(case.matrix, player, case.prices, account))
    return account, lines


def above_best(case: Case, player: Player | None = None) -> float:
    return played(case, player)[0].total / case.best_sequence() - 1.0


@pytest.mark.row("BP-31")
@pytest.mark.parametrize("kind", ["norway", "ocean", "mixed", "near-equal", "daily", "slow"])
def test_on_stationary_paths_it_is_near_the_best_fixed_one(kind: str) -> None:
    found = [above_best(made(kind, seed, STEPS, changing=False)) for seed in range(2)]
    assert max(found) < 0.1
    assert sum(found) / len(found) < 0.05


@pytest.mark.row("BP-31")
@pytest.mark.parametrize("kind", ["norway", "ocean", "mixed", "near-equal", "daily", "slow"])
def test_where_the_best_path_changes_it_is_near_the_best_sequence(kind: str) -> None:
    found = [above_best(made(kind, seed, STEPS, changing=True)) for seed in range(2)]
    assert sum(found) / len(found) < 0.1


@pytest.mark.row("BP-31")
@pytest.mark.parametrize("kind", ["atlas", "rerouted", "whole-ms", "constant", "twins", "satellite"])
def test_each_matrix_of_these_kinds_is_within_the_bounds(kind: str) -> None:
    for seed in (1, 100):
        assert above_best(made(kind, seed, STEPS, changing=False)) < 0.05
        assert above_best(made(kind, seed, STEPS, changing=True)) < 0.1


@pytest.mark.row("BP-31")
def test_it_finds_a_path_that_became_better_unseen_and_leaves_a_dead_or_dear_one() -> None:
    assert above_best(unseen(0, STEPS)) < 0.15
    assert above_best(outage(0, STEPS)) < 0.12
    assert above_best(priced(0, STEPS)) < 0.06


def test_it_recovers_within_a_few_choices_of_a_change() -> None:
    case = made("norway", 1, STEPS, changing=True)
    _, lines = played(case)
    for change, end in zip(case.changes, (*case.changes[1:], STEPS), strict=True):
        costs = {path: case.matrix.costs(path, case.prices) for path in case.matrix.paths}
        after = range(change + 40, min(change + 140, end))
        best = min(math.fsum(column[step] for step in after) for column in costs.values())
        assert math.fsum(costs[lines[step].chosen][step] for step in after) < 1.2 * best


def test_the_rivals_cost_more() -> None:
    case = made("norway", 2, STEPS, changing=True)
    ours = above_best(case)
    for make in RIVALS.values():
        assert above_best(case, make(case.matrix.paths, case.prices)) > ours


@pytest.mark.parametrize("step_s", [0.05, 600.0])
def test_the_pace_of_the_rows_does_not_matter_much(step_s: float) -> None:
    assert above_best(made("norway", 3, STEPS, changing=True, step_s=step_s)) < 0.1


def test_probes_are_two_percent_of_the_choices_at_most() -> None:
    for steps in (60, 500, STEPS):
        account, lines = played(made("mixed", 1, steps, changing=True))
        assert account.probes <= steps * 0.02
        assert account.probes == sum(len(line.probed) for line in lines)
        assert not any(line.chosen in line.probed for line in lines)


def test_the_cost_is_toll_and_time_and_losses_and_probes() -> None:
    case = replace(priced(1, 300), prices=Prices(nanodollars_per_ms=10, probe_nanodollars=7))
    account, lines = played(case)
    total = 0.0
    for step, line in enumerate(lines):
        rtt_ms, toll = case.matrix.row(step, line.chosen)
        total += toll + 10 * (2000 if rtt_ms is None else rtt_ms)
        total += sum(case.matrix.row(step, path)[1] + 7 for path in line.probed)
    assert math.isclose(account.total, total)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    changing=st.booleans(),
    other=st.one_of(st.just(math.nan), st.floats(0.0, 5000.0)),
    toll=st.floats(0.0, 1e6),
)
def test_altering_rows_that_it_did_not_see_changes_nothing(
    seed: int, changing: bool, other: float, toll: float
) -> None:
    case = made("mixed", seed, 300, changing=changing)
    account, lines = played(case)
    before = [*lines, account.summary(case.matrix, case.prices, hindsight=False)]
    for step, line in enumerate(lines):
        for path in case.matrix.paths:
            if path != line.chosen and path not in line.probed:
                case.matrix.rtts_ms[path][step] = other
                case.matrix.tolls_nanodollars[path][step] = toll
    account, lines = played(case)
    assert [*lines, account.summary(case.matrix, case.prices, hindsight=False)] == before


GOOD = {"t": 0, "path": "a", "rtt_ms": 1.5, "toll_nanodollars": 3}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no rows"),
        ([GOOD, GOOD], "twice"),
        ([GOOD | {"rtt_ms": -1}], "rtt_ms"),
        ([GOOD | {"toll_nanodollars": -1}], "toll_nanodollars"),
        ([GOOD | {"rtt_ms": math.nan}], "JSON"),
        ([GOOD | {"t": "now"}], "seconds"),
        ([{"t": 0, "path": "a", "rtt_ms": 1}], "is missing"),
        ([GOOD | {"t": 1}, GOOD], "comes after"),
        ([GOOD, GOOD | {"path": "b"}, GOOD | {"t": 1}], "no row of 'b'"),
        ([GOOD, GOOD | {"t": 1}, GOOD | {"t": 1, "path": "b"}], "was not before"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place_and_what_to_do(rows: list[dict[str, Any]], problem: str) -> None:
    text = "\n".join(json.dumps(row) for row in rows).encode()
    with pytest.raises(ConfigurationError) as caught:
        read_matrix(io.BytesIO(text), "rows.jsonl")
    assert problem in str(caught.value)
    assert "rows.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(")")


def test_the_command_prints_a_line_for_each_moment_and_a_summary() -> None:
    case = made("norway", 0, 60, changing=False)
    found = CliRunner().invoke(cartographer, ["replay", "-", "--json"], input=rows_of(case.matrix))
    assert found.exit_code == 0
    *lines, last = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line["t"] for line in lines] == case.matrix.times
    assert set(lines[0]) == {"t", "chosen", "probed", "why"}
    account, _ = played(case)
    assert last["summary"]["total_cost_nanodollars"] == round(account.total)
    assert "hindsight" not in last["summary"]
    shown = CliRunner().invoke(cartographer, ["replay", "-"], input=rows_of(case.matrix))
    assert "in hindsight" in shown.stdout


def test_the_command_says_what_is_wrong_with_a_file() -> None:
    found = CliRunner().invoke(cartographer, ["replay", "-", "--json"], input=b"{}\n")
    assert found.exit_code == 3
    assert found.stderr.count("\n") == 1
    assert "standard input:1" in found.stderr
    assert "/nonexistent" in CliRunner().invoke(cartographer, ["replay", "/nonexistent"]).stderr
