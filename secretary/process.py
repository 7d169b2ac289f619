"""The secretary as a process: answers the agent on a unix socket, with the rules, the budget and its own key.

Decides nothing: `secretary.issuing` does. A decision is journalled and synced before it is answered. Refuses to know
what an answer is used for. Source: unix(7); docs/spec/secretary-protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import assert_never

import msgspec

from billpay.errors import EnvironmentFault, RemoteProtocolError
from dataplane import journal
from dataplane.service import locked, until_told_to_stop
from neighbour.identity import NodeIdentity
from secretary.configuration import Configuration, load, rules_of
from secretary.issuing import Decided, Denial, Ended, Entry, Issuer
from secretary.messages import (
    LINE_BYTES_MAX,
    Answer,
    AskBudget,
    AskGrant,
    AskReturn,
    Budget,
    Closed,
    CloseGrant,
    ExtendGrant,
    Granted,
    Question,
    Refused,
    Reply,
    Request,
    Unpaid,
)
from secretary.store import JOURNAL_FILE, Journal

LOG = logging.getLogger("secretary")
MAX_CLIENTS = 16
SECOND_S = 1.0
MESSAGE_CHARACTERS = 400


async def run(config_path: Path) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError or EnvironmentFault, also when the journal breaks later."""
    configuration = load(config_path)
    with locked(configuration.state_directory):
        journal.set_up(sys.stderr, configuration.state_directory)
        process = SecretaryProcess(configuration)
        try:
            await process.listen()
            LOG.info("%s is up", configuration.secretary.name)
            await until_told_to_stop(process.keep_time())
        finally:
            await process.close()


class SecretaryProcess:
    """The issuer with its journal, key and socket."""

    def __init__(self, configuration: Configuration) -> None:
        directory = configuration.state_directory
        self._socket = configuration.socket
        self._identity = NodeIdentity.load_or_create(directory, name=configuration.secretary.name)
        self._issuer = Issuer(
            rules_of(configuration),
            configuration.return_policy,
            day_nanodollars=configuration.budget.day_nanodollars,
            returns_day_nanodollars=configuration.returns.day_nanodollars,
            draw=secrets.token_bytes,
        )
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._decoder = msgspec.json.Decoder(Request)
        self._fault: EnvironmentFault | None = None
        self._failed = asyncio.Event()
        self._journal = Journal(directory / JOURNAL_FILE)
        try:
            for entry in self._journal.entries():
                self._issuer.apply(entry)
        except EnvironmentFault:
            self._journal.close()
            raise

    async def listen(self) -> None:
        """On a socket that nobody else may open. Raises EnvironmentFault; a socket that nobody serves is replaced."""
        try:
            self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            listening = _private_socket(self._socket)
            self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=LINE_BYTES_MAX)
        except OSError as error:
            raise EnvironmentFault("listen on", str(self._socket), error.strerror or error, "name another") from error

    async def close(self) -> None:
        """Ends every conversation: a client that is connected sees its end."""
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)
        clients = dict(self._clients)
        for writer in clients.values():
            writer.close()
        await asyncio.gather(*clients)
        self._journal.close()

    async def keep_time(self) -> None:
        """Until cancelled. Raises EnvironmentFault once the journal is broken: a fresh start reads what is in it."""
        while self._fault is None:
            for entry in self._issuer.on_time(_unix_s()):
                self._keep(entry)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._failed.wait(), SECOND_S)
        raise self._fault

    def _keep(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._issuer.apply(entry)

    # --- the socket -------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # gone, even in mid-line
                await self._converse(reader, writer)
        except EnvironmentFault as fault:
            self._fault = fault
            self._failed.set()
        finally:
            del self._clients[task]
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) > MAX_CLIENTS:
            await _send(writer, _refused(0, "busy", f"{MAX_CLIENTS} connections are open"))
            return
        while self._fault is None:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                await _send(writer, _refused(0, "too-long", f"a line has at most {LINE_BYTES_MAX} bytes"))
                return
            await _send(writer, self._reply(line))

    def _reply(self, line: bytes) -> Reply:
        try:
            request = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return _refused(0, "malformed", str(error))
        try:
            return Reply(number=request.number, answer=self.answer(request.question, _unix_s()))
        except RemoteProtocolError as error:
            return _refused(request.number, error.code, error.message)

    def answer(self, question: Question, unix_s: int) -> Answer:
        issuer = self._issuer
        for entry in issuer.on_time(unix_s):
            self._keep(entry)
        match question:
            case AskGrant():
                return self._granted(issuer.ask(question.flow, unix_s, gateway=question.gateway))
            case ExtendGrant():
                spent = question.spent_nanodollars
                return self._granted(issuer.extend(question.grant, spent_nanodollars=spent, unix_s=unix_s))
            case CloseGrant():
                if issuer.is_open(question.grant):  # asked again, after a lost answer: it is closed
                    spent = question.spent_nanodollars
                    self._keep(Ended(grant=question.grant, spent_nanodollars=spent, unix_s=unix_s))
                return Closed()
            case AskReturn():
                return self._granted(
                    issuer.ask_return(
                        question.flow,
                        received_nanodollars=question.received_nanodollars,
                        received_packets=question.received_packets,
                        unix_s=unix_s,
                        gateway=question.gateway,
                    )
                )
            case AskBudget():
                budget = issuer.budget
                return Budget(
                    day_nanodollars=budget.limit_nanodollars,
                    spent_today_nanodollars=budget.spent_nanodollars,
                    reserved_nanodollars=budget.reserved_nanodollars,
                )
        assert_never(question)

    def _granted(self, decided: Decided | Denial) -> Granted | Unpaid:
        if isinstance(decided, Denial):
            return Unpaid(code=decided.code, message=decided.message)
        if decided.entry is not None:
            self._keep(decided.entry)
        rule, returns = decided.rule, self._issuer.returns
        return Granted(
            signed=self._identity.sign(decided.grant),
            rule=rule.name if rule is not None else "returns",
            strategy=rule.strategy if rule is not None else "return",
            amount_nanodollars=rule.amount_nanodollars if rule is not None else returns.ceiling_nanodollars,
            willingness_nanodollars=rule.willingness_nanodollars if rule is not None else 0,
            target_bit_s=rule.target_bit_s if rule is not None else 0,
            share_nanodollars=0 if rule is not None else returns.share_nanodollars,
        )


def _private_socket(path: Path) -> socket.socket:
    """Bound and 0600 from its first moment. Raises OSError; EnvironmentFault if somebody serves it."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _make_way(path)
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


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


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()


def _refused(number: int, code: str, message: str) -> Reply:
    return Reply(number=number, answer=Refused(code=code, message=message[:MESSAGE_CHARACTERS]))


def _unix_s() -> int:
    return int(time.time())
