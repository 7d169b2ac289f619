"""The real process: its socket, its key, its journal; killed, flooded and badly configured."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clerk import GATEWAY, receipt_for

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector, Grant, GrantKind, KeySuccession
from billpay.signing import fingerprint_of, verify
from secretary.client import PersonClient, SecretaryClient, SecretaryUnavailable
from secretary.listening import MAX_CLIENTS
from secretary.messages import (
    LINE_BYTES_MAX,
    AskRules,
    AskStatus,
    Budget,
    Done,
    Granted,
    Reread,
    Rotated,
    RotateKey,
    Rules,
    SecretaryStatus,
    Unpaid,
)
from secretary.transfers import Transfer

FLOW = FlowSelector(source="10.0.1.1", destination="10.0.2.1", protocol=6, source_port=40_000, destination_port=443)


def flow(port: int, **changes: Any) -> FlowSelector:
    return msgspec.structs.replace(FLOW, source_port=port, **changes)


@pytest.fixture
async def client(secretary: Any) -> AsyncIterator[SecretaryClient]:
    client = SecretaryClient(secretary.socket)
    yield client
    await client.close()


def grant_in(answer: Granted | Unpaid, public_key: bytes) -> Grant:
    assert isinstance(answer, Granted), answer
    return verify(answer.signed, public_key, Grant)


async def ask(client: SecretaryClient, selector: FlowSelector = FLOW) -> Granted | Unpaid:
    return await client.ask_grant(selector, gateway=GATEWAY.fingerprint)


async def close(client: SecretaryClient, grant: str, spent: int) -> int:
    """With the gateway's receipt."""
    receipt = receipt_for(grant, spent)
    return await client.close_grant(grant, spent, receipt=receipt, gateway_key=GATEWAY.public_key)


def sums(budget: Budget) -> tuple[int, int, int]:
    return budget.day_nanodollars, budget.spent_today_nanodollars, budget.reserved_nanodollars


