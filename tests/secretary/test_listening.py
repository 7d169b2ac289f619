"""The doors: the same questions and answers over mutual TLS with pinned keys, and nothing for any other certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from clerk import GATEWAY, SECRETARY, Clerk, flow, receipt_for

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.messages import Grant
from billpay.signing import SigningKey, verify
from neighbour.identity import NodeIdentity, PeerCertificate, certificate_pem
from neighbour.tls import client_context
from secretary.asking import Asker, Doors, RemoteDoors, Role
from secretary.client import PersonClient, RemoteSecretary, SecretaryClient, SecretaryUnavailable
from secretary.listening import MAX_CLIENTS, Listener
from secretary.messages import (
    LINE_BYTES_MAX,
    Answer,
    AskBudget,
    AskGrant,
    AskInbox,
    Budget,
    CloseGrant,
    ExtendGrant,
    Granted,
    Inbox,
    PersonQuestion,
    Question,
    Reply,
    Request,
)

SEEDS = {name: name[:1].encode() * 32 for name in ("host", "person", "xenia", "transport")}
HOST, PERSON, STRANGER, TRANSPORT = map(SigningKey, SEEDS.values())
LOOPBACK = "127.0.0.1"


def name_of(key: SigningKey) -> str:
    return next(name for name, seed in SEEDS.items() if SigningKey(seed).fingerprint == key.fingerprint)


def certificate(key: SigningKey) -> PeerCertificate:
    return PeerCertificate.from_pem(certificate_pem(key, name_of(key)))


def identity_in(directory: Path, key: SigningKey) -> NodeIdentity:
    """With its files, as TLS wants them."""
    name = name_of(key)
    return NodeIdentity.load_or_create(directory / name, name=name, draw=lambda _: SEEDS[name])


def answering(clerk: Clerk) -> Listener:
    """As the process answers, without a journal on the disk."""

    def answer(question: Question, asker: Asker) -> Answer:
        clerk.tick()
        core, now = clerk.secretary, clerk.now
        match question:
            case AskGrant():
                return core.ask_grant(question, now)
            case ExtendGrant():
                return core.extend(question, now)
            case CloseGrant():
                return core.close(question, now)
            case AskBudget():
                return core.budget(question, now)
        assert isinstance(question, PersonQuestion)
        return clerk.says(question, asker)

    def never(fault: EnvironmentFault) -> None:
        raise fault

    return Listener(answer, on_fault=never)


class Device:
    """A secretary that lives on another device than its host."""

    def __init__(self, directory: Path) -> None:
        self.clerk = Clerk()
        self.directory = directory
        self.listener = answering(self.clerk)
        self.identity = identity_in(directory, TRANSPORT)
        self.port = 0

    async def listen(self) -> None:
        doors = RemoteDoors(
            askers={
                HOST.fingerprint: Asker(roles=frozenset({Role.AGENT})),
                PERSON.fingerprint: Asker(roles=frozenset({Role.PERSON}), user="ann"),
            }
        )
        pinned = (certificate(HOST), certificate(PERSON))
        self.port = await self.listener.listen_remotely(LOOPBACK, 0, self.identity, pinned, doors)

    def seen_by(self, key: SigningKey, *, pinned: SigningKey = TRANSPORT) -> RemoteSecretary:
        return RemoteSecretary(
            address=LOOPBACK,
            port=self.port,
            identity=identity_in(self.directory, key),
            certificate=certificate(pinned),
        )


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    device = Device(tmp_path)
    await device.listen()
    yield device
    await device.listener.close()


@contextlib.asynccontextmanager
async def agent(where: Path | RemoteSecretary) -> AsyncIterator[SecretaryClient]:
    client = SecretaryClient(where)
    try:
        yield client
    finally:
        await client.close()


async def spend(client: SecretaryClient) -> tuple[int, int, int]:
    """A grant from the question to its receipt."""
    answer = await client.ask_grant(flow(), gateway=GATEWAY.fingerprint)
    assert isinstance(answer, Granted)
    grant = verify(answer.signed, SECRETARY.public_key, Grant)
    longer = await client.extend(grant.grant, 60)
    assert isinstance(longer, Granted)
    receipt = receipt_for(grant.grant, 75)
    booked = await client.close_grant(grant.grant, 80, receipt=receipt, gateway_key=GATEWAY.public_key)
    budget = await client.budget()
    return booked, budget.spent_today_nanodollars, budget.reserved_nanodollars


async def test_the_same_interface_over_mutual_tls_as_over_the_socket(device: Device, tmp_path: Path) -> None:
    async with agent(device.seen_by(HOST)) as client:
        over_tls = await spend(client)
    near = answering(Clerk())
    path = tmp_path / "s.sock"
    await near.listen_here(path, Doors())
    async with agent(path) as client:
        assert await spend(client) == over_tls == (75, 75, 0)
    await near.close()


@pytest.mark.row("BP-43")
async def test_a_certificate_has_its_role_and_its_user(device: Device) -> None:
    async with PersonClient(device.seen_by(PERSON)) as person:
        assert await person.ask(AskInbox(), Inbox) == Inbox(questions=(), a_day=3)
    async with PersonClient(device.seen_by(HOST)) as hijacked:
        with pytest.raises(RemoteProtocolError, match="not-permitted"):
            await hijacked.ask(AskInbox(), Inbox)
    async with agent(device.seen_by(PERSON)) as client:
        with pytest.raises(RemoteProtocolError, match="not-permitted"):
            await client.ask_grant(flow())


@pytest.mark.row("BP-43")
async def test_another_certificate_gets_no_connection(device: Device) -> None:
    """TLS 1.3: the client learns of it with its first read."""
    async with agent(device.seen_by(STRANGER)) as client:
        with pytest.raises(SecretaryUnavailable):
            await client.budget()
    assert device.clerk.journal == []
    async with agent(device.seen_by(HOST)) as client:
        assert isinstance(await client.budget(), Budget)


async def test_who_is_not_the_pinned_secretary_is_told_nothing(device: Device) -> None:
    async with agent(device.seen_by(HOST, pinned=STRANGER)) as client:
        with pytest.raises(SecretaryUnavailable):
            await client.ask_grant(flow())
    assert device.clerk.journal == []


async def test_without_a_certificate_or_without_tls_there_is_nothing(device: Device) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    line = msgspec.json.encode(Request(number=1, question=AskBudget())) + b"\n"
    for tls in (context, None):
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, device.port, ssl=tls)
            writer.write(line)
            await writer.drain()
            heard = await reader.read(1000)
        except (OSError, ssl.SSLError):
            heard = b""
        else:
            writer.close()
        assert b"Budget" not in heard


async def test_malformed_lines_over_tls_are_refused_and_the_connection_goes_on(device: Device) -> None:
    where = device.seen_by(HOST)
    context = client_context(where.identity, where.certificate)
    reader, writer = await asyncio.open_connection(LOOPBACK, device.port, ssl=context)
    writer.write(b"nonsense\n" + msgspec.json.encode(Request(number=5, question=AskBudget())) + b"\n")
    replies = [msgspec.json.decode(await reader.readline(), type=Reply) for _ in range(2)]
    assert [reply.number for reply in replies] == [0, 5]
    writer.write(b"x" * (LINE_BYTES_MAX + 1))
    last = msgspec.json.decode(await reader.readline(), type=Reply)
    assert getattr(last.answer, "code", "") == "too-long"
    assert await reader.read() == b""
    writer.close()


async def test_a_closed_listener_ends_its_conversations(device: Device) -> None:
    async with agent(device.seen_by(HOST)) as client:
        await client.budget()
        await device.listener.close()
        with pytest.raises(SecretaryUnavailable):
            await client.budget()


async def test_one_caller_too_many_over_tls_is_told_so(device: Device) -> None:
    clients = [SecretaryClient(device.seen_by(HOST)) for _ in range(MAX_CLIENTS)]
    for client in clients:
        await client.budget()
    one_more = SecretaryClient(device.seen_by(HOST))
    with pytest.raises((RemoteProtocolError, SecretaryUnavailable), match=r"busy|closed|reset"):
        await one_more.budget()
    for client in (*clients, one_more):
        await client.close()


async def test_an_address_that_cannot_be_listened_on_is_one_line(device: Device) -> None:
    again = answering(Clerk())
    with pytest.raises(EnvironmentFault) as caught:
        await again.listen_remotely(LOOPBACK, device.port, device.identity, (certificate(HOST),), RemoteDoors())
    assert f"{LOOPBACK}:{device.port}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
