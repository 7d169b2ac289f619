"""`hostagent secretary …` against a real secretary: what a person says has its effect, and money adds up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from scripted_secretary import NOW_UNIX_S, StandingClock, StandingSecretary

from billpay.messages import FlowSelector
from cli import secretary_line
from cli.exit_codes import ExitCode
from cli.main import main
from cli.prices import parse_amount
from cli.results import types
from cli.secretary_line import own_name
from secretary import messages
from secretary.client import SecretaryClient
from secretary.messages import Granted, Unpaid
from secretary.transfers import Transfer

Run = Callable[..., Result]
CENT = 10_000_000
CONFIG = """
[secretary]
name = "laptop"
state_directory = "{state}"
[keys]
store = "sealed-file"
[purse]
prepaid = false
[questions]
pause_s = 0
[[budgets]]
name = "games"
limit_nanodollars = 5_000_000_000
program = "*"
[[rules]]
name = "web"
protocol = "tcp"
ports = [443]
amount_nanodollars = 20
grant_nanodollars = 1000
burst_nanodollars = 40
"""

RULES = """
[[rules]]
name = "no-games"
program = ["quake"]
pay = "never"
[[rules]]
name = "ask-me"
program = ["lumire"]
pay = "ask"
"""


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def real(tmp_path: Path, clock: StandingClock) -> Iterator[StandingSecretary]:
    config = tmp_path / "secretary.toml"
    config.write_text(CONFIG.format(state=tmp_path / "state"))
    (tmp_path / "rules.d").mkdir()
    (tmp_path / "rules.d" / "mine.toml").write_text(RULES)
    (tmp_path / "rules.d" / "mine.toml").chmod(0o644)
    secretary = StandingSecretary(config, clock)
    with secretary:
        yield secretary


@pytest.fixture
def run(real: StandingSecretary, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(secretary_line.SOCKET_VARIABLE, str(real.socket))

    def run_(*words: str) -> Result:
        return CliRunner().invoke(main, ["secretary", *words])

    return run_


def done(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def told(result: Result, verb: str) -> Any:
    """The JSON, as its type."""
    return msgspec.json.decode(done(result), type=types()[f"secretary {verb}"])


def talk(real: StandingSecretary, question: Callable[[SecretaryClient], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        client = SecretaryClient(real.socket)
        try:
            return await question(client)
        finally:
            await client.close()

    return asyncio.run(whole())


def transfer(port: int = 1, *, program: str = "lumire", price: int = CENT, **more: Any) -> dict[str, Any]:
    """A flow that no rule names."""
    flow = FlowSelector(
        source="10.0.1.1", destination="10.0.2.1", protocol=6, source_port=40_000 + port, destination_port=8080
    )
    said = Transfer(
        user=own_name(), program=program, destination="x.example", network="Home", size_bytes=10**7, price_nanodollars=0
    )
    return {"flow": flow, "transfer": msgspec.structs.replace(said, **more), "price_nanodollars_per_mb": price // 10}


def a_question(real: StandingSecretary, run: Run) -> messages.QuestionView:
    answer = talk(real, lambda client: client.ask_grant(**transfer()))
    assert isinstance(answer, Unpaid), answer
    (question,) = told(run("inbox", "--json"), "inbox").questions
    assert isinstance(question, messages.QuestionView)
    return question


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(9)
def test_a_question_is_answered_holds_and_is_undone(real: StandingSecretary, run: Run) -> None:
    question = a_question(real, run)
    number = str(question.number)
    assert question.why
    assert "lumire" in done(run("inbox"))
    assert "undo takes it back" in done(run("answer", number, "yes", "--up-to", "0.05", "--for", "1h"))
    assert "no questions" in done(run("inbox"))
    shown = done(run("inbox", "--all"))
    assert "answered" in shown
    assert "yes, 1h" in shown
    rule = told(run("rules", "--json"), "rules").rules[0]
    assert (rule.source, rule.seconds_left, rule.outcome) == ("answer", 3600, "up to 50 mUSD")
    paid = talk(real, lambda client: client.ask_grant(**transfer(2)))
    assert isinstance(paid, Granted), paid
    done(run("undo", number))
    assert [each.number for each in told(run("inbox", "--json"), "inbox").questions] == [question.number]
    assert run("undo").exit_code == ExitCode.REFUSED


def test_an_unknown_question_is_told_with_what_there_is(real: StandingSecretary, run: Run) -> None:
    question = a_question(real, run)
    refused = run("answer", "99", "yes")
    assert refused.exit_code == ExitCode.REFUSED
    assert refused.stderr == f"hostagent: there is no question 99; in the inbox are {question.number}\n"


def test_another_answer_than_before_needs_an_undo_first(real: StandingSecretary, run: Run) -> None:
    number = str(a_question(real, run).number)
    done(run("answer", number, "yes"))
    done(run("answer", number, "yes"))
    refused = run("answer", number, "no")
    assert refused.exit_code == ExitCode.REFUSED
    assert "undo that first" in refused.stderr


@pytest.mark.expectation(11)
def test_why_names_rule_and_budget_and_promises_nothing(real: StandingSecretary, run: Run) -> None:
    never = told(run("why", "--program", "quake", "--json"), "why")
    assert never.decision == "decline", never
    assert "no-games" in " ".join(never.lines)
    assert done(run("why", "--program", "quake")).startswith("would not be paid\n")
    guess = told(run("why", "--program", "lumire", "--price", "0.01", "--bytes", "10000000", "--json"), "why")
    assert guess.decision == "ask"
    assert told(run("inbox", "--json"), "inbox").questions == ()
    stranger = told(run("why", "--program", "quake", "--user", "somebody", "--json"), "why")
    assert stranger.decision == "decline", "we are a keeper here"


# --- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(17)
def test_what_was_paid_in_and_spent_is_in_the_statement(real: StandingSecretary, run: Run) -> None:
    done(run("top-up", "20", "--id", "first"))
    assert "20 USD" in done(run("top-up", "20", "--id", "first")), "told twice is paid once"
    done(run("top-up", "0.0000005", "--voucher", "xmas", "--id", "second"))
    flow = FlowSelector(source="10.0.1.1", destination="10.0.2.1", protocol=6, source_port=1, destination_port=443)
    said = Transfer(user=own_name(), program="firefox", destination="=cmd.example", network="Home")
    grant = talk(real, lambda client: client.ask_grant(flow, transfer=said))
    assert isinstance(grant, Granted)
    number = json.loads(msgspec.json.encode(msgspec.json.decode(grant.signed.document)))["grant"]
    assert isinstance(talk(real, lambda client: client.extend(number, 700)), Granted)
    found = told(run("statement", "--by", "program,destination", "--json"), "statement")
    assert found.adds_up
    assert (found.topped_up_nanodollars, found.spent_nanodollars) == (20 * 10**9 + 500, 700)
    assert found.spent_of_vouchers_nanodollars == 500
    (line,) = found.lines
    assert (line.program, line.destination, line.nanodollars) == ("firefox", "=cmd.example", 700)
    assert "'=cmd.example" in done(run("statement", "--by", "destination", "--csv", "-"))
    shown = done(run("trace", line.key))
    assert number in shown
    assert "tcp 10.0.1.1:1 > 10.0.2.1:443" in shown
    done(run("dispute", number, "--note", "I never went there"))
    assert "disputed" in done(run("trace", line.key))
    assert told(run("statement", "--json"), "statement").lines[0].disputed


def test_what_is_no_line_and_no_grant_is_refused(run: Run) -> None:
    for words in (("trace", "2026-11-01/2026-11-30/program/0011223344556677"), ("dispute", "0" * 32)):
        refused = run(*words)
        assert refused.exit_code == ExitCode.REFUSED
        assert len(refused.stderr.splitlines()) == 1


def test_a_budget_is_raised_for_this_period(real: StandingSecretary, run: Run) -> None:
    before = {each.name: each for each in told(run("budget", "--json"), "budget list").budgets}
    done(run("budget", "raise", "day", "2.5"))
    after = {each.name: each for each in told(run("budget", "list", "--json"), "budget list").budgets}
    assert after["day"].limit_nanodollars == before["day"].limit_nanodollars + 2_500_000_000
    refused = run("budget", "raise", "nonsense", "1")
    assert refused.exit_code == ExitCode.REFUSED
    assert "day" in refused.stderr


def test_nothing_is_asked_about_what_cannot_be_paid_in(run: Run, real: StandingSecretary) -> None:
    assert run("top-up", "5", "--id", "one").exit_code == 0
    conflict = run("top-up", "6", "--id", "one")
    assert conflict.exit_code == ExitCode.REFUSED
    assert len(conflict.stderr.splitlines()) == 1


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_status_and_a_new_key(real: StandingSecretary, run: Run, tmp_path: Path) -> None:
    status = told(run("status", "--json"), "status")
    assert status.name == "laptop"
    assert status.fingerprint in done(run("status"))
    rotated = told(run("rotate-key", "--json", "--certificate", str(tmp_path / "new.pem")), "rotate-key")
    assert rotated.fingerprint != status.fingerprint
    assert (tmp_path / "new.pem").read_text() == rotated.certificate
    assert told(run("status", "--json"), "status").fingerprint == rotated.fingerprint


def test_rules_show_hits_and_faults(real: StandingSecretary, run: Run, tmp_path: Path) -> None:
    talk(real, lambda client: client.ask_grant(**transfer(program="quake")))
    hits = {each.name: each.hits for each in told(run("rules", "--json"), "rules").rules}
    assert hits == {"web": 0, "no-games": 1, "ask-me": 0}


# --- on the desktop ---------------------------------------------------------------------------------------------------


def test_without_a_desktop_the_notifier_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    refused = run("notify")
    assert refused.exit_code == ExitCode.ENVIRONMENT
    (line,) = refused.stderr.splitlines()
    assert "hostagent secretary inbox" in line


# --- amounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanodollars"),
    [
        ("2", 2 * 10**9),
        ("0.03 USD", 3 * CENT),
        ("30 mUSD", 3 * CENT),
        ("$2", 2 * 10**9),
        ("5nUSD", 5),
        (".5usd", 5 * 10**8),
    ],
)
def test_amounts_as_people_write_them(text: str, nanodollars: int) -> None:
    assert parse_amount(text) == nanodollars


def test_the_clock_of_these_tests_stands_still(clock: StandingClock) -> None:
    assert clock.moment().unix_s == NOW_UNIX_S
