"""An agent to ask, and a terminal of 80 columns in UTC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scripted_agent import FakeAgent

from cli.main import main


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with FakeAgent(tmp_path / "agent.sock") as running:
        yield running


@pytest.fixture(autouse=True)
def _eighty_columns_in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And no agent of this machine's is asked by mistake."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("HOSTAGENT_SOCKET", "/nonexistent/agent.sock")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a verb against the fake agent, which is in this process: nobody waits for that to end."""
    monkeypatch.setattr("cli.running.process_behind", lambda socket: None)
    monkeypatch.setenv("HOSTAGENT_SOCKET", str(agent.socket))
    return lambda *words: CliRunner().invoke(main, list(words))
