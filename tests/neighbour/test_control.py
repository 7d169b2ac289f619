"""Typed calls to a neighbour over real TLS: every method, every way to fail."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from billpay.errors import RemoteProtocolError
from billpay.links import Reading
from billpay.messages import (
    Agreement,
    AgreementRequest,
    AlternativePrice,
    GrantState,
    GrantTerms,
    GrantUsage,
    Identity,
    Message,
    PriceQuote,
    Problem,
    SecretaryKey,
    SettlementReceipt,
    Signed,
    SignedUsage,
    StatementReply,
    Tariff,
    Timescale,
)
from billpay.settlement import Role
from neighbour import control
from neighbour.book import Book
from neighbour.control import ControlClient, Unreachable
from neighbour.exchange import LinkExchange, Terms
from neighbour.identity import NodeIdentity
from neighbour.tls import PinnedPeers, server_context

NodeOf = Callable[[str], NodeIdentity]
Handler = Callable[[web.Request], object]
USAGE = GrantUsage(grant="ab" * 16, serial=1, state=GrantState.OPEN, spent_nanodollars=3, packets=2, refused_packets=0)
TERMS = GrantTerms(usage=USAGE, max_amount=1000, cap_nanodollars=9, rate_nanodollars_per_s=8, burst_nanodollars=7)
CLOSED = SignedUsage(
    usage=USAGE,
    receipt=Signed(kind="grant-receipt", document=b"{}", signer="0" * 64, signature=bytes(64)),
    public_key=bytes(32),
)
KEY = SecretaryKey(fingerprint="0" * 64, serial=3)
AGREEMENT = Agreement(
    link="X/toA",
    header=True,
    max_amount=1000,
    settlement_threshold=10**11,
    statement_interval_s=10,
    next_interval=1,
    epoch=7,
)


class Asked:
    """What the server was asked last."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, bytes]] = []


@asynccontextmanager
async def gateway(node: NodeOf, answer: Callable[[web.Request], object]) -> AsyncIterator[tuple[ControlClient, Asked]]:
    """A server of X that gives `answer(request)`: a response, or a value that becomes JSON; and A's client for it."""
    asked = Asked()

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.calls.append((request.method, request.path_qs, await request.read()))
        value = answer(request)
        if isinstance(value, web.StreamResponse):
            return value
        return web.json_response(body=msgspec.json.encode(value))

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    host, server = node("A"), node("X")
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(server, PinnedPeers((host.certificate,))))
    await site.start()
    (_, port) = runner.addresses[0][:2]
    try:
        async with ControlClient(host, server.certificate, f"https://127.0.0.1:{port}/") as client:
            yield client, asked
    finally:
        await runner.cleanup()


def tariff(serial: int, issuer: NodeIdentity) -> Signed:
    return issuer.sign(
        Tariff(
            issuer=issuer.fingerprint,
            serial=serial,
            timescale=Timescale.NETWORK,
            valid_from_unix_s=1,
            kind="tolls",
        )
    )


