"""`hostagent lab …` from outside."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from cli.exit_codes import ExitCode
from cli.main import main
from lab.scenarios import DIRECTORY


def test_list_names_every_scenario_the_main_one_first() -> None:
    result = CliRunner().invoke(main, ["lab", "list"])
    assert result.exit_code == 0
    words = result.output.split()
    places = [words.index(name) for name in ("figure1", "figure1-quiet", "congested", "discovery", "partial", "faults")]
    assert places[0] == min(places)


def test_list_for_programs_is_one_json_document() -> None:
    result = CliRunner().invoke(main, ["lab", "list", "--json"])
    assert json.loads(result.output)[0]["name"] == "figure1"


def test_an_unknown_scenario_is_one_line() -> None:
    result = CliRunner().invoke(main, ["lab", "run", "no-such-thing", "--plain"])
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "figure1" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_wrong_key_in_a_scenario_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = (DIRECTORY / "figure1.toml").read_text(encoding="utf-8")
    path.write_text('colour = "red"\n' + text, encoding="utf-8")
    result = CliRunner().invoke(main, ["lab", "run", str(path), "--plain"])
    assert result.exit_code == ExitCode.CONFIGURATION
    assert str(path) in result.output
    assert "colour" in result.output
