"""Whole runs of scenarios with the real daemons, each made once for all tests that look at it."""

from __future__ import annotations

import pytest
from lab_runs import Runs


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp)
