"""`hostagent bugreport`: about the right agent, also about one that is dead or cannot start."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from cli.exit_codes import ExitCode
from cli.main import main
from cli.results import schema

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine can do is asked by the report's own tests."""
    monkeypatch.setattr("dataplane.diagnosis.features.probe", lambda: ())
    monkeypatch.setattr("dataplane.diagnosis.conflicts.find_conflicts", lambda directories: ())
    monkeypatch.setattr("dataplane.diagnosis.engine_choice.choose", lambda features: None)


def part(path: Path, name: str) -> str:
    with tarfile.open(path) as archive:
        (member,) = [each for each in archive.getmembers() if each.name.endswith(f"/{name}")]
        file = archive.extractfile(member)
        assert file is not None
        return file.read().decode()


@pytest.mark.expectation(23)
def test_of_an_agent_that_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "log").write_text("2026-11-11 hostagent: it hiccupped\n")
    path = tmp_path / "report.tar.gz"
    done = run("bugreport", "--full", "--output", str(path), "--state-directory", str(tmp_path / "state"), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema("bugreport")).validate(document)
    assert document["files"] == [str(path)]
    assert "it hiccupped" in part(path, "log.txt")
    assert "Wi-Fi Home" in part(path, "snapshot.json")


def test_of_an_agent_that_is_dead_with_a_file_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text("[agent\n")
    path = tmp_path / "report.tar.gz"
    words = ["--config", str(tmp_path / "agent.toml"), "--state-directory", str(tmp_path / "none")]
    done = CliRunner().invoke(main, ["bugreport", "--output", str(path), *words])
    assert done.exit_code == 0, done.output
    assert "sent nowhere" in done.stdout
    assert "not TOML" in part(path, "configuration.json")
    assert "not available" in part(path, "snapshot.json")


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    path.write_text("mine")
    done = CliRunner().invoke(main, ["bugreport", "--output", str(path), "--state-directory", str(tmp_path)])
    assert (done.exit_code, path.read_text()) == (ExitCode.ENVIRONMENT, "mine")
    assert len(done.stderr.splitlines()) == 1
