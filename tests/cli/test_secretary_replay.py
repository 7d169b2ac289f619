"""`hostagent secretary replay`: a line for each request, a summary that adds up, and truths that nobody reads."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from cli.exit_codes import ExitCode
from cli.main import main
from cli.results import Rehearsed, schema
from cli.secretary_replay import rehearsal_of
from secretary.hindsight import Summary
from secretary.replay import Event, Line, replay

CENT = 10_000_000
DAY_S = 86_400
PROGRAMS = (("firefox", 3.0), ("zoom", 9.0), ("restic", 0.4), ("lumire", 1.5))


def event(t: float, **fields: Any) -> dict[str, Any]:
    return {
        "t": t,
        "user": "ada",
        "app": "firefox",
        "dest": "example.net",
        "network": "home",
        "bytes": 5_000_000,
        "foreground": True,
        "price_nanodollars": CENT,
        "truth_nanodollars": 2 * CENT,
    } | fields


def weeks(days: int = 16, a_day: int = 9) -> list[dict[str, Any]]:
    """Somebody who knows what each program is worth."""
    dice = random.Random(5)
    found = []
    for number in range(days * a_day):
        program, worth = dice.choice(PROGRAMS)
        t = (number // a_day) * DAY_S + 8 * 3600 + (number % a_day) * 5000
        price = round(CENT * dice.lognormvariate(0.5, 0.8))
        truth = round(CENT * worth * dice.lognormvariate(0, 0.2))
        found.append(event(t, app=program, price_nanodollars=price, truth_nanodollars=truth))
    return found


def written(path: Path, events: list[dict[str, Any]]) -> str:
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in events))
    return str(path)


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *words, stdin=None: CliRunner().invoke(main, ["secretary", "replay", *words], input=stdin)


Run = Callable[..., Result]


def lines_of(done: Result) -> list[dict[str, Any]]:
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_for_each_request_and_a_summary_that_adds_up(run: Run, tmp_path: Path) -> None:
    events = weeks()
    *told, last = lines_of(run(written(tmp_path / "events.jsonl", events), "--json"))
    assert [each["i"] for each in told] == list(range(len(events)))
    assert {tuple(each) for each in told} == {("i", "decision", "limit_nanodollars", "asked", "why")}
    summary = last["summary"]
    surplus = sum(
        each["truth_nanodollars"] - each["price_nanodollars"]
        for each, line in zip(events, told, strict=True)
        if line["decision"] == "pay"
    )
    best = sum(max(0, each["truth_nanodollars"] - each["price_nanodollars"]) for each in events)
    assert summary["surplus_nanodollars"] == surplus
    assert summary["best_nanodollars"] == best
    assert summary["regret_nanodollars"] == best - surplus
    assert summary["questions"] == sum(line["asked"] for line in told) > 0
    assert sum(week["questions"] for week in summary["weeks"]) == summary["questions"]
    for each, line in zip(events, told, strict=True):
        if line["asked"]:
            accepts = each["truth_nanodollars"] >= each["price_nanodollars"]
            assert (line["decision"] == "pay") is accepts


@pytest.mark.expectation(23)
def test_every_line_is_what_the_schema_says(run: Run, tmp_path: Path) -> None:
    told = lines_of(run(written(tmp_path / "events.jsonl", weeks(days=3)), "--json"))
    validator = jsonschema.Draft202012Validator(schema("secretary replay") or {})
    for line in told:
        validator.validate(line)
    msgspec.convert(told[-1], Rehearsed)
    assert set(told[-1]["summary"]) == set(msgspec.to_builtins(msgspec.convert(told[-1], Rehearsed))["summary"])
    assert not validator.is_valid({"i": 1})


def test_the_summary_alone_is_the_last_line(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", weeks(days=3))
    assert lines_of(run(path, "--json", "--summary-only")) == lines_of(run(path, "--json"))[-1:]


def test_standard_input_is_a_file_too(run: Run, tmp_path: Path) -> None:
    events = weeks(days=3)
    path = written(tmp_path / "events.jsonl", events)
    assert run("-", "--json", stdin=Path(path).read_bytes()).stdout == run(path, "--json").stdout


@pytest.mark.expectation(10)
def test_the_summary_fits_into_eighty_columns(run: Run, tmp_path: Path) -> None:
    done = run(written(tmp_path / "events.jsonl", weeks()))
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(cell_len(line) <= 80 and line == line.rstrip() for line in lines)
    assert lines[0].split() == ["week", "requests", "asked", "a", "day", "surplus", "regret", "missed", "unjustified"]
    assert [line.split()[:2] for line in lines[1:4]] == [["1", "63"], ["2", "63"], ["3", "18"]]
    for word in ("missed", "unjustified", "regret", "calibration", "questions a day", "said that a yes is likely"):
        assert word in done.stdout


def test_no_requests_are_a_summary_too(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", [])
    assert run(path).stdout == "no requests: the file is empty\n"
    assert lines_of(run(path, "--json"))[0]["summary"]["requests"] == 0


# --- truths -----------------------------------------------------------------------------------------------------------

BASE = weeks(days=12)


def decided(events: list[dict[str, Any]]) -> list[Line]:
    made = enumerate(msgspec.convert(each, Event) for each in events)
    return list(replay(made, rehearsal_of(None, None), Summary()))


BEFORE = decided(BASE)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), far=st.sampled_from([1, CENT, 10**17]))
def test_changing_truths_without_changing_any_answer_given_changes_nothing(seed: int, far: int) -> None:
    """Of what was asked the truth stays on its side of the price; of all else it is anything."""
    dice = random.Random(seed)
    other = []
    for each, line in zip(BASE, BEFORE, strict=True):
        price, accepts = each["price_nanodollars"], each["truth_nanodollars"] >= each["price_nanodollars"]
        truth = dice.randint(-far, far)
        if line.asked:
            truth = price + abs(truth) if accepts else price - 1 - abs(truth)
        other.append(each | {"truth_nanodollars": truth})
    assert sum(line.asked for line in BEFORE) >= 5
    assert decided(other) == BEFORE


def test_the_command_prints_the_same_for_other_truths(run: Run, tmp_path: Path) -> None:
    before = lines_of(run(written(tmp_path / "a", BASE), "--json"))[:-1]
    other = [
        each | ({} if line["asked"] else {"truth_nanodollars": 10**15 - each["truth_nanodollars"]})
        for each, line in zip(BASE, before, strict=True)
    ]
    assert lines_of(run(written(tmp_path / "b", other), "--json"))[:-1] == before


# --- rules, zones, mistakes -------------------------------------------------------------------------------------------


def rules_in(directory: Path, text: str) -> str:
    directory.mkdir()
    (directory / "mine.toml").write_text(text)
    (directory / "mine.toml").chmod(0o644)
    return str(directory)


def test_rules_of_a_folder_hold(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", [event(9 * 3600)])
    rules = rules_in(tmp_path / "rules", '[[rules]]\nname = "never"\nprogram = ["firefox"]\npay = "never"\n')
    (line, _) = lines_of(run(path, "--rules", rules, "--json"))
    assert "never" in line["why"]
    assert (line["decision"], line["limit_nanodollars"], line["asked"]) == ("decline", 0, False)


def test_a_secretarys_file_brings_its_manners_and_its_rules(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", weeks(days=5))
    config = tmp_path / "secretary.toml"
    config.write_text('[secretary]\nname = "a"\nstate_directory = "/nonexistent"\n[questions]\na_day = 0\n')
    assert lines_of(run(path, "--json"))[-1]["summary"]["questions"] > 0
    assert lines_of(run(path, "--config", str(config), "--json"))[-1]["summary"]["questions"] == 0


def test_quiet_hours_are_the_zones(run: Run, tmp_path: Path) -> None:
    """After midnight in Vienna it is still the afternoon in Honolulu."""
    start = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
    night = [each | {"t": start + each["t"] % 5000 + (each["t"] // DAY_S) * DAY_S} for each in weeks(days=5)]
    path = written(tmp_path / "events.jsonl", night)
    asked = {
        zone: lines_of(run(path, "--zone", zone, "--json"))[-1]["summary"]["questions"]
        for zone in ("Europe/Vienna", "Pacific/Honolulu")
    }
    assert asked["Europe/Vienna"] == 0 < asked["Pacific/Honolulu"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bytes": "many"}, ":2: bytes: Expected `int`, got `str` (a whole number of bytes)"),
        ({"price_nanodollars": -1}, ":2: price_nanodollars: Expected `int` >= 0"),
        ({"user": None}, ":2: user: Expected `str`, got `null`"),
    ],
)
def test_a_bad_line_is_one_line_before_anything_is_printed(
    run: Run, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = written(tmp_path / "events.jsonl", [event(0), event(1) | change])
    done = run(path, "--json")
    assert (done.exit_code, done.stdout) == (ExitCode.CONFIGURATION, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hostagent: {path}{said}")


def test_bad_lines_of_standard_input_are_named_so(run: Run) -> None:
    done = run("-", stdin=b"nonsense\n")
    assert done.exit_code == ExitCode.CONFIGURATION
    assert done.stderr.startswith("hostagent: standard input:1: not JSON")


def test_a_missing_file_is_one_line(run: Run, tmp_path: Path) -> None:
    done = run(str(tmp_path / "none.jsonl"))
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "key"), [('[[rules]]\nname = "a"\ncolour = 1\n', "rules[0].colour"), ("[[rules", "not TOML")]
)
def test_a_wrong_rule_is_one_line_and_nothing_is_replayed(run: Run, tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path / "events.jsonl", [event(0)])
    done = run(path, "--rules", rules_in(tmp_path / "rules", text), "--json")
    assert (done.exit_code, done.stdout) == (ExitCode.CONFIGURATION, "")
    (line,) = done.stderr.splitlines()
    assert key in line
    assert "mine.toml" in line


def test_no_such_folder_and_no_such_file_of_rules(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", [event(0)])
    for words in (("--rules", str(tmp_path / "none")), ("--config", str(tmp_path / "none.toml"))):
        done = run(path, *words)
        assert done.exit_code == ExitCode.CONFIGURATION
        assert len(done.stderr.splitlines()) == 1
