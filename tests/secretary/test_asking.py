"""Who may ask what: an agent cannot answer, a person cannot ask for grants, nobody sees what is another's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import msgspec
import pytest
from clerk import AGENT, ANN, BOB, KEEPER, WEB, Clerk, budget, flow

from billpay.errors import ConfigurationError, RemoteProtocolError
from dataplane.peers import NOBODY, OVERFLOW_ID, ROOT, Peer, Who, who_is
from secretary import messages
from secretary.asking import STRANGER, Asker, Doors, RemoteDoors, Role
from secretary.inbox.questions import Attention
from secretary.judging import Policy
from secretary.messages import (
    AgentQuestion,
    AnswerQuestion,
    AskBudget,
    AskBudgets,
    AskGrant,
    AskInbox,
    AskStatement,
    AskTrace,
    AskWhy,
    Budgets,
    DisputeGrant,
    Inbox,
    PersonQuestion,
    RaiseBudget,
    SetClockRight,
    StatementView,
    TopUpPurse,
    UndoAnswer,
)
from secretary.money.reserving import Dimension
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Pay, Rule
from secretary.transfers import Transfer

AGENT_ID, ANN_ID, BOB_ID, OWN_ID = 901, 1001, 1002, 902
USERS = 100
DOORS = Doors(
    agents=Who(users=frozenset({AGENT_ID})),
    people=Who(groups=frozenset({USERS})),
    keepers=Who(users=frozenset({BOB_ID})),
    own_user_id=OWN_ID,
)
FIELDS: dict[str, dict[str, Any]] = {
    "AskGrant": {"flow": flow()},
    "ExtendGrant": {"grant": "0" * 32, "spent_nanodollars": 0},
    "CloseGrant": {"grant": "0" * 32, "spent_nanodollars": 0},
    "AskReturn": {"flow": flow(), "received_nanodollars": 0, "received_packets": 0},
    "TellQuit": {"programs": ()},
    "AnswerQuestion": {"number": 1, "accept": True},
    "TopUpPurse": {"transfer": "t", "nanodollars": 1},
    "RaiseBudget": {"budget": "day", "nanodollars": 1},
    "AskStatement": {"first_day": "2024-10-04", "last_day": "2024-10-04"},
    "AskTrace": {"key": "k"},
    "DisputeGrant": {"grant": "0" * 32},
    "AskWhy": {"transfer": Transfer()},
    "TellAttention": {"attention": Attention()},
}


def question_of(kind: Any) -> Any:
    return kind(**FIELDS.get(kind.__name__, {}))


def peer(user_id: int, *groups: int) -> Peer:
    return Peer(user_id=user_id, group_id=user_id, groups=frozenset(groups))


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "roles"),
    [
        (peer(AGENT_ID), {Role.AGENT}),
        (peer(ANN_ID, USERS), {Role.PERSON}),
        (peer(BOB_ID, USERS), {Role.PERSON, Role.KEEPER}),
        (peer(ROOT), {Role.KEEPER}),
        (peer(OWN_ID), {Role.KEEPER}),
        (peer(ANN_ID), set()),
        (peer(OVERFLOW_ID), set()),
    ],
)
def test_a_role_is_by_user_and_group(who: Peer, roles: set[Role]) -> None:
    assert DOORS.asker(who, "x").roles == roles


def test_without_agents_root_and_the_own_user_are_agents_and_nobody_else() -> None:
    doors = Doors(people=Who(users=frozenset({ANN_ID})), own_user_id=OWN_ID)
    for user_id in (ROOT, OWN_ID):
        assert doors.asker(peer(user_id), "x").roles == {Role.AGENT, Role.KEEPER}
    assert doors.asker(peer(ANN_ID), "ann").roles == {Role.PERSON}


@pytest.mark.parametrize(
    ("doors", "warned"),
    [
        (DOORS, False),
        (Doors(own_user_id=OWN_ID), True),
        (Doors(agents=Who(users=frozenset({ROOT})), own_user_id=OWN_ID), True),
        (Doors(agents=Who(users=frozenset({OWN_ID})), own_user_id=OWN_ID), True),
        (Doors(agents=Who(users=frozenset({7})), people=Who(users=frozenset({7}))), True),
        (Doors(agents=Who(users=frozenset({7})), keepers=Who(users=frozenset({7}))), True),
        (Doors(agents=Who(users=frozenset({7})), people=Who(users=frozenset({8})), keepers=NOBODY), False),
    ],
)
def test_who_makes_an_agent_a_person_is_warned(doors: Doors, warned: bool) -> None:
    assert bool(doors.warning) is warned
    assert len(doors.warning.splitlines()) == warned


@pytest.mark.row("BP-43", "MV-17")
@pytest.mark.parametrize("kind", get_args(PersonQuestion), ids=lambda kind: kind.__name__)
def test_an_agent_asks_nothing_that_is_a_persons(kind: Any) -> None:
    assert not AGENT.may_ask(question_of(kind))
    assert ANN.may_ask(question_of(kind))
    assert KEEPER.may_ask(question_of(kind))
    assert not STRANGER.may_ask(question_of(kind))


@pytest.mark.parametrize("kind", get_args(AgentQuestion), ids=lambda kind: kind.__name__)
def test_a_person_asks_for_no_grants(kind: Any) -> None:
    assert AGENT.may_ask(question_of(kind))
    assert ANN.may_ask(question_of(kind)) is KEEPER.may_ask(question_of(kind)) is (kind is AskBudget)
    assert not STRANGER.may_ask(question_of(kind))


def test_a_certificate_that_nobody_named_is_a_strangers() -> None:
    doors = RemoteDoors(askers={"ab" * 32: AGENT})
    assert doors.asker("ab" * 32) is AGENT
    assert doors.asker("cd" * 32) is STRANGER


def test_a_user_that_there_is_not_is_a_mistake_in_the_file() -> None:
    with pytest.raises(ConfigurationError, match=r"access\.agents"):
        who_is(("no-such-user-here",), file="secretary.toml", key="access.agents")


# --- what is whose ----------------------------------------------------------------------------------------------------

ASK = Rule(name="ask", kinds=("web",), pay=Pay.ASK)
ANNS = Transfer(user="ann", program="firefox", kind="web", destination="www.example.org", size_bytes=10**6)
BOBS = msgspec.structs.replace(ANNS, user="bob")


def asked() -> Clerk:
    """Ann's question is 1, Bob's 2."""
    clerk = Clerk(policy=Policy(book=Rulebook(own=(ASK,)), learns=False))
    clerk.try_ask(flow(1), ANNS, price=1_000)
    clerk.try_ask(flow(2), BOBS, price=1_000)
    return clerk


@pytest.mark.parametrize(("asker", "seen"), [(ANN, [1]), (BOB, [2]), (KEEPER, [2, 1])])
def test_a_person_sees_their_own_questions(asker: Asker, seen: list[int]) -> None:
    inbox = asked().says(AskInbox(), asker)
    assert isinstance(inbox, Inbox)
    assert [question.number for question in inbox.questions] == seen


def test_a_person_answers_and_undoes_their_own_only() -> None:
    clerk = asked()
    journal = len(clerk.journal)
    for question in (AnswerQuestion(number=2, accept=True), UndoAnswer(number=2), UndoAnswer()):
        with pytest.raises(RemoteProtocolError, match="no-such-question"):
            clerk.says(question, ANN)
    assert len(clerk.journal) == journal
    clerk.says(AnswerQuestion(number=2, accept=True), BOB)
    with pytest.raises(RemoteProtocolError, match="no-such-question"):
        clerk.says(UndoAnswer(), ANN)
    clerk.says(AnswerQuestion(number=1, accept=True), KEEPER)


@pytest.mark.parametrize(
    "question",
    [
        TopUpPurse(transfer="t", nanodollars=1),
        RaiseBudget(budget="day", nanodollars=1),
        DisputeGrant(grant="0" * 32),
        SetClockRight(),
    ],
)
def test_what_is_the_hosts_is_a_keepers(question: Any) -> None:
    clerk = Clerk()
    with pytest.raises(RemoteProtocolError, match="not-permitted"):
        clerk.says(question, ANN)
    assert clerk.journal == []


def test_a_person_sees_no_other_persons_budget_spending_or_reasons() -> None:
    clerk = Clerk(WEB, budgets=(budget("day", 1_000), budget("each", 500, about=Dimension.PERSON)))
    for port, transfer in ((1, ANNS), (2, BOBS)):
        clerk.close(clerk.ask(flow(port), transfer).grant, 10)
    for asker, own in ((ANN, "person ann"), (BOB, "person bob")):
        budgets = clerk.says(AskBudgets(), asker)
        assert isinstance(budgets, Budgets)
        assert {line.scope for line in budgets.budgets} == {"all", own}
    whole = clerk.says(AskStatement(first_day="2024-10-04", last_day="2024-10-04", by=("user",)), KEEPER)
    assert isinstance(whole, StatementView)
    for line in whole.statement.lines:
        other = BOB if line.user == "ann" else ANN
        with pytest.raises(RemoteProtocolError, match="no-such-line"):
            clerk.says(AskTrace(key=line.key), other)
    with pytest.raises(RemoteProtocolError, match="not-permitted"):
        clerk.says(AskWhy(transfer=BOBS), ANN)


@pytest.mark.parametrize(
    "question",
    [
        AskStatement(first_day="2024-99-99", last_day="2024-10-04"),
        AskStatement(first_day="2024-10-04", last_day="2024-10-04", by=("colour",)),
        RaiseBudget(budget="none", nanodollars=1),
        AnswerQuestion(number=1, accept=False, limit_nanodollars=5),
        DisputeGrant(grant="f" * 32),
        AskTrace(key="nonsense"),
        AskTrace(key=""),
    ],
)
def test_a_question_that_cannot_be_is_refused_in_one_line_and_changes_nothing(question: Any) -> None:
    clerk = asked()
    journal = len(clerk.journal)
    with pytest.raises(RemoteProtocolError) as caught:
        clerk.says(question, KEEPER)
    assert caught.value.code in ("bad-question", "no-such-budget", "no-such-question", "no-such-grant", "no-such-line")
    assert len(caught.value.message.splitlines()) == 1
    assert len(clerk.journal) == journal


# --- real users at the real socket ------------------------------------------------------------------------------------

SPEAK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.settimeout(10)
connection.connect(sys.argv[1])
for line in sys.argv[2:]:
    connection.sendall(line.encode() + b"\\n")
if sys.argv[2:]:
    connection.shutdown(socket.SHUT_WR)
with connection.makefile("rb") as file:
    sys.stdout.write(file.read().decode())
"""


