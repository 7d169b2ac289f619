"""Tasks: made-up control groups, and real ones below a group of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from billpay.errors import ConfigurationError, EnvironmentFault
from cli.exit_codes import ExitCode
from cli.task_launcher import run_task
from dataplane.attribution.processes import v2_mount
from dataplane.attribution.tasks import join, remove_empty

LAUNCHER = "import sys; from cli.task_launcher import run_task; run_task()"


def machine(root: Path, own: str, *groups: str) -> tuple[Path, Path]:
    """A made-up /proc and mount with these control groups."""
    proc, mount = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(f"1:name=systemd:/x\n0::{own}\n")
    for group in groups:
        (mount / group).mkdir(parents=True)
    return proc, mount


@pytest.mark.parametrize("name", ["", "Backup", "a b", "a/b", "..", "x" * 33, "a\n", "ä"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 32 of a-z, 0-9 and -"):
        join(name)


def test_the_group_goes_below_the_callers_own(tmp_path: Path) -> None:
    proc, mount = machine(tmp_path, "/user.slice/session-2.scope", "user.slice/session-2.scope")
    group = join("backup", proc=proc, mount=mount)
    assert group == mount / "user.slice" / "session-2.scope" / "hostagent-task-backup"
    assert (group / "cgroup.procs").read_text() == "0"


def test_else_below_the_root(tmp_path: Path) -> None:
    proc, mount = machine(tmp_path, "/not/in/this/namespace", ".")
    assert join("backup", proc=proc, mount=mount) == mount / "hostagent-task-backup"


def test_without_control_groups_of_version_2_one_line_says_so(tmp_path: Path) -> None:
    proc, _ = machine(tmp_path, "/", ".")
    (proc / "mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")
    with pytest.raises(EnvironmentFault, match=r"mounts no control groups of version 2 .*mount -t cgroup2"):
        join("backup", proc=proc)


def test_empty_groups_of_old_tasks_are_removed(tmp_path: Path) -> None:
    for name in ("hostagent-task-a/hostagent-task-b", "hostagent-task-c/busy", "ssh.service"):
        (tmp_path / name).mkdir(parents=True)
    remove_empty(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostagent-task-c", "ssh.service"]


def test_the_command_says_in_one_line_what_is_wrong() -> None:
    result = CliRunner().invoke(run_task, ["--task", "Not A Name", "--", "true"])
    assert result.exit_code == ExitCode.CONFIGURATION
    assert result.output.count("\n") == 1
    assert CliRunner().invoke(run_task, ["--task", "a"]).exit_code == ExitCode.USAGE


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the test's own, in which the launched start."""
    mount = v2_mount()
    assert mount is not None
    made = mount / f"hostagent-test-{os.getpid()}"
    made.mkdir()
    yield made
    for path in sorted(made.rglob("*/"), reverse=True):
        path.rmdir()
    made.rmdir()


def launch(group: Path, *arguments: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    """`hostagent run …` by a caller in that group."""
    command = start_in(group, [sys.executable, "-c", LAUNCHER, *arguments])
    if user:
        command = [*command[:4], "setpriv", f"--reuid={user}", "--clear-groups", *command[4:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def start_in(group: Path, command: Sequence[str]) -> list[str]:
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.netns
def test_the_command_and_what_it_starts_are_in_the_task(group: Path) -> None:
    done = launch(group, "--task", "backup", "--", "sh", "-c", "tail -n1 /proc/self/cgroup; exit 7")
    assert done.stdout == f"0::/{group.name}/hostagent-task-backup\n"
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.netns
def test_the_next_start_removes_the_group_of_a_task_that_ended(group: Path) -> None:
    launch(group, "--task", "first", "true")
    launch(group, "--task", "second", "true")
    assert [path.name for path in group.glob("hostagent-*")] == ["hostagent-task-second"]


@pytest.mark.netns
def test_a_task_within_a_task(group: Path) -> None:
    done = launch(
        group, "--task", "a", "--", sys.executable, "-c", LAUNCHER, "--task", "b", "tail", "-n1", "/proc/self/cgroup"
    )
    assert done.stdout == f"0::/{group.name}/hostagent-task-a/hostagent-task-b\n"


@pytest.mark.netns
def test_the_command_finds_its_signals_as_usual(group: Path) -> None:
    done = launch(group, "--task", "a", "--", "sh", "-c", "kill -PIPE $$; echo alive")
    assert (done.stdout, done.returncode) == ("", -13)


@pytest.mark.netns
def test_who_may_not_is_told_what_to_do(group: Path) -> None:
    done = launch(group, "--task", "a", "true", user=65534)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "Permission denied" in done.stderr
    assert "systemd-run --user --scope" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.netns
def test_a_group_that_was_given_to_a_user_serves_that_user(group: Path) -> None:
    """What systemd's delegation does."""
    for path in (group, group / "cgroup.procs"):
        os.chown(path, 65534, -1)
    done = launch(group, "--task", "a", "tail", "-n1", "/proc/self/cgroup", user=65534)
    assert done.stdout == f"0::/{group.name}/hostagent-task-a\n"


@pytest.mark.netns
def test_a_command_that_is_not_there(group: Path) -> None:
    done = launch(group, "--task", "a", "no-such-command")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stderr.startswith("hostagent: run no-such-command: No such file or directory")
