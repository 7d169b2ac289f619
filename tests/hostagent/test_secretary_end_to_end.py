"""The money's whole way: a program that sends, its agent, the secretary, the gateway, and the person who answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paid_home import PORT, PaidHome, fixed, paid_home, within

from lab.configurations import Table
from neighbour.identity import NodeIdentity
from secretary import messages
from secretary.messages import AnswerQuestion, AskInbox, Done, Inbox, RaiseBudget, RotateKey, TopUpPurse, UndoAnswer
from secretary.ruling.terms import Term

pytestmark = pytest.mark.netns

ASK = """
[[rules]]
name = "ask-me"
program = ["python*"]
protocol = "tcp"
pay = "ask"
"""
MORE = 1_000_000
AGENT = "64001"
"""The user of an agent that somebody hijacked."""
READS_ALL = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
"""The interpreter of the tests may live in root's own directory."""
RULES_ONLY = {"enabled": False}


def is_paid(home: PaidHome, port: int = PORT) -> bool:
    flow = home.flow(port)
    return flow is not None and flow.spent_nanodollars > 0 and flow.amount_nanodollars > 0


def books_agree(home: PaidHome) -> None:
    """After closing: the secretary's statement is the gateway's counters, to the nanodollar."""
    home.stop_agent()
    statement = home.statement()
    assert statement.adds_up
    assert statement.spent_nanodollars == home.at_the_gateway()
    assert [
        line for line in statement.lines if line.told_nanodollars or line.assumed_nanodollars or line.disputed
    ] == []


HIJACKED = """
import asyncio, pathlib, sys
from billpay.errors import RemoteProtocolError
from secretary import messages
from secretary.client import PersonClient
async def main():
    async with PersonClient(pathlib.Path(sys.argv[1])) as client:
        for question in (
            messages.AskBudget(),
            messages.AskInbox(),
            messages.AnswerQuestion(number=int(sys.argv[2]), accept=True),
            messages.UndoAnswer(),
            messages.TopUpPurse(transfer="mine", nanodollars=10**9),
            messages.RaiseBudget(budget="day", nanodollars=10**9),
            messages.RotateKey(),
        ):
            try:
                print(type(await client.ask(question, messages.Answer)).__name__)
            except RemoteProtocolError as error:
                print(error.code)
asyncio.run(main())
"""


