"""How the verbs reach the secretary: which socket, and what its silence or refusal ends with.

Decides: the default socket, and the exit code for each way of not getting an answer. Refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from billpay.errors import ConfigurationError, EnvironmentFault, RemoteProtocolError
from cli.command import leave
from cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from secretary.client import PersonClient, SecretaryUnavailable
    from secretary.messages import Answer, PersonQuestion

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", bound="Answer")

SOCKET_VARIABLE = "HOSTAGENT_SECRETARY_SOCKET"
SYSTEM_SOCKET = Path("/run/hostagent-secretary/secretary.sock")
SYSTEM_CONFIGURATION = Path("/etc/hostagent/secretary.toml")
OUR_FAULTS = frozenset({"wrong-answer", "malformed", "too-long"})
"""Codes that say that one of the two programs is wrong: everything else is the secretary's no."""


def default_socket() -> Path:
    """The system's if it is there, else the one that the system's configuration names."""
    if SYSTEM_SOCKET.exists():
        return SYSTEM_SOCKET
    return _configured_socket() or SYSTEM_SOCKET


def _configured_socket() -> Path | None:
    """None where there is no such file, or it is not ours to read, or wrong: `secretary run` says so."""
    from secretary.configuration import load

    with contextlib.suppress(ConfigurationError, EnvironmentFault, OSError):
        if SYSTEM_CONFIGURATION.exists():
            return load(SYSTEM_CONFIGURATION).socket
    return None


def _resolve(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else default_socket()


def own_name() -> str:
    """As the secretary calls us: by the user that we run as."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


socket_option = click.option(
    "--socket",
    envvar=SOCKET_VARIABLE,
    show_envvar=True,
    type=click.Path(path_type=Path),
    callback=_resolve,
    help=f"The secretary's socket.  [default: {SYSTEM_SOCKET} if it is there, else as {SYSTEM_CONFIGURATION} says]",
)


@contextlib.contextmanager
def answers_expected(socket: Path) -> Iterator[None]:
    """No secretary, and one that does not do it, are one line and an exit code."""
    from secretary.client import SecretaryUnavailable

    try:
        yield
    except SecretaryUnavailable as error:
        leave(f"no secretary answers on {socket}: {_cause(error)}", ExitCode.UNREACHABLE)
    except RemoteProtocolError as error:
        if error.code in OUR_FAULTS:
            raise
        leave(_no(error), ExitCode.UNREACHABLE if error.code == "busy" else ExitCode.REFUSED)


def _cause(error: SecretaryUnavailable) -> str:
    start = "start it: systemctl start hostagent-secretary, or name its --socket"
    match error.__cause__:
        case FileNotFoundError() | NotADirectoryError():
            return f"no such file ({start})"
        case ConnectionRefusedError():
            return f"nobody listens there ({start})"
        case PermissionError():
            return "permission denied (it is open to its group; [access] in its file says who may ask)"
        case TimeoutError():
            return "no answer in time (journalctl -u hostagent-secretary)"
        case cause:
            return " ".join(str(cause or error).split())


def _no(error: RemoteProtocolError) -> str:
    """The secretary's own line."""
    if error.code == "not-permitted" and "[access]" not in error.message:
        return f"{error.message} ([access] people and keepers in the secretary's file say who may)"
    return error.message


def talk(socket: Path, conversation: Callable[[PersonClient], Awaitable[T]]) -> T:
    """What comes of it; without an answer, one line and the exit code."""
    from secretary.client import PersonClient

    async def whole() -> T:
        async with PersonClient(socket) as client:
            return await conversation(client)

    with answers_expected(socket):
        return asyncio.run(whole())


def ask(socket: Path, question: PersonQuestion, expected: type[AnswerT]) -> AnswerT:
    """The answer to one question."""
    return talk(socket, lambda client: client.ask(question, expected))
