"""One part of the market as a process: `python -m market.process FILE`, with FILE as in docs/spec/session-charging.md.

Decides: when a document is said again (until the next part has heard it), and that nothing is answered before it is on
the disk. Refuses to know what documents mean (`market.parts`). Source: docs/spec/session-charging.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec

from billpay.configuration import load_toml
from billpay.errors import BillpayError, ConfigurationError, EnvironmentFault, RemoteProtocolError
from dataplane.hardening import harden
from dataplane.service import serve
from market import parts
from market.asking import LINE_BYTES_MAX, Answer, Heard, Refused, Reply, Request, Tell, Total, ask
from market.authority import Register
from market.clearinghouse import ClearingHouse, HouseTerms
from market.metering import MeteringPolicy
from market.store import STORE_FILE, Store
from neighbour.identity import NodeIdentity

LOG: Final = logging.getLogger("market")
CLIENTS_MAX: Final = 32
AGAIN_S: Final = 0.2
AGAIN_MOST_S: Final = 5.0
NS_PER_MS: Final = 1_000_000


class Role(StrEnum):
    METER = "meter"
    MEDIATION = "mediation"
    CHARGING = "charging"
    CLEARING = "clearing"


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose word it takes is what the authority certified; `next`: the socket of the part that hears what it says."""

    name: str
    role: Role
    state_directory: str
    socket: str
    authority: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]  # its raw public key
    certificates: tuple[str, ...] = ()  # files
    next: str = ""
    metering: MeteringPolicy = MeteringPolicy()
    mediation: str = ""  # CHARGING: whose usage it takes, by name
    provider: str = ""  # CHARGING at a receiver (mini-CAS): whose prices it reckons with, by name
    house: HouseTerms = HouseTerms()
    credit_nanodollars: dict[str, int] = {}  # CLEARING: by fingerprint of the payer


class MarketProcess:
    """A `dataplane.service.Daemon`."""

    def __init__(self, configuration: Configuration, *, file: Path) -> None:
        self._configuration = configuration
        directory = Path(configuration.state_directory)
        identity = NodeIdentity.load_or_create(directory, name=configuration.name)
        register = _register(configuration, file)
        self._part = _part(configuration, identity, register)
        self._store = Store(directory / STORE_FILE)
        try:
            self._part.replay((parts.decode(event) for event in self._store.events()), self._store.said())
        except (msgspec.DecodeError, RemoteProtocolError) as error:
            raise EnvironmentFault("read store", str(directory / STORE_FILE), error, "restore it") from error
        self._socket = Path(configuration.socket)
        self._to_say = asyncio.Event()
        self._to_say.set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clients: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises EnvironmentFault."""
        try:
            server = await asyncio.start_unix_server(
                self._serve, sock=_private_socket(self._socket), limit=LINE_BYTES_MAX
            )
        except OSError as error:
            raise EnvironmentFault("listen on", str(self._socket), error.strerror or error, "name another") from error
        try:
            yield
        finally:
            server.close()
            for writer in list(self._clients):
                writer.close()
            self._store.close()

    async def work(self) -> None:
        """Says what is to be said, until it is heard."""
        saying = asyncio.create_task(self._say())
        try:
            await asyncio.wait({saying, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for task in (saying, self._failed):
                if task.done():
                    task.result()
        finally:
            saying.cancel()

    # --- hearing ----------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while len(self._clients) <= CLIENTS_MAX:
                    line = await reader.readuntil(b"\n")
                    writer.write(msgspec.json.encode(Reply(answer=self._answer(line))) + b"\n")
                    await writer.drain()
        except EnvironmentFault as fault:
            if not self._failed.done():
                self._failed.set_exception(fault)
        finally:
            self._clients.discard(writer)
            writer.close()

    def _answer(self, line: bytes) -> Answer:
        try:
            question = msgspec.json.decode(line, type=Request).question
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return Refused(code="malformed", message=str(error)[:400])
        outcome = parts.answer(self._part, question, time.time_ns() // NS_PER_MS)
        if outcome.keep is not None or outcome.say:
            self._store.append(parts.encode(outcome.keep) if outcome.keep is not None else None, outcome.say)
        if outcome.flush:
            self._to_say.set()
        if isinstance(outcome.answer, Total):
            return msgspec.structs.replace(outcome.answer, unsent=self._store.unheard())
        return outcome.answer

    # --- saying -----------------------------------------------------------------------------------------------------

    async def _say(self) -> None:
        pause_s = AGAIN_S
        while True:
            await self._to_say.wait()
            self._to_say.clear()
            while self._configuration.next and (waiting := self._store.next_unheard()) is not None:
                number, signed = waiting
                if await self._is_heard(Tell(signed=signed)):
                    self._store.heard(number)
                    pause_s = AGAIN_S
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(AGAIN_MOST_S, pause_s * 2)

    async def _is_heard(self, told: Tell) -> bool:
        """A refusal for good is heard too: saying it again would hold up all that comes after."""
        try:
            said = await ask(Path(self._configuration.next), told)
        except EnvironmentFault as fault:
            LOG.debug("%s", fault)
            return False
        if isinstance(said, Refused) and not said.again:
            LOG.error("a %s was refused: %s: %s", told.signed.kind, said.code, said.message)
        return isinstance(said, Heard) or (isinstance(said, Refused) and not said.again)


def _register(configuration: Configuration, file: Path) -> Register:
    try:
        register = Register(bytes.fromhex(configuration.authority))
        for path in configuration.certificates:
            register.admit(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError, RemoteProtocolError) as error:
        raise ConfigurationError(file, "certificates", str(error), "name the authority's certificates") from error
    return register


def _part(configuration: Configuration, identity: NodeIdentity, register: Register) -> parts.Part:
    key = identity.key
    match configuration.role:
        case Role.METER:
            return parts.MeterPart(name=configuration.name, key=key, register=register, policy=configuration.metering)
        case Role.MEDIATION:
            return parts.MediationPart(key=key, register=register)
        case Role.CHARGING:
            provider = register.named(configuration.provider).fingerprint if configuration.provider else ""
            return parts.ChargingPart(key=key, register=register, mediation=configuration.mediation, provider=provider)
        case Role.CLEARING:

            def make(fingerprint: str, known: Register) -> ClearingHouse:
                return ClearingHouse(
                    fingerprint=fingerprint,
                    register=known,
                    terms=configuration.house,
                    credit_nanodollars=configuration.credit_nanodollars,
                )

            return parts.ClearingPart(key=key, register=register, make=make)


def _private_socket(path: Path) -> socket.socket:
    """Ours alone from its first moment; one that a killed process left makes way (the state's lock says it is dead)."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
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


def main(arguments: list[str]) -> int:
    """0, or 1 with one line that says why."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m market.process FILE\n")
        return 2
    file = Path(arguments[0])
    try:
        harden()
        configuration = load_toml(file, Configuration)
        directory = Path(configuration.state_directory)
        asyncio.run(serve(configuration.name, directory, lambda: MarketProcess(configuration, file=file)))
    except BillpayError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
