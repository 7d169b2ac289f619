"""`hostagent secretary …` against scripted answers: golden tables, JSON that keeps its schema, what is asked, and every
way of not getting an answer.

`WRITE_GOLDEN=1 python -m pytest tests/cli/test_secretary.py` writes the tables anew; look at the difference.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from scripted_agent import FakeAgent
from scripted_secretary import FINGERPRINT, GRANT, KEY, NOW_UNIX_S, STATEMENT, ScriptedSecretary

from billpay.errors import RemoteProtocolError
from cli import secretary_line
from cli.exit_codes import ExitCode
from cli.main import main
from cli.results import schema, types
from secretary import messages
from secretary.asking import Doors
from secretary.ruling.terms import Term
from secretary.transfers import Transfer

Run = Callable[..., Result]
GOLDEN = Path(__file__).parent / "golden"
WHY = ("why", "--program", "firefox", "--dest", "video.example", "--user", "ann")
LOOKS = (
    *("status", "rules", "inbox", "inbox --all", "budget", "budget list", "statement", f"trace {KEY}", "rotate-key"),
    " ".join(WHY),
)
DOES = (*("answer 7 yes", "undo", "budget raise day 2", "top-up 5 --id one", f"dispute {GRANT} --note twice"),)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedSecretary]:
    secretary = ScriptedSecretary(tmp_path / "secretary.sock")
    with secretary:
        yield secretary


@pytest.fixture
def run(scripted: ScriptedSecretary, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(secretary_line.SOCKET_VARIABLE, str(scripted.socket))
    monkeypatch.setattr("time.time", lambda: float(NOW_UNIX_S))
    return lambda *words: CliRunner().invoke(main, ["secretary", *words])


def one_line(done: Result) -> str:
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("hostagent: ")
    return line.removeprefix("hostagent: ")


def verb_of(words: str) -> str:
    known = [name.removeprefix("secretary ") for name in types() if name.startswith("secretary ")]
    fitting = [name for name in known if f"{words} ".startswith(f"{name} ")]
    return f"secretary {max(fitting, key=len) if fitting else 'budget list'}"


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.expectation(10)
@pytest.mark.parametrize("words", LOOKS)
def test_a_table_fits_into_eighty_columns(run: Run, words: str) -> None:
    done = run(*words.split())
    assert (done.exit_code, done.stderr) == (0, "")
    assert all(cell_len(line) <= 80 and line == line.rstrip() for line in done.stdout.splitlines())
    path = GOLDEN / f"secretary_{re.sub('[^a-z.-]+', '_', words.partition(' 2026')[0])}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(done.stdout, encoding="utf-8")
    assert done.stdout == path.read_text(encoding="utf-8")


@pytest.mark.expectation(23)
@pytest.mark.parametrize("words", [*LOOKS, *DOES])
def test_json_is_what_its_schema_says(run: Run, words: str) -> None:
    done = run(*words.split(), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    verb = verb_of(words)
    jsonschema.Draft202012Validator(schema(verb) or {}).validate(json.loads(done.stdout))
    msgspec.json.decode(done.stdout, type=types()[verb])


@pytest.mark.parametrize("words", LOOKS)
def test_strangers_cannot_write_to_the_terminal(run: Run, scripted: ScriptedSecretary, words: str) -> None:
    """Programs, destinations and gateways name themselves."""
    evil = "\x1b[2J\u202eevil\n\r"
    for kind, answer in scripted.answers.items():
        scripted.answers[kind] = msgspec.convert(_poisoned(msgspec.to_builtins(answer), evil), type(answer))
    done = run(*words.split())
    assert done.exit_code == 0, done.output
    assert not set(done.stdout) & set("\x1b\r\u202e")


KEPT = {
    *("type", "state", "decision", "kind", "key", "grant", "first_day", "last_day", "by", "word", "period", "purpose"),
    *("signer", "document", "signature", "certificate"),
}
"""No texts of strangers, or where they are, checked as they come in."""


def _poisoned(value: object, evil: str, name: str = "") -> object:
    if isinstance(value, dict):
        kept = value.get("flow") if isinstance(value.get("flow"), dict) else None
        return {key: _poisoned(each, evil, key) for key, each in value.items()} | ({"flow": kept} if kept else {})
    if isinstance(value, (list, tuple)):
        return [_poisoned(each, evil, name) for each in value]
    return f"{value}{evil}" if isinstance(value, str) and name not in KEPT and value else value


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.expectation(9)
@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("inbox", messages.AskInbox()),
        ("inbox --all", messages.AskInbox(answered=True)),
        ("answer 7 yes", messages.AnswerQuestion(number=7, accept=True)),
        *(
            (f"answer 7 no --for {term.value}", messages.AnswerQuestion(number=7, accept=False, term=term))
            for term in Term
        ),
        ("answer 7 yes --up-to 0.03", messages.AnswerQuestion(number=7, accept=True, limit_nanodollars=30_000_000)),
        ("answer 7 yes --up-to 30mUSD", messages.AnswerQuestion(number=7, accept=True, limit_nanodollars=30_000_000)),
        ("answer 7 yes --up-to $2", messages.AnswerQuestion(number=7, accept=True, limit_nanodollars=2 * 10**9)),
        ("undo", messages.UndoAnswer()),
        ("undo 7", messages.UndoAnswer(number=7)),
        (
            "budget raise games 0.5 --who quake",
            messages.RaiseBudget(budget="games", nanodollars=5 * 10**8, who="quake"),
        ),
        ("top-up 20 --id a", messages.TopUpPurse(transfer="a", nanodollars=20 * 10**9)),
        (
            "top-up 20 --id a --voucher xmas --expires 2026-12-31",
            messages.TopUpPurse(transfer="a", nanodollars=20 * 10**9, voucher="xmas", expires_unix_s=1_798_675_200),
        ),
        ("statement --month 2026-02", messages.AskStatement(first_day="2026-02-01", last_day="2026-02-28")),
        (
            "statement --from 2026-11-03 --to 2026-11-09 --by day,user",
            messages.AskStatement(first_day="2026-11-03", last_day="2026-11-09", by=("day", "user")),
        ),
        (f"trace {KEY}", messages.AskTrace(key=KEY)),
        (f"dispute {GRANT} --note twice", messages.DisputeGrant(grant=GRANT, note="twice")),
        (
            "why --program firefox --dest x.example --network Home --user ann --price 0.2 --bytes 5000 --background",
            messages.AskWhy(
                transfer=Transfer(
                    user="ann",
                    program="firefox",
                    kind="web",
                    destination="x.example",
                    network="Home",
                    foreground=False,
                    size_bytes=5000,
                    price_nanodollars=200_000_000,
                )
            ),
        ),
    ],
)
def test_what_was_said_is_what_is_asked(
    run: Run, scripted: ScriptedSecretary, words: str, asked: messages.Question
) -> None:
    done = run(*words.split())
    assert (done.exit_code, done.stderr) == (0, "")
    assert scripted.asked == [asked]


@pytest.mark.parametrize(
    "words",
    [
        *("answer x yes", "answer 7 maybe", "answer 0 yes", "answer 7 yes --for 2h", "answer 7 yes --up-to much"),
        *(
            "answer 7 yes --up-to 3EUR",
            "answer 7 no --up-to 3",
            "undo x",
            "top-up 0",
            "top-up -- -5",
            "budget raise day",
        ),
        *("top-up 5 --expires 2026-12-31", "top-up 5 --id ?", "dispute 12", "statement --by colour", "why"),
        *("statement --month 2026-11 --from 2026-11-01", "statement --to 2026-11-01", "statement --month november"),
        *("statement --from 2026-11-02 --to 2026-11-01", "statement --csv - --json", "budget --json raise day 2"),
        *("top-up 0.0000000001", "top-up 99999999", "replay x --zone Atlantis"),
    ],
)
def test_malformed_words_are_usage_errors(run: Run, scripted: ScriptedSecretary, words: str) -> None:
    done = run(*words.split())
    assert (done.exit_code, scripted.asked) == (ExitCode.USAGE, []), done.output


def test_a_payment_without_a_name_gets_one_before_it_is_told(run: Run, scripted: ScriptedSecretary) -> None:
    """Whoever is not sure whether it went through can say the same again."""
    first, again = run("top-up", "5"), run("top-up", "5")
    names = [each.transfer for each in scripted.asked if isinstance(each, messages.TopUpPurse)]
    assert len(set(names)) == 2
    for done, name in zip((first, again), names, strict=True):
        assert f"--id {name}" in done.stderr
    scripted.refusal = RemoteProtocolError("not-booked", "no")
    assert "--id cli-" in run("top-up", "5").stderr


def test_a_flow_of_the_agent_is_asked_about(
    run: Run, scripted: ScriptedSecretary, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTAGENT_SOCKET", str(agent.socket))
    flow = next(each for each in agent.desk.shown.flows if "3478" in each.flow)
    done = run("why", "3478", "--bytes", "2000000", "--user", "ann")
    assert (done.exit_code, done.stderr) == (0, "")
    (question,) = scripted.asked
    assert isinstance(question, messages.AskWhy)
    said = question.transfer
    assert (said.program, said.kind, said.destination) == (flow.program, flow.traffic_class, flow.destination)
    assert said.price_nanodollars == 2 * (flow.price_nanodollars_per_mb or 0)
    several = run("why", ":443")
    assert several.exit_code == ExitCode.REFUSED
    assert "flows have" in one_line(several)


def test_a_new_certificate_goes_into_a_file(run: Run, tmp_path: Path) -> None:
    done = run("rotate-key", "--certificate", str(tmp_path / "new.pem"))
    assert FINGERPRINT in done.stdout
    assert (tmp_path / "new.pem").read_text().startswith("-----BEGIN CERTIFICATE-----\n")


# --- statements -------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(17)
def test_a_csv_adds_up_and_no_cell_is_a_formula(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("statement", "--month", "--csv").stdout)))
    amounts = {row["row"]: int(row["nanodollars"]) for row in rows}
    told = sum(int(row["nanodollars"]) for row in rows if row["row"] in ("opening", "topped up", "spent", "fees"))
    assert told == amounts["closing"] == STATEMENT.closing_nanodollars
    assert [row["program"] for row in rows if row["row"] == "line"] == ["firefox", "'=cmd|' /C calc'!A0"]


def test_a_table_goes_into_a_file(run: Run, tmp_path: Path) -> None:
    done = run("statement", "--csv", str(tmp_path / "november.csv"), "--month", "2026-11")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "november.csv").read_text(encoding="utf-8") == run("statement", "--csv", "-").stdout


def test_the_json_is_the_statement_itself(run: Run) -> None:
    assert json.loads(run("statement", "--json").stdout) == json.loads(msgspec.json.encode(STATEMENT))


def test_a_page_that_prints(run: Run, tmp_path: Path) -> None:
    done = run("statement", "--html", str(tmp_path / "page.html"))
    assert (done.exit_code, done.stdout) == (0, "")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<!DOCTYPE html>" in page
    assert "5.099999904 USD" in page


def test_a_file_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    done = run("statement", "--csv", str(tmp_path / "no" / "such" / "file.csv"))
    assert done.exit_code == ExitCode.ENVIRONMENT
    one_line(done)


# --- no answer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [*LOOKS, *DOES, "notify"])
def test_without_a_secretary_it_is_one_line_and_its_code(words: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["secretary", *words.split(), "--socket", str(tmp_path / "none.sock")])
    assert done.exit_code == ExitCode.UNREACHABLE
    assert "no secretary answers on" in one_line(done)
    assert "systemctl start hostagent-secretary" in done.stderr


def test_a_file_where_nobody_listens_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["secretary", "status", "--socket", str(tmp_path / "file")])
    assert done.exit_code == ExitCode.UNREACHABLE
    assert "nobody listens there" in one_line(done)


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("no-such-question", ExitCode.REFUSED, "there is no question 9; in the inbox are 7, 5"),
        ("not-permitted", ExitCode.REFUSED, "([access] people and keepers in the secretary's file say who may)"),
        ("not-booked", ExitCode.REFUSED, "there is no question 9; in the inbox are 7, 5"),
        ("busy", ExitCode.UNREACHABLE, "there is no question 9"),
        ("malformed", ExitCode.PEER, "the other side is at fault: malformed"),
    ],
)
@pytest.mark.parametrize("words", [*LOOKS, *DOES])
def test_a_refusal_is_the_secretarys_own_line(
    run: Run, scripted: ScriptedSecretary, words: str, code: str, exit_code: ExitCode, said: str
) -> None:
    scripted.refusal = RemoteProtocolError(code, "there is no question 9; in the inbox are 7, 5")
    done = run(*words.split())
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert said in one_line(done)


def test_a_stranger_is_told_who_may(run: Run, scripted: ScriptedSecretary) -> None:
    """We are neither root there, nor the secretary's own user, nor named."""
    scripted.doors = Doors(own_user_id=2**31)
    done = run("inbox")
    if os.geteuid() == 0:
        assert done.exit_code == 0
        return
    assert done.exit_code == ExitCode.REFUSED
    assert "[access] people" in one_line(done)


def test_another_answer_than_the_one_asked_for_is_the_peers_fault(run: Run, scripted: ScriptedSecretary) -> None:
    scripted.answers[messages.AskStatus] = messages.Done(message="hello")
    done = run("status")
    assert done.exit_code == ExitCode.PEER
    assert "wrong-answer" in one_line(done)


# --- which socket -----------------------------------------------------------------------------------------------------


def test_the_socket_is_the_systems_else_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, config = tmp_path / "system.sock", tmp_path / "secretary.toml"
    monkeypatch.setattr(secretary_line, "SYSTEM_SOCKET", system)
    monkeypatch.setattr(secretary_line, "SYSTEM_CONFIGURATION", config)
    assert secretary_line.default_socket() == system
    config.write_text('[secretary]\nname = "a"\nstate_directory = "/srv/secretary"\n')
    assert secretary_line.default_socket() == Path("/srv/secretary/secretary.sock")
    config.write_text("nonsense")
    assert secretary_line.default_socket() == system
    config.write_text('[secretary]\nname = "a"\nstate_directory = "/srv/secretary"\n')
    system.touch()
    assert secretary_line.default_socket() == system
