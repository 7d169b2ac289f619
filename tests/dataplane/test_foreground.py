"""Foreground: the process group that a terminal reads for; and nothing is known where there is no terminal."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.attribution.foreground import is_foreground

# Job control as a shell does it: two jobs in groups of their own, the terminal reads for the second.
SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
behind = subprocess.Popen(["sleep", "60"], process_group=0)
front = subprocess.Popen(["sleep", "60"], process_group=0)
os.tcsetpgrp(0, front.pid)
print(behind.pid, front.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def stat(directory: Path, rest: str, name: str = "cat") -> str:
    (directory / "7").mkdir(parents=True, exist_ok=True)
    (directory / "7" / "stat").write_text(f"7 ({name}) S 1 {rest} 0 0 0")
    return str(directory)


@pytest.mark.row("DPH-27")
def test_the_program_in_front_the_one_behind_and_the_shell_that_waits(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    shell = subprocess.Popen(
        [sys.executable, "-S", "-c", SHELL],
        stdin=slave,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    assert shell.stdout is not None
    jobs: list[int] = []
    try:
        jobs = [int(word) for word in shell.stdout.readline().split()]
        assert [is_foreground(each) for each in jobs] == [False, True]
        assert is_foreground(shell.pid) is False
    finally:
        for process_id in jobs:
            os.kill(process_id, signal.SIGKILL)
        shell.kill()
        shell.wait()
        shell.stdout.close()


def test_without_a_terminal_nothing_is_known() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as sleeping:
        assert is_foreground(sleeping.pid) is None
        sleeping.kill()
    assert is_foreground(sleeping.pid) is None
    assert is_foreground(1) is None


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("40 40 34816 40", True),
        ("40 30 34816 41", False),
        ("40 40 0 -1", None),  # no terminal
        ("40 40 34816 -1", None),  # the terminal has no group in front
        ("40 40 34816 0", None),
    ],
)
def test_what_the_fields_say(tmp_path: Path, rest: str, expected: bool | None) -> None:
    assert is_foreground(7, proc=stat(tmp_path, rest)) is expected


def test_a_name_may_be_anything(tmp_path: Path) -> None:
    assert is_foreground(7, proc=stat(tmp_path, "40 40 34816 40", name=") S 1 2 3 (\n")) is True


def test_a_short_file_says_nothing(tmp_path: Path) -> None:
    stat(tmp_path, "")
    (tmp_path / "7" / "stat").write_text("7 (cat) S")
    assert is_foreground(7, proc=str(tmp_path)) is None
