"""The smallest form of the whole experiment: one report, as JSON, as a page, and by the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import lab.dph.plots
import lab.dph.running
from cli.exit_codes import ExitCode
from cli.main import main
from lab.dph.effort import TINY, Effort
from lab.dph.page import page_of
from lab.dph.report import DphReport
from lab.dph.running import run_dph
from lab.dph.values import Holds, expect


@pytest.fixture(scope="module")
def report() -> DphReport:
    return run_dph(TINY)


@pytest.fixture(scope="module")
def page(report: DphReport) -> str:
    return page_of(report)


def with_expectation(report: DphReport, *, holds: bool) -> DphReport:
    found = expect("the moon is made of cheese", expected="cheese", measured="rock", holds=holds)
    return msgspec.structs.replace(report, limits=msgspec.structs.replace(report.limits, expectations=(found,)))


def test_every_part_has_expectations_and_what_is_judged_holds(report: DphReport) -> None:
    assert len(report.parts()) == 8
    assert all(part.expectations for part in report.parts().values())
    assert report.failing == ()
    assert any(each.holds is Holds.YES for each in report.expectations())


def test_the_json_is_the_report(report: DphReport) -> None:
    document = json.loads(report.to_json())
    assert document["ok"] is True
    assert document["real_shares"] is None
    assert document["shares"]["by_users"][0]["ratio"]["runs"] == TINY.seeds
    assert msgspec.convert({k: v for k, v in document.items() if k != "ok"}, DphReport) == report


def test_the_page_fetches_nothing_and_says_of_each_figure_whether_theory_holds(page: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) >= 9
    for figure in figures:
        assert "<svg" in figure
        caption = figure[figure.index("<figcaption>") :]
        assert re.search(r"expects holds|expectation holds|Does not hold", caption)
    assert not re.search(r"<(script|link|img)\b", page)
    assert not re.search(r"""(?:href|src)="(?!#)""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page


def test_the_page_says_what_does_not_hold(report: DphReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.dph.plots, "draw", lambda _paint, height_in=1.0: "<svg></svg>")
    found = page_of(with_expectation(report, holds=False))
    assert "Does not hold: the moon is made of cheese" in found


@pytest.fixture
def at_once(report: DphReport, monkeypatch: pytest.MonkeyPatch) -> list[Effort]:
    """The command has the report without running anything."""
    asked: list[Effort] = []

    def run(effort: Effort) -> DphReport:
        asked.append(effort)
        return report

    monkeypatch.setattr(lab.dph.running, "run_dph", run)
    monkeypatch.setattr(lab.dph.plots, "draw", lambda _paint, height_in=1.0: "<svg></svg>")
    return asked


def test_the_command_writes_the_page_and_says_where(at_once: list[Effort], tmp_path: Path) -> None:
    html = tmp_path / "mine.html"
    result = CliRunner().invoke(main, ["lab", "run", "dph", "--quick", "--simulated", "--html", str(html)])
    assert result.exit_code == ExitCode.OK
    assert str(html) in result.output
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (at_once[0].is_quick, at_once[0].real) == (True, False)


def test_for_programs_it_is_one_json_document(
    at_once: list[Effort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["lab", "run", "dph", "--simulated", "--json"])
    assert json.loads(result.stdout)["experiment"] == "dph"
    assert list(tmp_path.iterdir()) == []
    assert at_once[0].name == "full"


def test_what_does_not_hold_is_one_line_and_exit_code_1(
    report: DphReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = with_expectation(report, holds=False)
    monkeypatch.setattr(lab.dph.running, "run_dph", lambda _effort: failing)
    monkeypatch.setattr(lab.dph.plots, "draw", lambda _paint, height_in=1.0: "<svg></svg>")
    result = CliRunner().invoke(main, ["lab", "run", "dph", "--simulated", "--html", str(tmp_path / "a.html")])
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr.strip().splitlines() == ["hostagent: dph: the moon is made of cheese: rock"]


@pytest.mark.parametrize("wrong", [["dph", "--ipv6"], ["figure1", "--quick"], ["figure1", "--html", "a.html"]])
def test_options_of_the_other_kind_are_refused(wrong: list[str]) -> None:
    assert CliRunner().invoke(main, ["lab", "run", *wrong]).exit_code == ExitCode.USAGE


def test_a_page_that_cannot_be_written_is_said_before_the_work(at_once: list[Effort]) -> None:
    result = CliRunner().invoke(main, ["lab", "run", "dph", "--simulated", "--html", "/no/such/place/a.html"])
    assert result.exit_code == ExitCode.ENVIRONMENT
    assert at_once == []


def test_it_is_listed() -> None:
    found = json.loads(CliRunner().invoke(main, ["lab", "list", "--json"]).output)
    assert "dph" in [each["name"] for each in found]