async def test_every_method_calls_its_path_and_gives_its_type(node: NodeOf) -> None:
    x = node("X")
    document = tariff(1, x)
    identity = Identity(name="X", as_number=64512, fingerprint=x.fingerprint, epoch=7)
    request = AgreementRequest(name="A", as_number=0, header=True, source_addresses=("10.0.0.1",))
    quote = PriceQuote(
        destination="fd00::1",
        size_bytes=1500,
        prices=(AlternativePrice(alternative=1, link="toY", toll_picodollars=1000, congestion_picodollars=0),),
    )
    reply = StatementReply(statement=document, in_default=True)
    receipt = SettlementReceipt(settlement="ab" * 16, posted=True, already=False)
    signed = msgspec.json.encode(document)
    answers: list[object] = [identity, AGREEMENT, TERMS, CLOSED, CLOSED, KEY, KEY, document, quote, (document,)]
    answers += [reply, receipt]
    waiting = iter(answers)
    async with gateway(node, lambda _: next(waiting)) as (client, asked):
        given: list[object] = [
            await client.identity(),
            await client.agree(request),
            await client.open_grant("ab" * 16, document),
            await client.grant_usage("ab" * 16),
            await client.close_grant("ab" * 16),
            await client.secretary_key(),
            await client.succeed_secretary_key(document),
            await client.tariff(),
            await client.price("fd00::1", 1500, amount_nanodollars=40),
            await client.oads(),
            await client.post_statement(document),
            await client.post_settlement(document),
        ]
    assert given == answers
    assert asked.calls == [
        ("GET", "/v1/identity", b""),
        ("POST", "/v1/agreement", msgspec.json.encode(request)),
        ("PUT", f"/v1/grants/{'ab' * 16}", signed),
        ("GET", f"/v1/grants/{'ab' * 16}", b""),
        ("DELETE", f"/v1/grants/{'ab' * 16}", b""),
        ("GET", "/v1/secretary-key", b""),
        ("PUT", "/v1/secretary-key", signed),
        ("GET", "/v1/tariff", b""),
        ("GET", "/v1/price?destination=fd00::1&size=1500&amount=40", b""),
        ("GET", "/v1/oads", b""),
        ("POST", "/v1/statements", signed),
        ("POST", "/v1/settlements", signed),
    ]


async def test_an_account_is_kept_and_settled_over_a_real_connection(node: NodeOf, tmp_path: Path) -> None:
    terms = Terms(link="X/toA", threshold_nanodollars=1000)
    sent = received = 0
    with Book.open(tmp_path / "a.sqlite") as a_book, Book.open(tmp_path / "x.sqlite") as x_book:
        a = LinkExchange(
            book=a_book,
            identity=node("A"),
            peer=node("X").certificate,
            role=Role.CALLER,
            terms=terms,
            read=lambda: Reading(sent_nanodollars=sent, received_nanodollars=received),
        )
        x = LinkExchange(
            book=x_book,
            identity=node("X"),
            peer=node("A").certificate,
            role=Role.ANSWERER,
            terms=terms,
            read=lambda: Reading(sent_nanodollars=received, received_nanodollars=sent),
        )

        def answer(request: web.Request) -> object:
            signed = msgspec.json.decode(asked.calls[-1][2], type=Signed)
            try:
                if request.path == "/v1/statements":
                    return x.answer_statement(signed, 1_793_491_200)
                return x.accept_settlement(signed, 1_793_491_200)
            except RemoteProtocolError as error:
                return _refused(409, Problem(code=error.code, message=error.message))

        async with gateway(node, answer) as (client, asked):
            for sent, received in ((1000, 0), (1000, 2000), (1000, 2000), (1000, 2000), (1000, 2000)):  # noqa: B007
                await a.run_interval(client, 1_793_491_200)
            assert a.status().agrees
            assert x.status().agrees
            assert a.status().paid == x.status().paid
            assert [order.amount_nanodollars for order in a.status().paid] == [1000, 1000, 1000]
            assert a.status().net_owed_nanodollars == x.status().net_owed_nanodollars == 0
            sent = 999
            with pytest.raises(RemoteProtocolError, match="own-counter-went-back"):
                await a.run_interval(client, 1_793_491_200)


async def test_the_stream_gives_each_tariff_until_it_ends(node: NodeOf) -> None:
    documents = [tariff(serial, node("X")) for serial in range(3)]
    lines = b"\n\n".join(msgspec.json.encode(document) for document in documents)
    async with gateway(node, lambda _: web.Response(body=lines)) as (client, asked):
        assert [document async for document in client.tariff_stream()] == documents
    assert asked.calls == [("GET", "/v1/tariff/stream", b"")]


@pytest.mark.parametrize(
    ("body", "code"), [(b"{}\n", "malformed"), (b"x" * 1_000_000, "too-large"), (b"nonsense", "malformed")]
)
async def test_a_wrong_line_in_the_stream_is_the_neighbours_fault(node: NodeOf, body: bytes, code: str) -> None:
    async with gateway(node, lambda _: web.Response(body=body)) as (client, _):
        with pytest.raises(RemoteProtocolError) as caught:
            await anext(client.tariff_stream())
    assert caught.value.code == code