def raw(path: Path) -> socket.socket:
    """A client that says what it likes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(path))
    return connection


def replies(connection: socket.socket) -> list[Any]:
    """Until the other side closes."""
    with connection, connection.makefile("rb") as file:
        return [json.loads(line) for line in file]


# --- a day in its life ------------------------------------------------------------------------------------------------


async def test_a_grant_from_the_question_to_its_end(secretary: Any, client: SecretaryClient) -> None:
    answer = await ask(client)
    grant = grant_in(answer, secretary.public_key)
    assert isinstance(answer, Granted)
    assert (answer.rule, answer.strategy, answer.amount_nanodollars, answer.willingness_nanodollars) == (
        "web",
        "fixed",
        20,
        20,
    )
    assert (grant.kind, grant.flow, grant.serial, grant.cap_nanodollars) == (GrantKind.SPEND, FLOW, 1, 100)
    assert grant_in(await ask(client), secretary.public_key) == grant
    longer = grant_in(await client.extend(grant.grant, 60), secretary.public_key)
    assert (longer.grant, longer.serial, longer.cap_nanodollars) == (grant.grant, 2, 160)
    assert sums(await client.budget()) == (100_000, 60, 100)
    with pytest.raises(RemoteProtocolError, match="no-receipt"):
        await client.close_grant(grant.grant, 75)
    assert await close(client, grant.grant, 75) == 75
    assert await close(client, grant.grant, 75) == 0  # again: nothing is booked twice
    assert sums(await client.budget()) == (100_000, 75, 0)


async def test_bulk_unpaid_and_returned(secretary: Any, client: SecretaryClient) -> None:
    bulk = await client.ask_grant(flow(1, destination_port=873))
    assert isinstance(bulk, Granted)
    assert (bulk.rule, bulk.strategy, bulk.willingness_nanodollars, bulk.target_bit_s) == (
        "backup",
        "bulk",
        200,
        50 * 10**6,
    )
    unpaid = await client.ask_grant(flow(1, destination_port=80))
    assert unpaid == Unpaid(code="no-rule", message="no rule names this flow")
    back = await client.ask_return(flow(2), 200, 10)
    assert isinstance(back, Granted)
    assert (back.rule, back.strategy, back.share_nanodollars) == ("returns", "return", 1)
    grant = grant_in(back, secretary.public_key)
    assert (grant.kind, grant.cap_nanodollars) == (GrantKind.RETURN, 220)
    with pytest.raises(RemoteProtocolError, match="not-one-flow"):
        await client.ask_grant(FlowSelector(source="10.0.1.1"))


async def test_the_budget_ends(stopped: Any) -> None:
    stopped.configure(day=150)
    stopped.start()
    client = SecretaryClient(stopped.socket)
    first = grant_in(await client.ask_grant(flow(1)), stopped.public_key)
    second = grant_in(await client.ask_grant(flow(2)), stopped.public_key)
    third = await client.ask_grant(flow(3))
    assert (first.cap_nanodollars, second.cap_nanodollars) == (100, 50)
    assert isinstance(third, Unpaid)
    assert third.code == "budget"
    await client.close()


# --- what a person asks of the process --------------------------------------------------------------------------------


async def test_its_state_for_a_person(secretary: Any, client: SecretaryClient) -> None:
    await ask(client)
    async with PersonClient(secretary.socket) as person:
        status = await person.ask(AskStatus(), SecretaryStatus)
    assert (status.name, status.open_grants, status.reserved_nanodollars) == ("a", 1, 100)
    assert status.fingerprint == fingerprint_of(secretary.public_key)
    assert 0 < status.memory_bytes < 200_000_000
    assert any("an agent may answer for people here" in warning for warning in status.warnings)


async def test_a_key_is_rotated_and_the_successions_lead_to_it(secretary: Any, client: SecretaryClient) -> None:
    old = secretary.public_key
    assert await client.successions() == ()
    async with PersonClient(secretary.socket) as person:
        rotated = await person.ask(RotateKey(), Rotated)
    (succession,) = await client.successions()
    assert succession == rotated.succession
    named = verify(succession, old, KeySuccession)
    assert (named.old, named.new_certificate) == (fingerprint_of(old), rotated.certificate)
    assert fingerprint_of(secretary.public_key) == rotated.fingerprint != fingerprint_of(old)
    answer = await ask(client)
    assert grant_in(answer, secretary.public_key).flow == FLOW
    secretary.end(signal.SIGKILL)
    secretary.start()
    assert await client.successions() == (succession,)
    assert grant_in(await ask(client), secretary.public_key) == grant_in(answer, secretary.public_key)


async def test_rules_that_are_written_hold_without_a_restart(secretary: Any, client: SecretaryClient) -> None:
    """And a mistake in them leaves the last good ones, over a restart too."""
    game = Transfer(program="game", kind="games", destination="play.example", size_bytes=10**6)
    rules = secretary.directory / "rules.d"
    rules.mkdir()
    (rules / "mine.toml").write_text('[[rules]]\nname = "no-games"\nprogram = ["game"]\npay = "never"\n')
    async with PersonClient(secretary.socket) as person:
        await person.ask(Reread(), Done)
        denied = await client.ask_grant(flow(7, destination_port=9), transfer=game, price_nanodollars_per_mb=1)
        assert isinstance(denied, Unpaid)
        assert (denied.code, "no-games" in denied.message) == ("declined", True)
        (rules / "mine.toml").write_text("[[rules]]\nname = ")
        for _ in range(2):
            await person.ask(Reread(), Done)
            shown = await person.ask(AskRules(), Rules)
            assert "no-games" in [rule.name for rule in shown.rules]
            (fault,) = shown.faults
            assert "mine.toml" in fault
            assert len(fault.splitlines()) == 1
            secretary.end(signal.SIGTERM)
            secretary.start()


# --- killed -----------------------------------------------------------------------------------------------------------


async def test_after_a_sigkill_it_is_the_same_secretary(secretary: Any, client: SecretaryClient) -> None:
    """Same key, same grants, same reservations; also of questions that were under way when it was killed."""
    told: dict[int, Grant] = {}
    dice = random.Random(1)
    for start in (0, 100, 200):
        asking = [asyncio.ensure_future(client.ask_grant(flow(port))) for port in range(start + 1, start + 100)]
        before_the_kill = dice.randrange(5, 60)
        while sum(task.done() for task in asking) < before_the_kill:
            await asyncio.sleep(0)
        secretary.end(signal.SIGKILL)
        for port, answer in enumerate(await asyncio.gather(*asking, return_exceptions=True), start + 1):
            if isinstance(answer, Granted):
                told[port] = grant_in(answer, secretary.public_key)
            else:
                assert isinstance(answer, SecretaryUnavailable)
        secretary.start()
        for port, grant in told.items():
            assert grant_in(await client.ask_grant(flow(port)), secretary.public_key) == grant
        budget = await client.budget()
        unheard = budget.reserved_nanodollars - 100 * len(told)
        assert unheard in range(0, 101 * (start // 100 + 1), 100), "at most one for each kill, written and not told"


async def test_what_was_spent_and_closed_survives_too(secretary: Any, client: SecretaryClient) -> None:
    grant = grant_in(await ask(client, flow(1)), secretary.public_key)
    await close(client, grant.grant, 42)
    await client.ask_grant(flow(2))
    before = await client.budget()
    secretary.end(signal.SIGKILL)
    assert secretary.socket.exists(), "nobody took it away"
    with pytest.raises(SecretaryUnavailable):
        await client.budget()
    secretary.start()
    after = await client.budget()
    assert sums(after) == sums(before) == (100_000, 42, 100)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_is_clean_while_clients_are_connected(
    secretary: Any, client: SecretaryClient, number: signal.Signals
) -> None:
    await client.ask_grant(FLOW)
    with raw(secretary.socket) as idle:
        idle.sendall(b'{"number": 1, "ques')
        assert secretary.end(number) == (0, "")
    assert not secretary.socket.exists()


async def test_a_journal_that_breaks_ends_it_with_one_line(secretary: Any, client: SecretaryClient) -> None:
    """What could not be written was not answered; a fresh start knows what is in the journal."""
    await client.ask_grant(flow(1))
    blocker = sqlite3.connect(secretary.state / "journal.sqlite")
    blocker.execute("DROP TABLE journal")
    blocker.commit()
    blocker.close()
    with pytest.raises(SecretaryUnavailable):
        await client.ask_grant(flow(2))
    assert secretary.process.wait(timeout=20) == 4
    _, said = secretary.process.communicate()
    secretary.process = None
    (last,) = said.splitlines()
    assert "write journal" in last


# --- alone and private ------------------------------------------------------------------------------------------------


def test_its_files_are_its_own(secretary: Any) -> None:
    """Anybody may connect: who may ask what is decided by who connected."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in secretary.state.iterdir()}
    assert modes.pop("secretary.sock") == 0o666
    assert modes.pop("node.pem") == 0o644  # the certificate
    assert set(modes.values()) == {0o600}, modes
    assert any(name.startswith("signing-") for name in modes)
    assert stat.S_IMODE(secretary.state.stat().st_mode) == 0o700


