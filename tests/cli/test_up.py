"""`hostagent up`: joins or starts, watches, ends what it started, and says what went wrong."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from netns import Namespace
from scripted_agent import FakeAgent, started
from unprivileged import as_nobody

from cli.agent import default_socket, own_run_directory, own_state_directory
from cli.exit_codes import ExitCode
from cli.main import main
from hostagent import api

COMMAND = (sys.executable, "-P", "-m", "cli.main")
PATIENCE_S = 60
MARK = "as it was before"


def run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def places(folder: Path) -> list[str]:
    return ["--socket", str(folder / "agent.sock"), "--state-directory", str(folder / "state")]


def agents_of(folder: Path) -> list[int]:
    """Processes that were started for this folder and still run."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it just ended
                continue
            if str(folder) in words and "cli.main" in words:
                found.append(int(path.name))
    return found


def service_of(folder: Path) -> int:
    """The agent itself, among those that look on."""
    (found,) = [pid for pid in agents_of(folder) if b"--service" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


# -- an agent that is there already ----------------------------------------------------------------------------------


@pytest.mark.expectation(10)
def test_an_agent_that_runs_already_is_joined_and_left_running(agent: FakeAgent) -> None:
    done = CliRunner().invoke(main, ["up", "--show", "plain", "--for", "1s", "--socket", str(agent.socket)])
    assert done.exit_code == 0
    assert "an agent runs already" in done.stderr
    assert "Wi-Fi Home" in done.stdout
    assert "watched for" in done.stdout
    assert (agent.desk.told, agent.desk.stopped.is_set()) == ([], False)


def test_for_programs_it_is_a_snapshot_a_line(agent: FakeAgent) -> None:
    done = CliRunner().invoke(main, ["up", "--json", "--for", "1s", "--socket", str(agent.socket)])
    assert done.exit_code == 0
    assert {msgspec.json.decode(line, type=api.Snapshot).status.name for line in done.stdout.splitlines()} == {"laptop"}


def test_an_agent_that_ends_while_it_is_watched_is_unreachable(agent: FakeAgent) -> None:
    with started([*COMMAND, "up", "--show", "plain", "--socket", str(agent.socket)]) as (process, _):
        agent.desk.stopped.set()
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitCode.UNREACHABLE
    assert "no agent answers" in errors.splitlines()[-1]


# -- an agent of our own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--confirm", "60s"], ExitCode.USAGE, "--confirm needs --act"),
        (["--json", "--show", "tui"], ExitCode.USAGE, "--json needs --show plain"),
        (["--for", "soon"], ExitCode.USAGE, "span of time"),
        (["--config", "/nonexistent.toml"], ExitCode.CONFIGURATION, "no such file"),
        (
            ["--show", "plain", "--state-directory", "/proc/nowhere"],
            ExitCode.ENVIRONMENT,
            "run as root, or name another",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_started(
    tmp_path: Path, words: list[str], code: ExitCode, said: str
) -> None:
    done = CliRunner().invoke(main, ["up", "--socket", str(tmp_path / "agent.sock"), *words])
    assert done.exit_code == code
    assert said in done.stderr
    assert agents_of(tmp_path) == []


def test_a_wrong_file_is_one_line_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[agent]\nname = "a"\nstate_directory = "/tmp/x"\nengin = "auto"\n')
    done = CliRunner().invoke(main, ["up", "--show", "plain", "--config", str(tmp_path / "agent.toml")])
    assert done.exit_code == ExitCode.CONFIGURATION
    assert "agent.engin: unknown key (did you mean engine?)" in done.stderr


def test_an_agent_that_cannot_start_hands_on_its_last_words_and_code(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        f'[agent]\nname = "a"\nstate_directory = "{tmp_path}/state"\n[[links]]\ninterface = "nosuch0"\n'
    )
    done = run(*COMMAND, "up", "--show", "plain", "--config", str(tmp_path / "agent.toml"))
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "nosuch0" in done.stderr
    assert done.stderr.startswith("hostagent: the agent: ")
    assert agents_of(tmp_path) == []


@pytest.mark.netns
def test_started_watched_and_ended_with_a_summary(tmp_path: Path) -> None:
    with Namespace() as namespace:
        before = namespace.run("tc", "qdisc", "show")
        done = run(*namespace.command(*COMMAND, "up", "--observe", "--show", "plain", "--for", "3s", *places(tmp_path)))
        assert (done.returncode, done.stderr.count(MARK)) == (0, 1), done.stderr
        assert "watched for" in done.stdout
        assert "\x1b" not in done.stdout
        assert namespace.run("tc", "qdisc", "show") == before
    assert agents_of(tmp_path) == []


@pytest.mark.netns
def test_as_a_service_it_shows_nothing_and_ends_by_itself(tmp_path: Path) -> None:
    with Namespace() as namespace:
        done = run(*namespace.command(*COMMAND, "up", "--service", "--observe", "--for", "1s", *places(tmp_path)))
    assert (done.returncode, done.stdout) == (0, "")
    assert "engine:" in done.stderr


@pytest.mark.netns
def test_down_returns_when_the_kernel_is_put_back(tmp_path: Path) -> None:
    """Not when the socket is closed, which is earlier."""
    with Namespace() as namespace:
        words = ("up", "--observe", "--show", "plain", *places(tmp_path))
        with started(namespace.command(*COMMAND, *words)) as (process, _):
            child = service_of(tmp_path)
            done = run(*COMMAND, "down", "--socket", str(tmp_path / "agent.sock"))
            assert (done.returncode, done.stdout) == (0, "the agent has ended\n"), done.stderr
            assert child not in agents_of(tmp_path)  # a process that ended has no words any more
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, errors) == (0, f"hostagent: somebody ended the agent: everything is {MARK}\n")


@pytest.mark.expectation(22)
@pytest.mark.netns
def test_a_trial_that_nobody_confirms_ends_in_observing(tmp_path: Path) -> None:
    with Namespace() as namespace:
        words = ("up", "--act", "--confirm", "1s", "--json", "--for", "4s", *places(tmp_path))
        done = run(*namespace.command(*COMMAND, *words))
    assert (done.returncode, done.stderr.count("it acts on trial: it observes again in 1 s")) == (0, 1), done.stderr
    modes = [msgspec.json.decode(line, type=api.Snapshot).status.mode for line in done.stdout.splitlines()]
    assert (modes[0], modes[-1]) == (api.Mode.TRIAL, api.Mode.OBSERVE)


@pytest.mark.netns
def test_anybody_may_count(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with Namespace() as namespace:
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        words = as_nobody(*COMMAND, "up", "--show", "plain", "--for", "3s")
        done = run(*namespace.command(*words), environment=environment)
    assert (done.returncode, done.stderr.count(MARK)) == (0, 1), done.stderr
    assert "engine: sockets" in done.stdout
    assert (tmp_path / ".local" / "state" / "hostagent").stat().st_mode & 0o777 == 0o700


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_both_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with Namespace() as namespace:
        command = namespace.command(*COMMAND, "up", "--observe", "--show", "plain", *places(tmp_path))
        with started(command) as (process, _):
            child = service_of(tmp_path)
            watching = next(pid for pid in agents_of(tmp_path) if pid != child)
            os.kill(watching, number)
            _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors.count(MARK)) == (0, 1), errors
    assert agents_of(tmp_path) == []


@pytest.mark.expectation(2)
@pytest.mark.netns
def test_a_killed_agent_is_cleaned_up_after(tmp_path: Path) -> None:
    """Acting on a link with a rate puts a tree of queues there; it is gone although the agent could do nothing."""
    with Namespace() as namespace:
        namespace.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        namespace.run("ip", "link", "set", "veth0", "up")
        before = namespace.run("tc", "qdisc", "show", "dev", "veth0")
        config = tmp_path / "agent.toml"
        config.write_text(
            f'[agent]\nname = "a"\nstate_directory = "{tmp_path}/state"\nsocket = "{tmp_path}/agent.sock"\n'
            '[[links]]\ninterface = "veth0"\negress_bit_s = 10_000_000\n'
        )
        words = ("up", "--act", "--confirm", "0s", "--show", "plain", "--config", str(config))
        with started(namespace.command(*COMMAND, *words)) as (process, _):
            deadline_s = time.monotonic() + PATIENCE_S
            while "htb" not in namespace.run("tc", "qdisc", "show", "dev", "veth0"):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            os.kill(service_of(tmp_path), signal.SIGKILL)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors.splitlines()[-1]) == (
            ExitCode.FAILED,
            "hostagent: the agent: it was killed by SIGKILL",
        )
        assert namespace.run("tc", "qdisc", "show", "dev", "veth0") == before


