"""Whole runs of scenarios with the real daemons, each made once for all tests that look at it."""

from __future__ import annotations

import pytest
from lab_runs import Run, RunOnce

from lab.plan import make_plan
from lab.run import run_scenario
from lab.scenarios import find_scenario


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> RunOnce:
    done: dict[tuple[str, bool, int | None], Run] = {}

    def run(name: str, *, ipv6: bool = False, seconds: int | None = None) -> Run:
        key = (name, ipv6, seconds)
        if key not in done:
            folder = tmp_path_factory.mktemp(name)
            report = run_scenario(name, ipv6=ipv6, seconds=seconds, pcap=folder, progress=lambda _line: None)
            done[key] = Run(report=report, plan=make_plan(find_scenario(name)), folder=folder)
        return done[key]

    return run
