"""The screens' way to the secretary over a real socket: everything asked arrives, and what is missing is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted_secretary import GRANT, KEY, STATEMENT, ScriptedSecretary
from snapshots import household
from tui_driving import Script, keys, seen, until
from tui_secretary import with_secretary

from billpay.errors import RemoteProtocolError
from cli.main import main
from cli.personal import SocketSecretary
from hostagent import api
from secretary import messages
from secretary.ruling.terms import Term
from tui.app import AgentApp
from tui.model.personal import COLUMNS
from tui.source import NotAnswered


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedSecretary]:
    secretary = ScriptedSecretary(tmp_path / "secretary.sock")
    with secretary:
        yield secretary


async def test_everything_that_screens_ask_reaches_the_secretary(scripted: ScriptedSecretary) -> None:
    source = SocketSecretary(scripted.socket)
    inbox = await source.inbox(answered=True)
    assert [question.number for question in inbox.questions] == [7, 5]
    assert (inbox.asked_today, inbox.a_day) == (1, 3)
    assert await source.answer(7, accept=True, limit_nanodollars=20, term=api.Term.TODAY)
    assert await source.undo(None)
    rules = await source.rules()
    assert [rule.hits for rule in rules.rules] == [None, None, 41, 3]
    assert rules.faults
    assert (await source.purse()).open_grants == 2
    assert await source.top_up("tui-1", 5)
    assert scripted.asked == [
        messages.AskInbox(answered=True),
        messages.AnswerQuestion(number=7, accept=True, limit_nanodollars=20, term=Term.TODAY),
        messages.UndoAnswer(number=None),
        messages.AskRules(),
        messages.AskStatus(),
        messages.TopUpPurse(transfer="tui-1", nanodollars=5),
    ]


@pytest.mark.expectation(17)
async def test_a_statement_and_a_trace_arrive_to_the_nanodollar(scripted: ScriptedSecretary) -> None:
    source = SocketSecretary(scripted.socket)
    told = await source.statement("2026-11-01", "2026-11-30", "program")
    assert told.closing_nanodollars == STATEMENT.closing_nanodollars
    assert [line.nanodollars for line in told.lines] == [line.nanodollars for line in STATEMENT.lines]
    assert [line.state for line in told.lines] == ["confirmed", "assumed, disputed"]
    parts = 5_000_000_000 + sum(amount for _, amount in told.topped_up_parts)
    assert parts == told.topped_up_nanodollars
    traced = await source.trace(KEY)
    (grant,) = traced.grants
    assert (grant.grant, grant.flow) == (GRANT, "tcp 10.0.1.1:40000 > 203.0.113.7:443")
    assert sum(step.nanodollars for step in grant.steps) == told.lines[1].nanodollars


async def test_every_column_of_the_screens_is_one_of_the_secretarys(scripted: ScriptedSecretary) -> None:
    for by in COLUMNS:
        told = await SocketSecretary(scripted.socket).statement("2026-11-01", "2026-11-30", by)
        assert told.by == by
    assert {term.value for term in api.Term} == {term.value for term in Term}


async def test_what_is_missing_or_refused_is_one_line_for_a_person(scripted: ScriptedSecretary, tmp_path: Path) -> None:
    scripted.refusal = RemoteProtocolError("not-permitted", "only a keeper pays money in;\nsee [access] keepers")
    with pytest.raises(NotAnswered) as caught:
        await SocketSecretary(scripted.socket).top_up("tui-1", 5)
    assert str(caught.value) == "the secretary says: only a keeper pays money in; see [access] keepers"
    missing = tmp_path / "none.sock"
    with pytest.raises(NotAnswered, match=r"no secretary answers on .*none\.sock: no such file"):
        await SocketSecretary(missing).purse()
    (tmp_path / "a file").write_text("")
    with pytest.raises(NotAnswered, match="nobody listens there"):
        await SocketSecretary(tmp_path / "a file").purse()


@pytest.mark.expectation(7)
async def test_a_person_answers_the_secretary_on_the_screens(scripted: ScriptedSecretary) -> None:
    shown = with_secretary(household(questions=()), socket=str(scripted.socket))
    script = Script(shown)
    script.personal = SocketSecretary(scripted.socket)
    app = AgentApp(script)
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await until(lambda: app.state.shown is not None)
        await pilot.press("i")
        await until(lambda: keys(app, "#question-table") == ["secretary 7", "secretary 5"])
        await pilot.press("y", "6")
        said = messages.AnswerQuestion(number=7, accept=True, term=Term.ALWAYS)
        await until(lambda: said in scripted.asked)
        await seen(app, "it is done")


def test_the_verb_brings_the_way_to_the_secretary_also_behind_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr("tui.app.run_tui", lambda socket, *, personal: shown.append((socket, personal)))
    monkeypatch.setattr("tui.web.serve", lambda socket, port, *, command: shown.append(command))
    socket = tmp_path / "agent.sock"
    assert CliRunner().invoke(main, ["tui", "--socket", str(socket)]).exit_code == 0
    assert CliRunner().invoke(main, ["tui", "--web", "--socket", str(socket)]).exit_code == 0
    assert shown[0] == (socket, SocketSecretary)
    assert shown[1] == [sys.executable, "-m", "cli.main", "tui", "--socket", str(socket)]
