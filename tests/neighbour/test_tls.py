"""Both ends of a control connection are pinned: a wrong certificate is refused on either side, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from billpay.errors import EnvironmentFault
from billpay.signing import SigningKey
from neighbour.identity import NodeIdentity, PeerCertificate, certificate_pem
from neighbour.tls import PinnedPeers, client_context, peer_public_key, server_context

NodeOf = Callable[[str], NodeIdentity]
REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


@dataclass(slots=True)
class Server:
    """Where it listens, and which keys it saw."""

    port: int = 0
    keys: list[bytes | None] = field(default_factory=list)


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[Server]:
    server = Server()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.keys.append(peer_public_key(writer.get_extra_info("ssl_object")))
        writer.write(await reader.readexactly(2))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


async def call(port: int, context: ssl.SSLContext) -> bytes | None:
    """Says hello and gives the key that the server showed. Raises one of REFUSED."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    try:
        writer.write(b"hi")
        assert await reader.readexactly(2) == b"hi"
        return peer_public_key(writer.get_extra_info("ssl_object"))
    finally:
        writer.close()
        with suppress(*REFUSED):
            await writer.wait_closed()


async def test_two_neighbours_see_each_others_keys(node: NodeOf) -> None:
    host, gateway = node("A"), node("X")
    peers = PinnedPeers((node("other").certificate, host.certificate))
    async with serving(server_context(gateway, peers)) as server:
        assert await call(server.port, client_context(host, gateway.certificate)) == gateway.public_key
        assert server.keys == [host.public_key]
    assert peers.by_public_key(host.public_key) == host.certificate


async def test_a_client_that_is_not_a_neighbour_is_refused(node: NodeOf) -> None:
    gateway, stranger = node("X"), node("E")
    async with serving(server_context(gateway, PinnedPeers((node("A").certificate,)))) as server:
        with pytest.raises(REFUSED):
            await call(server.port, client_context(stranger, gateway.certificate))
        assert server.keys == []


async def test_a_client_without_a_certificate_is_refused(node: NodeOf) -> None:
    gateway = node("X")
    bare = ssl.create_default_context(cadata=gateway.certificate.pem)
    bare.check_hostname = False
    async with serving(server_context(gateway, PinnedPeers((node("A").certificate,)))) as server:
        with pytest.raises(REFUSED):
            await call(server.port, bare)
        assert server.keys == []


async def test_a_server_with_another_certificate_is_refused(node: NodeOf) -> None:
    host, gateway, impostor = node("A"), node("X"), node("E")
    async with serving(server_context(impostor, PinnedPeers((host.certificate,)))) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(server.port, client_context(host, gateway.certificate))
        assert server.keys == []


async def test_the_neighbours_name_on_another_key_is_refused(node: NodeOf) -> None:
    """Same subject, same issuer, other key: a chain may be built, the signature and the pin do not hold."""
    host, gateway = node("A"), node("X")
    impostor = node("E")
    impostor.certificate_path.write_text(certificate_pem(impostor.key, "X"))
    async with serving(server_context(impostor, PinnedPeers((host.certificate,)))) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(server.port, client_context(host, gateway.certificate))


async def test_a_trust_anchor_alone_is_not_enough(node: NodeOf) -> None:
    """A neighbour that was removed stays an anchor of the living context, and fails at the comparison of keys."""
    host, gateway = node("A"), node("X")
    peers = PinnedPeers((host.certificate,))
    async with serving(server_context(gateway, peers)) as server:
        assert await call(server.port, client_context(host, gateway.certificate)) == gateway.public_key
        peers.remove(host.fingerprint)
        with pytest.raises(REFUSED):
            await call(server.port, client_context(host, gateway.certificate))
        assert len(server.keys) == 1
        peers.add(host.certificate)
        assert await call(server.port, client_context(host, gateway.certificate)) == gateway.public_key


async def test_a_neighbour_added_later_is_accepted(node: NodeOf) -> None:
    host, gateway = node("A"), node("X")
    peers = PinnedPeers()
    async with serving(server_context(gateway, peers)) as server:
        with pytest.raises(REFUSED):
            await call(server.port, client_context(host, gateway.certificate))
        peers.add(host.certificate)
        assert await call(server.port, client_context(host, gateway.certificate)) == gateway.public_key


async def test_older_versions_of_tls_are_refused(node: NodeOf) -> None:
    host, gateway = node("A"), node("X")
    old = client_context(host, gateway.certificate)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(server_context(gateway, PinnedPeers((host.certificate,)))) as server:
        with pytest.raises(REFUSED):
            await call(server.port, old)


def test_a_missing_key_file_is_one_line(node: NodeOf) -> None:
    a = node("A")
    a.certificate_path.unlink()
    with pytest.raises(EnvironmentFault, match="start again to restore the certificate"):
        client_context(a, PeerCertificate.from_pem(certificate_pem(SigningKey(b"x" * 32), "X")))


def test_without_tls_there_is_no_key() -> None:
    assert peer_public_key(None) is None
