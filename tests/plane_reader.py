"""A reader process for tests of the payment plane: `plane_reader.py ENGINE DIRECTORY`; no packets, counted commands.

It cannot start while there is a file `broken-ENGINE` in the directory.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripted_core import ScriptedCore

from billpay.errors import EnvironmentFault
from dataplane.counters import CounterFile
from dataplane.nfqueue import QueueConfig
from dataplane.reader import serve

ENGINE, DIRECTORY = sys.argv[1], Path(sys.argv[2])


class NamedCore(ScriptedCore):
    """Answers with its engine, and counts what it was asked."""

    def __init__(self, counters: CounterFile) -> None:
        super().__init__(counters)
        self.asked = counters.index("test.asked")

    def on_message(self, message: bytes, now_ns: int, unix_s: int) -> bytes | None:
        self.counters.add(self.asked, 1)
        return ENGINE.encode()


def build(counters: CounterFile) -> tuple[NamedCore, list[QueueConfig]]:
    if (DIRECTORY / f"broken-{ENGINE}").exists():
        raise EnvironmentFault("load", "programs", "the verifier refused them", "report it")
    return NamedCore(counters), []


if __name__ == "__main__":
    sys.exit(serve(build))
