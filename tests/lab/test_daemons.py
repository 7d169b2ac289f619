"""What is said of daemons that do not start, and what their logs are searched for."""

from __future__ import annotations

from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault
from lab.daemons import Daemon, Daemons, exceptions_in
from lab.namespaces import Network
from lab.plan import make_plan
from lab.scenarios import find_scenario

LOG = """2026-11-21 10:44:53 hostagent: A is up
Task exception was never retrieved
future: <Task finished>
Traceback (most recent call last):
  File "granting.py", line 91, in work
    answer = await ask()
             ^^^^^^^^^^^
TypeError: ask() missing 1 required positional argument: 'gateway'
2026-11-21 10:44:54 hostagent: uplink X: agreed
Traceback (most recent call last):
  File "x.py", line 1, in y
KeyError: 5

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "x.py", line 2, in y
ValueError: five
"""


def test_each_traceback_is_named_by_its_last_line() -> None:
    assert exceptions_in(LOG) == [
        "TypeError: ask() missing 1 required positional argument: 'gateway'",
        "KeyError: 5",
        "ValueError: five",
    ]
    assert exceptions_in("2026-11-21 hostagent: A is up\n") == []


def test_last_words_are_the_last_line_of_the_log(tmp_path: Path) -> None:
    daemon = Daemon(node="A", role="agent", arguments=[], log_path=tmp_path / "A-agent.log")
    assert daemon.last_words().startswith("it has no log")
    daemon.log_path.write_text("one\ntwo\n\n", encoding="utf-8")
    assert daemon.last_words() == "two"


@pytest.mark.netns
def test_a_daemon_that_does_not_start_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.configurations.CONTROL_PORT", 70_000)  # nobody can listen there
    with Network(make_plan(find_scenario("figure1"))) as network:
        daemons = Daemons(network, family=4, directory=tmp_path, progress=lambda _line: None)
        try:
            with pytest.raises(EnvironmentFault, match=r"gateway of X.*70000") as caught:
                daemons.start(lambda: None)
        finally:
            daemons.close()
    assert "\n" not in str(caught.value)