def as_hijacked_agent(home: PaidHome, number: int) -> list[str]:
    """What the agent's user gets who asks as a person does."""
    who = ("setpriv", "--reuid", AGENT, "--regid", AGENT, "--clear-groups", *READS_ALL)
    command = [*who, sys.executable, "-c", HIJACKED, str(home.socket), str(number)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.expectation(7, 24)
def test_who_is_asked_answers_and_is_charged_to_the_nanodollar(tmp_path: Path) -> None:
    tables: Table = {"learning": {"target_bit_s": 10**9}, "access": {"agents": [AGENT, "root"]}}
    with paid_home(tmp_path, rules=ASK, secretary=tables) as home:
        home.take()
        sending = home.send()
        within(5, lambda: home.ask(AskInbox(), Inbox).questions)
        flow = home.the_flow()
        assert (flow.strategy, flow.spent_nanodollars) == ("unpaid", 0)
        assert "ask-me" in flow.reason
        packets = flow.packets
        within(2, lambda: home.snapshot().status.secretary_questions == 1)
        within(2, lambda: "secretary-questions" in {notice.code for notice in home.snapshot().notices})
        assert home.the_flow().packets > packets  # it waits for nobody
        (question,) = home.ask(AskInbox(), Inbox).questions
        assert "python" in question.title
        assert as_hijacked_agent(home, question.number) == ["Budget", *["not-permitted"] * 6]
        assert home.ask(AskInbox(), Inbox).questions[0].state == "open"
        home.ask(AnswerQuestion(number=question.number, accept=True, term=Term.TODAY), Done)
        within(3, lambda: home.the_flow().rule == "answer")
        within(8, lambda: is_paid(home))  # the reactor is patient for 3 s before it pays at all
        home.ask(UndoAnswer(), Done)
        within(3, lambda: home.ask(AskInbox(), Inbox).questions)
        sending.kill()
        books_agree(home)
        assert home.at_the_gateway() > 0


@pytest.mark.expectation(14, 15)
def test_when_money_runs_out_flows_slow_down_and_a_raise_brings_it_back_within_seconds(tmp_path: Path) -> None:
    tables: Table = {
        "budget": {"day_nanodollars": 8_000},
        "purse": {"prepaid": True},
        "learning": RULES_ONLY,
        "rules": [fixed(grant_nanodollars=2_000)],
    }
    with paid_home(tmp_path, secretary=tables) as home:
        home.ask(TopUpPurse(transfer="first", nanodollars=20_000), Done)
        home.take()
        home.send(packets_per_s=250)
        within(5, lambda: is_paid(home))
        within(15, lambda: is_out(home))
        flow = home.the_flow()
        assert (flow.amount_nanodollars, "budget day" in flow.reason) == (0, True), flow
        # The money is out at once, and what needs no money goes on: names, the control channel, the secretary.
        assert asks_for_a_name(home)
        snapshot = home.snapshot()
        assert snapshot.accounts.links[0].state.startswith("agreed")
        assert snapshot.status.secretary == "connected"
        within(3, lambda: [line.noticed_percent for line in home.snapshot().budgets if line.name == "day"] == [100])
        assert 7_900 < home.budget().spent_nanodollars <= 8_000
        packets = flow.packets
        within(2, lambda: home.the_flow().packets > packets + 10)
        assert home.at_the_gateway() <= 8_000
        home.ask(RaiseBudget(budget="day", nanodollars=MORE), Done)
        assert within(4, lambda: is_paid(home) and not is_out(home)) < 4
        within(10, lambda: is_out(home) and "purse" in home.the_flow().reason)
        home.ask(TopUpPurse(transfer="second", nanodollars=MORE), Done)
        assert within(4, lambda: is_paid(home) and not is_out(home)) < 4
        notices = [notice.message for notice in home.snapshot().notices if notice.code == "budget"]
        assert [text.split(" %")[0] for text in notices] == sorted({text.split(" %")[0] for text in notices}, key=int)
        assert notices, "each threshold once; one that is passed within a report is told by the next"
        books_agree(home)


def is_out(home: PaidHome) -> bool:
    return "money-is-out" in {warning.code for warning in home.snapshot().status.warnings}


def asks_for_a_name(home: PaidHome) -> bool:
    """A datagram to port 53 of B arrives, unpaid."""
    version = socket.AF_INET6 if home.family == 6 else socket.AF_INET
    address = home.lab.address("B", home.family)

    def listen() -> socket.socket:
        server = socket.socket(version, socket.SOCK_DGRAM)
        server.bind((address, 53))
        server.settimeout(3)
        return server

    def ask() -> None:
        with socket.socket(version, socket.SOCK_DGRAM) as client:
            client.sendto(b"a name?", (address, 53))

    with home.lab.network["B"].inside(listen) as server:
        home.lab.network["A"].inside(ask)
        return bool(server.recv(100) == b"a name?")


@pytest.mark.expectation(16)
def test_whatever_is_killed_nothing_is_paid_twice_and_the_books_agree(tmp_path: Path) -> None:
    tables: Table = {"budget": {"day_nanodollars": 60_000}, "learning": RULES_ONLY, "rules": [fixed()]}
    with paid_home(tmp_path, family=6, secretary=tables) as home:
        home.take()
        home.send()
        within(5, lambda: is_paid(home))
        for role in ("secretary", "gateway", "agent"):
            home.kill(role)
            before = home.at_the_gateway() if role != "gateway" else 0
            time.sleep(0.3)
            home.restart(role)
            within(8, lambda: is_paid(home))
            within(8, lambda: home.at_the_gateway() > before)  # noqa: B023 - called at once
            assert home.at_the_gateway() <= 60_000
        line = home.budget()
        assert line.spent_nanodollars + line.reserved_nanodollars <= line.limit_nanodollars
        home.end_programs()
        home.stop_agent()
        # The grants of the killed agent are closed by nobody: they count whole, after their expiry.
        within(20, lambda: home.ask(messages.AskStatus(), messages.SecretaryStatus).open_grants == 0)
        statement = home.statement()
        assert statement.adds_up
        assumed = sum(line.assumed_nanodollars for line in statement.lines)
        paid = home.at_the_gateway()
        assert statement.spent_nanodollars - assumed <= paid <= statement.spent_nanodollars <= 60_000


def test_a_secretary_outside_this_system_is_asked_over_mutual_tls_and_its_new_key_is_followed(tmp_path: Path) -> None:
    host = tmp_path / "A"
    where = "[::1]:7417"

    def meet(_directory: Path) -> None:
        NodeIdentity.load_or_create(host / "secretary" / "transport", name="A")

    askers = [{"certificate": str(host / "agent" / "node.pem"), "role": "agent"}]
    transport = str(host / "secretary" / "transport" / "node.pem")
    with paid_home(
        tmp_path,
        secretary={"rules": [fixed(), fixed(PORT + 1)], "remote": {"listen": where, "askers": askers}},
        agent={"secretary": {"socket": "", "address": where, "transport": transport}},
        before=meet,
    ) as home:
        home.take()
        home.take(PORT + 1)
        home.send()
        within(6, lambda: is_paid(home))
        status = home.snapshot().status
        assert (status.secretary, status.secretary_socket) == ("connected", "")
        for _ in range(2):
            home.ask(RotateKey(), messages.Rotated)
        home.send(PORT + 1)
        within(6, lambda: is_paid(home, PORT + 1))
        spent = home.the_flow().spent_nanodollars
        within(8, lambda: home.the_flow().spent_nanodollars > spent + 4_000)  # a whole grant more, by the new key
        books_agree(home)
