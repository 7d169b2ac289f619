"""`hostagent access`: a table, and a word."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from click.testing import CliRunner, Result
from scripted_agent import FakeAgent
from snapshots import household

from cli.access import access
from cli.exit_codes import ExitCode
from hostagent import api
from hostagent.desk import Refused

Run = Callable[..., Result]

ACCESSES = (
    api.Access(
        interface="wwan0",
        network="mobile network on wwan0",
        router="",
        used=False,
        chosen_by="person",
        reason="costs 320 n$ more than wlan0 (58 ms, price 0 n$)",
    ),
    api.Access(
        interface="wlan0",
        network="Wi-Fi Home",
        router="192.0.2.1",
        used=True,
        chosen_by="person",
        delay_ns=26_000_000,
        loss_ppm=12_000,
        price_nanodollars_per_mb=2_000_000,
        cost_nanodollars_per_packet=3260,
        reason="a person said so",
    ),
)


@pytest.fixture
def ask(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTAGENT_SOCKET", str(agent.socket))
    monkeypatch.setenv("COLUMNS", "200")
    told = household()
    agent.desk.shown = msgspec.structs.replace(told, paths=msgspec.structs.replace(told.paths, accesses=ACCESSES))
    return lambda *words: CliRunner().invoke(access, list(words))


def test_the_one_in_use_comes_first_with_its_cost_and_who_chose_it(ask: Run) -> None:
    first, second = ask().stdout.splitlines()[1:3]
    for part in ("wlan0", "used", "person", "26.0 ms", "1.2 %", "2 USD/GB", "a person said so"):
        assert part in first
    assert "?" in second
    assert "costs 320 n$ more than wlan0" in second


@pytest.mark.row("BP-60")
def test_a_word_is_told_and_taken_back(agent: FakeAgent, ask: Run) -> None:
    in_mode(agent, api.Mode.ACT)
    assert ask("wwan0").stdout == "new connections go by wwan0\n"
    assert ask("auto").stdout == "the agent chooses, as its configuration says\n"
    assert agent.desk.told == [api.AccessChange(interface="wwan0"), api.AccessChange(interface="")]
    assert msgspec.json.decode(ask("wwan0", "--json").stdout, type=tuple[api.Access, ...]) == ACCESSES


def test_an_interface_that_leads_nowhere_is_refused(agent: FakeAgent, ask: Run) -> None:
    agent.desk.refusal = Refused("not-there", "eth9 leads nowhere; accesses are: wlan0, wwan0")
    done = ask("eth9")
    assert done.exit_code == ExitCode.REFUSED
    assert "eth9 leads nowhere" in done.stderr


def test_for_programs_it_is_the_values(ask: Run) -> None:
    assert msgspec.json.decode(ask("--json").stdout, type=tuple[api.Access, ...]) == ACCESSES


def test_an_agent_that_only_observes_does_not_say_that_it_moves_anything(agent: FakeAgent, ask: Run) -> None:
    in_mode(agent, api.Mode.OBSERVE)
    assert ask("wwan0").stdout == "new connections would go by wwan0, but the agent only observes: hostagent act\n"


def in_mode(agent: FakeAgent, mode: api.Mode) -> None:
    shown = agent.desk.shown
    agent.desk.shown = msgspec.structs.replace(shown, status=msgspec.structs.replace(shown.status, mode=mode))
