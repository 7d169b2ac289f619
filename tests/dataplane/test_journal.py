"""The log: one line for each event, with its priority where the journal reads, with its time everywhere else."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.journal import LOG_FILE, JournalLine, TextLine, fault_line, goes_to_journal, plain

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import logging, os, sys
from pathlib import Path
if sys.argv[1] == "journal":
    found = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
from dataplane import journal
journal.set_up(sys.stderr, Path(sys.argv[2]))
log = logging.getLogger("trial")
log.info("up")
log.warning("two\\nlines, and \\x1b[31mred\\x1b[0m")
log.debug("not shown")
def inner():
    raise ValueError("no")
try:
    inner()
except ValueError:
    log.exception("failed")
raise RuntimeError("the end")
"""


def run(where: str, state_directory: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, where, str(state_directory)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()


@pytest.mark.expectation(23)
def test_in_the_journal_each_event_is_a_line_with_its_priority(tmp_path: Path) -> None:
    lines = run("journal", tmp_path)
    assert lines[:2] == ["<6>trial: up", "<4>trial: two | lines, and \\x1b[31mred\\x1b[0m"]
    assert re.fullmatch(r"<3>trial: failed: ValueError: no \(at <string>:\d+ inner < <string>:\d+ <module>\)", lines[2])
    assert lines[3].startswith("<2>service: ended by a fault of its own: RuntimeError: the end (at ")
    assert len(lines) == 4
    assert not (tmp_path / LOG_FILE).exists()  # the journal keeps it


def test_elsewhere_each_event_has_its_time_and_the_last_are_kept(tmp_path: Path) -> None:
    lines = run("terminal", tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d trial: up", lines[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d warning: trial: two \| lines, and .*", lines[1])
    assert (tmp_path / LOG_FILE).read_text(encoding="utf-8").splitlines() == lines[:3]
    assert (tmp_path / LOG_FILE).stat().st_mode & 0o777 == 0o600
    assert not any("\x1b" in line for line in lines[:3])


def test_a_file_that_cannot_be_written_is_no_reason_not_to_log() -> None:
    assert run("terminal", Path("/proc"))[0].endswith("trial: up")


def test_the_journal_is_believed_only_where_it_is(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        found = os.fstat(stream.fileno())
        ours = f"{found.st_dev}:{found.st_ino}"
        assert goes_to_journal(stream, {"JOURNAL_STREAM": ours})
        assert not goes_to_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:1"})  # output was redirected
        for nonsense in ("", "x", "1:", ":", f"{ours}:1"):
            assert not goes_to_journal(stream, {"JOURNAL_STREAM": nonsense})
        assert not goes_to_journal(stream, {})
    assert not goes_to_journal(stream, {"JOURNAL_STREAM": ours})  # closed
    assert not goes_to_journal(io.StringIO(), {"JOURNAL_STREAM": ours})


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_priorities_are_syslogs(level: int, number: int) -> None:
    record = logging.LogRecord("a", level, __file__, 1, "%s packets", (3,), None)
    assert JournalLine().format(record) == f"<{number}>a: 3 packets"


def raised(fault: BaseException, cause: BaseException | None = None) -> BaseException:
    """As it is caught: with the places that it came through."""
    try:
        raise fault from cause
    except BaseException as caught:
        return caught


def test_groups_and_causes_of_faults_are_all_said() -> None:
    group = raised(ExceptionGroup("several", [ValueError("one"), OSError(5, "two")]))
    assert fault_line(group) == "ValueError: one; OSError: [Errno 5] two"
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "x", (), (type(group), group, None))
    assert TextLine().format(record).endswith(" error: a: x: ValueError: one; OSError: [Errno 5] two")
    caused = raised(ValueError("second"), raised(KeyError("first")))
    assert re.fullmatch(r"ValueError: second \(at .*\), after KeyError: 'first' \(at .*\)", fault_line(caused))


def test_a_line_has_an_end() -> None:
    assert len(plain("x" * 100_000)) < 5000
    assert plain("\n\n a \r\n\x07b\u2028c") == "a | \\x07b | c"
