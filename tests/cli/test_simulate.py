"""`hostagent lab simulate`: a table for people, a document for programs, one line for mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from cli.exit_codes import ExitCode
from cli.main import main
from lab.simulator.examples import example


def simulate(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["lab", "simulate", *map(str, words)])


def test_people_get_tables() -> None:
    result = simulate(example("parking-lot.toml"))
    assert result.exit_code == ExitCode.OK, result.output
    assert "A parking lot of two links" in result.stdout
    assert "3.33M" in result.stdout
    assert "100.0%" in result.stdout


def test_programs_get_one_document() -> None:
    result = simulate(example("parking-lot.toml"), "--json")
    found = json.loads(result.stdout)
    assert [round(flow["rate_bit_s"] / 1e5) for flow in found["flows"]] == [33, 67, 67]
    assert [round(link["price"], 3) for link in found["links"]] == [0.15, 0.15]
    assert found["largest_amplitude"] < 1e-3
    assert found["series"] is None


def test_the_series_only_on_request_and_shorter_if_wished() -> None:
    result = simulate(example("parking-lot.toml"), "--json", "--series", "--seconds", "10", "--seed", "5")
    found = json.loads(result.stdout)
    assert found["seconds"] == 10
    assert found["seed"] == 5
    assert 100 < len(found["series"]["at_s"]) <= 600
    assert set(found["series"]["flow_rates_bit_s"]) == {"long", "short-1", "short-2"}


def test_packets_on_request() -> None:
    result = simulate(example("one-to-three.toml"), "--json", "--mode", "packets", "--seconds", "5")
    found = json.loads(result.stdout)
    assert found["mode"] == "packets"
    assert found["flows"][0]["expected_bit_s"] is not None


def test_a_mistake_is_one_line_and_the_exit_code_of_configurations(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("secnods = 3\n", encoding="utf-8")
    result = simulate(file)
    assert result.exit_code == ExitCode.CONFIGURATION
    assert result.stderr == f"hostagent: {file}: links: missing (write [[links]] for each)\n"
    assert simulate(tmp_path / "none.toml").exit_code == ExitCode.CONFIGURATION
    assert simulate(file, "--mode", "quantum").exit_code == ExitCode.USAGE


def test_the_command_line_loads_no_numpy_before_it_simulates() -> None:
    code = "import sys, cli.main, cli.lab, lab.simulator.experiment, lab.simulator.forms; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
