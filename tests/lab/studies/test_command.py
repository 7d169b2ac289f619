"""`hostagent lab study`, and the studies in `lab list`."""

from __future__ import annotations

import json

from click.testing import CliRunner

from cli.exit_codes import ExitCode
from cli.main import main


def test_the_list_has_the_studies_with_their_questions() -> None:
    result = CliRunner().invoke(main, ["lab", "list", "--json"])
    kinds = {each["name"]: each["kind"] for each in json.loads(result.stdout)}
    assert kinds["metro"] == "study"
    assert kinds["figure1"] == "scenario"


def test_a_study_is_a_table_for_people_and_a_document_for_programs() -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["lab", "study", "cutoff"])
    assert shown.exit_code == ExitCode.OK, shown.output
    assert "Does a cut-off toll clear as the smart market's auction does?" in shown.stdout
    assert "law mean toll n$" in shown.stdout
    read = CliRunner().invoke(main, ["lab", "study", "cutoff", "--json", "--seed", "2"])
    assert json.loads(read.stdout)["capacity"] == 60


def test_a_study_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(main, ["lab", "study", "no-such-thing"])
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "metro" in result.output
    assert len(result.output.strip().splitlines()) == 1