def said_as(user_id: int, socket: Any, *questions: Any) -> list[str]:
    """The codes, or types, of what somebody else's process is answered."""
    lines = [
        msgspec.json.encode(messages.Request(number=number, question=question)).decode()
        for number, question in enumerate(questions, 1)
    ]
    kept = "-all,+dac_read_search"
    done = subprocess.run(
        [
            *("setpriv", "--reuid", str(user_id), "--regid", str(user_id), "--clear-groups"),
            *("--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept),
            *(sys.executable, "-c", SPEAK, str(socket), *lines),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    answers = [json.loads(line)["answer"] for line in done.stdout.splitlines()]
    return [answer.get("code") or answer["type"] for answer in answers]


@pytest.mark.netns
@pytest.mark.expectation(24)
@pytest.mark.row("BP-43", "MV-17")
def test_the_kernel_says_who_asks(stopped: Any) -> None:
    stopped.configure(more=f'[access]\nagents = ["{AGENT_ID}"]\npeople = ["{ANN_ID}"]\n')
    stopped.start()
    stopped.state.chmod(0o711)
    grant, inbox, top_up = AskGrant(flow=flow()), AskInbox(), TopUpPurse(transfer="t", nanodollars=1)
    socket = stopped.socket
    assert said_as(AGENT_ID, socket, grant, inbox, top_up) == ["Granted", "not-permitted", "not-permitted"]
    assert said_as(ANN_ID, socket, grant, inbox, top_up) == ["not-permitted", "Inbox", "not-permitted"]
    assert said_as(ROOT, socket, grant, inbox, top_up) == ["not-permitted", "Inbox", "Done"]
    for stranger in (BOB_ID, OVERFLOW_ID):
        assert said_as(stranger, socket) == ["not-permitted"]  # before anything is asked
