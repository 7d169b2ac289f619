"""What survives: every answer, budget and grant by the journal; what was only seen by states that may be lost."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clerk import ANN, KEEPER, NOON, WEB, Clerk, budget, denied, flow

from billpay.errors import EnvironmentFault
from secretary.issuing import Opened
from secretary.judging import Policy
from secretary.messages import AnswerQuestion, AskInbox, AskStatement, RaiseBudget, TopUpPurse
from secretary.money.reserving import Dimension
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Pay, Rule
from secretary.ruling.terms import Term
from secretary.secretary import Entry, Secretary
from secretary.states import restore, states_of
from secretary.store import Journal
from secretary.transfers import Transfer

ASK = Rule(name="ask", kinds=("web",), pay=Pay.ASK)
FIREFOX = Transfer(user="ann", program="firefox", kind="web", destination="www.example.org", size_bytes=10**6)
MAIL = Transfer(user="bob", program="thunderbird", kind="mail", destination="mail.example.org", size_bytes=10**6)
PRICE = 10_000


def busy_clerk() -> Clerk:
    """With something of everything."""
    clerk = Clerk(
        policy=Policy(book=Rulebook(own=(ASK, WEB))),
        budgets=(budget("day", 10**9), budget("each", 10**8, about=Dimension.PERSON)),
        guards=True,
        unjustified_nanodollars=10**6,
    )
    clerk.says(TopUpPurse(transfer="t1", nanodollars=10**9), KEEPER)
    clerk.says(TopUpPurse(transfer="v1", nanodollars=10**6, voucher="xmas"), KEEPER)
    clerk.says(RaiseBudget(budget="day", nanodollars=77), KEEPER)
    clerk.try_ask(flow(1), FIREFOX, price=PRICE)
    clerk.says(AnswerQuestion(number=1, accept=True, term=Term.ALWAYS), ANN)
    clerk.close(clerk.ask(flow(2), FIREFOX, price=PRICE).grant, 900, size_bytes=50_000)
    clerk.ask(flow(3), FIREFOX, price=PRICE)
    grant = clerk.ask(flow(4), MAIL, price=PRICE)
    clerk.try_extend(grant.grant, 30)
    clerk.ask_return(flow(5), 100, 10)
    clerk.learn()
    return clerk


def everything(clerk: Clerk) -> dict[str, Any]:
    core, now = clerk.secretary, clerk.now
    return {
        "treasury": core.treasury.state(),
        "grants": core.issuer.open_grants,
        "returned": clerk.returned,
        "inbox": core.inbox.questions(now) + core.inbox.history(now),
        "answers": core.answers,
        "statement": clerk.says(AskStatement(first_day="2024-10-04", last_day="2024-10-04"), KEEPER),
        "budgets": core.budget_lines(now),
    }


@pytest.mark.expectation(16)
def test_a_restart_loses_no_answer_budget_or_grant_even_without_any_state() -> None:
    clerk = busy_clerk()
    before = everything(clerk)
    clerk.start_again()
    assert everything(clerk) == before
    assert clerk.ask(flow(9), FIREFOX, price=PRICE)
    assert denied(clerk.try_ask(flow(10), FIREFOX, price=PRICE + 1)) == "declined"


def test_states_bring_back_what_was_only_seen() -> None:
    clerk = busy_clerk()
    clerk.keep_states()
    before = dict(states_of(clerk.secretary, {}))
    sized = clerk.secretary.sized(msgspec.structs.replace(FIREFOX, size_bytes=0), PRICE, "")
    opinion = clerk.secretary.judge.learner_of("ann").opinion(FIREFOX, clerk.now)
    clerk.start_again()
    clerk.learn()
    again = clerk.secretary
    assert again.judge.hits.of(ASK) == 1
    assert again.sized(msgspec.structs.replace(FIREFOX, size_bytes=0), PRICE, "") == sized
    assert again.judge.allowance.state() == msgspec.json.decode(
        before["allowance"], type=type(again.judge.allowance.state())
    )
    assert again.judge.learner_of("ann").opinion(FIREFOX, clerk.now) == opinion


def test_an_answer_is_learned_once_however_often_states_and_journal_are_read() -> None:
    clerk = busy_clerk()
    opinion = clerk.secretary.judge.learner_of("ann").opinion(FIREFOX, clerk.now)
    for _ in range(3):
        clerk.keep_states()
        clerk.start_again()
        clerk.learn()
        assert clerk.secretary.judge.learner_of("ann").opinion(FIREFOX, clerk.now) == opinion


@pytest.mark.parametrize("name", ["hits", "sizes", "allowance", "learner:ann", "guard:ann", "guard:bob"])
@pytest.mark.parametrize("damage", [b"", b"nonsense", b'{"x": 1}', b"[1]", b'{"requests": 7}', b"\xff\xfe"])
def test_a_state_that_cannot_be_read_begins_anew_and_nothing_else_does(
    name: str, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clerk = busy_clerk()
    before = everything(clerk)
    clerk.keep_states()
    assert name in clerk.states
    clerk.states[name] = damage
    with caplog.at_level(logging.WARNING, logger="secretary"):
        clerk.start_again()
    (told,) = caplog.records
    assert name in told.getMessage()
    assert len(told.getMessage().splitlines()) == 1
    assert everything(clerk) == before


def test_a_state_of_a_part_that_is_switched_off_is_passed_over() -> None:
    clerk = busy_clerk()
    clerk.keep_states()
    clerk.settings = replace(clerk.settings, guards=False)
    clerk.start_again()
    assert clerk.secretary.judge.guards == {}


def test_every_truncation_of_a_state_is_survived() -> None:
    clerk = busy_clerk()
    clerk.keep_states()
    for name, state in clerk.states.items():
        for length in range(0, len(state), max(1, len(state) // 7)):
            restore(fresh(clerk), {name: state[:length]})


def fresh(clerk: Clerk) -> Secretary:
    return Secretary(clerk.settings, begun=clerk.now, draw=clerk.draw, sign=lambda _: None, keep=lambda _: None)  # type: ignore[arg-type,return-value]


# --- the journal on the disk ------------------------------------------------------------------------------------------


def kept(path: Path, clerk: Clerk) -> None:
    journal = Journal(path)
    for entry in clerk.journal:
        journal.append(entry)
    clerk.keep_states()
    journal.put_states(clerk.states.items())
    journal.close()


def test_all_entries_there_are_come_back_from_the_disk(tmp_path: Path) -> None:
    clerk = busy_clerk()
    before = everything(clerk)
    kept(tmp_path / "journal.sqlite", clerk)
    journal = Journal(tmp_path / "journal.sqlite")
    clerk.journal, clerk.states = list(journal.entries()), journal.states()
    journal.close()
    clerk.start_again()
    assert everything(clerk) == before


@pytest.mark.parametrize("entry", ["nonsense", "{}", '{"type": "Opened"}', '{"type": "Ended", "grant": "x"}'])
def test_a_corrupt_entry_is_one_clear_line_and_nothing_is_paid(tmp_path: Path, entry: str) -> None:
    """A secretary that does not know what it promised does not start."""
    path = tmp_path / "journal.sqlite"
    kept(path, busy_clerk())
    database = sqlite3.connect(path)
    database.execute("INSERT INTO journal (entry) VALUES (?)", (entry,))
    database.commit()
    database.close()
    journal = Journal(path)
    with pytest.raises(EnvironmentFault) as caught:
        list(journal.entries())
    journal.close()
    assert str(path) in str(caught.value)
    assert "restore it from a backup" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_journal_that_rots_is_told_or_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    clerk = busy_clerk()
    kept(path, clerk)
    whole = path.read_bytes()
    told = 0
    for at in range(0, len(whole), 512):
        rotten = bytearray(whole)
        rotten[at : at + 64] = bytes(byte ^ 0xA5 for byte in rotten[at : at + 64])
        path.write_bytes(rotten)
        found = read(path)
        told += isinstance(found, str)
        assert found == clerk.journal or (isinstance(found, str) and len(found.splitlines()) == 1), at
    assert told


def read(path: Path) -> list[Entry] | str:
    """Or the one line."""
    journal = None
    try:
        journal = Journal(path)
        return list(journal.entries())
    except EnvironmentFault as fault:
        return str(fault)
    finally:
        if journal is not None:
            journal.close()


def test_a_clock_that_was_set_back_over_a_restart_renews_nothing() -> None:
    clerk = Clerk(day=150)
    clerk.close(clerk.ask(flow(1)).grant, 100)
    clerk.ask(flow(2))
    for unix_s in (NOON - 3 * 86_400, NOON - 1, 0):
        clerk.set_clock(unix_s)
        clerk.start_again()
        assert clerk.sums == (100, 50)
        assert denied(clerk.try_ask(flow(3))) == "budget"


def test_what_waits_in_the_inbox_waits_on() -> None:
    clerk = Clerk(policy=Policy(book=Rulebook(own=(ASK,)), learns=False))
    clerk.try_ask(flow(1), FIREFOX, price=PRICE)
    before = clerk.says(AskInbox(), ANN)
    clerk.start_again()
    assert clerk.says(AskInbox(), ANN) == before
    assert clerk.entries(Opened) == []
