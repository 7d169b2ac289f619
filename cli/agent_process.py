"""The agent as a child of `hostagent up`: started, waited for, ended, and cleaned up after.

Decides: when it counts as up (its socket answers), how long it may take, and what is put back when it does not end by
itself. Refuses to know: what is watched meanwhile. Source: prctl(2) PR_SET_PDEATHSIG: it does not outlive us.
The terminal is the screen's: of what it says, the last lines are kept here (the agent keeps a log of its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from billpay.errors import BillpayError, EnvironmentFault
from cli.exit_codes import ExitCode
from hostagent import api
from hostagent.client import LocalClient, Unreachable

START_S: Final = 20.0
STOP_S: Final = 20.0
POLL_S: Final = 0.05
LAST_WORDS_S: Final = 2.0  # children of a killed agent may hold its pipe
LINES_KEPT: Final = 60
LINE_BYTES_MAX: Final = 4096
_PR_SET_PDEATHSIG: Final = 1
_CODES: Final = {int(code) for code in ExitCode}


class AgentEnded(BillpayError):  # noqa: N818 - what happened to it, not an error of ours
    """The agent that we started ended by itself: its last line, its exit code, and what it said before."""

    def __init__(self, words: str, code: ExitCode, lines: tuple[str, ...] = ()) -> None:
        super().__init__(words, code, lines)
        self.words = words
        self.code = code
        self.lines = lines

    def __str__(self) -> str:
        return self.words

    @property
    def is_bug(self) -> bool:
        """It ended by a traceback."""
        return any(line.startswith("Traceback") for line in self.lines)


def running_agent(socket: Path) -> api.Status | None:
    """Of the agent that answers there; None: there is none. Raises Unreachable when it is not ours to ask."""
    if not os.path.lexists(socket):
        return None
    try:
        return asyncio.run(_status(socket))
    except Unreachable as error:
        if error.cause in ("no such file", "nobody listens there"):
            return None
        raise


async def _status(socket: Path) -> api.Status:
    async with LocalClient(socket) as client:
        return await client.status()


class AgentProcess:
    """A context: up and answering inside, ended and put back after. Raises AgentEnded or EnvironmentFault."""

    def __init__(self, arguments: Sequence[str], *, socket: Path, state_directory: Path) -> None:
        self._command = [sys.executable, "-P", "-m", "cli.main", "up", "--service", *arguments]
        self._socket = socket
        self._state_directory = state_directory
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._listener: threading.Thread | None = None

    def __enter__(self) -> AgentProcess:
        self._process = self._start()
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to hear: it ends the screen, and then the agent
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            raise EnvironmentFault("start", self._command[0], error.strerror or str(error), "reinstall") from error
        self._listener = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        self._listener.start()
        return process

    def _listen(self, pipe: IO[bytes]) -> None:
        """Until its end, so that it is never held up by a full pipe."""
        with pipe:
            while line := pipe.readline(LINE_BYTES_MAX):
                self._lines.append(line.decode(errors="replace").rstrip())

    def _await_ready(self) -> None:
        """Until its socket answers, and it is this agent that does."""
        deadline_s = time.monotonic() + START_S
        while True:
            self.raise_if_ended()
            with contextlib.suppress(Unreachable):
                if running_agent(self._socket) is not None:
                    return
            if time.monotonic() > deadline_s:
                cause = f"it does not answer after {START_S:.0f} s: {self._last_words()}"
                raise EnvironmentFault("start", "the agent", cause, "`hostagent doctor` says what this machine can do")
            time.sleep(POLL_S)

    def raise_if_ended(self, *, within_s: float = 0.0) -> None:
        """An agent that was told to end, by somebody else, ends with OK."""
        assert self._process is not None
        assert self._listener is not None
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return
        self._listener.join(LAST_WORDS_S)
        if code < 0:
            raise AgentEnded(f"it was killed by {signal.Signals(-code).name}", ExitCode.FAILED, tuple(self._lines))
        known = ExitCode(code) if code in _CODES else ExitCode.FAILED
        raise AgentEnded(self._last_words(), known, tuple(self._lines))

    def stop(self) -> None:
        """SIGTERM, some patience; whatever it left in the kernel is put back. Signals to us wait meanwhile."""
        process, self._process = self._process, None
        if process is None:
            return
        with _deaf():
            was_up = process.poll() is None
            if was_up:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.returncode != 0:
                from dataplane.clean_up import clean_up

                clean_up(self._state_directory)

    def _last_words(self) -> str:
        lines = [line for line in self._lines if line]
        return lines[-1].removeprefix("hostagent: ") if lines else "it ended without a word"


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Putting the kernel back is not interrupted."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
