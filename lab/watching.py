"""A run with the terminal UI of its first paying host in front of it.

Decides: who does what.  The lab works in a thread of its own that lives until everything is taken down, since the
kernel kills what a thread has started when that thread ends (`lab.namespaces`); textual wants the main thread.  Refuses
to know: what the UI shows; it talks to the agent's local API like any other front end, with the lab's progress as
notices.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Protocol

from textual.binding import Binding, BindingType

from lab.daemons import Daemons
from lab.report import Report
from lab.topology import NodeKind, Scenario
from tui.app import AgentApp
from tui.source import LocalSource

_LOOK_S = 0.1
_MOST_NOTICES = 200

Progress = Callable[[str], None]


class Run(Protocol):
    """What of `lab.run` is needed here."""

    scenario: Scenario
    progress: Progress
    daemons: Daemons | None
    ready: threading.Event  # set when the daemons run, and when the run has ended

    def __call__(self) -> Report: ...


class Notices:
    """The lab's progress: on the plain terminal before and after the UI, in the UI while it is up."""

    def __init__(self, plain: Progress) -> None:
        self._plain = plain
        self._waiting: deque[str] = deque(maxlen=_MOST_NOTICES)
        self._last = ""
        self._lock = threading.Lock()
        self._shown_by_ui = False

    def __call__(self, line: str) -> None:
        with self._lock:
            self._last = line
            if self._shown_by_ui:
                self._waiting.append(line)
            else:
                self._plain(line)

    def to_ui(self) -> None:
        """From now on; the last line is repeated there, since it says what is going on."""
        with self._lock:
            self._shown_by_ui = True
            if self._last:
                self._waiting.append(self._last)

    def to_terminal(self) -> None:
        with self._lock:
            self._shown_by_ui = False
            self._waiting.clear()

    def take(self) -> list[str]:
        with self._lock:
            lines = list(self._waiting)
            self._waiting.clear()
        return lines


class Work:
    """The run in its thread, and what came of it."""

    def __init__(self, run: Callable[[], Report]) -> None:
        self._run = run
        self._report: Report | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="lab")

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Report:
        """Waits until everything is taken down.  Raises what the run raised."""
        self._thread.join()
        if self._fault is not None:
            raise self._fault
        assert self._report is not None
        return self._report

    def _work(self) -> None:
        try:
            self._report = self._run()
        except BaseException as fault:  # carried over to the main thread, not swallowed
            self._fault = fault


class LabApp(AgentApp):
    """The agent's UI, in which Ctrl-C means what it means to every other run: end it, in order."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", "Quit", show=False, priority=True)]


def run_with_tui(run: Run, stop: threading.Event) -> Report:
    """What `run()` returns or raises; leaving the UI (q, Ctrl-C) ends the run in order."""
    notices = Notices(run.progress)
    run.progress = notices
    work = Work(run)
    work.start()
    try:
        while not run.ready.wait(_LOOK_S):
            pass
        host = first_payer(run.scenario)
        if not work.done and run.daemons is not None and host is not None:
            notices.to_ui()
            source = LocalSource(run.daemons.socket_of(host))
            title = f"{run.scenario.name}, host {host}"
            LabApp(source, title=title, notices=notices.take, finished=lambda: work.done).run()
            if not work.done:
                stop.set()
    except KeyboardInterrupt:
        stop.set()
    finally:
        notices.to_terminal()
        if not work.done:
            notices("ending the run: everything is taken down in order")
    return _patiently(work, stop)


def first_payer(scenario: Scenario) -> str | None:
    hosts = [node for node in scenario.nodes if node.kind is NodeKind.HOST]
    return next((node.name for node in hosts if node.rules), hosts[0].name if hosts else None)


def _patiently(work: Work, stop: threading.Event) -> Report:
    """A second Ctrl-C does not leave half a network behind."""
    while True:
        try:
            return work.result()
        except KeyboardInterrupt:
            if work.done:
                raise
            stop.set()
