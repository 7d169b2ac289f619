"""Exit codes of the one command, a promise to scripts; docs/spec/exit-codes.md repeats them and a test compares."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What a run of `hostagent …` ended with."""

    OK = 0
    FAILED = 1  # the run ended, and what it checked does not hold (the report says what)
    USAGE = 2  # a wrong option or argument
    CONFIGURATION = 3  # a configuration file or scenario says what it must not say, or is not there
    ENVIRONMENT = 4  # the machine refused: privilege, interface, port, file, missing tool
    PEER = 5  # the other side answered what it must not answer
    UNREACHABLE = 6  # the daemon is not running (or its socket is not ours to open)
    REFUSED = 7  # the agent understood, and does not do it: an unknown flow, a permission that we do not have
    INTERRUPTED = 130  # Ctrl-C
