"""The run behind the terminal UI: what is said where, and that everything ends in order whoever ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lab.watching
from billpay.errors import EnvironmentFault
from lab.scenarios import find_scenario
from lab.steps import Interrupted
from lab.watching import Notices, first_payer, run_with_tui

REPORT: Any = object()


class SomeDaemons:
    def socket_of(self, node: str) -> Path:
        return Path(f"/run/{node}.sock")


class SomeRun:
    """A run that works until `may_end`, as `lab.run` would."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.scenario = find_scenario("figure1")
        self.said: list[str] = []
        self.progress: Callable[[str], None] = self.said.append
        self.daemons: Any = SomeDaemons()
        self.ready = threading.Event()
        self.stop = threading.Event()
        self.may_end = threading.Event()
        self.taken_down = False
        self._fault = fault

    def __call__(self) -> Any:
        try:
            self.progress("building")
            if self._fault is not None:
                raise self._fault
            self.ready.set()
            while not self.may_end.wait(0.001):
                if self.stop.is_set():
                    raise Interrupted
            self.progress("done")
            return REPORT
        finally:
            self.taken_down = True
            self.ready.set()


def ui_that(does: Callable[[Any], None], shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the app; `does` gets its `notices` and `finished`."""

    class App:
        def __init__(self, _source: object, *, title: str, notices: Any, finished: Any) -> None:
            self.title, self.notices, self.finished = title, notices, finished
            shown.append(self)

        def run(self) -> None:
            does(self)

    monkeypatch.setattr(lab.watching, "LabApp", App)


def test_the_ui_ends_by_itself_when_the_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    run, shown = SomeRun(), list[Any]()
    lines: list[str] = []

    def watch(app: Any) -> None:
        lines.extend(app.notices())
        run.may_end.set()
        while not app.finished():
            lines.extend(app.notices())
        lines.extend(app.notices())

    ui_that(watch, shown, monkeypatch)
    assert run_with_tui(run, run.stop) is REPORT
    assert run.said == ["building"]  # before the UI; what came later was said in it
    assert lines == ["building", "done"]
    assert shown[0].title == "figure1, host A"
    assert not run.stop.is_set()


@pytest.mark.parametrize("how", ["quit", "Ctrl-C"])
def test_leaving_the_ui_ends_the_run_in_order(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SomeRun()

    def leave(_app: Any) -> None:
        if how == "Ctrl-C":
            raise KeyboardInterrupt

    ui_that(leave, [], monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_with_tui(run, run.stop)
    assert run.taken_down


def test_a_run_that_cannot_start_shows_no_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    run, shown = SomeRun(EnvironmentFault("start", "gateway of X", "port 7414 is busy")), list[Any]()
    run.daemons = None
    ui_that(lambda _app: None, shown, monkeypatch)
    with pytest.raises(EnvironmentFault, match="busy"):
        run_with_tui(run, run.stop)
    assert not shown
    assert run.taken_down


def test_notices_are_kept_for_the_ui_only_while_it_is_up() -> None:
    plain: list[str] = []
    notices = Notices(plain.append)
    notices("one")
    notices.to_ui()
    notices("two")
    assert notices.take() == ["one", "two"]
    assert notices.take() == []
    notices.to_terminal()
    notices("three")
    assert plain == ["one", "three"]


def test_the_ui_shows_the_host_that_pays() -> None:
    assert first_payer(find_scenario("figure1")) == "A"
