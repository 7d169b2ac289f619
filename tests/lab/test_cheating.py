"""ISPs that change and cheat, over real packets: the traffic leaves them, and comes back to those that are repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.report import Report
from lab.run import run_scenario
from lab.scenarios import DIRECTORY

pytestmark = pytest.mark.netns


def run(path: str | Path) -> Report:
    return run_scenario(path, progress=lambda _line: None)


@pytest.mark.exact
@pytest.mark.row("BP-17", "BP-18")
def test_who_doubles_its_toll_loses_the_traffic_and_wins_it_back(tmp_path: Path) -> None:
    text = (DIRECTORY / "greedy-toll.toml").read_text(encoding="utf-8")
    shorter = {"seconds = 14\n": "seconds = 12\n", "seconds = 4\n": "seconds = 3\n"}
    for whole, part in shorter.items():
        text = text.replace(whole, part)
    path = tmp_path / "shorter.toml"
    path.write_text(text, encoding="utf-8")
    report = run(path)
    assert report.conservation_error_nanodollars == 0
    if not report.ok:  # timers are random, and turns come late on a busy machine: once more, and that counts
        report = run(path)
    assert report.ok, report.shortfall
    assert [move.after for move in report.moves] == ["doubled", "repaired"]


@pytest.mark.deep
@pytest.mark.row("BP-17", "BP-18", "BP-26")
@pytest.mark.parametrize("scenario", ["greedy-toll", "degraded", "keeper", "liar"])
def test_greed_is_punished(scenario: str) -> None:
    report = run(scenario)
    assert report.ok, report.shortfall
