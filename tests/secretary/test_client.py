"""The agent's side: answers by number, a secretary that comes and goes, and one that answers nonsense."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector
from secretary.client import SecretaryClient, SecretaryUnavailable
from secretary.messages import Answer, AskBudget, AskGrant, Budget, Closed, Refused, Reply, Request, Unpaid

FLOW = FlowSelector(source="10.0.1.1", destination="10.0.2.1", protocol=6, source_port=1, destination_port=443)
BUDGET = Budget(day_nanodollars=100, spent_today_nanodollars=20, reserved_nanodollars=30)
NO = Unpaid(code="no-rule", message="no rule names this flow")

Answering = Callable[[Request], bytes]


def line(number: int, answer: Answer) -> bytes:
    return msgspec.json.encode(Reply(number=number, answer=answer)) + b"\n"


@contextlib.asynccontextmanager
async def scripted(socket: Path, answer: Answering) -> AsyncIterator[list[Request]]:
    """A secretary that answers as told; b"" hangs up. Gives what it was asked."""
    asked: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := await reader.readline():
            asked.append(msgspec.json.decode(question, type=Request))
            reply = answer(asked[-1])
            writer.write(reply)
            if not reply:
                break
        writer.close()

    server = await asyncio.start_unix_server(serve, socket)
    try:
        yield asked
    finally:
        server.close()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


@pytest.fixture
async def client(socket: Path) -> AsyncIterator[SecretaryClient]:
    client = SecretaryClient(socket)
    yield client
    await client.close()


async def test_each_question_has_a_number_of_its_own(client: SecretaryClient, socket: Path) -> None:
    async with scripted(socket, lambda request: line(request.number, BUDGET)) as asked:
        assert [await client.budget(), await client.budget()] == [BUDGET, BUDGET]
    assert [request.number for request in asked] == [1, 2]


async def test_questions_at_once_get_their_own_answers(client: SecretaryClient, socket: Path) -> None:
    def answer(request: Request) -> bytes:
        return line(request.number, BUDGET if isinstance(request.question, AskBudget) else NO)

    async with scripted(socket, answer):
        first, second, third = await asyncio.gather(client.budget(), client.ask_grant(FLOW), client.budget())
    assert (first, third) == (BUDGET, BUDGET)
    assert second == NO


async def test_the_answer_to_a_question_that_was_given_up_is_passed_over(client: SecretaryClient, socket: Path) -> None:
    kept: list[bytes] = []

    def late(request: Request) -> bytes:
        """The first answer comes only with the second one; until then some white space, which is no line."""
        kept.append(line(request.number, NO if isinstance(request.question, AskGrant) else BUDGET))
        return b"".join(kept) if len(kept) > 1 else b" "

    async with scripted(socket, late) as asked:
        first = asyncio.ensure_future(client.ask_grant(FLOW))
        while not asked:
            await asyncio.sleep(0)
        first.cancel()
        assert await client.budget() == BUDGET


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.ask_grant(FLOW),
        lambda client: client.extend("0" * 32, 5),
        lambda client: client.ask_return(FLOW, 100, 5),
        lambda client: client.close_grant("0" * 32, 5),
        lambda client: client.budget(),
    ],
)
async def test_nobody_there_is_said_in_one_line_with_the_socket(
    client: SecretaryClient, socket: Path, ask: Callable[[SecretaryClient], Awaitable[object]]
) -> None:
    with pytest.raises(SecretaryUnavailable) as caught:
        await ask(client)
    assert str(socket) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


async def test_it_connects_anew_at_the_next_question(client: SecretaryClient, socket: Path) -> None:
    with pytest.raises(SecretaryUnavailable):
        await client.budget()
    for _ in range(2):
        answers = [BUDGET]

        def once(request: Request, answers: list[Budget] = answers) -> bytes:
            return line(request.number, answers.pop()) if answers else b""

        async with scripted(socket, once):
            assert await client.budget() == BUDGET
            with pytest.raises(SecretaryUnavailable, match="closed the connection"):
                await client.budget()
        socket.unlink(missing_ok=True)


async def test_a_secretary_that_was_started_again_meanwhile_is_not_missed(
    client: SecretaryClient, socket: Path
) -> None:
    """Nobody is told that it is away when it is there."""
    hung_up = asyncio.Event()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = msgspec.json.decode(await reader.readline(), type=Request)
        writer.write(line(request.number, BUDGET))
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_unix_server(serve_one, socket)
    for _ in range(3):
        hung_up.clear()
        assert await client.budget() == BUDGET
        await hung_up.wait()
    server.close()


async def test_a_secretary_that_hangs_is_unavailable(
    client: SecretaryClient, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secretary.client.TIMEOUT_S", 0.02)
    async with scripted(socket, lambda _: b" "):
        with pytest.raises(SecretaryUnavailable, match="no answer in time"):
            await client.budget()


@pytest.mark.parametrize(
    "nonsense", [b"nonsense\n", b"{}\n", b"\xff\xff\n", b"x" * 100_000 + b"\n", b"[" * 60_000 + b"\n"]
)
async def test_nonsense_for_an_answer_is_unavailable(client: SecretaryClient, socket: Path, nonsense: bytes) -> None:
    async with scripted(socket, lambda _: nonsense):
        with pytest.raises(SecretaryUnavailable):
            await client.budget()


async def test_a_refusal_has_its_code(client: SecretaryClient, socket: Path) -> None:
    refusal = Refused(code="bad-address", message="write it so")
    async with scripted(socket, lambda request: line(request.number, refusal)):
        with pytest.raises(RemoteProtocolError, match="bad-address: write it so"):
            await client.ask_grant(FLOW)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda client: client.ask_grant(FLOW), BUDGET),
        (lambda client: client.budget(), NO),
        (lambda client: client.close_grant("0" * 32, 5), NO),
        (lambda client: client.ask_return(FLOW, 1, 1), Closed()),
    ],
)
async def test_an_answer_to_another_question_is_its_fault(
    client: SecretaryClient, socket: Path, ask: Callable[[SecretaryClient], Awaitable[Any]], answer: Answer
) -> None:
    async with scripted(socket, lambda request: line(request.number, answer)):
        with pytest.raises(RemoteProtocolError, match="wrong-answer"):
            await ask(client)