def one_line(said: str, *named: str) -> None:
    """Beside what the log says of where the key is."""
    logged = [line for line in said.splitlines() if " secretary.keys: " in line]
    lines = [line for line in said.splitlines() if line not in logged]
    assert len(lines) == 1, said
    assert lines[0].startswith("hostagent: ")
    for word in named:
        assert word in lines[0]


def test_a_second_one_in_the_same_directory_is_one_line(secretary: Any) -> None:
    done = secretary.fails()
    assert done.returncode == 4
    one_line(done.stderr, str(secretary.state), "another daemon works there")
    assert secretary.socket.exists()


async def test_a_socket_that_another_one_serves_is_left_alone(
    secretary: Any, client: SecretaryClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = type(secretary)(tmp_path_factory.mktemp("other"))
    other.configure(socket=str(secretary.socket))
    done = other.fails()
    assert done.returncode == 4
    one_line(done.stderr, str(secretary.socket), "another process answers there")
    assert isinstance(await client.ask_grant(FLOW), Granted)


def test_another_kind_of_file_is_left_alone(stopped: Any) -> None:
    precious = stopped.directory / "thesis.txt"
    precious.write_text("years of work")
    stopped.configure(socket=str(precious))
    done = stopped.fails()
    assert done.returncode == 4
    one_line(done.stderr, str(precious))
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [("journal.sqlite", b"nonsense " * 200, "journal.sqlite"), ("node.key", b"nonsense", "node.key")],
)
def test_a_damaged_state_is_one_line(stopped: Any, file: str, content: bytes, named: str) -> None:
    stopped.state.mkdir(mode=0o700)
    (stopped.state / file).write_bytes(content)
    (stopped.state / file).chmod(0o600)
    done = stopped.fails()
    assert done.returncode == 4
    one_line(done.stderr, named)


