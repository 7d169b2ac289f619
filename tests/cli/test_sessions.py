"""Verbs of sessions and tasks: what the agent is told, which options go together, and a policy in all its forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from scripted_agent import FakeAgent
from snapshots import SESSIONS, household

from cli.exit_codes import ExitCode
from cli.main import main
from cli.sessions import End, parse_end
from cli.words import NotUnderstood
from hostagent import api
from hostagent.desk import Refused
from pricereactor.policy import PolicyFile, TaskKind, TaskPolicy, ValuePoint, to_toml
from pricereactor.sdp import from_sdp, to_sdp

Run = Callable[..., Result]

FILM = TaskPolicy(
    name="film",
    kind=TaskKind.STREAMING,
    value=(ValuePoint(rate_bit_s=300_000, nanodollars_per_s=60_000),),
    ladder_bit_s=(300_000, 750_000),
    session_budget_nanodollars=200_000_000,
    attended=True,
)
BACKUP = TaskPolicy(name="backup", willingness_nanodollars_per_s=50_000, max_bit_s=20_000_000)
FLOW = ("tcp", "192.0.2.7:40000", "[2001:db8::9]:443")


def one_line(done: Result, code: ExitCode) -> str:
    assert done.exit_code == code, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def both(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.toml"
    file.write_text(to_toml((FILM, BACKUP)), encoding="utf-8")
    return file


# -- those that there are --------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-27")
def test_sessions_say_what_is_billed_and_what_is_a_guess(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    billed, guessed = run("sessions").stdout.splitlines()[1:3]
    assert "billed" in billed
    assert "12.6 mUSD" in billed
    assert "estimate: classic ECN" in guessed
    assert "~511 µUSD" in guessed
    assert "more than the ceiling" in guessed


def test_what_nobody_has_said_is_no_price_of_zero(run: Run, agent: FakeAgent) -> None:
    silent = msgspec.structs.replace(
        SESSIONS[0], verdict="let go", target_bit_s=None, source="", billed=False,
        nanodollars_per_mark=None, marked_ppm=None, price_nanodollars_per_mb=None, spent_nanodollars=0,
    )  # fmt: skip
    theirs = msgspec.structs.replace(SESSIONS[1], pays=False, task="", program="", source="", spent_nanodollars=0)
    agent.desk.shown = msgspec.structs.replace(household(), sessions=(silent, theirs))
    first, second = run("sessions").stdout.splitlines()[1:]
    assert first.split() == ["restic", "offsite", "let", "go", "12.7M", "none", "?", "0", "USD"]
    assert second.split()[:3] == ["tcp", "203.0.113.77:443", "pause"]
    assert "USD" not in second


def test_watched_sessions_are_block_after_block(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch(_socket: Path, show: Callable[[api.Snapshot], None], *, every_s: float) -> None:
        assert every_s == 1
        show(household())
        show(msgspec.structs.replace(household(), sessions=()))

    monkeypatch.setattr("cli.watching.watch", watch)
    text = run("sessions", "--watch").stdout
    assert text.count("Wi-Fi Home") == 2
    assert text.index("restic") < text.index("no sessions: no flow follows the price")
    lines = run("sessions", "--watch", "--json").stdout.splitlines()
    assert msgspec.json.decode(lines[0], type=tuple[api.Session, ...]) == SESSIONS
    assert lines[1] == "[]"


# -- a new one, and an end -------------------------------------------------------------------------------------------


def test_a_task_of_the_configuration_is_named(run: Run, agent: FakeAgent) -> None:
    done = run("session", "open", *FLOW, "--task", "film", "--adapts")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"session {SESSIONS[0].session}"
    assert agent.desk.told == [
        api.SessionRequest(
            protocol="tcp",
            local="192.0.2.7",
            local_port=40000,
            remote="2001:db8::9",
            remote_port=443,
            adapts=True,
            task="film",
        )
    ]


@pytest.mark.row("DPH-28")
def test_a_policy_comes_out_of_a_file_in_any_form(run: Run, agent: FakeAgent, both: Path, tmp_path: Path) -> None:
    sdp = tmp_path / "film.sdp"
    sdp.write_text("\r\n".join(("v=0", "s=-", *to_sdp(FILM), "m=video 5004 RTP/AVP 96", "")), encoding="utf-8")
    run("session", "open", *FLOW, "--policy", str(both), "--task", "backup", "--receives")
    done = run("session", "open", *FLOW, "--sdp", str(sdp), "--json")
    first, second = agent.desk.told
    assert isinstance(first, api.SessionRequest)
    assert isinstance(second, api.SessionRequest)
    assert (first.policy, first.sends, first.task) == (BACKUP, False, "")
    assert (second.policy, second.sends) == (FILM, True)
    assert msgspec.json.decode(done.stdout, type=api.Session) == SESSIONS[0]


def test_who_leaves_paying_to_the_far_end_has_no_policy(run: Run, agent: FakeAgent) -> None:
    assert run("session", "open", *FLOW, "--far-end-pays").exit_code == 0
    (told,) = agent.desk.told
    assert isinstance(told, api.SessionRequest)
    assert (told.pays, told.sends, told.policy, told.task) == (False, True, None, "")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--far-end-pays", "--task", "film"),
        ("--far-end-pays", "--receives"),
        ("--policy", "a", "--sdp", "b"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(run: Run, agent: FakeAgent, options: tuple[str, ...]) -> None:
    assert run("session", "open", *FLOW, *options).exit_code == ExitCode.USAGE
    assert agent.desk.told == []


@pytest.mark.parametrize(
    "end", ["", "192.0.2.7", "192.0.2.7:0", "192.0.2.7:65536", "2001:db8::9:443", "[192.0.2.7]:1", "host:80", "1.2.3:4"]
)
def test_what_is_no_end_of_a_flow_says_how_to_write_one(end: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_end(end)


def test_an_end_is_written_as_everywhere() -> None:
    assert parse_end("192.0.2.7:5004") == End(address="192.0.2.7", port=5004)
    assert parse_end("[2001:DB8::0:7]:80") == End(address="2001:db8::7", port=80)


def test_a_file_with_several_tasks_needs_a_name(run: Run, agent: FakeAgent, both: Path) -> None:
    done = run("session", "open", *FLOW, "--policy", str(both))
    assert "has 2 tasks, and one is wanted: film, backup" in one_line(done, ExitCode.CONFIGURATION)
    done = run("session", "open", *FLOW, "--policy", str(both), "--task", "game")
    assert "has no task 'game'; there are: film, backup" in one_line(done, ExitCode.CONFIGURATION)
    assert agent.desk.told == []


def test_a_refusal_is_the_agents_own_line(run: Run, agent: FakeAgent) -> None:
    agent.desk.refusal = Refused("no-such-task", "there is no task 'film'; there are: none")
    done = run("session", "open", *FLOW, "--task", "film")
    assert one_line(done, ExitCode.REFUSED) == "hostagent: there is no task 'film'; there are: none"


@pytest.mark.parametrize("words", [SESSIONS[1].session, "27f0", "curl", "203.0.113.77"])
def test_a_session_ends_by_whatever_only_it_is_called(run: Run, agent: FakeAgent, words: str) -> None:
    done = run("session", "end", words)
    assert (done.exit_code, agent.desk.told) == (0, [SESSIONS[1].session])
    assert done.stdout == f"ended: {SESSIONS[1].flow}, task delivery\n"


@pytest.mark.row("DPH-27")
def test_what_a_session_is_worth_is_said_while_it_runs(run: Run, agent: FakeAgent) -> None:
    done = run("session", "worth", "restic", "1.5")
    assert done.stdout == f"worth 1.5 times what its policy says: {SESSIONS[0].flow}, task offsite\n"
    assert agent.desk.told == [api.SessionWorth(session=SESSIONS[0].session, worth_ppm=1_500_000)]
    for wrong in ("0", "-1", "101", "much", "nan"):
        assert run("session", "worth", "restic", wrong).exit_code == ExitCode.USAGE, wrong
    assert len(agent.desk.told) == 1


@pytest.mark.parametrize("words", ["nobody", "27f", ":443", " "])
def test_none_or_several_of_a_name_are_refused(run: Run, agent: FakeAgent, words: str) -> None:
    assert "`hostagent sessions` lists them" in one_line(run("session", "end", words), ExitCode.REFUSED)
    assert agent.desk.told == []


@pytest.mark.parametrize(
    "words",
    [("sessions",), ("sessions", "--watch"), ("session", "end", "x"), ("session", "open", *FLOW, "--task", "t")],
)
def test_without_an_agent_it_is_one_line_and_its_code(words: tuple[str, ...], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*words, "--socket", str(tmp_path / "none.sock")])
    assert "no agent answers on" in one_line(done, ExitCode.UNREACHABLE)


# -- policies in files -----------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-28")
def test_a_policy_is_the_same_in_every_form(run: Run, both: Path, tmp_path: Path) -> None:
    file = both
    as_json, as_sdp = tmp_path / "tasks.json", tmp_path / "film.sdp"
    as_json.write_text(run("task", "show", str(file), "--json").stdout, encoding="utf-8")
    assert msgspec.json.decode(as_json.read_bytes(), type=PolicyFile).tasks == (FILM, BACKUP)
    assert run("task", "show", str(as_json)).stdout == to_toml((FILM, BACKUP))
    file.write_text(to_toml((FILM,)), encoding="utf-8")
    as_sdp.write_bytes(run("task", "show", str(file), "--sdp").stdout_bytes)
    assert from_sdp(as_sdp.read_bytes().decode()) == FILM
    assert run("task", "show", str(as_sdp), "--toml").stdout == to_toml((FILM,))


def test_a_description_keeps_the_rest_of_it(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.sdp"
    text = "\r\n".join(("v=0", "o=- 1 1 IN IP4 192.0.2.7", "s=a film", "t=0 0", *to_sdp(FILM), "m=video 1 UDP 2", ""))
    file.write_bytes(text.encode())
    assert run("task", "show", str(file), "--sdp").stdout_bytes == text.encode()


def test_only_one_task_stands_in_a_description(run: Run, both: Path) -> None:
    assert "has 2 tasks, and one is wanted" in one_line(run("task", "show", str(both), "--sdp"), ExitCode.CONFIGURATION)


@pytest.mark.row("DPH-28")
def test_check_says_all_that_is_wrong_a_line_each(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        '[[tasks]]\nname = "a"\nmin_bit_s = 9_000_000\nmax_bit_s = 8_000\n'
        '[[tasks]]\nname = "a"\nkind = "transfer"\nwillingness_nanodollars_per_s = 1\n',
        encoding="utf-8",
    )
    done = run("task", "check", str(file))
    assert (done.exit_code, done.stderr) == (ExitCode.CONFIGURATION, "")
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "tasks[0].willingness_nanodollars_per_s",
        "tasks[0].min_bit_s",
        "tasks[1].name",
        "tasks[1].size_bytes",
        "tasks[1].deadline_s",
    ]
    assert all(line.startswith(f"{file}: ") and line.endswith(")") for line in lines)
    found = json.loads(run("task", "check", str(file), "--json").stdout)
    assert found == {"tasks": ["a", "a"], "problems": lines, "passed_over": []}
    assert run("task", "show", str(file)).exit_code == ExitCode.CONFIGURATION


def test_check_is_content_and_names_what_it_passed_over(run: Run, tmp_path: Path, both: Path) -> None:
    assert run("task", "check", str(both)).stdout == "film: streaming; backup: elastic: nothing is wrong\n"
    file = tmp_path / "a.sdp"
    file.write_text("\r\n".join(("v=0", *to_sdp(FILM), "a=x-buy:celing 9", "")), encoding="utf-8")
    done = run("task", "check", str(file))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == f"{file}: line 7: nobody knows this: a=x-buy:celing 9"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "tasks: there are none"),
        ("tasks = [", "not TOML"),
        ("[[tasks]]\nname = 'a'\nwilingness = 3\n", "unknown key"),
        ("v=0\r\ns=-\r\n", "has no policy"),
        ("v=0\r\na=x-buy:task film\r\n", "is no name and kind"),
        ('{"tasks": [{"name": "A"}]}', "hostagent schema task show"),
        ("{", "hostagent schema task show"),
    ],
)
def test_a_file_that_is_none_of_the_forms_is_one_line(run: Run, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "file"
    file.write_text(text, encoding="utf-8")
    done = run("task", "check", str(file))
    assert (done.exit_code, len(done.stdout.splitlines())) == (ExitCode.CONFIGURATION, 1)
    assert says in done.stdout
    assert says in one_line(run("task", "show", str(file)), ExitCode.CONFIGURATION)


def test_a_file_that_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    assert "No such file" in one_line(run("task", "check", str(tmp_path / "none")), ExitCode.CONFIGURATION)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in one_line(run("task", "show", str(tmp_path / "bytes")), ExitCode.CONFIGURATION)


def test_a_name_out_of_a_file_cannot_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.sdp"
    file.write_text("\r\n".join(("v=0", *to_sdp(FILM), "a=x-buy:evil \x1b[2J", "")), encoding="utf-8")
    assert "\x1b" not in run("task", "check", str(file)).stdout
