"""A whole run that is ended from outside: nothing of it is left, and nothing was changed outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.exit_codes import ExitCode

pytestmark = pytest.mark.netns

MARK = "HOSTAGENT_LAB_TEST_MARK"
WAIT_S = 30.0


def marked(mark: str) -> list[str]:
    """The command lines of all processes that were started with our mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return [line for line in found if line]


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary directory where sockets may have names."""
    with tempfile.TemporaryDirectory(prefix="lab-", dir="/tmp") as made:
        yield Path(made)
        for place in Path(made).rglob("bpf"):  # counters outlive a run that was killed (docs/lab.md)
            if place.is_mount():
                subprocess.run(["umount", place], check=True)


def until_none(mark: str) -> list[str]:
    deadline_s = time.monotonic() + WAIT_S
    while (left := marked(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return left


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.INTERRUPTED),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_run_that_is_ended_leaves_no_process(how: signal.Signals, code: int, tmp_path: Path, short_tmp: Path) -> None:
    mark = tmp_path.name
    outside = [["ip", "link"], ["ip", "netns"], ["nft", "list", "ruleset"], ["ip", "route", "show", "table", "all"]]
    before = [subprocess.run(command, capture_output=True, check=True).stdout for command in outside]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "lab", "run", "figure1", "--plain"],
        env={**os.environ, MARK: mark, "TMPDIR": str(short_tmp)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("exchange"):
            break
    assert len(marked(mark)) > 20, lines
    process.send_signal(how)
    rest = process.communicate(timeout=WAIT_S)[1]
    assert until_none(mark) == []
    assert process.returncode == code, [*lines, rest]
    assert how == signal.SIGKILL or list(short_tmp.iterdir()) == []
    assert [subprocess.run(command, capture_output=True, check=True).stdout for command in outside] == before