BAD: dict[str, tuple[str, str, str]] = {
    "unknown key": ("[budget]", "[budget]\ncolour = 1", "budget.colour"),
    "wrong type": ("day_nanodollars = 100000", 'day_nanodollars = "1 $"', "budget.day_nanodollars"),
    "no prefix": ("10.0.2.0/24", "10.0.2.0/33", "rules[0].destination[0]"),
    "nothing to pay": ("amount_nanodollars = 20", "amount_nanodollars = 0", "rules[0].amount_nanodollars"),
    "not TOML": ("[secretary]", "[secretary", "secretary.toml"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_one_line_and_code_3(stopped: Any, case: str) -> None:
    old, new, key = BAD[case]
    text = stopped.config.read_text()
    assert old in text
    stopped.config.write_text(text.replace(old, new, 1))
    done = stopped.fails()
    assert done.returncode == 3
    one_line(done.stderr, str(stopped.config), key)
    assert not stopped.state.exists(), "nothing was touched"


def test_a_missing_configuration_is_one_line_and_code_3(stopped: Any) -> None:
    stopped.config.unlink()
    done = stopped.fails()
    assert done.returncode == 3
    one_line(done.stderr, "no such file")


# --- clients that misbehave -------------------------------------------------------------------------------------------

MALFORMED = [
    b"\n",
    b"nonsense\n",
    b"{}\n",
    b"\xff\xfe\n",
    b'{"number": 1, "question": {"type": "AskMoney"}}\n',
    b'{"number": -1, "question": {"type": "AskBudget"}}\n',
    b'{"number": 1, "question": {"type": "AskBudget"}, "more": 1}\n',
    b'{"number": 1, "question": {"type": "CloseGrant", "grant": "../../etc", "spent_nanodollars": 0}}\n',
    b'{"number": 1, "question": {"type": "CloseGrant", "grant": "%s", "spent_nanodollars": -5}}\n' % (b"0" * 32),
    b'{"question": {"flow": ' + b"[" * 60_000 + b"\n",
    b'{"question": ' * 4_000 + b"\n",
]


def test_malformed_lines_are_refused_and_the_connection_goes_on(secretary: Any) -> None:
    with raw(secretary.socket) as connection:
        connection.sendall(b"".join(MALFORMED) + b'{"number": 77, "question": {"type": "AskBudget"}}\n')
        connection.shutdown(socket.SHUT_WR)
        *refused, last = replies(connection)
    assert [(reply["number"], reply["answer"]["type"], reply["answer"]["code"]) for reply in refused] == [
        (0, "Refused", "malformed")
    ] * len(MALFORMED)
    assert (last["number"], last["answer"]["type"]) == (77, "Budget")


def test_a_flow_that_is_none_is_refused_by_its_number(secretary: Any) -> None:
    with raw(secretary.socket) as connection:
        selector = msgspec.to_builtins(flow(1, destination="example.org"))
        connection.sendall(
            json.dumps({"number": 5, "question": {"type": "AskGrant", "flow": selector}}).encode() + b"\n"
        )
        connection.shutdown(socket.SHUT_WR)
        (reply,) = replies(connection)
    assert (reply["number"], reply["answer"]["type"], reply["answer"]["code"]) == (5, "Refused", "bad-address")


def test_half_a_question_is_none(secretary: Any) -> None:
    """Who was killed in mid-line had not asked yet."""
    with raw(secretary.socket) as connection:
        connection.sendall(b'{"number": 1, "question": {"type": "AskBudget"}}')
        connection.shutdown(socket.SHUT_WR)
        assert replies(connection) == []


def test_a_line_without_an_end_is_refused_and_the_connection_closed(secretary: Any) -> None:
    with raw(secretary.socket) as connection:
        connection.sendall(b"x" * (LINE_BYTES_MAX + 1))
        (reply,) = replies(connection)
    assert reply["answer"]["code"] == "too-long"


async def test_one_client_too_many_is_told_so(
    secretary: Any, client: SecretaryClient, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    clients = [raw(secretary.socket) for _ in range(MAX_CLIENTS)]
    for connection in clients:
        connection.sendall(b'{"number": 1, "question": {"type": "AskBudget"}}\n')
        assert b"Budget" in connection.recv(1000)
    (reply,) = replies(raw(secretary.socket))
    assert reply["answer"]["code"] == "busy"
    with pytest.raises((RemoteProtocolError, SecretaryUnavailable)):
        await client.budget()
    for connection in clients:
        connection.close()

    def served_again() -> bool:
        with raw(secretary.socket) as connection:
            connection.sendall(b'{"number": 1, "question": {"type": "AskBudget"}}\n')
            return b"Budget" in connection.recv(1000)

    wait_until(served_again)
    assert isinstance(await client.budget(), Budget)


def test_random_bytes_end_nothing(secretary: Any) -> None:
    dice = random.Random(7)
    for _ in range(30):
        with raw(secretary.socket) as connection:
            connection.sendall(dice.randbytes(dice.randrange(1, 3000)))
            connection.shutdown(socket.SHUT_WR)
            assert {reply["answer"]["code"] for reply in replies(connection)} <= {"malformed"}
    with raw(secretary.socket) as connection:
        connection.sendall(b'{"number": 9, "question": {"type": "AskBudget"}}\n')
        assert json.loads(connection.recv(1000))["number"] == 9
    assert secretary.end(signal.SIGTERM) == (0, "")
    assert os.listdir(secretary.state)
