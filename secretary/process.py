"""The secretary as a process: answers the agent on a unix socket, with the rules, the budget and its own key.

Decides nothing: `secretary.issuing` does. A decision is journalled and synced before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from pathlib import Path
from typing import assert_never

import msgspec

from billpay.errors import EnvironmentFault
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


async def run(config_path: Path) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError or EnvironmentFault when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    configuration = load(config_path)
    with locked(configuration.state_directory):
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
        self._journal = Journal(directory / JOURNAL_FILE)
        self._issuer = Issuer(
            rules_of(configuration),
            configuration.return_policy,
            day_nanodollars=configuration.budget.day_nanodollars,
            returns_day_nanodollars=configuration.returns.day_nanodollars,
            draw=secrets.token_bytes,
        )
        for entry in self._journal.entries():
            self._issuer.apply(entry)
        self._server: asyncio.Server | None = None
        self._clients = 0
        self._decoder = msgspec.json.Decoder(Request)

    async def listen(self) -> None:
        try:
            self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._socket.unlink(missing_ok=True)  # the state directory is locked: nobody else answers on it
            self._server = await asyncio.start_unix_server(self._serve, self._socket, limit=LINE_BYTES_MAX)
            self._socket.chmod(0o600)
        except OSError as error:
            raise EnvironmentFault("listen on", str(self._socket), error.strerror or error, "name another") from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)
        self._journal.close()

    async def keep_time(self) -> None:
        while True:
            for entry in self._issuer.on_time(_unix_s()):
                self._keep(entry)
            await asyncio.sleep(SECOND_S)

    def _keep(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._issuer.apply(entry)

    # --- the socket -------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= MAX_CLIENTS:
            writer.close()
            return
        self._clients += 1
        try:
            with contextlib.suppress(
                ConnectionError, ValueError, asyncio.IncompleteReadError
            ):  # gone, or a line too long
                while line := await reader.readline():
                    writer.write(msgspec.json.encode(self._reply(line)) + b"\n")
                    await writer.drain()
        finally:
            self._clients -= 1
            writer.close()

    def _reply(self, line: bytes) -> Reply:
        try:
            request = self._decoder.decode(line)
        except msgspec.DecodeError as error:
            return Reply(number=0, answer=Refused(code="malformed", message=str(error)[:400]))
        try:
            return Reply(number=request.number, answer=self.answer(request.question, _unix_s()))
        except ValueError as error:  # an address in a flow that is none
            return Reply(number=request.number, answer=Refused(code="malformed", message=str(error)[:400]))

    def answer(self, question: Question, unix_s: int) -> Answer:
        issuer = self._issuer
        for entry in issuer.on_time(unix_s):
            self._keep(entry)
        match question:
            case AskGrant():
                return self._granted(issuer.ask(question.flow, unix_s))
            case ExtendGrant():
                spent = question.spent_nanodollars
                return self._granted(issuer.extend(question.grant, spent_nanodollars=spent, unix_s=unix_s))
            case CloseGrant():
                self._keep(Ended(grant=question.grant, spent_nanodollars=question.spent_nanodollars, unix_s=unix_s))
                return Closed()
            case AskReturn():
                return self._granted(
                    issuer.ask_return(
                        question.flow,
                        received_nanodollars=question.received_nanodollars,
                        received_packets=question.received_packets,
                        unix_s=unix_s,
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


def _unix_s() -> int:
    return int(time.time())
