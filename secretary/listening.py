"""The secretary's doors: a unix socket, and mutual TLS where it lives on another machine. JSON lines on both.

Decides: who is at the other end, by what the kernel or a pinned certificate vouches for, and that a stranger is told so
and costs nothing more. Refuses to know what is asked (`secretary.messages`) and what is answered.
Source: unix(7); RFC 8446; docs/spec/secretary-protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault, RemoteProtocolError
from dataplane.peers import peer_of
from neighbour.identity import NodeIdentity, PeerCertificate
from neighbour.tls import PinnedPeers, peer_public_key, server_context
from secretary.asking import STRANGER, Asker, Doors, RemoteDoors
from secretary.messages import LINE_BYTES_MAX, Answer, Question, Refused, Reply, Request

MAX_CLIENTS: Final = 32
MESSAGE_CHARACTERS: Final = 400
SECOND_S: Final = 1.0
HANDSHAKE_S: Final = 10.0
SOCKET_MODE: Final = 0o666
"""Whoever reaches it may connect; who may ask what is decided by who connected."""

Reading = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Listener:
    """Hands each question to `answer(question, asker)`; a fault of the environment there ends everything by `fault`."""

    def __init__(
        self, answer: Callable[[Question, Asker], Answer], *, on_fault: Callable[[EnvironmentFault], None]
    ) -> None:
        self._answer = answer
        self._on_fault = on_fault
        self._servers: list[asyncio.Server] = []
        self._socket: Path | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._decoder = msgspec.json.Decoder(Request)
        self._closed = False

    async def listen_here(self, path: Path, doors: Doors) -> None:
        """Raises EnvironmentFault; a socket that nobody serves is replaced."""

        def who(writer: asyncio.StreamWriter) -> Asker:
            peer = peer_of(writer.get_extra_info("socket"))
            return doors.asker(peer, _user_name(peer.user_id))

        try:
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            listening = open_socket(path)
            server = await asyncio.start_unix_server(self._serving(who), sock=listening, limit=LINE_BYTES_MAX)
        except OSError as error:
            raise EnvironmentFault("listen on", str(path), error.strerror or error, "name another") from error
        self._servers.append(server)
        self._socket = path

    async def listen_remotely(
        self,
        address: str,
        port: int,
        identity: NodeIdentity,
        certificates: tuple[PeerCertificate, ...],
        doors: RemoteDoors,
    ) -> int:
        """Over mutual TLS with pinned keys; gives the port. Raises EnvironmentFault."""
        fingerprints = {each.public_key: each.fingerprint for each in certificates}

        def who(writer: asyncio.StreamWriter) -> Asker:
            key = peer_public_key(writer.get_extra_info("ssl_object"))
            return doors.asker(fingerprints[key]) if key in fingerprints else STRANGER

        context: ssl.SSLContext = server_context(identity, PinnedPeers(certificates))
        try:
            server = await asyncio.start_server(
                self._serving(who), address, port, ssl=context, limit=LINE_BYTES_MAX, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError as error:
            raise EnvironmentFault("listen on", f"{address}:{port}", error.strerror or error, "name another") from error
        self._servers.append(server)
        chosen: int = server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Ends every conversation: a client that is connected sees its end."""
        self._closed = True
        for server in self._servers:
            server.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        clients = dict(self._clients)
        for writer in clients.values():
            writer.close()
        await asyncio.gather(*clients)

    # --- conversations ----------------------------------------------------------------------------------------------

    def _serving(
        self, who: Callable[[asyncio.StreamWriter], Asker]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], asyncio.Future[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task: asyncio.Task[None] | None = asyncio.current_task()
            assert task is not None
            self._clients[task] = writer
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # gone, even in mid-line
                    await self._converse((reader, writer), who(writer))
            except EnvironmentFault as fault:
                self._closed = True
                self._on_fault(fault)
            finally:
                del self._clients[task]
                writer.close()

        return serve  # type: ignore[return-value]

    async def _converse(self, streams: Reading, asker: Asker) -> None:
        reader, writer = streams
        if not asker.roles:
            await _send(
                writer, refused(0, "not-permitted", "you are neither an agent nor a person that this secretary knows")
            )
            return
        if len(self._clients) > MAX_CLIENTS:
            await _send(writer, refused(0, "busy", f"{MAX_CLIENTS} connections are open"))
            return
        while not self._closed:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                await _send(writer, refused(0, "too-long", f"a line has at most {LINE_BYTES_MAX} bytes"))
                return
            await _send(writer, self._reply(line, asker))

    def _reply(self, line: bytes, asker: Asker) -> Reply:
        try:
            request = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return refused(0, "malformed", str(error))
        if not asker.may_ask(request.question):
            who = " and ".join(sorted(role.value for role in asker.roles))
            return refused(
                request.number, "not-permitted", f"not for you to ask as {who}: {type(request.question).__name__}"
            )
        try:
            return Reply(number=request.number, answer=self._answer(request.question, asker))
        except RemoteProtocolError as error:
            return refused(request.number, error.code, error.message)


def open_socket(path: Path) -> socket.socket:
    """Bound, with its mode from the first moment. Raises OSError; EnvironmentFault if somebody serves it."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _make_way(path)
        mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def refused(number: int, code: str, message: str) -> Reply:
    return Reply(number=number, answer=Refused(code=code, message=message[:MESSAGE_CHARACTERS]))


def _make_way(path: Path) -> None:
    """Removes a socket that a killed process left; another kind of file stays, and the bind fails."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(SECOND_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise EnvironmentFault("listen on", str(path), "another process answers there", "stop it, or name another socket")


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()