async def test_a_refused_stream_has_its_reason(node: NodeOf) -> None:
    problem = Problem(code="too-many-streams", message="64 streams are open")
    async with gateway(node, lambda _: _refused(429, problem)) as (client, _):
        with pytest.raises(RemoteProtocolError, match="too-many-streams: 64 streams are open"):
            await anext(client.tariff_stream())


def _refused(status: int, problem: Message) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(problem))


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 500, 503])
async def test_a_problem_is_raised_with_its_code(node: NodeOf, status: int) -> None:
    problem = Problem(code="no-agreement", message="ask for an agreement first")
    async with gateway(node, lambda _: _refused(status, problem)) as (client, _):
        with pytest.raises(RemoteProtocolError) as caught:
            await client.identity()
    assert (caught.value.code, caught.value.message) == (problem.code, problem.message)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (lambda: web.Response(status=500, text="oops\nline 2"), "http-500"),
        (lambda: web.Response(status=502, body=b"\xff\xfe"), "http-502"),
        (lambda: web.Response(status=404), "http-404"),
        (lambda: web.Response(status=302, headers={"Location": "https://127.0.0.1:1/"}), "http-302"),
        (lambda: web.Response(status=204), "http-204"),
        (lambda: web.Response(text="not json"), "malformed"),
        (lambda: web.Response(text="{}"), "malformed"),
        (lambda: web.Response(body=b'{"name": "\xff"}'), "malformed"),
        (lambda: web.Response(text="[" * 100_000), "malformed"),
        (lambda: web.Response(body=bytes(control.ANSWER_BYTES_MAX + 1)), "too-large"),
    ],
)
async def test_any_other_answer_is_the_neighbours_fault(
    node: NodeOf, response: Callable[[], web.Response], code: str
) -> None:
    async with gateway(node, lambda _: response()) as (client, _):
        with pytest.raises(RemoteProtocolError) as caught:
            await client.identity()
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


async def test_nobody_there_is_one_line_with_url_and_cause(node: NodeOf) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{free.getsockname()[1]}"
    async with ControlClient(node("A"), node("X").certificate, url) as client:
        with pytest.raises(Unreachable) as caught:
            await client.identity()
    assert str(caught.value).startswith(f"{url}/v1/identity: ")
    assert "\n" not in str(caught.value)
    assert caught.value.url == f"{url}/v1/identity"


async def test_another_node_at_the_address_is_unreachable(node: NodeOf) -> None:
    async with gateway(node, lambda _: USAGE) as (client, asked):
        other = ControlClient(node("A"), node("E").certificate, client.url)
        for call in (other.identity(), anext(other.tariff_stream())):
            with pytest.raises(Unreachable):
                await call
        await other.close()
        stranger = ControlClient(node("E"), node("X").certificate, client.url)
        with pytest.raises(Unreachable):
            await stranger.identity()
        await stranger.close()
        assert asked.calls == []


async def test_a_silent_neighbour_is_given_up(node: NodeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TOTAL_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        async with ControlClient(node("A"), node("X").certificate, url) as client:
            with pytest.raises(Unreachable, match=r"^https://127.0.0.1:\d+/v1/tariff: "):
                await client.tariff()


async def test_a_connection_that_was_closed_meanwhile_costs_one_try(node: NodeOf) -> None:
    """The neighbour restarted between two statements."""
    closed: list[bool] = []

    def answer(request: web.Request) -> object:
        if not closed:
            closed.append(True)
            assert request.transport is not None
            request.transport.abort()
        return StatementReply(statement=tariff(1, node("X")))

    async with gateway(node, answer) as (client, asked):
        await client.post_statement(tariff(1, node("X")))
        assert len(asked.calls) == 2


async def test_closing_twice_and_without_a_call_is_fine(node: NodeOf) -> None:
    client = ControlClient(node("A"), node("X").certificate, "https://127.0.0.1:1")
    await client.close()
    await client.close()