@pytest.mark.netns
def test_on_a_terminal_it_is_the_terminal_ui_until_q(tmp_path: Path) -> None:
    with Namespace() as namespace:
        command = namespace.command(*COMMAND, "up", "--observe", *places(tmp_path))
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execvp(command[0], command)
        shown = _read_until(terminal, b"\x1b[?1049h")
        os.write(terminal, b"q")
        shown += _read_until(terminal, MARK.encode())
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"\x1b[?1049l" in shown  # the terminal is the shell's again
    assert agents_of(tmp_path) == []


def _read_until(terminal: int, text: bytes) -> bytes:
    shown = b""
    deadline_s = time.monotonic() + PATIENCE_S
    while text not in shown:
        assert time.monotonic() < deadline_s, shown[-2000:]
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 1 << 16)
    return shown


# -- places ----------------------------------------------------------------------------------------------------------


def test_where_a_users_own_agent_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert (own_run_directory(), own_state_directory()) == (tmp_path / "run/hostagent", tmp_path / "state/hostagent")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")  # which the specification says is to be ignored
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_run_directory() == own_state_directory() == tmp_path / ".local" / "state" / "hostagent"


def test_the_systems_agent_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cli.agent.RUN_DIRECTORY", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "own"))
    assert default_socket() == tmp_path / "own" / "hostagent" / "hostagent.sock"
    (tmp_path / "hostagent.sock").touch()
    assert default_socket() == tmp_path / "hostagent.sock"
