"""Verbs that look: golden tables at 80 columns, JSON that keeps its schema, and every way of not getting an answer.

`WRITE_GOLDEN=1 python -m pytest tests/cli/test_looking.py` writes the tables anew; look at the difference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from scripted_agent import FakeAgent
from snapshots import household

from cli.exit_codes import ExitCode
from cli.main import main
from cli.results import schema, types
from hostagent import api
from hostagent.desk import Refused

Run = Callable[..., Result]
GOLDEN = Path(__file__).parent / "golden"
LOOKS = (
    *("status", "flows", "programs", "kinds", "why zoom", "rules", "networks", "prices", "budget", "paths"),
    *("accounts", "notices", "preview", "inbox", "worths", "sessions", "statement", "history", "replay --since 30d"),
    *("top --once", "top --once --by flow --sort name", "top --once --by kind --sort worth --rows 3"),
)
"""What asks and changes nothing."""


def one_line(text: str) -> str:
    (line,) = text.strip().splitlines()
    assert line.startswith("hostagent: ")
    return line


@pytest.mark.expectation(10)
@pytest.mark.parametrize("words", LOOKS)
def test_a_table_fits_into_eighty_columns(run: Run, words: str) -> None:
    done = run(*words.split())
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("tc ", "ip "))]
    assert all(cell_len(line) <= 80 and line == line.rstrip() for line in lines)
    path = GOLDEN / f"{words.replace(' ', '_')}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(done.stdout, encoding="utf-8")
    assert done.stdout == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("words", LOOKS)
def test_a_wide_terminal_has_the_reasons_too(run: Run, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = run(*words.split())
    assert done.exit_code == 0
    if words in ("flows", "programs") or "--by flow" in words:
        assert "waits: the" in done.stdout


@pytest.mark.expectation(23)
@pytest.mark.parametrize("words", LOOKS)
def test_json_is_what_its_schema_says(run: Run, words: str) -> None:
    done = run(*words.split(), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    verb = words.split()[0]
    jsonschema.Draft202012Validator(schema(verb)).validate(json.loads(done.stdout))
    msgspec.json.decode(done.stdout, type=types()[verb])


def test_json_has_every_field_of_the_agents_answer(run: Run) -> None:
    assert msgspec.json.decode(run("top", "--once", "--json").stdout, type=api.Snapshot) == household()


@pytest.mark.parametrize("words", [*LOOKS, "answer 1 yes", "worth a 2", "trust 12345678", "act", "confirm", "down"])
def test_without_an_agent_it_is_one_line_and_its_code(words: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*words.split(), "--socket", str(tmp_path / "none.sock")])
    assert done.exit_code == ExitCode.UNREACHABLE
    assert "no agent answers on" in one_line(done.stderr)
    assert "hostagent up" in done.stderr


def test_what_is_no_agent_is_said_to_be_at_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["status", "--socket", str(tmp_path / "file")])
    assert done.exit_code == ExitCode.UNREACHABLE
    assert "nobody listens there" in one_line(done.stderr)


@pytest.mark.expectation(11)
def test_why_names_the_flow_that_only_one_fits(run: Run) -> None:
    done = run("why", "3478")
    assert done.stdout.splitlines()[0] == "udp 192.0.2.7:41035 → 203.0.113.20:3478"
    assert "worth more than the price: goes first" in done.stdout


@pytest.mark.parametrize("flow", ["nobody", ":443"])
def test_why_of_no_flow_or_of_several_is_refused(run: Run, flow: str) -> None:
    done = run("why", flow)
    assert done.exit_code == ExitCode.REFUSED
    assert "flows have" in one_line(done.stderr)


def test_rules_count_their_hits(run: Run) -> None:
    assert [line.split()[:4] for line in run("rules").stdout.splitlines()[1:]] == [
        ["1", "word", "backup", "1"],
        ["2", "kinds", "backup", "0"],
        ["3", "kinds", "web", "41"],
    ]


def test_empty_answers_say_what_is_missing(run: Run, agent: FakeAgent) -> None:
    full = household()
    agent.desk.shown = api.Snapshot(
        sequence=1,
        unix_s=full.unix_s,
        status=full.status,
        flows=(),
        accounts=api.Accounts(links=()),
        paths=api.Paths(),
    )
    for verb in ("flows", "programs", "kinds", "rules", "networks", "prices", "budget", "accounts", "inbox"):
        done = run(verb)
        assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1), verb
    assert "no network" in run("preview").stdout


@pytest.mark.expectation(21)
def test_what_was_not_measured_is_a_question_mark_and_no_number(run: Run, agent: FakeAgent) -> None:
    paths = run("paths").stdout
    assert [line.split()[-3:] for line in paths.splitlines() if "AS64513       1" in line] == [["?", "?", "?"]]
    assert "rate       not known" in run("networks").stdout


def test_strangers_cannot_write_to_the_terminal(run: Run, agent: FakeAgent) -> None:
    evil = "\x1b[2J\u202eevil\n\r"
    shown = household()
    network = msgspec.structs.replace(shown.networks[0], title=evil, metered_because=evil, tariff=evil)
    status = msgspec.structs.replace(shown.status, network=evil, engine_reason=evil)
    flow = msgspec.structs.replace(shown.flows[0], program=evil, task=evil, reason=evil, traffic_class=evil)
    agent.desk.shown = msgspec.structs.replace(
        shown,
        status=status,
        networks=(network,),
        flows=(flow,),
        programs=(msgspec.structs.replace(shown.programs[0], name=evil, decision=evil),),
        rules=(msgspec.structs.replace(shown.rules[0], condition=evil),),
        notices=(msgspec.structs.replace(shown.notices[0], message=evil),),
    )
    for words in LOOKS:
        done = run(*words.split()) if words != "why zoom" else run("why", "evil")
        assert done.exit_code == 0
        assert not set(done.stdout) & set("\x1b\r\u202e"), words
    assert run("top", "--once").stdout.count("evil") >= 2


def test_a_refusal_is_the_agents_own_line(run: Run, agent: FakeAgent) -> None:
    agent.desk.refusal = Refused("not-now", "the disk is full: nothing is kept")
    done = run("reload")
    assert (done.exit_code, done.stderr) == (ExitCode.REFUSED, "hostagent: the disk is full: nothing is kept\n")
