"""Where a daemon's log goes: standard error, in the form that whoever reads it understands.

Decides: one line for each event, with its priority for the journal, or its time for everybody else. Refuses to know:
what is worth a line. Source: systemd.exec(5) for JOURNAL_STREAM, sd-daemon(3) for the prefixes <0> to <7>.

The last lines are also kept in a small file of the state directory where there is no journal to keep them, so that
`hostagent bugreport` has them after the agent's death.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

LOG = logging.getLogger("service")
LOG_FILE: Final = "log"
FILE_BYTES_MAX: Final = 128 << 10
LINE_CHARACTERS_MAX: Final = 4000
FRAMES_SHOWN: Final = 8
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG: Final = 7


def set_up(stream: TextIO, state_directory: Path | None, environment: Mapping[str, str] = os.environ) -> None:
    """Unless somebody has set logging up before us."""
    root = logging.getLogger()
    if root.handlers:
        return
    in_journal = goes_to_journal(stream, environment)
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(JournalLine() if in_journal else TextLine())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    if in_journal:
        sys.excepthook = _log_fault
    if state_directory is not None and not in_journal:
        root.addHandler(_last_lines(state_directory / LOG_FILE))


def _log_fault(kind: type[BaseException], fault: BaseException, _trace: TracebackType | None) -> None:
    """What ends us is one line as well, not one entry for each line of its traceback."""
    LOG.critical("ended by a fault of its own", exc_info=(kind, fault, fault.__traceback__))


def goes_to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """The variable is inherited by programs whose output goes elsewhere; so the file behind it is compared."""
    device, colon, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    if not colon:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class OneLine(logging.Formatter):
    """An event is one line without control characters, whatever was put into it; a traceback is its end."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {fault_line(record.exc_info[1])}"
        return self.frame(record, plain(f"{record.name}: {text}"))

    def frame(self, _record: logging.LogRecord, line: str) -> str:
        """What stands around the line."""
        return line


class JournalLine(OneLine):
    def frame(self, record: logging.LogRecord, line: str) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return f"<{priority}>{line}"


class TextLine(OneLine):
    def frame(self, record: logging.LogRecord, line: str) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {level}{line}"


def plain(text: str) -> str:
    """Line ends become " | ", other control characters (colours, too) are written out."""
    line = " | ".join(part.strip() for part in text.splitlines() if part.strip())
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
    return line if len(line) <= LINE_CHARACTERS_MAX else f"{line[:LINE_CHARACTERS_MAX]}…"


def fault_line(fault: BaseException) -> str:
    """What it is, then where it came from: the innermost call first. Of a group, each fault in it."""
    if isinstance(fault, BaseExceptionGroup):
        return "; ".join(fault_line(each) for each in fault.exceptions)
    places = " < ".join(_places(fault.__traceback__))
    line = f"{type(fault).__name__}: {fault}" + (f" (at {places})" if places else "")
    cause = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return f"{line}, after {fault_line(cause)}" if cause is not None else line


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[::-1]
    places = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames]
    return places[:FRAMES_SHOWN]


class _LastLines(logging.handlers.RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk must not end in a traceback for each line: standard error has them all."""


def _last_lines(path: Path) -> logging.Handler:
    try:
        handler = _LastLines(path, maxBytes=FILE_BYTES_MAX, backupCount=1, encoding="utf-8", delay=False)
        path.chmod(0o600)
    except OSError:
        return logging.NullHandler()
    handler.setFormatter(TextLine())
    return handler
